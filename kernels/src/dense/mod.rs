//! Dense matrix products of f32, f16, bf16 and int8, with weights packed once or taken as they are.
//!
//! ```text
//! C[m, n] = act(alpha sum_k A[m, k] B[k, n] + biases) + beta C + residual
//!
//! A \ B   f32        f16        bf16                      i8
//! f32     in f32     in f32     A rounded to bf16
//! f16     in f32     in f32
//! bf16                          products of bf16 pairs
//! i8, u8                                                  exact, in i32
//! ```
//!
//! C is f32, f16 or bf16, for integers also i32. Sums are f32 (or exact i32) throughout.
//!
//! The path down: [`Kernels::gemm`] checks the arguments, cuts M into blocks, and for each: the rows of A are packed into
//! cells (`cells.rs`), then the team takes units, some of those rows times one panel of B (`tiles.rs`), and each unit
//! stores its part of C (`store.rs`). Packing B costs as much as multiplying it with a few rows: weights that are used
//! again are better packed once, by [`Kernels::pack_weights`].
//!
//! **Determinism.** Each element of C is one chain over k, whoever computes it: its bits depend on its row of A, its column
//! of B and the instruction set, and not on other rows, the number of threads, strides, alignment, or packing.
//! ([`Rhs::Streamed`] sums in another order, for any number of rows.)

#![allow(unsafe_code)]

mod cells;
mod element;
mod packed;
mod plan;
mod store;
mod streamed;
mod tiles;

use crate::error::KernelError;
use crate::isa::Kernels;
use crate::matrix::{MatMut, MatRef, for_units, part_range};
use crate::memory::{Zero, zeros};
use crate::pool::Team;
use cells::{A_STRIDE, Cells, Columns, KBlocks, PackRows, PackedRows};
use element::{Source, Target};
use tiles::{Job, Panels, scratch_len};

pub use element::{Element, ElementType};
pub use packed::PackedWeights;
pub use plan::DensePlan;
pub use store::{Dequantize, PerAxis, Store};
pub(crate) use {cells::pack_rows, packed::pack_columns, streamed::dense_store, tiles::dense};
pub(crate) mod jobs {
    //! What the leaves are called with.
    pub(crate) use super::cells::{PackRows, PackedRows};
    pub(crate) use super::packed::PackColumns;
    pub(crate) use super::tiles::Job;
}

/// The right-hand side of a product: B, which is `k x n`.
#[derive(Debug)]
pub enum Rhs<'a, B> {
    /// Rows of N elements, as C has them.
    Straight(MatRef<'a, B>),
    /// Rows of K elements: B transposed, the usual order of a layer's weights.
    Transposed(MatRef<'a, B>),
    /// The same, streamed once: for few rows of A, where reading B is what takes the time. Floats only. The order of
    /// summation is another one (lanes run along K), whatever the number of rows: it is chosen here, never by a shape.
    Streamed(MatRef<'a, B>),
    /// Packed weights.
    Packed(&'a PackedWeights<'a>),
}

impl<B> Clone for Rhs<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<B> Copy for Rhs<'_, B> {}

impl<'a, B: Element> Rhs<'a, B> {
    /// Rows of B.
    pub fn k(&self) -> usize {
        match self {
            Rhs::Straight(b) => b.rows(),
            Rhs::Transposed(b) | Rhs::Streamed(b) => b.cols(),
            Rhs::Packed(b) => b.k(),
        }
    }

    /// Columns of B.
    pub fn n(&self) -> usize {
        match self {
            Rhs::Straight(b) => b.cols(),
            Rhs::Transposed(b) | Rhs::Streamed(b) => b.rows(),
            Rhs::Packed(b) => b.n(),
        }
    }

    fn columns(&self) -> Option<Columns<'a>> {
        match self {
            Rhs::Straight(b) => Some(Columns { source: Source::of(*b), transposed: false }),
            Rhs::Transposed(b) | Rhs::Streamed(b) => {
                Some(Columns { source: Source::of(*b), transposed: true })
            }
            Rhs::Packed(_) => None,
        }
    }
}

/// Memory that products work in: it grows when a call needs more and is kept for the next ones, so that equal calls
/// allocate once.
#[derive(Debug, Default)]
pub struct DenseScratch {
    a: Vec<u32>,
    row_sums: Vec<i32>,
    slots: Vec<u32>,
    streamed: Option<streamed::Rows>,
}

impl DenseScratch {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }
}

/// Makes a buffer long enough; what it held is lost.
fn grow<T: Zero>(buffer: &mut Vec<T>, len: usize) -> Result<(), KernelError> {
    if buffer.len() < len {
        *buffer = Vec::new();
        *buffer = zeros("a product's scratch", len)?;
    }
    Ok(())
}

/// # Dense products
impl Kernels {
    /// Multiplies two dense matrices: `C = act(alpha A B + biases) + beta C + residual`.
    ///
    /// Shapes: A is `m x k` with any row stride, B `k x n` as an [`Rhs`], C `m x n` with any row stride. Types: see the
    /// table at the head of the [module](crate::dense); `store` tells what happens on the way to C.
    ///
    /// Accuracy: at most `gamma_(k+4) (|alpha| |A||B| + |biases| + |beta C| + |residual|)` against the elements that were
    /// multiplied, and half a unit of C's last place where C is narrow. Products of integers are exact.
    ///
    /// NaN and infinity follow IEEE and stay within their row of A and column of B. `m = 0` or `n = 0` does nothing; `k = 0`
    /// gives the biases (plus the old C, plus the residual). With `beta = 0` C is not read.
    ///
    /// # Errors
    /// [`KernelError::Shape`] and [`KernelError::Value`] name the argument with both values: wrong shapes, types that
    /// cannot be multiplied, weights packed for another instruction set, k beyond the largest for which i32 sums are
    /// exact. [`KernelError::Memory`] for the scratch. Nothing has been written to C then.
    ///
    /// # Threads and determinism
    /// Units of some rows and one panel are handed out to the team as it gets free. See the module for what the bits
    /// depend on.
    ///
    /// Source: K. Goto, R. van de Geijn, *Anatomy of High-Performance Matrix Multiplication*, 2008.
    ///
    /// ```
    /// use gable_kernels::{Kernels, MatMut, MatRef, Team, dense::{DenseScratch, Rhs, Store}};
    /// let (a, b) = ([1_i8, -2, 3, 4], [5_i8, 6, -7, 8]);
    /// let mut c = [0_i32; 4];
    /// Kernels::best().gemm(
    ///     &Team::serial(),
    ///     MatRef::from_rows(&a, 2),
    ///     Rhs::Straight(MatRef::from_rows(&b, 2)),
    ///     &Store::default(),
    ///     MatMut::from_rows(&mut c, 2),
    ///     &mut DenseScratch::new(),
    /// )?;
    /// assert_eq!(c, [19, -10, -13, 50]);
    /// # Ok::<(), gable_kernels::KernelError>(())
    /// ```
    pub fn gemm<A: Element, B: Element, C: Element>(
        self,
        team: &Team<'_>,
        a: MatRef<'_, A>,
        b: Rhs<'_, B>,
        store: &Store<'_>,
        out: MatMut<'_, C>,
        scratch: &mut DenseScratch,
    ) -> Result<(), KernelError> {
        let kind = self.check(&a, &b, store, &out)?;
        let (m, k, n) = (a.rows(), a.cols(), b.n());
        if m == 0 || n == 0 {
            return Ok(());
        }
        let packed = matches!(b, Rhs::Packed(_));
        if let Rhs::Streamed(b) = b {
            return streamed::run(self, team, a, Source::of(b), kind, store, out, scratch);
        }
        let plan = DensePlan::new(self, kind, [m, k, n], packed, team.threads());
        let serial = Team::serial();
        let team = if plan.threads == 1 { &serial } else { team };
        let blocks = KBlocks::new(k, kind);
        let panels = n.div_ceil(plan.nr);
        let DenseScratch { a: a_cells, row_sums, slots, .. } = scratch;
        let a_len = plan.block_rows.saturating_mul(A_STRIDE).saturating_mul(blocks.count());
        grow(a_cells, a_len)?;
        grow(row_sums, plan.block_rows)?;
        let slot_len = scratch_len(packed, plan.unit_rows, plan.nr);
        grow(slots, slot_len.saturating_mul(plan.threads))?;
        let source = Source::of(a);
        let out = Target::of(out);
        for first_row in (0..m).step_by(plan.block_rows) {
            let rows = plan.block_rows.min(m - first_row);
            let job = PackRows { source, kind, k: blocks, first: first_row, rows };
            let to = PackedRows { cells: a_cells.as_mut_ptr(), sums: row_sums.as_mut_ptr() };
            // The buffers hold `block_rows` rows, and parts are disjoint.
            let parts = plan.threads.min(rows);
            team.run(parts, &|i| self.table.pack_rows(&job, part_range(rows, 1, parts, i), to));
            let job = Job {
                kind,
                blocks,
                a: a_cells,
                row_sums,
                unsigned_a: A::TYPE == ElementType::U8,
                rows,
                first_row,
                panels: match (b.columns(), b) {
                    (Some(columns), _) => Panels::Columns(columns),
                    (None, Rhs::Packed(b)) => Panels::Packed(b.bytes()),
                    (None, _) => continue,
                },
                n,
                store,
                out,
            };
            let row_parts = rows.div_ceil(plan.unit_rows);
            let slots = MatMut::from_rows(&mut slots[..slot_len * plan.threads], slot_len);
            for_units(team, slots, panels * row_parts, |unit, slot| {
                let rows = part_range(rows, plan.mr, row_parts, unit % row_parts);
                // Units are disjoint parts of C.
                self.table.dense(&job, rows, unit / row_parts, slot);
            });
        }
        Ok(())
    }

    /// Everything that can be refused.
    fn check<A: Element, B: Element, C: Element>(
        self,
        a: &MatRef<'_, A>,
        b: &Rhs<'_, B>,
        store: &Store<'_>,
        out: &MatMut<'_, C>,
    ) -> Result<Cells, KernelError> {
        let shape = |what, expected, found| Err(KernelError::Shape { op: "gemm", what, expected, found });
        let value =
            |what, found: String, allowed| Err(KernelError::Value { op: "gemm", what, found, allowed });
        let (m, k, n) = (a.rows(), a.cols(), b.n());
        if b.k() != k {
            return shape("b's rows (k)", k, b.k());
        }
        if out.rows() != m {
            return shape("out.rows", m, out.rows());
        }
        if out.cols() != n {
            return shape("out.cols", n, out.cols());
        }
        let (packed, element) = match b {
            Rhs::Packed(b) if b.isa != self.isa() => {
                return value(
                    "b",
                    format!("packed for {}", b.isa),
                    "weights packed for the instruction set of these kernels",
                );
            }
            Rhs::Packed(b) => (true, b.element),
            _ => (false, B::TYPE),
        };
        let Some(kind) = Cells::choose(A::TYPE, element, packed, self.table.exact_u8) else {
            return value(
                "a x b",
                format!("{} x {element}", A::TYPE),
                "see the table of gable_kernels::dense",
            );
        };
        if kind.is_integer() {
            if matches!(b, Rhs::Streamed(_)) {
                return value("b", "streamed bytes".into(), "bytes straight, transposed or packed");
            }
            let most = if A::TYPE == ElementType::U8 { MAX_K_U8 } else { MAX_K_I8 };
            if k > most {
                return value(
                    "k",
                    k.to_string(),
                    if most == MAX_K_U8 { "at most 65793 (u8 x i8)" } else { "at most 131071 (i8 x i8)" },
                );
            }
        }
        if matches!(C::TYPE, ElementType::I8 | ElementType::U8) {
            return value("out's element type", C::TYPE.to_string(), "f32, f16, bf16, i32");
        }
        store.check(m, n, kind.is_integer(), C::TYPE)?;
        Ok(kind)
    }
}

/// The largest k for which the sum of k products fits an i32: `k 128 128 < 2^31`.
const MAX_K_I8: usize = 131_071;
/// The same for `k 255 128 < 2^31`.
const MAX_K_U8: usize = 65_793;
