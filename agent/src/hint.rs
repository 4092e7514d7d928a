//! What a person may do about an error. Errors carry hints as data; only `cli` prints them.

/// An error that can say what the user may do about it.
pub trait Hint: std::error::Error {
    /// Returns one imperative sentence, or `None` when there is nothing to do.
    fn hint(&self) -> Option<String> {
        None
    }
}
