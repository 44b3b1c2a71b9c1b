//! Signals. SIGTERM and SIGINT end the daemon and leave containers running;
//! SIGHUP never ends it.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that the daemon listens to.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    /// Takes the signals over. To be called before anything slow, so that none
    /// finds its default disposition.
    ///
    /// # Errors
    /// When the handlers can't be installed.
    pub fn install() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// Returns when the daemon is to end.
    pub async fn stop_requested(mut self) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => break tracing::info!("SIGTERM: stopping, containers stay"),
                _ = self.interrupt.recv() => break tracing::info!("SIGINT: stopping, containers stay"),
                _ = self.hang_up.recv() => tracing::info!(
                    "SIGHUP: network configuration and registry hosts are read as they change; \
                     the rest is read at start"
                ),
            }
        }
    }
}
