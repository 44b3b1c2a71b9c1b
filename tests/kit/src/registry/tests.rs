use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

use super::*;
use crate::Node;
use crate::image::{Image, Recipe, recipes::Packing};
use crate::process::output;

#[test]
fn an_image_is_pushed_and_comes_back_by_tag_and_digest() {
    let node = Node::new().unwrap();
    let registry = Registry::start(&node).unwrap();
    let image = Image::ensure(Recipe::Busybox).unwrap();
    let reference = registry.push(&image).unwrap();
    let digest = registry.digest(&reference).unwrap();
    assert_eq!(digest, image.descriptor().unwrap().digest);
    let by_digest = registry.reference(&format!("busybox@{digest}"));
    assert_eq!(registry.digest(&by_digest).unwrap(), digest);
    assert!(registry.blob_path(&digest).is_file());
}

#[test]
fn every_form_of_image_is_pushed() {
    let node = Node::new().unwrap();
    let registry = Registry::start(&node).unwrap();
    let docker = Image::ensure(Recipe::Busybox).unwrap();
    let reference = registry
        .push_as(&docker, "docker/busybox:v2", Format::DockerSchema2)
        .unwrap();
    let mut inspect = node.command("skopeo");
    inspect.args([
        "inspect",
        "--raw",
        "--tls-verify=false",
        &format!("docker://{reference}"),
    ]);
    let raw = output(&mut inspect).unwrap();
    assert!(
        raw.contains("application/vnd.docker.distribution.manifest.v2+json"),
        "{raw}"
    );
    for recipe in [
        Recipe::Layers(Packing::Gzip),
        Recipe::Layers(Packing::Zstd),
        Recipe::Layers(Packing::Plain),
        Recipe::Layers(Packing::Mixed),
        Recipe::TwoPlatforms,
    ] {
        let image = Image::ensure(recipe).unwrap();
        let reference = registry.push(&image).unwrap();
        assert_eq!(
            registry.digest(&reference).unwrap(),
            image.descriptor().unwrap().digest
        );
    }
}

#[test]
fn tls_is_trusted_with_the_authority_and_not_without() {
    let node = Node::new().unwrap();
    let registry = Registry::start_tls(&node).unwrap();
    let reference = registry
        .push(&Image::ensure(Recipe::Pause).unwrap())
        .unwrap();
    let certs = node.dir().join("certs");
    std::fs::create_dir(&certs).unwrap();
    let inspect = |certs: &std::path::Path| {
        let mut command = node.command("skopeo");
        command
            .args(["inspect", "--cert-dir"])
            .arg(certs)
            .arg(format!("docker://{reference}"));
        output(&mut command)
    };
    assert!(inspect(&certs).is_err());
    std::fs::copy(registry.ca().unwrap(), certs.join("ca.crt")).unwrap();
    inspect(&certs).unwrap();
}

/// A request by hand, so that the server's lies are seen as they are.
fn get(node: &Node, registry: &ScriptedRegistry, path: &str, extra: &str) -> Vec<u8> {
    let mut stream = node.connect(registry.address().parse().unwrap()).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n{extra}\r\n").unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    answer
}

fn body(answer: &[u8]) -> &[u8] {
    let at = answer
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .unwrap();
    &answer[at + 4..]
}

fn head(answer: &[u8]) -> String {
    String::from_utf8_lossy(&answer[..answer.len() - body(answer).len()]).into_owned()
}

struct Scene {
    node: Node,
    registry: ScriptedRegistry,
    path: String,
    truth: Vec<u8>,
}

fn scene() -> Scene {
    let node = Node::new().unwrap();
    let registry = ScriptedRegistry::start(&node).unwrap();
    let image = Image::ensure(Recipe::Pause).unwrap();
    registry.serve(&image, "some/pause", "latest").unwrap();
    let path = format!("/v2/some/pause/blobs/{}", image.id().unwrap());
    let truth = body(&get(&node, &registry, &path, "")).to_vec();
    Scene {
        node,
        registry,
        path,
        truth,
    }
}

#[test]
fn without_rules_the_scripted_registry_is_honest() {
    let Scene {
        node,
        registry,
        path,
        truth,
    } = scene();
    assert_eq!(
        path.rsplit('/').next().unwrap(),
        crate::image::layout::sha256(&truth)
    );
    let answer = get(&node, &registry, &path, "Range: bytes=5-\r\n");
    assert!(head(&answer).starts_with("HTTP/1.1 206"));
    assert_eq!(body(&answer), &truth[5..]);
    let source = format!("docker://{}/some/pause:latest", registry.address());
    output(
        node.command("skopeo")
            .args(["inspect", "--raw", "--tls-verify=false", &source]),
    )
    .unwrap();
    let missing = get(&node, &registry, "/v2/some/other/manifests/latest", "");
    assert!(head(&missing).starts_with("HTTP/1.1 404"));
    assert!(
        registry
            .requests()
            .iter()
            .any(|request| request.range_start() == Some(5))
    );
}

#[test]
fn faults_do_what_they_say() {
    let Scene {
        node,
        registry,
        path,
        truth,
    } = scene();
    let with = |fault: Fault, extra: &str| {
        registry.clear_rules();
        registry.rule(Rule::new("/blobs/", fault));
        get(&node, &registry, &path, extra)
    };
    let answer = with(Fault::Corrupt, "");
    assert_eq!(body(&answer).len(), truth.len());
    assert_ne!(body(&answer), truth);
    let answer = with(Fault::Truncate(7), "");
    assert!(head(&answer).contains(&format!("Content-Length: {}", truth.len())));
    assert_eq!(body(&answer), &truth[..7]);
    let answer = with(Fault::WrongLength(3), "");
    assert!(head(&answer).contains(&format!("Content-Length: {}", truth.len() + 3)));
    let answer = with(Fault::IgnoreRange, "Range: bytes=5-\r\n");
    assert!(head(&answer).starts_with("HTTP/1.1 200"));
    assert_eq!(body(&answer), truth);
    let answer = with(Fault::WrongDigestHeader("sha256:00".to_owned()), "");
    assert!(head(&answer).contains("Docker-Content-Digest: sha256:00\r\n"));
    let limited = Response::new(429, "").header("Retry-After", "1");
    assert!(head(&with(Fault::Answer(limited), "")).contains("Retry-After: 1\r\n"));
    assert_eq!(with(Fault::Close, ""), b"");
    let started = Instant::now();
    let pause = Duration::from_millis(20);
    let answer = with(
        Fault::Slow {
            piece: truth.len() / 4,
            pause,
        },
        "",
    );
    assert_eq!(body(&answer), truth);
    assert!(started.elapsed() >= 4 * pause);
}

#[test]
fn a_rule_counts_and_spares() {
    let Scene {
        node,
        registry,
        path,
        ..
    } = scene();
    let denied = Fault::Answer(Response::new(401, ""));
    registry.rule(Rule::new("/blobs/", denied).unless_header("Authorization", "Basic eDp5"));
    assert!(head(&get(&node, &registry, &path, "")).starts_with("HTTP/1.1 401"));
    let answer = get(&node, &registry, &path, "Authorization: Basic eDp5\r\n");
    assert!(head(&answer).starts_with("HTTP/1.1 200"));

    registry.clear_rules();
    let gone = Fault::Answer(Response::new(503, ""));
    registry.rule(Rule::new("/blobs/", gone).method("GET").after(1).times(1));
    let statuses: Vec<String> = (0..3)
        .map(|_| head(&get(&node, &registry, &path, ""))[9..12].to_owned())
        .collect();
    assert_eq!(statuses, ["200", "503", "200"]);
}

#[test]
fn a_stalled_answer_ends_with_the_registry() {
    let Scene {
        node,
        registry,
        path,
        ..
    } = scene();
    registry.rule(Rule::new("/blobs/", Fault::Stall(3)));
    let mut stream = node.connect(registry.address().parse().unwrap()).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    stream
        .set_read_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    let mut answer = Vec::new();
    assert!(
        stream.read_to_end(&mut answer).is_err(),
        "no end is in sight"
    );
    assert_eq!(body(&answer).len(), 3);
    drop(registry);
    stream
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    stream.read_to_end(&mut answer).unwrap();
}
