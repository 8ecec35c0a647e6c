//! Who listens to whom: one head's queries, keys, scores and weights.

use super::Look;
use crate::RunError;
use crate::observer::Site;
use std::ops::Range;

/// One head over a text of `n` tokens.
#[derive(Debug, Clone)]
pub struct HeadPattern {
    /// The layer, from 0.
    pub layer: usize,
    /// The head, from 0.
    pub head: usize,
    /// Queries after norm and RoPE, `n` rows of `[head_dim]`.
    pub q: Vec<Vec<f32>>,
    /// Keys of the head that this one shares, likewise.
    pub k: Vec<Vec<f32>>,
    /// `cap(scale q_i . k_j)`, `n` rows of `[n]`; `-inf` where row `i` does not look.
    pub scores: Vec<Vec<f32>>,
    /// Softmax of each row of scores.
    pub weights: Vec<Vec<f32>>,
}

impl Look {
    /// What one head does with a text: `softmax(scale q K^T)`, by the fused kernel's tap.
    ///
    /// # Errors
    /// [`RunError::Option`] for a layer or head that the model does not have, [`RunError::ContextFull`] for a text of
    /// more than [`MAX_RECORDED`](super::MAX_RECORDED) tokens.
    pub fn head_pattern(&self, ids: &[u32], layer: usize, head: usize) -> Result<HeadPattern, RunError> {
        self.check_layer(layer)?;
        self.check_head(head)?;
        let config = self.model.config();
        let sites = [Site::Q, Site::K, Site::Scores, Site::AttentionWeights];
        let (recording, _) = self.record(ids, |l, site| l == layer && sites.contains(&site))?;
        let kv_head = head / (config.n_heads / config.n_kv_heads.max(1)).max(1);
        let strip = |site, which: usize| -> Vec<Vec<f32>> {
            let begin = which.saturating_mul(config.head_dim);
            let range = begin..begin.saturating_add(config.head_dim);
            let row = |i| recording.row(layer, site, i).get(range.clone()).unwrap_or_default().to_vec();
            (0..ids.len()).map(row).collect()
        };
        let square = |site| -> Vec<Vec<f32>> {
            let row = |i: usize| i.saturating_mul(config.n_heads).saturating_add(head);
            (0..ids.len()).map(|i| recording.row(layer, site, row(i)).to_vec()).collect()
        };
        Ok(HeadPattern {
            layer,
            head,
            q: strip(Site::Q, head),
            k: strip(Site::K, kv_head),
            scores: square(Site::Scores),
            weights: square(Site::AttentionWeights),
        })
    }

    /// Refuses a layer beyond the model's.
    ///
    /// # Errors
    /// [`RunError::Option`]
    pub fn check_layer(&self, layer: usize) -> Result<(), RunError> {
        let n_layers = self.model.config().n_layers;
        if layer < n_layers {
            return Ok(());
        }
        let found = format!("{layer}, but the model has {n_layers} (the first is 0)");
        Err(RunError::Option { name: "layer", found, allowed: "layers of the model" })
    }

    /// Refuses a head beyond a layer's.
    ///
    /// # Errors
    /// [`RunError::Option`]
    pub fn check_head(&self, head: usize) -> Result<(), RunError> {
        let n_heads = self.model.config().n_heads;
        if head < n_heads {
            return Ok(());
        }
        let found = format!("{head}, but a layer has {n_heads} (the first is 0)");
        Err(RunError::Option { name: "head", found, allowed: "heads of a layer" })
    }
}

/// Weights between tokens as weights between words: summed over the pieces that are listened to, averaged over the pieces
/// that listen. Rows still add up to one.
pub fn merge_words(weights: &[Vec<f32>], words: &[Range<usize>]) -> Vec<Vec<f32>> {
    let cell = |from: &Range<usize>, to: &Range<usize>| {
        let rows = weights.get(from.clone()).unwrap_or_default();
        let sum: f32 = rows.iter().flat_map(|row| row.get(to.clone()).unwrap_or_default()).sum();
        sum / rows.len().max(1) as f32
    };
    words.iter().map(|from| words.iter().map(|to| cell(from, to)).collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merged_rows_add_up_to_one() {
        let weights = [vec![1.0, 0.0, 0.0], vec![0.5, 0.5, 0.0], vec![0.25, 0.25, 0.5]];
        let merged = merge_words(&weights, &[0..1, 1..3]);
        assert_eq!(merged, [vec![1.0, 0.0], vec![0.375, 0.625]]);
    }
}
