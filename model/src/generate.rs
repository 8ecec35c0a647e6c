//! From a prompt to a text, token by token.
//!
//! ```text
//! prompt -> prefill -> logits -> sample -> token -> bytes -> whole characters -> held back? -> on_text
//!                        ^                   |
//!                        +----- decode ------+
//! ```
//!
//! A token may end inside a character, and a stop string may begin in one token and end in another. So bytes wait until
//! they make a character, and characters wait as long as they could be the beginning of a stop string: what was handed
//! out never has to be taken back.

mod stop;

use crate::RunError;
use crate::sampler::Sampler;
use crate::session::Session;
use crate::speculate::{Speculation, SpeculationCounts};
use crate::tokenizer::{Tokenizer, Utf8Stream};
use gable_kernels::KernelError;
use gable_kernels::gemm::TopK;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};
use stop::StopStrings;

/// When to stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GenerateOptions {
    /// Tokens at most.
    pub max_tokens: usize,
    /// Texts before which generation ends; they are not handed out themselves.
    pub stop: Vec<String>,
    /// Goes on after a token that ends a text.
    pub ignore_eos: bool,
    /// Tokens that are [guessed](crate::speculate) from the text so far at most, to be verified in one pass; 0 for
    /// none. The text is the same. The session must have room for the logits of one more
    /// ([`SessionOptions::max_logits`](crate::session::SessionOptions::max_logits)), or fewer are guessed.
    pub draft: usize,
    /// [`Drawn`] has the scores of the whole vocabulary: without it, only as many are kept as a draw needs.
    pub scores: bool,
    /// Where there is no room for another token: [forgets](Session::shift) half of what follows this many first tokens, and
    /// goes on. Without it, generation ends there.
    pub shift: Option<usize>,
}

impl Default for GenerateOptions {
    fn default() -> GenerateOptions {
        GenerateOptions {
            max_tokens: usize::MAX,
            stop: Vec::new(),
            ignore_eos: false,
            draft: 0,
            scores: false,
            shift: None,
        }
    }
}

impl GenerateOptions {
    /// Whether a token ends the text.
    pub(crate) fn ends(&self, tokenizer: &Tokenizer, token: u32) -> bool {
        tokenizer.is_eog(token) && !self.ignore_eos
    }
}

/// Why generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum StopReason {
    /// The model drew a token that ends a text.
    EndOfText,
    /// A stop string would have come next.
    StopString,
    /// The text is complete, by the [constraint](crate::constraint) of the sampler: nothing can follow it.
    GrammarEnd,
    /// As many tokens as were asked for.
    MaxTokens,
    /// No room for another token.
    ContextFull,
    /// Whoever took the text had enough, or the session's cancel flag was set.
    Interrupted,
}

/// What was done, and how long it took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GenerateStats {
    /// Tokens of the prompt that passed through the model.
    pub prompt_tokens: usize,
    /// How long they took.
    pub prompt_time: Duration,
    /// Tokens drawn, without one that ended the text.
    pub generated_tokens: usize,
    /// Tokens that were drawn after the first one, which comes out of the prompt's pass.
    pub decoded_tokens: usize,
    /// The passes that they came out of, and guesses.
    pub speculation: SpeculationCounts,
    /// How often the context was shifted.
    pub shifts: usize,
    /// How long those passes took, sampling and shifts included.
    pub decode_time: Duration,
    /// Why it ended.
    pub stop: StopReason,
}

/// A token that was just drawn.
#[derive(Debug, Clone, Copy)]
pub struct Drawn<'a> {
    /// Its id.
    pub token: u32,
    /// The raw scores it was drawn by, before any stage of the sampler; may be empty unless
    /// [`GenerateOptions::scores`] asks for them.
    pub logits: &'a [f32],
    /// Whether it ends the text, so that it is not part of it.
    pub ends_text: bool,
}

/// Reads `prompt` after what the session has already read, and draws tokens until there is a reason to stop.
///
/// `on_text` is given the text as it comes, in whole characters, without control tokens; it can end the generation.
/// Apart from the session's buffers nothing is allocated per token once the text buffers have grown to the longest
/// piece. After a [`StopReason::Interrupted`] the session holds the tokens that were finished, of a prompt whole batches.
///
/// # Errors
/// [`RunError::ContextFull`] if the prompt does not fit, and what a pass or a draw can fail with.
pub fn generate(
    session: &mut Session,
    tokenizer: &Tokenizer,
    sampler: &mut Sampler,
    prompt: &[u32],
    options: &GenerateOptions,
    on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
) -> Result<GenerateStats, RunError> {
    generate_with(session, tokenizer, sampler, prompt, options, on_text, &mut |_| {})
}

/// [`generate`], which shows each token with the scores it was drawn by to `on_token`, before its text.
///
/// # Errors
/// Those of [`generate`].
pub fn generate_with(
    session: &mut Session,
    tokenizer: &Tokenizer,
    sampler: &mut Sampler,
    prompt: &[u32],
    options: &GenerateOptions,
    on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
    on_token: &mut dyn FnMut(Drawn<'_>),
) -> Result<GenerateStats, RunError> {
    let mut draw = |sampler: &mut Sampler, scores: Scores<'_>| {
        let (token, logits) = match scores {
            Scores::All(logits) => (sampler.sample(logits)?, logits),
            Scores::TopK(top) => (sampler.sample_top_k(top)?, [].as_slice()),
        };
        on_token(Drawn { token, logits, ends_text: options.ends(tokenizer, token) });
        Ok::<u32, RunError>(token)
    };
    if prompt.is_empty() {
        return Err(RunError::Option {
            name: "prompt",
            found: "empty".to_owned(),
            allowed: "at least one token",
        });
    }
    let mut stats = GenerateStats {
        prompt_tokens: prompt.len(),
        prompt_time: Duration::ZERO,
        generated_tokens: 0,
        decoded_tokens: 0,
        speculation: SpeculationCounts::default(),
        shifts: 0,
        decode_time: Duration::ZERO,
        stop: StopReason::MaxTokens,
    };
    let before = session.tokens().len();
    let start = Instant::now();
    let first = uncancelled(session.prefill(prompt))?.map(|logits| {
        prompt.iter().try_for_each(|&id| sampler.accept(id))?;
        if options.max_tokens == 0 { Ok(None) } else { draw(sampler, Scores::All(logits)).map(Some) }
    });
    stats.prompt_time = start.elapsed();
    let Some(first) = first.transpose()? else {
        stats.stop = StopReason::Interrupted;
        stats.prompt_tokens = session.tokens().len().saturating_sub(before);
        return Ok(stats);
    };
    let Some(mut token) = first else { return Ok(stats) };

    let start = Instant::now();
    let mut reply = Reply::new(&options.stop);
    let mut speculation = Speculation::new(options.draft);
    let wanted = sampler.wants().filter(|_| options.draft == 0 && !options.scores);
    let mut top_k = wanted.map(|k| session.top_k(k)).transpose()?;
    let stop = loop {
        sampler.accept(token)?;
        if let ControlFlow::Break(reason) = reply.take(token, tokenizer, options, on_text) {
            break Ok(reason);
        }
        if sampler.is_complete() {
            break Ok(StopReason::GrammarEnd);
        }
        if speculation.len(session) >= session.max_positions() {
            let Some(keep) = options.shift else { break Ok(StopReason::ContextFull) };
            let shifted = speculation.end(session).and_then(|()| session.shift(keep));
            match uncancelled(shifted) {
                Ok(Some(_)) => stats.shifts = stats.shifts.saturating_add(1),
                Ok(None) => break Ok(StopReason::Interrupted),
                Err(error) => break Err(error),
            }
        }
        let scores = match &mut top_k {
            Some(top) => speculation.decode_top_k(session, token, top).map(|()| Scores::TopK(top)),
            None => speculation.decode(session, token).map(Scores::All),
        };
        let drawn = match uncancelled(scores) {
            Ok(Some(scores)) => draw(sampler, scores),
            Ok(None) => break Ok(StopReason::Interrupted),
            Err(error) => Err(error),
        };
        match drawn {
            Ok(drawn) => token = drawn,
            Err(error) => break Err(error),
        }
        stats.decoded_tokens = stats.decoded_tokens.saturating_add(1);
    };
    // Whatever it was that ended it, the session holds what was drawn and no more.
    speculation.end(session)?;
    stats.stop = stop?;
    stats.speculation = speculation.counts();
    stats.generated_tokens = reply.tokens;
    stats.decode_time = start.elapsed();
    if stats.stop != StopReason::StopString {
        reply.finish(on_text);
    }
    Ok(stats)
}

/// What a token is drawn from.
enum Scores<'a> {
    All(&'a [f32]),
    TopK(&'a TopK),
}

/// A cancelled pass is no error here but an end.
fn uncancelled<T>(result: Result<T, RunError>) -> Result<Option<T>, RunError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(RunError::Kernel(KernelError::Cancelled)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// A text in the making: tokens in, text out.
#[derive(Debug)]
pub(crate) struct Reply {
    characters: Utf8Stream,
    stops: StopStrings,
    /// Tokens so far, without one that ended the text.
    pub(crate) tokens: usize,
}

impl Reply {
    /// A text that ends before these.
    pub(crate) fn new(stop: &[String]) -> Reply {
        Reply { characters: Utf8Stream::new(), stops: StopStrings::new(stop), tokens: 0 }
    }

    /// Takes a token that was drawn; `Break` if it was the last one.
    pub(crate) fn take(
        &mut self,
        token: u32,
        tokenizer: &Tokenizer,
        options: &GenerateOptions,
        on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> ControlFlow<StopReason> {
        if options.ends(tokenizer, token) {
            return ControlFlow::Break(StopReason::EndOfText);
        }
        self.tokens = self.tokens.saturating_add(1);
        self.characters.push(tokenizer.visible_piece(token), self.stops.buffer());
        let (ready, found) = self.stops.ready();
        if !ready.is_empty() && on_text(ready).is_break() {
            return ControlFlow::Break(StopReason::Interrupted);
        }
        self.stops.advance();
        match (found, self.tokens >= options.max_tokens) {
            (true, _) => ControlFlow::Break(StopReason::StopString),
            (_, true) => ControlFlow::Break(StopReason::MaxTokens),
            _ => ControlFlow::Continue(()),
        }
    }

    /// Nothing more comes: what was held back was no stop string.
    pub(crate) fn finish(&mut self, on_text: &mut dyn FnMut(&str) -> ControlFlow<()>) {
        self.characters.flush(self.stops.buffer());
        let rest = self.stops.rest();
        if !rest.is_empty() {
            // There is nothing left to end.
            let _ = on_text(rest);
        }
    }
}
