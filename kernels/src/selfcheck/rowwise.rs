//! Row-wise kernels: element-wise functions, softmax, norms, rotary embedding.

use super::{Random, Sweep};
use crate::activation::Activation;
use crate::error::KernelError;
use crate::isa::Kernels;
use crate::matrix::{MatMut, MatRef};
use crate::pool::Team;
use crate::reference::rowwise as reference;
use crate::rope::{Rope, RopeAngles, RopePairing, RopeScaling};
use std::ops::Range;

/// Half a unit in the last place of 1.
const U: f64 = f32::EPSILON as f64 / 2.0;
/// What rounding to a denormal may cost.
const TINY: f64 = 1e-37;

/// A unit in the last place of an f32 near `x`.
fn ulp(x: f64) -> f64 {
    let x = (x.abs() as f32).min(f32::MAX);
    (f64::from(f32::from_bits(x.to_bits() + 1)) - f64::from(x)).min(2.0_f64.powi(104))
}

/// Rows that one kernel works on in place, the way it is called, and what it should give within which bounds.
struct Case<'a> {
    kernel: &'static str,
    cols: usize,
    x: &'a [f32],
    call: &'a dyn Fn(Kernels, &Team<'_>, MatMut<'_>) -> Result<(), KernelError>,
    want: Vec<f64>,
    bounds: Vec<f64>,
}

fn check(sweep: &mut Sweep, case: Case<'_>) {
    for kernels in sweep.isas() {
        let outcome = sweep.outcome(kernels, case.kernel);
        let mut got = case.x.to_vec();
        let out = MatMut::from_rows(&mut got, case.cols);
        outcome.accept((case.call)(kernels, &Team::serial(), out), || format!("{} columns", case.cols));
        for (i, got) in got.iter().enumerate() {
            let (row, column) = (i / case.cols, i % case.cols);
            let place = || format!("{} columns: [{row}, {column}] of {:e}", case.cols, case.x[i]);
            outcome.compare(f64::from(*got), case.want[i], case.bounds[i], place);
        }
    }
}

/// Lengths around the edges of vectors and unrolled loops.
fn lengths(sweep: &Sweep) -> Vec<usize> {
    sweep.choose(vec![1, 15, 33, 100], vec![1, 2, 7, 15, 16, 17, 31, 33, 64, 65, 127, 300, 1000])
}

/// Functions of single elements: a grid over all magnitudes, and special values.
pub(super) fn functions(sweep: &mut Sweep) {
    let step = sweep.choose(1_000_003, 100_003);
    let every = (0..=u32::MAX).step_by(step).map(f32::from_bits);
    let near = (-4000..4000).map(|i| i as f32 / 37.0);
    let mut x: Vec<f32> = every.chain(near).collect();
    x.extend([0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 88.7, -87.4, -104.0, 1e-45]);
    let mut function =
        |kernel, call: &dyn Fn(Kernels, &mut [f32]), of: &dyn Fn(f64) -> f64, ulps, absolute| {
            let want: Vec<f64> = x.iter().map(|x| of(f64::from(*x))).collect();
            // Results that f32 holds as infinity or rounds there.
            let want: Vec<f64> =
                want.into_iter().map(|y| if y > f64::from(f32::MAX) { f64::INFINITY } else { y }).collect();
            let bounds = want.iter().map(|y| ulps * ulp(*y) + absolute).collect();
            let call = |kernels: Kernels, _: &Team<'_>, mut out: MatMut<'_>| {
                call(kernels, out.row_mut(0));
                Ok(())
            };
            check(sweep, Case { kernel, cols: x.len(), x: &x, call: &call, want, bounds });
        };
    function("exp", &Kernels::exp, &f64::exp, 2.0, 0.0);
    function("sigmoid", &Kernels::sigmoid, &reference::sigmoid, 4.0, 0.0);
    function("tanh", &Kernels::tanh, &f64::tanh, 4.0, 0.0);
    function("erf", &Kernels::erf, &reference::erf, 0.0, 7e-7);
}

/// Activations, sums, products, soft-caps.
pub(super) fn elements(sweep: &mut Sweep) {
    let mut random = Random::new(20);
    for cols in lengths(sweep) {
        for size in [1.0, 8.0, 200.0] {
            let x: Vec<f32> = random.floats(3 * cols).iter().map(|x| x * size).collect();
            let y = random.floats(3 * cols);
            for (activation, relative) in
                [(Activation::Silu, 4e-6), (Activation::Gelu, 4e-5), (Activation::GeluErf, 4e-6)]
            {
                let want: Vec<f64> =
                    x.iter().map(|x| reference::activation(activation, f64::from(*x))).collect();
                let bounds: Vec<f64> = want.iter().map(|y| f64::max(relative * y.abs(), 1e-6)).collect();
                let gated = want.iter().zip(&y).map(|(f, y)| f * f64::from(*y)).collect();
                let gated_bounds = bounds.iter().map(|b| b + TINY).collect();
                let call = |k: Kernels, team: &Team<'_>, out: MatMut<'_>| k.activate(team, activation, out);
                check(sweep, Case { kernel: "activate", cols, x: &x, call: &call, want, bounds });
                let (gate, up) = (MatRef::from_rows(&x, cols), MatRef::from_rows(&y, cols));
                let call =
                    |k: Kernels, team: &Team<'_>, out: MatMut<'_>| k.gated(team, activation, gate, up, out);
                let (want, bounds) = (gated, gated_bounds);
                check(sweep, Case { kernel: "gated", cols, x: &x, call: &call, want, bounds });
            }
            let exact =
                |f: &dyn Fn(f32, f32) -> f32| x.iter().zip(&y).map(|(x, y)| f(*x, *y).into()).collect();
            let bounds = vec![0.0; x.len()];
            let call =
                |k: Kernels, team: &Team<'_>, out: MatMut<'_>| k.add(team, out, MatRef::from_rows(&y, cols));
            let want = exact(&|x, y| x + y);
            check(sweep, Case { kernel: "add", cols, x: &x, call: &call, want, bounds: bounds.clone() });
            let call = |k: Kernels, team: &Team<'_>, out: MatMut<'_>| k.scale(team, 0.3, out);
            let want = exact(&|x, _| x * 0.3);
            check(sweep, Case { kernel: "scale", cols, x: &x, call: &call, want, bounds });
            let call = |k: Kernels, team: &Team<'_>, out: MatMut<'_>| k.softcap(team, 30.0, out);
            let want: Vec<f64> = x.iter().map(|x| reference::softcap(f64::from(*x), 30.0)).collect();
            let bounds = want.iter().map(|y| 6.0 * ulp(*y) + TINY).collect();
            check(sweep, Case { kernel: "softcap", cols, x: &x, call: &call, want, bounds });
        }
    }
}

/// Softmax and its logarithm, with a mask that hides every fifth element.
pub(super) fn softmax(sweep: &mut Sweep) {
    const SCALE: f32 = 0.7;
    let mut random = Random::new(21);
    for cols in lengths(sweep) {
        let x: Vec<f32> = random.floats(2 * cols).iter().map(|x| 20.0 * x).collect();
        let hidden = |i: usize| if i % 5 == 4 { f32::NEG_INFINITY } else { 0.0 };
        let mask: Vec<f32> = (0..2 * cols).map(hidden).collect();
        let mask = MatRef::from_rows(&mask, cols);
        let scores: Vec<Vec<f64>> = x
            .chunks(cols)
            .enumerate()
            .map(|(i, row)| reference::scores(row, SCALE, Some(mask.row(i))))
            .collect();
        let largest =
            scores.iter().flatten().filter(|s| s.is_finite()).fold(0.0, |m, s| f64::max(m, s.abs()));
        // A sum over the row, and the rounding of scores, which the exponential turns into a relative error.
        let relative = (12.0 + cols as f64 / 16.0 + 2.0 * largest) * U;
        let want: Vec<f64> = scores.iter().flat_map(|row| reference::softmax(row)).collect();
        // And that of a score's distance from the row's largest.
        let distances = scores.iter().flat_map(|row| {
            let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            row.iter().map(move |t| if t.is_finite() { max - t } else { 0.0 })
        });
        let bounds = want.iter().zip(distances).map(|(y, d)| (relative + 2.0 * d * U) * y + TINY).collect();
        let call = |k: Kernels, team: &Team<'_>, out: MatMut<'_>| k.softmax(team, SCALE, Some(mask), out);
        check(sweep, Case { kernel: "softmax", cols, x: &x, call: &call, want, bounds });
        let want: Vec<f64> = scores.iter().flat_map(|row| reference::log_softmax(row)).collect();
        let bounds = want.iter().map(|y| relative + 2.0 * U * y.abs()).collect();
        let call = |k: Kernels, team: &Team<'_>, out: MatMut<'_>| k.log_softmax(team, SCALE, Some(mask), out);
        check(sweep, Case { kernel: "log_softmax", cols, x: &x, call: &call, want, bounds });
    }
}

/// RMS and layer norms.
pub(super) fn norms(sweep: &mut Sweep) {
    const EPS: f32 = 1e-5;
    let mut random = Random::new(22);
    for cols in lengths(sweep) {
        let x = random.floats(3 * cols);
        let (weight, bias) = (random.floats(cols), random.floats(cols));
        let steps = (8.0 + cols as f64 / 32.0) * 2.0 * U;
        let want: Vec<f64> = x.chunks(cols).flat_map(|row| reference::rms_norm(row, &weight, EPS)).collect();
        let bounds: Vec<f64> = want.iter().map(|y| steps * y.abs() + TINY).collect();
        let source = MatRef::from_rows(&x, cols);
        let call = |k: Kernels, team: &Team<'_>, out: MatMut<'_>| k.rms_norm(team, source, &weight, EPS, out);
        let case =
            Case { kernel: "rms_norm", cols, x: &x, call: &call, want: want.clone(), bounds: bounds.clone() };
        check(sweep, case);
        let call =
            |k: Kernels, team: &Team<'_>, out: MatMut<'_>| k.rms_norm_in_place(team, out, &weight, EPS);
        let case = Case {
            kernel: "rms_norm_in_place",
            cols,
            x: &x,
            call: &call,
            want: want.clone(),
            bounds: bounds.clone(),
        };
        check(sweep, case);
        let call =
            |k: Kernels, team: &Team<'_>, out: MatMut<'_>| k.rms_norm_add(team, source, &weight, EPS, out);
        let sums: Vec<f64> = want.iter().zip(&x).map(|(y, x)| y + f64::from(*x)).collect();
        let bounds = bounds.iter().zip(&sums).map(|(b, y)| b + 2.0 * U * y.abs()).collect();
        check(sweep, Case { kernel: "rms_norm_add", cols, x: &x, call: &call, want: sums, bounds });
        let (mut want, mut bounds) = (Vec::new(), Vec::new());
        for row in x.chunks(cols) {
            let (y, root) = reference::layer_norm(row, &weight, &bias, EPS);
            let largest = row.iter().fold(0.0, |m, x| f64::max(m, f64::from(x.abs())));
            let bound = |(w, b): (&f32, &f32)| {
                steps * f64::from(w.abs()) * largest / root + 2.0 * U * f64::from(b.abs()) + TINY
            };
            bounds.extend(weight.iter().zip(&bias).map(bound));
            want.extend(y);
        }
        let call = |k: Kernels, team: &Team<'_>, out: MatMut<'_>| {
            k.layer_norm(team, source, &weight, &bias, EPS, out)
        };
        check(sweep, Case { kernel: "layer_norm", cols, x: &x, call: &call, want, bounds });
    }
}

/// Rows of length 1, and means of groups of rows.
pub(super) fn pooling(sweep: &mut Sweep) {
    let mut random = Random::new(24);
    for cols in lengths(sweep) {
        for size in [1.0, 1e25, 1e-25] {
            let x: Vec<f32> = random.floats(5 * cols).iter().map(|x| x * size).collect();
            let want: Vec<f64> = x.chunks(cols).flat_map(reference::l2_normalize).collect();
            let bounds = want.iter().map(|y| (8.0 + cols as f64 / 32.0) * 2.0 * U * y.abs() + TINY).collect();
            let call = |k: Kernels, team: &Team<'_>, out: MatMut<'_>| k.l2_normalize(team, out);
            check(sweep, Case { kernel: "l2_normalize", cols, x: &x, call: &call, want, bounds });
            let groups = [0..1, 1..4, 0..5];
            let part = |group: &Range<usize>| &x[group.start * cols..group.end * cols];
            let means = |of: &dyn Fn(f32) -> f32| {
                let one = |g| reference::mean_rows(&part(g).iter().map(|x| of(*x)).collect::<Vec<_>>(), cols);
                groups.iter().flat_map(one).collect::<Vec<f64>>()
            };
            let want = means(&|x| x);
            let bounds = means(&f32::abs).iter().map(|y| 6.0 * U * y + TINY).collect();
            let source = MatRef::from_rows(&x, cols);
            let call = |k: Kernels, team: &Team<'_>, out: MatMut<'_>| k.mean_rows(team, source, &groups, out);
            let out = vec![0.0; 3 * cols];
            check(sweep, Case { kernel: "mean_rows", cols, x: &out, call: &call, want, bounds });
        }
    }
}

/// Frequencies of all three kinds, and longer vectors.
const YARN: RopeScaling = RopeScaling::Yarn {
    factor: 4.0,
    original_context: 32_768,
    beta_fast: 32.0,
    beta_slow: 1.0,
    truncate: true,
    attention_factor: 1.138_629_4,
};

/// Rotary embedding, both pairings, near and far positions, heads with and without a part that stays.
pub(super) fn rope(sweep: &mut Sweep) {
    let mut random = Random::new(23);
    let positions = [0, 1, 77, 131_071];
    for pairing in [RopePairing::Halves, RopePairing::Interleaved] {
        for (n_rot, rest) in [(2, 0), (32, 0), (50, 6), (64, 64), (128, 0)] {
            let (head_dim, heads) = (n_rot + rest, 3);
            let cols = heads * head_dim;
            let scaling = if rest == 0 { RopeScaling::None } else { YARN };
            let Ok(rope) = Rope::new(pairing, n_rot, 10000.0, scaling, 131_072) else { continue };
            let mut angles = RopeAngles::new(&rope, positions.len());
            let set = angles.set(&rope, &positions);
            let frequencies = reference::rope_frequencies(n_rot, 10000.0, scaling);
            let x = random.floats(positions.len() * cols);
            let (mut want, mut bounds) = (Vec::new(), Vec::new());
            for (row, position) in x.chunks(cols).zip(positions) {
                for head in row.chunks(head_dim) {
                    want.extend(reference::rope(head, &frequencies, rope.magnitude(), pairing, position));
                    bounds.extend((0..head_dim).map(|j| {
                        let partner = match pairing {
                            RopePairing::Interleaved => j ^ 1,
                            RopePairing::Halves => (j + n_rot / 2) % n_rot,
                        };
                        if j >= n_rot {
                            return 0.0;
                        }
                        f64::from(head[j]).hypot(f64::from(head[partner])) * rope.magnitude() * 8.0 * U + TINY
                    }));
                }
            }
            let call = |k: Kernels, team: &Team<'_>, out: MatMut<'_>| {
                set.clone().and_then(|()| k.rope(team, &angles, head_dim, out))
            };
            check(sweep, Case { kernel: "rope", cols, x: &x, call: &call, want, bounds });
        }
    }
}
