//! Layers, snapshots and views.

use super::bench::{Bench, Failure, Mounted, dir, ensure, equal, file, of};
use super::{Head, Tarball};
use crate::unpack::UnpackError;
use crate::{Compression, DiffId, PrepareOptions, SnapshotError};

fn base() -> Vec<u8> {
    Tarball::new()
        .dir("d/", 0o755)
        .file("d/one", b"1")
        .file("d/two", b"2")
        .file("f", b"f")
        .end()
}

pub(super) fn committed_layers_are_shared(bench: &Bench<'_>) -> Result<(), Failure> {
    let (tar, id) = (base(), DiffId::of(&base()));
    let unpack = || {
        bench
            .store
            .begin_layer(&id)?
            .unpack(tar.as_slice(), Compression::None)
    };
    let (mine, theirs) = (unpack()?, unpack()?);
    let first = bench.store.commit(&[id], vec![mine])?;
    equal(
        "a second commit",
        &bench.store.commit(&[id], vec![theirs])?,
        &first,
    )?;
    equal(
        "a commit of what is there",
        &bench.store.commit(&[id], vec![])?,
        &first,
    )?;
    equal("the layers", &bench.store.layers()?, &first)?;
    let layer = first.first().ok_or("no layer")?;
    let info = bench.store.layer(layer)?.ok_or("no information")?;
    equal("diffID", &info.diff_id, &id)?;
    equal(
        "bytes and inodes",
        &(info.content_bytes, info.inodes),
        &(3, 4),
    )?;
    equal("damage", &bench.store.verify(layer)?, &vec![])
}

pub(super) fn missing_layers_are_named_once(bench: &Bench<'_>) -> Result<(), Failure> {
    let other = DiffId::of(b"other");
    let id = DiffId::of(&base());
    equal(
        "missing",
        &bench.store.missing(&[other, id, other])?,
        &vec![other, id],
    )?;
    bench.image(&[base()])?;
    equal(
        "missing",
        &bench.store.missing(&[other, id, other])?,
        &vec![other],
    )?;
    let commit = bench.store.commit(&[id, other], vec![]);
    ensure(
        "a layer that is not there",
        matches!(commit, Err(SnapshotError::NoContent(which)) if which == other),
    )
}

pub(super) fn dropped_layers_leave_nothing(bench: &Bench<'_>) -> Result<(), Failure> {
    let id = DiffId::of(&base());
    drop(bench.store.begin_layer(&id)?);
    drop(
        bench
            .store
            .begin_layer(&id)?
            .unpack(base().as_slice(), Compression::Detect)?,
    );
    let unnamed = bench
        .store
        .begin_layer(&id)?
        .unpack(base().as_slice(), Compression::Detect)?;
    equal(
        "an image without layers",
        &bench.store.commit(&[], vec![unnamed])?,
        &vec![],
    )?;
    equal("layers", &bench.store.layers()?, &vec![])
}

pub(super) fn wrong_digests_are_refused(bench: &Bench<'_>) -> Result<(), Failure> {
    let id = DiffId::of(b"something else");
    match bench
        .store
        .begin_layer(&id)?
        .unpack(base().as_slice(), Compression::Detect)
    {
        Err(SnapshotError::Unpack {
            source: UnpackError::Digest { expected, actual },
            ..
        }) => equal("digests", &(expected, actual), &(id, DiffId::of(&base()))),
        other => Err(format!("{other:?}").into()),
    }
}

pub(super) fn removed_layers_are_missing(bench: &Bench<'_>) -> Result<(), Failure> {
    let layers = bench.image(&[base()])?;
    let layer = layers.first().ok_or("no layer")?;
    bench.store.remove_layer(layer)?;
    bench.store.remove_layer(layer)?;
    equal("information", &bench.store.layer(layer)?, &None)?;
    let id = DiffId::of(&base());
    equal("missing", &bench.store.missing(&[id])?, &vec![id])?;
    let view = bench.store.view(&layers);
    ensure(
        "a view of it",
        matches!(view, Err(SnapshotError::NoLayer(_))),
    )?;
    equal("pulled again", &bench.image(&[base()])?, &layers)
}

fn hiding() -> [Vec<u8>; 2] {
    let lower = Tarball::new()
        .dir("gone/", 0o755)
        .file("gone/file", b"1")
        .dir("opaque/", 0o755)
        .file("opaque/lower", b"1")
        .dir("anew/", 0o755)
        .file("anew/lower", b"1")
        .dir("merged/", 0o755)
        .file("merged/lower", b"1")
        .file("merged/gone", b"1")
        .dir("to-file/", 0o755)
        .file("to-file/x", b"1")
        .file("to-dir", b"1")
        .symlink("link", "merged")
        .end();
    let upper = Tarball::new()
        .file(".wh.gone", b"")
        // The marker comes after one sibling and before the other.
        .dir("opaque/", 0o700)
        .file("opaque/before", b"2")
        .file("opaque/.wh..wh..opq", b"")
        .file("opaque/after", b"2")
        .dir("anew/", 0o755)
        .file("anew/upper", b"2")
        .file(".wh.anew", b"")
        .head(&Head {
            uid: 7,
            gid: 8,
            mode: 0o1770,
            ..Head::new("merged/", b'5')
        })
        .file("merged/.wh.gone", b"")
        .file("merged/upper", b"2")
        .file("to-file", b"2")
        .dir("to-dir/", 0o755)
        .file("to-dir/x", b"2")
        .end();
    [lower, upper]
}

pub(super) fn upper_layers_hide_lower_ones(bench: &Bench<'_>) -> Result<(), Failure> {
    let layers = bench.image(&hiding())?;
    let expected = of(&[
        ("", dir(0o755, "0:0")),
        ("opaque", dir(0o700, "0:0")),
        ("opaque/before", file("2")),
        ("opaque/after", file("2")),
        ("anew", dir(0o755, "0:0")),
        ("anew/upper", file("2")),
        ("merged", dir(0o1770, "7:8")),
        ("merged/lower", file("1")),
        ("merged/upper", file("2")),
        ("to-file", file("2")),
        ("to-dir", dir(0o755, "0:0")),
        ("to-dir/x", file("2")),
        ("link", "120777 0:0 merged".to_owned()),
    ]);
    equal("the merged tree", &bench.tree(&layers)?, &expected)
}

pub(super) fn files_are_read_as_mounted(bench: &Bench<'_>) -> Result<(), Failure> {
    let layers = bench.image(&hiding())?;
    for (path, content) in [
        ("gone/file", None),
        ("opaque/lower", None),
        ("opaque/after", Some("2")),
        ("anew/lower", None),
        ("merged/lower", Some("1")),
        ("merged/gone", None),
        ("link/lower", Some("1")),
        ("link/../to-file", Some("2")),
        ("to-file/x", None),
        ("/to-dir/./x", Some("2")),
        ("nothing", None),
    ] {
        let read = bench.store.read_file(&layers, path, 10)?;
        equal(path, &read, &content.map(|text| text.as_bytes().to_vec()))?;
    }
    Ok(())
}

pub(super) fn odd_paths(bench: &Bench<'_>) -> Result<(), Failure> {
    let tar = Tarball::new()
        .dir("etc/", 0o755)
        .file("etc/big", b"0123456789")
        .symlink("etc/abs", "/etc/big")
        .symlink("etc/out", "../../../../etc/big")
        .symlink("etc/host", "/proc/self/root/etc/hostname")
        .symlink("etc/loop", "loop")
        .symlink("etc/dangling", "nowhere")
        .node("etc/fifo", b'6', (0, 0))
        .end();
    let layers = bench.image(&[tar])?;
    let read = |path: &str, limit| bench.store.read_file(&layers, path, limit);
    for path in ["etc/big", "etc/abs", "etc/out", "../../etc/big"] {
        equal(path, &read(path, 10)?, &Some(b"0123456789".to_vec()))?;
    }
    equal("a link to the host", &read("etc/host", 99)?, &None)?;
    equal("a dangling link", &read("etc/dangling", 99)?, &None)?;
    let large = read("etc/big", 9);
    ensure(
        "over the limit",
        matches!(large, Err(SnapshotError::TooLarge { size: 10, .. })),
    )?;
    let endless = read("etc/loop", 9);
    ensure(
        "an endless link",
        matches!(endless, Err(SnapshotError::TooManyLinks(_))),
    )?;
    for path in ["etc", "etc/fifo", "/", ""] {
        let odd = read(path, 9);
        ensure(path, matches!(odd, Err(SnapshotError::NotAFile(_))))?;
    }
    Ok(())
}

pub(super) fn snapshots_take_writes(bench: &Bench<'_>) -> Result<(), Failure> {
    let root = Head {
        mode: 0o711,
        uid: 5,
        gid: 6,
        ..Head::new("./", b'5')
    };
    let layers = bench.image(&[base(), Tarball::new().head(&root).end()])?;
    let (key, mounted) = bench.prepare("writer", &layers)?;
    let before = mounted.tree()?;
    equal(
        "the root",
        &before.get(std::path::Path::new("")),
        &Some(&dir(0o711, "5:6")),
    )?;
    std::fs::write(mounted.path("new"), vec![b'x'; 10_000])?;
    std::fs::write(mounted.path("d/one"), "changed")?;
    std::fs::remove_file(mounted.path("f"))?;
    let usage = bench.store.usage(&key)?;
    ensure("usage", usage.bytes >= 10_000 && usage.inodes >= 4)?;
    drop(mounted);
    for layer in &layers {
        equal("damage", &bench.store.verify(layer)?, &vec![])?;
    }
    bench.store.remove(&key)?;
    bench.store.remove(&key)?;
    equal("a removed snapshot", &bench.store.snapshot(&key)?, &None)?;
    let (_, mounted) = bench.prepare("another", &layers)?;
    equal("another snapshot", &mounted.tree()?, &before)
}

pub(super) fn snapshots_exist_once(bench: &Bench<'_>) -> Result<(), Failure> {
    let layers = bench.image(&[base()])?;
    let options = PrepareOptions {
        volatile: true,
        owner: Some((100_000, 200_000)),
    };
    let key = bench.key("once")?;
    equal("no snapshot", &bench.store.snapshot(&key)?, &None)?;
    let usage = bench.store.usage(&key);
    ensure(
        "usage of none",
        matches!(usage, Err(SnapshotError::NoSnapshot(_))),
    )?;
    let overlay = bench.store.prepare(&key, &layers, &options)?;
    let root = Mounted::new(&overlay)?.tree()?;
    equal(
        "the root",
        &root.get(std::path::Path::new("")),
        &Some(&dir(0o755, "100000:200000")),
    )?;
    let again = bench.store.prepare(&key, &layers, &options);
    ensure(
        "again",
        matches!(again, Err(SnapshotError::SnapshotExists(_))),
    )?;
    let info = bench.store.snapshot(&key)?.ok_or("no snapshot")?;
    equal("the key", &info.key, &key)?;
    bench.store.remove(&key).map_err(Failure::from)
}

pub(super) fn views_are_read_only(bench: &Bench<'_>) -> Result<(), Failure> {
    let layers = bench.image(&hiding())?;
    for count in 0..=layers.len() {
        let part = layers.get(..count).unwrap_or_default();
        let mounted = Mounted::new(&bench.store.view(part)?)?;
        let write = std::fs::write(mounted.path("new"), "");
        let kind = write.map_err(|error| error.kind());
        equal(
            "a write",
            &kind,
            &Err(std::io::ErrorKind::ReadOnlyFilesystem),
        )?;
    }
    let empty = bench.tree(&[])?;
    equal(
        "an image without layers",
        &empty,
        &of(&[("", dir(0o755, "0:0"))]),
    )
}

pub(super) fn many_layers(bench: &Bench<'_>) -> Result<(), Failure> {
    let tar = |number: u32| {
        Tarball::new()
            .file(format!("f{number}"), b"")
            .file("last", number.to_string().as_bytes())
            .end()
    };
    let tars: Vec<_> = (0..128).map(tar).collect();
    let layers = bench.image(&tars)?;
    let (_, mounted) = bench.prepare("many", &layers)?;
    let tree = mounted.tree()?;
    equal("files", &tree.len(), &130)?;
    let last = bench.store.read_file(&layers, "last", 9)?;
    equal("the topmost", &last, &Some(b"127".to_vec()))
}

pub(super) fn repeated_layers(bench: &Bench<'_>) -> Result<(), Failure> {
    let over = Tarball::new()
        .file("f", b"over")
        .file("d/.wh.one", b"")
        .end();
    let layers = bench.image(&[base(), over, base()])?;
    equal("their number", &layers.len(), &3)?;
    let (_, mounted) = bench.prepare("repeated", &layers)?;
    let tree = mounted.tree()?;
    let expected = of(&[
        ("", dir(0o755, "0:0")),
        ("d", dir(0o755, "0:0")),
        ("d/one", file("1")),
        ("d/two", file("2")),
        ("f", file("f")),
    ]);
    equal("the merged tree", &tree, &expected)
}
