//! Row-wise operations.

use crate::activation::Activation;
use crate::rope::{RopePairing, RopeScaling};
use std::f64::consts::{FRAC_1_SQRT_2, PI, TAU};

/// `1 / (1 + e^-x)`, without cancellation.
pub fn sigmoid(x: f64) -> f64 {
    if x < 0.0 { x.exp() / (1.0 + x.exp()) } else { 1.0 / (1.0 + (-x).exp()) }
}

/// `2 / sqrt(pi) * integral of e^(-t^2) from 0 to x`, to about 1e-15: the Maclaurin series below 2, the complement's
/// continued fraction above.
pub fn erf(x: f64) -> f64 {
    if x.is_nan() {
        return x;
    }
    if x.abs() >= 2.0 {
        return (1.0 - erfc_fraction(x.abs())).copysign(x);
    }
    // e^(-x^2) sum 2^n x^(2n+1) / (1 3 5 ... (2n+1)): all terms have one sign, so nothing cancels.
    let (mut term, mut sum) = (x, x);
    for n in 1..100 {
        term *= 2.0 * x * x / f64::from(2 * n + 1);
        sum += term;
    }
    2.0 / PI.sqrt() * (-x * x).exp() * sum
}

/// `1 - erf(x)`, small results included.
pub fn erfc(x: f64) -> f64 {
    if x >= 2.0 { erfc_fraction(x) } else { 1.0 - erf(x) }
}

/// `e^(-x^2) / sqrt(pi) * 1 / (x + (1/2) / (x + (2/2) / (x + (3/2) / ...)))`
fn erfc_fraction(x: f64) -> f64 {
    let mut tail = x;
    for k in (1..200).rev() {
        tail = x + f64::from(k) / 2.0 / tail;
    }
    (-x * x).exp() / PI.sqrt() / tail
}

/// An activation function. The limits at -inf are 0.
pub fn activation(kind: Activation, x: f64) -> f64 {
    if x == f64::NEG_INFINITY {
        return 0.0;
    }
    match kind {
        Activation::Silu => x * sigmoid(x),
        Activation::Gelu => x * sigmoid(2.0 * (2.0 / PI).sqrt() * (x + 0.044715 * x * x * x)),
        Activation::GeluErf => 0.5 * x * erfc(-x * FRAC_1_SQRT_2),
        Activation::Relu => {
            if x.is_nan() {
                x
            } else {
                x.max(0.0)
            }
        }
    }
}

/// `c tanh(x / c)`
pub fn softcap(x: f64, cap: f64) -> f64 {
    cap * (x / cap).tanh()
}

/// `scale x + mask`
pub fn scores(x: &[f32], scale: f32, mask: Option<&[f32]>) -> Vec<f64> {
    let mask = |i: usize| mask.map_or(0.0, |m| f64::from(m[i]));
    x.iter().enumerate().map(|(i, &x)| f64::from(x) * f64::from(scale) + mask(i)).collect()
}

/// The largest element, NaN if there is one.
fn max(t: &[f64]) -> f64 {
    t.iter().fold(f64::NEG_INFINITY, |m, &t| if t > m || t.is_nan() { t } else { m })
}

/// `e^t_i / sum e^t_k` of scores.
pub fn softmax(t: &[f64]) -> Vec<f64> {
    let m = max(t);
    let sum: f64 = t.iter().map(|t| (t - m).exp()).sum();
    t.iter().map(|t| (t - m).exp() / sum).collect()
}

/// `t_i - ln sum e^t_k` of scores.
pub fn log_softmax(t: &[f64]) -> Vec<f64> {
    let m = max(t);
    let sum: f64 = t.iter().map(|t| (t - m).exp()).sum();
    t.iter().map(|t| t - m - sum.ln()).collect()
}

/// `w_i x_i / sqrt(mean x^2 + eps)`
pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32) -> Vec<f64> {
    let mean = x.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>() / x.len() as f64;
    let root = (mean + f64::from(eps)).sqrt();
    x.iter().zip(weight).map(|(&x, &w)| f64::from(w) * (f64::from(x) / root)).collect()
}

/// `w_i (x_i - mean) / sqrt(var + eps) + b_i`, and `sqrt(var + eps)`.
pub fn layer_norm(x: &[f32], weight: &[f32], bias: &[f32], eps: f32) -> (Vec<f64>, f64) {
    let mean = x.iter().map(|&x| f64::from(x)).sum::<f64>() / x.len() as f64;
    let variance = x.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / x.len() as f64;
    let root = (variance + f64::from(eps)).sqrt();
    let normed = |i: usize| f64::from(weight[i]) * ((f64::from(x[i]) - mean) / root) + f64::from(bias[i]);
    ((0..x.len()).map(normed).collect(), root)
}

/// `x_i / sqrt(sum x^2)`; zeros stay.
pub fn l2_normalize(x: &[f32]) -> Vec<f64> {
    let length = x.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt();
    x.iter().map(|&x| if length == 0.0 { 0.0 } else { f64::from(x) / length }).collect()
}

/// `1/n sum_i x_ij` over rows of `cols` values, which follow one another.
pub fn mean_rows(x: &[f32], cols: usize) -> Vec<f64> {
    let n = (x.len() / cols) as f64;
    (0..cols).map(|j| x.chunks(cols).map(|row| f64::from(row[j])).sum::<f64>() / n).collect()
}

/// Radians per position of each pair, from the published definitions.
pub fn rope_frequencies(n_rot: usize, base: f64, scaling: RopeScaling) -> Vec<f64> {
    let plain = (0..n_rot / 2).map(|i| 1.0 / base.powf(2.0 * i as f64 / n_rot as f64));
    plain
        .enumerate()
        .map(|(i, f)| match scaling {
            RopeScaling::None | RopeScaling::LongRope { .. } => f,
            RopeScaling::Linear { factor } => f / f64::from(factor),
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
                let [factor, low, high] = [factor, low_freq_factor, high_freq_factor].map(f64::from);
                let (context, wavelength) = (f64::from(original_context), TAU / f);
                if wavelength < context / high {
                    f
                } else if wavelength > context / low {
                    f / factor
                } else {
                    let smooth = (context / wavelength - low) / (high - low);
                    (1.0 - smooth) * f / factor + smooth * f
                }
            }
            RopeScaling::Yarn { factor, original_context, beta_fast, beta_slow, truncate, .. } => {
                let dim = n_rot as f64;
                let correction = |rotations: f32| {
                    dim * (f64::from(original_context) / (f64::from(rotations) * TAU)).ln()
                        / (2.0 * base.ln())
                };
                let (low, high) = match truncate {
                    true => (correction(beta_fast).floor(), correction(beta_slow).ceil()),
                    false => (correction(beta_fast), correction(beta_slow)),
                };
                let (low, mut high) = (low.max(0.0), high.min(dim - 1.0));
                if low == high {
                    high += 0.001;
                }
                let ramp = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
                f / f64::from(factor) * ramp + f * (1.0 - ramp)
            }
        })
        .collect()
}

/// One head, turned to a position and made `magnitude` times as long. Values beyond the pairs stay.
pub fn rope(
    head: &[f32],
    frequencies: &[f64],
    magnitude: f64,
    pairing: RopePairing,
    position: u32,
) -> Vec<f64> {
    let mut out: Vec<f64> = head.iter().map(|&x| f64::from(x)).collect();
    for (i, frequency) in frequencies.iter().enumerate() {
        let (i, j) = match pairing {
            RopePairing::Interleaved => (2 * i, 2 * i + 1),
            RopePairing::Halves => (i, i + frequencies.len()),
        };
        let (sin, cos) = (f64::from(position) * frequency).sin_cos();
        let (sin, cos) = (magnitude * sin, magnitude * cos);
        (out[i], out[j]) = (out[i] * cos - out[j] * sin, out[i] * sin + out[j] * cos);
    }
    out
}
