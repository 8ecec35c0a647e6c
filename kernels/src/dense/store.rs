//! The last step of a product: from a tile's sums to elements of C.
//!
//! ```text
//! C = act(alpha D + row_bias + bias) + beta C + residual
//! D = sum A B                                                            floats
//! D = scale_a scale_b (sum (A - zero_a)(B - zero_b))                     integers
//! ```
//!
//! Of two products, the first one's `act(..)` is a factor of the second one's.

#![allow(unsafe_code)]

use super::cells::MAX_NR;
use super::element::{ElementType, Target};
use super::output::GROUP;
use super::tiles::{Job, UnitSums};
use crate::activation::{Activation, activate_row};
use crate::convert::f16_from_f32_row;
use crate::error::KernelError;
use crate::matrix::MatRef;
use crate::quant::to_bf16_row;
use crate::rowwise::{Zip, require, zip_in_place};
use crate::simd::Simd;
use std::ops::Range;

/// One value for a whole matrix, or one per row of A, respectively per column of B.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum PerAxis<'a, T> {
    /// The same everywhere.
    All(T),
    /// One per row (of A) or column (of B).
    Each(&'a [T]),
}

impl<T: Copy> PerAxis<'_, T> {
    #[inline(always)]
    fn at(&self, i: usize) -> T {
        match self {
            PerAxis::All(x) => *x,
            PerAxis::Each(x) => x[i],
        }
    }

    fn check(&self, op: &'static str, what: &'static str, len: usize) -> Result<(), KernelError> {
        match self {
            PerAxis::All(_) => Ok(()),
            PerAxis::Each(x) => require(op, what, len, x.len()),
        }
    }
}

/// What the integers of a product stand for: `a = scale_a (A - zero_a)`, `b = scale_b (B - zero_b)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dequantize<'a> {
    /// Scale of A, per matrix or row.
    pub scale_a: PerAxis<'a, f32>,
    /// Zero point of A, per matrix or row.
    pub zero_a: PerAxis<'a, i32>,
    /// Scale of B, per matrix or column.
    pub scale_b: PerAxis<'a, f32>,
    /// Zero point of B, per matrix or column.
    pub zero_b: PerAxis<'a, i32>,
}

impl Default for Dequantize<'_> {
    fn default() -> Self {
        let (scale, zero) = (PerAxis::All(1.0), PerAxis::All(0));
        Dequantize { scale_a: scale, zero_a: zero, scale_b: scale, zero_b: zero }
    }
}

/// What happens to a product on its way to C: `C = act(alpha D + row_bias + bias) + beta C + residual`.
///
/// ```
/// use gable_kernels::dense::Store;
/// let with_bias = Store { bias: Some(&[1.0, 2.0]), ..Store::default() };
/// assert_eq!((with_bias.alpha, with_bias.beta), (1.0, 0.0));
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Store<'a> {
    /// Factor of the product.
    pub alpha: f32,
    /// Factor of what C holds; 0 means that C is not read, whatever it holds.
    pub beta: f32,
    /// Added to every row: one value per column of C.
    pub bias: Option<&'a [f32]>,
    /// Added to every column: one value per row of C.
    pub row_bias: Option<&'a [f32]>,
    /// Applied after the biases.
    pub activation: Option<Activation>,
    /// Added in the end, of C's shape.
    pub residual: Option<MatRef<'a, f32>>,
    /// Integers only: what they stand for.
    pub dequantize: Dequantize<'a>,
}

impl Default for Store<'_> {
    fn default() -> Self {
        Store {
            alpha: 1.0,
            beta: 0.0,
            bias: None,
            row_bias: None,
            activation: None,
            residual: None,
            dequantize: Dequantize::default(),
        }
    }
}

impl Store<'_> {
    /// Checks the lengths for a C of `m x n`, and what C's type allows, for a product of integers or not.
    pub(super) fn check(
        &self,
        op: &'static str,
        [m, n]: [usize; 2],
        integer: bool,
        out: &Target<'_>,
    ) -> Result<(), KernelError> {
        if let Some(bias) = self.bias {
            require(op, "bias.len", n, bias.len())?;
        }
        if let Some(bias) = self.row_bias {
            require(op, "row_bias.len", m, bias.len())?;
        }
        if let Some(residual) = self.residual {
            require(op, "residual.rows", m, residual.rows())?;
            require(op, "residual.cols", n, residual.cols())?;
        }
        let Dequantize { scale_a, zero_a, scale_b, zero_b } = &self.dequantize;
        scale_a.check(op, "dequantize.scale_a.len", m)?;
        zero_a.check(op, "dequantize.zero_a.len", m)?;
        scale_b.check(op, "dequantize.scale_b.len", n)?;
        zero_b.check(op, "dequantize.zero_b.len", n)?;
        let refused = |what, found: String, allowed| Err(KernelError::Value { op, what, found, allowed });
        if !integer && self.dequantize != Dequantize::default() {
            return refused("dequantize", "given".into(), "only for products of integers");
        }
        if let Some(scales) = &out.scales {
            require(op, "out.scales.rows", m, scales.rows)?;
            require(op, "out.scales.cols", n.div_ceil(GROUP), scales.cols)?;
            if self.beta != 0.0 {
                return refused("beta", self.beta.to_string(), "0 where C is int8 groups");
            }
        }
        if out.element == ElementType::I32 {
            if !integer {
                return refused(
                    "out's element type",
                    "i32".into(),
                    "f32, f16 or bf16 for products of floats",
                );
            }
            let plain = self.alpha == 1.0 && (self.beta == 0.0 || self.beta == 1.0);
            if !plain {
                return refused(
                    "alpha, beta",
                    format!("{}, {}", self.alpha, self.beta),
                    "1 and 0 or 1 where C is i32",
                );
            }
            let floats = self.bias.is_some()
                || self.row_bias.is_some()
                || self.activation.is_some()
                || self.residual.is_some()
                || self.dequantize != Dequantize::default();
            if floats {
                return refused("store", "with floats".into(), "nothing but beta where C is i32");
            }
        }
        Ok(())
    }

    /// Checks a store that makes a factor of C.
    pub(super) fn check_factor(&self, op: &'static str) -> Result<(), KernelError> {
        if self.beta != 0.0 || self.residual.is_some() {
            let found = format!("beta {}, residual {}", self.beta, self.residual.is_some());
            let allowed = "neither in the first of two stores";
            return Err(KernelError::Value { op, what: "store", found, allowed });
        }
        Ok(())
    }

    /// Whether the tile's sums are C's elements, added to them or not.
    pub(crate) fn is_plain(&self) -> bool {
        self.alpha == 1.0
            && self.beta == 0.0
            && self.bias.is_none()
            && self.row_bias.is_none()
            && self.activation.is_none()
            && self.residual.is_none()
    }

    /// Whether the store reads what B's columns sum to.
    fn needs_column_sums(&self) -> bool {
        self.dequantize.zero_a != PerAxis::All(0)
    }
}

/// `x y`
#[derive(Clone, Copy)]
struct Times;
impl Zip for Times {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, x: S::F32, y: S::F32) -> S::F32 {
        s.mul(x, y)
    }
}

/// `x + factor y`
#[derive(Clone, Copy)]
struct PlusTimes(f32);
impl Zip for PlusTimes {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, x: S::F32, y: S::F32) -> S::F32 {
        s.mul_add(y, s.splat(self.0), x)
    }
}

/// Leaf: stores the sums of a unit into the columns `cols` and the rows `rows` (of the block of A) of C.
#[inline(always)]
pub(crate) fn dense_store<S: Simd>(
    s: S,
    job: &Job<'_>,
    unit: &UnitSums<'_>,
    rows: Range<usize>,
    cols: Range<usize>,
) {
    for from in cols.clone().step_by(MAX_NR) {
        let at = from - cols.start;
        let to = (from + MAX_NR).min(cols.end);
        let columns = unit.columns.map(|columns| columns.get(at..).unwrap_or(&[]));
        for (i, row) in rows.clone().enumerate() {
            let sums = unit.sums.map(|sums| &sums.row(i)[at..]);
            store_row(s, job, sums, job.first_row + row, from..to, columns);
        }
    }
}

/// Of two products the first one's sums come first; of one the second ones are not read.
#[inline(always)]
fn store_row<S: Simd>(
    s: S,
    job: &Job<'_>,
    sums: [&[f32]; 2],
    row: usize,
    cols: Range<usize>,
    column_sums: [&[i32]; 2],
) {
    let n = cols.len();
    if job.out.element == ElementType::I32 {
        let mut exact = [0_i32; MAX_NR];
        let exact = &mut exact[..n];
        exact_sums(job, sums[0], column_sums[0], exact);
        // SAFETY: C holds i32, and this unit's elements are its own.
        let c = unsafe { job.out.elements::<i32>(row, cols.start, cols.end) };
        if job.sides[0].store.beta == 0.0 {
            c.copy_from_slice(exact);
        } else {
            c.iter_mut().zip(exact).for_each(|(c, x)| *c = c.wrapping_add(*x));
        }
        return;
    }
    let mut x = [0.0_f32; MAX_NR];
    let x = &mut x[..n];
    value(s, job, job.sides[0].store, sums[0], row, cols.clone(), column_sums[0], x);
    let mut store = job.sides[0].store;
    if let [_, second] = job.sides {
        let mut factor = [0.0_f32; MAX_NR];
        let factor = &mut factor[..n];
        store = second.store;
        value(s, job, store, sums[1], row, cols.clone(), column_sums[1], factor);
        zip_in_place(s, x, factor, Times);
    }
    land(s, job, store, x, row, cols);
}

/// `x = act(alpha D + biases)`
#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn value<S: Simd>(
    s: S,
    job: &Job<'_>,
    store: &Store<'_>,
    sums: &[f32],
    row: usize,
    cols: Range<usize>,
    column_sums: &[i32],
    x: &mut [f32],
) {
    if job.kind.is_integer() {
        let mut exact = [0_i32; MAX_NR];
        let exact = &mut exact[..x.len()];
        exact_sums(job, sums, column_sums, exact);
        dequantize(store, exact, row, cols.clone(), column_sums, job, x);
    } else {
        x.copy_from_slice(&sums[..x.len()]);
    }
    if store.alpha != 1.0 {
        x.iter_mut().for_each(|x| *x *= store.alpha);
    }
    if let Some(bias) = store.row_bias {
        let bias = bias[row];
        x.iter_mut().for_each(|x| *x += bias);
    }
    if let Some(bias) = store.bias {
        zip_in_place(s, x, &bias[cols], PlusTimes(1.0));
    }
    if let Some(activation) = store.activation {
        activate_row(s, activation, x);
    }
}

/// The true sums: see the table of [`cells`](super::cells).
#[inline(always)]
fn exact_sums(job: &Job<'_>, sums: &[f32], column_sums: &[i32], exact: &mut [i32]) {
    exact.copy_from_slice(&bytemuck::cast_slice(sums)[..exact.len()]);
    if job.unsigned_a && job.offset_by_128() {
        for (exact, column) in exact.iter_mut().zip(column_sums) {
            *exact = exact.wrapping_add(column.wrapping_mul(128));
        }
    }
}

/// `x = scale_a scale_b (sum a b - zero_a sum b - zero_b sum a + K zero_a zero_b)`, the bracket in i64.
#[inline(always)]
fn dequantize(
    store: &Store<'_>,
    exact: &[i32],
    row: usize,
    cols: Range<usize>,
    column_sums: &[i32],
    job: &Job<'_>,
    x: &mut [f32],
) {
    let Dequantize { scale_a, zero_a, scale_b, zero_b } = &store.dequantize;
    let (scale_a, zero_a) = (scale_a.at(row), i64::from(zero_a.at(row)));
    if *zero_b == PerAxis::All(0) && !store.needs_column_sums() {
        x.iter_mut().zip(exact).for_each(|(x, exact)| *x = *exact as f32);
    } else {
        // Sum of zero_a - a.
        let shifted = job.blocks.k as i64 * zero_a - i64::from(job.true_row_sum(row));
        for (i, x) in x.iter_mut().enumerate() {
            let zero_b = i64::from(zero_b.at(cols.start + i));
            *x = (i64::from(exact[i]) - zero_a * i64::from(column_sums[i]) + zero_b * shifted) as f32;
        }
    }
    match scale_b {
        PerAxis::All(scale_b) => x.iter_mut().for_each(|x| *x *= scale_a * scale_b),
        PerAxis::Each(scale_b) => {
            x.iter_mut().zip(&scale_b[cols]).for_each(|(x, scale_b)| *x *= scale_a * scale_b);
        }
    }
}

/// From the product's values to C's.
#[inline(always)]
fn land<S: Simd>(s: S, job: &Job<'_>, store: &Store<'_>, x: &mut [f32], row: usize, cols: Range<usize>) {
    if store.beta != 0.0 {
        add_old(s, job.out, store.beta, row, cols.clone(), x);
    }
    if let Some(residual) = store.residual {
        zip_in_place(s, x, &residual.row(row)[cols.clone()], PlusTimes(1.0));
    }
    // SAFETY: C's type is matched, and this unit's elements are its own.
    unsafe {
        match job.out.element {
            ElementType::F16 => f16_from_f32_row(s, x, job.out.elements::<u16>(row, cols.start, cols.end)),
            ElementType::Bf16 => to_bf16_row(s, x, job.out.elements::<u16>(row, cols.start, cols.end)),
            ElementType::I8 => to_groups(job.out, x, row, cols),
            _ => job.out.elements::<f32>(row, cols.start, cols.end).copy_from_slice(x),
        }
    }
}

/// Quantizes to int8 groups; the columns begin with one.
///
/// # Safety
/// C is int8 groups, and nobody else may use these elements and their scales meanwhile.
#[inline(always)]
unsafe fn to_groups(out: Target<'_>, x: &[f32], row: usize, cols: Range<usize>) {
    let Some(scales) = out.scales else { return };
    for (i, x) in x.chunks(GROUP).enumerate() {
        let first = cols.start + i * GROUP;
        let (mut largest, mut nan) = (0.0_f32, false);
        for x in x {
            nan |= x.is_nan();
            largest = if x.abs() > largest { x.abs() } else { largest };
        }
        let scale = if nan { f32::NAN } else { largest / 127.0 };
        let inverse = if scale > f32::MIN_POSITIVE { 1.0 / scale } else { 0.0 };
        // SAFETY: the caller's promise.
        let q = unsafe { out.elements::<i8>(row, first, first + x.len()) };
        for (q, x) in q.iter_mut().zip(x) {
            *q = (x * inverse).round_ties_even() as i8;
        }
        // SAFETY: the caller's promise.
        unsafe { scales.set(row, first / GROUP, scale) };
    }
}

/// `x += beta C`
#[inline(always)]
fn add_old<S: Simd>(s: S, out: Target<'_>, beta: f32, row: usize, cols: Range<usize>, x: &mut [f32]) {
    let mut old = [0.0_f32; MAX_NR];
    let old = &mut old[..cols.len()];
    // SAFETY: C's type is matched, and this unit's elements are its own.
    unsafe {
        match out.element {
            ElementType::F16 => {
                crate::convert::f32_from_f16_row(s, out.elements::<u16>(row, cols.start, cols.end), old);
            }
            ElementType::Bf16 => {
                crate::convert::f32_from_bf16_row(s, out.elements::<u16>(row, cols.start, cols.end), old);
            }
            _ => old.copy_from_slice(out.elements::<f32>(row, cols.start, cols.end)),
        }
    }
    zip_in_place(s, x, old, PlusTimes(beta));
}
