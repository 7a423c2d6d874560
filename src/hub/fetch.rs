//! One file from the hub into the cache: whole, checked, and resumed where it was left.

#![forbid(unsafe_code)]

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use sha2::{Digest as _, Sha256};
use ureq::http::header;

use super::api::RemoteFile;
use super::cache::{RepoCache, disk, is_there};
use super::error::HubError;
use super::http::{Client, Patience, Reply, Subject, broken, check};
use super::name::{FileName, RepoId, escaped, is_hex, printable};
use super::settings::Settings;
use super::{Event, Listener, PulledFile};

/// Bytes per read.
const CHUNK: usize = 256 << 10;

/// Where files come from and go to.
pub(super) struct Fetch<'a> {
    pub(super) settings: &'a Settings,
    pub(super) client: &'a Client,
    pub(super) cache: &'a RepoCache,
    pub(super) repo: &'a RepoId,
    pub(super) commit: &'a str,
    pub(super) stop: &'a AtomicBool,
}

/// What a file must be.
struct Target<'a> {
    name: &'a FileName,
    bytes: u64,
    contents: &'a str,
}

impl Target<'_> {
    /// The checksum; small files have git's name instead, which is no plain hash.
    fn sha256(&self) -> Option<&str> {
        is_hex(self.contents, 64).then_some(self.contents)
    }
}

impl Fetch<'_> {
    /// Makes sure that a file is in the cache.
    pub(super) fn file(
        &self,
        remote: &RemoteFile,
        listen: &mut Listener<'_>,
    ) -> Result<PulledFile, HubError> {
        let name: FileName = remote.name.parse()?;
        let target = Target {
            name: &name,
            bytes: remote.bytes,
            contents: &remote.contents,
        };
        if !is_hex(target.contents, 64) && !is_hex(target.contents, 40) {
            return Err(HubError::Answer {
                url: name.to_string(),
                problem: format!("`{}` names no contents", printable(target.contents)),
            });
        }
        let path = self.cache.snapshot(self.commit, &name);
        let cached = is_there(&path, target.bytes) || self.blob(&target, listen)?;
        let path = match is_there(&path, target.bytes) {
            true => path,
            false => self.cache.link(self.commit, &name, target.contents)?,
        };
        Ok(PulledFile {
            path,
            bytes: target.bytes,
            cached,
            name,
        })
    }

    /// Makes sure that the contents are in the cache; says whether they were before.
    fn blob(&self, target: &Target<'_>, listen: &mut Listener<'_>) -> Result<bool, HubError> {
        let blob = self.cache.blob(target.contents);
        if is_there(&blob, target.bytes) {
            return Ok(true);
        }
        let mut waiting = || listen(Event::Waiting { name: target.name });
        let lock = self.cache.lock(target.contents, self.stop, &mut waiting)?;
        // Who held the lock may have brought it.
        if is_there(&blob, target.bytes) {
            return Ok(true);
        }
        let mut partial = Partial::open(self.cache.partial(target.contents, &lock))?;
        self.fill(&mut partial, target, listen)?;
        partial.keep_as(&blob)?;
        listen(Event::Done { name: target.name });
        Ok(false)
    }

    /// Completes a partial file, over as many attempts as bring something new.
    fn fill(
        &self,
        partial: &mut Partial,
        target: &Target<'_>,
        listen: &mut Listener<'_>,
    ) -> Result<(), HubError> {
        partial.take_over(target, self.stop, listen)?;
        let mut patience =
            Patience::new(self.settings.attempts, self.settings.first_wait, self.stop);
        // A server that starts over each time makes no progress.
        let mut most = partial.have;
        let mut restarted = false;
        loop {
            check(self.stop)?;
            let result = match partial.have == target.bytes {
                true => Ok(()),
                false => self.attempt(partial, target, listen),
            };
            if partial.have > most {
                most = partial.have;
                patience.progressed();
            }
            if let Err(e) = result {
                patience.after(e, listen)?;
                continue;
            }
            match partial.verify(target) {
                Ok(()) => return Ok(()),
                // What was there before may be what is wrong.
                Err(e) if partial.resumed && !restarted => {
                    restarted = true;
                    listen(Event::Retrying {
                        because: &e,
                        seconds: 0.0,
                    });
                    partial.reset()?;
                    most = 0;
                }
                Err(e) => {
                    partial.remove()?;
                    return Err(e);
                }
            }
        }
    }

    /// Asks for what is missing and writes what comes.
    fn attempt(
        &self,
        partial: &mut Partial,
        target: &Target<'_>,
        listen: &mut Listener<'_>,
    ) -> Result<(), HubError> {
        let url = self.client.address(&format!(
            "{}/resolve/{}/{}",
            self.repo,
            self.commit,
            escaped(target.name.as_str(), true)
        ));
        let mut headers = Vec::new();
        if partial.have > 0 {
            headers.push((header::RANGE, format!("bytes={}-", partial.have)));
            if let Some(etag) = &partial.etag {
                headers.push((header::IF_RANGE, etag.clone()));
            }
        }
        let subject = Subject {
            repo: self.repo,
            revision: self.commit,
            file: Some(target.name.as_str()),
        };
        let reply = self.client.get(&subject, &url, &headers)?;
        partial.agree(&reply, target)?;
        listen(Event::Downloading {
            name: target.name,
            from: partial.have,
            bytes: target.bytes,
        });
        let mut reader = reply.body.into_reader();
        let mut buffer = vec![0; CHUNK];
        while partial.have < target.bytes {
            check(self.stop)?;
            let wanted = (target.bytes - partial.have).min(CHUNK as u64);
            let wanted = usize::try_from(wanted).unwrap_or(CHUNK);
            match reader.read(&mut buffer[..wanted]) {
                Ok(0) => {
                    return Err(HubError::Cut {
                        name: target.name.to_string(),
                        expected: target.bytes,
                        found: partial.have,
                    });
                }
                Ok(n) => {
                    partial.append(&buffer[..n])?;
                    listen(Event::Advanced(n as u64));
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(broken(&reply.url, &e)),
            }
        }
        Ok(())
    }
}

/// A file that is not complete yet.
struct Partial {
    path: PathBuf,
    file: File,
    /// Bytes in it.
    have: u64,
    /// Of these bytes.
    hash: Sha256,
    /// What the server calls the version these bytes are from.
    etag: Option<String>,
    /// Whether the bytes come from more than one answer.
    resumed: bool,
}

impl Partial {
    fn open(path: PathBuf) -> Result<Self, HubError> {
        let open = || {
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder)?;
            }
            let mut options = File::options();
            options.create(true).truncate(false).read(true).write(true);
            let file = options.open(&path)?;
            let have = file.metadata()?.len();
            Ok((file, have))
        };
        let (file, have) = open().map_err(disk(&path, "open the file"))?;
        Ok(Self {
            path,
            file,
            have,
            hash: Sha256::new(),
            etag: None,
            resumed: false,
        })
    }

    /// Takes over what an earlier download left, if a checksum will tell whether it is right.
    fn take_over(
        &mut self,
        target: &Target<'_>,
        stop: &AtomicBool,
        listen: &mut Listener<'_>,
    ) -> Result<(), HubError> {
        if self.have == 0 {
            return Ok(());
        }
        if target.sha256().is_none() || self.have > target.bytes {
            return self.reset();
        }
        listen(Event::Checking {
            name: target.name,
            bytes: self.have,
        });
        let mut buffer = vec![0; CHUNK];
        let mut read = 0;
        while read < self.have {
            check(stop)?;
            let n = self
                .file
                .read(&mut buffer)
                .map_err(disk(&self.path, "read the file"))?;
            if n == 0 {
                break;
            }
            self.hash.update(&buffer[..n]);
            read += n as u64;
            listen(Event::Advanced(n as u64));
        }
        self.have = read;
        self.resumed = true;
        Ok(())
    }

    /// Makes sure that the answer continues what is here, or starts over with it.
    fn agree(&mut self, reply: &Reply, target: &Target<'_>) -> Result<(), HubError> {
        let changed = |expected: String, found: String| HubError::Changed {
            name: target.name.to_string(),
            expected,
            found,
        };
        if let Some(linked) = reply.linked_etag.as_deref().map(bare) {
            let comparable = linked.len() == target.contents.len();
            if comparable && !linked.eq_ignore_ascii_case(target.contents) {
                return Err(changed(target.contents.to_owned(), printable(linked)));
            }
        }
        let etag = reply
            .header(header::ETAG)
            .filter(|etag| etag.starts_with('"'))
            .map(str::to_owned);
        if reply.status == 200 {
            if self.have > 0 {
                self.reset()?;
            }
        } else {
            let range = reply.header(header::CONTENT_RANGE).and_then(range);
            let same = self.etag.is_none() || etag.is_none() || self.etag == etag;
            let fits = range.is_some_and(|(from, size)| {
                from == self.have && size.is_none_or(|size| size == target.bytes)
            });
            if reply.status != 206 || !same || !fits {
                self.reset()?;
                return Err(HubError::Connection {
                    host: reply.url.clone(),
                    problem: "the server has another version of the file now".to_owned(),
                });
            }
            self.resumed = true;
        }
        self.etag = etag;
        let announced = reply
            .header(header::CONTENT_LENGTH)
            .and_then(|text| text.parse::<u64>().ok())
            .map(|length| self.have.saturating_add(length));
        match announced.filter(|announced| *announced != target.bytes) {
            Some(found) => Err(changed(
                format!("{} bytes", target.bytes),
                format!("{found} bytes"),
            )),
            None => Ok(()),
        }
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), HubError> {
        self.file
            .write_all(bytes)
            .map_err(disk(&self.path, "write the download"))?;
        self.hash.update(bytes);
        self.have += bytes.len() as u64;
        Ok(())
    }

    /// Starts over.
    fn reset(&mut self) -> Result<(), HubError> {
        let start = |file: &mut File| {
            file.set_len(0)?;
            file.seek(SeekFrom::Start(0))
        };
        start(&mut self.file).map_err(disk(&self.path, "start the file over"))?;
        self.have = 0;
        self.hash = Sha256::new();
        self.etag = None;
        self.resumed = false;
        Ok(())
    }

    fn verify(&self, target: &Target<'_>) -> Result<(), HubError> {
        let Some(expected) = target.sha256() else {
            return Ok(());
        };
        let found = hex(&self.hash.clone().finalize());
        match found == expected {
            true => Ok(()),
            false => Err(HubError::Checksum {
                name: target.name.to_string(),
                expected: expected.to_owned(),
                found,
            }),
        }
    }

    fn remove(&self) -> Result<(), HubError> {
        fs::remove_file(&self.path).map_err(disk(&self.path, "remove the damaged file"))
    }

    /// The file is complete: it gets its name.
    fn keep_as(self, blob: &Path) -> Result<(), HubError> {
        self.file
            .sync_all()
            .map_err(disk(&self.path, "write the download"))?;
        drop(self.file);
        fs::rename(&self.path, blob).map_err(disk(blob, "name the download"))
    }
}

/// An etag without what surrounds it.
fn bare(etag: &str) -> &str {
    etag.trim_start_matches("W/").trim_matches('"')
}

/// Start and size of the whole in `bytes 100-199/200`.
fn range(text: &str) -> Option<(u64, Option<u64>)> {
    let (span, size) = text.strip_prefix("bytes ")?.split_once('/')?;
    let from = span.split_once('-')?.0.parse().ok()?;
    match size {
        "*" => Some((from, None)),
        _ => Some((from, Some(size.parse().ok()?))),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_understood() {
        let cases = [
            ("bytes 100-199/200", Some((100, Some(200)))),
            ("bytes 0-0/*", Some((0, None))),
            ("bytes */200", None),
            ("items 0-1/2", None),
            ("bytes 1-2/x", None),
        ];
        for (text, expected) in cases {
            assert_eq!(range(text), expected, "{text}");
        }
        assert_eq!(bare("W/\"abc\""), "abc");
        assert_eq!(hex(&[0, 0x1f, 0xff]), "001fff");
    }
}
