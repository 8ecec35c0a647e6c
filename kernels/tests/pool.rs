//! The contract of `Team::run`, whoever runs the parts: each exactly once, all finished on return.
//!
//! Run it also under `taskset -c 0`: with a single core every interleaving is made by preemption.

use gable_kernels::pool::{ParallelFor, Pool, Team};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

const THREADS: [usize; 4] = [1, 2, 3, 7];
const PARTS: [usize; 6] = [0, 1, 2, 3, 64, 1000];

/// How often each part was called.
fn calls(team: &Team<'_>, parts: usize) -> Vec<u32> {
    let counts: Vec<AtomicU32> = (0..parts).map(|_| AtomicU32::new(0)).collect();
    team.run(parts, &|part| {
        counts[part].fetch_add(1, Ordering::Relaxed);
    });
    counts.into_iter().map(AtomicU32::into_inner).collect()
}

fn assert_each_part_once(team: &Team<'_>, parts: usize) {
    assert_eq!(calls(team, parts), vec![1; parts], "{} threads", team.threads());
}

/// Polls with yields, so that tests in which threads meet also pass on one core.
fn wait_until(condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(60), "waited in vain");
        thread::yield_now();
    }
}

/// Runs one part per thread, none of which ends before all have begun.
fn meet(team: &Team<'_>, part: impl Fn(usize) + Sync) {
    let (threads, arrived) = (team.threads(), AtomicUsize::new(0));
    team.run(threads, &|index| {
        part(index);
        arrived.fetch_add(1, Ordering::Relaxed);
        wait_until(|| arrived.load(Ordering::Relaxed) == threads);
    });
}

struct Reversed;
impl ParallelFor for Reversed {
    fn threads(&self) -> usize {
        3
    }
    fn parallel_for(&self, parts: usize, f: &(dyn Fn(usize) + Sync)) {
        (0..parts).rev().for_each(f);
    }
}

/// Every part on one thread that is not the caller's.
struct OneThread;
impl ParallelFor for OneThread {
    fn threads(&self) -> usize {
        0
    }
    fn parallel_for(&self, parts: usize, f: &(dyn Fn(usize) + Sync)) {
        thread::scope(|scope| {
            scope.spawn(|| (0..parts).for_each(f));
        });
    }
}

/// Runs even parts twice, from two threads, odd ones never, and some that do not exist.
struct Miscounting;
impl ParallelFor for Miscounting {
    fn threads(&self) -> usize {
        2
    }
    fn parallel_for(&self, parts: usize, f: &(dyn Fn(usize) + Sync)) {
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| (0..parts + 70).step_by(2).for_each(f));
            }
        });
        f(usize::MAX);
    }
}

#[test]
fn every_part_runs_exactly_once() {
    for threads in THREADS {
        let pool = Pool::new(threads);
        assert_eq!(pool.threads(), threads);
        for parts in PARTS {
            pool.enter(|team| {
                assert_eq!(team.threads(), threads);
                (0..50).for_each(|_| assert_each_part_once(team, parts));
            });
        }
    }
}

#[test]
fn a_smaller_team_uses_the_first_threads_of_the_pool_and_no_others() {
    let pool = Pool::new(4);
    let of = |threads: usize| {
        let seen = Mutex::new(Vec::new());
        pool.enter_with(threads, |team| {
            assert_eq!(team.threads(), threads);
            assert_each_part_once(team, 100);
            // With all of them waiting for each other, every thread of the team has one part.
            meet(team, |_| seen.lock().unwrap().push(thread::current().id()));
            // Many more parts than threads: whoever is free takes one, but nobody from outside of the team.
            let known = seen.lock().unwrap().clone();
            team.run(1000, &|_| assert!(known.contains(&thread::current().id())));
        });
        seen.into_inner().unwrap()
    };
    let all = of(4);
    for threads in [1, 2, 3, 4] {
        let some = of(threads);
        assert_eq!(some.len(), threads);
        assert!(some.iter().all(|id| all.contains(id)), "threads of the pool");
    }
    assert_eq!(pool.enter_with(0, |team| team.threads()), 1);
    assert_eq!(pool.enter_with(5, |team| team.threads()), 4);
}

#[test]
fn an_operation_that_is_cancelled_meanwhile_begins_no_part_beyond_one_per_thread() {
    let count = |team: &Team<'_>| {
        let (stop, begun) = (AtomicBool::new(false), AtomicUsize::new(0));
        team.with_cancel(&stop).run(1000, &|_| {
            stop.store(true, Ordering::Relaxed);
            begun.fetch_add(1, Ordering::Relaxed);
        });
        begun.into_inner()
    };
    assert_eq!(count(&Team::serial()), 1);
    for threads in THREADS {
        assert_eq!(Pool::new(threads).enter(count), threads);
    }
    assert_eq!(count(&Team::host(&Reversed)), 1000, "a host knows of no flag");
}

#[test]
fn an_operation_sees_what_the_one_before_wrote() {
    let pool = Pool::new(3);
    let cells: Vec<AtomicUsize> = (0..40).map(|_| AtomicUsize::new(0)).collect();
    pool.enter(|team| {
        for round in 1..2000 {
            // Relaxed on purpose: nothing but fork and join orders these.
            team.run(40, &|part| cells[part].store(round, Ordering::Relaxed));
            team.run(40, &|part| assert_eq!(cells[(part + 13) % 40].load(Ordering::Relaxed), round));
            assert!(cells.iter().all(|cell| cell.load(Ordering::Relaxed) == round));
        }
    });
}

#[test]
fn with_as_many_parts_as_threads_each_part_keeps_its_own_thread() {
    let pool = Pool::new(3);
    let owners = || {
        let owners = Mutex::new(vec![None::<ThreadId>; 3]);
        pool.enter(|team| meet(team, |part| owners.lock().unwrap()[part] = Some(thread::current().id())));
        owners.into_inner().unwrap()
    };
    let first = owners();
    assert_eq!(first[0], Some(thread::current().id()));
    assert!(first[0] != first[1] && first[1] != first[2] && first[2] != first[0]);
    assert_eq!(owners(), first);
}

#[test]
fn parts_of_a_busy_worker_are_taken_by_the_others() {
    // The worker is held in part 1 until all the others are done: someone else has to run them.
    let done = AtomicUsize::new(0);
    Pool::new(2).enter(|team| {
        team.run(100, &|part| {
            if part == 1 {
                wait_until(|| done.load(Ordering::Relaxed) == 99);
            }
            done.fetch_add(1, Ordering::Relaxed);
        });
    });
    assert_eq!(done.into_inner(), 100);
}

#[test]
fn a_serial_team_runs_the_parts_in_order_on_the_calling_thread() {
    for pool in [None, Some(Pool::new(1))] {
        let seen = Mutex::new(Vec::new());
        let record = |part| seen.lock().unwrap().push((part, thread::current().id()));
        match &pool {
            None => Team::serial().run(20, &record),
            Some(pool) => pool.enter(|team| team.run(20, &record)),
        }
        let caller = thread::current().id();
        assert_eq!(*seen.lock().unwrap(), (0..20).map(|part| (part, caller)).collect::<Vec<_>>());
    }
    assert_eq!(Team::serial().threads(), 1);
    assert_eq!(Pool::new(0).threads(), 1);
}

#[test]
fn a_host_may_run_the_parts_in_any_order_on_any_thread() {
    let hosts: [&dyn ParallelFor; 3] = [&Reversed, &OneThread, &Miscounting];
    for host in hosts {
        let team = Team::host(host);
        assert!(team.threads() >= 1);
        for parts in PARTS.into_iter().chain([1023, 1024, 1025, 5000]) {
            assert_each_part_once(&team, parts);
        }
    }
    let order = Mutex::new(Vec::new());
    Team::host(&Reversed).run(5, &|part| order.lock().unwrap().push(part));
    assert_eq!(*order.lock().unwrap(), [4, 3, 2, 1, 0], "the host's order is kept");
}

#[cfg(feature = "rayon")]
#[test]
fn a_rayon_pool_runs_the_parts_on_its_own_threads_only() {
    let host = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
    let team = Team::host(&host);
    assert_eq!(team.threads(), 3);
    for parts in PARTS {
        assert_each_part_once(&team, parts);
    }
    team.run(100, &|_| assert!(host.current_thread_index().is_some()));
}

#[test]
fn an_operation_nested_in_a_part_is_run_by_that_part_alone() {
    let pool = Pool::new(3);
    pool.enter(|team| {
        team.run(30, &|_| {
            let me = thread::current().id();
            pool.enter(|inner| {
                assert_each_part_once(inner, 20);
                inner.run(20, &|_| assert_eq!(thread::current().id(), me));
            });
        });
        // Between operations the workers are free, also for a team entered inside.
        pool.enter(|again| meet(again, |_| ()));
    });
}

#[test]
fn a_panic_reaches_the_caller_after_the_other_parts_and_the_pool_survives() {
    let pool = Pool::new(3);
    for bad in [0, 1, 2, 3, 77, 99] {
        let others = AtomicUsize::new(0);
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            pool.enter(|team| {
                team.run(100, &|part| {
                    if part == bad {
                        std::panic::panic_any(part);
                    }
                    others.fetch_add(1, Ordering::Relaxed);
                });
            });
        }));
        assert_eq!(outcome.unwrap_err().downcast_ref(), Some(&bad));
        assert_eq!(others.into_inner(), 99);
        pool.enter(|team| assert_each_part_once(team, 100));
    }
    let every = catch_unwind(AssertUnwindSafe(|| pool.enter(|team| team.run(50, &|_| panic!("every part")))));
    assert_eq!(every.unwrap_err().downcast_ref(), Some(&"every part"));
    let nested = catch_unwind(AssertUnwindSafe(|| {
        pool.enter(|team| team.run(3, &|_| pool.enter(|inner| inner.run(3, &|_| panic!("inner")))));
    }));
    assert_eq!(nested.unwrap_err().downcast_ref(), Some(&"inner"));
    pool.enter(|team| meet(team, |_| ()));
}

#[test]
fn a_cancelled_team_runs_nothing_more() {
    let stop = AtomicBool::new(false);
    Pool::new(2).enter(|team| {
        for kind in [*team, Team::serial(), Team::host(&Reversed)] {
            let kind = kind.with_cancel(&stop);
            stop.store(false, Ordering::Relaxed);
            assert_each_part_once(&kind, 10);
            stop.store(true, Ordering::Relaxed);
            assert!(kind.is_cancelled());
            assert_eq!(calls(&kind, 10), [0; 10]);
        }
        assert!(!team.is_cancelled(), "the flag belongs to the team it was given to");
        assert_each_part_once(team, 10);
    });
}

#[test]
fn callers_that_enter_at_once_all_finish() {
    for threads in [2, 3] {
        let pool = Pool::new(threads);
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        pool.enter(|team| [1, 2, 3, 64].map(|parts| assert_each_part_once(team, parts)));
                    }
                });
            }
        });
    }
}

#[test]
fn a_caller_that_waits_for_another_one_does_not_deadlock() {
    let pool = Pool::new(2);
    let another_enters = || {
        thread::scope(|scope| {
            scope.spawn(|| pool.enter(|team| assert_each_part_once(team, 64)));
        });
    };
    pool.enter(|_| another_enters());
    pool.enter(|team| team.run(2, &|_| another_enters()));
}

#[test]
fn dropping_the_pool_ends_its_workers() {
    thread_local!(static TOKEN: std::cell::RefCell<Option<Arc<()>>> = const { std::cell::RefCell::new(None) });
    for idle in [Duration::ZERO, Duration::from_millis(5)] {
        // Each worker keeps a token until its thread ends.
        let token = Arc::new(());
        let pool = Pool::new(4);
        pool.enter(|team| {
            meet(team, |part| {
                if part != 0 {
                    TOKEN.set(Some(Arc::clone(&token)));
                }
            })
        });
        assert_eq!(Arc::strong_count(&token), 4);
        thread::sleep(idle);
        drop(pool);
        assert_eq!(Arc::strong_count(&token), 1);
    }
}

#[test]
fn workers_that_fell_asleep_come_back() {
    // A lost wake-up would leave the others waiting. The pauses lie around the time after which workers fall
    // asleep, to meet them in the act.
    let pool = Pool::new(3);
    let pause = |micros| {
        let start = Instant::now();
        while start.elapsed() < Duration::from_micros(micros) {
            std::hint::spin_loop();
        }
    };
    for round in 0..600 {
        pool.enter(|team| {
            meet(team, |_| ());
            pause(30 + round % 70);
            meet(team, |_| ());
        });
        pause(round % 127);
    }
    thread::sleep(Duration::from_millis(20));
    pool.enter(|team| meet(team, |_| ()));
}

#[test]
fn a_hundred_thousand_operations_lose_no_part() {
    for threads in [2, 3] {
        let sum = AtomicUsize::new(0);
        Pool::new(threads).enter(|team| {
            for round in 0..100_000 {
                team.run(1 + round % 5, &|part| {
                    sum.fetch_add(part + 1, Ordering::Relaxed);
                });
            }
        });
        // Five rounds add 1, 1 + 2, ... 1 + 2 + 3 + 4 + 5.
        assert_eq!(sum.into_inner(), 20_000 * 35);
    }
}

/// Arithmetic that the compiler cannot shorten.
#[inline(never)]
fn work(n: usize) {
    (0..n).fold(0usize, |sum, i| std::hint::black_box(sum ^ i));
}

/// The best of some averages over `rounds` calls, in microseconds.
fn micros(rounds: usize, mut f: impl FnMut()) -> f64 {
    let average = |_| {
        let start = Instant::now();
        (0..rounds).for_each(|_| f());
        start.elapsed().as_secs_f64() * 1e6 / rounds as f64
    };
    (0..9).map(average).fold(f64::MAX, f64::min)
}

#[test]
fn more_threads_than_cores_make_it_slower_but_do_not_collapse() {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let time = |threads| {
        let part = |_| work(200_000 / threads);
        Pool::new(threads).enter(|team| micros(100, || team.run(threads, &part)))
    };
    let (fitting, double) = (time(cores), time(2 * cores));
    // A collapse costs a time slice of the scheduler, milliseconds, per operation: factors of 20 and more.
    assert!(double < 12.0 * fitting, "{double} us against {fitting} us");
}

#[test]
#[ignore = "a measurement: cargo test --release -p gable-kernels --test pool -- --ignored --nocapture"]
fn fork_and_join_latency() {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    println!("serial, 2 empty parts: {:.4} us", micros(20_000, || Team::serial().run(2, &|_| work(1))));
    let alone = micros(2_000, || work(20_000));
    for threads in [2, cores, 2 * cores, 4 * cores] {
        Pool::new(threads).enter(|team| {
            let own = micros(20_000, || team.run(threads, &|_| work(1)));
            // Parts that wait for each other, so that no thread can do the work of another.
            let all = micros(2_000, || {
                let arrived = AtomicUsize::new(0);
                team.run(threads, &|_| {
                    arrived.fetch_add(1, Ordering::AcqRel);
                    for polls in 0.. {
                        if arrived.load(Ordering::Acquire) == threads {
                            break;
                        }
                        if polls < 1000 { std::hint::spin_loop() } else { thread::yield_now() }
                    }
                });
            });
            let many = micros(2_000, || team.run(1000, &|_| work(1)));
            let long = micros(2_000, || team.run(threads, &|_| work(20_000)));
            println!("{threads} threads, {cores} cores: a part each {own:.3} us, and all meet {all:.3} us");
            println!("    1000 parts {many:.2} us, a part each of {alone:.1} us {long:.1} us");
        });
    }
    let pool = Pool::new(2);
    for idle in [40, 60, 1000].map(Duration::from_micros) {
        let sleep = micros(200, || thread::sleep(idle));
        let total = micros(200, || {
            thread::sleep(idle);
            pool.enter(|team| team.run(2, &|_| work(20_000)));
        });
        println!("enter and 2 parts of {alone:.1} us after a sleep of {idle:?}: {:.1} us", total - sleep);
    }
}
