//! Scores to probabilities: softmax, temperature, entropy.

use super::Scored;
use crate::RunError;
use crate::sampler::{Sampler, SamplerConfig, Stage};

/// `p_i = e^(x_i / T) / sum_j e^(x_j / T)`, in f64, shifted by the highest score so that nothing overflows. With `T = 0`
/// the highest scores share everything.
pub fn softmax(logits: &[f32], temperature: f64) -> Vec<f64> {
    let highest = f64::from(logits.iter().fold(f32::NEG_INFINITY, |m, x| m.max(*x)));
    let weight = |x: f32| {
        let below = f64::from(x) - highest;
        if below == 0.0 || f64::from(x) == highest {
            1.0 // an infinite highest score too
        } else if temperature > 0.0 {
            (below / temperature).exp()
        } else {
            0.0
        }
    };
    let mut p: Vec<f64> = logits.iter().map(|x| weight(*x)).collect();
    let sum: f64 = p.iter().sum();
    p.iter_mut().for_each(|p| *p /= sum);
    p
}

/// `-sum p log2 p`: how many bits of choice a distribution leaves.
pub fn entropy(p: &[f64]) -> f64 {
    -p.iter().filter(|p| **p > 0.0).map(|p| p * p.log2()).sum::<f64>()
}

/// The next token's distribution at one temperature.
#[derive(Debug, Clone)]
pub struct Distribution {
    /// What the logits were divided by.
    pub temperature: f64,
    /// Probability of every token, `[vocab_size]`.
    pub p: Vec<f64>,
    /// In bits.
    pub entropy: f64,
}

impl Distribution {
    /// Softmax of the logits at a temperature.
    pub fn new(logits: &[f32], temperature: f64) -> Distribution {
        let p = softmax(logits, temperature);
        Distribution { temperature, entropy: entropy(&p), p }
    }

    /// Probability of one token; 0 outside the vocabulary.
    pub fn of(&self, id: u32) -> f64 {
        self.p.get(id as usize).copied().unwrap_or(0.0)
    }
}

/// Which tokens a sampler's filter keeps, highest first: `top_k`, `top_p` and `min_p` of `config`, by `stage` alone.
///
/// # Errors
/// As [`Sampler::candidates`].
pub fn kept(logits: &[f32], config: &SamplerConfig, stage: Stage) -> Result<Vec<Scored>, RunError> {
    let config = SamplerConfig { temperature: 1.0, order: vec![stage], ..config.clone() };
    let mut kept: Vec<Scored> = Sampler::new(config, logits.len())?
        .candidates(logits)?
        .map(|(id, score)| Scored { id, score })
        .collect();
    kept.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.id.cmp(&b.id)));
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The notes' table: logits 6, -5, 4, 1.5, 9.9 become 0.19 0.04 0.14 0.10 0.35, with 0.18 for what it leaves out.
    /// Ratios of probabilities do not depend on what is left out; they fit T = 6.59.
    #[test]
    fn the_softmax_table_of_the_notes_is_reproduced_at_its_temperature() {
        let (logits, table) = ([6.0, -5.0, 4.0, 1.5, 9.9], [0.19, 0.04, 0.14, 0.10, 0.35]);
        let p = softmax(&logits, 6.59);
        for (p, wanted) in p.iter().zip(table) {
            assert!((p * 0.82 - wanted).abs() <= 0.006, "{} is not {wanted}", p * 0.82);
        }
        let off = |t: f64| -> f64 {
            softmax(&logits, t).iter().zip(table).map(|(p, w)| (p * 0.82 - w).abs()).fold(0.0, f64::max)
        };
        assert!(off(5.0) > 2.0 * off(6.59) && off(9.0) > 2.0 * off(6.59));
    }

    #[test]
    fn softmax_adds_up_to_one_whatever_comes() {
        for logits in [vec![1e4, -1e4, 0.0], vec![3.0; 7], vec![f32::NEG_INFINITY, 1.0], vec![-2.0]] {
            for t in [0.0, 1e-3, 1.0, 50.0] {
                let p = softmax(&logits, t);
                assert!((p.iter().sum::<f64>() - 1.0).abs() < 1e-12 && p.iter().all(|p| *p >= 0.0));
            }
        }
    }

    #[test]
    fn a_higher_temperature_leaves_more_choice() {
        let bits: Vec<f64> =
            [0.0, 0.1, 1.0, 5.0].map(|t| Distribution::new(&[2.0, 1.0, 0.5, -3.0], t).entropy).to_vec();
        assert!(bits.is_sorted_by(|a, b| a < b) && bits[0] == 0.0 && bits[3] < 2.0, "{bits:?}");
    }
}
