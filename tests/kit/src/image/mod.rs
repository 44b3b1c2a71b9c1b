//! Images for the tests, made from Debian's packages and never committed.
//!
//! Every image is an OCI layout in `target/kit/images`, named after a hash of its recipe, made once
//! and shared by all tests and processes. [`Image::ensure`] makes what is missing.
//!
//! | module | what |
//! |---|---|
//! | [`tar`] | a deterministic tar writer: any entry a test may want, also evil ones |
//! | [`layout`] | blobs, manifests, configs and indexes of an OCI layout |
//! | [`deb`] | files out of Debian's packages |
//! | [`program`] | tiny static programs without a libc |
//! | [`recipes`] | the images |

pub mod deb;
pub mod layout;
pub mod program;
pub mod recipes;
pub mod tar;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

pub use layout::{Compression, Config, Descriptor, Layer, Layout};
pub use recipes::Recipe;
pub use tar::{Entry, Kind, TarBuilder};

use crate::process::output;

/// An image in an OCI layout of its own, under the reference name `latest`.
#[derive(Debug, Clone)]
pub struct Image {
    recipe: Recipe,
    dir: PathBuf,
}

impl Image {
    /// Makes the image unless it is there already.
    ///
    /// # Errors
    /// When a package cannot be had or a file cannot be written.
    pub fn ensure(recipe: Recipe) -> Result<Self> {
        let dir = layout::cached(&recipe.key()?, |dir| recipe.build(dir))
            .with_context(|| format!("make the image {}", recipe.name()))?;
        Ok(Self { recipe, dir })
    }

    /// Which image this is.
    #[must_use]
    pub fn recipe(&self) -> Recipe {
        self.recipe
    }

    /// Its OCI layout directory.
    #[must_use]
    pub fn layout(&self) -> &Path {
        &self.dir
    }

    /// The descriptor that `index.json` names: a manifest, or an index.
    ///
    /// # Errors
    /// When the layout cannot be read.
    pub fn descriptor(&self) -> Result<Descriptor> {
        layout::root_descriptor(&self.dir)
    }

    /// The digest of this machine's config, which is the image's id: `sha256:...`.
    ///
    /// # Errors
    /// When the layout cannot be read.
    pub fn id(&self) -> Result<String> {
        layout::config_digest(&self.dir)
    }

    /// The image as a docker-archive, tagged `NAME:latest`, for `image import`.
    ///
    /// # Errors
    /// When skopeo fails.
    pub fn docker_archive(&self) -> Result<PathBuf> {
        let key = format!("{}-docker-archive", self.recipe.key()?);
        let name = self.recipe.name();
        let dir = layout::cached(&key, |dir| {
            let from = format!("oci:{}:latest", self.dir.display());
            let to = format!(
                "docker-archive:{}:{name}:latest",
                dir.join("image.tar").display()
            );
            skopeo_copy(Command::new("skopeo"), &[], &from, &to)
        })?;
        Ok(dir.join("image.tar"))
    }

    /// The layout packed into one tar, the other form that `image import` takes.
    ///
    /// # Errors
    /// When tar(1) fails.
    pub fn layout_archive(&self) -> Result<PathBuf> {
        let key = format!("{}-oci-archive", self.recipe.key()?);
        let dir = layout::cached(&key, |dir| {
            let mut tar = Command::new("tar");
            tar.arg("-C")
                .arg(&self.dir)
                .arg("-cf")
                .arg(dir.join("image.tar"));
            tar.args(["--sort=name", "oci-layout", "index.json", "blobs"]);
            output(&mut tar).map(drop)
        })?;
        Ok(dir.join("image.tar"))
    }
}

/// `skopeo copy` without a signature policy, for there are no signatures here.
pub(crate) fn skopeo_copy(
    mut command: Command,
    flags: &[&str],
    from: &str,
    to: &str,
) -> Result<()> {
    command
        .args(["copy", "--quiet", "--insecure-policy"])
        .args(flags)
        .args([from, to]);
    output(&mut command).map(drop)
}

#[cfg(test)]
mod tests;
