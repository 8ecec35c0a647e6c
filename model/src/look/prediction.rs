//! Guesses: at every position, after the last one, and one after the other.

use super::{Distribution, Look, cosine, dot, norm, rank, top};
use crate::RunError;
use crate::observer::Site;
use crate::sampler::{Sampler, SamplerConfig};
use gable_kernels::gemm::Phase;
use std::ops::ControlFlow;

/// Positions whose logits are held at once: a row of a large vocabulary is a megabyte.
const ROWS: usize = 32;

/// What the model expects behind one token.
#[derive(Debug, Clone)]
pub struct Guess {
    /// The token's position.
    pub position: usize,
    /// The token.
    pub id: u32,
    /// What came behind it, if anything did.
    pub next: Option<u32>,
    /// The place of what came among all guesses, and its probability.
    pub found: Option<(usize, f64)>,
    /// The most likely tokens with their probabilities.
    pub top: Vec<(u32, f64)>,
    /// In bits.
    pub entropy: f64,
}

impl Guess {
    /// `-ln p(next)`
    pub fn nll(&self) -> Option<f64> {
        self.found.map(|(_, p)| -p.ln())
    }

    fn new(logits: &[f32], position: usize, id: u32, next: Option<u32>, k: usize) -> Guess {
        let p = Distribution::new(logits, 1.0);
        Guess {
            position,
            id,
            next,
            found: next.and_then(|next| Some((rank(logits, next)?, p.of(next)))),
            top: top(logits, k, |_| true).iter().map(|s| (s.id, p.of(s.id))).collect(),
            entropy: p.entropy,
        }
    }
}

/// Why a token has the logit it has: `row . vector = |row| |vector| cos`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Why {
    /// `W_U[token] . vector`, the logit before a soft-cap.
    pub logit: f64,
    /// Length of the token's row of `W_U`.
    pub row_norm: f64,
    /// Length of the last vector behind the last norm.
    pub vector_norm: f64,
    /// Cosine of the angle between them.
    pub cosine: f64,
}

impl Look {
    /// The guesses at every position of a text. `visit` may end it. Holds 32 rows of logits.
    ///
    /// # Errors
    /// [`RunError::ContextFull`] for a text beyond the model's context.
    pub fn positions(
        &self,
        ids: &[u32],
        k: usize,
        visit: &mut dyn FnMut(Guess) -> ControlFlow<()>,
    ) -> Result<(), RunError> {
        let mut session = self.session(self.room(ids.len())?, ROWS, ROWS)?;
        for (chunk, part) in ids.chunks(ROWS).enumerate() {
            let logits = session.observe(Phase::Prompt, part, |_| true, &mut ())?;
            for (i, id) in part.iter().enumerate().take(logits.rows()) {
                let position = chunk.saturating_mul(ROWS).saturating_add(i);
                let next = ids.get(position.saturating_add(1)).copied();
                if visit(Guess::new(logits.row(i), position, *id, next, k)).is_break() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// The scores of the token behind a text.
    ///
    /// # Errors
    /// [`RunError::ContextFull`] for a text beyond the model's context.
    pub fn next_logits(&self, ids: &[u32]) -> Result<Vec<f32>, RunError> {
        let mut session = self.session(self.room(ids.len())?, 512, 1)?;
        Ok(session.prefill(ids)?.to_vec())
    }

    /// Takes the scores of some tokens behind a text apart.
    ///
    /// # Errors
    /// As [`record`](Look::record).
    pub fn why(&self, ids: &[u32], tokens: &[u32]) -> Result<Vec<Why>, RunError> {
        let n_layers = self.model.config().n_layers;
        let (recording, _) = self.record(ids, |l, site| l == n_layers && site == Site::FinalNorm)?;
        let vector = recording.row(n_layers, Site::FinalNorm, 0);
        tokens
            .iter()
            .map(|id| {
                let row = self.row(self.model.weights().unembedding(), *id as usize)?;
                Ok(Why {
                    logit: dot(&row, vector),
                    row_norm: norm(&row),
                    vector_norm: norm(vector),
                    cosine: cosine(&row, vector),
                })
            })
            .collect()
    }

    /// The prediction loop: draws a token, hands out what was expected and what was drawn, feeds it back, up to `n`
    /// times or until the text ends or `visit` has enough.
    ///
    /// # Errors
    /// [`RunError::ContextFull`] for a prompt and `n` tokens beyond the model's context; options out of range.
    pub fn tell(
        &self,
        prompt: &[u32],
        config: &SamplerConfig,
        n: usize,
        k: usize,
        visit: &mut dyn FnMut(Guess) -> ControlFlow<()>,
    ) -> Result<(), RunError> {
        let mut session = self.session(self.room(prompt.len().saturating_add(n))?, 512, 1)?;
        let mut sampler = Sampler::new(config.clone(), self.model.config().vocab_size)?;
        prompt.iter().try_for_each(|&id| sampler.accept(id))?;
        let mut last = prompt.last().copied().unwrap_or_default();
        for i in 0..n {
            let logits = if i == 0 { session.prefill(prompt)? } else { session.decode(last)? };
            let drawn = sampler.sample(logits)?;
            sampler.accept(drawn)?;
            let position = prompt.len().saturating_add(i).saturating_sub(1);
            let guess = Guess::new(logits, position, last, Some(drawn), k);
            if visit(guess).is_break() || self.model.tokenizer().is_eog(drawn) {
                break;
            }
            last = drawn;
        }
        Ok(())
    }

    /// Refuses more positions than the model was made for.
    fn room(&self, needed: usize) -> Result<usize, RunError> {
        let max = self.model.config().max_seq_len;
        if needed > max { Err(RunError::ContextFull { needed, max }) } else { Ok(needed) }
    }

    /// The first token of a word as it stands in a text: what a prediction of the word begins with.
    ///
    /// # Errors
    /// [`RunError::Option`] for an empty word.
    pub fn target(&self, word: &str) -> Result<u32, RunError> {
        let options = crate::tokenizer::EncodeOptions::default();
        let ids = self.model.tokenizer().encode(&format!(" {}", word.trim()), options)?;
        match (ids.first(), word.trim().is_empty()) {
            (Some(&id), false) => Ok(id),
            _ => Err(RunError::Option { name: "target", found: format!("{word:?}"), allowed: "a word" }),
        }
    }
}
