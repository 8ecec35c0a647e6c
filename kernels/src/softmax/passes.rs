//! The three passes over a row or a chunk of one.

use super::Part;
use crate::math::{HALF_LOG2_E, exp2_twice};
use crate::matrix::MatMut;
use crate::mutant::mutant;
use crate::rowwise::{Map, Times, Zip, load, load_tail, map, store, zip_in_place};
use crate::simd::{LANES, Simd};

/// What `t` is, by the scale.
#[derive(Clone, Copy)]
struct Terms<const MASKED: bool>(f32);

impl<const MASKED: bool> Terms<MASKED> {
    /// `t`
    #[inline(always)]
    fn of<S: Simd>(self, s: S, x: S::F32, mask: S::F32) -> S::F32 {
        if MASKED { s.mul_add(x, s.splat(self.0), mask) } else { s.mul(x, s.splat(self.0)) }
    }

    /// `exp(t - m)`
    #[inline(always)]
    fn exp<S: Simd>(self, s: S, x: S::F32, mask: S::F32, m: f32) -> S::F32 {
        let m = if mutant("maximum not subtracted") { 0.0 } else { m };
        let d = if MASKED {
            s.sub(self.of(s, x, mask), s.splat(m))
        } else {
            s.mul_add(x, s.splat(self.0), s.splat(-m))
        };
        exp2_twice(s, s.mul(d, s.splat(HALF_LOG2_E)))
    }
}

/// The mask of a vector; without one, what nobody reads.
#[inline(always)]
fn mask_vector<S: Simd, const MASKED: bool>(s: S, mask: &[[f32; LANES]], i: usize) -> S::F32 {
    if MASKED { load(s, &mask[i]) } else { s.splat(0.0) }
}

/// A tail as a vector, padded with its first element, so that padding is no more above the maximum than the row is.
#[inline(always)]
fn load_rest<S: Simd>(s: S, rest: &[f32]) -> S::F32 {
    load_tail(s, rest, rest.first().copied().unwrap_or(0.0))
}

/// Pass 1: the largest `t`. NaN is ignored.
#[inline(always)]
fn max<S: Simd, const MASKED: bool>(s: S, x: &[f32], mask: &[f32], terms: Terms<MASKED>) -> f32 {
    // Four maxima at a time: one would wait for the instruction's latency.
    let mut m = [s.splat(f32::NEG_INFINITY); 4];
    let (vectors, rest) = x.as_chunks::<LANES>();
    let (mask, mask_rest) = mask.as_chunks::<LANES>();
    let mut i = 0;
    while i + 4 <= vectors.len() {
        for j in 0..4 {
            let t = terms.of(s, load(s, &vectors[i + j]), mask_vector::<S, MASKED>(s, mask, i + j));
            m[j] = s.max(t, m[j]);
        }
        i += 4;
    }
    while i < vectors.len() {
        let t = terms.of(s, load(s, &vectors[i]), mask_vector::<S, MASKED>(s, mask, i));
        m[0] = s.max(t, m[0]);
        i += 1;
    }
    let mut m = s.max(s.max(m[0], m[1]), s.max(m[2], m[3]));
    if !rest.is_empty() {
        m = s.max(terms.of(s, load_rest(s, rest), load_rest(s, mask_rest)), m);
    }
    s.max_lane(m)
}

/// Pass 2: the sum of the exponentials, which go over `x` if `STORE`.
#[inline(always)]
fn exp<S: Simd, const MASKED: bool, const STORE: bool>(
    s: S,
    x: &mut [f32],
    mask: &[f32],
    (terms, m): (Terms<MASKED>, f32),
) -> f32 {
    let mut sum = s.splat(0.0);
    let (vectors, rest) = x.as_chunks_mut::<LANES>();
    let (mask, mask_rest) = mask.as_chunks::<LANES>();
    for i in 0..vectors.len() {
        let e = terms.exp(s, load(s, &vectors[i]), mask_vector::<S, MASKED>(s, mask, i), m);
        sum = s.add(sum, e);
        if STORE {
            store(s, &mut vectors[i], e);
        }
    }
    s.sum(s.add(sum, exp_rest::<S, MASKED, STORE>(s, rest, mask_rest, (terms, m))))
}

/// A tail's exponentials, padded with zeros; they go over it if `STORE`.
#[inline(always)]
fn exp_rest<S: Simd, const MASKED: bool, const STORE: bool>(
    s: S,
    rest: &mut [f32],
    mask: &[f32],
    (terms, m): (Terms<MASKED>, f32),
) -> S::F32 {
    if rest.is_empty() {
        return s.splat(0.0);
    }
    let mut lanes = [0.0; LANES];
    store(s, &mut lanes, terms.exp(s, load_rest(s, rest), load_rest(s, mask), m));
    if STORE {
        rest.copy_from_slice(&lanes[..rest.len()]);
    }
    load_tail(s, &lanes[..rest.len()], 0.0)
}

/// Pass 3 of `before`, pass 2 of `x` and pass 1 of `behind`, at once if they are equally long and there are registers for
/// it: the sum, and the maximum. Asks for what lies [`AHEAD`], but for nothing behind `end`.
#[inline(always)]
fn step<S: Simd>(
    s: S,
    (before, factor): (&mut [f32], f32),
    x: &mut [f32],
    behind: &[f32],
    end: *const u8,
    (terms, m): (Terms<false>, f32),
) -> (f32, f32) {
    if S::REGISTERS < 32 || before.len() != x.len() || behind.len() != x.len() {
        map(s, before, Times(factor));
        let sum = exp::<S, false, true>(s, x, &[], (terms, m));
        return (sum, max(s, behind, &[], terms));
    }
    let (before, before_rest) = before.as_chunks_mut::<LANES>();
    let (x, x_rest) = x.as_chunks_mut::<LANES>();
    let (behind, behind_rest) = behind.as_chunks::<LANES>();
    let zero = s.splat(0.0);
    let mut sum = zero;
    // A positive scale changes nothing about which is the largest, and neither does it behind the rounding.
    let mut largest = s.splat(f32::NEG_INFINITY);
    for ((before, x), behind) in before.iter_mut().zip(x).zip(behind) {
        let line = behind.as_ptr().cast::<u8>();
        s.prefetch_far(line.wrapping_add(AHEAD).min(end));
        largest = s.max(load(s, behind), largest);
        let y = s.mul(load(s, before), s.splat(factor));
        let e = terms.exp(s, load(s, x), zero, m);
        sum = s.add(sum, e);
        store(s, before, y);
        store(s, x, e);
    }
    map(s, before_rest, Times(factor));
    let sum = s.add(sum, exp_rest::<S, false, true>(s, x_rest, &[], (terms, m)));
    if !behind_rest.is_empty() {
        largest = s.max(load_rest(s, behind_rest), largest);
    }
    (s.sum(sum), s.max_lane(largest) * terms.0)
}

/// How many bytes ahead of the first pass lines are asked for. The arithmetic of three passes is too long for the CPU to do so
/// early enough by itself: from memory, two cores of a Zen 5 machine go through 137 instead of 58 GB/s.
const AHEAD: usize = 8192;

/// Leaf: softmax of rows of one chunk, without a mask and with a positive scale.
#[inline(always)]
pub(crate) fn rows<S: Simd>(s: S, x: MatMut<'_>, scale: f32) {
    let terms = Terms::<false>(scale);
    // Behind it lies what another thread writes, whose lines would be taken from it.
    let end = x.last_element();
    let mut rows = x.into_rows();
    let Some(mut row) = rows.next() else { return };
    let mut m = max(s, row, &[], terms);
    let (mut before, mut factor): (&mut [f32], f32) = (&mut [], 0.0);
    loop {
        let next = rows.next();
        let behind = next.as_deref().unwrap_or_default();
        let (sum, next_m) = step(s, (before, factor), row, behind, end, (terms, m));
        factor = 1.0 / sum;
        let Some(next) = next else { return map(s, row, Times(factor)) };
        (before, row, m) = (row, next, next_m);
    }
}

/// Passes 1 and 2 of a chunk.
#[inline(always)]
fn part<S: Simd, const MASKED: bool, const STORE: bool>(
    s: S,
    x: &mut [f32],
    mask: &[f32],
    scale: f32,
) -> Part {
    assert!(!MASKED || mask.len() == x.len());
    let terms = Terms::<MASKED>(scale);
    let max = max(s, x, mask, terms);
    // Not `-inf - -inf`: other chunks may have more.
    let m = if max == f32::NEG_INFINITY { 0.0 } else { max };
    Part { max, sum: exp::<S, MASKED, STORE>(s, x, mask, (terms, m)) }
}

/// Leaf: puts the exponentials of a chunk in its place.
#[inline(always)]
pub(crate) fn chunk<S: Simd>(s: S, x: &mut [f32], scale: f32, mask: Option<&[f32]>) -> Part {
    match mask {
        None => part::<S, false, true>(s, x, &[], scale),
        Some(mask) => part::<S, true, true>(s, x, mask, scale),
    }
}

/// Leaf: the same, but leaves the chunk as it is.
#[inline(always)]
pub(crate) fn log_chunk<S: Simd>(s: S, x: &mut [f32], scale: f32, mask: Option<&[f32]>) -> Part {
    match mask {
        None => part::<S, false, false>(s, x, &[], scale),
        Some(mask) => part::<S, true, false>(s, x, mask, scale),
    }
}

/// `(t - m) - log_sum`
#[derive(Clone, Copy)]
pub(crate) struct LogShift {
    pub(super) scale: f32,
    pub(super) m: f32,
    pub(super) log_sum: f32,
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

/// Leaf: pass 3 of log-softmax.
#[inline(always)]
pub(crate) fn log_shift<S: Simd>(s: S, x: &mut [f32], mask: Option<&[f32]>, shift: LogShift) {
    match mask {
        None => map(s, x, shift),
        Some(mask) => zip_in_place(s, x, mask, shift),
    }
}
