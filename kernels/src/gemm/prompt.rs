//! The prompt leaf: weight panels are unpacked into the cache once and multiplied with all rows of activations.
//!
//! ```text
//! for each panel of NR weight rows:
//!     for each chunk of k:                        all of it up to 640 values, else 512
//!         unpack the panel's chunk                on-file blocks -> cells and scales, in the stack (L1)
//!         for each MR rows of x:                  streamed from L2
//!             tile: out[MR, NR] += x panel        out stays in memory between chunks
//! ```

#![allow(unsafe_code)]

use super::microkernel::{
    self, Cell, CellPanel, Int8Panel, Int8Rows, MAX_MR, TileC, TileKind, for_mr, pair_steps, tile_cells,
    tile_int8,
};
use super::panel::{CHUNK_VALUES, KindOf, MAX_INT8_NR, Panel, ask_ahead};
use super::{Job, Path};
use crate::matrix::MatMut;
use crate::mutant::mutant;
use crate::quant::blocks::{self, Block, SPAN};
use crate::quant::{Format, GROUP, Groups, dequantize_row};
use crate::simd::{LANES, Simd};
use std::ops::Range;

/// Cells of k per unpacked chunk, floats.
const CHUNK_CELLS: usize = 256;
/// Into how many pieces of the first tiles what is unpacked next is asked for.
const ASKS: usize = 8;
/// The widest panels of any table.
pub(super) const MAX_CELL_NR: usize = 64;

/// Leaf: one part of a matmul in prompt order, with tiles of `MR x NV` (floats) and `QMR x QNV` (int8).
#[inline(always)]
pub(crate) fn prompt<S: Simd, const MR: usize, const NV: usize, const QMR: usize, const QNV: usize>(
    s: S,
    job: &Job<'_>,
    out: &mut MatMut<'_>,
) {
    if job.x.k() == 0 || (job.accumulate && job.bias.is_some()) {
        for i in 0..out.rows() {
            job.start_row(out.row_mut(i));
        }
    }
    match (job.path, job.weights.format()) {
        (Path::Int8, Format::Q4_0) => int8::<S, blocks::Q4_0, QMR, QNV>(s, job, out),
        (Path::Int8, Format::Q4_1) => int8::<S, blocks::Q4_1, QMR, QNV>(s, job, out),
        (Path::Int8, Format::Q5_0) => int8::<S, blocks::Q5_0, QMR, QNV>(s, job, out),
        (Path::Int8, Format::Q5_1) => int8::<S, blocks::Q5_1, QMR, QNV>(s, job, out),
        (Path::Int8, Format::Q8_0) => int8::<S, blocks::Q8_0, QMR, QNV>(s, job, out),
        (Path::Int8, Format::Q4_K) => int8::<S, blocks::Q4_K, QMR, QNV>(s, job, out),
        (Path::Int8, Format::Q5_K) => int8::<S, blocks::Q5_K, QMR, QNV>(s, job, out),
        (Path::Int8, Format::Q6_K) => int8::<S, blocks::Q6_K, QMR, QNV>(s, job, out),
        (Path::Int8, Format::Q2_K) => int8::<S, blocks::Q2_K, QMR, QNV>(s, job, out),
        (Path::Int8, Format::Q3_K) => int8::<S, blocks::Q3_K, QMR, QNV>(s, job, out),
        (Path::Int8, Format::IQ4_NL) => int8::<S, blocks::IQ4_NL, QMR, QNV>(s, job, out),
        (Path::Int8, Format::IQ4_XS) => int8::<S, blocks::IQ4_XS, QMR, QNV>(s, job, out),
        (Path::Int8, Format::INT4) => int8::<S, blocks::INT4, QMR, QNV>(s, job, out),
        (Path::Bf16, _) => cells::<S, microkernel::Bf16, true, MR, NV>(s, job, out),
        (Path::F32 | Path::Int8, _) => cells::<S, microkernel::F32, false, MR, NV>(s, job, out),
    }
}

/// What a panel's tiles add their products to.
struct Start {
    /// The panel's biases, or zeros.
    row: [f32; MAX_CELL_NR],
    /// The first chunk continues what is in `out`, as the other chunks do.
    continues: bool,
}

impl Start {
    #[inline(always)]
    fn new(job: &Job<'_>, cols: Range<usize>) -> Self {
        let mut row = [0.0; MAX_CELL_NR];
        if let Some(bias) = job.bias {
            row[..cols.len()].copy_from_slice(&bias[cols]);
        }
        Start { row, continues: job.accumulate }
    }
}

/// Room for a tile whose outputs are not where it writes them.
type Copy = [f32; MAX_MR * MAX_CELL_NR];

/// The outputs of a tile that is `nr` wide, in these rows and columns of `out`: in `out` itself or, where the panel has fewer
/// rows than a tile has columns, in `copy`. They begin with `start` where nothing of the product is in `out` yet.
#[inline(always)]
fn open(
    copy: &mut Copy,
    out: &mut MatMut<'_>,
    rows: Range<usize>,
    cols: Range<usize>,
    nr: usize,
    start: Option<&Start>,
) -> TileC {
    let whole = cols.len() == nr;
    let (c, ldc) = if whole {
        (out.row_mut(rows.start)[cols.clone()].as_mut_ptr(), out.stride())
    } else {
        (copy.as_mut_ptr(), nr)
    };
    if let Some(start) = start {
        return TileC { start: start.row.as_ptr(), start_stride: 0, c, ldc };
    }
    if !whole {
        for (i, row) in rows.enumerate() {
            copy[i * nr..][..cols.len()].copy_from_slice(&out.row_mut(row)[cols.clone()]);
        }
    }
    TileC { start: c, start_stride: ldc, c, ldc }
}

/// Puts what [`open`] has placed in `copy` to `out`.
#[inline(always)]
fn close(copy: &Copy, out: &mut MatMut<'_>, rows: Range<usize>, cols: Range<usize>, nr: usize) {
    if cols.len() < nr && !mutant("tile at the edge not written back") {
        for (i, row) in rows.enumerate() {
            out.row_mut(row)[cols.clone()].copy_from_slice(&copy[i * nr..][..cols.len()]);
        }
    }
}

/// A tile in `copy` that holds what is in these rows of `out`.
#[inline(always)]
fn gather(copy: &mut Copy, out: &mut MatMut<'_>, rows: &[u32], cols: Range<usize>, nr: usize) -> TileC {
    for (copy, row) in copy.chunks_exact_mut(nr).zip(rows) {
        copy[..cols.len()].copy_from_slice(&out.row_mut(*row as usize)[cols.clone()]);
    }
    let c = copy.as_mut_ptr();
    TileC { start: c, start_stride: nr, c, ldc: nr }
}

/// Puts it back.
#[inline(always)]
fn scatter(copy: &Copy, out: &mut MatMut<'_>, rows: &[u32], cols: Range<usize>, nr: usize) {
    for (copy, row) in copy.chunks_exact(nr).zip(rows) {
        out.row_mut(*row as usize)[cols.clone()].copy_from_slice(&copy[..cols.len()]);
    }
}

/// Room to unpack a chunk of a panel of cells. All vectors are whole cache lines.
#[repr(C, align(64))]
struct Room {
    /// `[cells][NR]`
    panel: [u32; CHUNK_CELLS * MAX_CELL_NR],
    /// Sixteen weight rows.
    rows: [[u32; CHUNK_CELLS]; LANES],
}

/// Float weights (or blocks in `exact` numerics): panels of f32, or of bf16 pairs.
#[inline(always)]
fn cells<S: Simd, C: Cell<S>, const BF16: bool, const MR: usize, const NV: usize>(
    s: S,
    job: &Job<'_>,
    out: &mut MatMut<'_>,
) {
    let nr = NV * LANES;
    assert!(MR <= MAX_MR && nr <= MAX_CELL_NR);
    // Where bf16 is widened in registers, its halves need the room of two rows.
    let mr = if BF16 && !S::HAS_BF16 { MR.min(4) } else { MR };
    let (n, k) = (job.weights.rows(), job.x.k());
    let per_cell = if BF16 { 2 } else { 1 };
    let mut room = Room { panel: [0; CHUNK_CELLS * MAX_CELL_NR], rows: [[0; CHUNK_CELLS]; LANES] };
    let mut copy: Copy = [0.0; MAX_MR * MAX_CELL_NR];
    for first in (0..n).step_by(nr) {
        let cols = first..(first + nr).min(n);
        let start = Start::new(job, cols.clone());
        for from in (0..k).step_by(CHUNK_CELLS * per_cell) {
            let start = (from == 0 && !start.continues).then_some(&start);
            let to = (from + CHUNK_CELLS * per_cell).min(k);
            unpack_cells::<S, BF16>(s, job, first, nr, from, to, &mut room);
            let panel = CellPanel { cells: room.panel.as_ptr().cast(), len: (to - from).div_ceil(per_cell) };
            for row in (0..out.rows()).step_by(mr) {
                let rows = row..(row + mr).min(out.rows());
                let (a, stride): (*const u32, usize) = if BF16 {
                    (job.x.bf16_row(row)[from..].as_ptr().cast(), job.x.stride() / 2)
                } else {
                    (job.x.f32_row(row)[from..].as_ptr().cast(), job.x.stride())
                };
                let c = open(&mut copy, out, rows.clone(), cols.clone(), nr, start);
                for_mr!(rows.len(), mr, |ROWS| {
                    // SAFETY: rows of x are padded to 64 values and `stride` apart; the panel is as long as it says; the
                    // tile's output holds `rows` rows of NR.
                    unsafe { tile_cells::<S, C, ROWS, NV>(s, panel, a, stride, c) }
                });
                close(&copy, out, rows, cols.clone(), nr);
            }
        }
    }
}

/// Fills `panel[cell][j]` with the cells of weight rows `first..first + nr`; beyond the last row stands what was there.
#[inline(always)]
fn unpack_cells<S: Simd, const BF16: bool>(
    s: S,
    job: &Job<'_>,
    first: usize,
    nr: usize,
    from: usize,
    to: usize,
    Room { panel, rows }: &mut Room,
) {
    let weights = &job.weights;
    let per_cell = if BF16 { 2 } else { 1 };
    let cells = (to - from).div_ceil(per_cell);
    for group in (0..nr).step_by(LANES) {
        for (i, cells) in rows.iter_mut().enumerate() {
            let row = first + group + i;
            if row >= weights.rows() {
                break;
            }
            let bytes = weights.row(row);
            if BF16 {
                let source = bytes[2 * from..2 * to].chunks(4);
                for (cell, source) in cells.iter_mut().zip(source) {
                    *cell = match *source {
                        [a, b, c, d] => u32::from_le_bytes([a, b, c, d]),
                        [a, b, ..] => u32::from_le_bytes([a, b, 0, 0]),
                        _ => 0,
                    };
                }
            } else {
                // SAFETY: from..to is inside the row; 256 cells hold any chunk.
                unsafe {
                    // A chunk begins on a multiple of 256 values, which is a block of every format.
                    let format = weights.format();
                    let row = bytes.as_ptr().add(from / format.block_len() * format.block_bytes());
                    dequantize_row(s, format, row, 0, to - from, cells.as_mut_ptr().cast());
                }
            }
        }
        for cell in (0..cells).step_by(LANES) {
            // SAFETY: 16 rows of 256 cells on one side, `nr` columns of at least `cells` rounded up to 16 on the other.
            unsafe {
                let dst = panel.as_mut_ptr().add(cell * nr + group);
                s.transpose(rows.as_ptr().cast::<u32>().add(cell), CHUNK_CELLS, dst, nr);
            }
        }
    }
}

/// Block-quantized weights against int8 groups.
#[inline(always)]
fn int8<S: Simd, B: Block, const MR: usize, const NV: usize>(s: S, job: &Job<'_>, out: &mut MatMut<'_>) {
    let nr = NV * LANES;
    // The second part of split integers takes the room of a row, as does a second cell.
    let fewer = KindOf::<S, B>::SPLIT || pair_steps::<S, KindOf<S, B>>() == 2;
    let mr = if fewer { MR.min(4) } else { MR };
    assert!(mr <= MAX_MR && KindOf::<S, B>::PARTS * nr <= MAX_INT8_NR);
    let (n, k, rows) = (job.weights.rows(), job.x.k(), out.rows());
    let groups = if B::SUB == 16 { &job.x.by16 } else { &job.x.by32 };
    let chunk = chunk_values(k);
    let mut panel = Panel::new();
    let mut copy: Copy = [0.0; MAX_MR * MAX_CELL_NR];
    for first in (0..n).step_by(nr) {
        let cols = first..(first + nr).min(n);
        let start = Start::new(job, cols.clone());
        for from in (0..k).step_by(chunk) {
            let first_chunk = from == 0 || mutant("every chunk of k starts anew");
            let start = (first_chunk && !start.continues).then_some(&start);
            let to = (from + chunk).min(k);
            panel.unpack::<S, B>(s, &job.weights, (first, nr), from..to);
            let view = panel.view::<B>(to - from);
            let tiles = rows.div_ceil(mr);
            let asking = tiles.clamp(1, ASKS / 2);
            let pieces = (ASKS / asking).min(view.subs);
            for i in 0..tiles {
                let rows = tile_rows(i, rows, mr);
                let a = int8_rows(job, groups, rows.start, from, B::SUB);
                let mut c = open(&mut copy, out, rows.clone(), cols.clone(), nr, start);
                let pieces = if i < asking { pieces } else { 1 };
                for piece in 0..pieces {
                    if i < asking {
                        let share = |ask: usize| ask * nr / (asking * pieces);
                        let ask = i * pieces + piece;
                        ask_ahead::<S, B>(s, job, (first, nr), &(from..to), share(ask)..share(ask + 1));
                    }
                    let [first, end] = [piece, piece + 1].map(|piece| piece * view.subs / pieces);
                    let view = Int8Panel { first, subs: end - first, ..view };
                    for_mr!(rows.len(), mr, |ROWS| {
                        // SAFETY: the rows of x hold k values and k / SUB groups, of which from..to are used; the panel is as long as
                        // it says; the tile's output holds `rows` rows of NR.
                        unsafe { tile_int8::<S, KindOf<S, B>, ROWS, NV>(s, view, a, c) }
                    });
                    c = TileC { start: c.c, start_stride: c.ldc, ..c };
                }
                close(&copy, out, rows, cols.clone(), nr);
            }
            // The second terms lie together, the rows that they are added to need not.
            let remainders = job.x.remainders();
            for i in 0..remainders.len().div_ceil(mr) {
                let rows = tile_rows(i, remainders.len(), mr);
                let a = int8_rows(job, groups, out.rows() + rows.start, from, B::SUB);
                let mut kept = job.x.kept(rows.clone(), from / GROUP..to.div_ceil(GROUP));
                if kept == 0 {
                    continue;
                }
                let c = gather(&mut copy, out, &remainders[rows.clone()], cols.clone(), nr);
                while kept != 0 {
                    // The first groups that are kept, up to the next that are not: most rows have an outlier in a group or two.
                    let start = kept.trailing_zeros();
                    let end = start + (kept >> start).trailing_ones();
                    kept &= u32::MAX.checked_shl(end).unwrap_or(0);
                    let [first, end] = [start, end].map(|group| group as usize * GROUP / B::SUB);
                    let view = Int8Panel { first, subs: end - first, ..view };
                    for_mr!(rows.len(), mr, |ROWS| {
                        // SAFETY: as above, of the rows behind those of x.
                        unsafe { tile_int8::<S, KindOf<S, B>, ROWS, NV>(s, view, a, c) }
                    });
                }
                scatter(&copy, out, &remainders[rows.clone()], cols.clone(), nr);
            }
        }
    }
}

/// Which of `rows` rows tile `i` has, of as few tiles of up to `mr` rows as there can be: as many as any other, or one
/// less, since a tile of few rows waits for its sums.
#[inline(always)]
fn tile_rows(i: usize, rows: usize, mr: usize) -> Range<usize> {
    let tiles = rows.div_ceil(mr);
    i * rows / tiles..(i + 1) * rows / tiles
}

/// Values of k per chunk: all of them where they fit, else whole spans of the activations.
fn chunk_values(k: usize) -> usize {
    if k <= CHUNK_VALUES { CHUNK_VALUES } else { CHUNK_VALUES / SPAN * SPAN }
}

/// Rows of int8 activations from row `row` and value `from` on.
#[inline(always)]
fn int8_rows(job: &Job<'_>, groups: &Groups, row: usize, from: usize, sub: usize) -> Int8Rows {
    Int8Rows {
        q: job.x.i8_row(row)[from..].as_ptr(),
        q_stride: job.x.stride(),
        factors: groups.factors[2 * (row * groups.stride + from / sub)..].as_ptr(),
        sum: groups.sum[row * groups.stride + from / sub..].as_ptr(),
        group_stride: groups.stride,
    }
}
