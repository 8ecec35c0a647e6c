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
//! C is f32, f16 or bf16, for integers also i32, or int8 groups ([`Int8Groups`]). Sums are f32 (or exact i32) throughout.
//!
//! The path down: [`Kernels::gemm`] (and its kin: gated, batched) makes a `Product`, whose types are values; that checks
//! the arguments, cuts M into blocks, and for each: the rows of A are packed into cells (`cells.rs`), then the team takes
//! units, some of those rows times a panel of B (`tiles.rs`), and each unit stores its part of C (`store.rs`). Packing B
//! costs as much as multiplying it with a few rows: weights that are used again are better packed once, by
//! [`Kernels::pack_weights`].
//!
//! **Determinism.** Each element of C is one chain over k, whoever computes it: its bits depend on its row of A, its column
//! of B and the instruction set, and not on other rows, the number of threads, strides, alignment, or packing.
//! ([`Rhs::Streamed`] sums in another order, for any number of rows.)

#![allow(unsafe_code)]

mod batch;
mod cells;
mod element;
mod output;
mod packed;
mod plan;
mod product;
mod store;
mod streamed;
mod tiles;

use crate::error::KernelError;
use crate::isa::Kernels;
use crate::matrix::MatRef;
use crate::memory::{Buffer, Zero, zeros};
use crate::pool::Team;
use cells::Columns;
use element::Source;
use product::{Product, Side};
use tiles::Panels;

pub use batch::{Gemm, Strided, StridedMut};
pub use element::{Element, ElementType};
pub use output::{Int8Groups, Output};
pub use packed::PackedWeights;
pub use plan::DensePlan;
pub use product::MAX_K_I8;
pub use store::{Dequantize, PerAxis, Store};
pub(crate) use {cells::pack_rows, packed::pack_columns, store::dense_store, tiles::dense};
pub(crate) mod jobs {
    //! What the leaves are called with.
    pub(crate) use super::cells::{PackRows, PackedRows};
    pub(crate) use super::packed::PackColumns;
    pub(crate) use super::tiles::{Job, UnitSums};
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

    fn side(&self, store: &'a Store<'a>) -> Side<'a> {
        let columns = |b, transposed| Panels::Columns(Columns { source: Source::of(b), transposed });
        let (panels, element, packed_for) = match *self {
            Rhs::Packed(b) => (Panels::Packed(b.bytes()), b.element, Some(b.isa)),
            Rhs::Straight(b) => (columns(b, false), B::TYPE, None),
            Rhs::Transposed(b) | Rhs::Streamed(b) => (columns(b, true), B::TYPE, None),
        };
        let streamed = matches!(self, Rhs::Streamed(_));
        Side { panels, streamed, element, packed_for, k: self.k(), n: self.n(), store }
    }
}

/// Memory that products work in: it grows when a call needs more and is kept for the next ones, so that equal calls
/// allocate once.
#[derive(Debug, Default)]
pub struct DenseScratch {
    a: Buffer<u32>,
    row_sums: Buffer<i32>,
    slots: Buffer<u32>,
    streamed: Option<streamed::Rows>,
    /// Of the threads that compute whole products of a batch.
    each: Vec<DenseScratch>,
}

impl DenseScratch {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }
}

/// Makes a buffer long enough; what it held is lost.
fn grow<T: Zero>(buffer: &mut Buffer<T>, len: usize) -> Result<(), KernelError> {
    if buffer.len() < len {
        *buffer = Buffer::default();
        *buffer = zeros("a product's scratch", len)?;
    }
    Ok(())
}

/// A product with its types as values.
fn product<'a, A: Element, B: Element>(
    a: MatRef<'a, A>,
    b: Rhs<'a, B>,
    store: &'a Store<'a>,
    out: impl Output<'a>,
) -> Product<'a> {
    Product { op: "gemm", a: Source::of(a), b: [b.side(store); 2], gated: false, out: out.target() }
}

/// # Dense products
impl Kernels {
    /// Multiplies two dense matrices: `C = act(alpha A B + biases) + beta C + residual`.
    ///
    /// Shapes: A is `m x k` with any row stride, B `k x n` as an [`Rhs`], C `m x n` with any row stride, or [`Int8Groups`].
    /// Types: see the table at the head of the [module](crate::dense); `store` tells what happens on the way to C.
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
    pub fn gemm<'a, A: Element, B: Element>(
        self,
        team: &Team<'_>,
        a: MatRef<'a, A>,
        b: Rhs<'a, B>,
        store: &'a Store<'a>,
        out: impl Output<'a>,
        scratch: &mut DenseScratch,
    ) -> Result<(), KernelError> {
        product(a, b, store, out).run(self, team, scratch)
    }

    /// Multiplies a matrix by two and the results element by element: `C = act(A B_0) * (A B_1)`, the gated layer of a
    /// transformer in one pass.
    ///
    /// Shapes: as [`gemm`](Kernels::gemm), with two B of equal shape and kind of order, each with its own store, whose `alpha`,
    /// biases, activation and `dequantize` make a factor of C. `beta` and `residual` are the second one's: `C = g u + beta C
    /// + residual`. The halves of one matrix are two views of it.
    ///
    /// Accuracy, special values, errors, threads and determinism: as [`gemm`](Kernels::gemm); a factor's bits are those that
    /// it has on its own. The first store with a `beta` or a residual is refused.
    ///
    /// Source: N. Shazeer, *GLU Variants Improve Transformer*, 2020.
    ///
    /// ```
    /// use gable_kernels::{Kernels, MatMut, MatRef, Team, activation::Activation, dense::{DenseScratch, Rhs, Store}};
    /// let gate_up = [1.0_f32, -1.0, 10.0, 20.0]; // two columns of the gate, two of the other
    /// let gate_up = MatRef::from_rows(&gate_up, 4);
    /// let [gate, up] = [0..2, 2..4].map(|half| Rhs::Straight(gate_up.columns(half)));
    /// let (relu, plain) = (Store { activation: Some(Activation::Relu), ..Store::default() }, Store::default());
    /// let mut c = [0.0_f32; 2];
    /// Kernels::best().gemm_gated(
    ///     &Team::serial(),
    ///     MatRef::from_rows(&[3.0_f32], 1),
    ///     [(gate, &relu), (up, &plain)],
    ///     MatMut::from_rows(&mut c, 2),
    ///     &mut DenseScratch::new(),
    /// )?;
    /// assert_eq!(c, [90.0, 0.0]);
    /// # Ok::<(), gable_kernels::KernelError>(())
    /// ```
    pub fn gemm_gated<'a, A: Element, B: Element>(
        self,
        team: &Team<'_>,
        a: MatRef<'a, A>,
        factors: [(Rhs<'a, B>, &'a Store<'a>); 2],
        out: impl Output<'a>,
        scratch: &mut DenseScratch,
    ) -> Result<(), KernelError> {
        let b = factors.map(|(b, store)| b.side(store));
        let product = Product { op: "gemm_gated", a: Source::of(a), b, gated: true, out: out.target() };
        product.run(self, team, scratch)
    }
}
