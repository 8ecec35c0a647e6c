//! The two products of attention as register tiles.
//!
//! ```text
//! scores   [R rows][64 keys]   += q[row][d]    * K[d][keys]       for d = 0, 1, ..
//! outputs  [R rows][head_dim]  += p[row][key]  * V[key][..]       for key = first, first + 1, ..
//! ```
//!
//! Each element is one chain of fused multiply-adds in that order, whatever the tile around it: a row's bits do not
//! depend on how many rows share the tile.
//!
//! One row reads a page once and then never again, so it is memory that its time goes to: while the keys of a page are
//! read, its values are asked for, and during these the next page's keys. They are asked to come as far as the second
//! level: into the first, fewer can be on their way at a time (Zen 4: 11 -> 18 GB/s on one thread, of 19).

#![allow(unsafe_code)]
// Counting loops over constant bounds are what keeps the arrays in registers.
#![allow(clippy::needless_range_loop)]

use super::PAGE;
use super::leaf::Row;
use super::pages::Float;
use crate::simd::{LANES, Simd, VECTOR_BYTES};

/// Rows of the next register tile when `left` remain.
#[inline(always)]
fn tile_rows<S: Simd>(left: usize) -> usize {
    if S::REGISTERS >= 8 {
        // Of 32 vectors: 6 x 4 accumulators, 4 of keys or values, one broadcast. Of 8: 6 x 1, 1 and one half.
        match left {
            0..=4 => left,
            5 => 3,
            7 | 8 => 4,
            _ => 6,
        }
    } else {
        left.min(2)
    }
}

/// Asks for bytes that will be read next, as fast as others are being read. The address may be any.
#[inline(always)]
pub(super) fn ask_ahead<S: Simd>(s: S, ahead: *const u8, bytes: usize) {
    let mut at = 0;
    while at < bytes {
        s.prefetch_far(ahead.wrapping_add(at));
        at += VECTOR_BYTES;
    }
}

/// Raw products of all rows with the 64 keys of a page: `scores[row][key] = sum_d q[row][d] keys[d][key]`.
#[inline(always)]
pub(super) fn scores<S: Simd, E: Float>(
    s: S,
    rows: &[Row<'_>],
    keys: &[E],
    scores: &mut [f32],
    ahead: *const E,
) {
    let head_dim = keys.len() / PAGE;
    assert!(scores.len() >= rows.len() * PAGE);
    let mut i = 0;
    while i < rows.len() {
        let n = tile_rows::<S>(rows.len() - i);
        let (tile, out) = (&rows[i..i + n], scores[i * PAGE..].as_mut_ptr());
        // SAFETY: the tile has n rows, whose q `score_tile` checks; keys are `head_dim` rows of 64 elements; scores
        // hold n rows of 64 from `i` on.
        unsafe {
            if S::REGISTERS >= 32 {
                match n {
                    6 => score_tile::<S, E, 6, 4>(s, tile, head_dim, keys.as_ptr(), out, ahead),
                    4 => score_tile::<S, E, 4, 4>(s, tile, head_dim, keys.as_ptr(), out, ahead),
                    3 => score_tile::<S, E, 3, 4>(s, tile, head_dim, keys.as_ptr(), out, ahead),
                    2 => score_tile::<S, E, 2, 4>(s, tile, head_dim, keys.as_ptr(), out, ahead),
                    _ => score_tile::<S, E, 1, 4>(s, tile, head_dim, keys.as_ptr(), out, ahead),
                }
            } else if S::REGISTERS >= 8 {
                match n {
                    6 => score_tile::<S, E, 6, 1>(s, tile, head_dim, keys.as_ptr(), out, ahead),
                    4 => score_tile::<S, E, 4, 1>(s, tile, head_dim, keys.as_ptr(), out, ahead),
                    3 => score_tile::<S, E, 3, 1>(s, tile, head_dim, keys.as_ptr(), out, ahead),
                    2 => score_tile::<S, E, 2, 2>(s, tile, head_dim, keys.as_ptr(), out, ahead),
                    _ => score_tile::<S, E, 1, 4>(s, tile, head_dim, keys.as_ptr(), out, ahead),
                }
            } else {
                match n {
                    2 => score_tile::<S, E, 2, 1>(s, tile, head_dim, keys.as_ptr(), out, ahead),
                    _ => score_tile::<S, E, 1, 2>(s, tile, head_dim, keys.as_ptr(), out, ahead),
                }
            }
        }
        i += n;
    }
}

/// # Safety
/// `rows` must have R elements, `keys` be readable for `head_dim x 64` elements, `out` writable for `R x 64`.
#[inline(always)]
unsafe fn score_tile<S: Simd, E: Float, const R: usize, const NV: usize>(
    s: S,
    rows: &[Row<'_>],
    head_dim: usize,
    keys: *const E,
    out: *mut f32,
    mut ahead: *const E,
) {
    let mut q = [std::ptr::null::<f32>(); R];
    for i in 0..R {
        assert!(rows[i].q.len() >= head_dim);
        q[i] = rows[i].q.as_ptr();
    }
    let mut first_key = 0;
    while first_key < PAGE {
        let mut acc = [[s.splat(0.0); NV]; R];
        for d in 0..head_dim {
            // SAFETY: d < head_dim and first_key + 16 NV <= 64 (NV divides 4): inside keys, q (checked above), out.
            unsafe {
                ask_ahead(s, ahead.cast(), NV * LANES * size_of::<E>());
                ahead = ahead.wrapping_add(NV * LANES);
                let mut k = [s.splat(0.0); NV];
                for v in 0..NV {
                    k[v] = E::load(s, keys.add(d * PAGE + first_key + v * LANES));
                }
                for i in 0..R {
                    let x = s.splat(*q[i].add(d));
                    for v in 0..NV {
                        acc[i][v] = s.mul_add(x, k[v], acc[i][v]);
                    }
                }
            }
        }
        for i in 0..R {
            for v in 0..NV {
                // SAFETY: as above.
                unsafe { s.store(out.add(i * PAGE + first_key + v * LANES), acc[i][v]) };
            }
        }
        first_key += NV * LANES;
    }
}

/// Adds the weighted values of the keys `first..end` to the outputs of all rows:
/// `outputs[row][..] += weights[row][key] values[key][..]`.
#[inline(always)]
pub(super) fn outputs<S: Simd, E: Float>(
    s: S,
    n_rows: usize,
    keys: std::ops::Range<usize>,
    weights: &[f32],
    values: &[E],
    outputs: &mut [f32],
    ahead: *const E,
) {
    let stride = values.len() / PAGE;
    assert!(weights.len() >= n_rows * PAGE && outputs.len() >= n_rows * stride && keys.end <= PAGE);
    let mut i = 0;
    while i < n_rows {
        let n = tile_rows::<S>(n_rows - i);
        let tile = OutputTile {
            keys: (keys.start, keys.end),
            weights: weights[i * PAGE..].as_ptr(),
            values: values.as_ptr(),
            outputs: outputs[i * stride..].as_mut_ptr(),
            stride,
            ahead,
        };
        // SAFETY: n rows of 64 weights and of `stride` outputs from row i on; 64 rows of `stride` values.
        unsafe {
            if S::REGISTERS >= 32 {
                match n {
                    6 => output_rows::<S, E, 6, 4>(s, tile),
                    4 => output_rows::<S, E, 4, 4>(s, tile),
                    3 => output_rows::<S, E, 3, 4>(s, tile),
                    2 => output_rows::<S, E, 2, 4>(s, tile),
                    _ => output_rows::<S, E, 1, 4>(s, tile),
                }
            } else if S::REGISTERS >= 8 {
                match n {
                    6 => output_rows::<S, E, 6, 1>(s, tile),
                    4 => output_rows::<S, E, 4, 1>(s, tile),
                    3 => output_rows::<S, E, 3, 1>(s, tile),
                    2 => output_rows::<S, E, 2, 2>(s, tile),
                    _ => output_rows::<S, E, 1, 4>(s, tile),
                }
            } else {
                match n {
                    2 => output_rows::<S, E, 2, 1>(s, tile),
                    _ => output_rows::<S, E, 1, 2>(s, tile),
                }
            }
        }
        i += n;
    }
}

/// [`outputs`] for one row.
#[inline(always)]
pub(super) fn output<S: Simd, E: Float>(
    s: S,
    keys: std::ops::Range<usize>,
    weights: &[f32],
    values: &[E],
    output: &mut [f32],
) {
    let stride = values.len() / PAGE;
    assert!(weights.len() >= PAGE && output.len() >= stride && keys.end <= PAGE);
    let tile = OutputTile {
        keys: (keys.start, keys.end),
        weights: weights.as_ptr(),
        values: values.as_ptr(),
        outputs: output.as_mut_ptr(),
        stride,
        ahead: values.as_ptr(),
    };
    // SAFETY: 64 weights, 64 rows of `stride` values, `stride` outputs.
    unsafe { output_rows::<S, E, 1, 4>(s, tile) };
}

/// Where a tile of output rows finds its operands. Rows of weights are 64 apart, of values and outputs `stride`.
#[derive(Clone, Copy)]
struct OutputTile<E> {
    /// First key and the end.
    keys: (usize, usize),
    weights: *const f32,
    values: *const E,
    outputs: *mut f32,
    stride: usize,
    /// What will be read next, as many elements as there are values.
    ahead: *const E,
}

/// All columns of R rows, NV vectors at a time, the rest singly.
///
/// # Safety
/// The weights must be readable for `R x 64`, the values for `64 x stride`, the outputs writable for `R x stride`;
/// `stride` is a multiple of 16.
#[inline(always)]
unsafe fn output_rows<S: Simd, E: Float, const R: usize, const NV: usize>(s: S, tile: OutputTile<E>) {
    let mut column = 0;
    while column + NV * LANES <= tile.stride {
        // SAFETY: columns ..column + 16 NV exist.
        unsafe { output_tile::<S, E, R, NV>(s, tile, column) };
        column += NV * LANES;
    }
    while column < tile.stride {
        // SAFETY: columns ..column + 16 exist, the stride being a multiple of 16.
        unsafe { output_tile::<S, E, R, 1>(s, tile, column) };
        column += LANES;
    }
}

/// # Safety
/// As [`output_rows`], with `column + 16 NV <= stride`.
#[inline(always)]
unsafe fn output_tile<S: Simd, E: Float, const R: usize, const NV: usize>(
    s: S,
    tile: OutputTile<E>,
    column: usize,
) {
    // SAFETY: i < R, v < NV, key < 64 in the caller's promise.
    unsafe {
        let outputs = tile.outputs.add(column);
        let values = tile.values.add(column);
        let mut acc = [[s.splat(0.0); NV]; R];
        for i in 0..R {
            for v in 0..NV {
                acc[i][v] = s.load(outputs.add(i * tile.stride + v * LANES));
            }
        }
        let mut ahead = tile.ahead.wrapping_add(column * PAGE);
        for key in tile.keys.0..tile.keys.1 {
            ask_ahead(s, ahead.cast(), NV * LANES * size_of::<E>());
            ahead = ahead.wrapping_add(NV * LANES);
            let mut value = [s.splat(0.0); NV];
            for v in 0..NV {
                value[v] = E::load(s, values.add(key * tile.stride + v * LANES));
            }
            for i in 0..R {
                let p = s.splat(*tile.weights.add(i * PAGE + key));
                for v in 0..NV {
                    acc[i][v] = s.mul_add(p, value[v], acc[i][v]);
                }
            }
        }
        for i in 0..R {
            for v in 0..NV {
                s.store(outputs.add(i * tile.stride + v * LANES), acc[i][v]);
            }
        }
    }
}
