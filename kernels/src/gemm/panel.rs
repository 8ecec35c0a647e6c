//! Panels of blocks: chunks of weight rows unpacked for the int8 tile.
//!
//! ```text
//! for each 16 of NR weight rows:
//!     for each span of 256 values:
//!         16 bytes of every row       put into order across the rows, then taken apart: a column of cells to a vector
//!         scales, minima              likewise
//! ```
//!
//! Taken apart row by row and put into order afterwards, Q4_K cost twice as many instructions.

#![allow(unsafe_code)]

use super::Job;
use super::microkernel::{Int8Panel, TileKind};
use crate::mutant::mutant;
use crate::quant::QuantWeights;
use crate::quant::blocks::{Block, Rows, SPAN, first_half};
use crate::simd::{LANES, Simd};
use std::mem::MaybeUninit;
use std::ops::Range;

/// Values of k per unpacked chunk at most, int8: with 32 weight rows, scales and minima 25 KiB, which the first-level
/// cache holds beside the rows of x.
pub(super) const CHUNK_VALUES: usize = 640;
/// The widest panels of any table.
pub(super) const MAX_INT8_NR: usize = 32;

/// The tile that fits a block format on a token.
pub(super) struct KindOf<S, B>(std::marker::PhantomData<(S, B)>);

impl<S: Simd, B: Block> TileKind for KindOf<S, B> {
    const SUB: usize = B::SUB;
    const MAX: u8 = B::MAX;
    const HAS_MIN: bool = B::HAS_MIN;
    /// Full-range bytes are made unsigned where the dot product takes them, which the sums put right at no cost.
    const SIGNED: bool = B::SIGNED && S::DOT_U8_MAX < 255;
    const SPLIT: bool = Self::SIGNED && S::SPLITS_I8;
}

/// An unpacked chunk of a panel. All vectors are whole cache lines.
#[repr(C, align(64))]
pub(super) struct Panel {
    /// Four values each, made unsigned where they are signed and the dot product takes them, or else split where that helps.
    cells: [MaybeUninit<u8>; CHUNK_VALUES * MAX_INT8_NR],
    /// Of sub-blocks.
    scale: [MaybeUninit<f32>; CHUNK_VALUES / 16 * MAX_INT8_NR],
    /// Of sub-blocks, where the format has minima; where cells are split, as integers what their products lack.
    min: [MaybeUninit<f32>; CHUNK_VALUES / 16 * MAX_INT8_NR],
}

impl Panel {
    #[inline(always)]
    pub(super) fn new() -> Self {
        // A panel is made for every part of a product: the chunk is left as it is until it is unpacked.
        let scale = [MaybeUninit::uninit(); CHUNK_VALUES / 16 * MAX_INT8_NR];
        let cells = [MaybeUninit::uninit(); CHUNK_VALUES * MAX_INT8_NR];
        Panel { cells, scale, min: scale }
    }

    /// As the tile sees it, when `values` values of k were unpacked.
    #[inline(always)]
    pub(super) fn view<B: Block>(&self, values: usize) -> Int8Panel {
        Int8Panel {
            cells: self.cells.as_ptr().cast(),
            scale: self.scale.as_ptr().cast(),
            min: self.min.as_ptr().cast(),
            negative: self.min.as_ptr().cast(),
            first: 0,
            subs: values / B::SUB,
            cells_per_half: std::hint::black_box(4),
            offset: if B::SIGNED { 128 } else { i32::from(B::OFFSET) },
        }
    }

    /// Unpacks some values of the `nr` weight rows from `first` on. In the places of rows beyond the last stands the last one.
    #[inline(always)]
    pub(super) fn unpack<S: Simd, B: Block>(
        &mut self,
        s: S,
        weights: &QuantWeights<'_>,
        (first, nr): (usize, usize),
        chunk: Range<usize>,
    ) {
        let last = weights.rows() - 1;
        for column in (0..nr).step_by(LANES) {
            let rows = std::array::from_fn(|i| weights.row((first + column + i).min(last)).as_ptr());
            for value in chunk.clone().step_by(SPAN) {
                let groups = (chunk.end - value) / 32;
                let at = value - chunk.start;
                // SAFETY: the rows have these groups, the chunk as well. Their number is known while compiling for all but a
                // row's last span.
                unsafe {
                    if groups >= SPAN / 32 {
                        self.unpack_span::<S, B>(s, &rows, value, SPAN / 32, (at, column, nr));
                    } else {
                        self.unpack_span::<S, B>(s, &rows, value, groups, (at, column, nr));
                    }
                }
            }
        }
    }

    /// Unpacks `groups` groups of sixteen rows from `value` on, to value `at` of the chunk and the panel's columns from
    /// `column` on.
    ///
    /// # Safety
    /// The rows and the chunk must have these groups.
    #[inline(always)]
    unsafe fn unpack_span<S: Simd, B: Block>(
        &mut self,
        s: S,
        rows: &Rows,
        value: usize,
        groups: usize,
        (at, column, nr): (usize, usize, usize),
    ) {
        let parts = KindOf::<S, B>::PARTS;
        let flipped = s.splat_cell(if B::SIGNED && S::DOT_U8_MAX == 255 { 0x8080_8080 } else { 0 });
        // SAFETY: the caller's promise; the panel has room for a chunk's cells and sub-blocks.
        unsafe {
            let cells = self.cells.as_mut_ptr().cast::<u32>().add(parts * (at / 4 * nr + column));
            for i in 0..groups {
                let quads = B::half_groups(s, rows, value, i);
                let first = first_half::<B>(i);
                let mut negative = s.splat_i32(0);
                for q in 0..2 {
                    let q_to = if mutant("half groups of a panel swapped") { 1 - q } else { q };
                    let half = first + q_to * B::APART;
                    for j in 0..4 {
                        let to = cells.add(parts * (4 * half + j) * nr).cast::<u8>();
                        if KindOf::<S, B>::SPLIT {
                            let split = s.split_i8(quads[q][j]);
                            negative = s.add_negative(negative, split);
                            s.store_bytes(to, split[0]);
                            s.store_bytes(to.add(64), split[1]);
                        } else {
                            s.store_bytes(to, s.xor(quads[q][j], flipped));
                        }
                    }
                }
                if KindOf::<S, B>::SPLIT {
                    // The two halves are one group, which is one sub-block.
                    const { assert!(!B::SIGNED || B::SUB == 32 && B::APART == 1) };
                    s.store_i32(self.min.as_mut_ptr().add((at / 32 + i) * nr + column).cast(), negative);
                }
            }
            let subs = groups * 32 / B::SUB;
            for sub in (0..subs).step_by(4) {
                let n = (subs - sub).min(4);
                let scales = B::scales_across(s, rows, value / B::SUB + sub, n);
                let to = (at / B::SUB + sub) * nr + column;
                // Up to three sub-blocks too many, for which there is room behind a chunk of less than 640 values.
                for i in 0..4 {
                    s.store(self.scale.as_mut_ptr().add(to + i * nr).cast(), scales[i].scale);
                    if B::HAS_MIN {
                        s.store(self.min.as_mut_ptr().add(to + i * nr).cast(), scales[i].min);
                    }
                }
            }
        }
    }
}

/// Asks for what is unpacked behind `chunk` of the `nr` weight rows from `first` on, of which it takes the `share`: the rows'
/// next chunk, or the first one of the next panel, which behind the last is that of another part.
///
/// This is for while a tile is multiplied, which waits for no memory. A core fetches about twenty lines at a time and drops what
/// it is asked for beyond them. (Zen 3, this loop by itself in a small program, from memory, ticks to
/// unpack 16 bytes of sixteen rows: 100 to 160 without asking or with 80 lines at once, 30 with 20 lines at a time.)
#[inline(always)]
pub(super) fn ask_ahead<S: Simd, B: Block>(
    s: S,
    job: &Job<'_>,
    (first, nr): (usize, usize),
    chunk: &Range<usize>,
    share: Range<usize>,
) {
    const LINE: usize = 64;
    let weights = &job.weights;
    let (first, from) = if chunk.end < weights.cols() {
        (first, chunk.end)
    } else if first + nr < weights.rows() {
        (first + nr, 0)
    } else {
        (job.next_part, 0)
    };
    let to = (from + chunk.len()).min(weights.cols());
    let bytes = |values: usize| values / B::FORMAT.block_len() * B::FORMAT.block_bytes();
    for row in share {
        let (start, end) =
            (weights.address(first + row, bytes(from)), weights.address(first + row, bytes(to)));
        let mut line = start.map_addr(|at| at & !(LINE - 1));
        while line < end {
            s.prefetch_far(line);
            line = line.wrapping_add(LINE);
        }
    }
}
