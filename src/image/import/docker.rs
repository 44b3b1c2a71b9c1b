//! The images of a docker-archive: what `docker save` wrote before it wrote
//! image layouts, and what several builders still write.
//!
//! Its `manifest.json` names a configuration, names and layer files. It says
//! no digest of a layer file; a manifest that does is made from the files, so
//! that the rest goes the way of a pull.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ring::digest::{Context, SHA256};
use serde::Deserialize;
use serde_json::json;

use super::super::ImageError;
use super::super::images::Inner;
use super::super::plan::Blob;
use super::super::pull;
use super::super::source::Source;
use super::archive::Picked;
use super::{Found, bad};
use crate::base::id::Digest;
use crate::registry::Manifest;

/// One entry of `manifest.json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// An entry with what its files turned out to be.
#[derive(Debug)]
struct Described {
    manifest: Vec<u8>,
    names: Vec<String>,
}

type Files = HashMap<Digest, PathBuf>;

/// Every image of the archive, and where their blobs are.
pub(super) async fn images(
    inner: &Inner,
    picked: &Picked,
    path: &Path,
) -> Result<(Arc<Source>, Vec<Found>), ImageError> {
    let file = |name: &str| {
        let found = picked.file(name).map(Path::to_owned);
        found.ok_or_else(|| bad(path, format!("it has no file {name}")))
    };
    let text = file("manifest.json").map_err(|_| {
        bad(
            path,
            "it is neither an OCI image layout nor a docker-archive",
        )
    })?;
    let text = std::fs::read(&text).map_err(ImageError::io("read", &text))?;
    let entries: Vec<Entry> = serde_json::from_slice(&text)
        .map_err(|e| bad(path, format!("manifest.json is not valid: {e}")))?;
    let mut wanted = Vec::new();
    for entry in entries {
        let layers = entry.layers.iter().map(|name| file(name));
        let layers = layers.collect::<Result<Vec<_>, _>>()?;
        wanted.push((
            file(&entry.config)?,
            layers,
            entry.repo_tags.unwrap_or_default(),
        ));
    }
    let job = inner.tasks.spawn_blocking(move || describe(wanted));
    let (files, described) = job.await.map_err(|_| ImageError::CutOff)??;
    let source = Arc::new(Source::Files(files));
    let mut found = Vec::new();
    for Described { manifest, names } in described {
        let digest = Digest::of(&manifest);
        let raw = Manifest {
            bytes: manifest.into(),
            media_type: Some(MANIFEST.to_owned()),
            digest: None,
        };
        let image = pull::descend(&source, &inner.platform, &digest, raw).await?;
        let candidate = pull::read(&source, &inner.platform, image).await?;
        found.push(Found { candidate, names });
    }
    Ok((source, found))
}

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

fn describe(
    wanted: Vec<(PathBuf, Vec<PathBuf>, Vec<String>)>,
) -> Result<(Files, Vec<Described>), ImageError> {
    let (mut files, mut described) = (Files::new(), Vec::new());
    let mut known: HashMap<PathBuf, Blob> = HashMap::new();
    let mut blob = |path: PathBuf| {
        if let Some(blob) = known.get(&path) {
            return Ok(blob.clone());
        }
        let blob = hash(&path)?;
        files.insert(blob.digest.clone(), path.clone());
        known.insert(path, blob.clone());
        Ok::<_, ImageError>(blob)
    };
    for (config, layers, names) in wanted {
        let descriptor = |media_type: &str, blob: Blob| json!({"mediaType": media_type, "digest": blob.digest.as_str(), "size": blob.size});
        let config = descriptor("application/vnd.oci.image.config.v1+json", blob(config)?);
        let mut list = Vec::new();
        for layer in layers {
            list.push(descriptor(
                "application/vnd.oci.image.layer.v1.tar",
                blob(layer)?,
            ));
        }
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": list,
        });
        described.push(Described {
            manifest: manifest.to_string().into_bytes(),
            names,
        });
    }
    Ok((files, described))
}

fn hash(path: &Path) -> Result<Blob, ImageError> {
    let failed = |source| ImageError::io("read", path)(source);
    let mut file = File::open(path).map_err(failed)?;
    let (mut context, mut size) = (Context::new(&SHA256), 0);
    let mut buffer = vec![0; 256 << 10];
    loop {
        let n = file.read(&mut buffer).map_err(failed)?;
        if n == 0 {
            break;
        }
        context.update(buffer.get(..n).unwrap_or_default());
        size += n as u64;
    }
    Ok(Blob {
        digest: Digest::from_sha256(context.finish().as_ref()),
        size,
    })
}
