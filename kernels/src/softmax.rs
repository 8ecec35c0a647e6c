//! Softmax of rows.
//!
//! ```text
//! t = scale x + mask          (recomputed when needed rather than stored)
//! m = max t                   pass 1: reads
//! e = exp(t - m), Z = sum e   pass 2: reads, writes e
//! out = e / Z                 pass 3: reads, writes        log-softmax: (t - m) - ln Z, and pass 2 writes nothing
//! ```
//!
//! Subtracting the maximum keeps exp in range whatever the logits are. `t - m` is one fused operation per
//! element; where the CPU fuses, `m` is the rounded maximum of `t`, and the difference that makes is one factor
//! common to the row, which cancels in `e / Z`.
//!
//! NaN needs no test: the maximum ignores it, its own `e` is NaN, and so are the sum and the row. The same holds for
//! `inf - inf`, hence for a row of nothing but `-inf`: as in IEEE arithmetic and in PyTorch it gives NaN. (Fused
//! attention, where such rows are ordinary, defines them as zero.)

use crate::error::KernelError;
use crate::isa::Kernels;
use crate::math::exp_nonpositive;
use crate::matrix::{MatMut, MatRef, for_rows};
use crate::mutant::mutant;
use crate::pool::Team;
use crate::rowwise::{Map, Times, Zip, load, load_tail, map, require, store, zip_in_place};
use crate::simd::{LANES, Simd};

/// Largest `scale x`; NaN is ignored.
#[inline(always)]
fn max<S: Simd>(s: S, x: &[f32], scale: S::F32) -> f32 {
    // Four maxima at a time: one would wait for the instruction's latency.
    let mut m = [s.splat(f32::NEG_INFINITY); 4];
    let (blocks, rest) = x.as_chunks::<{ 4 * LANES }>();
    for block in blocks {
        let (vectors, _) = block.as_chunks::<LANES>();
        for (m, v) in m.iter_mut().zip(vectors) {
            *m = s.max(s.mul(load(s, v), scale), *m);
        }
    }
    let (vectors, tail) = rest.as_chunks::<LANES>();
    for v in vectors {
        m[0] = s.max(s.mul(load(s, v), scale), m[0]);
    }
    let mut m = s.max(s.max(m[0], m[1]), s.max(m[2], m[3]));
    if let Some(&first) = tail.first() {
        m = s.max(s.mul(load_tail(s, tail, first), scale), m);
    }
    s.max_lane(m)
}

/// Largest `scale x + mask`; NaN is ignored.
#[inline(always)]
fn masked_max<S: Simd>(s: S, x: &[f32], scale: S::F32, mask: &[f32]) -> f32 {
    let mut m = s.splat(f32::NEG_INFINITY);
    let (body, tail) = x.as_chunks::<LANES>();
    let (mask_body, mask_tail) = mask.as_chunks::<LANES>();
    for (v, mask) in body.iter().zip(mask_body) {
        m = s.max(s.mul_add(load(s, v), scale, load(s, mask)), m);
    }
    let t = s.mul_add(load_tail(s, tail, 0.0), scale, load_tail(s, mask_tail, f32::NEG_INFINITY));
    s.max_lane(s.max(t, m))
}

/// The sum of `exp(t - m)`; the exponentials themselves go over `x` if `STORE`.
#[inline(always)]
fn shift<S: Simd, const STORE: bool>(s: S, x: &mut [f32], scale: S::F32, m: f32) -> f32 {
    let shift = s.splat(if mutant("maximum not subtracted") { 0.0 } else { -m });
    let mut sum = s.splat(0.0);
    let (body, tail) = x.as_chunks_mut::<LANES>();
    for v in body {
        let d = s.mul_add(load(s, v), scale, shift);
        let e = exp_nonpositive(s, d);
        sum = s.add(sum, e);
        if STORE {
            store(s, v, e);
        }
    }
    // A tail is padded with a value of its own, so that padding is no more above the maximum than the row is.
    if let Some(&first) = tail.first() {
        let d = s.mul_add(load_tail(s, tail, first), scale, shift);
        sum = s.add(sum, finish_tail::<S, STORE>(s, tail, d));
    }
    s.sum(sum)
}

/// As [`shift`], with a mask.
#[inline(always)]
fn masked_shift<S: Simd, const STORE: bool>(s: S, x: &mut [f32], scale: S::F32, mask: &[f32], m: f32) -> f32 {
    let shift = s.splat(m);
    let mut sum = s.splat(0.0);
    let (body, tail) = x.as_chunks_mut::<LANES>();
    let (mask_body, mask_tail) = mask.as_chunks::<LANES>();
    for (v, mask) in body.iter_mut().zip(mask_body) {
        let d = s.sub(s.mul_add(load(s, v), scale, load(s, mask)), shift);
        let e = exp_nonpositive(s, d);
        sum = s.add(sum, e);
        if STORE {
            store(s, v, e);
        }
    }
    if let (Some(&first), Some(&first_mask)) = (tail.first(), mask_tail.first()) {
        let t = s.mul_add(load_tail(s, tail, first), scale, load_tail(s, mask_tail, first_mask));
        sum = s.add(sum, finish_tail::<S, STORE>(s, tail, s.sub(t, shift)));
    }
    s.sum(sum)
}

/// A tail's exponentials, padded with zeros, and written over the tail if `STORE`.
#[inline(always)]
fn finish_tail<S: Simd, const STORE: bool>(s: S, tail: &mut [f32], d: S::F32) -> S::F32 {
    let e = exp_nonpositive(s, d);
    let mut lanes = [0.0; LANES];
    store(s, &mut lanes, e);
    if STORE {
        tail.copy_from_slice(&lanes[..tail.len()]);
    }
    load_tail(s, &lanes[..tail.len()], 0.0)
}

/// `(t - m) - log_sum`
#[derive(Clone, Copy)]
struct LogShift {
    scale: f32,
    m: f32,
    log_sum: f32,
}
impl Map for LogShift {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, x: S::F32) -> S::F32 {
        let d = s.mul_add(x, s.splat(self.scale), s.splat(-self.m));
        s.sub(d, s.splat(self.log_sum))
    }
}
impl Zip for LogShift {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, x: S::F32, mask: S::F32) -> S::F32 {
        let d = s.sub(s.mul_add(x, s.splat(self.scale), mask), s.splat(self.m));
        s.sub(d, s.splat(self.log_sum))
    }
}

/// Softmax of one row.
#[inline(always)]
pub(crate) fn row<S: Simd>(s: S, x: &mut [f32], scale: f32, mask: Option<&[f32]>) {
    let scale = s.splat(scale);
    let sum = match mask {
        None => {
            let m = max(s, x, scale);
            shift::<S, true>(s, x, scale, m)
        }
        Some(mask) => {
            assert_eq!(mask.len(), x.len());
            let m = masked_max(s, x, scale, mask);
            masked_shift::<S, true>(s, x, scale, mask, m)
        }
    };
    map(s, x, Times(1.0 / sum));
}

/// Logarithm of the softmax of one row.
#[inline(always)]
pub(crate) fn log_row<S: Simd>(s: S, x: &mut [f32], scale: f32, mask: Option<&[f32]>) {
    let factor = s.splat(scale);
    let log_sum = |sum: f32| f64::from(sum).ln() as f32;
    match mask {
        None => {
            let m = max(s, x, factor);
            let log_sum = log_sum(shift::<S, false>(s, x, factor, m));
            map(s, x, LogShift { scale, m, log_sum });
        }
        Some(mask) => {
            assert_eq!(mask.len(), x.len());
            let m = masked_max(s, x, factor, mask);
            let log_sum = log_sum(masked_shift::<S, false>(s, x, factor, mask, m));
            zip_in_place(s, x, mask, LogShift { scale, m, log_sum });
        }
    }
}

/// The mask's row for a row of `x`: its own, or the only one.
fn mask_row<'a>(mask: Option<MatRef<'a>>, i: usize) -> Option<&'a [f32]> {
    mask.map(|mask| mask.row(if mask.rows() == 1 { 0 } else { i }))
}

fn check(op: &'static str, scale: f32, mask: Option<MatRef<'_>>, x: &MatMut<'_>) -> Result<(), KernelError> {
    if !scale.is_finite() {
        return Err(KernelError::Value {
            op,
            what: "scale",
            found: scale.to_string(),
            allowed: "finite numbers",
        });
    }
    if let Some(mask) = mask {
        require(op, "mask.cols", x.cols(), mask.cols())?;
        if mask.rows() != 1 {
            require(op, "mask.rows (if not 1)", x.rows(), mask.rows())?;
        }
    }
    Ok(())
}

/// # Softmax
impl Kernels {
    /// Softmax of every row, in place.
    ///
    /// `x_ij = exp(t_ij) / sum_k exp(t_ik)` with `t = scale x + mask`; `scale` is one over the temperature.
    ///
    /// **Shapes:** `x` is `[rows, cols]`; `mask`, added after scaling, is `[rows, cols]` or `[1, cols]` for all rows.
    /// **Accuracy:** relative `(12 + cols / 16 + 2 |t| + 2 |t - max|) 2^-24`, results below 2^-126 become 0.
    /// **Special values:** `-inf` gives 0; a row with a NaN, with `+inf`, or of nothing but `-inf` becomes NaN; an
    /// empty row stays empty.
    /// **Errors:** [`KernelError::Shape`] if the mask does not fit, [`KernelError::Value`] if the scale is not finite.
    /// **Threads:** rows are spread over the team; a row's bits depend on that row alone.
    ///
    /// ```
    /// use gable_kernels::{Kernels, MatMut, Team};
    /// let mut x = [1.0, 1.0, f32::NEG_INFINITY, 1.0];
    /// Kernels::best().softmax(&Team::serial(), 1.0, None, MatMut::from_rows(&mut x, 2))?;
    /// assert_eq!(x, [0.5, 0.5, 0.0, 1.0]);
    /// # Ok::<(), gable_kernels::KernelError>(())
    /// ```
    pub fn softmax(
        self,
        team: &Team<'_>,
        scale: f32,
        mask: Option<MatRef<'_>>,
        x: MatMut<'_>,
    ) -> Result<(), KernelError> {
        check("softmax", scale, mask, &x)?;
        for_rows(team, x, |rows, mut x| {
            for (i, row) in rows.enumerate() {
                self.table.softmax_row(x.row_mut(i), scale, mask_row(mask, row));
            }
        });
        Ok(())
    }

    /// Logarithm of the softmax of every row, in place: log-probabilities of logits.
    ///
    /// `x_ij = t_ij - ln sum_k exp(t_ik)` with `t = scale x + mask`
    ///
    /// **Accuracy:** absolute `(12 + cols / 16) 2^-24 + 2^-23 (|t| + |result|)`; nothing underflows.
    /// **Special values:** `-inf` stays `-inf`; otherwise as [`Kernels::softmax`], as are shapes, errors and threads.
    ///
    /// ```
    /// use gable_kernels::{Kernels, MatMut, Team};
    /// let mut x = [0.0, -1000.0];
    /// Kernels::best().log_softmax(&Team::serial(), 1.0, None, MatMut::from_rows(&mut x, 2))?;
    /// assert_eq!(x, [0.0, -1000.0]);
    /// # Ok::<(), gable_kernels::KernelError>(())
    /// ```
    pub fn log_softmax(
        self,
        team: &Team<'_>,
        scale: f32,
        mask: Option<MatRef<'_>>,
        x: MatMut<'_>,
    ) -> Result<(), KernelError> {
        check("log_softmax", scale, mask, &x)?;
        for_rows(team, x, |rows, mut x| {
            for (i, row) in rows.enumerate() {
                self.table.log_softmax_row(x.row_mut(i), scale, mask_row(mask, row));
            }
        });
        Ok(())
    }
}
