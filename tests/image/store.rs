//! What is kept, found again, shared and given back.

use std::sync::Arc;
use std::sync::Mutex;

use longshore_kit::image::recipes::Packing;
use longshore_kit::image::{Image, Recipe};
use longshore_kit::{Node, ScriptedRegistry};
use longshore_snapshotter::{LayerId, Snapshotter};

use super::{Store, entries, in_node, layer_of, make_layout};

#[test]
fn a_restart_keeps_images() {
    in_node(
        "a_restart_keeps_images",
        &[Recipe::Pause, Recipe::Layers(Packing::Gzip)],
        |node| async move {
            let registry = ScriptedRegistry::start(&node).unwrap();
            let store = Store::new(&node, "store");
            for (recipe, tag) in [(Recipe::Pause, "1"), (Recipe::Layers(Packing::Gzip), "2")] {
                let image = Image::ensure(recipe).unwrap();
                store
                    .pull(&registry.serve(&image, recipe.name(), tag).unwrap())
                    .await
                    .unwrap();
            }
            let show = |store: &Store| {
                let all = store.images.list();
                all.iter()
                    .map(|image| format!("{image:?}"))
                    .collect::<Vec<_>>()
            };
            let before = show(&store);
            let store = store.restart();
            store.images.gc().await;
            assert_eq!(show(&store), before);
            assert_eq!(before.len(), 2);
        },
    );
}

#[test]
fn the_layers_of_a_newer_daemons_image_stay() {
    in_node(
        "the_layers_of_a_newer_daemons_image_stay",
        &[],
        |node| async move {
            let registry = ScriptedRegistry::start(&node).unwrap();
            let (store, _) = shared(&node, &registry).await;
            let before = store.layers();
            assert_eq!(before.len(), 3);
            for image in store.images.list() {
                let record = store.dir.join("images").join(image.id.hex());
                let record = record.join("record.json");
                let text = std::fs::read_to_string(&record).unwrap();
                let newer = text.replacen("\"version\":", "\"version\":9", 1);
                std::fs::write(&record, newer).unwrap();
            }
            let store = store.restart();
            store.images.gc().await;
            assert!(store.images.list().is_empty());
            assert_eq!(store.layers(), before);
        },
    );
}

/// A store with the images `shared:a` (layers base, a) and `shared:b` (base, b).
async fn shared(node: &Node, registry: &ScriptedRegistry) -> (Store, [String; 2]) {
    let base = layer_of("base", "base");
    let names = ["a", "b"].map(|tag| {
        let dir = node.dir().join(format!("layout-{tag}"));
        make_layout(&dir, &[base.clone(), layer_of(tag, tag)]);
        registry
            .serve_layout(&dir, &format!("shared-{tag}"), tag)
            .unwrap()
    });
    let store = Store::new(node, "store");
    for name in &names {
        store.pull(name).await.unwrap();
    }
    (store, names)
}

#[test]
fn damage_is_reported_as_absence_and_the_next_pull_repairs_it() {
    in_node(
        "damage_is_reported_as_absence_and_the_next_pull_repairs_it",
        &[],
        |node| async move {
            let registry = ScriptedRegistry::start(&node).unwrap();
            let (store, [a, b]) = shared(&node, &registry).await;
            let top = *store
                .images
                .get(&a)
                .unwrap()
                .unwrap()
                .layers
                .last()
                .unwrap();
            let id = store.images.get(&b).unwrap().unwrap().id.clone();
            store.snapshotter.remove_layer(&top).unwrap();
            let record = store.dir.join("images").join(id.hex()).join("record.json");
            std::fs::write(&record, b"{\"kind\":\"ima").unwrap();

            let store = store.restart();
            store.images.gc().await;
            assert!(store.images.list().is_empty());
            assert!(store.images.get(&a).unwrap().is_none());
            assert_eq!(entries(&store.dir.join("images/.quarantine")).len(), 1);
            assert_eq!(
                store.layers().len(),
                1,
                "of a, the layer that is left; of b, none"
            );
            let before = registry.requests().len();
            store.pull(&a).await.unwrap();
            let blobs = registry.requests();
            let blobs = blobs[before..]
                .iter()
                .filter(|r| r.path.contains("/blobs/"));
            assert_eq!(blobs.count(), 2, "the configuration and the missing layer");
            assert_eq!(store.file(&a, "a").unwrap(), b"a");
            assert_eq!(store.file(&a, "base").unwrap(), b"base");
            store.pull(&b).await.unwrap();
            assert_eq!(store.images.list().len(), 2);
        },
    );
}

#[test]
fn removal_gives_back_what_nothing_else_names() {
    in_node(
        "removal_gives_back_what_nothing_else_names",
        &[],
        |node| async move {
            let registry = ScriptedRegistry::start(&node).unwrap();
            let (store, [a, b]) = shared(&node, &registry).await;
            let full = store.images.fs_info().await.unwrap().remove(0);
            assert!(full.mountpoint.is_dir() && full.at > 0 && full.inodes >= 3);
            assert_eq!(store.layers().len(), 3);
            store.images.remove(&a).await.unwrap();
            assert_eq!(store.layers().len(), 2);
            assert_eq!(store.file(&b, "base").unwrap(), b"base");
            let less = store.images.fs_info().await.unwrap().remove(0);
            assert!(less.bytes < full.bytes && less.inodes < full.inodes);
            store.images.remove(&a).await.unwrap();
            store.images.remove("never-there").await.unwrap();
            let id = store.images.list()[0].id.to_string();
            store.images.remove(&id[..19]).await.unwrap();
            store.assert_empty().await;
            let none = store.images.fs_info().await.unwrap().remove(0);
            assert_eq!((none.bytes, none.inodes), (0, 0));
            store.restart().assert_empty().await;
        },
    );
}

#[test]
fn layers_stay_while_a_container_or_a_holder_names_them() {
    in_node(
        "layers_stay_while_a_container_or_a_holder_names_them",
        &[],
        |node| async move {
            let registry = ScriptedRegistry::start(&node).unwrap();
            let (store, [a, b]) = shared(&node, &registry).await;
            let roots: Arc<Mutex<Vec<LayerId>>> = Arc::default();
            let read = roots.clone();
            store
                .images
                .register_roots(Arc::new(move || read.lock().unwrap().clone()));
            // What CreateContainer does: it holds the image until a root has it.
            let held = store.images.get(&a).unwrap().unwrap();
            store.images.remove(&a).await.unwrap();
            assert!(store.images.get(&a).unwrap().is_none());
            assert_eq!(store.layers().len(), 3);
            roots.lock().unwrap().clone_from(&held.layers);
            drop(held);
            store.images.remove(&b).await.unwrap();
            assert_eq!(store.layers().len(), 2);
            roots.lock().unwrap().clear();
            store.images.gc().await;
            store.assert_empty().await;
        },
    );
}

#[test]
fn parallel_removals_all_succeed_among_pulls() {
    in_node(
        "parallel_removals_all_succeed_among_pulls",
        &[],
        |node| async move {
            let registry = ScriptedRegistry::start(&node).unwrap();
            let (store, [a, b]) = shared(&node, &registry).await;
            let store = Arc::new(store);
            for _ in 0..10 {
                let removals = (0..5).map(|_| {
                    let (images, a) = (store.images.clone(), a.clone());
                    async move { images.remove(&a).await }
                });
                let (removed, pulled) =
                    tokio::join!(futures_util::future::join_all(removals), store.pull(&b));
                assert!(removed.iter().all(Result::is_ok), "{removed:?}");
                pulled.unwrap();
                assert!(store.images.get(&a).unwrap().is_none());
                assert_eq!(store.file(&b, "base").unwrap(), b"base");
                let (removed, pulled) = tokio::join!(store.images.remove(&b), store.pull(&a));
                removed.unwrap();
                pulled.unwrap();
                assert_eq!(store.file(&a, "base").unwrap(), b"base");
            }
        },
    );
}

#[test]
fn a_tag_that_moves_leaves_the_old_image_without_it() {
    in_node(
        "a_tag_that_moves_leaves_the_old_image_without_it",
        &[],
        |node| async move {
            let registry = ScriptedRegistry::start(&node).unwrap();
            let store = Store::new(&node, "store");
            let (old, new) = (node.dir().join("old"), node.dir().join("new"));
            make_layout(&old, &[layer_of("v", "old")]);
            make_layout(&new, &[layer_of("v", "new")]);
            let name = registry.serve_layout(&old, "app", "1").unwrap();
            let first = store.pull(&name).await.unwrap();
            registry.serve_layout(&new, "app", "1").unwrap();
            let second = store.pull(&name).await.unwrap();
            assert_ne!(first, second);
            let store = store.restart();
            assert_eq!(store.file(&name, "v").unwrap(), b"new");
            let left = store.images.get(&first).unwrap().unwrap();
            assert!(left.repo_tags.is_empty());
            assert_eq!(left.repo_digests.len(), 1);
        },
    );
}
