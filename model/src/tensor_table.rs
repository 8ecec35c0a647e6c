//! Names to places: what both file formats tell the weights about their tensors.
//!
//! GGUF and safetensors differ in how they write a header, not in what it says. Both parsers end in a
//! [`TensorTable`]: the mapped files and, for every tensor, its format, its shape and its bytes in one of them. All
//! places were checked against the file when the table was made.
//!
//! Shapes are written **fastest dimension first**, as in GGUF: `[cols, rows, experts]`. The shape `[rows, cols]` of a
//! safetensors header appears here turned round. Data may lie at any alignment.

use std::ops::Deref;
use std::sync::Arc;

use gable_kernels::quant::Format;

use crate::LoadError;
use crate::mapped_file::MappedFile;

/// Up to four dimensions, fastest first. Their product, zeros left out, fits into an `i64` and a `usize`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Dims {
    n: usize,
    dims: [usize; 4],
}

impl Dims {
    /// Most dimensions that a tensor has.
    pub const MAX: usize = 4;

    /// `dims`, fastest first, if there are at most four and the number of elements can be computed.
    ///
    /// Zeros count as ones in that test, so that no product over some of the dimensions can overflow either.
    pub fn new(dims: &[u64]) -> Option<Dims> {
        let mut out = Dims { n: dims.len(), dims: [1; 4] };
        if dims.len() > Dims::MAX {
            return None;
        }
        let mut product: i64 = 1;
        for (to, &from) in out.dims.iter_mut().zip(dims) {
            product = product.checked_mul(i64::try_from(from.max(1)).ok()?)?;
            *to = usize::try_from(from).ok()?;
        }
        usize::try_from(product).ok()?;
        Some(out)
    }

    /// Elements of a row: the fastest dimension.
    pub fn cols(&self) -> usize {
        self.first().copied().unwrap_or(1)
    }

    /// Rows in all: the product of the other dimensions.
    pub fn rows(&self) -> usize {
        self.iter().skip(1).fold(1, |rows, &d| rows.saturating_mul(d))
    }

    /// Elements in all.
    pub fn elements(&self) -> usize {
        self.iter().fold(1, |n, &d| n.saturating_mul(d))
    }

    /// Bytes of such a tensor; `None` if a row is not a whole number of blocks or the size overflows.
    pub fn n_bytes(&self, format: Format) -> Option<usize> {
        format.row_bytes(self.cols())?.checked_mul(self.rows())
    }
}

impl Deref for Dims {
    type Target = [usize];

    fn deref(&self) -> &[usize] {
        self.dims.get(..self.n).unwrap_or_default()
    }
}

/// One tensor: its name, shape, format and place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Name in the file.
    pub name: Box<str>,
    /// Shape, fastest dimension first.
    pub dims: Dims,
    /// Element type.
    pub format: Format,
    /// Index of the file that holds it, for [`TensorTable::file`].
    pub shard: usize,
    /// First byte, counted from the start of that file.
    pub offset: usize,
    /// Length in bytes.
    pub n_bytes: usize,
}

/// Every tensor of a model, over the files that hold them.
#[derive(Debug, Clone, Default)]
pub struct TensorTable {
    files: Vec<Arc<MappedFile>>,
    tensors: Vec<TensorInfo>,
    /// Indices into `tensors`, ordered by name: found by bisection, a duplicate stands next to its twin.
    by_name: Vec<usize>,
    /// Tensors that exist but that no kernel reads, with their type.
    unreadable: Vec<(Box<str>, String)>,
}

impl TensorTable {
    /// Puts a table together; `unreadable` are tensors of types without kernels, which fail only when asked for.
    ///
    /// # Errors
    ///
    /// A name that stands twice, and a tensor that is not inside its file.
    pub(crate) fn new(
        files: Vec<Arc<MappedFile>>,
        tensors: Vec<TensorInfo>,
        unreadable: Vec<(Box<str>, String)>,
    ) -> Result<TensorTable, LoadError> {
        for tensor in &tensors {
            check_place(tensor, files.get(tensor.shard).map_or(0, |file| file.len()))?;
        }
        let name = |i: &usize| tensors.get(*i).map_or("", |t| &t.name);
        let mut by_name: Vec<usize> = (0..tensors.len()).collect();
        by_name.sort_unstable_by(|a, b| name(a).cmp(name(b)));
        let twin = by_name.iter().zip(by_name.iter().skip(1)).find(|(a, b)| name(a) == name(b));
        if let Some((a, _)) = twin {
            let reason = "stands twice in the model; its names must be unique".to_string();
            return Err(LoadError::Tensor { name: name(a).to_string(), reason });
        }
        Ok(TensorTable { files, tensors, by_name, unreadable })
    }

    /// Every tensor, in the order of the files.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// The tensor called `name`, if there is one.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        let at = |i: &usize| self.tensors.get(*i);
        let i = self.by_name.binary_search_by(|i| at(i).map_or("", |t| &t.name).cmp(name)).ok()?;
        at(self.by_name.get(i)?)
    }

    /// The tensor called `name`.
    ///
    /// # Errors
    ///
    /// It is missing, or of a type that no kernel reads.
    pub fn require(&self, name: &str) -> Result<&TensorInfo, LoadError> {
        if let Some(tensor) = self.tensor(name) {
            return Ok(tensor);
        }
        match self.unreadable.iter().find(|(other, _)| **other == *name) {
            Some((_, found)) => Err(unsupported_format(name, found)),
            None => Err(LoadError::MissingTensor { name: name.to_string() }),
        }
    }

    /// The bytes of a tensor of this table; empty for a tensor of another one that does not fit here.
    pub fn bytes(&self, tensor: &TensorInfo) -> &[u8] {
        let Some(file) = self.files.get(tensor.shard) else { return &[] };
        let Some(end) = tensor.offset.checked_add(tensor.n_bytes) else { return &[] };
        file.bytes().get(tensor.offset..end).unwrap_or_default()
    }

    /// The mapped file of a shard.
    pub fn file(&self, shard: usize) -> Option<&Arc<MappedFile>> {
        self.files.get(shard)
    }

    /// The mapped files, in the order of their numbers.
    pub fn files(&self) -> &[Arc<MappedFile>] {
        &self.files
    }

    /// Names and types of tensors that are in the files but that no kernel reads.
    pub fn unreadable(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.unreadable.iter().map(|(name, kind)| (&**name, kind.as_str()))
    }
}

/// Fails unless the tensor ends inside a file of `len` bytes.
pub(crate) fn check_place(tensor: &TensorInfo, len: usize) -> Result<(), LoadError> {
    let end = tensor.offset.checked_add(tensor.n_bytes);
    if end.is_some_and(|end| end <= len) {
        return Ok(());
    }
    let reason = format!(
        "needs {} bytes from byte {} on, but the file has {len}; the download is incomplete or the header damaged",
        tensor.n_bytes, tensor.offset
    );
    Err(LoadError::Tensor { name: tensor.name.to_string(), reason })
}

/// The error for a tensor whose element type has no kernel.
pub(crate) fn unsupported_format(name: &str, found: &str) -> LoadError {
    let supported: Vec<&str> = Format::all_of_gguf().map(Format::name).collect();
    let reason = format!("type {found} is not supported; supported: {}", supported.join(", "));
    LoadError::Tensor { name: name.to_string(), reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(name: &str, offset: usize, n_bytes: usize) -> TensorInfo {
        let dims = Dims::new(&[1]).unwrap();
        TensorInfo { name: name.into(), dims, format: Format::F32, shard: 0, offset, n_bytes }
    }

    #[test]
    fn dimensions_are_multiplied_with_care() {
        let dims = Dims::new(&[3, 4, 5]).unwrap();
        assert_eq!((dims.cols(), dims.rows(), dims.elements(), dims.len()), (3, 20, 60, 3));
        let scalar = Dims::new(&[]).unwrap();
        assert_eq!((scalar.cols(), scalar.rows(), scalar.elements()), (1, 1, 1));
        let empty = Dims::new(&[8, 0]).unwrap();
        assert_eq!((empty.elements(), empty.n_bytes(Format::F32)), (0, Some(0)));
        assert_eq!(Dims::new(&[32, 2]).unwrap().n_bytes(Format::Q8_0), Some(68));
        assert_eq!(Dims::new(&[31, 2]).unwrap().n_bytes(Format::Q8_0), None);
        for bad in [&[1 << 32, 1 << 32][..], &[u64::MAX], &[1 << 63], &[i64::MAX as u64, 2], &[1; 5]] {
            assert_eq!(Dims::new(bad), None, "{bad:?}");
        }
        assert_eq!(Dims::new(&[0, 1 << 40, 1 << 40]), None, "a zero hides no overflow of the rows");
        // 2^62 elements can be counted, their bytes cannot.
        let dims = Dims::new(&[4, (1 << 30) - 1, (1 << 30) + 1]).unwrap();
        assert_eq!(dims.n_bytes(Format::F32), Some(usize::MAX - 15));
    }

    #[test]
    fn tensors_are_found_by_name_and_kept_in_file_order() {
        let file = MappedFile::from_memory([1, 2, 3, 4, 5, 6, 7, 8]);
        let list = vec![info("b", 0, 4), info("a", 4, 4)];
        let unreadable = vec![("ids".into(), "I64".to_string())];
        let table = TensorTable::new(vec![file], list, unreadable).unwrap();
        assert_eq!(&*table.tensors()[0].name, "b");
        assert_eq!(table.bytes(table.tensor("a").unwrap()), [5, 6, 7, 8]);
        assert!(table.tensor("c").is_none());
        assert_eq!(table.require("c").unwrap_err().to_string(), "tensor \"c\" is missing");
        let err = table.require("ids").unwrap_err().to_string();
        assert!(err.contains("\"ids\": type I64 is not supported; supported: F32, F16"), "{err}");
    }

    #[test]
    fn duplicates_and_places_outside_the_file_are_refused() {
        let file = MappedFile::from_memory([0; 8]);
        let make = |list| TensorTable::new(vec![file.clone()], list, Vec::new()).map(|_| ());
        let err = make(vec![info("a", 0, 4), info("b", 0, 4), info("a", 4, 4)]).unwrap_err().to_string();
        assert!(err.contains("\"a\": stands twice"), "{err}");
        let err = make(vec![info("a", 6, 4)]).unwrap_err().to_string();
        assert!(err.contains("needs 4 bytes from byte 6 on, but the file has 8"), "{err}");
        assert!(make(vec![info("a", usize::MAX, 4)]).is_err());
    }
}
