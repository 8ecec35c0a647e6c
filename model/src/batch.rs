//! Many sequences at once: every pass continues all of them by a token, and reads the weights once.
//!
//! ```text
//! pass    sequence 0: row    sequence 1: row    ...        one row each, whatever their lengths are
//! ```
//!
//! A row's bits depend on its own sequence only, and prompts are read one by one, so what is generated for a request
//! does not depend on how many others there are, nor on which. A prompt that begins as another one that is in the cache
//! shares that one's pages: what a position's keys and values are does not depend on how a prompt was cut either.
//!
//! All passes are summed in the order of prompts, as if [`SessionOptions::strict`] had been set: panels of weights are
//! unpacked once for all sequences. So `fast` means here what it means for prompts, one term of int8 activations.

use crate::RunError;
use crate::engine::Engine;
use crate::forward::Row;
use crate::generate::{GenerateOptions, Reply, StopReason};
use crate::model::Model;
use crate::sampler::Sampler;
use crate::scratch::Calls;
use crate::session::SessionOptions;
use crate::window;
use gable_kernels::Pool;
use gable_kernels::attention::{KvCache, SequenceId};
use gable_kernels::gemm::Phase;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// A shorter common beginning is not worth the copies of the pages in which the sequences part.
const SHORTEST_SHARED: usize = 16;

/// A text to be continued.
#[derive(Debug)]
pub struct Request {
    /// Whatever the caller knows it by.
    pub id: usize,
    /// Its tokens.
    pub prompt: Vec<u32>,
    /// Draws its tokens, and nobody else's.
    pub sampler: Sampler,
    /// When to stop; nothing is guessed and nothing shifted here.
    pub options: GenerateOptions,
}

/// A request whose text is complete.
#[derive(Debug)]
pub struct Finished {
    /// As in the request.
    pub id: usize,
    /// What was generated.
    pub text: String,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Those of them that another prompt had in common with it.
    pub shared_tokens: usize,
    /// Tokens drawn, without one that ended the text.
    pub generated_tokens: usize,
    /// Why it ended, or what was wrong with the scores that it was to be drawn from.
    pub stop: Result<StopReason, RunError>,
}

/// A request in the making.
#[derive(Debug)]
struct Live {
    request: Request,
    sequence: SequenceId,
    shared_tokens: usize,
    /// Tokens in the cache.
    len: usize,
    /// Drawn, and not in the cache yet.
    token: u32,
    reply: Reply,
    text: String,
}

/// A prompt in the cache whose request has ended.
#[derive(Debug)]
struct Kept {
    prompt: Vec<u32>,
    sequence: SequenceId,
}

/// Generates for up to a fixed number of requests at the same time.
#[derive(Debug)]
pub struct BatchDecoder {
    engine: Engine,
    sequences: usize,
    live: Vec<Live>,
    kept: Option<Kept>,
}

impl BatchDecoder {
    /// Room for `sequences` requests of up to `options.max_positions` tokens each.
    ///
    /// # Errors
    /// [`RunError`] for sizes that cannot be allocated, or no sequences.
    pub fn new(
        model: Arc<Model>,
        pool: Arc<Pool>,
        options: SessionOptions,
        sequences: usize,
    ) -> Result<BatchDecoder, RunError> {
        if sequences == 0 {
            let (found, allowed) = (sequences.to_string(), "1 or more");
            return Err(RunError::Option { name: "number of sequences", found, allowed });
        }
        let options = SessionOptions { strict: true, ..options };
        // One more for a prompt that is kept.
        let engine = Engine::new(model, pool, options, sequences.saturating_add(1))?;
        Ok(BatchDecoder { engine, sequences, live: Vec::new(), kept: None })
    }

    /// Stops a running pass within one operation when the flag is set.
    pub fn set_cancel(&mut self, flag: Arc<AtomicBool>) {
        self.engine.set_cancel(flag);
    }

    /// Requests in the making.
    pub fn len(&self) -> usize {
        self.live.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.live.is_empty()
    }

    /// Whether another request can be added.
    pub fn has_room(&self) -> bool {
        self.live.len() < self.sequences
    }

    /// Forward passes so far.
    pub fn calls(&self) -> Calls {
        self.engine.scratch.calls()
    }

    /// Keys and values of all sequences.
    pub fn cache(&self) -> &KvCache {
        &self.engine.cache
    }

    /// Reads a request's prompt and draws its first token; gives it back if that was the last one.
    ///
    /// # Errors
    /// [`RunError::ContextFull`] if the prompt does not fit, [`RunError::Option`] if it is empty or there is no room
    /// for another request, and what a pass can fail with; all others go on as if it had not been added.
    pub fn add(&mut self, request: Request) -> Result<Option<Finished>, RunError> {
        let refused =
            |name, found: &str, allowed| Err(RunError::Option { name, found: found.to_owned(), allowed });
        if request.prompt.is_empty() {
            return refused("prompt", "empty", "at least one token");
        }
        if !self.has_room() {
            return refused("number of requests", "too large", "as many as the decoder was made for");
        }
        self.engine.check_room(0, request.prompt.len())?;
        let (sequence, shared) = self.begin(&request.prompt)?;
        if let Err(error) = self.read(sequence, &request.prompt, shared) {
            self.engine.cache.end_sequence(sequence)?;
            return Err(error);
        }
        let reply = Reply::new(&request.options.stop);
        let len = request.prompt.len();
        let mut live =
            Live { request, sequence, shared_tokens: shared, len, token: 0, reply, text: String::new() };
        let prompt = &live.request.prompt;
        let noted = prompt.iter().try_for_each(|&id| live.request.sampler.accept(id));
        let stop = match (noted, live.request.options.max_tokens) {
            (Err(error), _) => ControlFlow::Break(Err(error)),
            (Ok(()), 0) => ControlFlow::Break(Ok(StopReason::MaxTokens)),
            _ => live.draw(&self.engine, self.engine.last_logits()),
        };
        match stop {
            ControlFlow::Break(stop) => self.finish(live, stop).map(Some),
            ControlFlow::Continue(()) => {
                self.live.push(live);
                Ok(None)
            }
        }
    }

    /// Continues all requests by a token; gives those that have ended.
    ///
    /// # Errors
    /// What a pass can fail with; all requests are as before then.
    pub fn step(&mut self) -> Result<Vec<Finished>, RunError> {
        let rows = self.live.iter().map(|live| Row {
            token: live.token,
            position: live.len,
            sequence: live.sequence,
            wants_logits: true,
        });
        self.engine.run(Phase::Decode, rows, &mut ())?;
        let mut ended = Vec::new();
        let logits = self.engine.scratch.logits();
        for (i, live) in self.live.iter_mut().enumerate() {
            live.len = live.len.saturating_add(1);
            if let ControlFlow::Break(stop) = live.draw(&self.engine, logits.row(i)) {
                ended.push((i, stop));
            }
        }
        // The last first, so that the places of the others stay.
        let mut finished = Vec::with_capacity(ended.len());
        for (i, stop) in ended.into_iter().rev() {
            let live = self.live.remove(i);
            finished.push(self.finish(live, stop)?);
        }
        finished.reverse();
        Ok(finished)
    }

    /// A sequence that holds as much of the prompt as another one's prompt has in common with it, and how much that is.
    fn begin(&mut self, prompt: &[u32]) -> Result<(SequenceId, usize), RunError> {
        let others = self.live.iter().map(|live| (&live.request.prompt, live.sequence));
        let others = others.chain(self.kept.iter().map(|kept| (&kept.prompt, kept.sequence)));
        // The scores of the first token come from a pass, so one token is left to read.
        let most = prompt.len().saturating_sub(1);
        let common = |other: &[u32]| other.iter().zip(prompt).take_while(|(a, b)| a == b).count().min(most);
        let best =
            others.map(|(other, sequence)| (common(other), sequence)).max_by_key(|(common, _)| *common);
        let Engine { model, cache, .. } = &mut self.engine;
        if let Some((common, source)) = best
            && common >= SHORTEST_SHARED
            && window::holds(model.config(), cache, source, common)?
        {
            return Ok((cache.fork(source, common)?, common));
        }
        Ok((cache.new_sequence()?, 0))
    }

    /// Reads a prompt from position `from` on.
    fn read(&mut self, sequence: SequenceId, prompt: &[u32], from: usize) -> Result<(), RunError> {
        let (mut at, last) = (from, prompt.len().saturating_sub(1));
        let (_, rest) = prompt.split_at_checked(from).unwrap_or_default();
        for chunk in rest.chunks(self.engine.batch) {
            let wants = |i: usize| at.saturating_add(i) == last;
            self.engine.pass(Phase::Prompt, (sequence, at), chunk, wants, &mut ())?;
            at = at.saturating_add(chunk.len());
        }
        Ok(())
    }

    /// Takes a request's sequence out of the cache, but keeps its prompt for those that begin alike.
    fn finish(&mut self, live: Live, stop: Result<StopReason, RunError>) -> Result<Finished, RunError> {
        let Live { request, sequence, shared_tokens, mut reply, mut text, .. } = live;
        if matches!(stop, Ok(reason) if reason != StopReason::StopString) {
            reply.finish(&mut |rest| {
                text.push_str(rest);
                ControlFlow::Continue(())
            });
        }
        let Engine { model, cache, .. } = &mut self.engine;
        let prompt_tokens = request.prompt.len();
        if window::holds(model.config(), cache, sequence, prompt_tokens)? {
            cache.truncate(sequence, prompt_tokens)?;
            if let Some(old) = self.kept.replace(Kept { prompt: request.prompt, sequence }) {
                cache.end_sequence(old.sequence)?;
            }
        } else {
            cache.end_sequence(sequence)?;
        }
        let generated_tokens = reply.tokens;
        Ok(Finished { id: request.id, text, prompt_tokens, shared_tokens, generated_tokens, stop })
    }
}

impl Live {
    /// Draws the next token and takes it into the text; `Break` if nothing follows.
    fn draw(&mut self, engine: &Engine, logits: &[f32]) -> ControlFlow<Result<StopReason, RunError>> {
        let Live { request: Request { sampler, options, .. }, reply, text, .. } = self;
        let token = match sampler.sample(logits).and_then(|token| sampler.accept(token).map(|()| token)) {
            Ok(token) => token,
            Err(error) => return ControlFlow::Break(Err(error)),
        };
        self.token = token;
        let taken = reply.take(token, engine.model.tokenizer(), options, &mut |piece| {
            text.push_str(piece);
            ControlFlow::Continue(())
        });
        if let ControlFlow::Break(reason) = taken {
            return ControlFlow::Break(Ok(reason));
        }
        if sampler.is_complete() {
            return ControlFlow::Break(Ok(StopReason::GrammarEnd));
        }
        if self.len >= engine.max_positions {
            return ControlFlow::Break(Ok(StopReason::ContextFull));
        }
        ControlFlow::Continue(())
    }
}
