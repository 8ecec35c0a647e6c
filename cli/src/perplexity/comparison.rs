//! What two models' views of the same positions have in common, in llama-perplexity's blocks.
//!
//! Errors are standard errors of the mean; that of a function of means is carried through its derivative, and PPL(Q) and
//! PPL(base) are not independent, so their covariance counts.

use crate::statistics::{Comparison, covariance_of_means, mean_and_error, percentile, sorted};
use serde_json::Value;
use std::fmt::Write;

/// Every scored position so far.
#[derive(Debug, Default)]
pub struct Comparisons(Vec<Comparison>);

/// A value and its error.
type Measured = (f64, f64);

/// Share, label in llama-perplexity's blocks, key in JSON; `None` where only its token probabilities have the line.
const SHARES: [(f64, &str, &str); 10] = [
    (1.0, "Maximum", "max"),
    (0.999, "99.9%  ", "p99_9"),
    (0.99, "99.0%  ", "p99"),
    (0.95, "95.0%  ", "p95"),
    (0.9, "90.0%  ", "p90"),
    (0.5, "Median ", "p50"),
    (0.1, "10.0%  ", "p10"),
    (0.05, " 5.0%  ", "p5"),
    (0.01, " 1.0%  ", "p1"),
    (0.001, " 0.1%  ", "p0_1"),
];

/// The same with quartiles, which only token probabilities have.
const QUARTILES: [(f64, &str, &str); 2] = [(0.75, "75.0%  ", "p75"), (0.25, "25.0%  ", "p25")];

impl Comparisons {
    /// Adds positions.
    pub fn extend(&mut self, new: Vec<Comparison>) {
        self.0.extend(new);
    }

    /// Our negative log-probabilities.
    pub fn nll(&self) -> Vec<f64> {
        self.0.iter().map(|c| c.nll).collect()
    }

    fn nll_base(&self) -> Vec<f64> {
        self.0.iter().map(|c| c.nll_base).collect()
    }

    /// Mean KL divergence and its error.
    pub fn divergence(&self) -> Measured {
        mean_and_error(self.0.iter().map(|c| c.divergence))
    }

    fn ppl(&self) -> Measured {
        exp(mean_and_error(self.nll()))
    }

    fn ppl_base(&self) -> Measured {
        exp(mean_and_error(self.nll_base()))
    }

    /// Covariance of the two mean negative log-probabilities.
    fn covariance(&self) -> f64 {
        covariance_of_means(&self.nll(), &self.nll_base())
    }

    /// `ln(PPL(Q) / PPL(base))`
    fn log_ratio(&self) -> Measured {
        let ((a, error_a), (b, error_b)) = (mean_and_error(self.nll()), mean_and_error(self.nll_base()));
        let variance = error_a * error_a + error_b * error_b - 2.0 * self.covariance();
        (a - b, variance.max(0.0).sqrt())
    }

    /// `PPL(Q) - PPL(base)`
    fn difference(&self) -> Measured {
        let ((a, error_a), (b, error_b)) = (self.ppl(), self.ppl_base());
        let variance = error_a * error_a + error_b * error_b - 2.0 * a * b * self.covariance();
        (a - b, variance.max(0.0).sqrt())
    }

    fn delta_p(&self) -> Vec<f64> {
        self.0.iter().map(Comparison::delta_p).collect()
    }

    /// Root of the mean square of the differences in probability.
    fn rms_delta_p(&self) -> Measured {
        let (mean, error) = mean_and_error(self.delta_p().iter().map(|d| d * d));
        let rms = mean.sqrt();
        (rms, if rms > 0.0 { 0.5 / rms * error } else { 0.0 })
    }

    #[expect(clippy::cast_precision_loss, reason = "counts of tokens")]
    fn same_top(&self) -> Measured {
        let n = self.0.len() as f64;
        let share = self.0.iter().filter(|c| c.same_top).count() as f64 / n;
        (share, if n > 1.0 { (share * (1.0 - share) / (n - 1.0)).sqrt() } else { 0.0 })
    }

    /// The running values after chunk `i`, under their header.
    pub fn chunk_lines(&self, i: usize) -> String {
        let (ppl, ratio, kl) = (self.ppl(), self.log_ratio(), self.divergence());
        let (rms, top) = (percent(self.rms_delta_p()), percent(self.same_top()));
        format!(
            "\nchunk             PPL               ln(PPL(Q)/PPL(base))          KL Divergence              Δp RMS            Same top p\n\
             {i:4}    {:9.4} ± {:9.4}    {:10.5} ± {:10.5}    {:10.5} ± {:10.5}    {:6.3} ± {:6.3} %    {:6.3} ± {:6.3} %\n",
            ppl.0, ppl.1, ratio.0, ratio.1, kl.0, kl.1, rms.0, rms.1, top.0, top.1
        )
    }

    /// The three blocks at the end.
    pub fn blocks(&self) -> String {
        let errors = (mean_and_error(self.nll()).1, mean_and_error(self.nll_base()).1);
        let correlation = self.covariance() / (errors.0 * errors.1);
        let line =
            |label: &str, (value, error): Measured| format!("{label:<30}: {value:10.6} ± {error:10.6}\n");
        let mut out = String::from("====== Perplexity statistics ======\n");
        out += &line("Mean PPL(Q)", self.ppl());
        out += &line("Mean PPL(base)", self.ppl_base());
        let _ = writeln!(out, "Cor(ln(PPL(Q)), ln(PPL(base))): {:6.2}%", 100.0 * correlation);
        out += &line("Mean ln(PPL(Q)/PPL(base))", self.log_ratio());
        out += &line("Mean PPL(Q)/PPL(base)", exp(self.log_ratio()));
        out += &line("Mean PPL(Q)-PPL(base)", self.difference());

        let kl = self.divergence();
        let _ = writeln!(out, "\n====== KL divergence statistics ======");
        let _ = writeln!(out, "Mean    KLD: {:10.6} ± {:10.6}", kl.0, kl.1);
        let values = self.sorted_divergence();
        for (share, label, _) in SHARES {
            let _ = writeln!(out, "{label} KLD: {:10.6}", percentile(&values, share));
        }
        let _ = writeln!(out, "Minimum KLD: {:10.6}", percentile(&values, 0.0));

        let _ = writeln!(out, "\n====== Token probability statistics ======");
        let (mean, error) = percent(mean_and_error(self.delta_p()));
        let _ = writeln!(out, "Mean    Δp: {mean:6.3} ± {error:5.3} %");
        let values = sorted(&self.delta_p());
        for (share, label, _) in delta_p_shares() {
            let _ = writeln!(out, "{label} Δp: {:6.3}%", 100.0 * percentile(&values, share));
        }
        let _ = writeln!(out, "Minimum Δp: {:6.3}%", 100.0 * percentile(&values, 0.0));
        let (rms, top) = (percent(self.rms_delta_p()), percent(self.same_top()));
        let _ = writeln!(out, "RMS Δp    : {:6.3} ± {:5.3} %", rms.0, rms.1);
        let _ = writeln!(out, "Same top p: {:6.3} ± {:5.3} %", top.0, top.1);
        out
    }

    fn sorted_divergence(&self) -> Vec<f64> {
        sorted(&self.0.iter().map(|c| c.divergence).collect::<Vec<_>>())
    }

    /// The same values by name; probabilities as shares of 1.
    pub fn json(&self) -> Vec<(String, Value)> {
        let mut out: Vec<(String, Value)> = Vec::new();
        let mut pair = |name: &str, (value, error): Measured| {
            out.push((name.to_owned(), value.into()));
            out.push((format!("{name}_error"), error.into()));
        };
        pair("ppl_base", self.ppl_base());
        pair("nll_base", mean_and_error(self.nll_base()));
        pair("ln_ppl_ratio", self.log_ratio());
        pair("ppl_ratio", exp(self.log_ratio()));
        pair("ppl_difference", self.difference());
        pair("kl_mean", self.divergence());
        pair("delta_p_mean", mean_and_error(self.delta_p()));
        pair("delta_p_rms", self.rms_delta_p());
        pair("top1_agreement", self.same_top());
        let values = self.sorted_divergence();
        out.extend(SHARES.map(|(share, _, key)| (format!("kl_{key}"), percentile(&values, share).into())));
        out.push(("kl_min".to_owned(), percentile(&values, 0.0).into()));
        let values = sorted(&self.delta_p());
        let shares = delta_p_shares().into_iter();
        out.extend(
            shares.map(|(share, _, key)| (format!("delta_p_{key}"), percentile(&values, share).into())),
        );
        out.push(("delta_p_min".to_owned(), percentile(&values, 0.0).into()));
        out
    }
}

fn delta_p_shares() -> Vec<(f64, &'static str, &'static str)> {
    let mut all = [&SHARES[..], &QUARTILES].concat();
    all.sort_by(|a, b| b.0.total_cmp(&a.0));
    all
}

fn exp((value, error): Measured) -> Measured {
    (value.exp(), value.exp() * error)
}

fn percent((value, error): Measured) -> Measured {
    (100.0 * value, 100.0 * error)
}

#[cfg(test)]
mod unit {
    use super::*;

    fn comparisons() -> Comparisons {
        let of = |i: u32| {
            let x = f64::from(i);
            Comparison {
                divergence: x / 1000.0,
                nll: 2.0 + x / 50.0,
                nll_base: 1.9 + x / 49.0,
                same_top: !i.is_multiple_of(4),
            }
        };
        Comparisons((0..101).map(of).collect())
    }

    #[test]
    fn blocks_have_the_lines_of_llama_perplexity() {
        let text = comparisons().blocks();
        let labels: Vec<&str> = text.lines().filter_map(|l| l.split_once(": ").map(|(a, _)| a)).collect();
        let expected = [
            "Mean PPL(Q)                   ",
            "Mean PPL(base)                ",
            "Cor(ln(PPL(Q)), ln(PPL(base)))",
            "Mean ln(PPL(Q)/PPL(base))     ",
            "Mean PPL(Q)/PPL(base)         ",
            "Mean PPL(Q)-PPL(base)         ",
            "Mean    KLD",
            "Maximum KLD",
            "99.9%   KLD",
            "99.0%   KLD",
            "95.0%   KLD",
            "90.0%   KLD",
            "Median  KLD",
            "10.0%   KLD",
            " 5.0%   KLD",
            " 1.0%   KLD",
            " 0.1%   KLD",
            "Minimum KLD",
            "Mean    Δp",
            "Maximum Δp",
            "99.9%   Δp",
            "99.0%   Δp",
            "95.0%   Δp",
            "90.0%   Δp",
            "75.0%   Δp",
            "Median  Δp",
            "25.0%   Δp",
            "10.0%   Δp",
            " 5.0%   Δp",
            " 1.0%   Δp",
            " 0.1%   Δp",
            "Minimum Δp",
            "RMS Δp    ",
            "Same top p",
        ];
        assert_eq!(labels, expected);
        assert!(
            text.contains("Median  KLD:   0.050000\n") && text.contains("Maximum KLD:   0.100000\n"),
            "{text}"
        );
        assert!(text.contains("Same top p: 74.257 ± 4.372 %"), "{text}");
    }

    #[test]
    fn the_error_of_a_ratio_is_small_when_both_move_together() {
        let found = comparisons();
        let (ratio, error) = found.log_ratio();
        assert!((ratio - (0.1 + 50.0 / 50.0 - 50.0 / 49.0)).abs() < 1e-9);
        assert!(error < mean_and_error(found.nll()).1 / 10.0);
        // The ratio is a mean itself, of the paired differences.
        let paired = mean_and_error(found.0.iter().map(|c| c.nll - c.nll_base));
        assert!((error - paired.1).abs() < 1e-9);
    }
}
