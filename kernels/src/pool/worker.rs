//! Worker threads, their mailboxes, and the protocol of one fork and join.
//!
//! Each worker polls one word, its mailbox, alone in its cache line:
//!
//! ```text
//!                 caller: publish                 worker: claim               worker: finished
//!      EMPTY  ------------------------> an offer ---------------> BUSY ---------------------------+
//!        ^                                 |                                                      |
//!        +--------- caller: withdraw ------+                                                      |
//!        +----------------------------------------------------------------------------------------+
//! ```
//!
//! The offer is the address of an [`Operation`] on the caller's stack. Claim and withdraw are compare-and-swaps
//! on that one word, so exactly one of them succeeds, and whoever succeeds runs the worker's part. The caller
//! leaves only when every mailbox is EMPTY again. So a worker may touch the operation exactly while its mailbox
//! says BUSY, and a worker that is late, by a microsecond or a second, finds the mailbox empty and never learns
//! what it missed. A stale claim is harmless even if the next operation has the same address: what is claimed is
//! what the mailbox offers at that moment.
//!
//! Ordering: publish is a Release and claim an Acquire, which makes the operation (and all the caller wrote
//! before) visible to the worker. Finish is a Release and the caller's last look an Acquire, which makes the
//! results visible to the caller and ends the worker's accesses before the operation leaves the stack. Withdraw
//! needs no ordering: it only hands back what the caller itself wrote.

use super::is_set;
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How long a waiting thread polls before it offers its core to others between polls.
const SPIN: Duration = Duration::from_micros(20);
/// How often a worker without work then does so before it sleeps: some 40 us if nobody else wants the core.
///
/// Counted, not timed: on a busy machine one yield can take milliseconds, and a worker that fell asleep over it
/// would keep coming too late, woken again and again on the core where its caller runs. Awake, it is moved.
const YIELDS: u32 = 32;
/// Polls between two looks at the clock, about a microsecond.
const BURST: usize = 32;

/// What a panicking part leaves behind.
type Payload = Box<dyn Any + Send>;

/// A value alone in its cache line; two lines, since processors fetch them in pairs.
#[repr(align(128))]
struct Padded<T>(T);

/// One `run`: lives on the caller's stack from publish to join.
struct Operation<'f> {
    f: &'f (dyn Fn(usize) + Sync),
    cancel: Option<&'f AtomicBool>,
    parts: usize,
    /// Parts below this one belong to the thread of their number.
    owned: usize,
    /// The first of the other parts that nobody has begun.
    next: Padded<AtomicUsize>,
    /// What the first part to panic left.
    panic: Mutex<Option<Payload>>,
}

impl Operation<'_> {
    /// Runs the part of thread `thread`, then unowned parts until there are none.
    fn serve(&self, thread: usize) {
        self.part(thread);
        if self.owned == self.parts {
            return; // Keep off the counter: its line would travel for nothing.
        }
        while !is_set(self.cancel) {
            // Relaxed: being a read-modify-write makes the number unique; the mailbox orders the data.
            let part = self.next.0.fetch_add(1, Ordering::Relaxed);
            if part >= self.parts {
                return;
            }
            self.part(part);
        }
    }

    /// Runs one part. Never unwinds: other threads still hold the operation.
    fn part(&self, part: usize) {
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| (self.f)(part))) {
            let mut first = self.panic.lock().unwrap_or_else(PoisonError::into_inner);
            match *first {
                None => *first = Some(payload),
                // Dropping a payload may run code that panics in turn: rather leak it.
                Some(_) => std::mem::forget(payload),
            }
        }
    }
}

/// An operation as mailboxes know it. The lifetime is a lie that `Worker::work` answers for.
type Offer = *mut Operation<'static>;

const EMPTY: Offer = ptr::null_mut();
const BUSY: Offer = ptr::without_provenance_mut(1);
const QUIT: Offer = ptr::without_provenance_mut(2);

/// What the caller and the workers share.
struct Shared {
    mailboxes: Box<[Padded<AtomicPtr<Operation<'static>>>]>,
    /// Workers that sleep or are about to.
    asleep: Padded<AtomicUsize>,
    /// [`SPIN`], or nothing if there are more threads than cores.
    spin: Duration,
}

/// The worker threads of a pool. Worker `i` is thread `i + 1` of the team.
pub(super) struct Workers {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    /// Whether some `run` has the workers.
    taken: Padded<AtomicBool>,
}

impl Workers {
    /// Starts `count` workers, or as many as the system allows.
    pub(super) fn start(count: usize) -> Workers {
        let cores = thread::available_parallelism().map_or(usize::MAX, usize::from);
        let shared = Arc::new(Shared {
            mailboxes: (0..count).map(|_| Padded(AtomicPtr::new(EMPTY))).collect(),
            asleep: Padded(AtomicUsize::new(0)),
            spin: if count < cores { SPIN } else { Duration::ZERO },
        });
        let start = |index| {
            let shared = Arc::clone(&shared);
            let builder = thread::Builder::new().name(format!("gable-{}", index + 1));
            builder.spawn(move || work(&shared, index)).ok()
        };
        let threads = (0..count).map_while(start).collect();
        Workers { shared, threads, taken: Padded(AtomicBool::new(false)) }
    }

    pub(super) fn len(&self) -> usize {
        self.threads.len()
    }

    /// Wakes the first `count` workers, if they sleep. A worker that is just falling asleep may be missed.
    pub(super) fn wake(&self, count: usize) {
        // To unpark a thread that is awake is one atomic exchange and no system call.
        if self.shared.asleep.0.load(Ordering::Relaxed) > 0 {
            self.threads[..count].iter().for_each(|worker| worker.thread().unpark());
        }
    }

    /// Runs `f` with each of `0..parts`: on `threads` threads, or alone if another `run` has the workers.
    /// From the moment `cancel` is set no part is begun that does not belong to a thread.
    pub(super) fn run(
        &self,
        threads: usize,
        parts: usize,
        cancel: Option<&AtomicBool>,
        f: &(dyn Fn(usize) + Sync),
    ) {
        // Acquire, and Release below, order this run after the last one, which may have been another thread's:
        // it left all mailboxes EMPTY.
        if self.taken.0.swap(true, Ordering::Acquire) {
            return (0..parts).take_while(|_| !is_set(cancel)).for_each(f);
        }
        let panic = self.fork_and_join(threads, parts, cancel, f);
        self.taken.0.store(false, Ordering::Release);
        if let Some(payload) = panic {
            resume_unwind(payload);
        }
    }

    /// One operation, from publish to join; what the first panic left. Needs at least one part and one thread, at
    /// most `len() + 1` threads, and `taken`.
    fn fork_and_join(
        &self,
        threads: usize,
        parts: usize,
        cancel: Option<&AtomicBool>,
        f: &(dyn Fn(usize) + Sync),
    ) -> Option<Payload> {
        let owned = parts.min(threads);
        let next = Padded(AtomicUsize::new(owned));
        let operation = Operation { f, cancel, parts, owned, next, panic: Mutex::new(None) };
        let offer: Offer = ptr::from_ref(&operation).cast_mut().cast();
        let mailboxes = &self.shared.mailboxes[..owned - 1];

        // From here to the end of the join nothing may unwind, and nothing can: `part` catches, the rest are
        // atomics, unpark, yield and the clock.
        for mailbox in mailboxes {
            mailbox.0.store(offer, Ordering::Release);
        }
        // A worker says that it sleeps, then looks into its mailbox; we fill the mailbox, then look who sleeps.
        // The two fences make it impossible that both looks come too early.
        fence(Ordering::SeqCst);
        self.wake(owned - 1);

        operation.serve(0);
        for (mailbox, thread) in mailboxes.iter().zip(1..) {
            // Looking first spares the line of a busy worker the exclusive access.
            let late = mailbox.0.load(Ordering::Relaxed) == offer;
            if late && mailbox.0.compare_exchange(offer, EMPTY, Ordering::Relaxed, Ordering::Relaxed).is_ok()
            {
                operation.part(thread);
            }
        }
        for mailbox in mailboxes {
            poll(self.shared.spin, u32::MAX, || mailbox.0.load(Ordering::Acquire) == EMPTY);
        }
        operation.panic.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        for (worker, mailbox) in self.threads.drain(..).zip(&self.shared.mailboxes) {
            mailbox.0.store(QUIT, Ordering::Release);
            worker.thread().unpark();
            // A worker catches every panic; should one have died all the same, there is nothing left to do.
            let _ = worker.join();
        }
    }
}

/// The life of worker `index`.
fn work(shared: &Shared, index: usize) {
    let mailbox = &shared.mailboxes[index].0;
    loop {
        if !poll(shared.spin, YIELDS, || mailbox.load(Ordering::Relaxed) != EMPTY) {
            // The other half of the argument in `run`. An unpark that comes before the park is remembered;
            // one that is not meant for us costs another round of polling.
            shared.asleep.0.fetch_add(1, Ordering::Relaxed);
            fence(Ordering::SeqCst);
            if mailbox.load(Ordering::Relaxed) == EMPTY {
                thread::park();
            }
            shared.asleep.0.fetch_sub(1, Ordering::Relaxed);
            continue;
        }
        let seen = mailbox.load(Ordering::Relaxed);
        if seen == QUIT {
            return;
        }
        if seen == EMPTY {
            continue; // withdrawn
        }
        let Ok(offer) = mailbox.compare_exchange(seen, BUSY, Ordering::Acquire, Ordering::Relaxed) else {
            continue; // withdrawn
        };
        // SAFETY: the mailbox offered this operation at the moment we set it to BUSY, so the `fork_and_join`
        // that published it was still before its join. It leaves, and the operation and the `f` borrowed by it
        // end, only after it sees EMPTY; over BUSY only we store that, below, when this call and its reference
        // are over. (No other `run` writes to the mailbox meanwhile: `taken`.) The Acquire above makes the
        // operation visible. Sharing it is sound: `f` is `Sync`, the counter atomic, the payload `Send` and
        // behind a mutex.
        unsafe { (*offer).serve(index + 1) };
        mailbox.store(EMPTY, Ordering::Release);
    }
}

/// Polls until `ready` (true), at first without a break, after the time `spin` with yields between; gives up
/// (false) after `yields` of them. `u32::MAX` is never.
fn poll(spin: Duration, yields: u32, ready: impl Fn() -> bool) -> bool {
    let burst = || {
        (0..BURST).any(|_| {
            std::hint::spin_loop();
            ready()
        })
    };
    // Most waits end within a microsecond, without the clock.
    if ready() || burst() {
        return true;
    }
    let start = Instant::now();
    while start.elapsed() < spin {
        if burst() {
            return true;
        }
    }
    let mut yielded = 0;
    while yielded < yields {
        thread::yield_now();
        if burst() {
            return true;
        }
        yielded += u32::from(yields != u32::MAX);
    }
    false
}
