//! One repository, as one pull sees it.

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, StatusCode};
use reqwest::{Client, Response, Url};
use serde::Deserialize;
use tokio::sync::RwLock;

use super::auth::{Asker, Credentials};
use super::challenge::challenges;
use super::{RegistryError, host};

/// Largest manifest or index that is read. The distribution spec asks for at
/// least 4 MiB.
const MAX_MANIFEST: usize = 4 << 20;
/// How much of an error's body is read for the registry's own words.
const MAX_ERROR_BODY: usize = 16 << 10;

const MANIFEST_TYPES: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.docker.distribution.manifest.v2+json";

/// A manifest or an index, as it came.
#[derive(Debug, Clone)]
pub struct Manifest {
    /// The document.
    pub bytes: Bytes,
    /// `Content-Type`, without parameters.
    pub media_type: Option<String>,
    /// `Docker-Content-Digest`: what the registry says that the document's
    /// digest is.
    pub digest: Option<String>,
}

/// What was found to work.
#[derive(Debug, Default)]
struct Session {
    plain_http: bool,
    authorization: Option<HeaderValue>,
}

/// One repository of one registry, with the credentials of one pull.
#[derive(Debug)]
pub struct Repository {
    client: Client,
    /// Follows no redirects.
    steady: Client,
    host: String,
    name: String,
    credentials: Credentials,
    session: RwLock<Session>,
}

/// The body of a blob, chunk by chunk.
#[derive(Debug)]
pub struct BlobStream {
    host: String,
    what: String,
    response: Response,
}

impl BlobStream {
    /// The next chunk; `None` at the end.
    ///
    /// # Errors
    /// [`RegistryError::Interrupted`] when the connection breaks or stalls.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, RegistryError> {
        self.response
            .chunk()
            .await
            .map_err(|source| RegistryError::Interrupted {
                host: self.host.clone(),
                what: self.what.clone(),
                source: source.without_url(),
            })
    }
}

impl Repository {
    pub(super) fn new(
        client: Client,
        steady: Client,
        host: &str,
        name: &str,
        credentials: Credentials,
    ) -> Self {
        Self {
            client,
            steady,
            host: host.to_owned(),
            name: name.to_owned(),
            credentials,
            session: RwLock::new(Session::default()),
        }
    }

    /// The manifest or index that `reference` (a tag or a digest) names.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn manifest(&self, reference: &str) -> Result<Manifest, RegistryError> {
        let what = format!("{}/manifests/{reference}", self.name);
        let response = self.get(&what, MANIFEST_TYPES).await?;
        let header = |name: &str| {
            let value = response.headers().get(name)?;
            value.to_str().ok().map(|text| text.trim().to_owned())
        };
        let media_type = header(CONTENT_TYPE.as_str())
            .and_then(|t| t.split(';').next().map(|t| t.trim().to_owned()));
        let digest = header("docker-content-digest");
        let bytes = body(&self.host, &what, response, MAX_MANIFEST).await?;
        Ok(Manifest {
            bytes,
            media_type,
            digest,
        })
    }

    /// The blob with this digest, as a stream.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn blob(&self, digest: &str) -> Result<BlobStream, RegistryError> {
        let what = format!("{}/blobs/{digest}", self.name);
        let response = self.get(&what, "*/*").await?;
        Ok(BlobStream {
            host: self.host.clone(),
            what,
            response,
        })
    }

    /// The blob with this digest in memory.
    ///
    /// # Errors
    /// [`RegistryError::TooLarge`] when it is larger than `limit` bytes, else
    /// as [`Self::blob`].
    pub async fn small_blob(&self, digest: &str, limit: usize) -> Result<Bytes, RegistryError> {
        let stream = self.blob(digest).await?;
        body(&self.host, &stream.what, stream.response, limit).await
    }

    async fn get(&self, what: &str, accept: &'static str) -> Result<Response, RegistryError> {
        let response = self.send(what, accept).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return success(&self.host, what, response).await;
        }
        let plain_http = self.session.read().await.plain_http;
        let asker = Asker {
            client: &self.client,
            steady: &self.steady,
            host: &self.host,
            repository: &self.name,
            credentials: &self.credentials,
            plain_http,
        };
        let Some(header) = asker.authorize(&challenges(response.headers())).await? else {
            return success(&self.host, what, response).await;
        };
        self.session.write().await.authorization = Some(header);
        let response = self.send(what, accept).await?;
        success(&self.host, what, response).await
    }

    /// Sends a request over the scheme that works, with the token there is.
    async fn send(&self, what: &str, accept: &'static str) -> Result<Response, RegistryError> {
        let (plain_http, authorization) = {
            let session = self.session.read().await;
            (session.plain_http, session.authorization.clone())
        };
        match self
            .send_over(plain_http, what, accept, authorization.as_ref())
            .await
        {
            Err(RegistryError::Unreachable { source, .. })
                if !plain_http && host::is_loopback(&self.host) && host::speaks_no_tls(&source) =>
            {
                tracing::debug!(host = self.host, "no TLS there, plain HTTP is tried");
                let response = self
                    .send_over(true, what, accept, authorization.as_ref())
                    .await?;
                self.session.write().await.plain_http = true;
                Ok(response)
            }
            other => other,
        }
    }

    async fn send_over(
        &self,
        plain_http: bool,
        what: &str,
        accept: &'static str,
        authorization: Option<&HeaderValue>,
    ) -> Result<Response, RegistryError> {
        let scheme = if plain_http { "http" } else { "https" };
        let text = format!("{scheme}://{}/v2/{what}", self.host);
        let url: Url = text.parse().map_err(|_| RegistryError::BadUrl(text))?;
        let mut request = self.client.get(url).header(ACCEPT, accept);
        if let Some(value) = authorization {
            request = request.header(AUTHORIZATION, value);
        }
        request
            .send()
            .await
            .map_err(|source| RegistryError::Unreachable {
                host: self.host.clone(),
                source: source.without_url(),
            })
    }
}

/// The answer, if it is a success; else the error that its status means.
pub(super) async fn success(
    host: &str,
    what: &str,
    response: Response,
) -> Result<Response, RegistryError> {
    let code = response.status();
    if code.is_success() {
        return Ok(response);
    }
    let (host, what, status) = (host.to_owned(), what.to_owned(), code.as_u16());
    // An error's body only explains; that it can't be read changes nothing.
    let detail = body(&host, &what, response, MAX_ERROR_BODY)
        .await
        .map(|bytes| detail(&bytes))
        .unwrap_or_default();
    Err(match status {
        404 => RegistryError::NotFound { host, what, detail },
        401 | 403 => RegistryError::Denied {
            host,
            what,
            status,
            detail,
        },
        408 | 429 | 500.. => RegistryError::Unavailable {
            host,
            what,
            status,
            detail,
        },
        _ => RegistryError::Refused {
            host,
            what,
            status,
            detail,
        },
    })
}

/// The whole body, if it is not larger than `limit` bytes.
pub(super) async fn body(
    host: &str,
    what: &str,
    mut response: Response,
    limit: usize,
) -> Result<Bytes, RegistryError> {
    let too_large = || RegistryError::TooLarge {
        host: host.to_owned(),
        what: what.to_owned(),
        limit,
    };
    let expected = response.content_length().unwrap_or(0);
    if usize::try_from(expected).map_or(true, |n| n > limit) {
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    loop {
        let chunk = response
            .chunk()
            .await
            .map_err(|source| RegistryError::Interrupted {
                host: host.to_owned(),
                what: what.to_owned(),
                source: source.without_url(),
            })?;
        let Some(chunk) = chunk else {
            return Ok(bytes.into());
        };
        if bytes.len() + chunk.len() > limit {
            return Err(too_large());
        }
        bytes.extend_from_slice(&chunk);
    }
}

#[derive(Deserialize)]
struct ErrorEnvelope {
    errors: Vec<ErrorEntry>,
}

#[derive(Deserialize)]
struct ErrorEntry {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

/// The first error of an OCI error envelope (distribution spec, "Error codes")
/// as `: CODE message`, or nothing.
fn detail(body: &[u8]) -> String {
    let Ok(envelope) = serde_json::from_slice::<ErrorEnvelope>(body) else {
        return String::new();
    };
    let Some(first) = envelope.errors.first() else {
        return String::new();
    };
    let text = format!("{} {}", first.code, first.message);
    let clean: String = text.chars().filter(|c| !c.is_control()).take(200).collect();
    match clean.trim() {
        "" => String::new(),
        text => format!(": {text}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_the_registry_in_its_own_words() {
        for (body, expected) in [
            (
                r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#,
                ": MANIFEST_UNKNOWN manifest unknown",
            ),
            (r#"{"errors":[{"code":"DENIED"}]}"#, ": DENIED"),
            (r#"{"errors":[{"message":"a\u001b[31mb"}]}"#, ": a[31mb"),
            (r#"{"errors":[]}"#, ""),
            ("<html>", ""),
        ] {
            assert_eq!(detail(body.as_bytes()), expected);
        }
    }
}
