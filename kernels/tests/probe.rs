//! The probes do the work that they report, on every instruction set.

mod common;

use gable_kernels::{Kernels, ProbeKind, ProbeLoop};
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

#[test]
fn copies_are_equal_and_updates_change_nothing() {
    for kernels in Kernels::every_available() {
        for len in [0, 63, 64, 1000] {
            let from: Vec<u8> = (0..len).map(|i| i as u8).collect();
            let (mut to, mut same) = (vec![0; len + 7], from.clone());
            kernels.probe_copy(&from, &mut to);
            kernels.probe_update(&mut same);
            let whole = len / 64 * 64;
            assert_eq!((&to[..whole], &same), (&from[..whole], &from), "{}", kernels.isa());
            assert!(to[whole..].iter().all(|byte| *byte == 0), "{}", kernels.isa());
        }
        common::ran("probe_copy", kernels.isa(), 4);
        common::ran("probe_update", kernels.isa(), 4);
    }
}

#[test]
fn reading_takes_longer_where_there_is_more_to_read() {
    let bytes = vec![1; 4 << 20];
    for kernels in Kernels::every_available() {
        for ahead in [0, 4096] {
            let [few, many] = [1 << 16, 4 << 20].map(|n| shortest(|| kernels.probe_read(&bytes[..n], ahead)));
            assert!(many > 4 * few, "{}: {few:?} and {many:?}", kernels.isa());
        }
        // Shorter than a step, and not a multiple of one.
        (0..600).step_by(37).for_each(|n| kernels.probe_read(&bytes[1..][..n], 64));
        common::ran("probe_read", kernels.isa(), 1);
    }
}
