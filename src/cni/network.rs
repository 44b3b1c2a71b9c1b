//! The handle: attach and detach pods.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use crate::base::chain::chain;
use crate::base::id::SandboxId;
use crate::base::tasks::Tasks;

use super::chain as plugins;
use super::error::{CniError, NetworkNotReady, PluginCause, PluginFailure};
use super::exec::{Runner, Verb};
use super::fallback::FallbackBridge;
use super::intent::{Attachment, Intent, Intents};
use super::result::addresses;
use super::watch::{Networks, Watch};

/// The interface in the pod, the one name that everybody expects.
const IFNAME: &str = "eth0";
/// First and longest pause before a failed DEL is repeated.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// STATUS answers a probe of kubelet; it may not take as long as ADD.
const STATUS_TIMEOUT: Duration = Duration::from_secs(5);

/// What [`Cni`] works with.
#[derive(Debug, Clone)]
pub struct CniConfig {
    /// Network configurations.
    pub conf_dir: PathBuf,
    /// Plugins, searched in this order.
    pub bin_dirs: Vec<PathBuf>,
    /// The network while `conf_dir` holds none.
    pub fallback: Option<FallbackBridge>,
    /// Intents and results; ours alone.
    pub intents: PathBuf,
    /// For one call of one plugin, after which it is killed.
    pub timeout: Duration,
}

/// A pod that is attached.
#[derive(Debug, Clone)]
pub struct Attached {
    /// Name of the network.
    pub network: String,
    /// Addresses of `eth0`, the primary one first. Never empty.
    pub ips: Vec<IpAddr>,
}

/// The pod network. Operations on one sandbox are serial, on different ones parallel.
#[derive(Debug, Clone)]
pub struct Cni(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    runner: Runner,
    intents: Intents,
    networks: watch::Receiver<Arc<Networks>>,
    tasks: Tasks,
    busy: Serial<SandboxId>,
    retrying: Mutex<HashSet<SandboxId>>,
}

impl Cni {
    /// Reads the configuration directory, starts to follow it, and opens the
    /// intents. Within a tokio runtime.
    ///
    /// # Errors
    /// [`CniError::Io`] when the directory of the intents can't be made.
    pub fn open(config: CniConfig, tasks: &Tasks) -> Result<Self, CniError> {
        let intents = Intents::open(&config.intents)?;
        let leases = intents.leases();
        let fallback = config.fallback.and_then(|bridge| {
            bridge
                .list(&leases)
                .inspect_err(|error| tracing::error!(error = %chain(error), "fallback network"))
                .ok()
        });
        let watch = Watch {
            dir: config.conf_dir,
            fallback,
        };
        Ok(Self(Arc::new(Inner {
            runner: Runner {
                bin_dirs: config.bin_dirs,
                timeout: config.timeout,
            },
            intents,
            networks: watch.start(tasks),
            tasks: tasks.clone(),
            busy: Serial::default(),
            retrying: Mutex::default(),
        })))
    }

    /// What the configuration directory amounts to at present.
    #[must_use]
    pub fn networks(&self) -> Arc<Networks> {
        self.0.networks.borrow().clone()
    }

    /// Whether a pod could be attached: there is a network, and its plugins say
    /// so where the configuration is of a version that has STATUS.
    ///
    /// # Errors
    /// [`NetworkNotReady`] with the reason, for RuntimeStatus.
    pub async fn ready(&self) -> Result<(), NetworkNotReady> {
        let network = self.networks().current.clone()?;
        let runner = Runner {
            timeout: self.0.runner.timeout.min(STATUS_TIMEOUT),
            ..self.0.runner.clone()
        };
        plugins::status(&runner, &network.list)
            .await
            .map_err(|error| NetworkNotReady {
                reason: chain(&error),
            })
    }

    /// Attaches a pod: intent to disk, then ADD. After an error the intent may
    /// exist, and [`Self::del`] is due. `progress` is told each plugin before it runs.
    ///
    /// # Errors
    /// [`CniError`]; [`CniError::NotReady`], [`CniError::Exists`] and a missing plugin before
    /// any effect.
    pub async fn add(
        &self,
        attachment: &Attachment,
        progress: &(dyn Fn(&str) + Send + Sync),
    ) -> Result<Attached, CniError> {
        let inner = &self.0;
        let network = self.networks().current.clone()?;
        plugins::present(&inner.runner, &network.list)?;
        let _serial = inner.busy.lock(&attachment.id).await;
        let intent = Intent::new(&network.list, attachment, IFNAME);
        let intent = inner
            .blocking(move |intents| intents.write(&intent).map(|()| intent))
            .await?;
        let result = plugins::add(&inner.runner, &network.list, &intent, progress)
            .await
            .map_err(Box::new)?;
        let ips = addresses(&result, IFNAME).map_err(|error| {
            Box::new(PluginFailure {
                verb: Verb::Add,
                plugin: network
                    .list
                    .plugin_names()
                    .last()
                    .unwrap_or_default()
                    .to_owned(),
                network: network.list.name().to_owned(),
                cause: PluginCause::Result(error),
            })
        })?;
        inner.intents.write_result(&attachment.id, &result)?;
        let name = network.list.name().to_owned();
        if ips.is_empty() {
            return Err(CniError::NoAddress { network: name });
        }
        Ok(Attached { network: name, ips })
    }

    /// Detaches a pod by its intent alone; one without an intent is detached.
    /// After an error the intent stays, and DEL is repeated in the background.
    ///
    /// # Errors
    /// [`CniError`] of this attempt.
    pub async fn del(&self, id: &SandboxId) -> Result<(), CniError> {
        let result = self.0.del(id).await;
        if result.is_err() {
            self.retry(id);
        }
        result
    }

    /// Detaches a pod, again and again until that succeeds.
    ///
    /// # Errors
    /// The last error when the daemon shuts down before.
    pub async fn del_until_done(&self, id: &SandboxId) -> Result<(), CniError> {
        self.0.del_until_done(id).await
    }

    /// Sandboxes whose DEL is still due, attached ones among them.
    ///
    /// # Errors
    /// [`CniError::Io`] when the directory can't be read.
    pub fn pending(&self) -> Result<Vec<SandboxId>, CniError> {
        self.0.intents.ids()
    }

    fn retry(&self, id: &SandboxId) {
        if !locked(&self.0.retrying).insert(id.clone()) {
            return;
        }
        let (inner, id) = (self.0.clone(), id.clone());
        self.0.tasks.spawn(async move {
            let stopping = inner.tasks.stopping();
            tokio::select! {
                () = stopping.cancelled() => {}
                () = tokio::time::sleep(RETRY.0) => {
                    if let Err(error) = inner.del_until_done(&id).await {
                        tracing::warn!(sandbox = %id, error = %chain(&error),
                            "network not detached; the next start tries again");
                    }
                }
            }
            locked(&inner.retrying).remove(&id);
        });
    }
}

impl Inner {
    async fn del(&self, id: &SandboxId) -> Result<(), CniError> {
        let _serial = self.busy.lock(id).await;
        let Some(intent) = self.intents.read(id)? else {
            return Ok(());
        };
        let list = intent.list().map_err(|source| CniError::BadIntent {
            path: PathBuf::from(format!("{id}.json")),
            source,
        })?;
        let result = self.intents.read_result(id);
        let mut failures = plugins::del(&self.runner, &list, &intent, result.as_ref()).await;
        match (failures.pop(), failures.is_empty()) {
            (None, _) => self.intents.remove(id),
            (Some(only), true) => Err(Box::new(only).into()),
            (Some(last), false) => {
                failures.push(last);
                Err(CniError::Plugins(failures))
            }
        }
    }

    async fn del_until_done(&self, id: &SandboxId) -> Result<(), CniError> {
        let stopping = self.tasks.stopping();
        let mut pause = RETRY.0;
        loop {
            let error = match self.del(id).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            tracing::warn!(sandbox = %id, error = %chain(&error), again_after = ?pause,
                "network not detached");
            tokio::select! {
                () = stopping.cancelled() => return Err(error),
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(RETRY.1),
            }
        }
    }

    /// Runs a synced write off the runtime's threads.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Intents) -> Result<T, CniError> + Send + 'static,
    ) -> Result<T, CniError> {
        let intents = self.intents.clone();
        let joined = self.tasks.spawn_blocking(move || work(&intents)).await;
        joined.unwrap_or_else(|error| {
            Err(CniError::io(
                "write an intent below",
                &self.intents.leases(),
            )(std::io::Error::other(error)))
        })
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One lock a key, there while somebody holds or awaits it.
#[derive(Debug)]
struct Serial<K>(Arc<Mutex<HashMap<K, Arc<tokio::sync::Mutex<()>>>>>);

impl<K> Default for Serial<K> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

struct Turn<K: Eq + Hash> {
    map: Arc<Mutex<HashMap<K, Arc<tokio::sync::Mutex<()>>>>>,
    key: K,
    guard: Option<tokio::sync::OwnedMutexGuard<()>>,
}

impl<K: Eq + Hash + Clone> Serial<K> {
    async fn lock(&self, key: &K) -> Turn<K> {
        let lock = locked(&self.0).entry(key.clone()).or_default().clone();
        Turn {
            map: self.0.clone(),
            key: key.clone(),
            guard: Some(lock.lock_owned().await),
        }
    }
}

impl<K: Eq + Hash> Drop for Turn<K> {
    fn drop(&mut self) {
        self.guard = None;
        let mut map = locked(&self.map);
        if map
            .get(&self.key)
            .is_some_and(|lock| Arc::strong_count(lock) == 1)
        {
            map.remove(&self.key);
        }
    }
}
