//! The parts of the daemon in the order in which they need each other.

use std::error::Error;
use std::sync::Arc;

use longshore_snapshotter::{OverlayConfig, OverlaySnapshotter};

use super::init::ShimInits;
use crate::base::boot;
use crate::base::tasks::Tasks;
use crate::cgroup::{CgroupPath, Hierarchies};
use crate::cni::{Cni, CniConfig, FallbackBridge};
use crate::config::{Config, Paths};
use crate::container::spec::HostFacts;
use crate::container::{Containers, ContainersConfig};
use crate::image::{Images, ImagesConfig};
use crate::sandbox::{HostFiles, Sandboxes, SandboxesConfig};
use crate::shimlink::{Shims, ShimsConfig};

/// What the services call.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) cni: Cni,
    pub(super) images: Images,
    pub(super) sandboxes: Sandboxes,
    pub(super) containers: Containers,
}

impl Parts {
    /// Opens everything and recovers what lives: images, then sandboxes, then
    /// containers, then what no image and no container needs goes.
    pub(super) async fn open(config: &Config, tasks: &Tasks) -> Result<Self, Box<dyn Error>> {
        let paths = &config.paths;
        let cgroups = Arc::new(Hierarchies::detect()?);
        let shims = Arc::new(shims(config, &cgroups, tasks)?);
        let directories = OverlayConfig::new(paths.layers(), paths.staging(), paths.containers());
        let snapshotter = Arc::new(OverlaySnapshotter::open(directories)?);
        let images = images(config, snapshotter.clone(), tasks)?;
        let cni = Cni::open(cni_config(config), tasks)?;
        let sandboxes = sandboxes(config, &cni, &cgroups, &shims, tasks).await?;
        let containers = Containers::open(ContainersConfig {
            containers: paths.containers(),
            stage: paths.stage(),
            runtime_state: paths.runtime(),
            boot_id: boot::boot_id()?,
            host: HostFacts::probe(&cgroups)?,
            cgroups,
            runtime: shims,
            images: Arc::new(images.clone()),
            snapshots: snapshotter,
            pods: Arc::new(sandboxes.clone()),
            tasks: tasks.clone(),
        })
        .await?;
        keep_layers_of(&containers, &images);
        let sweeper = images.clone();
        tasks.spawn(async move { sweeper.gc().await });
        Ok(Self {
            cni,
            images,
            sandboxes,
            containers,
        })
    }
}

/// A container needs its layers also after its image was removed.
fn keep_layers_of(containers: &Containers, images: &Images) {
    let containers = containers.clone();
    images.register_roots(Arc::new(move || containers.layers_in_use()));
}

/// All shims share one cgroup, outside the daemon's service and outside the pods.
fn shims(config: &Config, cgroups: &Hierarchies, tasks: &Tasks) -> Result<Shims, Box<dyn Error>> {
    let path = CgroupPath::new(&format!("/longshore-{}-shims", config.instance))?;
    cgroups.create(&path)?;
    Ok(Shims::new(ShimsConfig {
        binary: config.shim.clone(),
        sockets: config.paths.shims(),
        cgroup: cgroups.procs_files(&path),
        tasks: tasks.clone(),
    })?)
}

fn images(
    config: &Config,
    snapshotter: Arc<OverlaySnapshotter>,
    tasks: &Tasks,
) -> Result<Images, Box<dyn Error>> {
    let paths = &config.paths;
    let settings = ImagesConfig {
        records: paths.images(),
        layers: paths.layers(),
        staging: paths.staging(),
        settings: config.images.clone(),
    };
    Ok(Images::open(settings, snapshotter, tasks.clone())?)
}

async fn sandboxes(
    config: &Config,
    cni: &Cni,
    cgroups: &Hierarchies,
    shims: &Arc<Shims>,
    tasks: &Tasks,
) -> Result<Sandboxes, Box<dyn Error>> {
    let paths: &Paths = &config.paths;
    let settings = SandboxesConfig {
        instance: config.instance.clone(),
        boot_id: boot::boot_id()?,
        records: paths.sandboxes(),
        namespaces: paths.namespaces(),
        shm: paths.shm(),
        netns: paths.netns().to_owned(),
        cni: cni.clone(),
        cgroups: cgroups.clone(),
        handlers: config.runtimes.keys().cloned().collect(),
        inits: Some(Arc::new(ShimInits(shims.clone()))),
        host: HostFiles::default(),
        tasks: tasks.clone(),
    };
    Ok(Sandboxes::open(settings).await?)
}

fn cni_config(config: &Config) -> CniConfig {
    CniConfig {
        conf_dir: config.cni.conf_dir.clone(),
        bin_dirs: config.cni.bin_dirs.clone(),
        fallback: config.cni.fallback.as_ref().map(|fallback| FallbackBridge {
            bridge: fallback.bridge.clone(),
            subnet: fallback.subnet,
            prefix: fallback.prefix,
        }),
        intents: config.paths.network(),
        timeout: config.cni.timeout,
    }
}
