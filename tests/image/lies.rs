//! Registries that don't have it, don't answer, or lie. Nothing stays of a
//! pull that failed.

use std::fs;

use longshore::image::{ErrorKind, Stage};
use longshore_kit::image::{Compression, Entry, Image, Layer, Recipe, layout};
use longshore_kit::registry::Response;
use longshore_kit::{Fault, Node, Rule, ScriptedRegistry};

use super::{Store, in_node, layer_of, make_layout, text};

#[test]
fn what_is_not_there_is_told_from_who_is_not_there() {
    in_node(
        "what_is_not_there_is_told_from_who_is_not_there",
        &[],
        |node| async move {
            let registry = ScriptedRegistry::start(&node).unwrap();
            let store = Store::new(&node, "store");
            let name = format!("{}/nothing:1", registry.address());
            let error = store.pull(&name).await.unwrap_err();
            assert_eq!(error.cause.kind(), ErrorKind::NotFound);
            assert_eq!(error.stage, Stage::Resolve);
            assert!(
                text(&error).starts_with(&format!("pull {name}: resolve: ")),
                "{}",
                text(&error)
            );
            assert!(text(&error).contains("NAME_UNKNOWN"), "{}", text(&error));

            let address = registry.address();
            drop(registry);
            let error = store.pull(&format!("{address}/a")).await.unwrap_err();
            assert_eq!(
                error.cause.kind(),
                ErrorKind::Unavailable,
                "{}",
                text(&error)
            );
            let error = store.pull("registry.invalid/a").await.unwrap_err();
            assert_eq!(
                error.cause.kind(),
                ErrorKind::Unavailable,
                "{}",
                text(&error)
            );
            let error = store.pull("Not A Name").await.unwrap_err();
            assert_eq!(
                (error.cause.kind(), error.stage),
                (ErrorKind::Invalid, Stage::Name)
            );
            store.assert_empty().await;
        },
    );
}

#[test]
fn statuses_keep_their_meaning() {
    in_node(
        "statuses_keep_their_meaning",
        &[Recipe::Pause],
        |node| async move {
            let registry = ScriptedRegistry::start(&node).unwrap();
            let image = Image::ensure(Recipe::Pause).unwrap();
            let reference = registry.serve(&image, "pause", "1").unwrap();
            let store = Store::new(&node, "store");
            for (status, kind) in [
                (401, ErrorKind::Denied),
                (403, ErrorKind::Denied),
                (404, ErrorKind::NotFound),
                (429, ErrorKind::Unavailable),
                (500, ErrorKind::Unavailable),
                (503, ErrorKind::Unavailable),
            ] {
                for path in ["/manifests/", "/blobs/"] {
                    let answer = Fault::Answer(Response::new(status, "no"));
                    registry.rule(Rule::new(path, answer));
                    let error = store.pull(&reference).await.unwrap_err();
                    assert_eq!(
                        error.cause.kind(),
                        kind,
                        "{status} {path}: {}",
                        text(&error)
                    );
                    registry.clear_rules();
                }
            }
            registry.rule(Rule::new(
                "/manifests/",
                Fault::Answer(Response::new(200, vec![b' '; 5 << 20])),
            ));
            let error = store.pull(&reference).await.unwrap_err();
            assert!(text(&error).contains("larger than"), "{}", text(&error));
            store.assert_empty().await;
            registry.clear_rules();
            store.pull(&reference).await.unwrap();
        },
    );
}

/// An honest image of two layers.
struct Served {
    registry: ScriptedRegistry,
    tagged: String,
    digested: String,
    /// The upper layer's digest and size.
    layer: String,
    size: usize,
}

impl Served {
    fn new(node: &Node) -> Self {
        let registry = ScriptedRegistry::start(node).unwrap();
        let dir = node.dir().join("layout");
        let layers = [layer_of("a", "a"), layer_of("b", "b")];
        make_layout(&dir, &layers);
        let tagged = registry.serve_layout(&dir, "app", "1").unwrap();
        let index = fs::read(dir.join("index.json")).unwrap();
        let index: serde_json::Value = serde_json::from_slice(&index).unwrap();
        let manifest = index["manifests"][0]["digest"].as_str().unwrap();
        Self {
            digested: format!("{}/app@{manifest}", registry.address()),
            registry,
            tagged,
            layer: layout::sha256(&layers[1].blob),
            size: layers[1].blob.len(),
        }
    }

    fn on_layer(&self, fault: Fault) -> Rule {
        Rule::new(&self.layer, fault)
    }

    /// Pulls with one rule, which makes it fail.
    async fn fail(&self, store: &Store, rule: Rule, reference: &str, kind: ErrorKind) {
        let shown = format!("{rule:?}");
        self.registry.rule(rule);
        let error = store.pull(reference).await.unwrap_err();
        assert_eq!(error.cause.kind(), kind, "{shown}: {}", text(&error));
        let start = format!("pull {reference}: ");
        assert!(text(&error).starts_with(&start), "{}", text(&error));
        store.assert_empty().await;
        self.registry.clear_rules();
    }
}

#[test]
fn content_that_is_not_what_it_claims_is_refused() {
    in_node(
        "content_that_is_not_what_it_claims_is_refused",
        &[],
        |node| async move {
            let served = Served::new(&node);
            let store = Store::new(&node, "store");
            let (tagged, size) = (&served.tagged, served.size);
            let other = format!("sha256:{}", "0".repeat(64));
            let body = |body: Vec<u8>| served.on_layer(Fault::Answer(Response::new(200, body)));
            for (rule, reference) in [
                (Rule::new("/manifests/", Fault::Corrupt), &served.digested),
                (
                    Rule::new("/manifests/", Fault::WrongDigestHeader(other)),
                    tagged,
                ),
                (Rule::new("/blobs/", Fault::Corrupt), tagged),
                (served.on_layer(Fault::Corrupt), tagged),
                (body(b"short".to_vec()), tagged),
                (body(vec![0; size + 9999]), tagged),
                (body(vec![0; size]), tagged),
            ] {
                served
                    .fail(&store, rule, reference, ErrorKind::Content)
                    .await;
            }
            store.pull(tagged).await.unwrap();
        },
    );
}

#[test]
fn a_cut_connection_is_told_from_a_lie() {
    in_node(
        "a_cut_connection_is_told_from_a_lie",
        &[],
        |node| async move {
            let served = Served::new(&node);
            let store = Store::new(&node, "store");
            for quarter in 0..4 {
                let cut = served.on_layer(Fault::Truncate(served.size * quarter / 4));
                let unavailable = ErrorKind::Unavailable;
                served.fail(&store, cut, &served.tagged, unavailable).await;
            }
            let closed = Rule::new("/manifests/", Fault::Close);
            served
                .fail(&store, closed, &served.tagged, ErrorKind::Unavailable)
                .await;
            store.pull(&served.tagged).await.unwrap();
        },
    );
}

/// Pulls an image of one odd layer above a good one.
async fn pull_layer(node: &Node, name: &str, layer: Layer) -> Result<(), String> {
    let registry = ScriptedRegistry::start(node).unwrap();
    let dir = node.dir().join(format!("layout-{name}"));
    make_layout(&dir, &[layer_of("good", "good"), layer]);
    let reference = registry.serve_layout(&dir, "app", "1").unwrap();
    let store = Store::new(node, name);
    match store.pull(&reference).await {
        Ok(_) => Ok(()),
        Err(error) => {
            assert_eq!(error.cause.kind(), ErrorKind::Content, "{}", text(&error));
            store.assert_empty().await;
            Err(text(&error))
        }
    }
}

#[test]
fn a_wrong_diff_id_is_refused() {
    in_node("a_wrong_diff_id_is_refused", &[], |node| async move {
        for compression in [Compression::Gzip, Compression::None] {
            let mut layer = Layer::pack(&[Entry::file("a", "a")], compression).unwrap();
            layer.diff_id = format!("sha256:{}", "1".repeat(64));
            let name = format!("{compression:?}");
            let error = pull_layer(&node, &name, layer).await.unwrap_err();
            assert!(error.contains("diffID"), "{error}");
        }
    });
}

#[test]
fn a_layer_that_wants_out_stays_in_or_is_refused() {
    in_node(
        "a_layer_that_wants_out_stays_in_or_is_refused",
        &[],
        |node| async move {
            let outside = node.dir().join("outside");
            fs::create_dir(&outside).unwrap();
            let target = outside.to_str().unwrap();
            let pack = |entries: &[Entry]| Layer::pack(entries, Compression::Gzip).unwrap();
            let up = pack(&[Entry::file("../escaped", "x")]);
            let error = pull_layer(&node, "up", up).await.unwrap_err();
            assert!(error.contains("`..`"), "{error}");
            let deep = pack(&[Entry::file("a/../../../escaped", "x")]);
            pull_layer(&node, "deep", deep).await.unwrap_err();
            let through = pack(&[
                Entry::symlink("out", target),
                Entry::file("out/escaped", "x"),
            ]);
            drop(pull_layer(&node, "through", through).await);
            let linked = pack(&[Entry::hardlink("passwd", "/../../../../etc/passwd")]);
            drop(pull_layer(&node, "linked", linked).await);
            assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
            for dir in fs::read_dir(node.dir()).unwrap() {
                assert!(!dir.unwrap().path().join("escaped").exists());
            }
        },
    );
}
