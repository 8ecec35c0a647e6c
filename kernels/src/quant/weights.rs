//! Weight matrices as they lie in files.

use super::Format;
use crate::error::KernelError;
use std::ops::Range;

/// A borrowed weight matrix in its on-file layout: `rows` rows (output features) of `cols` values (input features).
///
/// Bytes may have any alignment. Nothing is copied, checked values by value or repacked: a matrix in a mapped file
/// costs nothing until a kernel reads it.
#[derive(Debug, Clone, Copy)]
pub struct QuantWeights<'a> {
    format: Format,
    rows: usize,
    cols: usize,
    row_stride: usize,
    data: &'a [u8],
}

impl<'a> QuantWeights<'a> {
    /// `rows` rows of `cols` values in `format`, rows `row_stride` bytes apart.
    ///
    /// # Errors
    /// [`KernelError::BlockLength`] if `cols` is not a whole number of blocks, [`KernelError::Shape`] if the stride is
    /// below a row's bytes or the data are too short.
    pub fn from_bytes(
        format: Format,
        rows: usize,
        cols: usize,
        row_stride: usize,
        data: &'a [u8],
    ) -> Result<Self, KernelError> {
        const OP: &str = "QuantWeights::from_bytes";
        let block = format.block_len();
        let row_bytes = format.row_bytes(cols).ok_or(KernelError::BlockLength { format, block, cols })?;
        if row_stride < row_bytes {
            let what = "row stride in bytes (at least)";
            return Err(KernelError::Shape { op: OP, what, expected: row_bytes, found: row_stride });
        }
        let needed = match rows {
            0 => Some(0),
            _ => (rows - 1).checked_mul(row_stride).and_then(|n| n.checked_add(row_bytes)),
        };
        match needed {
            Some(n) if n <= data.len() => Ok(QuantWeights { format, rows, cols, row_stride, data }),
            _ => Err(KernelError::Shape {
                op: OP,
                what: "bytes (at least)",
                expected: needed.unwrap_or(usize::MAX),
                found: data.len(),
            }),
        }
    }

    /// Element type.
    #[inline]
    pub fn format(&self) -> Format {
        self.format
    }

    /// Number of rows (output features).
    #[inline]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Values per row (input features).
    #[inline]
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Where byte `at` of row `i` is, or would be if there were as many: to be asked for, not read.
    #[inline(always)]
    pub(crate) fn address(&self, i: usize, at: usize) -> *const u8 {
        self.data.as_ptr().wrapping_add(i.wrapping_mul(self.row_stride).wrapping_add(at))
    }

    /// The bytes of row `i`.
    ///
    /// # Panics
    /// If `i >= rows`.
    #[inline(always)] // called inside leaves
    pub fn row(&self, i: usize) -> &'a [u8] {
        assert!(i < self.rows);
        let bytes = self.cols / self.format.block_len() * self.format.block_bytes();
        &self.data[i * self.row_stride..][..bytes]
    }

    /// The bytes of row `i` and all that lie behind it in the matrix.
    ///
    /// # Panics
    /// If `i >= rows`.
    #[inline(always)]
    pub(crate) fn rest_from(&self, i: usize) -> &'a [u8] {
        assert!(i < self.rows);
        &self.data[i * self.row_stride..]
    }

    /// Some consecutive rows: a part of a fused projection, or one expert of a stack.
    ///
    /// # Panics
    /// If the range is not within the rows.
    #[inline]
    pub fn row_range(&self, rows: Range<usize>) -> Self {
        assert!(rows.start <= rows.end && rows.end <= self.rows);
        let start = if rows.is_empty() { 0 } else { rows.start * self.row_stride };
        QuantWeights { rows: rows.len(), data: &self.data[start..], ..*self }
    }
}
