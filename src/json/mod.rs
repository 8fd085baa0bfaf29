//! JSON as text: finds where the parts of a document lie, so that one part can be edited and all others keep their bytes.
//!
//! [`Scanner`] checks a whole document strictly, chunk by chunk, and records the ranges of its top-level members.
//! [`walk`] iterates over the members and items of text that a scanner has accepted. Neither builds a tree.

mod error;
mod grammar;
mod members;
mod scan;
mod string;
pub(crate) mod walk;

pub(crate) use error::ScanError;
pub(crate) use members::{Kind, Member};
pub(crate) use scan::Scanner;
pub(crate) use string::{quote, string_len};
