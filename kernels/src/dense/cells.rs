//! From elements to cells: how A and B lie in the memory that tiles read.
//!
//! ```text
//! kind   a cell is          B's panel           A's rows         sums
//! f32    1 f32              [K][NR] f32         f32              f32
//! f16    1 f16              [K][NR] f16         f32              f32    (packed weights only: half the bytes)
//! bf16   2 bf16             [K/2][NR] pairs     pairs            f32
//! u8     4 bytes            [K/4][NR] b + 128   a (u8: a - 128)  i32    where u8 x i8 dot products are exact
//! i16    2 i16              [K/2][NR] pairs     pairs            i32    elsewhere
//! ```
//!
//! With the kind `u8` the tile computes `S = sum (b + 128) a'`, and as every step wraps, the true sum is exact:
//! `sum b a = S - 128 sum a'`, which the tile starts from, plus `128 sum b` if a was unsigned. Cells beyond K hold zeros (of
//! a', that is).

#![allow(unsafe_code)]

use super::element::{ElementType, Source};
use crate::convert::{f16_from_f32_row, f32_from_f16_row};
use crate::quant::to_bf16_row;
use crate::simd::{LANES, Simd};
use std::ops::Range;

/// What the tiles multiply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Cells {
    F32,
    F16,
    Bf16,
    U8,
    I16,
}

impl Cells {
    /// The kind for elements of A and B, if they can be multiplied; `exact_u8`: see [`Simd::DOT_U8_MAX`].
    pub(crate) fn choose(a: ElementType, b: ElementType, packed: bool, exact_u8: bool) -> Option<Self> {
        use ElementType as E;
        match (a, b) {
            (E::F32 | E::F16, E::F16) if packed => Some(Cells::F16),
            (E::F32 | E::F16, E::F32 | E::F16) => Some(Cells::F32),
            (E::F32 | E::Bf16, E::Bf16) => Some(Cells::Bf16),
            (E::I8 | E::U8, E::I8) => Some(if exact_u8 { Cells::U8 } else { Cells::I16 }),
            _ => None,
        }
    }

    /// Elements of K in a cell.
    pub(crate) fn values(self) -> usize {
        match self {
            Cells::F32 | Cells::F16 => 1,
            Cells::Bf16 | Cells::I16 => 2,
            Cells::U8 => 4,
        }
    }

    /// Bytes that a column's cell takes in a panel.
    pub(crate) fn panel_bytes(self) -> usize {
        if self == Cells::F16 { 2 } else { 4 }
    }

    /// In plans.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Cells::F32 => "f32",
            Cells::F16 => "f16",
            Cells::Bf16 => "bf16",
            Cells::U8 => "u8",
            Cells::I16 => "i16",
        }
    }

    pub(crate) fn is_integer(self) -> bool {
        matches!(self, Cells::U8 | Cells::I16)
    }
}

/// Columns of the widest panel of any table.
pub(crate) const MAX_NR: usize = 64;
/// Most cells of K in a block: A's rows of a block and B's panel of it stay in the caches while a tile runs along them.
pub(crate) const BLOCK: usize = 512;
/// Cells from one packed row of A to the next: not a multiple of 4 KiB, so that the rows of a tile do not fall into the
/// same lines of the first-level cache.
pub(crate) const A_STRIDE: usize = BLOCK + 16;

/// K, in blocks of nearly equal length.
#[derive(Debug, Clone, Copy)]
pub(crate) struct KBlocks {
    pub(crate) k: usize,
    pub(crate) cells: usize,
    values: usize,
    block: usize,
}

impl KBlocks {
    pub(crate) fn new(k: usize, kind: Cells) -> Self {
        let cells = k.div_ceil(kind.values());
        let block = cells.div_ceil(cells.div_ceil(BLOCK).max(1)).next_multiple_of(LANES).max(LANES);
        KBlocks { k, cells, values: kind.values(), block }
    }

    pub(crate) fn count(&self) -> usize {
        self.cells.div_ceil(self.block)
    }

    /// Most elements of K in a block.
    pub(crate) fn longest(&self) -> usize {
        self.block.saturating_mul(self.values).min(self.k)
    }

    /// Cells of block `i`.
    #[inline(always)]
    pub(crate) fn cells(&self, i: usize) -> Range<usize> {
        i * self.block..((i + 1) * self.block).min(self.cells)
    }

    /// Elements of K in some cells.
    #[inline(always)]
    fn elements(&self, cells: &Range<usize>) -> Range<usize> {
        cells.start * self.values..(cells.end * self.values).min(self.k)
    }
}

/// Fills `cells` with the elements of K in some cells of a row of a matrix whose rows run along K; the rest with zeros.
/// `flip` changes the top bit of bytes: signed to unsigned, or back.
#[inline(always)]
fn fill<S: Simd>(
    s: S,
    kind: Cells,
    source: &Source<'_>,
    row: usize,
    k: Range<usize>,
    flip: bool,
    cells: &mut [u32],
) {
    let bytes = source.elements(row, k.start, k.end);
    let out: &mut [u8] = bytemuck::cast_slice_mut(cells);
    match (kind, source.element) {
        (Cells::F32 | Cells::F16, ElementType::F16) => {
            f32_from_f16_row(
                s,
                bytemuck::cast_slice(bytes),
                bytemuck::cast_slice_mut(&mut out[..4 * k.len()]),
            );
            out[4 * k.len()..].fill(0);
        }
        (Cells::Bf16, ElementType::F32) => {
            to_bf16_row(s, bytemuck::cast_slice(bytes), bytemuck::cast_slice_mut(&mut out[..2 * k.len()]));
            out[2 * k.len()..].fill(0);
        }
        (Cells::I16, element) => {
            let out: &mut [i16] = bytemuck::cast_slice_mut(out);
            if element == ElementType::U8 {
                bytes.iter().zip(&mut *out).for_each(|(b, o)| *o = i16::from(*b));
            } else {
                bytes.iter().zip(&mut *out).for_each(|(b, o)| *o = i16::from(b.cast_signed()));
            }
            out[k.len()..].fill(0);
        }
        (Cells::U8, _) if flip => {
            bytes.iter().zip(&mut *out).for_each(|(b, o)| *o = b ^ 0x80);
            out[bytes.len()..].fill(0);
        }
        _ => {
            out[..bytes.len()].copy_from_slice(bytes);
            out[bytes.len()..].fill(0);
        }
    }
}

/// Rows of A to be made into cells.
pub(crate) struct PackRows<'a> {
    pub(crate) source: Source<'a>,
    pub(crate) kind: Cells,
    pub(crate) k: KBlocks,
    /// The first row of the source.
    pub(crate) first: usize,
    /// Rows in the packed block.
    pub(crate) rows: usize,
}

/// Packed rows of A: `[blocks of K][rows][A_STRIDE]`, and what each row sums to (of a', integers only).
#[derive(Clone, Copy)]
pub(crate) struct PackedRows {
    pub(crate) cells: *mut u32,
    pub(crate) sums: *mut i32,
}

// SAFETY: what is written through it is settled by `pack_rows`' contract.
unsafe impl Send for PackedRows {}
// SAFETY: as above.
unsafe impl Sync for PackedRows {}

/// Leaf: packs some of the rows.
///
/// `out` holds `count() * rows * A_STRIDE` cells and `rows` sums; rows of different calls are disjoint: the caller's
/// promise, as for all leaves.
#[inline(always)]
pub(crate) fn pack_rows<S: Simd>(s: S, job: &PackRows<'_>, rows: Range<usize>, out: PackedRows) {
    assert!(rows.end <= job.rows);
    let flip = job.source.element == ElementType::U8;
    for row in rows {
        let mut sum = 0_i32;
        for block in 0..job.k.count() {
            let cells = job.k.cells(block);
            let k = job.k.elements(&cells);
            // SAFETY: the row's cells of this block, which nobody else uses (see above).
            let out = unsafe {
                let start = out.cells.add((block * job.rows + row) * A_STRIDE);
                std::slice::from_raw_parts_mut(start, cells.len())
            };
            fill(s, job.kind, &job.source, job.first + row, k.clone(), flip, out);
            match job.kind {
                Cells::U8 => {
                    let values: &[i8] = &bytemuck::cast_slice(out)[..k.len()];
                    sum = values.iter().fold(sum, |sum, x| sum.wrapping_add(i32::from(*x)));
                }
                Cells::I16 => {
                    let values: &[i16] = &bytemuck::cast_slice(out)[..k.len()];
                    sum = values.iter().fold(sum, |sum, x| sum.wrapping_add(i32::from(*x)));
                }
                _ => {}
            }
        }
        // SAFETY: the row's own.
        unsafe { *out.sums.add(row) = sum };
    }
}

/// B as the caller has it.
#[derive(Clone, Copy)]
pub(crate) struct Columns<'a> {
    pub(crate) source: Source<'a>,
    /// The source's rows are B's columns.
    pub(crate) transposed: bool,
}

/// Packs the columns `first..first + nr` (zeros beyond the last) of some cells: `panel[cell][column]`; adds what the
/// integers of each column sum to to `sums`.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
pub(crate) fn pack_panel<S: Simd>(
    s: S,
    kind: Cells,
    b: &Columns<'_>,
    k: &KBlocks,
    cells: Range<usize>,
    first: usize,
    panel: &mut [u8],
    sums: &mut [i32],
) {
    let nr = sums.len();
    assert!(nr.is_multiple_of(LANES) && panel.len() >= cells.len() * nr * kind.panel_bytes());
    if b.transposed {
        transposed_panel(s, kind, &b.source, k, cells.clone(), first, panel, nr);
    } else {
        straight_panel(s, kind, &b.source, k, cells.clone(), first, panel, nr);
    }
    if !kind.is_integer() {
        return;
    }
    // What was added to every b, for each cell.
    let offset = if kind == Cells::U8 { -4 * 128 * cells.len() as i32 } else { 0 };
    for group in (0..nr).step_by(LANES) {
        // SAFETY: 16 sums; `cells` rows of the panel, each with 16 cells from `group` on.
        unsafe {
            let sums = sums[group..][..LANES].as_mut_ptr();
            let mut sum = s.add_i32(s.load_i32(sums), s.splat_i32(offset));
            for cell in 0..cells.len() {
                let w = s.load_bytes(panel.as_ptr().add(4 * (cell * nr + group)));
                sum = match kind {
                    Cells::U8 => s.dot_u8i8(sum, w, s.splat_cell(0x0101_0101)),
                    _ => s.dot_i16(sum, w, s.splat_cell(0x0001_0001)),
                };
            }
            s.store_i32(sums, sum);
        }
    }
}

/// Asks for some elements of a row that will be packed soon: rows are far apart, so no hardware expects them.
#[inline(always)]
fn prefetch<S: Simd>(s: S, source: &Source<'_>, row: usize, elements: Range<usize>) {
    if row < source.rows {
        let bytes = source.elements(row, elements.start.min(elements.end), elements.end);
        for line in (0..bytes.len()).step_by(64) {
            s.prefetch(bytes[line..].as_ptr());
        }
    }
}

/// Rows that are asked for before they are packed.
const ROWS_AHEAD: usize = 24;
/// Cells of sixteen columns that are transposed at a time.
const STEP: usize = 64;

/// From rows that run along K, by transposing 16 x 16 cells at a time.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn transposed_panel<S: Simd>(
    s: S,
    kind: Cells,
    source: &Source<'_>,
    k: &KBlocks,
    cells: Range<usize>,
    first: usize,
    panel: &mut [u8],
    nr: usize,
) {
    let unsigned = if kind == Cells::U8 { 0x8080_8080 } else { 0 };
    for group in (0..nr).step_by(LANES) {
        for from in cells.clone().step_by(STEP) {
            let some = from..(from + STEP).min(cells.end);
            let mut rows = [[unsigned; STEP]; LANES];
            let present = source.rows.saturating_sub(first + group).min(LANES);
            for (i, row) in rows.iter_mut().enumerate().take(present) {
                let next = k.elements(&(some.end..(some.end + STEP).min(k.cells)));
                prefetch(s, source, first + group + i, next);
                fill(s, kind, source, first + group + i, k.elements(&some), false, row);
                if kind == Cells::U8 {
                    row.iter_mut().for_each(|cell| *cell ^= unsigned);
                }
            }
            for at in (0..some.len()).step_by(LANES) {
                let to = from - cells.start + at;
                let mut block = [[0_u32; LANES]; LANES];
                // SAFETY: 16 rows of 64 cells on one side, 16 of 16 on the other.
                unsafe {
                    s.transpose(rows.as_ptr().cast::<u32>().add(at), STEP, block.as_mut_ptr().cast(), LANES)
                };
                for (i, row) in block.iter().enumerate().take((some.len() - at).min(LANES)) {
                    store_cells(s, kind, row, &mut panel[((to + i) * nr + group) * kind.panel_bytes()..]);
                }
            }
        }
    }
}

/// Sixteen cells of a row of the panel.
#[inline(always)]
fn store_cells<S: Simd>(s: S, kind: Cells, cells: &[u32; LANES], out: &mut [u8]) {
    if kind == Cells::F16 {
        let out: &mut [u16] = bytemuck::cast_slice_mut(&mut out[..2 * LANES]);
        f16_from_f32_row(s, bytemuck::cast_slice(cells), out);
    } else {
        out[..4 * LANES].copy_from_slice(bytemuck::cast_slice(cells));
    }
}

/// From rows that run along N: rows of the source become rows of the panel, a few of them a row of cells.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn straight_panel<S: Simd>(
    s: S,
    kind: Cells,
    source: &Source<'_>,
    k: &KBlocks,
    cells: Range<usize>,
    first: usize,
    panel: &mut [u8],
    nr: usize,
) {
    let width = source.cols.saturating_sub(first).min(nr);
    let values = kind.values();
    // Stands for the rows beyond K.
    let none = [0_u8; 4 * MAX_NR];
    for cell in cells.clone() {
        let row = |i: usize| {
            let row = cell * values + i;
            if row < k.k {
                source.elements(row, first, first + width)
            } else {
                &none[..width * source.element.bytes()]
            }
        };
        for i in 0..values {
            prefetch(s, source, (cell + ROWS_AHEAD) * values + i, first..first + width);
        }
        let out = &mut panel[(cell - cells.start) * nr * kind.panel_bytes()..][..nr * kind.panel_bytes()];
        match (kind, source.element) {
            (Cells::F32, ElementType::F16) => {
                let out: &mut [f32] = bytemuck::cast_slice_mut(out);
                f32_from_f16_row(s, bytemuck::cast_slice(row(0)), &mut out[..width]);
                out[width..].fill(0.0);
            }
            (Cells::F32 | Cells::F16, _) => {
                let bytes = row(0);
                out[..bytes.len()].copy_from_slice(bytes);
                out[bytes.len()..].fill(0);
            }
            (Cells::Bf16, _) => {
                let (a, b): (&[u16], &[u16]) = (bytemuck::cast_slice(row(0)), bytemuck::cast_slice(row(1)));
                let out: &mut [u32] = bytemuck::cast_slice_mut(out);
                for ((out, a), b) in out.iter_mut().zip(a).zip(b) {
                    *out = u32::from(*a) | u32::from(*b) << 16;
                }
                out[width..].fill(0);
            }
            (Cells::I16, _) => {
                let (a, b) = (row(0), row(1));
                let out: &mut [u32] = bytemuck::cast_slice_mut(out);
                for ((out, a), b) in out.iter_mut().zip(a).zip(b) {
                    let [a, b] = [a, b].map(|x| i16::from(x.cast_signed()).to_le_bytes());
                    *out = u32::from_le_bytes([a[0], a[1], b[0], b[1]]);
                }
                out[width..].fill(0);
            }
            (Cells::U8, _) => {
                let (a, b, c, d) = (row(0), row(1), row(2), row(3));
                let out: &mut [u32] = bytemuck::cast_slice_mut(out);
                for ((((out, a), b), c), d) in out.iter_mut().zip(a).zip(b).zip(c).zip(d) {
                    *out = u32::from_le_bytes([*a, *b, *c, *d]) ^ 0x8080_8080;
                }
                out[width..].fill(0x8080_8080);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_of_k_are_nearly_equal_whole_and_short_enough() {
        for kind in [Cells::F32, Cells::Bf16, Cells::U8] {
            for k in [0, 1, 3, 16, 511, 512, 513, 576, 1024, 1500, 4096, 11008] {
                let blocks = KBlocks::new(k, kind);
                let mut next = 0;
                for i in 0..blocks.count() {
                    let cells = blocks.cells(i);
                    assert!(cells.start == next && !cells.is_empty() && cells.len() <= BLOCK);
                    next = cells.end;
                }
                assert_eq!(next, k.div_ceil(kind.values()));
            }
        }
    }
}
