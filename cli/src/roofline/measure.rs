//! A kernel between two probes, a few times.
//!
//! ```text
//! probe  kernel  probe  kernel  probe ..      share of a round = best kernel of it / best of the probes around it
//! ```
//!
//! So a clock that drifts, or a neighbour who comes and goes, changes both sides; the middle one of the shares counts.

use super::case::{Case, Group};
use crate::caches::{Level, Sizes};
use crate::limits::{Access, Limits, Prober};
use crate::work::Work;
use anyhow::{Result, bail};
use gable_kernels::{KernelError, ProbeKind};
use serde_json::{Value, json};
use std::time::Instant;

/// No kernel is faster than the machine: from here on a share is an error of the probe. What is below is noise.
pub const MOST_SHARE: f64 = 1.02;
/// How often a kernel that came out above its limit is measured again before that is believed.
const AGAIN: usize = 2;
/// Of a round, the batches of which the best counts, and how long each takes at least.
const BATCHES: usize = 3;
const BATCH_SECONDS: f64 = 0.006;

/// A kernel's time and its limit.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    /// What kind of kernel.
    pub group: Group,
    /// Types and shapes.
    pub name: String,
    /// How many threads.
    pub threads: usize,
    /// Of one run.
    pub seconds: f64,
    /// What that had to do.
    pub work: Work,
    /// What the machine could do at that time; `read` is how fast memory is for this access and this much of it.
    pub limits: Limits,
    /// How it goes through memory.
    pub access: Access,
    /// Where its operands lie.
    pub level: Level,
    /// Whether it took in turn what no cache holds.
    pub rotates: bool,
}

/// What a figure is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It can be.
    Sound,
    /// Faster than memory can be read: some of it was in a cache after all. It says nothing.
    Void,
    /// Faster than the machine: the probe is wrong.
    TooFast,
}

impl Measured {
    /// Of its limit: 1 is all that can be.
    pub fn share(&self) -> f64 {
        self.limits.seconds(&self.work) / self.seconds
    }

    /// What binds: a level of memory, or a kind of arithmetic.
    pub fn bound(&self) -> &'static str {
        match self.limits.bound(&self.work) {
            "memory" => self.level.name(),
            kind => kind,
        }
    }

    /// Operations per second.
    pub fn operations(&self) -> f64 {
        self.work.operations() / self.seconds
    }

    /// Bytes per second.
    pub fn bytes(&self) -> f64 {
        self.work.bytes / self.seconds
    }

    /// Operations per byte.
    pub fn intensity(&self) -> f64 {
        self.work.operations() / self.work.bytes
    }

    /// Whether its figure can be believed.
    pub fn verdict(&self) -> Verdict {
        match () {
            () if self.share() > MOST_SHARE => Verdict::TooFast,
            () if self.rotates && self.bytes() > self.limits.read => Verdict::Void,
            () => Verdict::Sound,
        }
    }

    /// Its speed and the highest that can be, in what binds it.
    pub fn figures(&self) -> String {
        let (speed, unit) = match self.limits.bound(&self.work) {
            "memory" => (self.bytes(), "GB/s"),
            _ => (self.operations(), "GFLOP/s"),
        };
        let limit = speed / self.share();
        format!(
            "{:.1} {unit}, {:.1} % of the {:.1} {unit} that {} allows",
            speed / 1e9,
            100.0 * self.share(),
            limit / 1e9,
            self.bound()
        )
    }

    /// For scripts.
    pub fn json(&self) -> Value {
        let computes = self.work.operations() > 0.0;
        let sound = self.verdict() == Verdict::Sound;
        json!({
            "group": self.group.name(), "kernel": self.name, "threads": self.threads, "ms": self.seconds * 1e3,
            "gflop_s": computes.then(|| self.operations() / 1e9), "gb_s": self.bytes() / 1e9,
            "operations_per_byte": computes.then(|| self.intensity()),
            "level": self.level.name(), "bound": self.bound(),
            "share": sound.then(|| self.share()),
            "verdict": match self.verdict() {
                Verdict::Sound => "sound",
                Verdict::Void => "void",
                Verdict::TooFast => "too fast",
            },
        })
    }
}

/// What kernels are measured with.
pub struct Measurement<'a> {
    /// The probes.
    pub prober: &'a mut Prober,
    /// What the caches hold.
    pub sizes: Sizes,
    /// Rounds of which the middle one counts.
    pub rounds: usize,
}

impl Measurement<'_> {
    /// Measures a kernel; once more if it came out faster than can be.
    pub fn kernel(
        &mut self,
        (group, name): (Group, &str),
        case: &mut Case,
        threads: usize,
    ) -> Result<Measured> {
        let mut best: Option<Measured> = None;
        for _ in 0..=AGAIN {
            let found = self.once((group, name), case, threads)?;
            if best.as_ref().is_none_or(|best| found.share() < best.share()) {
                best = Some(found);
            }
            if best.as_ref().is_some_and(|best| best.verdict() == Verdict::Sound) {
                break;
            }
        }
        match best {
            Some(best) => Ok(best),
            None => bail!("{} {name}: no round was measured", group.name()),
        }
    }

    fn once(&mut self, (group, name): (Group, &str), case: &mut Case, threads: usize) -> Result<Measured> {
        // The first run makes scratch and brings operands where they will be.
        let first = self.time(case, threads, 1)?;
        let repeats = repeats(first.min(self.time(case, threads, 1)?));
        let mut rounds: Vec<(f64, Limits)> = Vec::new();
        let mut before = self.limits(case, threads);
        for _ in 0..self.rounds.max(1) {
            let mut best = f64::INFINITY;
            for _ in 0..BATCHES {
                best = best.min(self.time(case, threads, repeats)?);
            }
            let after = self.limits(case, threads);
            rounds.push((best, before.best(after)));
            before = after;
        }
        let (seconds, limits) = middle(&case.work, rounds);
        let level = self.sizes.level(case.working_set, threads);
        Ok(Measured {
            group,
            name: name.to_owned(),
            threads,
            seconds,
            work: case.work,
            limits,
            access: case.access,
            level: if case.rotates { Level::Dram } else { level },
            rotates: case.rotates,
        })
    }

    /// Seconds of one of some runs.
    fn time(&self, case: &mut Case, threads: usize, repeats: u32) -> Result<f64, KernelError> {
        self.prober.pool().enter_with(threads, |team| {
            let start = Instant::now();
            for _ in 0..repeats {
                (case.run)(team)?;
            }
            Ok((start.elapsed().as_secs_f64() / f64::from(repeats)).max(1e-9))
        })
    }

    /// What the case needs, as fast as it is now.
    fn limits(&mut self, case: &Case, threads: usize) -> Limits {
        let peak = |operations: f64, kind| match operations > 0.0 {
            true => self.prober.peak(kind, threads),
            false => f64::INFINITY,
        };
        let work = case.work;
        let f32 = peak(work.f32, ProbeKind::F32);
        let bf16 = peak(work.bf16, ProbeKind::Bf16);
        let int8 = peak(work.int8, ProbeKind::Int8);
        Limits { f32, bf16, int8, read: self.prober.memory(case.access, case.working_set, threads) }
    }
}

/// Runs that take as long as a batch shall.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 1 and a million")]
fn repeats(seconds: f64) -> u32 {
    (BATCH_SECONDS / seconds.max(1e-9)).ceil().clamp(1.0, 1e6) as u32
}

/// The round whose share is the middle one.
fn middle(work: &Work, mut rounds: Vec<(f64, Limits)>) -> (f64, Limits) {
    let share = |(seconds, limits): &(f64, Limits)| limits.seconds(work) / seconds;
    rounds.sort_by(|a, b| share(a).total_cmp(&share(b)));
    let none = (f64::INFINITY, Limits { f32: 0.0, bf16: 0.0, int8: 0.0, read: 0.0 });
    rounds.get(rounds.len() / 2).copied().unwrap_or(none)
}

#[cfg(test)]
mod unit {
    use super::*;

    const LIMITS: Limits = Limits { f32: 100e9, bf16: f64::INFINITY, int8: f64::INFINITY, read: 10e9 };

    /// A kernel of 1 GFLOP over `bytes` that took so long.
    fn kernel(bytes: f64, seconds: f64, rotates: bool) -> Measured {
        Measured {
            group: Group::Dense,
            name: "f32 made up".to_owned(),
            threads: 2,
            seconds,
            work: Work { f32: 1e9, bytes, ..Work::default() },
            limits: LIMITS,
            access: Access::Read,
            level: if rotates { Level::Dram } else { Level::L2 },
            rotates,
        }
    }

    #[test]
    fn what_binds_is_the_lower_of_both_roofs() {
        let computes = kernel(1e6, 0.0125, false);
        assert_eq!(computes.bound(), "f32");
        assert!((computes.share() - 0.8).abs() < 1e-9);
        let reads = kernel(1e9, 0.125, true);
        assert_eq!((reads.bound(), reads.intensity()), ("DRAM", 1.0));
        assert!((reads.share() - 0.8).abs() < 1e-9);
        assert_eq!(kernel(1e9, 0.125, false).bound(), "L2");
    }

    #[test]
    fn nothing_is_faster_than_the_machine() {
        assert_eq!(kernel(1e6, 0.010_1, false).verdict(), Verdict::Sound);
        assert_eq!(kernel(1e6, 0.009_9, false).verdict(), Verdict::Sound, "1 % is noise");
        let fast = kernel(1e6, 0.009_7, false);
        assert_eq!(fast.verdict(), Verdict::TooFast);
        assert_eq!(fast.figures(), "103.1 GFLOP/s, 103.1 % of the 100.0 GFLOP/s that f32 allows");
        assert_eq!(fast.json()["share"], Value::Null);
        assert_eq!(kernel(1e9, 0.09, true).verdict(), Verdict::TooFast);
    }

    #[test]
    fn what_is_faster_than_memory_was_not_read_from_there() {
        assert_eq!(kernel(1e9, 0.101, true).verdict(), Verdict::Sound);
        assert_eq!(kernel(1e9, 0.099, true).verdict(), Verdict::Void);
        // In a cache the limit is that cache's, and 1 % is noise.
        assert_eq!(kernel(1e9, 0.099, false).verdict(), Verdict::Sound);
    }

    #[test]
    fn the_middle_round_counts() {
        let work = Work { f32: 1e9, ..Work::default() };
        let rounds = [0.02, 0.01, 0.5].map(|seconds| (seconds, LIMITS)).to_vec();
        assert_eq!(middle(&work, rounds).0, 0.02);
    }

    #[test]
    fn short_kernels_are_repeated() {
        assert_eq!((repeats(1.0), repeats(0.006), repeats(0.0)), (1, 1, 1_000_000));
    }
}
