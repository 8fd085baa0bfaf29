//! JSON as text: where its parts lie, so that they can be edited in place and all else keeps its bytes.
//!
//! [`Scanner`] checks a whole document strictly, in the pieces in which it arrives, and remembers where its top-level
//! members are. [`walk`] finds its way inside a value that a scanner has accepted. Neither builds a tree.

mod machine;
mod members;
mod scan;
mod string;
mod tokens;
pub(crate) mod walk;

pub(crate) use members::{Kind, Member};
pub(crate) use scan::Scanner;
