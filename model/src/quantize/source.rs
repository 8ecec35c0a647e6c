//! What is quantized: a GGUF file, or a Hugging Face folder seen as one.

use super::folder::Folder;
use super::{Choice, FileType};
use crate::LoadError;
use crate::gguf::{Gguf, Value, writer::GgufWriter};
use crate::tensor_table::TensorInfo;
use std::borrow::Cow;
use std::path::Path;

/// An open source: its metadata and its tensors in GGUF's terms.
#[derive(Debug)]
pub struct Source {
    metadata: GgufWriter,
    tensors: Vec<TensorInfo>,
    origin: Origin,
}

#[derive(Debug)]
enum Origin {
    Gguf(Gguf),
    Folder(Box<Folder>),
}

/// What a file says about the importance matrix it was made with.
#[derive(Debug, Clone)]
pub struct ImatrixUse<'a> {
    /// Name of its file.
    pub file: &'a str,
    /// The text it was collected on.
    pub dataset: &'a str,
    /// Entries in it.
    pub entries: usize,
    /// Chunks of text.
    pub chunks: u32,
}

impl Source {
    /// Opens a GGUF file, of whatever architecture, or a folder of a family that can be run.
    ///
    /// # Errors
    /// [`LoadError`], naming the file, key or tensor.
    pub fn open(path: &Path) -> Result<Source, LoadError> {
        if path.is_dir() {
            let folder = Folder::open(path)?;
            let (metadata, tensors) = (folder.metadata()?, folder.tensors()?);
            return Ok(Source { metadata, tensors, origin: Origin::Folder(Box::new(folder)) });
        }
        let gguf = Gguf::open(path)?;
        Ok(Source {
            metadata: metadata(&gguf)?,
            tensors: gguf.tensors().to_vec(),
            origin: Origin::Gguf(gguf),
        })
    }

    /// Names, shapes and types; offsets mean nothing for a folder.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// The files that are read.
    pub fn files(&self) -> Vec<&Path> {
        let files = match &self.origin {
            Origin::Gguf(gguf) => gguf.table().files(),
            Origin::Folder(folder) => folder.files(),
        };
        files.iter().map(|f| f.path()).collect()
    }

    /// A tensor's rows: of a GGUF file where they lie, of a folder put into GGUF's order.
    ///
    /// # Errors
    /// [`LoadError::Tensor`] if there is no memory for them.
    pub fn bytes(&self, i: usize) -> Result<Cow<'_, [u8]>, LoadError> {
        match &self.origin {
            Origin::Gguf(gguf) => Ok(self.tensors.get(i).map_or(&[][..], |t| gguf.tensor_bytes(t)).into()),
            Origin::Folder(folder) => Ok(folder.bytes(i)?.into()),
        }
    }

    /// The header of the new file: the source's metadata, what was done, and the tensors in their new formats.
    ///
    /// # Errors
    /// What the writer refuses.
    pub fn header(
        &self,
        choices: &[Choice],
        file_type: &FileType,
        imatrix: Option<&ImatrixUse<'_>>,
    ) -> Result<GgufWriter, LoadError> {
        let mut writer = self.metadata.clone();
        writer.set("general.file_type", &file_type.number)?;
        writer.set("general.quantization_version", &2_u32)?;
        if let Some(used) = imatrix {
            writer.set("quantize.imatrix.file", used.file)?;
            writer.set("quantize.imatrix.dataset", used.dataset)?;
            writer.set("quantize.imatrix.entries_count", &u32::try_from(used.entries).unwrap_or(u32::MAX))?;
            writer.set("quantize.imatrix.chunks_count", &used.chunks)?;
        }
        for (tensor, choice) in self.tensors.iter().zip(choices) {
            let dims: Vec<u64> = tensor.dims.iter().map(|d| u64::try_from(*d).unwrap_or(u64::MAX)).collect();
            writer.declare(&tensor.name, &dims, choice.format)?;
        }
        Ok(writer)
    }
}

/// All that a new file takes over.
fn metadata(source: &Gguf) -> Result<GgufWriter, LoadError> {
    let metadata = source.metadata();
    let mut writer = match metadata.value("general.alignment") {
        Some(Value::U32(alignment)) => GgufWriter::with_alignment(alignment)?,
        _ => GgufWriter::new(),
    };
    let replaced = ["general.alignment", "general.file_type", "general.quantization_version"];
    for (key, value) in metadata.iter() {
        // The parts of a split source become one file.
        let outdated =
            replaced.contains(&key) || key.starts_with("split.") || key.starts_with("quantize.imatrix.");
        if !outdated {
            writer.set_value(key, value)?;
        }
    }
    Ok(writer)
}
