//! The layout of GPTQ.

use super::{Extents, Layout, Scales, check_len, nibble, write};
use crate::error::KernelError;
use crate::mutant::mutant;
use crate::quant::QuantWeights;
use half::f16;

/// How GPTQ files store zero points.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum GptqZeros {
    /// Less one, as `checkpoint_format: gptq` does and files that name no format: 0 to 15 mean 1 to 16.
    #[default]
    LessOne,
    /// As they are, as `checkpoint_format: gptq_v2` does.
    AsTheyAre,
}

/// A matrix as GPTQ stores it (`qweight`, `qzeros`, `scales`, `g_idx` of a checkpoint with `bits: 4`).
///
/// `W[j, i] = scales[i / G, j] (q[i, j] - zero[i / G, j])` for output j and input i.
#[derive(Debug, Clone, Copy)]
pub struct GptqWeights<'a> {
    /// Outputs; a multiple of 8.
    pub n: usize,
    /// Inputs; a multiple of 32.
    pub k: usize,
    /// G, inputs that share a scale; a multiple of 32, [`k`](Self::k) where the file says -1.
    pub group: usize,
    /// `[K / 8, N]`: eight inputs in a word, the first in the lowest nibble.
    pub qweight: &'a [i32],
    /// `[K / G, N / 8]`: zero points, eight outputs in a word, the first in the lowest nibble.
    pub qzeros: &'a [i32],
    /// What is stored in them.
    pub zeros: GptqZeros,
    /// `[K / G, N]`
    pub scales: Scales<'a>,
    /// `[K]`: each input's group, where the file has them. They must be `i / G`.
    pub g_idx: Option<&'a [i32]>,
}

impl GptqWeights<'_> {
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
    /// [`KernelError::BlockLength`] for `k`, [`KernelError::Value`] for `group`, `n`, scales, and a `g_idx` that puts inputs
    /// into groups in another order (`desc_act`, "act-order"), [`KernelError::Shape`] for the length of any slice. Nothing
    /// was written.
    ///
    /// Source: Frantar et al. 2022, <https://arxiv.org/abs/2210.17323>; the layout is AutoGPTQ's.
    ///
    /// ```
    /// use gable_kernels::{Kernels, quant::int4::*};
    /// let (qweight, qzeros, scales) = ([0x7654_3210; 4 * 8], [0], [0.5; 8]);
    /// let (zeros, scales, g_idx) = (GptqZeros::LessOne, Scales::F32(&scales), None);
    /// let gptq = GptqWeights { n: 8, k: 32, group: 32, qweight: &qweight, qzeros: &qzeros, zeros, scales, g_idx };
    /// let (mut memory, mut row) = ([0; 8 * 19], [0.0; 32]);
    /// Kernels::new()?.dequantize_row(&gptq.to_blocks(&mut memory)?, 0, &mut row)?;
    /// assert_eq!(row[..4], [-0.5, 0.0, 0.5, 1.0]);
    /// # Ok::<(), gable_kernels::KernelError>(())
    /// ```
    pub fn to_blocks<'o>(&self, out: &'o mut [u8]) -> Result<QuantWeights<'o>, KernelError> {
        const OP: &str = "GptqWeights::to_blocks";
        let extents = Extents { op: OP, n: self.n, k: self.k, group: self.group };
        extents.check(true)?;
        let groups = extents.groups();
        check_len(OP, "qweight.len()", (self.k / 8).checked_mul(self.n), self.qweight.len())?;
        check_len(OP, "qzeros.len()", groups.checked_mul(self.n / 8), self.qzeros.len())?;
        self.scales.check(OP, groups.checked_mul(self.n))?;
        if let Some(g_idx) = self.g_idx {
            check_len(OP, "g_idx.len()", Some(self.k), g_idx.len())?;
            if let Some(i) = (0..self.k).find(|i| usize::try_from(g_idx[*i]) != Ok(i / self.group)) {
                let found = format!("{} for input {i}, which is in group {}", g_idx[i], i / self.group);
                let allowed =
                    "groups of consecutive inputs, not those of desc_act (sort inputs and x by group)";
                return Err(KernelError::Value { op: OP, what: "g_idx", found, allowed });
            }
        }
        write(extents, self, out)
    }
}

impl Layout for GptqWeights<'_> {
    fn scale(&self, row: usize, group: usize) -> f16 {
        self.scales.at(group * self.n + row)
    }

    fn zero(&self, row: usize, group: usize) -> u8 {
        let less_one = self.zeros == GptqZeros::LessOne && !mutant("GPTQ's zero points as they are");
        nibble(self.qzeros[group * (self.n / 8) + row / 8], row % 8) + u8::from(less_one)
    }

    fn integer(&self, row: usize, k: usize) -> u8 {
        nibble(self.qweight[k / 8 * self.n + row], k % 8)
    }
}
