//! The header of one file: its list of tensors, every place checked against the file.

use gable_kernels::quant::Format;
use safetensors::Dtype;
use safetensors::tensor::TensorInfo as Record;
use serde::de::MapAccess;

use super::one_line;
use crate::mapped_file::MappedFile;
use crate::tensor_table::{Dims, TensorInfo};
use crate::unique_keys::{Entry, UniqueMap};
use crate::{LoadError, file_kind};

/// Longest header of a file, the limit of the format.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// Reads the header of one file and adds its tensors.
pub(super) fn parse(
    file: &MappedFile,
    shard: usize,
    tensors: &mut Vec<TensorInfo>,
    unreadable: &mut Vec<(Box<str>, String)>,
) -> Result<(), LoadError> {
    let (header, data) = split_header(file)?;
    let header: UniqueMap<Field> = serde_json::from_slice(header).map_err(|err| {
        let offset = u64::try_from(err.column()).unwrap_or(0).saturating_add(8);
        LoadError::Header { offset, reason: format!("the header is damaged: {}", one_line(&err)) }
    })?;
    let tensor = |(name, field)| if let Field::Tensor(record) = field { Some((name, record)) } else { None };
    let mut records: Vec<(String, Record)> = header.0.into_iter().filter_map(tensor).collect();
    records.sort_by_key(|(_, record)| record.data_offsets);
    let data_start = file.len().saturating_sub(data);
    let mut expected = 0;
    for (name, record) in records {
        let fault = |reason| LoadError::Tensor { name: name.clone(), reason };
        let (begin, end) = record.data_offsets;
        if begin != expected || end < begin || end > data {
            return Err(fault(format!(
                "its data are bytes {begin} to {end}, but must begin at {expected} and end by {data}; the download \
                 is incomplete or the header damaged"
            )));
        }
        expected = end;
        let elements = record.shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d));
        let bits = elements.and_then(|n| n.checked_mul(record.dtype.bitsize()));
        let n_bytes = end.saturating_sub(begin);
        if bits.is_none_or(|bits| bits % 8 != 0 || bits / 8 != n_bytes) {
            let (shape, dtype) = (shown_shape(&record), record.dtype);
            return Err(fault(format!("has {n_bytes} bytes, which shape {shape} of {dtype} does not fill")));
        }
        let dims: Vec<u64> =
            record.shape.iter().rev().map(|d| u64::try_from(*d).unwrap_or(u64::MAX)).collect();
        match (format_of(record.dtype), Dims::new(&dims)) {
            (Some(format), Some(dims)) => {
                let offset = data_start.saturating_add(begin);
                tensors.push(TensorInfo { name: name.into(), dims, format, shard, offset, n_bytes });
            }
            (Some(_), None) => {
                unreadable.push((name.into(), format!("{} of shape {}", record.dtype, shown_shape(&record))))
            }
            (None, _) => unreadable.push((name.into(), record.dtype.to_string())),
        }
    }
    if expected != data {
        let offset = u64::try_from(data_start.saturating_add(expected)).unwrap_or(u64::MAX);
        let reason = format!("the tensors end here, but the file has {} bytes", file.len());
        return Err(LoadError::Header { offset, reason });
    }
    Ok(())
}

/// A shape for a message; a hostile header may give it millions of dimensions.
fn shown_shape(record: &Record) -> String {
    match record.shape.get(..9) {
        Some(_) => format!("of {} dimensions", record.shape.len()),
        None => format!("{:?}", record.shape),
    }
}

/// The header's bytes and the number of bytes after it.
fn split_header(file: &MappedFile) -> Result<(&[u8], usize), LoadError> {
    let bytes = file.bytes();
    let refuse = |reason: String| LoadError::NotAModel { path: file.path().to_path_buf(), reason };
    let looks = || file_kind::describe(bytes).map(|text| refuse(text.to_string()));
    let Some((len, rest)) = bytes.split_first_chunk::<8>() else {
        let short = || refuse(format!("ends after {} bytes; the download is incomplete", bytes.len()));
        return Err(looks().unwrap_or_else(short));
    };
    let len = u64::from_le_bytes(*len);
    if !rest.trim_ascii_start().starts_with(b"{") {
        let reason = "is no safetensors file: no JSON header follows its first 8 bytes";
        return Err(looks().unwrap_or_else(|| refuse(reason.to_string())));
    }
    if len > MAX_HEADER_BYTES {
        let reason = format!("declares a header of {len} bytes; at most {MAX_HEADER_BYTES} are read");
        return Err(refuse(reason));
    }
    let split = usize::try_from(len).ok().and_then(|len| rest.split_at_checked(len));
    match split {
        Some((header, data)) => Ok((header, data.len())),
        None => Err(refuse(format!(
            "declares a header of {len} bytes, but only {} follow; the download is incomplete",
            rest.len()
        ))),
    }
}

/// The format of a safetensors type, if kernels read it.
fn format_of(dtype: Dtype) -> Option<Format> {
    match dtype {
        Dtype::F32 => Some(Format::F32),
        Dtype::F16 => Some(Format::F16),
        Dtype::BF16 => Some(Format::BF16),
        _ => None,
    }
}

/// One entry of a header.
enum Field {
    /// The producer's notes, of no use here.
    Notes,
    Tensor(Record),
}

impl<'de> Entry<'de> for Field {
    fn read<A: MapAccess<'de>>(key: &str, map: &mut A) -> Result<Field, A::Error> {
        if key == "__metadata__" {
            map.next_value::<UniqueMap<String>>().map(|_| Field::Notes)
        } else {
            map.next_value().map(Field::Tensor)
        }
    }
}
