//! Import: an OCI image layout or a docker-archive becomes images, by the same
//! way as a pull.
//!
//! ```text
//! directory ----------------------> oci-layout, index.json, blobs/
//! tar, tar.gz --> archive.rs --+--> the same, picked out into staging
//!                              +--> docker.rs: manifest.json, config and layer files
//! ```

mod archive;
mod docker;
mod layout;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::ImageError;
use super::commit::{Candidate, Names};
use super::images::Inner;
use super::reference::{Reference, Selector};
use super::source::Source;
use crate::base::id::ImageId;

/// What an archive's place in staging starts with.
const STAGED: &str = "import-";

/// An image that was imported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// Its id.
    pub id: ImageId,
    /// The names it got, normalised.
    pub names: Vec<String>,
}

/// One image of an archive, before its layers are unpacked.
#[derive(Debug)]
struct Found {
    candidate: Candidate,
    /// As the archive has them.
    names: Vec<String>,
}

/// Removes what an earlier run left of archives.
pub(super) fn sweep(staging: &Path) -> Result<(), ImageError> {
    let failed = || ImageError::io("sweep", staging);
    for entry in std::fs::read_dir(staging).map_err(failed())? {
        let entry = entry.map_err(failed())?;
        if entry
            .file_name()
            .as_encoded_bytes()
            .starts_with(STAGED.as_bytes())
        {
            std::fs::remove_dir_all(entry.path()).map_err(failed())?;
        }
    }
    Ok(())
}

pub(super) async fn run(
    inner: &Inner,
    path: PathBuf,
    names: Vec<String>,
) -> Result<Vec<Imported>, ImageError> {
    let given = names
        .iter()
        .map(|n| tag(n))
        .collect::<Result<Vec<_>, _>>()?;
    let metadata = std::fs::metadata(&path).map_err(ImageError::io("open", &path))?;
    if metadata.is_dir() {
        let source = Arc::new(Source::Layout(path.join("blobs")));
        let found = layout::images(inner, &source, &path, &path).await?;
        return adopt(inner, &path, &source, found, given).await;
    }
    let (staging, archive) = (inner.config.staging.clone(), path.clone());
    let picked = inner
        .tasks
        .spawn_blocking(move || archive::pick(&archive, &staging));
    let picked = picked.await.map_err(|_| ImageError::CutOff)??;
    let (source, found) = if picked.is_layout() {
        let root = picked.root().to_owned();
        let source = Arc::new(Source::Layout(root.join("blobs")));
        let found = layout::images(inner, &source, &root, &path).await?;
        (source, found)
    } else {
        docker::images(inner, &picked, &path).await?
    };
    let imported = adopt(inner, &path, &source, found, given).await;
    let closing = inner.tasks.spawn_blocking(move || drop(picked));
    closing.await.map_err(|_| ImageError::CutOff)?;
    imported
}

async fn adopt(
    inner: &Inner,
    path: &Path,
    source: &Arc<Source>,
    found: Vec<Found>,
    given: Vec<String>,
) -> Result<Vec<Imported>, ImageError> {
    if found.is_empty() {
        return Err(bad(path, "it holds no image"));
    }
    if !given.is_empty() && found.len() > 1 {
        let reason = format!(
            "it holds {} images, which can't all have one name",
            found.len()
        );
        return Err(bad(path, reason));
    }
    let mut imported = Vec::new();
    for Found { candidate, names } in found {
        let tags = match given.is_empty() {
            true => names
                .iter()
                .map(|n| tag(n))
                .collect::<Result<Vec<_>, _>>()?,
            false => given.clone(),
        };
        let names = Names {
            tags: tags.clone(),
            digests: vec![],
        };
        let progress = |stage| tracing::debug!(path = %path.display(), %stage, "import");
        let id = inner.obtain(source, candidate, names, &progress).await;
        let id = id.map_err(|shared| ImageError::Import {
            path: path.to_owned(),
            source: shared,
        })?;
        tracing::info!(path = %path.display(), %id, ?tags, "image is imported");
        imported.push(Imported { id, names: tags });
    }
    Ok(imported)
}

/// A name that an image can be given: it has a tag.
fn tag(name: &str) -> Result<String, ImageError> {
    let reference: Reference = name.parse()?;
    match reference.selector() {
        Selector::Tag(_) => Ok(reference.to_string()),
        Selector::Digest(_) => Err(super::ReferenceError {
            text: name.to_owned(),
            reason: "an image can't be given a digest as its name",
        }
        .into()),
    }
}

fn bad(path: &Path, reason: impl Into<String>) -> ImageError {
    ImageError::Archive {
        path: path.to_owned(),
        reason: reason.into(),
    }
}
