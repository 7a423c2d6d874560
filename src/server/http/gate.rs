//! What every request passes: a name, its origin, its key, its body, and what becomes of panics and errors.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, Request, State};
use axum::http::header::CONTENT_LENGTH;
use axum::http::{HeaderMap, HeaderValue, Method, Response};
use axum::middleware::Next;
use tokio_stream::StreamExt;

use super::config::Limits;
use super::panics::Caught;
use super::routes::is_public;
use super::state::{App, Caller};
use super::{origin, reply};
use crate::server::api::response::ids;
use crate::server::api::{ApiError, ErrorKind};

/// Header with the name of a request.
const ID: &str = "x-request-id";
/// Longest name that is taken over from a client.
const ID_BYTES: usize = 64;
/// Bytes per second that a body must come with, in the long run.
const SLOWEST: f64 = 1024.0;

/// Lets a request in, and dresses its answer.
pub async fn gate(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response<Body> {
    let began = Instant::now();
    let id: Arc<str> = request_id(request.headers()).into();
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let mut response = match admit(&app, &request, &path, &id) {
        Err(error) => reply::error(&error, &path),
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            match Caught::new(next.run(request)).await {
                Ok(response) => dressed(response, &path),
                Err(words) => {
                    tracing::error!(request = &*id, "panic: {words}");
                    reply::error(&ApiError::internal(), &path)
                }
            }
        }
    };
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(ID, value);
    }
    log(&id, &method, &path, &response, began);
    response
}

fn log(id: &str, method: &Method, path: &str, response: &Response<Body>, began: Instant) {
    let status = response.status().as_u16();
    let ms = began.elapsed().as_millis() as u64;
    // Watchers ask every few seconds.
    if path.ends_with("/health") || path.ends_with("/metrics") || path.ends_with("/slots") {
        tracing::debug!(request = id, status, ms, "{method} {path}");
    } else {
        tracing::info!(request = id, status, ms, "{method} {path}");
    }
}

/// Errors of handlers get the form that the path asks for.
fn dressed(mut response: Response<Body>, path: &str) -> Response<Body> {
    match response.extensions_mut().remove::<ApiError>() {
        Some(error) => reply::error(&error, path),
        None => response,
    }
}

fn request_id(headers: &HeaderMap) -> String {
    let given = headers.get(ID).and_then(|value| value.to_str().ok());
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    match given {
        Some(id) if !id.is_empty() && id.len() <= ID_BYTES && id.chars().all(plain) => {
            id.to_owned()
        }
        _ => ids::unique("req_"),
    }
}

fn admit(app: &App, request: &Request, path: &str, id: &Arc<str>) -> Result<Caller, ApiError> {
    let headers = request.headers();
    origin::check(headers, &app.config.origins, app.guarded)?;
    let path = path.strip_prefix(&app.config.prefix).unwrap_or(path);
    let scope = match app.config.keys.scope(headers) {
        Some(_) if app.config.cache_shared => super::keys::SHARED,
        Some(scope) => scope,
        None if is_public(request.method(), path) => super::keys::SHARED,
        None => {
            return Err(ApiError::new(ErrorKind::Authentication, "Invalid API Key"));
        }
    };
    Ok(Caller {
        id: Arc::clone(id),
        scope,
    })
}

/// A body within the limits.
pub struct Whole(pub Bytes);

impl FromRequest<Arc<App>> for Whole {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, ApiError> {
        let limits = &app.config.limits;
        let too_large = || {
            let reason = format!("the body is larger than {} bytes", limits.body);
            ApiError::new(ErrorKind::TooLarge, reason)
        };
        let length = request.headers().get(CONTENT_LENGTH);
        let length = length.and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        if length.is_some_and(|length| length > limits.body as u64) {
            return Err(too_large());
        }
        let mut parts = request.into_body().into_data_stream();
        let (began, mut bytes) = (Instant::now(), Vec::new());
        loop {
            let patience = patience(limits, bytes.len(), began.elapsed());
            match tokio::time::timeout(patience, parts.next()).await {
                Ok(Some(Ok(part))) if part.len() > limits.body - bytes.len() => {
                    return Err(too_large());
                }
                Ok(Some(Ok(part))) => bytes.extend_from_slice(&part),
                Ok(Some(Err(e))) => {
                    return Err(ApiError::invalid(format!("the body did not arrive: {e}")));
                }
                Ok(None) => return Ok(Self(bytes.into())),
                Err(_) => {
                    let reason = "the body did not arrive in time";
                    return Err(ApiError::new(ErrorKind::Timeout, reason));
                }
            }
        }
    }
}

/// How long to wait for the next part of a body of which `n` bytes came in this time.
fn patience(limits: &Limits, n: usize, taken: Duration) -> Duration {
    let earned = limits.idle + Duration::from_secs_f64(n as f64 / SLOWEST);
    let whole = limits.body_time.min(earned).saturating_sub(taken);
    whole.min(limits.idle)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pairs = pairs
            .iter()
            .map(|(name, value)| ((*name).parse().unwrap(), value.parse().unwrap()));
        pairs.collect()
    }

    #[test]
    fn slow_bodies_get_no_more_time_than_their_bytes_earn() {
        let limits = Limits {
            idle: Duration::from_secs(30),
            body_time: Duration::from_secs(100),
            ..Limits::default()
        };
        let seconds = Duration::from_secs;
        for (n, taken, left) in [
            (0, 0, 30),
            (1, 29, 1),
            (29, 31, 0),
            (10 << 10, 20, 20),
            (50 << 10, 20, 30),
            (1 << 30, 90, 10),
            (1 << 30, 100, 0),
        ] {
            let patience = patience(&limits, n, seconds(taken)).as_secs_f64().round();
            assert_eq!(patience as u64, left, "{n} bytes after {taken} s");
        }
    }

    #[test]
    fn names_of_requests_are_plain() {
        assert_eq!(request_id(&headers(&[(ID, "a-1.b_2")])), "a-1.b_2");
        for wrong in ["", "a b", "a\"", &"x".repeat(65)] {
            assert!(request_id(&headers(&[(ID, wrong)])).starts_with("req_"));
        }
    }
}
