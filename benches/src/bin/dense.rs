//! Dense products of Gable beside other Rust crates, every candidate in turn in every round, so that a slow minute is slow
//! for all: medians, ratios, and the share of the peak that was measured in the same rounds.
//!
//! ```text
//! cargo run --release -p gable-benches --bin dense -- [TYPE ...] [--threads N] [--rounds N] [--isa NAME]
//! cargo run --release -p gable-benches --bin dense -- --serve      # for benches/peers/dense.py
//! ```
//!
//! Served requests: `TYPE M K N NAME`, with the names of the table's columns or `gable-pack`.

use gable_benches::dense::{Kind, SHAPES, candidate};
use gable_benches::options::Options;
use gable_benches::serve::{numbers, serve};
use gable_benches::timing::{Candidate, median, peak, seconds};

fn main() {
    let options = Options::of_program();
    if options.serve {
        serve(&options, |words| {
            let [kind, m, k, n, name] = words else { return Err("wanted: TYPE M K N NAME".to_owned()) };
            let kind = Kind::named(kind).ok_or(format!("{kind}: not f32, f16, bf16 or i8"))?;
            candidate(name, kind, numbers(&[m, k, n])?, 0, &options).ok_or(format!("no candidate {name}"))
        });
        return;
    }
    let kinds: Result<Vec<Kind>, String> = options
        .rest
        .iter()
        .map(|name| Kind::named(name).ok_or(format!("{name}: not f32, f16, bf16 or i8")))
        .collect();
    let kinds = kinds.unwrap_or_else(|error| {
        eprintln!("{error}");
        std::process::exit(2)
    });
    let kinds = if kinds.is_empty() { Kind::ALL.to_vec() } else { kinds };
    println!("isa {}, {} threads, {} rounds\n", options.kernels.isa(), options.threads, options.rounds);
    for kind in kinds {
        for shape in SHAPES {
            table_row(kind, *shape, &options);
        }
    }
}

/// One shape: every candidate's median speed, and Gable's share of the best peer and of the peak.
fn table_row(kind: Kind, shape: [usize; 3], options: &Options) {
    let [m, k, n] = shape;
    let operations = 2.0 * m as f64 * k as f64 * n as f64;
    let names = kind.candidates(m);
    let mut candidates: Vec<Candidate> =
        names.iter().filter_map(|name| candidate(name, kind, shape, 0, options)).collect();
    let repeats: Vec<usize> = candidates.iter_mut().map(Candidate::repeats).collect();
    let mut times: Vec<Vec<f64>> = vec![Vec::new(); candidates.len()];
    let mut peaks = Vec::new();
    for _ in 0..options.rounds {
        peaks.push(peak(kind.arithmetic(), options));
        for ((candidate, times), repeats) in candidates.iter_mut().zip(&mut times).zip(&repeats) {
            times.push(seconds(*repeats, &mut candidate.run));
        }
    }
    let speed = |times: &Vec<f64>| operations / median(times) / 1e9;
    let peak = peaks.iter().copied().fold(0.0, f64::max) / 1e9;
    print!("{} {m}x{k}x{n}: peak {peak:.0}", kind.name());
    for (candidate, times) in candidates.iter().zip(&times) {
        print!(", {} {:.0} ({:.0} %)", candidate.name, speed(times), 100.0 * speed(times) / peak);
    }
    println!();
}
