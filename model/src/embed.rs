//! Vectors of texts: a pass without logits, and one vector out of those of a text's tokens.
//!
//! ```text
//! text 0   ids -.                     .- rows of text 0 -- pooling --.
//! text 1   ids --> one pass, all rows --  rows of text 1 -- pooling ----> length 1 -> vectors
//! text 2   ids -'                     '- rows of text 2 -- pooling --'
//! ```
//!
//! Every text is a sequence of its own, whose rows' bits do not depend on others: a text's vector is the same alone and
//! among many.

use crate::engine::Engine;
use crate::forward::{Ending, Row};
use crate::model::{Model, read_json};
use crate::session::SessionOptions;
use crate::{LoadError, RunError};
use gable_kernels::attention::SequenceId;
use gable_kernels::gemm::Phase;
use gable_kernels::{Kernels, MatMut, Pool, Team};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// Texts of a pass at most.
const TEXTS: usize = 64;

/// How the vectors of a text's tokens become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// Their mean.
    Mean,
    /// The first: that of `[CLS]`.
    Cls,
    /// The last: in a decoder, the one that has seen all others.
    Last,
}

impl Pooling {
    /// What `pooling_type` of a GGUF file means.
    ///
    /// # Errors
    /// [`LoadError::Metadata`] for a kind that is not known.
    pub(crate) fn from_gguf(kind: Option<u32>) -> Result<Option<Pooling>, LoadError> {
        match kind {
            None | Some(0) => Ok(None),
            Some(1) => Ok(Some(Pooling::Mean)),
            Some(2) => Ok(Some(Pooling::Cls)),
            Some(3) => Ok(Some(Pooling::Last)),
            Some(other) => {
                let reason = format!("is {other}; supported: 0 (none), 1 (mean), 2 (cls), 3 (last)");
                Err(LoadError::Metadata { key: "pooling_type".to_owned(), reason })
            }
        }
    }

    /// The way back.
    pub(crate) fn to_gguf(self) -> u32 {
        match self {
            Pooling::Mean => 1,
            Pooling::Cls => 2,
            Pooling::Last => 3,
        }
    }

    /// What `1_Pooling/config.json` of a folder says, if there is one.
    ///
    /// # Errors
    /// [`LoadError`] for a file that is not JSON.
    pub(crate) fn of_folder(folder: &Path) -> Result<Option<Pooling>, LoadError> {
        let path = folder.join("1_Pooling").join("config.json");
        if !path.is_file() {
            return Ok(None);
        }
        let json = read_json(&path)?;
        let is = |key: &str| json.get(key).and_then(serde_json::Value::as_bool) == Some(true);
        let kinds = [
            ("pooling_mode_mean_tokens", Pooling::Mean),
            ("pooling_mode_cls_token", Pooling::Cls),
            ("pooling_mode_lasttoken", Pooling::Last),
        ];
        Ok(kinds.into_iter().find(|(key, _)| is(key)).map(|(_, pooling)| pooling))
    }

    /// What the model's maker says; otherwise the mean for encoders, the last token for decoders.
    pub fn of_model(model: &Model) -> Pooling {
        let config = model.config();
        config.pooling.unwrap_or(if config.encoder { Pooling::Mean } else { Pooling::Last })
    }
}

/// Makes vectors of texts.
#[derive(Debug)]
pub struct Embedder {
    engine: Engine,
    kernels: Kernels,
    pooling: Pooling,
    normalize: bool,
    vectors: gable_kernels::memory::Buffer<f32>,
}

impl Embedder {
    /// Room for texts of up to `options.max_positions` tokens, which go through the model whole. With `normalize`, vectors
    /// have length 1.
    ///
    /// # Errors
    /// [`RunError`] for sizes that cannot be allocated; [`RunError::Option`] for more positions than an encoder has.
    pub fn new(
        model: Arc<Model>,
        pool: Arc<Pool>,
        mut options: SessionOptions,
        pooling: Pooling,
        normalize: bool,
    ) -> Result<Embedder, RunError> {
        let config = model.config();
        let positions = config.max_seq_len;
        if config.encoder && options.max_positions > positions {
            let (found, allowed) =
                (options.max_positions.to_string(), "at most the positions that the model has");
            return Err(RunError::Option { name: "context size", found, allowed });
        }
        options.batch = options.batch.max(options.max_positions);
        options.max_logits = 0;
        options.keep_all = true;
        let kernels = options.kernels;
        let d_model = config.d_model;
        let engine = Engine::for_vectors(model, pool, options, TEXTS)?;
        let vectors = gable_kernels::memory::zeros("vectors of texts", TEXTS.saturating_mul(d_model))?;
        Ok(Embedder { engine, kernels, pooling, normalize, vectors })
    }

    /// Gives the number of each text and its vector to `take`, in order.
    ///
    /// # Errors
    /// [`RunError::ContextFull`] for a text that is too long, [`RunError::Option`] for one without tokens, and whatever a
    /// pass can fail with.
    pub fn embed(&mut self, texts: &[Vec<u32>], mut take: impl FnMut(usize, &[f32])) -> Result<(), RunError> {
        for text in texts {
            self.engine.check_room(0, text.len())?;
            if text.is_empty() {
                let found = "without tokens".to_owned();
                return Err(RunError::Option {
                    name: "a text",
                    found,
                    allowed: "texts of at least one token",
                });
            }
        }
        let mut done = 0_usize;
        while let Some(rest) = texts.get(done..).filter(|rest| !rest.is_empty()) {
            let n = self.fitting(rest);
            let (now, _) = rest.split_at_checked(n).unwrap_or((rest, &[]));
            self.pass(now, |i, vector| take(done.saturating_add(i), vector))?;
            done = done.saturating_add(n);
        }
        Ok(())
    }

    /// How many of the texts fit into one pass: at least one.
    fn fitting(&self, texts: &[Vec<u32>]) -> usize {
        let mut rows = 0_usize;
        let fits = |text: &&Vec<u32>| {
            rows = rows.saturating_add(text.len());
            rows <= self.engine.batch
        };
        texts.iter().take(TEXTS).take_while(fits).count().max(1)
    }

    fn pass(&mut self, texts: &[Vec<u32>], mut take: impl FnMut(usize, &[f32])) -> Result<(), RunError> {
        let mut sequences = Vec::with_capacity(texts.len());
        for _ in texts {
            sequences.push(self.engine.cache.new_sequence()?);
        }
        let done = self.vectors_of(texts, &sequences);
        for sequence in sequences {
            self.engine.cache.end_sequence(sequence)?;
        }
        done?;
        let d_model = self.engine.model.config().d_model;
        self.vectors.chunks_exact(d_model).take(texts.len()).enumerate().for_each(|(i, v)| take(i, v));
        Ok(())
    }

    /// Leaves a vector of each text in `vectors`.
    fn vectors_of(&mut self, texts: &[Vec<u32>], sequences: &[SequenceId]) -> Result<(), RunError> {
        let rows = texts.iter().zip(sequences).flat_map(|(text, &sequence)| {
            let row = move |(position, &token)| Row { token, position, sequence, wants_logits: false };
            text.iter().enumerate().map(row)
        });
        self.engine.run_to(Ending::Vectors, Phase::Prompt, rows, &mut ())?;
        let mut end = 0_usize;
        let groups: Vec<Range<usize>> = texts
            .iter()
            .map(|text| {
                let start = end;
                end = end.saturating_add(text.len());
                match self.pooling {
                    Pooling::Mean => start..end,
                    Pooling::Cls => start..start.saturating_add(1),
                    Pooling::Last => end.saturating_sub(1)..end,
                }
            })
            .collect();
        let d_model = self.engine.model.config().d_model;
        let room = self.vectors.get_mut(..groups.len().saturating_mul(d_model)).unwrap_or_default();
        let mut out = MatMut::from_rows(room, d_model);
        let team = Team::serial();
        // The mean of one row is that row.
        self.kernels.mean_rows(&team, self.engine.scratch.vectors(), &groups, out.reborrow())?;
        if self.normalize {
            self.kernels.l2_normalize(&team, out)?;
        }
        Ok(())
    }
}
