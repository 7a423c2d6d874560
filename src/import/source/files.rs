//! A set of safetensors files: their tensors by name, and their bytes by position.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::dtype::Dtype;
use super::error::SourceError;
use super::header::{self, LENGTH_BYTES, MAX_HEADER_BYTES};
use super::sniff;

/// A tensor of a checkpoint, and where its bytes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredTensor {
    /// Its name.
    pub name: String,
    /// The type of its elements.
    pub dtype: Dtype,
    /// Dimensions, outermost first; the elements of the last one are neighbours.
    pub shape: Vec<u64>,
    /// Which of the shards holds it.
    pub shard: usize,
    /// First byte, counted from the start of the shard's file.
    pub offset: u64,
    /// Bytes in all; always the product of shape and element size.
    pub bytes: u64,
}

/// A file of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shard {
    /// Its path.
    pub path: PathBuf,
    /// Bytes of the file when it was opened.
    pub bytes: u64,
}

/// The tensors of one or more safetensors files. Many threads may read from it at once.
///
/// Bytes are read by position and never mapped: a file that is cut meanwhile is an error, not a signal.
#[derive(Debug)]
pub struct TensorFiles {
    shards: Vec<Shard>,
    tensors: Vec<StoredTensor>,
    handles: Handles,
}

impl TensorFiles {
    /// Reads the headers of `paths`. `chosen` says which shard counts for a tensor that several hold.
    ///
    /// # Errors
    /// A file that cannot be read or is no safetensors file, a size or shape that does not add up, a tensor that two
    /// files hold and `chosen` does not name.
    pub(super) fn open(
        paths: Vec<PathBuf>,
        chosen: impl Fn(&str) -> Option<PathBuf>,
    ) -> Result<Self, SourceError> {
        let mut shards: Vec<Shard> = Vec::with_capacity(paths.len());
        let mut tensors: BTreeMap<String, StoredTensor> = BTreeMap::new();
        for (number, path) in paths.into_iter().enumerate() {
            let (shard, found) = open_shard(path, number)?;
            shards.push(shard);
            for tensor in found {
                let Some(known) = tensors.get(&tensor.name) else {
                    tensors.insert(tensor.name.clone(), tensor);
                    continue;
                };
                let [first, second] = [known.shard, number].map(|shard| shards[shard].path.clone());
                match chosen(&tensor.name) {
                    Some(path) if path == second => {
                        tensors.insert(tensor.name.clone(), tensor);
                    }
                    Some(_) => {}
                    None => {
                        let tensor = tensor.name;
                        return Err(SourceError::Duplicate {
                            tensor,
                            first,
                            second,
                        });
                    }
                }
            }
        }
        Ok(Self {
            shards,
            tensors: tensors.into_values().collect(),
            handles: Handles::default(),
        })
    }

    /// All tensors, sorted by name.
    pub fn tensors(&self) -> &[StoredTensor] {
        &self.tensors
    }

    /// The tensor of that name.
    pub fn tensor(&self, name: &str) -> Option<&StoredTensor> {
        let place = self.tensors.binary_search_by(|t| t.name.as_str().cmp(name));
        place.ok().and_then(|place| self.tensors.get(place))
    }

    /// The files, sorted by name.
    pub fn shards(&self) -> &[Shard] {
        &self.shards
    }

    /// Bytes of all tensors.
    pub fn total_bytes(&self) -> u64 {
        // Distinct ranges of real files, whose sizes are far below 64 bits.
        self.tensors
            .iter()
            .fold(0, |sum, t| sum.saturating_add(t.bytes))
    }

    /// The path of the shard that holds a tensor, for messages.
    pub fn path_of(&self, tensor: &StoredTensor) -> &Path {
        let shard = self.shards.get(tensor.shard);
        shard.map_or(Path::new(""), |shard| &shard.path)
    }

    /// Reads the given bytes of a tensor, counted from its first one, in place of what `out` holds.
    ///
    /// # Errors
    /// A range that goes past the tensor, a failed read, a shard that became shorter, too little memory.
    pub fn read(
        &self,
        tensor: &StoredTensor,
        bytes: Range<u64>,
        out: &mut Vec<u8>,
    ) -> Result<(), SourceError> {
        let length = bytes.end.checked_sub(bytes.start);
        let offset = tensor.offset.checked_add(bytes.start);
        let (Some(shard), Some(length), Some(offset), true) = (
            self.shards.get(tensor.shard),
            length,
            offset,
            bytes.end <= tensor.bytes,
        ) else {
            return Err(SourceError::Tensor {
                path: self.path_of(tensor).to_owned(),
                tensor: tensor.name.clone(),
                field: "bytes",
                expected: format!("a range within its {} bytes", tensor.bytes),
                found: format!("{} to {}", bytes.start, bytes.end),
            });
        };
        resize(out, length).ok_or_else(|| SourceError::Memory {
            path: shard.path.clone(),
            tensor: tensor.name.clone(),
            bytes: length,
        })?;
        let file = self.handles.get(tensor.shard, shard)?;
        read_at(&file, out, offset).map_err(|error| read_error(shard, &file, error))
    }
}

/// Gives `out` that length; bytes it had stay, as they will be written over. None where memory does not suffice.
fn resize(out: &mut Vec<u8>, length: u64) -> Option<()> {
    let length = usize::try_from(length).ok()?;
    out.try_reserve_exact(length.saturating_sub(out.len()))
        .ok()?;
    out.resize(length, 0);
    Some(())
}

/// A file that ends too early has lost bytes since its header was checked.
fn read_error(shard: &Shard, file: &File, error: io::Error) -> SourceError {
    let path = shard.path.clone();
    match (error.kind(), file.metadata()) {
        (io::ErrorKind::UnexpectedEof, Ok(now)) => SourceError::ShardSize {
            path,
            expected: shard.bytes,
            found: now.len(),
        },
        _ => SourceError::Io {
            path,
            action: "read the tensor data",
            source: error,
        },
    }
}

fn open_shard(path: PathBuf, number: usize) -> Result<(Shard, Vec<StoredTensor>), SourceError> {
    let failed = |action| {
        let path = path.clone();
        move |source| SourceError::Io {
            path,
            action,
            source,
        }
    };
    // Asked first: opening a named pipe would wait for its writer.
    if !fs::metadata(&path)
        .map_err(failed("open the file"))?
        .is_file()
    {
        return Err(SourceError::NotSafetensors {
            path,
            found: "something that is not a regular file".to_owned(),
            hint: Some("put the file itself in its place"),
        });
    }
    let file = File::open(&path).map_err(failed("open the file"))?;
    let bytes = file.metadata().map_err(failed("open the file"))?.len();
    let mut start = vec![0; bytes.min(sniff::BYTES) as usize];
    read_at(&file, &mut start, 0).map_err(failed("read the header"))?;
    let length = header_length(&path, &start, bytes)?;
    let mut header = vec![0; length];
    read_at(&file, &mut header, LENGTH_BYTES).map_err(failed("read the header"))?;
    let (entries, expected) = header::parse(&path, &header)?;
    if expected != bytes {
        return Err(SourceError::ShardSize {
            path,
            expected,
            found: bytes,
        });
    }
    let data = LENGTH_BYTES + header.len() as u64;
    let tensors = entries
        .into_iter()
        .map(|entry| StoredTensor {
            name: entry.name,
            dtype: entry.dtype,
            shape: entry.shape,
            shard: number,
            offset: data + entry.start,
            bytes: entry.bytes,
        })
        .collect();
    Ok((Shard { path, bytes }, tensors))
}

/// The length of the header, from the file's first bytes; not more than the file or the limit.
fn header_length(path: &Path, start: &[u8], bytes: u64) -> Result<usize, SourceError> {
    if sniff::is_lfs_pointer(start) {
        let path = path.to_owned();
        return Err(SourceError::LfsPointer { path });
    }
    let not_safetensors = || {
        let (found, hint) = sniff::looks_like(start);
        SourceError::NotSafetensors {
            path: path.to_owned(),
            found,
            hint,
        }
    };
    let (length, rest) = start.split_first_chunk().ok_or_else(not_safetensors)?;
    let length = u64::from_le_bytes(*length);
    if length == 0 || rest.first().is_some_and(|&byte| byte != b'{') {
        return Err(not_safetensors());
    }
    if length > MAX_HEADER_BYTES {
        return Err(SourceError::Header {
            path: path.to_owned(),
            expected: "at most 100000000 bytes of it",
            found: length.to_string(),
        });
    }
    match usize::try_from(length) {
        Ok(fits) if LENGTH_BYTES + length <= bytes => Ok(fits),
        _ => Err(SourceError::ShardSize {
            path: path.to_owned(),
            expected: LENGTH_BYTES + length,
            found: bytes,
        }),
    }
}

#[cfg(unix)]
fn read_at(file: &File, out: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, out, offset)
}

#[cfg(windows)]
fn read_at(file: &File, mut out: &mut [u8], mut offset: u64) -> io::Result<()> {
    use std::os::windows::fs::FileExt;
    while !out.is_empty() {
        match file.seek_read(out, offset) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => {
                out = &mut out[read..];
                offset += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Files that stay open. A large model has hundreds of shards, and some systems allow 256 open files.
const MAX_OPEN: usize = 32;

/// Open shards, the one used last at the end.
#[derive(Debug, Default)]
struct Handles(Mutex<Vec<(usize, Arc<File>)>>);

impl Handles {
    fn get(&self, number: usize, shard: &Shard) -> Result<Arc<File>, SourceError> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = open.iter().position(|(known, _)| *known == number) {
            let entry = open.remove(place);
            let file = Arc::clone(&entry.1);
            open.push(entry);
            return Ok(file);
        }
        let failed = |source| SourceError::Io {
            path: shard.path.clone(),
            action: "open the file",
            source,
        };
        let file = File::open(&shard.path).map_err(failed)?;
        let found = file.metadata().map_err(failed)?.len();
        if found != shard.bytes {
            return Err(SourceError::ShardSize {
                path: shard.path.clone(),
                expected: shard.bytes,
                found,
            });
        }
        if open.len() == MAX_OPEN {
            open.remove(0);
        }
        let file = Arc::new(file);
        open.push((number, Arc::clone(&file)));
        Ok(file)
    }
}
