//! Writing and reading OCI layouts (image-spec: image-layout.md, manifest.md, config.md).

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use flate2::write::GzEncoder;
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::tar::{Entry, TarBuilder};
use crate::node::lock_file;
use crate::paths;

/// Media types of the image specification.
pub mod media {
    /// An image manifest.
    pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// An image index.
    pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// An image config.
    pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    /// A layer without compression; `+gzip` and `+zstd` follow.
    pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
}

/// How a layer's blob is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compression {
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
    /// None.
    None,
}

/// A content descriptor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What it is.
    pub media_type: String,
    /// `sha256:...` of the blob.
    pub digest: String,
    /// Bytes.
    pub size: u64,
    /// On an index's entries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Value>,
}

/// A layer blob and the digest of its tar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// The compressed blob.
    pub blob: Vec<u8>,
    /// `sha256:...` of the uncompressed tar.
    pub diff_id: String,
    /// Its media type.
    pub media_type: String,
}

impl Layer {
    /// Packs entries.
    ///
    /// # Errors
    /// When the compressor fails.
    pub fn pack(entries: &[Entry], compression: Compression) -> Result<Self> {
        let mut tar = TarBuilder::new();
        tar.extend(entries);
        Self::from_tar(&tar.finish(), compression)
    }

    /// Compresses a finished tar.
    ///
    /// # Errors
    /// When the compressor fails.
    pub fn from_tar(tar: &[u8], compression: Compression) -> Result<Self> {
        let diff_id = sha256(tar);
        let (blob, suffix) = match compression {
            Compression::None => (tar.to_vec(), ""),
            Compression::Gzip => {
                let mut gzip = GzEncoder::new(Vec::new(), flate2::Compression::new(6));
                gzip.write_all(tar).context("gzip a layer")?;
                (gzip.finish().context("gzip a layer")?, "+gzip")
            }
            Compression::Zstd => (zstd::encode_all(tar, 3).context("zstd a layer")?, "+zstd"),
        };
        Ok(Self {
            blob,
            diff_id,
            media_type: format!("{}{suffix}", media::LAYER),
        })
    }
}

/// The part of an image config that a recipe chooses.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Config {
    /// `user[:group]`, names or numbers.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// `KEY=value`.
    pub env: Vec<String>,
    /// The first part of the command line.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub entrypoint: Vec<String>,
    /// The default arguments.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cmd: Vec<String>,
    /// Where the process starts.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub working_dir: String,
    /// A signal's name or number.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub stop_signal: String,
    /// Free-form.
    #[serde(skip_serializing_if = "serde_json::Map::is_empty")]
    pub labels: serde_json::Map<String, Value>,
    /// Ports as `80/tcp`, each with an empty object.
    #[serde(skip_serializing_if = "serde_json::Map::is_empty")]
    pub exposed_ports: serde_json::Map<String, Value>,
    /// Paths, each with an empty object.
    #[serde(skip_serializing_if = "serde_json::Map::is_empty")]
    pub volumes: serde_json::Map<String, Value>,
}

/// An OCI layout being written.
#[derive(Debug)]
pub struct Layout {
    dir: PathBuf,
}

impl Layout {
    /// Begins a layout in an existing directory.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn create(dir: &Path) -> Result<Self> {
        let blobs = dir.join("blobs/sha256");
        fs::create_dir_all(&blobs).with_context(|| format!("create {}", blobs.display()))?;
        write(
            &dir.join("oci-layout"),
            br#"{"imageLayoutVersion":"1.0.0"}"#,
        )?;
        Ok(Self {
            dir: dir.to_path_buf(),
        })
    }

    /// Writes a blob.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn blob(&self, media_type: &str, data: &[u8]) -> Result<Descriptor> {
        let digest = sha256(data);
        write(&blob_path(&self.dir, &digest)?, data)?;
        let size = data.len() as u64;
        Ok(Descriptor {
            media_type: media_type.to_owned(),
            digest,
            size,
            platform: None,
        })
    }

    /// Writes layers, config and manifest of one platform.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn manifest(&self, arch: &str, config: &Config, layers: &[Layer]) -> Result<Descriptor> {
        let diff_ids: Vec<&str> = layers.iter().map(|layer| layer.diff_id.as_str()).collect();
        let config = json!({
            "created": "2026-01-01T00:00:00Z",
            "architecture": arch,
            "os": "linux",
            "config": config,
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
            "history": diff_ids.iter().map(|id| json!({ "created_by": id })).collect::<Vec<_>>(),
        });
        let config = self.blob(media::CONFIG, &bytes(&config)?)?;
        let layers = layers
            .iter()
            .map(|layer| self.blob(&layer.media_type, &layer.blob))
            .collect::<Result<Vec<_>>>()?;
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": media::MANIFEST,
            "config": config,
            "layers": layers,
        });
        let mut descriptor = self.blob(media::MANIFEST, &bytes(&manifest)?)?;
        descriptor.platform = Some(json!({ "architecture": arch, "os": "linux" }));
        Ok(descriptor)
    }

    /// Writes an index over manifests.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn index(&self, manifests: &[Descriptor]) -> Result<Descriptor> {
        let index =
            json!({ "schemaVersion": 2, "mediaType": media::INDEX, "manifests": manifests });
        self.blob(media::INDEX, &bytes(&index)?)
    }

    /// Writes `index.json`, which names `root` as `latest`, and so ends the layout.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn finish(self, root: &Descriptor) -> Result<()> {
        let mut entry = serde_json::to_value(root).context("render a descriptor")?;
        if let Some(entry) = entry.as_object_mut() {
            let name = json!({ "org.opencontainers.image.ref.name": "latest" });
            entry.insert("annotations".to_owned(), name);
        }
        let index = json!({ "schemaVersion": 2, "mediaType": media::INDEX, "manifests": [entry] });
        write(&self.dir.join("index.json"), &bytes(&index)?)
    }
}

fn bytes(value: &Value) -> Result<Vec<u8>> {
    serde_json::to_vec(value).context("render JSON")
}

fn write(path: &Path, data: &[u8]) -> Result<()> {
    fs::write(path, data).with_context(|| format!("write {}", path.display()))
}

/// `sha256:...` of `data`.
#[must_use]
pub fn sha256(data: &[u8]) -> String {
    format!("sha256:{}", hex::encode(digest(&SHA256, data)))
}

/// Where a layout keeps the blob of this digest.
///
/// # Errors
/// When the digest is not of the form `algorithm:hex`.
pub fn blob_path(dir: &Path, digest: &str) -> Result<PathBuf> {
    match digest.split_once(':') {
        Some((algorithm, hex)) => Ok(dir.join("blobs").join(algorithm).join(hex)),
        None => bail!("not a digest: {digest}"),
    }
}

fn read_json(path: &Path) -> Result<Value> {
    let text = fs::read(path).with_context(|| format!("read {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("parse {}", path.display()))
}

/// The only descriptor of `index.json`.
pub(crate) fn root_descriptor(dir: &Path) -> Result<Descriptor> {
    let index = read_json(&dir.join("index.json"))?;
    let root = index
        .pointer("/manifests/0")
        .context("index.json names nothing")?;
    serde_json::from_value(root.clone()).context("parse the layout's descriptor")
}

/// The config digest of this machine's manifest.
pub(super) fn config_digest(dir: &Path) -> Result<String> {
    let mut descriptor = root_descriptor(dir)?;
    if descriptor.media_type == media::INDEX {
        let index = read_json(&blob_path(dir, &descriptor.digest)?)?;
        let manifests: Vec<Descriptor> =
            serde_json::from_value(index.get("manifests").cloned().unwrap_or_default())
                .context("parse an index")?;
        descriptor = manifests
            .into_iter()
            .find(|manifest| {
                manifest
                    .platform
                    .as_ref()
                    .and_then(|p| p.get("architecture")?.as_str())
                    == Some(architecture())
            })
            .context("the index has no manifest for this machine")?;
    }
    let manifest = read_json(&blob_path(dir, &descriptor.digest)?)?;
    let digest = manifest.pointer("/config/digest").and_then(Value::as_str);
    Ok(digest.context("the manifest has no config")?.to_owned())
}

/// This machine's architecture, by the name that images use (GOARCH).
#[must_use]
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The directory `key` of the image cache, made by `build` if it isn't there. Any number of threads
/// and processes may ask at once: one builds, and a build that failed leaves nothing.
pub(crate) fn cached(key: &str, build: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let base = paths::cache().join("images");
    let dir = base.join(key);
    if dir.is_dir() {
        return Ok(dir);
    }
    fs::create_dir_all(&base).with_context(|| format!("create {}", base.display()))?;
    let lock = lock_file(&base.join(format!("{key}.lock")))?;
    lock.lock()
        .with_context(|| format!("lock the cache entry {key}"))?;
    if dir.is_dir() {
        return Ok(dir);
    }
    let staging = base.join(format!("{key}.partial"));
    if staging.exists() {
        fs::remove_dir_all(&staging).with_context(|| format!("remove {}", staging.display()))?;
    }
    fs::create_dir(&staging).with_context(|| format!("create {}", staging.display()))?;
    build(&staging)?;
    fs::rename(&staging, &dir).with_context(|| format!("rename {}", staging.display()))?;
    Ok(dir)
}
