//! Picks the files of a tar or tar.gz into staging.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;
use longshore_snapshotter::unpack::tar::{EntryKind, ReadError, TarReader};

use super::super::ImageError;
use super::{STAGED, bad};
use crate::base::id::Digest;

/// Most entries of an archive.
const MAX_ENTRIES: usize = 100_000;

/// An archive's files, under names of our own. Dropping it removes them.
#[derive(Debug)]
pub(super) struct Picked {
    dir: tempfile::TempDir,
    /// Name in the archive to what it is.
    members: HashMap<String, Member>,
}

#[derive(Debug)]
enum Member {
    File(PathBuf),
    Link(String),
}

impl Picked {
    /// Whether it is an OCI image layout.
    pub(super) fn is_layout(&self) -> bool {
        self.members.contains_key("oci-layout") && self.members.contains_key("index.json")
    }

    /// The directory that an image layout was put into.
    pub(super) fn root(&self) -> &Path {
        self.dir.path()
    }

    /// The file of that name, through links within the archive.
    pub(super) fn file(&self, name: &str) -> Option<&Path> {
        let mut name = normal(name)?;
        for _ in 0..8 {
            match self.members.get(&name)? {
                Member::File(path) => return Some(path),
                Member::Link(target) => name = target.clone(),
            }
        }
        None
    }
}

pub(super) fn pick(archive: &Path, staging: &Path) -> Result<Picked, ImageError> {
    let dir = tempfile::Builder::new()
        .prefix(STAGED)
        .tempdir_in(staging)
        .map_err(ImageError::io("make a directory in", staging))?;
    let mut picked = Picked {
        dir,
        members: HashMap::new(),
    };
    let file = File::open(archive).map_err(ImageError::io("open", archive))?;
    let mut input = BufReader::with_capacity(256 << 10, file);
    let start = input.fill_buf().map_err(ImageError::io("read", archive))?;
    if start.starts_with(&[0x1f, 0x8b]) {
        let inside = MultiGzDecoder::new(input);
        read(
            &mut picked,
            archive,
            BufReader::with_capacity(256 << 10, inside),
        )?;
    } else {
        read(&mut picked, archive, input)?;
    }
    Ok(picked)
}

fn read(picked: &mut Picked, archive: &Path, input: impl BufRead) -> Result<(), ImageError> {
    let failed = |error| match error {
        ReadError::Io(source) => ImageError::io("read", archive)(source),
        error @ ReadError::Tar(..) => bad(archive, crate::base::chain::chain(&error)),
    };
    let mut tar = TarReader::new(input);
    while let Some(entry) = tar.next_entry().map_err(failed)? {
        let Some(name) = std::str::from_utf8(&entry.name).ok().and_then(normal) else {
            continue;
        };
        if picked.members.len() == MAX_ENTRIES {
            return Err(bad(
                archive,
                format!("it has more than {MAX_ENTRIES} entries"),
            ));
        }
        let member = match entry.kind {
            EntryKind::File(_, None) => {
                let path = place(picked, &name)?;
                write(&mut tar, &path, &failed)?;
                Member::File(path)
            }
            EntryKind::Symlink(target) => match link(&name, &target, false) {
                Some(target) => Member::Link(target),
                None => continue,
            },
            EntryKind::HardLink(target) => match link(&name, &target, true) {
                Some(target) => Member::Link(target),
                None => continue,
            },
            EntryKind::File(_, Some(_))
            | EntryKind::CharDevice(..)
            | EntryKind::BlockDevice(..)
            | EntryKind::Directory
            | EntryKind::Fifo => continue,
        };
        picked.members.insert(name, member);
    }
    Ok(())
}

/// Where a member goes: an image layout's files to where a layout has them,
/// all others to a numbered file. No name of the archive becomes a path.
fn place(picked: &Picked, name: &str) -> Result<PathBuf, ImageError> {
    let root = picked.root();
    let blob = name
        .strip_prefix("blobs/sha256/")
        .and_then(|hex| format!("sha256:{hex}").parse::<Digest>().ok());
    let (dir, file) = match blob {
        Some(digest) => (root.join("blobs/sha256"), digest.hex().to_owned()),
        None if name == "index.json" => (root.to_owned(), name.to_owned()),
        None => (root.join("other"), picked.members.len().to_string()),
    };
    std::fs::create_dir_all(&dir).map_err(ImageError::io("make directory", &dir))?;
    Ok(dir.join(file))
}

fn write<R: BufRead>(
    tar: &mut TarReader<R>,
    path: &Path,
    failed: &impl Fn(ReadError) -> ImageError,
) -> Result<(), ImageError> {
    let file = File::create(path).map_err(ImageError::io("create", path))?;
    let mut file = BufWriter::new(file);
    loop {
        let chunk = tar.chunk().map_err(failed)?;
        let n = chunk.len();
        if n == 0 {
            return file.flush().map_err(ImageError::io("write", path));
        }
        file.write_all(chunk)
            .map_err(ImageError::io("write", path))?;
        tar.consume(n);
    }
}

/// `a/./b` as `a/b`; `None` for what leads out of the archive.
fn normal(name: &str) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    (!parts.is_empty()).then(|| parts.join("/"))
}

/// What a link means, as a name of the archive.
fn link(name: &str, target: &[u8], from_root: bool) -> Option<String> {
    let target = std::str::from_utf8(target).ok()?;
    if from_root || target.starts_with('/') {
        return normal(target);
    }
    match name.rsplit_once('/') {
        Some((dir, _)) => normal(&format!("{dir}/{target}")),
        None => normal(target),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_within_the_archive() {
        for (name, expected) in [
            ("./a/b", Some("a/b")),
            ("/a//b/", Some("a/b")),
            ("a/../b", Some("b")),
            ("../b", None),
            ("a/../../b", None),
            (".", None),
        ] {
            assert_eq!(normal(name).as_deref(), expected, "{name}");
        }
        let to = |name, target: &str| link(name, target.as_bytes(), false);
        assert_eq!(
            to("x/layer.tar", "../y/layer.tar").as_deref(),
            Some("y/layer.tar")
        );
        assert_eq!(to("l", "t").as_deref(), Some("t"));
        assert_eq!(to("l", "../t"), None);
    }

    #[test]
    fn a_link_that_leads_to_itself_ends() {
        let dir = tempfile::tempdir().unwrap();
        let members = HashMap::from([("a".to_owned(), Member::Link("a".to_owned()))]);
        let picked = Picked { dir, members };
        assert_eq!(picked.file("a"), None);
    }

    #[test]
    fn what_is_no_tar_is_an_error_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let archive = dir.path().join("archive");
        let staging = dir.path().join("staging");
        std::fs::create_dir(&staging).unwrap();
        for content in [
            &b"not a tar at all, but longer than nothing"[..],
            &[0x1f, 0x8b, 8, 0],
        ] {
            std::fs::write(&archive, content).unwrap();
            assert!(pick(&archive, &staging).is_err());
            assert_eq!(std::fs::read_dir(&staging).unwrap().count(), 0);
        }
    }
}
