//! From logits to a token.
//!
//! A sampler is a chain of stages over a list of candidates. The default chain is llama.cpp's,
//!
//! ```text
//! penalties ; top_k ; top_p ; min_p ; temperature
//! ```
//!
//! preceded by the logit biases and followed by the draw. A [`Constraint`] comes before all: what it does not allow is no
//! candidate. Each stage narrows the list or changes its logits:
//!
//! - *penalties* look at the last `repeat_last_n` tokens: a logit of a token that occurs `n` times there is divided
//!   by `repeat_penalty` if positive and multiplied by it if not, then lowered by `n * frequency_penalty +
//!   presence_penalty`;
//! - *top_k* keeps the `k` most likely;
//! - *top_p* keeps the smallest set of most likely ones whose probabilities reach `p`;
//! - *min_p* keeps those with at least `p` times the probability of the most likely one;
//! - *temperature* divides the logits by `T`; zero keeps the most likely one alone and draws nothing.
//!
//! # Order, ties and cost
//!
//! Candidates stay in the order of their ids. A stage that needs the most likely ones selects on a copy, in linear
//! time, and yields a threshold; a vocabulary of 262 144 is never sorted. Where only the order of the logits decides (the
//! most likely one, or top_k first, without penalties, biases, constraint and hook) no list is made of them: they are looked at
//! once, 64 at a time, and what is below the threshold so far is passed over; or not even written to memory, where a pass
//! gives no more than [`Sampler::wants`] ([`Session::decode_top_k`](crate::session::Session::decode_top_k)). Equal logits:
//! the lower id wins. All memory is allocated when the sampler is made.
//!
//! # Random numbers
//!
//! ChaCha with 12 rounds, its key the seed as eight little-endian bytes and 24 zeros, stream 0. A draw takes one `u64`
//! and uses the upper 53 bits as a number in `[0, 1)`; a greedy choice takes none. A printed seed thus gives the same
//! choices on every machine and in every later version; a test pins the first draws.

mod config;
mod stages;

pub use config::{SamplerConfig, Stage};

use crate::RunError;
use crate::constraint::Constraint;
use gable_kernels::gemm::TopK;
use gable_kernels::largest::{Entry, Largest};
use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use stages::Candidate;
use std::collections::VecDeque;

/// What a user of the library does to the logits before anything else.
type LogitsHook = Box<dyn FnMut(&mut [f32]) + Send>;

/// A hook and the logits that it is given, since those of a session are not to be written.
struct Hooked {
    hook: LogitsHook,
    logits: Vec<f32>, // [vocab_size]
}

impl std::fmt::Debug for Hooked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hooked").finish_non_exhaustive()
    }
}

/// Draws tokens; see the [module](self) for what and how.
#[derive(Debug)]
pub struct Sampler {
    config: SamplerConfig,
    vocab_size: usize,
    /// Sorted by id, each id once.
    biases: Vec<(u32, f32)>,
    /// In the order of ids.
    candidates: Vec<Candidate>,
    scratch: Vec<Candidate>,
    /// Finds the likeliest: of the logits where only they decide, else of the candidates.
    likeliest: Largest,
    /// The last `repeat_last_n` tokens, oldest first.
    recent: VecDeque<u32>,
    /// How often a token occurs in `recent`; empty where no penalty asks.
    counts: Vec<u32>, // [vocab_size]
    constraint: Option<Constraint>,
    hooked: Option<Hooked>,
    rng: ChaCha12Rng,
}

impl Sampler {
    /// A sampler for a vocabulary of `vocab_size`, with all the memory it will need.
    ///
    /// Errors: an option outside its range, a bias for a token outside the vocabulary.
    pub fn new(config: SamplerConfig, vocab_size: usize) -> Result<Sampler, RunError> {
        config.validate()?;
        let mut biases: Vec<(u32, f32)> = Vec::with_capacity(config.logit_bias.len());
        let mut given = config.logit_bias.clone();
        given.sort_by_key(|(id, _)| *id);
        for (id, bias) in given {
            if usize::try_from(id).map_or(true, |id| id >= vocab_size) {
                return Err(RunError::TokenOutOfRange { id, vocab_size });
            }
            match biases.last_mut().filter(|last| last.0 == id) {
                Some(last) => last.1 = biased(last.1, bias),
                None => biases.push((id, bias)),
            }
        }
        let remembers = if config.penalizes() { config.repeat_last_n } else { 0 };
        let mut seed = [0u8; 32];
        for (place, byte) in seed.iter_mut().zip(config.seed.to_le_bytes()) {
            *place = byte;
        }
        let likeliest = Largest::new(decisive(&config).unwrap_or(config.top_k).min(vocab_size))?;
        Ok(Sampler {
            vocab_size,
            biases,
            candidates: Vec::with_capacity(vocab_size),
            scratch: Vec::with_capacity(vocab_size),
            likeliest,
            recent: VecDeque::with_capacity(remembers),
            counts: if remembers > 0 { vec![0; vocab_size] } else { Vec::new() },
            constraint: None,
            hooked: None,
            rng: ChaCha12Rng::from_seed(seed),
            config,
        })
    }

    /// Draws only what the constraint allows from now on, and moves it on with every [`sample`](Sampler::sample);
    /// [`forget`](Sampler::forget) begins a new text.
    ///
    /// A bit set of the vocabulary is made for each draw, a 32nd of the logits' size, and nothing of the size of the logits.
    pub fn constrain(&mut self, constraint: Constraint) {
        self.constraint = Some(constraint);
    }

    /// Lets `hook` change the logits of every draw, `[vocab_size]`, before biases, a constraint and all stages: `-inf` rules
    /// a token out. What other observers of a generation are shown stays as the model computed it.
    ///
    /// ```
    /// use gable_model::sampler::{Sampler, SamplerConfig};
    /// let mut sampler = Sampler::new(SamplerConfig::greedy(), 3)?;
    /// sampler.set_logits_hook(|logits| logits[1] = f32::NEG_INFINITY);
    /// assert_eq!(sampler.sample(&[0.0, 9.0, 1.0])?, 2);
    /// # Ok::<(), gable_model::RunError>(())
    /// ```
    pub fn set_logits_hook(&mut self, hook: impl FnMut(&mut [f32]) + Send + 'static) {
        let logits = Vec::with_capacity(self.vocab_size);
        self.hooked = Some(Hooked { hook: Box::new(hook), logits });
    }

    /// Whether a constraint is satisfied by what was drawn and allows nothing more.
    pub fn is_complete(&self) -> bool {
        self.constraint.as_ref().is_some_and(Constraint::is_complete)
    }

    /// The options it was made with.
    pub fn config(&self) -> &SamplerConfig {
        &self.config
    }

    /// Notes a token of the prompt or of the reply, for the penalties.
    ///
    /// Errors: an id outside the vocabulary.
    pub fn accept(&mut self, token: u32) -> Result<(), RunError> {
        let vocab_size = self.vocab_size;
        let slot = |id: u32| usize::try_from(id).unwrap_or(usize::MAX);
        if slot(token) >= vocab_size {
            return Err(RunError::TokenOutOfRange { id: token, vocab_size });
        }
        if self.counts.is_empty() {
            return Ok(());
        }
        if self.recent.len() >= self.config.repeat_last_n
            && let Some(oldest) = self.recent.pop_front()
            && let Some(count) = self.counts.get_mut(slot(oldest))
        {
            *count = count.saturating_sub(1);
        }
        self.recent.push_back(token);
        if let Some(count) = self.counts.get_mut(slot(token)) {
            *count = count.saturating_add(1);
        }
        Ok(())
    }

    /// Forgets the noted tokens and begins a constraint anew; the stream of random numbers goes on.
    pub fn forget(&mut self) {
        if let Some(constraint) = &mut self.constraint {
            constraint.restart();
        }
        self.recent.clear();
        self.counts.fill(0);
    }

    /// How many of the highest logits a draw follows from, if it does not take all of them.
    pub fn wants(&self) -> Option<usize> {
        self.decisive().filter(|_| self.hooked.is_none())
    }

    /// Draws one token, the one that [`sample`](Sampler::sample) would draw, from as many of the highest logits as it
    /// [`wants`](Sampler::wants).
    ///
    /// Errors: as there.
    pub fn sample_top_k(&mut self, top: &TopK) -> Result<u32, RunError> {
        load_likeliest(top.entries(), &mut self.candidates)?;
        self.choose()
    }

    /// Draws one token. `logits` is `[vocab_size]`. `-inf` rules a token out; `+inf` rules out all that have less.
    ///
    /// Errors: a NaN (of a token that is allowed), another number of logits than the vocabulary has, nothing but `-inf`,
    /// nothing that goes on with a constraint.
    pub fn sample(&mut self, logits: &[f32]) -> Result<u32, RunError> {
        let token = self.draw(logits)?;
        if let Some(constraint) = &mut self.constraint {
            constraint.advance(token)?;
        }
        Ok(token)
    }

    fn draw(&mut self, logits: &[f32]) -> Result<u32, RunError> {
        self.load(logits)?;
        self.choose()
    }

    /// One of the candidates.
    fn choose(&mut self) -> Result<u32, RunError> {
        if self.config.temperature == 0.0 {
            // The narrowing stages keep the most likely one, so only the penalties matter.
            if self.config.order.contains(&Stage::Penalties) {
                self.penalize();
            }
            return stages::most_likely(&self.candidates).map(|c| c.index).ok_or(RunError::NoCandidate);
        }
        self.apply_stages();
        #[expect(clippy::cast_precision_loss, reason = "53 bits are what an f64 holds")]
        let uniform = (self.rng.next_u64() >> 11) as f64 * (-53f64).exp2();
        stages::draw(&self.candidates, uniform).ok_or(RunError::NoCandidate)
    }

    /// The tokens that the stages leave to be drawn from, with their logits as the stages made them, in the order of ids.
    /// With temperature 0 only the most likely one.
    ///
    /// Errors: as [`sample`](Sampler::sample).
    pub fn candidates(&mut self, logits: &[f32]) -> Result<impl Iterator<Item = (u32, f32)>, RunError> {
        self.load(logits)?;
        if self.config.temperature == 0.0 {
            let best = stages::most_likely(&self.candidates).map(|c| c.index);
            self.candidates.retain(|c| Some(c.index) == best);
        } else {
            self.apply_stages();
        }
        Ok(self.candidates.iter().map(|c| (c.index, c.value)))
    }

    fn apply_stages(&mut self) {
        for at in 0..self.config.order.len() {
            let Some(stage) = self.config.order.get(at).copied() else { break };
            match stage {
                Stage::Penalties => self.penalize(),
                Stage::TopK => stages::top_k(&mut self.candidates, &mut self.likeliest),
                Stage::TopP => stages::top_p(&mut self.candidates, &mut self.scratch, self.config.top_p),
                Stage::MinP => stages::min_p(&mut self.candidates, self.config.min_p),
                Stage::Temperature => stages::temperature(&mut self.candidates, self.config.temperature),
            }
        }
    }

    /// How many of the highest logits everything else follows from, if it is not all of them.
    fn decisive(&self) -> Option<usize> {
        decisive(&self.config).filter(|k| self.constraint.is_none() && *k < self.vocab_size)
    }

    /// Fills the candidates, biases added, without what is ruled out, and without what cannot be drawn for others.
    fn load(&mut self, logits: &[f32]) -> Result<(), RunError> {
        if logits.len() != self.vocab_size {
            return Err(RunError::LogitsLength { found: logits.len(), vocab_size: self.vocab_size });
        }
        let decides = self.decisive().is_some();
        let logits = match &mut self.hooked {
            Some(Hooked { hook, logits: own }) => {
                own.clear();
                own.extend_from_slice(logits);
                hook(own);
                own.as_slice()
            }
            None => logits,
        };
        if decides {
            self.likeliest.clear();
            self.likeliest.take(0, logits);
            self.likeliest.finish();
            return load_likeliest(self.likeliest.entries(), &mut self.candidates);
        }
        self.candidates.clear();
        let mut biases = self.biases.iter().peekable();
        let candidates = &mut self.candidates;
        let mut load = |id: u32, logit: f32| {
            if logit.is_nan() {
                return Err(RunError::NanLogits { id });
            }
            while biases.next_if(|(biased, _)| *biased < id).is_some() {}
            let logit = match biases.next_if(|(biased, _)| *biased == id) {
                Some((_, bias)) => biased(logit, *bias),
                None => logit,
            };
            if logit > f32::NEG_INFINITY {
                candidates.push(Candidate { value: logit + 0.0, index: id }); // -0 becomes +0: they are equal
            }
            Ok(())
        };
        match &mut self.constraint {
            None => (0u32..).zip(logits).try_for_each(|(id, logit)| load(id, *logit))?,
            Some(constraint) => {
                let mut loaded = Ok(());
                constraint.allowed()?.each(|id| {
                    // Vocabularies may be larger than the matrix that gives the logits.
                    let logit = usize::try_from(id).ok().and_then(|id| logits.get(id));
                    if let (Ok(()), Some(logit)) = (&loaded, logit) {
                        loaded = load(id, *logit);
                    }
                });
                loaded?;
            }
        }
        if self.candidates.is_empty() { Err(RunError::NoCandidate) } else { Ok(()) }
    }

    fn penalize(&mut self) {
        if self.recent.is_empty() {
            return;
        }
        for candidate in &mut self.candidates {
            let count = usize::try_from(candidate.index)
                .ok()
                .and_then(|id| self.counts.get(id))
                .copied()
                .unwrap_or(0);
            if count > 0 {
                candidate.value = self.config.penalized(candidate.value, count);
            }
        }
    }
}

/// How many of the highest logits everything else follows from, if only their order decides.
fn decisive(config: &SamplerConfig) -> Option<usize> {
    if config.penalizes() || !config.logit_bias.is_empty() {
        return None;
    }
    if config.temperature == 0.0 {
        return Some(1);
    }
    let first = config.order.iter().find(|stage| **stage != Stage::Penalties);
    (first == Some(&Stage::TopK) && config.top_k > 0).then_some(config.top_k)
}

/// The likeliest tokens as candidates; an error for a NaN among the logits that they were found in, or for none.
fn load_likeliest(found: Result<&[Entry], u32>, candidates: &mut Vec<Candidate>) -> Result<(), RunError> {
    let entries = found.map_err(|id| RunError::NanLogits { id })?;
    candidates.clear();
    candidates.extend_from_slice(entries);
    if candidates.is_empty() { Err(RunError::NoCandidate) } else { Ok(()) }
}

/// An infinite bias replaces the logit: `-inf` bans a token, `+inf` demands it.
fn biased(logit: f32, bias: f32) -> f32 {
    if bias.is_infinite() { bias } else { logit + bias }
}
