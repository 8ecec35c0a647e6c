//! The layout of ONNX Runtime's MatMulNBits.

use super::{Extents, Layout, Scales, check_len, write};
use crate::error::KernelError;
use crate::mutant::mutant;
use crate::quant::QuantWeights;
use half::f16;

const OP: &str = "NBitsWeights::to_blocks";

/// The zero point where none is stored.
const MIDDLE: u8 = 8;

/// A matrix as the ONNX operator `com.microsoft.MatMulNBits` stores it with `bits = 4`.
///
/// `W[j, i] = scales[j, i / G] (q[j, i] - zero[j, i / G])` for output j and input i.
#[derive(Debug, Clone, Copy)]
pub struct NBitsWeights<'a> {
    /// Outputs.
    pub n: usize,
    /// Inputs; a multiple of 32.
    pub k: usize,
    /// G, the operator's `block_size`; a multiple of 32.
    pub group: usize,
    /// `B`, `[N, K / G, G / 2]`: two inputs in a byte, the first in the lower nibble.
    pub b: &'a [u8],
    /// `[N, K / G]`
    pub scales: Scales<'a>,
    /// `[N, K / G / 2]`: zero points of two groups in a byte, the first in the lower nibble; 8 where there are none.
    /// Those of type float are not supported.
    pub zero_points: Option<&'a [u8]>,
}

impl NBitsWeights<'_> {
    /// Writes the matrix as rows of [`Format::INT4`](crate::quant::Format::INT4) blocks.
    ///
    /// Shapes: `out` has at least [`blocks_len`](super::blocks_len) bytes; K / G and K / G / 2 are rounded up.
    ///
    /// Accuracy: exact with scales that f16 holds; [`Scales::F32`] says what rounding others costs.
    ///
    /// Special values: a scale that is no finite f16 is refused; negative ones and zeros are as good as others.
    ///
    /// Threads: the calling one; no memory but `out` is used.
    ///
    /// # Errors
    /// [`KernelError::BlockLength`] for `k`, [`KernelError::Value`] for `group` and scales, [`KernelError::Shape`] for the
    /// length of any slice. Nothing was written.
    ///
    /// Source: ONNX Runtime, `docs/ContribOperators.md`.
    ///
    /// ```
    /// use gable_kernels::{Kernels, quant::int4::*};
    /// let (b, scales) = ([0x98; 16], Scales::F32(&[0.5]));
    /// let onnx = NBitsWeights { n: 1, k: 32, group: 32, b: &b, scales, zero_points: None };
    /// let (mut memory, mut row) = ([0; 19], [0.0; 32]);
    /// Kernels::new()?.dequantize_row(&onnx.to_blocks(&mut memory)?, 0, &mut row)?;
    /// assert_eq!(row[..4], [0.0, 0.5, 0.0, 0.5]);
    /// # Ok::<(), gable_kernels::KernelError>(())
    /// ```
    pub fn to_blocks<'o>(&self, out: &'o mut [u8]) -> Result<QuantWeights<'o>, KernelError> {
        let extents = self.extents();
        extents.check(false)?;
        let groups = extents.groups();
        let row_bytes = groups.checked_mul(self.group / 2);
        check_len(OP, "b.len()", row_bytes.and_then(|b| b.checked_mul(self.n)), self.b.len())?;
        self.scales.check(OP, groups.checked_mul(self.n))?;
        if let Some(zero_points) = self.zero_points {
            let expected = groups.div_ceil(2).checked_mul(self.n);
            check_len(OP, "zero_points.len()", expected, zero_points.len())?;
        }
        write(extents, self, out)
    }

    fn extents(&self) -> Extents {
        Extents { op: OP, n: self.n, k: self.k, group: self.group }
    }
}

/// Nibble `i` of bytes, the lower first.
fn nibble(bytes: &[u8], i: usize) -> u8 {
    bytes[i / 2] >> (4 * (i % 2)) & 15
}

impl Layout for NBitsWeights<'_> {
    fn scale(&self, row: usize, group: usize) -> f16 {
        self.scales.at(row * self.extents().groups() + group)
    }

    fn zero(&self, row: usize, group: usize) -> u8 {
        let groups = self.extents().groups();
        let unpadded = mutant("zero points of MatMulNBits not in whole bytes per row");
        let per_row = if unpadded { groups } else { groups.next_multiple_of(2) };
        self.zero_points.map_or(MIDDLE, |zeros| nibble(zeros, row * per_row + group))
    }

    fn integer(&self, row: usize, k: usize) -> u8 {
        nibble(self.b, row * self.extents().groups() * self.group + k)
    }
}
