//! Quantizers: the reference's bytes, errors below those of plain rounding, and finite scales from whatever is finite.

mod common;

use common::Random;
use gable_kernels::quant::{Format, quantize_weights};
use gable_kernels::reference::quant::dequantize;
use half::f16;
use proptest::prelude::*;

const LEGACY: [Format; 5] = [Format::Q4_0, Format::Q4_1, Format::Q5_0, Format::Q5_1, Format::Q8_0];
const K: [Format; 3] = [Format::Q4_K, Format::Q5_K, Format::Q6_K];
const IQ4: [Format; 2] = [Format::IQ4_NL, Format::IQ4_XS];

fn blocks() -> impl Iterator<Item = Format> {
    Format::ALL.into_iter().filter(|f| f.is_block_quantized() && f.can_quantize())
}

fn quantize(format: Format, x: &[f32], importance: Option<&[f32]>) -> Vec<u8> {
    let mut out = vec![0xa5; format.row_bytes(x.len()).unwrap()];
    quantize_weights(format, x, importance, &mut out).unwrap();
    out
}

fn squared_error(x: &[f32], y: &[f32], weight: impl Fn(usize) -> f64) -> f64 {
    let terms = x.iter().zip(y).enumerate();
    terms.map(|(i, (x, y))| weight(i) * (f64::from(*x) - f64::from(*y)).powi(2)).sum()
}

/// About normal: the sum of twelve uniform numbers.
fn normal(random: &mut Random, n: usize) -> Vec<f32> {
    (0..n).map(|_| (0..12).map(|_| random.float()).sum::<f32>() / 2.0).collect()
}

#[test]
fn legacy_formats_have_the_bytes_of_an_independent_quantizer() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/quantize");
    let x: Vec<f32> = std::fs::read(folder.join("input.f32"))
        .unwrap()
        .as_chunks()
        .0
        .iter()
        .map(|b| f32::from_le_bytes(*b))
        .collect();
    assert_eq!(x.len(), 64 * 32);
    for format in LEGACY {
        let want = std::fs::read(folder.join(format!("{format}.blocks"))).unwrap();
        let got = quantize(format, &x, None);
        let pairs = got.chunks(format.block_bytes()).zip(want.chunks(format.block_bytes()));
        for (i, (got, want)) in pairs.enumerate() {
            assert_eq!(got, want, "{format}, block {i}");
        }
    }
}

#[test]
fn plain_floats_round_to_nearest_and_never_to_infinity() {
    let x = [1.0, 1.0 + 1.0 / 512.0, -1e6, 65519.0, f32::MAX, f32::MIN, 1e-45, -0.0];
    let f16s = dequantize(Format::F16, &quantize(Format::F16, &x, None));
    let want =
        [1.0, f16::from_f32(1.0 + 1.0 / 512.0).to_f32(), -65504.0, 65504.0, 65504.0, -65504.0, 0.0, -0.0];
    assert_eq!(f16s, want);
    let bf16s = dequantize(Format::BF16, &quantize(Format::BF16, &x, None));
    assert!(
        bf16s.iter().zip(x).all(|(b, x)| b.is_finite() && (b - x).abs() <= x.abs() / 256.0 + 1e-40),
        "{bf16s:?}"
    );
    assert_eq!(dequantize(Format::F32, &quantize(Format::F32, &x, None)), x);
}

/// The sub-blocks' ranges, cut into as many steps as there are integers, with scales in full precision.
fn rounded_range(format: Format, x: &[f32]) -> Vec<f32> {
    let top = match format {
        Format::Q4_K => 15.0,
        Format::Q5_K => 31.0,
        _ => 63.0,
    };
    let round = |x: &[f32]| {
        let (low, high) = x.iter().fold((0.0_f32, f32::MIN), |(l, h), x| (l.min(*x), h.max(*x)));
        // Without a minimum, the range is symmetric.
        let low = if format == Format::Q6_K { low.min(-high) } else { low };
        let step = (high.max(-low * f32::from(u8::from(format == Format::Q6_K))) - low) / top;
        x.iter().map(|x| ((x - low) / step).round() * step + low).collect::<Vec<_>>()
    };
    x.chunks(format.sub_block_len()).flat_map(round).collect()
}

#[test]
fn searched_scales_beat_the_rounded_range_though_they_are_stored_in_few_bits() {
    let x = normal(&mut Random(1), 64 * 256);
    for format in K {
        let got = squared_error(&x, &dequantize(format, &quantize(format, &x, None)), |_| 1.0);
        let rounded = squared_error(&x, &rounded_range(format, &x), |_| 1.0);
        assert!(got < 0.95 * rounded, "{format}: {got} against {rounded}");
    }
}

/// Levels that are dense around zero suit values of which most are small, better than even ones of as many bits.
#[test]
fn nonlinear_levels_beat_even_ones_on_normal_values() {
    let x = normal(&mut Random(6), 64 * 256);
    let error = |format| {
        squared_error(&x, &dequantize(format, &quantize(format, &x, Some(&vec![1.0; x.len()]))), |_| 1.0)
    };
    let (nl, xs, even) = (error(Format::IQ4_NL), error(Format::IQ4_XS), error(Format::Q4_0));
    assert!(nl < 0.95 * even, "IQ4_NL: {nl} against {even}");
    // Scales of six bits cost little.
    assert!(xs < 1.1 * nl, "IQ4_XS: {xs} against {nl}");
}

#[test]
fn values_that_a_block_can_hold_come_back() {
    let mut random = Random(2);
    let levels = [16.0, 32.0, 64.0, 16.0, 16.0];
    for (format, levels) in K.into_iter().chain(IQ4).zip(levels) {
        let (mut errors, mut roundings) = (0.0, 0.0);
        for _ in 0..40 {
            let mut bytes: Vec<u8> = (0..format.block_bytes()).map(|_| random.next() as u8).collect();
            for at in format.scale_offsets() {
                let scale = f16::from_f32(0.001 + random.float().abs() / 16.0);
                bytes[*at..at + 2].copy_from_slice(&scale.to_le_bytes());
            }
            let x = dequantize(format, &bytes);
            let error = squared_error(&x, &dequantize(format, &quantize(format, &x, None)), |_| 1.0);
            // What rounding other values to the steps of these sub-blocks would cost: a twelfth of a step each.
            let sub_blocks = x.chunks(format.sub_block_len());
            let rounding: f64 = sub_blocks
                .map(|x| {
                    let (low, high) = x.iter().fold((f32::MAX, f32::MIN), |(l, h), x| (l.min(*x), h.max(*x)));
                    (f64::from(high - low) / (levels - 1.0)).powi(2) / 12.0 * x.len() as f64
                })
                .sum();
            errors += error;
            roundings += rounding;
        }
        assert!(errors <= 0.2 * roundings, "{format}: {errors} of {roundings}");
    }
}

#[test]
fn importance_lowers_the_error_where_it_lies() {
    let mut random = Random(3);
    let x = normal(&mut random, 4096);
    let importance: Vec<f32> = (0..x.len()).map(|_| (3.0 * random.float()).exp()).collect();
    for format in blocks().filter(|f| *f != Format::Q8_0) {
        let weighted = |w: Option<&[f32]>| {
            let y = dequantize(format, &quantize(format, &x, w));
            squared_error(&x, &y, |i| f64::from(importance[i]))
        };
        let (with, without) = (weighted(Some(&importance)), weighted(None));
        assert!(with < 0.95 * without, "{format}: {with} against {without}");
        if LEGACY.contains(&format) {
            let made = [Some(&importance[..]), None].map(|w| dequantize(format, &quantize(format, &x, w)));
            for block in 0..x.len() / 32 {
                let range = block * 32..(block + 1) * 32;
                let [with, without] = [&made[0], &made[1]].map(|y| {
                    let mean = importance.iter().sum::<f32>() / importance.len() as f32;
                    let weight = |i: usize| f64::from((importance[block * 32 + i] / mean).max(1e-3));
                    squared_error(&x[range.clone()], &y[range.clone()], weight)
                });
                assert!(with <= without * 1.0001, "{format}, block {block}: {with} against {without}");
            }
        }
        // Only its proportions count, and all the same is as good as none for the searches.
        let tenfold: Vec<f32> = importance.iter().map(|w| w * 1024.0).collect();
        assert_eq!(quantize(format, &x, Some(&importance)), quantize(format, &x, Some(&tenfold)), "{format}");
        if !LEGACY.contains(&format) {
            let even = vec![4.0; x.len()];
            assert_eq!(quantize(format, &x, Some(&even)), quantize(format, &x, None), "{format}");
        }
        let none = vec![0.0; x.len()];
        quantize(format, &x, Some(&none));
    }
}

#[test]
fn a_power_of_two_changes_the_scales_alone() {
    let x = normal(&mut Random(4), 2048);
    for format in blocks() {
        let y: Vec<f32> = x.iter().map(|x| x * 8.0).collect();
        let want: Vec<f32> =
            dequantize(format, &quantize(format, &x, None)).into_iter().map(|x| x * 8.0).collect();
        assert_eq!(dequantize(format, &quantize(format, &y, None)), want, "{format}");
    }
}

#[test]
fn small_values_are_not_lost_to_a_scale_that_rounds_to_zero() {
    let x: Vec<f32> = normal(&mut Random(5), 1024).into_iter().map(|x| x * 2e-6).collect();
    let size = squared_error(&x, &vec![0.0; x.len()], |_| 1.0);
    for format in K.into_iter().chain([Format::IQ4_XS]) {
        // The least scale of a sub-block is 2^-24, a thirtieth of these values.
        let error = squared_error(&x, &dequantize(format, &quantize(format, &x, None)), |_| 1.0);
        assert!(error < 0.02 * size, "{format}: {}", error / size);
    }
}

#[test]
fn what_is_beyond_a_format_is_clipped_to_its_largest_values() {
    for format in blocks() {
        let x: Vec<f32> = (0..256).map(|i| if i % 2 == 0 { 3e38 } else { -3e38 }).collect();
        let y = dequantize(format, &quantize(format, &x, None));
        let least = 65504.0;
        assert!(y.iter().zip(&x).all(|(y, x)| y.is_finite() && y * x.signum() >= least), "{format}: {y:?}");
    }
}

#[test]
fn zeros_become_zeros() {
    for format in blocks() {
        let x = [0.0, -0.0, 1e-30].repeat(256);
        let y = dequantize(format, &quantize(format, &x, None));
        assert!(y.iter().all(|y| *y == 0.0), "{format}");
        let y = dequantize(format, &quantize(format, &[0.0; 256], Some(&[1.0; 256])));
        assert!(y.iter().all(|y| *y == 0.0), "{format}");
    }
}

/// Finite floats of every size, often many of one kind in a block.
fn finite() -> impl Strategy<Value = f32> {
    prop_oneof![
        4 => any::<u32>().prop_map(f32::from_bits).prop_filter("finite", |x| x.is_finite()),
        2 => Just(0.0_f32),
        1 => Just(f32::MAX),
        1 => Just(f32::MIN),
        1 => Just(f32::MIN_POSITIVE),
        1 => Just(1e-45_f32),
        1 => Just(65504.0_f32),
        4 => -1.0_f32..1.0,
        2 => (-1.0_f32..1.0).prop_map(|x| x * 1e-7),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn finite_values_have_finite_scales(
        kinds in prop::collection::vec(finite(), 1..5),
        picks in prop::collection::vec(any::<u8>(), 256),
        importance in prop::option::of(prop::collection::vec(0.0_f32..3.4e38, 256)),
    ) {
        let x: Vec<f32> = picks.iter().map(|p| kinds[usize::from(*p) % kinds.len()]).collect();
        for format in blocks() {
            let bytes = quantize(format, &x, importance.as_deref());
            for (i, block) in bytes.chunks(format.block_bytes()).enumerate() {
                for at in format.scale_offsets() {
                    let scale = f16::from_le_bytes([block[*at], block[at + 1]]);
                    prop_assert!(scale.is_finite(), "{format}, block {i}: {scale} from {x:?}");
                }
            }
            // Nothing is farther off than zeros would be, but for rounding, unless it was clipped.
            let y = dequantize(format, &bytes);
            prop_assert!(y.iter().all(|y| y.is_finite()), "{format}");
            let largest = x.iter().fold(0.0_f32, |m, x| m.max(x.abs()));
            if !LEGACY.contains(&format) && importance.is_none() && (1e-3..6e4).contains(&largest) {
                let zeros = squared_error(&x, &vec![0.0; 256], |_| 1.0);
                prop_assert!(squared_error(&x, &y, |_| 1.0) <= 1.001 * zeros, "{format}: {x:?}");
            }
        }
    }
}

#[test]
fn wrong_input_is_named_with_both_values() {
    let say = |format, x: &[f32], w: Option<&[f32]>, bytes: usize| {
        quantize_weights(format, x, w, &mut vec![0; bytes]).unwrap_err().to_string()
    };
    assert_eq!(
        say(Format::Q4_K, &[0.0; 32], None, 18),
        "Q4_K packs blocks of 256 values, so 32 columns cannot be stored in it"
    );
    let text = say(Format::Q8_0, &[0.0; 32], None, 33);
    assert_eq!(text, "quantize_weights: out.len() is 33, but 34 is needed");
    let text = say(Format::Q8_0, &[0.0; 32], Some(&[1.0; 31]), 34);
    assert_eq!(text, "quantize_weights: importance.len() is 31, but 32 is needed");
    let mut x = [0.0; 32];
    x[7] = f32::NAN;
    assert!(say(Format::Q8_0, &x, None, 34).contains("x is NaN at column 7"));
    x[7] = f32::NEG_INFINITY;
    assert!(say(Format::F16, &x, None, 64).contains("x is -inf at column 7"));
    let mut w = [1.0; 32];
    w[3] = -1.0;
    assert!(say(Format::Q8_0, &[0.0; 32], Some(&w), 34).contains("importance is -1 at column 3"));
    assert!(say(Format::Q2_K, &[0.0; 256], None, 84).contains("format is Q2_K; allowed: F32"));
}
