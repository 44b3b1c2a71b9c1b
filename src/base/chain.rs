//! Prints an error with all its sources.
//!
//! Error types here name the operation and the object and keep the cause in
//! `#[source]` only; whoever shows an error to a person joins the chain once.

use std::error::Error;
use std::fmt;

/// Displays `error: cause: cause of the cause`.
#[derive(Debug)]
pub struct Chain<'a>(pub &'a (dyn Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut next = self.0.source();
        while let Some(cause) = next {
            write!(f, ": {cause}")?;
            next = cause.source();
        }
        Ok(())
    }
}

/// The whole chain as one line.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    Chain(error).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("open record {0}")]
    struct Outer(&'static str, #[source] std::io::Error);

    #[test]
    fn joins_sources_in_order() {
        let error = Outer("a", std::io::Error::other("disk is gone"));
        assert_eq!(chain(&error), "open record a: disk is gone");
    }
}
