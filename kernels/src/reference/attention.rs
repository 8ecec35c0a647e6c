//! Attention of one query row, with the intermediate results.

use std::ops::Range;

/// What attention of one row and head computes on the way. Scores and weights have one element per position.
#[derive(Debug, Clone)]
pub struct AttentionRow {
    /// Scaled, soft-capped scores; -inf where the row does not see.
    pub scores: Vec<f64>,
    /// Their softmax.
    pub weights: Vec<f64>,
    /// `sum p v`
    pub out: Vec<f64>,
    /// `sum p |v|`
    pub magnitude: Vec<f64>,
}

/// What is left of a head's elements when each 32 of them, and the rest, are rounded to integers of at most 127 times one
/// scale, in f32: `s = round(max |x| / 127)`, `s round(x (1 / s))`, ties to even.
pub fn int8_groups(x: &[f32], round: impl Fn(f32) -> f32) -> Vec<f32> {
    let mut out = Vec::with_capacity(x.len());
    for group in x.chunks(32) {
        let scale = round(group.iter().fold(0.0_f32, |max, x| max.max(x.abs())) / 127.0);
        let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
        out.extend(group.iter().map(|x| scale * (x * inverse).clamp(-127.0, 127.0).round_ties_even()));
    }
    out
}

/// Attention of one query over the `visible` ones of `keys` and `values`, `bias` (empty: none) added to the scores;
/// nothing visible, or only scores of -inf: zeros.
pub fn attention_row(
    q: &[f32],
    keys: &[Vec<f32>],
    values: &[Vec<f32>],
    visible: Range<usize>,
    scale: f32,
    soft_cap: Option<f32>,
    bias: &[f32],
) -> AttentionRow {
    let mut scores = vec![f64::NEG_INFINITY; keys.len()];
    for j in visible.clone() {
        let dot: f64 = q.iter().zip(&keys[j]).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
        let score = dot * f64::from(scale);
        scores[j] = soft_cap.map_or(score, |cap| f64::from(cap) * (score / f64::from(cap)).tanh());
        scores[j] += bias.get(j).map_or(0.0, |b| f64::from(*b));
    }
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let mut weights = vec![0.0; keys.len()];
    for j in visible.clone() {
        weights[j] = if scores[j] == f64::NEG_INFINITY { 0.0 } else { (scores[j] - max).exp() };
    }
    let sum: f64 = weights.iter().sum();
    if sum != 0.0 {
        weights.iter_mut().for_each(|w| *w /= sum);
    }
    let (mut out, mut magnitude) = (vec![0.0; q.len()], vec![0.0; q.len()]);
    for j in visible {
        for (d, v) in values[j].iter().enumerate() {
            out[d] += weights[j] * f64::from(*v);
            magnitude[d] += weights[j] * f64::from(*v).abs();
        }
    }
    AttentionRow { scores, weights, out, magnitude }
}
