//! A scripted CNI plugin.
//!
//! In the network configuration:
//!
//! ```json
//! { "type": "fake_cni", "record": "/path/of/a/directory",
//!   "script": { "ADD": "1*error(no)->off", "DEL": "delay(100)" }, "address": "10.9.0.2/24" }
//! ```
//!
//! Each call writes its environment and input to `record/NUMBER-VERB.json`, numbered in order, and then
//! does what the script of its verb says for the how-manieth call of that verb this is. Done right, ADD
//! answers an address without making an interface, or, with a `prevResult`, passes that on.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use longshore_kit::script::{Action, Script};
use serde_json::{Value, json};

/// CNI's code for a plugin's own errors begins at 100.
const OWN_ERROR: u32 = 100;

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => {
            println!("{}", failure(&format!("{error:#}")));
            ExitCode::FAILURE
        }
    }
}

fn failure(message: &str) -> Value {
    json!({ "cniVersion": "1.0.0", "code": OWN_ERROR, "msg": message })
}

fn run() -> Result<ExitCode> {
    let verb = std::env::var("CNI_COMMAND").context("CNI_COMMAND is not set")?;
    let mut input = String::new();
    std::io::stdin()
        .read_to_string(&mut input)
        .context("read the configuration")?;
    if verb == "VERSION" {
        let versions = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"];
        println!(
            "{}",
            json!({ "cniVersion": "1.1.0", "supportedVersions": versions })
        );
        return Ok(ExitCode::SUCCESS);
    }
    let config: Value = serde_json::from_str(&input).context("parse the configuration")?;
    let call = match config.get("record").and_then(Value::as_str) {
        Some(dir) => record(Path::new(dir), &verb, &config)?,
        None => 1,
    };
    let script = config
        .pointer(&format!("/script/{verb}"))
        .and_then(Value::as_str);
    let script = Script::parse(script.unwrap_or_default()).context("parse the script")?;
    match script.action(call) {
        Action::Off => {}
        Action::Delay(milliseconds) => thread::sleep(Duration::from_millis(milliseconds)),
        Action::Error(message) => {
            println!("{}", failure(&message));
            return Ok(ExitCode::FAILURE);
        }
        Action::Exit(code) => return Ok(ExitCode::from(code)),
        Action::Hang => loop {
            thread::sleep(Duration::from_secs(3600));
        },
        Action::Garbage => {
            println!("this is not JSON");
            return Ok(ExitCode::SUCCESS);
        }
    }
    if verb == "ADD" {
        println!("{}", answer(&config));
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes the call down and hands back which call of this verb it is, from one.
fn record(dir: &Path, verb: &str, config: &Value) -> Result<u64> {
    fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    let lock = File::create(dir.join(".lock")).context("open the lock")?;
    lock.lock().context("lock the record")?;
    let names: Vec<String> = fs::read_dir(dir)
        .with_context(|| format!("list {}", dir.display()))?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.ends_with(".json"))
        .collect();
    let of_verb = names
        .iter()
        .filter(|name| name.ends_with(&format!("-{verb}.json")))
        .count();
    let environment: BTreeMap<String, String> = std::env::vars_os()
        .map(|(key, value)| {
            (
                key.to_string_lossy().into_owned(),
                value.to_string_lossy().into_owned(),
            )
        })
        .collect();
    let text = json!({ "env": environment, "stdin": config }).to_string();
    let path: PathBuf = dir.join(format!("{:04}-{verb}.json", names.len() + 1));
    fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    Ok(of_verb as u64 + 1)
}

fn answer(config: &Value) -> Value {
    if let Some(result) = config.get("prevResult") {
        return result.clone();
    }
    let version = config
        .get("cniVersion")
        .cloned()
        .unwrap_or_else(|| json!("1.0.0"));
    let address = config
        .get("address")
        .cloned()
        .unwrap_or_else(|| json!("10.9.0.2/24"));
    let interface = std::env::var("CNI_IFNAME").unwrap_or_default();
    let sandbox = std::env::var("CNI_NETNS").unwrap_or_default();
    json!({
        "cniVersion": version,
        "interfaces": [{ "name": interface, "sandbox": sandbox }],
        "ips": [{ "address": address, "interface": 0 }],
    })
}
