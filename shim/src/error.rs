//! Printing an error with its causes, in one line.

use std::error::Error;

/// `error` and its sources, joined by ": ". A cause that prints what its
/// parent already said is left out.
#[must_use]
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !line.ends_with(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
        cause = error.source();
    }
    line.replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Layer {
        text: &'static str,
        #[source]
        source: Option<Box<Layer>>,
    }

    #[test]
    fn the_whole_chain_once() {
        let inner = Layer {
            text: "no such\nfile",
            source: None,
        };
        let same = Layer {
            text: "no such\nfile",
            source: Some(Box::new(inner)),
        };
        let outer = Layer {
            text: "open x",
            source: Some(Box::new(same)),
        };
        assert_eq!(chain(&outer), "open x: no such file");
    }
}
