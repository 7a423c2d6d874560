//! Pages of other origins: closed by default.

use axum::http::{HeaderName, HeaderValue, Method};
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};

/// Whether a page of this origin may use the server.
pub fn allowed(origins: &[String], origin: Option<&HeaderValue>) -> bool {
    let Some(origin) = origin.and_then(|origin| origin.to_str().ok()) else {
        return false;
    };
    let same = |known: &String| known == "*" || known.eq_ignore_ascii_case(origin);
    origins.iter().any(same)
}

/// The headers that tell browsers so; `None` where only the server's own page may use it.
pub fn layer(origins: &[String]) -> Option<CorsLayer> {
    if origins.is_empty() {
        return None;
    }
    let origins = origins.to_vec();
    let known = AllowOrigin::predicate(move |origin, _| allowed(&origins, Some(origin)));
    let layer = CorsLayer::new()
        .allow_origin(known)
        .allow_methods([Method::GET, Method::POST, Method::OPTIONS])
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers([HeaderName::from_static("x-request-id")]);
    Some(layer)
}
