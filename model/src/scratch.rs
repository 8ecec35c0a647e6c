//! The memory that a forward pass works in: allocated once, sliced per batch.

use crate::RunError;
use crate::config::{ModelConfig, Positions};
use crate::forward::{Numerics, Row};
use crate::model::Model;
use gable_kernels::attention::{AttentionScratch, CacheRow};
use gable_kernels::gemm::{Phase, TopK};
use gable_kernels::memory::{Buffer, zeros};
use gable_kernels::quant::{Activations, Forms};
use gable_kernels::rope::{Rope, RopeAngles};
use gable_kernels::{KernelError, Kernels, MatMut, MatRef};

/// How large batches may become and how they are computed.
#[derive(Debug, Clone, Copy)]
pub struct ScratchOptions {
    /// The instruction set.
    pub kernels: Kernels,
    /// With which numbers.
    pub numerics: Numerics,
    /// One order of summation for prompts and generation, so that both give the same bits.
    pub strict: bool,
    /// Rows of a batch at most.
    pub max_rows: usize,
    /// Rows with logits at most.
    pub max_logits: usize,
    /// Logits of a prompt's rows as its other products, and not in decode's order.
    pub every_position: bool,
    /// Positions of a sequence at most.
    pub max_positions: usize,
    /// Threads at most.
    pub threads: usize,
}

/// How often the forward pass was called: whoever measures or looks must go the way that generation goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Calls {
    /// Batches.
    pub passes: u64,
    /// Their rows.
    pub rows: u64,
    /// Rows with logits.
    pub logits: u64,
    /// Bytes of the matrices that the passes multiplied with: each once, however many rows there were.
    pub weight_bytes: u64,
}

/// RoPE's angles of a batch's rows.
#[derive(Debug)]
pub(crate) struct Angles {
    full: RopeAngles,
    window: Option<RopeAngles>,
}

/// Lookup of a layer's angles, or none where positions are learned.
pub(crate) struct LayerAngles<'a>(&'a Option<Angles>);

impl<'a> LayerAngles<'a> {
    pub(crate) fn for_layer(&self, config: &ModelConfig, layer: usize) -> Option<&'a RopeAngles> {
        let windowed = config.windows.get(layer).copied().flatten().is_some();
        self.0.as_ref().map(|a| a.window.as_ref().filter(|_| windowed).unwrap_or(&a.full))
    }
}

/// All buffers of a pass.
#[derive(Debug)]
pub struct Scratch {
    pub(crate) kernels: Kernels,
    pub(crate) numerics: Numerics,
    pub(crate) strict: bool,
    max_rows: usize,
    max_logits: usize,
    every_position: bool,
    max_positions: usize,
    rows: usize,
    n_logits: usize,
    calls: Calls,
    widths: Widths,
    x: Buffer<f32>,         // [rows, d_model]: the residual stream
    qkv: Buffer<f32>,       // [rows, (n_heads + 2 n_kv_heads) * head_dim]
    gate_up: Buffer<f32>,   // parts of gate and up, a place for each thread
    block_out: Buffer<f32>, // [rows, d_model]: what a block adds, before its norm
    logits: Buffer<f32>,    // [max_logits, vocab_size]
    activations: Activations,
    hidden: Activations,
    attention: AttentionScratch,
    angles: Option<Angles>,
    positions: Vec<u32>,
    cache_rows: Vec<CacheRow>,
    experts: ExpertScratch,
    /// Lent for a pass of which the highest logits alone are wanted, which then takes the place of the logits.
    pub(crate) top_k: Option<TopK>,
}

/// An expert that a row has chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Choice {
    pub(crate) expert: usize,
    pub(crate) row: usize,
    /// What its result is multiplied with.
    pub(crate) weight: f32,
}

/// What a choice of experts needs besides; empty where there is none.
#[derive(Debug)]
struct ExpertScratch {
    count: usize,
    scores: Buffer<f32>, // [rows, count]
    sum: Buffer<f32>,    // [rows, d_model]: the weighted sum of the experts' results
    chosen: Vec<Choice>,
    /// The rows that chose one expert.
    gathered: Activations,
}

impl ExpertScratch {
    fn new(config: &ModelConfig, max_rows: usize, forms: Forms) -> Result<Self, KernelError> {
        let (count, used) = config.experts.map_or((0, 0), |experts| (experts.count, experts.used));
        let rows = if count > 0 { max_rows } else { 0 };
        let zeros = |width: usize| zeros("the experts of a batch", rows.saturating_mul(width));
        Ok(ExpertScratch {
            count,
            scores: zeros(count)?,
            sum: zeros(config.d_model)?,
            chosen: room("the experts of a batch", rows.saturating_mul(used))?,
            gathered: Activations::try_new(rows, config.d_model, forms)?,
        })
    }
}

/// The buffers that a choice of experts works in, borrowed apart.
pub(crate) struct ExpertParts<'a> {
    pub(crate) x: MatMut<'a>,
    pub(crate) activations: &'a mut Activations,
    pub(crate) hidden: &'a mut Activations,
    pub(crate) gathered: &'a mut Activations,
    /// Parts of gate and up, a place for each thread.
    pub(crate) gate_up: &'a mut [f32],
    pub(crate) scores: MatMut<'a>,
    pub(crate) chosen: &'a mut Vec<Choice>,
    pub(crate) sum: MatMut<'a>,
    /// The results of one expert's rows.
    pub(crate) term: &'a mut [f32],
}

#[derive(Debug, Clone, Copy)]
struct Widths {
    d_model: usize,
    qkv: usize,
    vocab: usize,
}

/// The buffers of the present batch, borrowed apart.
pub(crate) struct Parts<'a> {
    pub(crate) x: MatMut<'a>,
    pub(crate) qkv: MatMut<'a>,
    pub(crate) gate_up: &'a mut [f32],
    pub(crate) block_out: MatMut<'a>,
    pub(crate) logits: MatMut<'a>,
    pub(crate) top_k: Option<&'a mut TopK>,
    /// What the linear layers read, but for the last of each feed-forward network.
    pub(crate) activations: &'a mut Activations,
    /// What that one reads: it is written while `activations` are read.
    pub(crate) hidden: &'a mut Activations,
    pub(crate) attention: &'a mut AttentionScratch,
    pub(crate) angles: LayerAngles<'a>,
    pub(crate) cache_rows: &'a [CacheRow],
}

impl Scratch {
    /// Allocates everything.
    ///
    /// # Errors
    /// [`RunError::Option`] if the batch is empty, [`RunError::Kernel`] for buffers that there is no memory for.
    pub fn new(model: &Model, options: ScratchOptions) -> Result<Self, RunError> {
        let config = model.config();
        let ScratchOptions { kernels, numerics, strict, max_rows, max_logits, .. } = options;
        let ScratchOptions { every_position, max_positions, threads, .. } = options;
        if max_rows == 0 {
            let (found, allowed) = (max_rows.to_string(), "1 or more");
            return Err(RunError::Option { name: "batch size", found, allowed });
        }
        let widths = Widths {
            d_model: config.d_model,
            qkv: config.q_dim() + 2 * config.kv_dim(),
            vocab: config.vocab_size,
        };
        let rows = |width: usize| zeros("the rows of a batch", max_rows.saturating_mul(width));
        let max_k = config.d_model.max(config.q_dim());
        let forms = model.weights().matrices().fold(Forms::EXACT, |f, m| {
            f.union(numerics.forms(Phase::Prompt, m)).union(numerics.forms(Phase::Decode, m))
        });
        let mut attention = AttentionScratch::new();
        attention.reserve(threads, max_rows, max_positions, config.n_heads, config.head_dim)?;
        let angles = match &config.positions {
            Positions::Learned => None,
            Positions::Rope { .. } => {
                let angles = |(full, window): (&Rope, Option<&Rope>)| {
                    let full = RopeAngles::try_new(full, max_rows)?;
                    let window = window.map(|w| RopeAngles::try_new(w, max_rows)).transpose()?;
                    Ok::<_, KernelError>(Angles { full, window })
                };
                model.ropes(max_positions).map(angles).transpose()?
            }
        };
        Ok(Scratch {
            kernels,
            numerics,
            strict,
            max_rows,
            max_logits,
            every_position,
            max_positions,
            rows: 0,
            n_logits: 0,
            calls: Calls::default(),
            widths,
            x: rows(widths.d_model)?,
            qkv: rows(widths.qkv)?,
            gate_up: zeros(
                "the inner vectors of a batch",
                kernels.gated_scratch(max_rows, config.d_ff, threads),
            )?,
            block_out: rows(widths.d_model)?,
            logits: zeros("logits", max_logits.saturating_mul(widths.vocab))?,
            activations: Activations::try_new(max_rows, max_k, forms)?,
            hidden: Activations::try_new(max_rows, config.d_ff, forms)?,
            attention,
            angles,
            positions: room("the rows of a batch", max_rows)?,
            cache_rows: room("the rows of a batch", max_rows)?,
            experts: ExpertScratch::new(config, max_rows, forms)?,
            top_k: None,
        })
    }

    /// In which order the logits of a pass are summed.
    pub(crate) fn logits_phase(&self, pass: Phase) -> Phase {
        if self.strict || self.every_position { pass } else { Phase::Decode }
    }

    /// Checks a batch and sets the buffers' extents for it.
    pub(crate) fn begin(&mut self, model: &Model, rows: &[Row]) -> Result<(), RunError> {
        let vocab_size = model.config().vocab_size;
        if rows.len() > self.max_rows {
            let (found, allowed) = (rows.len().to_string(), "at most the batch size of the session");
            return Err(RunError::Option { name: "rows of a batch", found, allowed });
        }
        self.n_logits = rows.iter().filter(|r| r.wants_logits).count();
        if self.n_logits > self.max_logits {
            let (found, allowed) = (self.n_logits.to_string(), "at most the session's number of logit rows");
            return Err(RunError::Option { name: "rows with logits", found, allowed });
        }
        self.positions.clear();
        self.cache_rows.clear();
        for row in rows {
            if row.token as usize >= vocab_size {
                return Err(RunError::TokenOutOfRange { id: row.token, vocab_size });
            }
            match u32::try_from(row.position) {
                Ok(p) if row.position < self.max_positions => self.positions.push(p),
                _ => {
                    let needed = row.position.saturating_add(1);
                    return Err(RunError::ContextFull { needed, max: self.max_positions });
                }
            }
            self.cache_rows.push((*row).into());
        }
        self.rows = rows.len();
        let count = |n: &mut u64, more: usize| *n = n.saturating_add(u64::try_from(more).unwrap_or(u64::MAX));
        count(&mut self.calls.passes, 1);
        count(&mut self.calls.rows, self.rows);
        count(&mut self.calls.logits, self.n_logits);
        if let (Some(angles), Some((full, window))) = (&mut self.angles, model.ropes(self.max_positions)) {
            angles.full.set(full, &self.positions)?;
            if let (Some(angles), Some(rope)) = (&mut angles.window, window) {
                angles.set(rope, &self.positions)?;
            }
        }
        Ok(())
    }

    /// What was lent for a pass, which has left no logits.
    pub(crate) fn take_top_k(&mut self) -> TopK {
        self.n_logits = 0;
        self.top_k.take().unwrap_or_default()
    }

    /// Notes what a pass has read.
    pub(crate) fn count_weights(&mut self, bytes: u64) {
        self.calls.weight_bytes = self.calls.weight_bytes.saturating_add(bytes);
    }

    /// Forward passes so far, those that were cancelled included.
    pub fn calls(&self) -> Calls {
        self.calls
    }

    /// Rows of the present batch.
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// The residual stream, and at the end of a pass that ends in vectors these: `[rows, d_model]`.
    pub fn vectors(&self) -> MatRef<'_> {
        MatRef::from_rows(&self.x, self.widths.d_model).row_range(0..self.rows)
    }

    /// The residual stream, and one row to work in.
    pub(crate) fn x_and_row(&mut self) -> (MatMut<'_>, MatMut<'_>) {
        let (rows, d) = (self.rows, self.widths.d_model);
        (view(&mut self.x, rows, d), view(&mut self.block_out, 1, d))
    }

    /// The logits of the last batch: one row per row that wanted them.
    pub fn logits(&self) -> MatRef<'_> {
        MatRef::from_rows(&self.logits, self.widths.vocab).row_range(0..self.n_logits)
    }

    pub(crate) fn parts(&mut self) -> Parts<'_> {
        let (rows, w) = (self.rows, self.widths);
        Parts {
            x: view(&mut self.x, rows, w.d_model),
            qkv: view(&mut self.qkv, rows, w.qkv),
            gate_up: &mut self.gate_up,
            block_out: view(&mut self.block_out, rows, w.d_model),
            logits: view(&mut self.logits, self.n_logits, w.vocab),
            top_k: self.top_k.as_mut(),
            activations: &mut self.activations,
            hidden: &mut self.hidden,
            attention: &mut self.attention,
            angles: LayerAngles(&self.angles),
            cache_rows: &self.cache_rows,
        }
    }
}

impl Scratch {
    pub(crate) fn expert_parts(&mut self) -> ExpertParts<'_> {
        let (rows, w, experts) = (self.rows, self.widths, &mut self.experts);
        ExpertParts {
            x: view(&mut self.x, rows, w.d_model),
            activations: &mut self.activations,
            hidden: &mut self.hidden,
            gathered: &mut experts.gathered,
            gate_up: &mut self.gate_up,
            scores: view(&mut experts.scores, rows, experts.count),
            chosen: &mut experts.chosen,
            sum: view(&mut experts.sum, rows, w.d_model),
            term: &mut self.block_out,
        }
    }
}

/// An empty list that can take `len` entries, or an error where there is no memory for them.
pub(crate) fn room<T>(what: &'static str, len: usize) -> Result<Vec<T>, KernelError> {
    let mut list = Vec::new();
    let bytes = len.saturating_mul(size_of::<T>());
    list.try_reserve_exact(len).map_err(|_| KernelError::Memory { what, bytes })?;
    Ok(list)
}

/// The first `rows` rows of a buffer that was made for more.
pub(crate) fn view(buffer: &mut [f32], rows: usize, cols: usize) -> MatMut<'_> {
    let n = rows.saturating_mul(cols).min(buffer.len());
    MatMut::from_rows(buffer.get_mut(..n).unwrap_or_default(), cols)
}
