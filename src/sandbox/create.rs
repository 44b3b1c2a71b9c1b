//! RunPodSandbox as phases that consume each other.
//!
//! ```text
//! Reserved -record-> Unpinned -namespaces, init-> NamespacesPinned -network-> Networked -files, shm-> record: ready
//! ```
//!
//! Each phase returns the next one or a [`Failed`], which carries the record;
//! unwinding is `destroy(record)`, whatever the phase.

use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::base::id::SandboxId;
use crate::base::readable::Readable;
use crate::cni::{Attachment, Bandwidth, PortMap};
use crate::netns::{self, Kind, Namespace, NetnsError, pin_process};
use crate::store::Durability;

use super::env::Env;
use super::error::StepError;
use super::files::{self, Texts};
use super::init::PodInit;
use super::model::{Protocol, SandboxConfig};
use super::record::{Recorded, SandboxRecord};
use super::state::Stage;
use super::validate::sysctls;

/// Where the creation is, published and kept for the error.
pub(super) struct Progress<'a> {
    publish: &'a (dyn Fn(Stage) + Send + Sync),
    now: Mutex<(Stage, Instant)>,
}

impl<'a> Progress<'a> {
    pub(super) fn new(publish: &'a (dyn Fn(Stage) + Send + Sync)) -> Self {
        Self {
            publish,
            now: Mutex::new((Stage::Record, Instant::now())),
        }
    }

    fn enter(&self, stage: Stage) {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        *now = (stage.clone(), Instant::now());
        (self.publish)(stage);
    }
}

/// A creation that failed, and the record of what it may have made.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) record: SandboxRecord,
    pub(super) stage: Stage,
    pub(super) after: Duration,
    pub(super) cause: StepError,
}

/// A sandbox that is ready.
#[derive(Debug)]
pub(super) struct Created {
    pub(super) record: SandboxRecord,
    pub(super) init: Option<Readable>,
}

/// What each phase carries.
struct Making<'a> {
    env: &'a Arc<Env>,
    progress: &'a Progress<'a>,
    record: SandboxRecord,
    init: Option<Readable>,
}

impl Making<'_> {
    fn failed(self, cause: StepError) -> Box<Failed> {
        let (stage, since) = self
            .progress
            .now
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        Box::new(Failed {
            record: self.record,
            stage,
            after: since.elapsed(),
            cause,
        })
    }

    fn write(&self) -> Result<(), StepError> {
        let record = &self.record;
        let written = self
            .env
            .records
            .write(record.id.as_str(), record, Durability::Rename);
        Ok(written?)
    }
}

struct Reserved<'a>(Making<'a>);
struct Unpinned<'a>(Making<'a>);
struct NamespacesPinned<'a>(Making<'a>);
struct Networked<'a>(Making<'a>);

/// Creates the sandbox that `record` plans.
///
/// # Errors
/// [`Failed`]; unwinding it is the caller's.
pub(super) async fn create(
    env: &Arc<Env>,
    record: SandboxRecord,
    progress: &Progress<'_>,
) -> Result<Created, Box<Failed>> {
    let making = Making {
        env,
        progress,
        record,
        init: None,
    };
    let recorded = Reserved(making).record()?;
    let pinned = recorded.pin_namespaces().await?;
    let networked = pinned.attach_network().await?;
    networked.make_ready().await
}

impl<'a> Reserved<'a> {
    /// From here on the next start of the daemon knows what to clean up.
    fn record(self) -> Result<Unpinned<'a>, Box<Failed>> {
        let making = self.0;
        making.progress.enter(Stage::Record);
        match making.write() {
            Ok(()) => Ok(Unpinned(making)),
            Err(cause) => Err(making.failed(cause)),
        }
    }
}

impl<'a> Unpinned<'a> {
    async fn pin_namespaces(self) -> Result<NamespacesPinned<'a>, Box<Failed>> {
        let mut making = self.0;
        match Self::steps(&mut making).await {
            Ok(()) => Ok(NamespacesPinned(making)),
            Err(cause) => Err(making.failed(cause)),
        }
    }

    async fn steps(making: &mut Making<'a>) -> Result<(), StepError> {
        let env = making.env;
        making.progress.enter(Stage::Namespaces);
        let record = making.record.clone();
        if making.record.namespaces.user.is_some() {
            pin_userns(env, &making.record).await?;
            making.record.identities = env
                .blocking(move |_| {
                    netns::set_up(&request(&record))?;
                    identities(&record)
                })
                .await?;
        } else {
            making.record.identities = env
                .blocking(move |env| {
                    make_ns_dir(env, &record)?;
                    netns::create(&request(&record))?;
                    identities(&record)
                })
                .await?;
        }
        making.progress.enter(Stage::Cgroup);
        let record = making.record.clone();
        env.blocking(move |env| {
            let _tree = env
                .cgroup_tree
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            env.cgroups.create(&record.cgroup)?;
            match &record.init_cgroup {
                Some(group) => env.cgroups.create(group),
                None => Ok(()),
            }
        })
        .await?;
        if let Some(pin) = making.record.namespaces.pid.clone() {
            making.progress.enter(Stage::Init);
            making.init = Some(start_init(env, &mut making.record, &pin).await?);
        }
        Ok(())
    }
}

type Identities = std::collections::BTreeMap<String, netns::Identity>;

fn make_ns_dir(env: &Env, record: &SandboxRecord) -> Result<(), StepError> {
    let paths = &record.namespaces;
    if [&paths.ipc, &paths.uts, &paths.pid, &paths.user]
        .iter()
        .any(|p| p.is_some())
    {
        files::make_dir(&env.layout.ns_dir(&record.id))?;
    }
    Ok(())
}

/// The namespaces that need no process, how they are set up and where they are pinned.
fn request(record: &SandboxRecord) -> netns::Request {
    let paths = &record.namespaces;
    let own = [
        (Kind::Net, &paths.net),
        (Kind::Ipc, &paths.ipc),
        (Kind::Uts, &paths.uts),
    ];
    netns::Request {
        pins: own
            .into_iter()
            .filter_map(|(kind, path)| Some((kind, path.clone()?)))
            .collect(),
        hostname: record.hostname.clone(),
        // They were checked before the sandbox had a name.
        sysctls: sysctls(&record.config).unwrap_or_default(),
    }
}

/// What the pinned namespaces are.
fn identities(record: &SandboxRecord) -> Result<Identities, StepError> {
    let paths = &record.namespaces;
    let pinned = [
        ("net", &paths.net),
        ("ipc", &paths.ipc),
        ("uts", &paths.uts),
        ("user", &paths.user),
    ];
    let identities = pinned
        .into_iter()
        .filter_map(|(name, path)| Some((name, path.as_ref()?)))
        .map(|(name, path)| Ok((name.to_owned(), Namespace::open(path)?.identity())));
    let identities: Result<_, NetnsError> = identities.collect();
    Ok(identities?)
}

/// Has a user namespace made with the others inside it, and pins them all: what
/// is in the others belongs to the pod's root only if they were made there.
async fn pin_userns(env: &Arc<Env>, record: &SandboxRecord) -> Result<(), StepError> {
    let mapping = record.config.namespaces.user.as_ref();
    let (Some(inits), Some(mapping), Some(user)) =
        (env.inits.clone(), mapping, record.namespaces.user.clone())
    else {
        return Err(StepError::NoInit);
    };
    make_ns_dir(env, record)?;
    let pins = request(record).pins;
    let own = pins.iter().map(|(kind, _)| *kind).collect();
    let bind = move |process: &Path| {
        netns::pin(&process.join("user"), &user)?;
        pins.iter()
            .try_for_each(|(kind, pin)| netns::pin(&process.join(kind.name()), pin))
    };
    let pinned = inits.pin_userns(mapping, own, Box::new(bind)).await;
    pinned.map_err(StepError::UserNamespace)
}

/// Starts PID 1 of the pod in its cgroup, by which it is ended, and pins its
/// namespace.
async fn start_init(
    env: &Arc<Env>,
    record: &mut SandboxRecord,
    pin: &Path,
) -> Result<Readable, StepError> {
    let Some(inits) = env.inits.clone() else {
        return Err(StepError::NoInit);
    };
    let procs = record.init_cgroup.as_ref();
    let procs = procs.map_or_else(Vec::new, |group| env.cgroups.procs_files(group));
    let started = inits
        .start(&record.id, procs, record.namespaces.user.clone())
        .await;
    let PodInit { pid, pidfd } = started.map_err(StepError::Init)?;
    record.init_pid = Some(pid);
    let (group, pin) = (record.init_cgroup.clone(), pin.to_owned());
    let (identity, pidfd) = env
        .blocking(move |env| {
            if let Some(group) = &group {
                env.cgroups.attach(group, pid)?;
            }
            pin_process(pid, pidfd.as_fd(), "pid", &pin)?;
            Ok::<_, StepError>((Namespace::open(&pin)?.identity(), pidfd))
        })
        .await?;
    record.identities.insert("pid".to_owned(), identity);
    Readable::new(pidfd).map_err(|e| StepError::Init(Box::new(e)))
}

impl<'a> NamespacesPinned<'a> {
    async fn attach_network(self) -> Result<Networked<'a>, Box<Failed>> {
        let mut making = self.0;
        let Some(netns) = making.record.namespaces.net.clone() else {
            return Ok(Networked(making));
        };
        let progress = making.progress;
        let network = |plugin: &str| {
            progress.enter(Stage::Network {
                plugin: plugin.to_owned(),
            });
        };
        network("");
        let attached = match attachment(&making.record.id, &making.record, &netns) {
            Ok(attachment) => making.env.cni.add(&attachment, &network).await,
            Err(cause) => return Err(making.failed(cause)),
        };
        match attached {
            Ok(attached) => {
                making.record.ips = attached.ips;
                Ok(Networked(making))
            }
            Err(error) => Err(making.failed(error.into())),
        }
    }
}

/// What the plugins are told of the pod.
fn attachment(
    id: &SandboxId,
    record: &SandboxRecord,
    netns: &Path,
) -> Result<Attachment, StepError> {
    let config = &record.config;
    Ok(Attachment {
        id: id.clone(),
        netns: netns.to_owned(),
        pod_namespace: config.metadata.namespace.clone(),
        pod_name: config.metadata.name.clone(),
        pod_uid: config.metadata.uid.clone(),
        ports: ports(config)?,
        bandwidth: Bandwidth::from_annotations(&config.annotations)?,
        dns: config
            .dns
            .clone()
            .map(|dns| (dns.servers, dns.searches, dns.options)),
        annotations: config.annotations.clone(),
        cgroup_path: config.cgroup_parent.clone(),
    })
}

/// The port mappings in CNI's form.
pub(super) fn ports(config: &SandboxConfig) -> Result<Vec<PortMap>, StepError> {
    let address = |text: &str| -> Result<Option<IpAddr>, StepError> {
        match text {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|_| StepError::HostIp {
                host_ip: text.to_owned(),
            }),
        }
    };
    let mapped = config.port_mappings.iter().filter(|p| p.host_port != 0);
    mapped
        .map(|port| {
            Ok(PortMap {
                host_port: port.host_port,
                container_port: port.container_port,
                protocol: match port.protocol {
                    Protocol::Tcp => "tcp",
                    Protocol::Udp => "udp",
                    Protocol::Sctp => "sctp",
                }
                .to_owned(),
                host_ip: address(&port.host_ip)?,
            })
        })
        .collect()
}

impl Networked<'_> {
    async fn make_ready(self) -> Result<Created, Box<Failed>> {
        let mut making = self.0;
        making.progress.enter(Stage::Files);
        let record = making.record.clone();
        if let Err(cause) = making.env.blocking(move |env| texts(env, &record)).await {
            return Err(making.failed(cause));
        }
        making.progress.enter(Stage::Shm);
        let record = making.record.clone();
        if let Err(cause) = making.env.blocking(move |_| shm(&record)).await {
            return Err(making.failed(cause));
        }
        making.progress.enter(Stage::Record);
        making.record.state = Recorded::Ready;
        if let Err(cause) = making.write() {
            return Err(making.failed(cause));
        }
        Ok(Created {
            record: making.record,
            init: making.init,
        })
    }
}

fn texts(env: &Env, record: &SandboxRecord) -> Result<(), StepError> {
    let texts = Texts::of(&record.config, &record.hostname, &record.ips, &env.host)?;
    files::write(&record.files.hostname, texts.hostname.as_bytes())?;
    files::write(&record.files.hosts, &texts.hosts)?;
    files::write(&record.files.resolv_conf, &texts.resolv_conf)?;
    Ok(())
}

fn shm(record: &SandboxRecord) -> Result<(), StepError> {
    // With the node's IPC namespace the pod has the node's /dev/shm.
    if record.namespaces.ipc.is_some() {
        let user = record.config.namespaces.user.as_ref();
        let (uid, gid) = user.map_or((0, 0), |u| (u.uid.host_id, u.gid.host_id));
        files::mount_shm(&record.files.shm, uid, gid)?;
    }
    Ok(())
}
