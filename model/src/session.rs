//! A conversation with a model: its cache, its scratch, and the tokens so far.

use crate::RunError;
use crate::engine::Engine;
use crate::forward::Numerics;
use crate::model::Model;
use crate::observer::Observer;
use crate::scratch::{Calls, room};
use crate::timeline::Timeline;
use crate::window;
use gable_kernels::attention::{CacheType, KvCache, SequenceId};
use gable_kernels::gemm::{Phase, TopK};
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
    /// Logits are wanted of every position of a prompt and not of its end alone: they are computed as the prompt's other
    /// products are, and not as generation does it, which for one row is several times as fast.
    pub every_position: bool,
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
            every_position: false,
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
    engine: Engine,
    sequence: SequenceId,
    tokens: Vec<u32>,
}

impl Session {
    /// Reserves the cache and all buffers; the cache's pages are not touched before they are used.
    ///
    /// # Errors
    /// [`RunError`] for sizes that cannot be allocated.
    pub fn new(model: Arc<Model>, pool: Arc<Pool>, options: SessionOptions) -> Result<Self, RunError> {
        let mut engine = Engine::new(model, pool, options, 1)?;
        let sequence = engine.cache.new_sequence()?;
        let tokens = room("the tokens of a session", options.max_positions)?;
        Ok(Session { engine, sequence, tokens })
    }

    /// Stops a running call when the flag is set, within one operation of a layer; attention far behind the beginning is done
    /// in pieces for that.
    pub fn set_cancel(&mut self, flag: Arc<AtomicBool>) {
        self.engine.set_cancel(flag);
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        &self.engine.model
    }

    /// The tokens so far.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Keys and values of the tokens so far.
    pub fn cache(&self) -> &KvCache {
        &self.engine.cache
    }

    /// Forward passes so far.
    pub fn calls(&self) -> Calls {
        self.engine.scratch.calls()
    }

    /// Keeps from now on when each operation of each pass begins and ends, which takes memory for every pass.
    pub fn start_timeline(&mut self) {
        self.engine.timeline = Some(Timeline::new());
    }

    /// What was kept, if [`start_timeline`](Session::start_timeline) was called.
    pub fn timeline(&self) -> Option<&Timeline> {
        self.engine.timeline.as_ref()
    }

    /// Positions at most.
    pub fn max_positions(&self) -> usize {
        self.engine.max_positions
    }

    /// Tokens that one call can give the logits of.
    pub fn max_logits(&self) -> usize {
        self.engine.max_logits.min(self.engine.batch)
    }

    /// The logits of the last call, one row for each token whose were wanted.
    pub fn logits(&self) -> MatRef<'_> {
        self.engine.scratch.logits()
    }

    /// Reads a prompt (or its next part) and gives the scores of the token after its last one.
    ///
    /// # Errors
    /// [`RunError`]; the session has then read the batches before the one that failed or was cancelled:
    /// [`tokens`](Session::tokens) tells.
    pub fn prefill(&mut self, tokens: &[u32]) -> Result<&[f32], RunError> {
        self.engine.check_room(self.tokens.len(), tokens.len())?;
        let n_chunks = tokens.len().div_ceil(self.engine.batch);
        for (i, chunk) in tokens.chunks(self.engine.batch).enumerate() {
            let last = i.saturating_add(1) == n_chunks;
            self.pass(Phase::Prompt, chunk, |j| last && j.saturating_add(1) == chunk.len(), &mut ())?;
        }
        Ok(self.engine.last_logits())
    }

    /// Adds one token and gives the scores of the next.
    ///
    /// # Errors
    /// [`RunError`]; the session is as before then.
    pub fn decode(&mut self, token: u32) -> Result<&[f32], RunError> {
        self.pass(Phase::Decode, &[token], |_| true, &mut ())?;
        Ok(self.engine.last_logits())
    }

    /// Memory for [`decode_top_k`](Session::decode_top_k).
    ///
    /// # Errors
    /// [`RunError::Kernel`] if there is none.
    pub fn top_k(&self, k: usize) -> Result<TopK, RunError> {
        Ok(TopK::new(k, self.engine.decode_threads)?)
    }

    /// Adds one token and finds the highest scores of the next, as many as `top` has room for: those that
    /// [`decode`](Session::decode) would give, without writing the others to memory.
    ///
    /// # Errors
    /// [`RunError`]; the session is as before then.
    pub fn decode_top_k(&mut self, token: u32, top: &mut TopK) -> Result<(), RunError> {
        self.engine.scratch.top_k = Some(std::mem::take(top));
        let done = self.pass(Phase::Decode, &[token], |_| true, &mut ());
        *top = self.engine.scratch.take_top_k();
        done
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
        self.pass(phase, tokens, wants_logits, observer)?;
        Ok(self.logits())
    }

    /// Forgets all but the first `len` tokens.
    ///
    /// # Errors
    /// [`RunError::LeftBehind`] if a layer with a sliding window has given back what the next token would need, which
    /// it may have unless `len` is 0 or `SessionOptions::keep_all` was set. The session is as before then.
    pub fn truncate(&mut self, len: usize) -> Result<(), RunError> {
        let Engine { model, cache, .. } = &mut self.engine;
        if len < self.tokens.len() && !window::holds(model.config(), cache, self.sequence, len)? {
            return Err(RunError::LeftBehind { len });
        }
        cache.truncate(self.sequence, len)?;
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

    /// Makes room: forgets the older half of what follows the first `keep` tokens, and gives how many that were.
    ///
    /// What is left is read again as if it were a prompt, since its positions change and the keys of the cache are turned
    /// by them. The session is then exactly one that has read the tokens that are left and nothing else.
    ///
    /// # Errors
    /// [`RunError::Option`] if fewer than two tokens follow the first `keep`; what a pass can fail with, or be cancelled
    /// by: the session holds part of what is left then.
    pub fn shift(&mut self, keep: usize) -> Result<usize, RunError> {
        let Some(rest) = remaining(&self.tokens, keep) else {
            let (found, allowed) = (keep.to_string(), "at least two less than there are in the context");
            return Err(RunError::Option { name: "number of tokens to keep", found, allowed });
        };
        let dropped = self.tokens.len().saturating_sub(rest.len());
        let common = self.keep_common(&rest)?;
        let (_, unread) = rest.split_at_checked(common).unwrap_or_default();
        self.prefill(unread)?;
        Ok(dropped)
    }

    /// What the session computes with, and its place in the cache.
    pub(crate) fn engine(&self) -> (&Engine, SequenceId) {
        (&self.engine, self.sequence)
    }

    /// The same, to put something into the cache, which [`set_tokens`](Session::set_tokens) is to follow.
    pub(crate) fn engine_mut(&mut self) -> (&mut Engine, SequenceId) {
        (&mut self.engine, self.sequence)
    }

    /// The tokens that the cache now holds, `max_positions` at most.
    pub(crate) fn set_tokens(&mut self, tokens: &[u32]) {
        self.tokens.clear();
        self.tokens.extend_from_slice(tokens);
    }

    /// Forgets all.
    pub(crate) fn clear(&mut self) {
        // An empty sequence can always be had, and the session has one that lives.
        let _ = self.engine.cache.truncate(self.sequence, 0);
        self.tokens.clear();
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
        self.engine.check_room(first, tokens.len())?;
        self.engine.pass(phase, (self.sequence, first), tokens, wants_logits, observer)?;
        self.tokens.extend_from_slice(tokens);
        Ok(())
    }
}

/// The first `keep` tokens, and of the others the younger half (one more, if their number is odd). Nothing if there are
/// fewer than two others.
pub fn remaining(tokens: &[u32], keep: usize) -> Option<Vec<u32>> {
    let (kept, rest) = tokens.split_at_checked(keep)?;
    let (dropped, younger) = rest.split_at_checked(rest.len() / 2)?;
    (!dropped.is_empty()).then(|| [kept, younger].concat())
}
