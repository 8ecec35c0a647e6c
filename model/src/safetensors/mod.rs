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

mod header;

use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;

use crate::LoadError;
use crate::mapped_file::{Access, MappedFile};
use crate::tensor_table::TensorTable;
use crate::unique_keys::UniqueMap;

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
            header::parse(file, shard, &mut tensors, &mut unreadable)
                .map_err(|err| err.in_file(file.path()))?;
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

/// The index file; its own `metadata` are of no use.
#[derive(Deserialize)]
struct Index {
    weight_map: UniqueMap<String>,
}

/// A JSON error, which may quote the file, fit for a terminal.
fn one_line(err: &serde_json::Error) -> String {
    err.to_string().chars().filter(|c| !c.is_control()).take(300).collect()
}

#[cfg(test)]
mod tests;
