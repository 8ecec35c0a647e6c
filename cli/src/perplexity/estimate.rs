//! The perplexity of what was scored, per token and per byte, and how long it will take.

use crate::statistics::mean_and_deviation;
use anyhow::Result;
use gable_model::tokenizer::Tokenizer;
use serde_json::Value;
use std::f64::consts::LN_2;
use std::io::Write;

/// Perplexity per token and per byte.
pub struct Estimate {
    /// Tokens that were scored.
    pub scored: usize,
    mean: f64,
    error: f64,
    bytes: usize,
    per_byte: f64,
}

impl Estimate {
    /// Of negative log-probabilities and the bytes that the tokens stand for.
    pub fn new(nll: &[f64], bytes: usize) -> Estimate {
        let (mean, deviation) = mean_and_deviation(nll);
        let error = deviation / count_of(nll).sqrt();
        #[expect(clippy::cast_precision_loss, reason = "bytes of a text")]
        let per_byte = nll.iter().sum::<f64>() / bytes as f64;
        Estimate { scored: nll.len(), mean, error, bytes, per_byte }
    }

    /// Per token.
    pub fn ppl(&self) -> f64 {
        self.mean.exp()
    }

    /// The same values by name.
    pub fn json(&self) -> Vec<(String, Value)> {
        let values = [
            ("ppl", self.ppl().into()),
            ("ppl_error", (self.error * self.ppl()).into()),
            ("nll", self.mean.into()),
            ("ppl_per_byte", self.per_byte.exp().into()),
            ("bits_per_byte", (self.per_byte / LN_2).into()),
            ("bytes", self.bytes.into()),
        ];
        values.map(|(key, value)| (key.to_owned(), value)).to_vec()
    }

    /// llama-perplexity's last line, and one per byte.
    pub fn print(&self, out: &mut impl Write) -> Result<()> {
        let ppl = self.ppl();
        writeln!(out, "Final estimate: PPL = {ppl:.4} +/- {:.5}", self.error * ppl)?;
        let (per_byte, bits) = (self.per_byte.exp(), self.per_byte / LN_2);
        writeln!(out, "Per byte: PPL = {per_byte:.4}, {bits:.4} bits ({} bytes)", self.bytes)?;
        Ok(())
    }
}

/// `bytes` and those of the text that the tokens stand for.
pub fn text_bytes(tokenizer: &Tokenizer, tokens: &[u32], bytes: usize) -> usize {
    tokens.iter().fold(bytes, |n, &id| n.saturating_add(tokenizer.visible_piece(id).len()))
}

/// How many, as a divisor.
#[expect(clippy::cast_precision_loss, reason = "counts of tokens")]
pub fn count_of(values: &[f64]) -> f64 {
    values.len() as f64
}

/// How long all passes will take, in llama-perplexity's words.
#[expect(clippy::cast_precision_loss, reason = "for people to read")]
pub fn eta(seconds: f64, passes: usize) -> String {
    let total = (seconds * passes as f64).floor();
    let hours = (total / 3600.0).floor();
    let text = if hours >= 1.0 { format!("{hours:.0} hours ") } else { String::new() };
    let minutes = (total - hours * 3600.0) / 60.0;
    format!("perplexity: {seconds:.2} seconds per pass - ETA {text}{minutes:.2} minutes")
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn the_eta_is_worded_as_llama_perplexity_does() {
        assert_eq!(eta(0.5, 20), "perplexity: 0.50 seconds per pass - ETA 0.17 minutes");
        assert_eq!(eta(10.0, 1000), "perplexity: 10.00 seconds per pass - ETA 2 hours 46.67 minutes");
    }
}
