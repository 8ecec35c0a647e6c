//! Quantized layers for benches/peers/layers.py: answers `FORMAT M K COPIES FOLDER N...` with the seconds of one run over COPIES
//! layers, each of memory of its own. FOLDER has the files `weights` and `x`; the results of one layer are written to
//! `gable` beside them.

use gable_benches::layers::{Problem, candidate};
use gable_benches::options::Options;
use gable_benches::serve::{numbers, serve};
use gable_kernels::quant::Format;
use std::path::Path;

fn main() {
    let options = Options::of_program();
    serve(&options, |words| {
        let [format, m, k, copies, folder, n @ ..] = words else {
            return Err("wanted: FORMAT M K COPIES FOLDER N...".to_owned());
        };
        let known = Format::ALL.into_iter().find(|known| known.name() == *format);
        let format = known.ok_or(format!("{format}: no such format"))?;
        let n = match n.len() {
            1 => numbers::<1>(n)?.to_vec(),
            2 => numbers::<2>(n)?.to_vec(),
            _ => numbers::<3>(n)?.to_vec(),
        };
        let folder = Path::new(folder);
        let problem = Problem::read(folder, format, numbers(&[m, k, copies])?, &n)?;
        candidate(problem, &folder.join("gable"), &options)
    });
}
