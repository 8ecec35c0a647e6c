//! Several tokens per pass, without a second model: the text so far is searched for the place that goes on as its end
//! does, and what follows there is verified together with the token that was drawn.
//!
//! ```text
//! ... for i in 0..n { sum += a[i]; } ... for i in 0..n { su|      the last tokens occurred before,
//!                            ^^^^^^^                               so these come next, perhaps
//! ```
//!
//! The rows of a verification pass are computed in the order of summation of single tokens, and each row's bits depend on
//! its own past alone. So the logits after a guess that turns out right are those that a pass of its own would have given,
//! tokens are drawn from them one by one as ever, and the text is the same, greedy or not. What was guessed wrong is
//! taken back.
//!
//! A pass of several rows takes longer than one of a single row, so wrong guesses cost time. [`Pace`] measures both and
//! decides how many tokens are worth guessing, if any.

use crate::RunError;
use crate::session::Session;
use gable_kernels::gemm::{Phase, TopK};
use std::time::{Duration, Instant};

/// The longest run of equal tokens that is told apart from shorter ones.
const LONGEST: usize = 8;
/// The shortest run that is gone on from: single words are followed by too many things.
const SHORTEST: usize = 2;

/// How many tokens at the end of `text`, with `next` after it, occurred before, [`LONGEST`] at most, and the place
/// after them: the last one of those where they are the most.
fn find(text: &[u32], next: u32) -> Option<(usize, usize)> {
    let mut best: Option<(usize, usize)> = None;
    for (i, &token) in text.iter().enumerate().rev() {
        if token != next {
            continue;
        }
        let (past, _) = text.split_at_checked(i).unwrap_or_default();
        let same = past.iter().rev().zip(text.iter().rev()).take_while(|(a, b)| a == b);
        let run = same.take(LONGEST - 1).count().saturating_add(1);
        if run > best.map_or(SHORTEST - 1, |(longest, _)| longest) {
            best = Some((run, i.saturating_add(1)));
        }
        if run == LONGEST {
            break;
        }
    }
    best
}

/// What passes have taken and how often guesses were right: how many tokens to guess.
#[derive(Debug, Clone)]
pub struct Pace {
    /// Seconds of a pass of a single row; 0 before the first one.
    single: f64,
    /// Seconds of every further row.
    further: f64,
    /// Per length of the run that was found: how probably a guess is right if the ones before it were, and how many
    /// were tried.
    right: [(f64, u32); LONGEST + 1],
    /// Passes of several rows since the last one of a single row.
    since_single: u32,
}

impl Default for Pace {
    fn default() -> Pace {
        // Before anything is known: the more was the same before, the more will be.
        let right = std::array::from_fn(|run| (run as f64 / (run as f64 + 2.0), 0));
        Pace { single: 0.0, further: 0.0, right, since_single: 0 }
    }
}

impl Pace {
    /// After how many passes of several rows one of a single row is measured again.
    const REMEASURE: u32 = 32;

    /// How many tokens to guess after a run of `run` equal ones, `max` at most: as many as make tokens come fastest.
    pub fn guesses(&mut self, run: usize, max: usize) -> usize {
        if self.single == 0.0 || self.since_single >= Pace::REMEASURE {
            return 0;
        }
        // Nobody knows before the first try. A fifth of a pass is what a row costs where arithmetic is not free.
        let further = if self.further == 0.0 { self.single / 5.0 } else { self.further };
        let Some((p, _)) = self.right.get_mut(run.min(LONGEST)) else { return 0 };
        let (mut best, mut fastest) = (0, 1.0 / self.single);
        let (mut tokens, mut reached) = (1.0, 1.0);
        for n in 1..=max {
            reached *= *p;
            tokens += reached;
            let rate = tokens / (self.single + further * n as f64);
            // A gain that measuring cannot tell from none is none.
            if rate > fastest * 1.02 {
                (best, fastest) = (n, rate);
            }
        }
        if best == 0 {
            // The text may have changed since: forget slowly, and try again some day.
            *p += (0.5 - *p) * 0.001;
        }
        best
    }

    /// Notes a pass of a single row.
    pub fn note_single(&mut self, took: Duration) {
        let took = took.as_secs_f64();
        self.single = if self.single == 0.0 { took } else { self.single + (took - self.single) * 0.1 };
        self.since_single = 0;
    }

    /// Notes a pass with `guessed` further rows after a run of `run`, of which the first `right` were right.
    pub fn note_guesses(&mut self, run: usize, guessed: usize, right: usize, took: Duration) {
        let row = ((took.as_secs_f64() - self.single) / guessed.max(1) as f64).max(self.single * 1e-3);
        self.further = if self.further == 0.0 { row } else { self.further + (row - self.further) * 0.2 };
        self.since_single = self.since_single.saturating_add(1);
        let Some((p, tried)) = self.right.get_mut(run.min(LONGEST)) else { return };
        for i in 0..guessed.min(right.saturating_add(1)) {
            let outcome = if i < right { 1.0 } else { 0.0 };
            let weight = (1.0 / (f64::from(*tried) + 3.0)).max(0.05);
            *p += (outcome - *p) * weight;
            *tried = tried.saturating_add(1);
        }
    }
}

/// Passes of a generation, some of them with guesses.
#[derive(Debug)]
pub struct Speculation {
    max: usize,
    pace: Pace,
    /// The token that was drawn, and the guesses after it.
    rows: Vec<u32>,
    /// Guesses at the end of the session that nobody has drawn yet.
    ahead: usize,
    /// Length of the run that led to the guesses, and how long their pass took.
    guess: (usize, Duration),
    counts: SpeculationCounts,
}

/// How often it was guessed, and how well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SpeculationCounts {
    /// Passes.
    pub passes: usize,
    /// Tokens that were guessed.
    pub guessed: usize,
    /// Those that were drawn.
    pub right: usize,
}

impl Speculation {
    /// Guesses of up to `max` tokens; none if 0.
    pub fn new(max: usize) -> Speculation {
        let rows = Vec::with_capacity(if max == 0 { 0 } else { max.saturating_add(1).min(1024) });
        let guess = (0, Duration::ZERO);
        Speculation { max, pace: Pace::default(), rows, ahead: 0, guess, counts: Default::default() }
    }

    /// What was done so far.
    pub fn counts(&self) -> SpeculationCounts {
        self.counts
    }

    /// Tokens of the session without those that are only guessed.
    pub fn len(&self, session: &Session) -> usize {
        session.tokens().len().saturating_sub(self.ahead)
    }

    /// The scores after `token`, which was drawn from the scores given before, as [`Session::decode`] would give them.
    /// The session may have tokens beyond it afterwards, until [`end`](Speculation::end).
    ///
    /// # Errors
    /// [`RunError`]; the session is as before then, without guesses.
    pub fn decode<'s>(&mut self, session: &'s mut Session, token: u32) -> Result<&'s [f32], RunError> {
        if self.max == 0 {
            self.counts.passes = self.counts.passes.saturating_add(1);
            return session.decode(token);
        }
        if self.ahead > 0 && session.tokens().get(self.len(session)) == Some(&token) {
            self.ahead -= 1;
            self.counts.right = self.counts.right.saturating_add(1);
        } else {
            self.end(session)?;
            self.guess_after(session.tokens(), token, session.max_positions(), session.max_logits());
            self.counts.passes = self.counts.passes.saturating_add(1);
            let start = Instant::now();
            session.observe(Phase::Decode, &self.rows, |_| true, &mut ())?;
            let took = start.elapsed();
            self.ahead = self.rows.len().saturating_sub(1);
            self.counts.guessed = self.counts.guessed.saturating_add(self.ahead);
            match self.ahead {
                0 => self.pace.note_single(took),
                _ => self.guess.1 = took,
            }
        }
        let logits = session.logits();
        let row = logits.rows().saturating_sub(self.ahead).saturating_sub(1);
        Ok(logits.row(row))
    }

    /// [`decode`](Speculation::decode) where nothing is guessed and the highest scores are enough.
    ///
    /// # Errors
    /// [`RunError`]; the session is as before then.
    pub fn decode_top_k(
        &mut self,
        session: &mut Session,
        token: u32,
        top: &mut TopK,
    ) -> Result<(), RunError> {
        self.counts.passes = self.counts.passes.saturating_add(1);
        session.decode_top_k(token, top)
    }

    /// Takes the guesses that nobody has drawn back from the session.
    ///
    /// # Errors
    /// [`RunError`] of the cache: none, since a pass gives back nothing that its first row needs.
    pub fn end(&mut self, session: &mut Session) -> Result<(), RunError> {
        let guessed = self.rows.len().saturating_sub(1);
        if guessed > 0 {
            let right = guessed.saturating_sub(self.ahead);
            self.pace.note_guesses(self.guess.0, guessed, right, self.guess.1);
            session.truncate(self.len(session))?;
        }
        self.ahead = 0;
        self.rows.clear();
        Ok(())
    }

    /// The rows of the next pass.
    fn guess_after(&mut self, text: &[u32], token: u32, max_positions: usize, max_logits: usize) {
        self.rows.push(token);
        let room = max_positions.saturating_sub(text.len()).min(max_logits).saturating_sub(1);
        let Some((run, place)) = find(text, token) else { return };
        let guesses = self.pace.guesses(run, self.max.min(room));
        self.guess = (run, Duration::ZERO);
        for i in 0..guesses {
            // Beyond the text's end come the token and the guesses themselves: a text that repeats goes on repeating.
            let at = place.saturating_add(i);
            let guess = text.get(at).or_else(|| self.rows.get(at.saturating_sub(text.len())));
            let Some(&guess) = guess else { break };
            self.rows.push(guess);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_longest_run_wins_and_of_equals_the_last() {
        let text = [1, 2, 3, 9, 2, 3, 8, 7, 2, 3, 6, 1, 2];
        // "1 2 3" occurred at the beginning, "2 3" thrice.
        assert_eq!(find(&text, 3), Some((3, 3)));
        assert_eq!(find(&[5, 2, 3, 9, 2, 3, 8, 4, 2], 3), Some((2, 6)));
        assert_eq!(find(&text, 9), None, "a single token is no run");
        assert_eq!(find(&[], 1), None);
    }

    proptest! {
        #[test]
        fn a_run_is_one_and_there_is_no_longer_one(text in prop::collection::vec(0u32..3, 0..40), next in 0u32..3) {
            let whole: Vec<u32> = text.iter().copied().chain([next]).collect();
            let run = |place: usize| {
                (0..place).take_while(|&j| whole[place - 1 - j] == whole[whole.len() - 1 - j]).count().min(LONGEST)
            };
            let longest = (1..whole.len()).map(run).max().unwrap_or(0);
            match find(&text, next) {
                Some((length, place)) => prop_assert!(length == run(place) && length == longest),
                None => prop_assert!(longest < SHORTEST),
            }
        }
    }

    fn milliseconds(x: f64) -> Duration {
        Duration::from_secs_f64(x / 1000.0)
    }

    /// The share of its time that a generation of `tokens` saves or loses against single rows, where a pass costs 10 ms
    /// and `row` ms for every guess, and guesses are right with probability `p`.
    fn simulate(tokens: usize, row: f64, p: f64) -> f64 {
        let mut pace = Pace::default();
        let (mut done, mut time, mut state) = (0, 0.0, 1u64);
        let mut chance = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f64 / (1u64 << 24) as f64
        };
        while done < tokens {
            let n = pace.guesses(4, 16);
            let took = 10.0 + row * n as f64;
            time += took;
            done += 1;
            match n {
                0 => pace.note_single(milliseconds(took)),
                _ => {
                    let right = (0..n).take_while(|_| chance() < p).count();
                    pace.note_guesses(4, n, right, milliseconds(took));
                    done += right;
                }
            }
        }
        10.0 * done as f64 / time
    }

    #[test]
    fn guesses_that_pay_are_made_and_others_soon_no_more() {
        assert!(simulate(400, 1.0, 1.0) > 4.0);
        assert!(simulate(400, 1.0, 0.7) > 1.6);
        // Never right, or rows that cost as much as a pass: at most a few tries.
        for (row, p) in [(1.0, 0.0), (10.0, 0.9), (3.0, 0.1), (30.0, 1.0)] {
            let gain = simulate(2000, row, p);
            assert!(gain > 0.98, "{row} {p}: {gain}");
        }
    }
}
