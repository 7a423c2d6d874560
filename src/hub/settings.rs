//! Where the hub and the cache are.

#![forbid(unsafe_code)]

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::error::HubError;

/// The hub that is asked without an endpoint of one's own.
pub const DEFAULT_ENDPOINT: &str = "https://huggingface.co";
/// Failed attempts in a row, none of which brought a byte, before giving up.
const ATTEMPTS: u32 = 6;
/// Wait after the first failed attempt; it doubles with each.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// Longest time without a byte.
const SILENCE: Duration = Duration::from_secs(30);

/// An access token; never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// A token of visible ASCII characters.
    ///
    /// # Errors
    /// [`HubError::Token`] for anything else.
    pub fn new(text: &str) -> Result<Self, HubError> {
        let text = text.trim();
        match !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic()) {
            true => Ok(Self(text.to_owned())),
            false => Err(HubError::Token),
        }
    }

    pub(super) fn secret(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// How to reach a hub, and where its files go.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Address of the hub, without a slash at the end.
    pub endpoint: String,
    /// Sent to the endpoint's own scheme, host and port only.
    pub token: Option<Token>,
    /// Folder of the cache.
    pub cache: PathBuf,
    /// Use the cache only.
    pub offline: bool,
    /// Go through the proxy that the environment names.
    pub proxy: bool,
    /// File of certificates to trust instead of the built-in ones.
    pub certificates: Option<PathBuf>,
    /// Failed attempts in a row, none of which brought a byte, before giving up.
    pub attempts: u32,
    /// Wait after the first failed attempt; it doubles with each.
    pub first_wait: Duration,
    /// Longest time without a byte.
    pub silence: Duration,
}

impl Settings {
    /// What the environment says, by the names that llama.cpp and the hub's own tools use.
    ///
    /// # Errors
    /// No folder for the cache, or a token that cannot be sent.
    pub fn from_env(read: impl Fn(&str) -> Option<String>) -> Result<Self, HubError> {
        let set = |name: &str| read(name).filter(|value| !value.is_empty());
        let folders: [(&str, &[&str]); 7] = [
            ("LLAMA_CACHE", &[]),
            ("HF_HUB_CACHE", &[]),
            ("HUGGINGFACE_HUB_CACHE", &[]),
            ("HF_HOME", &["hub"]),
            ("XDG_CACHE_HOME", &["huggingface", "hub"]),
            ("HOME", &[".cache", "huggingface", "hub"]),
            ("USERPROFILE", &[".cache", "huggingface", "hub"]),
        ];
        let cache = folders
            .iter()
            .find_map(|(name, rest)| Some((PathBuf::from(set(name)?), rest)))
            .map(|(base, rest)| rest.iter().fold(base, |path, part| path.join(part)))
            .ok_or(HubError::NoCacheFolder)?;
        let endpoint = set("MODEL_ENDPOINT")
            .or_else(|| set("HF_ENDPOINT"))
            .unwrap_or_else(|| DEFAULT_ENDPOINT.to_owned());
        let on = |value: String| {
            ["1", "on", "yes", "true"].contains(&value.to_ascii_lowercase().as_str())
        };
        Ok(Self {
            endpoint,
            token: set("HF_TOKEN").map(|text| Token::new(&text)).transpose()?,
            cache,
            offline: set("HF_HUB_OFFLINE").is_some_and(on),
            proxy: true,
            certificates: set("SSL_CERT_FILE").map(PathBuf::from),
            attempts: ATTEMPTS,
            first_wait: FIRST_WAIT,
            silence: SILENCE,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(pairs: &[(&str, &str)]) -> Settings {
        let find = |name: &str| pairs.iter().find(|(n, _)| *n == name);
        Settings::from_env(|name| find(name).map(|(_, value)| (*value).to_owned())).unwrap()
    }

    #[test]
    fn the_first_variable_that_says_something_counts() {
        let cases: [(&[(&str, &str)], &str); 6] = [
            (&[("HOME", "/h")], "/h/.cache/huggingface/hub"),
            (
                &[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")],
                "/x/huggingface/hub",
            ),
            (&[("XDG_CACHE_HOME", "/x"), ("HF_HOME", "/f")], "/f/hub"),
            (&[("HF_HOME", "/f"), ("HF_HUB_CACHE", "/c")], "/c"),
            (&[("HF_HUB_CACHE", "/c"), ("LLAMA_CACHE", "/l")], "/l"),
            (
                &[("LLAMA_CACHE", ""), ("HOME", "/h")],
                "/h/.cache/huggingface/hub",
            ),
        ];
        for (pairs, expected) in cases {
            assert_eq!(with(pairs).cache, PathBuf::from(expected), "{pairs:?}");
        }
        let empty = Settings::from_env(|_| None);
        assert!(matches!(empty, Err(HubError::NoCacheFolder)));
    }

    #[test]
    fn endpoint_token_and_offline() {
        let plain = with(&[("HOME", "/h")]);
        assert_eq!(plain.endpoint, DEFAULT_ENDPOINT);
        assert!(!plain.offline && plain.token.is_none());
        let own = with(&[
            ("HOME", "/h"),
            ("HF_ENDPOINT", "http://b"),
            ("HF_TOKEN", "secret-word\n"),
            ("HF_HUB_OFFLINE", "1"),
        ]);
        assert_eq!(own.endpoint, "http://b");
        assert!(own.offline);
        assert!(!format!("{own:?}").contains("secret-word"));
        assert_eq!(own.token.unwrap().secret(), "secret-word");
        let both = [
            ("HOME", "/h"),
            ("HF_ENDPOINT", "http://b"),
            ("MODEL_ENDPOINT", "http://a"),
        ];
        assert_eq!(with(&both).endpoint, "http://a");
        assert!(matches!(Token::new("a\nb"), Err(HubError::Token)));
    }
}
