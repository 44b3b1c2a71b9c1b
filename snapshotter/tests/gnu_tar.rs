//! What GNU tar writes we unpack as GNU tar does: every dialect, every kind of file.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, lchown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use longshore_snapshotter::{Compression, DiffId, OverlayConfig, OverlaySnapshotter, Snapshotter};
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};

/// Everything of a tree that a layer keeps. `nanos` tells whether times have fractions.
fn state(root: &Path, nanos: bool) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut inodes: BTreeMap<u64, Vec<PathBuf>> = BTreeMap::new();
    let mut left = vec![root.to_owned()];
    while let Some(path) = left.pop() {
        let meta = path.symlink_metadata().unwrap();
        let relative = path.strip_prefix(root).unwrap().to_owned();
        let content = if meta.is_file() {
            DiffId::of(&std::fs::read(&path).unwrap()).to_string()
        } else if meta.is_symlink() {
            format!("-> {:?}", std::fs::read_link(&path).unwrap())
        } else {
            String::new()
        };
        if meta.is_dir() {
            left.extend(
                std::fs::read_dir(&path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
        } else {
            inodes.entry(meta.ino()).or_default().push(relative.clone());
        }
        let size = if meta.is_file() { meta.size() } else { 0 };
        let fraction = if nanos { meta.mtime_nsec() } else { 0 };
        let line = format!(
            "{:o} {}:{} {size} {}.{fraction:09} {:x} {content} {:?}",
            meta.mode(),
            meta.uid(),
            meta.gid(),
            meta.mtime(),
            meta.rdev(),
            xattrs(&path)
        );
        found.insert(relative, line);
    }
    for paths in inodes.values_mut().filter(|paths| paths.len() > 1) {
        paths.sort();
        found.insert(
            PathBuf::from(format!("links of {}", paths[0].display())),
            format!("{paths:?}"),
        );
    }
    found
}

fn xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut list = vec![0_u8; 65536];
    let len = rustix::fs::llistxattr(path, &mut list[..]).unwrap();
    let names = list[..len]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty());
    let value = |name: &[u8]| {
        let mut value = vec![0_u8; 65536];
        let len = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap();
        value[..len].to_vec()
    };
    names.map(|name| (name.to_vec(), value(name))).collect()
}

fn age(path: &Path, seconds: i64) {
    let time = Timespec {
        tv_sec: seconds,
        tv_nsec: 123_456_789,
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

fn chmod(path: &Path, mode: u32) {
    rustix::fs::chmodat(CWD, path, Mode::from_raw_mode(mode), AtFlags::empty()).unwrap();
}

/// What a dialect can hold; each holds what those before it do.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Dialect {
    V7,
    /// Devices and fifos.
    Ustar,
    /// Names of any length, large ids, sparse files.
    Gnu,
    /// Attributes, fractions of seconds, times before 1970.
    Posix,
}

fn plant(root: &Path, dialect: Dialect) {
    let at = |name: &str| root.join(name);
    std::fs::create_dir_all(at("dir/sub")).unwrap();
    for (name, size) in [
        ("empty", 0),
        ("small", 5),
        ("block", 512),
        ("big", 3_000_001),
    ] {
        let content: Vec<u8> = (0..size).map(|at: u32| (at % 251) as u8).collect();
        std::fs::write(at(name), content).unwrap();
    }
    std::fs::hard_link(at("small"), at("dir/also small")).unwrap();
    symlink("../small", at("dir/link")).unwrap();
    symlink("/nowhere", at("dangling")).unwrap();
    std::fs::write(root.join(OsStr::from_bytes(b"caf\xe9 \xff")), "not UTF-8").unwrap();
    std::fs::write(at("line\nend"), "x").unwrap();
    let nodes = [
        ("fifo", FileType::Fifo, 0),
        ("null", FileType::CharacterDevice, rustix::fs::makedev(1, 3)),
        ("disk", FileType::BlockDevice, rustix::fs::makedev(8, 17)),
    ];
    let nodes = nodes.into_iter().filter(|_| dialect > Dialect::V7);
    for (name, kind, number) in nodes {
        rustix::fs::mknodat(CWD, at(name), kind, Mode::RUSR, number).unwrap();
    }
    let sparse = File::create(at("sparse")).unwrap();
    sparse.set_len(50 << 20).unwrap();
    for offset in (0..40).map(|part: u64| part << 20) {
        sparse.write_all_at(b"not a hole", offset).unwrap();
    }
    std::fs::write(at("setuid"), "x").unwrap();
    let id = if dialect >= Dialect::Gnu {
        3_000_000_000
    } else {
        1234
    };
    for name in ["setuid", "dir/link", "dir/sub"] {
        lchown(at(name), Some(id), Some(id + 1)).unwrap();
    }
    chmod(&at("setuid"), 0o6755);
    chmod(&at("dir"), 0o3770);
    chmod(&at("dir/sub"), 0o555);
    if dialect >= Dialect::Gnu {
        let deep = (0..30).fold(at("deep"), |path, n| path.join(format!("{n:020}")));
        std::fs::create_dir_all(&deep).unwrap();
        std::fs::write(deep.join("n".repeat(255)), "x").unwrap();
        symlink("t".repeat(1000), at("long link")).unwrap();
    }
}

fn plant_attributes(root: &Path) {
    let set = |name: &str, key: &str, value: &[u8]| {
        rustix::fs::setxattr(root.join(name), key, value, XattrFlags::empty()).unwrap();
    };
    set("small", "user.text", b"value");
    set("small", "user.with=equals", b"\0binary\n\xff");
    set("dir", "trusted.mark", b"x");
    set(
        "setuid",
        "security.capability",
        b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
    );
    // user::rwx user:1234:rwx group::r-x mask::rwx other::---, as linux/posix_acl_xattr.h has it.
    let mut acl = vec![2, 0, 0, 0];
    for (tag, perm, id) in [
        (1_u16, 7_u16, u32::MAX),
        (2, 7, 1234),
        (4, 5, u32::MAX),
        (16, 7, u32::MAX),
        (32, 0, u32::MAX),
    ] {
        acl.extend(
            tag.to_le_bytes()
                .into_iter()
                .chain(perm.to_le_bytes())
                .chain(id.to_le_bytes()),
        );
    }
    set("big", "system.posix_acl_access", &acl);
    set("dir", "system.posix_acl_default", &acl);
}

fn tar(args: &[&str], dir: &Path, file: &Path) {
    let mut command = Command::new("tar");
    command
        .args(args)
        .arg("-C")
        .arg(dir)
        .arg("--numeric-owner")
        .arg("-f")
        .arg(file);
    if args.contains(&"-c") {
        command.arg(".");
    }
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "tar {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn compare(name: &str, create: &[&str], dialect: Dialect) {
    let pax = dialect == Dialect::Posix;
    let work = tempfile::tempdir().unwrap();
    let dir = |name: &str| work.path().join(name);
    std::fs::create_dir(dir("source")).unwrap();
    plant(&dir("source"), dialect);
    if pax {
        plant_attributes(&dir("source"));
    }
    for (number, path) in state(&dir("source"), true).keys().enumerate() {
        let path = dir("source").join(path);
        if path.symlink_metadata().is_ok() {
            age(&path, 1_600_000_000 + i64::try_from(number).unwrap());
        }
    }
    age(&dir("source").join("empty"), if pax { -1000 } else { 7 });
    let file = dir("layer.tar");
    tar(&[&["-c"], create].concat(), &dir("source"), &file);
    std::fs::create_dir(dir("expected")).unwrap();
    let extract = ["-x", "-p", "--same-owner", "--xattrs", "--xattrs-include=*"];
    tar(&extract, &dir("expected"), &file);

    let config = OverlayConfig::new(dir("layers"), dir("staging"), dir("active"));
    let store = OverlaySnapshotter::open(config).unwrap();
    let bytes = std::fs::read(&file).unwrap();
    let id = DiffId::of(&bytes);
    let ingest = store.begin_layer(&id).unwrap();
    let layer = ingest.unpack(bytes.as_slice(), Compression::None).unwrap();
    let layer = store.commit(&[id], vec![layer]).unwrap()[0];
    assert_eq!(store.verify(&layer).unwrap(), []);
    let found = state(&dir("layers").join(layer.hex()).join("fs"), pax);
    let expected = state(&dir("expected"), pax);
    for path in expected.keys().chain(found.keys()) {
        assert_eq!(found.get(path), expected.get(path), "{name}: {path:?}");
    }
    // The names in the root, one for each kind of file, are a guard against comparing nothing.
    assert!(found.len() >= 15, "{name}: {} paths", found.len());
    let info = store.layer(&layer).unwrap().unwrap();
    println!(
        "gnu-tar: {name}: {} paths equal, {} inodes",
        expected.len(),
        info.inodes
    );
}

#[test]
fn every_dialect_is_unpacked_as_gnu_tar_does() {
    if !rustix::process::geteuid().is_root() {
        println!("gnu-tar: skipped, owners and devices need root");
        return;
    }
    let attributes = ["--format=posix", "--xattrs", "--xattrs-include=*"];
    let sparse = |version| [&attributes[..], &["--sparse", version]].concat();
    compare("v7", &["--format=v7"], Dialect::V7);
    compare("ustar", &["--format=ustar"], Dialect::Ustar);
    compare("old gnu", &["--format=oldgnu", "--sparse"], Dialect::Gnu);
    compare("gnu", &["--format=gnu", "--sparse"], Dialect::Gnu);
    compare("posix", &attributes, Dialect::Posix);
    compare(
        "posix, sparse 0.0",
        &sparse("--sparse-version=0.0"),
        Dialect::Posix,
    );
    compare(
        "posix, sparse 0.1",
        &sparse("--sparse-version=0.1"),
        Dialect::Posix,
    );
    compare(
        "posix, sparse 1.0",
        &sparse("--sparse-version=1.0"),
        Dialect::Posix,
    );
}
