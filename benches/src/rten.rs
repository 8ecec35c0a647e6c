//! Row-wise operations of the `rten-vecmath` crate, which leaves threads to its callers: each takes as many rows as any.

use crate::options::Options;
use crate::rowwise::Op;
use crate::timing::{Candidate, filled};
use rayon::prelude::*;
use rten_simd::{SimdOp, SimdUnaryOp};
use rten_vecmath::{Exp, Gelu, Normalize, NormalizeOptions, Silu, Softmax, Sum, SumSquare, SumSquareSub};
use std::mem::MaybeUninit;

/// rten's kernels on a matrix of this shape.
///
/// # Errors
/// An operation that the crate does not have.
pub fn candidate(op: Op, [rows, cols]: [usize; 2], options: &Options) -> Result<Candidate, String> {
    if matches!(op, Op::Rope | Op::SwiGlu) {
        return Err(format!("rten has no {}", op.name()));
    }
    let threads = rayon::ThreadPoolBuilder::new().num_threads(options.threads).build();
    let threads = threads.map_err(|e| e.to_string())?;
    let part = rows.div_ceil(options.threads) * cols;
    let from = filled(rows * cols, |x| x);
    let mut to = from.to_vec();
    let mut other = vec![MaybeUninit::uninit(); rows * cols];
    let weight = filled(cols, |x| x);
    Ok(Candidate::new("rten", move || {
        let (from, weight) = (&from[..], &weight[..]);
        threads.install(|| match op {
            Op::RmsNorm | Op::LayerNorm => {
                other.par_chunks_mut(part).zip(from.par_chunks(part)).for_each(|(to, from)| {
                    for (to, from) in to.chunks_mut(cols).zip(from.chunks(cols)) {
                        Normalize::new(from, to, norm(op, from, weight)).dispatch();
                    }
                });
            }
            Op::Exp => other.par_chunks_mut(part).zip(from.par_chunks(part)).for_each(|(to, from)| {
                Exp {}.map(from, to);
            }),
            _ => to.par_chunks_mut(part).for_each(|rows| match op {
                Op::Softmax => rows.chunks_mut(cols).for_each(|row| {
                    Softmax::new_mut(row).dispatch();
                }),
                Op::Silu => Silu {}.map_mut(rows),
                _ => Gelu {}.map_mut(rows),
            }),
        });
    }))
}

/// What a row is shifted and multiplied by.
fn norm<'a>(op: Op, row: &[f32], weight: &'a [f32]) -> NormalizeOptions<'a> {
    let n = row.len() as f32;
    if op == Op::RmsNorm {
        let scale = (SumSquare::new(row).dispatch() / n + 1e-6).sqrt().recip();
        return NormalizeOptions { scale, element_scale: Some(weight), ..Default::default() };
    }
    let mean = Sum::new(row).dispatch() / n;
    let scale = (SumSquareSub::new(row, mean).dispatch() / n + 1e-5).sqrt().recip();
    NormalizeOptions {
        pre_scale_bias: mean,
        scale,
        element_scale: Some(weight),
        element_bias: Some(weight),
        ..Default::default()
    }
}
