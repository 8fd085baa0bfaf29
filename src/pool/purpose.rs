//! The purposes of requests: a key may rest for one and serve another.

/// What a request needs a key for. Each purpose has limits of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose<'a> {
    /// An answer of this model.
    Model(&'a str),
    /// A path that gets a key and nothing else, such as `GET /models`.
    Keyed,
    /// A count of tokens.
    Counting,
}
