//! Attention by dot products of bf16: two elements of keys, or two keys of values, at a time.
//!
//! ```text
//! keys     [64 / NR blocks][head_dim / 2][NR keys]   cells (k[2c], k[2c + 1])           q: cells (q[2c], q[2c + 1])
//! values   [blocks of NR columns][32][NR columns]    cells (v[2j][d], v[2j + 1][d])     p: cells (p[2j], p[2j + 1])
//! ```
//!
//! [`pack`] brings a page into this form whatever the cache holds, once for all rows of a unit, which are therefore
//! many. [`page`] then takes them through it by the register tile: scores, weights and outputs of six rows, the scores
//! never leaving L1.
//!
//! Queries, keys, values and weights are rounded to bf16; scores, sums of the weights (of the unrounded ones) and
//! outputs are f32. An output is one chain over the pairs of its row's visible keys. Where a row sees only one key of a
//! pair, the other one is masked off: what lies there may be NaN, and NaN times a weight of zero is NaN.

#![allow(unsafe_code)]
// Counting loops over constant bounds are what keeps the arrays in registers.
#![allow(clippy::needless_range_loop)]

use super::PAGE;
use super::kv_cache::CacheShape;
use super::leaf::{Chunk, Partial, Place, Row, running_max, scale_row, shift};
use super::pages::{CacheType, Float};
use super::tile::ask_ahead;
use crate::simd::{LANES, Simd};
use crate::table::KernelTable;

/// Most query rows of a unit: enough that packing the page is little beside using it.
pub(crate) const MAX_ROWS: usize = 96;
/// Most rows of a register tile.
const MAX_TILE: usize = 6;
/// Pairs of keys of a page.
const PAIRS: usize = PAGE / 2;
/// Scratch of a register tile: scores, then weights.
pub(super) const TILE_SCRATCH: usize = MAX_TILE * (PAGE + PAIRS);

/// Elements that hold the cells of one row's query.
pub(super) fn query_cells(head_dim: usize) -> usize {
    head_dim / 2
}

/// Elements that hold the cells of a page's keys, and those of its values.
pub(super) fn panel_cells(head_dim: usize) -> [usize; 2] {
    [query_cells(head_dim) * PAGE, head_dim.next_multiple_of(LANES) * PAIRS]
}

/// Vectors of keys or columns in a block of a panel: what a register tile is wide.
#[inline(always)]
const fn block_vectors<S: Simd>() -> usize {
    if S::REGISTERS >= 32 { 4 } else { 1 }
}

/// One head of a page as it lies in the cache.
#[derive(Clone, Copy)]
pub(crate) struct HeadPage<'a, E> {
    /// `[head_dim][64]`
    pub(crate) keys: &'a [E],
    /// `[64][head_dim up to whole vectors]`
    pub(crate) values: &'a [E],
    /// What will be packed next.
    pub(crate) next: *const E,
}

/// One head of a page as cells: see the module. The cells are bits, not numbers.
#[derive(Clone, Copy)]
pub(crate) struct Panels<'a> {
    pub(crate) keys: &'a [f32],
    pub(crate) values: &'a [f32],
}

/// Packs one head of a page.
#[inline(always)]
pub(crate) fn pack<S: Simd, E: Float>(s: S, page: HeadPage<'_, E>, keys: &mut [f32], values: &mut [f32]) {
    let (cells, stride) = (page.keys.len() / PAGE / 2, page.values.len() / PAGE);
    assert!(page.keys.len() == 2 * cells * PAGE && page.values.len() == stride * PAGE);
    assert!(keys.len() >= cells * PAGE && values.len() >= stride * PAIRS && stride.is_multiple_of(LANES));
    let width = block_vectors::<S>() * LANES;
    let mut ahead = page.values.as_ptr();
    // SAFETY: c < cells, key + 16 <= 64: inside both rows of the page and inside the panel, which has as many cells.
    unsafe {
        for first in (0..PAGE).step_by(width) {
            for c in 0..cells {
                let from = page.keys.as_ptr().add(2 * c * PAGE + first);
                let to = keys.as_mut_ptr().add((first * cells) + c * width);
                ask_ahead(s, ahead.cast(), 2 * width * size_of::<E>());
                ahead = ahead.wrapping_add(2 * width);
                let mut v = 0;
                while v < width {
                    let pair = s.narrow_bf16(E::load(s, from.add(v)), E::load(s, from.add(PAGE + v)));
                    s.store_bytes(to.add(v).cast(), s.interleave_halves(pair));
                    v += LANES;
                }
            }
        }
    }
    ahead = page.next;
    // SAFETY: as above, with 32 pairs of rows of `stride` values.
    unsafe {
        for j in 0..PAIRS {
            let mut column = 0;
            while column < stride {
                ask_ahead(s, ahead.cast(), 2 * LANES * size_of::<E>());
                ahead = ahead.wrapping_add(2 * LANES);
                let from = page.values.as_ptr().add(2 * j * stride + column);
                let pair = s.narrow_bf16(E::load(s, from), E::load(s, from.add(stride)));
                let (first, width) = block_of(column, stride, width);
                let to = values.as_mut_ptr().add(first * PAIRS + j * width + column - first);
                s.store_bytes(to.cast(), s.interleave_halves(pair));
                column += LANES;
            }
        }
    }
}

/// The block of a panel of values that a column is in: its first column and its width. The rest of `stride` that does
/// not fill a block is cut into single vectors.
#[inline(always)]
fn block_of(column: usize, stride: usize, width: usize) -> (usize, usize) {
    let whole = stride / width * width;
    if column < whole { (column / width * width, width) } else { (column / LANES * LANES, LANES) }
}

/// What a page is multiplied with on the way.
#[derive(Clone, Copy)]
pub(crate) struct PageArgs<'a> {
    pub(crate) panels: Panels<'a>,
    /// `[rows][head_dim / 2]` cells of the queries.
    pub(crate) q: &'a [f32],
    pub(crate) place: Place,
}

/// Takes all rows of a unit through one packed page.
#[inline(always)]
pub(crate) fn page<S: Simd>(s: S, args: PageArgs<'_>, rows: &[Row<'_>], partial: &mut Partial<'_>) {
    let n = rows.len();
    let (cells, stride) = (args.panels.keys.len() / PAGE, args.panels.values.len() / PAIRS);
    assert!(args.panels.keys.len() == cells * PAGE && args.panels.values.len() == stride * PAIRS);
    assert!(args.q.len() >= n * cells && stride.is_multiple_of(LANES));
    assert!(partial.output.len() >= n * stride && partial.scores.len() >= TILE_SCRATCH);
    assert!(partial.max.len() >= n && partial.lane_sums.len() >= n * LANES);
    let mut i = 0;
    while i < n {
        // Of 32 vectors: 6 x 4 accumulators, 4 of cells, one broadcast. Where a product of pairs is several instructions,
        // they need room too.
        let most = if S::HAS_BF16 { 6 } else { (S::REGISTERS / 2).min(4) };
        let left = (n - i).min(most);
        let tile = match left {
            5 => 3,
            _ => left,
        };
        // SAFETY: rows i..i + tile of everything that was checked above.
        unsafe {
            match tile {
                6 => tile_of_rows::<S, 6>(s, args, rows, i, partial),
                4 => tile_of_rows::<S, 4>(s, args, rows, i, partial),
                3 => tile_of_rows::<S, 3>(s, args, rows, i, partial),
                2 => tile_of_rows::<S, 2>(s, args, rows, i, partial),
                _ => tile_of_rows::<S, 1>(s, args, rows, i, partial),
            }
        }
        i += tile.max(1);
    }
}

/// # Safety
/// `first + R <= rows.len()`, and everything must have the extents that [`page`] checks.
#[inline(always)]
unsafe fn tile_of_rows<S: Simd, const R: usize>(
    s: S,
    args: PageArgs<'_>,
    rows: &[Row<'_>],
    first: usize,
    partial: &mut Partial<'_>,
) {
    let (cells, stride) = (args.panels.keys.len() / PAGE, args.panels.values.len() / PAIRS);
    let mut visible = [(0, 0); R];
    let mut any = false;
    for i in 0..R {
        visible[i] = rows[first + i].in_page(args.place.position);
        any |= visible[i].0 < visible[i].1;
    }
    if !any {
        return;
    }
    // SAFETY: R <= 6 rows of scores; R rows of q from `first` on; the panel has 64 keys of `cells` cells.
    unsafe {
        let q = args.q.as_ptr().add(first * cells);
        let (keys, out) = (args.panels.keys.as_ptr(), partial.scores.as_mut_ptr());
        if S::REGISTERS >= 32 {
            score_tile::<S, R, 4>(s, q, keys, cells, out);
        } else {
            score_tile::<S, R, 1>(s, q, keys, cells, out);
        }
    }
    let mut rescale = running_max(s, args.place, rows, first, &visible, partial);
    // SAFETY: 16 elements.
    unsafe { s.store(rescale.as_mut_ptr(), exp_of_bf16(s, s.load(rescale.as_ptr()))) };
    let (scores, weights) = partial.scores.split_at_mut(MAX_TILE * PAGE);
    for i in 0..R {
        if visible[i].0 < visible[i].1 {
            let sums = &mut partial.lane_sums[(first + i) * LANES..][..LANES];
            let weights = &mut weights[i * PAIRS..][..PAIRS];
            weigh(s, &scores[i * PAGE..][..PAGE], shift(partial.max[first + i]), rescale[i], sums, weights);
            if rescale[i] != 1.0 {
                scale_row(s, &mut partial.output[(first + i) * stride..][..stride], rescale[i]);
            }
        }
    }
    // SAFETY: R rows of weights, of outputs from `first` on.
    unsafe {
        let output = partial.output.as_mut_ptr().add(first * stride);
        let values = Values { cells: args.panels.values.as_ptr(), stride };
        add_values::<S, R>(s, values, &visible, weights.as_ptr(), output);
    }
}

/// Raw products of R queries with the 64 keys of a page.
///
/// # Safety
/// `q` must hold `R x cells`, `keys` `cells x 64` in blocks of `16 NV`, `out` `R x 64`.
#[inline(always)]
unsafe fn score_tile<S: Simd, const R: usize, const NV: usize>(
    s: S,
    q: *const f32,
    keys: *const f32,
    cells: usize,
    out: *mut f32,
) {
    let width = NV * LANES;
    let mut block = 0;
    while block < PAGE {
        // SAFETY: i < R, c < cells, v < NV in the caller's promise.
        unsafe {
            let mut acc = [[s.splat(0.0); NV]; R];
            let mut at = keys.add(block * cells);
            for c in 0..cells {
                let mut k = [s.splat_cell(0); NV];
                for v in 0..NV {
                    k[v] = s.load_bytes(at.add(v * LANES).cast());
                }
                at = at.add(width);
                for i in 0..R {
                    let x = s.splat_cell(q.add(i * cells + c).cast::<u32>().read());
                    for v in 0..NV {
                        acc[i][v] = s.dot_bf16(acc[i][v], k[v], x);
                    }
                }
            }
            for i in 0..R {
                for v in 0..NV {
                    s.store(out.add(i * PAGE + block + v * LANES), acc[i][v]);
                }
            }
        }
        block += width;
    }
}

/// e^x for x <= 0, to 3e-6: enough for what is rounded to bf16. 0 below -87.7; of NaN it is NaN.
#[inline(always)]
fn exp_of_bf16<S: Simd>(s: S, x: S::F32) -> S::F32 {
    // Adding and subtracting this rounds to the nearest integer.
    let magic = s.splat(12_582_912.0);
    let log2_e = s.splat(std::f32::consts::LOG2_E);
    let x = s.max(s.splat(-88.0), x);
    let n = s.sub(s.mul_add(x, log2_e, magic), magic);
    // 2^r - 1 for |r| <= 1/2: minimax for the relative error.
    let r = s.mul_add(x, log2_e, s.sub(s.splat(0.0), n));
    let p = s.mul_add(s.splat(0.009_582_853), r, s.splat(0.055_906_426));
    let p = s.mul_add(p, r, s.splat(0.240_240_99));
    let p = s.mul_add(p, r, s.splat(0.693_124_2));
    s.mul(s.mul_add(p, r, s.splat(1.0)), s.pow2(n))
}

/// Makes scores to weights `exp(score - shift)`, rounded to bf16, and adds the unrounded ones to the rescaled sums.
#[inline(always)]
fn weigh<S: Simd>(s: S, row: &[f32], shift: f32, rescale: f32, sums: &mut [f32], weights: &mut [f32]) {
    assert!(row.len() == PAGE && sums.len() == LANES && weights.len() == PAIRS);
    // SAFETY: v + 32 <= 64, the length of the row; 16 sums; 32 cells of weights, half as many as scores.
    unsafe {
        let mut sum = s.mul(s.load(sums.as_ptr()), s.splat(rescale));
        for v in (0..PAGE).step_by(2 * LANES) {
            let p = row.as_ptr().add(v);
            let lo = exp_of_bf16(s, s.sub(s.load(p), s.splat(shift)));
            let hi = exp_of_bf16(s, s.sub(s.load(p.add(LANES)), s.splat(shift)));
            s.store_bytes(weights.as_mut_ptr().add(v / 2).cast(), s.narrow_bf16(lo, hi));
            sum = s.add(s.add(sum, lo), hi);
        }
        s.store(sums.as_mut_ptr(), sum);
    }
}

/// A packed panel of values.
#[derive(Clone, Copy)]
struct Values {
    cells: *const f32,
    stride: usize,
}

/// `output[row][..] += sum over its visible keys of weight value`: pairs that all rows see by the tile, what a row sees
/// before and behind them row by row, in the order of the keys.
///
/// # Safety
/// `values` must hold `32 x stride` cells, `weights` `R x 32` cells, `output` `R x stride`; `stride` is a multiple of 16.
#[inline(always)]
unsafe fn add_values<S: Simd, const R: usize>(
    s: S,
    values: Values,
    visible: &[(usize, usize); R],
    weights: *const f32,
    output: *mut f32,
) {
    let stride = values.stride;
    let mut all = (0, PAIRS);
    for (lo, hi) in visible {
        all = (all.0.max(lo.div_ceil(2)), all.1.min(hi / 2));
    }
    let all = if all.0 < all.1 { all } else { (PAIRS, PAIRS) };
    // SAFETY: rows below R and pairs below 32.
    unsafe {
        for i in 0..R {
            let (lo, hi) = visible[i];
            let own = (weights.add(i * PAIRS), output.add(i * stride));
            row_values(s, values, (lo, hi.min(2 * all.0)), own.0, own.1);
        }
        if all.0 < all.1 {
            output_tile::<S, R>(s, values, all, weights, output);
        }
        for i in 0..R {
            let (lo, hi) = visible[i];
            let own = (weights.add(i * PAIRS), output.add(i * stride));
            row_values(s, values, (lo.max(2 * all.1), hi), own.0, own.1);
        }
    }
}

/// Adds the keys `lo..hi` to one row's output; nothing if there are none.
///
/// # Safety
/// As [`add_values`] for one row; `hi <= 64`.
#[inline(always)]
unsafe fn row_values<S: Simd>(
    s: S,
    values: Values,
    (lo, hi): (usize, usize),
    weights: *const f32,
    output: *mut f32,
) {
    if lo >= hi {
        return;
    }
    // SAFETY: pairs below 32.
    unsafe {
        if lo % 2 == 1 {
            half_pair(s, values, lo / 2, 0xffff_0000, weights, output);
        }
        let whole = (lo.div_ceil(2), hi / 2);
        if whole.0 < whole.1 {
            output_tile::<S, 1>(s, values, whole, weights, output);
        }
        // One key alone in the middle of nothing was the odd one already.
        if hi % 2 == 1 {
            half_pair(s, values, hi / 2, 0x0000_ffff, weights, output);
        }
    }
}

/// Adds the one key of a pair whose bits are set in `seen`.
///
/// # Safety
/// As [`add_values`] for one row; `pair < 32`.
#[inline(always)]
unsafe fn half_pair<S: Simd>(
    s: S,
    values: Values,
    pair: usize,
    seen: u32,
    weights: *const f32,
    output: *mut f32,
) {
    let width = block_vectors::<S>() * LANES;
    // SAFETY: columns below the stride.
    unsafe {
        let p = s.splat_cell(weights.add(pair).cast::<u32>().read() & seen);
        let mut column = 0;
        while column < values.stride {
            let (first, width) = block_of(column, values.stride, width);
            let cell = values.cells.add(first * PAIRS + pair * width + column - first);
            let v = s.and(s.load_bytes(cell.cast()), s.splat_cell(seen));
            s.store(output.add(column), s.dot_bf16(s.load(output.add(column)), v, p));
            column += LANES;
        }
    }
}

/// Adds the pairs `pairs.0..pairs.1` to all columns of R rows.
///
/// # Safety
/// As [`add_values`].
#[inline(always)]
unsafe fn output_tile<S: Simd, const R: usize>(
    s: S,
    values: Values,
    pairs: (usize, usize),
    weights: *const f32,
    output: *mut f32,
) {
    let width = block_vectors::<S>() * LANES;
    let mut column = 0;
    // SAFETY: blocks inside the stride.
    unsafe {
        while column + width <= values.stride {
            if S::REGISTERS >= 32 {
                output_block::<S, R, 4>(s, values, column, pairs, weights, output);
            } else {
                output_block::<S, R, 1>(s, values, column, pairs, weights, output);
            }
            column += width;
        }
        while column < values.stride {
            output_block::<S, R, 1>(s, values, column, pairs, weights, output);
            column += LANES;
        }
    }
}

/// Adds pairs to the columns of one block.
///
/// # Safety
/// As [`add_values`]; a block of `16 NV` columns begins at `column`.
#[inline(always)]
unsafe fn output_block<S: Simd, const R: usize, const NV: usize>(
    s: S,
    values: Values,
    column: usize,
    pairs: (usize, usize),
    weights: *const f32,
    output: *mut f32,
) {
    let width = NV * LANES;
    // SAFETY: i < R, v < NV, j < 32 in the caller's promise.
    unsafe {
        let block = values.cells.add(column * PAIRS);
        let output = output.add(column);
        let mut acc = [[s.splat(0.0); NV]; R];
        for i in 0..R {
            for v in 0..NV {
                acc[i][v] = s.load(output.add(i * values.stride + v * LANES));
            }
        }
        for j in pairs.0..pairs.1 {
            let mut value = [s.splat_cell(0); NV];
            for v in 0..NV {
                value[v] = s.load_bytes(block.add(j * width + v * LANES).cast());
            }
            for i in 0..R {
                let p = s.splat_cell(weights.add(i * PAIRS + j).cast::<u32>().read());
                for v in 0..NV {
                    acc[i][v] = s.dot_bf16(acc[i][v], value[v], p);
                }
            }
        }
        for i in 0..R {
            for v in 0..NV {
                s.store(output.add(i * values.stride + v * LANES), acc[i][v]);
            }
        }
    }
}

/// Room for a page's panels and a unit's queries.
pub(super) struct PairScratch<'a> {
    /// `[rows][head_dim / 2]`
    pub(super) q: &'a mut [f32],
    pub(super) keys: &'a mut [f32],
    pub(super) values: &'a mut [f32],
}

/// A unit's rows against one chunk: what `leaf::chunk` is for f32.
pub(super) fn chunk(
    table: &KernelTable,
    args: Chunk<'_>,
    rows: &[Row<'_>],
    scratch: &mut PairScratch<'_>,
    mut partial: Partial<'_>,
) {
    let CacheShape { cache_type, head_dim, .. } = *args.cache.shape();
    let n = rows.len();
    let [keys, values] = panel_cells(head_dim);
    partial.max.fill(f32::NEG_INFINITY);
    partial.lane_sums[..n * LANES].fill(0.0);
    partial.output.fill(0.0);
    partial.tap.fill(f32::NEG_INFINITY);
    for (row, cells) in rows.iter().zip(scratch.q.chunks_exact_mut(query_cells(head_dim))) {
        // SAFETY: every bit pattern of an f32 is two u16, whose alignment is smaller.
        let (_, halves, _) = unsafe { cells.align_to_mut::<u16>() };
        table.to_bf16_row(row.q, halves);
    }
    for (index, page) in args.pages.iter().enumerate() {
        let position = args.position + index * PAGE;
        let seen = |row: &Row<'_>| {
            let (lo, hi) = row.in_page(position);
            lo < hi
        };
        let Some(page) = page.filter(|_| rows.iter().any(seen)) else { continue };
        let (to_keys, to_values) = (&mut scratch.keys[..keys], &mut scratch.values[..values]);
        let next = args.pages.get(index + 1).copied().flatten().unwrap_or(page);
        let (cache, head) = (args.cache, args.head);
        match cache_type {
            CacheType::F32 => table.pack_page_f32(cache.head_page(page, next, head), to_keys, to_values),
            CacheType::F16 => table.pack_page_f16(cache.head_page(page, next, head), to_keys, to_values),
            CacheType::Bf16 => table.pack_page_bf16(cache.head_page(page, next, head), to_keys, to_values),
            // Multiplied as it is: see `int8.rs`.
            CacheType::Q8_0 => return,
        }
        let panels = Panels { keys: to_keys, values: to_values };
        let place = Place { position, index, scale: args.scale, soft_cap: args.soft_cap };
        table.attention_page(PageArgs { panels, q: scratch.q, place }, rows, &mut partial);
    }
    for (sum, lanes) in partial.sum.iter_mut().zip(partial.lane_sums.chunks_exact_mut(LANES)) {
        let mut half = LANES / 2;
        while half > 0 {
            (0..half).for_each(|i| lanes[i] += lanes[i + half]);
            half /= 2;
        }
        *sum = lanes[0];
    }
}
