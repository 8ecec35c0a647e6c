//! How the block formats are read: small integers by the vector, scales by the sixteen.
//!
//! A row is a sequence of *sub-blocks* that share one scale: 32 values, or 16 in Q2_K, Q3_K and Q6_K. Leaves walk a row in
//! *chunks* of 16 sub-blocks, so that the scales of a chunk are one vector, and inside a chunk in *steps* of 64
//! values, so that the integers of a step are one vector. Everything that multiplies with blocks, unpacks them
//! into panels or dequantizes them is written once over [`Block`].
//!
//! ```text
//! Q4_1   | d m | 16 bytes: value i in the low, value i + 16 in the high nibble of byte i |          w = d q + m
//! Q5_1   | d m | 32 high bits | 16 bytes as above |                                                 w = d q + m
//! Q8_0   | d | 32 signed bytes |                                                                    w = d q
//! Q4_K   | d dmin | 12 bytes: 8 scales, 8 mins of 6 bits | 4 x 32 bytes: sub-blocks 2c and 2c+1 |   w = d s q - dmin m
//! Q5_K   | d dmin | 12 bytes | 32 bytes: bit b is the fifth bit in sub-block b | 4 x 32 bytes |     w = d s q - dmin m
//! Q6_K   | 128 bytes low nibbles | 64 bytes upper two bits | 16 signed scales | d |                 w = d s (q - 32)
//! Q2_K   | 16 bytes: scale and min of 4 bits | 64 bytes of four 2-bit integers | d dmin |            w = d s q - dmin m
//! Q3_K   | 32 bytes of third bits | 64 bytes as in Q2_K | 12 bytes: 16 scales of 6 bits | d |      w = d s (q - 4)
//! IQ4_NL | d | 16 bytes as in Q4_1 |                                                               w = d t[q]
//! IQ4_XS | d | 16 bits, 4 bytes: 8 scales of 6 bits | 8 x 16 bytes as in Q4_1 |                    w = d s t[q]
//! INT4   | d | z | 16 bytes as in Q4_1 |                                                           w = d (q - z)
//! ```
//!
//! Q4_0 and Q5_0 are as Q4_1 and Q5_1 without `m`, with `w = d (q - 8)` and `w = d (q - 16)`.

#![allow(unsafe_code)]

mod int4;
mod k_quants;
mod legacy;
mod low_bits;
mod nonlinear;

pub(crate) use int4::INT4;
pub(crate) use k_quants::{Q4_K, Q5_K, Q6_K};
pub(crate) use legacy::{Q4_0, Q4_1, Q5_0, Q5_1, Q8_0};
pub(crate) use low_bits::{Q2_K, Q3_K};
pub(crate) use nonlinear::{IQ4_NL, IQ4_XS};

use super::Format;
use crate::simd::{LANES, Simd};

/// Sub-blocks per chunk: one vector of scales.
pub(crate) const CHUNK_SUBS: usize = LANES;
/// Values per step: one vector of bytes.
pub(crate) const STEP: usize = 64;
/// Values per stripe: four groups of 32.
pub(crate) const STRIPE: usize = 128;
/// Values whose scales decoding makes at once: two stripes, eight groups of 32.
pub(crate) const SPAN: usize = 256;

/// The first blocks of sixteen rows.
pub(crate) type Rows = [*const u8; LANES];

/// Scales and minima of up to 16 sub-blocks, or of one in sixteen rows: `w = scale * q + min`, where absent sub-blocks have
/// zeros.
#[derive(Clone, Copy)]
pub(crate) struct Scales<S: Simd> {
    /// Multiplies the integers, after [`Block::OFFSET`] was taken off.
    pub(crate) scale: S::F32,
    /// Is added; zero where the format has no minimum.
    pub(crate) min: S::F32,
}

/// A block format as the leaves read it.
///
/// `row` always points to the first block of a row of whole blocks, `sub` and `value` are indexes within the row.
pub(crate) trait Block {
    /// The format this is.
    const FORMAT: Format;
    /// Values that share a scale.
    const SUB: usize;
    /// The largest integer, read as an unsigned byte.
    const MAX: u8 = u8::MAX;
    /// What is subtracted from every unsigned integer.
    const OFFSET: u8 = 0;
    /// Whether the integers are signed bytes.
    const SIGNED: bool = false;
    /// Whether there is a minimum.
    const HAS_MIN: bool;
    /// How many half groups of 16 values lie between two that are in the same bytes: see [`Block::half_groups`].
    const APART: usize = 1;

    /// Scales of the `n <= 16` sub-blocks from `sub`, the first of a block.
    ///
    /// # Safety
    /// The sub-blocks must lie within the row.
    unsafe fn scales<S: Simd>(s: S, row: *const u8, sub: usize, n: usize) -> Scales<S>;

    /// The integers of the 64 values from `value`, a multiple of 64. If `half`, only the first 32 are of the row;
    /// the others are any finite integers.
    ///
    /// # Safety
    /// The values (the first 32 of them if `half`) must lie within the row.
    unsafe fn bytes<S: Simd>(s: S, row: *const u8, value: usize, half: bool) -> S::Bytes;

    /// The integers of the stripe from `value`, a multiple of 128, of which the row has `groups` of 32 (1 to 4; the others
    /// are any finite integers): quarter i of the first vector holds the first 16 values of the stripe's i-th group,
    /// quarter i of the second the other 16, so that no lane mixes groups. Activations lie in the same order.
    ///
    /// # Safety
    /// These groups must lie within the row.
    unsafe fn stripe<S: Simd>(s: S, row: *const u8, value: usize, groups: usize) -> [S::Bytes; 2];

    /// Scales of the eight groups of 32 from `value`, a multiple of 256, in lanes 0..8, their minima in lanes 8..16; zeros
    /// for those beyond the row's `groups` from there (1 to 8). Not for formats with sub-blocks of 16.
    ///
    /// # Safety
    /// These groups must lie within the row.
    #[inline(always)]
    unsafe fn span_scales<S: Simd>(s: S, row: *const u8, value: usize, groups: usize) -> S::F32 {
        let mut lanes = [0.0_f32; LANES + 8];
        // SAFETY: the caller's promise; the minima overwrite the upper lanes of the scales, which are zeros.
        unsafe {
            let of_groups = Self::scales(s, row, value / 32, groups);
            s.store(lanes.as_mut_ptr(), of_groups.scale);
            s.store(lanes.as_mut_ptr().add(8), of_groups.min);
            s.load(lanes.as_ptr())
        }
    }

    /// The integers of two half groups, sixteen rows at once: cell j of all rows in vector j. Of the sixteen half groups from
    /// `value` on, a multiple of 256, these are [`first_half`] of `i` (0 to 7) and the one [`Block::APART`] behind it.
    ///
    /// What lies across the rows is put into order while it is packed, so that a vector is taken apart and not sixteen.
    ///
    /// # Safety
    /// The two half groups must lie within each of the rows.
    unsafe fn half_groups<S: Simd>(s: S, rows: &Rows, value: usize, i: usize) -> [[S::Bytes; 4]; 2];

    /// Scales of the first `n` of four sub-blocks from `sub` on, a multiple of four, of sixteen rows: a row per lane.
    ///
    /// # Safety
    /// The `n <= 4` sub-blocks must lie within each of the rows.
    unsafe fn scales_across<S: Simd>(s: S, rows: &Rows, sub: usize, n: usize) -> [Scales<S>; 4];
}

/// The first of the two half groups that [`Block::half_groups`] gives.
#[inline(always)]
pub(crate) fn first_half<B: Block>(i: usize) -> usize {
    i / B::APART * 2 * B::APART + i % B::APART
}

/// Low and high nibbles.
#[inline(always)]
fn both_nibbles<S: Simd>(s: S, v: [S::Bytes; 4]) -> [[S::Bytes; 4]; 2] {
    let nibble = s.splat_cell(0x0f0f_0f0f);
    let mut both = [v; 2];
    for j in 0..4 {
        both[0][j] = s.and(v[j], nibble);
        both[1][j] = s.and(s.shift_quarters(v[j], [4; 4]), nibble);
    }
    both
}

/// `acc` and byte `i` of every cell, which are at most 127.
#[inline(always)]
fn add_byte<S: Simd>(s: S, acc: S::I32, cells: S::Bytes, i: usize) -> S::I32 {
    s.dot_u8i8(acc, cells, s.splat_cell(1 << (8 * i)))
}

/// The f16 in both halves of every cell.
#[inline(always)]
fn both_f16<S: Simd>(s: S, cells: S::Bytes) -> [S::F32; 2] {
    [s.widen_f16(cells), s.widen_f16(s.shift_quarters(cells, [16; 4]))]
}

/// [`Block::stripe`] from what every format has: for the end of a row.
///
/// # Safety
/// As there.
#[inline(always)]
unsafe fn dealt_stripe<S: Simd, B: Block>(
    s: S,
    row: *const u8,
    value: usize,
    groups: usize,
) -> [S::Bytes; 2] {
    // SAFETY: the caller's promise.
    unsafe {
        let low = B::bytes(s, row, value, groups == 1);
        let high = if groups > 2 { B::bytes(s, row, value + STEP, groups == 3) } else { low };
        s.deal_quarters(low, high)
    }
}

/// All lanes the f16 at `p`.
///
/// # Safety
/// `p` must be readable for 2 bytes.
#[inline(always)]
unsafe fn splat_f16<S: Simd>(s: S, p: *const u8) -> S::F32 {
    // SAFETY: the caller's promise; the array holds 16 elements.
    unsafe { s.load_f16([p.cast::<u16>().read_unaligned(); LANES].as_ptr()) }
}
