//! The arithmetic of the measuring commands: means and deviations, percentiles, and distances between distributions.

/// Mean and sample standard deviation (0 for fewer than two values).
#[expect(clippy::cast_precision_loss, reason = "counts of measurements are small")]
pub fn mean_and_deviation(values: &[f64]) -> (f64, f64) {
    if values.is_empty() {
        return (0.0, 0.0);
    }
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    if values.len() < 2 {
        return (mean, 0.0);
    }
    let squares: f64 = values.iter().map(|x| (x - mean) * (x - mean)).sum();
    (mean, (squares / (n - 1.0)).sqrt())
}

/// The value below which the share `p` of the sorted values lies, between neighbours by proportion.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "an index into a list, clamped to it"
)]
pub fn percentile(sorted: &[f64], p: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let at = (p.clamp(0.0, 1.0) * last as f64).min(last as f64);
    let low = at.floor() as usize;
    let value = |i: usize| sorted.get(i.min(last)).copied().unwrap_or(f64::NAN);
    let share = at - at.floor();
    value(low) * (1.0 - share) + value(low.saturating_add(1)) * share
}

/// `ln(sum(exp(x)))`, in f64.
pub fn log_sum_exp(logits: &[f32]) -> f64 {
    let max = logits.iter().fold(f32::NEG_INFINITY, |a, &b| a.max(b));
    let max = f64::from(max);
    max + logits.iter().map(|&x| (f64::from(x) - max).exp()).sum::<f64>().ln()
}

/// Index of the highest score; the first of equal ones.
pub fn top1(logits: &[f32]) -> usize {
    let mut best = (0, f32::NEG_INFINITY);
    for (i, &x) in logits.iter().enumerate() {
        if x > best.1 {
            best = (i, x);
        }
    }
    best.0
}

/// Kullback-Leibler divergence of softmax(`q`) from softmax(`p`), in nats: `sum p ln(p / q)`.
pub fn divergence(p: &[f32], q: &[f32]) -> f64 {
    let (norm_p, norm_q) = (log_sum_exp(p), log_sum_exp(q));
    let term = |(&a, &b): (&f32, &f32)| {
        let (log_p, log_q) = (f64::from(a) - norm_p, f64::from(b) - norm_q);
        // A token that p rules out adds nothing, whatever q says of it.
        if log_p == f64::NEG_INFINITY { 0.0 } else { log_p.exp() * (log_p - log_q) }
    };
    p.iter().zip(q).map(term).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deviation_is_that_of_a_sample() {
        let (mean, deviation) = mean_and_deviation(&[2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0]);
        assert!((mean - 5.0).abs() < 1e-12 && (deviation - (32.0_f64 / 7.0).sqrt()).abs() < 1e-12);
        assert_eq!(mean_and_deviation(&[3.0]), (3.0, 0.0));
    }

    #[test]
    fn percentiles_lie_between_neighbours() {
        let values = [0.0, 1.0, 2.0, 3.0, 4.0];
        assert!((percentile(&values, 0.5) - 2.0).abs() < 1e-12);
        assert!((percentile(&values, 0.875) - 3.5).abs() < 1e-12);
        assert!((percentile(&values, 1.0) - 4.0).abs() < 1e-12);
        assert!(percentile(&[], 0.5).is_nan());
    }

    #[test]
    fn divergence_is_zero_up_to_a_shift_and_right_for_a_coin() {
        assert!(divergence(&[1.0, 2.0, 3.0], &[11.0, 12.0, 13.0]).abs() < 1e-6);
        let (p, q) = ([0.9_f32.ln(), 0.1_f32.ln()], [0.5_f32.ln(), 0.5_f32.ln()]);
        let expected = 0.9 * (0.9_f64 / 0.5).ln() + 0.1 * (0.1_f64 / 0.5).ln();
        assert!((divergence(&p, &q) - expected).abs() < 1e-6);
        assert!((divergence(&[0.0, f32::NEG_INFINITY], &[0.0, 0.0]) - 2.0_f64.ln()).abs() < 1e-9);
    }

    #[test]
    fn the_first_of_equal_scores_is_the_top() {
        assert_eq!(top1(&[0.0, 2.0, 2.0, f32::NAN]), 1);
    }
}
