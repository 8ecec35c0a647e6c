//! Rows of blocks times rows of int8 groups, a span of 256 values at a time.
//!
//! ```text
//! per span:     factors = scales and minima of the weights times scales and scaled sums of x     one vector each
//! per stripe:   dot = 8 integer products per lane, exact;   sum += dot (factors of the lane's group)
//! ```
//!
//! The minima's products are added up as they come out, beside scales that nobody reads.

#![allow(unsafe_code)]

use super::{Job, Product};
use crate::mutant::mutant;
use crate::quant::blocks::{Block, SPAN, STRIPE};
use crate::simd::{LANES, Simd};

/// Bytes between the values in use and the cache lines asked for: unpacking keeps the CPU from running ahead far enough
/// by itself. (Plain floats, which need nothing but loads, lose by being asked for.)
const AHEAD: usize = 3072;

/// Blocks times int8 groups.
pub(super) struct Int8<B>(std::marker::PhantomData<B>);

impl<B: Block> Product for Int8<B> {
    const TWO_TERMS: bool = true;

    #[inline(always)]
    fn dots<S: Simd, const R: usize>(s: S, job: &Job<'_>, row: &[u8], i: [usize; R]) -> [f32; R] {
        let k = job.x.k();
        let groups = if B::SUB == 16 { &job.x.by16 } else { &job.x.by32 };
        assert!(row.len() >= k / B::FORMAT.block_len() * B::FORMAT.block_bytes());
        let mut x = [Int8Row { q: std::ptr::null(), factors: std::ptr::null() }; R];
        for r in 0..R {
            let factors =
                &groups.factors[2 * i[r] * groups.stride..][..2 * k.next_multiple_of(SPAN) / B::SUB];
            x[r] = Int8Row { q: job.x.i8_row(i[r]).as_ptr(), factors: factors.as_ptr() };
        }
        let mut total = [Sums::<S> { sum: [s.splat(0.0); 2], minimum: s.splat(0.0) }; R];
        let span_bytes = SPAN / 32 * B::FORMAT.block_bytes() * 32 / B::FORMAT.block_len();
        for span in 0..k / SPAN {
            let at = row.as_ptr().wrapping_add(span * span_bytes);
            for line in 0..span_bytes.div_ceil(64) {
                s.prefetch(at.wrapping_add(AHEAD + 64 * line));
            }
            // SAFETY: a whole span of the row; the rows of x hold whole stripes and the factors of whole spans.
            unsafe { add_span::<S, B, R>(s, row.as_ptr(), span * SPAN, 8, &x, &mut total) };
        }
        if !k.is_multiple_of(SPAN) && !mutant("groups behind the last whole span dropped") {
            // SAFETY: as above, with the groups that are left.
            unsafe { add_span::<S, B, R>(s, row.as_ptr(), k / SPAN * SPAN, k % SPAN / 32, &x, &mut total) };
        }
        let mut out = [0.0; R];
        for r in 0..R {
            let Sums { sum, minimum } = total[r];
            let sum = s.add(sum[0], sum[1]);
            out[r] = s.sum(if B::HAS_MIN { s.add(sum, minimum) } else { sum });
        }
        out
    }
}

/// A row of x.
#[derive(Clone, Copy)]
struct Int8Row {
    /// In stripes.
    q: *const i8,
    /// Per span and sub-block of the weights: scales, scaled sums.
    factors: *const f32,
}

/// Partial sums of one row, lane by lane.
struct Sums<S: Simd> {
    /// With sub-blocks of 32 of even and odd stripes, with sub-blocks of 16 of the stripes' first and second vectors.
    sum: [S::F32; 2],
    minimum: S::F32,
}

impl<S: Simd> Clone for Sums<S> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<S: Simd> Copy for Sums<S> {}

/// Upper lanes: where a span's minima are.
const MINIMA: [f32; LANES] = [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0];

/// Adds the products of the span at `value`, of which the row has `groups` of 32.
///
/// # Safety
/// These groups must be readable in the row, the whole stripes that they touch and the span's factors in every row of x.
#[inline(always)]
unsafe fn add_span<S: Simd, B: Block, const R: usize>(
    s: S,
    row: *const u8,
    value: usize,
    groups: usize,
    x: &[Int8Row; R],
    total: &mut [Sums<S>; R],
) {
    // SAFETY: the caller's promise.
    unsafe {
        if B::SUB == 16 {
            let w = B::scales(s, row, value / 16, groups * 2);
            let mut scale = [s.splat(0.0); R];
            for r in 0..R {
                let factors = x[r].factors.add(value / 16 * 2);
                scale[r] = s.mul(w.scale, s.load(factors));
                if B::HAS_MIN {
                    total[r].minimum = s.mul_add(w.min, s.load(factors.add(LANES)), total[r].minimum);
                }
            }
            for stripe in 0..groups.div_ceil(4) {
                let at = value + stripe * STRIPE;
                let w = Integers::<S>::new::<B>(s, B::stripe(s, row, at, (groups - 4 * stripe).min(4)));
                for r in 0..R {
                    let q = x[r].q.add(at);
                    let (first, second) = if stripe == 0 {
                        (s.spread_lanes::<0, 2>(scale[r]), s.spread_lanes::<1, 2>(scale[r]))
                    } else {
                        (s.spread_lanes::<8, 2>(scale[r]), s.spread_lanes::<9, 2>(scale[r]))
                    };
                    let dot = w.dot::<B>(s, 0, q, s.splat_i32(0));
                    total[r].sum[0] = s.mul_add(s.from_i32(dot), first, total[r].sum[0]);
                    let dot = w.dot::<B>(s, 1, q, s.splat_i32(0));
                    total[r].sum[1] = s.mul_add(s.from_i32(dot), second, total[r].sum[1]);
                }
            }
            return;
        }
        let w = B::span_scales(s, row, value, groups);
        let mut factors = [s.splat(0.0); R];
        for r in 0..R {
            factors[r] = s.mul(w, s.load(x[r].factors.add(value / 32 * 2)));
            if B::HAS_MIN {
                total[r].minimum = s.mul_add(factors[r], s.load(MINIMA.as_ptr()), total[r].minimum);
            }
        }
        for stripe in 0..groups.div_ceil(4) {
            let at = value + stripe * STRIPE;
            let w = Integers::<S>::new::<B>(s, B::stripe(s, row, at, (groups - 4 * stripe).min(4)));
            for r in 0..R {
                let q = x[r].q.add(at);
                let dot = w.dot::<B>(s, 1, q, w.dot::<B>(s, 0, q, s.splat_i32(0)));
                let scale = if stripe == 0 || mutant("second stripe with the scales of the first") {
                    s.spread_lanes::<0, 1>(factors[r])
                } else {
                    s.spread_lanes::<4, 1>(factors[r])
                };
                total[r].sum[stripe] = s.mul_add(s.from_i32(dot), scale, total[r].sum[stripe]);
            }
        }
    }
}

/// The integers of a stripe, ready for the dot product of the instruction set.
#[derive(Clone, Copy)]
struct Integers<S: Simd> {
    bytes: [S::Bytes; 2],
}

impl<S: Simd> Integers<S> {
    /// Signed bytes are made unsigned where the dot product takes the full range.
    #[inline(always)]
    fn biased<B: Block>() -> bool {
        B::SIGNED && S::DOT_U8_MAX == 255
    }

    #[inline(always)]
    fn new<B: Block>(s: S, mut bytes: [S::Bytes; 2]) -> Self {
        if Self::biased::<B>() {
            for half in 0..2 {
                bytes[half] = s.xor(bytes[half], s.splat_cell(0x8080_8080));
            }
        }
        Integers { bytes }
    }

    /// Adds the products of one of the vectors with that of a stripe of x, less what the format's offset adds to them.
    ///
    /// # Safety
    /// `q` must be readable for a stripe.
    #[inline(always)]
    unsafe fn dot<B: Block>(&self, s: S, half: usize, q: *const i8, acc: S::I32) -> S::I32 {
        // SAFETY: the caller's promise.
        let q = unsafe { s.load_bytes(q.add(half * 64).cast()) };
        if B::SIGNED && !Self::biased::<B>() {
            return s.dot_i8i8(acc, self.bytes[half], q);
        }
        let acc = s.dot_u8i8(acc, self.bytes[half], q);
        let offset = if Self::biased::<B>() { 128 } else { u32::from(B::OFFSET) };
        if offset == 0 || mutant("offset of the integers not taken off") {
            return acc;
        }
        s.sub_i32(acc, s.dot_u8i8(s.splat_i32(0), s.splat_cell(offset * 0x0101_0101), q))
    }
}
