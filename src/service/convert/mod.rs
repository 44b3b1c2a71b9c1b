//! CRI messages to domain types and back. Pure; a message that makes no sense
//! becomes a [`BadRequest`] that names the field.

pub mod container;
pub mod filter;
pub mod image;
pub mod sandbox;

use std::collections::{BTreeMap, HashMap};

use longshore_proto::cri::v1;

/// A request that can't be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadRequest {
    /// A field that must be there is not.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A field has a value that makes no sense.
    #[error("{field}: {value:?} {why}")]
    Value {
        /// The field with its path.
        field: &'static str,
        /// What it holds.
        value: String,
        /// What is wrong with it.
        why: &'static str,
    },
}

/// A [`BadRequest::Value`].
pub(crate) fn bad(field: &'static str, value: impl ToString, why: &'static str) -> BadRequest {
    BadRequest::Value {
        field,
        value: value.to_string(),
        why,
    }
}

/// An enum of the wire, which may hold a number that it doesn't define.
fn known<E: TryFrom<i32>>(field: &'static str, number: i32) -> Result<E, BadRequest> {
    E::try_from(number).map_err(|_| bad(field, number, "is not a value of the enum"))
}

fn sorted(map: HashMap<String, String>) -> BTreeMap<String, String> {
    map.into_iter().collect()
}

fn hashed(map: &BTreeMap<String, String>) -> HashMap<String, String> {
    map.iter()
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

/// CRI `Int64Value`.
fn int(value: Option<v1::Int64Value>) -> Option<i64> {
    value.map(|wrapped| wrapped.value)
}

/// The map of a verbose answer: one JSON text under the key `info`, which is
/// where crictl looks. Empty unless asked for.
fn info(verbose: bool, value: impl FnOnce() -> serde_json::Value) -> HashMap<String, String> {
    if verbose {
        HashMap::from([("info".to_owned(), value().to_string())])
    } else {
        HashMap::new()
    }
}
