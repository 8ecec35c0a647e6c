//! A conversation with a model: its cache, its scratch, and the tokens so far.

use crate::RunError;
use crate::forward::{Batch, Numerics, Row, forward};
use crate::model::Model;
use crate::observer::{Observer, Operation};
use crate::scratch::{Calls, Scratch, ScratchOptions, room};
use crate::timeline::Timeline;
use crate::window;
use gable_kernels::attention::{CacheShape, CacheType, KvCache, SequenceId};
use gable_kernels::gemm::Phase;
use gable_kernels::{Kernels, MatRef, Pool};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// How a session computes and how much room it has.
#[derive(Debug, Clone, Copy)]
pub struct SessionOptions {
    /// The instruction set.
    pub kernels: Kernels,
    /// With which numbers.
    pub numerics: Numerics,
    /// One order of summation for prompts and generation.
    pub strict: bool,
    /// Positions at most.
    pub max_positions: usize,
    /// Tokens of a prompt that pass through the model together.
    pub batch: usize,
    /// Rows of logits that one call can give.
    pub max_logits: usize,
    /// The cache's element type; `None` for the one that goes with the numerics.
    pub cache_type: Option<CacheType>,
    /// Keeps what sliding windows have left behind: more memory, but [`Session::truncate`] works anywhere.
    pub keep_all: bool,
    /// Threads of the pool that read a prompt; `None` for all.
    pub prompt_threads: Option<usize>,
    /// Threads of the pool that generate; `None` for all.
    pub decode_threads: Option<usize>,
}

impl SessionOptions {
    /// Fast numerics, a context of `max_positions`, prompts in batches of 512.
    pub fn new(kernels: Kernels, max_positions: usize) -> Self {
        SessionOptions {
            kernels,
            numerics: Numerics::Fast,
            strict: false,
            max_positions,
            batch: 512,
            max_logits: 1,
            cache_type: None,
            keep_all: false,
            prompt_threads: None,
            decode_threads: None,
        }
    }

    /// The element type that the cache will have.
    pub fn cache_type(&self) -> CacheType {
        self.cache_type.unwrap_or(match self.numerics {
            Numerics::Exact => CacheType::F32,
            Numerics::Fast | Numerics::Precise => CacheType::F16,
        })
    }
}

/// One sequence of tokens and everything that is needed to go on with it.
///
/// All memory is allocated by [`Session::new`]: a decoded token allocates nothing.
#[derive(Debug)]
pub struct Session {
    model: Arc<Model>,
    pool: Arc<Pool>,
    cache: KvCache,
    scratch: Scratch,
    sequence: SequenceId,
    tokens: Vec<u32>,
    rows: Vec<Row>,
    batch: usize,
    max_positions: usize,
    keep_all: bool,
    prompt_threads: usize,
    decode_threads: usize,
    cancel: Option<Arc<AtomicBool>>,
    timeline: Option<Timeline>,
}

impl Session {
    /// Reserves the cache and all buffers; the cache's pages are not touched before they are used.
    ///
    /// # Errors
    /// [`RunError`] for sizes that cannot be allocated.
    pub fn new(model: Arc<Model>, pool: Arc<Pool>, options: SessionOptions) -> Result<Self, RunError> {
        let config = model.config();
        let batch = options.batch.clamp(1, options.max_positions.max(1));
        let mut shape = CacheShape {
            n_layers: config.n_layers,
            n_kv_heads: config.n_kv_heads,
            head_dim: config.head_dim,
            cache_type: options.cache_type(),
            max_positions: options.max_positions,
            max_sequences: 1,
            max_pages: 0,
        };
        shape.max_pages = match options.keep_all {
            true => shape.pages_for_all(),
            false => window::max_pages(config, &shape, batch),
        };
        let mut cache = KvCache::new(shape)?;
        let sequence = cache.new_sequence()?;
        let scratch = Scratch::new(
            &model,
            ScratchOptions {
                kernels: options.kernels,
                numerics: options.numerics,
                strict: options.strict,
                max_rows: batch,
                max_logits: options.max_logits,
                max_positions: options.max_positions,
                threads: pool.threads(),
            },
        )?;
        let tokens = room("the tokens of a session", options.max_positions)?;
        let rows = room("the rows of a batch", batch)?;
        let max_positions = options.max_positions;
        let threads = |n: Option<usize>| n.unwrap_or(pool.threads());
        let (prompt_threads, decode_threads) =
            (threads(options.prompt_threads), threads(options.decode_threads));
        Ok(Session {
            model,
            pool,
            cache,
            scratch,
            sequence,
            tokens,
            rows,
            batch,
            max_positions,
            keep_all: options.keep_all,
            prompt_threads,
            decode_threads,
            cancel: None,
            timeline: None,
        })
    }

    /// Stops a running call within one layer when the flag is set.
    pub fn set_cancel(&mut self, flag: Arc<AtomicBool>) {
        self.cancel = Some(flag);
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// The tokens so far.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Keys and values of the tokens so far.
    pub fn cache(&self) -> &KvCache {
        &self.cache
    }

    /// Forward passes so far.
    pub fn calls(&self) -> Calls {
        self.scratch.calls()
    }

    /// Keeps from now on when each operation of each pass begins and ends, which takes memory for every pass.
    pub fn start_timeline(&mut self) {
        self.timeline = Some(Timeline::new());
    }

    /// What was kept, if [`start_timeline`](Session::start_timeline) was called.
    pub fn timeline(&self) -> Option<&Timeline> {
        self.timeline.as_ref()
    }

    /// Positions at most.
    pub fn max_positions(&self) -> usize {
        self.max_positions
    }

    /// Reads a prompt (or its next part) and gives the scores of the token after its last one.
    ///
    /// # Errors
    /// [`RunError`]; the session has then read the batches before the one that failed or was cancelled:
    /// [`tokens`](Session::tokens) tells.
    pub fn prefill(&mut self, tokens: &[u32]) -> Result<&[f32], RunError> {
        self.check_room(tokens.len())?;
        let n_chunks = tokens.len().div_ceil(self.batch);
        for (i, chunk) in tokens.chunks(self.batch).enumerate() {
            let last = i.saturating_add(1) == n_chunks;
            self.pass(Phase::Prompt, chunk, |j| last && j.saturating_add(1) == chunk.len(), &mut ())?;
        }
        Ok(self.last_logits())
    }

    /// Adds one token and gives the scores of the next.
    ///
    /// # Errors
    /// [`RunError`]; the session is as before then.
    pub fn decode(&mut self, token: u32) -> Result<&[f32], RunError> {
        self.check_room(1)?;
        self.pass(Phase::Decode, &[token], |_| true, &mut ())?;
        Ok(self.last_logits())
    }

    /// Passes tokens through the model with an observer, in the order of summation of `phase`, at most one batch at
    /// a time; `wants_logits(i)` says for which of them the logits are computed.
    ///
    /// # Errors
    /// [`RunError`]; the session is as before then.
    pub fn observe(
        &mut self,
        phase: Phase,
        tokens: &[u32],
        wants_logits: impl Fn(usize) -> bool,
        observer: &mut dyn Observer,
    ) -> Result<MatRef<'_>, RunError> {
        self.check_room(tokens.len())?;
        self.pass(phase, tokens, wants_logits, observer)?;
        Ok(self.scratch.logits())
    }

    /// Forgets all but the first `len` tokens.
    ///
    /// # Errors
    /// [`RunError::LeftBehind`] if a layer with a sliding window has given back what the next token would need, which
    /// it may have unless `len` is 0 or `SessionOptions::keep_all` was set. The session is as before then.
    pub fn truncate(&mut self, len: usize) -> Result<(), RunError> {
        if len < self.tokens.len() && !window::holds(self.model.config(), &self.cache, self.sequence, len)? {
            return Err(RunError::LeftBehind { len });
        }
        self.cache.truncate(self.sequence, len)?;
        self.tokens.truncate(len);
        Ok(())
    }

    /// Prepares for reading `ids`: forgets what differs from them and gives how many of them are read already. At
    /// least one is left to read, since the scores of the next token come from a pass.
    ///
    /// Where sliding windows have given back what the common beginning needs, that is 0, and all are to be read again.
    ///
    /// # Errors
    /// [`RunError`] of the cache.
    pub fn keep_common(&mut self, ids: &[u32]) -> Result<usize, RunError> {
        let common = self.tokens.iter().zip(ids).take_while(|(a, b)| a == b).count();
        let common = common.min(ids.len().saturating_sub(1));
        match self.truncate(common) {
            Ok(()) => Ok(common),
            Err(RunError::LeftBehind { .. }) => self.truncate(0).map(|()| 0),
            Err(error) => Err(error),
        }
    }

    fn check_room(&self, more: usize) -> Result<(), RunError> {
        let needed = self.tokens.len().saturating_add(more);
        if needed > self.max_positions {
            return Err(RunError::ContextFull { needed, max: self.max_positions });
        }
        Ok(())
    }

    /// One batch; the session is as before if it fails.
    fn pass(
        &mut self,
        phase: Phase,
        tokens: &[u32],
        wants_logits: impl Fn(usize) -> bool,
        observer: &mut dyn Observer,
    ) -> Result<(), RunError> {
        let first = self.tokens.len();
        if let Some(timeline) = &mut self.timeline {
            timeline.begin(phase, first, tokens.len());
        }
        if !self.keep_all {
            window::release(self.model.config(), &mut self.cache, self.sequence, first)?;
        }
        self.rows.clear();
        self.rows.extend(tokens.iter().enumerate().map(|(i, &token)| Row {
            token,
            position: first.saturating_add(i),
            sequence: self.sequence,
            wants_logits: wants_logits(i),
        }));
        let batch = Batch { phase, rows: &self.rows };
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
        match done {
            Ok(()) => self.tokens.extend_from_slice(tokens),
            // What was released before `first` is not needed there.
            Err(_) => self.cache.truncate(self.sequence, first)?,
        }
        done
    }

    fn last_logits(&self) -> &[f32] {
        let logits = self.scratch.logits();
        match logits.rows() {
            0 => &[],
            n => logits.row(n - 1),
        }
    }
}
