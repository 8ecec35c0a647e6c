//! The layout of AWQ's GEMM version.

use super::{Extents, Layout, Scales, check_len, nibble, write};
use crate::error::KernelError;
use crate::mutant::mutant;
use crate::quant::QuantWeights;
use half::f16;

/// Nibble in which a word has each of its eight columns: it holds columns 0, 2, 4, 6, 1, 3, 5, 7, the lowest first.
const NIBBLE_OF_COLUMN: [usize; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

/// A matrix as AWQ stores it (`qweight`, `qzeros`, `scales` of a checkpoint with `version: gemm`, `bits: 4`).
///
/// `W[j, i] = scales[i / G, j] (q[i, j] - zero[i / G, j])` for output j and input i.
#[derive(Debug, Clone, Copy)]
pub struct AwqWeights<'a> {
    /// Outputs; a multiple of 8.
    pub n: usize,
    /// Inputs; a multiple of 32.
    pub k: usize,
    /// G, inputs that share a scale; a multiple of 32, [`k`](Self::k) for one scale per output.
    pub group: usize,
    /// `[K, N / 8]`: eight outputs in a word, 0, 2, 4, 6, 1, 3, 5, 7 from the lowest nibble on.
    pub qweight: &'a [i32],
    /// `[K / G, N / 8]`: zero points of 0 to 15 in the same order.
    pub qzeros: &'a [i32],
    /// `[K / G, N]`
    pub scales: Scales<'a>,
}

impl AwqWeights<'_> {
    /// Writes the matrix as rows of [`Format::INT4`](crate::quant::Format::INT4) blocks.
    ///
    /// Shapes: `out` has at least [`blocks_len`](super::blocks_len) bytes; K / G is rounded up.
    ///
    /// Accuracy: exact with f16 scales; [`Scales::F32`] says what rounding others costs.
    ///
    /// Special values: a scale that is no finite f16 is refused; negative ones and zeros are as good as others.
    ///
    /// Threads: the calling one; no memory but `out` is used.
    ///
    /// # Errors
    /// [`KernelError::BlockLength`] for `k`, [`KernelError::Value`] for `group`, `n` and scales, [`KernelError::Shape`] for
    /// the length of any slice. Nothing was written.
    ///
    /// Source: Lin et al. 2023, <https://arxiv.org/abs/2306.00978>; the order is that of AutoAWQ's `WQLinear_GEMM`.
    /// Example: see the [module](super).
    pub fn to_blocks<'o>(&self, out: &'o mut [u8]) -> Result<QuantWeights<'o>, KernelError> {
        const OP: &str = "AwqWeights::to_blocks";
        let extents = Extents { op: OP, n: self.n, k: self.k, group: self.group };
        extents.check(true)?;
        let (words, groups) = (self.n / 8, extents.groups());
        check_len(OP, "qweight.len()", self.k.checked_mul(words), self.qweight.len())?;
        check_len(OP, "qzeros.len()", groups.checked_mul(words), self.qzeros.len())?;
        self.scales.check(OP, groups.checked_mul(self.n))?;
        write(extents, self, out)
    }

    fn integer_of(&self, words: &[i32], at: usize, row: usize) -> u8 {
        let i = if mutant("AWQ's nibbles in plain order") { row % 8 } else { NIBBLE_OF_COLUMN[row % 8] };
        nibble(words[at * (self.n / 8) + row / 8], i)
    }
}

impl Layout for AwqWeights<'_> {
    fn scale(&self, row: usize, group: usize) -> f16 {
        self.scales.at(group * self.n + row)
    }

    fn zero(&self, row: usize, group: usize) -> u8 {
        self.integer_of(self.qzeros, group, row)
    }

    fn integer(&self, row: usize, k: usize) -> u8 {
        self.integer_of(self.qweight, k, row)
    }
}
