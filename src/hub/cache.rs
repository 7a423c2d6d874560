//! The cache in the layout that tools for this kind of hub share.

#![forbid(unsafe_code)]

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::error::HubError;
use super::http::pause;
use super::name::{FileName, RepoId, Revision, is_commit};

/// How often a busy lock is tried again.
const LOCK_WAIT: Duration = Duration::from_millis(100);
/// Deepest folder that is looked into.
const MAX_DEPTH: usize = 16;

/// The folders of one repository.
#[derive(Debug)]
pub(super) struct RepoCache {
    folder: PathBuf,
    locks: PathBuf,
}

/// Keeps others from downloading the same file.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
    /// Whether others heed it.
    holds: bool,
}

impl RepoCache {
    pub(super) fn new(cache: &Path, repo: &RepoId) -> Self {
        Self {
            folder: cache.join(repo.folder()),
            locks: cache.join(".locks").join(repo.folder()),
        }
    }

    /// The repository's folder.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where contents are kept; `contents` is their checked name.
    pub(super) fn blob(&self, contents: &str) -> PathBuf {
        self.folder.join("blobs").join(contents)
    }

    /// Where contents arrive. Without a lock that holds, each process has its own place.
    pub(super) fn partial(&self, contents: &str, lock: &Lock) -> PathBuf {
        let name = match lock.holds {
            true => format!("{contents}.incomplete"),
            false => format!("{contents}.{}.incomplete", std::process::id()),
        };
        self.folder.join("blobs").join(name)
    }

    /// Where a file of a commit is found.
    pub(super) fn snapshot(&self, commit: &str, name: &FileName) -> PathBuf {
        let folder = self.folder.join("snapshots").join(commit);
        name.as_str()
            .split('/')
            .fold(folder, |path, part| path.join(part))
    }

    /// The commit that a revision was when it was last looked up.
    pub(super) fn commit(&self, revision: &Revision) -> Result<Option<String>, HubError> {
        if is_commit(revision.as_str()) {
            return Ok(Some(revision.as_str().to_owned()));
        }
        let path = self.reference(revision);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text.trim().to_owned()).filter(|text| is_commit(text))),
            Err(e) if is_absent(&e) => Ok(None),
            Err(e) => Err(disk(&path, "read the commit")(e)),
        }
    }

    /// Notes what commit a revision is.
    pub(super) fn set_ref(&self, revision: &Revision, commit: &str) -> Result<(), HubError> {
        if is_commit(revision.as_str()) {
            return Ok(());
        }
        let path = self.reference(revision);
        replace(&path, &|temporary| fs::write(temporary, commit))
            .map_err(disk(&path, "note the commit"))
    }

    /// Names of all files of a commit that are complete.
    pub(super) fn snapshot_files(&self, commit: &str) -> Result<Vec<String>, HubError> {
        let mut names = Vec::new();
        let mut folders = vec![(self.folder.join("snapshots").join(commit), String::new(), 0)];
        while let Some((folder, prefix, depth)) = folders.pop() {
            let entries = match fs::read_dir(&folder) {
                Ok(entries) => entries,
                Err(e) if is_absent(&e) => continue,
                Err(e) => return Err(disk(&folder, "list the folder")(e)),
            };
            for entry in entries.flatten() {
                let Ok(name) = entry.file_name().into_string() else {
                    continue;
                };
                // Follows links, so that one without a target is no file.
                let Ok(metadata) = fs::metadata(entry.path()) else {
                    continue;
                };
                if metadata.is_file() {
                    names.push(format!("{prefix}{name}"));
                } else if depth < MAX_DEPTH {
                    folders.push((entry.path(), format!("{prefix}{name}/"), depth + 1));
                }
            }
        }
        names.sort();
        Ok(names)
    }

    /// Lets a file of a commit be found at its name.
    pub(super) fn link(
        &self,
        commit: &str,
        name: &FileName,
        contents: &str,
    ) -> Result<PathBuf, HubError> {
        self.link_with(commit, name, contents, symlink)
    }

    fn link_with(
        &self,
        commit: &str,
        name: &FileName,
        contents: &str,
        symlink: fn(&Path, &Path) -> io::Result<()>,
    ) -> Result<PathBuf, HubError> {
        let path = self.snapshot(commit, name);
        let up = "../".repeat(2 + name.as_str().matches('/').count());
        let target = PathBuf::from(format!("{up}blobs/{contents}"));
        let blob = self.blob(contents);
        replace(&path, &|temporary| {
            symlink(&target, temporary)
                .or_else(|_| fs::hard_link(&blob, temporary))
                .or_else(|_| fs::copy(&blob, temporary).map(|_| ()))
        })
        .map_err(disk(&path, "make the link"))?;
        Ok(path)
    }

    /// Waits until nobody else downloads these contents. `busy` is told once that it will take longer.
    pub(super) fn lock(
        &self,
        contents: &str,
        stop: &AtomicBool,
        busy: &mut dyn FnMut(),
    ) -> Result<Lock, HubError> {
        let path = self.locks.join(format!("{contents}.lock"));
        let open = || {
            fs::create_dir_all(&self.locks)?;
            File::options()
                .create(true)
                .truncate(false)
                .read(true)
                .write(true)
                .open(&path)
        };
        let file = open().map_err(disk(&path, "make the lock"))?;
        let mut told = false;
        loop {
            match file.try_lock() {
                Ok(()) => {
                    return Ok(Lock {
                        _file: file,
                        holds: true,
                    });
                }
                // Some network file systems have no locks.
                Err(TryLockError::Error(_)) => {
                    return Ok(Lock {
                        _file: file,
                        holds: false,
                    });
                }
                Err(TryLockError::WouldBlock) => {
                    if !std::mem::replace(&mut told, true) {
                        busy();
                    }
                    pause(LOCK_WAIT, stop)?;
                }
            }
        }
    }

    fn reference(&self, revision: &Revision) -> PathBuf {
        self.folder.join("refs").join(revision.as_str())
    }
}

/// An error of the system, with what was tried.
pub(super) fn disk(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> HubError {
    let path = path.to_owned();
    move |source| HubError::Disk {
        path,
        action,
        source,
    }
}

/// Size of a file that is there.
pub(super) fn size_of(path: &Path) -> Result<u64, HubError> {
    let metadata = fs::metadata(path).map_err(disk(path, "look at the file"))?;
    Ok(metadata.len())
}

/// Whether there is a file of that size.
pub(super) fn is_there(path: &Path, bytes: u64) -> bool {
    fs::metadata(path).is_ok_and(|m| m.is_file() && m.len() == bytes)
}

fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// Makes something beside `path` and moves it there, so that no one ever sees half of it.
fn replace(path: &Path, make: &dyn Fn(&Path) -> io::Result<()>) -> io::Result<()> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let temporary = folder.join(format!(".new-{}-{number}", std::process::id()));
    let made = make(&temporary).and_then(|()| fs::rename(&temporary, path));
    if made.is_err() {
        // It may not exist at all, and the first error is the one to tell.
        let _ = fs::remove_file(&temporary);
    }
    made
}

#[cfg(unix)]
fn symlink(target: &Path, link: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

#[cfg(windows)]
fn symlink(target: &Path, link: &Path) -> io::Result<()> {
    std::os::windows::fs::symlink_file(target, link)
}

#[cfg(not(any(unix, windows)))]
fn symlink(_: &Path, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "0123456789012345678901234567890123456789";

    fn cache(folder: &Path) -> RepoCache {
        let cache = RepoCache::new(folder, &"org/name".parse().unwrap());
        fs::create_dir_all(cache.folder().join("blobs")).unwrap();
        fs::write(cache.blob("abc"), "contents").unwrap();
        cache
    }

    #[test]
    fn files_are_links_where_links_can_be_made_and_copies_elsewhere() {
        let folder = tempfile::tempdir().unwrap();
        let cache = cache(folder.path());
        let name: FileName = "deep/er/a.gguf".parse().unwrap();
        let path = cache.link(COMMIT, &name, "abc").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "contents");
        if cfg!(unix) {
            let target = fs::read_link(&path).unwrap();
            assert_eq!(target, Path::new("../../../../blobs/abc"));
        }
        let none = |_: &Path, _: &Path| Err(io::ErrorKind::PermissionDenied.into());
        let name: FileName = "b.gguf".parse().unwrap();
        let path = cache.link_with(COMMIT, &name, "abc", none).unwrap();
        assert!(fs::symlink_metadata(&path).unwrap().is_file());
        assert_eq!(fs::read_to_string(&path).unwrap(), "contents");
        assert_eq!(
            cache.snapshot_files(COMMIT).unwrap(),
            ["b.gguf", "deep/er/a.gguf"]
        );
        // A link without a target is not a file.
        fs::remove_file(cache.blob("abc")).unwrap();
        assert_eq!(cache.snapshot_files(COMMIT).unwrap(), ["b.gguf"]);
    }

    #[test]
    fn branches_are_commits() {
        let folder = tempfile::tempdir().unwrap();
        let cache = cache(folder.path());
        let branch: Revision = "refs/pr/1".parse().unwrap();
        assert_eq!(cache.commit(&branch).unwrap(), None);
        cache.set_ref(&branch, COMMIT).unwrap();
        assert_eq!(cache.commit(&branch).unwrap().as_deref(), Some(COMMIT));
        fs::write(cache.reference(&branch), "../../elsewhere").unwrap();
        assert_eq!(cache.commit(&branch).unwrap(), None);
        let commit: Revision = COMMIT.parse().unwrap();
        assert_eq!(cache.commit(&commit).unwrap().as_deref(), Some(COMMIT));
    }

    #[test]
    fn a_lock_is_waited_for_until_told_to_stop() {
        let folder = tempfile::tempdir().unwrap();
        let cache = cache(folder.path());
        let stop = AtomicBool::new(false);
        let first = cache.lock("abc", &stop, &mut || ()).unwrap();
        let mut told = 0;
        let second = cache.lock("abc", &stop, &mut || {
            told += 1;
            stop.store(true, Ordering::Relaxed);
        });
        assert!(matches!(second, Err(HubError::Stopped)));
        assert_eq!(told, 1);
        let shared = cache.partial("abc", &first);
        assert!(shared.ends_with("blobs/abc.incomplete"));
        let alone = Lock {
            _file: File::open(cache.blob("abc")).unwrap(),
            holds: false,
        };
        assert_ne!(cache.partial("abc", &alone), shared);
        drop(first);
        stop.store(false, Ordering::Relaxed);
        cache
            .lock("abc", &stop, &mut || panic!("nobody has it"))
            .unwrap();
    }
}
