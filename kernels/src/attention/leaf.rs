//! What one thread does: a tile of query rows against one chunk of the cache, page by page.
//!
//! ```text
//! for each page of the chunk
//!     S = Q K^T                                    register tiles, 64 keys in lanes
//!     S = cap(scale S), -inf where not visible     row by row from here
//!     m' = max(m, S)     a = exp(m - m')
//!     P = exp(S - m')    l = a l + sum P
//!     O = a O + P V                                register tiles over the keys that all rows see, then, for the
//!                                                  rows that see more, key by key
//! ```
//!
//! A key that a row does not see is never multiplied, not even by zero: what lies there may be NaN. `m` ignores NaN
//! scores, which come back by way of `exp(NaN)` in `l` and `O` of their own row.
//!
//! The results of the chunks of a row are merged in order of position by [`merge`], and [`finish`] divides by `l`.
//! Whoever computes which chunk, the arithmetic is the same.
//!
//! Milakov & Gimelshein 2018 (online softmax); Dao et al. 2022 (fused attention).

#![allow(unsafe_code)]
// Counting loops over constant bounds are what keeps the arrays in registers.
#![allow(clippy::needless_range_loop)]

use super::kv_cache::KvCache;
use super::pages::{Float, PageId};
use super::{PAGE, tile};
use crate::math;
use crate::mutant::mutant;
use crate::rowwise::{load, store, store_tail};
use crate::simd::{LANES, Simd};

/// Most query rows of a tile: (tokens) x (heads that share a key head).
pub(crate) const MAX_ROWS: usize = 24;

/// A query row.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row<'a> {
    pub(crate) q: &'a [f32],
    /// What is added to the scores, by absolute position; empty: nothing.
    pub(crate) bias: &'a [f32],
    /// Absolute positions that it attends to: from the first to before the second.
    pub(crate) visible: (usize, usize),
}

impl Row<'_> {
    /// Visible keys of the page that begins at `base`.
    #[inline(always)]
    pub(crate) fn in_page(&self, base: usize) -> (usize, usize) {
        let clip = |position: usize| position.saturating_sub(base).min(PAGE);
        let (lo, hi) = (clip(self.visible.0), clip(self.visible.1));
        (lo, hi.max(lo))
    }

    /// What is added to the scores of the page that begins at `base`: less than a page at the end, where no key is
    /// visible any more.
    #[inline(always)]
    pub(crate) fn bias_of(&self, base: usize) -> &[f32] {
        let end = self.bias.len().min(base + PAGE);
        if base < end { &self.bias[base..end] } else { &[] }
    }
}

/// What a tile of rows is computed against.
#[derive(Clone, Copy)]
pub(crate) struct Chunk<'a> {
    pub(crate) cache: &'a KvCache,
    /// Which key head.
    pub(crate) head: usize,
    /// The chunk's pages.
    pub(crate) pages: &'a [Option<PageId>],
    /// The page and head that this thread will probably read after these.
    pub(crate) then: Option<(PageId, usize)>,
    /// Position of the first page's first key.
    pub(crate) position: usize,
    pub(crate) scale: f32,
    /// 0: none.
    pub(crate) soft_cap: f32,
}

/// What becomes of the rows of a tile in one chunk; everything is overwritten.
pub(crate) struct Partial<'a> {
    /// Scratch `[rows][64]`.
    pub(crate) scores: &'a mut [f32],
    /// Scratch `[rows][16]`: sums of the weights, lane by lane.
    pub(crate) lane_sums: &'a mut [f32],
    /// `[rows]`: largest score, -inf without any.
    pub(crate) max: &'a mut [f32],
    /// `[rows]`: sum of the weights.
    pub(crate) sum: &'a mut [f32],
    /// `[rows][head_dim up to whole vectors]`: weighted sum of the values.
    pub(crate) output: &'a mut [f32],
    /// Empty, or `[rows][pages * 64]`: receives the scores.
    pub(crate) tap: &'a mut [f32],
}

/// `m`, or 0 for -inf: what may be subtracted from a score that may be -inf too.
#[inline(always)]
pub(super) fn shift(m: f32) -> f32 {
    if m == f32::NEG_INFINITY { 0.0 } else { m }
}

/// A tile of rows against one chunk.
#[inline(always)]
fn chunk<S: Simd, E: Float>(s: S, chunk: Chunk<'_>, rows: &[Row<'_>], partial: Partial<'_>) {
    let n = rows.len();
    let Partial { scores, lane_sums, max, sum, output, tap } = partial;
    let stride = output.len() / n;
    let tap_stride = chunk.pages.len() * PAGE;
    assert!(0 < n && n <= MAX_ROWS && output.len() == n * stride && stride.is_multiple_of(LANES));
    assert!(scores.len() >= n * PAGE && lane_sums.len() >= n * LANES && max.len() == n && sum.len() == n);
    assert!(tap.is_empty() || tap.len() == n * tap_stride);
    max.fill(f32::NEG_INFINITY);
    lane_sums[..n * LANES].fill(0.0);
    output.fill(0.0);
    tap.fill(f32::NEG_INFINITY);

    for (index, page) in chunk.pages.iter().enumerate() {
        let base = chunk.position + index * PAGE;
        let mut visible = [(0, 0); MAX_ROWS];
        let (mut any, mut all) = (false, (0, PAGE));
        for i in 0..n {
            let (lo, hi) = rows[i].in_page(base);
            visible[i] = (lo, hi);
            any |= lo < hi;
            all = (all.0.max(lo), all.1.min(hi));
        }
        let Some(page) = page.filter(|_| any) else {
            continue;
        };
        let (keys, values) = chunk.cache.head::<E>(page, chunk.head);
        assert!(values.len() == PAGE * stride);
        let (next, next_head) = match chunk.pages.get(index + 1).copied().flatten() {
            Some(next) => (next, chunk.head),
            None => chunk.then.unwrap_or((page, chunk.head)),
        };
        let next = chunk.cache.head::<E>(next, next_head).0.as_ptr();
        tile::scores(s, rows, keys, scores, values.as_ptr());

        // Differences of the maxima, then their exponentials: by how much older sums shrink.
        let mut rescale = [0.0; 2 * LANES];
        for i in 0..n {
            let row = &mut scores[i * PAGE..][..PAGE];
            let bias = rows[i].bias_of(base);
            let page_max = limit_scores(s, row, visible[i], chunk.scale, chunk.soft_cap, bias);
            if visible[i].0 < visible[i].1 {
                let grown = if page_max > max[i] { page_max } else { max[i] };
                rescale[i] = max[i] - shift(grown);
                max[i] = grown;
            }
            if !tap.is_empty() {
                tap[i * tap_stride + index * PAGE..][..PAGE].copy_from_slice(row);
            }
        }
        for half in rescale.chunks_exact_mut(LANES) {
            // SAFETY: 16 elements.
            unsafe { s.store(half.as_mut_ptr(), math::exp_nonpositive(s, s.load(half.as_ptr()))) };
        }
        for i in 0..n {
            if visible[i].0 < visible[i].1 {
                let sums = &mut lane_sums[i * LANES..][..LANES];
                weigh(s, &mut scores[i * PAGE..][..PAGE], shift(max[i]), rescale[i], sums);
                if rescale[i] != 1.0 {
                    scale_row(s, &mut output[i * stride..][..stride], rescale[i]);
                }
            }
        }

        // Every row adds its keys in order: those before the common ones, the common ones, those behind.
        let all = if all.0 < all.1 { all } else { (PAGE, PAGE) };
        for part in 0..3 {
            if part == 1 {
                if all.0 < all.1 {
                    tile::outputs(s, n, all.0..all.1, scores, values, output, next);
                }
                continue;
            }
            for i in 0..n {
                let (lo, hi) = visible[i];
                let (lo, hi) = if part == 0 { (lo, hi.min(all.0)) } else { (lo.max(all.1), hi) };
                if lo < hi {
                    let own = &mut output[i * stride..][..stride];
                    tile::output(s, lo..hi, &scores[i * PAGE..][..PAGE], values, own);
                }
            }
        }
    }
    for i in 0..n {
        // SAFETY: 16 lanes of row i, checked above.
        sum[i] = unsafe { s.sum(s.load(lane_sums[i * LANES..][..LANES].as_ptr())) };
    }
}

/// [`chunk`] over an f32 cache.
#[inline(always)]
pub(crate) fn chunk_f32<S: Simd>(s: S, args: Chunk<'_>, rows: &[Row<'_>], partial: Partial<'_>) {
    chunk::<S, f32>(s, args, rows, partial);
}

/// [`chunk`] over an f16 cache.
#[inline(always)]
pub(crate) fn chunk_f16<S: Simd>(s: S, args: Chunk<'_>, rows: &[Row<'_>], partial: Partial<'_>) {
    chunk::<S, half::f16>(s, args, rows, partial);
}

/// [`chunk`] over a bf16 cache.
#[inline(always)]
pub(crate) fn chunk_bf16<S: Simd>(s: S, args: Chunk<'_>, rows: &[Row<'_>], partial: Partial<'_>) {
    chunk::<S, half::bf16>(s, args, rows, partial);
}

/// Where a page's scores belong, and what they are made of.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    /// The page's first position, and its place in the chunk.
    pub(crate) position: usize,
    pub(crate) index: usize,
    pub(crate) scale: f32,
    /// 0: none.
    pub(crate) soft_cap: f32,
}

/// Makes the raw products of the R rows from `first` on to scores, hands them to the tap, and raises the rows' maxima.
/// Returns the differences of the maxima, whose exponentials tell by how much older sums shrink.
#[inline(always)]
pub(super) fn running_max<S: Simd, const R: usize>(
    s: S,
    place: Place,
    rows: &[Row<'_>],
    first: usize,
    visible: &[(usize, usize); R],
    partial: &mut Partial<'_>,
) -> [f32; LANES] {
    let mut differences = [0.0; LANES];
    for i in 0..R {
        let row = &mut partial.scores[i * PAGE..][..PAGE];
        let bias = rows[first + i].bias_of(place.position);
        let page_max = limit_scores(s, row, visible[i], place.scale, place.soft_cap, bias);
        if visible[i].0 < visible[i].1 {
            let max = &mut partial.max[first + i];
            let grown = if page_max > *max { page_max } else { *max };
            differences[i] = *max - shift(grown);
            *max = grown;
        }
        if !partial.tap.is_empty() {
            let tap_stride = partial.tap.len() / rows.len();
            partial.tap[(first + i) * tap_stride + place.index * PAGE..][..PAGE].copy_from_slice(row);
        }
    }
    differences
}

/// `c tanh(x / c)`, or `x` for a `c` of 0.
#[inline(always)]
fn cap<S: Simd>(s: S, x: S::F32, c: f32) -> S::F32 {
    if c > 0.0 { s.mul(s.splat(c), math::tanh(s, s.div(x, s.splat(c)))) } else { x }
}

/// Scales and caps raw products, then adds the bias.
#[inline(always)]
fn add_bias<S: Simd>(s: S, row: &mut [f32], scale: f32, soft_cap: f32, bias: &[f32]) {
    for lanes in row.chunks_exact_mut(LANES) {
        // SAFETY: 16 elements.
        unsafe {
            let x = s.mul(s.load(lanes.as_ptr()), s.splat(scale));
            s.store(lanes.as_mut_ptr(), cap(s, x, soft_cap));
        }
    }
    for (x, bias) in row.iter_mut().zip(bias) {
        *x += bias;
    }
}

/// Makes raw products to scores, -inf outside of the visible keys, and returns the largest (NaN left aside).
#[inline(always)]
fn limit_scores<S: Simd>(
    s: S,
    row: &mut [f32],
    visible: (usize, usize),
    mut scale: f32,
    mut soft_cap: f32,
    bias: &[f32],
) -> f32 {
    assert!(row.len() == PAGE);
    if !bias.is_empty() {
        add_bias(s, row, scale, soft_cap, bias);
        (scale, soft_cap) = (1.0, 0.0);
    }
    let nothing = s.splat(f32::NEG_INFINITY);
    let mut largest = nothing;
    // SAFETY: `v + 16 <= 64`, the length of the row; `INDEX` has 64 elements too.
    unsafe {
        for v in (0..PAGE).step_by(LANES) {
            let p = row.as_mut_ptr().add(v);
            let mut x = cap(s, s.mul(s.load(p), s.splat(scale)), soft_cap);
            if visible != (0, PAGE) {
                let key = s.load(INDEX.as_ptr().add(v));
                x = s.select_lt(key, s.splat(visible.0 as f32), nothing, x);
                x = s.select_lt(key, s.splat(visible.1 as f32), x, nothing);
            }
            s.store(p, x);
            largest = s.max(x, largest);
        }
        s.max_lane(largest)
    }
}

/// 0, 1, .. 63.
const INDEX: [f32; PAGE] = {
    let mut index = [0.0; PAGE];
    let mut i = 0;
    while i < PAGE {
        index[i] = i as f32;
        i += 1;
    }
    index
};

/// Makes scores to weights `exp(score - shift)` and adds them to the rescaled sums.
#[inline(always)]
pub(super) fn weigh<S: Simd>(s: S, row: &mut [f32], shift: f32, rescale: f32, sums: &mut [f32]) {
    assert!(row.len() == PAGE && sums.len() == LANES);
    // SAFETY: `v + 16 <= 64`, the length of the row; 16 sums.
    unsafe {
        let mut sum = s.mul(s.load(sums.as_ptr()), s.splat(rescale));
        for v in (0..PAGE).step_by(LANES) {
            let p = row.as_mut_ptr().add(v);
            let weight = math::exp_nonpositive(s, s.sub(s.load(p), s.splat(shift)));
            s.store(p, weight);
            sum = s.add(sum, weight);
        }
        s.store(sums.as_mut_ptr(), sum);
    }
}

/// `row *= factor`
#[inline(always)]
pub(super) fn scale_row<S: Simd>(s: S, row: &mut [f32], factor: f32) {
    for lanes in row.chunks_exact_mut(LANES) {
        // SAFETY: 16 elements.
        unsafe { s.store(lanes.as_mut_ptr(), s.mul(s.load(lanes.as_ptr()), s.splat(factor))) };
    }
}

/// The chunks of one row so far.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Total {
    pub(crate) max: f32,
    pub(crate) sum: f32,
}

impl Total {
    /// No chunk.
    pub(crate) const NONE: Total = Total { max: f32::NEG_INFINITY, sum: 0.0 };
}

/// Adds one chunk's result to those of the chunks before it. A chunk of which the row sees nothing must be left out.
#[inline(always)]
pub(crate) fn merge<S: Simd>(
    s: S,
    total: &mut Option<Total>,
    total_output: &mut [f32],
    chunk: Total,
    chunk_output: &[f32],
) {
    let Some(before) = *total else {
        total_output.copy_from_slice(chunk_output);
        *total = Some(chunk);
        return;
    };
    assert!(total_output.len() == chunk_output.len());
    let max = if chunk.max > before.max { chunk.max } else { before.max };
    let mut factors = [0.0; LANES];
    factors[0] = before.max - shift(max);
    factors[1] = chunk.max - shift(max);
    // SAFETY: 16 elements.
    unsafe { s.store(factors.as_mut_ptr(), math::exp_nonpositive(s, s.load(factors.as_ptr()))) };
    let (old, new) = (if mutant("what is merged not rescaled") { 1.0 } else { factors[0] }, factors[1]);
    *total = Some(Total { max, sum: before.sum * old + chunk.sum * new });
    for (a, b) in total_output.chunks_exact_mut(LANES).zip(chunk_output.chunks_exact(LANES)) {
        // SAFETY: 16 elements each.
        unsafe {
            let scaled = s.mul(s.load(a.as_ptr()), s.splat(old));
            s.store(a.as_mut_ptr(), s.mul_add(s.load(b.as_ptr()), s.splat(new), scaled));
        }
    }
}

/// Divides a row's output by its sum of weights; zeros if nothing was visible. `output` has whole vectors, `out` may
/// be shorter.
#[inline(always)]
pub(crate) fn finish<S: Simd>(s: S, total: Total, output: &[f32], out: &mut [f32]) {
    assert!(out.len() <= output.len());
    if total.sum == 0.0 {
        out.fill(0.0);
        return;
    }
    let (body, tail) = out.as_chunks_mut::<LANES>();
    let (lanes, rest) = output.as_chunks::<LANES>().0.split_at(body.len());
    for (out, lanes) in body.iter_mut().zip(lanes) {
        store(s, out, s.div(load(s, lanes), s.splat(total.sum)));
    }
    if let Some(lanes) = rest.first() {
        store_tail(s, tail, s.div(load(s, lanes), s.splat(total.sum)));
    }
}

/// Makes a row of scores to normalised weights, for the tap.
#[inline(always)]
pub(crate) fn weights<S: Simd>(s: S, total: Total, row: &mut [f32]) {
    if total.sum == 0.0 {
        row.fill(0.0);
        return;
    }
    for part in row.chunks_mut(LANES) {
        let mut lanes = [f32::NEG_INFINITY; LANES];
        lanes[..part.len()].copy_from_slice(part);
        // SAFETY: 16 elements.
        unsafe {
            let x = s.sub(s.load(lanes.as_ptr()), s.splat(shift(total.max)));
            s.store(lanes.as_mut_ptr(), s.div(math::exp_nonpositive(s, x), s.splat(total.sum)));
        }
        part.copy_from_slice(&lanes[..part.len()]);
    }
}
