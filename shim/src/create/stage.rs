//! What the worker prepares in its own mount namespace before libcontainer:
//! the root file system, every bind volume as a clone that carries its own
//! propagation and id mapping, the working directory, the home directory.

use std::fs;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::{Mount, Spec};
use rustix::fs::{Gid, Mode, OFlags, ResolveFlags, Uid};
use rustix::io::Errno;

use super::error::CreateError;
use super::normalise::{has_option, host_owner, is_bind, userns_path};
use crate::rootfs::{self, MountError, at};
use crate::sys::{self, MountAttr};

/// Largest /etc/passwd that is searched for a home directory, in bytes.
const PASSWD_MAX: u64 = 4 * 1024 * 1024;

/// Mounts the volumes' clones below `stage` and returns the spec's mounts with
/// their sources replaced, in the spec's order.
pub(super) fn volumes(spec: &Spec, stage: &Path) -> Result<Vec<Mount>, CreateError> {
    let mut userns = None;
    let mut staged = Vec::new();
    for (index, mount) in spec.mounts().iter().flatten().enumerate() {
        if !is_bind(mount) {
            staged.push(mount.clone());
            continue;
        }
        if wants_idmap(mount) && userns.is_none() {
            let path = userns_path(spec).ok_or_else(|| {
                CreateError::Invalid("id mapped mount without a user namespace to map by".into())
            })?;
            userns = Some(rootfs::open_userns(path).map_err(CreateError::Mount)?);
        }
        let target = stage.join(format!("v{index}"));
        let userns = userns.as_ref().filter(|_| wants_idmap(mount));
        let source = mount
            .source()
            .as_deref()
            .ok_or_else(|| CreateError::Invalid("bind mount without a source".into()))?;
        stage_volume(mount, source, &target, userns).map_err(CreateError::Mount)?;
        staged.push(plain(mount, &target));
    }
    Ok(staged)
}

fn wants_idmap(mount: &Mount) -> bool {
    let mapped = mount
        .uid_mappings()
        .as_ref()
        .is_some_and(|maps| !maps.is_empty());
    mapped || has_option(mount, &["idmap", "ridmap"])
}

fn stage_volume(
    mount: &Mount,
    source: &Path,
    target: &Path,
    userns: Option<&OwnedFd>,
) -> Result<(), MountError> {
    let recursive = has_option(mount, &["rbind"]);
    let tree = rootfs::clone_mount(source, recursive)?;
    let propagation = MountAttr {
        propagation: propagation(mount),
        ..MountAttr::default()
    };
    sys::mount_setattr(tree.as_fd(), recursive, &propagation)
        .map_err(at("set propagation of", source))?;
    if let Some(userns) = userns {
        rootfs::idmap(&tree, userns, recursive).map_err(at("idmap", source))?;
    }
    if fs::metadata(source).map_err(at("stat", source))?.is_dir() {
        rootfs::passable_dir(target)?;
    } else {
        fs::write(target, "").map_err(at("create mount point", target))?;
    }
    rootfs::attach(&tree, target)
}

/// `MS_*` of a volume. A shared source stays shared, what is not said is
/// private.
fn propagation(mount: &Mount) -> u64 {
    if has_option(mount, &["shared", "rshared"]) {
        // A clone of a shared mount is its peer. One of a private mount stays
        // private: nothing the container mounts could reach the host anyway.
        0
    } else if has_option(mount, &["slave", "rslave"]) {
        libc::MS_SLAVE
    } else if has_option(mount, &["unbindable", "runbindable"]) {
        libc::MS_UNBINDABLE
    } else {
        libc::MS_PRIVATE
    }
}

/// The mount as a plain bind of its staged clone; ro, rro and the like stay
/// libcontainer's to set.
fn plain(mount: &Mount, target: &Path) -> Mount {
    const DONE: [&str; 12] = [
        "shared",
        "rshared",
        "slave",
        "rslave",
        "private",
        "rprivate",
        "unbindable",
        "runbindable",
        "idmap",
        "ridmap",
        "bind",
        "rbind",
    ];
    let mut options: Vec<String> = mount.options().clone().unwrap_or_default();
    let recursive = has_option(mount, &["rbind"]);
    options.retain(|option| !DONE.contains(&option.as_str()));
    options.insert(0, if recursive { "rbind" } else { "bind" }.to_owned());
    let mut plain = mount.clone();
    plain
        .set_typ(Some("bind".to_owned()))
        .set_source(Some(target.to_owned()))
        .set_options(Some(options))
        .set_uid_mappings(None)
        .set_gid_mappings(None);
    plain
}

/// Opens `path` as the container would see it below `root`, wherever its
/// symlinks point.
fn open_in(root: &OwnedFd, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)
}

/// Makes the working directory where the image lacks it, in the root file
/// system or in the volume that covers it. What can't be made is for chdir(2)
/// to report.
pub(super) fn working_directory(
    spec: &Spec,
    staged: &[Mount],
    root: &Path,
) -> Result<(), CreateError> {
    let Some(process) = spec.process() else {
        return Ok(());
    };
    let cwd = process.cwd();
    let cover = staged
        .iter()
        .filter(|mount| cwd.starts_with(mount.destination()))
        .max_by_key(|mount| mount.destination().as_os_str().len());
    let (base, rest) = match cover {
        // The staged clone is writable still; what the container may not write
        // to, nothing is written to for it.
        Some(mount) if is_bind(mount) && has_option(mount, &["ro", "rro"]) => return Ok(()),
        Some(mount) if is_bind(mount) => {
            let Some(source) = mount.source() else {
                return Ok(());
            };
            (
                source.as_path(),
                cwd.strip_prefix(mount.destination()).unwrap_or(cwd),
            )
        }
        // A file system that is empty until libcontainer mounts it.
        Some(_) => return Ok(()),
        None => (root, cwd.as_path()),
    };
    let owner = host_owner(spec, 0, 0);
    match make_dirs(base, rest, owner) {
        Ok(()) | Err(Errno::ROFS | Errno::NOTDIR | Errno::ACCESS | Errno::EXIST | Errno::NOENT) => {
            Ok(())
        }
        Err(errno) => Err(CreateError::system(
            format!("create working directory {}", cwd.display()),
            errno,
        )),
    }
}

fn make_dirs(base: &Path, rest: &Path, owner: (u32, u32)) -> Result<(), Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    let root = rustix::fs::open(base, flags | OFlags::CLOEXEC, Mode::empty())?;
    let mut path = PathBuf::new();
    let mut parent = open_in(&root, Path::new("."), flags)?;
    for part in rest.components() {
        let Component::Normal(name) = part else {
            path.push(part);
            continue;
        };
        path.push(name);
        parent = match open_in(&root, &path, flags) {
            Ok(dir) => dir,
            Err(Errno::NOENT) => {
                rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755))?;
                let dir = open_in(&root, &path, flags)?;
                rustix::fs::chownat(
                    &dir,
                    "",
                    Some(Uid::from_raw(owner.0)),
                    Some(Gid::from_raw(owner.1)),
                    rustix::fs::AtFlags::EMPTY_PATH,
                )?;
                dir
            }
            Err(errno) => return Err(errno),
        };
    }
    Ok(())
}

/// The home directory of `uid` by the image's /etc/passwd, "/" where it does
/// not say.
pub(super) fn home(root: &Path, uid: u32) -> String {
    let read = || -> Result<Vec<u8>, std::io::Error> {
        let dir = rustix::fs::open(root, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        let passwd = open_in(
            &dir,
            Path::new("etc/passwd"),
            OFlags::RDONLY | OFlags::NONBLOCK,
        )?;
        let mut text = Vec::new();
        let file = fs::File::from(passwd);
        if file.metadata()?.is_file() {
            file.take(PASSWD_MAX).read_to_end(&mut text)?;
        }
        Ok(text)
    };
    let text = read().unwrap_or_default();
    home_in(&text, uid).unwrap_or_else(|| "/".to_owned())
}

fn home_in(passwd: &[u8], uid: u32) -> Option<String> {
    passwd.split(|byte| *byte == b'\n').find_map(|line| {
        let mut fields = std::str::from_utf8(line).ok()?.split(':');
        let of_user = fields.nth(2)?.parse::<u32>().ok()? == uid;
        let home = fields.nth(2)?;
        (of_user && home.starts_with('/') && !home.contains('\0')).then(|| home.to_owned())
    })
}

/// Gives the upper directory of a user namespaced container to its root, as
/// the upper must not be idmapped: overlayfs would mount it read-only.
pub(super) fn own_upper(spec: &Spec, upper: &Path) -> Result<(), CreateError> {
    if upper.as_os_str().is_empty() || userns_path(spec).is_none() {
        return Ok(());
    }
    let (uid, gid) = host_owner(spec, 0, 0);
    std::os::unix::fs::chown(upper, Some(uid), Some(gid))
        .map_err(|source| CreateError::system(format!("chown {}", upper.display()), source))
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::MountBuilder;

    fn mount(options: &[&str]) -> Mount {
        MountBuilder::default()
            .destination("/v")
            .typ("bind")
            .source("/src")
            .options(options.iter().map(ToString::to_string).collect::<Vec<_>>())
            .build()
            .unwrap()
    }

    #[test]
    fn propagation_of_a_volume() {
        for (options, want) in [
            (vec!["rbind"], libc::MS_PRIVATE),
            (vec!["rbind", "rprivate"], libc::MS_PRIVATE),
            (vec!["rbind", "rslave"], libc::MS_SLAVE),
            (vec!["rbind", "rshared"], 0),
        ] {
            assert_eq!(propagation(&mount(&options)), want, "{options:?}");
        }
    }

    #[test]
    fn libcontainer_gets_a_plain_bind() {
        let plain = plain(
            &mount(&["rbind", "rslave", "idmap", "ro", "nosuid"]),
            Path::new("/s/v0"),
        );
        assert_eq!(
            plain.options().as_ref().unwrap(),
            &["rbind", "ro", "nosuid"]
        );
        assert_eq!(plain.source().as_deref(), Some(Path::new("/s/v0")));
    }

    #[test]
    fn a_read_only_volume_gets_no_working_directory() {
        let dir = tempfile::tempdir().unwrap();
        for (options, made) in [
            (vec!["rbind"], true),
            (vec!["rbind", "ro"], false),
            (vec!["rbind", "rro"], false),
        ] {
            let source = dir.path().join(options.join("-"));
            fs::create_dir(&source).unwrap();
            let mut process = oci_spec::runtime::Process::default();
            process.set_cwd("/v/work".into());
            let mut spec = Spec::default();
            spec.set_process(Some(process));
            let mut volume = mount(&options);
            volume.set_source(Some(source.clone()));
            working_directory(&spec, &[volume], dir.path()).unwrap();
            assert_eq!(source.join("work").is_dir(), made, "{options:?}");
        }
    }

    #[test]
    fn home_directories() {
        let passwd = b"root:x:0:0:root:/root:/bin/sh\nbad line\n\xff:x:7:7::/seven:\nu:x:1000:1000::/home/u:\nr:x:8:8::rel:\n";
        assert_eq!(home_in(passwd, 0).as_deref(), Some("/root"));
        assert_eq!(home_in(passwd, 1000).as_deref(), Some("/home/u"));
        assert_eq!(home_in(passwd, 7), None);
        assert_eq!(home_in(passwd, 8), None);
        assert_eq!(home_in(passwd, 9), None);
    }

    #[test]
    fn working_directories_stay_inside_the_root() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        fs::create_dir(&root).unwrap();
        fs::create_dir(dir.path().join("outside")).unwrap();
        std::os::unix::fs::symlink("../outside", root.join("link")).unwrap();
        std::os::unix::fs::symlink("/deep", root.join("abs")).unwrap();
        fs::create_dir(root.join("deep")).unwrap();
        let owner = (
            nix::unistd::geteuid().as_raw(),
            nix::unistd::getegid().as_raw(),
        );
        make_dirs(&root, Path::new("/a/b/c"), owner).unwrap();
        assert!(root.join("a/b/c").is_dir());
        make_dirs(&root, Path::new("/abs/x"), owner).unwrap();
        assert!(root.join("deep/x").is_dir());
        assert!(make_dirs(&root, Path::new("/link/x"), owner).is_err());
        assert_eq!(fs::read_dir(dir.path().join("outside")).unwrap().count(), 0);
    }
}
