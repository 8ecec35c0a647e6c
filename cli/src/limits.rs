//! What this machine can do at most, measured now: the hundred percent of every share.
//!
//! ```text
//! limit(work) = max(sum over kinds of operations / peak of the kind, bytes / read bandwidth)
//! ```
//!
//! Clocks and neighbours change within seconds, so probes are short and are taken around what is compared with them.

mod memory;

pub use memory::{Access, Memory, scrap};

use crate::work::Work;
use anyhow::Result;
use gable_kernels::{Kernels, Pool, ProbeKind, ProbeLoop, Team};
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

const KINDS: [ProbeKind; 3] = [ProbeKind::F32, ProbeKind::Bf16, ProbeKind::Int8];

/// Measures limits again and again.
pub struct Prober {
    kernels: Kernels,
    pool: Arc<Pool>,
    memory: Memory,
    /// Rounds of each kind and loop that take long enough to be measured.
    rounds: Vec<(ProbeKind, ProbeLoop, usize)>,
}

impl Prober {
    /// Makes ready to measure passes of a model: reads as much as they do, so that the same caches help.
    pub fn for_model(kernels: Kernels, pool: Arc<Pool>, model: &Model) -> Result<Prober> {
        Prober::new(kernels, pool, model.bytes_per_token().min(MOST_READ))
    }

    /// Makes ready: a buffer of `bytes` to be read.
    pub fn new(kernels: Kernels, pool: Arc<Pool>, bytes: usize) -> Result<Prober> {
        Ok(Prober::of(kernels, pool, Memory::new(kernels, bytes.max(LEAST_READ))?))
    }

    /// Makes ready, with this memory.
    pub fn of(kernels: Kernels, pool: Arc<Pool>, memory: Memory) -> Prober {
        let rounds = KINDS.iter().flat_map(|&kind| {
            ProbeLoop::ALL.map(|which| {
                let mut rounds = 256_usize;
                loop {
                    let start = Instant::now();
                    std::hint::black_box(kernels.probe_arithmetic(kind, which, rounds));
                    if start.elapsed() >= SHORT || rounds >= 1 << 30 {
                        return (kind, which, rounds);
                    }
                    rounds = rounds.saturating_mul(2);
                }
            })
        });
        Prober { rounds: rounds.collect(), kernels, pool, memory }
    }

    /// The threads that measure.
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// Everything, on `threads` threads of the pool: the best of a few probes of under a millisecond each, and of a few
    /// readings of the buffer.
    pub fn probe(&self, threads: usize) -> Limits {
        let [f32, bf16, int8] = KINDS.map(|kind| self.peak(kind, threads));
        Limits { f32, bf16, int8, read: self.read(threads) }
    }

    /// Operations per second of one kind: the best of all loops.
    pub fn peak(&self, kind: ProbeKind, threads: usize) -> f64 {
        let loops = self.rounds.iter().filter(|(of, ..)| *of == kind);
        let speed = |&(_, which, rounds): &(ProbeKind, ProbeLoop, usize)| {
            let operations = |team: &Team<'_>| {
                let all = std::sync::atomic::AtomicUsize::new(0);
                team.run(team.threads(), &|_| {
                    let done = self.kernels.probe_arithmetic(kind, which, rounds);
                    all.fetch_add(done, std::sync::atomic::Ordering::Relaxed);
                });
                all.into_inner()
            };
            fastest(&self.pool, threads, TRIES, operations)
        };
        loops.map(speed).fold(0.0, f64::max)
    }

    /// Bytes per second of reading the buffer once.
    pub fn read(&self, threads: usize) -> f64 {
        self.read_some(self.memory.len(), threads)
    }

    /// Bytes per second, read and written together, of going through `bytes` of memory again and again.
    pub fn memory(&mut self, access: Access, bytes: usize, threads: usize) -> f64 {
        match access {
            Access::Read => self.read_some(bytes, threads),
            _ => self.write(bytes, threads, access),
        }
    }

    fn read_some(&self, bytes: usize, threads: usize) -> f64 {
        let memory = &self.memory;
        best_way(memory.ways(), |way, tries| {
            fastest(&self.pool, threads, tries, |team| memory.read(team, bytes, way))
        })
    }

    fn write(&mut self, bytes: usize, threads: usize, access: Access) -> f64 {
        let (pool, memory) = (&self.pool, &mut self.memory);
        best_way(memory.write_ways(), |way, tries| {
            fastest(pool, threads, tries, |team| memory.write(team, bytes, access, way))
        })
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
        1.0 / fastest(&self.pool, threads, TRIES, runs)
    }
}

/// The speed of the fastest way: each is tried once, the best of them again. Going through much memory takes long.
fn best_way(ways: usize, mut speed: impl FnMut(usize, usize) -> f64) -> f64 {
    let once = (0..ways).map(|way| (way, speed(way, 1)));
    let best = once.max_by(|a, b| a.1.total_cmp(&b.1));
    best.map_or(0.0, |(way, found)| speed(way, TRIES.saturating_sub(1)).max(found))
}

/// What `f` counts, per second, in the fastest of a few calls.
#[expect(clippy::cast_precision_loss, reason = "a speed")]
fn fastest(pool: &Pool, threads: usize, tries: usize, mut f: impl FnMut(&Team<'_>) -> usize) -> f64 {
    pool.enter_with(threads, |team| {
        let once = |_| {
            let start = Instant::now();
            let n = f(team) as f64;
            n / start.elapsed().as_secs_f64().max(1e-9)
        };
        (0..tries).map(once).fold(0.0, f64::max)
    })
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
        let mut prober = Prober::new(Kernels::best(), Arc::new(Pool::new(2)), 0).unwrap();
        for threads in [1, 2] {
            for access in [Access::Read, Access::Copy, Access::Update, Access::Join] {
                let speed = prober.memory(access, 100_000, threads);
                assert!(speed > 1e6 && speed < 1e17, "{access:?}: {speed}");
            }
            let l = prober.probe(threads);
            for speed in [l.f32, l.bf16, l.int8, l.read] {
                assert!(speed > 1e6 && speed < 1e17, "{l:?}");
            }
        }
    }
}
