//! What comes in: compression, broken streams, random bytes, bombs.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::io::{self, Cursor, Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use longshore_snapshotter::contract::{Head, Tarball, pax_record, put, seal};
use longshore_snapshotter::unpack::tar::{EntryKind, TarReader, parse_header, parse_pax};
use longshore_snapshotter::unpack::{Refusal, UnpackError};
use longshore_snapshotter::{
    Compression, DiffId, OverlayConfig, OverlaySnapshotter, SnapshotError, Snapshotter,
};
use proptest::prelude::*;

/// Layers here belong to root; answers whether to go on, and says why not.
fn root_or_skip(test: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("{test}: skipped, unpacking files of root needs root");
    }
    root
}

fn open(root: &Path) -> OverlaySnapshotter {
    let dir = |name: &str| root.join(name);
    OverlaySnapshotter::open(OverlayConfig::new(
        dir("layers"),
        dir("staging"),
        dir("active"),
    ))
    .unwrap()
}

fn unpack(tar: &[u8], blob: impl Read + Send, kind: Compression) -> Result<(), SnapshotError> {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let result = store
        .begin_layer(&DiffId::of(tar))
        .unwrap()
        .unpack(blob, kind);
    let result = result.and_then(|layer| store.commit(&[*layer.diff_id()], vec![layer]));
    let left = std::fs::read_dir(root.path().join("staging"))
        .unwrap()
        .count();
    assert_eq!(left, 0);
    result.map(|_| ())
}

fn refusal(tar: &[u8]) -> Option<Refusal> {
    match unpack(tar, tar, Compression::None) {
        Err(SnapshotError::Unpack {
            source: UnpackError::Refused { reason, .. },
            ..
        }) => Some(reason),
        Ok(()) => None,
        Err(other) => panic!("{other:?}"),
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::stream::encode_all(bytes, 1).unwrap()
}

fn some_tar() -> Vec<u8> {
    let content: Vec<u8> = (0..300_000_u32).map(|at| (at % 251) as u8).collect();
    Tarball::new()
        .dir("d/", 0o755)
        .file("d/f", &content)
        .file("g", b"x")
        .end()
}

#[test]
fn compressions() {
    if !root_or_skip("compressions") {
        return;
    }
    let tar = some_tar();
    let (front, back) = tar.split_at(100_000);
    let skippable = [
        &[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3],
        &zstd(&tar)[..],
    ]
    .concat();
    for (name, blob, kind) in [
        ("plain", tar.clone(), Compression::None),
        ("gzip", gzip(&tar), Compression::Gzip),
        (
            "gzip of two members",
            [gzip(front), gzip(back)].concat(),
            Compression::Gzip,
        ),
        ("zstd", zstd(&tar), Compression::Zstd),
        (
            "zstd of two frames",
            [zstd(front), zstd(back)].concat(),
            Compression::Zstd,
        ),
        ("zstd after a skippable frame", skippable, Compression::Zstd),
    ] {
        for kind in [kind, Compression::Detect] {
            unpack(&tar, blob.as_slice(), kind).unwrap_or_else(|error| panic!("{name}: {error:?}"));
        }
        let cut = &blob[..blob.len() / 2];
        for kind in [kind, Compression::Detect] {
            let error = unpack(&tar, cut, kind).unwrap_err();
            let SnapshotError::Unpack { source, .. } = error else {
                panic!("{name}: {error:?}")
            };
            let truncated = matches!(source, UnpackError::Read(..) | UnpackError::Tar { .. });
            assert!(truncated, "{name}: {source:?}");
        }
    }
    assert!(unpack(&tar, tar.as_slice(), Compression::Gzip).is_err());
    assert!(unpack(&tar, tar.as_slice(), Compression::Zstd).is_err());
    let garbage = [gzip(&tar), b"garbage".to_vec()].concat();
    assert!(unpack(&tar, garbage.as_slice(), Compression::Gzip).is_err());
}

/// Answers one byte at a time and fails at the end.
struct Failing<'a>(Cursor<&'a [u8]>);

impl Read for Failing<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = buffer.len().min(1);
        match self.0.read(&mut buffer[..room])? {
            0 => Err(io::ErrorKind::ConnectionReset.into()),
            count => Ok(count),
        }
    }
}

#[test]
fn a_reader_s_error_is_the_cause() {
    if !root_or_skip("a_reader_s_error_is_the_cause") {
        return;
    }
    let tar = Tarball::new().file("f", &[7; 2000]).end();
    for (blob, end) in [
        (tar.clone(), 700),
        (tar.clone(), 0),
        (gzip(&tar), 30),
        (zstd(&tar), 20),
    ] {
        let error = unpack(
            &tar,
            Failing(Cursor::new(&blob[..end])),
            Compression::Detect,
        );
        match error {
            Err(SnapshotError::Unpack {
                source: UnpackError::Read(_, source),
                ..
            }) => {
                assert_eq!(source.kind(), io::ErrorKind::ConnectionReset);
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn ends_of_archives() {
    if !root_or_skip("ends_of_archives") {
        return;
    }
    let entry = Tarball::new().file("f", b"content");
    let end = entry.clone().end();
    let bytes = &end[..end.len() - 1024];
    let pax = Tarball::new().pax(&[("path", b"x")]).end();
    for (name, tar, good) in [
        ("nothing at all", Vec::new(), true),
        ("no zeros", bytes.to_vec(), true),
        ("one block of zeros", [bytes, &[0; 512]].concat(), true),
        ("data after the end", [&end[..], &[9; 5000]].concat(), true),
        (
            "an entry after one block of zeros",
            [bytes, &[0; 512], bytes].concat(),
            false,
        ),
        ("half a block", [bytes, &[0; 100]].concat(), false),
        ("half the content", bytes[..520].to_vec(), false),
        ("a pax header for nothing", pax, false),
        ("random text", b"hello ".repeat(100), false),
    ] {
        assert_eq!(
            unpack(&tar, tar.as_slice(), Compression::None).is_ok(),
            good,
            "{name}"
        );
    }
}

/// All entries as text.
fn entries(tar: &[u8]) -> Result<Vec<String>, String> {
    let mut reader = TarReader::new(tar);
    let mut found = Vec::new();
    while let Some(entry) = reader.next_entry().map_err(|error| format!("{error:?}"))? {
        let name = String::from_utf8_lossy(&entry.name).into_owned();
        let (seconds, nanos) = entry.mtime;
        let mut line = format!("{name} {}:{} {seconds}.{nanos:09}", entry.uid, entry.gid);
        match entry.kind {
            EntryKind::File(size, parts) => {
                line += &format!(" {size} {parts:?} ");
                loop {
                    let chunk = reader.chunk().map_err(|error| format!("{error:?}"))?;
                    if chunk.is_empty() {
                        break;
                    }
                    line += &String::from_utf8_lossy(chunk);
                    let len = chunk.len();
                    reader.consume(len);
                }
            }
            other @ (EntryKind::HardLink(_)
            | EntryKind::Symlink(_)
            | EntryKind::CharDevice(..)
            | EntryKind::BlockDevice(..)
            | EntryKind::Directory
            | EntryKind::Fifo) => line += &format!(" {other:?}"),
        }
        found.push(line);
    }
    Ok(found)
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn dialects_byte_by_byte() {
    let file = |name: &str| Head {
        size: 1,
        mtime: 5,
        ..Head::new(name, b'0')
    };
    let raw = |change: &dyn Fn(&mut [u8; 512])| {
        let mut block = file("f").bytes();
        change(&mut block);
        seal(&mut block);
        Tarball::new().raw(&block).content(b"x").end()
    };
    let one = |tar: Tarball| tar.head(&file("f")).content(b"x").end();
    let base256 = |value: i64| {
        let mut field = if value < 0 { [0xff; 12] } else { [0; 12] };
        field[4..].copy_from_slice(&value.to_be_bytes());
        field[0] |= 0x80;
        field
    };
    let long = "n".repeat(300);
    for (what, tar, expected) in [
        ("plain", one(Tarball::new()), "f 0:0 5.000000000 1 None x"),
        (
            "prefix",
            raw(&|block| put(block, 345, b"a/b")),
            "a/b/f 0:0 5.000000000 1 None x",
        ),
        (
            "no prefix in GNU",
            raw(&|block| {
                put(block, 257, b"ustar  \0");
                put(block, 345, b"a/b");
            }),
            "f 0:0 5.000000000 1 None x",
        ),
        (
            "V7 with no magic",
            raw(&|block| put(block, 257, &[0; 8])),
            "f 0:0 5.000000000 1 None x",
        ),
        (
            "V7 directory",
            raw(&|block| {
                put(block, 0, b"d/\0");
                put(block, 124, b"00000000000");
                put(block, 156, &[0]);
            })[..512]
                .to_vec(),
            "d/ 0:0 5.000000000 Directory",
        ),
        (
            "time before 1970",
            raw(&|block| put(block, 136, &base256(-2))),
            "f 0:0 -2.000000000 1 None x",
        ),
        (
            "large id",
            raw(&|block| {
                put(block, 108, &3_000_000_000_u64.to_be_bytes());
                put(block, 108, &[0x80]);
            }),
            "f 3000000000:0 5.000000000 1 None x",
        ),
        (
            "long name",
            one(Tarball::new().extension(b'L', format!("{long}\0").as_bytes())),
            &format!("{long} 0:0 5.000000000 1 None x"),
        ),
        (
            "pax wins over a long name",
            one(Tarball::new()
                .extension(b'L', b"l\0")
                .pax(&[("path", b"p")])),
            "p 0:0 5.000000000 1 None x",
        ),
        (
            "global time and owner",
            one(Tarball::new().pax_of(b'g', &[("mtime", b"9.5"), ("uid", b"3"), ("path", b"no")])),
            "f 3:0 9.500000000 1 None x",
        ),
        (
            "own records before global ones",
            one(Tarball::new()
                .pax_of(b'g', &[("mtime", b"9")])
                .pax(&[("mtime", b"8")])),
            "f 0:0 8.000000000 1 None x",
        ),
        (
            "an empty record takes back",
            one(Tarball::new()
                .pax_of(b'g', &[("mtime", b"9")])
                .pax(&[("mtime", b"")])),
            "f 0:0 5.000000000 1 None x",
        ),
        (
            "the last record counts",
            one(Tarball::new().pax(&[("uid", b"1"), ("uid", b"2")])),
            "f 2:0 5.000000000 1 None x",
        ),
        (
            "pax size",
            Tarball::new()
                .pax(&[("size", b"2")])
                .head(&file("f"))
                .content(b"xy")
                .end(),
            "f 0:0 5.000000000 2 None xy",
        ),
        (
            "directory with a size",
            Tarball::new()
                .head(&Head {
                    size: 700,
                    mtime: 5,
                    ..Head::new("d", b'5')
                })
                .end(),
            "d 0:0 5.000000000 Directory",
        ),
        (
            "sparse 0.0",
            one(Tarball::new().pax(&[
                ("GNU.sparse.size", b"9"),
                ("GNU.sparse.offset", b"3"),
                ("GNU.sparse.numbytes", b"1"),
                ("GNU.sparse.name", b"s"),
            ])),
            "s 0:0 5.000000000 9 Some([(3, 1)]) x",
        ),
        (
            "sparse 0.1",
            one(Tarball::new().pax(&[("GNU.sparse.size", b"9"), ("GNU.sparse.map", b"3,1")])),
            "f 0:0 5.000000000 9 Some([(3, 1)]) x",
        ),
    ] {
        assert_eq!(entries(&tar), Ok(vec![expected.to_owned()]), "{what}");
    }
    for (what, tar) in [
        ("unknown type", raw(&|block| put(block, 156, b"Z"))),
        ("negative size", raw(&|block| put(block, 124, &base256(-1)))),
        (
            "size beyond 63 bits",
            raw(&|block| put(block, 124, &[0x80, 0, 0, 0, 0xff])),
        ),
        (
            "negative pax id",
            one(Tarball::new().pax(&[("uid", b"-1")])),
        ),
        (
            "odd pax record",
            one(Tarball::new().extension(b'x', b"99 path=x\n")),
        ),
        (
            "odd sparse pairs",
            one(Tarball::new().pax(&[("GNU.sparse.size", b"9"), ("GNU.sparse.numbytes", b"1")])),
        ),
        (
            "sparse map that is too short",
            one(Tarball::new().pax(&[("GNU.sparse.size", b"9"), ("GNU.sparse.map", b"")])),
        ),
    ] {
        assert!(entries(&tar).is_err(), "{what}: {:?}", entries(&tar));
    }
}

/// Maps of one block, of exactly whole blocks, and of many, are all found to their end.
#[test]
fn sparse_maps_of_any_length() {
    for parts in [0_usize, 1, 50, 84, 85, 86, 170, 1000] {
        let mut map = format!("{parts}\n");
        for part in 0..parts {
            map += &format!("{part:02}\n01\n");
        }
        // Leading zeros are digits too: fill up to whole blocks exactly.
        let fill = map.len().next_multiple_of(512) - map.len();
        for map in [map.clone(), format!("{}{map}", "0".repeat(fill))] {
            let mut content = map.clone().into_bytes();
            content.resize(content.len().next_multiple_of(512), 0);
            content.extend(vec![b'x'; parts]);
            let records: [(&str, &[u8]); 3] = [
                ("GNU.sparse.major", b"1"),
                ("GNU.sparse.minor", b"0"),
                ("GNU.sparse.realsize", b"5000"),
            ];
            let tar = Tarball::new().pax(&records).file("f", &content).end();
            let found = entries(&tar);
            let found = found.as_ref().map(|lines| lines[0].as_str());
            let ending = format!(" {}", "x".repeat(parts));
            let right = fill > 20 && map.starts_with(&"0".repeat(20));
            match found {
                Ok(line) => assert!(line.ends_with(&ending), "{parts}: {line}"),
                // The number of parts is no number of more than 20 digits.
                Err(error) => assert!(right, "{parts}: {error}"),
            }
        }
    }
}

#[test]
fn duplicates_and_replaced_kinds() {
    if !root_or_skip("duplicates_and_replaced_kinds") {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let tar = Tarball::new()
        .file("twice", b"first, and longer")
        .file("twice", b"second")
        .dir("kept/", 0o700)
        .file("kept/f", b"x")
        .dir("kept/", 0o750)
        .dir("to-file/sub/", 0o755)
        .file("to-file/sub/f", b"x")
        .file("to-file", b"file")
        .file("to-dir", b"x")
        .file("to-dir/f", b"refused without the next")
        .end();
    assert_eq!(refusal(&tar), Some(Refusal::NotADirectory));
    let tar = Tarball::new()
        .raw(&tar[..tar.len() - 2048])
        .dir("to-dir/", 0o755)
        .file("to-dir/f", b"in it")
        .symlink("link", "kept")
        .file("link/through", b"x")
        .hardlink("again", "twice")
        .hardlink("again", "twice")
        .hardlink("twice", "twice")
        .end();
    let id = DiffId::of(&tar);
    let ingest = store.begin_layer(&id).unwrap();
    let layer = ingest.unpack(tar.as_slice(), Compression::Detect).unwrap();
    let ids = store.commit(&[id], vec![layer]).unwrap();
    for (path, content) in [
        ("twice", "second"),
        ("again", "second"),
        ("kept/f", "x"),
        ("kept/through", "x"),
        ("to-file", "file"),
        ("to-dir/f", "in it"),
    ] {
        let read = store.read_file(&ids, path, 99).unwrap().unwrap();
        assert_eq!(String::from_utf8(read).unwrap(), content, "{path}");
    }
    use std::os::unix::fs::MetadataExt;
    let fs = root.path().join("layers").join(ids[0].hex()).join("fs");
    assert_eq!(
        std::fs::metadata(fs.join("kept")).unwrap().mode() & 0o7777,
        0o750
    );
    assert_eq!(std::fs::metadata(fs.join("again")).unwrap().nlink(), 2);
    assert_eq!(store.verify(&ids[0]).unwrap(), []);
    let info = store.layer(&ids[0]).unwrap().unwrap();
    // twice and again, kept with two files, to-file, to-dir with one, link.
    assert_eq!((info.inodes, info.content_bytes), (8, 6 + 1 + 1 + 4 + 5));
}

#[test]
fn the_limit_on_content_holds() {
    if !root_or_skip("the_limit_on_content_holds") {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let mut config = OverlayConfig::new(
        root.path().join("layers"),
        root.path().join("staging"),
        root.path().join("active"),
    );
    config.max_layer_bytes = 1000;
    let store = OverlaySnapshotter::open(config).unwrap();
    for (size, good) in [(500, true), (501, false)] {
        let tar = Tarball::new()
            .file("a", &[1; 500])
            .file("b", &vec![1; size])
            .end();
        let result = store
            .begin_layer(&DiffId::of(&tar))
            .unwrap()
            .unpack(&tar[..], Compression::None);
        assert_eq!(result.is_ok(), good);
    }
}

/// Inputs whose cost per byte would grow with the size, if anything were more than linear. Each
/// is unpacked at two sizes; the larger may take 4 times its share and then some for noise.
#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn cost_grows_with_the_size() {
    if !root_or_skip("cost_grows_with_the_size") {
        return;
    }
    let links = |count: usize| {
        // 40 links of 100 components each, and short names that go through all of them.
        let mut tar = Tarball::new().dir("d/", 0o755);
        for n in 0..38 {
            let target = format!("{}l{}", "d/../".repeat(18), n + 1);
            tar = tar.symlink(format!("l{n}"), target);
        }
        tar = tar.symlink("l38", "d");
        (0..count)
            .fold(tar, |tar, n| {
                tar.file(format!("l0/./{}{n}", "./".repeat(n % 40)), b"")
            })
            .end()
    };
    let globals = |count: usize| {
        let records: Vec<u8> = (0..1000)
            .flat_map(|n| pax_record(&format!("SCHILY.xattr.user.{n}"), b"v"))
            .collect();
        let tar = Tarball::new().extension(b'g', &records);
        (0..count)
            .fold(tar, |tar, n| tar.file(format!("f{n}"), b""))
            .end()
    };
    let replaced = |count: usize| {
        (0..count / 2)
            .fold(Tarball::new(), |tar, _| {
                tar.file("d/a/b", b"").file("d", b"").dir("d/", 0o755)
            })
            .end()
    };
    let nested_opaque = |count: usize| {
        let name = |n: usize| "d/".repeat(n % 100 + 1);
        (0..count)
            .fold(Tarball::new(), |tar, n| {
                tar.pax(&[(
                    "path",
                    [name(n).as_bytes(), b".wh..wh..opq"].concat().as_slice(),
                )])
                .file("x", b"")
            })
            .end()
    };
    let same = |count: usize| {
        (0..count)
            .fold(Tarball::new(), |tar, _| tar.file("f", b""))
            .end()
    };
    let time = |tar: &[u8]| {
        let start = Instant::now();
        // Refused is as good as unpacked: what counts is how long it takes.
        drop(unpack(tar, tar, Compression::None));
        start.elapsed()
    };
    type Build<'a> = &'a dyn Fn(usize) -> Vec<u8>;
    let bombs: [(&str, Build<'_>); 5] = [
        ("links", &links),
        ("globals", &globals),
        ("replaced", &replaced),
        ("nested opaque", &nested_opaque),
        ("the same name", &same),
    ];
    for (name, build) in bombs {
        let (small, large) = (time(&build(300)), time(&build(2400)));
        println!("linear: {name}: 300 in {small:?}, 2400 in {large:?}");
        assert!(
            large < small * 32 + Duration::from_secs(2),
            "{name}: {small:?}, {large:?}"
        );
    }
}

#[test]
fn many_threads_commit_the_same_layers() {
    if !root_or_skip("many_threads_commit_the_same_layers") {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let tars: Vec<_> = (0..4)
        .map(|n| Tarball::new().file(format!("f{n}"), b"x").end())
        .collect();
    let image: Vec<_> = tars.iter().map(|tar| DiffId::of(tar)).collect();
    let expected: Vec<_> = std::thread::scope(|scope| {
        let run = || {
            let unpack = |tar: &Vec<u8>| {
                let ingest = store.begin_layer(&DiffId::of(tar)).unwrap();
                ingest.unpack(tar.as_slice(), Compression::Detect).unwrap()
            };
            store
                .commit(&image, tars.iter().map(unpack).collect())
                .unwrap()
        };
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(run)).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    assert!(expected.iter().all(|ids| *ids == expected[0]));
    assert_eq!(store.layers().unwrap().len(), 4);
    assert_eq!(
        std::fs::read_dir(root.path().join("staging"))
            .unwrap()
            .count(),
        0
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    /// Any header is parsed or refused.
    #[test]
    fn any_header(bytes in proptest::collection::vec(any::<u8>(), 512)) {
        let mut block: [u8; 512] = bytes.try_into().unwrap();
        drop(parse_header(&block));
        seal(&mut block);
        drop(parse_header(&block));
    }

    #[test]
    fn any_pax(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        drop(parse_pax(&bytes));
    }

    /// Records that were written are read back.
    #[test]
    fn pax_round_trip(records in proptest::collection::vec(("[a-zA-Z.]{1,30}", proptest::collection::vec(any::<u8>(), 0..120)), 0..8)) {
        let bytes: Vec<u8> = records.iter().flat_map(|(key, value)| pax_record(key, value)).collect();
        let expected: Vec<_> = records.into_iter().map(|(key, value)| (key.into_bytes(), value)).collect();
        prop_assert_eq!(parse_pax(&bytes), Ok(expected));
    }

    /// A tar with changed bytes, its checksums made right again, is unpacked or refused, and
    /// nothing panics.
    #[test]
    fn changed_tars(changes in proptest::collection::vec((0_usize..7000, any::<u8>()), 1..12)) {
        let mut tar = Tarball::new()
            .dir("d/", 0o755)
            .pax(&[("mtime", b"1.5"), ("SCHILY.xattr.user.a", b"b"), ("path", b"d/p")])
            .file("f", b"content")
            .symlink("d/l", "../f")
            .hardlink("h", "f")
            .pax(&[("GNU.sparse.size", b"9"), ("GNU.sparse.map", b"3,1")])
            .file("s", b"x")
            .file("d/.wh.gone", b"")
            .end();
        for (at, byte) in changes {
            let len = tar.len();
            tar[at % len] = byte;
        }
        let blocks = tar.len() / 512;
        for block in 0..blocks {
            let header: &mut [u8; 512] = (&mut tar[block * 512..][..512]).try_into().unwrap();
            if header[257..262] == *b"ustar" {
                seal(header);
            }
        }
        // Without root it is refused sooner, and may not panic either.
        drop(unpack(&tar, tar.as_slice(), Compression::Detect));
    }
}
