//! Operations that do the work of several have the bits of these one after the other.

mod common;

use common::Random;
use gable_kernels::activation::Activation;
use gable_kernels::gemm::{Epilogue, Factor, Path, Phase, Product, TopK};
use gable_kernels::quant::{Activations, Format, Forms, QuantWeights, Remainder};
use gable_kernels::{Kernels, MatMut, MatRef, Pool, Team};
use half::f16;

const K: usize = 768;
const PHASES: [Phase; 2] = [Phase::Prompt, Phase::Decode];
/// Every form at once.
const FORMS: Forms = Forms { int8: true, halves: true, bf16: true, remainder: Remainder::All };

/// Random blocks with finite scales.
fn weight_bytes(format: Format, rows: usize, random: &mut Random) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..rows * format.row_bytes(K).unwrap()).map(|_| random.next() as u8).collect();
    for block in bytes.chunks_exact_mut(format.block_bytes()) {
        match format {
            Format::F32 => block.copy_from_slice(&random.float().to_le_bytes()),
            Format::BF16 => block.copy_from_slice(&half::bf16::from_f32(random.float()).to_le_bytes()),
            _ => {}
        }
        for at in format.scale_offsets() {
            block[*at..at + 2].copy_from_slice(&f16::from_f32(random.float() / 16.0).to_le_bytes());
        }
    }
    bytes
}

fn weights<'a>(format: Format, bytes: &'a [u8]) -> QuantWeights<'a> {
    let stride = format.row_bytes(K).unwrap();
    QuantWeights::from_bytes(format, bytes.len() / stride, K, stride, bytes).unwrap()
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

/// Products with activations, which tell every form apart: int8 groups, halves, second terms, bf16, f32.
fn products(kernels: Kernels, x: &Activations) -> Vec<u32> {
    let mut random = Random(3);
    let mut all: Vec<u32> = (0..x.rows()).flat_map(|i| bits(x.f32().row(i))).collect();
    for format in [Format::Q4_1, Format::Q2_K, Format::BF16, Format::F32] {
        let bytes = weight_bytes(format, 20, &mut random);
        for phase in PHASES {
            let mut out = vec![0.0; x.rows() * 20];
            let view = MatMut::from_rows(&mut out, 20);
            let weights = weights(format, &bytes);
            kernels.matmul(&Team::serial(), phase, x, &weights, Epilogue::default(), view).unwrap();
            all.extend(bits(&out));
        }
    }
    all
}

#[test]
fn norms_into_activations_have_the_bits_of_a_norm_and_of_prepare() {
    let mut random = Random(1);
    let rows = 9;
    let mut x = random.values(rows * K, 3.0);
    x[2 * K + 5] = 1000.0; // an outlier
    x[4 * K + 7] = f32::NAN;
    let (weight, bias) = (random.values(K, 1.0), random.values(K, 1.0));
    let x = MatRef::from_rows(&x, K);
    for kernels in Kernels::every_available() {
        for remainder in [Remainder::None, Remainder::Outliers, Remainder::All] {
            let forms = FORMS.with_remainder(remainder);
            for threads in [1, 3] {
                Pool::new(threads).enter(|team| {
                    let mut apart = Activations::new(rows, K, FORMS);
                    let mut fused = Activations::new(rows, K, FORMS);
                    let what = format!("{} {remainder:?} {threads} threads", kernels.isa());

                    let out = apart.begin(rows, K).unwrap();
                    kernels.rms_norm(team, x, &weight, 1e-5, out).unwrap();
                    kernels.prepare(team, &mut apart, forms).unwrap();
                    kernels.rms_norm_prepared(team, x, &weight, 1e-5, &mut fused, forms).unwrap();
                    assert_eq!(fused.made(), forms, "{what}");
                    assert!(products(kernels, &apart) == products(kernels, &fused), "{what}: RMS");

                    let out = apart.begin(rows, K).unwrap();
                    kernels.layer_norm(team, x, &weight, &bias, 1e-5, out).unwrap();
                    kernels.prepare(team, &mut apart, forms).unwrap();
                    let vectors = (&weight[..], &bias[..]);
                    kernels.layer_norm_prepared(team, x, vectors, 1e-5, &mut fused, forms).unwrap();
                    assert!(products(kernels, &apart) == products(kernels, &fused), "{what}: layer");
                });
            }
        }
    }
}

#[test]
fn norms_into_activations_refuse_what_norms_and_prepare_refuse() {
    let (kernels, team) = (Kernels::best(), Team::serial());
    let x = MatRef::from_rows(&[1.0; 64], 64);
    let mut a = Activations::new(1, 64, Forms::EXACT);
    let mut refused = |x: MatRef<'_>, weight: &[f32], eps, forms| {
        let vectors = (weight, weight);
        let layer = kernels.layer_norm_prepared(&team, x, vectors, eps, &mut a, forms);
        let rms = kernels.rms_norm_prepared(&team, x, weight, eps, &mut a, forms);
        [layer, rms].map(|result| result.unwrap_err().to_string())
    };
    let weight = [1.0; 64];
    assert!(refused(x, &weight[1..], 0.0, Forms::EXACT).iter().all(|e| e.contains("weight.len is 63")));
    assert!(refused(x, &weight, -1.0, Forms::EXACT).iter().all(|e| e.contains("eps")));
    assert!(refused(x, &weight, 0.0, FORMS).iter().all(|e| e.contains("forms")));
    let wide = MatRef::from_rows(&[1.0; 65], 65);
    assert!(refused(wide, &[1.0; 65], 0.0, Forms::EXACT).iter().all(|e| e.contains("64")));
}

/// A format that reads sums per 16 values does not get by with those per 32.
#[test]
fn halves_of_groups_are_asked_for_by_the_formats_that_read_them() {
    let without = Forms { halves: false, ..FORMS };
    for format in Format::ALL.into_iter().filter(|format| format.is_block_quantized()) {
        let wanted = Forms::fast(format);
        assert_eq!(wanted.halves, format.sub_block_len() == 16, "{format}");
        for (made, path) in
            [(wanted, Path::Int8), (without, if wanted.halves { Path::F32 } else { Path::Int8 })]
        {
            for phase in PHASES {
                assert_eq!(Kernels::best().matmul_plan(phase, format, made, 64, 2).path, path, "{format}");
            }
        }
        let forms = Forms::fast(format);
        let mut a = Activations::new(1, K, Forms { halves: false, ..forms });
        a.begin(1, K).unwrap();
        assert_eq!(
            Kernels::best().prepare(&Team::serial(), &mut a, forms).is_err(),
            forms.halves,
            "{format}"
        );
    }
}

/// What is made later replaces what was made before, and does not live on beside it.
#[test]
fn second_terms_follow_the_latest_call_of_prepare() {
    let team = Team::serial();
    for kernels in Kernels::every_available() {
        let x = Random(8).values(2 * K, 1.0);
        let prepared = |steps: &[Forms]| {
            let mut a = Activations::new(2, K, FORMS);
            let mut rows = a.begin(2, K).unwrap();
            rows.row_mut(0).copy_from_slice(&x[..K]);
            rows.row_mut(1).copy_from_slice(&x[K..]);
            steps.iter().for_each(|forms| kernels.prepare(&team, &mut a, *forms).unwrap());
            products(kernels, &a)
        };
        let one = FORMS.with_remainder(Remainder::None);
        assert!(prepared(&[FORMS]) == prepared(&[one, FORMS]), "{}", kernels.isa());
        assert!(prepared(&[one]) == prepared(&[FORMS, one]), "{}", kernels.isa());
        assert!(prepared(&[one]) != prepared(&[FORMS]), "{}", kernels.isa());
        let bf16 = Forms { bf16: true, ..Forms::EXACT };
        assert!(prepared(&[FORMS]) == prepared(&[FORMS, bf16]), "{}", kernels.isa());
    }
}

/// Three matrices as of a layer's queries, keys and values: other formats, widths that no unit divides, biases, residuals.
#[test]
fn products_in_one_operation_have_the_bits_of_one_after_the_other() {
    let mut random = Random(2);
    let formats = [Format::Q4_K, Format::Q8_0, Format::F32];
    for widths in [[70, 33, 5], [576, 192, 192], [0, 16, 0], [0, 0, 0]] {
        let bytes: Vec<_> = (0..3).map(|i| weight_bytes(formats[i], widths[i], &mut random)).collect();
        let bias = random.values(widths[1], 1.0);
        let residual = random.values(13 * widths[2], 1.0);
        let x = random.values(13 * K, 2.0);
        for kernels in Kernels::every_available() {
            for (phase, rows) in [(Phase::Prompt, 13), (Phase::Decode, 1), (Phase::Decode, 3)] {
                let mut a = Activations::new(rows, K, FORMS);
                let mut to = a.begin(rows, K).unwrap();
                (0..rows).for_each(|i| to.row_mut(i).copy_from_slice(&x[i * K..][..K]));
                kernels.prepare(&Team::serial(), &mut a, FORMS).unwrap();
                let w: Vec<_> = (0..3).map(|i| weights(formats[i], &bytes[i])).collect();
                let epilogues = [
                    Epilogue::default(),
                    Epilogue { bias: Some(&bias), accumulate: false },
                    Epilogue { bias: None, accumulate: true },
                ];
                let start = || {
                    [
                        vec![f32::NAN; rows * widths[0]],
                        vec![f32::NAN; rows * widths[1]],
                        residual[..rows * widths[2]].to_vec(),
                    ]
                };
                let mut want = start();
                for (i, want) in want.iter_mut().enumerate() {
                    let out = MatMut::new(want, rows, widths[i], widths[i]).unwrap();
                    kernels.matmul(&Team::serial(), phase, &a, &w[i], epilogues[i], out).unwrap();
                }
                for threads in [1, 2, 3, 7] {
                    let mut got = start();
                    let mut i = 0;
                    let products = got.each_mut().map(|out| {
                        let (cols, at) = (widths[i], i);
                        i += 1;
                        let out = MatMut::new(out, rows, cols, cols).unwrap();
                        Product { weights: &w[at], epilogue: epilogues[at], out }
                    });
                    Pool::new(threads).enter(|team| kernels.matmul_each(team, phase, &a, products)).unwrap();
                    let what =
                        format!("{} {phase:?} {rows} rows, {widths:?}, {threads} threads", kernels.isa());
                    assert!(got.iter().zip(&want).all(|(got, want)| bits(got) == bits(want)), "{what}");
                }
            }
        }
    }
}

#[test]
fn a_gated_product_has_the_bits_of_two_products_and_the_gate() {
    let mut random = Random(4);
    for width in [1, 16, 50, 200] {
        let (gate_bytes, up_bytes) =
            (weight_bytes(Format::Q4_0, width, &mut random), weight_bytes(Format::Q6_K, width, &mut random));
        let (gate, up) = (weights(Format::Q4_0, &gate_bytes), weights(Format::Q6_K, &up_bytes));
        let bias = random.values(width, 1.0);
        let x = random.values(7 * K, 2.0);
        let epilogue = Epilogue { bias: Some(&bias), accumulate: false };
        for kernels in Kernels::every_available() {
            for (phase, rows) in [(Phase::Prompt, 7), (Phase::Decode, 1), (Phase::Decode, 2)] {
                let mut a = Activations::new(rows, K, FORMS);
                let mut to = a.begin(rows, K).unwrap();
                (0..rows).for_each(|i| to.row_mut(i).copy_from_slice(&x[i * K..][..K]));
                kernels.prepare(&Team::serial(), &mut a, FORMS).unwrap();
                for activation in [Activation::Silu, Activation::Gelu] {
                    let mut factors = [vec![f32::NAN; rows * width], vec![f32::NAN; rows * width]];
                    let mut want = vec![f32::NAN; rows * width];
                    let team = Team::serial();
                    for (factor, w) in factors.iter_mut().zip([&gate, &up]) {
                        let out = MatMut::from_rows(factor, width);
                        kernels.matmul(&team, phase, &a, w, epilogue, out).unwrap();
                    }
                    let [g, u] = factors.each_ref().map(|factor| MatRef::from_rows(factor, width));
                    kernels.gated(&team, activation, g, u, MatMut::from_rows(&mut want, width)).unwrap();
                    for threads in [1, 2, 5] {
                        let mut got = vec![f32::NAN; rows * width];
                        let factors = [&gate, &up].map(|weights| Factor { weights, bias: Some(&bias) });
                        let mut scratch = vec![f32::NAN; kernels.gated_scratch(rows, width, threads)];
                        let out = MatMut::from_rows(&mut got, width);
                        Pool::new(threads)
                            .enter(|team| {
                                let scratch = &mut scratch;
                                kernels.matmul_gated(team, phase, &a, activation, factors, scratch, out)
                            })
                            .unwrap();
                        let what = format!("{} {phase:?} {rows} x {width}, {threads} threads", kernels.isa());
                        assert!(bits(&got) == bits(&want), "{what}");
                    }
                }
            }
        }
    }
}

#[test]
fn gated_products_of_unequal_shapes_are_refused() {
    let bytes = vec![0; 34 * 24 * 8];
    let (seven, eight) = (weights(Format::Q8_0, &bytes[..34 * 24 * 7]), weights(Format::Q8_0, &bytes));
    let mut a = Activations::new(1, K, Forms::EXACT);
    a.begin(1, K).unwrap();
    let refused = |up: &QuantWeights<'_>, cols: usize, scratch: usize| {
        let (mut scratch, mut out) = (vec![1.0; scratch], vec![1.0; cols]);
        let factors = [&eight, up].map(|weights| Factor { weights, bias: None });
        let view = MatMut::from_rows(&mut out, cols);
        let result = Kernels::best().matmul_gated(
            &Team::serial(),
            Phase::Decode,
            &a,
            Activation::Silu,
            factors,
            &mut scratch,
            view,
        );
        assert_eq!(out, vec![1.0; cols]);
        result.unwrap_err().to_string()
    };
    assert_eq!(refused(&seven, 8, 99), "matmul_gated: weights.rows is 7, but 8 is needed");
    assert_eq!(refused(&eight, 9, 99), "matmul_gated: weights.rows is 8, but 9 is needed");
    assert_eq!(refused(&eight, 8, 9), "matmul_gated: scratch.len() (at least) is 9, but 32 is needed");
}

/// The k largest, of equal ones the first, in the order of their places.
fn largest(values: &[f32], k: usize) -> Vec<(u32, u32)> {
    let mut order: Vec<usize> = (0..values.len()).filter(|j| values[*j] > f32::NEG_INFINITY).collect();
    order.sort_by(|a, b| values[*b].total_cmp(&values[*a]).then(a.cmp(b)));
    order.truncate(k);
    order.sort_unstable();
    order.iter().map(|j| (*j as u32, values[*j].to_bits())).collect()
}

#[test]
fn the_largest_outputs_are_those_of_a_product_for_any_threads() {
    let mut random = Random(5);
    for (n, equal) in [(1, false), (40, false), (300, true), (5000, false), (20_000, true)] {
        let bytes = weight_bytes(Format::Q4_1, n, &mut random);
        // The same few rows again and again: outputs that are equal wherever the parts are cut.
        let row = Format::Q4_1.row_bytes(K).unwrap();
        let bytes =
            if equal { bytes[..7 * row].iter().copied().cycle().take(n * row).collect() } else { bytes };
        let w = weights(Format::Q4_1, &bytes);
        let mut a = Activations::new(1, K, FORMS);
        a.begin(1, K).unwrap().row_mut(0).copy_from_slice(&random.values(K, 2.0));
        for kernels in Kernels::every_available() {
            kernels.prepare(&Team::serial(), &mut a, FORMS).unwrap();
            for (phase, cap) in [(Phase::Decode, None), (Phase::Prompt, None), (Phase::Decode, Some(3.0))] {
                let mut logits = vec![f32::NAN; n];
                let out = MatMut::from_rows(&mut logits, n);
                kernels.matmul(&Team::serial(), phase, &a, &w, Epilogue::default(), out).unwrap();
                if let Some(cap) = cap {
                    kernels.softcap(&Team::serial(), cap, MatMut::from_rows(&mut logits, n)).unwrap();
                }
                for (k, threads) in [(1, 1), (1, 2), (40, 2), (40, 5), (n + 3, 3), (0, 2)] {
                    let mut top = TopK::new(k, threads).unwrap();
                    for _ in 0..2 {
                        Pool::new(threads)
                            .enter(|team| kernels.matmul_top_k(team, phase, &a, &w, cap, &mut top))
                            .unwrap();
                        let found = top.entries().unwrap();
                        let got: Vec<_> = found.iter().map(|e| (e.index, e.value.to_bits())).collect();
                        let what = format!("{} {phase:?} {n} rows, {k} of them", kernels.isa());
                        assert_eq!(got, largest(&logits, k), "{what}, {threads} threads");
                    }
                }
            }
        }
    }
}

#[test]
fn the_largest_outputs_tell_the_first_nan_and_what_cannot_be_multiplied() {
    let values: Vec<f32> = (0..9000).map(|i| if i % 4000 == 3999 { f32::NAN } else { -(i as f32) }).collect();
    let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    let w = QuantWeights::from_bytes(Format::F32, 9000, 1, 4, &bytes).unwrap();
    let mut a = Activations::new(2, 1, Forms::EXACT);
    a.begin(1, 1).unwrap().row_mut(0)[0] = 1.0;
    let kernels = Kernels::best();
    for threads in [1, 2, 3] {
        let mut top = TopK::new(2, threads).unwrap();
        let find = |a: &Activations, w: &QuantWeights<'_>, cap, top: &mut TopK| {
            Pool::new(threads).enter(|team| kernels.matmul_top_k(team, Phase::Decode, a, w, cap, top))
        };
        find(&a, &w, None, &mut top).unwrap();
        assert_eq!(top.entries(), Err(3999));
        find(&a, &w.row_range(0..100), None, &mut top).unwrap();
        assert_eq!(top.entries().unwrap().iter().map(|e| e.index).collect::<Vec<_>>(), [0, 1]);
        assert!(find(&a, &w, Some(0.0), &mut top).unwrap_err().to_string().contains("soft_cap is 0"));
        let mut two = Activations::new(2, 1, Forms::EXACT);
        two.begin(2, 1).unwrap();
        let error = find(&two, &w, None, &mut top).unwrap_err();
        assert_eq!(error.to_string(), "matmul_top_k: x.rows is 2, but 1 is needed");
        let error = find(&a, &w, None, &mut TopK::default()).unwrap_err();
        assert_eq!(error.to_string(), "matmul_top_k: top's threads (at least) is 0, but 1 is needed");
    }
}
