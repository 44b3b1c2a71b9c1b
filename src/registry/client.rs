//! The HTTP clients, shared by all pulls.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use reqwest::redirect::Policy;
use tokio::sync::OnceCell;

use super::auth::Credentials;
use super::repository::Repository;
use super::{RegistryError, host, tls};

/// How to speak to registries.
#[derive(Debug, Clone)]
pub struct RegistryConfig {
    /// PEM files with CA certificates that are trusted beside the system's.
    pub ca_files: Vec<PathBuf>,
    /// How long making a connection may take.
    pub connect_timeout: Duration,
    /// How long a registry may send nothing before a request fails.
    pub progress_timeout: Duration,
}

impl Default for RegistryConfig {
    fn default() -> Self {
        Self {
            ca_files: Vec::new(),
            connect_timeout: Duration::from_secs(30),
            progress_timeout: Duration::from_secs(300),
        }
    }
}

#[derive(Debug)]
struct Clients {
    /// Through the proxy that the environment names, if any.
    outside: reqwest::Client,
    /// Never through a proxy: it would reach the proxy's own loopback.
    loopback: reqwest::Client,
    /// The same two for requests whose body is a secret: a redirect would send
    /// it on to whatever host it names, which for a header the client prevents.
    outside_steady: reqwest::Client,
    loopback_steady: reqwest::Client,
}

/// The front of all registries.
#[derive(Debug, Clone)]
pub struct Registry {
    config: Arc<RegistryConfig>,
    clients: Arc<OnceCell<Clients>>,
}

impl Registry {
    /// A client. Certificates are read when it is first used.
    #[must_use]
    pub fn new(config: RegistryConfig) -> Self {
        Self {
            config: Arc::new(config),
            clients: Arc::new(OnceCell::new()),
        }
    }

    /// The repository `name` at `host` (`name`, `name:port`, `[v6]:port`), for
    /// one pull with its credentials.
    ///
    /// # Errors
    /// [`RegistryError`] when the clients can't be set up.
    pub async fn repository(
        &self,
        host: &str,
        name: &str,
        credentials: Credentials,
    ) -> Result<Repository, RegistryError> {
        let clients = self.clients.get_or_try_init(|| self.connect()).await?;
        let (client, steady) = if host::is_loopback(host) {
            (&clients.loopback, &clients.loopback_steady)
        } else {
            (&clients.outside, &clients.outside_steady)
        };
        let (client, steady) = (client.clone(), steady.clone());
        Ok(Repository::new(client, steady, host, name, credentials))
    }

    async fn connect(&self) -> Result<Clients, RegistryError> {
        let config = self.config.clone();
        let tls = tls::client_config(&config.ca_files)?;
        let build = || {
            reqwest::Client::builder()
                .tls_backend_preconfigured(tls.clone())
                .user_agent(concat!("longshore/", env!("CARGO_PKG_VERSION")))
                .referer(false)
                .connect_timeout(config.connect_timeout)
                .read_timeout(config.progress_timeout)
        };
        let steady = || build().redirect(Policy::none());
        let make = |builder: reqwest::ClientBuilder| builder.build().map_err(RegistryError::Client);
        Ok(Clients {
            outside: make(build())?,
            loopback: make(build().no_proxy())?,
            outside_steady: make(steady())?,
            loopback_steady: make(steady().no_proxy())?,
        })
    }
}
