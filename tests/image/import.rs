//! Archives.

use std::path::Path;
use std::process::Command;

use longshore::image::{ErrorKind, ImageError, Imported};
use longshore_kit::image::recipes::{LAYERS_EXPECTED, Packing};
use longshore_kit::image::{Image, Recipe};

use super::{Store, in_node, layer_of, make_layout, text};

async fn import(store: &Store, path: &Path, names: &[&str]) -> Result<Vec<Imported>, ImageError> {
    let names = names.iter().map(|n| (*n).to_owned()).collect();
    store.images.import(path.to_owned(), names).await
}

#[test]
fn every_form_of_archive_gives_the_same_image() {
    in_node(
        "every_form_of_archive_gives_the_same_image",
        &[Recipe::Layers(Packing::Gzip)],
        |node| async move {
            let image = Image::ensure(Recipe::Layers(Packing::Gzip)).unwrap();
            let archive = image.layout_archive().unwrap();
            let zipped = node.dir().join("image.tar.gz");
            let gzip = Command::new("gzip")
                .arg("-c")
                .arg(&archive)
                .output()
                .unwrap();
            std::fs::write(&zipped, gzip.stdout).unwrap();
            let docker = image.docker_archive().unwrap();
            for (n, path) in [image.layout(), &archive, &zipped, &docker]
                .into_iter()
                .enumerate()
            {
                let store = Store::new(&node, &format!("store-{n}"));
                let done = import(&store, path, &["r.example/app:1", "app"])
                    .await
                    .unwrap();
                let names = ["r.example/app:1", "docker.io/library/app:latest"];
                assert_eq!(done.len(), 1);
                assert_eq!(done[0].names, names, "{}", path.display());
                let listed = store.images.get("app").unwrap().unwrap();
                assert_eq!(listed.id, done[0].id);
                if path != docker {
                    assert_eq!(done[0].id.as_str(), image.id().unwrap());
                }
                for (file, content) in LAYERS_EXPECTED {
                    let found = store.file("app", file);
                    assert_eq!(
                        found.as_deref(),
                        Some(content.as_bytes()),
                        "{}: {file}",
                        path.display()
                    );
                }
                assert!(super::entries(&store.dir.join("staging")).is_empty());
            }
        },
    );
}

#[test]
fn names_come_from_the_archive() {
    in_node(
        "names_come_from_the_archive",
        &[Recipe::Pause],
        |node| async move {
            let image = Image::ensure(Recipe::Pause).unwrap();
            let store = Store::new(&node, "store");
            let docker = import(&store, &image.docker_archive().unwrap(), &[])
                .await
                .unwrap();
            assert_eq!(docker[0].names, ["docker.io/library/pause:latest"]);
            let bare = import(&store, image.layout(), &[]).await.unwrap();
            assert!(bare[0].names.is_empty(), "`latest` alone names nothing");
            assert!(store.images.get(bare[0].id.as_str()).unwrap().is_some());

            // Several images in one layout, one of them under two names.
            let dir = node.dir().join("several");
            make_layout(&dir, &[layer_of("a", "a")]);
            let index = std::fs::read_to_string(dir.join("index.json")).unwrap();
            let one: serde_json::Value = serde_json::from_str(&index).unwrap();
            make_layout(&dir, &[layer_of("b", "b")]);
            let index = std::fs::read_to_string(dir.join("index.json")).unwrap();
            let mut both: serde_json::Value = serde_json::from_str(&index).unwrap();
            let named = |entry: &serde_json::Value, key: &str, name: &str| {
                let mut entry = entry["manifests"][0].clone();
                entry["annotations"] = serde_json::json!({ key: name });
                entry
            };
            both["manifests"] = serde_json::json!([
                named(&one, "io.containerd.image.name", "r.example/a:1"),
                named(&both, "org.opencontainers.image.ref.name", "r.example/b:1"),
                named(&one, "org.opencontainers.image.ref.name", "r.example/a:2"),
            ]);
            std::fs::write(dir.join("index.json"), both.to_string()).unwrap();
            let done = import(&store, &dir, &[]).await.unwrap();
            let names: Vec<_> = done.iter().map(|i| i.names.clone()).collect();
            assert_eq!(
                names,
                [
                    vec!["r.example/a:1", "r.example/a:2"],
                    vec!["r.example/b:1"]
                ]
            );
            let error = import(&store, &dir, &["x"]).await.unwrap_err();
            assert!(text(&error).contains("2 images"), "{}", text(&error));
        },
    );
}

#[test]
fn bad_archives_are_told_and_leave_nothing() {
    in_node(
        "bad_archives_are_told_and_leave_nothing",
        &[],
        |node| async move {
            let store = Store::new(&node, "store");
            let dir = node.dir().join("layout");
            make_layout(&dir, &[layer_of("a", "a"), layer_of("b", "b")]);
            let blob = longshore_kit::image::layout::sha256(&layer_of("b", "b").blob);
            let blob = dir.join("blobs/sha256").join(&blob[7..]);
            let good = std::fs::read(&blob).unwrap();
            let mut bad = good.clone();
            let middle = bad.len() / 2;
            bad[middle] ^= 1;
            std::fs::write(&blob, &bad).unwrap();
            let error = import(&store, &dir, &[]).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Content, "{}", text(&error));
            store.assert_empty().await;
            std::fs::remove_file(&blob).unwrap();
            let error = import(&store, &dir, &[]).await.unwrap_err();
            assert!(
                text(&error).contains(blob.to_str().unwrap()),
                "{}",
                text(&error)
            );
            store.assert_empty().await;

            let text_file = node.dir().join("text");
            std::fs::write(&text_file, "this is not an archive\n".repeat(100)).unwrap();
            let empty = node.dir().join("empty.tar");
            std::fs::write(&empty, [0; 1024]).unwrap();
            let missing = node.dir().join("missing");
            for path in [&text_file, &empty, &missing] {
                let error = import(&store, path, &[]).await.unwrap_err();
                assert!(
                    text(&error).contains(path.to_str().unwrap()),
                    "{}",
                    text(&error)
                );
                store.assert_empty().await;
            }
            std::fs::write(&blob, &good).unwrap();
            for name in ["Bad Name", &format!("a@sha256:{}", "0".repeat(64))] {
                let error = import(&store, &dir, &[name]).await.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Invalid, "{name}");
            }
            import(&store, &dir, &["good"]).await.unwrap();
        },
    );
}
