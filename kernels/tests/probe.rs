//! The probes do the work that they report, on every instruction set.

mod common;

use gable_kernels::Kernels;
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
    for kernels in Kernels::every_available() {
        for (name, probe) in [
            ("probe_f32", Kernels::probe_f32 as fn(Kernels, usize) -> usize),
            ("probe_bf16", Kernels::probe_bf16),
            ("probe_int8", Kernels::probe_int8),
        ] {
            let one = probe(kernels, 1);
            assert!(one >= 2 * 16 * 6, "{name} on {}: {one}", kernels.isa());
            assert_eq!(probe(kernels, 1000), 1000 * one, "{name} on {}", kernels.isa());
            // Were the loop optimised away, both would take equally long.
            let [few, many] = [2_000, 40_000].map(|rounds| {
                shortest(|| {
                    black_box(probe(kernels, rounds));
                })
            });
            assert!(many > 4 * few, "{name} on {}: {few:?} and {many:?}", kernels.isa());
            common::ran(name, kernels.isa(), 1);
        }
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
