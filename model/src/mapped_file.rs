//! The one memory map of the crate, and the only place in it with unsafe code.
//!
//! A [`MappedFile`] is a whole file as bytes. The system brings a page into memory when it is first read, shares it
//! between every process that maps the same file, and may drop it again under pressure; so opening costs nothing
//! that grows with the file, and weights are used where they lie. Parsers check every offset against
//! [`MappedFile::len`] once, when the file is opened; later reads still go through checked slices, so a file that is
//! *overwritten* while mapped may give wrong numbers or an error, but never a read outside the map.
//!
//! # Contract
//!
//! - The file may be renamed over or deleted while mapped: the map keeps the old contents alive.
//! - The file must not be truncated in place while mapped. The pages behind the new end are then gone, and reading
//!   one raises `SIGBUS` (an in-page error on Windows), which no check in a library can turn into an error. The
//!   binary handles that signal with a message; whoever replaces a model writes a new file and renames it.
//!
//! A buffer in memory can stand in for a file ([`MappedFile::from_memory`]), so that tests, fuzzing and generated
//! models take the same way through the parsers.

use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;

use crate::LoadError;

/// A file as read-only bytes; see the module's contract about changing it while it is open.
pub struct MappedFile {
    path: PathBuf,
    backing: Backing,
}

enum Backing {
    Map(Mmap),
    Memory(Vec<u8>),
}

impl MappedFile {
    /// Maps the whole of the file at `path`.
    ///
    /// # Errors
    ///
    /// A missing or unreadable file, a directory, a pipe or device, and an empty file.
    pub fn open(path: impl AsRef<Path>) -> Result<Arc<MappedFile>, LoadError> {
        let path = path.as_ref();
        let io = |source| LoadError::Io { path: path.to_path_buf(), source };
        let refuse =
            |reason: &str| LoadError::NotAModel { path: path.to_path_buf(), reason: reason.to_string() };
        // Asked by name first: opening a named pipe would wait for a writer.
        let kind = std::fs::metadata(path).map_err(io)?.file_type();
        if kind.is_dir() {
            return Err(refuse("is a directory; a file is needed here"));
        }
        if !kind.is_file() {
            return Err(refuse("is not a regular file, so it cannot be mapped; save it to a file first"));
        }
        let file = File::open(path).map_err(io)?;
        let len = file.metadata().map_err(io)?.len();
        if len == 0 {
            return Err(refuse("is empty; the download has probably failed, fetch it again"));
        }
        if usize::try_from(len).is_err() {
            return Err(refuse("is larger than the address space of this machine"));
        }
        // SAFETY: the map is private to this value, read-only and only handed out as `&[u8]` bound to it, so nothing
        // in this process writes through it. Its length was taken from the open file, and truncating the file
        // afterwards is excluded by the contract in the module head. Contents changed by another process are not
        // trusted: readers check offsets and lengths against the map, never against what they read before.
        let map = unsafe { Mmap::map(&file) }.map_err(io)?;
        Ok(Arc::new(MappedFile { path: path.to_path_buf(), backing: Backing::Map(map) }))
    }

    /// Bytes in memory that take the place of a file; `path()` is `<memory>`.
    pub fn from_memory(bytes: impl Into<Vec<u8>>) -> Arc<MappedFile> {
        Arc::new(MappedFile { path: PathBuf::from("<memory>"), backing: Backing::Memory(bytes.into()) })
    }

    /// The whole contents.
    pub fn bytes(&self) -> &[u8] {
        match &self.backing {
            Backing::Map(map) => map,
            Backing::Memory(bytes) => bytes,
        }
    }

    /// The name it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.bytes().len()
    }

    /// Whether there are no bytes; never so for a file that was opened by name.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Tells the system that the bytes `offset..offset + len` will be read soon, so that it may start to fetch them.
    ///
    /// # Errors
    ///
    /// What the system says, or [`io::ErrorKind::InvalidInput`] if the range is outside the file. A caller may well
    /// ignore either: reading works without the hint.
    pub fn will_need(&self, offset: usize, len: usize) -> io::Result<()> {
        if offset.checked_add(len).is_none_or(|end| end > self.len()) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        #[cfg(unix)]
        if let Backing::Map(map) = &self.backing {
            return map.advise_range(memmap2::Advice::WillNeed, offset, len);
        }
        Ok(())
    }
}

impl fmt::Debug for MappedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MappedFile").field("path", &self.path).field("len", &self.len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_stands_in_for_a_file() {
        let file = MappedFile::from_memory(*b"abc");
        assert_eq!((file.bytes(), file.len(), file.is_empty()), (&b"abc"[..], 3, false));
        assert!(file.will_need(1, 2).is_ok());
        assert!(file.will_need(1, 3).is_err());
        assert!(file.will_need(usize::MAX, 2).is_err());
    }

    #[test]
    fn a_mapped_file_reads_back_what_the_file_holds() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
        let file = MappedFile::open(&path).unwrap();
        assert_eq!(file.bytes(), std::fs::read(&path).unwrap());
        assert_eq!(file.path(), path);
        assert!(file.will_need(0, file.len()).is_ok());
    }

    #[test]
    fn a_directory_and_a_missing_file_are_named() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR"));
        let err = MappedFile::open(dir).unwrap_err().to_string();
        assert!(err.contains("is a directory"), "{err}");
        let err = MappedFile::open(dir.join("no-such-file.gguf")).unwrap_err();
        assert!(matches!(&err, LoadError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound));
        assert!(err.to_string().contains("no-such-file.gguf"), "{err}");
    }
}
