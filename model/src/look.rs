//! Looking inside a model: what its vectors mean and what a forward pass does with them.
//!
//! One file per idea, each a method of [`Look`] that gives plain numbers; nothing here prints.
//!
//! | file | idea | formula |
//! |---|---|---|
//! | `words` | words and the pieces they are made of | |
//! | `dictionary` | rows of `W_E` or `W_U`, searched | `cos(W[i], q)`, `W[i] . q` |
//! | `analogy` | directions mean something | `E(queen) - E(king) ~ E(woman) - E(man)` |
//! | `direction` | a meaning as a direction | `mean(E(cats) - E(cat)) . E(word)` |
//! | `recording` | values of a pass, kept | an [`Observer`](crate::observer::Observer) |
//! | `attention` | who listens to whom | `softmax(q K^T / sqrt(d))` |
//! | `heads` | which head makes a link, what it writes | `a_ij W_O v_j` |
//! | `compare` | where two models part | `cos(x_l, x'_l)` |
//! | `context` | one word, many meanings | `cos(x_l(mole), x_l(mole'))` |
//! | `lens` | a vector on its way to a word | `W_U norm(x_l)` |
//! | `distribution` | scores to probabilities | `e^(x/T) / sum e^(x/T)` |
//! | `prediction` | guesses at one and at every position | `-log p(next)` |
//! | `neurons` | what a feed-forward row asks and writes | `act(W_gate n) * (W_up n)` |
//! | `overview` | all heads at a glance | |
//! | `window` | how much text a guess needs | |
//!
//! All of it works on the model's file as it is. Matrices are never expanded: single rows are dequantized, and searches
//! are matmuls over the mapped file in f32 ([`Forms::EXACT`]). Beside a session's own memory a search takes
//! `4 * vocab_size` bytes per vector that is looked up, at most [`QUERIES`] at a time; what a recording keeps is said
//! where it is made.

mod analogy;
mod attention;
mod compare;
mod context;
mod dictionary;
mod direction;
mod distribution;
mod heads;
mod lens;
mod neurons;
mod overview;
mod prediction;
mod recording;
mod window;
mod words;

pub use analogy::{Analogy, Expression, Parallelogram};
pub use attention::{HeadPattern, merge_words};
pub use compare::{DifferingLink, Parting};
pub use context::{WordInContext, WordVectors};
pub use dictionary::{Dictionary, QUERIES, Scored, rank, top};
pub use direction::{Direction, VectorPair, leave_one_out};
pub use distribution::{Distribution, entropy, kept, softmax};
pub use heads::{HeadLink, Written};
pub use lens::{LensLayer, Unembedding, Update, lens_sites};
pub use neurons::Neuron;
pub use overview::Overview;
pub use prediction::{Guess, Why};
pub use recording::Recording;
pub use window::Visible;
pub use words::{Word, group_words};

use crate::RunError;
use crate::forward::Numerics;
use crate::model::Model;
use crate::session::{Session, SessionOptions};
use crate::tokenizer::EncodeOptions;
use crate::weights::WeightMatrix;
use gable_kernels::gemm::{Epilogue, Phase};
use gable_kernels::quant::{Activations, Forms};
use gable_kernels::{Kernels, MatMut, Pool};
use std::sync::Arc;

/// Longest text whose attention is recorded, in tokens: its weights grow with the square.
pub const MAX_RECORDED: usize = 512;

/// A model, and what to compute with while looking at it.
#[derive(Debug, Clone)]
pub struct Look {
    model: Arc<Model>,
    kernels: Kernels,
    pool: Arc<Pool>,
    numerics: Numerics,
}

impl Look {
    /// Passes through the model use `numerics`; searches are always in f32.
    pub fn new(model: Arc<Model>, kernels: Kernels, pool: Arc<Pool>, numerics: Numerics) -> Look {
        Look { model, kernels, pool, numerics }
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// A text's tokens, with BOS where the model asks for it and without a final EOS.
    ///
    /// # Errors
    /// [`RunError::Option`] for a text without tokens, and what encoding can fail with.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, RunError> {
        let tokenizer = self.model.tokenizer();
        let mut ids = tokenizer.encode(text, EncodeOptions { add_special: true, parse_special: false })?;
        if tokenizer.adds_eos() {
            ids.pop();
        }
        if ids.is_empty() {
            let found = "empty".to_owned();
            return Err(RunError::Option { name: "text", found, allowed: "at least one token" });
        }
        Ok(ids)
    }

    /// A session with room for `positions` tokens, fed in batches of up to `batch`, with up to `max_logits` rows of logits.
    ///
    /// # Errors
    /// As [`Session::new`].
    pub fn session(&self, positions: usize, batch: usize, max_logits: usize) -> Result<Session, RunError> {
        let mut options = SessionOptions::new(self.kernels, positions.max(1));
        options.numerics = self.numerics;
        options.batch = batch;
        options.max_logits = max_logits;
        options.every_position = max_logits > 1;
        Session::new(Arc::clone(&self.model), Arc::clone(&self.pool), options)
    }

    /// Row `i` of a matrix as f32.
    fn row(&self, matrix: &WeightMatrix, i: usize) -> Result<Vec<f32>, RunError> {
        let mut row = vec![0.0; matrix.cols()];
        self.kernels.dequantize_row(&matrix.view(self.model.files())?, i, &mut row)?;
        Ok(row)
    }

    /// `W x` for some vectors, in f32, row by row of the result.
    fn times(&self, matrix: &WeightMatrix, vectors: &[Vec<f32>]) -> Result<Vec<Vec<f32>>, RunError> {
        let weights = matrix.view(self.model.files())?;
        let (k, n) = (matrix.cols(), matrix.rows());
        let mut out = Vec::with_capacity(vectors.len());
        for part in vectors.chunks(QUERIES) {
            let mut x = Activations::new(part.len(), k, Forms::EXACT);
            let mut rows = x.begin(part.len(), k)?;
            for (i, vector) in part.iter().enumerate() {
                for (to, from) in rows.row_mut(i).iter_mut().zip(vector) {
                    *to = *from;
                }
            }
            let mut products = vec![0.0; part.len().saturating_mul(n)];
            let phase = if part.len() > 2 { Phase::Prompt } else { Phase::Decode };
            self.pool.enter(|team| {
                let out = MatMut::from_rows(&mut products, n);
                self.kernels.matmul(team, phase, &x, &weights, Epilogue::default(), out)
            })?;
            out.extend(products.chunks(n.max(1)).map(<[f32]>::to_vec));
        }
        Ok(out)
    }
}

/// `a . b`, in f64.
pub fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

/// `sqrt(a . a)`
pub fn norm(a: &[f32]) -> f64 {
    dot(a, a).sqrt()
}

/// `a . b / (|a| |b|)`; 0 where one of them has no length.
pub fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let lengths = norm(a) * norm(b);
    if lengths > 0.0 { dot(a, b) / lengths } else { 0.0 }
}

/// `sum_i factor_i a_i`
fn combined<'a>(parts: impl IntoIterator<Item = (f32, &'a [f32])>) -> Vec<f32> {
    let mut sum: Vec<f32> = Vec::new();
    for (factor, vector) in parts {
        sum.resize(vector.len().max(sum.len()), 0.0);
        sum.iter_mut().zip(vector).for_each(|(s, x)| *s += factor * x);
    }
    sum
}
