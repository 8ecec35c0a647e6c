//! Attention over keys and values of int8.
//!
//! ```text
//! keys     [head_dim / 4][64 keys] cells of four elements     then scales [head_dim / 32][64 keys], f16
//! values   [64 keys][head_dim up to whole vectors] bytes      then scales [head_dim / 32][64 keys], f16
//! ```
//!
//! A scale belongs to 32 elements of one key, or to what is left of the head at its end. Queries are rounded likewise,
//! with f32 scales, and multiplied with keys as integers: the sums of 32 products are exact. Values are widened, exactly,
//! and multiplied with f32 weights into which their scales have gone. Everything else is as in `leaf.rs`.
//!
//! What is not finite makes its scale NaN, and so the score of its key, or 32 elements of what its value adds to.

#![allow(unsafe_code)]
// Counting loops over constant bounds are what keeps the arrays in registers.
#![allow(clippy::needless_range_loop)]

use super::PAGE;
use super::leaf::{Chunk, Partial, Place, Row, running_max, scale_row, shift, weigh};
use super::tile::ask_ahead;
use crate::math;
use crate::matrix::MatRef;
use crate::simd::{LANES, Simd};
use half::f16;

/// Elements of a head that share a scale.
const GROUP: usize = 32;
/// Elements of a cell.
const CELL: usize = 4;
/// Most query rows of a unit.
pub(crate) const MAX_ROWS: usize = 24;
/// Most rows of a register tile.
const MAX_TILE: usize = 6;

/// Scales of a head.
pub(crate) const fn groups(head_dim: usize) -> usize {
    head_dim.div_ceil(GROUP)
}

/// Elements of scratch: scores and scaled weights of a tile, queries of a unit.
pub(super) fn scratch_len(head_dim: usize) -> usize {
    let query = head_dim / CELL + 2 * groups(head_dim);
    MAX_TILE * PAGE * (1 + groups(head_dim)) + MAX_ROWS * query.next_multiple_of(LANES)
}

/// Rounds up to 32 elements to integers of at most 127 in magnitude times a scale, which `round` may round.
/// Returns the scale and the sum of the integers.
#[inline(always)]
fn quantize<S: Simd>(s: S, x: &[f32], out: &mut [i8; GROUP], round: impl Fn(f32) -> f32) -> (f32, i32) {
    let mut padded = [0.0; GROUP];
    padded[..x.len()].copy_from_slice(x);
    let zero = s.splat(0.0);
    let mut v = [zero; 2];
    let (mut largest, mut zeros) = (zero, zero);
    for i in 0..2 {
        // SAFETY: 32 elements.
        v[i] = unsafe { s.load(padded.as_ptr().add(i * LANES)) };
        largest = s.max(s.max(v[i], s.sub(zero, v[i])), largest);
        // Zero times anything finite is zero.
        zeros = s.mul_add(v[i], zero, zeros);
    }
    let finite = s.sum(zeros) == 0.0;
    let scale = if finite { round(s.max_lane(largest) / 127.0) } else { f32::NAN };
    let inverse = s.splat(if scale > 0.0 { 1.0 / scale } else { 0.0 });
    let mut q = [s.splat_i32(0); 2];
    if finite {
        for i in 0..2 {
            let x = s.min(s.splat(127.0), s.mul(v[i], inverse));
            q[i] = s.to_i32(s.max(s.splat(-127.0), x));
        }
    }
    // SAFETY: 32 bytes.
    unsafe {
        s.store_i8(out.as_mut_ptr(), q[0]);
        s.store_i8(out.as_mut_ptr().add(LANES), q[1]);
    }
    (scale, s.sum_i32(s.add_i32(q[0], q[1])))
}

/// A scale as the cache holds it.
#[inline(always)]
fn halved(scale: f32) -> f32 {
    f16::from_f32_const(scale).to_f32_const()
}

/// Writes rows of one head's keys and values to positions `at..` of its page.
#[inline(always)]
pub(crate) fn rows<S: Simd>(
    s: S,
    k: MatRef<'_>,
    v: MatRef<'_>,
    at: usize,
    keys: &mut [i8],
    values: &mut [i8],
) {
    let (n, head_dim) = (k.rows(), k.cols());
    let (stride, scales) = (head_dim.next_multiple_of(LANES), PAGE * 2 * groups(head_dim));
    assert!(
        at + n <= PAGE && keys.len() == head_dim * PAGE + scales && values.len() == stride * PAGE + scales
    );
    let (keys, key_scales) = keys.split_at_mut(head_dim * PAGE);
    let (values, value_scales) = values.split_at_mut(stride * PAGE);
    let mut q = [0; GROUP];
    let put = |scales: &mut [i8], g: usize, place: usize, scale: f32| {
        let bytes = f16::from_f32_const(scale).to_bits().to_ne_bytes();
        let at = 2 * (g * PAGE + place);
        (scales[at], scales[at + 1]) = (bytes[0].cast_signed(), bytes[1].cast_signed());
    };
    for i in 0..n {
        let place = at + i;
        for (g, x) in k.row(i).chunks(GROUP).enumerate() {
            put(key_scales, g, place, quantize(s, x, &mut q, halved).0);
            for c in 0..x.len() / CELL {
                let to = CELL * ((g * GROUP / CELL + c) * PAGE + place);
                keys[to..to + CELL].copy_from_slice(&q[CELL * c..CELL * c + CELL]);
            }
        }
        for (g, x) in v.row(i).chunks(GROUP).enumerate() {
            put(value_scales, g, place, quantize(s, x, &mut q, halved).0);
            let to = place * stride + g * GROUP;
            let end = GROUP.min(stride - g * GROUP);
            // Lanes beyond head_dim are padding and hold zeros.
            values[to..to + end].copy_from_slice(&q[..end]);
        }
    }
}

/// One head of a page, and what it is multiplied with on the way.
#[derive(Clone, Copy)]
struct Page {
    keys: *const u8,
    key_scales: *const u16,
    values: *const i8,
    value_scales: *const u16,
    head_dim: usize,
    stride: usize,
    /// What is read after it.
    next: *const u8,
    place: Place,
}

/// Queries as cells, each row followed by scales and sums of its groups.
#[derive(Clone, Copy)]
struct Queries {
    first: *const f32,
    stride: usize,
    head_dim: usize,
}

impl Queries {
    /// # Safety
    /// `row`, `cell` and `g` must be within what the queries were made for.
    #[inline(always)]
    unsafe fn cell(self, row: usize, cell: usize) -> u32 {
        // SAFETY: the caller's promise.
        unsafe { self.first.add(row * self.stride + cell).cast::<u32>().read() }
    }
    /// # Safety
    /// As [`Queries::cell`].
    #[inline(always)]
    unsafe fn scale(self, row: usize, g: usize) -> f32 {
        // SAFETY: the caller's promise.
        unsafe { self.first.add(row * self.stride + self.head_dim / CELL + g).read() }
    }
    /// # Safety
    /// As [`Queries::cell`].
    #[inline(always)]
    unsafe fn sum(self, row: usize, g: usize) -> i32 {
        // SAFETY: the caller's promise.
        unsafe {
            let at = row * self.stride + self.head_dim / CELL + groups(self.head_dim) + g;
            self.first.add(at).cast::<i32>().read()
        }
    }
}

/// A unit's rows against one chunk.
#[inline(always)]
pub(crate) fn chunk<S: Simd>(s: S, chunk: Chunk<'_>, rows: &[Row<'_>], partial: Partial<'_>) {
    let n = rows.len();
    let head_dim = chunk.cache.shape().head_dim;
    let (stride, groups) = (head_dim.next_multiple_of(LANES), groups(head_dim));
    assert!(0 < n && n <= MAX_ROWS && head_dim.is_multiple_of(CELL) && partial.output.len() == n * stride);
    assert!(partial.scores.len() >= scratch_len(head_dim) && partial.lane_sums.len() >= n * LANES);
    assert!(partial.max.len() == n && partial.sum.len() == n);
    assert!(partial.tap.is_empty() || partial.tap.len() == n * chunk.pages.len() * PAGE);
    partial.max.fill(f32::NEG_INFINITY);
    partial.lane_sums[..n * LANES].fill(0.0);
    partial.output.fill(0.0);
    partial.tap.fill(f32::NEG_INFINITY);

    let Partial { scores, lane_sums, max, sum, output, tap } = partial;
    let (scores, queries) = scores.split_at_mut(MAX_TILE * PAGE * (1 + groups));
    let mut partial = Partial { scores, lane_sums, max, sum, output, tap };
    let query = (head_dim / CELL + 2 * groups).next_multiple_of(LANES);
    for i in 0..n {
        let cells = &mut queries[i * query..][..query];
        for (g, x) in rows[i].q.chunks(GROUP).enumerate() {
            let mut q = [0; GROUP];
            let (scale, sum) = quantize(s, x, &mut q, |scale| scale);
            for c in 0..x.len() / CELL {
                let cell = [q[CELL * c], q[CELL * c + 1], q[CELL * c + 2], q[CELL * c + 3]];
                cells[g * GROUP / CELL + c] = f32::from_bits(u32::from_ne_bytes(cell.map(i8::cast_unsigned)));
            }
            cells[head_dim / CELL + g] = scale;
            cells[head_dim / CELL + groups + g] = f32::from_bits(sum.cast_unsigned());
        }
    }
    let queries = Queries { first: queries.as_ptr(), stride: query, head_dim };

    for (index, page) in chunk.pages.iter().enumerate() {
        let base = chunk.position + index * PAGE;
        let mut any = false;
        for row in rows {
            let (lo, hi) = row.in_page(base);
            any |= lo < hi;
        }
        let Some(page) = page.filter(|_| any) else {
            continue;
        };
        let next = chunk.pages.get(index + 1).copied().flatten().map(|next| (next, chunk.head));
        let (next, next_head) = next.or(chunk.then).unwrap_or((page, chunk.head));
        let (next, next_values) = chunk.cache.head::<i8>(next, next_head);
        // Its scales, which lie aside of what the loops below ask for; the page's own came with the page before.
        ask_ahead(s, next.as_ptr().wrapping_add(head_dim * PAGE).cast(), 2 * groups * PAGE);
        ask_ahead(s, next_values.as_ptr().wrapping_add(stride * PAGE).cast(), 2 * groups * PAGE);
        let next = next.as_ptr().cast();
        let (keys, values) = chunk.cache.head::<i8>(page, chunk.head);
        assert!(keys.len() == PAGE * (head_dim + 2 * groups) && values.len() == PAGE * (stride + 2 * groups));
        let page = Page {
            keys: keys.as_ptr().cast(),
            key_scales: keys[head_dim * PAGE..].as_ptr().cast(),
            values: values.as_ptr(),
            value_scales: values[stride * PAGE..].as_ptr().cast(),
            head_dim,
            stride,
            next,
            place: Place { position: base, index, scale: chunk.scale, soft_cap: chunk.soft_cap },
        };
        let mut i = 0;
        while i < n {
            let most = if S::REGISTERS >= 32 { MAX_TILE } else { S::REGISTERS / 3 };
            let r = match (n - i).min(most) {
                5 => 3,
                r => r,
            };
            // SAFETY: rows i..i + r of what was checked above.
            unsafe {
                match r {
                    6 => tile_of_rows::<S, 6>(s, page, queries, rows, i, &mut partial),
                    4 => tile_of_rows::<S, 4>(s, page, queries, rows, i, &mut partial),
                    3 => tile_of_rows::<S, 3>(s, page, queries, rows, i, &mut partial),
                    2 => tile_of_rows::<S, 2>(s, page, queries, rows, i, &mut partial),
                    _ => tile_of_rows::<S, 1>(s, page, queries, rows, i, &mut partial),
                }
            }
            i += r.max(1);
        }
    }
    for i in 0..n {
        // SAFETY: 16 lanes of row i, checked above.
        partial.sum[i] = unsafe { s.sum(s.load(partial.lane_sums[i * LANES..][..LANES].as_ptr())) };
    }
}

/// # Safety
/// `first + R <= rows.len()`; `page` must be a head of a page, `queries` those of the rows; the extents of `partial` must
/// be as [`chunk`] checks them.
#[inline(always)]
unsafe fn tile_of_rows<S: Simd, const R: usize>(
    s: S,
    page: Page,
    queries: Queries,
    rows: &[Row<'_>],
    first: usize,
    partial: &mut Partial<'_>,
) {
    let (groups, stride) = (groups(page.head_dim), page.stride);
    let mut visible = [(0, 0); R];
    let (mut any, mut all) = (false, (0, PAGE));
    for i in 0..R {
        let (lo, hi) = rows[first + i].in_page(page.place.position);
        visible[i] = (lo, hi);
        any |= lo < hi;
        all = (all.0.max(lo), all.1.min(hi));
    }
    if !any {
        return;
    }
    // SAFETY: R <= 6 rows of 64 scores; the rest is the caller's promise.
    unsafe {
        let q = Queries { first: queries.first.add(first * queries.stride), ..queries };
        let out = partial.scores.as_mut_ptr();
        if S::REGISTERS >= 32 {
            score_tile::<S, R, 2>(s, page, q, out)
        } else {
            score_tile::<S, R, 1>(s, page, q, out)
        }
    }
    let mut rescale = running_max(s, page.place, rows, first, &visible, partial);
    // SAFETY: 16 elements.
    unsafe { s.store(rescale.as_mut_ptr(), math::exp_nonpositive(s, s.load(rescale.as_ptr()))) };
    let (scores, weights) = partial.scores.split_at_mut(MAX_TILE * PAGE);
    for i in 0..R {
        if visible[i].0 < visible[i].1 {
            let sums = &mut partial.lane_sums[(first + i) * LANES..][..LANES];
            weigh(s, &mut scores[i * PAGE..][..PAGE], shift(partial.max[first + i]), rescale[i], sums);
            if rescale[i] != 1.0 {
                scale_row(s, &mut partial.output[(first + i) * stride..][..stride], rescale[i]);
            }
        }
    }
    // SAFETY: R rows of scores; R rows of 64 weights for each group behind them; 64 scales for each group.
    unsafe {
        for g in 0..groups {
            for v in (0..PAGE).step_by(LANES) {
                let scale = s.load_f16(page.value_scales.add(g * PAGE + v));
                for i in 0..R {
                    let weight = s.load(scores.as_ptr().add(i * PAGE + v));
                    s.store(weights.as_mut_ptr().add((i * groups + g) * PAGE + v), s.mul(weight, scale));
                }
            }
        }
        // Every row adds its keys in order: those before the common ones, the common ones, those behind.
        let all = if all.0 < all.1 { all } else { (PAGE, PAGE) };
        let (weights, output) = (weights.as_ptr(), partial.output.as_mut_ptr().add(first * stride));
        for i in 0..R {
            let own = (weights.add(i * groups * PAGE), output.add(i * stride));
            add_values::<S, 1>(s, page, (visible[i].0, visible[i].1.min(all.0)), own.0, own.1);
        }
        add_values::<S, R>(s, page, all, weights, output);
        for i in 0..R {
            let own = (weights.add(i * groups * PAGE), output.add(i * stride));
            add_values::<S, 1>(s, page, (visible[i].0.max(all.1), visible[i].1), own.0, own.1);
        }
    }
}

/// Products of R queries with the 64 keys of a page, as f32 but not yet scaled by the call's scale.
///
/// # Safety
/// `page` must be a head of a page, `q` hold R rows, `out` be writable for `R x 64`.
#[inline(always)]
unsafe fn score_tile<S: Simd, const R: usize, const NV: usize>(s: S, page: Page, q: Queries, out: *mut f32) {
    // Where the product takes one side unsigned, keys are moved by 128, and the sums begin with what that adds.
    let unsigned = S::DOT_U8_MAX == u8::MAX;
    let groups = groups(page.head_dim);
    let mut ahead = page.values.cast::<u8>();
    let mut first = 0;
    while first < PAGE {
        // SAFETY: i < R, g < groups, cells below head_dim / 4, keys below 64.
        unsafe {
            let mut sum = [[s.splat(0.0); NV]; R];
            for g in 0..groups {
                let cells = (page.head_dim / CELL - g * GROUP / CELL).min(GROUP / CELL);
                let mut acc = [[s.splat_i32(0); NV]; R];
                if unsigned {
                    for i in 0..R {
                        acc[i] = [s.splat_i32(-128 * q.sum(i, g)); NV];
                    }
                }
                let mut at = page.keys.add(CELL * (g * GROUP / CELL * PAGE + first));
                for c in 0..cells {
                    ask_ahead(s, ahead, NV * CELL * LANES);
                    ahead = ahead.wrapping_add(NV * CELL * LANES);
                    let mut k = [s.splat_cell(0); NV];
                    for v in 0..NV {
                        k[v] = s.load_bytes(at.add(v * CELL * LANES));
                        if unsigned {
                            k[v] = s.xor(k[v], s.splat_cell(0x8080_8080));
                        }
                    }
                    at = at.add(CELL * PAGE);
                    for i in 0..R {
                        let x = s.splat_cell(q.cell(i, g * GROUP / CELL + c));
                        for v in 0..NV {
                            acc[i][v] = if unsigned {
                                s.dot_u8i8(acc[i][v], k[v], x)
                            } else {
                                s.dot_i8i8(acc[i][v], k[v], x)
                            };
                        }
                    }
                }
                for v in 0..NV {
                    let scale = s.load_f16(page.key_scales.add(g * PAGE + first + v * LANES));
                    for i in 0..R {
                        let scale = s.mul(scale, s.splat(q.scale(i, g)));
                        sum[i][v] = s.mul_add(s.from_i32(acc[i][v]), scale, sum[i][v]);
                    }
                }
            }
            for i in 0..R {
                for v in 0..NV {
                    s.store(out.add(i * PAGE + first + v * LANES), sum[i][v]);
                }
            }
        }
        first += NV * LANES;
    }
}

/// `output[row][..] += sum over the keys of weight value`, nothing if there are none.
///
/// # Safety
/// `page` must be a head of a page, `weights` hold R rows of 64 for each group, `output` R rows of the page's stride;
/// `hi <= 64`.
#[inline(always)]
unsafe fn add_values<S: Simd, const R: usize>(
    s: S,
    page: Page,
    (lo, hi): (usize, usize),
    weights: *const f32,
    output: *mut f32,
) {
    if lo >= hi {
        return;
    }
    let groups = groups(page.head_dim);
    for g in 0..groups {
        let weights = weights.wrapping_add(g * PAGE);
        // SAFETY: columns of the group g, of which there are one or two vectors.
        unsafe {
            if page.stride - g * GROUP > LANES {
                group_values::<S, R, 2>(s, page, g, (lo, hi), weights, output);
            } else {
                group_values::<S, R, 1>(s, page, g, (lo, hi), weights, output);
            }
        }
    }
}

/// The columns of one group.
///
/// # Safety
/// As [`add_values`], with the first row of the group's own weights; NV vectors of columns begin at `32 g`.
#[inline(always)]
unsafe fn group_values<S: Simd, const R: usize, const NV: usize>(
    s: S,
    page: Page,
    g: usize,
    (lo, hi): (usize, usize),
    weights: *const f32,
    output: *mut f32,
) {
    let (groups, stride) = (groups(page.head_dim), page.stride);
    // SAFETY: i < R, v < NV, keys below 64.
    unsafe {
        let (output, values) = (output.add(g * GROUP), page.values.add(g * GROUP));
        let mut ahead = page.next.wrapping_add(g * GROUP * PAGE);
        let mut acc = [[s.splat(0.0); NV]; R];
        for i in 0..R {
            for v in 0..NV {
                acc[i][v] = s.load(output.add(i * stride + v * LANES));
            }
        }
        for key in lo..hi {
            ask_ahead(s, ahead, NV * LANES);
            ahead = ahead.wrapping_add(NV * LANES);
            let mut value = [s.splat(0.0); NV];
            for v in 0..NV {
                value[v] = s.from_i32(s.load_i8(values.add(key * stride + v * LANES)));
            }
            for i in 0..R {
                let p = s.splat(*weights.add(i * groups * PAGE + key));
                for v in 0..NV {
                    acc[i][v] = s.mul_add(p, value[v], acc[i][v]);
                }
            }
        }
        for i in 0..R {
            for v in 0..NV {
                s.store(output.add(i * stride + v * LANES), acc[i][v]);
            }
        }
    }
}
