//! The scripted CNI plugin, called as a runtime calls it.
#![expect(clippy::unwrap_used, reason = "a test: a panic is its verdict")]

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

fn call(verb: &str, config: &Value) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_fake_cni"))
        .envs([
            ("CNI_COMMAND", verb),
            ("CNI_IFNAME", "eth0"),
            ("CNI_NETNS", "/run/netns/x"),
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(config.to_string().as_bytes())
        .unwrap();
    child.wait_with_output().unwrap()
}

fn parse(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap()
}

fn config(dir: &Path) -> Value {
    json!({
        "cniVersion": "1.0.0", "name": "n", "type": "fake_cni", "record": dir,
        "script": { "ADD": "1*off->1*error(no more)->1*exit(7)", "DEL": "1*garbage" },
    })
}

#[test]
fn each_verb_follows_its_own_script() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    let first = call("ADD", &config);
    assert!(first.status.success());
    let result = parse(&first);
    assert_eq!(result.pointer("/ips/0/address").unwrap(), "10.9.0.2/24");
    assert_eq!(
        result.pointer("/interfaces/0/sandbox").unwrap(),
        "/run/netns/x"
    );
    assert!(
        String::from_utf8(call("DEL", &config).stdout)
            .unwrap()
            .contains("not JSON")
    );
    let second = call("ADD", &config);
    assert!(!second.status.success());
    assert_eq!(parse(&second).get("msg").unwrap(), "no more");
    assert_eq!(call("ADD", &config).status.code(), Some(7));
    assert!(call("ADD", &config).status.success());
    assert!(call("DEL", &config).stdout.is_empty());
}

#[test]
fn calls_are_recorded_with_environment_and_input() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    call("ADD", &config);
    call("CHECK", &config);
    let text = std::fs::read_to_string(dir.path().join("0002-CHECK.json")).unwrap();
    let record: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(record.pointer("/env/CNI_IFNAME").unwrap(), "eth0");
    assert_eq!(record.get("stdin").unwrap(), &config);
}

#[test]
fn a_previous_result_is_passed_on_and_a_version_is_told() {
    let mut config = json!({ "cniVersion": "1.0.0", "name": "n", "type": "fake_cni" });
    config
        .as_object_mut()
        .unwrap()
        .insert("prevResult".to_owned(), json!({ "ips": [] }));
    assert_eq!(parse(&call("ADD", &config)), json!({ "ips": [] }));
    let versions = parse(&call("VERSION", &json!({})));
    assert!(
        versions
            .get("supportedVersions")
            .unwrap()
            .as_array()
            .unwrap()
            .len()
            > 2
    );
}
