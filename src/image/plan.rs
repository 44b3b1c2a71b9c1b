//! From a manifest and a configuration to the layers to get. Pure.

use longshore_snapshotter::DiffId;
use oci_spec::image::{Arch, Descriptor, ImageConfiguration, ImageIndex, ImageManifest, Os};
use serde::Deserialize;

use super::platform::Platform;
use crate::base::id::Digest;

/// Most layers an image may have: more never mount as one overlay.
pub(super) const MAX_LAYERS: usize = 500;

/// A manifest that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// It is not JSON, or a field has the wrong form.
    #[error("the manifest is not valid")]
    Json(#[source] serde_json::Error),
    /// The configuration is not JSON, or a field has the wrong form.
    #[error("the image's configuration is not valid")]
    Config(#[source] serde_json::Error),
    /// Docker's schema 1, which nothing verifies.
    #[error("Docker manifests of schema 1 are not supported; push the image again")]
    Schema1,
    /// Both an index and a manifest, or neither (the confusion of CVE-2021-41190).
    #[error("the document is neither clearly an index nor clearly a manifest")]
    Ambiguous,
    /// Not the type of a manifest or an index.
    #[error("a manifest of type {0:?} is not supported")]
    ManifestType(String),
    /// The configuration is not that of an image: an artifact.
    #[error("it is an artifact with a configuration of type {0:?}, not an image")]
    Artifact(String),
    /// A layer that may not be got from the registry.
    #[error("layer {0} is foreign (not distributable), which is not supported")]
    Foreign(String),
    /// A layer of a type that can't be unpacked.
    #[error("layer {digest} has type {media_type:?}, which is not supported")]
    LayerType {
        /// The blob.
        digest: String,
        /// What the manifest says that it is.
        media_type: String,
    },
    /// A digest that is not sha256.
    #[error("digest {0:?} is not supported (sha256 only)")]
    Digest(String),
    /// No image of an index runs here.
    #[error("the image has nothing for {platform}, only {offered}")]
    NoPlatform {
        /// What was looked for.
        platform: String,
        /// What there is.
        offered: String,
    },
    /// Manifest and configuration disagree.
    #[error("the manifest has {layers} layers and the configuration {diff_ids} diffIDs")]
    LayerCount {
        /// In the manifest.
        layers: usize,
        /// In the configuration.
        diff_ids: usize,
    },
    /// More layers than can be mounted.
    #[error("the image has {0} layers, more than {MAX_LAYERS}")]
    TooManyLayers(usize),
    /// Indexes within indexes, or an index that names itself.
    #[error("indexes are nested too deep")]
    Nested,
}

/// A blob and its size, as a manifest names it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Blob {
    /// Digest of the bytes as they are stored.
    pub(super) digest: Digest,
    /// How many there are.
    pub(super) size: u64,
}

/// An index or a manifest.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Document {
    /// Manifests for several platforms.
    Index(Vec<Descriptor>),
    /// One image.
    Manifest(Manifest),
}

/// One image, before its configuration is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Manifest {
    /// The configuration.
    pub(super) config: Blob,
    /// Bottom to top.
    pub(super) layers: Vec<Blob>,
}

/// A layer to get.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct LayerWork {
    /// Where it comes from.
    pub(super) blob: Blob,
    /// What it must be once it is decompressed.
    pub(super) diff_id: DiffId,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    schema_version: Option<u32>,
    media_type: Option<String>,
    manifests: Option<serde::de::IgnoredAny>,
    layers: Option<serde::de::IgnoredAny>,
    config: Option<serde::de::IgnoredAny>,
    fs_layers: Option<serde::de::IgnoredAny>,
}

/// Reads a manifest or an index. `content_type` is what its source says that
/// it is; the document's own `mediaType` wins over it.
///
/// # Errors
/// [`PlanError`].
pub(super) fn parse(bytes: &[u8], content_type: Option<&str>) -> Result<Document, PlanError> {
    let shape: Shape = serde_json::from_slice(bytes).map_err(PlanError::Json)?;
    if shape.schema_version == Some(1) || shape.fs_layers.is_some() {
        return Err(PlanError::Schema1);
    }
    let index = match (
        shape.manifests.is_some(),
        shape.layers.is_some() || shape.config.is_some(),
    ) {
        (true, false) => true,
        (false, true) => false,
        _ => return Err(PlanError::Ambiguous),
    };
    let generic = |t: &&str| {
        matches!(
            *t,
            "application/json" | "application/octet-stream" | "text/plain"
        )
    };
    let named = shape
        .media_type
        .as_deref()
        .or(content_type.filter(|t| !generic(t)));
    match named.map(|t| (t, is_index(t))) {
        None => {}
        Some((_, Some(claims))) if claims == index => {}
        Some((_, Some(_))) => return Err(PlanError::Ambiguous),
        Some((other, None)) => return Err(PlanError::ManifestType(other.to_owned())),
    }
    if index {
        let index: ImageIndex = serde_json::from_slice(bytes).map_err(PlanError::Json)?;
        Ok(Document::Index(index.manifests().clone()))
    } else {
        let manifest: ImageManifest = serde_json::from_slice(bytes).map_err(PlanError::Json)?;
        read_manifest(&manifest).map(Document::Manifest)
    }
}

/// Whether a media type is that of an index; `None` for what is no manifest.
fn is_index(media_type: &str) -> Option<bool> {
    match media_type {
        "application/vnd.oci.image.index.v1+json"
        | "application/vnd.docker.distribution.manifest.list.v2+json" => Some(true),
        "application/vnd.oci.image.manifest.v1+json"
        | "application/vnd.docker.distribution.manifest.v2+json" => Some(false),
        _ => None,
    }
}

fn read_manifest(manifest: &ImageManifest) -> Result<Manifest, PlanError> {
    let config = manifest.config();
    let media_type: &str = config.media_type().as_ref();
    if !matches!(
        media_type,
        "application/vnd.oci.image.config.v1+json"
            | "application/vnd.docker.container.image.v1+json"
    ) {
        return Err(PlanError::Artifact(media_type.to_owned()));
    }
    if manifest.layers().len() > MAX_LAYERS {
        return Err(PlanError::TooManyLayers(manifest.layers().len()));
    }
    for layer in manifest.layers() {
        check_layer(layer)?;
    }
    let layers = manifest.layers().iter().map(blob);
    Ok(Manifest {
        config: blob(config)?,
        layers: layers.collect::<Result<_, _>>()?,
    })
}

/// The compression is found out from the content, as other runtimes do: labels
/// are often wrong and the diffID tells. The type only says that it is a tar.
fn check_layer(layer: &Descriptor) -> Result<(), PlanError> {
    let media_type: &str = layer.media_type().as_ref();
    match media_type {
        "application/vnd.oci.image.layer.v1.tar"
        | "application/vnd.oci.image.layer.v1.tar+gzip"
        | "application/vnd.oci.image.layer.v1.tar+zstd"
        | "application/vnd.docker.image.rootfs.diff.tar"
        | "application/vnd.docker.image.rootfs.diff.tar.gzip"
        | "application/vnd.docker.image.rootfs.diff.tar.zstd" => Ok(()),
        other if other.contains(".nondistributable.") || other.contains(".foreign.") => {
            Err(PlanError::Foreign(layer.digest().to_string()))
        }
        other => Err(PlanError::LayerType {
            digest: layer.digest().to_string(),
            media_type: other.to_owned(),
        }),
    }
}

/// Digest and size of a descriptor.
///
/// # Errors
/// [`PlanError::Digest`] when the digest is not sha256.
pub(super) fn blob(descriptor: &Descriptor) -> Result<Blob, PlanError> {
    let text = descriptor.digest().to_string();
    Ok(Blob {
        digest: text.parse().map_err(|_| PlanError::Digest(text))?,
        size: descriptor.size(),
    })
}

/// The manifest of an index that this platform runs.
///
/// # Errors
/// [`PlanError::NoPlatform`] naming what there is, [`PlanError::Digest`].
pub(super) fn choose(manifests: &[Descriptor], platform: &Platform) -> Result<Blob, PlanError> {
    let chosen = platform.choose(manifests);
    blob(chosen.ok_or_else(|| PlanError::NoPlatform {
        platform: platform.to_string(),
        offered: offered(manifests),
    })?)
}

fn offered(manifests: &[Descriptor]) -> String {
    let mut names: Vec<String> = Vec::new();
    for platform in manifests.iter().filter_map(|d| d.platform().as_ref()) {
        let mut name = format!("{}/{}", platform.os(), platform.architecture());
        if let Some(variant) = platform.variant() {
            name = format!("{name}/{variant}");
        }
        if !names.contains(&name) {
            names.push(name);
        }
    }
    match names.is_empty() {
        true => "nothing".to_owned(),
        false => names.join(", "),
    }
}

/// Reads a configuration and refuses that of another platform.
///
/// # Errors
/// [`PlanError::Config`], [`PlanError::NoPlatform`].
pub(super) fn read_config(
    bytes: &[u8],
    platform: &Platform,
) -> Result<ImageConfiguration, PlanError> {
    let config: ImageConfiguration = serde_json::from_slice(bytes).map_err(PlanError::Config)?;
    let unnamed = *config.architecture() == Arch::Other(String::new());
    let runs = platform
        .fit(config.os(), config.architecture(), None)
        .is_some();
    if runs || (unnamed && *config.os() == Os::Linux) {
        return Ok(config);
    }
    Err(PlanError::NoPlatform {
        platform: platform.to_string(),
        offered: format!("{}/{}", config.os(), config.architecture()),
    })
}

/// The layers of an image, bottom to top.
///
/// # Errors
/// [`PlanError::LayerCount`], [`PlanError::Digest`].
pub(super) fn layers(
    manifest: &Manifest,
    config: &ImageConfiguration,
) -> Result<Vec<LayerWork>, PlanError> {
    let diff_ids = config.rootfs().diff_ids();
    if diff_ids.len() != manifest.layers.len() {
        return Err(PlanError::LayerCount {
            layers: manifest.layers.len(),
            diff_ids: diff_ids.len(),
        });
    }
    let pairs = manifest.layers.iter().zip(diff_ids);
    pairs
        .map(|(blob, text)| {
            Ok(LayerWork {
                blob: blob.clone(),
                diff_id: text.parse().map_err(|_| PlanError::Digest(text.clone()))?,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests;
