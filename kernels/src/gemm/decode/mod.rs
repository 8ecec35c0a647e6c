//! The decode leaf: every weight row is streamed once, lanes hold partial sums over k.
//!
//! What is unpacked of a weight row is multiplied with up to four rows of x while it is in registers, so a batch of
//! sequences costs little more than one. All of it has to hide behind the memory.
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
    /// Whether rows of x may have a second term.
    const TWO_TERMS: bool = false;
    /// Products of the row with rows `i` of x, each by the same operations whatever R is.
    fn dots<S: Simd, const R: usize>(s: S, job: &Job<'_>, row: &[u8], i: [usize; R]) -> [f32; R];
}

/// Stores the product of every weight row with every row of x, with bias and residual.
#[inline(always)]
fn products<S: Simd, P: Product>(s: S, job: &Job<'_>, out: &mut MatMut<'_>) {
    let rows = job.x.rows();
    let remainders = if P::TWO_TERMS { job.x.remainders() } else { &[] };
    for j in 0..job.weights.rows() {
        let row = job.weights.row(j);
        let (mut i, mut remainder) = (0, 0);
        while i < rows {
            // The next row with a second term, or the end.
            let next = if remainder < remainders.len() { remainders[remainder] as usize } else { rows };
            while S::REGISTERS >= 32 && i + 4 <= next {
                store(job, out, i, j, P::dots::<S, 4>(s, job, row, [i, i + 1, i + 2, i + 3]));
                i += 4;
            }
            while i < next {
                store(job, out, i, j, P::dots::<S, 1>(s, job, row, [i]));
                i += 1;
            }
            if i < rows {
                let of_remainder = rows + remainder;
                let terms = if S::REGISTERS >= 32 {
                    P::dots::<S, 2>(s, job, row, [i, of_remainder])
                } else {
                    let ([first], [second]) =
                        (P::dots::<S, 1>(s, job, row, [i]), P::dots::<S, 1>(s, job, row, [of_remainder]));
                    [first, second]
                };
                let second = if mutant("second term dropped") { 0.0 } else { terms[1] };
                store(job, out, i, j, [terms[0] + second]);
                i += 1;
                remainder += 1;
            }
        }
    }
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
