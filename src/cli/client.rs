//! A connection to the daemon.

use std::error::Error;
use std::future::Future;
use std::path::PathBuf;

use clap::Args;
use tonic::transport::{Channel, Endpoint};

use crate::config::{Config, Overrides};

#[derive(Debug, Clone, Args)]
pub(super) struct Socket {
    /// The daemon's socket [default: the configured one].
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

/// Runs `work` with a connection, on this thread.
pub(super) fn run<F>(socket: Socket, work: impl FnOnce(Channel) -> F) -> Result<(), Box<dyn Error>>
where
    F: Future<Output = Result<(), Box<dyn Error>>>,
{
    let socket = match socket.socket {
        Some(path) => path,
        None => Config::load(&Overrides::default())?
            .paths
            .socket()
            .to_owned(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async { work(connect(&std::path::absolute(socket)?).await?).await })
}

async fn connect(socket: &std::path::Path) -> Result<Channel, Box<dyn Error>> {
    let uri = format!("unix://{}", socket.display());
    let endpoint = Endpoint::from_shared(uri)?;
    endpoint
        .connect()
        .await
        .map_err(|source| Unreachable {
            socket: socket.to_owned(),
            source,
        })
        .map_err(Into::into)
}

#[derive(Debug, thiserror::Error)]
#[error("connect to the daemon at {}", socket.display())]
struct Unreachable {
    socket: PathBuf,
    source: tonic::transport::Error,
}
