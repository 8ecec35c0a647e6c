//! How the scripts in `benches/peers/` have Gable's kernels timed in turns with those of other libraries.
//!
//! A program reads requests from its standard input, one a line, and answers each with a line: the seconds of one run
//! (or another figure), or `error: ...`. What a request makes ready is kept until another comes, so a script that asks
//! for the same again and again gets times of warm operands.
//!
//! ```text
//! peak f32            -> operations per second (f32, bf16, int8)
//! read                -> bytes per second from main memory
//! isa                 -> the instruction set in use
//! anything else       -> what the program's own requests say
//! ```

use crate::options::Options;
use crate::timing::{Candidate, peak, read_bandwidth, seconds};
use gable_kernels::ProbeKind;
use std::io::BufRead;

/// Answers requests until the input ends; `make` makes a candidate of a request's words.
pub fn serve(options: &Options, make: impl Fn(&[&str]) -> Result<Candidate, String>) {
    serve_with(options, make, |_| None);
}

/// The same of a program that knows other figures than times: `ask` answers the requests for them.
pub fn serve_with(
    options: &Options,
    make: impl Fn(&[&str]) -> Result<Candidate, String>,
    ask: impl Fn(&[&str]) -> Option<String>,
) {
    let mut made: Option<(String, Candidate, usize)> = None;
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let Some(figure) = figure(options, &words).or_else(|| ask(&words)) {
            println!("{figure}");
            continue;
        }
        if made.as_ref().is_none_or(|(request, ..)| *request != line) {
            made = None; // Its memory first.
            match make(&words) {
                Ok(mut candidate) => {
                    let repeats = candidate.repeats();
                    made = Some((line, candidate, repeats));
                }
                Err(error) => println!("error: {error}"),
            }
        }
        if let Some((_, candidate, repeats)) = &mut made {
            // Wakes the threads, as a caller that works without pause would find them.
            (candidate.run)();
            println!("{:e}", seconds(*repeats, &mut candidate.run));
        }
    }
}

/// The answer to a request that every program knows.
fn figure(options: &Options, words: &[&str]) -> Option<String> {
    match words {
        ["peak", kind] => {
            let kind = match *kind {
                "f32" => ProbeKind::F32,
                "bf16" => ProbeKind::Bf16,
                "int8" => ProbeKind::Int8,
                other => return Some(format!("error: no peak of {other}; there are f32, bf16, int8")),
            };
            Some(format!("{:e}", peak(kind, options)))
        }
        ["read"] => Some(format!("{:e}", read_bandwidth(options))),
        ["isa"] => Some(options.kernels.isa().to_string()),
        _ => None,
    }
}

/// `N` numbers of a request.
///
/// # Errors
/// What is no number, or that they are too few or too many.
pub fn numbers<const N: usize>(words: &[&str]) -> Result<[usize; N], String> {
    let parsed: Result<Vec<usize>, String> =
        words.iter().map(|word| word.parse().map_err(|e| format!("{word}: {e}"))).collect();
    parsed?.try_into().map_err(|found: Vec<usize>| format!("{} numbers, wanted {N}", found.len()))
}
