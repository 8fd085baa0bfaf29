//! The dialect as a whole: requests, the same conversations whole and streamed, broken streams, and the faults of other
//! bridges.

mod conversation;
mod faults;
mod parity;
mod requests;
mod streams;
mod usages;
