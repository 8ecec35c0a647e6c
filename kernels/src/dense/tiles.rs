//! The leaf: one panel of B times some packed rows of A.
//!
//! ```text
//! for each block of K:
//!     the panel's block                       packed weights: where they lie; else packed now, into the thread's scratch
//!     for each MR rows of A:                  streamed from L2 or L3, A_STRIDE apart
//!         tile: sums[MR, NR] += A panel       sums: C itself, or the thread's scratch
//!     after the last block: sums -> C         store.rs
//! ```

#![allow(unsafe_code)]

use super::cells::{A_STRIDE, BLOCK, Cells, Columns, KBlocks, MAX_NR, pack_panel};
use super::element::{ElementType, Target};
use super::store::{Store, store_row};
use crate::gemm::microkernel::{self, Cell, CellPanel, MAX_MR, TileC, for_mr, tile_cells};
use crate::simd::{LANES, Simd};
use std::ops::Range;

/// Where panels come from.
#[derive(Clone, Copy)]
pub(crate) enum Panels<'a> {
    /// Packed beforehand: `[panels][cells][NR]`, each followed by its column sums if they are integers.
    Packed(&'a [u8]),
    /// To be packed block by block.
    Columns(Columns<'a>),
}

/// One product, as the leaf sees it: a block of A's rows with all of B.
pub(crate) struct Job<'a> {
    pub(crate) kind: Cells,
    pub(crate) blocks: KBlocks,
    /// `[blocks][rows][A_STRIDE]`
    pub(crate) a: &'a [u32],
    pub(crate) row_sums: &'a [i32],
    /// Whether A's bytes are unsigned.
    pub(crate) unsigned_a: bool,
    /// Rows in the block of A, and the row of C that the first one makes.
    pub(crate) rows: usize,
    pub(crate) first_row: usize,
    pub(crate) panels: Panels<'a>,
    /// Columns of B.
    pub(crate) n: usize,
    pub(crate) store: &'a Store<'a>,
    pub(crate) out: Target<'a>,
}

impl Job<'_> {
    pub(crate) fn offset_by_128(&self) -> bool {
        self.kind == Cells::U8
    }

    /// What row `row` of C's A sums to, as packed.
    pub(crate) fn row_sum(&self, row: usize) -> i32 {
        self.row_sums[row - self.first_row]
    }

    /// What it sums to.
    pub(crate) fn true_row_sum(&self, row: usize) -> i32 {
        let shifted = self.unsigned_a && self.offset_by_128();
        self.row_sum(row).wrapping_add(if shifted { 128 * self.blocks.k as i32 } else { 0 })
    }
}

/// Bytes of a panel of packed weights, a multiple of a cache line.
pub(crate) fn panel_len(kind: Cells, cells: usize, nr: usize) -> Option<usize> {
    let sums = if kind.is_integer() { 4 * nr } else { 0 };
    cells.checked_mul(nr * kind.panel_bytes())?.checked_add(sums)?.checked_next_multiple_of(64)
}

/// Elements of a thread's scratch: a panel's block, unless B is packed, and the sums of `rows` rows.
pub(crate) fn scratch_len(packed: bool, rows: usize, nr: usize) -> usize {
    (if packed { 0 } else { BLOCK * nr }) + rows * nr
}

/// Leaf: the products of rows `rows` of the block of A with panel `panel`, stored.
#[inline(always)]
pub(crate) fn dense<S: Simd, const MR: usize, const NV: usize>(
    s: S,
    job: &Job<'_>,
    rows: Range<usize>,
    panel: usize,
    scratch: &mut [u32],
) {
    match job.kind {
        Cells::F32 => products::<S, microkernel::F32, MR, NV>(s, job, rows, panel, scratch),
        Cells::F16 => products::<S, microkernel::F16, MR, NV>(s, job, rows, panel, scratch),
        Cells::Bf16 => products::<S, microkernel::Bf16, MR, NV>(s, job, rows, panel, scratch),
        Cells::U8 => products::<S, microkernel::U8, MR, NV>(s, job, rows, panel, scratch),
        Cells::I16 => products::<S, microkernel::I16, MR, NV>(s, job, rows, panel, scratch),
    }
}

#[inline(always)]
fn products<S: Simd, C: Cell<S>, const MR: usize, const NV: usize>(
    s: S,
    job: &Job<'_>,
    rows: Range<usize>,
    panel: usize,
    scratch: &mut [u32],
) {
    let nr = NV * LANES;
    assert!(MR <= MAX_MR && nr <= MAX_NR && rows.end <= job.rows);
    // Where cells are multiplied in several instructions, their intermediate results need the room of two rows.
    let one_instruction = match job.kind {
        Cells::Bf16 => S::HAS_BF16,
        Cells::I16 => S::REGISTERS >= 32,
        _ => true,
    };
    let mr = if one_instruction { MR } else { MR.min(4) };
    let cols = panel * nr..((panel + 1) * nr).min(job.n);
    let whole = cols.len() == nr;
    let out_element = if job.kind.is_integer() { ElementType::I32 } else { ElementType::F32 };
    // Sums of integers need a correction; so C itself takes the sums only of floats.
    let direct = whole && job.store.is_plain() && job.out.element == out_element && !job.kind.is_integer();
    let (packed, sums) = match job.panels {
        Panels::Packed(_) => (&mut [][..], scratch),
        Panels::Columns(_) => scratch.split_at_mut(BLOCK * nr),
    };
    let mut column_sums = [0_i32; MAX_NR];
    let zeros = [0.0_f32; MAX_NR];
    let blocks = job.blocks.count();
    for block in 0..blocks {
        let cells = job.blocks.cells(block);
        let view = match &job.panels {
            Panels::Packed(bytes) => {
                let len = panel_len(job.kind, job.blocks.cells, nr).unwrap_or(usize::MAX);
                let bytes = &bytes[panel * len..][..len];
                if job.kind.is_integer() {
                    let at = job.blocks.cells * nr * C::BYTES;
                    column_sums[..nr].copy_from_slice(bytemuck::cast_slice(&bytes[at..at + 4 * nr]));
                }
                &bytes[cells.start * nr * C::BYTES..cells.end * nr * C::BYTES]
            }
            Panels::Columns(b) => {
                let packed: &mut [u8] = bytemuck::cast_slice_mut(&mut *packed);
                let sums = &mut column_sums[..nr];
                pack_panel(s, job.kind, b, &job.blocks, cells.clone(), cols.start, packed, sums);
                &packed[..cells.len() * nr * C::BYTES]
            }
        };
        let view = CellPanel { cells: view.as_ptr(), len: cells.len() };
        for row in (rows.start..rows.end).step_by(mr) {
            let some = row..(row + mr).min(rows.end);
            let a = job.a[(block * job.rows + row) * A_STRIDE..].as_ptr();
            let (c, ldc) = if direct {
                (job.out.at(job.first_row + row, cols.start).cast(), job.out.stride / 4)
            } else {
                (sums[(row - rows.start) * nr..][..some.len() * nr].as_mut_ptr().cast(), nr)
            };
            let tile = match block {
                0 => TileC { start: zeros.as_ptr(), start_stride: 0, c, ldc },
                _ => TileC { start: c, start_stride: ldc, c, ldc },
            };
            for_mr!(some.len(), mr, |ROWS| {
                // SAFETY: the block of A has `rows` rows of A_STRIDE cells for each block of K; the panel is as long as
                // it says; `c` has that many rows of NR f32, in C those of this unit, which is nobody else's.
                unsafe { tile_cells::<S, C, ROWS, NV>(s, view, a, A_STRIDE, tile) }
            });
        }
    }
    if direct && blocks > 0 {
        return;
    }
    for row in rows.clone() {
        let at = (row - rows.start) * nr;
        let sums: &[f32] = if blocks == 0 { &zeros } else { bytemuck::cast_slice(&sums[at..at + nr]) };
        store_row(s, job, sums, job.first_row + row, cols.clone(), &column_sums);
    }
}
