//! How a product is cut: the one place where sizes decide.

use super::cells::{A_STRIDE, Cells, KBlocks};
use super::{Element, ElementType, Rhs};
use crate::isa::Kernels;
use crate::simd::LANES;

/// How a dense product is computed: what [`Kernels::gemm`] follows, to be looked at beforehand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct DensePlan {
    /// What tiles multiply: `f32`, `f16` (widened when it is loaded), `bf16` (pairs), `u8` (fours) or `i16` (pairs).
    pub path: &'static str,
    /// Rows of a register tile.
    pub mr: usize,
    /// Columns of a register tile, and of a panel.
    pub nr: usize,
    /// Most rows of A that are packed at a time.
    pub block_rows: usize,
    /// Most rows of a unit of work; a unit is some rows times one panel (or the few that make one strip of C).
    pub unit_rows: usize,
    /// Panels of a unit: 1; more for gated products, and where a panel is narrower than an int8 group.
    pub unit_panels: usize,
    /// Units for each block of rows.
    pub units: usize,
    /// Threads that take part: 1 where more would cost more than they bring.
    pub threads: usize,
    /// Blocks that K is cut into.
    pub k_blocks: usize,
    /// Most elements of K in one of them.
    pub kc: usize,
    /// What a block of rows costs, in steps of a tile: one cell of K times a vector of columns, for one row.
    pub steps: usize,
}

/// Cells of A that are packed at a time. Where B is packed on the way, it is for each such block again, and each of its panels
/// streams over the rows of a whole unit, at a byte or so per cycle.
const A_CELLS: usize = 4 << 20;
/// Least rows of a unit, where each unit packs its panel and where B is packed.
const LEAST_ROWS: [usize; 2] = [96, 24];
/// Cells of A in a unit where B is packed: half of a second-level cache, from which they are read again for each panel.
const UNIT_CELLS: usize = 128 << 10;
/// Cells of a packed B that the third-level cache holds beside everything else. A larger one comes from memory each time, for as
/// many rows as can be; those of A then come from the third level. (f32, 2048 cubed: on Zen 5 5 % faster than in units that fit
/// half of L2, on Zen 4 6 % slower; 512 x 4096 x 4096 22 % faster on Zen 5.)
const HELD_CELLS: usize = 2 << 20;

impl DensePlan {
    /// [Steps](DensePlan::steps) below which a second thread costs more than it brings: handing out work takes about as
    /// long as two thousand of them.
    pub const SERIAL_STEPS: usize = 8_192;

    pub(super) fn new(
        kernels: Kernels,
        kind: Cells,
        [m, k, n]: [usize; 3],
        packed: bool,
        threads: usize,
        [sides, width]: [usize; 2],
    ) -> Self {
        let (mr, nv) = kernels.table.tiles.cells;
        let nr = nv * LANES;
        let blocks = KBlocks::new(k, kind);
        let row_cells = (blocks.count() * A_STRIDE).max(1);
        let block_rows = (A_CELLS / row_cells).max(96).next_multiple_of(mr).min(m.max(1));
        let strips = n.div_ceil(nr * width).max(1);
        let vectors = n.div_ceil(LANES).saturating_mul(sides);
        let steps = block_rows.saturating_mul(blocks.cells).saturating_mul(vectors);
        let threads = if steps < Self::SERIAL_STEPS { 1 } else { threads.max(1) };
        let least = LEAST_ROWS[usize::from(packed)];
        // As few units as keep the threads busy to the end, for every unit reads (or packs) its panel.
        let mut parts = 1;
        while threads > 1 && block_rows.div_ceil(parts + 1) >= least && !balanced(strips * parts, threads) {
            parts += 1;
        }
        let mut unit_rows = block_rows.div_ceil(mr).div_ceil(parts) * mr;
        if packed && strips.saturating_mul(nr * width).saturating_mul(row_cells) <= HELD_CELLS {
            unit_rows = unit_rows.min((UNIT_CELLS / row_cells).next_multiple_of(mr).max(8 * mr));
        }
        let row_parts = block_rows.div_ceil(unit_rows);
        let units = strips * row_parts;
        DensePlan {
            path: kind.name(),
            mr,
            nr,
            block_rows,
            unit_rows,
            unit_panels: sides * width,
            units,
            threads: threads.min(units),
            k_blocks: blocks.count(),
            kc: blocks.longest(),
            steps,
        }
    }
}

/// Whether so many equal units leave the threads idle for at most a sixteenth of the time.
pub(super) fn balanced(units: usize, threads: usize) -> bool {
    let turns = units.div_ceil(threads);
    16 * units >= 15 * turns * threads
}

impl Kernels {
    /// How a product of an `m x k` A of type `A` with B will be computed by `threads` threads; `None` if the types cannot
    /// be multiplied.
    ///
    /// ```
    /// use gable_kernels::{Kernels, MatRef, dense::Rhs};
    /// let b = vec![0.0_f32; 64 * 64];
    /// let b = Rhs::Transposed(MatRef::from_rows(&b, 64));
    /// assert_eq!(Kernels::best().dense_plan::<f32, f32>(1, b, 8).unwrap().threads, 1);
    /// ```
    pub fn dense_plan<A: Element, B: Element>(
        self,
        m: usize,
        b: Rhs<'_, B>,
        threads: usize,
    ) -> Option<DensePlan> {
        let (packed, element) = match b {
            Rhs::Packed(b) => (true, b.element),
            _ => (false, B::TYPE),
        };
        self.dense_plan_of([A::TYPE, element], [m, b.k(), b.n()], packed, threads)
    }

    /// The same of matrices that need not be there: types of A and B, M, K and N, and whether B is packed beforehand.
    ///
    /// ```
    /// use gable_kernels::{Kernels, dense::ElementType::{Bf16, I8}};
    /// let plan = Kernels::best().dense_plan_of([Bf16, Bf16], [4096; 3], true, 2).unwrap();
    /// assert_eq!((plan.path, plan.threads), ("bf16", 2));
    /// assert_eq!(Kernels::best().dense_plan_of([I8, Bf16], [1; 3], true, 1), None);
    /// ```
    pub fn dense_plan_of(
        self,
        [a, b]: [ElementType; 2],
        shape: [usize; 3],
        packed: bool,
        threads: usize,
    ) -> Option<DensePlan> {
        let kind = Cells::choose(a, b, packed, self.table.exact_u8)?;
        Some(DensePlan::new(self, kind, shape, packed, threads, [1, 1]))
    }
}
