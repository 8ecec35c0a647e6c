//! The decode leaf: every weight row is streamed once, lanes hold partial sums over k.
//!
//! A chunk of 16 sub-blocks costs one vector of scales (weights' times activations') that is parked in the stack,
//! and per 64 values one load or unpack, one integer dot product, one conversion and one fused multiply-add. All
//! of it hides behind the memory as long as the next rows are asked for early enough: [`AHEAD`].

#![allow(unsafe_code)]

use super::{Job, Path};
use crate::matrix::MatMut;
use crate::quant::blocks::{self, Block, CHUNK_SUBS, STEP};
use crate::quant::{Format, dequantize_row};
use crate::simd::{LANES, Simd};

/// Bytes between the values in use and the cache lines asked for.
const AHEAD: usize = 6144;

/// Leaf: one part of a matmul in decode order.
#[inline(always)]
pub(crate) fn decode<S: Simd>(s: S, job: &Job<'_>, out: &mut MatMut<'_>) {
    match (job.path, job.weights.format()) {
        (Path::Int8, Format::Q4_0) => products::<S, Int8<blocks::Q4_0>>(s, job, out),
        (Path::Int8, Format::Q4_1) => products::<S, Int8<blocks::Q4_1>>(s, job, out),
        (Path::Int8, Format::Q5_0) => products::<S, Int8<blocks::Q5_0>>(s, job, out),
        (Path::Int8, Format::Q5_1) => products::<S, Int8<blocks::Q5_1>>(s, job, out),
        (Path::Int8, Format::Q8_0) => products::<S, Int8<blocks::Q8_0>>(s, job, out),
        (Path::Int8, Format::Q4_K) => products::<S, Int8<blocks::Q4_K>>(s, job, out),
        (Path::Int8, Format::Q5_K) => products::<S, Int8<blocks::Q5_K>>(s, job, out),
        (Path::Int8, Format::Q6_K) => products::<S, Int8<blocks::Q6_K>>(s, job, out),
        (Path::Int8, Format::Q2_K) => products::<S, Int8<blocks::Q2_K>>(s, job, out),
        (Path::Int8, Format::Q3_K) => products::<S, Int8<blocks::Q3_K>>(s, job, out),
        (Path::Int8, Format::IQ4_NL) => products::<S, Int8<blocks::IQ4_NL>>(s, job, out),
        (Path::Int8, Format::IQ4_XS) => products::<S, Int8<blocks::IQ4_XS>>(s, job, out),
        (Path::Bf16, _) => products::<S, Bf16>(s, job, out),
        (Path::F32 | Path::Int8, _) => products::<S, F32>(s, job, out),
    }
}

/// A way to multiply a weight row with a row of activations. A trait and not a closure: a closure that the compiler
/// chooses not to inline loses the instruction set, and every operation in it becomes a call.
trait Product {
    fn dot<S: Simd>(s: S, job: &Job<'_>, row: &[u8], i: usize) -> f32;
}

/// Stores the product of every weight row with every row of x, with bias and residual.
#[inline(always)]
fn products<S: Simd, P: Product>(s: S, job: &Job<'_>, out: &mut MatMut<'_>) {
    for j in 0..job.weights.rows() {
        let row = job.weights.row(j);
        for i in 0..job.x.rows() {
            let mut y = P::dot(s, job, row, i);
            if let Some(bias) = job.bias {
                y += bias[j];
            }
            let out = &mut out.row_mut(i)[j];
            *out = if job.accumulate { *out + y } else { y };
        }
    }
}

/// Blocks times int8 groups.
struct Int8<B>(std::marker::PhantomData<B>);

impl<B: Block> Product for Int8<B> {
    #[inline(always)]
    fn dot<S: Simd>(s: S, job: &Job<'_>, row: &[u8], i: usize) -> f32 {
        let groups = if B::SUB == 16 { &job.x.by16 } else { &job.x.by32 };
        let scale = &groups.scale[i * groups.stride..][..groups.stride];
        let scaled_sum = &groups.scaled_sum[i * groups.stride..][..groups.stride];
        int8_dot::<S, B>(s, row, job.x.i8_row(i), scale, scaled_sum, job.x.k())
    }
}

/// bf16 times bf16.
struct Bf16;

impl Product for Bf16 {
    #[inline(always)]
    fn dot<S: Simd>(s: S, job: &Job<'_>, row: &[u8], i: usize) -> f32 {
        bf16_dot(s, row, job.x.bf16_row(i), job.x.k())
    }
}

/// Anything, widened to f32.
struct F32;

impl Product for F32 {
    #[inline(always)]
    fn dot<S: Simd>(s: S, job: &Job<'_>, row: &[u8], i: usize) -> f32 {
        f32_dot(s, job.weights.format(), row, job.x.f32_row(i), job.x.k())
    }
}

/// One row of blocks times one row of int8 groups. `q` is padded with zeros to a multiple of 64, the scales to a
/// multiple of 16.
#[inline(always)]
fn int8_dot<S: Simd, B: Block>(
    s: S,
    row: &[u8],
    q: &[i8],
    x_scale: &[f32],
    x_scaled_sum: &[f32],
    k: usize,
) -> f32 {
    let subs = k / B::SUB;
    assert!(row.len() >= k / B::FORMAT.block_len() * B::FORMAT.block_bytes());
    assert!(q.len() >= k.next_multiple_of(STEP));
    assert!(
        x_scale.len() >= subs.next_multiple_of(LANES) && x_scaled_sum.len() >= subs.next_multiple_of(LANES)
    );
    let mut acc = [s.splat(0.0); 4];
    let mut minima = s.splat(0.0);
    let chunk_bytes = CHUNK_SUBS * B::SUB / B::FORMAT.block_len() * B::FORMAT.block_bytes();
    let mut at = row.as_ptr();
    let mut sub = 0;
    while sub < subs {
        let n = (subs - sub).min(CHUNK_SUBS);
        for line in 0..chunk_bytes.div_ceil(64) {
            s.prefetch(at.wrapping_add(AHEAD + 64 * line));
        }
        let mut scale = [0.0_f32; LANES];
        // SAFETY: sub..sub + n are sub-blocks of the row, and the slices are as long as asserted.
        unsafe {
            let w = B::scales(s, row.as_ptr(), sub, n);
            s.store(scale.as_mut_ptr(), s.mul(w.scale, s.load(x_scale.as_ptr().add(sub))));
            if B::HAS_MIN {
                minima = s.mul_add(w.min, s.load(x_scaled_sum.as_ptr().add(sub)), minima);
            }
            if n == CHUNK_SUBS {
                for quad in 0..CHUNK_SUBS * B::SUB / STEP / 4 {
                    // By hand, so that every chain has its own register.
                    let (row, q, first) = (row.as_ptr(), q.as_ptr(), sub * B::SUB);
                    acc[0] = step64::<S, B>(s, row, q, first, 4 * quad, false, &scale, acc[0]);
                    acc[1] = step64::<S, B>(s, row, q, first, 4 * quad + 1, false, &scale, acc[1]);
                    acc[2] = step64::<S, B>(s, row, q, first, 4 * quad + 2, false, &scale, acc[2]);
                    acc[3] = step64::<S, B>(s, row, q, first, 4 * quad + 3, false, &scale, acc[3]);
                }
            } else {
                let values = n * B::SUB;
                for step in 0..values.div_ceil(STEP) {
                    let half = (step + 1) * STEP > values;
                    acc[0] =
                        step64::<S, B>(s, row.as_ptr(), q.as_ptr(), sub * B::SUB, step, half, &scale, acc[0]);
                }
            }
        }
        at = at.wrapping_add(chunk_bytes);
        sub += CHUNK_SUBS;
    }
    let sum = s.add(s.add(acc[0], acc[1]), s.add(acc[2], acc[3]));
    s.sum(if B::HAS_MIN { s.add(sum, minima) } else { sum })
}

/// 64 values: unpack, integer dot product per cell, times the scales.
///
/// # Safety
/// Value `first + 64 step` and the 63 after it (31 if `half`) must lie within the row, all 64 within `q`.
#[inline(always)]
#[expect(
    clippy::too_many_arguments,
    reason = "the innermost step; a struct would hide what stays in registers"
)]
unsafe fn step64<S: Simd, B: Block>(
    s: S,
    row: *const u8,
    q: *const i8,
    first: usize,
    step: usize,
    half: bool,
    scale: &[f32; LANES],
    acc: S::F32,
) -> S::F32 {
    let value = first + step * STEP;
    // SAFETY: the caller's promise; a step has 4 scales of 16 values or 2 of 32, 16 in a chunk.
    unsafe {
        let w = B::bytes(s, row, value, half);
        let x = s.load_bytes(q.add(value).cast());
        let zero = s.splat_i32(0);
        let dot = if B::SIGNED { s.dot_i8i8(zero, w, x) } else { s.dot_u8i8(zero, w, x) };
        let dot = if B::OFFSET > 0 {
            let offset = s.splat_cell(u32::from(B::OFFSET) * 0x0101_0101);
            s.sub_i32(dot, s.dot_u8i8(zero, offset, x))
        } else {
            dot
        };
        let scale = if B::SUB == 16 {
            s.spread4(scale.as_ptr().add(4 * step))
        } else {
            s.spread2(scale.as_ptr().add(2 * step))
        };
        s.mul_add(s.from_i32(dot), scale, acc)
    }
}

/// One row of any format times one row of f32, the weights widened to f32 chunk by chunk.
#[inline(always)]
fn f32_dot<S: Simd>(s: S, format: Format, row: &[u8], x: &[f32], k: usize) -> f32 {
    const CHUNK: usize = 512;
    assert!(x.len() >= k.next_multiple_of(64));
    assert!(row.len() >= k / format.block_len() * format.block_bytes());
    let mut buffer = [0.0_f32; CHUNK];
    let mut acc = [s.splat(0.0); 4];
    let mut from = 0;
    while from < k {
        let to = (from + CHUNK).min(k);
        // SAFETY: from..to is inside the row, the buffer holds a chunk, x is padded to whole vectors.
        unsafe {
            s.prefetch(row.as_ptr().wrapping_add(from * format.block_bytes() / format.block_len() + AHEAD));
            dequantize_row(s, format, row.as_ptr(), from, to, buffer.as_mut_ptr());
            acc = f32_products(s, buffer.as_ptr(), x.as_ptr().add(from), (to - from).div_ceil(LANES), acc);
        }
        from += CHUNK;
    }
    s.sum(s.add(s.add(acc[0], acc[1]), s.add(acc[2], acc[3])))
}

/// Adds `vectors` products of vectors, the first of every four to `acc[0]` and so on, the last few to `acc[0]`.
///
/// # Safety
/// Both sides must be readable for that many vectors.
#[inline(always)]
unsafe fn f32_products<S: Simd>(
    s: S,
    w: *const f32,
    x: *const f32,
    vectors: usize,
    mut acc: [S::F32; 4],
) -> [S::F32; 4] {
    // SAFETY: every index is below `vectors`.
    unsafe {
        let product = |v: usize, acc| s.mul_add(s.load(w.add(v * LANES)), s.load(x.add(v * LANES)), acc);
        for quad in 0..vectors / 4 {
            acc[0] = product(4 * quad, acc[0]);
            acc[1] = product(4 * quad + 1, acc[1]);
            acc[2] = product(4 * quad + 2, acc[2]);
            acc[3] = product(4 * quad + 3, acc[3]);
        }
        for v in vectors / 4 * 4..vectors {
            acc[0] = product(v, acc[0]);
        }
    }
    acc
}

/// One row of bf16 times one row of bf16.
#[inline(always)]
fn bf16_dot<S: Simd>(s: S, row: &[u8], x: &[u16], k: usize) -> f32 {
    const PAIRS: usize = 2 * LANES;
    assert!(x.len() >= k.next_multiple_of(64) && row.len() >= 2 * k);
    let mut acc = [s.splat(0.0); 4];
    let whole = k / PAIRS;
    let (w_at, x_at) = (row.as_ptr(), x.as_ptr().cast::<u8>());
    // SAFETY: vectors below `whole` are inside both rows.
    unsafe {
        for quad in 0..whole / 4 {
            acc[0] = bf16_product(s, w_at, x_at, 4 * quad, acc[0]);
            acc[1] = bf16_product(s, w_at, x_at, 4 * quad + 1, acc[1]);
            acc[2] = bf16_product(s, w_at, x_at, 4 * quad + 2, acc[2]);
            acc[3] = bf16_product(s, w_at, x_at, 4 * quad + 3, acc[3]);
        }
        for v in whole / 4 * 4..whole {
            acc[0] = bf16_product(s, w_at, x_at, v, acc[0]);
        }
    }
    if !k.is_multiple_of(PAIRS) {
        let mut tail = [0_u8; 64];
        let rest = &row[whole * 64..2 * k];
        tail[..rest.len()].copy_from_slice(rest);
        // SAFETY: the copy has 64 bytes, x is padded to a multiple of 64 values.
        unsafe {
            let x = s.load_bytes(x.as_ptr().add(whole * PAIRS).cast());
            acc[0] = s.dot_bf16(acc[0], s.load_bytes(tail.as_ptr()), x);
        }
    }
    s.sum(s.add(s.add(acc[0], acc[1]), s.add(acc[2], acc[3])))
}

/// Adds the product of the vectors `v` of two rows of bf16.
///
/// # Safety
/// Both rows must be readable for `v + 1` vectors of 64 bytes.
#[inline(always)]
unsafe fn bf16_product<S: Simd>(s: S, w: *const u8, x: *const u8, v: usize, acc: S::F32) -> S::F32 {
    // SAFETY: the caller's promise; a prefetch may point anywhere.
    unsafe {
        let w = w.add(64 * v);
        s.prefetch(w.wrapping_add(AHEAD));
        s.dot_bf16(acc, s.load_bytes(w), s.load_bytes(x.add(64 * v)))
    }
}
