//! How many times as fast as a plain loop the kernels and a whole pass are: a regression guard for machines that are busy.
//!
//! Both take turns in one thread, and the shortest time of each is kept, so both had the same clock and the same neighbours.
//! What is asked for is about a third of what an idle machine gave: enough to tell that a kernel has lost its instruction
//! set, its tiles or its inlining, and too little to fail for other reasons.

mod common;

use gable_kernels::gemm::{Epilogue, Phase};
use gable_kernels::quant::{Activations, Format, Forms, QuantWeights, Remainder, quantize_weights};
use gable_kernels::{Isa, Kernels, MatMut, Pool, Team};
use gable_model::forward::Numerics;
use gable_model::session::{Session, SessionOptions};
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Turns at least, and at most.
const TURNS: (usize, usize) = (10, 300);
/// Rows of a matrix that a second-level cache holds in every format.
const N: usize = 128;
/// Its columns: whole blocks of every format.
const K: usize = 1024;

/// The fixed reference: one multiply-add after the other, `N x K` of them.
#[inline(never)]
fn plain_loop(w: &[f32], x: &[f32], out: &mut [f32]) {
    for (out, w) in out.iter_mut().zip(w.chunks_exact(x.len())) {
        *out = 0.0;
        for (w, x) in w.iter().zip(x) {
            *out += w * x;
        }
    }
}

fn values(n: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 37 + i / 11) % 23) as f32 / 11.0 - 1.0).collect()
}

fn time(f: impl FnOnce()) -> Duration {
    let start = Instant::now();
    f();
    start.elapsed()
}

/// How many multiply-adds `f`, which does `work` of them, gets through in the time that the loop takes for one. Enough turns
/// to be sure of a ratio of `wanted`, or all.
fn ratio(work: usize, wanted: f64, f: &mut dyn FnMut()) -> f64 {
    let (w, x, mut out) = (values(N * K), values(K), vec![0.0; N]);
    let (mut loops, mut kernels, mut found) = (Duration::MAX, Duration::MAX, 0.0);
    for turn in 0..TURNS.1 {
        loops = loops.min(time(|| plain_loop(black_box(&w), black_box(&x), black_box(&mut out))));
        kernels = kernels.min(time(&mut *f));
        found = (work as f64 / kernels.as_secs_f64()) / ((N * K) as f64 / loops.as_secs_f64());
        if turn >= TURNS.0 && found >= wanted {
            break;
        }
    }
    found
}

/// Of what is asked of AVX2, of AVX-512 and of AVX-512 with integer dot products, what is asked here. Others promise nothing:
/// the portable one is as fast as the compiler makes it, and NEON was only ever emulated.
fn wanted(kernels: Kernels, [narrow, wide, dots]: [f64; 3]) -> Option<f64> {
    match kernels.isa() {
        Isa::Avx2 | Isa::Avx2Vnni => Some(narrow),
        Isa::Avx512 => Some(wide),
        Isa::Avx512Vnni | Isa::Avx512Bf16 => Some(dots),
        _ => None,
    }
}

fn matmul(kernels: Kernels, phase: Phase, format: Format, rows: usize, wanted: f64) -> f64 {
    let row_bytes = format.row_bytes(K).unwrap();
    let mut bytes = vec![0; N * row_bytes];
    for (row, out) in values(N * K).chunks(K).zip(bytes.chunks_mut(row_bytes)) {
        quantize_weights(format, row, None, out).unwrap();
    }
    let weights = QuantWeights::from_bytes(format, N, K, row_bytes, &bytes).unwrap();
    let remainder = if phase == Phase::Decode { Remainder::All } else { Remainder::Outliers };
    let forms = Forms::fast(format).with_remainder(remainder);
    let mut x = Activations::new(rows, K, forms);
    let mut view = x.begin(rows, K).unwrap();
    (0..rows).for_each(|i| view.row_mut(i).copy_from_slice(&values(K)));
    kernels.prepare(&Team::serial(), &mut x, forms).unwrap();
    let mut out = vec![0.0; rows * N];
    ratio(rows * N * K, wanted, &mut || {
        let out = MatMut::from_rows(&mut out, N);
        kernels.matmul(&Team::serial(), phase, &x, &weights, Epilogue::default(), out).unwrap();
    })
}

#[test]
fn products_are_many_times_as_fast_as_a_plain_loop() {
    let mut slow = Vec::new();
    for kernels in common::instruction_sets() {
        for (phase, rows, format, least) in [
            (Phase::Decode, 1, Format::F32, [4.0, 4.0, 4.0]),
            (Phase::Decode, 1, Format::Q4_1, [4.5, 5.0, 6.0]),
            (Phase::Decode, 1, Format::Q8_0, [4.5, 5.0, 6.0]),
            (Phase::Decode, 1, Format::Q4_K, [4.5, 5.0, 6.0]),
            (Phase::Decode, 1, Format::Q6_K, [4.5, 5.0, 6.0]),
            (Phase::Prompt, 64, Format::F32, [12.0, 12.0, 12.0]),
            (Phase::Prompt, 64, Format::Q4_1, [14.0, 18.0, 30.0]),
            (Phase::Prompt, 64, Format::Q8_0, [14.0, 18.0, 30.0]),
            (Phase::Prompt, 64, Format::Q4_K, [14.0, 18.0, 30.0]),
            (Phase::Prompt, 64, Format::Q6_K, [14.0, 18.0, 30.0]),
        ] {
            let Some(least) = wanted(kernels, least) else { continue };
            let found = matmul(kernels, phase, format, rows, least);
            let line = format!(
                "{} {phase:?} {format}: {found:.1} times a plain loop, at least {least}",
                kernels.isa().name()
            );
            eprintln!("{line}");
            if found < least {
                slow.push(line);
            }
        }
    }
    assert!(slow.is_empty(), "{slow:#?}");
}

/// A whole pass on one thread: what is not a product counts as well.
#[test]
fn a_pass_is_many_times_as_fast_as_its_products_in_a_plain_loop() {
    let model = common::model("smollm2");
    let work: usize = model.weights().matrices().map(|m| m.rows() * m.cols()).sum();
    let mut slow = Vec::new();
    for kernels in common::instruction_sets() {
        for (name, rows, least) in [("decode", 1, [3.0, 3.0, 3.0]), ("prompt", 64, [15.0, 20.0, 30.0])] {
            let Some(least) = wanted(kernels, least) else { continue };
            let mut options = SessionOptions::new(kernels, 96);
            options.numerics = Numerics::Fast;
            let mut session = Session::new(Arc::clone(&model), Arc::new(Pool::new(1)), options).unwrap();
            let tokens: Vec<u32> = (400..400 + rows as u32).collect();
            let found = ratio(rows * work, least, &mut || {
                session.truncate(0).unwrap();
                match rows {
                    1 => session.decode(400).map(|_| ()).unwrap(),
                    _ => session.prefill(&tokens).map(|_| ()).unwrap(),
                }
            });
            let line =
                format!("{} {name}: {found:.1} times a plain loop, at least {least}", kernels.isa().name());
            eprintln!("{line}");
            if found < least {
                slow.push(line);
            }
        }
    }
    assert!(slow.is_empty(), "{slow:#?}");
}
