//! Dense products of Gable beside other Rust crates, every candidate in turn in every round, so that a slow minute is slow
//! for all: medians, ratios, and the share of the peak that was measured in the same rounds.
//!
//! ```text
//! cargo run --release -p gable-benches --bin dense -- [TYPE] [--threads N] [--rounds N] [--isa NAME]
//! cargo run --release -p gable-benches --bin dense -- --serve      # for benches/peers/dense.py
//! ```

use gable_benches::dense::{Candidate, Kind, Options, SHAPES, candidates, median, seconds};
use std::io::BufRead;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let options = Options::parse(&args).unwrap_or_else(|error| {
        eprintln!("{error}");
        std::process::exit(2)
    });
    if options.serve {
        serve(&options);
        return;
    }
    println!("isa {}, {} threads, {} rounds\n", options.kernels.isa(), options.threads, options.rounds);
    for kind in options.kinds.iter().copied() {
        for shape in SHAPES {
            table_row(kind, *shape, &options);
        }
    }
}

/// One shape: every candidate's median speed, and Gable's share of the best peer and of the peak.
fn table_row(kind: Kind, shape: [usize; 3], options: &Options) {
    let [m, k, n] = shape;
    let operations = 2.0 * m as f64 * k as f64 * n as f64;
    let mut candidates = candidates(kind, shape, options);
    let repeats: Vec<usize> = candidates.iter_mut().map(Candidate::repeats).collect();
    let mut times: Vec<Vec<f64>> = vec![Vec::new(); candidates.len()];
    let mut peaks = Vec::new();
    for _ in 0..options.rounds {
        peaks.push(kind.peak(options));
        for ((candidate, times), repeats) in candidates.iter_mut().zip(&mut times).zip(&repeats) {
            times.push(seconds(*repeats, &mut candidate.run));
        }
    }
    let speed = |times: &Vec<f64>| operations / median(times) / 1e9;
    let peak = peaks.iter().copied().fold(0.0, f64::max) / 1e9;
    print!("{kind:?} {m}x{k}x{n}: peak {peak:.0}");
    for (candidate, times) in candidates.iter().zip(&times) {
        print!(", {} {:.0} ({:.0} %)", candidate.name, speed(times), 100.0 * speed(times) / peak);
    }
    println!();
}

/// Reads `TYPE M K N PACKED` from each line and answers with the seconds of one product.
fn serve(options: &Options) {
    let mut made: Option<(String, Candidate, usize)> = None;
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        if made.as_ref().is_none_or(|(key, ..)| *key != line) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [kind, m, k, n, name] = words[..] else {
                println!("expected: TYPE M K N NAME");
                continue;
            };
            let (Some(kind), Ok(m), Ok(k), Ok(n)) = (Kind::named(kind), m.parse(), k.parse(), n.parse())
            else {
                println!("expected: TYPE M K N NAME");
                continue;
            };
            let all = candidates(kind, [m, k, n], options);
            let Some(mut candidate) = all.into_iter().find(|c| c.name == name) else {
                println!("no candidate {name}");
                continue;
            };
            let repeats = candidate.repeats();
            made = Some((line, candidate, repeats));
        }
        if let Some((_, candidate, repeats)) = &mut made {
            println!("{:e}", seconds(*repeats, &mut candidate.run));
        }
    }
}
