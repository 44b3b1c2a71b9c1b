//! Pulls from honest registries.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use longshore::base::tasks::Tasks;
use longshore::image::{AuthConfig, Credentials, ErrorKind, PullRequest};
use longshore_kit::image::recipes::{LAYERS_ABSENT, LAYERS_EXPECTED, Packing, User};
use longshore_kit::image::{Image, Recipe, layout};
use longshore_kit::registry::Format;
use longshore_kit::registry::Response;
use longshore_kit::{Fault, Node, Registry, Rule, ScriptedRegistry};

use super::{Store, in_node, settings, text};

#[test]
fn by_tag_and_by_digest() {
    in_node(
        "by_tag_and_by_digest",
        &[Recipe::Busybox],
        |node| async move {
            let registry = Registry::start(&node).unwrap();
            let image = Image::ensure(Recipe::Busybox).unwrap();
            let tagged = registry.push(&image).unwrap();
            let repository = tagged.rsplit_once(':').unwrap().0.to_owned();
            let digested = format!("{repository}@{}", registry.digest(&tagged).unwrap());

            let store = Store::new(&node, "tag");
            let id = store.pull(&repository).await.unwrap();
            assert_eq!(id, image.id().unwrap());
            let pulled = store.images.get(&id).unwrap().unwrap();
            assert_eq!(pulled.repo_tags, [tagged.as_str()], "no tag means latest");
            assert_eq!(pulled.repo_digests, [digested.as_str()]);
            assert!(pulled.size > 100_000, "{}", pulled.size);
            for name in [
                &id,
                &id[7..],
                &id[..20],
                &id[7..20],
                &repository,
                &tagged,
                &digested,
            ] {
                let same = store.images.get(name).unwrap();
                assert!(same.is_some_and(|i| Arc::ptr_eq(&i, &pulled)), "{name}");
            }
            assert_eq!(store.images.list().len(), 1);

            let store = Store::new(&node, "digest");
            assert_eq!(store.pull(&digested).await.unwrap(), id);
            let pulled = store.images.get(&digested).unwrap().unwrap();
            assert!(pulled.repo_tags.is_empty());
            assert_eq!(pulled.repo_digests, [digested.as_str()]);
            assert!(store.images.get(&tagged).unwrap().is_none());
        },
    );
}

#[test]
fn an_index_gives_what_runs_here() {
    in_node(
        "an_index_gives_what_runs_here",
        &[Recipe::TwoPlatforms],
        |node| async move {
            let registry = Registry::start(&node).unwrap();
            let image = Image::ensure(Recipe::TwoPlatforms).unwrap();
            let reference = registry.push(&image).unwrap();
            let store = Store::new(&node, "store");
            assert_eq!(store.pull(&reference).await.unwrap(), image.id().unwrap());
            let here = format!("{}\n", layout::architecture());
            assert_eq!(store.file(&reference, "platform").unwrap(), here.as_bytes());
            let index = image.descriptor().unwrap().digest;
            let pulled = store.images.get(&reference).unwrap().unwrap();
            assert!(pulled.repo_digests[0].ends_with(&format!("@{index}")));
        },
    );
}

#[test]
fn every_compression_and_docker_s_manifest_give_the_same_files() {
    in_node(
        "every_compression_and_docker_s_manifest_give_the_same_files",
        &[
            Recipe::Layers(Packing::Gzip),
            Recipe::Layers(Packing::Zstd),
            Recipe::Layers(Packing::Plain),
            Recipe::Layers(Packing::Mixed),
        ],
        |node| async move {
            let registry = Registry::start(&node).unwrap();
            let push = |packing, name, format| {
                let image = Image::ensure(Recipe::Layers(packing)).unwrap();
                registry.push_as(&image, name, format).unwrap()
            };
            for (name, reference) in [
                ("gzip", push(Packing::Gzip, "gzip:1", Format::Oci)),
                ("zstd", push(Packing::Zstd, "zstd:1", Format::Oci)),
                ("plain", push(Packing::Plain, "plain:1", Format::Oci)),
                ("mixed", push(Packing::Mixed, "mixed:1", Format::Oci)),
                (
                    "docker",
                    push(Packing::Gzip, "docker:1", Format::DockerSchema2),
                ),
            ] {
                let store = Store::new(&node, name);
                store.pull(&reference).await.unwrap();
                for (path, content) in LAYERS_EXPECTED {
                    let found = store.file(&reference, path);
                    assert_eq!(found.as_deref(), Some(content.as_bytes()), "{name}: {path}");
                }
                for path in LAYERS_ABSENT {
                    assert_eq!(store.file(&reference, path), None, "{name}: {path}");
                }
            }
        },
    );
}

#[test]
fn tls_needs_a_certificate_that_verifies() {
    in_node(
        "tls_needs_a_certificate_that_verifies",
        &[Recipe::Pause],
        |node| async move {
            let registry = Registry::start_tls(&node).unwrap();
            let image = Image::ensure(Recipe::Pause).unwrap();
            let reference = registry.push(&image).unwrap();
            let before = registry.log().lines().count();
            let error = Store::new(&node, "unknown")
                .pull(&reference)
                .await
                .unwrap_err();
            assert_eq!(error.cause.kind(), ErrorKind::Unavailable);
            assert!(text(&error).contains("UnknownIssuer"), "{}", text(&error));
            let after = registry.log();
            let plain = after
                .lines()
                .skip(before)
                .filter(|l| l.contains("http.request"));
            assert_eq!(plain.count(), 0, "plain HTTP was tried");
            let mut settings = settings();
            settings.ca_files = vec![registry.ca().unwrap()];
            let store = Store::with(node.dir().join("known"), settings);
            assert_eq!(store.pull(&reference).await.unwrap(), image.id().unwrap());
            let by_name = reference.replace("127.0.0.1", "localhost");
            assert_eq!(store.pull(&by_name).await.unwrap(), image.id().unwrap());
        },
    );
}

#[test]
fn one_image_under_many_names() {
    in_node(
        "one_image_under_many_names",
        &[Recipe::Pause],
        |node| async move {
            let registry = ScriptedRegistry::start(&node).unwrap();
            let other = ScriptedRegistry::start(&node).unwrap();
            let image = Image::ensure(Recipe::Pause).unwrap();
            let mut names: Vec<String> = ["1", "2", "3"]
                .iter()
                .map(|tag| registry.serve(&image, "a/b", tag).unwrap())
                .collect();
            names.push(other.serve(&image, "c", "x").unwrap());
            names.sort();
            let store = Store::new(&node, "store");
            for name in &names {
                store.pull(name).await.unwrap();
            }
            let list = store.images.list();
            assert_eq!(list.len(), 1);
            assert_eq!(list[0].repo_tags, names);
            assert_eq!(list[0].repo_digests.len(), 2);
            drop(list);
            store.images.remove(&names[2]).await.unwrap();
            for name in &names {
                assert!(store.images.get(name).unwrap().is_none(), "{name}");
            }
            store.assert_empty().await;
        },
    );
}

#[test]
fn users_by_number_and_by_name() {
    in_node(
        "users_by_number_and_by_name",
        &[
            Recipe::Users(User::Number),
            Recipe::Users(User::Name),
            Recipe::Users(User::NameAndGroup),
            Recipe::Users(User::NumberAndGroup),
        ],
        |node| async move {
            let registry = ScriptedRegistry::start(&node).unwrap();
            let store = Store::new(&node, "store");
            for (user, uid, name) in [
                (User::Number, Some(1234), ""),
                (User::Name, None, "app"),
                (User::NameAndGroup, None, "app"),
                (User::NumberAndGroup, Some(1000), ""),
            ] {
                let image = Image::ensure(Recipe::Users(user)).unwrap();
                let reference = registry
                    .serve(&image, "users", &format!("{user:?}"))
                    .unwrap();
                store.pull(&reference).await.unwrap();
                let pulled = store.images.get(&reference).unwrap().unwrap();
                assert_eq!(
                    (pulled.uid, pulled.username.as_str()),
                    (uid, name),
                    "{user:?}"
                );
            }
        },
    );
}

/// How often each blob was asked for.
fn blob_requests(registry: &ScriptedRegistry) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for request in registry.requests() {
        if let Some((_, digest)) = request.path.split_once("/blobs/") {
            *counts.entry(digest.to_owned()).or_default() += 1;
        }
    }
    counts
}

#[test]
fn concurrent_pulls_fetch_each_layer_once() {
    in_node(
        "concurrent_pulls_fetch_each_layer_once",
        &[Recipe::Layers(Packing::Gzip)],
        |node| async move {
            let registry = ScriptedRegistry::start(&node).unwrap();
            let image = Image::ensure(Recipe::Layers(Packing::Gzip)).unwrap();
            let one = registry.serve(&image, "layers", "1").unwrap();
            let two = registry.serve(&image, "layers", "2").unwrap();
            let slow = Fault::Slow {
                piece: 64 << 10,
                pause: Duration::from_millis(10),
            };
            registry.rule(Rule::new("/blobs/", slow));
            let store = Arc::new(Store::new(&node, "store"));
            let pulls: Vec<_> = (0..10)
                .map(|n| {
                    let (store, name) = (store.clone(), [&one, &two][n % 2].clone());
                    Tasks::new().spawn(async move { store.pull(&name).await })
                })
                .collect();
            for pull in pulls {
                assert_eq!(pull.await.unwrap().unwrap(), image.id().unwrap());
            }
            let manifests = registry.requests();
            let manifests = manifests.iter().filter(|r| r.path.contains("/manifests/"));
            assert_eq!(manifests.count(), 2, "one a name");
            let mut counts = blob_requests(&registry);
            // Documents are fetched by each of the two pulls.
            let config = counts.remove(&image.id().unwrap());
            assert_eq!(config, Some(2));
            assert_eq!(counts.len(), 3, "{counts:?}");
            assert!(counts.values().all(|n| *n == 1), "{counts:?}");
            assert_eq!(store.images.list()[0].repo_tags, [one.as_str(), &two]);
        },
    );
}

#[test]
fn a_second_pull_fetches_no_layer() {
    in_node(
        "a_second_pull_fetches_no_layer",
        &[Recipe::Layers(Packing::Zstd)],
        |node| async move {
            let registry = ScriptedRegistry::start(&node).unwrap();
            let image = Image::ensure(Recipe::Layers(Packing::Zstd)).unwrap();
            let reference = registry.serve(&image, "layers", "1").unwrap();
            let store = Store::new(&node, "store");
            store.pull(&reference).await.unwrap();
            let before = blob_requests(&registry);
            store.pull(&reference).await.unwrap();
            let mut after = blob_requests(&registry);
            *after.get_mut(&image.id().unwrap()).unwrap() -= 1;
            assert_eq!(before, after);
        },
    );
}

#[test]
fn a_caller_that_leaves_does_not_stop_the_pull() {
    in_node(
        "a_caller_that_leaves_does_not_stop_the_pull",
        &[Recipe::Busybox],
        |node| async move {
            let registry = ScriptedRegistry::start(&node).unwrap();
            let image = Image::ensure(Recipe::Busybox).unwrap();
            let reference = registry.serve(&image, "busybox", "1").unwrap();
            let slow = Fault::Slow {
                piece: 64 << 10,
                pause: Duration::from_millis(20),
            };
            registry.rule(Rule::new("/blobs/", slow));
            let store = Store::new(&node, "store");
            let pull = store.pull(&reference);
            let left = tokio::time::timeout(Duration::from_millis(50), pull).await;
            assert!(left.is_err(), "it was to be cut short");
            let start = Instant::now();
            while store.images.get(&reference).unwrap().is_none() {
                assert!(start.elapsed() < Duration::from_secs(30));
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        },
    );
}

/// A registry that answers nothing without this `Authorization`, with
/// `private:1` on it.
fn private(
    node: &Node,
    challenge: impl Fn(&str) -> String,
    wants: &str,
) -> (ScriptedRegistry, String) {
    let registry = ScriptedRegistry::start(node).unwrap();
    let challenge = challenge(&registry.address());
    let refusal = Response::new(401, "").header("WWW-Authenticate", &challenge);
    let rule = Rule::new("/v2/", Fault::Answer(refusal));
    registry.rule(rule.unless_header("authorization", wants));
    let image = Image::ensure(Recipe::Pause).unwrap();
    let reference = registry.serve(&image, "private", "1").unwrap();
    (registry, reference)
}

/// A registry whose tokens come from itself.
fn private_by_token(node: &Node) -> (ScriptedRegistry, String) {
    let realm = |address: &str| format!("Bearer realm=\"http://{address}/token\",service=\"r\"");
    let (registry, reference) = private(node, realm, "Bearer t0k");
    let token = Response::new(200, r#"{"token":"t0k","expires_in":60}"#);
    registry.rule(Rule::new("/token", Fault::Answer(token)));
    (registry, reference)
}

const BASIC: &str = "Basic bWU6czNjcmV0";

fn me() -> Credentials {
    Credentials::Basic {
        username: "me".into(),
        password: "s3cret".into(),
    }
}

#[test]
fn credentials_answer_a_basic_challenge() {
    in_node(
        "credentials_answer_a_basic_challenge",
        &[Recipe::Pause],
        |node| async move {
            let (_registry, reference) = private(&node, |_| "Basic realm=\"r\"".into(), BASIC);
            let store = Store::new(&node, "store");
            let error = store.pull(&reference).await.unwrap_err();
            assert_eq!(error.cause.kind(), ErrorKind::Denied, "{}", text(&error));
            store.pull_as(&reference, me()).await.unwrap();
        },
    );
}

#[test]
fn credentials_fetch_a_token() {
    in_node(
        "credentials_fetch_a_token",
        &[Recipe::Pause],
        |node| async move {
            let (registry, reference) = private_by_token(&node);
            Store::new(&node, "basic")
                .pull_as(&reference, me())
                .await
                .unwrap();
            let requests = registry.requests();
            let asked = requests
                .iter()
                .find(|r| r.path.starts_with("/token"))
                .unwrap();
            assert!(asked.path.contains("service=r"), "{}", asked.path);
            assert!(
                asked.path.contains("scope=repository%3Aprivate%3Apull"),
                "{}",
                asked.path
            );
            assert_eq!(asked.headers.get("authorization").unwrap(), BASIC);
            let refresh = Credentials::IdentityToken("refresh".into());
            Store::new(&node, "refresh")
                .pull_as(&reference, refresh)
                .await
                .unwrap();
            assert!(
                registry
                    .requests()
                    .iter()
                    .any(|r| r.method == "POST" && r.path == "/token")
            );
            let token = Credentials::RegistryToken("t0k".into());
            Store::new(&node, "token")
                .pull_as(&reference, token)
                .await
                .unwrap();
        },
    );
}

#[test]
fn a_refresh_token_follows_no_redirect() {
    in_node(
        "a_refresh_token_follows_no_redirect",
        &[Recipe::Pause],
        |node| async move {
            let other = ScriptedRegistry::start(&node).unwrap();
            let token = Response::new(200, r#"{"token":"t0k"}"#);
            other.rule(Rule::new("/token", Fault::Answer(token)));
            let realm = |address: &str| format!("Bearer realm=\"http://{address}/token\"");
            let (registry, reference) = private(&node, realm, "Bearer t0k");
            let away = format!("http://{}/token", other.address());
            let away = Response::new(307, "").header("Location", &away);
            registry.rule(Rule::new("/token", Fault::Answer(away)));
            let refresh = Credentials::IdentityToken("refresh".into());
            let pulled = Store::new(&node, "store")
                .pull_as(&reference, refresh)
                .await;
            assert!(pulled.is_err(), "{pulled:?}");
            assert!(
                registry
                    .requests()
                    .iter()
                    .any(|r| r.method == "POST" && r.path == "/token")
            );
            assert_eq!(other.requests(), []);
        },
    );
}

#[test]
fn credentials_of_another_host_are_not_sent() {
    in_node(
        "credentials_of_another_host_are_not_sent",
        &[Recipe::Pause],
        |node| async move {
            let (registry, reference) = private_by_token(&node);
            let request = PullRequest {
                reference,
                auth: AuthConfig {
                    server_address: Some("other.example".into()),
                    credentials: me(),
                },
            };
            Store::new(&node, "store")
                .images
                .pull(request)
                .await
                .unwrap();
            let requests = registry.requests();
            let sent = requests
                .iter()
                .filter_map(|r| r.headers.get("authorization"));
            assert_eq!(sent.filter(|a| a.starts_with("Basic")).count(), 0);
        },
    );
}
