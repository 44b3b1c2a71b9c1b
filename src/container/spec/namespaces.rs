//! Which namespaces are new, joined or the node's.

use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType as Type};
use std::path::PathBuf;

use crate::cgroup::Mode;
use crate::sandbox::model::NamespaceMode;

use super::Inputs;
use super::error::SpecError;

pub(super) fn build(inputs: &Inputs<'_>) -> Result<Vec<LinuxNamespace>, SpecError> {
    let wanted = &inputs.config.security.namespaces;
    let pod = &inputs.pod;
    if wanted.user != pod.config.namespaces.user {
        return Err(SpecError::invalid(
            "config.linux.security_context.namespace_options.userns_options",
            "it differs from the pod's",
        ));
    }
    let mut list = vec![new(Type::Mount)];
    list.extend(pid(inputs)?);
    // An absent path is the node's namespace, and then none is named.
    list.extend(pod.net.clone().map(|path| join(Type::Network, path)));
    list.extend(pod.ipc.clone().map(|path| join(Type::Ipc, path)));
    list.extend(pod.uts.clone().map(|path| join(Type::Uts, path)));
    list.extend(pod.user.clone().map(|path| join(Type::User, path)));
    // On v1 tools inside look for the full path (JVMs, cAdvisor).
    if inputs.host.cgroup_mode == Mode::Unified && !inputs.config.security.privileged {
        list.push(new(Type::Cgroup));
    }
    Ok(list)
}

fn pid(inputs: &Inputs<'_>) -> Result<Option<LinuxNamespace>, SpecError> {
    let field = "config.linux.security_context.namespace_options.pid";
    match inputs.config.security.namespaces.pid {
        NamespaceMode::Container => Ok(Some(new(Type::Pid))),
        NamespaceMode::Node => Ok(None),
        // POD is also what an absent request reads as: the container is then
        // what its pod is, and has its own where the pod shares none.
        NamespaceMode::Pod => Ok(match &inputs.pod.pid {
            Some(path) => Some(join(Type::Pid, path.clone())),
            None if inputs.pod.config.namespaces.pid == NamespaceMode::Node => None,
            None => Some(new(Type::Pid)),
        }),
        NamespaceMode::Target => match &inputs.target_pid_ns {
            Some(path) => Ok(Some(join(Type::Pid, path.clone()))),
            None => Err(SpecError::invalid(field, "TARGET without a running target")),
        },
    }
}

fn new(typ: Type) -> LinuxNamespace {
    let mut namespace = LinuxNamespace::default();
    namespace.set_typ(typ);
    namespace
}

fn join(typ: Type, path: PathBuf) -> LinuxNamespace {
    let mut namespace = new(typ);
    namespace.set_path(Some(path));
    namespace
}
