//! Answers that are no streams.

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, Response, StatusCode};
use axum::response::IntoResponse;
use serde_json::Value;

use crate::server::api::{ApiError, ErrorKind};

/// A JSON body.
pub fn json(status: StatusCode, value: &Value) -> Response<Body> {
    let mut response = Response::new(Body::from(value.to_string()));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("application/json; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

/// A JSON body of an answer without errors.
pub fn ok(value: &Value) -> Response<Body> {
    json(StatusCode::OK, value)
}

/// Whether errors at this path have Anthropic's form.
pub fn is_anthropic(path: &str) -> bool {
    path.contains("/v1/messages")
}

/// An error in the form that clients of this path know.
pub fn error(error: &ApiError, path: &str) -> Response<Body> {
    let body = match is_anthropic(path) {
        true => error.to_anthropic(),
        false => error.to_json(),
    };
    let status = StatusCode::from_u16(error.kind.status());
    let mut response = json(status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), &body);
    if let Some(seconds) = error.retry_after() {
        response.headers_mut().insert(RETRY_AFTER, seconds.into());
    }
    if error.kind == ErrorKind::Authentication {
        let scheme = HeaderValue::from_static("Bearer");
        response.headers_mut().insert(WWW_AUTHENTICATE, scheme);
    }
    response
}

impl IntoResponse for ApiError {
    /// The error travels with the answer, and the gate gives it the form that the path asks for.
    fn into_response(self) -> Response<Body> {
        let mut response = error(&self, "");
        response.extensions_mut().insert(self);
        response
    }
}
