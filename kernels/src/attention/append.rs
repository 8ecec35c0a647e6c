//! Writing rows into pages: keys transposed, values as they are, both narrowed to the cache's type. On their way there
//! keys, and the queries that share them, may be normalised and turned.

#![allow(unsafe_code)]

use super::heads::HeadSteps;
use super::kv_cache::CacheShape;
use super::pages::{CacheType, Float, PageId, Pages};
use super::{CacheRow, PAGE};
use crate::isa::Kernels;
use crate::matrix::{MatMut, MatRef};
use crate::pool::Team;
use crate::simd::{LANES, Simd};
use std::ops::Range;

/// Rows below which handing out parts costs more than it saves.
const MIN_ROWS_TO_SPLIT: usize = 16;
/// Parts per thread, so that three heads, or pages, keep two threads equally busy.
const PARTS_PER_THREAD: usize = 4;
/// Pages per thread from which on they are work enough to hand out.
const PAGES_PER_THREAD: usize = 2;

/// Keys to be appended.
pub(super) enum Keys<'a> {
    /// As they are.
    Ready(MatRef<'a>),
    /// Behind these steps, which queries `q` go through as well; both are changed where they are.
    Turned { steps: HeadSteps<'a>, q: MatMut<'a>, k: MatMut<'a> },
}

impl<'a> Keys<'a> {
    /// Rows of some of `n` heads, behind all steps.
    ///
    /// # Safety
    /// The heads must be below `n`, the rows those of the batch, and nobody else may ask for any of the same rows and heads.
    unsafe fn of_heads(
        &self,
        kernels: Kernels,
        heads: Range<usize>,
        n: usize,
        head_dim: usize,
        rows: Range<usize>,
    ) -> MatRef<'a> {
        let columns = |width: usize| heads.start * width..heads.end * width;
        match self {
            Keys::Ready(k) => k.columns(columns(head_dim)).row_range(rows),
            Keys::Turned { steps, q, k } => {
                // SAFETY: key heads and the query heads that share them are inside the views, whose widths are multiples of
                // `n` heads, and the caller alone asks for these.
                let (mut q, mut k) = unsafe {
                    (q.strip(rows.clone(), columns(q.cols() / n)), k.strip(rows.clone(), columns(head_dim)))
                };
                steps.apply(kernels, steps.q_norm, head_dim, rows.start, &mut q);
                steps.apply(kernels, steps.k_norm, head_dim, rows.start, &mut k);
                k.into_ref()
            }
        }
    }
}

/// Writes row `i` of the keys and of `v` to the page that `page_of(rows[i])` names.
#[allow(clippy::too_many_arguments)]
pub(super) fn write(
    kernels: Kernels,
    team: &Team<'_>,
    shape: &CacheShape,
    pages: &mut Pages,
    rows: &[CacheRow],
    page_of: &(dyn Fn(&CacheRow) -> Option<PageId> + Sync),
    keys: &Keys<'_>,
    v: MatRef<'_>,
) {
    let CacheShape { n_kv_heads, head_dim, cache_type, .. } = *shape;
    let writer = pages.writer();
    // A part has some heads of every `splits`-th page, so no two parts share a head of a page: whole rows, which lie together,
    // where there are pages enough for everybody.
    let threads = team.threads();
    let alone = threads == 1 || rows.len() < MIN_ROWS_TO_SPLIT;
    let whole_rows = alone || rows.len() >= PAGES_PER_THREAD * threads * PAGE;
    let head_parts = if whole_rows { 1 } else { n_kv_heads };
    let splits = if alone { 1 } else { (PARTS_PER_THREAD * threads).div_ceil(head_parts) };
    let write_part = |part: usize| {
        let (split, head) = (part / head_parts, part % head_parts);
        let heads = if whole_rows { 0..n_kv_heads } else { head..head + 1 };
        let mut i = 0;
        while i < rows.len() {
            let n = run_length(&rows[i..]);
            if let Some(page) = page_of(&rows[i]).filter(|page| page.index() % splits == split) {
                let (run, at) = (i..i + n, rows[i].position % PAGE);
                // SAFETY: this part alone handles these heads of this page, and a row has one page.
                let k = unsafe { keys.of_heads(kernels, heads.clone(), n_kv_heads, head_dim, run.clone()) };
                for (j, head) in heads.clone().enumerate() {
                    let k = k.columns(j * head_dim..(j + 1) * head_dim);
                    let v = v.columns(head * head_dim..(head + 1) * head_dim).row_range(run.clone());
                    // SAFETY: as above; after `make_room` a page belongs to one sequence; both slices end before the next head.
                    unsafe {
                        match cache_type {
                            CacheType::F32 => {
                                let (keys, values) = writer.head(page, head);
                                kernels.table.cache_rows_f32(k, v, at, keys, values);
                            }
                            CacheType::F16 => {
                                let (keys, values) = writer.head(page, head);
                                kernels.table.cache_rows_f16(k, v, at, keys, values);
                            }
                            CacheType::Bf16 => {
                                let (keys, values) = writer.head(page, head);
                                kernels.table.cache_rows_bf16(k, v, at, keys, values);
                            }
                            CacheType::Q8_0 => {
                                let (keys, values) = writer.head(page, head);
                                kernels.table.cache_rows_q8(k, v, at, keys, values);
                            }
                        }
                    }
                }
            }
            i += n;
        }
    };
    if alone {
        write_part(0);
    } else {
        team.run(head_parts * splits, &write_part);
    }
}

/// How many of the rows, from the first, continue its sequence within its page.
fn run_length(rows: &[CacheRow]) -> usize {
    let first = rows[0];
    let left = PAGE - first.position % PAGE;
    let continues = |(i, row): &(usize, &CacheRow)| {
        *i < left && row.sequence == first.sequence && row.position == first.position + i
    };
    rows.iter().enumerate().take_while(continues).count()
}

/// Writes rows of one head's keys and values to positions `at..` of its page.
#[inline(always)]
pub(crate) fn rows<S: Simd, E: Float>(
    s: S,
    k: MatRef<'_>,
    v: MatRef<'_>,
    at: usize,
    keys: &mut [E],
    values: &mut [E],
) {
    let (n, head_dim) = (k.rows(), k.cols());
    let value_stride = values.len() / PAGE;
    assert!(at + n <= PAGE && keys.len() == head_dim * PAGE && head_dim <= value_stride);
    let mut i = 0;
    while i < n {
        // Sixteen keys at a time are transposed in registers, fewer are scattered.
        if i + LANES <= n && head_dim.is_multiple_of(LANES) {
            let mut across = [0.0f32; LANES * LANES];
            for d in (0..head_dim).step_by(LANES) {
                let mut tile = [0.0f32; LANES * LANES];
                for j in 0..LANES {
                    tile[j * LANES..][..LANES].copy_from_slice(&k.row(i + j)[d..d + LANES]);
                }
                // SAFETY: both tiles are 16 rows of 16 cells. Row d + j of the keys has 64 elements, of which
                // at + i .. at + i + 16 <= at + n <= 64 are written.
                unsafe {
                    s.transpose(tile.as_ptr().cast(), LANES, across.as_mut_ptr().cast(), LANES);
                    for j in 0..LANES {
                        let row = keys.as_mut_ptr().add((d + j) * PAGE + at + i);
                        E::store(s, row, s.load(across.as_ptr().add(j * LANES)));
                    }
                }
            }
            i += LANES;
        } else {
            let row = k.row(i);
            for d in (0..head_dim).step_by(LANES) {
                let narrow = narrowed::<S, E>(s, &row[d..]);
                for j in 0..LANES.min(head_dim - d) {
                    keys[(d + j) * PAGE + at + i] = narrow[j];
                }
            }
            i += 1;
        }
    }
    for i in 0..n {
        let row = v.row(i);
        for d in (0..head_dim).step_by(LANES) {
            // Lanes beyond head_dim are padding and hold zeros.
            let narrow = narrowed::<S, E>(s, &row[d..]);
            values[(at + i) * value_stride + d..][..LANES].copy_from_slice(&narrow);
        }
    }
}

/// Up to 16 values in the cache's type, zeros behind them.
#[inline(always)]
fn narrowed<S: Simd, E: Float>(s: S, x: &[f32]) -> [E; LANES] {
    let mut padded = [0.0; LANES];
    let n = x.len().min(LANES);
    padded[..n].copy_from_slice(&x[..n]);
    let mut out = [E::ZERO; LANES];
    // SAFETY: both arrays have 16 elements.
    unsafe { E::store(s, out.as_mut_ptr(), s.load(padded.as_ptr())) };
    out
}
