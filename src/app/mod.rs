//! The composition root: mechanisms, then domain, then services.
//!
//! Nothing is served before recovery is done, so a client never sees half of
//! what lives.

mod init;
mod lock;
mod parts;
mod socket;
mod state_dir;

use std::error::Error;

use longshore_proto::admin::v1::admin_server::AdminServer;
use longshore_proto::cri::v1::image_service_server::ImageServiceServer;
use longshore_proto::cri::v1::runtime_service_server::RuntimeServiceServer;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

use self::parts::Parts;
use crate::base::tasks::Tasks;
use crate::config::{Config, Paths};
use crate::service::admin::AdminRpcs;
use crate::service::facts::Facts;
use crate::service::image::ImageRpcs;
use crate::service::runtime::Runtime;
use crate::shutdown::Signals;

/// The largest message that is read, in bytes; kubelet's own limit.
const MESSAGE_LIMIT: usize = 16 << 20;

/// How long calls and then jobs may go on after a signal to stop.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(5);

/// The daemon, ready to serve.
#[derive(Debug)]
pub struct App {
    config: Config,
    tasks: Tasks,
    parts: Parts,
    _lock: lock::RootLock,
}

impl App {
    /// Takes the root, makes the directories, recovers what lives.
    ///
    /// # Errors
    /// What makes it impossible to run at all; a single bad object doesn't.
    pub async fn start(config: Config) -> Result<Self, Box<dyn Error>> {
        let paths = &config.paths;
        state_dir::make(&[(paths.root().to_owned(), 0o711)])?;
        let lock = lock::RootLock::take(&paths.lock())?;
        state_dir::prepare(paths.state())?;
        state_dir::make(&directories(paths))?;
        let tasks = Tasks::new();
        let parts = Parts::open(&config, &tasks).await?;
        Ok(Self {
            config,
            tasks,
            parts,
            _lock: lock,
        })
    }

    fn runtime(&self) -> Runtime {
        Runtime {
            facts: Facts {
                config: self.config.clone(),
                cni: self.parts.cni.clone(),
            },
            sandboxes: self.parts.sandboxes.clone(),
            containers: self.parts.containers.clone(),
            tasks: self.tasks.clone(),
        }
    }

    /// Serves until a signal ends it. Containers live on.
    ///
    /// # Errors
    /// When the socket can't be bound or the server fails.
    pub async fn serve(self, signals: Signals) -> Result<(), Box<dyn Error>> {
        let socket = self.config.paths.socket();
        let listener = socket::bind(socket)?;
        let runtime = RuntimeServiceServer::new(self.runtime())
            .max_decoding_message_size(MESSAGE_LIMIT)
            .max_encoding_message_size(usize::MAX);
        let images = ImageServiceServer::new(ImageRpcs {
            images: self.parts.images.clone(),
        })
        .max_decoding_message_size(MESSAGE_LIMIT)
        .max_encoding_message_size(usize::MAX);
        let admin = AdminServer::new(AdminRpcs {
            images: self.parts.images.clone(),
        });
        tracing::info!(socket = %socket.display(), instance = %self.config.instance, "serving");
        tell(&[sd_notify::NotifyState::Ready]);
        let stop = self.tasks.stopping();
        self.tasks.spawn(async move {
            signals.stop_requested().await;
            tell(&[sd_notify::NotifyState::Stopping]);
            stop.cancel();
        });
        let stopped = self.tasks.stopping();
        let server = Server::builder()
            .add_service(runtime)
            .add_service(images)
            .add_service(admin)
            .serve_with_incoming_shutdown(
                UnixListenerStream::new(listener),
                stopped.clone().cancelled_owned(),
            );
        tokio::select! {
            served = server => served?,
            // A client that keeps its connection open must not keep the daemon alive.
            () = overdue(stopped) => tracing::warn!("clients still connected are cut off"),
        }
        if tokio::time::timeout(PATIENCE, self.tasks.shut_down())
            .await
            .is_err()
        {
            tracing::warn!(after = ?PATIENCE, "jobs at work are left to the next start");
        }
        Ok(())
    }
}

/// Returns [`PATIENCE`] after the daemon was told to stop.
async fn overdue(stopped: CancellationToken) {
    stopped.cancelled().await;
    tokio::time::sleep(PATIENCE).await;
}

/// Every directory with its mode: what user-namespaced containers must search
/// is 0711, the rest is root's alone.
fn directories(paths: &Paths) -> Vec<(std::path::PathBuf, u32)> {
    let searched = [
        paths.sandboxes(),
        paths.containers(),
        paths.layers(),
        paths.stage(),
        paths.shm(),
    ];
    let private = [
        paths.network(),
        paths.images(),
        paths.staging(),
        paths.shims(),
        paths.runtime(),
        paths.namespaces(),
    ];
    let searched = searched.into_iter().map(|path| (path, 0o711));
    searched
        .chain(private.into_iter().map(|path| (path, 0o700)))
        .collect()
}

/// Tells systemd, where it asked to be told (`sd_notify(3)`).
fn tell(state: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "sd_notify failed");
    }
}
