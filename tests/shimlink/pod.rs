//! What shims do for a pod: filters, PID 1, namespaces.

use std::fs::{File, read_link};
use std::path::Path;

use longshore::base::readable::Readable;
use longshore::shimlink::{IdMap, PinSpec, PodInitSpec, ShimError};

use crate::container::Node;

const PROFILE: &str = r#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[
    {"names":["read","write"],"action":"SCMP_ACT_ALLOW"},
    {"names":["mount"],"action":"SCMP_ACT_ALLOW","includes":{"caps":["CAP_SYS_ADMIN"]}}]}"#;

#[tokio::test]
async fn filters_are_compiled_once() {
    let Some(node) = Node::new() else { return };
    let shims = node.shims();
    let none = shims.compile_seccomp(PROFILE, &[]).await.unwrap();
    assert!(none.program.len() % 8 == 0 && !none.program.is_empty());
    assert_eq!(none.flags, 4);
    let before = std::time::Instant::now();
    let again = shims.compile_seccomp(PROFILE, &[]).await.unwrap();
    assert!(
        std::sync::Arc::ptr_eq(&none.program, &again.program),
        "{:?}",
        before.elapsed()
    );
    let admin = shims
        .compile_seccomp(PROFILE, &["CAP_SYS_ADMIN".to_owned()])
        .await
        .unwrap();
    assert_ne!(none.program, admin.program);
    let notify = r#"{"defaultAction":"SCMP_ACT_NOTIFY"}"#;
    let Err(ShimError::Mode {
        mode: "seccomp",
        message,
        ..
    }) = shims.compile_seccomp(notify, &[]).await
    else {
        panic!("a filter without a listener")
    };
    assert!(message.contains("SCMP_ACT_NOTIFY"), "{message}");
    assert!(matches!(
        shims.compile_seccomp("{", &[]).await,
        Err(ShimError::Profile(_))
    ));
}

#[tokio::test]
async fn the_first_process_of_a_pod() {
    let Some(node) = Node::new() else { return };
    let shims = node.shims();
    let spec = PodInitSpec {
        net: Some("/proc/self/ns/net".into()),
        ..PodInitSpec::default()
    };
    let init = shims.pod_init(&spec).await.unwrap();
    let namespace = |pid: &str| read_link(format!("/proc/{pid}/ns/pid")).unwrap();
    assert_ne!(namespace(&init.pid.to_string()), namespace("self"));
    let status = std::fs::read_to_string(format!("/proc/{}/status", init.pid)).unwrap();
    let inner = status
        .lines()
        .find_map(|line| line.strip_prefix("NSpid:"))
        .unwrap();
    assert_eq!(inner.split_whitespace().last(), Some("1"));
    let pid = nix::unistd::Pid::from_raw(init.pid);
    nix::sys::signal::kill(pid, nix::sys::signal::SIGTERM).unwrap();
    Readable::new(init.pidfd).unwrap().readable().await.unwrap();

    let absent = PodInitSpec {
        net: Some("/absent".into()),
        ..PodInitSpec::default()
    };
    let error = shims.pod_init(&absent).await.unwrap_err();
    assert!(
        matches!(
            &error,
            ShimError::Mode {
                errno: libc::ENOENT,
                ..
            }
        ),
        "{error:?}"
    );
}

#[tokio::test]
async fn namespaces_of_a_user_namespace() {
    let Some(node) = Node::new() else { return };
    let shims = node.shims();
    let map = vec![IdMap {
        inside: 0,
        outside: 100_000,
        length: 65_536,
    }];
    let spec = PinSpec {
        uids: map.clone(),
        gids: map,
        net: true,
        ipc: true,
        uts: false,
    };
    let held = shims
        .pin_userns(&spec, |namespaces: &Path| {
            let open = |kind: &str| File::open(namespaces.join(kind));
            let same = |kind: &str| {
                read_link(namespaces.join(kind)).ok()
                    == read_link(format!("/proc/self/ns/{kind}")).ok()
            };
            assert!(!same("user") && !same("net") && !same("ipc") && same("uts"));
            let map = std::fs::read_to_string(namespaces.join("../uid_map"))?;
            assert_eq!(
                map.split_whitespace().collect::<Vec<_>>(),
                ["0", "100000", "65536"]
            );
            open("user")
        })
        .await
        .unwrap();
    held.unwrap();
    // A map that the kernel refuses.
    let overlapping = vec![IdMap {
        inside: 0,
        outside: 1,
        length: 0,
    }];
    let spec = PinSpec {
        uids: overlapping,
        ..PinSpec::default()
    };
    let refused = shims
        .pin_userns(&spec, |_| Ok::<(), ()>(()))
        .await
        .unwrap_err();
    assert!(matches!(refused, ShimError::System { .. }), "{refused:?}");
}
