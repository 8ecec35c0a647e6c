//! Leaves: a row of activations to int8 groups, 16 groups at a time.
//!
//! Scales are computed for sixteen groups in the lanes of one vector. So that nothing is added or compared across lanes,
//! what is to be folded comes together in a 4 x 4 arrangement: stripes by quarters of partial results of four groups,
//! of which a transposition by quarters makes the same quarter of all stripes. Nothing of it goes through memory: a vector
//! that is loaded across the borders of stored ones waits until these have left the core.

#![allow(unsafe_code)]

use super::Remainder;
use super::blocks::{SPAN, STRIPE};
use super::groups::{FINER, FINER_BITS, GROUP, GroupsRow, factor_at, half_group_at};
use crate::mutant::mutant;
use crate::simd::{LANES, Simd};

/// Values whose groups have their scales in one vector: four stripes, two spans.
const CHUNK: usize = LANES * GROUP;

/// Where a leaf writes one row.
pub(crate) struct QuantizedRow<'a> {
    pub(crate) q: &'a mut [i8],
    pub(crate) by32: GroupsRow<'a>,
    /// Empty where they are not wanted.
    pub(crate) by16: GroupsRow<'a>,
    /// Whether the row's largest magnitude is an outlier.
    pub(crate) has_outlier: bool,
}

/// The lanes as they lie in memory.
#[inline(always)]
fn cells<S: Simd>(s: S, v: S::F32) -> S::Bytes {
    let mut lanes = [0.0_f32; LANES];
    // SAFETY: 16 f32 are 64 bytes.
    unsafe {
        s.store(lanes.as_mut_ptr(), v);
        s.load_bytes(lanes.as_ptr().cast())
    }
}

/// The lanes that lie in memory like this.
#[inline(always)]
fn floats<S: Simd>(s: S, v: S::Bytes) -> S::F32 {
    let mut lanes = [0.0_f32; LANES];
    // SAFETY: 16 f32 are 64 bytes.
    unsafe {
        s.store_bytes(lanes.as_mut_ptr().cast(), v);
        s.load(lanes.as_ptr())
    }
}

/// Of four stripes' partial results, a vector for each quarter: the same quarter of all stripes.
#[inline(always)]
fn by_quarters<S: Simd>(s: S, stripes: [S::F32; 4]) -> [S::Bytes; 4] {
    let [ab_even, ab_odd] = s.deal_quarters(cells(s, stripes[0]), cells(s, stripes[1]));
    let [cd_even, cd_odd] = s.deal_quarters(cells(s, stripes[2]), cells(s, stripes[3]));
    let ([q0, q2], [q1, q3]) = (s.deal_quarters(ab_even, cd_even), s.deal_quarters(ab_odd, cd_odd));
    [q0, q1, q2, q3]
}

/// Sums of the sixteen groups of four that lie in a row.
#[inline(always)]
fn sums_of_quarters<S: Simd>(s: S, partial: [S::F32; 4]) -> S::F32 {
    let [a, b, c, d] = s.transpose_4x4(by_quarters(s, partial));
    s.add(s.add(floats(s, a), floats(s, b)), s.add(floats(s, c), floats(s, d)))
}

/// Largest magnitudes of the 16 groups from `x` on, of which there are `stripes` of four; zeros for the others.
///
/// # Safety
/// `x` must be readable for `stripes <= 4` stripes.
#[inline(always)]
unsafe fn largest_of_groups<S: Simd>(s: S, x: *const f32, stripes: usize) -> S::F32 {
    let mut partial = [s.splat(0.0); 4];
    for stripe in 0..4 {
        if stripe >= stripes {
            break;
        }
        let mut groups = [s.splat_cell(0); 4];
        for g in 0..4 {
            // SAFETY: a group of the stripe.
            let (a, b) = unsafe {
                let x = x.add(stripe * STRIPE + g * GROUP);
                let second = if mutant("largest of the first half only") { x } else { x.add(LANES) };
                (s.load(x), s.load(second))
            };
            groups[g] = cells(s, s.max(s.max(a, b), s.sub(s.splat(0.0), s.min(a, b))));
        }
        let [a, b, c, d] = s.transpose_4x4(groups);
        partial[stripe] = s.max(s.max(floats(s, a), floats(s, b)), s.max(floats(s, c), floats(s, d)));
    }
    let [a, b, c, d] = by_quarters(s, partial);
    s.max(s.max(floats(s, a), floats(s, b)), s.max(floats(s, c), floats(s, d)))
}

impl QuantizedRow<'_> {
    #[inline(always)]
    fn check(&self, len: usize) {
        let groups = len.div_ceil(CHUNK) * LANES;
        assert!(self.q.len() == len && len.is_multiple_of(STRIPE));
        assert!(self.by32.sum.len() >= groups && self.by32.factors.len() == 2 * self.by32.sum.len());
        assert!(self.by16.sum.is_empty() || self.by16.sum.len() >= 2 * groups);
        assert!(self.by16.factors.len() == 2 * self.by16.sum.len());
    }

    /// Quantizes the 16 groups from value `at`, which are at `x`, with these scales. Groups beyond the `stripes` that the
    /// row has from there get zeros.
    ///
    /// # Safety
    /// `x` must be readable for the stripes, which [`check`](QuantizedRow::check)ed rows must have.
    #[inline(always)]
    unsafe fn put<S: Simd>(&mut self, s: S, at: usize, x: *const f32, stripes: usize, scale: S::F32) {
        let (zero, ones, lowest) = (s.splat(0.0), s.splat_cell(0x0101_0101), s.splat(-127.0));
        let inverse = s.select_lt(s.splat(f32::MIN_POSITIVE), scale, s.div(s.splat(1.0), scale), zero);
        let (mut scales, mut inverses) = ([0.0_f32; LANES], [0.0_f32; LANES]);
        // Partial sums of the integers, of first and of second halves.
        let mut partial = [[zero; 4]; 2];
        // SAFETY: sixteen lanes each; stripes and halves within the row, as the caller promised.
        unsafe {
            s.store(scales.as_mut_ptr(), scale);
            s.store(inverses.as_mut_ptr(), inverse);
            for stripe in 0..4 {
                if stripe >= stripes {
                    break;
                }
                for half in 0..2 {
                    let mut v = [s.splat_i32(0); 4];
                    for g in 0..4 {
                        let x = s.load(x.add(stripe * STRIPE + g * GROUP + half * LANES));
                        // A second term may be half a step of the first: 128 of its own. Narrowing ends at 127.
                        v[g] = s.to_i32(s.max(s.mul(x, s.splat(inverses[4 * stripe + g])), lowest));
                    }
                    let q = s.narrow_i8(v);
                    s.store_bytes(self.q.as_mut_ptr().add(at + stripe * STRIPE + half * 64).cast(), q);
                    partial[half][stripe] = s.from_i32(s.dot_u8i8(s.splat_i32(0), ones, q));
                }
            }
        }
        // Sums of at most 32 small integers: exact in f32.
        let halves = [sums_of_quarters(s, partial[0]), sums_of_quarters(s, partial[1])];
        let sum = s.add(halves[0], halves[1]);
        let (mut sums, mut scaled) = ([0.0_f32; LANES], [0.0_f32; LANES]);
        // SAFETY: sixteen lanes each.
        unsafe {
            s.store(sums.as_mut_ptr(), sum);
            s.store(scaled.as_mut_ptr(), s.mul(scale, sum));
        }
        let group = at / GROUP;
        let factors = &mut self.by32.factors[2 * group..][..2 * LANES];
        for (span, factors) in factors.chunks_exact_mut(2 * SPAN / GROUP).enumerate() {
            factors[..8].copy_from_slice(&scales[8 * span..][..8]);
            factors[8..].copy_from_slice(&scaled[8 * span..][..8]);
        }
        whole(&sums, &mut self.by32.sum[group..][..LANES]);
        if !self.by16.sum.is_empty() {
            self.put_halves(s, group, &scales, scale, halves);
        }
    }

    /// The sums of the `stripes` from value `at` on, lane by lane: of what was put there and of `first`, the first term.
    ///
    /// # Safety
    /// As for [`put`](QuantizedRow::put), and `first` must be as long as the row.
    #[inline(always)]
    unsafe fn put_minus_sums<S: Simd>(&mut self, s: S, at: usize, first: &[i8], stripes: usize) {
        let (zero, ones) = (s.splat_i32(0), s.splat_cell(0x0101_0101));
        for stripe in at / STRIPE..at / STRIPE + stripes {
            let mut of_half = [zero; 2];
            for half in 0..2 {
                let at = stripe * STRIPE + half * 64;
                // SAFETY: the stripe is of both rows.
                let (first, second) = unsafe {
                    (
                        s.load_bytes(first.as_ptr().add(at).cast()),
                        s.load_bytes(self.q.as_ptr().add(at).cast()),
                    )
                };
                let first = s.shl_i32::<FINER_BITS>(s.dot_u8i8(zero, ones, first));
                of_half[half] = s.sub_i32(zero, s.dot_u8i8(first, ones, second));
            }
            let by32 = &mut self.by32.minus_sums[stripe * LANES..][..LANES];
            // SAFETY: sixteen lanes.
            unsafe { s.store_i32(by32.as_mut_ptr(), s.add_i32(of_half[0], of_half[1])) };
            if !self.by16.minus_sums.is_empty() {
                let by16 = &mut self.by16.minus_sums[stripe * 2 * LANES..][..2 * LANES];
                // SAFETY: twice sixteen lanes.
                unsafe {
                    s.store_i32(by16.as_mut_ptr(), of_half[0]);
                    s.store_i32(by16.as_mut_ptr().add(LANES), of_half[1]);
                }
            }
        }
    }

    /// The constants of the 32 half groups from group `group` on.
    #[inline(always)]
    fn put_halves<S: Simd>(
        &mut self,
        s: S,
        group: usize,
        scales: &[f32; LANES],
        scale: S::F32,
        halves: [S::F32; 2],
    ) {
        let (mut sums, mut scaled) = ([[0.0_f32; LANES]; 2], [[0.0_f32; LANES]; 2]);
        for half in 0..2 {
            // SAFETY: sixteen lanes each.
            unsafe {
                s.store(sums[half].as_mut_ptr(), halves[half]);
                s.store(scaled[half].as_mut_ptr(), s.mul(scale, halves[half]));
            }
        }
        let factors = &mut self.by16.factors[4 * group..][..4 * LANES];
        let sum = &mut self.by16.sum[2 * group..][..2 * LANES];
        let spans = factors.chunks_exact_mut(2 * LANES).zip(sum.chunks_exact_mut(LANES));
        for (span, (factors, sum)) in spans.enumerate() {
            let mut in_turn = [0.0_f32; LANES];
            for i in 0..LANES {
                let g = 8 * span + i / 2;
                factors[i] = scales[g];
                factors[LANES + i] = scaled[i % 2][g];
                let half = if mutant("sums of half groups swapped") { 1 - i % 2 } else { i % 2 };
                in_turn[i] = sums[half][g];
            }
            whole(&in_turn, sum);
        }
    }

    /// Makes the scales of groups that hold a NaN or an infinity NaN, which is carried into what they are multiplied with.
    #[inline(always)]
    fn poison(&mut self, x: &[f32]) {
        for (g, x) in x.chunks_exact(GROUP).enumerate() {
            if x.iter().all(|x| x.is_finite()) {
                continue;
            }
            for at in [0, SPAN / GROUP] {
                self.by32.factors[factor_at(GROUP, g) + at] = f32::NAN;
            }
            if !self.by16.sum.is_empty() {
                for at in [0, 1, 2 * SPAN / GROUP, 2 * SPAN / GROUP + 1] {
                    self.by16.factors[factor_at(GROUP / 2, 2 * g) + at] = f32::NAN;
                }
            }
        }
    }
}

/// Whole numbers of small magnitude to integers.
#[inline(always)]
fn whole(numbers: &[f32; LANES], out: &mut [i32]) {
    for (out, x) in out.iter_mut().zip(numbers) {
        // SAFETY: a sum of at most 32 bytes.
        *out = unsafe { x.to_int_unchecked() };
    }
}

/// Leaf: one row to int8 groups in stripes; `x` is padded with zeros to whole ones.
#[inline(always)]
pub(crate) fn quantize_row<S: Simd>(s: S, x: &[f32], out: &mut QuantizedRow<'_>) {
    out.check(x.len());
    let mut largest = s.splat(0.0);
    let mut squares = [s.splat(0.0); 4];
    for at in (0..x.len()).step_by(CHUNK) {
        let stripes = (x.len() - at).min(CHUNK) / STRIPE;
        // SAFETY: these stripes are of x and of the checked row.
        unsafe {
            let x = x.as_ptr().add(at);
            for stripe in 0..stripes {
                for g in 0..4 {
                    let x = x.add(stripe * STRIPE + g * GROUP);
                    let (a, b) = (s.load(x), s.load(x.add(LANES)));
                    squares[g] = s.mul_add(b, b, s.mul_add(a, a, squares[g]));
                }
            }
            let scale = s.div(largest_of_groups(s, x, stripes), s.splat(127.0));
            out.put(s, at, x, stripes, scale);
            largest = s.max(scale, largest);
        }
    }
    let largest = s.max_lane(largest) * 127.0;
    let squares = s.sum(s.add(s.add(squares[0], squares[2]), s.add(squares[1], squares[3])));
    out.has_outlier = largest * largest > Remainder::OUTLIER * squares;
    if mutant("outliers overlooked") {
        out.has_outlier = false;
    }
    if !squares.is_finite() && !mutant("NaN not carried into scales") {
        out.has_outlier = false;
        out.poison(x);
    }
}

/// Leaf: what a row's int8 groups, `q` with their `factors`, leave over of `x`, to int8 groups of a finer scale. Groups whose
/// scale is below `least` get zeros.
#[inline(always)]
pub(crate) fn quantize_remainder<S: Simd>(
    s: S,
    x: &[f32],
    q: &[i8],
    factors: &[f32],
    least: f32,
    out: &mut QuantizedRow<'_>,
) {
    out.check(x.len());
    assert!(q.len() == x.len() && factors.len() >= 2 * x.len().div_ceil(CHUNK) * LANES);
    let mut finer = [0.0_f32; LANES];
    let mut rest = [0.0_f32; CHUNK];
    for at in (0..x.len()).step_by(CHUNK) {
        let stripes = (x.len() - at).min(CHUNK) / STRIPE;
        for (g, finer) in finer.iter_mut().enumerate() {
            *finer = factors[factor_at(GROUP, at / GROUP + g)] / FINER as f32;
        }
        for g in 0..4 * stripes {
            let scale = factors[factor_at(GROUP, at / GROUP + g)];
            let (minus_scale, left_out) = (s.splat(-scale), scale < least);
            for half in 0..2 {
                let from = g * GROUP + half * LANES;
                // SAFETY: half a group of x, of its integers and of the chunk.
                unsafe {
                    let q = s.load_i8(q.as_ptr().add(at + half_group_at(g, half)));
                    let x = s.load(x.as_ptr().add(at + from));
                    let left = s.mul_add(s.from_i32(q), minus_scale, x);
                    s.store(rest.as_mut_ptr().add(from), if left_out { s.splat(0.0) } else { left });
                }
            }
        }
        // SAFETY: these stripes are of the chunk and of the checked row, which `q` is as long as; 16 scales.
        unsafe {
            out.put(s, at, rest.as_ptr(), stripes, s.load(finer.as_ptr()));
            out.put_minus_sums(s, at, q, stripes);
        }
    }
}
