//! RMSNorm and LayerNorm of rows.
//!
//! The sums of squares are taken in f32, in 4 x 16 interleaved lanes, which is fast and, being a sum of positive
//! numbers in many short chains, accurate. It fails when the squares leave f32's range: a row of 1e20 would
//! overflow, one of 1e-30 would vanish. Such a sum shows, so it is looked at after the fact, and only if it lies outside
//! 2^-60 .. 2^100 the row is read again, multiplied by the power of two that brings its largest value to about one
//! (the idea of BLAS's `nrm2`; Blue 1978). Ordinary rows pay one comparison.
//!
//! ```text
//! rms_norm     out = w x / sqrt(mean x^2 + eps)                                  (Zhang and Sennrich 2019)
//! layer_norm   out = w (x - mean) / sqrt(mean (x - mean)^2 + eps) + b            (Ba et al. 2016)
//! ```
//!
//! The few operations per row that are not per element (mean, root, reciprocal) are done in f64.

mod prepared;

use crate::error::KernelError;
use crate::isa::Kernels;
use crate::matrix::{MatMut, MatRef, for_rows};
use crate::mutant::mutant;
use crate::pool::Team;
use crate::rowwise::{Zip, load, load_tail, require, store, store_tail, zip, zip_add, zip_in_place};
use crate::simd::{LANES, Simd};

/// Sums of squares between these are exact enough as they are: no square that matters has left f32's normal range.
pub(crate) const SAFE_SUM: std::ops::Range<f32> = 8.673_617e-19..1.267_650_6e30; // 2^-60 .. 2^100

/// Sum of `(scale x)^2`. Ordinary rows have a scale of 1, which is not multiplied with.
#[inline(always)]
pub(crate) fn sum_of_squares<S: Simd>(s: S, x: &[f32], scale: f32) -> f32 {
    if scale == 1.0 { squares::<S, false>(s, x, scale) } else { squares::<S, true>(s, x, scale) }
}

#[inline(always)]
fn squares<S: Simd, const SCALED: bool>(s: S, x: &[f32], scale: f32) -> f32 {
    let scale = s.splat(scale);
    let mut sums = [s.splat(0.0); 4];
    let (blocks, rest) = x.as_chunks::<{ 4 * LANES }>();
    for block in blocks {
        let (vectors, _) = block.as_chunks::<LANES>();
        for (sum, v) in sums.iter_mut().zip(vectors) {
            let v = if SCALED { s.mul(load(s, v), scale) } else { load(s, v) };
            *sum = s.mul_add(v, v, *sum);
        }
    }
    let (vectors, tail) = rest.as_chunks::<LANES>();
    for v in vectors {
        let v = if SCALED { s.mul(load(s, v), scale) } else { load(s, v) };
        sums[0] = s.mul_add(v, v, sums[0]);
    }
    let v = load_tail(s, tail, 0.0);
    let v = if SCALED { s.mul(v, scale) } else { v };
    sums[1] = s.mul_add(v, v, sums[1]);
    s.sum(s.add(s.add(sums[0], sums[2]), s.add(sums[1], sums[3])))
}

/// A power of two that brings the row's largest magnitude to 1..2 (0.5 and up near the ends of the range); 1 if the
/// largest is 0, infinite or NaN.
#[inline(always)]
pub(crate) fn power_of_two_for(x: &[f32]) -> f32 {
    let mut largest = 0.0f32;
    for v in x {
        largest = if v.abs() > largest { v.abs() } else { largest };
    }
    if largest == 0.0 || largest.is_infinite() {
        return 1.0;
    }
    // 2^-126 stands for the denormals too; they come out smaller than 1, but far from vanishing.
    let exponent = (largest.to_bits() >> 23).max(1);
    f32::from_bits((254 - exponent).max(1) << 23)
}

/// `(x scale) factor weight`, where `scale` is a power of two.
#[derive(Clone, Copy)]
struct Rescaled {
    scale: f32,
    factor: f32,
}
impl Zip for Rescaled {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, x: S::F32, weight: S::F32) -> S::F32 {
        let x = s.mul(x, s.splat(self.scale));
        s.mul(s.mul(x, s.splat(self.factor)), weight)
    }
}

/// `x factor weight`
#[derive(Clone, Copy)]
struct Scaled(f32);
impl Zip for Scaled {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, x: S::F32, weight: S::F32) -> S::F32 {
        s.mul(s.mul(x, s.splat(self.0)), weight)
    }
}

/// `1 / sqrt(sum / n + eps)` of values that had been multiplied by `scale`, to be applied to such values.
#[inline(always)]
pub(crate) fn inverse_root(sum: f32, n: usize, scale: f32, eps: f32) -> f32 {
    let scale = f64::from(scale);
    let factor = 1.0 / (f64::from(sum) / n as f64 + f64::from(eps) * scale * scale).sqrt();
    // Only a constant row of huge values gets here: its differences are 0 and must stay so.
    if factor.is_finite() && factor > f64::from(f32::MAX) { f32::MAX } else { factor as f32 }
}

/// What a row is to be multiplied with.
#[inline(always)]
fn rms_factor<S: Simd>(s: S, x: &[f32], eps: f32) -> Rescaled {
    let sum = sum_of_squares(s, x, 1.0);
    if SAFE_SUM.contains(&sum) || mutant("squares beyond the range of f32 taken as they are") {
        return Rescaled { scale: 1.0, factor: inverse_root(sum, x.len(), 1.0, eps) };
    }
    let scale = power_of_two_for(x);
    let sum = sum_of_squares(s, x, scale);
    Rescaled { scale, factor: inverse_root(sum, x.len(), scale, eps) }
}

/// RMSNorm of one row.
#[inline(always)]
pub(crate) fn rms_row<S: Simd>(s: S, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let f = rms_factor(s, x, eps);
    if f.scale == 1.0 { zip(s, x, weight, out, Scaled(f.factor)) } else { zip(s, x, weight, out, f) }
}

/// RMSNorm of one row in place.
#[inline(always)]
pub(crate) fn rms_row_in_place<S: Simd>(s: S, x: &mut [f32], weight: &[f32], eps: f32) {
    let f = rms_factor(s, x, eps);
    if f.scale == 1.0 { zip_in_place(s, x, weight, Scaled(f.factor)) } else { zip_in_place(s, x, weight, f) }
}

/// Adds the RMSNorm of one row to another.
#[inline(always)]
pub(crate) fn rms_row_add<S: Simd>(s: S, x: &[f32], weight: &[f32], eps: f32, residual: &mut [f32]) {
    let f = rms_factor(s, x, eps);
    if f.scale == 1.0 {
        zip_add(s, x, weight, residual, Scaled(f.factor));
    } else {
        zip_add(s, x, weight, residual, f);
    }
}

/// Sum of `scale x`.
#[inline(always)]
fn sum<S: Simd>(s: S, x: &[f32], scale: f32) -> f32 {
    let scale = s.splat(scale);
    let mut sums = [s.splat(0.0); 4];
    let (blocks, rest) = x.as_chunks::<{ 4 * LANES }>();
    for block in blocks {
        let (vectors, _) = block.as_chunks::<LANES>();
        for (sum, v) in sums.iter_mut().zip(vectors) {
            *sum = s.mul_add(load(s, v), scale, *sum);
        }
    }
    let (vectors, tail) = rest.as_chunks::<LANES>();
    for v in vectors {
        sums[0] = s.mul_add(load(s, v), scale, sums[0]);
    }
    sums[1] = s.mul_add(load_tail(s, tail, 0.0), scale, sums[1]);
    s.sum(s.add(s.add(sums[0], sums[2]), s.add(sums[1], sums[3])))
}

/// Sums of `d` and `d^2`, `d = scale x - mean`.
#[inline(always)]
fn moments<S: Simd>(s: S, x: &[f32], scale: f32, mean: f32) -> (f32, f32) {
    let (factor, shift) = (s.splat(scale), s.splat(mean));
    let mut sums = [s.splat(0.0); 2];
    let mut squares = [s.splat(0.0); 2];
    let (blocks, rest) = x.as_chunks::<{ 2 * LANES }>();
    for block in blocks {
        let (vectors, _) = block.as_chunks::<LANES>();
        for ((sum, square), v) in sums.iter_mut().zip(&mut squares).zip(vectors) {
            let d = s.sub(s.mul(load(s, v), factor), shift);
            *sum = s.add(*sum, d);
            *square = s.mul_add(d, d, *square);
        }
    }
    let (vectors, tail) = rest.as_chunks::<LANES>();
    for v in vectors {
        let d = s.sub(s.mul(load(s, v), factor), shift);
        sums[0] = s.add(sums[0], d);
        squares[0] = s.mul_add(d, d, squares[0]);
    }
    // Padding must end up as d = 0, so the differences are padded and not the values.
    let mut lanes = [0.0; LANES];
    for (lane, x) in lanes.iter_mut().zip(tail) {
        *lane = x * scale - mean;
    }
    let d = load(s, &lanes);
    sums[1] = s.add(sums[1], d);
    squares[1] = s.mul_add(d, d, squares[1]);
    (s.sum(s.add(sums[0], sums[1])), s.sum(s.add(squares[0], squares[1])))
}

/// How one row is normalized: `((x scale - mean) - correction) factor`.
#[derive(Clone, Copy)]
struct Centred {
    scale: f32,
    mean: f32,
    correction: f32,
    factor: f32,
}

impl Centred {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, x: S::F32, weight: S::F32, bias: S::F32) -> S::F32 {
        let d = s.sub(s.mul(x, s.splat(self.scale)), s.splat(self.mean));
        let d = s.sub(d, s.splat(self.correction));
        s.mul_add(s.mul(d, s.splat(self.factor)), weight, bias)
    }
}

/// LayerNorm of one row. The mean is rounded to f32; what that leaves over is found in the second pass and taken
/// off as a correction, so rows with a large mean keep their variance (Chan, Golub and LeVeque 1983).
#[inline(always)]
pub(crate) fn layer_row<S: Simd>(s: S, x: &[f32], weight: &[f32], bias: &[f32], eps: f32, out: &mut [f32]) {
    assert!(x.len() == out.len() && weight.len() == out.len() && bias.len() == out.len());
    let n = x.len() as f32;
    let mut scale = 1.0;
    let mut mean = sum(s, x, scale) / n;
    let (mut sum_d, mut squares) = moments(s, x, scale, mean);
    if !SAFE_SUM.contains(&squares) {
        scale = power_of_two_for(x);
        mean = sum(s, x, scale) / n;
        (sum_d, squares) = moments(s, x, scale, mean);
    }
    let correction = sum_d / n;
    let squares = (squares - sum_d * correction).max(0.0) + squares * 0.0; // a NaN passes by the second term
    let f = Centred { scale, mean, correction, factor: inverse_root(squares, x.len(), scale, eps) };

    let (body, tail) = out.as_chunks_mut::<LANES>();
    let (x_body, x_tail) = x.as_chunks::<LANES>();
    let (weight_body, weight_tail) = weight.as_chunks::<LANES>();
    let (bias_body, bias_tail) = bias.as_chunks::<LANES>();
    for (((out, x), weight), bias) in body.iter_mut().zip(x_body).zip(weight_body).zip(bias_body) {
        let y = f.apply(s, load(s, x), load(s, weight), load(s, bias));
        store(s, out, y);
    }
    if !tail.is_empty() {
        let [x, weight, bias] = [x_tail, weight_tail, bias_tail].map(|t| load_tail(s, t, 0.0));
        let y = f.apply(s, x, weight, bias);
        store_tail(s, tail, y);
    }
}

pub(crate) fn check_eps(op: &'static str, eps: f32) -> Result<(), KernelError> {
    if eps.is_finite() && eps >= 0.0 {
        return Ok(());
    }
    Err(KernelError::Value { op, what: "eps", found: eps.to_string(), allowed: "finite numbers from 0 up" })
}

fn check_weight(op: &'static str, x: MatRef<'_>, weight: &[f32], eps: f32) -> Result<(), KernelError> {
    check_eps(op, eps)?;
    require(op, "weight.len", x.cols(), weight.len())
}

fn check(
    op: &'static str,
    x: MatRef<'_>,
    weight: &[f32],
    eps: f32,
    out: &MatMut<'_>,
) -> Result<(), KernelError> {
    check_weight(op, x, weight, eps)?;
    require(op, "out.cols", x.cols(), out.cols())?;
    require(op, "out.rows", x.rows(), out.rows())
}

/// # Norms
impl Kernels {
    /// RMSNorm of every row.
    ///
    /// `out_ij = weight_j x_ij / sqrt(1/n sum_k x_ik^2 + eps)`, `n` the number of columns
    ///
    /// **Shapes:** `x` and `out` are `[rows, n]`, `weight` has `n` elements. Where a model adds one to the weight
    /// (Gemma), the caller has done so.
    /// **Accuracy:** relative `(8 + n/32) 2^-23`, for any finite row: values near either end of f32's range neither
    /// overflow nor vanish on the way.
    /// **Special values:** a NaN makes its row NaN; a row of zeros gives zeros, or NaN if `eps` is 0.
    /// **Errors:** [`KernelError::Shape`] if the shapes differ, [`KernelError::Value`] if `eps` is negative or not finite.
    /// **Threads:** rows are spread over the team; a row's bits depend on that row alone.
    /// **Source:** Zhang and Sennrich 2019, arXiv 1910.07467.
    ///
    /// ```
    /// use gable_kernels::{Kernels, MatMut, MatRef, Team};
    /// let mut out = [0.0; 2];
    /// let x = MatRef::from_rows(&[3e18, 3e18], 2);
    /// Kernels::best().rms_norm(&Team::serial(), x, &[1.0, 2.0], 1e-6, MatMut::from_rows(&mut out, 2))?;
    /// assert_eq!(out, [1.0, 2.0]);
    /// # Ok::<(), gable_kernels::KernelError>(())
    /// ```
    pub fn rms_norm(
        self,
        team: &Team<'_>,
        x: MatRef<'_>,
        weight: &[f32],
        eps: f32,
        out: MatMut<'_>,
    ) -> Result<(), KernelError> {
        check("rms_norm", x, weight, eps, &out)?;
        for_rows(team, out, |rows, mut out| {
            for (i, row) in rows.enumerate() {
                self.table.rms_norm_row(x.row(row), weight, eps, out.row_mut(i));
            }
        });
        Ok(())
    }

    /// RMSNorm of every segment of every row, in place: whole rows, or each head of a query or key row by itself
    /// (QK-norm).
    ///
    /// **Shapes:** `x` is `[rows, segments * weight.len()]`; each segment of `weight.len()` columns is normed for
    /// itself, as a row of [`Kernels::rms_norm`] would be and with the same bits. Accuracy, special values and
    /// threads as there.
    /// **Errors:** [`KernelError::Shape`] if the columns are no multiple of `weight.len()`, [`KernelError::Value`] for `eps`.
    ///
    /// ```
    /// use gable_kernels::{Kernels, MatMut, Team};
    /// let mut x = [4.0, 4.0, 8.0, 8.0]; // one row, two heads of two
    /// Kernels::best().rms_norm_in_place(&Team::serial(), MatMut::from_rows(&mut x, 4), &[1.0, 3.0], 0.0)?;
    /// assert_eq!(x, [1.0, 3.0, 1.0, 3.0]);
    /// # Ok::<(), gable_kernels::KernelError>(())
    /// ```
    pub fn rms_norm_in_place(
        self,
        team: &Team<'_>,
        x: MatMut<'_>,
        weight: &[f32],
        eps: f32,
    ) -> Result<(), KernelError> {
        const OP: &str = "rms_norm_in_place";
        check_eps(OP, eps)?;
        if weight.is_empty() || !x.cols().is_multiple_of(weight.len()) {
            let (expected, found) = (weight.len(), x.cols());
            return Err(KernelError::Shape { op: OP, what: "x.cols (a multiple of)", expected, found });
        }
        for_rows(team, x, |rows, mut x| {
            for i in 0..rows.len() {
                for segment in x.row_mut(i).chunks_exact_mut(weight.len()) {
                    self.table.rms_norm_row_in_place(segment, weight, eps);
                }
            }
        });
        Ok(())
    }

    /// Adds the RMSNorm of every row to another matrix: the norm behind a sublayer and its residual connection in
    /// one pass.
    ///
    /// `residual_ij += weight_j x_ij / sqrt(1/n sum_k x_ik^2 + eps)`
    ///
    /// The same bits as [`Kernels::rms_norm`] followed by [`Kernels::add`]; everything else as there.
    ///
    /// ```
    /// use gable_kernels::{Kernels, MatMut, MatRef, Team};
    /// let mut residual = [10.0, 10.0];
    /// let x = MatRef::from_rows(&[2.0, -2.0], 2);
    /// Kernels::best().rms_norm_add(&Team::serial(), x, &[1.0, 1.0], 0.0, MatMut::from_rows(&mut residual, 2))?;
    /// assert_eq!(residual, [11.0, 9.0]);
    /// # Ok::<(), gable_kernels::KernelError>(())
    /// ```
    pub fn rms_norm_add(
        self,
        team: &Team<'_>,
        x: MatRef<'_>,
        weight: &[f32],
        eps: f32,
        residual: MatMut<'_>,
    ) -> Result<(), KernelError> {
        check("rms_norm_add", x, weight, eps, &residual)?;
        for_rows(team, residual, |rows, mut residual| {
            for (i, row) in rows.enumerate() {
                self.table.rms_norm_row_add(x.row(row), weight, eps, residual.row_mut(i));
            }
        });
        Ok(())
    }

    /// LayerNorm of every row.
    ///
    /// `out_ij = weight_j (x_ij - mean_i) / sqrt(var_i + eps) + bias_j`, the variance over `n`, not `n - 1`
    ///
    /// **Shapes:** `x` and `out` are `[rows, n]`, `weight` and `bias` have `n` elements.
    /// **Accuracy:** absolute `(8 + n/32) 2^-23 |weight_j| max_k |x_ik| / sqrt(var_i + eps)`, for any
    /// finite row.
    /// **Special values:** a NaN makes its row NaN; a constant row gives `bias`, within that bound, or NaN if `eps` is 0.
    /// **Errors:** [`KernelError::Shape`] if the shapes differ, [`KernelError::Value`] if `eps` is negative or not finite.
    /// **Threads:** rows are spread over the team; a row's bits depend on that row alone.
    /// **Source:** Ba, Kiros and Hinton 2016, arXiv 1607.06450.
    ///
    /// ```
    /// use gable_kernels::{Kernels, MatMut, MatRef, Team};
    /// let mut out = [0.0; 2];
    /// let x = MatRef::from_rows(&[7.0, 9.0], 2);
    /// let out_rows = MatMut::from_rows(&mut out, 2);
    /// Kernels::best().layer_norm(&Team::serial(), x, &[1.0, 1.0], &[0.0, 10.0], 0.0, out_rows)?;
    /// assert_eq!(out, [-1.0, 11.0]);
    /// # Ok::<(), gable_kernels::KernelError>(())
    /// ```
    pub fn layer_norm(
        self,
        team: &Team<'_>,
        x: MatRef<'_>,
        weight: &[f32],
        bias: &[f32],
        eps: f32,
        out: MatMut<'_>,
    ) -> Result<(), KernelError> {
        check("layer_norm", x, weight, eps, &out)?;
        require("layer_norm", "bias.len", x.cols(), bias.len())?;
        for_rows(team, out, |rows, mut out| {
            for (i, row) in rows.enumerate() {
                self.table.layer_norm_row(x.row(row), weight, bias, eps, out.row_mut(i));
            }
        });
        Ok(())
    }
}
