//! The header of a quantized file.

use super::{Choice, FileType};
use crate::LoadError;
use crate::gguf::{Gguf, Value, writer::GgufWriter};

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

/// The source's metadata, with the new type in place of the old one, and its tensors in their new formats.
///
/// # Errors
/// What the writer refuses, which is nothing that was read.
pub fn header(
    source: &Gguf,
    choices: &[Choice],
    file_type: &FileType,
    imatrix: Option<&ImatrixUse<'_>>,
) -> Result<GgufWriter, LoadError> {
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
    writer.set("general.file_type", &file_type.number)?;
    writer.set("general.quantization_version", &2_u32)?;
    if let Some(used) = imatrix {
        writer.set("quantize.imatrix.file", used.file)?;
        writer.set("quantize.imatrix.dataset", used.dataset)?;
        writer.set("quantize.imatrix.entries_count", &u32::try_from(used.entries).unwrap_or(u32::MAX))?;
        writer.set("quantize.imatrix.chunks_count", &used.chunks)?;
    }
    for (tensor, choice) in source.tensors().iter().zip(choices) {
        let dims: Vec<u64> = tensor.dims.iter().map(|d| u64::try_from(*d).unwrap_or(u64::MAX)).collect();
        writer.declare(&tensor.name, &dims, choice.format)?;
    }
    Ok(writer)
}
