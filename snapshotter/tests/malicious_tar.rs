//! No tar changes anything outside of its layer.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use longshore_snapshotter::contract::corpus::{self, Outcome};
use longshore_snapshotter::{
    Compression, DiffId, LayerId, OverlayConfig, OverlaySnapshotter, Snapshotter,
};

/// Everything that can be seen of a tree. The change time tells of changes that were undone.
fn state(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut left = vec![root.to_owned()];
    while let Some(path) = left.pop() {
        let meta = path.symlink_metadata().unwrap();
        let mut list = [0_u8; 4096];
        let len = rustix::fs::llistxattr(&path, &mut list[..]).unwrap();
        let content = if meta.is_file() {
            std::fs::read(&path).unwrap()
        } else {
            Vec::new()
        };
        let numbers = [meta.mode(), meta.uid(), meta.gid()];
        let times = [
            meta.mtime(),
            meta.mtime_nsec(),
            meta.ctime(),
            meta.ctime_nsec(),
        ];
        let all = (
            numbers,
            times,
            meta.nlink(),
            meta.ino(),
            list[..len].to_vec(),
            content,
        );
        if meta.is_dir() {
            left.extend(
                std::fs::read_dir(&path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
        }
        found.insert(path, format!("{all:?}"));
    }
    found
}

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
#[expect(
    clippy::too_many_lines,
    reason = "one case after the other on one store"
)]
fn nothing_leaves_its_layer() {
    if !rustix::process::geteuid().is_root() {
        println!("malicious-tar: skipped, owners and devices need root");
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let (canary, store_dir) = (root.path().join("canary"), root.path().join("store"));
    std::fs::create_dir_all(canary.join("dir")).unwrap();
    std::fs::write(canary.join("file"), "canary").unwrap();
    std::fs::write(canary.join("dir/file"), "canary").unwrap();
    std::fs::create_dir(&store_dir).unwrap();
    let dir = |name: &str| store_dir.join(name);
    let config = OverlayConfig::new(dir("layers"), dir("staging"), dir("active"));
    let store = OverlaySnapshotter::open(config).unwrap();
    let base = corpus::base(&canary);
    let base_id = DiffId::of(&base);
    let layer = store
        .begin_layer(&base_id)
        .unwrap()
        .unpack(&base[..], Compression::Detect)
        .unwrap();
    let base_layer = store.commit(&[base_id], vec![layer]).unwrap()[0];
    let kept = [
        canary.clone(),
        dir("layers").join(base_layer.hex()),
        dir("layers/.empty"),
    ];
    let before: Vec<_> = kept.iter().map(|path| state(path)).collect();
    let around = (names(root.path()), names(&store_dir), names(Path::new("/")));

    let cases = corpus::malicious(&canary);
    let mut escapes = Vec::new();
    for case in &cases {
        let id = DiffId::of(&case.tar);
        let result = store
            .begin_layer(&id)
            .unwrap()
            .unpack(&case.tar[..], Compression::Detect)
            .and_then(|layer| store.commit(&[base_id, id], vec![layer]));
        let after: Vec<_> = kept.iter().map(|path| state(path)).collect();
        if after != before
            || (names(root.path()), names(&store_dir), names(Path::new("/"))) != around
        {
            escapes.push(case.name);
        }
        assert_eq!(escapes, Vec::<&str>::new());
        assert_eq!(
            names(&dir("staging")),
            Vec::<String>::new(),
            "{}: left behind",
            case.name
        );
        let outcome = if result.is_ok() {
            Outcome::Contained
        } else {
            Outcome::Refused
        };
        assert_eq!(outcome, case.outcome, "{}: {result:?}", case.name);
        let expected: Vec<LayerId> = store.layers().unwrap();
        if let Ok(ids) = result {
            assert_eq!(store.verify(&ids[1]).unwrap(), [], "{}", case.name);
            store.remove_layer(&ids[1]).unwrap();
        } else {
            assert_eq!(expected, [base_layer], "{}: a half-made layer", case.name);
        }
    }
    println!(
        "malicious-tar: {} cases, {} escapes",
        cases.len(),
        escapes.len()
    );
    assert!(cases.len() >= 20);
}
