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
//! Neither holds for a file that was read into memory instead ([`Access::copied`]): whatever happens to it afterwards,
//! its bytes stay.
//!
//! A buffer in memory can stand in for a file ([`MappedFile::from_memory`]), so that tests, fuzzing and generated
//! models take the same way through the parsers.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::{Mmap, MmapMut};

use crate::LoadError;

/// How a file's bytes come into memory. The default maps it and lets the system fetch and drop pages as it likes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Access {
    /// Reads the whole file into memory of this process, one copy and nothing beside it. Slower to open, but later
    /// changes to the file do not matter, and file systems that are slow to map do not either.
    pub copied: bool,
    /// Keeps all pages in physical memory until the file is closed.
    pub locked: bool,
}

/// A file as read-only bytes; see the module's contract about changing it while it is open.
pub struct MappedFile {
    path: PathBuf,
    backing: Backing,
}

enum Backing {
    /// The file itself, or pages of this process that hold a copy.
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
        MappedFile::open_with(path, Access::default())
    }

    /// Brings the whole of the file at `path` into reach, as `access` says.
    ///
    /// # Errors
    ///
    /// As [`MappedFile::open`]; no memory for a copy; memory that the system will not lock.
    pub fn open_with(path: impl AsRef<Path>, access: Access) -> Result<Arc<MappedFile>, LoadError> {
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
        let Ok(len) = usize::try_from(len) else {
            return Err(refuse("is larger than the address space of this machine"));
        };
        let map = if access.copied { copy(&file, len) } else { map(&file) };
        let map = map.map_err(|error| match error.kind() {
            io::ErrorKind::OutOfMemory => {
                let what = if access.copied { "memory for a copy" } else { "address space to map all" };
                refuse(&format!("there is no {what} of its {len} bytes ({error}); see `ulimit -v`"))
            }
            io::ErrorKind::UnexpectedEof => refuse("became shorter while it was read; try again"),
            _ => io(error),
        })?;
        if access.locked {
            lock(&map).map_err(|error| {
                refuse(&format!(
                    "its {len} bytes cannot be locked in memory ({error}); raise the limit that `ulimit -l` shows"
                ))
            })?;
        }
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

fn map(file: &File) -> io::Result<Mmap> {
    // SAFETY: the map is private to the `MappedFile` that it goes into, read-only and only handed out as `&[u8]` bound
    // to it, so nothing in this process writes through it. Its length is taken from the open file, and truncating the
    // file afterwards is excluded by the contract in the module head. Contents changed by another process are not
    // trusted: readers check offsets and lengths against the map, never against what they read before.
    unsafe { Mmap::map(file) }
}

/// The file's `len` bytes in pages of our own: page-aligned as a map is, and refused with an error if too large.
fn copy(mut file: &File, len: usize) -> io::Result<Mmap> {
    let mut pages = MmapMut::map_anon(len)?;
    file.read_exact(&mut pages)?;
    pages.make_read_only()
}

#[cfg(unix)]
fn lock(map: &Mmap) -> io::Result<()> {
    map.lock()
}

#[cfg(not(unix))]
fn lock(_: &Mmap) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
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
    fn a_copy_outlives_a_file_that_is_cut_short() {
        let path = std::env::temp_dir().join(format!("gable-copied-{}", std::process::id()));
        let bytes: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
        std::fs::write(&path, &bytes).unwrap();
        let copied = Access { copied: true, ..Access::default() };
        let file = MappedFile::open_with(&path, copied).unwrap();
        File::options().write(true).open(&path).unwrap().set_len(0).unwrap();
        assert!(file.bytes() == bytes && file.will_need(0, file.len()).is_ok());
        assert!(MappedFile::open_with(&path, copied).unwrap_err().to_string().contains("is empty"));
        std::fs::remove_file(&path).unwrap();
    }

    /// What `/proc/self/smaps` says about the map of a file, in KiB.
    #[cfg(target_os = "linux")]
    fn smaps(file: &MappedFile, field: &str) -> u64 {
        let begin = format!("{:x}-", file.bytes().as_ptr().addr());
        let text = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let map = text.lines().skip_while(|line| !line.trim_start_matches('0').starts_with(&begin));
        let value = map.skip(1).find_map(|line| line.strip_prefix(field)).unwrap();
        value.trim_start_matches(':').trim().trim_end_matches(" kB").parse().unwrap()
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_locked_file_is_in_memory_as_a_whole() {
        let path = std::env::temp_dir().join(format!("gable-locked-{}", std::process::id()));
        std::fs::write(&path, vec![7; 12 << 10]).unwrap();
        for copied in [false, true] {
            let open = |locked| MappedFile::open_with(&path, Access { copied, locked }).unwrap();
            let (loose, locked) = (open(false), open(true));
            assert_eq!((smaps(&loose, "Locked"), smaps(&locked, "Locked")), (0, 12), "copied: {copied}");
        }
        std::fs::remove_file(&path).unwrap();
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
