//! Every row-wise operation on every instruction set against the reference, at lengths that straddle every edge, in
//! matrices with canaries around them, with 1, 2, 3 and 7 threads.

mod common;

use common::{Guarded, Random, for_every_team, on_every_isa};
use gable_kernels::activation::Activation;
use gable_kernels::reference::rowwise as reference;
use gable_kernels::rope::{Rope, RopeAngles, RopePairing, RopeScaling};
use gable_kernels::{Isa, KernelError, Kernels, MatMut, MatRef, Team};
use proptest::prelude::*;

const U: f64 = 1.0 / 16_777_216.0; // 2^-24
const TINY: f64 = 1.175_494_350_822_287_5e-38; // 2^-126
const ACTIVATIONS: [Activation; 4] =
    [Activation::Silu, Activation::Gelu, Activation::GeluErf, Activation::Relu];

/// Lengths around every boundary of a loop.
fn cols() -> impl Strategy<Value = usize> {
    let edges =
        vec![0, 1, 2, 15, 16, 17, 31, 32, 33, 47, 48, 49, 63, 64, 65, 79, 127, 128, 129, 255, 257, 576, 1025];
    prop_oneof![3 => prop::sample::select(edges), 1 => 0usize..300]
}

/// Rows, columns, padding, shift, seed.
fn shape() -> impl Strategy<Value = (usize, usize, usize, usize, u64)> {
    (0usize..9, cols(), prop_oneof![Just(0usize), 0usize..20], 0usize..16, any::<u64>())
}

fn cases() -> ProptestConfig {
    ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() }
}

/// Runs an operation on a copy of `m` with every team on every instruction set, and checks: canaries intact, same
/// bits for every team, same bits on every instruction set that fuses. Returns one result per instruction set.
fn run_everywhere(
    names: &[&'static str],
    m: &Guarded,
    mut op: impl FnMut(Kernels, &Team<'_>, MatMut<'_>) -> Result<(), KernelError>,
) -> Vec<(Isa, Guarded)> {
    let mut results: Vec<(Isa, Guarded)> = Vec::new();
    on_every_isa(names, |kernels| {
        let mut first: Option<Guarded> = None;
        for_every_team(|team| {
            let mut got = m.clone();
            op(kernels, team, got.mat_mut()).unwrap();
            got.assert_intact();
            match &first {
                None => first = Some(got),
                Some(first) => assert_eq!(first.bits(), got.bits(), "{} threads", team.threads()),
            }
        });
        results.push((kernels.isa(), first.unwrap()));
    });
    let mut fused = results.iter().filter(|(isa, _)| *isa != Isa::Portable);
    if let Some((isa, first)) = fused.next() {
        for (other, got) in fused {
            assert_eq!(first.bits(), got.bits(), "{isa} and {other}");
        }
    }
    results
}

/// Checks one row: NaN where the reference is NaN, equal infinities, and otherwise within `bound(i)`.
fn assert_row(isa: Isa, got: &[f32], want: &[f64], bound: impl Fn(usize) -> f64) {
    assert_eq!(got.len(), want.len());
    for (i, (&got, &want)) in got.iter().zip(want).enumerate() {
        let got = f64::from(got);
        let ok = (got.is_nan() && want.is_nan()) || got == want || (got - want).abs() <= bound(i);
        assert!(ok, "{isa}, element {i} of a row: {got:e}, reference {want:e}, bound {:e}", bound(i));
    }
}

/// How far apart two f32 are at x, denormals included.
fn ulp(x: f64) -> f64 {
    let exponent = ((x.abs().to_bits() >> 52) as i32 - 1023).clamp(-126, 127);
    2f64.powi(exponent - 23)
}

/// A scaling with pairs that stay, pairs that are scaled, and some between.
fn yarn(truncate: bool) -> RopeScaling {
    RopeScaling::Yarn {
        factor: 4.0,
        original_context: 32_768,
        beta_fast: 32.0,
        beta_slow: 1.0,
        truncate,
        attention_factor: 1.138_629_4,
    }
}

/// One of the functions of math.rs: how it is called, its reference, and the bound in ulp plus an absolute one.
struct Function {
    name: &'static str,
    call: fn(Kernels, &mut [f32]),
    reference: fn(f64) -> f64,
    ulps: f64,
    absolute: f64,
}

const FUNCTIONS: [Function; 4] = [
    Function { name: "exp_row", call: Kernels::exp, reference: f64::exp, ulps: 2.0, absolute: 0.0 },
    Function {
        name: "sigmoid_row",
        call: Kernels::sigmoid,
        reference: reference::sigmoid,
        ulps: 4.0,
        absolute: 0.0,
    },
    Function { name: "tanh_row", call: Kernels::tanh, reference: f64::tanh, ulps: 4.0, absolute: 0.0 },
    Function { name: "erf_row", call: Kernels::erf, reference: reference::erf, ulps: 0.0, absolute: 7e-7 },
];

/// Checks a function at every `step`-th f32 and returns its largest error per instruction set, in ulp or absolute.
fn sweep(f: &Function, step: usize) {
    const BATCH: usize = 4093; // not a multiple of 16, so the tail is in it
    let mut inputs = Vec::with_capacity(BATCH);
    let mut values = (0..=u32::MAX).step_by(step).map(f32::from_bits);
    let mut worst: Vec<(f64, f32)> = vec![(0.0, 0.0); Kernels::every_available().count()];
    loop {
        inputs.clear();
        inputs.extend(values.by_ref().take(BATCH));
        if inputs.is_empty() {
            break;
        }
        let want: Vec<f64> = inputs.iter().map(|&x| (f.reference)(f64::from(x))).collect();
        for (kernels, worst) in Kernels::every_available().zip(&mut worst) {
            let mut got = inputs.clone();
            (f.call)(kernels, &mut got);
            common::ran(f.name, kernels.isa(), got.len() as u64);
            for ((&x, &got), &want) in inputs.iter().zip(&got).zip(&want) {
                if want.is_nan() {
                    assert!(got.is_nan(), "{} on {}: {got} for {x:?}", f.name, kernels.isa());
                    continue;
                }
                // Infinity counts as 2^128, which is where the next f32 would be.
                let value = if got.is_infinite() { 2f64.powi(128).copysign(got.into()) } else { got.into() };
                let error = (value - want.clamp(-(2f64.powi(128)), 2f64.powi(128))).abs();
                let error = if f.absolute > 0.0 { error / f.absolute } else { error / ulp(want) / f.ulps };
                if error.is_nan() || error > worst.0 {
                    *worst = (error, x);
                }
                assert!(
                    error <= 1.0,
                    "{} on {}: {got:e} for {x:e}, reference {want:e}",
                    f.name,
                    kernels.isa()
                );
            }
        }
    }
    for (kernels, (error, x)) in Kernels::every_available().zip(worst) {
        let (amount, unit) =
            if f.absolute > 0.0 { (error * f.absolute, "") } else { (error * f.ulps, " ulp") };
        println!("{:12} {:12} largest error {amount:.3e}{unit} at {x:e}", f.name, kernels.isa().name());
    }
}

#[test]
fn functions_keep_their_bounds_on_every_997th_f32() {
    FUNCTIONS.iter().for_each(|f| sweep(f, 997));
}

#[test]
#[ignore = "hours on few cores: all 2^32 values"]
fn functions_keep_their_bounds_on_every_f32() {
    FUNCTIONS.iter().for_each(|f| sweep(f, 1));
}

#[test]
fn functions_meet_their_special_values() {
    let inf = f32::INFINITY;
    for kernels in Kernels::every_available() {
        let of = |f: fn(Kernels, &mut [f32]), x: f32| {
            let mut v = [x];
            f(kernels, &mut v);
            v[0]
        };
        assert_eq!(of(Kernels::exp, 0.0), 1.0);
        assert_eq!(of(Kernels::exp, -inf).to_bits(), 0);
        assert_eq!(of(Kernels::exp, inf), inf);
        assert_eq!(of(Kernels::exp, 89.0), inf);
        assert!(of(Kernels::exp, 88.72).is_finite());
        assert_eq!(of(Kernels::sigmoid, -inf), 0.0);
        assert_eq!(of(Kernels::sigmoid, inf), 1.0);
        assert_eq!(of(Kernels::tanh, -0.0).to_bits(), (-0.0f32).to_bits());
        assert_eq!((of(Kernels::tanh, -inf), of(Kernels::tanh, inf)), (-1.0, 1.0));
        assert_eq!((of(Kernels::erf, -inf), of(Kernels::erf, inf)), (-1.0, 1.0));
        for f in FUNCTIONS {
            assert!(of(f.call, f32::NAN).is_nan() && of(f.call, -f32::NAN).is_nan());
        }
    }
}

#[test]
fn the_reference_erf_agrees_with_tabulated_values() {
    // Abramowitz and Stegun, table 7.1, and the complement from table 7.3 at 1/x^2 = 0.04.
    for (x, want) in [(0.1, 0.112462916), (0.5, 0.5204998778), (1.0, 0.8427007929), (1.9, 0.9927904292)] {
        assert!((reference::erf(x) - want).abs() < 1e-10);
    }
    // Both methods where they meet.
    assert!((reference::erf(2.0) - reference::erf(2.0 - 1e-12)).abs() < 1e-12);
    assert!((reference::erfc(5.0) / 1.537_459_794_428_035e-12 - 1.0).abs() < 1e-12);
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn softmax_matches_the_reference(
        (rows, cols, padding, shift, seed) in shape(), scale in -2.0f32..4.0, masks in 0usize..3, large: bool,
    ) {
        let mut random = Random(seed);
        let m = Guarded::new(rows, cols, padding, shift, || random.value(if large { 300.0 } else { 8.0 }));
        let mask_rows = if masks == 1 { 1 } else { rows };
        let mask = Guarded::new(mask_rows, cols, padding / 2, shift / 2, || match random.below(3) {
            0 => f32::NEG_INFINITY,
            _ => random.value(4.0),
        });
        let mask_row = |i: usize| (masks > 0).then(|| mask.row(if masks == 1 { 0 } else { i }));
        let mask_mat = (masks > 0).then(|| mask.mat());
        let plain = run_everywhere(&["softmax_rows", "softmax_chunk"], &m, |k, team, x| k.softmax(team, scale, mask_mat, x));
        let log = run_everywhere(&["log_softmax_chunk", "log_softmax_shift"], &m, |k, team, x| k.log_softmax(team, scale, mask_mat, x));
        for i in 0..rows {
            let t = reference::scores(m.row(i), scale, mask_row(i));
            let max = t.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            // A masked element is exact, and no measure for the others.
            let magnitude = |t: f64| if t.is_finite() { t.abs() } else { 0.0 };
            let size = |j: usize| magnitude(t[j]) + f64::from(m.row(i)[j] * scale).abs() + magnitude(max);
            let (want, want_log) = (reference::softmax(&t), reference::log_softmax(&t));
            // Scores below the maximum by much have a large rounding error, relative to exp's argument.
            let steps = 12.0 + cols as f64 / 16.0;
            for (isa, got) in &plain {
                let largest = (0..cols).map(size).fold(0.0, f64::max);
                assert_row(*isa, got.row(i), &want, |j| (steps + 2.0 * largest) * U * want[j] + TINY);
                let sum: f64 = got.row(i).iter().map(|&x| f64::from(x)).sum();
                prop_assert!(cols == 0 || sum.is_nan() || (sum - 1.0).abs() <= (cols as f64 + 12.0) * U);
            }
            for (isa, got) in &log {
                let largest = (0..cols).map(size).fold(0.0, f64::max);
                assert_row(*isa, got.row(i), &want_log, |j| (steps + 2.0 * largest + 2.0 * magnitude(want_log[j])) * U);
            }
        }
    }

    #[test]
    fn softmax_is_monotone_and_ignores_a_common_shift_that_is_exact(seed: u64, n in 1usize..100) {
        let mut random = Random(seed);
        // Multiples of 1/64, so that adding 32 rounds nothing.
        let x: Vec<f32> = (0..n).map(|_| random.below(1024) as f32 / 64.0).collect();
        for kernels in Kernels::every_available() {
            let softmax = |shift: f32| {
                let mut y: Vec<f32> = x.iter().map(|x| x + shift).collect();
                kernels.softmax(&Team::serial(), 1.0, None, MatMut::from_rows(&mut y, n)).unwrap();
                y
            };
            let y = softmax(0.0);
            prop_assert_eq!(&y, &softmax(32.0));
            for i in 0..n {
                for j in 0..n {
                    prop_assert!(x[i] < x[j] || y[i] >= y[j]);
                }
            }
        }
    }

    #[test]
    fn norms_match_the_reference(
        (rows, cols, padding, shift, seed) in shape(), eps in prop::sample::select(vec![0.0f32, 1e-6, 1e-5]),
        magnitude in prop::sample::select(vec![1e-30f32, 1e-3, 1.0, 30.0, 1e18, 3e37]), offset: bool,
    ) {
        let mut random = Random(seed);
        let offset = if offset { 100.0 * magnitude.min(1e35) } else { 0.0 };
        let x = Guarded::new(rows, cols, padding, shift, || random.float() * magnitude + offset);
        let out = Guarded::new(rows, cols, padding / 3, 15 - shift, || f32::NAN);
        let residual = Guarded::new(rows, cols, padding / 3, 15 - shift, || random.float());
        let (weight, bias) = (random.values(cols, 2.0), random.values(cols, 1.0));
        let steps = (8.0 + cols as f64 / 32.0) * 2.0 * U;

        let rms = run_everywhere(&["rms_norm_row"], &out, |k, team, out| k.rms_norm(team, x.mat(), &weight, eps, out));
        for (isa, got) in &rms {
            for i in 0..rows {
                let want = reference::rms_norm(x.row(i), &weight, eps);
                assert_row(*isa, got.row(i), &want, |j| steps * want[j].abs() + TINY);
            }
        }
        if cols > 0 {
            let same = run_everywhere(&["rms_norm_row_in_place"], &x, |k, team, x| {
                k.rms_norm_in_place(team, x, &weight, eps)
            });
            for ((_, got), (_, want)) in same.iter().zip(&rms) {
                prop_assert_eq!(got.bits(), want.bits());
            }
        }
        let added = run_everywhere(&["rms_norm_row_add"], &residual, |k, team, residual| {
            k.rms_norm_add(team, x.mat(), &weight, eps, residual)
        });
        for ((isa, got), (_, normed)) in added.iter().zip(&rms) {
            let mut want = residual.clone();
            Kernels::for_isa(*isa).unwrap().add(&Team::serial(), want.mat_mut(), normed.mat()).unwrap();
            prop_assert_eq!(got.bits(), want.bits());
        }

        let layer = run_everywhere(&["layer_norm_row"], &out, |k, team, out| {
            k.layer_norm(team, x.mat(), &weight, &bias, eps, out)
        });
        for (isa, got) in &layer {
            for i in 0..rows {
                let (want, root) = reference::layer_norm(x.row(i), &weight, &bias, eps);
                let largest = x.row(i).iter().map(|x| f64::from(x.abs())).fold(0.0, f64::max);
                let bound = |j: usize| {
                    steps * f64::from(weight[j].abs()) * largest / root + 2.0 * U * f64::from(bias[j].abs()) + TINY
                };
                // One value has no variance: 0 / 0 without eps, and the bound is infinite.
                if cols > 1 || eps > 0.0 {
                    assert_row(*isa, got.row(i), &want, bound);
                }
            }
        }
    }

    #[test]
    fn heads_are_normed_for_themselves(
        rows in 0usize..5, heads in 1usize..5, head_dim in 1usize..70, padding in 0usize..9, seed: u64,
    ) {
        let mut random = Random(seed);
        let x = Guarded::new(rows, heads * head_dim, padding, 3, || random.float());
        let weight = random.values(head_dim, 2.0);
        let all = run_everywhere(&["rms_norm_row_in_place"], &x, |k, team, x| {
            k.rms_norm_in_place(team, x, &weight, 1e-6)
        });
        for (isa, got) in &all {
            for i in 0..rows {
                for (head, got) in x.row(i).chunks(head_dim).zip(got.row(i).chunks(head_dim)) {
                    let mut want = vec![0.0; head_dim];
                    let (src, dst) = (MatRef::from_rows(head, head_dim), MatMut::from_rows(&mut want, head_dim));
                    Kernels::for_isa(*isa).unwrap().rms_norm(&Team::serial(), src, &weight, 1e-6, dst).unwrap();
                    prop_assert_eq!(got, &want[..]);
                }
            }
        }
    }

    #[test]
    fn rope_matches_the_reference(
        rows in 0usize..6, heads in 1usize..4, pairs in 1usize..70, rest in prop_oneof![Just(0usize), 0usize..40],
        padding in 0usize..9, halves: bool, far: bool, scaling in 0usize..6, seed: u64,
    ) {
        let mut random = Random(seed);
        let pairing = if halves { RopePairing::Halves } else { RopePairing::Interleaved };
        let scaling = [
            RopeScaling::None,
            RopeScaling::Linear { factor: 8.0 },
            RopeScaling::Llama3 {
                factor: 32.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_context: 8192,
            },
            yarn(true),
            yarn(false),
            RopeScaling::LongRope { original_context: 4096, attention_factor: 1.19 },
        ][scaling];
        let head_dim = 2 * pairs + rest;
        let rope = Rope::new(pairing, 2 * pairs, 10000.0, scaling, 131_072).unwrap();
        let frequencies = reference::rope_frequencies(2 * pairs, 10000.0, scaling);
        for (got, want) in rope.frequencies().iter().zip(&frequencies) {
            prop_assert!((got / want - 1.0).abs() < 1e-13);
        }
        let positions: Vec<u32> = (0..rows).map(|_| random.below(if far { 131_072 } else { 64 }) as u32).collect();
        let mut angles = RopeAngles::new(&rope, rows + 2);
        angles.set(&rope, &positions).unwrap();
        let x = Guarded::new(rows, heads * head_dim, padding, 5, || random.value(4.0));
        for (isa, got) in run_everywhere(&["rope_row"], &x, |k, team, x| k.rope(team, &angles, head_dim, x)) {
            for (i, position) in positions.iter().enumerate() {
                for (head, got) in x.row(i).chunks(head_dim).zip(got.row(i).chunks(head_dim)) {
                    let want = reference::rope(head, &frequencies, rope.magnitude(), pairing, *position);
                    let partner = |j: usize| match pairing {
                        RopePairing::Interleaved => j ^ 1,
                        RopePairing::Halves => (j + pairs) % (2 * pairs),
                    };
                    assert_row(isa, got, &want, |j| {
                        if j >= 2 * pairs { return 0.0 } // not turned: the same value
                        let length = f64::from(head[j]).hypot(f64::from(head[partner(j)]));
                        length * rope.magnitude() * 2f64.powi(-21) + 1e-44
                    });
                }
            }
        }
    }

    #[test]
    fn lengths_and_means_of_rows_match_the_reference(
        (rows, cols, padding, shift, seed) in shape(), scale in prop::sample::select(vec![1.0f32, 1e-30, 1e30]),
    ) {
        let mut random = Random(seed);
        let x = Guarded::new(rows, cols, padding, shift, || random.value(scale));
        for (isa, got) in run_everywhere(&["l2_normalize_row"], &x, |k, team, x| k.l2_normalize(team, x)) {
            for i in 0..rows {
                let want = reference::l2_normalize(x.row(i));
                let relative = (8.0 + cols as f64 / 32.0) * 2.0 * U;
                assert_row(isa, got.row(i), &want, |j| relative * want[j].abs() + TINY);
            }
        }
        let groups: Vec<_> = (0..rows).map(|first| first..first + 1 + random.below(rows - first)).collect();
        let out = Guarded::new(rows, cols, padding / 2, 15 - shift, || f32::NAN);
        let means = run_everywhere(&["add_row", "scale_row"], &out, |k, team, out| {
            k.mean_rows(team, x.mat(), &groups, out)
        });
        for (isa, got) in means {
            for (i, group) in groups.iter().enumerate().filter(|_| cols > 0) {
                let of = |f: fn(f32) -> f32| -> Vec<f32> {
                    group.clone().flat_map(|row| x.row(row).iter().map(|x| f(*x)).collect::<Vec<_>>()).collect()
                };
                let want = reference::mean_rows(&of(|x| x), cols);
                let size = reference::mean_rows(&of(f32::abs), cols);
                assert_row(isa, got.row(i), &want, |j| (group.len() + 1) as f64 * U * size[j] + TINY);
            }
        }
    }

    #[test]
    fn activations_match_the_reference(
        (rows, cols, padding, shift, seed) in shape(), scale in prop::sample::select(vec![1.0f32, 8.0, 200.0, 1e20]),
    ) {
        let mut random = Random(seed);
        let x = Guarded::new(rows, cols, padding, shift, || random.value(scale));
        let up = Guarded::new(rows, cols, padding / 2, 2, || random.float());
        let out = Guarded::new(rows, cols, padding / 3, 15 - shift, || f32::NAN);
        for activation in ACTIVATIONS {
            let relative = if activation == Activation::Gelu { 4e-5 } else { 4e-6 };
            let alone = run_everywhere(&["activate_row"], &x, |k, team, x| k.activate(team, activation, x));
            for (isa, got) in &alone {
                for i in 0..rows {
                    let of = |x: &f32| reference::activation(activation, f64::from(*x));
                    let want: Vec<f64> = x.row(i).iter().map(of).collect();
                    assert_row(*isa, got.row(i), &want, |j| (relative * want[j].abs()).max(1e-6));
                }
            }
            let gated = run_everywhere(&["gated_row"], &out, |k, team, out| {
                k.gated(team, activation, x.mat(), up.mat(), out)
            });
            for ((_, got), (_, alone)) in gated.iter().zip(&alone) {
                for i in 0..rows {
                    let product = |(f, up): (&f32, &f32)| (f * up).to_bits();
                    let want: Vec<u32> = alone.row(i).iter().zip(up.row(i)).map(product).collect();
                    prop_assert_eq!(got.row(i).iter().map(|x| x.to_bits()).collect::<Vec<_>>(), want);
                }
            }
        }
    }

    #[test]
    fn sums_products_and_caps_match_the_reference(
        (rows, cols, padding, shift, seed) in shape(), cap in 0.5f32..60.0,
    ) {
        let mut random = Random(seed);
        let x = Guarded::new(rows, cols, padding, shift, || random.value(100.0));
        let y = Guarded::new(rows, cols, padding / 2, 15 - shift, || random.value(100.0));
        for (_, got) in run_everywhere(&["add_row"], &x, |k, team, x| k.add(team, x, y.mat())) {
            for i in 0..rows {
                prop_assert!(got.row(i).iter().zip(x.row(i)).zip(y.row(i)).all(|((g, x), y)| *g == x + y));
            }
        }
        for (_, got) in run_everywhere(&["scale_row"], &x, |k, team, x| k.scale(team, cap, x)) {
            for i in 0..rows {
                prop_assert!(got.row(i).iter().zip(x.row(i)).all(|(g, x)| *g == x * cap));
            }
        }
        for (isa, got) in run_everywhere(&["softcap_row"], &x, |k, team, x| k.softcap(team, cap, x)) {
            for i in 0..rows {
                let of = |x: &f32| reference::softcap(f64::from(*x), f64::from(cap));
                let want: Vec<f64> = x.row(i).iter().map(of).collect();
                // x / cap may be a denormal.
                assert_row(isa, got.row(i), &want, |j| 6.0 * ulp(want[j]) + f64::from(cap) * 2f64.powi(-149));
            }
        }
    }

    #[test]
    fn a_nan_stays_in_its_row_and_other_rows_keep_their_bits(
        rows in 2usize..6, cols in 1usize..140, seed: u64, poison in prop::sample::select(vec![f32::NAN, f32::INFINITY]),
    ) {
        let mut random = Random(seed);
        let clean = Guarded::new(rows, cols, 3, 1, || random.float());
        let (bad_row, bad_col) = (random.below(rows), random.below(cols));
        let mut poisoned = clean.clone();
        poisoned.row_mut(bad_row)[bad_col] = poison;
        let (weight, bias) = (random.values(cols, 2.0), vec![0.5; cols]);
        type Op<'a> = (&'a str, bool, &'a dyn Fn(Kernels, MatRef<'_>, MatMut<'_>) -> Result<(), KernelError>);
        let team = &Team::serial();
        let ops: [Op<'_>; 6] = [
            ("log_softmax", poison.is_nan(), &|k, x, mut out| {
                k.scale(team, 0.0, out.reborrow())?;
                k.add(team, out.reborrow(), x)?;
                k.log_softmax(team, 1.0, None, out)
            }),
            ("l2_normalize", poison.is_nan(), &|k, x, mut out| {
                k.scale(team, 0.0, out.reborrow())?;
                k.add(team, out.reborrow(), x)?;
                k.l2_normalize(team, out)
            }),
            ("softmax", true, &|k, x, mut out| {
                k.scale(team, 0.0, out.reborrow())?;
                k.add(team, out.reborrow(), x)?;
                k.softmax(team, 1.0, None, out)
            }),
            ("layer_norm", true, &|k, x, out| k.layer_norm(team, x, &weight, &bias, 1e-5, out)),
            ("rms_norm", poison.is_nan(), &|k, x, out| k.rms_norm(team, x, &weight, 1e-5, out)),
            ("gated", false, &|k, x, out| k.gated(team, Activation::GeluErf, x, x, out)),
        ];
        for kernels in Kernels::every_available() {
            for (name, whole_row, op) in ops {
                let run = |x: &Guarded| {
                    let mut out = Guarded::new(rows, cols, 0, 0, || 0.0);
                    op(kernels, x.mat(), out.mat_mut()).unwrap();
                    out
                };
                let (want, got) = (run(&clean), run(&poisoned));
                for i in (0..rows).filter(|i| *i != bad_row) {
                    prop_assert_eq!(want.row(i), got.row(i), "{}", name);
                }
                if whole_row {
                    prop_assert!(got.row(bad_row).iter().all(|x| x.is_nan()), "{} on {}", name, kernels.isa());
                } else {
                    let others = |m: &Guarded| {
                        m.row(bad_row).iter().enumerate().filter(|(j, _)| *j != bad_col).map(|(_, x)| x.to_bits())
                            .collect::<Vec<_>>()
                    };
                    prop_assert!(!got.row(bad_row)[bad_col].is_finite());
                    prop_assert!(name != "gated" || others(&want) == others(&got));
                }
            }
        }
    }

    #[test]
    fn a_rows_bits_do_not_depend_on_its_neighbours_or_alignment(cols in 1usize..200, seed: u64, shift in 1usize..16) {
        let mut random = Random(seed);
        let alone = Guarded::new(1, cols, 0, 0, || random.float() * 5.0);
        let mut among = Guarded::new(17, cols, 7, shift, || random.float() * 5.0);
        let place = random.below(17);
        among.row_mut(place).copy_from_slice(alone.row(0));
        let weight = random.values(cols, 2.0);
        type Op<'a> = &'a dyn Fn(Kernels, MatMut<'_>) -> Result<(), KernelError>;
        let team = &Team::serial();
        let ops: [Op<'_>; 6] = [
            &|k, x| k.softmax(team, 1.0, None, x),
            &|k, x| k.log_softmax(team, 1.0, None, x),
            &|k, x| k.l2_normalize(team, x),
            &|k, x| k.rms_norm_in_place(team, x, &weight, 1e-5),
            &|k, x| k.activate(team, Activation::Gelu, x),
            &|k, x| k.softcap(team, 2.0, x),
        ];
        for kernels in Kernels::every_available() {
            for op in ops {
                let (mut a, mut b) = (alone.clone(), among.clone());
                op(kernels, a.mat_mut()).unwrap();
                op(kernels, b.mat_mut()).unwrap();
                prop_assert_eq!(a.row(0), b.row(place));
            }
        }
    }
}

#[test]
fn a_fully_masked_softmax_row_is_nan_and_an_empty_one_stays_empty() {
    for kernels in Kernels::every_available() {
        for n in [1, 15, 16, 40] {
            let mut x = vec![f32::NEG_INFINITY; n];
            kernels.softmax(&Team::serial(), 1.0, None, MatMut::from_rows(&mut x, n)).unwrap();
            assert!(x.iter().all(|x| x.is_nan()));
            let mask = vec![f32::NEG_INFINITY; n];
            let mut x = vec![1.0; n];
            let mask = Some(MatRef::from_rows(&mask, n));
            kernels.softmax(&Team::serial(), 1.0, mask, MatMut::from_rows(&mut x, n)).unwrap();
            assert!(x.iter().all(|x| x.is_nan()));
        }
        kernels.softmax(&Team::serial(), 1.0, None, MatMut::new(&mut [], 3, 0, 0).unwrap()).unwrap();
    }
}

/// Lengths around the end of a chunk of 4096, and one whose chunks are longer.
const WIDE: [usize; 6] = [4095, 4096, 4097, 4100, 9000, 300_001];

#[test]
fn wide_rows_are_summed_in_chunks_with_the_same_bits_alone_or_among_others_and_for_any_threads() {
    let mut random = Random(3);
    for cols in WIDE {
        let rows = if cols > 10_000 { 1 } else { 5 };
        let m = Guarded::new(rows, cols, 3, 1, || random.value(20.0));
        let mask = Guarded::new(1, cols, 0, 3, || match random.below(3) {
            0 => f32::NEG_INFINITY,
            _ => random.value(4.0),
        });
        for (scale, masked) in [(1.0, false), (-0.7, false), (0.3, true)] {
            let mask_mat = masked.then(|| mask.mat());
            let plain =
                run_everywhere(&["softmax_chunk"], &m, |k, team, x| k.softmax(team, scale, mask_mat, x));
            let log = run_everywhere(&["log_softmax_chunk"], &m, |k, team, x| {
                k.log_softmax(team, scale, mask_mat, x)
            });
            for i in 0..rows {
                let t = reference::scores(m.row(i), scale, masked.then(|| mask.row(0)));
                let (want, want_log) = (reference::softmax(&t), reference::log_softmax(&t));
                // |t| is at most 24, and the bound of the sum is far from what 4096 elements need.
                let steps = (12.0 + 4096.0 / 16.0 + 4.0 * 24.0) * U;
                for (isa, got) in &plain {
                    assert_row(*isa, got.row(i), &want, |j| steps * want[j] + TINY);
                }
                for (isa, got) in &log {
                    assert_row(*isa, got.row(i), &want_log, |j| steps + 2.0 * want_log[j].abs() * U);
                }
            }
            for kernels in Kernels::every_available() {
                let mut among = m.clone();
                kernels.softmax(&Team::serial(), scale, mask_mat, among.mat_mut()).unwrap();
                let mut alone = m.row(rows - 1).to_vec();
                kernels
                    .softmax(&Team::serial(), scale, mask_mat, MatMut::from_rows(&mut alone, cols))
                    .unwrap();
                assert_eq!(among.row(rows - 1), alone);
            }
        }
    }
}

/// Threads share a wide row in strips, in the place of every argument.
#[test]
fn elements_of_wide_rows_are_what_they_are_in_rows_of_sixteen() {
    const COLS: usize = 20_005;
    let mut random = Random(5);
    for rows in [1, 2] {
        let x = Guarded::new(rows, COLS, 3, 1, || random.value(4.0));
        let y = Guarded::new(rows, COLS, 5, 2, || random.value(4.0));
        type Op = fn(Kernels, &Team<'_>, MatMut<'_>, MatRef<'_>) -> Result<(), KernelError>;
        let ops: [(&'static str, Op); 5] = [
            ("activate_row", |k, team, x, _| k.activate(team, Activation::Gelu, x)),
            ("scale_row", |k, team, x, _| k.scale(team, 3.0, x)),
            ("softcap_row", |k, team, x, _| k.softcap(team, 2.0, x)),
            ("add_row", |k, team, x, y| k.add(team, x, y)),
            ("gated_row", |k, team, x, y| k.gated(team, Activation::Silu, y, y, x)),
        ];
        for (name, op) in ops {
            let wide = run_everywhere(&[name], &x, |k, team, x| op(k, team, x, y.mat()));
            for kernels in Kernels::every_available() {
                let (_, wide) = wide.iter().find(|(isa, _)| *isa == kernels.isa()).unwrap();
                for i in 0..rows {
                    let (pieces, ys) = (x.row(i).chunks(16), y.row(i).chunks(16));
                    for ((piece, y), got) in pieces.zip(ys).zip(wide.row(i).chunks(16)) {
                        let mut piece = piece.to_vec();
                        let n = piece.len();
                        let view = MatMut::from_rows(&mut piece, n);
                        op(kernels, &Team::serial(), view, MatRef::from_rows(y, n)).unwrap();
                        assert_eq!(piece, got, "{name} on {}", kernels.isa());
                    }
                }
            }
        }
    }
}

#[test]
fn what_one_chunk_has_counts_in_all_of_a_wide_row() {
    const COLS: usize = 10_000;
    for kernels in Kernels::every_available() {
        let softmax = |x: &mut [f32]| {
            kernels.softmax(&Team::serial(), 1.0, None, MatMut::from_rows(x, COLS)).unwrap();
        };
        for poison in [f32::NAN, f32::INFINITY] {
            let mut x = vec![1.0; COLS];
            x[9000] = poison;
            softmax(&mut x);
            assert!(x.iter().all(|x| x.is_nan()));
            let mut x = vec![f32::NEG_INFINITY; COLS];
            x[9000] = poison;
            softmax(&mut x);
            assert!(x.iter().all(|x| x.is_nan()));
        }
        let mut x = vec![f32::NEG_INFINITY; COLS];
        softmax(&mut x);
        assert!(x.iter().all(|x| x.is_nan()));
        // Chunks with nothing, with little, and with all.
        let mut x = vec![f32::NEG_INFINITY; COLS];
        (x[4096], x[9000], x[9001]) = (-200.0, 5.0, 5.0);
        let mut log = x.clone();
        softmax(&mut x);
        assert!((0..COLS).all(|i| x[i] == if i == 9000 || i == 9001 { 0.5 } else { 0.0 }));
        kernels.log_softmax(&Team::serial(), 1.0, None, MatMut::from_rows(&mut log, COLS)).unwrap();
        assert!(log[0] == f32::NEG_INFINITY && (log[9000] + std::f32::consts::LN_2).abs() < 1e-6);
        assert!((log[4096] + 205.0 + std::f32::consts::LN_2).abs() < 1e-4);
        // As low as numbers go: what a mask of f32::MIN leaves of a row that it hides.
        for cols in [40, COLS] {
            let mut x = vec![f32::MIN; cols];
            kernels.softmax(&Team::serial(), 1.0, None, MatMut::from_rows(&mut x, cols)).unwrap();
            assert!(x.iter().all(|x| (x * cols as f32 - 1.0).abs() < 1e-6));
        }
    }
}

#[test]
fn activations_meet_their_special_values() {
    for kernels in Kernels::every_available() {
        for activation in ACTIVATIONS {
            let mut x = [f32::NEG_INFINITY, f32::INFINITY, f32::NAN, 0.0, -3e38, 3e38];
            kernels.activate(&Team::serial(), activation, MatMut::from_rows(&mut x, 6)).unwrap();
            assert!(x[0] == 0.0 && x[1] == f32::INFINITY && x[2].is_nan(), "{activation:?}: {x:?}");
            assert!(x[3] == 0.0 && x[4] == 0.0 && x[5] == 3e38, "{activation:?}: {x:?}");
        }
    }
}

#[test]
fn norms_of_rows_at_the_ends_of_the_range_stay_finite() {
    for kernels in Kernels::every_available() {
        for magnitude in [1e-44f32, 1e-38, 1e-30, 1e-20, 1e18, 1e30, 3.4e38] {
            let x: Vec<f32> = (0..100).map(|i| if i % 2 == 0 { magnitude } else { -magnitude }).collect();
            let mut out = vec![0.0; 100];
            let team = &Team::serial();
            let src = MatRef::from_rows(&x, 100);
            kernels.rms_norm(team, src, &[1.0; 100], 0.0, MatMut::from_rows(&mut out, 100)).unwrap();
            assert!(out.iter().all(|y| (y.abs() - 1.0).abs() < 1e-5), "{magnitude:e}: {out:?}");
            let rows = MatMut::from_rows(&mut out, 100);
            kernels.layer_norm(team, src, &[1.0; 100], &[0.0; 100], 0.0, rows).unwrap();
            assert!(out.iter().all(|y| (y.abs() - 1.0).abs() < 1e-5), "{magnitude:e}: {out:?}");
        }
    }
}

#[test]
fn a_position_beyond_the_table_is_refused_with_both_values_and_the_old_angles_stay() {
    let rope = Rope::new(RopePairing::Halves, 4, 10000.0, RopeScaling::None, 100).unwrap();
    let mut angles = RopeAngles::new(&rope, 2);
    angles.set(&rope, &[99]).unwrap();
    let error = angles.set(&rope, &[7, 100]).unwrap_err();
    assert_eq!(error, KernelError::PositionOutOfRange { position: 100, max_positions: 100 });
    assert_eq!(error.to_string(), "position 100 is beyond the model's 100 positions");
    assert_eq!(angles.rows(), 1);
    assert!(matches!(angles.set(&rope, &[1, 2, 3]), Err(KernelError::Shape { expected: 2, found: 3, .. })));
}

#[test]
fn factors_of_a_file_divide_the_frequencies() {
    let rope = |scaling| Rope::new(RopePairing::Interleaved, 8, 5e5, scaling, 10).unwrap();
    let linear = rope(RopeScaling::Linear { factor: 4.0 });
    let divided = rope(RopeScaling::None).with_factors(&[4.0; 4]).unwrap();
    assert_eq!(linear.frequencies(), divided.frequencies());
    assert!(rope(RopeScaling::None).with_factors(&[1.0; 3]).is_err());
    assert!(rope(RopeScaling::None).with_factors(&[1.0, 0.0, 1.0, 1.0]).is_err());
}

#[test]
fn arguments_that_do_not_fit_are_refused_by_name_and_nothing_is_written() {
    let (kernels, team) = (Kernels::best(), &Team::serial());
    let x = [1.0f32; 12];
    let mut out = [7.0f32; 12];
    let (x34, x43) = (MatRef::from_rows(&x, 4), MatRef::from_rows(&x, 3));
    let (w4, w3) = (&[1.0; 4], &[1.0; 3]);
    let rope = Rope::new(RopePairing::Halves, 4, 1e4, RopeScaling::None, 9).unwrap();
    let mut angles = RopeAngles::new(&rope, 3);
    angles.set(&rope, &[0, 1, 2]).unwrap();
    let mut refused = |name: &str, f: &dyn Fn(MatMut<'_>) -> Result<(), KernelError>| {
        let message = f(MatMut::from_rows(&mut out, 4)).unwrap_err().to_string();
        assert!(message.contains(name), "{message}");
    };
    refused("mask.cols is 3, but 4", &|out| kernels.softmax(team, 1.0, Some(x43), out));
    refused("mask.rows (if not 1) is 2", &|out| kernels.softmax(team, 1.0, Some(x34.row_range(0..2)), out));
    refused("scale is NaN", &|out| kernels.log_softmax(team, f32::NAN, None, out));
    refused("weight.len is 3, but 4", &|out| kernels.rms_norm(team, x34, w3, 0.0, out));
    refused("out.cols is 4, but 3", &|out| kernels.rms_norm(team, x43, w3, 0.0, out));
    refused("out.rows is 3, but 2", &|out| kernels.rms_norm_add(team, x34.row_range(0..2), w4, 0.0, out));
    refused("eps is -1", &|out| kernels.rms_norm_in_place(team, out, w4, -1.0));
    refused("x.cols (a multiple of) is 4, but 3", &|out| kernels.rms_norm_in_place(team, out, w3, 0.0));
    refused("bias.len is 3, but 4", &|out| kernels.layer_norm(team, x34, w4, w3, 0.0, out));
    refused("up.rows is 4, but 3", &|out| kernels.gated(team, Activation::Silu, x34, x43, out));
    refused("y.rows is 4, but 3", &|out| kernels.add(team, out, x43));
    refused("out.rows is 3, but 2", &|out| kernels.mean_rows(team, x34, &[0..3, 1..2], out));
    refused("rows of a group (at least) is 0, but 1", &|out| {
        kernels.mean_rows(team, x34, &[0..1, 1..1, 1..2], out)
    });
    refused("end of a group (at most) is 4, but 3", &|out| {
        kernels.mean_rows(team, x34, &[0..1, 1..4, 1..2], out)
    });
    refused("out.cols is 4, but 3", &|out| kernels.mean_rows(team, x43, &[0..1, 1..2, 2..3], out));
    refused("cap is 0", &|out| kernels.softcap(team, 0.0, out));
    refused("head_dim (at least) is 2, but 4", &|out| kernels.rope(team, &angles, 2, out));
    refused("x.cols (a multiple of) is 4, but 5", &|out| kernels.rope(team, &angles, 5, out));
    assert_eq!(out, [7.0; 12]);
    for (name, beta_fast, attention_factor) in
        [("beta_fast is 1", 1.0, 1.0), ("attention_factor is -1", 32.0, -1.0)]
    {
        let scaling = RopeScaling::Yarn {
            factor: 4.0,
            original_context: 64,
            beta_fast,
            beta_slow: 1.0,
            truncate: true,
            attention_factor,
        };
        let message = Rope::new(RopePairing::Halves, 8, 1e4, scaling, 9).unwrap_err().to_string();
        assert!(message.contains(name), "{message}");
    }
    assert!(Rope::new(RopePairing::Halves, 5, 1e4, RopeScaling::None, 9).is_err());
    assert!(Rope::new(RopePairing::Halves, 4, -1.0, RopeScaling::None, 9).is_err());
    assert!(Rope::new(RopePairing::Halves, 4, 1e4, RopeScaling::Linear { factor: 0.0 }, 9).is_err());
    assert!(kernels.f16_from_f32(&x, &mut [half::f16::ZERO; 3]).is_err());
}

#[test]
fn every_half_widens_as_the_half_crate_says() {
    let bits: Vec<u16> = (0..=u16::MAX).collect();
    let f16s: Vec<half::f16> = bits.iter().map(|b| half::f16::from_bits(*b)).collect();
    let bf16s: Vec<half::bf16> = bits.iter().map(|b| half::bf16::from_bits(*b)).collect();
    on_every_isa(&["f32_from_f16_row", "f32_from_bf16_row"], |kernels| {
        // An odd length and an odd start, so that every bit pattern goes through body and tail at some time.
        for range in [0..65536, 1..65536, 5..20, 31744..31780] {
            let mut out = vec![0.0; range.len()];
            kernels.f32_from_f16(&f16s[range.clone()], &mut out).unwrap();
            for (got, want) in out.iter().zip(&f16s[range.clone()]) {
                assert!(got.to_bits() == want.to_f32().to_bits() || (got.is_nan() && want.is_nan()));
            }
            kernels.f32_from_bf16(&bf16s[range.clone()], &mut out).unwrap();
            for (got, want) in out.iter().zip(&bf16s[range.clone()]) {
                assert!(got.to_bits() == want.to_f32().to_bits() || (got.is_nan() && want.is_nan()));
            }
        }
    });
}

#[test]
fn floats_narrow_as_the_half_crate_says() {
    // Every half, its neighbours in f32, the ties between halves, and a sweep.
    let mut x: Vec<f32> = Vec::new();
    for bits in 0..=u16::MAX {
        for wide in [half::f16::from_bits(bits).to_f32().to_bits(), u32::from(bits) << 16] {
            let offsets = [0, 1, u32::MAX, 0x0fff, 0x1000, 0x1001, 0x7fff, 0x8000, 0x8001];
            x.extend(offsets.map(|offset| f32::from_bits(wide.wrapping_add(offset))));
        }
    }
    x.extend((0..=u32::MAX).step_by(65_521).map(f32::from_bits));
    on_every_isa(&["f16_from_f32_row", "to_bf16_row"], |kernels| {
        let mut f16s = vec![half::f16::ZERO; x.len()];
        kernels.f16_from_f32(&x, &mut f16s).unwrap();
        let mut bf16s = vec![half::bf16::ZERO; x.len()];
        kernels.bf16_from_f32(&x, &mut bf16s).unwrap();
        for ((x, f16), bf16) in x.iter().zip(&f16s).zip(&bf16s) {
            if x.is_nan() {
                assert!(f16.is_nan() && bf16.is_nan());
            } else {
                assert_eq!(f16.to_bits(), half::f16::from_f32(*x).to_bits(), "{x:e}");
                assert_eq!(bf16.to_bits(), half::bf16::from_f32(*x).to_bits(), "{x:e}");
            }
        }
        // Tails.
        for n in 0..18 {
            let mut out = vec![half::f16::ZERO; n];
            kernels.f16_from_f32(&x[1000..1000 + n], &mut out).unwrap();
            assert_eq!(out, f16s[1000..1000 + n]);
        }
    });
}
