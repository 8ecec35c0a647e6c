//! Who runs the parts of an operation: nobody else, our threads, or a host's.
//!
//! A forward pass is a few hundred short operations in a row, some of them ten microseconds long. Cutting one
//! into parts pays only if handing the parts out and collecting them costs a small fraction of that, so this
//! pool keeps its workers awake between operations and spends about 0.1 us per fork and join, where a general
//! work-stealing pool entered from outside spends ten.
//!
//! ```text
//!     pool.enter(|team| {                  wakes the workers; they now poll
//!         team.run(parts, &|part| ...);    publish, do part 0, join
//!         team.run(parts, &|part| ...);
//!     });                                  unemployed, the workers go to sleep
//! ```
//!
//! A [`Team`] is what a kernel sees. It has three kinds, and a kernel cannot tell them apart, because
//! **nothing may depend on parts running at the same time**:
//!
//! * [`Team::serial`]: part after part on the calling thread, without a single atomic operation;
//! * [`Pool::enter`]: our own workers plus the calling thread;
//! * [`Team::host`]: whatever the embedding program has, behind [`ParallelFor`].
//!
//! **Who gets which part.** Part `t` belongs to thread `t` (the caller is thread 0), so with as many parts as
//! threads each thread meets the same rows in every operation. Parts beyond those go, in order, to whoever is
//! free. Nobody waits for a thread that has not begun: when the caller runs out of parts it takes back the ones
//! whose owner is late. The caller alone could finish every operation, so an oversubscribed machine gets slower
//! and never stuck.
//!
//! **Waiting** is polling first, then `yield_now` between polls (the core may be needed by the thread that is
//! waited for), and for workers without work, sleep. If there are more threads than cores they yield at once.
//!
//! **One operation at a time.** The workers serve one `run` at a time. A `run` that finds them taken, by
//! another caller's operation or by the very operation it is nested in, is executed by its own thread alone.
//! Nothing ever waits for the pool, hence nothing deadlocks on it, and two sessions may share one.

mod host;
mod topology;
mod worker;

use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, Ordering};

pub use host::ParallelFor;
pub use topology::default_threads;
use worker::Workers;

/// Persistent worker threads that, together with a caller, run the parts of operations.
///
/// The threads are created here and nowhere else, sleep while there is nothing to do, and are joined on drop.
pub struct Pool {
    workers: Workers,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pool({} threads)", self.threads())
    }
}

impl Pool {
    /// A pool of `threads` threads: the caller of [`enter`](Pool::enter) and `threads - 1` workers.
    ///
    /// One (or zero) means no workers. If the system refuses to create more threads, the pool makes do with
    /// those it got; [`threads`](Pool::threads) tells.
    pub fn new(threads: usize) -> Pool {
        Pool { workers: Workers::start(threads.saturating_sub(1)) }
    }

    /// Workers plus the caller.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Wakes the workers and calls `f` with a team made of them and the calling thread.
    ///
    /// Enter once for many operations, such as a whole forward pass: sleeping workers take tens of
    /// microseconds to come, polling ones a tenth of one. Workers that get no work for a while fall asleep
    /// even inside; the next operation wakes them.
    pub fn enter<R>(&self, f: impl FnOnce(&Team<'_>) -> R) -> R {
        self.enter_with(self.threads(), f)
    }

    /// The same with a team of at most `threads` threads, the caller among them; the other workers are left asleep.
    ///
    /// For work that gains nothing from all of them: a decoded token waits for memory, which fewer cores may use up.
    ///
    /// ```
    /// # use gable_kernels::pool::Pool;
    /// let pool = Pool::new(4);
    /// assert_eq!(pool.enter_with(2, |team| team.threads()), 2);
    /// assert_eq!(pool.enter_with(9, |team| team.threads()), pool.threads());
    /// ```
    pub fn enter_with<R>(&self, threads: usize, f: impl FnOnce(&Team<'_>) -> R) -> R {
        let threads = threads.min(self.threads());
        if threads <= 1 {
            return f(&Team::serial());
        }
        self.workers.wake(threads - 1);
        f(&Team::of(Runner::Pool(self, threads)))
    }
}

/// What runs the parts of an operation. See the [module](self) for the three kinds.
///
/// A team belongs to the thread that leads it: it is neither `Send` nor `Sync`, so a part cannot start an
/// operation on the team it is part of:
///
/// ```compile_fail,E0277
/// gable_kernels::pool::Pool::new(2).enter(|team| team.run(2, &|_| team.run(2, &|_| ())));
/// ```
#[derive(Clone, Copy)]
pub struct Team<'a> {
    runner: Runner<'a>,
    cancel: Option<&'a AtomicBool>,
    one_thread: PhantomData<*const ()>,
}

/// Relaxed: the flag guards no data, it only has to be seen soon.
fn is_set(flag: Option<&AtomicBool>) -> bool {
    flag.is_some_and(|flag| flag.load(Ordering::Relaxed))
}

#[derive(Clone, Copy)]
enum Runner<'a> {
    Serial,
    /// The pool, and how many of its threads, the caller included.
    Pool(&'a Pool, usize),
    Host(&'a dyn ParallelFor),
}

impl<'a> Team<'a> {
    fn of(runner: Runner<'a>) -> Team<'a> {
        Team { runner, cancel: None, one_thread: PhantomData }
    }

    /// The calling thread alone: no atomics, no other threads, parts in order.
    pub fn serial() -> Team<'static> {
        Team::of(Runner::Serial)
    }

    /// A team whose parts are run by the threads of a host.
    pub fn host(host: &'a dyn ParallelFor) -> Team<'a> {
        Team::of(Runner::Host(host))
    }

    /// The same team, which from the moment `flag` is set starts no further operation and, in one that runs, no further
    /// part beyond the first of each thread.
    ///
    /// ```
    /// # use gable_kernels::pool::Pool;
    /// # use std::sync::atomic::AtomicBool;
    /// let stop = AtomicBool::new(true); // say, set by a signal handler
    /// Pool::new(2).enter(|team| {
    ///     let team = team.with_cancel(&stop);
    ///     team.run(8, &|_| unreachable!());
    ///     assert!(team.is_cancelled());
    /// });
    /// ```
    #[must_use]
    pub fn with_cancel(self, flag: &'a AtomicBool) -> Team<'a> {
        Team { cancel: Some(flag), ..self }
    }

    /// Whether the cancel flag is set. Ask after an operation whether its result is to be believed.
    pub fn is_cancelled(&self) -> bool {
        is_set(self.cancel)
    }

    /// How many parts are worth making: the number of threads that may take some.
    pub fn threads(&self) -> usize {
        match self.runner {
            Runner::Serial => 1,
            Runner::Pool(_, threads) => threads,
            Runner::Host(host) => host.threads().max(1),
        }
    }

    /// Calls `f` with each of `0..parts` exactly once and returns when all calls have returned.
    ///
    /// The calls may happen on any threads of the team and in any order, one after another included. What
    /// they wrote is visible to the caller. A team that [is cancelled](Team::is_cancelled) calls nothing, or, if that
    /// happens meanwhile, not everything; the flag is looked at before the operation and between parts.
    ///
    /// # Panics
    /// If a part panicked, with the payload of the first that did, after the others have finished. (Serially,
    /// the parts behind it are not begun.) The team remains usable.
    pub fn run(&self, parts: usize, f: &(dyn Fn(usize) + Sync)) {
        if self.is_cancelled() {
            return;
        }
        match self.runner {
            Runner::Pool(pool, threads) if parts > 1 => pool.workers.run(threads, parts, self.cancel, f),
            Runner::Host(host) if parts > 1 => host::run(host, parts, f),
            _ => (0..parts).take_while(|_| !self.is_cancelled()).for_each(f),
        }
    }
}
