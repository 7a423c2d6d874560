//! What can go wrong between a hub, the network and the disk.

#![forbid(unsafe_code)]

use std::io;
use std::path::PathBuf;

/// Names of models that a hint lists at most.
const LISTED: usize = 12;

/// One thing that went wrong: what was asked of whom, what was expected and what came.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// A text that names no repository.
    #[error("`{found}` names no repository")]
    RepoName {
        /// The text.
        found: String,
    },
    /// A text that names no revision.
    #[error("`{found}` names no revision")]
    RevisionName {
        /// The text.
        found: String,
    },
    /// A file name that would leave its folder, or that some system cannot hold.
    #[error("refused the file name `{found}`")]
    UnsafeName {
        /// The name.
        found: String,
    },
    /// A token that cannot be sent.
    #[error("the access token has characters that no token has")]
    Token,
    /// No variable says where the cache is.
    #[error("no folder for downloads: neither HF_HOME nor HOME is set")]
    NoCacheFolder,
    /// An endpoint that is no address.
    #[error("`{found}` is not the address of a hub")]
    Endpoint {
        /// The address.
        found: String,
    },
    /// Certificates that cannot be read.
    #[error("{}: {problem}", path.display())]
    Certificates {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// Nothing in the place fits what was asked for.
    #[error("{repo}: no {what} in {place}")]
    NoSuchFile {
        /// The repository.
        repo: String,
        /// What was looked for.
        what: String,
        /// `the repository` or `the cache`.
        place: &'static str,
        /// Models that are there.
        models: Vec<String>,
    },
    /// A split model lacks a part.
    #[error("{name}: this part of a split model is not in {place}")]
    MissingPart {
        /// The part.
        name: String,
        /// `the repository` or `the cache`.
        place: &'static str,
    },
    /// Offline, and the repository was never downloaded.
    #[error("{what} (revision {revision}) is not in the cache {}", folder.display())]
    NotCached {
        /// The repository.
        what: String,
        /// The revision.
        revision: String,
        /// Where it would be.
        folder: PathBuf,
    },
    /// The hub knows no such thing.
    #[error("{host} has no {what}")]
    NotFound {
        /// The hub.
        host: String,
        /// The repository, revision or file.
        what: String,
        /// Whether it could be there for others only.
        token_may_help: bool,
    },
    /// The hub knows it and keeps it from this user.
    #[error("{host} denies access to {what} (HTTP {status})")]
    Denied {
        /// The hub.
        host: String,
        /// The repository or file.
        what: String,
        /// 401 or 403.
        status: u16,
        /// Whether a token was sent.
        token: bool,
    },
    /// Too many requests.
    #[error("{host} answers no more requests for now (HTTP 429{})", wait(*.seconds))]
    RateLimited {
        /// The hub.
        host: String,
        /// Seconds until it will, where it says.
        seconds: Option<u64>,
    },
    /// Another status than success.
    #[error("{url}: HTTP {status}")]
    Status {
        /// The address, without its query.
        url: String,
        /// The status.
        status: u16,
    },
    /// No connection, or it broke.
    #[error("{host}: {problem}")]
    Connection {
        /// The host.
        host: String,
        /// What happened.
        problem: String,
    },
    /// The other side is not who it says, as far as our certificates tell.
    #[error("{host}: no secure connection: {problem}")]
    Insecure {
        /// The host.
        host: String,
        /// What is wrong.
        problem: String,
    },
    /// The connection ended before the file did.
    #[error("{name}: the connection ended at byte {found} of {expected}")]
    Cut {
        /// The file.
        name: String,
        /// Size of the file.
        expected: u64,
        /// Bytes that are here.
        found: u64,
    },
    /// A redirect that is not followed.
    #[error("{url}: refused a redirect {problem}")]
    Redirect {
        /// The address, without its query.
        url: String,
        /// Where to.
        problem: String,
    },
    /// An answer that makes no sense.
    #[error("{url}: {problem}")]
    Answer {
        /// The address, without its query.
        url: String,
        /// What is wrong.
        problem: String,
    },
    /// The hub sends another file than it listed.
    #[error("{name}: the hub listed {expected} and sends {found}")]
    Changed {
        /// The file.
        name: String,
        /// Contents or size by the list.
        expected: String,
        /// Contents or size by the answer.
        found: String,
    },
    /// The contents are not what they should be.
    #[error("{name}: expected the SHA-256 {expected}, found {found}")]
    Checksum {
        /// The file.
        name: String,
        /// By the hub's list.
        expected: String,
        /// Of what came.
        found: String,
    },
    /// The operating system refused.
    #[error("{}: cannot {action}: {source}", path.display())]
    Disk {
        /// The file or folder.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// The caller asked to stop.
    #[error("stopped")]
    Stopped,
}

impl HubError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::RepoName { .. } => {
                "write ORG/NAME or ORG/NAME:QUANT, such as org/model-GGUF:Q4_K_M"
            }
            Self::RevisionName { .. } => "name a branch, a tag or a commit",
            Self::UnsafeName { .. } => "files are named by their path inside the repository",
            Self::Token => "copy the token again; it is one word",
            Self::NoCacheFolder => "set HF_HOME to a folder",
            Self::Endpoint { .. } => "HF_ENDPOINT is an address such as https://hub.example",
            Self::Certificates { .. } => "SSL_CERT_FILE names a PEM file of certificates to trust",
            Self::NoSuchFile { models, place, .. } => return Some(choice(models, place)),
            Self::MissingPart { place, .. } if *place == "the cache" => "pull it without --offline",
            Self::MissingPart { .. } => "ask the repository's owner to complete it",
            Self::NotCached { .. } => "pull it once without --offline, or check the name",
            Self::NotFound {
                token_may_help: true,
                ..
            } => "check the name; for a private repository set HF_TOKEN",
            Self::NotFound { .. } => "check the name",
            Self::Denied { token: false, .. } => {
                "accept the terms on the repository's page, if it has some, and set HF_TOKEN"
            }
            Self::Denied { .. } => {
                "the token may not read this: accept the terms on the repository's page, or use another token"
            }
            Self::RateLimited { .. } => "try again later; a token (HF_TOKEN) raises the limit",
            Self::Connection { .. } | Self::Cut { .. } => {
                "check the connection and run it again: what is here stays; --offline uses the cache only"
            }
            Self::Insecure { .. } => {
                "check HF_ENDPOINT; behind a proxy with its own certificates, name their PEM file in SSL_CERT_FILE"
            }
            Self::Status { .. } => "try again later; --offline uses the cache only",
            Self::Redirect { .. } | Self::Answer { .. } => "check HF_ENDPOINT and the proxy",
            Self::Changed { .. } => "the repository changed meanwhile: run it again",
            Self::Checksum { .. } => {
                "the bytes were damaged on their way and are removed: run it again, and check the proxy and the memory"
            }
            Self::Disk { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                    "make room, or set HF_HOME to a folder on another disk; what is here stays"
                }
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                    "check who may write there, or set HF_HOME to another folder"
                }
                _ => return None,
            },
            Self::Stopped => "run it again to go on from here",
        };
        Some(hint.to_owned())
    }

    /// Whether the same request may succeed later.
    pub(super) fn is_transient(&self) -> bool {
        matches!(self, Self::Cut { .. }) || self.is_outage()
    }

    /// Whether the hub is out of reach, which says nothing about the repository.
    pub(super) fn is_outage(&self) -> bool {
        match self {
            Self::Connection { .. } | Self::RateLimited { .. } => true,
            Self::Status { status, .. } => *status == 408 || *status >= 500,
            _ => false,
        }
    }
}

fn wait(seconds: Option<u64>) -> String {
    seconds.map_or_else(String::new, |s| format!(", again in {s} s"))
}

fn choice(models: &[String], place: &str) -> String {
    let more = models.len().saturating_sub(LISTED);
    let shown = models[..models.len() - more].join(", ");
    match (models.is_empty(), more) {
        (true, _) => format!("{place} holds no GGUF model"),
        (false, 0) => format!("there are {shown}"),
        (false, _) => format!("there are {shown}, and {more} more"),
    }
}
