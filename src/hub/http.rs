//! Requests to the hub and to where it sends us.

#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ureq::http::{HeaderMap, Uri, header};
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};

use super::error::HubError;
use super::name::{RepoId, printable};
use super::settings::{Settings, Token};
use super::{Event, Listener};

const MAX_REDIRECTS: u32 = 8;
const CONNECT: Duration = Duration::from_secs(20);
/// Longest `Retry-After` that is waited for.
const MAX_WAIT: Duration = Duration::from_secs(120);
/// How often a wait looks whether it should end.
const LOOK: Duration = Duration::from_millis(50);
/// Contents of the file, by the hub, on the answer that redirects to the storage.
const LINKED_ETAG: &str = "x-linked-etag";
/// The hub's word for what is wrong.
const ERROR_CODE: &str = "x-error-code";

/// What is asked for, in messages.
#[derive(Debug, Clone, Copy)]
pub(super) struct Subject<'a> {
    pub(super) repo: &'a RepoId,
    pub(super) revision: &'a str,
    pub(super) file: Option<&'a str>,
}

/// An answer with status 200, 206 or 416.
#[derive(Debug)]
pub(super) struct Reply {
    /// The status.
    pub(super) status: u16,
    /// Headers of the last answer.
    pub(super) headers: HeaderMap,
    /// The hub's word for the contents.
    pub(super) linked_etag: Option<String>,
    /// Where the answer is from, without the query.
    pub(super) url: String,
    /// The rest.
    pub(super) body: ureq::Body,
}

impl Reply {
    /// A header as text.
    pub(super) fn header(&self, name: header::HeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// Speaks HTTP.
#[derive(Debug)]
pub(super) struct Client {
    agent: ureq::Agent,
    endpoint: Uri,
    token: Option<Token>,
}

impl Client {
    pub(super) fn new(settings: &Settings) -> Result<Self, HubError> {
        let endpoint = endpoint(&settings.endpoint)?;
        let mut tls = TlsConfig::builder();
        if let Some(path) = &settings.certificates
            && endpoint.scheme_str() == Some("https")
        {
            tls = tls.root_certs(certificates(path)?);
        }
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .user_agent(concat!("oxling/", env!("CARGO_PKG_VERSION")))
            .accept_encoding("identity")
            .proxy(settings.proxy.then(ureq::Proxy::try_from_env).flatten())
            .tls_config(tls.build())
            .timeout_connect(Some(CONNECT))
            .timeout_per_read(Some(settings.silence))
            .timeout_recv_response(Some(settings.silence))
            .build();
        Ok(Self {
            agent: config.new_agent(),
            endpoint,
            token: settings.token.clone(),
        })
    }

    /// The address of a path of the hub.
    pub(super) fn address(&self, path: &str) -> String {
        format!("{}/{path}", self.endpoint.to_string().trim_end_matches('/'))
    }

    /// An address that the hub gave, on the hub as we reach it: a mirror may name the hub it mirrors.
    pub(super) fn on_hub(&self, url: &str) -> Option<String> {
        let uri: Uri = url.parse().ok()?;
        let (scheme, authority) = (self.endpoint.scheme_str()?, self.endpoint.authority()?);
        Some(format!("{scheme}://{authority}{}", uri.path_and_query()?))
    }

    /// Asks for `url` and follows redirects. The token goes to the hub only.
    pub(super) fn get(
        &self,
        subject: &Subject<'_>,
        url: &str,
        headers: &[(header::HeaderName, String)],
    ) -> Result<Reply, HubError> {
        let mut uri: Uri = url.parse().map_err(|_| HubError::Endpoint {
            found: printable(url),
        })?;
        let mut linked_etag = None;
        for _ in 0..=MAX_REDIRECTS {
            let own = origin(&uri).is_some() && origin(&uri) == origin(&self.endpoint);
            let mut request = self.agent.get(uri.clone());
            for (name, value) in headers {
                request = request.header(name, value);
            }
            if let Some(token) = self.token.as_ref().filter(|_| own) {
                let bearer = format!("Bearer {}", token.secret());
                request = request.header(header::AUTHORIZATION, bearer);
            }
            let response = request.call().map_err(|e| connection(&uri, &e))?;
            let (parts, body) = response.into_parts();
            let text = |name: &str| Some(parts.headers.get(name)?.to_str().ok()?.to_owned());
            if own {
                linked_etag = linked_etag.or_else(|| text(LINKED_ETAG));
            }
            match parts.status.as_u16() {
                301 | 302 | 303 | 307 | 308 => {
                    let location = text("location").unwrap_or_default();
                    uri = redirect(&uri, &location)?;
                }
                status @ (200 | 206 | 416) => {
                    return Ok(Reply {
                        status,
                        url: shown(&uri),
                        headers: parts.headers,
                        linked_etag,
                        body,
                    });
                }
                status => {
                    let code = text(ERROR_CODE).filter(|_| own);
                    let seconds = text("retry-after").and_then(|s| s.trim().parse().ok());
                    return Err(self.refusal(subject, &uri, status, code.as_deref(), seconds));
                }
            }
        }
        Err(HubError::Redirect {
            url: printable(url),
            problem: format!("after {MAX_REDIRECTS} others"),
        })
    }

    fn refusal(
        &self,
        subject: &Subject<'_>,
        uri: &Uri,
        status: u16,
        code: Option<&str>,
        seconds: Option<u64>,
    ) -> HubError {
        let host = host(uri);
        let repo = format!("repository `{}`", subject.repo);
        let what = match (code, subject.file) {
            (Some("RepoNotFound"), _) => repo.clone(),
            (Some("RevisionNotFound"), _) => {
                format!("revision `{}` of `{}`", subject.revision, subject.repo)
            }
            (_, Some(file)) => format!("file `{file}` in {repo}"),
            (_, None) if subject.revision != "main" => {
                format!("{repo}, or no revision `{}` in it", subject.revision)
            }
            (_, None) => repo.clone(),
        };
        let token = self.token.is_some();
        match status {
            404 => HubError::NotFound {
                host,
                what,
                token_may_help: !token,
            },
            // The hub does not tell strangers what is private from what does not exist.
            401 if code == Some("RepoNotFound") => HubError::NotFound {
                host,
                what,
                token_may_help: true,
            },
            401 | 403 => HubError::Denied {
                host,
                what: repo,
                status,
                token,
            },
            429 => HubError::RateLimited { host, seconds },
            _ => HubError::Status {
                url: shown(uri),
                status,
            },
        }
    }
}

/// Counts failures, and waits between attempts.
#[derive(Debug)]
pub(super) struct Patience<'a> {
    attempts: u32,
    first_wait: Duration,
    failures: u32,
    stop: &'a AtomicBool,
}

impl<'a> Patience<'a> {
    pub(super) fn new(attempts: u32, first_wait: Duration, stop: &'a AtomicBool) -> Self {
        Self {
            attempts,
            first_wait,
            failures: 0,
            stop,
        }
    }

    /// Something new arrived: failures before do not count any more.
    pub(super) fn progressed(&mut self) {
        self.failures = 0;
    }

    /// Waits after a failure that may pass, and gives back any other.
    pub(super) fn after(
        &mut self,
        error: HubError,
        listen: &mut Listener<'_>,
    ) -> Result<(), HubError> {
        self.failures += 1;
        if !error.is_transient() || self.failures >= self.attempts {
            return Err(error);
        }
        let doubled = 1_u32 << (self.failures - 1).min(6);
        let mut wait = self.first_wait.saturating_mul(doubled);
        if let HubError::RateLimited {
            seconds: Some(seconds),
            ..
        } = &error
        {
            wait = wait.max(Duration::from_secs(*seconds));
        }
        if wait > MAX_WAIT {
            return Err(error);
        }
        listen(Event::Retrying {
            because: &error,
            seconds: wait.as_secs_f64(),
        });
        pause(wait, self.stop)
    }
}

/// Ends with an error when asked to stop.
pub(super) fn check(stop: &AtomicBool) -> Result<(), HubError> {
    match stop.load(Ordering::Relaxed) {
        true => Err(HubError::Stopped),
        false => Ok(()),
    }
}

/// Waits, unless asked to stop.
pub(super) fn pause(wait: Duration, stop: &AtomicBool) -> Result<(), HubError> {
    let start = Instant::now();
    loop {
        check(stop)?;
        let left = wait.saturating_sub(start.elapsed());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(LOOK));
    }
}

/// A transport error by the host it happened with.
pub(super) fn broken(url: &str, error: &std::io::Error) -> HubError {
    HubError::Connection {
        host: url
            .parse()
            .map_or_else(|_| printable(url), |uri| host(&uri)),
        problem: error.to_string(),
    }
}

fn connection(uri: &Uri, error: &ureq::Error) -> HubError {
    let problem = match error {
        // TLS errors arrive as data that makes no sense.
        ureq::Error::Io(e) if e.kind() == std::io::ErrorKind::InvalidData => {
            return HubError::Insecure {
                host: host(uri),
                problem: e.to_string(),
            };
        }
        ureq::Error::Rustls(e) => {
            return HubError::Insecure {
                host: host(uri),
                problem: e.to_string(),
            };
        }
        ureq::Error::Timeout(_) => "no answer in time".to_owned(),
        ureq::Error::HostNotFound => "no such host, or no network".to_owned(),
        ureq::Error::Io(e) => e.to_string(),
        other => other.to_string(),
    };
    HubError::Connection {
        host: host(uri),
        problem,
    }
}

fn endpoint(text: &str) -> Result<Uri, HubError> {
    let wrong = || HubError::Endpoint {
        found: printable(text),
    };
    let uri: Uri = text.trim_end_matches('/').parse().map_err(|_| wrong())?;
    match is_plain(&uri) && uri.query().is_none() {
        true => Ok(uri),
        false => Err(wrong()),
    }
}

/// Whether the address has a scheme we speak, a host, and no password.
fn is_plain(uri: &Uri) -> bool {
    matches!(uri.scheme_str(), Some("http" | "https"))
        && uri.host().is_some_and(|host| !host.is_empty())
        && uri.authority().is_some_and(|a| !a.as_str().contains('@'))
}

fn certificates(path: &std::path::Path) -> Result<RootCerts, HubError> {
    let wrong = |problem: String| HubError::Certificates {
        path: path.to_owned(),
        problem,
    };
    let bytes = std::fs::read(path).map_err(|e| wrong(format!("cannot read it: {e}")))?;
    let found: Vec<_> = parse_pem(&bytes)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    match found.is_empty() {
        true => Err(wrong("no certificate in it".to_owned())),
        false => Ok(RootCerts::new_with_certs(&found)),
    }
}

/// Scheme, host and port.
fn origin(uri: &Uri) -> Option<(String, String, u16)> {
    let scheme = uri.scheme_str()?.to_ascii_lowercase();
    let port = uri.port_u16().or(match scheme.as_str() {
        "https" => Some(443),
        "http" => Some(80),
        _ => None,
    })?;
    Some((scheme, uri.host()?.to_ascii_lowercase(), port))
}

/// Where a redirect leads.
fn redirect(from: &Uri, location: &str) -> Result<Uri, HubError> {
    let refused = |problem: String| HubError::Redirect {
        url: shown(from),
        problem,
    };
    let scheme = from.scheme_str().unwrap_or("https");
    let authority = from.authority().map_or("", |a| a.as_str());
    let full = if location.starts_with("//") {
        format!("{scheme}:{location}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else {
        location.to_owned()
    };
    let to: Option<Uri> = full.parse().ok().filter(is_plain);
    let Some(to) = to else {
        return Err(refused("to nowhere".to_owned()));
    };
    if scheme == "https" && to.scheme_str() != Some("https") {
        return Err(refused(format!("to the insecure {}", shown(&to))));
    }
    Ok(to)
}

fn host(uri: &Uri) -> String {
    uri.authority()
        .map_or_else(String::new, |a| printable(a.as_str()))
}

/// The address without its query, which may hold a signature.
fn shown(uri: &Uri) -> String {
    let scheme = uri.scheme_str().unwrap_or_default();
    printable(&format!("{scheme}://{}{}", host(uri), uri.path()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_lead_somewhere_safe() {
        let cases = [
            ("https://a/x", "https://b/y?z", Some("https://b/y?z")),
            ("https://a/x", "/y", Some("https://a/y")),
            ("http://a:1/x", "/y", Some("http://a:1/y")),
            ("https://a/x", "//b/y", Some("https://b/y")),
            ("http://a/x", "https://b/y", Some("https://b/y")),
            ("https://a/x", "http://a/x", None),
            ("https://a/x", "ftp://a/x", None),
            ("https://a/x", "https://user@a/x", None),
            ("https://a/x", "y", None),
            ("https://a/x", "", None),
        ];
        for (from, location, expected) in cases {
            let to = redirect(&from.parse().unwrap(), location).ok();
            let to = to.map(|uri| uri.to_string());
            assert_eq!(to.as_deref(), expected, "{from} {location}");
        }
    }

    #[test]
    fn origins_are_scheme_host_and_port() {
        let same = |a: &str, b: &str| origin(&a.parse().unwrap()) == origin(&b.parse().unwrap());
        assert!(same("https://a/x", "https://A:443/y"));
        for other in ["http://a/", "https://a:444/", "https://a.b/", "https://b/"] {
            assert!(!same("https://a/", other), "{other}");
        }
    }

    #[test]
    fn endpoints_are_addresses() {
        for text in ["https://a", "http://127.0.0.1:1/", "https://a/hub/"] {
            assert!(endpoint(text).is_ok(), "{text}");
        }
        for text in [
            "",
            "a",
            "ftp://a",
            "https://",
            "https://u:p@a",
            "https://a?b",
        ] {
            assert!(endpoint(text).is_err(), "{text}");
        }
    }
}
