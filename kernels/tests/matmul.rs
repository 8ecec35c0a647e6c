//! Every matmul path on every instruction set against the reference, at shapes that straddle every edge.

mod common;

use gable_kernels::gemm::{Epilogue, Phase};
use gable_kernels::quant::{Activations, Format, Forms, QuantWeights, Remainder};
use gable_kernels::reference::{matmul as reference, quant};
use gable_kernels::{Kernels, MatMut, Pool, Team};
use half::f16;
use proptest::prelude::*;

const PHASES: [Phase; 2] = [Phase::Prompt, Phase::Decode];

/// A small generator, so that a case is a seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) ^ (self.0 >> 7)
    }
    fn float(&mut self) -> f32 {
        (self.next() % 2001) as f32 / 1000.0 - 1.0
    }
    fn byte(&mut self) -> u8 {
        self.next() as u8
    }
}

/// Random bytes of a format with finite scales.
fn weight_bytes(format: Format, rows: usize, cols: usize, random: &mut Random) -> Vec<u8> {
    let n = rows * format.row_bytes(cols).unwrap();
    let mut bytes: Vec<u8> = (0..n).map(|_| random.byte()).collect();
    for block in bytes.chunks_exact_mut(format.block_bytes()) {
        for at in format.scale_offsets() {
            block[*at..at + 2].copy_from_slice(&f16::from_f32(random.float() / 16.0).to_le_bytes());
        }
        match format {
            Format::F32 => block.copy_from_slice(&random.float().to_le_bytes()),
            Format::F16 => block.copy_from_slice(&f16::from_f32(random.float()).to_le_bytes()),
            Format::BF16 => block.copy_from_slice(&half::bf16::from_f32(random.float()).to_le_bytes()),
            _ => {}
        }
    }
    bytes
}

struct Problem {
    format: Format,
    m: usize,
    n: usize,
    k: usize,
    x: Vec<f32>,
    weights: Vec<u8>,
    bias: Option<Vec<f32>>,
    residual: Option<Vec<f32>>,
}

impl Problem {
    fn new(format: Format, m: usize, n: usize, blocks: usize, seed: u64) -> Self {
        let mut random = Random(seed);
        let k = if format.is_block_quantized() { blocks * format.block_len() } else { blocks * 7 };
        let weights = weight_bytes(format, n, k, &mut random);
        Problem {
            format,
            m,
            n,
            k,
            x: (0..m * k).map(|_| random.float()).collect(),
            weights,
            bias: (seed % 3 == 1).then(|| (0..n).map(|_| random.float()).collect()),
            residual: (seed % 5 < 2).then(|| (0..m * n).map(|_| random.float()).collect()),
        }
    }

    fn weights(&self) -> QuantWeights<'_> {
        let stride = self.format.row_bytes(self.k).unwrap();
        QuantWeights::from_bytes(self.format, self.n, self.k, stride, &self.weights).unwrap()
    }

    /// The product, in rows of `n + 3` with canaries between them.
    fn run(&self, kernels: Kernels, team: &Team<'_>, phase: Phase, forms: Forms) -> Vec<f32> {
        const CANARY: f32 = -77.25;
        let mut x = Activations::new(self.m, self.k, forms);
        let mut rows = x.begin(self.m, self.k).unwrap();
        for i in 0..self.m {
            rows.row_mut(i).copy_from_slice(&self.x[i * self.k..][..self.k]);
        }
        kernels.prepare(team, &mut x, forms).unwrap();
        let stride = self.n + 3;
        let mut out = vec![CANARY; self.m * stride];
        for i in 0..self.m {
            let row = &mut out[i * stride..][..self.n];
            match &self.residual {
                Some(residual) => row.copy_from_slice(&residual[i * self.n..][..self.n]),
                None => row.fill(f32::NAN),
            }
        }
        let epilogue = Epilogue { bias: self.bias.as_deref(), accumulate: self.residual.is_some() };
        let view = MatMut::new(&mut out, self.m, self.n, stride).unwrap();
        kernels.matmul(team, phase, &x, &self.weights(), epilogue, view).unwrap();
        let mut result = Vec::new();
        for row in out.chunks(stride) {
            result.extend_from_slice(&row[..self.n]);
            assert_eq!(row[self.n..], [CANARY; 3], "written beyond the columns");
        }
        result
    }

    /// On every instruction set, in both phases, with every form of activations that the shape has.
    fn check_everywhere(&self) {
        for kernels in Kernels::every_available() {
            for phase in PHASES {
                for forms in forms() {
                    if forms.int8 && !self.k.is_multiple_of(32) {
                        continue;
                    }
                    self.check(kernels, phase, forms);
                }
            }
        }
    }

    fn check(&self, kernels: Kernels, phase: Phase, forms: Forms) {
        let got = self.run(kernels, &Team::serial(), phase, forms);
        let leaf = if phase == Phase::Prompt { "prompt" } else { "decode" };
        common::ran(leaf, kernels.isa(), 1);
        if forms.int8 {
            common::ran("quantize_row", kernels.isa(), 1);
        }
        let weights = self.weights();
        for i in 0..self.m {
            let x = &self.x[i * self.k..][..self.k];
            let want = if forms.int8 && self.format.is_block_quantized() {
                reference::int8(x, &weights)
            } else if forms.bf16 && self.format == Format::BF16 {
                reference::bf16(x, &weights)
            } else {
                reference::f32(x, &weights)
            };
            for (j, want) in want.iter().enumerate() {
                let extra = self.bias.as_ref().map_or(0.0, |b| f64::from(b[j]));
                let residual = self.residual.as_ref().map_or(0.0, |r| f64::from(r[i * self.n + j]));
                let (value, magnitude) =
                    (want.value + extra + residual, want.magnitude + extra.abs() + residual.abs());
                // gamma_(k+2) for one chain over k, and what a flushed denormal may cost.
                let u = f64::from(f32::EPSILON) / 2.0;
                let bound = (self.k + 4) as f64 * u * magnitude + 1e-36;
                let got = f64::from(got[i * self.n + j]);
                assert!(
                    (got - value).abs() <= bound,
                    "{} {} {phase:?} {forms:?} m={} n={} k={}: out[{i}, {j}] = {got}, want {value} +- {bound:e}",
                    kernels.isa(),
                    self.format,
                    self.m,
                    self.n,
                    self.k,
                );
            }
        }
    }
}

fn forms() -> [Forms; 2] {
    [Forms::EXACT, Forms { int8: true, halves: true, bf16: true, ..Forms::EXACT }]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn matmul_matches_the_reference_on_every_isa(
        format in 0..Format::ALL.len(),
        m in prop::sample::select(vec![0_usize, 1, 2, 5, 6, 7, 13]),
        n in prop::sample::select(vec![0_usize, 1, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100]),
        blocks in 0_usize..36,
        seed in any::<u64>(),
    ) {
        let format = Format::ALL[format];
        let blocks = if format.block_len() == 256 { blocks / 7 } else { blocks };
        let problem = Problem::new(format, m, n, blocks, seed);
        problem.check_everywhere();
    }
}

/// Long rows, so that every format has several chunks and a tail.
#[test]
fn long_rows_match_the_reference() {
    for format in Format::ALL {
        let blocks = if format.block_len() == 1 { 300 } else { 1312_usize.div_ceil(format.block_len()) };
        let problem = Problem::new(format, 7, 70, blocks, 11);
        problem.check_everywhere();
    }
}

#[test]
fn a_rows_bits_depend_on_neither_threads_nor_other_rows() {
    for format in Format::ALL {
        let blocks = if format.block_len() == 1 { 64 } else { 576_usize.div_ceil(format.block_len()) };
        let whole = Problem::new(format, 128, 200, blocks, 4);
        for kernels in Kernels::every_available() {
            for phase in PHASES {
                for forms in forms() {
                    if forms.int8 && !whole.k.is_multiple_of(32) {
                        continue;
                    }
                    let want = whole.run(kernels, &Team::serial(), phase, forms);
                    for threads in [2, 3, 7] {
                        let got = Pool::new(threads).enter(|team| whole.run(kernels, team, phase, forms));
                        assert!(
                            same_bits(&got, &want),
                            "{} {format} {phase:?} {threads} threads",
                            kernels.isa()
                        );
                    }
                    for m in [1, 2, 17] {
                        let mut few = Problem::new(format, 128, 200, blocks, 4);
                        few.m = m;
                        let got = few.run(kernels, &Team::serial(), phase, forms);
                        assert!(
                            same_bits(&got, &want[..m * 200]),
                            "{} {format} {phase:?} {m} rows",
                            kernels.isa()
                        );
                    }
                }
            }
        }
    }
}

fn same_bits(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits())
}

/// Tables that fuse multiply-add differ in nothing but the order of instructions.
#[test]
fn fused_instruction_sets_agree_bit_for_bit() {
    for format in Format::ALL {
        if format == Format::BF16 {
            continue; // the CPU's own bf16 dot product flushes denormals and rounds once per pair
        }
        let blocks = if format.block_len() == 1 { 99 } else { 1088_usize.div_ceil(format.block_len()) };
        let problem = Problem::new(format, 9, 50, blocks, 8);
        for phase in PHASES {
            for forms in forms() {
                if forms.int8 && !problem.k.is_multiple_of(32) {
                    continue;
                }
                let fused = Kernels::every_available().filter(|k| k.isa() != gable_kernels::Isa::Portable);
                let results: Vec<_> = fused.map(|k| problem.run(k, &Team::serial(), phase, forms)).collect();
                for pair in results.windows(2) {
                    assert!(same_bits(&pair[0], &pair[1]), "{format} {phase:?}");
                }
            }
        }
    }
}

/// -128 and 127 in the weights, full-scale activations: no sum saturates anywhere.
#[test]
fn extreme_integers_are_exact() {
    for (weight, x) in [(-128_i8, 1.0_f32), (-128, -1.0), (127, 1.0), (127, -1.0)] {
        let k = 1024;
        let mut block = f16::from_f32(1.0).to_le_bytes().to_vec();
        block.extend([weight.cast_unsigned(); 32]);
        let bytes: Vec<u8> = block.iter().copied().cycle().take(34 * k / 32).collect();
        let weights = QuantWeights::from_bytes(Format::Q8_0, 1, k, bytes.len(), &bytes).unwrap();
        for kernels in Kernels::every_available() {
            for phase in PHASES {
                let mut a = Activations::new(1, k, Forms::fast(Format::Q8_0));
                a.begin(1, k).unwrap().row_mut(0).fill(x * 127.0);
                kernels.prepare(&Team::serial(), &mut a, Forms::fast(Format::Q8_0)).unwrap();
                let mut out = [0.0];
                let view = MatMut::from_rows(&mut out, 1);
                kernels.matmul(&Team::serial(), phase, &a, &weights, Epilogue::default(), view).unwrap();
                assert_eq!(out[0], f32::from(weight) * x * 127.0 * k as f32, "{} {phase:?}", kernels.isa());
            }
        }
    }
}

/// Leaves sub-blocks' scales of 0 and 1 only, where a block has such.
fn small_scales(format: Format, block: &mut [u8]) {
    let (at, keep, set): (_, &[u8], &[u8]) = match format {
        Format::Q2_K => (0, &[0x11; 16], &[0; 16]),
        // Of six bits, around 32.
        Format::Q3_K => (96, &[0x11, 0x11, 0x11, 0x11, 0x11, 0x11, 0x11, 0x11, 0, 0, 0, 0], &{
            let mut set = [0; 12];
            set[8..].fill(0xaa);
            set
        }),
        Format::Q4_K | Format::Q5_K => (4, &[1, 1, 1, 1, 1, 1, 1, 1, 0x11, 0x11, 0x11, 0x11], &[0; 12]),
        Format::Q6_K => (192, &[1; 16], &[0; 16]),
        Format::INT4 => (2, &[15], &[0]),
        Format::IQ4_XS => (2, &[0, 0, 1, 1, 1, 1], &[0xaa, 0xaa, 0, 0, 0, 0]),
        _ => return,
    };
    for ((byte, keep), set) in block[at..].iter_mut().zip(keep).zip(set) {
        *byte = *byte & keep | set;
    }
}

/// With scales that are powers of two, and activations that their groups hold without rounding, every number on the way is
/// exact in f32: an integer that is off by one is seen, in every format, on every instruction set.
#[test]
fn integer_parts_are_exact() {
    let mut random = Random(5);
    for format in block_formats() {
        for remainder in [Remainder::None, Remainder::All] {
            let two_terms = remainder == Remainder::All;
            let k = if two_terms { format.block_len().max(64) } else { 512 };
            let new = Problem::new(format, 5, 35, k / format.block_len(), random.next());
            let mut problem = Problem { bias: None, residual: None, ..new };
            for block in problem.weights.chunks_exact_mut(format.block_bytes()) {
                for at in format.scale_offsets() {
                    let one = if random.next().is_multiple_of(2) { 1.0 } else { -1.0 };
                    block[*at..at + 2].copy_from_slice(&f16::from_f32(one).to_le_bytes());
                }
                if two_terms {
                    small_scales(format, block);
                }
            }
            for group in problem.x.chunks_exact_mut(32) {
                let largest = random.next() as usize % 32;
                let size = if two_terms || random.next().is_multiple_of(2) { 1.0 } else { 2.0 };
                for (i, x) in group.iter_mut().enumerate() {
                    let first = (random.next() % 7) as f32 - 3.0;
                    let second = if two_terms { (random.next() % 255) as f32 - 127.0 } else { 0.0 };
                    *x = size * if i == largest { 127.0 } else { first + second / 256.0 };
                }
            }
            let weights = problem.weights();
            let want: Vec<_> =
                problem.x.chunks(problem.k).flat_map(|x| reference::f32(x, &weights)).collect();
            // Beyond, f32 would have to round.
            let limit = if two_terms { 65536.0 } else { 16_777_216.0 };
            let largest = want.iter().fold(0.0, |largest: f64, sum| largest.max(sum.magnitude));
            assert!(largest < limit, "{format} {remainder:?}: {largest}");
            for kernels in Kernels::every_available() {
                for phase in PHASES {
                    let got = problem.run(kernels, &Team::serial(), phase, INT8.with_remainder(remainder));
                    for (i, (got, want)) in got.iter().zip(&want).enumerate() {
                        assert_eq!(
                            f64::from(*got),
                            want.value,
                            "{} {format} {phase:?} {remainder:?}: output {i}",
                            kernels.isa()
                        );
                    }
                }
            }
            if !two_terms {
                let integers = problem.x.chunks(problem.k).flat_map(|x| reference::int8(x, &weights));
                assert!(integers.zip(&want).all(|(i, w)| i.value == w.value), "{format}: of 64 bits");
            }
        }
    }
}

#[test]
fn a_nan_or_infinity_stays_in_its_row() {
    for format in [Format::F32, Format::Q8_0, Format::Q4_1, Format::Q6_K, Format::BF16] {
        let blocks = if format.block_len() == 1 { 64 } else { 512 / format.block_len() };
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let clean = Problem::new(format, 7, 40, blocks, 10);
            let mut dirty = Problem::new(format, 7, 40, blocks, 10);
            dirty.x[3 * dirty.k + 5] = bad;
            for kernels in Kernels::every_available() {
                for phase in PHASES {
                    for forms in forms() {
                        if forms.int8 && !clean.k.is_multiple_of(32) {
                            continue;
                        }
                        let want = clean.run(kernels, &Team::serial(), phase, forms);
                        let got = dirty.run(kernels, &Team::serial(), phase, forms);
                        for i in 0..7 {
                            let (got, want) = (&got[i * 40..][..40], &want[i * 40..][..40]);
                            if i == 3 {
                                assert!(
                                    got.iter().all(|x| !x.is_finite()),
                                    "{} {format} {phase:?}",
                                    kernels.isa()
                                );
                            } else {
                                assert!(same_bits(got, want), "{} {format} {phase:?} row {i}", kernels.isa());
                            }
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn dequantized_rows_are_bit_equal_to_the_formulas() {
    let mut random = Random(5);
    for format in Format::ALL {
        for blocks in [1, 2, 3, 17, 21] {
            let cols = if format.block_len() == 1 { blocks * 5 } else { blocks * format.block_len() };
            let bytes = weight_bytes(format, 2, cols, &mut random);
            let stride = format.row_bytes(cols).unwrap();
            let weights = QuantWeights::from_bytes(format, 2, cols, stride, &bytes).unwrap();
            for kernels in Kernels::every_available() {
                let mut out = vec![f32::NAN; cols];
                kernels.dequantize_row(&weights, 1, &mut out).unwrap();
                common::ran("dequantize_row", kernels.isa(), 1);
                let want = quant::dequantize(format, weights.row(1));
                assert!(same_bits(&out, &want), "{} {format} {cols} columns", kernels.isa());
            }
        }
    }
}

#[test]
fn wrong_shapes_are_refused_with_both_values() {
    let kernels = Kernels::best();
    let bytes = vec![0; 4 * 20];
    assert!(
        QuantWeights::from_bytes(Format::Q4_1, 4, 33, 20, &bytes).unwrap_err().to_string().contains("33")
    );
    assert!(
        QuantWeights::from_bytes(Format::Q4_1, 5, 32, 20, &bytes).unwrap_err().to_string().contains("100")
    );
    assert!(QuantWeights::from_bytes(Format::Q4_1, 4, 32, 19, &bytes).is_err());
    assert!(QuantWeights::from_bytes(Format::Q4_1, usize::MAX, 32, 20, &bytes).is_err());
    let weights = QuantWeights::from_bytes(Format::Q4_1, 4, 32, 20, &bytes).unwrap();
    let mut x = Activations::new(2, 64, Forms::EXACT);
    x.begin(1, 64).unwrap();
    let mut out = [1.0; 4];
    let view = MatMut::from_rows(&mut out, 4);
    let error =
        kernels.matmul(&Team::serial(), Phase::Decode, &x, &weights, Epilogue::default(), view).unwrap_err();
    assert_eq!(error.to_string(), "matmul: weights.cols is 32, but 64 is needed");
    assert_eq!(out, [1.0; 4]);
    assert!(x.begin(3, 64).is_err() && x.begin(1, 65).is_err());
    let int8 = Forms { int8: true, ..Forms::EXACT };
    assert!(kernels.prepare(&Team::serial(), &mut x, int8).unwrap_err().to_string().contains("forms"));
}

const INT8: Forms = Forms { int8: true, halves: true, ..Forms::EXACT };

/// What int8 groups in two terms leave over is at most half a step of the second, max |x| / (2 * 127 * 256) per value, and
/// twice that of a value half way between two steps of the first.
#[test]
fn two_terms_carry_sixteen_bits() {
    for (i, format) in block_formats().enumerate() {
        let problem = Problem { bias: None, residual: None, ..Problem::new(format, 5, 37, 3, 70 + i as u64) };
        let weights = problem.weights();
        for kernels in Kernels::every_available() {
            for phase in PHASES {
                let forms = INT8.with_remainder(Remainder::All);
                let got = problem.run(kernels, &Team::serial(), phase, forms);
                common::ran("quantize_remainder", kernels.isa(), 1);
                for (x, got) in problem.x.chunks(problem.k).zip(got.chunks(problem.n)) {
                    let largest = x.iter().fold(0.0_f32, |m, x| m.max(x.abs()));
                    for (j, (want, got)) in reference::f32(x, &weights).iter().zip(got).enumerate() {
                        let mut w = vec![0.0; problem.k];
                        kernels.dequantize_row(&weights, j, &mut w).unwrap();
                        let rounding: f64 = w.iter().map(|w| f64::from(w.abs())).sum::<f64>()
                            * f64::from(largest)
                            / (127.0 * 256.0);
                        let gamma = (problem.k + 8) as f64 * 2.0_f64.powi(-24) * 8.0 * want.magnitude;
                        let off = (want.value - f64::from(*got)).abs();
                        assert!(
                            off <= rounding + gamma,
                            "{} {format} {phase:?}: output {j} is {got}, want {} +- {}",
                            kernels.isa(),
                            want.value,
                            rounding + gamma
                        );
                    }
                }
            }
        }
    }
}

/// Behind a row that ends within a span lies the next one, whose scales are read with its own.
#[test]
fn a_scale_that_is_no_number_stays_in_its_weight_row() {
    const BAD: usize = 3;
    for format in block_formats() {
        let new = || Problem { bias: None, residual: None, ..Problem::new(format, 2, 6, 9, 110) };
        let (clean, mut problem) = (new(), new());
        let at = BAD * format.row_bytes(clean.k).unwrap() + format.scale_offsets()[0];
        problem.weights[at..at + 2].copy_from_slice(&f16::NAN.to_le_bytes());
        for kernels in Kernels::every_available() {
            for (phase, remainder) in
                PHASES.into_iter().flat_map(|p| [(p, Remainder::None), (p, Remainder::All)])
            {
                let [got, want] = [&problem, &clean].map(|problem| {
                    problem.run(kernels, &Team::serial(), phase, INT8.with_remainder(remainder))
                });
                for (i, (got, want)) in got.iter().zip(&want).enumerate() {
                    let right =
                        if i % problem.n == BAD { got.is_nan() } else { got.to_bits() == want.to_bits() };
                    assert!(right, "{} {format} {phase:?} {remainder:?}: output {i} is {got}", kernels.isa());
                }
            }
        }
    }
}

/// Which rows get a second term, and in which groups, depends on the row alone, and what becomes of a row does not depend on
/// the others'.
#[test]
fn what_one_value_dominates_is_kept_in_two_terms_and_nothing_else() {
    const GROUP: usize = 32;
    for (i, format) in block_formats().enumerate() {
        let mut problem = Problem::new(format, 9, 35, 512 / format.block_len(), 90 + i as u64);
        let dominated = [1, 4, 5, 8];
        for row in dominated {
            let x = &mut problem.x[row * problem.k..][..problem.k];
            // Numbers that one term holds exactly, but for two groups, others in each row; in row 8 a third, which no second
            // term is made of.
            let outliers = [row, row + 3];
            for (g, x) in x.chunks_exact_mut(GROUP).enumerate().filter(|(g, _)| !outliers.contains(g)) {
                if row == 8 && g == 5 {
                    continue;
                }
                x.iter_mut().for_each(|x| *x = (*x * 127.0).round() / 128.0);
                x[row] = 127.0 / 128.0;
            }
            // 9 of 12.25 parts of the sum of squares, as against the half that it takes, and half of that value.
            let [largest, half] = outliers.map(|g| g * GROUP + row);
            x[largest] = 0.0;
            let rest: f32 = x.iter().map(|x| x * x).sum();
            x[largest] = -(9.0 * rest).sqrt();
            x[half] = -0.5 * x[largest];
        }
        for kernels in Kernels::every_available() {
            for phase in PHASES {
                let run = |remainder, threads| {
                    let forms = INT8.with_remainder(remainder);
                    let out = Pool::new(threads).enter(|team| problem.run(kernels, team, phase, forms));
                    out.iter().map(|x| x.to_bits()).collect::<Vec<_>>()
                };
                let [none, all] = [Remainder::None, Remainder::All].map(|r| run(r, 1));
                for threads in [1, 3] {
                    let got = run(Remainder::Outliers, threads);
                    for row in 0..problem.m {
                        let [got, none, all] =
                            [&got, &none, &all].map(|out| &out[row * problem.n..][..problem.n]);
                        let place = format!("{} {format} {phase:?}: row {row}", kernels.isa());
                        if dominated.contains(&row) {
                            assert_ne!(got, none, "{place}");
                        } else {
                            assert_eq!(got, none, "{place}");
                        }
                        assert_eq!(got == all, [1, 4, 5].contains(&row), "{place}");
                    }
                }
            }
        }
    }
}

fn block_formats() -> impl Iterator<Item = Format> {
    Format::ALL.into_iter().filter(|format| format.is_block_quantized())
}
