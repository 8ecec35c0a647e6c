//! Writing GGUF version 3.
//!
//! The header comes first in the file, so metadata and tensors are declared before any data are written:
//!
//! ```
//! use gable_kernels::quant::Format;
//! use gable_model::gguf::{Gguf, writer::GgufWriter};
//!
//! let mut header = GgufWriter::new();
//! header.set("general.architecture", &"llama")?;
//! header.set_array("tokenizer.ggml.scores", &[0.0f32, -1.0])?;
//! header.declare("output_norm.weight", &[2], Format::F32)?;
//! let bytes = header.to_vec(&[&[0; 8]])?;
//!
//! assert_eq!(Gguf::from_bytes(bytes)?.tensors().len(), 1);
//! # Ok::<(), gable_model::LoadError>(())
//! ```
//!
//! [`GgufWriter::start`] gives a [`TensorWriter`] that takes the tensors one by one, so that a file larger than
//! memory can be written. What is written here is accepted by [`Gguf::open`](super::Gguf::open): names are checked
//! for length and uniqueness, shapes and sizes against the format.

use std::collections::HashSet;
use std::io::{self, Write};
use std::path::PathBuf;

use gable_kernels::quant::Format;

use super::array::Array;
pub use super::encode::Encode;
use super::encode::length;
use super::tensor::{DEFAULT_ALIGNMENT, check_alignment};
use super::value::{Value, ValueType};
use crate::LoadError;
use crate::tensor_table::Dims;

/// The header of a file to be: metadata and declared tensors.
#[derive(Debug, Clone)]
pub struct GgufWriter {
    alignment: usize,
    keys: HashSet<String>,
    names: HashSet<String>,
    /// Encoded metadata entries and tensor records.
    metadata: Vec<u8>,
    records: Vec<u8>,
    /// Name and size of each tensor, in file order.
    tensors: Vec<(String, usize)>,
    /// Where the next tensor's data begin.
    next_offset: usize,
}

impl Default for GgufWriter {
    fn default() -> GgufWriter {
        GgufWriter::new()
    }
}

impl GgufWriter {
    /// An empty header with tensor data aligned to 32 bytes.
    pub fn new() -> GgufWriter {
        GgufWriter {
            alignment: usize::try_from(DEFAULT_ALIGNMENT).unwrap_or(32),
            keys: HashSet::new(),
            names: HashSet::new(),
            metadata: Vec::new(),
            records: Vec::new(),
            tensors: Vec::new(),
            next_offset: 0,
        }
    }

    /// An empty header with tensor data aligned to `alignment` bytes, which the file then says of itself.
    ///
    /// # Errors
    ///
    /// The alignment is no power of two from 1 to 65,536.
    pub fn with_alignment(alignment: u32) -> Result<GgufWriter, LoadError> {
        let mut writer = GgufWriter::new();
        writer.put("general.alignment", &alignment)?;
        writer.alignment = check_alignment(alignment)?;
        Ok(writer)
    }

    /// Adds a scalar or a string.
    ///
    /// # Errors
    ///
    /// The key is empty, too long or set already, or is `general.alignment` (see [`GgufWriter::with_alignment`]).
    pub fn set<T: Encode + ?Sized>(&mut self, key: &str, value: &T) -> Result<(), LoadError> {
        self.not_alignment(key)?;
        self.put(key, value)
    }

    fn put<T: Encode + ?Sized>(&mut self, key: &str, value: &T) -> Result<(), LoadError> {
        self.start_entry(key, T::TYPE)?;
        value.encode(&mut self.metadata);
        Ok(())
    }

    /// Adds an array.
    ///
    /// # Errors
    ///
    /// As [`GgufWriter::set`].
    pub fn set_array<T: Encode>(&mut self, key: &str, values: &[T]) -> Result<(), LoadError> {
        self.not_alignment(key)?;
        self.start_entry(key, ValueType::Array)?;
        self.metadata.extend(T::TYPE.id().to_le_bytes());
        self.metadata.extend(length(values.len()));
        values.iter().for_each(|value| value.encode(&mut self.metadata));
        Ok(())
    }

    /// Adds a value as another file holds it, arrays without decoding them.
    ///
    /// # Errors
    ///
    /// As [`GgufWriter::set`].
    pub fn set_value(&mut self, key: &str, value: Value<'_>) -> Result<(), LoadError> {
        match value {
            Value::U8(v) => self.set(key, &v),
            Value::I8(v) => self.set(key, &v),
            Value::U16(v) => self.set(key, &v),
            Value::I16(v) => self.set(key, &v),
            Value::U32(v) => self.set(key, &v),
            Value::I32(v) => self.set(key, &v),
            Value::F32(v) => self.set(key, &v),
            Value::Bool(v) => self.set(key, &v),
            Value::String(v) => self.set(key, v),
            Value::U64(v) => self.set(key, &v),
            Value::I64(v) => self.set(key, &v),
            Value::F64(v) => self.set(key, &v),
            Value::Array(Array { element, len, bytes, .. }) => {
                self.not_alignment(key)?;
                self.start_entry(key, ValueType::Array)?;
                self.metadata.extend(element.id().to_le_bytes());
                self.metadata.extend(length(len));
                self.metadata.extend(bytes);
                Ok(())
            }
        }
    }

    fn not_alignment(&self, key: &str) -> Result<(), LoadError> {
        if key != "general.alignment" {
            return Ok(());
        }
        let reason = "is set when the writer is made".to_string();
        Err(LoadError::Metadata { key: key.to_string(), reason })
    }

    fn start_entry(&mut self, key: &str, kind: ValueType) -> Result<(), LoadError> {
        let refuse = |reason| Err(LoadError::Metadata { key: key.to_string(), reason });
        if key.is_empty() || key.len() > 65_535 {
            return refuse(format!("has {} bytes; allowed: 1 to 65535", key.len()));
        }
        if !self.keys.insert(key.to_string()) {
            return refuse("is set already".to_string());
        }
        key.encode(&mut self.metadata);
        self.metadata.extend(kind.id().to_le_bytes());
        Ok(())
    }

    /// Announces a tensor; `dims` are fastest first. Data follow in the order of the declarations.
    ///
    /// # Errors
    ///
    /// The name is empty, longer than 63 bytes or declared already; the shape has more than four dimensions,
    /// overflows, or its rows are no whole number of blocks; GGUF has no number for the format.
    pub fn declare(&mut self, name: &str, dims: &[u64], format: Format) -> Result<(), LoadError> {
        let refuse = |reason| LoadError::Tensor { name: name.to_string(), reason };
        if name.is_empty() || name.len() > 63 {
            return Err(refuse(format!("its name has {} bytes; allowed: 1 to 63", name.len())));
        }
        let Some(type_id) = format.gguf_id() else {
            return Err(refuse(format!("{format} is not a type of GGUF")));
        };
        let n_bytes = Dims::new(dims).and_then(|dims| dims.n_bytes(format));
        let n_bytes =
            n_bytes.ok_or_else(|| refuse(format!("shape {dims:?} is not possible for {format}")))?;
        let next = self
            .next_offset
            .checked_add(n_bytes)
            .and_then(|end| end.checked_next_multiple_of(self.alignment));
        let next = next.ok_or_else(|| refuse(format!("its {n_bytes} bytes overflow")))?;
        if !self.names.insert(name.to_string()) {
            return Err(refuse("is declared already".to_string()));
        }
        name.encode(&mut self.records);
        self.records.extend(u32::try_from(dims.len()).unwrap_or(0).to_le_bytes());
        dims.iter().for_each(|d| self.records.extend(d.to_le_bytes()));
        self.records.extend(type_id.to_le_bytes());
        self.records.extend(length(self.next_offset));
        self.tensors.push((name.to_string(), n_bytes));
        self.next_offset = next;
        Ok(())
    }

    /// Writes the header, padding included; the tensors' data go through the result.
    ///
    /// # Errors
    ///
    /// What `out` says.
    pub fn start<W: Write>(self, mut out: W) -> io::Result<TensorWriter<W>> {
        let preamble =
            [&b"GGUF"[..], &3u32.to_le_bytes(), &length(self.tensors.len()), &length(self.keys.len())];
        let mut written: usize = 0;
        for part in preamble.into_iter().chain([&self.metadata[..], &self.records[..]]) {
            out.write_all(part)?;
            written = written.saturating_add(part.len());
        }
        let mut writer = TensorWriter { out, alignment: self.alignment, tensors: self.tensors.into_iter() };
        // A vocabulary without tensors ends here, as other writers leave it.
        if writer.tensors.len() > 0 {
            writer.pad(written)?;
        }
        Ok(writer)
    }

    /// The whole file, with the tensors' data in the order of their declarations.
    ///
    /// # Errors
    ///
    /// There are more or fewer data than tensors, or data of another length.
    pub fn to_vec(self, data: &[&[u8]]) -> Result<Vec<u8>, LoadError> {
        let write = || {
            let mut writer = self.start(Vec::new())?;
            data.iter().try_for_each(|bytes| writer.tensor(bytes))?;
            writer.finish()
        };
        write().map_err(|source| LoadError::Io { path: PathBuf::from("<memory>"), source })
    }
}

/// A file whose header is written; takes the tensors' data.
#[derive(Debug)]
pub struct TensorWriter<W> {
    out: W,
    alignment: usize,
    tensors: std::vec::IntoIter<(String, usize)>,
}

impl<W: Write> TensorWriter<W> {
    /// Writes the data of the next declared tensor, and padding.
    ///
    /// # Errors
    ///
    /// What the output says; [`io::ErrorKind::InvalidInput`] if no tensor is left or its size is another.
    pub fn tensor(&mut self, bytes: &[u8]) -> io::Result<()> {
        let invalid = |text: String| io::Error::new(io::ErrorKind::InvalidInput, text);
        let Some((name, n_bytes)) = self.tensors.next() else {
            return Err(invalid("more data than declared tensors".to_string()));
        };
        if bytes.len() != n_bytes {
            return Err(invalid(format!(
                "tensor {name:?} has {n_bytes} bytes, but {} are given",
                bytes.len()
            )));
        }
        self.out.write_all(bytes)?;
        self.pad(bytes.len())
    }

    /// Ends the file and gives back the output, flushed.
    ///
    /// # Errors
    ///
    /// What the output says; [`io::ErrorKind::InvalidInput`] if data of a declared tensor are missing.
    pub fn finish(mut self) -> io::Result<W> {
        if let Some((name, _)) = self.tensors.next() {
            let text = format!("the data of tensor {name:?} are missing");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        self.out.flush()?;
        Ok(self.out)
    }

    /// Zeros up to the next multiple of the alignment after `len` bytes that began on one.
    fn pad(&mut self, len: usize) -> io::Result<()> {
        let padded = len.checked_next_multiple_of(self.alignment).unwrap_or(len);
        self.out.write_all(&vec![0; padded.saturating_sub(len)])
    }
}
