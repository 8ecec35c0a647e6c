//! The probes do the work that they report, on every instruction set.

mod common;

use gable_kernels::{Kernels, ProbeKind, ProbeLoop, ProbeOrder, ProbeWalk};
use std::hint::black_box;
use std::time::{Duration, Instant};

/// The shortest of a few runs.
fn shortest(f: impl Fn()) -> Duration {
    let time = |_| {
        let start = Instant::now();
        f();
        start.elapsed()
    };
    (0..9).map(time).min().unwrap()
}

#[test]
fn arithmetic_probes_report_operations_in_proportion_to_rounds_and_take_time_for_them() {
    let kinds = [ProbeKind::F32, ProbeKind::Bf16, ProbeKind::Int8];
    for kernels in Kernels::every_available() {
        for (kind, which) in kinds.into_iter().flat_map(|kind| ProbeLoop::ALL.map(|which| (kind, which))) {
            let probe = |rounds| kernels.probe_arithmetic(kind, which, rounds);
            let name = format!("{kind:?} by {which:?} on {}", kernels.isa());
            let one = probe(1);
            assert!(one >= 2 * 16 * 6, "{name}: {one}");
            assert_eq!(probe(1000), 1000 * one, "{name}");
            // Were the loop optimised away, both would take equally long.
            let few = (1 << 22) / one;
            let [short, long] = [few, 20 * few].map(|rounds| {
                shortest(|| {
                    black_box(probe(rounds));
                })
            });
            assert!(long > 4 * short, "{name}: {short:?} and {long:?}");
            common::ran("probe_arithmetic", kernels.isa(), 1);
        }
    }
}

const ORDERS: [ProbeOrder; 3] = [ProbeOrder::Narrow, ProbeOrder::Wide, ProbeOrder::Apart];

/// All ways to go through memory.
fn walks() -> impl Iterator<Item = ProbeWalk> {
    ORDERS.into_iter().flat_map(|order| [false, true].map(|ahead| ProbeWalk { order, ahead }))
}

#[test]
fn copies_are_equal_joints_have_both_and_updates_change_nothing() {
    for kernels in Kernels::every_available() {
        for (walk, len) in walks().flat_map(|walk| [0, 63, 64, 1000, 16_640, 50_000].map(|len| (walk, len))) {
            let from: Vec<u8> = (0..len).map(|i| i as u8 | 1).collect();
            let (mut to, mut same) = (vec![0; len + 7], from.clone());
            kernels.probe_copy(&from, &mut to, walk);
            kernels.probe_update(&mut same, walk);
            let (mut both, other) = (vec![0; len + 3], vec![6; len + 5]);
            kernels.probe_join([&from, &other], &mut both, walk);
            let whole = len / 64 * 64;
            let name = format!("{len} bytes, {walk:?}, {}", kernels.isa());
            assert!(to[..whole] == from[..whole] && same == from, "{name}");
            assert!(both.iter().zip(&from).take(whole).all(|(both, from)| *both == from | 6), "{name}");
            assert!(to[whole..].iter().chain(&both[whole..]).all(|byte| *byte == 0), "{name}");
        }
        common::ran("probe_copy", kernels.isa(), 36);
        common::ran("probe_join", kernels.isa(), 36);
        common::ran("probe_update", kernels.isa(), 36);
    }
}

#[test]
fn reading_takes_longer_where_there_is_more_to_read() {
    let bytes = vec![1; 4 << 20];
    for kernels in Kernels::every_available() {
        for walk in walks() {
            let [few, many] = [1 << 16, 4 << 20].map(|n| shortest(|| kernels.probe_walk(&bytes[..n], walk)));
            assert!(many > 4 * few, "{walk:?}, {}: {few:?} and {many:?}", kernels.isa());
            // Shorter than a step, and not a multiple of one.
            (0..600).step_by(37).for_each(|n| kernels.probe_walk(&bytes[1..][..n], walk));
        }
        kernels.probe_read(&bytes[1..], true);
        common::ran("probe_read", kernels.isa(), 6);
    }
}
