//! Many products in one call.

#![allow(unsafe_code)]

use super::plan::balanced;
use super::product::Product;
use super::{DenseScratch, Element, Rhs, Store, product};
use crate::error::KernelError;
use crate::isa::Kernels;
use crate::matrix::{MatMut, MatRef, for_units};
use crate::pool::Team;
use std::sync::OnceLock;

/// One product of a batch.
#[derive(Debug)]
pub struct Gemm<'a, A, B, C> {
    /// `m x k`
    pub a: MatRef<'a, A>,
    /// `k x n`
    pub b: Rhs<'a, B>,
    /// What happens on the way to C.
    pub store: Store<'a>,
    /// `m x n`
    pub out: MatMut<'a, C>,
}

/// Equal matrices at equal distances, to be read. With a `batch_stride` of 0 they are one and the same.
#[derive(Debug, Clone, Copy)]
pub struct Strided<'a, T> {
    /// The elements of all of them.
    pub data: &'a [T],
    /// Rows of each.
    pub rows: usize,
    /// Columns of each.
    pub cols: usize,
    /// Elements from one row's start to the next's.
    pub stride: usize,
    /// Elements from one matrix to the next.
    pub batch_stride: usize,
}

/// Equal matrices at equal distances, to be written.
#[derive(Debug)]
pub struct StridedMut<'a, T> {
    /// The elements of all of them.
    pub data: &'a mut [T],
    /// Rows of each.
    pub rows: usize,
    /// Columns of each.
    pub cols: usize,
    /// Elements from one row's start to the next's.
    pub stride: usize,
    /// Elements from one matrix to the next: at least what one takes.
    pub batch_stride: usize,
}

const OP: &str = "gemm_strided";

/// Elements from the first to behind the last of a matrix.
fn extent(rows: usize, cols: usize, stride: usize) -> usize {
    if rows == 0 || cols == 0 { 0 } else { (rows - 1).saturating_mul(stride).saturating_add(cols) }
}

/// Checks that `len` elements hold `count` matrices.
fn check(
    [too_narrow, too_short]: [&'static str; 2],
    len: usize,
    count: usize,
    [rows, cols, stride, batch_stride]: [usize; 4],
) -> Result<(), KernelError> {
    if stride < cols {
        return Err(KernelError::Shape { op: OP, what: too_narrow, expected: cols, found: stride });
    }
    let needed = match count {
        0 => 0,
        n => (n - 1).saturating_mul(batch_stride).saturating_add(extent(rows, cols, stride)),
    };
    if len < needed {
        return Err(KernelError::Shape { op: OP, what: too_short, expected: needed, found: len });
    }
    Ok(())
}

impl<'a, T> Strided<'a, T> {
    fn shape(&self) -> [usize; 4] {
        [self.rows, self.cols, self.stride, self.batch_stride]
    }

    /// Matrix `i` of checked ones.
    fn at(&self, i: usize) -> Result<MatRef<'a, T>, KernelError> {
        let from = (i * self.batch_stride).min(self.data.len());
        MatRef::new(&self.data[from..], self.rows, self.cols, self.stride)
    }
}

/// # Batches of dense products
impl Kernels {
    /// Multiplies many pairs of dense matrices, of any shapes: each as [`gemm`](Kernels::gemm) does.
    ///
    /// # Errors
    /// Those of [`gemm`](Kernels::gemm) for any of them; nothing has been written to any C then.
    ///
    /// # Threads and determinism
    /// Where there are enough of them, each product is one thread's, and who is free takes the next; else the team
    /// computes one after another. The bits are those of single products.
    ///
    /// ```
    /// use gable_kernels::{Kernels, MatMut, MatRef, Team, dense::{DenseScratch, Gemm, Rhs, Store}};
    /// let (a, b) = ([1.0_f32, 2.0], [3.0_f32, 4.0]);
    /// let mut c = [0.0_f32; 2];
    /// let (first, second) = c.split_at_mut(1);
    /// let product = |i: usize, out| Gemm {
    ///     a: MatRef::from_rows(&a[i..i + 1], 1),
    ///     b: Rhs::Straight(MatRef::from_rows(&b[i..i + 1], 1)),
    ///     store: Store::default(),
    ///     out: MatMut::from_rows(out, 1),
    /// };
    /// let mut products = [product(0, first), product(1, second)];
    /// Kernels::best().gemm_batch(&Team::serial(), &mut products, &mut DenseScratch::new())?;
    /// assert_eq!(c, [3.0, 8.0]);
    /// # Ok::<(), gable_kernels::KernelError>(())
    /// ```
    pub fn gemm_batch<A: Element, B: Element, C: Element>(
        self,
        team: &Team<'_>,
        products: &mut [Gemm<'_, A, B, C>],
        scratch: &mut DenseScratch,
    ) -> Result<(), KernelError> {
        let products = &*products;
        let at = |i: usize| {
            let Gemm { a, b, store, out } = &products[i];
            // SAFETY: the whole of a matrix that this call borrows exclusively; `run` writes each in one product only.
            let out = unsafe { out.strip(0..out.rows(), 0..out.cols()) };
            Ok(product(*a, *b, store, out))
        };
        run(self, team, products.len(), at, scratch)
    }

    /// Multiplies `count` pairs of equally large matrices that lie at equal distances: `C_i = A_i B_i`, with one store for
    /// all; `transposed` says that B's rows run along K.
    ///
    /// # Errors
    /// Those of [`gemm`](Kernels::gemm), [`KernelError::Shape`] for slices that are too short, strides below a row and
    /// results that overlap. Nothing has been written to any C then.
    ///
    /// # Threads and determinism
    /// As [`gemm_batch`](Kernels::gemm_batch).
    #[expect(clippy::too_many_arguments, reason = "BLAS has them all")]
    pub fn gemm_strided<A: Element, B: Element, C: Element>(
        self,
        team: &Team<'_>,
        count: usize,
        a: Strided<'_, A>,
        b: Strided<'_, B>,
        transposed: bool,
        store: &Store<'_>,
        out: StridedMut<'_, C>,
        scratch: &mut DenseScratch,
    ) -> Result<(), KernelError> {
        check(["a.stride (at least)", "a.data.len (at least)"], a.data.len(), count, a.shape())?;
        check(["b.stride (at least)", "b.data.len (at least)"], b.data.len(), count, b.shape())?;
        let shape = [out.rows, out.cols, out.stride, out.batch_stride];
        check(["out.stride (at least)", "out.data.len (at least)"], out.data.len(), count, shape)?;
        let needed = extent(out.rows, out.cols, out.stride);
        if count > 1 && out.batch_stride < needed {
            let (what, found) = ("out.batch_stride (at least)", out.batch_stride);
            return Err(KernelError::Shape { op: OP, what, expected: needed, found });
        }
        let whole = MatMut::new(out.data, count, needed, out.batch_stride.max(needed))?;
        let at = |i: usize| {
            // SAFETY: matrix i, whose elements lie in row i of `whole`, which `run` gives to one product only.
            let out = unsafe {
                let mut row = whole.strip(i..i + 1, 0..whole.cols());
                MatMut::from_raw(row.as_mut_ptr(), out.rows, out.cols, out.stride)
            };
            let (a, b) = (a.at(i)?, b.at(i)?);
            let b = if transposed { Rhs::Transposed(b) } else { Rhs::Straight(b) };
            Ok(product(a, b, store, out))
        };
        run(self, team, count, at, scratch)
    }
}

/// Checks all products, then computes them.
fn run<'a>(
    kernels: Kernels,
    team: &Team<'_>,
    count: usize,
    at: impl Fn(usize) -> Result<Product<'a>, KernelError> + Sync,
    scratch: &mut DenseScratch,
) -> Result<(), KernelError> {
    let mut streamed = false;
    for i in 0..count {
        let product = at(i)?;
        product.check(kernels)?;
        streamed |= product.b[0].streamed;
    }
    let threads = team.threads().min(count);
    if threads < 2 || streamed || !balanced(count, threads) {
        return (0..count).try_for_each(|i| at(i)?.run(kernels, team, scratch));
    }
    let each = &mut scratch.each;
    each.resize_with(each.len().max(threads), DenseScratch::new);
    for i in 0..count {
        let product = at(i)?;
        let kind = product.check(kernels)?;
        let plan = product.plan(kernels, kind, 1);
        each[..threads].iter_mut().try_for_each(|scratch| product.reserve(&plan, kind, scratch))?;
    }
    let failed = OnceLock::new();
    for_units(team, MatMut::from_rows(&mut each[..threads], 1), count, |i, scratch| {
        let done = at(i).and_then(|product| product.run(kernels, &Team::serial(), &mut scratch[0]));
        if let Err(error) = done {
            // Nothing is left that could fail; if it does, the first error is as good as any.
            let _ = failed.set(error);
        }
    });
    failed.into_inner().map_or(Ok(()), Err)
}
