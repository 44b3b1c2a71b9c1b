use std::path::PathBuf;

/// A registry did not give what was asked of it.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// No answer: name resolution, connection, TLS or a timeout.
    #[error("reach registry {host}")]
    Unreachable {
        /// Host, with its port if it has one.
        host: String,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// The connection broke, or nothing came for too long, within a body.
    #[error("read {what} from registry {host}")]
    Interrupted {
        /// Host, with its port if it has one.
        host: String,
        /// Path of the request.
        what: String,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// The registry is overloaded or broken: 429 or 5xx.
    #[error("registry {host} answers {status} for {what}{detail}")]
    Unavailable {
        /// Host, with its port if it has one.
        host: String,
        /// Path of the request.
        what: String,
        /// HTTP status.
        status: u16,
        /// The registry's own words, with a leading colon, or nothing.
        detail: String,
    },
    /// The repository, the manifest or the blob does not exist.
    #[error("registry {host} has no {what}{detail}")]
    NotFound {
        /// Host, with its port if it has one.
        host: String,
        /// Path of the request.
        what: String,
        /// The registry's own words, with a leading colon, or nothing.
        detail: String,
    },
    /// 401 or 403, after authentication where credentials were given.
    #[error("registry {host} denies {what} ({status}){detail}")]
    Denied {
        /// Host, with its port if it has one.
        host: String,
        /// Path of the request.
        what: String,
        /// HTTP status: 401 or 403.
        status: u16,
        /// The registry's own words, with a leading colon, or nothing.
        detail: String,
    },
    /// Any other status that is no success.
    #[error("registry {host} answers {status} for {what}{detail}")]
    Refused {
        /// Host, with its port if it has one.
        host: String,
        /// Path of the request.
        what: String,
        /// HTTP status.
        status: u16,
        /// The registry's own words, with a leading colon, or nothing.
        detail: String,
    },
    /// A document that is held in memory is larger than allowed.
    #[error("{what} of registry {host} is larger than {limit} bytes")]
    TooLarge {
        /// Host, with its port if it has one.
        host: String,
        /// Path of the request.
        what: String,
        /// The bound in bytes.
        limit: usize,
    },
    /// The token server's answer is no token, or it may not get the credentials.
    #[error("token of {realm}: {reason}")]
    Token {
        /// Where the registry sent us for a token.
        realm: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// Host, repository or digest do not make a URL.
    #[error("{0:?} is no URL of a registry")]
    BadUrl(String),
    /// A configured CA file can't be read.
    #[error("read CA certificates {}", path.display())]
    CaFile {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    /// The TLS configuration can't be made.
    #[error("set up TLS")]
    Tls(#[source] rustls::Error),
    /// The HTTP client can't be made.
    #[error("set up the HTTP client")]
    Client(#[source] reqwest::Error),
}
