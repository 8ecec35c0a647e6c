//! A vector on its way to a word: what the model would say if it stopped after each layer (the logit lens).

use super::{Distribution, Look, QUERIES, Recording, Scored, norm, rank, top};
use crate::RunError;
use crate::config::NormKind;
use crate::observer::Site;
use gable_kernels::{MatMut, MatRef};

/// `W_U norm(x)`: from a residual vector to scores of all tokens.
#[derive(Debug, Clone, Copy)]
pub struct Unembedding<'a> {
    look: &'a Look,
}

/// How much a layer's two blocks add to a vector.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Update {
    /// Length of what attention adds.
    pub attention: f64,
    /// Length of what the feed-forward network adds.
    pub ffn: f64,
}

impl Update {
    /// Attention's share of both lengths.
    pub fn attention_share(&self) -> f64 {
        self.attention / (self.attention + self.ffn).max(f64::MIN_POSITIVE)
    }
}

/// A vector after some layers.
#[derive(Debug, Clone)]
pub struct LensLayer {
    /// How many layers it has passed; 0 is the embedding.
    pub layer: usize,
    /// Its length.
    pub norm: f64,
    /// What the last of them added.
    pub update: Option<Update>,
    /// The most likely next tokens if this were the end, with probabilities.
    pub top: Vec<(u32, f64)>,
    /// The target's place in that order, and its probability.
    pub target: Option<(usize, f64)>,
}

impl Look {
    /// The last norm and `W_U`, in f32.
    pub fn unembedding(&self) -> Unembedding<'_> {
        Unembedding { look: self }
    }

    /// Follows the vector at `position` down the stack. `recording` holds the places of [`lens_sites`].
    ///
    /// # Errors
    /// None for a recording of this model.
    pub fn lens(
        &self,
        recording: &Recording<'_>,
        position: usize,
        target: Option<u32>,
        k: usize,
    ) -> Result<Vec<LensLayer>, RunError> {
        let n_layers = self.model.config().n_layers;
        let vectors: Vec<Vec<f32>> =
            (0..=n_layers).map(|l| recording.residual(l, position).to_vec()).collect();
        let mut layers = Vec::with_capacity(vectors.len());
        for (part, chunk) in vectors.chunks(QUERIES).enumerate() {
            for (i, logits) in self.unembedding().logits(chunk)?.iter().enumerate() {
                let layer = part.saturating_mul(QUERIES).saturating_add(i);
                let p = Distribution::new(logits, 1.0);
                let best = top(logits, k, |_| true);
                layers.push(LensLayer {
                    layer,
                    norm: chunk.get(i).map_or(0.0, |v| norm(v)),
                    update: layer.checked_sub(1).map(|l| update(recording, l, position)),
                    top: best.iter().map(|s| (s.id, p.of(s.id))).collect(),
                    target: target.and_then(|id| Some((rank(logits, id)?, p.of(id)))),
                });
            }
        }
        Ok(layers)
    }

    /// What would be said after each number of layers at each position: `[n_layers + 1][tokens]`, the most likely token
    /// and its probability.
    ///
    /// # Errors
    /// None for a recording of this model.
    pub fn lens_grid(
        &self,
        recording: &Recording<'_>,
        tokens: usize,
    ) -> Result<Vec<Vec<(u32, f64)>>, RunError> {
        let n_layers = self.model.config().n_layers;
        let of_layer = |layer: usize| {
            let vectors: Vec<Vec<f32>> = (0..tokens).map(|i| recording.residual(layer, i).to_vec()).collect();
            let mut said = Vec::with_capacity(tokens);
            for part in vectors.chunks(QUERIES) {
                for logits in self.unembedding().logits(part)? {
                    let best = top(&logits, 1, |_| true).first().map_or(0, |s| s.id);
                    said.push((best, Distribution::new(&logits, 1.0).of(best)));
                }
            }
            Ok(said)
        };
        (0..=n_layers).map(of_layer).collect()
    }

    /// The words towards which some additions to the residual stream push: those whose rows of `W_U` have the smallest
    /// angle to the addition times the last norm's weights.
    ///
    /// # Errors
    /// None for vectors of `d_model`.
    pub fn spoken(&self, additions: &[Vec<f32>], k: usize) -> Result<Vec<Vec<Scored>>, RunError> {
        let gains = &self.model.weights().output_norm.weight;
        let scaled: Vec<Vec<f32>> =
            additions.iter().map(|v| v.iter().zip(gains).map(|(x, g)| x * g).collect()).collect();
        self.unembeddings()?.nearest_of_all(&scaled, k)
    }
}

/// What [`Look::lens`] reads: `4 * (1 + 3 n_layers) * tokens * d_model` bytes.
pub fn lens_sites(_: usize, site: Site) -> bool {
    matches!(site, Site::Embed | Site::ResidualOut | Site::AttentionOut | Site::FfnOut)
}

fn update(recording: &Recording<'_>, layer: usize, position: usize) -> Update {
    Update {
        attention: norm(recording.row(layer, Site::AttentionOut, position)),
        ffn: norm(recording.row(layer, Site::FfnOut, position)),
    }
}

impl Unembedding<'_> {
    /// The last norm of some vectors.
    ///
    /// # Errors
    /// None for vectors of `d_model`.
    pub fn normed(&self, vectors: &[Vec<f32>]) -> Result<Vec<Vec<f32>>, RunError> {
        let (kernels, model) = (self.look.kernels, &self.look.model);
        let (config, last) = (model.config(), &model.weights().output_norm);
        vectors
            .iter()
            .map(|vector| {
                let mut out = vec![0.0; vector.len()];
                let x = MatRef::from_rows(vector, vector.len());
                self.look.pool.enter(|team| {
                    let out = MatMut::from_rows(&mut out, vector.len());
                    match config.norm {
                        NormKind::Rms => kernels.rms_norm(team, x, &last.weight, config.norm_eps, out),
                        NormKind::Layer => {
                            kernels.layer_norm(team, x, &last.weight, &last.bias, config.norm_eps, out)
                        }
                    }
                })?;
                Ok(out)
            })
            .collect()
    }

    /// The scores of all tokens for some residual vectors.
    ///
    /// # Errors
    /// None for vectors of `d_model`.
    pub fn logits(&self, vectors: &[Vec<f32>]) -> Result<Vec<Vec<f32>>, RunError> {
        let model = &self.look.model;
        let mut logits = self.look.times(model.weights().unembedding(), &self.normed(vectors)?)?;
        if let Some(cap) = model.config().logit_soft_cap {
            logits.iter_mut().flatten().for_each(|x| *x = cap * (*x / cap).tanh());
        }
        Ok(logits)
    }
}
