//! Reading little-endian fields in order, and the first 24 bytes of a file.
//!
//! Every read is a [`ByteReader::take`], which compares what is asked for with what is left. So a count or a length
//! from the file can make a read fail but never leads anywhere, and nothing is allocated here.

use crate::mapped_file::MappedFile;
use crate::{LoadError, file_kind};

/// Most metadata entries that a file may declare.
const MAX_METADATA: u64 = 100_000;
/// Bytes of the smallest metadata entry: key length, one byte of key, type, one byte of value.
const MIN_METADATA_BYTES: u64 = 8 + 1 + 4 + 1;
/// Most tensors that a file may declare.
const MAX_TENSORS: u64 = 1_048_576;
/// Bytes of the smallest tensor entry: name length, one byte of name, number of dimensions, type, offset.
const MIN_TENSOR_BYTES: u64 = 8 + 1 + 4 + 4 + 8;

/// A position in a byte string that moves forward by checked reads.
#[derive(Debug, Clone)]
pub(crate) struct ByteReader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> ByteReader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> ByteReader<'a> {
        ByteReader { bytes, at: 0 }
    }

    /// Bytes read so far.
    pub(crate) fn at(&self) -> usize {
        self.at
    }

    /// Bytes left.
    pub(crate) fn left(&self) -> usize {
        self.bytes.len().saturating_sub(self.at)
    }

    /// An error at this place.
    pub(crate) fn error(&self, reason: String) -> LoadError {
        LoadError::Header { offset: self.at.try_into().unwrap_or(u64::MAX), reason }
    }

    /// The next `n` bytes; `n` comes from the file and may be anything.
    pub(crate) fn take(&mut self, n: u64) -> Result<&'a [u8], LoadError> {
        let taken = usize::try_from(n).ok().and_then(|n| self.at.checked_add(n));
        let bytes = taken.and_then(|end| self.bytes.get(self.at..end).map(|bytes| (bytes, end)));
        let Some((bytes, end)) = bytes else {
            let reason = format!(
                "{n} bytes are declared but {} are left; the download is incomplete or the header damaged",
                self.left()
            );
            return Err(self.error(reason));
        };
        self.at = end;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], LoadError> {
        let mut out = [0; N];
        let n = N.try_into().unwrap_or(u64::MAX);
        self.take(n)?.iter().zip(&mut out).for_each(|(from, to)| *to = *from);
        Ok(out)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, LoadError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, LoadError> {
        self.array().map(u64::from_le_bytes)
    }

    /// A length and that many bytes.
    pub(super) fn string(&mut self) -> Result<&'a [u8], LoadError> {
        let start = self.at;
        let len = self.u64()?;
        self.take(len).inspect_err(|_| self.at = start)
    }

    /// A string that names something: UTF-8, of 1 to `max` bytes.
    pub(super) fn name(&mut self, what: &str, max: usize) -> Result<&'a str, LoadError> {
        let start = self.clone();
        let bytes = self.string()?;
        if bytes.is_empty() || bytes.len() > max {
            return Err(start.error(format!("a {what} has {} bytes; allowed: 1 to {max}", bytes.len())));
        }
        std::str::from_utf8(bytes).map_err(|_| {
            let shown: String = bytes.escape_ascii().take(80).map(char::from).collect();
            start.error(format!("the {what} \"{shown}\" is not UTF-8"))
        })
    }
}

/// What stands before the metadata.
#[derive(Debug, Clone, Copy)]
pub(super) struct Preamble {
    pub(super) version: u32,
    pub(super) n_tensors: u64,
    pub(super) n_metadata: u64,
}

impl Preamble {
    /// Reads magic number, version and the two counts, each within what the file has room for.
    pub(super) fn read(file: &MappedFile, r: &mut ByteReader<'_>) -> Result<Preamble, LoadError> {
        let refuse = |reason: String| LoadError::NotAModel { path: file.path().to_path_buf(), reason };
        let bytes = file.bytes();
        if !bytes.starts_with(b"GGUF") {
            if !bytes.is_empty() && b"GGUF".starts_with(bytes) {
                return Err(refuse(format!("ends after {} bytes; the download is incomplete", bytes.len())));
            }
            let looks = file_kind::describe(bytes).map(str::to_string);
            return Err(refuse(looks.unwrap_or_else(|| {
                let start: String = bytes.iter().take(4).map(|b| format!("{b:02x}")).collect();
                format!("is no GGUF file: it starts with the bytes {start}, not with 47475546 (\"GGUF\")")
            })));
        }
        r.take(4)?;
        let version = r.u32()?;
        match version {
            2 | 3 => {}
            1 => {
                let reason = "is GGUF version 1, which is no longer read; convert the original model again";
                return Err(refuse(reason.to_string()));
            }
            v if (1..=0xffff).contains(&v.swap_bytes()) => {
                let reason = "is a big-endian GGUF file; only little-endian ones are read, convert it";
                return Err(refuse(reason.to_string()));
            }
            v => return Err(refuse(format!("is GGUF version {v}; versions 2 and 3 are read"))),
        }
        let n_tensors = count(r, "tensors", MAX_TENSORS, MIN_TENSOR_BYTES)?;
        let n_metadata = count(r, "metadata entries", MAX_METADATA, MIN_METADATA_BYTES)?;
        Ok(Preamble { version, n_tensors, n_metadata })
    }
}

/// A count that the rest of the file has room for.
fn count(r: &mut ByteReader<'_>, what: &str, max: u64, record: u64) -> Result<u64, LoadError> {
    let start = r.clone();
    let n = r.u64()?;
    let left = u64::try_from(r.left()).unwrap_or(u64::MAX);
    let room = left.checked_div(record).unwrap_or(0);
    if n > max {
        return Err(start.error(format!("{n} {what} are declared; at most {max} are read")));
    }
    if n > room {
        let reason = format!(
            "{n} {what} are declared, but the {left} bytes left hold at most {room}; the download is incomplete or \
             the header damaged"
        );
        return Err(start.error(reason));
    }
    Ok(n)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_never_pass_the_end() {
        let mut r = ByteReader::new(&[1, 0, 0, 0, 9]);
        assert_eq!(r.u32().unwrap(), 1);
        let err = r.u32().unwrap_err().to_string();
        assert!(err.starts_with("byte 4: 4 bytes are declared but 1 are left"), "{err}");
        assert!(r.take(u64::MAX).is_err());
        assert_eq!(r.take(1).unwrap(), [9]);
        assert_eq!((r.at(), r.left()), (5, 0));
        assert!(r.take(0).unwrap().is_empty());
    }

    #[test]
    fn a_string_longer_than_the_file_leaves_the_reader_where_it_was() {
        let mut bytes = u64::MAX.to_le_bytes().to_vec();
        bytes.extend(b"abc");
        let mut r = ByteReader::new(&bytes);
        assert!(r.string().is_err());
        assert_eq!(r.at(), 0);
    }

    #[test]
    fn names_are_short_text() {
        let string = |s: &[u8]| [&u64::try_from(s.len()).unwrap().to_le_bytes()[..], s].concat();
        assert_eq!(ByteReader::new(&string(b"abc")).name("key", 3).unwrap(), "abc");
        for (bad, want) in
            [(&b""[..], "has 0 bytes"), (b"abcd", "has 4 bytes"), (b"\xff", "\"\\xff\" is not UTF-8")]
        {
            let err = ByteReader::new(&string(bad)).name("key", 3).unwrap_err().to_string();
            assert!(err.contains(want), "{err}");
        }
    }
}
