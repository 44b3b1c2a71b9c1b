//! `WWW-Authenticate`: what a registry asks for.

use http::HeaderMap;
use http::header::WWW_AUTHENTICATE;

/// A challenge that we know how to answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    /// A token from a token server.
    Bearer {
        /// URL of the token server.
        realm: String,
        /// Name of the registry for the token server.
        service: Option<String>,
        /// What the token has to allow.
        scope: Option<String>,
    },
    /// User name and password (RFC 7617).
    Basic,
}

/// The challenges of an answer, a bearer challenge first. What is malformed or
/// of another scheme is left out.
pub(super) fn challenges(headers: &HeaderMap) -> Vec<Challenge> {
    let mut found: Vec<Challenge> = headers
        .get_all(WWW_AUTHENTICATE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(parse)
        .collect();
    found.sort_by_key(|c| matches!(c, Challenge::Basic));
    found
}

fn parse(header: &str) -> Vec<Challenge> {
    http_auth::parser::ChallengeParser::new(header)
        .map_while(Result::ok)
        .filter_map(|challenge| {
            if challenge.scheme.eq_ignore_ascii_case("basic") {
                return Some(Challenge::Basic);
            }
            if !challenge.scheme.eq_ignore_ascii_case("bearer") {
                return None;
            }
            let param = |name: &str| {
                let found = challenge
                    .params
                    .iter()
                    .find(|(key, _)| key.eq_ignore_ascii_case(name));
                found.map(|(_, value)| value.to_unescaped())
            };
            Some(Challenge::Bearer {
                realm: param("realm")?,
                service: param("service"),
                scope: param("scope"),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Challenge {
        Challenge::Bearer {
            realm: realm.into(),
            service: service.map(Into::into),
            scope: scope.map(Into::into),
        }
    }

    #[test]
    fn reads_what_registries_send() {
        for (header, expected) in [
            (
                r#"Bearer realm="https://a/token",service="r",scope="repository:x/y:pull""#,
                vec![bearer(
                    "https://a/token",
                    Some("r"),
                    Some("repository:x/y:pull"),
                )],
            ),
            (
                r#"bearer Realm="https://a/t,k""#,
                vec![bearer("https://a/t,k", None, None)],
            ),
            (r#"Basic realm="Registry""#, vec![Challenge::Basic]),
            (
                r#"Basic realm="x", Bearer realm="https://a""#,
                vec![bearer("https://a", None, None), Challenge::Basic],
            ),
            (r#"Bearer service="no realm""#, vec![]),
            (r#"Negotiate"#, vec![]),
            ("", vec![]),
            (r#"Bearer realm="unterminated"#, vec![]),
        ] {
            let mut headers = HeaderMap::new();
            headers.append(WWW_AUTHENTICATE, header.parse().unwrap());
            assert_eq!(challenges(&headers), expected, "{header}");
        }
    }

    #[test]
    fn prefers_bearer_over_several_headers() {
        let mut headers = HeaderMap::new();
        headers.append(WWW_AUTHENTICATE, r#"Basic realm="x""#.parse().unwrap());
        headers.append(
            WWW_AUTHENTICATE,
            r#"Bearer realm="https://a""#.parse().unwrap(),
        );
        assert_eq!(challenges(&headers)[0], bearer("https://a", None, None));
    }

    proptest::proptest! {
        #[test]
        fn never_panics(header in "[ -~]{0,80}") {
            parse(&header);
        }
    }
}
