//! A list of plugins as one operation: ADD forwards, DEL backwards.

use std::ffi::OsStr;
use std::path::Path;

use nix::sys::statfs::{NSFS_MAGIC, statfs};
use serde_json::{Map, Value};

use super::conf::{NetworkList, Plugin, Version};
use super::error::{PluginCause, PluginFailure};
use super::exec::{Call, Runner, Verb};
use super::intent::Intent;

/// Told the type of each plugin before it runs.
pub(super) type Progress<'a> = &'a (dyn Fn(&str) + Send + Sync);

/// The execution configuration of one plugin (CNI specification, "Deriving
/// execution configuration"): of the capability arguments only those that the
/// plugin declares.
pub(super) fn execution_config(
    list: &NetworkList,
    plugin: &Plugin,
    capability_args: &Map<String, Value>,
    previous: Option<&Value>,
) -> Value {
    let mut config = plugin.raw.clone();
    config.remove("capabilities");
    config.insert("name".into(), list.name().into());
    config.insert("cniVersion".into(), list.version().as_str().into());
    let runtime: Map<_, _> = capability_args
        .iter()
        .filter(|(name, _)| plugin.capabilities.contains(*name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    if !runtime.is_empty() {
        config.insert("runtimeConfig".into(), Value::Object(runtime));
    }
    if let Some(previous) = previous {
        config.insert("prevResult".into(), previous.clone());
    }
    Value::Object(config)
}

struct Chain<'a> {
    runner: &'a Runner,
    list: &'a NetworkList,
    intent: &'a Intent,
    netns: &'a Path,
}

impl Chain<'_> {
    async fn call(
        &self,
        verb: Verb,
        plugin: &Plugin,
        previous: Option<&Value>,
    ) -> Result<Vec<u8>, PluginFailure> {
        let intent = self.intent;
        let config = execution_config(self.list, plugin, &intent.capability_args, previous);
        let call = Call {
            verb,
            plugin: &plugin.kind,
            container: intent.id.as_str(),
            netns: self.netns,
            ifname: &intent.ifname,
            args: &intent.args,
            stdin: config.to_string().into_bytes(),
        };
        self.runner
            .run(&call)
            .await
            .map_err(|cause| failure(verb, plugin, self.list, cause))
    }
}

fn failure(verb: Verb, plugin: &Plugin, list: &NetworkList, cause: PluginCause) -> PluginFailure {
    PluginFailure {
        verb,
        plugin: plugin.kind.clone(),
        network: list.name().to_owned(),
        cause,
    }
}

/// Looks for every plugin of the network, so that one that is missing is known
/// before the first has an effect.
pub(super) fn present(runner: &Runner, list: &NetworkList) -> Result<(), Box<PluginFailure>> {
    for plugin in list.plugins() {
        let found = runner.find(&plugin.kind);
        found.map_err(|cause| Box::new(failure(Verb::Add, plugin, list, cause)))?;
    }
    Ok(())
}

/// Runs ADD of each plugin, each with the result of the one before, and returns
/// the last result. The first failure ends it; DEL is then the caller's.
pub(super) async fn add(
    runner: &Runner,
    list: &NetworkList,
    intent: &Intent,
    progress: Progress<'_>,
) -> Result<Value, PluginFailure> {
    let chain = Chain {
        runner,
        list,
        intent,
        netns: &intent.netns,
    };
    let mut result: Option<Value> = None;
    for plugin in list.plugins() {
        progress(&plugin.kind);
        let answer = chain.call(Verb::Add, plugin, result.as_ref()).await?;
        let parsed = serde_json::from_slice(&answer)
            .map_err(|e| failure(Verb::Add, plugin, list, PluginCause::Result(e)))?;
        result = Some(parsed);
    }
    Ok(result.unwrap_or_default())
}

/// Runs DEL of each plugin in reverse. One that fails keeps no other from
/// giving back what it holds: DEL is idempotent, so all are repeated later.
pub(super) async fn del(
    runner: &Runner,
    list: &NetworkList,
    intent: &Intent,
    result: Option<&Value>,
) -> Vec<PluginFailure> {
    let chain = Chain {
        runner,
        list,
        intent,
        netns: if is_namespace(&intent.netns) {
            &intent.netns
        } else {
            Path::new(OsStr::new(""))
        },
    };
    let result = result.filter(|_| list.version() >= Version::DEL_WITH_RESULT);
    let mut failures = Vec::new();
    for plugin in list.plugins().iter().rev() {
        failures.extend(chain.call(Verb::Del, plugin, result).await.err());
    }
    failures
}

/// Asks each plugin whether it can serve an ADD. Only for lists that are
/// written in a version that has STATUS.
pub(super) async fn status(runner: &Runner, list: &NetworkList) -> Result<(), PluginFailure> {
    if list.version() < Version::STATUS {
        return Ok(());
    }
    for plugin in list.plugins() {
        let call = Call {
            verb: Verb::Status,
            plugin: &plugin.kind,
            container: "",
            netns: Path::new(""),
            ifname: "",
            args: "",
            stdin: execution_config(list, plugin, &Map::new(), None)
                .to_string()
                .into_bytes(),
        };
        let asked = runner.run(&call).await;
        asked.map_err(|cause| failure(Verb::Status, plugin, list, cause))?;
    }
    Ok(())
}

/// After a reboot the path may be gone, or be an empty file.
fn is_namespace(path: &Path) -> bool {
    statfs(path).is_ok_and(|fs| fs.filesystem_type() == NSFS_MAGIC)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_declared_capabilities_are_passed() {
        let list = NetworkList::parse(
            br#"{"cniVersion":"0.4.0","name":"n","plugins":[
              {"type":"bridge","mtu":9000,"capabilities":{"dns":true}},
              {"type":"portmap","capabilities":{"portMappings":true,"dns":false}}]}"#,
        )
        .unwrap();
        let args = json!({"portMappings": [1], "dns": {}, "cgroupPath": "/x"});
        let args = args.as_object().unwrap();
        let previous = json!({"ips": []});
        assert_eq!(
            execution_config(&list, &list.plugins()[0], args, None),
            json!({"type":"bridge","mtu":9000,"name":"n","cniVersion":"0.4.0",
                   "runtimeConfig":{"dns":{}}})
        );
        assert_eq!(
            execution_config(&list, &list.plugins()[1], args, Some(&previous)),
            json!({"type":"portmap","name":"n","cniVersion":"0.4.0",
                   "runtimeConfig":{"portMappings":[1]},"prevResult":{"ips":[]}})
        );
    }
}
