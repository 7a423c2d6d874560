//! The page at `/`, and what is at no path at all.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::header::{CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Uri};

use super::state::App;
use super::status::Answered;
use crate::server::api::{ApiError, ErrorKind};
use crate::server::page::{self, Asset};

/// Files of the page; 404 for everything else.
pub async fn find(
    State(app): State<Arc<App>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
) -> Answered {
    let path = uri.path();
    let path = path.strip_prefix(&app.config.prefix).unwrap_or(path);
    let reads = method == Method::GET || method == Method::HEAD;
    match page::find(path).filter(|_| reads && app.config.page) {
        Some(asset) => Ok(answer(asset, &headers)),
        None => Err(ApiError::new(ErrorKind::NotFound, "File Not Found")),
    }
}

fn answer(asset: &Asset, headers: &HeaderMap) -> Response<Body> {
    let tag = asset.etag();
    let known = headers.get(IF_NONE_MATCH).and_then(|v| v.to_str().ok());
    let known = known.is_some_and(|list| list.split(',').any(|one| one.trim() == tag));
    let mut response = Response::new(match known {
        true => Body::empty(),
        false => Body::from(asset.body),
    });
    if known {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    }
    let all = response.headers_mut();
    for (name, value) in page::HEADERS {
        all.insert(
            HeaderName::from_static(name),
            HeaderValue::from_static(value),
        );
    }
    all.insert(CONTENT_TYPE, HeaderValue::from_static(asset.content_type));
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        all.insert(ETAG, tag);
    }
    response
}
