//! Names from users and hubs, checked before they become paths or addresses.

#![forbid(unsafe_code)]

use std::fmt;
use std::str::FromStr;

use super::error::HubError;

/// Longest name of a repository, as hubs allow it.
const MAX_REPO: usize = 256;
/// Longest path inside a repository; file systems end near it.
const MAX_PATH: usize = 1024;

/// `ORG/NAME`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepoId(String);

/// Branch, tag or commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revision(String);

/// Path of a file inside a repository, always below the folder it is joined to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileName(String);

/// `ORG/NAME` or `ORG/NAME:QUANT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// The repository.
    pub repo: RepoId,
    /// What stands behind the colon.
    pub tag: Option<String>,
}

impl RepoId {
    /// The folder in a cache.
    pub(super) fn folder(&self) -> String {
        format!("models--{}", self.0.replace('/', "--"))
    }
}

impl FileName {
    /// The name as the repository spells it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The part behind the last slash.
    pub fn base(&self) -> &str {
        self.0
            .rsplit_once('/')
            .map_or(self.0.as_str(), |(_, base)| base)
    }
}

impl Default for Revision {
    fn default() -> Self {
        Self("main".to_owned())
    }
}

impl Revision {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RepoId {
    type Err = HubError;

    fn from_str(text: &str) -> Result<Self, HubError> {
        let word = |part: &str| {
            part.starts_with(is_word)
                && part.ends_with(is_word)
                && part.chars().all(|c| is_word(c) || c == '.' || c == '-')
                && !part.contains("--")
                && !part.contains("..")
        };
        let sound = text.len() <= MAX_REPO
            && text
                .split_once('/')
                .is_some_and(|(org, name)| word(org) && word(name));
        match sound {
            true => Ok(Self(text.to_owned())),
            false => Err(HubError::RepoName {
                found: printable(text),
            }),
        }
    }
}

impl FromStr for Reference {
    type Err = HubError;

    fn from_str(text: &str) -> Result<Self, HubError> {
        let (repo, tag) = match text.split_once(':') {
            Some((repo, tag)) => (repo, Some(tag)),
            None => (text, None),
        };
        let word =
            |tag: &str| !tag.is_empty() && tag.chars().all(|c| is_word(c) || c == '.' || c == '-');
        if tag.is_some_and(|tag| !word(tag)) {
            return Err(HubError::RepoName {
                found: printable(text),
            });
        }
        Ok(Self {
            repo: repo.parse()?,
            tag: tag.map(str::to_owned),
        })
    }
}

impl FromStr for Revision {
    type Err = HubError;

    fn from_str(text: &str) -> Result<Self, HubError> {
        match is_safe_path(text) {
            true => Ok(Self(text.to_owned())),
            false => Err(HubError::RevisionName {
                found: printable(text),
            }),
        }
    }
}

impl FromStr for FileName {
    type Err = HubError;

    fn from_str(text: &str) -> Result<Self, HubError> {
        match is_safe_path(text) {
            true => Ok(Self(text.to_owned())),
            false => Err(HubError::UnsafeName {
                found: printable(text),
            }),
        }
    }
}

impl fmt::Display for RepoId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// Whether the path stays below the folder it is joined to, on every system.
fn is_safe_path(path: &str) -> bool {
    let sound = |part: &str| !part.is_empty() && part != "." && part != "..";
    // A colon names a drive or a stream, and `*` and its like nothing, on Windows.
    let odd = |c: char| c.is_control() || "\\:*?\"<>|".contains(c);
    path.len() <= MAX_PATH && path.split('/').all(sound) && !path.contains(odd)
}

/// Text from outside, fit for a terminal.
pub(super) fn printable(text: &str) -> String {
    const SHOWN: usize = 200;
    let mut shown: String = text
        .chars()
        .take(SHOWN)
        .map(|c| if c.is_control() { '?' } else { c })
        .collect();
    if text.chars().nth(SHOWN).is_some() {
        shown.push_str("...");
    }
    shown
}

/// Whether the text is so many hexadecimal digits.
pub(super) fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Whether the text is the name of a commit, and of nothing else.
pub(super) fn is_commit(text: &str) -> bool {
    is_hex(text, 40)
}

/// The text with all but unreserved characters escaped; slashes stay where `slashes`.
pub(super) fn escaped(text: &str, slashes: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                out.push(char::from(byte));
            }
            b'/' if slashes => out.push('/'),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repositories_and_quantisations() {
        let good = [
            ("org/name", "org/name", None),
            ("a_b/C-1.5", "a_b/C-1.5", None),
            ("org/name:IQ4_NL", "org/name", Some("IQ4_NL")),
            ("org/name:UD-Q2_K_XL", "org/name", Some("UD-Q2_K_XL")),
        ];
        for (text, repo, tag) in good {
            let reference: Reference = text.parse().unwrap();
            assert_eq!(reference.repo.to_string(), repo);
            assert_eq!(reference.tag.as_deref(), tag);
        }
        let bad = [
            "",
            "name",
            "/name",
            "org/",
            "a/b/c",
            "../name",
            "org/..",
            "org/.name",
            "org/na me",
            "org/name:",
            "org/name:a/b",
            "org/name:a:b",
            "org/a--b",
            "org/name\n",
            "C:/name",
        ];
        for text in bad {
            assert!(
                matches!(text.parse::<Reference>(), Err(HubError::RepoName { .. })),
                "{text}"
            );
        }
    }

    #[test]
    fn paths_stay_inside() {
        for text in ["a.gguf", "Q4/a-00001-of-00002.gguf", "..a/b..", "a b.gguf"] {
            assert!(text.parse::<FileName>().is_ok(), "{text}");
        }
        let bad = [
            "", "/a", "a/", "a//b", "..", "../a", "a/../b", "./a", "a\\b", "..\\a", "C:a", "a\0b",
            "a\nb",
        ];
        for text in bad {
            assert!(text.parse::<FileName>().is_err(), "{text}");
            assert!(text.parse::<Revision>().is_err(), "{text}");
        }
        assert!("a/".repeat(600).parse::<FileName>().is_err());
    }

    #[test]
    fn addresses_are_escaped() {
        assert_eq!(escaped("refs/pr/1", false), "refs%2Fpr%2F1");
        assert_eq!(
            escaped("a b/%#?\u{e9}.gguf", true),
            "a%20b/%25%23%3F%C3%A9.gguf"
        );
    }
}
