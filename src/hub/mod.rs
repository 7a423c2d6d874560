//! GGUF models from a hub: finds the files of a repository, downloads them, and keeps them where other tools look.
//!
//! The cache has the common layout: `models--ORG--NAME/` holds `blobs/` (files under the names of their contents),
//! `refs/` (branch to commit) and `snapshots/COMMIT/` (links from file names to blobs). Knows files and HTTP only.

#![forbid(unsafe_code)]

mod api;
mod cache;
mod choose;
mod error;
mod fetch;
mod http;
mod name;
mod settings;

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use cache::RepoCache;
use http::Client;

pub use error::HubError;
pub use name::{FileName, Reference, RepoId, Revision};
pub use settings::{DEFAULT_ENDPOINT, Settings, Token};

/// What to get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The repository.
    pub repo: RepoId,
    /// Quantisation in the name of the file, in any case; without it `Q4_K_M`, then `Q8_0`, then the first model.
    pub tag: Option<String>,
    /// The very file, instead of a quantisation.
    pub file: Option<FileName>,
    /// Branch, tag or commit.
    pub revision: Revision,
}

/// A file of a repository, on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PulledFile {
    /// Its name in the repository.
    pub name: FileName,
    /// Where it is.
    pub path: PathBuf,
    /// Its size in bytes.
    pub bytes: u64,
    /// Whether it was there before.
    pub cached: bool,
}

/// A model on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulled {
    /// Commit the files belong to.
    pub commit: String,
    /// The file, or all parts of a split model in order.
    pub files: Vec<PulledFile>,
}

/// What happens meanwhile.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// The hub did not answer; the cache serves.
    Cached {
        /// Why.
        because: &'a HubError,
    },
    /// Another program downloads the same file; this one waits.
    Waiting {
        /// The file.
        name: &'a FileName,
    },
    /// The part of the file that is there is read again for the checksum.
    Checking {
        /// The file.
        name: &'a FileName,
        /// Bytes to read.
        bytes: u64,
    },
    /// Bytes arrive.
    Downloading {
        /// The file.
        name: &'a FileName,
        /// Where they start.
        from: u64,
        /// Size of the file.
        bytes: u64,
    },
    /// So many bytes more are checked or here.
    Advanced(u64),
    /// An attempt failed and will be repeated.
    Retrying {
        /// Why.
        because: &'a HubError,
        /// Seconds until then.
        seconds: f64,
    },
    /// The file is complete and its checksum is right.
    Done {
        /// The file.
        name: &'a FileName,
    },
}

/// Who hears of what happens.
pub type Listener<'a> = dyn FnMut(Event<'_>) + 'a;

/// A hub and the cache of its files.
#[derive(Debug)]
pub struct Hub {
    settings: Settings,
    client: Client,
}

impl Hub {
    /// A hub; nothing is asked yet.
    ///
    /// # Errors
    /// An endpoint, token or certificate file that cannot be used.
    pub fn new(settings: Settings) -> Result<Self, HubError> {
        let client = Client::new(&settings)?;
        Ok(Self { settings, client })
    }

    /// Makes sure that all files of a model are in the cache. `stop` ends it between two reads; what has arrived by
    /// then stays for the next attempt.
    ///
    /// # Errors
    /// No such repository, file or quantisation; no access; no connection; contents that are not what the hub
    /// announced; trouble with the disk; [`HubError::Stopped`].
    pub fn pull(
        &self,
        wanted: &Wanted,
        stop: &AtomicBool,
        listen: &mut Listener<'_>,
    ) -> Result<Pulled, HubError> {
        let cache = RepoCache::new(&self.settings.cache, &wanted.repo);
        if self.settings.offline {
            return cached(&cache, wanted);
        }
        let listing = match api::list(self, wanted, stop, listen) {
            Ok(listing) => listing,
            Err(e) if e.is_outage() => {
                let Ok(found) = cached(&cache, wanted) else {
                    return Err(e);
                };
                listen(Event::Cached { because: &e });
                return Ok(found);
            }
            Err(e) => return Err(e),
        };
        let names: Vec<&str> = listing.files.iter().map(|f| f.name.as_str()).collect();
        let chosen = choose::choose(&names, wanted, "the repository")?;
        let mut files = Vec::with_capacity(chosen.len());
        let fetch = fetch::Fetch {
            settings: &self.settings,
            client: &self.client,
            cache: &cache,
            repo: &wanted.repo,
            commit: &listing.commit,
            stop,
        };
        for index in chosen {
            files.push(fetch.file(&listing.files[index], listen)?);
        }
        cache.set_ref(&wanted.revision, &listing.commit)?;
        Ok(Pulled {
            commit: listing.commit,
            files,
        })
    }
}

/// The model as the cache has it.
fn cached(cache: &RepoCache, wanted: &Wanted) -> Result<Pulled, HubError> {
    let Some(commit) = cache.commit(&wanted.revision)? else {
        return Err(HubError::NotCached {
            what: wanted.repo.to_string(),
            revision: wanted.revision.to_string(),
            folder: cache.folder().to_owned(),
        });
    };
    let names = cache.snapshot_files(&commit)?;
    let texts: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut files = Vec::new();
    for index in choose::choose(&texts, wanted, "the cache")? {
        let name: FileName = names[index].parse()?;
        let path = cache.snapshot(&commit, &name);
        let bytes = cache::size_of(&path)?;
        files.push(PulledFile {
            name,
            path,
            bytes,
            cached: true,
        });
    }
    Ok(Pulled { commit, files })
}
