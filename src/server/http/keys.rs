//! API keys. They are kept and compared as hashes, in a time that says nothing about them.

use std::fmt;

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use sha2::{Digest, Sha256};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

use crate::server::protocol::Scope;

/// The scope of everybody where there are no keys, or where prefixes are shared.
pub const SHARED: Scope = Scope([0; 32]);

/// The keys that open the server. Without any, it is open.
#[derive(Clone, Default)]
pub struct Keys(Vec<[u8; 32]>);

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keys({})", self.0.len())
    }
}

fn hash(key: &str) -> [u8; 32] {
    Sha256::digest(key.as_bytes()).into()
}

impl Keys {
    /// These keys; empty ones are left out.
    pub fn new<'k>(keys: impl IntoIterator<Item = &'k str>) -> Self {
        let keys = keys
            .into_iter()
            .map(str::trim)
            .filter(|key| !key.is_empty());
        Self(keys.map(hash).collect())
    }

    /// Whether everybody may come in.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The scope of a request with these headers; `None` if it has no right key.
    pub fn scope(&self, headers: &HeaderMap) -> Option<Scope> {
        if self.is_empty() {
            return Some(SHARED);
        }
        let given = hash(given(headers)?);
        let mut found = Choice::from(0);
        let mut scope = [0; 32];
        for key in &self.0 {
            let same = key.ct_eq(&given);
            for (to, from) in scope.iter_mut().zip(key) {
                to.conditional_assign(from, same);
            }
            found |= same;
        }
        bool::from(found).then_some(Scope(scope))
    }
}

/// The key of a request: `Authorization: Bearer KEY`, or `X-Api-Key: KEY`.
fn given(headers: &HeaderMap) -> Option<&str> {
    let bearer = headers.get(AUTHORIZATION).and_then(|value| {
        let (scheme, key) = value.to_str().ok()?.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(key.trim())
    });
    bearer.or_else(|| headers.get("x-api-key")?.to_str().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        let mut map = HeaderMap::new();
        map.insert(name, value.parse().unwrap());
        map
    }

    #[test]
    fn keys_open_and_scopes_differ() {
        let keys = Keys::new(["one", " two ", ""]);
        let one = keys.scope(&headers("authorization", "Bearer one")).unwrap();
        let two = keys.scope(&headers("x-api-key", "two")).unwrap();
        assert_ne!(one, two);
        assert_ne!(one, SHARED);
        assert_eq!(
            keys.scope(&headers("authorization", "bearer  one")),
            Some(one)
        );
        for wrong in ["Bearer", "Bearer on", "Bearer onee", "Basic one", "one"] {
            assert_eq!(
                keys.scope(&headers("authorization", wrong)),
                None,
                "{wrong}"
            );
        }
        assert_eq!(keys.scope(&HeaderMap::new()), None);
        assert_eq!(Keys::new([""]).scope(&HeaderMap::new()), Some(SHARED));
        assert!(!format!("{keys:?}").contains("one"));
    }
}
