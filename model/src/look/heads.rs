//! Which head makes a link between words, and what it moves along it.

use super::{HeadPattern, Look, Scored, norm};
use crate::RunError;
use crate::observer::{Observer, Site};
use gable_kernels::MatRef;
use std::ops::Range;

/// Mean weight on the token before from which a head counts as a previous-token head.
const PREVIOUS: f32 = 0.5;
/// Mean weight on the first token from which a head counts as resting.
const FIRST: f32 = 0.6;

/// How strongly a head makes some wanted links.
#[derive(Debug, Clone, PartialEq)]
pub struct HeadLink {
    /// The layer, from 0.
    pub layer: usize,
    /// The head, from 0.
    pub head: usize,
    /// Weight of each wanted link.
    pub links: Vec<f32>,
    /// The smallest of them: a head that asks for adjectives finds them all.
    pub weakest: f32,
    /// Control: mean weight on the token before, over all tokens but the first two.
    pub previous: f32,
    /// Control: mean weight on the first token, over all tokens but that one.
    pub first: f32,
}

impl HeadLink {
    /// Whether the head looks at whatever stands before, so that its links mean nothing.
    pub fn is_previous_token_head(&self) -> bool {
        self.previous >= PREVIOUS
    }

    /// Whether the head mostly rests on the first token.
    pub fn is_first_token_head(&self) -> bool {
        self.first >= FIRST
    }
}

/// Measures every head while the pass runs: nothing but the result is kept.
struct Links<'a> {
    n_heads: usize,
    from: &'a Range<usize>,
    to: &'a [Range<usize>],
    found: Vec<HeadLink>,
}

impl Observer for Links<'_> {
    fn wants(&self, _: usize, site: Site) -> bool {
        site == Site::AttentionWeights
    }

    fn observe(&mut self, layer: usize, _: Site, weights: MatRef<'_>) {
        let n = weights.rows() / self.n_heads.max(1);
        for head in 0..self.n_heads {
            let weight = |i: usize, j: usize| -> f32 {
                let row = i.saturating_mul(self.n_heads).saturating_add(head);
                if row < weights.rows() { weights.row(row).get(j).copied().unwrap_or(0.0) } else { 0.0 }
            };
            let mean = |rows: Range<usize>, column: &dyn Fn(usize) -> usize| -> f32 {
                let count = rows.len().max(1) as f32;
                rows.map(|i| weight(i, column(i))).sum::<f32>() / count
            };
            let link =
                |to: &Range<usize>| -> f32 { to.clone().map(|j| mean(self.from.clone(), &|_| j)).sum() };
            let links: Vec<f32> = self.to.iter().map(link).collect();
            let weakest = links.iter().copied().fold(f32::INFINITY, f32::min);
            let previous = mean(2..n.max(2), &|i| i.saturating_sub(1));
            let first = mean(1..n.max(1), &|_| 0);
            self.found.push(HeadLink { layer, head, links, weakest, previous, first });
        }
    }
}

/// What one source token adds to the listening token through one head.
#[derive(Debug, Clone)]
pub struct Written {
    /// The source's position.
    pub position: usize,
    /// How much of it is taken.
    pub weight: f32,
    /// `weight W_O v`, `[d_model]`.
    pub added: Vec<f32>,
    /// Its length, before a norm behind the block (Gemma has one).
    pub norm: f64,
    /// The words towards which the addition pushes the prediction: smallest angle between the rows of `W_U` and the
    /// addition times the last norm's weights.
    pub words: Vec<Scored>,
}

impl Look {
    /// All heads, those first that make even the weakest of the wanted links strongly. A word of several pieces listens
    /// with the mean of them and is listened to with their sum.
    ///
    /// # Errors
    /// [`RunError::Option`] without a link that could exist.
    pub fn heads(
        &self,
        ids: &[u32],
        from: &Range<usize>,
        to: &[Range<usize>],
    ) -> Result<Vec<HeadLink>, RunError> {
        if to.is_empty() || to.iter().any(|to| to.start >= from.end) {
            return Err(RunError::Option {
                name: "link",
                found: "to no word, or to one that comes later".to_owned(),
                allowed: "words that stand before the listening one: attention looks back only",
            });
        }
        let mut links = Links { n_heads: self.model.config().n_heads, from, to, found: Vec::new() };
        self.watch(ids, &mut links)?;
        let mut found = links.found;
        found.sort_by(|a, b| b.weakest.total_cmp(&a.weakest));
        Ok(found)
    }

    /// What a head writes into the token at `position`, source by source: `a_ij W_O v_j`, their norms and words.
    ///
    /// # Errors
    /// As [`head_pattern`](Look::head_pattern).
    pub fn written(
        &self,
        ids: &[u32],
        pattern: &HeadPattern,
        position: usize,
        k: usize,
    ) -> Result<Vec<Written>, RunError> {
        let HeadPattern { layer, head, .. } = *pattern;
        self.check_layer(layer)?;
        let config = self.model.config();
        let Some(block) = self.model.weights().layers.get(layer) else { return Ok(Vec::new()) };
        let (recording, _) = self.record(ids, |l, site| l == layer && site == Site::V)?;
        let kv_head = head / (config.n_heads / config.n_kv_heads.max(1)).max(1);
        let slot = |which: usize| {
            let begin = which.saturating_mul(config.head_dim);
            begin..begin.saturating_add(config.head_dim)
        };
        let weights = pattern.weights.get(position).map_or(&[][..], Vec::as_slice);
        let sources = weights.iter().enumerate().take(position.saturating_add(1));
        // Only this head's place in the heads side by side is filled: W_O of it gives what the head alone adds.
        let inputs: Vec<Vec<f32>> = sources
            .clone()
            .map(|(j, weight)| {
                let mut input = vec![0.0; config.q_dim()];
                let value = recording.row(layer, Site::V, j).get(slot(kv_head)).unwrap_or_default();
                if let Some(place) = input.get_mut(slot(head)) {
                    place.iter_mut().zip(value).for_each(|(to, v)| *to = weight * v);
                }
                input
            })
            .collect();
        let added = self.times(&block.attention_output.weight, &inputs)?;
        let words = self.spoken(&added, k)?;
        let all = sources.zip(added.into_iter().zip(words));
        Ok(all
            .map(|((position, weight), (added, words))| Written {
                position,
                weight: *weight,
                norm: norm(&added),
                added,
                words,
            })
            .collect())
    }
}
