//! Group-wise int4 weights, as AWQ, GPTQ and ONNX files have them, to [`Format::INT4`].
//!
//! All three store `w = scale (q - zero)`: 4-bit q, a scale and a zero point for every group of values along k. They
//! differ in which way the matrix lies and in how integers are packed:
//!
//! ```text
//!                 q                                    zero points                       scales
//! AWQ             [K, N/8] words along n, interleaved  [K/G, N/8] words, interleaved     [K/G, N]
//! GPTQ            [K/8, N] words along k               [K/G, N/8] words, less one (v1)   [K/G, N]
//! MatMulNBits     [N, K/G, G/2] bytes along k          [N, K/G/2] bytes, 8 without them  [N, K/G]
//! ```
//!
//! The kernels read rows along k in blocks of 32, each with its own scale and zero point: 19 bytes, 4.75 bits per value.
//! So a matrix is rewritten once, when it is loaded, into memory of the caller's ([`blocks_len`]), and from there on it
//! is [`QuantWeights`] as any other: prompt and decode products, joined and gated ones, `dequantize_row`.
//!
//! ```
//! use gable_kernels::{Kernels, quant::int4::{AwqWeights, Scales, blocks_len}};
//! use half::f16;
//! let (n, k) = (8, 32);
//! let (qweight, qzeros, scales) = ([0x7654_3210; 32], [0x1111_1111], [f16::ONE; 8]);
//! let awq = AwqWeights { n, k, group: 32, qweight: &qweight, qzeros: &qzeros, scales: Scales::F16(&scales) };
//! let mut memory = vec![0; blocks_len(n, k).unwrap()];
//! let weights = awq.to_blocks(&mut memory)?;
//! let mut row = [0.0; 32];
//! Kernels::new()?.dequantize_row(&weights, 1, &mut row)?;
//! assert_eq!(row, [3.0; 32]); // row 1 is the fifth nibble, 4, less a zero point of 1
//! # Ok::<(), gable_kernels::KernelError>(())
//! ```

mod awq;
mod gptq;
mod nbits;

pub use awq::AwqWeights;
pub use gptq::{GptqWeights, GptqZeros};
pub use nbits::NBitsWeights;

use super::{Format, QuantWeights};
use crate::error::KernelError;
use half::f16;

/// Values of a block.
const BLOCK: usize = 32;
/// Rows that are written together: as many as share a cache line of AWQ's words.
const TILE: usize = 128;

/// Bytes that a matrix of `n` rows of `k` values becomes; `None` if `k` is no multiple of 32 or the size overflows.
pub fn blocks_len(n: usize, k: usize) -> Option<usize> {
    Format::INT4.row_bytes(k)?.checked_mul(n)
}

/// The scales of groups, in the order of their layout.
#[derive(Debug, Clone, Copy)]
pub enum Scales<'a> {
    /// Kept as they are.
    F16(&'a [f16]),
    /// Rounded to the nearest f16, which is at most `max(2^-11 |scale|, 2^-25)` off. Those beyond f16 are refused.
    F32(&'a [f32]),
}

impl Scales<'_> {
    fn len(&self) -> usize {
        match self {
            Scales::F16(scales) => scales.len(),
            Scales::F32(scales) => scales.len(),
        }
    }

    fn at(&self, i: usize) -> f16 {
        match self {
            Scales::F16(scales) => scales[i],
            Scales::F32(scales) => f16::from_f32(scales[i]),
        }
    }

    fn check(&self, op: &'static str, expected: Option<usize>) -> Result<(), KernelError> {
        check_len(op, "scales.len()", expected, self.len())?;
        let Some(i) = (0..self.len()).find(|i| !self.at(*i).is_finite()) else { return Ok(()) };
        let found = match self {
            Scales::F16(scales) => format!("{} at index {i}", scales[i]),
            Scales::F32(scales) => format!("{} at index {i}", scales[i]),
        };
        Err(KernelError::Value { op, what: "scales", found, allowed: "finite values within f16, +-65504" })
    }
}

fn check_len(
    op: &'static str,
    what: &'static str,
    expected: Option<usize>,
    found: usize,
) -> Result<(), KernelError> {
    match expected {
        Some(expected) if expected == found => Ok(()),
        // What overflows cannot be there.
        _ => Err(KernelError::Shape { op, what, expected: expected.unwrap_or(usize::MAX), found }),
    }
}

/// Extents that a layout has been found to have.
#[derive(Debug, Clone, Copy)]
struct Extents {
    op: &'static str,
    n: usize,
    k: usize,
    group: usize,
}

impl Extents {
    /// Rows of whole blocks, groups of whole blocks; words of eight rows where `words`.
    fn check(&self, words: bool) -> Result<(), KernelError> {
        let &Extents { op, n, k, group } = self;
        let refuse = |what, found: usize, allowed| {
            Err(KernelError::Value { op, what, found: found.to_string(), allowed })
        };
        if !k.is_multiple_of(BLOCK) {
            return Err(KernelError::BlockLength { format: Format::INT4, block: BLOCK, cols: k });
        }
        if group == 0 || !group.is_multiple_of(BLOCK) {
            return refuse("group", group, "multiples of 32");
        }
        if words && !n.is_multiple_of(8) {
            return refuse("n", n, "multiples of 8");
        }
        Ok(())
    }

    /// Groups of a row, the last perhaps a part of one.
    fn groups(&self) -> usize {
        self.k.div_ceil(self.group)
    }
}

/// Where the parts of a value lie in a layout.
trait Layout {
    /// The scale of a row's group.
    fn scale(&self, row: usize, group: usize) -> f16;
    /// The zero point of a row's group.
    fn zero(&self, row: usize, group: usize) -> u8;
    /// The integer of a row's column.
    fn integer(&self, row: usize, k: usize) -> u8;
}

/// Nibble `i` of a word, the lowest first.
fn nibble(word: i32, i: usize) -> u8 {
    (word.cast_unsigned() >> (4 * i)) as u8 & 15
}

/// Writes the blocks of a layout whose every length was checked.
fn write<'o>(
    extents: Extents,
    layout: &impl Layout,
    out: &'o mut [u8],
) -> Result<QuantWeights<'o>, KernelError> {
    let Extents { op, n, k, group } = extents;
    let (block_bytes, row_bytes) =
        (Format::INT4.block_bytes(), Format::INT4.row_bytes(k).unwrap_or(usize::MAX));
    let len = n.saturating_mul(row_bytes);
    if out.len() < len {
        return Err(KernelError::Shape { op, what: "out.len() (at least)", expected: len, found: out.len() });
    }
    for tile in (0..n).step_by(TILE) {
        for from in (0..k).step_by(BLOCK) {
            for row in tile..(tile + TILE).min(n) {
                let block = &mut out[row * row_bytes + from / BLOCK * block_bytes..][..block_bytes];
                let (head, integers) = block.split_at_mut(3);
                let [low, high] = layout.scale(row, from / group).to_le_bytes();
                head.copy_from_slice(&[low, high, layout.zero(row, from / group)]);
                for (i, byte) in integers.iter_mut().enumerate() {
                    *byte = layout.integer(row, from + i) | layout.integer(row, from + 16 + i) << 4;
                }
            }
        }
    }
    QuantWeights::from_bytes(Format::INT4, n, k, row_bytes, &out[..len])
}
