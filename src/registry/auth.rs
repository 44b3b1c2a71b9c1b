//! Credentials and the token flow (Docker registry v2 token authentication,
//! the basis of OCI registries' too).

use std::fmt;

use http::HeaderValue;
use reqwest::{RequestBuilder, Url};
use serde::Deserialize;

use super::RegistryError;
use super::challenge::Challenge;
use super::host;

/// Largest answer of a token server that is read.
const MAX_TOKEN: usize = 1 << 20;

/// What proves who pulls.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub enum Credentials {
    /// Nothing.
    #[default]
    Anonymous,
    /// For the registry or for its token server.
    Basic {
        /// User name.
        username: String,
        /// Password.
        password: String,
    },
    /// An OAuth 2 refresh token for the token server.
    IdentityToken(String),
    /// A bearer token for the registry itself.
    RegistryToken(String),
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anonymous => f.write_str("Anonymous"),
            Self::Basic { username, .. } => write!(f, "Basic({username:?}, ...)"),
            Self::IdentityToken(_) => f.write_str("IdentityToken(...)"),
            Self::RegistryToken(_) => f.write_str("RegistryToken(...)"),
        }
    }
}

/// Credentials and the host that they are for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct AuthConfig {
    /// Host, or URL of the host; `None`: whichever host the image is pulled from.
    pub server_address: Option<String>,
    /// The credentials.
    pub credentials: Credentials,
}

impl AuthConfig {
    /// What may be sent to the registry of an image, whose name has it as
    /// `registry` (`docker.io`, `host:port`): nothing if it is not the one that
    /// the credentials are for.
    #[must_use]
    pub fn for_registry(&self, registry: &str) -> Credentials {
        let matches = match &self.server_address {
            None => true,
            Some(address) => same_host(address, registry),
        };
        if matches {
            self.credentials.clone()
        } else {
            Credentials::Anonymous
        }
    }
}

/// Docker Hub goes by several names in stored credentials.
const HUB: [&str; 3] = ["docker.io", "index.docker.io", "registry-1.docker.io"];

fn same_host(address: &str, registry: &str) -> bool {
    let host = address
        .split_once("://")
        .map_or(address, |(_, rest)| rest)
        .split('/')
        .next()
        .unwrap_or_default();
    host.eq_ignore_ascii_case(registry) || (HUB.contains(&host) && HUB.contains(&registry))
}

/// Who asks, for what, over which scheme.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asker<'a> {
    pub(super) client: &'a reqwest::Client,
    /// Follows no redirects.
    pub(super) steady: &'a reqwest::Client,
    pub(super) host: &'a str,
    pub(super) repository: &'a str,
    pub(super) credentials: &'a Credentials,
    pub(super) plain_http: bool,
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
}

impl Asker<'_> {
    /// The `Authorization` header that answers the first of the challenges
    /// that can be answered; `None` when none can.
    pub(super) async fn authorize(
        &self,
        challenges: &[Challenge],
    ) -> Result<Option<HeaderValue>, RegistryError> {
        for challenge in challenges {
            match (challenge, self.credentials) {
                (Challenge::Bearer { .. }, Credentials::RegistryToken(token)) => {
                    return Ok(bearer(token));
                }
                (Challenge::Bearer { .. }, _) => return self.token(challenge).await,
                (Challenge::Basic, Credentials::Basic { username, password }) => {
                    return Ok(basic(username, password));
                }
                (Challenge::Basic, _) => {}
            }
        }
        Ok(None)
    }

    async fn token(&self, challenge: &Challenge) -> Result<Option<HeaderValue>, RegistryError> {
        let Challenge::Bearer {
            realm,
            service,
            scope,
        } = challenge
        else {
            return Ok(None);
        };
        let url: Url = realm
            .parse()
            .map_err(|_| RegistryError::BadUrl(realm.clone()))?;
        self.may_go_to(&url)?;
        let scope = scope
            .clone()
            .unwrap_or_else(|| format!("repository:{}:pull", self.repository));
        let request = self.token_request(url.clone(), service.as_deref(), &scope);
        let place = url.host_str().unwrap_or(self.host).to_owned();
        let answer = request
            .send()
            .await
            .map_err(|source| RegistryError::Unreachable {
                host: place.clone(),
                source: source.without_url(),
            })?;
        let answer = super::repository::success(&place, "token", answer).await?;
        let bytes = super::repository::body(&place, "token", answer, MAX_TOKEN).await?;
        let bad = |reason| RegistryError::Token {
            realm: realm.clone(),
            reason,
        };
        let answer: TokenAnswer =
            serde_json::from_slice(&bytes).map_err(|_| bad("the answer is not JSON"))?;
        let token = answer
            .token
            .or(answer.access_token)
            .filter(|t| !t.is_empty());
        let token = token.ok_or_else(|| bad("the answer has no token"))?;
        bearer(&token)
            .map(Some)
            .ok_or_else(|| bad("the token is no header value"))
    }

    /// Credentials leave the machine encrypted, unless the registry itself was
    /// reached without.
    fn may_go_to(&self, url: &Url) -> Result<(), RegistryError> {
        let host = url.host_str().unwrap_or_default();
        let safe = url.scheme() == "https" || host::is_loopback(host) || self.plain_http;
        if safe || *self.credentials == Credentials::Anonymous {
            return Ok(());
        }
        Err(RegistryError::Token {
            realm: url.to_string(),
            reason: "credentials are not sent over plain HTTP",
        })
    }

    fn token_request(&self, mut url: Url, service: Option<&str>, scope: &str) -> RequestBuilder {
        if let Credentials::IdentityToken(token) = self.credentials {
            let mut form = Url::clone(&url);
            form.query_pairs_mut()
                .clear()
                .append_pair("grant_type", "refresh_token")
                .append_pair("client_id", "longshore")
                .append_pair("service", service.unwrap_or_default())
                .append_pair("scope", scope)
                .append_pair("refresh_token", token);
            return self
                .steady
                .post(url)
                .header(
                    http::header::CONTENT_TYPE,
                    "application/x-www-form-urlencoded",
                )
                .body(form.query().unwrap_or_default().to_owned());
        }
        url.query_pairs_mut().append_pair("scope", scope);
        if let Some(service) = service {
            url.query_pairs_mut().append_pair("service", service);
        }
        match self.credentials {
            Credentials::Basic { username, password } => {
                self.client.get(url).basic_auth(username, Some(password))
            }
            Credentials::Anonymous
            | Credentials::IdentityToken(_)
            | Credentials::RegistryToken(_) => self.client.get(url),
        }
    }
}

fn secret(text: String) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_maybe_shared(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn bearer(token: &str) -> Option<HeaderValue> {
    secret(format!("Bearer {token}"))
}

fn basic(username: &str, password: &str) -> Option<HeaderValue> {
    use base64::Engine as _;
    let pair = format!("{username}:{password}");
    let code = base64::engine::general_purpose::STANDARD.encode(pair);
    secret(format!("Basic {code}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn auth(address: Option<&str>) -> AuthConfig {
        AuthConfig {
            server_address: address.map(Into::into),
            credentials: Credentials::RegistryToken("t".into()),
        }
    }

    #[test]
    fn credentials_go_only_to_their_host() {
        for (address, registry, sent) in [
            (None, "a.example", true),
            (Some("a.example"), "a.example", true),
            (Some("https://a.example/v1/"), "a.example", true),
            (Some("a.example:5000"), "a.example:5000", true),
            (Some("a.example"), "a.example:5000", false),
            (Some("a.example"), "b.example", false),
            (Some("https://index.docker.io/v1/"), "docker.io", true),
            (Some("a.example.evil"), "a.example", false),
        ] {
            let got = auth(address).for_registry(registry) != Credentials::Anonymous;
            assert_eq!(got, sent, "{address:?} {registry}");
        }
    }

    #[test]
    fn secrets_are_not_printed() {
        let all = [
            Credentials::Basic {
                username: "u".into(),
                password: "s3cret".into(),
            },
            Credentials::IdentityToken("s3cret".into()),
            Credentials::RegistryToken("s3cret".into()),
        ];
        assert!(!format!("{all:?}").contains("s3cret"));
        assert!(!format!("{:?}", bearer("s3cret")).contains("s3cret"));
    }

    #[test]
    fn encodes_basic_as_rfc_7617_says() {
        let value = basic("Aladdin", "open sesame").unwrap();
        assert_eq!(
            value.to_str().unwrap(),
            "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="
        );
    }
}
