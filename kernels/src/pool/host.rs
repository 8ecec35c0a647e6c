//! The threads of a host: a program that has a pool already and wants no second one.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering};

/// A host's way to run tasks, in parallel if it likes.
///
/// An adapter for `rayon::ThreadPool` comes with the feature `rayon`.
///
/// ```
/// use gable_kernels::pool::{ParallelFor, Team};
///
/// struct OneAfterAnother;
/// impl ParallelFor for OneAfterAnother {
///     fn threads(&self) -> usize {
///         1
///     }
///     fn parallel_for(&self, parts: usize, f: &(dyn Fn(usize) + Sync)) {
///         (0..parts).rev().for_each(f);
///     }
/// }
/// Team::host(&OneAfterAnother).run(3, &|part| println!("{part}"));
/// ```
pub trait ParallelFor: Sync {
    /// How many threads may run parts at the same time.
    fn threads(&self) -> usize;

    /// Calls `f` with each of `0..parts` and returns when all calls have returned.
    ///
    /// In any order, on any threads, also one after another: parts never wait for each other. A panic of a part
    /// should reach the caller.
    fn parallel_for(&self, parts: usize, f: &(dyn Fn(usize) + Sync));
}

/// Tasks a host is given at most: as many as one array of bits on the stack can keep account of.
const TASKS: usize = 1024;

/// Runs the parts on `host`, and exactly once even if the host miscounts.
///
/// Kernels hand each part a piece of the output as its own, so a part that runs twice at the same time would be a
/// data race, and [`ParallelFor`] is a safe trait: the promise has to be kept here. A bit per task is set by
/// whoever runs it; a task called twice or out of range is skipped, one never called is made up for.
pub(super) fn run(host: &dyn ParallelFor, parts: usize, f: &(dyn Fn(usize) + Sync)) {
    let tasks = parts.min(TASKS);
    let begun = [const { AtomicU64::new(0) }; TASKS / 64];
    // The first `longer` tasks have one part more than the others.
    let (length, longer) = (parts / tasks, parts % tasks);
    let task = |task: usize| {
        let bit = 1 << (task % 64);
        // Relaxed: the bit is all that threads agree on here; the host orders the data.
        if task < tasks && begun[task / 64].fetch_or(bit, Ordering::Relaxed) & bit == 0 {
            let first = task * length + task.min(longer);
            (first..first + length + usize::from(task < longer)).for_each(f);
        }
    };
    host.parallel_for(tasks, &task);
    (0..tasks).for_each(task);
}

/// Runs on this pool's threads, never on rayon's global pool.
#[cfg(feature = "rayon")]
impl ParallelFor for rayon::ThreadPool {
    fn threads(&self) -> usize {
        self.current_num_threads()
    }

    fn parallel_for(&self, parts: usize, f: &(dyn Fn(usize) + Sync)) {
        use rayon::iter::{IntoParallelIterator, ParallelIterator};
        self.install(|| (0..parts).into_par_iter().for_each(f));
    }
}
