//! GGUF files, parsed in place.
//!
//! A file of version 2 or 3 is, in little-endian order:
//!
//! ```text
//! "GGUF"  version u32  n_tensors u64  n_metadata u64
//! n_metadata x { key: string, type u32, value }              string = length u64, bytes
//! n_tensors  x { name: string, n_dims u32, dims u64.., type u32, offset u64 }
//! padding to `general.alignment`
//! tensor data, each padded to the alignment; offsets count from here
//! ```
//!
//! [`Gguf::open`] maps the file and reads the header once. That pass touches no page of tensor data and decodes
//! nothing; it proves that every length, count, product and offset stays inside the file, so that what is handed out
//! later are plain slices of the map. Nothing is allocated by a count that the file declares: counts are compared
//! with the bytes left, and vectors grow as records are really read. Memory is a few dozen bytes for each key and
//! each tensor.
//!
//! A model may be split into `name-00001-of-0000N.gguf` and so on. The first part holds the metadata; the other
//! parts are looked up beside it under the same name, never by a path from a file, and their numbers and the total
//! count of tensors must agree.

mod array;
mod encode;
mod from_value;
mod header;
mod metadata;
mod overrides;
mod split;
mod tensor;
mod value;
pub mod writer;

pub use array::{Array, StringArray, StringIter, StringTable};
pub use from_value::FromValue;
pub use metadata::Metadata;
pub use overrides::OverrideValue;
pub use value::{Value, ValueType};

use std::path::Path;
use std::sync::Arc;

use crate::LoadError;
use crate::mapped_file::{Access, MappedFile};
use crate::tensor_table::{TensorInfo, TensorTable};

pub(crate) use header::ByteReader;
use header::Preamble;

/// An open GGUF model: its metadata and its tensors, over one or more mapped files.
#[derive(Debug, Clone)]
pub struct Gguf {
    version: u32,
    metadata: Metadata,
    table: TensorTable,
    header_bytes: usize,
    surplus_bytes: usize,
}

/// One parsed file.
struct Part {
    version: u32,
    metadata: Metadata,
    tensors: Vec<TensorInfo>,
    header_bytes: usize,
    surplus_bytes: usize,
}

impl Gguf {
    /// Maps and parses the model at `path`, all of its parts if it is split.
    ///
    /// # Errors
    ///
    /// A file that cannot be read or is no GGUF file, a header that breaks the rules, parts that do not belong
    /// together. Errors name the file, and the key or tensor.
    pub fn open(path: impl AsRef<Path>) -> Result<Gguf, LoadError> {
        Gguf::open_with(path, Access::default())
    }

    /// The same with another way to bring the files into memory.
    ///
    /// # Errors
    ///
    /// As [`Gguf::open`] and [`MappedFile::open_with`].
    pub fn open_with(path: impl AsRef<Path>, access: Access) -> Result<Gguf, LoadError> {
        let path = path.as_ref();
        let file = MappedFile::open_with(path, access)?;
        let first = parse(&file, 0).map_err(|err| err.in_file(path))?;
        let paths = split::other_parts(path, &first.metadata).map_err(|err| err.in_file(path))?;
        let mut gguf = Gguf {
            version: first.version,
            metadata: first.metadata,
            table: TensorTable::default(),
            header_bytes: first.header_bytes,
            surplus_bytes: first.surplus_bytes,
        };
        let (mut files, mut tensors) = (vec![file], first.tensors);
        for path in &paths {
            let file = MappedFile::open_with(path, access)?;
            let part = parse(&file, files.len()).map_err(|err| err.in_file(path))?;
            split::check_part(&gguf.metadata, &part.metadata, files.len())
                .map_err(|err| err.in_file(path))?;
            gguf.header_bytes = gguf.header_bytes.saturating_add(part.header_bytes);
            gguf.surplus_bytes = gguf.surplus_bytes.saturating_add(part.surplus_bytes);
            files.push(file);
            tensors.extend(part.tensors);
        }
        split::check_total(&gguf.metadata, files.len(), tensors.len()).map_err(|err| err.in_file(path))?;
        gguf.table = TensorTable::new(files, tensors, Vec::new()).map_err(|err| err.in_file(path))?;
        Ok(gguf)
    }

    /// Parses a model of one part that is mapped already, or that lies in memory.
    ///
    /// # Errors
    ///
    /// As [`Gguf::open`].
    pub fn from_file(file: Arc<MappedFile>) -> Result<Gguf, LoadError> {
        let Part { version, metadata, tensors, header_bytes, surplus_bytes } = parse(&file, 0)?;
        let table = TensorTable::new(vec![file], tensors, Vec::new())?;
        Ok(Gguf { version, metadata, table, header_bytes, surplus_bytes })
    }

    /// Parses a model from memory: [`Gguf::from_file`] for tests, fuzzing and generated models.
    ///
    /// # Errors
    ///
    /// As [`Gguf::open`].
    pub fn from_bytes(bytes: impl Into<Vec<u8>>) -> Result<Gguf, LoadError> {
        Gguf::from_file(MappedFile::from_memory(bytes))
    }

    /// Version of the format, 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The metadata; those of the first part if the model is split.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The metadata, to set overrides.
    pub fn metadata_mut(&mut self) -> &mut Metadata {
        &mut self.metadata
    }

    /// The tensors and the files that hold them; weights are bound by this table.
    pub fn table(&self) -> &TensorTable {
        &self.table
    }

    /// Every tensor, in file order.
    pub fn tensors(&self) -> &[TensorInfo] {
        self.table.tensors()
    }

    /// The tensor called `name`, if there is one.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.table.tensor(name)
    }

    /// The bytes of a tensor of this model.
    pub fn tensor_bytes(&self, tensor: &TensorInfo) -> &[u8] {
        self.table.bytes(tensor)
    }

    /// Bytes before the tensor data, over all parts.
    pub fn header_bytes(&self) -> usize {
        self.header_bytes
    }

    /// Bytes after the last tensor, padding left out, over all parts. They are harmless, but worth a warning: the
    /// file may be two downloads run together.
    pub fn surplus_bytes(&self) -> usize {
        self.surplus_bytes
    }
}

fn parse(file: &Arc<MappedFile>, shard: usize) -> Result<Part, LoadError> {
    let mut r = ByteReader::new(file.bytes());
    let preamble = Preamble::read(file, &mut r)?;
    let metadata = Metadata::read(file, &mut r, preamble.n_metadata)?;
    // Other integer types are refused here, unlike elsewhere: readers that assume u32 would see another file.
    let alignment = match metadata.value("general.alignment") {
        None => tensor::DEFAULT_ALIGNMENT,
        Some(Value::U32(alignment)) => alignment,
        Some(other) => {
            let reason = format!("is of type {}, but u32 is needed", other.value_type());
            return Err(LoadError::Metadata { key: "general.alignment".to_string(), reason });
        }
    };
    let alignment = tensor::check_alignment(alignment)?;
    let tensors = tensor::read_tensors(&mut r, preamble.n_tensors, alignment, shard, file.len())?;
    let header_bytes = r.at();
    let last = tensors.last().map(|t| t.offset.saturating_add(t.n_bytes));
    let end = last.unwrap_or(header_bytes).checked_next_multiple_of(alignment).unwrap_or(usize::MAX);
    let surplus_bytes = file.len().saturating_sub(end);
    Ok(Part { version: preamble.version, metadata, tensors, header_bytes, surplus_bytes })
}
