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

/// Mean and the standard error of the mean (0 for fewer than two values).
#[expect(clippy::cast_precision_loss, reason = "counts of measurements are small")]
pub fn mean_and_error(values: impl IntoIterator<Item = f64>) -> (f64, f64) {
    let values: Vec<f64> = values.into_iter().collect();
    let (mean, deviation) = mean_and_deviation(&values);
    (mean, if values.len() < 2 { 0.0 } else { deviation / (values.len() as f64).sqrt() })
}

/// The covariance of the means of paired values: `(E[ab] - E[a] E[b]) / (n - 1)`.
#[expect(clippy::cast_precision_loss, reason = "counts of measurements are small")]
pub fn covariance_of_means(a: &[f64], b: &[f64]) -> f64 {
    let n = a.len().min(b.len()) as f64;
    if n < 2.0 {
        return 0.0;
    }
    let (mean_a, mean_b) = (a.iter().sum::<f64>() / n, b.iter().sum::<f64>() / n);
    let sum: f64 = a.iter().zip(b).map(|(x, y)| (x - mean_a) * (y - mean_b)).sum();
    sum / n / (n - 1.0)
}

/// The middle of the values, NaN of none.
pub fn median(values: &[f64]) -> f64 {
    percentile(&sorted(values), 0.5)
}

/// The values in ascending order.
pub fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

/// How often the bootstrap draws anew.
const DRAWS: usize = 2000;

/// The interval in which the median lies with 95 % confidence, by the percentile bootstrap (Efron 1979).
pub fn median_interval(values: &[f64]) -> (f64, f64) {
    let mut random = Random::new();
    interval((0..DRAWS).map(|_| median(&random.resample(values))))
}

/// The ratio of the medians of `a` and `b`, and its 95 % interval by the percentile bootstrap.
pub fn ratio_of_medians(a: &[f64], b: &[f64]) -> (f64, (f64, f64)) {
    let mut random = Random::new();
    let draws = (0..DRAWS).map(|_| median(&random.resample(a)) / median(&random.resample(b)));
    let interval = interval(draws);
    (median(a) / median(b), interval)
}

fn interval(draws: impl Iterator<Item = f64>) -> (f64, f64) {
    let draws = sorted(&draws.collect::<Vec<_>>());
    (percentile(&draws, 0.025), percentile(&draws, 0.975))
}

/// Numbers that look random and are the same each time (xorshift64).
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// Always the same sequence.
    pub fn new() -> Random {
        Random(0x9E37_79B9_7F4A_7C15)
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `n`, 0 if `n` is 0.
    pub fn below(&mut self, n: usize) -> usize {
        let n = u64::try_from(n).unwrap_or(u64::MAX).max(1);
        usize::try_from(self.bits() % n).unwrap_or(0)
    }

    /// As many of the values as there are, drawn with replacement.
    fn resample(&mut self, values: &[f64]) -> Vec<f64> {
        (0..values.len()).filter_map(|_| values.get(self.below(values.len())).copied()).collect()
    }
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

/// What two sets of scores of the same position say, the second (`base`) being the yardstick.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Comparison {
    /// Kullback-Leibler divergence of softmax(ours) from softmax(base), in nats: `sum p ln(p / q)`.
    pub divergence: f64,
    /// Negative log-probability of the target, ours.
    pub nll: f64,
    /// The same of the base.
    pub nll_base: f64,
    /// Whether both hold the same token for the most likely.
    pub same_top: bool,
}

impl Comparison {
    /// Compares in one pass over the vocabulary.
    pub fn new(base: &[f32], ours: &[f32], target: u32) -> Comparison {
        let (top_base, max_base) = top(base);
        let (top_ours, max_ours) = top(ours);
        let (mut sum_base, mut sum_ours, mut weighted) = (0.0_f64, 0.0_f64, 0.0_f64);
        for (&p, &q) in base.iter().zip(ours) {
            let (p, q) = (f64::from(p), f64::from(q));
            let e = (p - max_base).exp();
            sum_base += e;
            sum_ours += (q - max_ours).exp();
            // A token that the base rules out adds nothing, whatever we say of it.
            if e > 0.0 {
                weighted += e * (p - q);
            }
        }
        let (norm_base, norm_ours) = (max_base + sum_base.ln(), max_ours + sum_ours.ln());
        let score = |row: &[f32]| f64::from(at(row, target));
        Comparison {
            divergence: weighted / sum_base - norm_base + norm_ours,
            nll: norm_ours - score(ours),
            nll_base: norm_base - score(base),
            same_top: top_base == top_ours,
        }
    }

    /// By how much we hold the target for more likely than the base does.
    pub fn delta_p(&self) -> f64 {
        (-self.nll).exp() - (-self.nll_base).exp()
    }
}

/// Negative log-probability of the target.
pub fn negative_log(logits: &[f32], target: u32) -> f64 {
    log_sum_exp(logits) - f64::from(at(logits, target))
}

fn at(logits: &[f32], target: u32) -> f32 {
    usize::try_from(target).ok().and_then(|i| logits.get(i)).copied().unwrap_or(f32::NAN)
}

/// Index and value of the highest score; the first of equal ones.
fn top(logits: &[f32]) -> (usize, f64) {
    let mut best = (0, f32::NEG_INFINITY);
    for (i, &x) in logits.iter().enumerate() {
        if x > best.1 {
            best = (i, x);
        }
    }
    (best.0, f64::from(best.1))
}

/// The `n` highest scores as `(id, log-probability)`, the first of equal ones first.
pub fn top_tokens(logits: &[f32], n: usize) -> Vec<(u32, f64)> {
    let norm = log_sum_exp(logits);
    let mut order: Vec<(u32, f32)> = (0..).zip(logits.iter().copied()).collect();
    let by_score = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    if n < order.len() {
        order.select_nth_unstable_by(n, by_score);
        order.truncate(n);
    }
    order.sort_by(by_score);
    order.into_iter().map(|(id, x)| (id, f64::from(x) - norm)).collect()
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
        let divergence = |p: &[f32], q: &[f32]| Comparison::new(p, q, 0).divergence;
        assert!(divergence(&[1.0, 2.0, 3.0], &[11.0, 12.0, 13.0]).abs() < 1e-6);
        let (p, q) = ([0.9_f32.ln(), 0.1_f32.ln()], [0.5_f32.ln(), 0.5_f32.ln()]);
        let expected = 0.9 * (0.9_f64 / 0.5).ln() + 0.1 * (0.1_f64 / 0.5).ln();
        assert!((divergence(&p, &q) - expected).abs() < 1e-6);
        assert!((divergence(&[0.0, f32::NEG_INFINITY], &[0.0, 0.0]) - 2.0_f64.ln()).abs() < 1e-9);
    }

    #[test]
    fn a_comparison_knows_the_target_on_both_sides() {
        let found = Comparison::new(&[0.0, 3.0_f32.ln()], &[0.0, 0.0], 1);
        assert!((found.nll_base + 0.75_f64.ln()).abs() < 1e-6 && (found.nll - 2.0_f64.ln()).abs() < 1e-9);
        assert!((found.delta_p() + 0.25).abs() < 1e-6 && !found.same_top);
        assert!((found.nll - negative_log(&[0.0, 0.0], 1)).abs() < 1e-12);
        assert!(Comparison::new(&[0.0], &[0.0], 7).nll.is_nan());
    }

    #[test]
    fn the_first_of_equal_scores_is_the_top() {
        assert_eq!(top(&[0.0, 2.0, 2.0, f32::NAN]), (1, 2.0));
        let ids: Vec<u32> = top_tokens(&[0.0, 2.0, 2.0, 1.0], 3).iter().map(|t| t.0).collect();
        assert_eq!(ids, [1, 2, 3]);
    }

    #[test]
    fn equal_speeds_are_not_told_apart_and_double_speed_is() {
        let a = [100.0, 101.0, 99.0, 102.0, 98.0];
        let b = [99.5, 100.5, 101.5, 98.5, 100.0];
        let double: Vec<f64> = a.iter().map(|x| x * 2.0).collect();
        let (ratio, (low, high)) = ratio_of_medians(&a, &b);
        assert!((ratio - 1.0).abs() < 0.02 && low < 1.0 && high > 1.0);
        let (ratio, (low, high)) = ratio_of_medians(&double, &b);
        assert!((ratio - 2.0).abs() < 0.05 && low > 1.5 && high < 2.5);
        let (low, high) = median_interval(&a);
        assert!((98.0..=100.0).contains(&low) && (100.0..=102.0).contains(&high));
    }

    #[test]
    fn the_covariance_of_a_mean_with_itself_is_its_squared_error() {
        let a = [1.0, 4.0, 2.0, 8.0];
        let (_, error) = mean_and_error(a);
        assert!((covariance_of_means(&a, &a) - error * error).abs() < 1e-12);
    }
}
