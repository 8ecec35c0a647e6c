//! One word, many meanings: the same word's vector in different texts, layer by layer.

use super::{Look, Scored, combined, cosine, group_words};
use crate::RunError;
use crate::observer::Site;
use std::ops::Range;

/// A word's vector before the first layer and after each.
#[derive(Debug, Clone)]
pub struct WordVectors {
    /// Where its last piece stands in the text.
    pub position: usize,
    /// `layers[l]`: after `l` layers, `[d_model]`; `layers[0]` is the plain embedding.
    pub layers: Vec<Vec<f32>>,
}

impl WordVectors {
    /// `cos(self, other)` after each number of layers.
    pub fn cosines(&self, other: &WordVectors) -> Vec<f64> {
        self.layers.iter().zip(&other.layers).map(|(a, b)| cosine(a, b)).collect()
    }
}

/// One word that stands in two texts.
#[derive(Debug, Clone)]
pub struct WordInContext {
    /// As the first text has it.
    pub text: String,
    /// Its place among the words of each text, from 0.
    pub places: [usize; 2],
    /// `cos` of its vectors after each number of layers.
    pub cosines: Vec<f64>,
}

impl Look {
    /// The vectors of some positions of a text, in one pass.
    ///
    /// # Errors
    /// As [`record`](Look::record).
    pub fn word_vectors(&self, ids: &[u32], positions: &[usize]) -> Result<Vec<WordVectors>, RunError> {
        let (recording, _) = self.record(ids, |_, site| matches!(site, Site::Embed | Site::ResidualOut))?;
        let n_layers = self.model.config().n_layers;
        let of = |position: usize| WordVectors {
            position,
            layers: (0..=n_layers).map(|l| recording.residual(l, position).to_vec()).collect(),
        };
        Ok(positions.iter().map(|position| of(*position)).collect())
    }

    /// What each of several texts adds to a word: the words towards which `x_l - mean(x_l over the texts)` pushes.
    ///
    /// # Errors
    /// None for vectors of this model.
    pub fn what_texts_add(
        &self,
        vectors: &[WordVectors],
        layer: usize,
        k: usize,
    ) -> Result<Vec<Vec<Scored>>, RunError> {
        let of_layer = || vectors.iter().filter_map(|v| v.layers.get(layer));
        let share = 1.0 / vectors.len().max(1) as f32;
        let mean = combined(of_layer().map(|v| (share, v.as_slice())));
        let added: Vec<Vec<f32>> =
            of_layer().map(|v| combined([(1.0, v.as_slice()), (-1.0, &mean)])).collect();
        self.spoken(&added, k)
    }

    /// What position does: the words that two texts share, each once, and how far their vectors part.
    ///
    /// # Errors
    /// As [`record`](Look::record).
    pub fn shared_words(&self, a: &[u32], b: &[u32]) -> Result<Vec<WordInContext>, RunError> {
        let tokenizer = self.model.tokenizer();
        let words = |ids: &[u32]| -> Vec<(String, Range<usize>)> {
            let text = |r: &Range<usize>| {
                tokenizer.decode(ids.get(r.clone()).unwrap_or_default()).trim().to_lowercase()
            };
            let named = group_words(tokenizer, ids).into_iter().map(|r| (text(&r), r));
            named.filter(|(text, _)| text.chars().any(char::is_alphanumeric)).collect()
        };
        let (in_a, in_b) = (words(a), words(b));
        let mut shared: Vec<(String, [usize; 2], [usize; 2])> = Vec::new();
        for (place_a, (text, range_a)) in in_a.iter().enumerate() {
            let found = in_b.iter().position(|(other, _)| other == text);
            if let Some((place_b, (_, range_b))) = found.and_then(|at| Some((at, in_b.get(at)?)))
                && !shared.iter().any(|(other, ..)| other == text)
            {
                let last = |range: &Range<usize>| range.end.saturating_sub(1);
                shared.push((text.clone(), [place_a, place_b], [last(range_a), last(range_b)]));
            }
        }
        let positions = |side: usize| -> Vec<usize> {
            shared.iter().filter_map(|(.., positions)| positions.get(side).copied()).collect()
        };
        let (of_a, of_b) = (self.word_vectors(a, &positions(0))?, self.word_vectors(b, &positions(1))?);
        let pairs = shared.into_iter().zip(of_a.iter().zip(&of_b));
        Ok(pairs
            .map(|((text, places, _), (a, b))| WordInContext { text, places, cosines: a.cosines(b) })
            .collect())
    }
}
