//! Arrays of metadata values as views of the mapped bytes.
//!
//! An array is a length, an element type and a slice, so a vocabulary of 262,144 tokens is opened without an
//! allocation. The element type is checked when a typed view is taken, not assumed from the key. Strings have no
//! fixed size and can only be walked; [`StringTable`] remembers where each starts, for random access.
//!
//! The parser has walked every array once, so the views cannot run out of bytes; they are still read by checked
//! slices, since the file may be overwritten while it is mapped.

use std::fmt;
use std::sync::Arc;

use super::value::{Value, ValueType};
use crate::LoadError;
use crate::mapped_file::MappedFile;

/// An array of metadata values, all of one type, in the mapped bytes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Array<'a> {
    pub(super) key: &'a str,
    pub(super) element: ValueType,
    pub(super) len: usize,
    pub(super) bytes: &'a [u8],
}

impl<'a> Array<'a> {
    /// Type of the elements; never [`ValueType::Array`].
    pub fn element_type(&self) -> ValueType {
        self.element
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The elements as they lie in the file.
    pub fn raw(&self) -> &'a [u8] {
        self.bytes
    }

    /// The elements, whatever their type.
    pub fn values(&self) -> impl Iterator<Item = Value<'a>> + use<'a> {
        let Array { element, bytes, .. } = *self;
        let strings = if element == ValueType::String { self.len } else { 0 };
        let fixed = element.size().map(|size| bytes.chunks_exact(size)).into_iter().flatten();
        StringIter { bytes, left: strings }
            .map(Value::String)
            .chain(fixed.filter_map(move |chunk| Value::from_le_bytes(element, chunk)))
    }

    /// The elements as byte strings.
    ///
    /// # Errors
    ///
    /// They are of another type.
    pub fn strings(&self) -> Result<StringArray<'a>, LoadError> {
        self.expect(ValueType::String)?;
        Ok(StringArray { len: self.len, bytes: self.bytes })
    }

    /// The elements as `f32`.
    ///
    /// # Errors
    ///
    /// They are of another type.
    pub fn f32s(&self) -> Result<impl ExactSizeIterator<Item = f32> + Clone + use<'a>, LoadError> {
        self.expect(ValueType::F32)?;
        Ok(self.bytes.as_chunks::<4>().0.iter().map(|le| f32::from_le_bytes(*le)))
    }

    /// The elements as `bool`.
    ///
    /// # Errors
    ///
    /// They are of another type.
    pub fn bools(&self) -> Result<impl ExactSizeIterator<Item = bool> + Clone + use<'a>, LoadError> {
        self.expect(ValueType::Bool)?;
        Ok(self.bytes.iter().map(|b| *b != 0))
    }

    /// The elements as integers of type `T`, from integers of any width that fit.
    ///
    /// # Errors
    ///
    /// They are no integers, or one of them does not fit.
    pub fn integers<T>(&self) -> Result<impl ExactSizeIterator<Item = T> + Clone + use<'a, T>, LoadError>
    where
        T: TryFrom<i128> + Default,
    {
        let Array { key, element, bytes, .. } = *self;
        let size = element.size().unwrap_or(1);
        let number = move |chunk| Value::from_le_bytes(element, chunk)?.as_integer();
        let wanted = std::any::type_name::<T>();
        let fits = |n| T::try_from(n).is_ok();
        let mut numbers = bytes.chunks_exact(size).map(number).enumerate();
        if !element.is_integer() {
            let reason = format!("is an array of {element}, but integers are needed");
            return Err(LoadError::Metadata { key: key.to_string(), reason });
        }
        if let Some((i, Some(n))) = numbers.find(|(_, n)| !n.is_some_and(fits)) {
            let reason = format!("element {i} is {n}, which does not fit into {wanted}");
            return Err(LoadError::Metadata { key: key.to_string(), reason });
        }
        let convert = move |chunk| number(chunk).and_then(|n| T::try_from(n).ok()).unwrap_or_default();
        Ok(bytes.chunks_exact(size).map(convert))
    }

    fn expect(&self, wanted: ValueType) -> Result<(), LoadError> {
        if self.element == wanted {
            return Ok(());
        }
        let reason = format!("is an array of {}, but one of {wanted} is needed", self.element);
        Err(LoadError::Metadata { key: self.key.to_string(), reason })
    }
}

impl fmt::Display for Array<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 6;
        let shown = if f.alternate() { usize::MAX } else { SHOWN };
        f.write_str("[")?;
        for (i, value) in self.values().take(shown).enumerate() {
            if i > 0 {
                f.write_str(", ")?;
            }
            value.fmt(f)?;
        }
        if self.len > shown {
            write!(f, ", ...] ({} x {})", self.len, self.element)
        } else {
            f.write_str("]")
        }
    }
}

/// Byte strings one after another, each behind its length.
#[derive(Debug, Clone, Copy)]
pub struct StringArray<'a> {
    len: usize,
    bytes: &'a [u8],
}

impl<'a> StringArray<'a> {
    /// Number of strings.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The strings in order.
    pub fn iter(&self) -> StringIter<'a> {
        StringIter { bytes: self.bytes, left: self.len }
    }
}

impl<'a> IntoIterator for StringArray<'a> {
    type Item = &'a [u8];
    type IntoIter = StringIter<'a>;

    fn into_iter(self) -> StringIter<'a> {
        self.iter()
    }
}

/// Iterator over the strings of a [`StringArray`].
#[derive(Debug, Clone)]
pub struct StringIter<'a> {
    bytes: &'a [u8],
    left: usize,
}

/// The string at the start of `bytes`, and what follows it.
fn split_string(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = bytes.split_first_chunk::<8>()?;
    rest.split_at_checked(usize::try_from(u64::from_le_bytes(*len)).ok()?)
}

impl<'a> Iterator for StringIter<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        self.left = self.left.checked_sub(1)?;
        // Only a file that was changed while mapped gets an empty string here.
        let (string, rest) = split_string(self.bytes).unwrap_or_default();
        self.bytes = rest;
        Some(string)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for StringIter<'_> {}

/// A string array with random access: four bytes of memory per string, the strings stay in the mapped file.
#[derive(Debug, Clone)]
pub struct StringTable {
    file: Arc<MappedFile>,
    /// First byte of the array in the file.
    base: usize,
    /// Where each string's length stands, counted from `base`.
    starts: Vec<u32>,
}

impl StringTable {
    /// Notes where the strings start; `None` if the array is not part of the file or longer than 4 GiB.
    pub(super) fn new(file: &Arc<MappedFile>, base: usize, array: &StringArray<'_>) -> Option<StringTable> {
        let mut starts = Vec::new();
        // As many strings as were found when the file was parsed, each at least eight bytes of it.
        starts.try_reserve_exact(array.len).ok()?;
        let mut bytes = array.bytes;
        for _ in 0..array.len {
            starts.push(u32::try_from(array.bytes.len().checked_sub(bytes.len())?).ok()?);
            bytes = split_string(bytes)?.1;
        }
        Some(StringTable { file: file.clone(), base, starts })
    }

    /// Number of strings.
    pub fn len(&self) -> usize {
        self.starts.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    /// String number `i`.
    pub fn get(&self, i: usize) -> Option<&[u8]> {
        let start = self.base.checked_add(usize::try_from(*self.starts.get(i)?).ok()?)?;
        split_string(self.file.bytes().get(start..)?).map(|(string, _)| string)
    }

    /// The strings in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        (0..self.len()).map(|i| self.get(i).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn array(element: ValueType, len: usize, bytes: &[u8]) -> Array<'_> {
        Array { key: "k", element, len, bytes }
    }

    #[test]
    fn integers_of_any_width_are_taken_if_they_fit() {
        let a = array(ValueType::I8, 3, &[1, 2, 0xff]);
        assert_eq!(a.integers::<i32>().unwrap().collect::<Vec<_>>(), [1, 2, -1]);
        let err = a.integers::<u32>().map(|_| ()).unwrap_err().to_string();
        assert_eq!(err, "metadata key \"k\": element 2 is -1, which does not fit into u32");
        let err = array(ValueType::F32, 0, &[]).integers::<u32>().map(|_| ()).unwrap_err().to_string();
        assert!(err.contains("is an array of f32, but integers are needed"), "{err}");
    }

    #[test]
    fn a_typed_view_of_another_type_is_refused() {
        let a = array(ValueType::I8, 4, &[0; 4]);
        let err = a.f32s().map(|_| ()).unwrap_err().to_string();
        assert_eq!(err, "metadata key \"k\": is an array of i8, but one of f32 is needed");
        assert!(a.strings().is_err() && a.bools().is_err());
        assert_eq!(array(ValueType::F32, 1, &[0, 0, 128, 63]).f32s().unwrap().next(), Some(1.0));
    }

    #[test]
    fn a_string_array_changed_under_the_map_yields_empty_strings() {
        let strings = array(ValueType::String, 2, &[200, 0, 0, 0, 0, 0, 0, 0, b'a']).strings().unwrap();
        assert_eq!(strings.iter().collect::<Vec<_>>(), [b"", b""]);
        let file = MappedFile::from_memory([0; 9]);
        assert!(StringTable::new(&file, 0, &strings).is_none());
    }
}
