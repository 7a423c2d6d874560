//! What a repository holds.

#![forbid(unsafe_code)]

use std::sync::atomic::AtomicBool;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use ureq::http::header;

use super::error::HubError;
use super::http::{Client, Patience, Subject, check};
use super::name::{escaped, is_commit, printable};
use super::{Hub, Listener, Wanted};

/// Attempts to list a repository: someone may wait who could go on offline.
const ATTEMPTS: u32 = 3;
/// Longest answer that is read.
const MAX_ANSWER: u64 = 32 << 20;
/// Most pages of a list; a page holds a thousand files.
const MAX_PAGES: u32 = 64;

/// A repository at one commit.
#[derive(Debug)]
pub(super) struct Listing {
    pub(super) commit: String,
    pub(super) files: Vec<RemoteFile>,
}

/// A file by the hub's word: nothing of it is checked yet.
#[derive(Debug)]
pub(super) struct RemoteFile {
    pub(super) name: String,
    pub(super) bytes: u64,
    /// SHA-256 of the contents, or git's name for them if the file is small.
    pub(super) contents: String,
}

#[derive(Deserialize)]
struct Info {
    sha: String,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "type")]
    kind: String,
    path: String,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    oid: String,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    oid: String,
    size: Option<u64>,
}

/// All files of the repository at the revision.
pub(super) fn list(
    hub: &Hub,
    wanted: &Wanted,
    stop: &AtomicBool,
    listen: &mut Listener<'_>,
) -> Result<Listing, HubError> {
    let subject = Subject {
        repo: &wanted.repo,
        revision: wanted.revision.as_str(),
        file: None,
    };
    let settings = &hub.settings;
    let mut patience = Patience::new(settings.attempts.min(ATTEMPTS), settings.first_wait, stop);
    loop {
        check(stop)?;
        match attempt(&hub.client, &subject) {
            Ok(listing) => return Ok(listing),
            Err(e) => patience.after(e, listen)?,
        }
    }
}

fn attempt(client: &Client, subject: &Subject<'_>) -> Result<Listing, HubError> {
    let base = format!("api/models/{}", subject.repo);
    let commit = if is_commit(subject.revision) {
        subject.revision.to_owned()
    } else {
        let path = format!("{base}/revision/{}", escaped(subject.revision, false));
        let url = client.address(&path);
        let (info, _): (Info, _) = json(client, subject, &url)?;
        if !is_commit(&info.sha) {
            return Err(HubError::Answer {
                url,
                problem: format!("`{}` is not a commit", printable(&info.sha)),
            });
        }
        info.sha.to_ascii_lowercase()
    };
    let mut url = client.address(&format!("{base}/tree/{commit}?recursive=true"));
    let mut files = Vec::new();
    for _ in 0..MAX_PAGES {
        let (page, next): (Vec<Entry>, _) = json(client, subject, &url)?;
        files.extend(page.into_iter().filter(|e| e.kind == "file").map(remote));
        match next.and_then(|next| client.on_hub(&next)) {
            Some(next) => url = next,
            None => return Ok(Listing { commit, files }),
        }
    }
    Err(HubError::Answer {
        url: client.address(&base),
        problem: "the list of files does not end".to_owned(),
    })
}

fn remote(entry: Entry) -> RemoteFile {
    let (contents, bytes) = match entry.lfs {
        Some(lfs) => (
            lfs.oid.trim_start_matches("sha256:").to_ascii_lowercase(),
            lfs.size.unwrap_or(entry.size),
        ),
        None => (entry.oid.to_ascii_lowercase(), entry.size),
    };
    RemoteFile {
        name: entry.path,
        bytes,
        contents,
    }
}

/// An answer, and the address of its next page.
fn json<T: DeserializeOwned>(
    client: &Client,
    subject: &Subject<'_>,
    url: &str,
) -> Result<(T, Option<String>), HubError> {
    let accept = [(header::ACCEPT, "application/json".to_owned())];
    let mut reply = client.get(subject, url, &accept)?;
    let next = reply.header(header::LINK).and_then(next_page);
    let body = reply.body.with_config().limit(MAX_ANSWER).read_to_vec();
    let body = body.map_err(|e| match e {
        ureq::Error::BodyExceedsLimit(limit) => HubError::Answer {
            url: reply.url.clone(),
            problem: format!("an answer of more than {limit} bytes"),
        },
        e => super::http::broken(&reply.url, &e.into_io()),
    })?;
    let parsed = serde_json::from_slice(&body).map_err(|e| HubError::Answer {
        url: reply.url.clone(),
        problem: format!("not an answer of a hub: {e}"),
    })?;
    Ok((parsed, next))
}

/// The address marked `next` in a `Link` header.
fn next_page(link: &str) -> Option<String> {
    link.split(',').find_map(|part| {
        let (url, rest) = part.trim().strip_prefix('<')?.split_once('>')?;
        rest.contains("rel=\"next\"").then(|| url.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_found() {
        let link = "<https://a/b?cursor=1>; rel=\"prev\", <https://a/b?cursor=3>; rel=\"next\"";
        assert_eq!(next_page(link).as_deref(), Some("https://a/b?cursor=3"));
        assert_eq!(next_page("<https://a/b>; rel=\"prev\""), None);
        assert_eq!(next_page("rubbish"), None);
    }
}
