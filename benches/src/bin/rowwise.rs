//! Row-wise kernels for benches/peers/rowwise.py: answers `WHO OP ROWS COLS` with the seconds of one run; WHO is `gable` or
//! `rten`.

use gable_benches::options::Options;
use gable_benches::rowwise::{Op, candidate};
use gable_benches::rten;
use gable_benches::serve::{numbers, serve};

fn main() {
    let options = Options::of_program();
    serve(&options, |words| {
        let [who, op, rows, cols] = words else { return Err("wanted: WHO OP ROWS COLS".to_owned()) };
        let op = Op::named(op).ok_or(format!("{op}: no such operation"))?;
        match *who {
            "gable" => candidate(op, numbers(&[rows, cols])?, &options),
            "rten" => rten::candidate(op, numbers(&[rows, cols])?, &options),
            who => Err(format!("{who}: neither gable nor rten")),
        }
    });
}
