//! Whose pages may use the server: its own and those that were named.
//!
//! A page of another site can reach a server on this machine in two ways: by asking it (the browser then names the page's
//! origin), or by letting its own name point to this machine (the browser then sends that name as the host). Both are
//! refused.

use std::net::IpAddr;

use axum::http::HeaderMap;
use axum::http::header::{HOST, ORIGIN};

use super::cors::allowed;
use crate::server::api::{ApiError, ErrorKind};

/// Names that no site of the internet can have.
const LOCAL: &[&str] = &["localhost", ".localhost", ".local", ".internal"];

fn refused(what: &str) -> ApiError {
    let reason = format!("{what} may not use this server (--cors-origins allows them)");
    ApiError::new(ErrorKind::Permission, reason)
}

/// Checks where a request comes from. `guarded`: the server is open, but only to this machine.
///
/// # Errors
/// It comes from a page that may not use the server.
pub fn check(headers: &HeaderMap, origins: &[String], guarded: bool) -> Result<(), ApiError> {
    if !is_own(headers) && !allowed(origins, headers.get(ORIGIN)) {
        return Err(refused("pages of other origins"));
    }
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    match host {
        Some(host) if guarded && !is_local(host) && !is_named(host, origins) => {
            Err(refused("pages of other hosts"))
        }
        _ => Ok(()),
    }
}

/// Whether a request comes from no page, or from a page of the host it is sent to.
fn is_own(headers: &HeaderMap) -> bool {
    let Some(origin) = headers.get(ORIGIN) else {
        return true;
    };
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    let origin = origin.to_str().ok().and_then(|o| o.split_once("://"));
    matches!((origin, host), (Some((_, from)), Some(host)) if from.eq_ignore_ascii_case(host))
}

/// Whether a host is an address, or a name of this machine or this network.
fn is_local(host: &str) -> bool {
    let name = without_port(host).to_ascii_lowercase();
    let plain = name.trim_start_matches('[').trim_end_matches(']');
    plain.parse::<IpAddr>().is_ok()
        || LOCAL.iter().any(|local| match local.strip_prefix('.') {
            Some(_) => name.ends_with(local),
            None => name == *local,
        })
}

fn is_named(host: &str, origins: &[String]) -> bool {
    let same = |origin: &String| {
        let named = origin.split_once("://").map(|(_, named)| named);
        origin == "*" || named.is_some_and(|named| named.eq_ignore_ascii_case(host))
    };
    origins.iter().any(same)
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admitted(pairs: &[(&'static str, &str)], origins: &[&str], guarded: bool) -> bool {
        let headers: HeaderMap = pairs
            .iter()
            .map(|(name, value)| ((*name).parse().unwrap(), value.parse().unwrap()))
            .collect();
        let origins: Vec<String> = origins.iter().map(|&o| o.to_owned()).collect();
        check(&headers, &origins, guarded).is_ok()
    }

    #[test]
    fn pages_of_the_server_itself_are_its_own() {
        assert!(admitted(&[("host", "a:80")], &[], false));
        assert!(admitted(
            &[("host", "a:80"), ("origin", "http://A:80")],
            &[],
            false
        ));
        for foreign in ["http://b:80", "http://a", "null", "https://evil.example"] {
            let pairs = [("host", "a:80"), ("origin", foreign)];
            assert!(!admitted(&pairs, &[], false), "{foreign}");
            assert!(admitted(&pairs, &["*"], false));
            assert!(admitted(&pairs, &[foreign], false));
        }
    }

    #[test]
    fn a_server_for_this_machine_has_a_local_name() {
        for host in [
            "127.0.0.1:8080",
            "[::1]:8080",
            "localhost",
            "a.localhost:1",
            "box.local",
            "10.0.0.1",
        ] {
            assert!(admitted(&[("host", host)], &[], true), "{host}");
        }
        for host in [
            "evil.example:8080",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "a",
        ] {
            assert!(!admitted(&[("host", host)], &[], true), "{host}");
            assert!(admitted(&[("host", host)], &[], false), "{host}");
            assert!(admitted(
                &[("host", host)],
                &[&format!("https://{host}")],
                true
            ));
        }
    }
}
