//! Filters: all conditions must hold; an absent one holds always.

use std::collections::{BTreeMap, HashMap};

/// Whether `labels` has every key of `selector` with its value.
#[must_use]
pub fn labels_match(selector: &HashMap<String, String>, labels: &BTreeMap<String, String>) -> bool {
    selector
        .iter()
        .all(|(key, value)| labels.get(key) == Some(value))
}

/// Whether `id` is the one asked for: empty asks for all, a prefix is enough.
#[must_use]
pub fn id_matches(asked: &str, id: &str) -> bool {
    id.starts_with(asked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_anded() {
        let labels = BTreeMap::from([("a".to_owned(), "1".to_owned()), ("b".into(), "2".into())]);
        let pick = |pairs: &[(&str, &str)]| {
            let selector = pairs
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect();
            labels_match(&selector, &labels)
        };
        assert!(pick(&[]));
        assert!(pick(&[("a", "1"), ("b", "2")]));
        assert!(!pick(&[("a", "1"), ("b", "3")]));
        assert!(!pick(&[("c", "")]));
        assert!(id_matches("", "abc") && id_matches("ab", "abc") && !id_matches("b", "abc"));
    }
}
