//! The image service and the image commands of a daemon that runs.

use std::path::Path;
use std::process::Output;
use std::time::Duration;

use longshore_kit::cri::Client;
use longshore_kit::image::{Image, Recipe};
use longshore_kit::registry::Response;
use longshore_kit::{Daemon, Fault, Node, Rule, ScriptedRegistry, paths};
use longshore_proto::cri::v1 as cri;
use tonic::Code;

use super::{in_node, layer_of, make_layout};

fn spec(image: &str) -> Option<cri::ImageSpec> {
    Some(cri::ImageSpec {
        image: image.to_owned(),
        ..Default::default()
    })
}

async fn pull(client: &mut Client, image: &str) -> Result<String, tonic::Status> {
    let request = cri::PullImageRequest {
        image: spec(image),
        ..Default::default()
    };
    let answer = Box::pin(client.image.pull_image(request)).await?;
    Ok(answer.into_inner().image_ref)
}

async fn status(client: &mut Client, image: &str) -> cri::ImageStatusResponse {
    let request = cri::ImageStatusRequest {
        image: spec(image),
        verbose: true,
    };
    client
        .image
        .image_status(request)
        .await
        .unwrap()
        .into_inner()
}

async fn list(client: &mut Client, filter: Option<&str>) -> Vec<cri::Image> {
    let filter = filter.map(|image| cri::ImageFilter { image: spec(image) });
    let request = cri::ListImagesRequest { filter };
    client
        .image
        .list_images(request)
        .await
        .unwrap()
        .into_inner()
        .images
}

#[test]
fn the_service_answers_as_kubelet_expects() {
    in_node(
        "the_service_answers_as_kubelet_expects",
        &[Recipe::Pause],
        |node| async move {
            let registry = ScriptedRegistry::start(&node).unwrap();
            let image = Image::ensure(Recipe::Pause).unwrap();
            let name = registry.serve(&image, "pause", "1").unwrap();
            let daemon = Daemon::start(&node, &format!("[image]\npinned = ['{name}']\n"))
                .await
                .unwrap();
            let mut client = Client::new(&daemon.socket());
            assert!(list(&mut client, None).await.is_empty());
            let empty = status(&mut client, &name).await;
            assert!(empty.image.is_none() && empty.info.is_empty());
            let id = pull(&mut client, &name).await.unwrap();
            assert_eq!(id, image.id().unwrap());
            let found = status(&mut client, &name).await;
            assert!(found.info["info"].contains("imageSpec"));
            let found = found.image.unwrap();
            assert_eq!((found.id.as_str(), found.pinned), (id.as_str(), true));
            assert!(found.size > 0);
            assert_eq!(list(&mut client, None).await, std::slice::from_ref(&found));
            assert_eq!(list(&mut client, Some(&name)).await, [found]);
            assert!(list(&mut client, Some("other")).await.is_empty());
            let request = cri::StreamImagesRequest::default();
            let mut stream = client
                .image
                .stream_images(request)
                .await
                .unwrap()
                .into_inner();
            assert_eq!(stream.message().await.unwrap().unwrap().images.len(), 1);
            assert!(stream.message().await.unwrap().is_none());
            let request = cri::ImageFsInfoRequest::default();
            let info = client
                .image
                .image_fs_info(request)
                .await
                .unwrap()
                .into_inner();
            let first = &info.image_filesystems[0];
            assert!(
                first.timestamp > 0
                    && Path::new(&first.fs_id.as_ref().unwrap().mountpoint).is_dir()
            );
            assert!(first.used_bytes.unwrap().value > 0 && first.inodes_used.unwrap().value > 0);
            for _ in 0..2 {
                let request = cri::RemoveImageRequest { image: spec(&id) };
                client.image.remove_image(request).await.unwrap();
            }
            assert!(list(&mut client, None).await.is_empty());
        },
    );
}

#[test]
fn errors_have_the_codes_that_clients_act_on() {
    in_node(
        "errors_have_the_codes_that_clients_act_on",
        &[],
        |node| async move {
            let registry = ScriptedRegistry::start(&node).unwrap();
            let dir = node.dir().join("layout");
            make_layout(&dir, &[layer_of("a", "a")]);
            let name = registry.serve_layout(&dir, "app", "1").unwrap();
            let daemon = Daemon::start(&node, "").await.unwrap();
            let mut client = Client::new(&daemon.socket());
            let refused =
                |status| Rule::new("/manifests/", Fault::Answer(Response::new(status, "")));
            let missing = format!("{}/nothing", registry.address());
            for (image, rule, code) in [
                ("", None, Code::InvalidArgument),
                ("Not A Name", None, Code::InvalidArgument),
                (&missing, None, Code::NotFound),
                (&name, Some(refused(403)), Code::PermissionDenied),
                (
                    &name,
                    Some(Rule::new("/blobs/", Fault::Corrupt)),
                    Code::DataLoss,
                ),
                (&name, Some(refused(503)), Code::Unknown),
                ("127.0.0.1:1/app", None, Code::Unknown),
            ] {
                rule.into_iter().for_each(|rule| registry.rule(rule));
                let error = pull(&mut client, image).await.unwrap_err();
                assert_eq!(error.code(), code, "{image}: {}", error.message());
                let reason = error.message().starts_with("RegistryUnavailable: ");
                assert_eq!(reason, code == Code::Unknown, "{}", error.message());
                registry.clear_rules();
            }
            let request = cri::ImageStatusRequest::default();
            let error = client.image.image_status(request).await.unwrap_err();
            assert_eq!(error.code(), Code::InvalidArgument);
            pull(&mut client, &name).await.unwrap();
        },
    );
}

#[test]
fn a_killed_daemon_leaves_nothing_half_made() {
    in_node(
        "a_killed_daemon_leaves_nothing_half_made",
        &[Recipe::Busybox],
        |node| async move {
            let registry = ScriptedRegistry::start(&node).unwrap();
            let image = Image::ensure(Recipe::Busybox).unwrap();
            let name = registry.serve(&image, "busybox", "1").unwrap();
            let mut daemon = Daemon::start(&node, "").await.unwrap();
            let mut client = Client::new(&daemon.socket());
            let piece = 64 << 10;
            let pause = Duration::from_millis(30);
            registry.rule(Rule::new("/blobs/", Fault::Slow { piece, pause }));
            let pull_dies =
                tokio::time::timeout(Duration::from_millis(300), pull(&mut client, &name));
            assert!(pull_dies.await.is_err(), "the pull was to be slow");
            assert!(!super::entries(&daemon.root().join("staging")).is_empty());
            daemon.kill9().unwrap();
            daemon.restart().await.unwrap();
            assert!(list(&mut client, None).await.is_empty());
            for part in ["staging", "layers", "images"] {
                let left = super::entries(&daemon.root().join(part));
                assert!(left.is_empty(), "{part} holds {left:?}");
            }
            registry.clear_rules();
            let id = pull(&mut client, &name).await.unwrap();
            daemon.kill9().unwrap();
            daemon.restart().await.unwrap();
            assert_eq!(list(&mut client, None).await[0].id, id);
        },
    );
}

/// Runs `longshore image ...` in the node.
fn command(node: &Node, daemon: &Daemon<'_>, arguments: &[&str]) -> Output {
    let mut command = node.command(paths::daemon().unwrap());
    command.arg("image").args(arguments);
    command
        .arg("--socket")
        .arg(daemon.socket())
        .output()
        .unwrap()
}

#[test]
fn the_commands_import_and_list() {
    in_node(
        "the_commands_import_and_list",
        &[Recipe::Pause],
        |node| async move {
            let image = Image::ensure(Recipe::Pause).unwrap();
            let archive = image.layout_archive().unwrap();
            let daemon = Daemon::start(&node, "").await.unwrap();
            let path = archive.to_str().unwrap();
            let done = command(&node, &daemon, &["import", path, "--name", "r.example/p:1"]);
            assert!(done.status.success(), "{done:?}");
            let id = image.id().unwrap();
            let line = format!("{id}  r.example/p:1\n");
            assert_eq!(String::from_utf8(done.stdout).unwrap(), line);
            let listed = command(&node, &daemon, &["ls"]);
            let table = String::from_utf8(listed.stdout).unwrap();
            let rows: Vec<&str> = table.lines().collect();
            assert_eq!(rows.len(), 2, "{table}");
            assert!(rows[1].starts_with("r.example/p  1    "), "{table}");
            assert!(rows[1].contains(&id[7..20]), "{table}");
            let missing = command(&node, &daemon, &["import", "/missing.tar"]);
            assert_eq!(missing.status.code(), Some(1));
            let error = String::from_utf8(missing.stderr).unwrap();
            assert!(error.contains("/missing.tar: No such file"), "{error}");
            let socket = daemon.socket();
            drop(daemon);
            let mut alone = node.command(paths::daemon().unwrap());
            let output = alone
                .args(["image", "ls", "--socket"])
                .arg(&socket)
                .output()
                .unwrap();
            let error = String::from_utf8(output.stderr).unwrap();
            assert!(error.contains(socket.to_str().unwrap()), "{error}");
        },
    );
}
