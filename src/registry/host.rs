//! Which hosts may speak plain HTTP, and when.

use std::error::Error;
use std::net::IpAddr;

/// Whether `host` (`name`, `name:port`, `[v6]:port`) is this machine by name.
pub(super) fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Whether a failed HTTPS request shows that the peer doesn't speak TLS: the
/// connection was not made, or its first bytes were no TLS record. An alert or
/// a certificate that doesn't verify is TLS.
pub(super) fn speaks_no_tls(error: &reqwest::Error) -> bool {
    if !error.is_connect() {
        return false;
    }
    match find::<rustls::Error>(error) {
        Some(tls) => matches!(tls, rustls::Error::InvalidMessage(_)),
        None => true,
    }
}

fn find<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<E>() {
            return Some(found);
        }
        // An io::Error hides what it wraps from source(): it gives the source
        // of the inner error, not the inner error.
        if let Some(inner) = error
            .downcast_ref::<std::io::Error>()
            .and_then(std::io::Error::get_ref)
        {
            let inner: &'a (dyn Error + 'static) = inner;
            if let Some(found) = find::<E>(inner) {
                return Some(found);
            }
        }
        next = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_this_machine() {
        for host in [
            "localhost",
            "LOCALHOST:5000",
            "127.0.0.1",
            "127.9.8.7:80",
            "[::1]:5000",
        ] {
            assert!(is_loopback(host), "{host}");
        }
        for host in [
            "localhost.example.org",
            "registry.example",
            "10.0.0.1:5000",
            "[fe80::1]:5000",
            "127.example",
        ] {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
