//! All targets behind libFuzzer: the first byte of the input chooses one.
#![no_main]

use gable_fuzz::TARGETS;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let [which, rest @ ..] = data {
        TARGETS[usize::from(*which) % TARGETS.len()].1(rest);
    }
});
