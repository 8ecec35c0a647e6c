//! Rows of blocks times rows of int8 groups, a span of 256 values at a time.
//!
//! ```text
//! per span:     factors = scales and minima of the weights times scales and scaled sums of x     one vector each
//! per stripe:   dot = 8 integer products per lane, exact;   sum += dot (factors of the lane's group)
//! two terms:    dot = 256 (8 products with the first) + 8 products with the second, exact;   the second's factors
//! ```
//!
//! So a second term costs two products more, and no scales.

#![allow(unsafe_code)]

use super::{Job, Product};
use crate::mutant::mutant;
use crate::quant::FINER_BITS;
use crate::quant::blocks::{Block, SPAN, STRIPE};
use crate::simd::{LANES, Simd};

/// Bytes of a span in the widest format, Q8_0.
const MAX_SPAN_BYTES: usize = SPAN / 32 * 34;

/// Blocks times int8 groups.
pub(super) struct Int8<B>(std::marker::PhantomData<B>);

impl<B: Block> Product for Int8<B> {
    type Row<'a, const TERMS: usize> = Terms<TERMS>;
    const TWO_TERMS: bool = true;

    #[inline(always)]
    fn row<const TERMS: usize>(job: &Job<'_>, i: usize, remainder: usize) -> Terms<TERMS> {
        Terms::new::<B>(job, i, remainder)
    }

    #[inline(always)]
    fn dots<S: Simd, const W: usize, const R: usize, const TERMS: usize>(
        s: S,
        job: &Job<'_>,
        w: [&[u8]; W],
        x: &[Terms<TERMS>; R],
    ) -> [[f32; R]; W] {
        let k = job.x.k();
        let (block, block_bytes) = (B::FORMAT.block_len(), B::FORMAT.block_bytes());
        let span_bytes = SPAN / 32 * block_bytes * 32 / block;
        let (spans, rest) = (k / SPAN, k % SPAN / 32);
        let mut total = [[Sums::<S> { sum: [s.splat(0.0); 2], minimum: s.splat(0.0) }; R]; W];
        let mut at = [std::ptr::null(); W];
        for j in 0..W {
            assert!(w[j].len() >= k / block * block_bytes);
            at[j] = w[j].as_ptr();
        }
        for span in 0..spans {
            for j in 0..W {
                s.read_ahead(at[j], span_bytes);
            }
            // SAFETY: a whole span of the rows; the rows of x hold whole stripes and what belongs to whole spans.
            unsafe { add_span::<S, B, W, R, TERMS>(s, at, span * SPAN, 8, x, &mut total) };
            at = at.map(|at| at.wrapping_add(span_bytes));
        }
        // Known while compiling where blocks are whole spans.
        if block < SPAN && rest > 0 && !mutant("groups behind the last whole span dropped") {
            // Behind the row lies the next one, whose values meet zeros; behind the last one of a matrix, nothing.
            let mut padded = [[0_u8; MAX_SPAN_BYTES]; W];
            for j in 0..W {
                s.read_ahead(at[j], rest * block_bytes);
                if w[j].len() < (spans + 1) * span_bytes {
                    let row = &w[j][spans * span_bytes..k / block * block_bytes];
                    padded[j][..row.len()].copy_from_slice(row);
                    at[j] = padded[j].as_ptr();
                }
            }
            // SAFETY: as above, where rows or copies have the bytes of a whole span.
            unsafe { add_span::<S, B, W, R, TERMS>(s, at, spans * SPAN, rest, x, &mut total) };
        }
        let mut out = [[0.0; R]; W];
        for j in 0..W {
            for r in 0..R {
                let Sums { sum, minimum } = total[j][r];
                let sum = s.add(sum[0], sum[1]);
                out[j][r] = s.sum(if B::HAS_MIN { s.add(sum, minima::<S, B>(s, minimum)) } else { sum });
            }
        }
        out
    }
}

/// Which of a span's groups a lane's scale or minimum belongs to.
const GROUP_OF_LANE: [f32; LANES] =
    [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0];

/// The lanes that minima were multiplied in, zeros in the others.
#[inline(always)]
fn minima<S: Simd, B: Block>(s: S, minimum: S::F32) -> S::F32 {
    const UPPER: [f32; LANES] =
        [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0];
    if B::SUB == 16 {
        return minimum;
    }
    // SAFETY: sixteen lanes.
    let upper = unsafe { s.load(UPPER.as_ptr()) };
    s.select_lt(s.splat(0.0), upper, minimum, s.splat(0.0))
}

/// A row of x in one or two terms.
#[derive(Clone, Copy)]
pub(super) struct Terms<const TERMS: usize> {
    /// In stripes.
    q: [*const i8; TERMS],
    /// Per span and sub-block of the weights: scales, scaled sums.
    factors: [*const f32; TERMS],
    /// Of both terms: [`Groups::minus_sums`](crate::quant::Groups).
    minus_sums: *const i32,
}

impl<const TERMS: usize> Terms<TERMS> {
    /// Row `i` of x, whose second term, if it has one, is this remainder.
    #[inline(always)]
    fn new<B: Block>(job: &Job<'_>, i: usize, remainder: usize) -> Self {
        let rows = [i, job.x.rows() + remainder];
        let groups = if B::SUB == 16 { &job.x.by16 } else { &job.x.by32 };
        let factors = 2 * job.x.k().next_multiple_of(SPAN) / B::SUB;
        let mut terms = Terms {
            q: [std::ptr::null(); TERMS],
            factors: [std::ptr::null(); TERMS],
            minus_sums: std::ptr::null(),
        };
        for term in 0..TERMS {
            terms.q[term] = job.x.i8_row(rows[term]).as_ptr();
            terms.factors[term] = groups.factors[2 * rows[term] * groups.stride..][..factors].as_ptr();
        }
        if TERMS == 2 {
            terms.minus_sums = groups.minus_sums_of(remainder).as_ptr();
        }
        terms
    }
}

/// Partial sums of one row, lane by lane.
struct Sums<S: Simd> {
    /// With sub-blocks of 32 of even and odd stripes, with sub-blocks of 16 of the stripes' first and second vectors.
    sum: [S::F32; 2],
    /// With sub-blocks of 32 in the upper lanes, beside scales that nobody reads.
    minimum: S::F32,
}

impl<S: Simd> Clone for Sums<S> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<S: Simd> Copy for Sums<S> {}

/// Adds the products of the spans at `at` with the values from `value` on, of which x has `groups` of 32.
///
/// # Safety
/// A whole span must be readable in the weight rows, the whole stripes that the groups touch and what belongs to the span
/// in every row of x.
#[inline(always)]
unsafe fn add_span<S: Simd, B: Block, const W: usize, const R: usize, const TERMS: usize>(
    s: S,
    at: [*const u8; W],
    value: usize,
    groups: usize,
    x: &[Terms<TERMS>; R],
    total: &mut [[Sums<S>; R]; W],
) {
    let mut scale = [[s.splat(0.0); R]; W];
    for j in 0..W {
        // SAFETY: the caller's promise.
        scale[j] = unsafe { span_scales::<S, B, R, TERMS>(s, at[j], value, groups, x, &mut total[j]) };
    }
    for stripe in 0..2 {
        if 4 * stripe >= groups {
            break;
        }
        let second_stripe = stripe == 1 && !mutant("second stripe with the scales of the first");
        for j in 0..W {
            // SAFETY: the caller's promise.
            let w = Integers::<S>::new::<B>(s, unsafe { B::stripe(s, at[j], stripe * STRIPE, 4) });
            for r in 0..R {
                let Sums { sum, .. } = &mut total[j][r];
                let (scale, value) = (scale[j][r], value + stripe * STRIPE);
                if B::SUB == 16 {
                    let scales = if second_stripe {
                        [s.spread_lanes::<8, 2>(scale), s.spread_lanes::<9, 2>(scale)]
                    } else {
                        [s.spread_lanes::<0, 2>(scale), s.spread_lanes::<1, 2>(scale)]
                    };
                    for half in 0..2 {
                        // SAFETY: the caller's promise.
                        let dot = unsafe { w.dot::<B, 1, TERMS>(s, half, &x[r], value) };
                        sum[half] = s.mul_add(s.from_i32(dot), scales[half], sum[half]);
                    }
                } else {
                    // SAFETY: the caller's promise.
                    let dot = unsafe { w.dot::<B, 2, TERMS>(s, 0, &x[r], value) };
                    let scale = if second_stripe {
                        s.spread_lanes::<4, 1>(scale)
                    } else {
                        s.spread_lanes::<0, 1>(scale)
                    };
                    sum[stripe] = s.mul_add(s.from_i32(dot), scale, sum[stripe]);
                }
            }
        }
    }
}

/// The scales of a span's products with every row of x: the last term's, since the first's products are added many times.
/// Adds the products of the minima.
///
/// # Safety
/// As for [`add_span`].
#[inline(always)]
unsafe fn span_scales<S: Simd, B: Block, const R: usize, const TERMS: usize>(
    s: S,
    at: *const u8,
    value: usize,
    groups: usize,
    x: &[Terms<TERMS>; R],
    total: &mut [Sums<S>; R],
) -> [S::F32; R] {
    let last = TERMS - 1;
    let mut scale = [s.splat(0.0); R];
    // SAFETY: the caller's promise.
    unsafe {
        if B::SUB == 16 {
            let w = B::scales(s, at, 0, LANES);
            for r in 0..R {
                scale[r] = s.mul(w.scale, s.load(x[r].factors[last].add(value / 16 * 2)));
                if B::HAS_MIN {
                    for factors in x[r].factors {
                        let sums = s.load(factors.add(value / 16 * 2 + LANES));
                        total[r].minimum = s.mul_add(w.min, sums, total[r].minimum);
                    }
                }
            }
            return scale;
        }
        let mut w = B::span_scales(s, at, 0, 8);
        if groups < 8 && !mutant("scales of the next row kept") {
            w = s.select_lt(s.load(GROUP_OF_LANE.as_ptr()), s.splat(groups as f32), w, s.splat(0.0));
        }
        for r in 0..R {
            scale[r] = s.mul(w, s.load(x[r].factors[last].add(value / 32 * 2)));
            if B::HAS_MIN {
                total[r].minimum = s.add(total[r].minimum, scale[r]);
                for factors in &x[r].factors[..last] {
                    total[r].minimum = s.mul_add(w, s.load(factors.add(value / 32 * 2)), total[r].minimum);
                }
            }
        }
    }
    scale
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

    /// Products of the `VECTORS` vectors from `half` on with those of the stripe of x at `at`: those of the first of two
    /// terms many times, as many as its step has finer ones. Less what the format's offset adds to them.
    ///
    /// # Safety
    /// The stripe must be readable in the terms of x, and what belongs to it.
    #[inline(always)]
    unsafe fn dot<B: Block, const VECTORS: usize, const TERMS: usize>(
        &self,
        s: S,
        half: usize,
        x: &Terms<TERMS>,
        at: usize,
    ) -> S::I32 {
        let offset = if Self::biased::<B>() { 128 } else { u32::from(B::OFFSET) };
        let taken_off = offset != 0 && !mutant("offset of the integers not taken off");
        let zero = s.splat_i32(0);
        // SAFETY: the caller's promise.
        unsafe {
            let from = at + half * 64;
            if TERMS == 1 {
                let dot = self.products::<B, VECTORS, 0>(s, half, x.q[0].add(from), zero);
                if !taken_off {
                    return dot;
                }
                let offset = Integers { bytes: [s.splat_cell(offset * 0x0101_0101); 2] };
                return s.sub_i32(dot, offset.products::<B, VECTORS, 0>(s, half, x.q[0].add(from), zero));
            }
            let mut second = zero;
            if taken_off {
                // A stripe has VECTORS' worth of lanes, of which these are.
                let sums = s.load_i32(x.minus_sums.add(at / STRIPE * (2 / VECTORS) * LANES + half * LANES));
                second = match offset {
                    128 => s.shl_i32::<7>(sums),
                    32 => s.shl_i32::<5>(sums),
                    16 => s.shl_i32::<4>(sums),
                    8 => s.shl_i32::<3>(sums),
                    4 => s.shl_i32::<2>(sums),
                    _ => unreachable!("offsets are powers of two"),
                };
            }
            let second = self.products::<B, VECTORS, 0>(s, half, x.q[TERMS - 1].add(from), second);
            let second = if mutant("second term dropped") { zero } else { second };
            self.products::<B, VECTORS, FINER_BITS>(s, half, x.q[0].add(from), second)
        }
    }

    /// Adds the products of the `VECTORS` vectors from `half` on with those at `q`, times `2^SHIFT`, to `acc`, offset and all.
    ///
    /// # Safety
    /// The vectors must be readable.
    #[inline(always)]
    unsafe fn products<B: Block, const VECTORS: usize, const SHIFT: i32>(
        &self,
        s: S,
        half: usize,
        q: *const i8,
        acc: S::I32,
    ) -> S::I32 {
        let signed = B::SIGNED && !Self::biased::<B>();
        let start = if SHIFT == 0 { acc } else { s.splat_i32(0) };
        let mut sum = if signed { start } else { s.begin_pairs(start) };
        for v in 0..VECTORS {
            // SAFETY: the caller's promise.
            let q = unsafe { s.load_bytes(q.add(v * 64).cast()) };
            if signed {
                sum = s.dot_i8i8(sum, self.bytes[half + v], q);
            } else {
                const { assert!(B::SIGNED || VECTORS as u32 * 2 * 127 * B::MAX as u32 <= S::PAIR_MAX) };
                sum = s.add_pairs(sum, self.bytes[half + v], q);
            }
        }
        match (signed, SHIFT) {
            (true, 0) => sum,
            (true, _) => s.add_i32(acc, s.shl_i32::<SHIFT>(sum)),
            (false, 0) => s.end_pairs(acc, sum),
            (false, _) => s.end_pairs_shifted::<SHIFT>(acc, sum),
        }
    }
}
