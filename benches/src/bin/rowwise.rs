//! Row-wise kernels for benches/peers/rowwise.py: answers `OP ROWS COLS` with the seconds of one run.

use gable_benches::options::Options;
use gable_benches::rowwise::{Op, candidate};
use gable_benches::serve::{numbers, serve};

fn main() {
    let options = Options::of_program();
    serve(&options, |words| {
        let [op, rows, cols] = words else { return Err("wanted: OP ROWS COLS".to_owned()) };
        let op = Op::named(op).ok_or(format!("{op}: no such operation"))?;
        candidate(op, numbers(&[rows, cols])?, &options)
    });
}
