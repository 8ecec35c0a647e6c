//! The options of a sampler, their defaults and ranges.

use crate::RunError;

/// Most tokens the penalties look back at.
const MAX_LAST_N: usize = 1 << 20;
/// Largest penalty and bias in logits: beyond it sums lose all meaning.
const MAX_SHIFT: f32 = 1e6;

/// A step of the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Repetition, presence and frequency penalties.
    Penalties,
    /// The `k` most likely.
    TopK,
    /// The most likely ones that together reach `p`.
    TopP,
    /// Those with `p` times the probability of the most likely one.
    MinP,
    /// Division by the temperature.
    Temperature,
}

impl Stage {
    /// All stages in the default order.
    pub const DEFAULT_ORDER: [Stage; 5] =
        [Stage::Penalties, Stage::TopK, Stage::TopP, Stage::MinP, Stage::Temperature];

    /// The name in `--samplers`.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Penalties => "penalties",
            Stage::TopK => "top_k",
            Stage::TopP => "top_p",
            Stage::MinP => "min_p",
            Stage::Temperature => "temperature",
        }
    }

    /// Reads `penalties;top_k;top_p;min_p;temperature`, in any order and selection.
    ///
    /// Errors: an unknown stage, one that stands twice.
    pub fn parse_order(text: &str) -> Result<Vec<Stage>, RunError> {
        let refuse = |found: &str, allowed| {
            Err(RunError::Option { name: "samplers", found: format!("{found:?}"), allowed })
        };
        let mut order = Vec::new();
        for word in text.split(';').map(str::trim).filter(|word| !word.is_empty()) {
            let name = word.to_ascii_lowercase().replace('-', "_");
            let name = if name == "temp" { "temperature" } else { name.as_str() };
            let Some(stage) = Stage::DEFAULT_ORDER.into_iter().find(|stage| stage.name() == name) else {
                return refuse(word, "penalties, top_k, top_p, min_p, temperature, with ; between them");
            };
            if order.contains(&stage) {
                return refuse(word, "each stage once");
            }
            order.push(stage);
        }
        Ok(order)
    }
}

/// What a sampler is asked for. The defaults are llama.cpp's, but for the seed, which is 0.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplerConfig {
    /// Divides the logits; 0 chooses the most likely token always.
    pub temperature: f32,
    /// How many of the most likely tokens stay; 0 for all.
    pub top_k: usize,
    /// Probability that the most likely tokens must reach together; 1 for all.
    pub top_p: f32,
    /// Least probability as a share of the highest one; 0 for none.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of recent tokens; 1 for none.
    pub repeat_penalty: f32,
    /// How many tokens count as recent; 0 for none.
    pub repeat_last_n: usize,
    /// Taken off the logit of a recent token.
    pub presence_penalty: f32,
    /// Taken off the logit of a recent token for each time it occurs.
    pub frequency_penalty: f32,
    /// Added to the logits of tokens. `-inf` bans a token, `+inf` demands it.
    pub logit_bias: Vec<(u32, f32)>,
    /// Chooses the stream of random numbers.
    pub seed: u64,
    /// The stages in the order they are applied; one that is left out is not applied.
    pub order: Vec<Stage>,
}

impl Default for SamplerConfig {
    fn default() -> SamplerConfig {
        SamplerConfig {
            temperature: 0.8,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            repeat_penalty: 1.0,
            repeat_last_n: 64,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: Vec::new(),
            seed: 0,
            order: Stage::DEFAULT_ORDER.to_vec(),
        }
    }
}

impl SamplerConfig {
    /// Always the most likely token.
    pub fn greedy() -> SamplerConfig {
        SamplerConfig { temperature: 0.0, ..SamplerConfig::default() }
    }

    /// Checks every option against its range.
    pub fn validate(&self) -> Result<(), RunError> {
        let check = |name, value: f32, holds: bool, allowed| {
            if holds { Ok(()) } else { Err(RunError::Option { name, found: value.to_string(), allowed }) }
        };
        let t = self.temperature;
        check("temperature", t, t.is_finite() && t >= 0.0, "0 (greedy) or a positive number")?;
        check("top-p", self.top_p, (0.0..=1.0).contains(&self.top_p), "0 to 1")?;
        check("min-p", self.min_p, (0.0..=1.0).contains(&self.min_p), "0 to 1")?;
        let r = self.repeat_penalty;
        check("repeat-penalty", r, (1e-6..=MAX_SHIFT).contains(&r), "0.000001 to 1000000; 1 turns it off")?;
        for (name, value) in
            [("presence-penalty", self.presence_penalty), ("frequency-penalty", self.frequency_penalty)]
        {
            check(name, value, value.abs() <= MAX_SHIFT, "-1000000 to 1000000; 0 turns it off")?;
        }
        if self.repeat_last_n > MAX_LAST_N {
            let found = self.repeat_last_n.to_string();
            return Err(RunError::Option { name: "repeat-last-n", found, allowed: "0 to 1048576" });
        }
        for (_, bias) in &self.logit_bias {
            let holds = bias.is_infinite() || bias.abs() <= MAX_SHIFT;
            check("logit-bias", *bias, holds, "-1000000 to 1000000, -inf or inf")?;
        }
        for (at, stage) in self.order.iter().enumerate() {
            if self.order.iter().take(at).any(|earlier| earlier == stage) {
                let found = stage.name().to_owned();
                return Err(RunError::Option { name: "samplers", found, allowed: "each stage once" });
            }
        }
        Ok(())
    }

    /// Whether any penalty is on.
    #[expect(clippy::float_cmp, reason = "the values that turn a penalty off are exact")]
    pub(super) fn penalizes(&self) -> bool {
        let on = self.repeat_penalty != 1.0 || self.presence_penalty != 0.0 || self.frequency_penalty != 0.0;
        on && self.order.contains(&Stage::Penalties)
    }

    /// The logit of a token that occurs `count` times among the recent ones.
    pub(super) fn penalized(&self, logit: f32, count: u32) -> f32 {
        let scaled = if logit <= 0.0 { logit * self.repeat_penalty } else { logit / self.repeat_penalty };
        #[expect(clippy::cast_precision_loss, reason = "at most 2^20 tokens are remembered")]
        let count = count as f32;
        scaled - count * self.frequency_penalty - self.presence_penalty
    }
}
