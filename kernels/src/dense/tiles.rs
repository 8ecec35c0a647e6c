//! The leaf: one panel of B (or the few that make one strip of C) times some packed rows of A.
//!
//! ```text
//! for each block of K:
//!     the panel's block                       packed weights: where they lie; else packed now, into the thread's scratch
//!     for each MR rows of A:                  streamed from L2 or L3, A_STRIDE apart
//!         tile: sums[MR, NR] += A panel       sums: C itself, or the thread's scratch
//! sums -> C                                   another leaf: store.rs
//! ```

#![allow(unsafe_code)]

use super::cells::{A_STRIDE, BLOCK, Cells, Columns, KBlocks, MAX_NR, pack_panel};
use super::element::{ElementType, Target};
use super::product::Side;
use crate::gemm::microkernel::{self, Cell, CellPanel, MAX_MR, TileC, for_mr, tile_cells};
use crate::matrix::MatRef;
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
    /// One B, or two whose products are multiplied.
    pub(crate) sides: &'a [Side<'a>],
    /// Panels of each B that make a strip.
    pub(crate) width: usize,
    /// Columns of a panel.
    pub(crate) nr: usize,
    /// Columns of each B.
    pub(crate) n: usize,
    pub(crate) out: Target<'a>,
}

impl Job<'_> {
    pub(crate) fn offset_by_128(&self) -> bool {
        self.kind == Cells::U8
    }

    /// What row `row` of C's A sums to, as packed.
    fn row_sum(&self, row: usize) -> i32 {
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

/// A thread's scratch: a panel's block, unless B is packed; what the panels' columns sum to; the sums of some rows of the
/// panels side by side.
pub(crate) fn scratch_len(packed: bool, rows: usize, nr: usize, panels: usize) -> usize {
    (if packed { 0 } else { BLOCK * nr }) + (1 + rows) * nr * panels
}

/// The sums of a unit, ready to be stored: of each B, rows and columns of the unit.
pub(crate) struct UnitSums<'a> {
    /// The second is read only where there are two B.
    pub(crate) sums: [MatRef<'a, f32>; 2],
    /// Of the true B; read only where they are integers.
    pub(crate) columns: [&'a [i32]; 2],
}

impl<'a> Job<'a> {
    /// The columns of C that strip `strip` makes.
    pub(crate) fn columns(&self, strip: usize) -> Range<usize> {
        let width = self.width * self.nr;
        strip * width..((strip + 1) * width).min(self.n)
    }

    fn panels(&self) -> usize {
        self.sides.len() * self.width
    }

    /// Whether the tiles' sums go to C itself: those of a whole panel, where they are C's elements.
    fn is_direct(&self, cols: &Range<usize>) -> bool {
        let sums = if self.kind.is_integer() { ElementType::I32 } else { ElementType::F32 };
        self.panels() == 1
            && cols.len() == self.nr
            && self.blocks.count() > 0
            && self.sides[0].store.is_plain()
            && self.out.element == sums
            && !(self.unsigned_a && self.offset_by_128())
    }

    /// The parts of a thread's scratch.
    fn parts<'s>(&self, scratch: &'s mut [u32]) -> [&'s mut [u32]; 3] {
        let packed_len = if matches!(self.sides[0].panels, Panels::Packed(_)) { 0 } else { BLOCK * self.nr };
        let (packed, rest) = scratch.split_at_mut(packed_len);
        let (columns, sums) = rest.split_at_mut(self.nr * self.panels());
        [packed, columns, sums]
    }

    /// What [`dense`] left in the scratch; `None` if it is in C already.
    pub(crate) fn unit_sums<'s>(&self, strip: usize, scratch: &'s mut [u32]) -> Option<UnitSums<'s>> {
        if self.is_direct(&self.columns(strip)) {
            return None;
        }
        let (width, stride) = (self.width * self.nr, self.nr * self.panels());
        let [_, columns, sums] = self.parts(scratch);
        let (columns, sums): (&[i32], &[f32]) = (bytemuck::cast_slice(columns), bytemuck::cast_slice(sums));
        let sums = MatRef::from_rows(sums, stride);
        let [first, second] = [0..width, stride - width..stride];
        Some(UnitSums {
            sums: [sums.columns(first.clone()), sums.columns(second.clone())],
            columns: [&columns[first], &columns[second]],
        })
    }
}

/// Leaf: the products of rows `rows` of the block of A with strip `strip`, left in the scratch, or in C where that is all
/// that is to be done: see [`Job::unit_sums`].
#[inline(always)]
pub(crate) fn dense<S: Simd, const MR: usize, const NV: usize>(
    s: S,
    job: &Job<'_>,
    rows: Range<usize>,
    strip: usize,
    scratch: &mut [u32],
) {
    match job.kind {
        Cells::F32 => products::<S, microkernel::F32, MR, NV>(s, job, rows, strip, scratch),
        Cells::F16 => products::<S, microkernel::F16, MR, NV>(s, job, rows, strip, scratch),
        Cells::Bf16 => products::<S, microkernel::Bf16, MR, NV>(s, job, rows, strip, scratch),
        Cells::U8 => products::<S, microkernel::U8, MR, NV>(s, job, rows, strip, scratch),
        Cells::I16 => products::<S, microkernel::I16, MR, NV>(s, job, rows, strip, scratch),
    }
}

/// What a tile's sums begin with: 0, or what takes the 128 off that was added to B. Rows are whole cache lines.
#[repr(C, align(64))]
struct Starts([i32; MAX_MR * MAX_NR]);

/// Where the sums of some rows with a panel go.
#[derive(Clone, Copy)]
struct Sums {
    c: *mut f32,
    ldc: usize,
}

#[inline(always)]
fn products<S: Simd, C: Cell<S>, const MR: usize, const NV: usize>(
    s: S,
    job: &Job<'_>,
    rows: Range<usize>,
    strip: usize,
    scratch: &mut [u32],
) {
    let nr = NV * LANES;
    assert!(nr == job.nr && rows.end <= job.rows);
    let (panels, cols) = (job.panels(), job.columns(strip));
    let [packed, columns, sums] = job.parts(scratch);
    let sums = &mut sums[..rows.len() * nr * panels];
    let to = if job.is_direct(&cols) {
        Sums { c: job.out.at(job.first_row + rows.start, cols.start).cast(), ldc: job.out.stride / 4 }
    } else {
        columns.fill(0);
        if job.blocks.count() == 0 {
            sums.fill(0);
        }
        Sums { c: sums.as_mut_ptr().cast(), ldc: nr * panels }
    };
    for (i, side) in job.sides.iter().enumerate() {
        for j in 0..job.width {
            let panel = strip * job.width + j;
            if panel * nr >= job.n {
                break;
            }
            let at = (i * job.width + j) * nr;
            let column_sums: &mut [i32] = bytemuck::cast_slice_mut(&mut columns[at..at + nr]);
            let to = Sums { c: to.c.wrapping_add(at), ldc: to.ldc };
            // SAFETY: `to` holds `rows` rows of this panel's NR sums: of C those of this unit, which is nobody else's.
            unsafe {
                panel_sums::<S, C, MR, NV>(s, job, side.panels, panel, rows.clone(), packed, column_sums, to);
            }
        }
    }
}

/// The products of some rows with one panel; `column_sums` gets what its columns sum to, where they are integers.
///
/// # Safety
/// `to` must hold NR sums for each row.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
unsafe fn panel_sums<S: Simd, C: Cell<S>, const MR: usize, const NV: usize>(
    s: S,
    job: &Job<'_>,
    panels: Panels<'_>,
    panel: usize,
    rows: Range<usize>,
    packed: &mut [u32],
    column_sums: &mut [i32],
    to: Sums,
) {
    let nr = NV * LANES;
    assert!(MR <= MAX_MR && nr <= MAX_NR && rows.end <= job.rows && column_sums.len() == nr);
    // Where cells are multiplied in several instructions, their intermediate results need the room of two rows.
    let one_instruction = match job.kind {
        Cells::Bf16 => S::HAS_BF16,
        Cells::I16 => S::REGISTERS >= 32,
        _ => true,
    };
    let mr = if one_instruction { MR } else { MR.min(4) };
    let mut starts = Starts([0; MAX_MR * MAX_NR]);
    for block in 0..job.blocks.count() {
        let cells = job.blocks.cells(block);
        let view = match &panels {
            Panels::Packed(bytes) => {
                let len = panel_len(job.kind, job.blocks.cells, nr).unwrap_or(usize::MAX);
                let bytes = &bytes[panel * len..][..len];
                if job.kind.is_integer() {
                    let at = job.blocks.cells * nr * C::BYTES;
                    column_sums.copy_from_slice(bytemuck::cast_slice(&bytes[at..at + 4 * nr]));
                }
                &bytes[cells.start * nr * C::BYTES..cells.end * nr * C::BYTES]
            }
            Panels::Columns(b) => {
                let packed: &mut [u8] = bytemuck::cast_slice_mut(&mut *packed);
                pack_panel(s, job.kind, b, &job.blocks, cells.clone(), panel * nr, packed, column_sums);
                &packed[..cells.len() * nr * C::BYTES]
            }
        };
        let view = CellPanel { cells: view.as_ptr(), len: cells.len() };
        for row in (rows.start..rows.end).step_by(mr) {
            let some = row..(row + mr).min(rows.end);
            let a = job.a[(block * job.rows + row) * A_STRIDE..].as_ptr();
            let c = to.c.wrapping_add((row - rows.start) * to.ldc);
            if block == 0 && job.offset_by_128() {
                for (start, row) in starts.0.chunks_exact_mut(nr).zip(some.clone()) {
                    start.fill(job.row_sums[row].wrapping_mul(-128));
                }
            }
            let tile = match block {
                0 => TileC { start: starts.0.as_ptr().cast(), start_stride: nr, c, ldc: to.ldc },
                _ => TileC { start: c, start_stride: to.ldc, c, ldc: to.ldc },
            };
            for_mr!(some.len(), mr, |ROWS| {
                // SAFETY: the block of A has `rows` rows of A_STRIDE cells for each block of K; the panel is as long as
                // it says; `c` has that many rows of NR sums.
                unsafe { tile_cells::<S, C, ROWS, NV>(s, view, a, A_STRIDE, tile) }
            });
        }
    }
}
