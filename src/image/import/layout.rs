//! The images of an OCI image layout (OCI image-spec, image-layout.md).

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use oci_spec::image::{Descriptor, ImageIndex};

use super::super::ImageError;
use super::super::images::Inner;
use super::super::plan::{self, PlanError};
use super::super::platform::Platform;
use super::super::pull;
use super::super::source::Source;
use super::{Found, bad};

/// Where tools put an image's whole name.
const NAME: &str = "io.containerd.image.name";
/// A tag, or, as several tools have it, a whole name.
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// Every image of the layout in `root` that this machine runs. `path` names
/// the layout in errors.
pub(super) async fn images(
    inner: &Inner,
    source: &Arc<Source>,
    root: &Path,
    path: &Path,
) -> Result<Vec<Found>, ImageError> {
    let bytes = std::fs::read(root.join("index.json"))
        .map_err(|e| bad(path, format!("index.json can't be read: {e}")))?;
    let index: ImageIndex = serde_json::from_slice(&bytes).map_err(PlanError::Json)?;
    let entries: Vec<&Descriptor> = index
        .manifests()
        .iter()
        .filter(|d| runs_here(&inner.platform, d))
        .collect();
    if entries.is_empty() && !index.manifests().is_empty() {
        // Names what there is.
        plan::choose(index.manifests(), &inner.platform)?;
    }
    let mut found: Vec<Found> = Vec::new();
    for descriptor in entries {
        let blob = plan::blob(descriptor)?;
        let manifest = source.manifest(&blob).await?;
        let image = pull::descend(source, &inner.platform, &blob.digest, manifest).await?;
        let candidate = pull::read(source, &inner.platform, image).await?;
        let name = descriptor.annotations().as_ref().and_then(name);
        match found.iter_mut().find(|f| f.candidate.id == candidate.id) {
            Some(same) => same.names.extend(name),
            None => found.push(Found {
                candidate,
                names: name.into_iter().collect(),
            }),
        }
    }
    Ok(found)
}

fn runs_here(platform: &Platform, descriptor: &Descriptor) -> bool {
    descriptor.platform().as_ref().is_none_or(|p| {
        platform
            .fit(p.os(), p.architecture(), p.variant().as_deref())
            .is_some()
    })
}

/// A name that the layout gives to an image. A bare tag names nothing.
fn name(annotations: &HashMap<String, String>) -> Option<String> {
    let whole = annotations.get(NAME);
    let tag = annotations.get(REF_NAME).filter(|n| n.contains(['/', ':']));
    whole.or(tag).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_from_annotations() {
        let of = |pairs: &[(&str, &str)]| {
            let pairs = pairs
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
            name(&pairs.collect())
        };
        assert_eq!(of(&[(REF_NAME, "latest")]), None);
        assert_eq!(
            of(&[(REF_NAME, "r.example/a:1")]).as_deref(),
            Some("r.example/a:1")
        );
        assert_eq!(
            of(&[(REF_NAME, "1"), (NAME, "a:1")]).as_deref(),
            Some("a:1")
        );
        assert_eq!(of(&[]), None);
    }
}
