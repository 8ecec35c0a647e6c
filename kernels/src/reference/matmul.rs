//! Matrix multiplication as defined.

use super::quant::{Group, block_values, dequantize, int8_groups, second_terms};
use crate::quant::QuantWeights;
use half::bf16;

/// An exact result and the magnitude that its error bound is scaled with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sum {
    /// `sum a b`
    pub value: f64,
    /// `sum |a b|`
    pub magnitude: f64,
}

fn sum(terms: impl IntoIterator<Item = f64>) -> Sum {
    terms.into_iter().fold(Sum { value: 0.0, magnitude: 0.0 }, |s, t| Sum {
        value: s.value + t,
        magnitude: s.magnitude + t.abs(),
    })
}

/// `x` times every row of `weights`, both as f32.
pub fn f32(x: &[f32], weights: &QuantWeights<'_>) -> Vec<Sum> {
    (0..weights.rows())
        .map(|j| {
            let w = dequantize(weights.format(), weights.row(j));
            sum(x.iter().zip(&w).map(|(x, w)| f64::from(*x) * f64::from(*w)))
        })
        .collect()
}

/// `x`, rounded to bf16, times every row of bf16 weights.
pub fn bf16(x: &[f32], weights: &QuantWeights<'_>) -> Vec<Sum> {
    let x: Vec<f32> = x.iter().map(|x| bf16::from_f32(*x).to_f32()).collect();
    f32(&x, weights)
}

/// `x`, as int8 groups of 32, times every row of block-quantized weights. The magnitude is that of cells of four values:
/// their integer products are exact in every order of summation, what is summed in f32 begins with them.
pub fn int8(x: &[f32], weights: &QuantWeights<'_>) -> Vec<Sum> {
    let groups = int8_groups(x);
    (0..weights.rows()).map(|j| sum(cells(&groups, weights, j))).collect()
}

/// The same with what the groups leave over as a second term.
pub fn int8_two_terms(x: &[f32], weights: &QuantWeights<'_>) -> Vec<Sum> {
    let first = int8_groups(x);
    let second = second_terms(x, &first);
    (0..weights.rows())
        .map(|j| sum(cells(&first, weights, j).into_iter().chain(cells(&second, weights, j))))
        .collect()
}

/// Products of four values each, and those of the minima.
fn cells(groups: &[Group], weights: &QuantWeights<'_>, j: usize) -> Vec<f64> {
    let sub = weights.format().sub_block_len();
    let values = block_values(weights.format(), weights.row(j));
    let mut cells = Vec::new();
    for (i, w) in values.chunks(sub).enumerate() {
        let group = &groups[i * sub / 32];
        let q = &group.q[i * sub % 32..][..sub];
        let (scale, min, x_scale) = (w[0].scale, w[0].min.unwrap_or(0.0), f64::from(group.scale));
        cells.extend(w.chunks(4).zip(q.chunks(4)).map(|(w, q)| {
            let dot: i64 = w.iter().zip(q).map(|(w, q)| i64::from(w.q) * i64::from(*q)).sum();
            f64::from(scale) * x_scale * dot as f64
        }));
        let total: i64 = q.iter().map(|q| i64::from(*q)).sum();
        cells.push(f64::from(min) * x_scale * total as f64);
    }
    cells
}
