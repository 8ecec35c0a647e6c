//! Rows of floats times rows of floats: four chains of vectors, folded in the end.

#![allow(unsafe_code)]

use super::{Job, Product};
use crate::mutant::mutant;
use crate::quant::dequantize_row;
use crate::simd::{LANES, Simd};

/// A way to multiply a vector of weights with a vector of activations.
trait Terms {
    /// Values per vector.
    const VALUES: usize;
    /// Bytes per weight.
    const BYTES: usize;
    /// The type of an activation; rows of x are padded with zeros to whole vectors.
    type X;
    /// # Safety
    /// A vector must be readable on both sides.
    unsafe fn add<S: Simd>(s: S, w: *const u8, x: *const Self::X, acc: S::F32) -> S::F32;
}

/// Defines one pair of types: weights of `$bytes` bytes, `$values` to a vector.
macro_rules! terms {
    ($(#[$doc:meta])* $Name:ident, $values:expr, $bytes:literal, $X:ty, $row:ident, |$s:ident, $w:ident, $x:ident, $acc:ident| $add:expr) => {
        $(#[$doc])*
        pub(super) struct $Name;

        impl Terms for $Name {
            const VALUES: usize = $values;
            const BYTES: usize = $bytes;
            type X = $X;
            #[inline(always)]
            unsafe fn add<S: Simd>($s: S, $w: *const u8, $x: *const $X, $acc: S::F32) -> S::F32 {
                // SAFETY: the caller's promise.
                unsafe { $add }
            }
        }

        impl Product for $Name {
            type Row<'a, const TERMS: usize> = &'a [$X];
            #[inline(always)]
            fn row<'a, const TERMS: usize>(job: &'a Job<'_>, i: usize, _: usize) -> &'a [$X] {
                job.x.$row(i)
            }
            #[inline(always)]
            fn dots<S: Simd, const W: usize, const R: usize, const TERMS: usize>(
                s: S,
                job: &Job<'_>,
                w: [&[u8]; W],
                x: &[&[$X]; R],
            ) -> [[f32; R]; W] {
                let mut out = [[0.0; R]; W];
                for j in 0..W {
                    out[j] = float_dots::<S, $Name, R>(s, job, w[j], x);
                }
                out
            }
        }
    };
}

terms!(
    /// f32 times f32.
    F32, LANES, 4, f32, f32_row,
    |s, w, x, acc| s.mul_add(s.load(w.cast()), s.load(x), acc)
);
terms!(
    /// f16, widened, times f32.
    F16, LANES, 2, f32, f32_row,
    |s, w, x, acc| s.mul_add(s.load_f16(w.cast()), s.load(x), acc)
);
terms!(
    /// bf16, widened, times f32.
    Bf16, LANES, 2, f32, f32_row,
    |s, w, x, acc| s.mul_add(s.load_bf16(w.cast()), s.load(x), acc)
);
terms!(
    /// bf16 times bf16, in pairs.
    Pairs, 2 * LANES, 2, u16, bf16_row,
    |s, w, x, acc| s.dot_bf16(acc, s.load_bytes(w), s.load_bytes(x.cast()))
);

#[inline(always)]
fn float_dots<S: Simd, T: Terms, const R: usize>(
    s: S,
    job: &Job<'_>,
    row: &[u8],
    rows: &[&[T::X]; R],
) -> [f32; R] {
    let k = job.x.k();
    let bytes = T::VALUES * T::BYTES;
    assert!(row.len() >= k * T::BYTES);
    let mut x = [std::ptr::null::<T::X>(); R];
    for r in 0..R {
        x[r] = rows[r][..k.next_multiple_of(T::VALUES)].as_ptr();
    }
    let mut acc = [[s.splat(0.0); 4]; R];
    let whole = k / T::VALUES;
    // SAFETY: vectors below `whole` are inside both rows, the last few values are copied, x is padded.
    unsafe {
        for quad in 0..whole / 4 {
            let w = row.as_ptr().add(quad * 4 * bytes);
            s.read_ahead(w, 4 * bytes);
            for r in 0..R {
                let x = x[r].add(quad * 4 * T::VALUES);
                // By hand, so that every chain has its own register.
                acc[r][0] = T::add(s, w, x, acc[r][0]);
                acc[r][1] = T::add(s, w.add(bytes), x.add(T::VALUES), acc[r][1]);
                acc[r][2] = T::add(s, w.add(2 * bytes), x.add(2 * T::VALUES), acc[r][2]);
                acc[r][3] = T::add(s, w.add(3 * bytes), x.add(3 * T::VALUES), acc[r][3]);
            }
        }
        for v in whole / 4 * 4..whole {
            for r in 0..R {
                acc[r][0] = T::add(s, row.as_ptr().add(v * bytes), x[r].add(v * T::VALUES), acc[r][0]);
            }
        }
        if whole * T::VALUES < k && !mutant("last few floats of a row dropped") {
            let mut tail = [0_u8; 64];
            let rest = &row[whole * bytes..k * T::BYTES];
            tail[..rest.len()].copy_from_slice(rest);
            for r in 0..R {
                acc[r][0] = T::add(s, tail.as_ptr(), x[r].add(whole * T::VALUES), acc[r][0]);
            }
        }
    }
    let mut out = [0.0; R];
    for r in 0..R {
        out[r] = s.sum(s.add(s.add(acc[r][0], acc[r][1]), s.add(acc[r][2], acc[r][3])));
    }
    out
}

/// Any format times f32: the weights widened to f32 chunk by chunk.
pub(super) struct Widened;

impl Product for Widened {
    type Row<'a, const TERMS: usize> = &'a [f32];

    #[inline(always)]
    fn row<'a, const TERMS: usize>(job: &'a Job<'_>, i: usize, _: usize) -> &'a [f32] {
        job.x.f32_row(i)
    }

    #[inline(always)]
    fn dots<S: Simd, const W: usize, const R: usize, const TERMS: usize>(
        s: S,
        job: &Job<'_>,
        w: [&[u8]; W],
        x: &[&[f32]; R],
    ) -> [[f32; R]; W] {
        let mut out = [[0.0; R]; W];
        for j in 0..W {
            out[j] = widened_dots(s, job, w[j], x);
        }
        out
    }
}

/// Products of the weight row that begins at `row` with R rows of x.
#[inline(always)]
fn widened_dots<S: Simd, const R: usize>(s: S, job: &Job<'_>, row: &[u8], rows: &[&[f32]; R]) -> [f32; R] {
    const CHUNK: usize = 512;
    let (k, format) = (job.x.k(), job.weights.format());
    assert!(row.len() >= k / format.block_len() * format.block_bytes());
    let mut x = [std::ptr::null::<f32>(); R];
    for r in 0..R {
        x[r] = rows[r][..k.next_multiple_of(LANES)].as_ptr();
    }
    // Every chunk is written before it is read; zeros would be as much work as the chunk.
    let mut buffer = std::mem::MaybeUninit::<[f32; CHUNK]>::uninit();
    let buffer = buffer.as_mut_ptr().cast::<f32>();
    let mut acc = [[s.splat(0.0); 4]; R];
    for from in (0..k).step_by(CHUNK) {
        let to = (from + CHUNK).min(k);
        let values = format.block_len();
        s.read_ahead(
            row[from / values * format.block_bytes()..].as_ptr(),
            (to - from) / values * format.block_bytes(),
        );
        // SAFETY: from..to is inside the row, the buffer holds a chunk and is written to whole vectors before it is read, x
        // is padded to whole vectors.
        unsafe {
            dequantize_row(s, format, row.as_ptr(), from, to, buffer);
            for r in 0..R {
                let vectors = (to - from).div_ceil(LANES);
                acc[r] = vector_products(s, buffer, x[r].add(from), vectors, acc[r]);
            }
        }
    }
    let mut out = [0.0; R];
    for r in 0..R {
        out[r] = s.sum(s.add(s.add(acc[r][0], acc[r][1]), s.add(acc[r][2], acc[r][3])));
    }
    out
}

/// Adds `vectors` products of vectors, the first of every four to `acc[0]` and so on, the last few to `acc[0]`.
///
/// # Safety
/// Both sides must be readable for that many vectors.
#[inline(always)]
unsafe fn vector_products<S: Simd>(
    s: S,
    w: *const f32,
    x: *const f32,
    vectors: usize,
    mut acc: [S::F32; 4],
) -> [S::F32; 4] {
    // SAFETY: every index is below `vectors`.
    unsafe {
        for quad in 0..vectors / 4 {
            for chain in 0..4 {
                let at = (4 * quad + chain) * LANES;
                acc[chain] = s.mul_add(s.load(w.add(at)), s.load(x.add(at)), acc[chain]);
            }
        }
        for v in vectors / 4 * 4..vectors {
            acc[0] = s.mul_add(s.load(w.add(v * LANES)), s.load(x.add(v * LANES)), acc[0]);
        }
    }
    acc
}
