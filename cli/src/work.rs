//! What a pass has to do, by operation: multiplications and additions by their kind, and bytes that must come from memory.
//!
//! ```text
//! matrix [n, k], r rows     2 r n k operations, its bytes once
//! attention, r rows         4 n_heads head_dim operations per row and visible position; keys and values of all visible
//!                           positions once
//! everything else           counts as nothing: its values are in the caches
//! ```
//!
//! These are the operations that the mathematics asks for: products with int8 activations in two terms do twice as many.

use gable_kernels::attention::Arithmetic;
use gable_kernels::gemm::{Path, Phase};
use gable_kernels::quant::Forms;
use gable_model::model::Model;
use gable_model::observer::Operation;
use gable_model::session::SessionOptions;
use gable_model::weights::{Dense, FeedForward, WeightMatrix};

/// Operations and bytes; a multiply-add is two operations.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Work {
    /// Operations on f32.
    pub f32: f64,
    /// Operations on bf16.
    pub bf16: f64,
    /// Operations on int8.
    pub int8: f64,
    /// Bytes of weights and cache.
    pub bytes: f64,
}

impl Work {
    /// Operations of all kinds.
    pub fn operations(&self) -> f64 {
        self.f32 + self.bf16 + self.int8
    }
}

impl std::ops::Add for Work {
    type Output = Work;

    fn add(self, other: Work) -> Work {
        Work {
            f32: self.f32 + other.f32,
            bf16: self.bf16 + other.bf16,
            int8: self.int8 + other.int8,
            bytes: self.bytes + other.bytes,
        }
    }
}

impl std::iter::Sum for Work {
    fn sum<I: Iterator<Item = Work>>(all: I) -> Work {
        all.fold(Work::default(), |a, b| a + b)
    }
}

/// The extent of a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Whose kernels it takes.
    pub phase: Phase,
    /// Position of the first row.
    pub first: usize,
    /// Rows, at positions that follow one another.
    pub rows: usize,
    /// Rows with logits.
    pub logits: usize,
}

/// Counts for one model, run in one way.
#[derive(Debug, Clone, Copy)]
pub struct Counter<'a> {
    model: &'a Model,
    options: &'a SessionOptions,
}

impl<'a> Counter<'a> {
    /// What passes of the model have to do in a session with these options.
    pub fn new(model: &'a Model, options: &'a SessionOptions) -> Counter<'a> {
        Counter { model, options }
    }

    /// What all of a pass has to do.
    pub fn pass(&self, extent: &Extent) -> Work {
        use Operation::{Attention, AttentionOutput, Down, GateUp, Qkv, Unembed};
        let n_layers = self.model.config().n_layers;
        let blocks = [Qkv, Attention, AttentionOutput, GateUp, Down];
        let layers = (0..n_layers).flat_map(|i| blocks.map(|operation| self.operation(operation, i, extent)));
        layers.chain([self.operation(Unembed, n_layers, extent)]).sum()
    }

    /// What one operation of a pass has to do.
    pub fn operation(&self, operation: Operation, layer: usize, extent: &Extent) -> Work {
        match operation {
            Operation::Attention => self.attention(layer, extent),
            Operation::Unembed if extent.logits == 0 => Work::default(),
            Operation::Unembed => self.matmuls(&self.matrices(operation, layer), extent.phase, extent.logits),
            _ => self.matmuls(&self.matrices(operation, layer), extent.phase, extent.rows),
        }
    }

    /// The matrices that an operation multiplies with; they share their input.
    pub fn matrices(&self, operation: Operation, layer: usize) -> Vec<&'a WeightMatrix> {
        let weights = self.model.weights();
        let linears = match (operation, weights.layers.get(layer)) {
            (Operation::Unembed, _) => return vec![weights.unembedding()],
            (Operation::Qkv, Some(l)) => vec![&l.q, &l.k, &l.v],
            (Operation::AttentionOutput, Some(l)) => vec![&l.attention_output],
            (Operation::GateUp, Some(l)) => {
                self.networks(&l.ffn).flat_map(|f| f.gate.iter().chain([&f.up])).collect()
            }
            (Operation::Down, Some(l)) => self.networks(&l.ffn).map(|f| &f.down).collect(),
            _ => Vec::new(),
        };
        linears.into_iter().map(|linear| &linear.weight).collect()
    }

    /// The networks that a row goes through; of experts, those that come first stand for those that are chosen.
    fn networks<'f>(&self, ffn: &'f FeedForward) -> impl Iterator<Item = &'f Dense> {
        let used = self.model.config().experts.map_or(1, |experts| experts.used);
        let all = match ffn {
            FeedForward::Dense(dense) => std::slice::from_ref(dense),
            FeedForward::Experts(experts) => &experts.list[..],
        };
        all.iter().take(used)
    }

    #[expect(clippy::cast_precision_loss, reason = "for a speed")]
    fn matmuls(&self, matrices: &[&WeightMatrix], phase: Phase, rows: usize) -> Work {
        let phase = if self.options.strict { Phase::Prompt } else { phase };
        let made = matrices.iter().fold(Forms::EXACT, |f, m| f.union(self.options.numerics.forms(phase, m)));
        let one = |m: &&WeightMatrix| {
            let operations = 2.0 * rows as f64 * m.rows() as f64 * m.cols() as f64;
            let mut work = Work { bytes: m.n_bytes() as f64, ..Work::default() };
            match self.options.kernels.matmul_plan(phase, m.format(), made, m.rows(), 1).path {
                Path::F32 => work.f32 = operations,
                Path::Bf16 => work.bf16 = operations,
                Path::Int8 => work.int8 = operations,
            }
            work
        };
        matrices.iter().map(one).sum()
    }

    #[expect(clippy::cast_precision_loss, reason = "for a speed")]
    fn attention(&self, layer: usize, extent: &Extent) -> Work {
        let config = self.model.config();
        let window = config.windows.get(layer).copied().flatten().unwrap_or(usize::MAX);
        let seen = |row: usize| extent.first.saturating_add(row).saturating_add(1).min(window) as f64;
        let operations = 4.0 * config.q_dim() as f64 * (0..extent.rows).map(seen).sum::<f64>();
        let position = config.n_kv_heads.saturating_mul(2);
        let position = position.saturating_mul(self.options.cache_type().head_bytes(config.head_dim));
        let reach = extent.first.saturating_add(extent.rows).min(window.saturating_add(extent.rows));
        let mut work = Work { bytes: position as f64 * reach as f64, ..Work::default() };
        let phase = if self.options.strict { Phase::Prompt } else { extent.phase };
        match self.options.numerics.attention(phase, self.options.kernels) {
            Arithmetic::Bf16 => work.bf16 = operations,
            _ => work.f32 = operations,
        }
        work
    }
}

/// The passes in which a session with batches of `batch` reads a prompt of `prompt` tokens behind `depth` others and
/// then generates.
pub fn passes(depth: usize, prompt: usize, generate: usize, batch: usize) -> impl Iterator<Item = Extent> {
    let batch = batch.max(1);
    let chunks = (0..prompt).step_by(batch).map(move |start| {
        let rows = batch.min(prompt.saturating_sub(start));
        let logits = usize::from(start.saturating_add(rows) == prompt);
        Extent { phase: Phase::Prompt, first: depth.saturating_add(start), rows, logits }
    });
    let before = depth.saturating_add(prompt);
    let tokens = (0..generate).map(move |i| Extent {
        phase: Phase::Decode,
        first: before.saturating_add(i),
        rows: 1,
        logits: 1,
    });
    chunks.chain(tokens)
}

#[cfg(test)]
mod unit {
    use super::*;
    use gable_kernels::Kernels;
    use gable_model::model::OpenOptions;
    use std::path::Path;

    fn count(name: &str, options: &SessionOptions, extent: &Extent) -> (Model, Work) {
        let path = format!("{}/../model/tests/fixtures/{name}/model.gguf", env!("CARGO_MANIFEST_DIR"));
        let model = Model::open(Path::new(&path), &OpenOptions::default()).unwrap();
        let work = Counter::new(&model, options).pass(extent);
        (model, work)
    }

    #[test]
    fn a_tokens_work_is_two_operations_per_weight_and_four_per_visible_value() {
        let options = SessionOptions::new(Kernels::best(), 64);
        let one = Extent { phase: Phase::Decode, first: 9, rows: 1, logits: 1 };
        let (model, work) = count("llama", &options, &one);
        let c = model.config();
        let params: usize = model.weights().matrices().skip(1).map(|m| m.rows() * m.cols()).sum();
        let attention = 4 * c.q_dim() * 10 * c.n_layers;
        assert_eq!(work.operations(), (2 * params + attention) as f64);
        let cache = c.n_layers * c.n_kv_heads * 2 * options.cache_type().head_bytes(c.head_dim) * 10;
        assert_eq!(work.bytes, (model.bytes_per_token() + cache) as f64);
    }

    #[test]
    fn rows_without_logits_do_not_unembed_and_windows_bound_what_is_seen() {
        let options = SessionOptions::new(Kernels::best(), 64);
        let rows = |logits| Extent { phase: Phase::Prompt, first: 0, rows: 4, logits };
        let (model, some) = count("llama", &options, &rows(2));
        let unembedding = model.weights().unembedding();
        let more = 2 * 2 * unembedding.rows() * unembedding.cols();
        assert_eq!((some.operations() - count("llama", &options, &rows(0)).1.operations()) as usize, more);
        let deep = |first| Extent { phase: Phase::Decode, first, rows: 1, logits: 1 };
        let (near, far) = (count("gemma3", &options, &deep(7)).1, count("gemma3", &options, &deep(50)).1);
        let (model, _) = count("gemma3", &options, &deep(0));
        let c = model.config();
        let unbounded = c.windows.iter().filter(|w| w.is_none()).count();
        let bounded: usize = c.windows.iter().flatten().map(|w| 51.min(*w) - 8.min(*w)).sum();
        let seen = unbounded * 43 + bounded;
        assert_eq!((far.operations() - near.operations()) as usize, 4 * c.q_dim() * seen);
    }

    #[test]
    fn a_prompts_passes_are_those_of_a_session() {
        let all: Vec<_> = passes(3, 10, 2, 4).map(|e| (e.first, e.rows, e.logits)).collect();
        assert_eq!(all, [(3, 4, 0), (7, 4, 0), (11, 2, 1), (13, 1, 1), (14, 1, 1)]);
    }
}
