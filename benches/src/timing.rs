//! How candidates are timed.

use crate::options::Options;
use gable_kernels::{ProbeKind, ProbeLoop};
use std::rc::Rc;
use std::time::Instant;

/// Bytes of operands that one bench rotates over where caches must not help: more than four times a large one.
pub const DISTINCT_BYTES: usize = 160 << 20;

/// Something that somebody computes.
pub struct Candidate {
    /// Whose.
    pub name: &'static str,
    /// Computes it once.
    pub run: Box<dyn FnMut()>,
}

impl Candidate {
    /// Of these parts.
    pub fn new(name: &'static str, run: impl FnMut() + 'static) -> Self {
        Candidate { name, run: Box::new(run) }
    }

    /// How often it must run for 20 ms, by the shortest of a few runs: in the first ones threads are still waking.
    pub fn repeats(&mut self) -> usize {
        let shortest = (0..5).map(|_| seconds(1, &mut self.run)).fold(f64::MAX, f64::min);
        (0.02 / shortest.max(1e-9)).ceil().min(1e6) as usize
    }
}

/// Seconds of one of `repeats` runs.
pub fn seconds(repeats: usize, run: &mut impl FnMut()) -> f64 {
    let start = Instant::now();
    (0..repeats).for_each(|_| run());
    start.elapsed().as_secs_f64() / repeats as f64
}

/// The middle one.
pub fn median(times: &[f64]) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Operations per second of arithmetic alone on all threads: the best of all loops.
pub fn peak(kind: ProbeKind, options: &Options) -> f64 {
    const ROUNDS: usize = 20_000;
    let (kernels, threads) = (options.kernels, options.threads);
    options.pool.enter(|team| {
        let rate = |which: ProbeLoop| {
            let rounds = (ROUNDS * 24 * 32 / kernels.probe_arithmetic(kind, which, 1)).max(1);
            let operations = kernels.probe_arithmetic(kind, which, rounds) * threads;
            let run = &|_| {
                std::hint::black_box(kernels.probe_arithmetic(kind, which, rounds));
            };
            operations as f64 / seconds(1, &mut || team.run(threads, run))
        };
        // For some 20 ms: a thread that has just been woken may share the core of another for a while.
        ProbeLoop::ALL.into_iter().cycle().take(300).map(rate).fold(0.0, f64::max)
    })
}

/// Bytes per second that all threads together read of memory that no cache holds.
pub fn read_bandwidth(options: &Options) -> f64 {
    let memory = vec![1_u8; DISTINCT_BYTES];
    let (kernels, threads) = (options.kernels, options.threads);
    let part = memory.len().div_ceil(threads);
    options.pool.enter(|team| {
        let rate = |ahead: bool| {
            let run = &|i: usize| {
                let end = memory.len().min((i + 1) * part);
                kernels.probe_read(&memory[i * part..end], ahead);
            };
            memory.len() as f64 / seconds(1, &mut || team.run(threads, run))
        };
        [false, true].into_iter().cycle().take(12).map(rate).fold(0.0, f64::max)
    })
}

/// Reproducible numbers of any element type, from -1 to 1.
pub fn filled<T>(len: usize, from: impl Fn(f32) -> T) -> Rc<[T]> {
    let mut state = 1_u32;
    std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        from((state >> 16) as f32 / 32768.0 - 1.0)
    })
    .take(len)
    .collect()
}

/// Whether benches only have to show that they run (`cargo bench -- --test`): then large problems are left out.
pub fn only_testing() -> bool {
    std::env::args().any(|arg| arg == "--test")
}
