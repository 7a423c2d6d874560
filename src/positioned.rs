//! Files that are read and written at any position through a shared reference, from several threads at once.

#![forbid(unsafe_code)]

use std::fs::File;
use std::io;

/// A file without a cursor of its own.
#[cfg(unix)]
#[derive(Debug)]
pub(crate) struct PositionedFile(File);

#[cfg(unix)]
impl PositionedFile {
    pub(crate) fn new(file: File) -> Self {
        Self(file)
    }

    pub(crate) fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.0.set_len(bytes)
    }

    pub(crate) fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(&self.0, bytes, offset)
    }

    pub(crate) fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        std::os::unix::fs::FileExt::write_all_at(&self.0, bytes, offset)
    }

    pub(crate) fn sync(&self) -> io::Result<()> {
        self.0.sync_all()
    }
}

/// A file without a cursor of its own.
#[cfg(not(unix))]
#[derive(Debug)]
pub(crate) struct PositionedFile(std::sync::Mutex<File>);

#[cfg(not(unix))]
impl PositionedFile {
    pub(crate) fn new(file: File) -> Self {
        Self(std::sync::Mutex::new(file))
    }

    /// The file at a position. A panic elsewhere leaves no broken state: every use seeks first.
    fn at(&self, offset: u64) -> io::Result<std::sync::MutexGuard<'_, File>> {
        let mut file = self
            .0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        io::Seek::seek(&mut *file, io::SeekFrom::Start(offset))?;
        Ok(file)
    }

    pub(crate) fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.at(0)?.set_len(bytes)
    }

    pub(crate) fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        io::Read::read_exact(&mut *self.at(offset)?, bytes)
    }

    pub(crate) fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        io::Write::write_all(&mut *self.at(offset)?, bytes)
    }

    pub(crate) fn sync(&self) -> io::Result<()> {
        self.at(0)?.sync_all()
    }
}
