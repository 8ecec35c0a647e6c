//! The decode leaf: every weight row is streamed once, lanes hold partial sums over k.
//!
//! A strip of weight rows stays in the first-level cache while all rows of x come by, so a batch reads the weights once. Where
//! there are registers for it, what is unpacked of a weight row is multiplied with a few rows of x: four of floats, three of int8
//! groups in two terms. All of it has to hide behind the memory.
//!
//! `blocks.rs` multiplies block formats with int8 groups, `floats.rs` plain floats, and anything else that is widened
//! to f32 first.

mod blocks;
mod floats;

use super::{Job, Path};
use crate::matrix::MatMut;
use crate::mutant::mutant;
use crate::quant::{Format, blocks as formats};
use crate::simd::Simd;
use blocks::Int8;
use floats::{Bf16, F16, F32, Pairs, Widened};
use std::ops::Range;

/// Leaf: one part of a matmul in decode order.
#[inline(always)]
pub(crate) fn decode<S: Simd>(s: S, job: &Job<'_>, out: &mut MatMut<'_>) {
    match (job.path, job.weights.format()) {
        (Path::Int8, Format::Q4_0) => products::<S, Int8<formats::Q4_0>>(s, job, out),
        (Path::Int8, Format::Q4_1) => products::<S, Int8<formats::Q4_1>>(s, job, out),
        (Path::Int8, Format::Q5_0) => products::<S, Int8<formats::Q5_0>>(s, job, out),
        (Path::Int8, Format::Q5_1) => products::<S, Int8<formats::Q5_1>>(s, job, out),
        (Path::Int8, Format::Q8_0) => products::<S, Int8<formats::Q8_0>>(s, job, out),
        (Path::Int8, Format::Q4_K) => products::<S, Int8<formats::Q4_K>>(s, job, out),
        (Path::Int8, Format::Q5_K) => products::<S, Int8<formats::Q5_K>>(s, job, out),
        (Path::Int8, Format::Q6_K) => products::<S, Int8<formats::Q6_K>>(s, job, out),
        (Path::Int8, Format::Q2_K) => products::<S, Int8<formats::Q2_K>>(s, job, out),
        (Path::Int8, Format::Q3_K) => products::<S, Int8<formats::Q3_K>>(s, job, out),
        (Path::Int8, Format::IQ4_NL) => products::<S, Int8<formats::IQ4_NL>>(s, job, out),
        (Path::Int8, Format::IQ4_XS) => products::<S, Int8<formats::IQ4_XS>>(s, job, out),
        (Path::Int8, Format::INT4) => products::<S, Int8<formats::INT4>>(s, job, out),
        (Path::Bf16, _) => products::<S, Pairs>(s, job, out),
        (Path::F32 | Path::Int8, Format::F32) => products::<S, F32>(s, job, out),
        (Path::F32 | Path::Int8, Format::F16) => products::<S, F16>(s, job, out),
        (Path::F32 | Path::Int8, Format::BF16) => products::<S, Bf16>(s, job, out),
        (Path::F32, _) => products::<S, Widened>(s, job, out),
    }
}

/// A way to multiply a weight row with rows of activations. A trait and not a closure: a closure that the compiler
/// chooses not to inline loses the instruction set, and every operation in it becomes a call.
trait Product {
    /// A row of activations in `TERMS` terms, as it is read again and again.
    type Row<'a, const TERMS: usize>: Copy;
    /// Whether there may be two.
    const TWO_TERMS: bool = false;

    /// Row `i` of x; its second term, if it has one, is this remainder.
    fn row<'a, const TERMS: usize>(job: &'a Job<'_>, i: usize, remainder: usize) -> Self::Row<'a, TERMS>;
    /// Products of the weight rows that begin at `w` with rows of x, each by the same operations whatever W and R are.
    fn dots<S: Simd, const W: usize, const R: usize, const TERMS: usize>(
        s: S,
        job: &Job<'_>,
        w: [&[u8]; W],
        x: &[Self::Row<'_, TERMS>; R],
    ) -> [[f32; R]; W];
}

/// Weight rows that stay in the first-level cache while all rows of x come by.
const STRIP: usize = 8;

/// Stores the product of every weight row with every row of x, with bias and residual.
#[inline(always)]
fn products<S: Simd, P: Product>(s: S, job: &Job<'_>, out: &mut MatMut<'_>) {
    let (rows, n) = (job.x.rows(), job.weights.rows());
    let remainders = if P::TWO_TERMS { job.x.remainders() } else { &[] };
    let many = S::REGISTERS >= 32;
    // One row of x is looked up once.
    let strip = if rows == 1 { n.max(1) } else { STRIP };
    for first in (0..n).step_by(strip) {
        let strip = first..(first + strip).min(n);
        let (mut i, mut remainder) = (0, 0);
        while i < rows {
            // The next row with a second term, or the end.
            let next = remainders.get(remainder).map_or(rows, |row| *row as usize);
            let neighbours = remainders.get(remainder + 2).is_some_and(|row| *row as usize == i + 2);
            let done = match (i < next, many) {
                // Not where rows are kept in two terms: generation keeps all of them so, and code is slow to compile.
                (true, true) if !P::TWO_TERMS && i + 4 <= next => {
                    rows_of_x::<S, P, 4, 1>(s, job, out, strip.clone(), i, 0)
                }
                (true, _) => rows_of_x::<S, P, 1, 1>(s, job, out, strip.clone(), i, 0),
                // Four would spill.
                (false, true) if neighbours => {
                    rows_of_x::<S, P, 3, 2>(s, job, out, strip.clone(), i, remainder)
                }
                (false, _) => rows_of_x::<S, P, 1, 2>(s, job, out, strip.clone(), i, remainder),
            };
            remainder += if i < next { 0 } else { done };
            i += done;
        }
    }
}

/// Stores the products of a strip of weight rows with R rows of x from row `i` on; gives R.
#[inline(always)]
fn rows_of_x<S: Simd, P: Product, const R: usize, const TERMS: usize>(
    s: S,
    job: &Job<'_>,
    out: &mut MatMut<'_>,
    strip: Range<usize>,
    i: usize,
    remainder: usize,
) -> usize {
    if TERMS == 2 && !P::TWO_TERMS {
        return R;
    }
    let mut x = [P::row::<TERMS>(job, i, remainder); R];
    for r in 1..R {
        x[r] = P::row::<TERMS>(job, i + r, remainder + r);
    }
    let mut j = strip.start;
    if S::REGISTERS >= 32 && TERMS == 2 && R == 1 {
        // Two weight rows at a time, of either half of the strip: x is loaded half as often, and there are two streams of
        // memory, each without a gap.
        let half = strip.len() / 2;
        for row in j..j + half {
            let w = [job.weights.rest_from(row), job.weights.rest_from(row + half)];
            let [first, second] = P::dots::<S, 2, R, TERMS>(s, job, w, &x);
            store(job, out, i, row, first);
            store(job, out, i, row + half, second);
        }
        j += 2 * half;
    }
    while j < strip.end {
        let [products] = P::dots::<S, 1, R, TERMS>(s, job, [job.weights.rest_from(j)], &x);
        store(job, out, i, j, products);
        j += 1;
    }
    R
}

/// Puts the products of weight row `j` to the rows from `i` on.
#[inline(always)]
fn store<const R: usize>(job: &Job<'_>, out: &mut MatMut<'_>, i: usize, j: usize, products: [f32; R]) {
    for r in 0..R {
        let mut y = products[r];
        if let Some(bias) = job.bias {
            y += bias[j];
        }
        let out = &mut out.row_mut(i + r)[j];
        *out = if job.accumulate && !mutant("residual overwritten") { *out + y } else { y };
    }
}
