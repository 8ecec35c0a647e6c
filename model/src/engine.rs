//! A model with the memory to run it: what a single sequence and many of them have in common.

use crate::RunError;
use crate::forward::{Batch, Ending, Row, forward};
use crate::model::Model;
use crate::observer::{Observer, Operation};
use crate::scratch::{Scratch, ScratchOptions, room};
use crate::session::SessionOptions;
use crate::timeline::Timeline;
use crate::window;
use gable_kernels::attention::{CacheShape, KvCache, SequenceId};
use gable_kernels::gemm::Phase;
use gable_kernels::{KernelError, Pool};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Cache, buffers and threads. All memory is allocated by [`Engine::new`].
#[derive(Debug)]
pub(crate) struct Engine {
    pub(crate) model: Arc<Model>,
    pool: Arc<Pool>,
    pub(crate) cache: KvCache,
    pub(crate) scratch: Scratch,
    rows: Vec<Row>,
    /// Rows of a pass at most.
    pub(crate) batch: usize,
    pub(crate) max_positions: usize,
    /// Rows with logits at most.
    pub(crate) max_logits: usize,
    /// Whether what sliding windows have left behind is kept.
    pub(crate) keep_all: bool,
    prompt_threads: usize,
    pub(crate) decode_threads: usize,
    cancel: Option<Arc<AtomicBool>>,
    /// When each operation of each pass began and ended, if that is to be kept.
    pub(crate) timeline: Option<Timeline>,
}

impl Engine {
    /// Room for `sequences` that are continued.
    ///
    /// # Errors
    /// [`RunError::NoNextToken`] for an encoder, and sizes that cannot be allocated.
    pub(crate) fn new(
        model: Arc<Model>,
        pool: Arc<Pool>,
        options: SessionOptions,
        sequences: usize,
    ) -> Result<Self, RunError> {
        if model.config().encoder {
            return Err(RunError::NoNextToken { architecture: model.config().architecture });
        }
        Self::for_vectors(model, pool, options, sequences)
    }

    /// Reserves a cache for `sequences` and all buffers; the cache's pages are not touched before they are used.
    pub(crate) fn for_vectors(
        model: Arc<Model>,
        pool: Arc<Pool>,
        options: SessionOptions,
        sequences: usize,
    ) -> Result<Self, RunError> {
        let config = model.config();
        let batch = options.batch.clamp(1, options.max_positions.max(1)).max(sequences);
        let mut shape = CacheShape {
            n_layers: config.n_layers,
            n_kv_heads: config.n_kv_heads,
            head_dim: config.head_dim,
            cache_type: options.cache_type(),
            max_positions: options.max_positions,
            max_sequences: sequences,
            max_pages: 0,
        };
        shape.max_pages = match options.keep_all {
            true => shape.pages_for_all(),
            false => window::max_pages(config, &shape, batch),
        };
        let cache = KvCache::new(shape)?;
        let max_logits = options.max_logits.max(if sequences > 1 { sequences } else { 0 });
        let scratch = Scratch::new(
            &model,
            ScratchOptions {
                kernels: options.kernels,
                numerics: options.numerics,
                strict: options.strict,
                max_rows: batch,
                max_logits,
                every_position: options.every_position,
                max_positions: options.max_positions,
                threads: pool.threads(),
            },
        )?;
        let rows = room("the rows of a batch", batch)?;
        let threads = |n: Option<usize>| n.unwrap_or(pool.threads());
        let (prompt_threads, decode_threads) =
            (threads(options.prompt_threads), threads(options.decode_threads));
        Ok(Engine {
            model,
            pool,
            cache,
            scratch,
            rows,
            batch,
            max_positions: options.max_positions,
            max_logits,
            keep_all: options.keep_all,
            prompt_threads,
            decode_threads,
            cancel: None,
            timeline: None,
        })
    }

    /// Stops a running pass within one operation when the flag is set.
    pub(crate) fn set_cancel(&mut self, flag: Arc<AtomicBool>) {
        self.cancel = Some(flag);
    }

    /// Errors where a sequence of `len` tokens has no room for `more`.
    pub(crate) fn check_room(&self, len: usize, more: usize) -> Result<(), RunError> {
        let needed = len.saturating_add(more);
        if needed > self.max_positions {
            return Err(RunError::ContextFull { needed, max: self.max_positions });
        }
        Ok(())
    }

    /// Rows that continue `sequence` at position `first`, and nothing else.
    pub(crate) fn pass(
        &mut self,
        phase: Phase,
        (sequence, first): (SequenceId, usize),
        tokens: &[u32],
        wants_logits: impl Fn(usize) -> bool,
        observer: &mut dyn Observer,
    ) -> Result<(), RunError> {
        let rows = tokens.iter().enumerate().map(|(i, &token)| Row {
            token,
            position: first.saturating_add(i),
            sequence,
            wants_logits: wants_logits(i),
        });
        self.run(phase, rows, observer)
    }

    /// One batch, a sequence's rows one after the other; all sequences are as before if it fails.
    pub(crate) fn run(
        &mut self,
        phase: Phase,
        rows: impl Iterator<Item = Row>,
        observer: &mut dyn Observer,
    ) -> Result<(), RunError> {
        self.run_to(Ending::Logits, phase, rows, observer)
    }

    /// The same, to another ending.
    pub(crate) fn run_to(
        &mut self,
        ending: Ending,
        phase: Phase,
        rows: impl Iterator<Item = Row>,
        observer: &mut dyn Observer,
    ) -> Result<(), RunError> {
        self.rows.clear();
        self.rows.extend(rows);
        if let Some(timeline) = &mut self.timeline {
            let first = self.rows.first().map_or(0, |row| row.position);
            timeline.begin(phase, first, self.rows.len());
        }
        if !self.keep_all {
            let config = self.model.config();
            each_first(&self.rows, |row| {
                window::release(config, &mut self.cache, row.sequence, row.position)
            })?;
        }
        let batch = Batch { phase, rows: &self.rows, ending };
        let (model, cache, scratch) = (&*self.model, &mut self.cache, &mut self.scratch);
        let cancel = self.cancel.clone();
        let threads = match phase {
            Phase::Prompt => self.prompt_threads,
            Phase::Decode => self.decode_threads,
        };
        let pool = &self.pool;
        let mut run = |observer: &mut dyn Observer| {
            pool.enter_with(threads, |team| {
                observer.done(0, Operation::Enter);
                match &cancel {
                    Some(flag) => forward(&team.with_cancel(flag), model, cache, &batch, scratch, observer),
                    None => forward(team, model, cache, &batch, scratch, observer),
                }
            })
        };
        let done = match &mut self.timeline {
            Some(timeline) => run(&mut timeline.watch(observer)),
            None => run(observer),
        };
        if let Some(timeline) = &mut self.timeline {
            timeline.end();
        }
        if done.is_err() {
            // What was released before the first rows is not needed there.
            each_first(&self.rows, |row| self.cache.truncate(row.sequence, row.position))?;
        }
        done
    }

    /// The logits of the last row that wanted them.
    pub(crate) fn last_logits(&self) -> &[f32] {
        let logits = self.scratch.logits();
        match logits.rows() {
            0 => &[],
            n => logits.row(n - 1),
        }
    }
}

/// The first row of every sequence.
fn each_first(rows: &[Row], mut f: impl FnMut(&Row) -> Result<(), KernelError>) -> Result<(), KernelError> {
    let mut last = None;
    for row in rows {
        if last.replace(row.sequence) != Some(row.sequence) {
            f(row)?;
        }
    }
    Ok(())
}
