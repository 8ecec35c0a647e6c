//! The key-value part of a header.
//!
//! One pass over the header checks every length, type number and key, and notes for each entry where its key and its
//! value lie: forty-odd bytes per key, whatever the value. Values are decoded when they are asked for, by typed
//! getters that name the key in their errors:
//!
//! ```text
//! metadata.require::<u32>("llama.block_count")?          missing or no such integer: an error
//! metadata.get::<f32>("llama.rope.freq_base")?           Option; another type is still an error
//! metadata.require::<Array>("tokenizer.ggml.scores")?.f32s()?
//! ```
//!
//! Single values can be overridden ([`Metadata::set_override`]); every getter then sees the new value.

use std::ops::Range;
use std::sync::Arc;

use super::array::{Array, StringTable};
use super::from_value::FromValue;
use super::header::ByteReader;
use super::overrides::OverrideValue;
use super::value::{Value, ValueType};
use crate::LoadError;
use crate::mapped_file::MappedFile;

/// Longest key, in bytes.
const MAX_KEY_BYTES: usize = 65_535;

/// What is known of a value without looking at it.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Scalar(ValueType),
    /// Element type and number of elements.
    Array(ValueType, usize),
}

#[derive(Debug, Clone)]
struct Entry {
    key: Range<usize>,
    value: Range<usize>,
    kind: Kind,
}

/// Every metadata entry of a file, decoded on demand.
#[derive(Debug, Clone)]
pub struct Metadata {
    file: Arc<MappedFile>,
    entries: Vec<Entry>,
    /// Indices into `entries`, ordered by key.
    by_key: Vec<usize>,
    overrides: Vec<(String, OverrideValue)>,
}

impl Metadata {
    /// Reads `count` entries; what they hold is checked, not decoded.
    pub(super) fn read(
        file: &Arc<MappedFile>,
        r: &mut ByteReader<'_>,
        count: u64,
    ) -> Result<Metadata, LoadError> {
        let mut entries = Vec::new();
        for _ in 0..count {
            let key = r.name("metadata key", MAX_KEY_BYTES)?;
            let end = r.at();
            let (kind, value) = read_value(r).map_err(|err| LoadError::Metadata {
                key: key.to_string(),
                reason: match err {
                    LoadError::Header { offset, reason } => format!("{reason} (at byte {offset})"),
                    other => other.to_string(),
                },
            })?;
            entries.push(Entry { key: end.saturating_sub(key.len())..end, value, kind });
        }
        let mut metadata = Metadata {
            file: file.clone(),
            by_key: (0..entries.len()).collect(),
            entries,
            overrides: Vec::new(),
        };
        let mut by_key = std::mem::take(&mut metadata.by_key);
        by_key.sort_unstable_by(|a, b| metadata.key(*a).cmp(metadata.key(*b)));
        let key = |i: &usize| metadata.key(*i);
        if let Some((twin, _)) = by_key.iter().zip(by_key.iter().skip(1)).find(|(a, b)| key(a) == key(b)) {
            let reason = "stands twice in the file; keys must be unique".to_string();
            return Err(LoadError::Metadata { key: key(twin).to_string(), reason });
        }
        metadata.by_key = by_key;
        Ok(metadata)
    }

    fn key(&self, i: usize) -> &str {
        let bytes = self.entries.get(i).and_then(|e| self.file.bytes().get(e.key.clone()));
        bytes.and_then(|key| std::str::from_utf8(key).ok()).unwrap_or_default()
    }

    /// Index of the entry that the file has for `key`.
    fn find(&self, key: &str) -> Option<usize> {
        let found = self.by_key.binary_search_by(|i| self.key(*i).cmp(key)).ok()?;
        self.by_key.get(found).copied()
    }

    /// The value that the file has for an entry.
    fn in_file(&self, i: usize) -> Option<Value<'_>> {
        let entry = self.entries.get(i)?;
        let bytes = self.file.bytes().get(entry.value.clone())?;
        match entry.kind {
            Kind::Scalar(ValueType::String) => Some(Value::String(bytes)),
            Kind::Scalar(kind) => Value::from_le_bytes(kind, bytes),
            Kind::Array(element, len) => Some(Value::Array(Array { key: self.key(i), element, len, bytes })),
        }
    }

    fn overridden(&self, key: &str) -> Option<&OverrideValue> {
        self.overrides.iter().find(|(k, _)| k == key).map(|(_, value)| value)
    }

    /// Number of entries, those added by overrides included.
    pub fn len(&self) -> usize {
        self.iter().count()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.overrides.is_empty()
    }

    /// Whether the key is there, with whatever value.
    pub fn contains(&self, key: &str) -> bool {
        self.overridden(key).is_some() || self.find(key).is_some()
    }

    /// Every key and its value: in the order of the file, then what overrides have added.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Value<'_>)> {
        let in_file = (0..self.entries.len()).filter_map(|i| {
            let key = self.key(i);
            Some((key, self.overridden(key).map(OverrideValue::as_value).or_else(|| self.in_file(i))?))
        });
        let added = self.overrides.iter().filter(|(key, _)| self.find(key).is_none());
        in_file.chain(added.map(|(key, value)| (key.as_str(), value.as_value())))
    }

    /// The value of `key`, whatever its type.
    pub fn value(&self, key: &str) -> Option<Value<'_>> {
        match self.overridden(key) {
            Some(value) => Some(value.as_value()),
            None => self.in_file(self.find(key)?),
        }
    }

    /// The value of `key` as a `T`: an integer type, `f32`, `bool`, `&str` or [`Array`].
    ///
    /// Integers of any width are taken if the value fits, floats of both widths as `f32`.
    ///
    /// # Errors
    ///
    /// The value is of another type, does not fit, or is text that is not UTF-8.
    pub fn get<'a, T: FromValue<'a>>(&'a self, key: &str) -> Result<Option<T>, LoadError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        match T::from_value(value) {
            Some(converted) => Ok(Some(converted)),
            None => {
                let reason =
                    format!("is {value} of type {}, but {} is needed", value.value_type(), T::expected());
                Err(LoadError::Metadata { key: key.to_string(), reason })
            }
        }
    }

    /// As [`Metadata::get`], for a key that must be there.
    ///
    /// # Errors
    ///
    /// Those of [`Metadata::get`], and a missing key.
    pub fn require<'a, T: FromValue<'a>>(&'a self, key: &str) -> Result<T, LoadError> {
        self.get(key)?.ok_or_else(|| {
            let reason = format!("is missing, but {} is needed", T::expected());
            LoadError::Metadata { key: key.to_string(), reason }
        })
    }

    /// [`Metadata::get`] for `u32`.
    pub fn get_u32(&self, key: &str) -> Result<Option<u32>, LoadError> {
        self.get(key)
    }

    /// [`Metadata::get`] for `u64`.
    pub fn get_u64(&self, key: &str) -> Result<Option<u64>, LoadError> {
        self.get(key)
    }

    /// [`Metadata::get`] for `f32`.
    pub fn get_f32(&self, key: &str) -> Result<Option<f32>, LoadError> {
        self.get(key)
    }

    /// [`Metadata::get`] for `bool`.
    pub fn get_bool(&self, key: &str) -> Result<Option<bool>, LoadError> {
        self.get(key)
    }

    /// [`Metadata::get`] for text.
    pub fn get_str(&self, key: &str) -> Result<Option<&str>, LoadError> {
        self.get(key)
    }

    /// [`Metadata::get`] for arrays.
    pub fn get_array(&self, key: &str) -> Result<Option<Array<'_>>, LoadError> {
        self.get(key)
    }

    /// Random access to an array of strings, independent of the lifetime of `self`.
    ///
    /// # Errors
    ///
    /// The value is no array of strings, or longer than 4 GiB.
    pub fn string_table(&self, key: &str) -> Result<Option<StringTable>, LoadError> {
        let Some(array) = self.get_array(key)? else { return Ok(None) };
        let strings = array.strings()?;
        let base = self.find(key).and_then(|i| self.entries.get(i)).map_or(0, |entry| entry.value.start);
        match StringTable::new(&self.file, base, &strings) {
            Some(table) => Ok(Some(table)),
            None => {
                let reason = format!("holds {} bytes of strings; at most 4 GiB are read", array.raw().len());
                Err(LoadError::Metadata { key: key.to_string(), reason })
            }
        }
    }

    /// Makes every getter see `value` under `key`, in place of what the file holds or as a new entry.
    ///
    /// # Errors
    ///
    /// The file holds a value of another kind (say, text where a number is set) or an array; or the key describes
    /// the file itself (`general.alignment`, `split.*`) and has already been used.
    pub fn set_override(&mut self, key: &str, value: OverrideValue) -> Result<(), LoadError> {
        let refuse = |reason| Err(LoadError::Metadata { key: key.to_string(), reason });
        if key.is_empty() || key.len() > MAX_KEY_BYTES {
            return refuse(format!("has {} bytes; allowed: 1 to {MAX_KEY_BYTES}", key.len()));
        }
        if key == "general.alignment" || key.starts_with("split.") {
            return refuse("describes the layout of the file and cannot be overridden".to_string());
        }
        let held = self.find(key).and_then(|i| self.in_file(i));
        if let Some(held) = held.filter(|held| !value.replaces(held.value_type())) {
            return refuse(format!(
                "is of type {} in the file and cannot be overridden by a value of type {}",
                held.value_type(),
                value.as_value().value_type()
            ));
        }
        match self.overrides.iter_mut().find(|(k, _)| k == key) {
            Some((_, old)) => *old = value,
            None => self.overrides.push((key.to_string(), value)),
        }
        Ok(())
    }
}

/// Checks one value and notes what it is and where its bytes lie.
fn read_value(r: &mut ByteReader<'_>) -> Result<(Kind, Range<usize>), LoadError> {
    let kind = read_type(r)?;
    if kind != ValueType::Array {
        let (start, bytes) = read_elements(r, kind, 1)?;
        // The bytes of a string begin behind its length.
        let prefix = if kind == ValueType::String { 8 } else { 0 };
        return Ok((Kind::Scalar(kind), start.saturating_add(prefix)..start.saturating_add(bytes)));
    }
    let element = read_type(r)?;
    if element == ValueType::Array {
        return Err(r.error("is an array of arrays, which is not supported".to_string()));
    }
    let n = r.u64()?;
    let (start, bytes) = read_elements(r, element, n)?;
    // No more elements than bytes, so it fits.
    let len = usize::try_from(n).map_err(|_| r.error(format!("declares {n} elements")))?;
    Ok((Kind::Array(element, len), start..start.saturating_add(bytes)))
}

fn read_type(r: &mut ByteReader<'_>) -> Result<ValueType, LoadError> {
    let at = r.clone();
    let id = r.u32()?;
    ValueType::from_id(id).ok_or_else(|| at.error(format!("has value type {id}; known: 0 to 12")))
}

/// Walks over `n` elements; gives the place of the first and the bytes of all.
fn read_elements(r: &mut ByteReader<'_>, kind: ValueType, n: u64) -> Result<(usize, usize), LoadError> {
    let start = r.at();
    let left = r.left();
    match kind.size().map(u64::try_from) {
        Some(size) => {
            // A product that overflows is more than any file has.
            let bytes = r.take(size.unwrap_or(u64::MAX).saturating_mul(n))?;
            if let Some(odd) = bytes.iter().find(|b| kind == ValueType::Bool && **b > 1) {
                return Err(r.error(format!("holds a bool of {odd}; allowed: 0 and 1")));
            }
        }
        None => {
            if n > u64::try_from(left / 8).unwrap_or(u64::MAX) {
                return Err(
                    r.error(format!("declares {n} strings, but the {left} bytes left cannot hold them"))
                );
            }
            for _ in 0..n {
                r.string()?;
            }
        }
    }
    Ok((start, r.at().saturating_sub(start)))
}
