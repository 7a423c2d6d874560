//! The last step of writing a file: giving it its name.

#![forbid(unsafe_code)]

use std::fs;
use std::io;
use std::path::Path;

/// Renames a finished file to its name. A file under that name is replaced; a folder, a device, a pipe or a socket is
/// not.
///
/// # Errors
/// There is something else than a file under the name, or the system refuses.
pub fn publish(finished: &Path, target: &Path) -> io::Result<()> {
    if fs::metadata(target).is_ok_and(|there| !there.is_file()) {
        return Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "there is a folder, a device, a pipe or a socket of that name",
        ));
    }
    fs::rename(finished, target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_are_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let (new, old) = (folder.path().join("new"), folder.path().join("old"));
        fs::write(&new, "new").unwrap();
        fs::write(&old, "old").unwrap();
        publish(&new, &old).unwrap();
        assert_eq!(fs::read_to_string(&old).unwrap(), "new");
        fs::create_dir(&new).unwrap();
        let error = publish(&old, &new).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&old).unwrap(), "new");
    }
}
