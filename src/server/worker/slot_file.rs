//! Slot files: tokens, attention rows and states of one conversation, bit for bit.
//!
//! Layout, little endian: magic; length of the header; header (JSON); tokens (u32); rows; then for each state its
//! planes and its logits (f32), if it has any; SHA-256 of all before. The header says how many bytes each part has, so
//! that a file that was cut or changed is found before anything of it is used.

#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::cache::State;
use crate::engine::Engine;
use crate::memory::{Checkpoint, Rows};
use crate::publish::publish;
use crate::server::protocol::{RequestError, Scope};

/// First bytes of a file; the last one is the version.
const MAGIC: &[u8; 8] = b"OXLSLOT\x01";
/// No header is longer.
const MOST_HEADER: u64 = 1 << 20;
/// Bytes of a tensor that tell one model from another of the same shape.
const SAMPLE: usize = 256;
const DIGEST: u64 = 32;

/// What a model and its memory look like: files fit where it is the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Fingerprint {
    /// Name of the model, for messages.
    model: String,
    /// Hash over the tensors' names, types, shapes and first bytes.
    weights: String,
    /// Names and widths of rows and states.
    layout: String,
    /// Whether the MTP head's rows are filled.
    mtp: bool,
}

impl Fingerprint {
    /// That of an engine.
    pub fn of(engine: &Engine) -> Self {
        let gguf = engine.model().gguf();
        let mut hash = Sha256::new();
        for tensor in gguf.tensors() {
            hash.update(format!(
                "{} {:?} {:?};",
                tensor.name, tensor.ty, tensor.shape
            ));
            let data = gguf.data(tensor);
            hash.update(&data[..data.len().min(SAMPLE)]);
        }
        Self {
            model: engine.model().name(),
            weights: hex(&hash.finalize()),
            layout: engine.memory().layout(),
            mtp: engine.config().mtp,
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// What can go wrong with a slot file.
#[derive(Debug, thiserror::Error)]
pub(super) enum SlotFileError {
    /// The system refuses.
    #[error("{}: {source}", .path.display())]
    Io {
        path: PathBuf,
        source: std::io::Error,
    },
    /// Not a file of ours, or of another version.
    #[error("{} is no slot file of this version", .path.display())]
    Magic { path: PathBuf },
    /// The header makes no sense.
    #[error("{}: the header is damaged: {why}", .path.display())]
    Header { path: PathBuf, why: String },
    /// Too short or too long.
    #[error("{} is truncated or padded: {expected} bytes expected, {found} found", .path.display())]
    Length {
        path: PathBuf,
        expected: u64,
        found: u64,
    },
    /// Bytes have changed.
    #[error("{} is damaged: its checksum does not match", .path.display())]
    Checksum { path: PathBuf },
    /// Written for another model or another type of rows.
    #[error("{} was written for {found}, but this server runs {expected}", .path.display())]
    Model {
        path: PathBuf,
        expected: String,
        found: String,
    },
    /// Written for another key.
    #[error("{} belongs to another API key", .path.display())]
    Scope { path: PathBuf },
    /// Too many tokens.
    #[error("{} holds {n_tokens} tokens, but the context of a slot holds {n_ctx}", .path.display())]
    Context {
        path: PathBuf,
        n_tokens: usize,
        n_ctx: u32,
    },
}

impl SlotFileError {
    /// What the client hears. It chose the file's name, but not its folder.
    pub fn request_error(&self) -> RequestError {
        let path = match self {
            Self::Io { path, .. }
            | Self::Magic { path }
            | Self::Header { path, .. }
            | Self::Length { path, .. }
            | Self::Checksum { path }
            | Self::Model { path, .. }
            | Self::Scope { path }
            | Self::Context { path, .. } => path,
        };
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned());
        let full = path.display().to_string();
        let text = self.to_string().replace(&full, &name.unwrap_or_default());
        match self {
            Self::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                RequestError::NotFound(text)
            }
            Self::Io { .. } => RequestError::Internal(text),
            _ => RequestError::Invalid(text),
        }
    }
}

/// The parts and their sizes.
#[derive(Debug, Serialize, Deserialize)]
struct Header {
    fingerprint: Fingerprint,
    scope: String,
    n_tokens: u64,
    row_bytes: u64,
    states: Vec<StateHeader>,
}

#[derive(Debug, Serialize, Deserialize)]
struct StateHeader {
    n: u64,
    bytes: u64,
    n_logits: Option<u64>,
}

impl Header {
    /// Bytes of all parts behind the header, the checksum not among them. `None` if no file is that long.
    fn payload(&self) -> Option<u64> {
        let start = self.n_tokens.checked_mul(4)?.checked_add(self.row_bytes)?;
        self.states.iter().try_fold(start, |sum, s| {
            let logits = s.n_logits.unwrap_or(0).checked_mul(4)?;
            sum.checked_add(s.bytes)?.checked_add(logits)
        })
    }
}

/// A conversation on its way to or from a file.
#[derive(Debug)]
pub(super) struct SlotFile {
    pub fingerprint: Fingerprint,
    pub scope: Scope,
    pub tokens: Vec<u32>,
    pub rows: Rows,
    /// Ascending by position; the last one is at the tokens' end.
    pub states: Vec<Arc<State>>,
}

/// What was read, and how much.
#[derive(Debug)]
pub(super) struct Loaded {
    pub file: SlotFile,
    pub n_bytes: u64,
}

/// Writes and hashes.
struct Hashing<W> {
    inner: W,
    hash: Sha256,
    n: u64,
}

impl<W: Write> Hashing<W> {
    fn put(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.hash.update(bytes);
        self.n += bytes.len() as u64;
        self.inner.write_all(bytes)
    }
}

impl SlotFile {
    /// Writes the file under a name of its own first, then renames it; gives its size.
    pub fn write(&self, path: &Path) -> Result<u64, SlotFileError> {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}.tmp", std::process::id()));
        let unfinished = path.with_file_name(name);
        let written = self
            .write_to(&unfinished)
            .and_then(|n| publish(&unfinished, path).map(|()| n));
        written.map_err(|source| {
            // What is left of it is of no use; that it may not be there is no news.
            let _ = std::fs::remove_file(&unfinished);
            SlotFileError::Io {
                path: path.to_owned(),
                source,
            }
        })
    }

    fn write_to(&self, path: &Path) -> std::io::Result<u64> {
        let header = Header {
            fingerprint: self.fingerprint.clone(),
            scope: hex(&self.scope.0),
            n_tokens: self.tokens.len() as u64,
            row_bytes: self.rows.bytes().len() as u64,
            states: self
                .states
                .iter()
                .map(|s| StateHeader {
                    n: s.n() as u64,
                    bytes: s.checkpoint.state.len() as u64,
                    n_logits: s.logits.as_ref().map(|l| l.len() as u64),
                })
                .collect(),
        };
        let header = serde_json::to_vec(&header)?;
        let mut out = Hashing {
            inner: BufWriter::new(File::create(path)?),
            hash: Sha256::new(),
            n: 0,
        };
        out.put(MAGIC)?;
        out.put(&(header.len() as u64).to_le_bytes())?;
        out.put(&header)?;
        out.put(&little_endian(&self.tokens, u32::to_le_bytes))?;
        out.put(self.rows.bytes())?;
        for state in &self.states {
            out.put(&state.checkpoint.state)?;
            let logits = state.logits.as_deref().unwrap_or_default();
            out.put(&little_endian(logits, f32::to_le_bytes))?;
        }
        let digest = out.hash.finalize();
        out.inner.write_all(&digest)?;
        let file = out.inner.into_inner().map_err(|e| e.into_error())?;
        file.sync_all()?;
        Ok(out.n + DIGEST)
    }

    /// Reads a file that fits here.
    pub fn read(
        path: &Path,
        wanted: &Fingerprint,
        scope: Scope,
        n_ctx: u32,
    ) -> Result<Loaded, SlotFileError> {
        let io = |source| SlotFileError::Io {
            path: path.to_owned(),
            source,
        };
        // Opening a pipe would wait for a writer, for ever perhaps.
        if !std::fs::metadata(path).map_err(io)?.is_file() {
            return Err(SlotFileError::Magic {
                path: path.to_owned(),
            });
        }
        let mut file = File::open(path).map_err(io)?;
        let found = file.metadata().map_err(io)?.len();
        let mut hash = Sha256::new();
        let header = read_header(&mut file, path, found, &mut hash)?;
        check(&header, path, wanted, scope, n_ctx)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(io)?;
        let at = bytes.len().saturating_sub(DIGEST as usize);
        let digest = bytes.split_off(at);
        hash.update(&bytes);
        if hash.finalize().as_slice() != digest {
            return Err(SlotFileError::Checksum {
                path: path.to_owned(),
            });
        }
        Ok(Loaded {
            file: parts(header, scope, &bytes),
            n_bytes: found,
        })
    }
}

fn little_endian<T: Copy>(values: &[T], bytes: fn(T) -> [u8; 4]) -> Vec<u8> {
    values.iter().flat_map(|&v| bytes(v)).collect()
}

/// Reads magic and header, and checks that the file has the length that the header says.
fn read_header(
    file: &mut File,
    path: &Path,
    found: u64,
    hash: &mut Sha256,
) -> Result<Header, SlotFileError> {
    let damaged = |why: String| SlotFileError::Header {
        path: path.to_owned(),
        why,
    };
    let mut start = [0u8; 16];
    let magic = file.read_exact(&mut start).is_ok() && start.starts_with(MAGIC);
    if !magic {
        return Err(SlotFileError::Magic {
            path: path.to_owned(),
        });
    }
    let mut length = [0u8; 8];
    length.copy_from_slice(&start[8..]);
    let length = u64::from_le_bytes(length);
    if length > MOST_HEADER || 16 + length > found {
        return Err(damaged(format!("it has {length} bytes")));
    }
    let mut text = vec![0u8; length as usize];
    file.read_exact(&mut text)
        .map_err(|e| damaged(e.to_string()))?;
    hash.update(start);
    hash.update(&text);
    let header: Header = serde_json::from_slice(&text).map_err(|e| damaged(e.to_string()))?;
    let payload = header.payload();
    let expected = payload.and_then(|n| n.checked_add(16 + length + DIGEST));
    match expected {
        Some(expected) if expected == found => Ok(header),
        expected => Err(SlotFileError::Length {
            path: path.to_owned(),
            expected: expected.unwrap_or(u64::MAX),
            found,
        }),
    }
}

/// Whether the file is for this model, this key and this context.
fn check(
    header: &Header,
    path: &Path,
    wanted: &Fingerprint,
    scope: Scope,
    n_ctx: u32,
) -> Result<(), SlotFileError> {
    let path = path.to_owned();
    let found = &header.fingerprint;
    if found != wanted {
        let describe = |f: &Fingerprint| {
            let weights = f.weights.get(..8).unwrap_or_default();
            let rows = f.layout.split(' ').nth(1).unwrap_or_default();
            let parts = f.layout.matches(':').count();
            let head = if f.mtp { "with" } else { "without" };
            format!(
                "{} ({weights}, {parts} parts, rows of {rows}, {head} guesses by its head)",
                f.model
            )
        };
        return Err(SlotFileError::Model {
            path,
            expected: describe(wanted),
            found: describe(found),
        });
    }
    if header.scope != hex(&scope.0) {
        return Err(SlotFileError::Scope { path });
    }
    if header.n_tokens > u64::from(n_ctx) {
        return Err(SlotFileError::Context {
            path,
            n_tokens: header.n_tokens as usize,
            n_ctx,
        });
    }
    let ascending = header.states.windows(2).all(|s| s[0].n < s[1].n);
    if !ascending || header.states.last().map(|s| s.n) != Some(header.n_tokens) {
        let why = "its states do not end where its tokens do".to_owned();
        return Err(SlotFileError::Header { path, why });
    }
    Ok(())
}

/// The parts of a payload whose length was checked.
fn parts(header: Header, scope: Scope, payload: &[u8]) -> SlotFile {
    let mut rest = payload;
    let mut next = |n: u64| {
        let (now, later) = rest.split_at((n as usize).min(rest.len()));
        rest = later;
        now
    };
    let word = |b: &[u8]| [b[0], b[1], b[2], b[3]];
    let tokens = next(4 * header.n_tokens).chunks_exact(4);
    let tokens = tokens.map(|b| u32::from_le_bytes(word(b))).collect();
    let rows = Rows::new(header.n_tokens as u32, next(header.row_bytes).to_vec());
    let mut states = Vec::with_capacity(header.states.len());
    for state in &header.states {
        let checkpoint = Checkpoint {
            n_past: state.n as u32,
            state: next(state.bytes).to_vec(),
        };
        let logits = state.n_logits.map(|n| {
            let bytes = next(4 * n).chunks_exact(4);
            bytes.map(|b| f32::from_le_bytes(word(b))).collect()
        });
        states.push(State::new(checkpoint, logits));
    }
    SlotFile {
        fingerprint: header.fingerprint,
        scope,
        tokens,
        rows,
        states,
    }
}
