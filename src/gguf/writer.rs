//! Writing a model: the header at once, then the tensors in pieces, in any order and from any thread.

#![forbid(unsafe_code)]

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::error::{Field, GgufError};
use super::metadata::Metadata;
use super::plan::{FilePlan, TensorPlan, WriterOptions, lay_out};
use super::reader::describe;
use super::types::TensorInfo;
use crate::positioned::PositionedFile;

/// Writes a model to one file, or to several parts.
///
/// All bytes go to `NAME.part` beside the target. [`Writer::finish`] checks that every tensor is complete, flushes to
/// the disk and renames; a writer that is dropped before removes what it wrote. So a file under the target's name is
/// always whole, and a model may be written over the one it is read from.
#[derive(Debug)]
pub struct Writer {
    outputs: Vec<Output>,
    tensors: Vec<TensorInfo>,
    written: Vec<AtomicU64>,
}

/// A file that is being written, removed on drop unless it was published.
#[derive(Debug)]
struct Output {
    target: PathBuf,
    temporary: PathBuf,
    file: PositionedFile,
    published: bool,
}

impl Writer {
    /// Lays the model out, creates its files and writes their headers.
    ///
    /// `tensors` is the order in the file; [`Writer::tensor`] and [`Writer::write_at`] count in it. Keys of an earlier
    /// split in `metadata` are replaced.
    ///
    /// # Errors
    /// A name, shape or value that the format does not allow, or a file that cannot be created.
    pub fn create(
        path: &Path,
        metadata: Metadata,
        tensors: Vec<TensorPlan>,
        options: &WriterOptions,
    ) -> Result<Self, GgufError> {
        let layout = lay_out(path, metadata, tensors, options)?;
        let outputs = layout
            .files
            .into_iter()
            .map(Output::create)
            .collect::<Result<_, _>>()?;
        let written = layout.tensors.iter().map(|_| AtomicU64::new(0)).collect();
        Ok(Self {
            outputs,
            tensors: layout.tensors,
            written,
        })
    }

    /// The tensors with their file (as `shard`) and position in it.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// The files that [`Writer::finish`] will leave.
    pub fn paths(&self) -> impl ExactSizeIterator<Item = &Path> {
        self.outputs.iter().map(|output| output.target.as_path())
    }

    /// A stream that takes the bytes of one tensor from its start. Each `write` is a system call: wrap it in a
    /// `BufWriter` for small pieces.
    ///
    /// # Errors
    /// There is no such tensor.
    pub fn tensor(&self, index: usize) -> Result<TensorWriter<'_>, GgufError> {
        self.info(index)?;
        Ok(TensorWriter {
            writer: self,
            index,
            position: 0,
        })
    }

    /// Writes a piece of a tensor. Pieces may come in any order and from several threads, each byte once.
    ///
    /// # Errors
    /// There is no such tensor, the piece goes past its end, or the disk refuses.
    pub fn write_at(&self, index: usize, offset: u64, bytes: &[u8]) -> Result<(), GgufError> {
        let info = self.info(index)?;
        let end = offset.saturating_add(bytes.len() as u64);
        if end > info.bytes {
            return Err(self.broken(
                info,
                format!("{} bytes", info.bytes),
                format!("bytes up to {end}"),
            ));
        }
        let output = &self.outputs[info.shard];
        let written = output.file.write_all_at(bytes, info.offset + offset);
        written.map_err(|source| output.error("write the tensor data", source))?;
        self.written[index].fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Leaves a whole tensor as it is in a new file: zeros, which take no room where the disk has holes in files.
    ///
    /// # Errors
    /// There is no such tensor.
    pub fn leave_zero(&self, index: usize) -> Result<(), GgufError> {
        let bytes = self.info(index)?.bytes;
        self.written[index].fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    /// Writes a whole tensor.
    ///
    /// # Errors
    /// As [`Writer::write_at`]; also when `bytes` is not the whole tensor.
    pub fn write_tensor(&self, index: usize, bytes: &[u8]) -> Result<(), GgufError> {
        let info = self.info(index)?;
        if bytes.len() as u64 != info.bytes {
            return Err(self.broken(
                info,
                format!("{} bytes", info.bytes),
                format!("{} bytes", bytes.len()),
            ));
        }
        self.write_at(index, 0, bytes)
    }

    /// Checks that every tensor has all its bytes, flushes them to the disk and gives the files their names.
    ///
    /// # Errors
    /// A tensor is incomplete, or the disk refuses; then nothing is left behind.
    pub fn finish(mut self) -> Result<Vec<PathBuf>, GgufError> {
        for (info, written) in self.tensors.iter().zip(&self.written) {
            let written = written.load(Ordering::Relaxed);
            if written != info.bytes {
                return Err(self.broken(
                    info,
                    format!("{} bytes", info.bytes),
                    format!("{written} bytes"),
                ));
            }
        }
        for output in &self.outputs {
            output
                .file
                .sync()
                .map_err(|source| output.error("flush the file", source))?;
        }
        self.publish()?;
        Ok(self.paths().map(Path::to_owned).collect())
    }

    fn publish(&mut self) -> Result<(), GgufError> {
        for index in 0..self.outputs.len() {
            let output = &mut self.outputs[index];
            if let Err(source) = fs::rename(&output.temporary, &output.target) {
                let error = output.error("rename the finished file", source);
                for earlier in &self.outputs[..index] {
                    // Best effort: a model with parts missing is of no use.
                    let _ = fs::remove_file(&earlier.target);
                }
                return Err(error);
            }
            output.published = true;
        }
        if let Some(output) = self.outputs.first() {
            sync_folder(&output.target);
        }
        Ok(())
    }

    fn info(&self, index: usize) -> Result<&TensorInfo, GgufError> {
        self.tensors
            .get(index)
            .ok_or_else(|| GgufError::CannotWrite {
                path: self
                    .outputs
                    .first()
                    .map(|output| output.target.clone())
                    .unwrap_or_default(),
                field: "tensor index".to_owned(),
                expected: format!("less than {}", self.tensors.len()),
                found: index.to_string(),
            })
    }

    fn broken(&self, info: &TensorInfo, expected: String, found: String) -> GgufError {
        GgufError::CannotWrite {
            path: self.outputs[info.shard].target.clone(),
            field: Field::Tensor(&info.name, "data").to_string(),
            expected,
            found,
        }
    }
}

/// Takes the bytes of one tensor in order. See [`Writer::tensor`].
#[derive(Debug)]
pub struct TensorWriter<'a> {
    writer: &'a Writer,
    index: usize,
    position: u64,
}

impl Write for TensorWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writer
            .write_at(self.index, self.position, bytes)
            .map_err(|error| {
                let kind = match &error {
                    GgufError::Io { source, .. } => source.kind(),
                    _ => io::ErrorKind::InvalidInput,
                };
                io::Error::new(kind, error)
            })?;
        self.position += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Output {
    fn create(plan: FilePlan) -> Result<Self, GgufError> {
        let FilePlan {
            path: target,
            header,
            bytes,
        } = plan;
        // The rename at the end would put a file in the place of a folder, a device or a pipe.
        let there = fs::metadata(&target).ok().filter(|a| !a.is_file());
        if let Some(attributes) = there {
            return Err(GgufError::NotAFile {
                path: target,
                found: describe(attributes.file_type()),
            });
        }
        let mut temporary = target.clone().into_os_string();
        temporary.push(".part");
        let temporary = PathBuf::from(temporary);
        let file = match open_alone(&temporary) {
            Ok(file) => PositionedFile::new(file),
            Err(source) => {
                return Err(GgufError::Io {
                    path: temporary,
                    action: "create the file",
                    source,
                });
            }
        };
        let output = Self {
            target,
            temporary,
            file,
            published: false,
        };
        // The length first: padding and gaps are then zeros without being written.
        output
            .file
            .set_len(bytes)
            .map_err(|source| output.error("size the file", source))?;
        output
            .file
            .write_all_at(&header, 0)
            .map_err(|source| output.error("write the header", source))?;
        Ok(output)
    }

    fn error(&self, action: &'static str, source: io::Error) -> GgufError {
        GgufError::Io {
            path: self.target.clone(),
            action,
            source,
        }
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if !self.published {
            // Nobody is left to tell.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

/// Opens a temporary file that no other writer is at. What a writer that was killed left behind is overwritten.
fn open_alone(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "another program is writing it",
            ));
        }
        // Some file systems know no locks; then an existing file may be another writer's.
        Err(TryLockError::Error(_)) if file.metadata()?.len() == 0 => {}
        Err(TryLockError::Error(error)) => return Err(error),
    }
    file.set_len(0)?;
    Ok(file)
}

/// Makes the renames durable. Not every file system can, and the files themselves are safe already.
fn sync_folder(target: &Path) {
    #[cfg(unix)]
    {
        let folder = match target.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let _ = File::open(folder).and_then(|folder| folder.sync_all());
    }
    #[cfg(not(unix))]
    let _ = target;
}
