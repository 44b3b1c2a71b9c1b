//! An image, as the rest of the daemon sees it.

use std::sync::Arc;

use longshore_snapshotter::LayerId;
use oci_spec::image::ImageConfiguration;

use super::record::ImageRecord;
use crate::base::id::ImageId;

/// An image whose layers are all stored.
///
/// Whoever holds the image or its `config` keeps its layers from garbage
/// collection, also after the image was removed: hold one until the layers are
/// named by a registered root.
#[derive(Debug, Clone)]
pub struct Image {
    /// The digest of its configuration.
    pub id: ImageId,
    /// Normalised `registry/repository:tag`, sorted.
    pub repo_tags: Vec<String>,
    /// `registry/repository@digest` it was pulled by, sorted.
    pub repo_digests: Vec<String>,
    /// Bytes on disk, layers shared with other images included. Never 0.
    pub size: u64,
    /// The numeric user it runs as; `Some(0)` is root by number.
    pub uid: Option<i64>,
    /// The user it runs as by name; empty if by number or not said.
    pub username: String,
    /// Bottom to top.
    pub layers: Vec<LayerId>,
    /// The configuration.
    pub config: Arc<ImageConfiguration>,
    /// kubelet's garbage collection must leave it.
    pub pinned: bool,
}

impl Image {
    pub(super) fn new(record: &ImageRecord, config: Arc<ImageConfiguration>, pins: &Pins) -> Self {
        let user = config.config().as_ref().and_then(|c| c.user().clone());
        let (uid, username) = split_user(user.as_deref().unwrap_or_default());
        let repo_tags: Vec<String> = record.tags.keys().cloned().collect();
        Self {
            id: record.id.clone(),
            pinned: repo_tags.iter().any(|tag| pins.hold(tag)),
            repo_tags,
            repo_digests: record.digests.iter().cloned().collect(),
            size: record.size,
            uid,
            username,
            layers: record.layers.clone(),
            config,
        }
    }
}

/// `user[:group]` of an image's configuration: a number, or a name.
fn split_user(text: &str) -> (Option<i64>, String) {
    let user = text.split(':').next().unwrap_or_default();
    match user.parse::<i64>() {
        Ok(uid) => (Some(uid), String::new()),
        Err(_) => (None, user.to_owned()),
    }
}

/// Which names are pinned: whole names, or beginnings that end in `*`.
#[derive(Debug, Clone, Default)]
pub(super) struct Pins(Vec<String>);

impl Pins {
    /// Names are normalised; what is none is taken as it stands.
    pub(super) fn new(patterns: &[String]) -> Self {
        let normal = |p: &String| match p.parse::<super::Reference>() {
            Ok(reference) => reference.to_string(),
            Err(_) => p.clone(),
        };
        Self(patterns.iter().map(normal).collect())
    }

    fn hold(&self, tag: &str) -> bool {
        self.0
            .iter()
            .any(|pattern| match pattern.strip_suffix('*') {
                Some(start) => tag.starts_with(start),
                None => tag == pattern,
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_numbers_or_names() {
        for (text, uid, name) in [
            ("", None, ""),
            ("0", Some(0), ""),
            ("1000:1000", Some(1000), ""),
            ("www-data:33", None, "www-data"),
            ("nobody", None, "nobody"),
            (":5", None, ""),
        ] {
            assert_eq!(split_user(text), (uid, name.to_owned()), "{text}");
        }
    }

    #[test]
    fn pins_by_name_or_beginning() {
        let pins = Pins::new(&["pause".into(), "r.example/system/*".into()]);
        assert!(pins.hold("docker.io/library/pause:latest"));
        assert!(pins.hold("r.example/system/a:1"));
        assert!(!pins.hold("docker.io/library/pause:3"));
        assert!(!pins.hold("r.example/other:1"));
    }
}
