//! Network configuration files (CNI specification, "Network configuration format").

use std::collections::BTreeSet;

use serde_json::{Map, Value};

/// Versions of the specification that are spoken, oldest first.
const VERSIONS: [&str; 7] = [
    "0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0",
];

/// A network: a named list of plugins.
#[derive(Debug, Clone, PartialEq)]
pub struct NetworkList {
    name: String,
    version: Version,
    plugins: Vec<Plugin>,
    raw: Value,
}

/// Version of the specification that a list is written in. Ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version(&'static str);

impl Version {
    /// DEL gets the result of ADD (`prevResult`) from here on.
    pub(super) const DEL_WITH_RESULT: Self = Self("0.4.0");
    /// STATUS exists from here on.
    pub(super) const STATUS: Self = Self("1.1.0");

    pub(super) fn as_str(self) -> &'static str {
        self.0
    }
}

/// One plugin of a list.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Plugin {
    pub(super) kind: String,
    pub(super) capabilities: BTreeSet<String>,
    pub(super) raw: Map<String, Value>,
}

/// A file that is no network configuration.
#[derive(Debug, thiserror::Error)]
pub enum BadConf {
    /// Not JSON.
    #[error("it is not JSON")]
    Json(#[from] serde_json::Error),
    /// JSON of another form.
    #[error("{0}")]
    Form(String),
}

fn form(problem: impl Into<String>) -> BadConf {
    BadConf::Form(problem.into())
}

impl NetworkList {
    /// Parses a list (`.conflist`) or a single plugin (`.conf`, `.json`), told
    /// apart by the key `plugins`.
    ///
    /// # Errors
    /// [`BadConf`].
    pub fn parse(text: &[u8]) -> Result<Self, BadConf> {
        Self::from_value(serde_json::from_slice(text)?)
    }

    /// As [`Self::parse`], of JSON that is parsed already.
    ///
    /// # Errors
    /// [`BadConf`].
    pub fn from_value(raw: Value) -> Result<Self, BadConf> {
        let top = raw.as_object().ok_or_else(|| form("it is not an object"))?;
        let name = text(top, "name")?.ok_or_else(|| form("it has no name"))?;
        if !valid_name(name) {
            return Err(form(format!("{name:?} is no network name")));
        }
        let single = [raw.clone()];
        let listed: &[Value] = match top.get("plugins") {
            None => &single,
            Some(plugins) => plugins
                .as_array()
                .ok_or_else(|| form("plugins is not a list"))?,
        };
        let plugins = listed.iter().map(plugin).collect::<Result<Vec<_>, _>>()?;
        if plugins.is_empty() {
            return Err(form("it has no plugins"));
        }
        Ok(Self {
            name: name.to_owned(),
            version: version(top)?,
            plugins,
            raw,
        })
    }

    /// The network's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The types of its plugins, in the order of ADD.
    pub fn plugin_names(&self) -> impl Iterator<Item = &str> {
        self.plugins.iter().map(|p| p.kind.as_str())
    }

    pub(super) fn version(&self) -> Version {
        self.version
    }

    pub(super) fn plugins(&self) -> &[Plugin] {
        &self.plugins
    }

    /// The list as it was read.
    #[must_use]
    pub fn raw(&self) -> &Value {
        &self.raw
    }
}

fn text<'a>(map: &'a Map<String, Value>, key: &str) -> Result<Option<&'a str>, BadConf> {
    match map.get(key) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(form(format!("{key} is not a string"))),
    }
}

/// The specification's network names: they become parts of paths.
fn valid_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphanumeric())
        && bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

/// The version to speak: the newest of `cniVersions` that is known, else `cniVersion`.
fn version(top: &Map<String, Value>) -> Result<Version, BadConf> {
    let known = |text: &str| VERSIONS.iter().find(|v| **v == text).map(|v| Version(v));
    if let Some(Value::Array(all)) = top.get("cniVersions")
        && let Some(newest) = all.iter().filter_map(|v| known(v.as_str()?)).max()
    {
        return Ok(newest);
    }
    let text = text(top, "cniVersion")?.unwrap_or("0.1.0");
    known(text).ok_or_else(|| form(format!("its cniVersion {text:?} is not known")))
}

fn plugin(value: &Value) -> Result<Plugin, BadConf> {
    let raw = value
        .as_object()
        .ok_or_else(|| form("a plugin is not an object"))?;
    let kind = text(raw, "type")?.ok_or_else(|| form("a plugin has no type"))?;
    if kind.is_empty() || kind.contains('/') || matches!(kind, "." | "..") {
        return Err(form(format!("{kind:?} is no plugin type")));
    }
    let capabilities = raw
        .get("capabilities")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .filter(|(_, on)| on.as_bool() == Some(true))
        .map(|(name, _)| name.clone())
        .collect();
    Ok(Plugin {
        kind: kind.to_owned(),
        capabilities,
        raw: raw.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_lists_and_single_plugins() {
        let list = NetworkList::parse(
            br#"{"cniVersion":"1.0.0","name":"pods","plugins":[
                {"type":"bridge"},
                {"type":"portmap","capabilities":{"portMappings":true,"dns":false}}]}"#,
        )
        .unwrap();
        assert_eq!(list.name(), "pods");
        assert_eq!(
            list.plugin_names().collect::<Vec<_>>(),
            ["bridge", "portmap"]
        );
        assert_eq!(
            list.plugins()[1].capabilities,
            BTreeSet::from(["portMappings".to_owned()])
        );
        let single = NetworkList::parse(br#"{"name":"one","type":"ptp"}"#).unwrap();
        assert_eq!(single.plugin_names().collect::<Vec<_>>(), ["ptp"]);
        assert_eq!(single.version().as_str(), "0.1.0");
        let newest = NetworkList::parse(
            br#"{"name":"a","type":"x","cniVersion":"0.4.0","cniVersions":["0.4.0","1.1.0","9.0.0"]}"#,
        );
        assert_eq!(newest.unwrap().version(), Version::STATUS);
    }

    #[test]
    fn refuses_what_is_no_network() {
        for bad in [
            "",
            "{",
            "[]",
            r#"{"type":"ptp"}"#,
            r#"{"name":"a/b","type":"ptp"}"#,
            r#"{"name":"a"}"#,
            r#"{"name":"a","plugins":[]}"#,
            r#"{"name":"a","plugins":[{}]}"#,
            r#"{"name":"a","plugins":[{"type":"../sh"}]}"#,
            r#"{"name":"a","type":"ptp","cniVersion":"7"}"#,
        ] {
            assert!(NetworkList::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
