//! The ports filled by longshore's own layers: pods, images, snapshots.

use std::path::PathBuf;
use std::sync::Arc;

use longshore_snapshotter::{
    LayerId, OverlayMount, OverlaySnapshotter, PrepareOptions, SnapshotKey, Snapshotter,
};

use crate::base::id::{ContainerId, SandboxId};
use crate::sandbox::{LookupError, SandboxError, SandboxView, Sandboxes};

use super::ports::{Cause, ImageView, Images, Pods, Rootfs, Snapshots, Work};

/// An `/etc/passwd` of more than this is not read.
const USER_FILE_BYTES: u64 = 1 << 20;

impl Pods for Sandboxes {
    fn get(&self, id: &str) -> Result<Arc<SandboxView>, LookupError> {
        Sandboxes::get(self, id).map(|handle| handle.view())
    }

    fn begin_stop<'a>(&'a self, id: &'a SandboxId) -> Work<'a, Result<(), SandboxError>> {
        Box::pin(Sandboxes::begin_stop(self, id))
    }

    fn finish_stop<'a>(&'a self, id: &'a SandboxId) -> Work<'a, Result<(), SandboxError>> {
        Box::pin(Sandboxes::finish_stop(self, id))
    }

    fn remove<'a>(&'a self, id: &'a SandboxId) -> Work<'a, Result<(), SandboxError>> {
        Box::pin(Sandboxes::remove(self, id))
    }
}

impl Images for crate::image::Images {
    fn get(&self, name: &str) -> Result<Option<ImageView>, Cause> {
        let Some(image) = crate::image::Images::get(self, name)? else {
            return Ok(None);
        };
        let id = image.id.to_string();
        let reference = image.repo_digests.first().cloned().unwrap_or(id);
        Ok(Some(ImageView {
            id: image.id.clone(),
            name: image.repo_tags.first().unwrap_or(&reference).clone(),
            reference,
            layers: image.layers.clone(),
            config: image.config.clone(),
            hold: image,
        }))
    }
}

impl Snapshots for OverlaySnapshotter {
    fn prepare(
        &self,
        id: &ContainerId,
        layers: &[LayerId],
        root: Option<(u32, u32)>,
    ) -> Result<Rootfs, Cause> {
        // After a crash of the machine every container is exited, and nothing
        // reads what it wrote but RemoveContainer.
        let options = PrepareOptions {
            volatile: true,
            owner: root,
        };
        let mount = Snapshotter::prepare(self, &key(id)?, layers, &options)?;
        Ok(rootfs(mount))
    }

    fn remove(&self, id: &ContainerId) -> Result<(), Cause> {
        Ok(Snapshotter::remove(self, &key(id)?)?)
    }

    fn read_file(&self, layers: &[LayerId], path: &str) -> Result<Option<Vec<u8>>, Cause> {
        Ok(Snapshotter::read_file(self, layers, path, USER_FILE_BYTES)?)
    }
}

fn key(id: &ContainerId) -> Result<SnapshotKey, Cause> {
    Ok(id.as_str().parse::<SnapshotKey>()?)
}

fn rootfs(mount: OverlayMount) -> Rootfs {
    let options = [(mount.volatile, "volatile"), (mount.userxattr, "userxattr")];
    Rootfs {
        lower: mount.lower,
        upper: mount.upper,
        work: mount.work,
        options: options
            .into_iter()
            .filter(|(on, _)| *on)
            .map(|(_, name)| name.to_owned())
            .collect(),
        idmap_userns: None::<PathBuf>,
    }
}
