//! Safetensors files and the Hugging Face folders that hold them, mapped.
//!
//! A file is a length (u64), a JSON header of that length and the tensors' bytes:
//!
//! ```text
//! {"__metadata__": {..}, "model.norm.weight": {"dtype": "BF16", "shape": [576], "data_offsets": [0, 1152]}, ..}
//! ```
//!
//! The header's records are the ones of the `safetensors` crate; the list of them is read and checked here, for two
//! things that the crate leaves open: a key that stands twice (JSON readers differ in which one they take, so two
//! programs would see two models) is refused, and offsets are compared with the file before they are added up.
//! Tensors must lie one after another from the first byte of data to the last of the file.
//!
//! A large model is spread over several files; `model.safetensors.index.json` then says which tensor is where. Only
//! plain names of files in the same folder are followed.
//!
//! The result is a [`TensorTable`], as for GGUF: shapes fastest dimension first, data at any alignment. Tensors of
//! types that no kernel reads (integer position tables, masks) are noted and fail only when a model asks for them.

use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gable_kernels::quant::Format;
use safetensors::Dtype;
use safetensors::tensor::TensorInfo as Record;
use serde::Deserialize;
use serde::de::MapAccess;

use crate::mapped_file::{Access, MappedFile};
use crate::tensor_table::{Dims, TensorInfo, TensorTable};
use crate::unique_keys::{Entry, UniqueMap};
use crate::{LoadError, file_kind};

/// Longest header of a file, the limit of the format.
const MAX_HEADER_BYTES: u64 = 100_000_000;
/// Longest index of a folder.
const MAX_INDEX_BYTES: usize = 64 << 20;
/// The index of a folder with several files.
const INDEX_NAME: &str = "model.safetensors.index.json";
/// The only file of a folder with one.
const SINGLE_NAME: &str = "model.safetensors";

/// An open safetensors model: one file, or a folder of them.
#[derive(Debug, Clone)]
pub struct Safetensors {
    table: TensorTable,
}

impl Safetensors {
    /// Maps and parses a folder (by its index, else its `model.safetensors`), an index, or a single file.
    ///
    /// # Errors
    ///
    /// A file that cannot be read or is no safetensors file, a header that breaks the rules, an index that names
    /// other folders or does not agree with the files. Errors name the file, and the tensor.
    pub fn open(path: impl AsRef<Path>) -> Result<Safetensors, LoadError> {
        Safetensors::open_with(path, Access::default())
    }

    /// The same with another way to bring the files into memory.
    ///
    /// # Errors
    ///
    /// As [`Safetensors::open`] and [`MappedFile::open_with`].
    pub fn open_with(path: impl AsRef<Path>, access: Access) -> Result<Safetensors, LoadError> {
        let path = path.as_ref();
        if path.is_dir() {
            let index = path.join(INDEX_NAME);
            if index.exists() {
                return Safetensors::open_index(&index, access);
            }
            let single = path.join(SINGLE_NAME);
            if single.exists() {
                return Safetensors::from_files(vec![MappedFile::open_with(&single, access)?]);
            }
            let reason = format!("is a folder with neither {SINGLE_NAME} nor {INDEX_NAME} in it");
            return Err(LoadError::NotAModel { path: path.to_path_buf(), reason });
        }
        if path.to_str().is_some_and(|name| name.ends_with(".index.json")) {
            return Safetensors::open_index(path, access);
        }
        Safetensors::from_files(vec![MappedFile::open_with(path, access)?])
    }

    /// Parses files that are mapped already, or that lie in memory, as one model.
    ///
    /// # Errors
    ///
    /// As [`Safetensors::open`].
    pub fn from_files(files: Vec<Arc<MappedFile>>) -> Result<Safetensors, LoadError> {
        let (mut tensors, mut unreadable) = (Vec::new(), Vec::new());
        for (shard, file) in files.iter().enumerate() {
            parse(file, shard, &mut tensors, &mut unreadable).map_err(|err| err.in_file(file.path()))?;
        }
        Ok(Safetensors { table: TensorTable::new(files, tensors, unreadable)? })
    }

    fn open_index(path: &Path, access: Access) -> Result<Safetensors, LoadError> {
        let refuse = |reason: String| LoadError::NotAModel { path: path.to_path_buf(), reason };
        let text = MappedFile::open(path)?;
        if text.len() > MAX_INDEX_BYTES {
            return Err(refuse(format!("has {} bytes; an index has at most {MAX_INDEX_BYTES}", text.len())));
        }
        let index: Index = serde_json::from_slice(text.bytes())
            .map_err(|err| refuse(format!("is no index: {}", one_line(&err))))?;
        // In order of their names, so that shard numbers do not depend on the order of the index.
        let names: BTreeSet<&str> = index.weight_map.0.iter().map(|(_, file)| file.as_str()).collect();
        if let Some(name) = names.iter().find(|name| !is_plain_name(name)) {
            let reason =
                format!("names the file {name:?}; only .safetensors files in the same folder are opened");
            return Err(refuse(reason));
        }
        let files = names
            .iter()
            .map(|name| MappedFile::open_with(path.with_file_name(name), access))
            .collect::<Result<Vec<_>, LoadError>>()?;
        let model = Safetensors::from_files(files)?;
        let skipped: HashSet<&str> = model.table.unreadable().map(|(name, _)| name).collect();
        for (name, file) in &index.weight_map.0 {
            let found = model.table.tensor(name).and_then(|t| model.table.file(t.shard));
            let there = found.is_some_and(|found| found.path() == path.with_file_name(file));
            if !there && !skipped.contains(name.as_str()) {
                let reason = format!("the index says it is in {file:?}, but it is not");
                return Err(LoadError::Tensor { name: name.clone(), reason }.in_file(path));
            }
        }
        Ok(model)
    }

    /// The tensors and the files that hold them; weights are bound by this table.
    pub fn table(&self) -> &TensorTable {
        &self.table
    }
}

/// Whether `name` can only be a file in the folder of its index.
fn is_plain_name(name: &str) -> bool {
    let path = PathBuf::from(name);
    let plain = path.file_name().is_some_and(|file| file == name) && !name.contains(['/', '\\', ':', '\0']);
    plain && !name.starts_with('.') && !name.contains("..") && name.ends_with(".safetensors")
}

/// Reads the header of one file and adds its tensors.
fn parse(
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

/// A JSON error, which may quote the file, fit for a terminal.
fn one_line(err: &serde_json::Error) -> String {
    err.to_string().chars().filter(|c| !c.is_control()).take(300).collect()
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

/// The index file; its own `metadata` are of no use.
#[derive(Deserialize)]
struct Index {
    weight_map: UniqueMap<String>,
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

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str, data: &[u8]) -> Arc<MappedFile> {
        let len = u64::try_from(header.len()).unwrap().to_le_bytes();
        MappedFile::from_memory([&len[..], header.as_bytes(), data].concat())
    }

    fn open(header: &str, data: &[u8]) -> Result<Safetensors, LoadError> {
        Safetensors::from_files(vec![file(header, data)])
    }

    const A: &str = r#""a":{"dtype":"F16","shape":[2,3],"data_offsets":[0,12]}"#;

    #[test]
    fn a_header_at_odd_bytes_is_read_and_shapes_are_turned_round() {
        let header = format!(
            r#" {{"__metadata__":{{"format":"pt"}},{A},"i":{{"dtype":"I64","shape":[],"data_offsets":[12,20]}}}}"#
        );
        let data: Vec<u8> = (0..20).collect();
        let model = open(&header, &data).unwrap();
        let a = model.table().require("a").unwrap();
        assert_eq!((&a.dims[..], a.format), (&[3, 2][..], Format::F16));
        assert_eq!(model.table().bytes(a), &data[..12]);
        let err = model.table().require("i").unwrap_err().to_string();
        assert!(err.contains("\"i\": type I64 is not supported"), "{err}");
    }

    #[test]
    fn what_the_crate_writes_is_read_alike() {
        let bytes: Vec<u8> = (0..36).collect();
        let view = |dtype, shape: &[usize], range| {
            safetensors::tensor::TensorView::new(dtype, shape.to_vec(), &bytes[range]).unwrap()
        };
        let list = [
            ("b", view(Dtype::BF16, &[2, 2], 0..8)),
            ("a", view(Dtype::F32, &[1, 2, 3], 8..32)),
            ("empty", view(Dtype::F32, &[0, 3], 0..0)),
            ("s", view(Dtype::F32, &[], 32..36)),
        ];
        let image = safetensors::serialize(list, None).unwrap();
        let want = safetensors::SafeTensors::deserialize(&image).unwrap();
        let model = Safetensors::from_files(vec![MappedFile::from_memory(image.clone())]).unwrap();
        assert_eq!(model.table().tensors().len(), want.len());
        for (name, view) in want.iter() {
            let got = model.table().tensor(name).unwrap();
            assert_eq!(got.dims.iter().rev().copied().collect::<Vec<_>>(), view.shape());
            assert_eq!(model.table().bytes(got), view.data());
        }
        for end in 0..image.len() {
            let cut = MappedFile::from_memory(&image[..end]);
            assert!(Safetensors::from_files(vec![cut]).is_err(), "cut at {end}");
        }
    }

    #[test]
    fn broken_headers_are_refused_with_the_name_of_the_tensor() {
        let wrap = u64::MAX - 11;
        let cases = [
            (format!("{{{A},{A}}}"), 12, "\"a\" stands twice"),
            (r#"{"__metadata__":{"x":"1","x":"2"}}"#.to_string(), 0, "\"x\" stands twice"),
            (format!("{{{A}}}"), 11, "\"a\": its data are bytes 0 to 12, but must begin at 0 and end by 11"),
            (format!("{{{A}}}"), 13, "the tensors end here"),
            (
                format!(r#"{{{A},"b":{{"dtype":"F16","shape":[6],"data_offsets":[0,12]}}}}"#),
                12,
                "must begin at 12",
            ),
            (
                format!(r#"{{{A},"b":{{"dtype":"F16","shape":[1],"data_offsets":[14,16]}}}}"#),
                16,
                "must begin at 12",
            ),
            (
                format!(r#"{{"a":{{"dtype":"U8","shape":[{wrap}],"data_offsets":[0,{wrap}]}}}}"#),
                0,
                "end by 0",
            ),
            (
                r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}"#.to_string(),
                0,
                "does not fill",
            ),
            (
                r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}"#.to_string(),
                4,
                "\"a\": has 4 bytes",
            ),
            (
                r#"{"a":{"dtype":"F33","shape":[2],"data_offsets":[0,4]}}"#.to_string(),
                4,
                "\"a\": unknown variant `F33`",
            ),
            (
                r#"{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}"#.to_string(),
                4,
                "\"a\": invalid value",
            ),
            (r#"{"a":"#.to_string(), 0, "the header is damaged"),
            (format!("{{\"a\":{{\"dtype\":\"{}\"", "\\u001b[".repeat(9999)), 0, "unknown variant `[[["),
            (format!("{{\"a\":{}", "[".repeat(100_000)), 0, "the header is damaged"),
        ];
        for (header, n, want) in cases {
            let err = open(&header, &vec![0; n]).unwrap_err().to_string();
            assert!(err.contains(want), "{err:.200} lacks {want}");
        }
    }

    #[test]
    fn other_files_are_told_apart() {
        for (bytes, want) in [
            (&b"<!DOCTYPE html>"[..], "HTML page"),
            (b"GGUF\x03\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", "is a GGUF file"),
            (b"abc", "ends after 3 bytes"),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff{}", "at most 100000000"),
            (b"\x09\0\0\0\0\0\0\0{}", "but only 2 follow"),
            (b"\x02\0\0\0\0\0\0\0ab", "no JSON header"),
        ] {
            let err = Safetensors::from_files(vec![MappedFile::from_memory(bytes)]).unwrap_err().to_string();
            assert!(err.contains(want), "{err}");
        }
    }

    #[test]
    fn only_plain_file_names_are_followed() {
        assert!(is_plain_name("model-00001-of-00002.safetensors"));
        for bad in [
            "../a.safetensors",
            "/a.safetensors",
            "d/a.safetensors",
            "d\\a.safetensors",
            "C:a.safetensors",
            "..safetensors",
            "a..safetensors",
            ".safetensors",
            "",
            "model.bin",
            "a.safetensors/",
            "a\0.safetensors",
        ] {
            assert!(!is_plain_name(bad), "{bad:?}");
        }
    }
}
