//! What this machine can do at most, measured now: the hundred percent of every share.
//!
//! ```text
//! limit(work) = max(sum over kinds of operations / peak of the kind, bytes / read bandwidth)
//! ```
//!
//! Clocks and neighbours change within seconds, so probes are short and are taken around what is compared with them.

use crate::work::Work;
use anyhow::{Context, Result};
use gable_kernels::{Kernels, Pool, Team};
use gable_model::model::Model;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Speeds, per second, of all threads together. Infinite where nothing was measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// Operations on f32 registers.
    pub f32: f64,
    /// Operations on bf16 registers.
    pub bf16: f64,
    /// Operations on int8 registers.
    pub int8: f64,
    /// Bytes read.
    pub read: f64,
}

impl Limits {
    /// The higher of both, one by one.
    pub fn best(self, other: Limits) -> Limits {
        Limits {
            f32: self.f32.max(other.f32),
            bf16: self.bf16.max(other.bf16),
            int8: self.int8.max(other.int8),
            read: self.read.max(other.read),
        }
    }

    /// Seconds that the work takes at least.
    pub fn seconds(&self, work: &Work) -> f64 {
        self.arithmetic(work).max(work.bytes / self.read)
    }

    /// What bounds the work: `memory`, or the kind of operations that takes longest.
    pub fn bound(&self, work: &Work) -> &'static str {
        let kinds =
            [("f32", work.f32 / self.f32), ("bf16", work.bf16 / self.bf16), ("int8", work.int8 / self.int8)];
        if work.bytes / self.read >= self.arithmetic(work) {
            return "memory";
        }
        kinds.iter().max_by(|a, b| a.1.total_cmp(&b.1)).map_or("memory", |kind| kind.0)
    }

    fn arithmetic(&self, work: &Work) -> f64 {
        work.f32 / self.f32 + work.bf16 / self.bf16 + work.int8 / self.int8
    }
}

/// Shortest time that a probe of arithmetic takes.
const SHORT: Duration = Duration::from_micros(400);
/// Probes of which the best counts.
const TRIES: usize = 5;
/// Less cannot be timed.
const LEAST_READ: usize = 1 << 20;
/// More than caches hold: a pass that reads more is compared with reading so much, which is as fast and sooner done.
const MOST_READ: usize = 256 << 20;

type Arithmetic = fn(Kernels, usize) -> usize;
const KINDS: [Arithmetic; 3] = [Kernels::probe_f32, Kernels::probe_bf16, Kernels::probe_int8];

/// Measures limits again and again.
pub struct Prober {
    kernels: Kernels,
    pool: Arc<Pool>,
    buffer: Vec<u8>,
    /// Rounds of each kind that take long enough to be measured.
    rounds: [usize; 3],
}

impl Prober {
    /// Makes ready to measure passes of a model: reads as much as they do, so that the same caches help.
    pub fn for_model(kernels: Kernels, pool: Arc<Pool>, model: &Model) -> Result<Prober> {
        Prober::new(kernels, pool, model.bytes_per_token().min(MOST_READ))
    }

    /// Makes ready: a buffer of `bytes` to be read.
    pub fn new(kernels: Kernels, pool: Arc<Pool>, bytes: usize) -> Result<Prober> {
        let bytes = bytes.max(LEAST_READ);
        let mut buffer: Vec<u8> = Vec::new();
        let refused =
            || format!("no memory for {bytes} bytes to be read, by which the machine's limit is measured");
        buffer.try_reserve_exact(bytes).with_context(refused)?;
        // Written, so that every page is there.
        buffer.resize(bytes, 1);
        let rounds = KINDS.map(|probe| {
            let mut rounds = 256_usize;
            loop {
                let start = Instant::now();
                std::hint::black_box(probe(kernels, rounds));
                if start.elapsed() >= SHORT || rounds >= 1 << 30 {
                    return rounds;
                }
                rounds = rounds.saturating_mul(2);
            }
        });
        Ok(Prober { kernels, pool, buffer, rounds })
    }

    /// Everything, on `threads` threads of the pool: the best of a few probes of under a millisecond each, and of a few
    /// readings of the buffer.
    pub fn probe(&self, threads: usize) -> Limits {
        let [f32, bf16, int8] = [0, 1, 2].map(|kind| self.arithmetic(kind, threads));
        Limits { f32, bf16, int8, read: self.read(threads) }
    }

    fn arithmetic(&self, kind: usize, threads: usize) -> f64 {
        let (Some(probe), Some(&rounds)) = (KINDS.get(kind), self.rounds.get(kind)) else { return 0.0 };
        let operations = |team: &Team<'_>| {
            let all = std::sync::atomic::AtomicUsize::new(0);
            team.run(team.threads(), &|_| {
                all.fetch_add(probe(self.kernels, rounds), std::sync::atomic::Ordering::Relaxed);
            });
            all.into_inner()
        };
        self.fastest(threads, operations)
    }

    /// Bytes per second of reading the buffer once.
    pub fn read(&self, threads: usize) -> f64 {
        // With and without asking for lines ahead: which is faster depends on the machine.
        let ahead = |lines: usize| {
            let bytes = |team: &Team<'_>| {
                let part = self.buffer.len().div_ceil(team.threads());
                let parts: Vec<&[u8]> = self.buffer.chunks(part.max(1)).collect();
                team.run(parts.len(), &|i| {
                    if let Some(part) = parts.get(i) {
                        self.kernels.probe_read(part, lines);
                    }
                });
                self.buffer.len()
            };
            self.fastest(threads, bytes)
        };
        ahead(0).max(ahead(2048))
    }

    /// Seconds in which the threads begin and end an operation that does nothing.
    pub fn fork_and_join(&self, threads: usize) -> f64 {
        // Enough for the workers to be awake during most of them.
        const RUNS: usize = 20_000;
        let runs = |team: &Team<'_>| {
            for _ in 0..RUNS {
                team.run(team.threads(), &|part| {
                    std::hint::black_box(part);
                });
            }
            RUNS
        };
        1.0 / self.fastest(threads, runs)
    }

    /// What `f` counts, per second, in the fastest of a few calls.
    #[expect(clippy::cast_precision_loss, reason = "a speed")]
    fn fastest(&self, threads: usize, f: impl Fn(&Team<'_>) -> usize) -> f64 {
        self.pool.enter_with(threads, |team| {
            let once = |_| {
                let start = Instant::now();
                let n = f(team) as f64;
                n / start.elapsed().as_secs_f64().max(1e-9)
            };
            (0..TRIES).map(once).fold(0.0, f64::max)
        })
    }
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn the_slower_of_memory_and_arithmetic_is_the_limit() {
        let limits = Limits { f32: 10.0, bf16: 20.0, int8: 40.0, read: 5.0 };
        let work = Work { f32: 20.0, bf16: 0.0, int8: 40.0, bytes: 5.0 };
        assert_eq!((limits.seconds(&work), limits.bound(&work)), (3.0, "f32"));
        let work = Work { bytes: 50.0, ..work };
        assert_eq!((limits.seconds(&work), limits.bound(&work)), (10.0, "memory"));
        let faster = limits.best(Limits { f32: 1.0, bf16: 1.0, int8: 1.0, read: 50.0 });
        assert_eq!((faster.f32, faster.read, faster.seconds(&work)), (10.0, 50.0, 3.0));
    }

    /// No machine computes less than a million operations in a second, or more than 10^17.
    #[test]
    fn probes_measure_something() {
        let prober = Prober::new(Kernels::best(), Arc::new(Pool::new(2)), 0).unwrap();
        for threads in [1, 2] {
            let l = prober.probe(threads);
            for speed in [l.f32, l.bf16, l.int8, l.read] {
                assert!(speed > 1e6 && speed < 1e17, "{l:?}");
            }
        }
    }
}
