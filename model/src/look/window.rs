//! How much of a text a guess needs: the same ending with more and more of what came before.

use super::{Distribution, Look, rank, top};
use crate::RunError;
use crate::observer::{Observer, Site};
use gable_kernels::MatRef;
use gable_kernels::gemm::Phase;

/// The guess when only the last tokens of a text are visible.
#[derive(Debug, Clone)]
pub struct Visible {
    /// How many of them, BOS not counted.
    pub tokens: usize,
    /// The target's place and probability.
    pub target: (usize, f64),
    /// The most likely tokens and their probabilities.
    pub top: Vec<(u32, f64)>,
}

/// Where the last token looks, averaged over all heads, for every layer.
struct LastRow {
    layers: Vec<Vec<f32>>, // [n_layers][positions]
}

impl Observer for LastRow {
    fn wants(&self, _: usize, site: Site) -> bool {
        site == Site::AttentionWeights
    }

    fn observe(&mut self, _: usize, _: Site, weights: MatRef<'_>) {
        let heads = weights.rows().max(1) as f32;
        let mut mean = vec![0.0; weights.cols()];
        for head in 0..weights.rows() {
            mean.iter_mut().zip(weights.row(head)).for_each(|(m, w)| *m += w / heads);
        }
        self.layers.push(mean);
    }
}

impl Look {
    /// The guess for 1, 2, 4, 8, .. and finally all tokens of a text; BOS, where the model has it, always stays.
    ///
    /// # Errors
    /// [`RunError::ContextFull`] for a text beyond the model's context.
    pub fn visible(&self, ids: &[u32], target: u32, k: usize) -> Result<Vec<Visible>, RunError> {
        let tokenizer = self.model.tokenizer();
        let begins = ids.first().copied().filter(|id| tokenizer.adds_bos() && Some(*id) == tokenizer.bos());
        let text = ids.get(usize::from(begins.is_some())..).unwrap_or_default();
        let mut sizes = Vec::new();
        let mut size = 1_usize;
        while size < text.len() {
            sizes.push(size);
            size = size.saturating_mul(2);
        }
        sizes.push(text.len());
        sizes
            .into_iter()
            .map(|tokens| {
                let seen = text.get(text.len().saturating_sub(tokens)..).unwrap_or_default();
                let prompt: Vec<u32> = begins.iter().chain(seen).copied().collect();
                let logits = self.next_logits(&prompt)?;
                let p = Distribution::new(&logits, 1.0);
                Ok(Visible {
                    tokens,
                    target: (rank(&logits, target).unwrap_or(usize::MAX), p.of(target)),
                    top: top(&logits, k, |_| true).iter().map(|s| (s.id, p.of(s.id))).collect(),
                })
            })
            .collect()
    }

    /// Where the last token of a text looks: mean weight over the heads, per layer and position. Holds
    /// `4 * n_layers * tokens` bytes.
    ///
    /// # Errors
    /// [`RunError::ContextFull`] for a text beyond the model's context.
    pub fn last_row(&self, ids: &[u32]) -> Result<Vec<Vec<f32>>, RunError> {
        let max = self.model.config().max_seq_len;
        if ids.len() > max {
            return Err(RunError::ContextFull { needed: ids.len(), max });
        }
        let mut observer = LastRow { layers: Vec::new() };
        let mut session = self.session(ids.len(), 512, 1)?;
        if let Some((last, before)) = ids.split_last() {
            if !before.is_empty() {
                session.prefill(before)?;
            }
            session.observe(Phase::Decode, &[*last], |_| false, &mut observer)?;
        }
        Ok(observer.layers)
    }
}
