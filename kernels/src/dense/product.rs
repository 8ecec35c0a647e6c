//! A product whose types are values: what can be refused, and how it is computed.

#![allow(unsafe_code)]

use super::cells::{A_STRIDE, Cells, KBlocks, PackRows, PackedRows};
use super::element::{ElementType, Source, Target};
use super::plan::DensePlan;
use super::store::Store;
use super::tiles::{Job, Panels, scratch_len};
use super::{DenseScratch, grow, streamed};
use crate::error::KernelError;
use crate::isa::{Isa, Kernels};
use crate::matrix::{MatMut, for_units, part_range};
use crate::pool::Team;

/// One B, and what happens to its product.
#[derive(Clone, Copy)]
pub(crate) struct Side<'a> {
    pub(crate) panels: Panels<'a>,
    /// To be read once, in rows.
    pub(super) streamed: bool,
    pub(super) element: ElementType,
    pub(super) packed_for: Option<Isa>,
    pub(super) k: usize,
    pub(super) n: usize,
    pub(crate) store: &'a Store<'a>,
}

/// `C = A B`, or `C = (A B_0) * (A B_1)` where there are two sides.
pub(super) struct Product<'a> {
    pub(super) op: &'static str,
    pub(super) a: Source<'a>,
    pub(super) b: [Side<'a>; 2],
    pub(super) gated: bool,
    pub(super) out: Target<'a>,
}

/// The largest k of products of `i8` with `i8`: the sum of k of them fits an i32, `k 128 128 < 2^31`.
pub const MAX_K_I8: usize = 131_071;
/// The same for `k 255 128 < 2^31`.
const MAX_K_U8: usize = 65_793;

impl<'a> Product<'a> {
    /// The side that the product's shape is that of.
    fn side(&self) -> &Side<'a> {
        &self.b[0]
    }

    pub(super) fn sides(&self) -> &[Side<'a>] {
        if self.gated { &self.b } else { &self.b[..1] }
    }

    /// Everything that can be refused; what the tiles will multiply.
    pub(super) fn check(&self, kernels: Kernels) -> Result<Cells, KernelError> {
        let op = self.op;
        let shape = |what, expected, found| Err(KernelError::Shape { op, what, expected, found });
        let value = |what, found: String, allowed| Err(KernelError::Value { op, what, found, allowed });
        let (m, k, n) = (self.a.rows, self.a.cols, self.side().n);
        if let Some(side) = self.sides().iter().find(|side| side.k != k) {
            return shape("b's rows (k)", k, side.k);
        }
        if self.out.rows != m {
            return shape("out.rows", m, self.out.rows);
        }
        if self.out.cols != n {
            return shape("out.cols", n, self.out.cols);
        }
        if matches!(self.out.element, ElementType::I8 | ElementType::U8) && self.out.scales.is_none() {
            return value(
                "out's element type",
                self.out.element.to_string(),
                "f32, f16, bf16, i32, or int8 groups",
            );
        }
        let mut kind = None;
        for side in self.sides() {
            if side.n != n {
                return shape("the other b's columns (n)", n, side.n);
            }
            if let Some(isa) = side.packed_for.filter(|isa| *isa != kernels.isa()) {
                return value(
                    "b",
                    format!("packed for {isa}"),
                    "weights packed for the instruction set of these kernels",
                );
            }
            let packed = side.packed_for.is_some();
            let Some(cells) = Cells::choose(self.a.element, side.element, packed, kernels.table.exact_u8)
            else {
                return value(
                    "a x b",
                    format!("{} x {}", self.a.element, side.element),
                    "see the table of gable_kernels::dense",
                );
            };
            if cells.is_integer() {
                self.check_integers(side, k)?;
            }
            if *kind.get_or_insert(cells) != cells || side.streamed != self.side().streamed {
                return value("b", "in two orders".into(), "two matrices in the same order");
            }
            side.store.check(op, [m, n], cells.is_integer(), &self.out)?;
        }
        if self.gated {
            self.b[0].store.check_factor(op)?;
        }
        kind.ok_or(KernelError::Shape { op, what: "b", expected: 1, found: 0 })
    }

    fn check_integers(&self, side: &Side<'_>, k: usize) -> Result<(), KernelError> {
        let value =
            |what, found: String, allowed| Err(KernelError::Value { op: self.op, what, found, allowed });
        if side.streamed {
            return value("b", "streamed bytes".into(), "bytes straight, transposed or packed");
        }
        let (most, allowed) = match self.a.element {
            ElementType::U8 => (MAX_K_U8, "at most 65793 (u8 x i8)"),
            _ => (MAX_K_I8, "at most 131071 (i8 x i8)"),
        };
        if k > most {
            return value("k", k.to_string(), allowed);
        }
        Ok(())
    }

    /// How the product is cut.
    pub(super) fn plan(&self, kernels: Kernels, kind: Cells, threads: usize) -> DensePlan {
        let packed = self.side().packed_for.is_some();
        let shape = [self.a.rows, self.a.cols, self.side().n];
        let nr = kernels.table.tiles.cells.1 * crate::simd::LANES;
        let width = self.out.group().div_ceil(nr);
        DensePlan::new(kernels, kind, shape, packed, threads, [self.sides().len(), width])
    }

    fn slot_len(&self, plan: &DensePlan) -> usize {
        scratch_len(self.side().packed_for.is_some(), plan.unit_rows, plan.nr, plan.unit_panels)
    }

    /// Makes the scratch large enough.
    pub(super) fn reserve(
        &self,
        plan: &DensePlan,
        kind: Cells,
        scratch: &mut DenseScratch,
    ) -> Result<(), KernelError> {
        let row_cells = A_STRIDE.saturating_mul(KBlocks::new(self.a.cols, kind).count());
        grow(&mut scratch.a, plan.block_rows.saturating_mul(row_cells))?;
        grow(&mut scratch.row_sums, plan.block_rows)?;
        grow(&mut scratch.slots, self.slot_len(plan).saturating_mul(plan.threads))
    }

    pub(super) fn run(
        self,
        kernels: Kernels,
        team: &Team<'_>,
        scratch: &mut DenseScratch,
    ) -> Result<(), KernelError> {
        let kind = self.check(kernels)?;
        self.compute(kernels, kind, team, scratch)
    }

    /// What is left to do when all is checked.
    pub(super) fn compute(
        &self,
        kernels: Kernels,
        kind: Cells,
        team: &Team<'_>,
        scratch: &mut DenseScratch,
    ) -> Result<(), KernelError> {
        let (m, k, side) = (self.a.rows, self.a.cols, self.side());
        if m == 0 || side.n == 0 {
            return Ok(());
        }
        if side.streamed {
            return streamed::run(kernels, team, self, kind, scratch);
        }
        let plan = self.plan(kernels, kind, team.threads());
        self.reserve(&plan, kind, scratch)?;
        let serial = Team::serial();
        let team = if plan.threads == 1 { &serial } else { team };
        let blocks = KBlocks::new(k, kind);
        let slot_len = self.slot_len(&plan);
        let DenseScratch { a: a_cells, row_sums, slots, .. } = scratch;
        for first_row in (0..m).step_by(plan.block_rows) {
            let rows = plan.block_rows.min(m - first_row);
            let job = PackRows { source: self.a, kind, k: blocks, first: first_row, rows };
            let to = PackedRows { cells: a_cells.as_mut_ptr(), sums: row_sums.as_mut_ptr() };
            // The buffers hold `block_rows` rows, and parts are disjoint.
            let parts = plan.threads.min(rows);
            team.run(parts, &|i| kernels.table.pack_rows(&job, part_range(rows, 1, parts, i), to));
            let job = Job {
                kind,
                blocks,
                a: a_cells,
                row_sums,
                unsigned_a: self.a.element == ElementType::U8,
                rows,
                first_row,
                sides: self.sides(),
                width: plan.unit_panels / self.sides().len(),
                nr: plan.nr,
                n: side.n,
                out: self.out,
            };
            let row_parts = rows.div_ceil(plan.unit_rows);
            let strips = side.n.div_ceil(plan.nr * job.width);
            let slots = MatMut::from_rows(&mut slots[..slot_len * plan.threads], slot_len);
            let units = strips * row_parts;
            for_units(team, slots, units, |unit, slot| {
                // Turn by turn from every thread's share: two that write neighbouring columns at the same time would take
                // the lines that both have a part of from each other.
                let unit =
                    part_range(units, 1, plan.threads, unit % plan.threads).start + unit / plan.threads;
                // Packed panels come by the rows that stay in the cache, loose ones stay with the thread that packed them.
                let (strip, part) = match self.side().packed_for {
                    Some(_) => (unit % strips, unit / strips),
                    None => (unit / row_parts, unit % row_parts),
                };
                let rows = part_range(rows, plan.mr, row_parts, part);
                // Units are disjoint parts of C.
                kernels.table.dense(&job, rows.clone(), strip, slot);
                if let Some(sums) = job.unit_sums(strip, slot) {
                    kernels.table.dense_store(&job, &sums, rows, job.columns(strip));
                }
            });
        }
        Ok(())
    }
}
