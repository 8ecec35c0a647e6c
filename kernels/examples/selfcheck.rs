//! Checks every kernel on every instruction set of this machine: `selfcheck [quick]`. Exit code 1 if one is wrong.

use gable_kernels::selfcheck::{Effort, run};
use std::process::ExitCode;

fn main() -> ExitCode {
    let effort = match std::env::args().nth(1).as_deref() {
        None | Some("full") => Effort::Full,
        Some("quick") => Effort::Quick,
        Some(other) => {
            eprintln!("{other:?} is not an effort; allowed: quick, full");
            return ExitCode::from(2);
        }
    };
    let mut kinds = 0;
    let passed = run(effort, &mut |outcome| {
        kinds += 1;
        println!("{outcome}");
    });
    println!("{kinds} pairs of kernel and instruction set: {}", if passed { "all right" } else { "WRONG" });
    if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
