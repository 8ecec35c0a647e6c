//! Panels of blocks: chunks of weight rows unpacked for the int8 tile.
//!
//! ```text
//! for each 16 of NR weight rows:
//!     for each span of 256 values:        each row's integers and scales as decoding reads them
//!         cells, scales, minima           across the rows: four columns at a time
//! ```

#![allow(unsafe_code)]

use super::microkernel::{Int8Panel, TileKind};
use crate::quant::blocks::{Block, SPAN, STRIPE};
use crate::quant::{QuantWeights, half_group_at};
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
    span: Span,
}

/// A span of sixteen weight rows, row by row.
#[repr(C)]
struct Span {
    /// As [`Block::stripe`] gives them.
    stripes: [[u8; SPAN]; LANES],
    /// Sub-blocks of 32: eight scales, eight minima; of 16: scales.
    scale: [[f32; LANES]; LANES],
    /// Sub-blocks of 16.
    min: [[f32; LANES]; LANES],
}

impl Panel {
    #[inline(always)]
    pub(super) fn new() -> Self {
        // A panel is made for every part of a product: the chunk is left as it is until it is unpacked.
        let scales = [MaybeUninit::uninit(); CHUNK_VALUES / 16 * MAX_INT8_NR];
        let of_rows = [[0.0; LANES]; LANES];
        let span = Span { stripes: [[0; SPAN]; LANES], scale: of_rows, min: of_rows };
        let cells = [MaybeUninit::uninit(); CHUNK_VALUES * MAX_INT8_NR];
        Panel { cells, scale: scales, min: scales, span }
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

    /// Unpacks some values of the `nr` weight rows from `first` on. For rows beyond the last stands what was there before.
    ///
    /// Asks for what is unpacked next, which rests while this chunk is multiplied: the rows' next chunk, or behind the last
    /// one the next panel's first. (Measured, 8 rows of x, weights from memory: 92 GOP/s without asking, 158 with.)
    #[inline(always)]
    pub(super) fn unpack<S: Simd, B: Block>(
        &mut self,
        s: S,
        weights: &QuantWeights<'_>,
        (first, nr): (usize, usize),
        chunk: Range<usize>,
    ) {
        let bytes = |values: usize| values / B::FORMAT.block_len() * B::FORMAT.block_bytes();
        let ahead = if chunk.end < weights.cols() {
            bytes(chunk.len())
        } else {
            (nr * weights.row_stride()).wrapping_sub(bytes(chunk.start))
        };
        for column in (0..nr).step_by(LANES) {
            let rows = first + column..(first + column + LANES).min(weights.rows());
            for value in chunk.clone().step_by(SPAN) {
                let groups = (chunk.end - value) / 32;
                let at = value - chunk.start;
                let rows = rows.clone().map(|row| weights.row(row).as_ptr().wrapping_add(bytes(value)));
                // SAFETY: the rows' spans begin with a block and have these groups; so has the chunk. The number is known while
                // compiling for all but a row's last span.
                unsafe {
                    if groups >= SPAN / 32 {
                        self.span.read::<S, B>(s, rows, SPAN / 32, ahead);
                        self.deal::<S, B>(s, at, SPAN / 32, nr, column);
                    } else {
                        self.span.read::<S, B>(s, rows, groups, ahead);
                        self.deal::<S, B>(s, at, groups, nr, column);
                    }
                }
            }
        }
    }

    /// Puts `groups` groups of the span into the panel, the first with value `value` of the chunk, the rows from column
    /// `column` on.
    ///
    /// # Safety
    /// The chunk must have these groups.
    #[inline(always)]
    unsafe fn deal<S: Simd, B: Block>(
        &mut self,
        s: S,
        value: usize,
        groups: usize,
        nr: usize,
        column: usize,
    ) {
        let Span { stripes, scale, min } = &self.span;
        // SAFETY: the panel has room for a chunk's cells and sub-blocks, the span for eight groups.
        unsafe {
            let parts = KindOf::<S, B>::PARTS;
            let cells = self.cells.as_mut_ptr().cast::<u32>().add(parts * (value / 4 * nr + column));
            for g in 0..groups {
                for half in 0..2 {
                    let src = stripes.as_ptr().cast::<u8>().add(half_group_at(g, half)).cast();
                    let dst = cells.add(parts * (8 * g + 4 * half) * nr);
                    s.transpose_columns(src, SPAN / 4, dst, parts * nr);
                }
                if KindOf::<S, B>::SPLIT {
                    const { assert!(!B::SIGNED || B::SUB == 32) };
                    let mut negative = s.splat_i32(0);
                    for cell in 0..8 {
                        let at = cells.add(2 * (8 * g + cell) * nr).cast::<u8>();
                        let split = s.split_i8(s.load_bytes(at));
                        negative = s.add_negative(negative, split);
                        s.store_bytes(at, split[0]);
                        s.store_bytes(at.add(64), split[1]);
                    }
                    let at = (value / 32 + g) * nr + column;
                    s.store_i32(self.min.as_mut_ptr().add(at).cast(), negative);
                }
            }
            let at = value / B::SUB * nr + column;
            let to_scale = self.scale.as_mut_ptr().add(at).cast::<u32>();
            let to_min = self.min.as_mut_ptr().add(at).cast::<u32>();
            let scale = scale.as_ptr().cast::<u32>();
            let min = if B::SUB == 16 { min.as_ptr().cast() } else { scale.add(SPAN / 32) };
            // Up to three sub-blocks too many, for which there is room behind a chunk of less than 640 values.
            for sub in (0..groups * 32 / B::SUB).step_by(4) {
                s.transpose_columns(scale.add(sub), LANES, to_scale.add(sub * nr), nr);
                if B::HAS_MIN {
                    s.transpose_columns(min.add(sub), LANES, to_min.add(sub * nr), nr);
                }
            }
        }
    }
}

impl Span {
    /// Reads the first `groups` groups of 32 at each of these places, and asks for the span that lies `ahead` bytes further.
    ///
    /// # Safety
    /// At most sixteen places; blocks with the groups must be readable there.
    #[inline(always)]
    unsafe fn read<S: Simd, B: Block>(
        &mut self,
        s: S,
        rows: impl Iterator<Item = *const u8>,
        groups: usize,
        ahead: usize,
    ) {
        const LINE: usize = 64;
        let bytes = SPAN * B::FORMAT.block_bytes() / B::FORMAT.block_len();
        let unsigned = s.splat_cell(if B::SIGNED && S::DOT_U8_MAX == 255 { 0x8080_8080 } else { 0 });
        for (i, row) in rows.enumerate() {
            for line in (0..bytes).step_by(LINE) {
                s.prefetch_far(row.wrapping_add(ahead + line));
            }
            // SAFETY: the caller's promise; the arrays have room for sixteen spans.
            unsafe {
                if B::SUB == 16 {
                    let w = B::scales(s, row, 0, 2 * groups);
                    s.store(self.scale[i].as_mut_ptr(), w.scale);
                    s.store(self.min[i].as_mut_ptr(), w.min);
                } else {
                    s.store(self.scale[i].as_mut_ptr(), B::span_scales(s, row, 0, groups));
                }
                for stripe in 0..2 {
                    if groups <= 4 * stripe {
                        break;
                    }
                    let vectors = B::stripe(s, row, stripe * STRIPE, (groups - 4 * stripe).min(4));
                    let dst = self.stripes[i].as_mut_ptr().add(stripe * STRIPE);
                    for half in 0..2 {
                        s.store_bytes(dst.add(64 * half), s.xor(vectors[half], unsigned));
                    }
                }
            }
        }
    }
}
