//! The one place where a file becomes memory.

use std::fs::File;
use std::io;

use memmap2::Mmap;

/// Maps a whole file for reading.
///
/// The mapping is shared with the file: when another program writes the file, the bytes change under the reader, and
/// when another program shortens it, touching the lost part ends this process with SIGBUS. Replacing the file by
/// renaming a new one over it (as [`Writer`](super::Writer) does) is safe.
#[expect(unsafe_code, reason = "mapping a file is the point of this function")]
pub(super) fn map_file(file: &File) -> io::Result<Mmap> {
    // SAFETY: memmap2 asks that nobody changes the file while it is mapped. No program can rule that out on common
    // systems; the map is read-only, this process never writes it, and the user is told above what a change does.
    unsafe { Mmap::map(file) }
}
