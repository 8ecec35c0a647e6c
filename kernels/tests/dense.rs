//! Dense products: every pair of types, every order of B, every instruction set, against the definition in f64.

mod common;

use common::{Random, for_every_team, on_every_isa};
use gable_kernels::activation::Activation;
use gable_kernels::dense::{
    DenseScratch, Dequantize, Element, Gemm, Int8Groups, PerAxis, Rhs, Store, Strided, StridedMut,
};
use gable_kernels::reference::dense::product;
use gable_kernels::reference::matmul::Sum;
use gable_kernels::{KernelError, Kernels, MatMut, MatRef, Team};
use half::{bf16, f16};
use std::fmt::Debug;

const LEAVES: [&str; 4] = ["dense", "dense_store", "pack_rows", "pack_columns"];

/// An element as a number, and random ones with their extremes.
trait Value: Element + Debug + PartialEq {
    /// Half a unit in the last place, relative.
    const ROUNDING: f64;
    /// What must never be read or written.
    const CANARY: Self;
    fn random(random: &mut Random) -> Self;
    fn number(self) -> f64;
}

macro_rules! floats {
    ($($T:ty, $rounding:expr, $from:expr, $number:expr);*) => { $(
        impl Value for $T {
            const ROUNDING: f64 = $rounding;
            const CANARY: Self = <$T>::NAN;
            fn random(random: &mut Random) -> Self {
                $from(if random.below(9) == 0 { 0.0 } else { random.float() })
            }
            fn number(self) -> f64 {
                $number(self)
            }
        }
    )* };
}
floats!(
    f32, 6e-8, |x: f32| x, f64::from;
    f16, 5e-4, f16::from_f32, f16::to_f64;
    bf16, 4e-3, bf16::from_f32, bf16::to_f64
);

macro_rules! integers {
    ($($T:ty, $canary:expr);*) => { $(
        impl Value for $T {
            const ROUNDING: f64 = 0.0;
            const CANARY: Self = $canary;
            fn random(random: &mut Random) -> Self {
                match random.below(3) {
                    0 => <$T>::MIN,
                    1 => <$T>::MAX,
                    _ => random.next() as $T,
                }
            }
            fn number(self) -> f64 {
                f64::from(self)
            }
        }
    )* };
}
integers!(i8, 77; u8, 77; i32, 0x5a5a_5a5a);

/// A matrix between canaries, its rows `padding` elements longer than they need to be.
#[derive(Clone)]
struct Matrix<T> {
    data: Vec<T>,
    rows: usize,
    cols: usize,
    stride: usize,
}

impl<T: Value> Matrix<T> {
    fn new(rows: usize, cols: usize, padding: usize, mut value: impl FnMut() -> T) -> Self {
        let stride = cols + padding;
        let mut data = vec![T::CANARY; rows * stride + 3];
        for i in 0..rows {
            data[i * stride..][..cols].fill_with(&mut value);
        }
        Matrix { data, rows, cols, stride }
    }

    fn random(random: &mut Random, rows: usize, cols: usize) -> Self {
        let padding = random.below(3) * 5;
        Self::new(rows, cols, padding, || T::random(random))
    }

    fn at(&self, i: usize, j: usize) -> T {
        self.data[i * self.stride + j]
    }

    fn transposed(&self) -> Self {
        let mut cells = (0..self.cols).flat_map(|j| (0..self.rows).map(move |i| (i, j)));
        Self::new(self.cols, self.rows, 2, || {
            let (i, j) = cells.next().unwrap();
            self.at(i, j)
        })
    }

    fn view(&self) -> MatRef<'_, T> {
        MatRef::new(&self.data, self.rows, self.cols, self.stride).unwrap()
    }

    fn view_mut(&mut self) -> MatMut<'_, T> {
        MatMut::new(&mut self.data, self.rows, self.cols, self.stride).unwrap()
    }

    fn numbers(&self) -> Vec<f64> {
        (0..self.rows).flat_map(|i| (0..self.cols).map(move |j| self.at(i, j).number())).collect()
    }

    fn assert_canaries(&self) {
        for (i, x) in self.data.iter().enumerate() {
            let inside = i / self.stride.max(1) < self.rows && i % self.stride.max(1) < self.cols;
            assert!(inside || format!("{x:?}") == format!("{:?}", T::CANARY), "element {i} was written");
        }
    }
}

/// Sizes around the edges of tiles, panels, vectors and blocks of K.
fn shapes(random: &mut Random, per_cell: usize) -> Vec<[usize; 3]> {
    let block = 512 * per_cell;
    let mut all = vec![
        [1, 1, 1],
        [5, 7, 15],
        [6, 16, 64],
        [7, 17, 65],
        [13, 33, 129],
        [1, block, 64],
        [3, block + 1, 17],
        [6, 2 * block + 3, 70],
        [100, 40, 3],
    ];
    for _ in 0..6 {
        all.push([1 + random.below(40), 1 + random.below(200), 1 + random.below(200)]);
    }
    all
}

fn multiply<A: Element, B: Element, C: Element>(
    kernels: Kernels,
    team: &Team<'_>,
    (a, b): (MatRef<'_, A>, Rhs<'_, B>),
    store: &Store<'_>,
    out: MatMut<'_, C>,
) -> Result<(), KernelError> {
    kernels.gemm(team, a, b, store, out, &mut DenseScratch::new())
}

fn bits<T: Value>(m: &Matrix<T>) -> Vec<u64> {
    m.numbers().iter().map(|x| x.to_bits()).collect()
}

/// C = A B for random shapes, B in all three orders, which must agree bit for bit.
fn products<A: Value, B: Value, C: Value>(per_cell: usize, round_a: impl Fn(f64) -> f64) {
    on_every_isa(&LEAVES, |kernels| {
        let mut random = Random(per_cell as u64 + 11);
        for [m, k, n] in shapes(&mut random, per_cell) {
            let (a, b) = (Matrix::<A>::random(&mut random, m, k), Matrix::<B>::random(&mut random, k, n));
            let (a64, b64) = (a.numbers().into_iter().map(&round_a).collect::<Vec<_>>(), b.numbers());
            let want = product(&a64, &b64, [m, k, n]);
            let b_t = b.transposed();
            let packed = kernels.pack_weights(&Team::serial(), Rhs::Straight(b.view())).unwrap();
            let orders = [Rhs::Straight(b.view()), Rhs::Transposed(b_t.view()), Rhs::Packed(&packed)];
            let mut first: Option<Vec<u64>> = None;
            let streamed = (per_cell < 4).then_some(Rhs::Streamed(b_t.view()));
            for rhs in orders.into_iter().chain(streamed) {
                let mut c = Matrix::<C>::new(m, n, 4, || C::CANARY);
                multiply(kernels, &Team::serial(), (a.view(), rhs), &Store::default(), c.view_mut()).unwrap();
                c.assert_canaries();
                for (i, Sum { value, magnitude }) in want.iter().enumerate() {
                    let got = c.at(i / n, i % n).number();
                    let exact = per_cell == 4 || A::ROUNDING == 0.0;
                    let slack = if exact { 0.0 } else { (k + 4) as f64 * 1.2e-7 * magnitude + 1e-37 };
                    let bound = slack + C::ROUNDING * (value.abs() + slack) + 6e-8 * C::ROUNDING.min(1.0);
                    assert!(
                        (got - value).abs() <= bound,
                        "{} {m} x {k} x {n}, element {i}: {got}, not {value} (bound {bound})",
                        kernels.isa()
                    );
                }
                let got = bits(&c);
                let same = first.get_or_insert_with(|| got.clone()) == &got;
                assert!(same || matches!(rhs, Rhs::Streamed(_)), "{}: orders of B differ", kernels.isa());
            }
        }
    });
}

#[test]
fn products_of_f32() {
    products::<f32, f32, f32>(1, |x| x);
    products::<f32, f32, f16>(1, |x| x);
}

#[test]
fn products_of_f16_compute_in_f32() {
    products::<f16, f16, f32>(1, |x| x);
    products::<f32, f16, f32>(1, |x| x);
    products::<f16, f16, bf16>(1, |x| x);
}

#[test]
fn products_of_bf16() {
    products::<bf16, bf16, f32>(2, |x| x);
    products::<bf16, bf16, bf16>(2, |x| x);
    products::<f32, bf16, f32>(2, |x| bf16::from_f64(x).to_f64());
}

#[test]
fn products_of_bytes_are_exact() {
    products::<i8, i8, i32>(4, |x| x);
    products::<u8, i8, i32>(4, |x| x);
    products::<u8, i8, f32>(4, |x| x);
}

#[test]
fn stores_scale_add_activate_and_narrow() {
    on_every_isa(&["dense"], |kernels| {
        let mut random = Random(5);
        for [m, k, n] in [[7, 30, 70], [3, 700, 5], [2, 0, 17]] {
            let (a, b) = (Matrix::<f32>::random(&mut random, m, k), Matrix::<f32>::random(&mut random, k, n));
            let residual = Matrix::<f32>::random(&mut random, m, n);
            let (bias, row_bias) = (random.values(n, 1.0), random.values(m, 1.0));
            let before = Matrix::<f32>::random(&mut random, m, n);
            let store = Store {
                alpha: 0.75,
                beta: -1.5,
                bias: Some(&bias),
                row_bias: Some(&row_bias),
                activation: Some(Activation::Relu),
                residual: Some(residual.view()),
                ..Store::default()
            };
            let mut c = before.clone();
            multiply(kernels, &Team::serial(), (a.view(), Rhs::Straight(b.view())), &store, c.view_mut())
                .unwrap();
            let want = product(&a.numbers(), &b.numbers(), [m, k, n]);
            for (at, sum) in want.iter().enumerate() {
                let (i, j) = (at / n, at % n);
                let inner = 0.75 * sum.value + f64::from(bias[j]) + f64::from(row_bias[i]);
                let want = inner.max(0.0) - 1.5 * f64::from(before.at(i, j)) + f64::from(residual.at(i, j));
                let bound = (k + 9) as f64 * 1.2e-7 * (sum.magnitude + 5.0);
                assert!((f64::from(c.at(i, j)) - want).abs() <= bound, "{}: {i}, {j}", kernels.isa());
            }
        }
    });
}

#[test]
fn without_beta_old_values_are_not_read_and_without_k_biases_remain() {
    on_every_isa(&["dense"], |kernels| {
        let (a, b) = (Matrix::<f32>::new(3, 0, 1, || 0.0), Matrix::<f32>::new(0, 40, 0, || 0.0));
        let mut c = Matrix::<f32>::new(3, 40, 0, || f32::NAN);
        let bias = [2.5; 40];
        let store = Store { bias: Some(&bias), ..Store::default() };
        let team = Team::serial();
        multiply(kernels, &team, (a.view(), Rhs::Straight(b.view())), &store, c.view_mut()).unwrap();
        assert!(c.numbers().iter().all(|x| *x == 2.5));
        multiply(kernels, &team, (a.view(), Rhs::Straight(b.view())), &Store::default(), c.view_mut())
            .unwrap();
        assert!(c.numbers().iter().all(|x| *x == 0.0));
        let keep = Store { beta: 1.0, ..Store::default() };
        let mut c = Matrix::<f32>::new(3, 40, 0, || 7.0);
        multiply(kernels, &team, (a.view(), Rhs::Straight(b.view())), &keep, c.view_mut()).unwrap();
        assert!(c.numbers().iter().all(|x| *x == 7.0));
    });
}

#[test]
fn quantized_layers_subtract_zero_points_and_scale() {
    fn check<A: Value>(seed: u64) {
        on_every_isa(&["dense"], |kernels| {
            let mut random = Random(seed);
            for [m, k, n] in [[9, 100, 70], [2, 2100, 33]] {
                let (a, b) =
                    (Matrix::<A>::random(&mut random, m, k), Matrix::<i8>::random(&mut random, k, n));
                let scales = |n: usize, random: &mut Random| {
                    (0..n).map(|_| 0.2 + random.float() / 8.0).collect::<Vec<_>>()
                };
                let (scale_a, scale_b) = (scales(m, &mut random), scales(n, &mut random));
                let zero_a: Vec<i32> = (0..m).map(|_| random.below(256) as i32 - 128).collect();
                let zero_b: Vec<i32> = (0..n).map(|_| random.below(20) as i32 - 10).collect();
                let dequantize = Dequantize {
                    scale_a: PerAxis::Each(&scale_a),
                    zero_a: PerAxis::Each(&zero_a),
                    scale_b: PerAxis::Each(&scale_b),
                    zero_b: PerAxis::Each(&zero_b),
                };
                let packed = kernels.pack_weights(&Team::serial(), Rhs::Straight(b.view())).unwrap();
                for rhs in [Rhs::Straight(b.view()), Rhs::Packed(&packed)] {
                    let mut c = Matrix::<f32>::new(m, n, 0, || 0.0);
                    let store = Store { dequantize, ..Store::default() };
                    multiply(kernels, &Team::serial(), (a.view(), rhs), &store, c.view_mut()).unwrap();
                    for at in 0..m * n {
                        let (i, j) = (at / n, at % n);
                        let sum: f64 = (0..k)
                            .map(|l| {
                                (a.at(i, l).number() - f64::from(zero_a[i]))
                                    * (b.at(l, j).number() - f64::from(zero_b[j]))
                            })
                            .sum();
                        let want = sum * f64::from(scale_a[i]) * f64::from(scale_b[j]);
                        let got = f64::from(c.at(i, j));
                        assert!(
                            (got - want).abs() <= 3e-7 * want.abs(),
                            "{}: {got}, not {want}",
                            kernels.isa()
                        );
                    }
                }
            }
        });
    }
    check::<i8>(3);
    check::<u8>(4);
}

/// A gated product is, bit for bit, the product of its two factors; of panels, rows and streams alike.
#[test]
fn gated_products_are_products_of_their_factors() {
    fn check<A: Value, B: Value>(per_cell: usize, dequantize: Dequantize<'_>) {
        on_every_isa(&LEAVES, |kernels| {
            let mut random = Random(21);
            for [m, k, n] in shapes(&mut random, per_cell) {
                let a = Matrix::<A>::random(&mut random, m, k);
                let b = [0, 1].map(|_| Matrix::<B>::random(&mut random, k, n));
                let bias = random.values(n, 1.0);
                let gate = Store { activation: Some(Activation::Silu), dequantize, ..Store::default() };
                let up = Store { alpha: 0.5, bias: Some(&bias), dequantize, ..Store::default() };
                let transposed = b.each_ref().map(Matrix::transposed);
                let packed = b
                    .each_ref()
                    .map(|b| kernels.pack_weights(&Team::serial(), Rhs::Straight(b.view())).unwrap());
                let mut orders = vec![
                    b.each_ref().map(|b| Rhs::Straight(b.view())),
                    transposed.each_ref().map(|b| Rhs::Transposed(b.view())),
                    packed.each_ref().map(Rhs::Packed),
                ];
                if per_cell < 4 {
                    orders.push(transposed.each_ref().map(|b| Rhs::Streamed(b.view())));
                }
                for [b_gate, b_up] in orders {
                    let [mut g, mut u, mut c] = [0; 3].map(|_| Matrix::<f32>::new(m, n, 1, || f32::NAN));
                    let team = Team::serial();
                    multiply(kernels, &team, (a.view(), b_gate), &gate, g.view_mut()).unwrap();
                    multiply(kernels, &team, (a.view(), b_up), &up, u.view_mut()).unwrap();
                    let both = [(b_gate, &gate), (b_up, &up)];
                    kernels
                        .gemm_gated(&team, a.view(), both, c.view_mut(), &mut DenseScratch::new())
                        .unwrap();
                    c.assert_canaries();
                    for at in 0..m * n {
                        let (i, j) = (at / n, at % n);
                        let want = g.at(i, j) * u.at(i, j);
                        assert!(
                            c.at(i, j).to_bits() == want.to_bits(),
                            "{} {m} x {k} x {n} at {i}, {j}: {} and not {want}",
                            kernels.isa(),
                            c.at(i, j)
                        );
                    }
                }
            }
        });
    }
    check::<f32, f32>(1, Dequantize::default());
    check::<bf16, bf16>(2, Dequantize::default());
    let scaled = Dequantize {
        scale_a: PerAxis::All(0.001),
        zero_a: PerAxis::All(3),
        scale_b: PerAxis::All(0.002),
        zero_b: PerAxis::All(-2),
    };
    check::<u8, i8>(4, scaled);
}

#[test]
fn int8_groups_have_the_scale_of_their_largest_and_round_to_the_nearest() {
    on_every_isa(&LEAVES, |kernels| {
        let mut random = Random(31);
        for [m, k, n] in shapes(&mut random, 1) {
            let (mut a, b) =
                (Matrix::<f32>::random(&mut random, m, k), Matrix::<f32>::random(&mut random, k, n));
            if m > 2 {
                a.data[2 * a.stride] = f32::NAN;
            }
            let b_t = b.transposed();
            let packed = kernels.pack_weights(&Team::serial(), Rhs::Straight(b.view())).unwrap();
            for rhs in [Rhs::Straight(b.view()), Rhs::Packed(&packed), Rhs::Streamed(b_t.view())] {
                let mut c = Matrix::<f32>::new(m, n, 0, || 0.0);
                let team = Team::serial();
                multiply(kernels, &team, (a.view(), rhs), &Store::default(), c.view_mut()).unwrap();
                let mut q = Matrix::<i8>::new(m, n, 3, || 77);
                let mut scales = Matrix::<f32>::new(m, n.div_ceil(32), 1, || f32::NAN);
                let out = Int8Groups { values: q.view_mut(), scales: scales.view_mut() };
                kernels.gemm(&team, a.view(), rhs, &Store::default(), out, &mut DenseScratch::new()).unwrap();
                q.assert_canaries();
                scales.assert_canaries();
                for i in 0..m {
                    for group in 0..n.div_ceil(32) {
                        let cols = 32 * group..(32 * group + 32).min(n);
                        let row: Vec<f32> = cols.clone().map(|j| c.at(i, j)).collect();
                        let scale = scales.at(i, group);
                        if row.iter().any(|x| x.is_nan()) {
                            assert!(scale.is_nan());
                            continue;
                        }
                        let largest = row.iter().fold(0.0_f32, |l, x| l.max(x.abs()));
                        assert_eq!(scale, largest / 127.0);
                        for (x, j) in row.iter().zip(cols) {
                            let error = (f64::from(q.at(i, j)) * f64::from(scale) - f64::from(*x)).abs();
                            assert!(
                                error <= 0.5001 * f64::from(scale),
                                "{}: {i}, {j}: {error}",
                                kernels.isa()
                            );
                        }
                    }
                }
            }
        }
    });
}

#[test]
fn batches_have_the_bits_of_single_products() {
    on_every_isa(&LEAVES, |kernels| {
        for_every_team(|team| {
            let mut random = Random(41);
            for count in [0, 1, 2, 5, 8] {
                let [m, k, n] = [1 + random.below(20), random.below(70), 1 + random.below(90)];
                let a = (0..count).map(|_| Matrix::<f32>::random(&mut random, m, k)).collect::<Vec<_>>();
                let b = (0..count).map(|_| Matrix::<f32>::random(&mut random, k, n)).collect::<Vec<_>>();
                let mut want = vec![Matrix::<f32>::new(m, n, 2, || f32::NAN); count];
                for ((a, b), c) in a.iter().zip(&b).zip(&mut want) {
                    let factors = (a.view(), Rhs::Straight(b.view()));
                    multiply(kernels, &Team::serial(), factors, &Store::default(), c.view_mut()).unwrap();
                }
                let mut got = vec![Matrix::<f32>::new(m, n, 2, || f32::NAN); count];
                let mut scratch = DenseScratch::new();
                let mut products: Vec<_> = a
                    .iter()
                    .zip(&b)
                    .zip(&mut got)
                    .map(|((a, b), c)| Gemm {
                        a: a.view(),
                        b: Rhs::Straight(b.view()),
                        store: Store::default(),
                        out: c.view_mut(),
                    })
                    .collect();
                kernels.gemm_batch(team, &mut products, &mut scratch).unwrap();
                assert!(want.iter().zip(&got).all(|(want, got)| bits(want) == bits(got)));
                got.iter().for_each(Matrix::assert_canaries);

                // The same, from one slice each; with one B for all where the first is repeated.
                for shared in [false, true] {
                    let joined = |all: &[Matrix<f32>], rows: usize, cols: usize, gap: usize| {
                        let mut data = Vec::new();
                        for matrix in all {
                            data.extend(matrix.numbers().iter().map(|x| *x as f32));
                            data.resize(data.len() + gap, f32::NAN);
                        }
                        (data, rows * cols + gap)
                    };
                    let ((a_data, a_step), (b_data, b_step)) = (joined(&a, m, k, 5), joined(&b, k, n, 0));
                    let b_step = if shared { 0 } else { b_step };
                    let mut data = vec![f32::NAN; count * (m * n + 7)];
                    let out =
                        StridedMut { data: &mut data, rows: m, cols: n, stride: n, batch_stride: m * n + 7 };
                    let a = Strided { data: &a_data, rows: m, cols: k, stride: k, batch_stride: a_step };
                    let b = Strided { data: &b_data, rows: k, cols: n, stride: n, batch_stride: b_step };
                    let store = Store::default();
                    kernels.gemm_strided(team, count, a, b, false, &store, out, &mut scratch).unwrap();
                    for (i, (found, want)) in data.chunks(m * n + 7).zip(&want).enumerate() {
                        if i == 0 || !shared {
                            let want = want.numbers();
                            assert!(
                                found.iter().zip(&want).all(|(x, y)| f64::from(*x).to_bits() == y.to_bits())
                            );
                        }
                        assert!(found[m * n..].iter().all(|x| x.is_nan()));
                    }
                }
            }
        });
    });
}

#[test]
fn strided_batches_that_overlap_or_lack_elements_are_refused() {
    let (kernels, team) = (Kernels::best(), Team::serial());
    let mut data = [7.0_f32; 11];
    let matrices = [1.0_f32; 12];
    let read = |batch_stride| Strided { data: &matrices, rows: 2, cols: 2, stride: 2, batch_stride };
    let mut refuse = |a, out_step: usize, out_stride: usize, words: &[&str]| {
        let out =
            StridedMut { data: &mut data, rows: 2, cols: 2, stride: out_stride, batch_stride: out_step };
        let store = Store::default();
        let scratch = &mut DenseScratch::new();
        let error =
            kernels.gemm_strided(&team, 3, a, read(4), false, &store, out, scratch).unwrap_err().to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
        assert!(data.iter().all(|x| *x == 7.0));
    };
    refuse(read(4), 4, 2, &["out.data.len", "12", "11"]);
    refuse(read(4), 3, 2, &["out.batch_stride", "4", "3"]);
    refuse(read(4), 3, 1, &["out.stride", "2", "1"]);
    refuse(read(5), 3, 2, &["a.data.len", "14", "12"]);
}

#[test]
fn the_bits_of_a_row_depend_on_no_other_row_and_not_on_threads() {
    fn check<A: Value, B: Value, C: Value>() {
        on_every_isa(&LEAVES, |kernels| {
            let mut random = Random(77);
            let [m, k, n] = [130, 600, 200];
            let (a, b) = (Matrix::<A>::random(&mut random, m, k), Matrix::<B>::random(&mut random, k, n));
            let mut first: Option<Vec<u64>> = None;
            for_every_team(|team| {
                let packed = kernels.pack_weights(team, Rhs::Straight(b.view())).unwrap();
                for rhs in [Rhs::Straight(b.view()), Rhs::Packed(&packed)] {
                    let mut c = Matrix::<C>::new(m, n, 1, || C::CANARY);
                    multiply(kernels, team, (a.view(), rhs), &Store::default(), c.view_mut()).unwrap();
                    let got = bits(&c);
                    assert!(first.get_or_insert_with(|| got.clone()) == &got, "{} threads", team.threads());
                }
            });
            let all = first.unwrap();
            for rows in [0..1, 1..3, 100..117, 5..130] {
                let mut c = Matrix::<C>::new(rows.len(), n, 0, || C::CANARY);
                let part = (a.view().row_range(rows.clone()), Rhs::Straight(b.view()));
                multiply(kernels, &Team::serial(), part, &Store::default(), c.view_mut()).unwrap();
                assert!(bits(&c) == all[rows.start * n..rows.end * n], "{}: rows {rows:?}", kernels.isa());
            }
        });
    }
    check::<f32, f32, f32>();
    check::<bf16, bf16, f16>();
    check::<u8, i8, f32>();
}

#[test]
fn a_nan_stays_in_its_row_and_column() {
    on_every_isa(&["dense"], |kernels| {
        let mut random = Random(9);
        let (mut a, mut b) =
            (Matrix::<f32>::random(&mut random, 8, 20), Matrix::<f32>::random(&mut random, 20, 70));
        let (at_a, at_b) = (3 * a.stride + 4, 5 * b.stride + 66);
        a.data[at_a] = f32::NAN;
        b.data[at_b] = f32::INFINITY;
        let mut c = Matrix::<f32>::new(8, 70, 0, || 0.0);
        multiply(
            kernels,
            &Team::serial(),
            (a.view(), Rhs::Straight(b.view())),
            &Store::default(),
            c.view_mut(),
        )
        .unwrap();
        for i in 0..8 {
            for j in 0..70 {
                assert_eq!(c.at(i, j).is_finite(), i != 3 && j != 66, "{i}, {j}");
            }
        }
    });
}

#[test]
fn what_cannot_be_multiplied_is_refused_with_both_values_and_c_is_left_alone() {
    let kernels = Kernels::best();
    let (a, b) = (vec![1.0_f32; 12], vec![1.0_f32; 12]);
    let (a, b) = (MatRef::from_rows(&a, 4), MatRef::from_rows(&b, 3));
    let mut c = vec![9.0_f32; 9];
    let mut refuse = |a: MatRef<'_, f32>, b: Rhs<'_, f32>, store: &Store<'_>, cols: usize, words: &[&str]| {
        let out = MatMut::from_rows(&mut c, cols);
        let error = multiply(kernels, &Team::serial(), (a, b), store, out).unwrap_err().to_string();
        for word in words {
            assert!(error.contains(word), "{error}");
        }
        assert!(c.iter().all(|x| *x == 9.0));
    };
    let plain = Store::default();
    refuse(a, Rhs::Transposed(b), &plain, 3, &["b's rows", "4", "3"]);
    refuse(a, Rhs::Straight(b), &plain, 9, &["out.rows", "3", "1"]);
    let bias = [0.0; 2];
    refuse(a, Rhs::Straight(b), &Store { bias: Some(&bias), ..plain }, 3, &["bias.len", "3", "2"]);
    refuse(a, Rhs::Straight(b), &Store { residual: Some(a), ..plain }, 3, &["residual.cols", "3", "4"]);
    let other = Dequantize { zero_a: PerAxis::All(1), ..Dequantize::default() };
    refuse(a, Rhs::Straight(b), &Store { dequantize: other, ..plain }, 3, &["dequantize", "integers"]);
    if let Some(portable) = Kernels::every_available().find(|k| k.isa() != kernels.isa()) {
        let packed = portable.pack_weights(&Team::serial(), Rhs::Straight(b)).unwrap();
        refuse(a, Rhs::Packed(&packed), &plain, 3, &["packed for", portable.isa().name()]);
    }
    let long = vec![0_i8; 131_072];
    let mut sum = [5_i32];
    let factors =
        (MatRef::from_rows(&long, long.len()), Rhs::Transposed(MatRef::from_rows(&long, long.len())));
    let error =
        multiply(kernels, &Team::serial(), factors, &plain, MatMut::from_rows(&mut sum, 1)).unwrap_err();
    assert!(error.to_string().contains("131072") && sum == [5], "{error}");
    let mut narrow = [0_i32; 9];
    let error =
        multiply(kernels, &Team::serial(), (a, Rhs::Straight(b)), &plain, MatMut::from_rows(&mut narrow, 3));
    assert!(error.unwrap_err().to_string().contains("i32"));
}

#[test]
fn weights_are_packed_into_the_callers_memory_without_an_allocation_of_their_size() {
    let kernels = Kernels::best();
    let b = vec![0.5_f32; 100 * 70];
    let rhs = Rhs::Straight(MatRef::from_rows(&b, 70));
    let len = kernels.packed_len(f32::TYPE, 100, 70).unwrap();
    let mut memory = vec![0_u64; len.div_ceil(8)];
    let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut memory);
    let packed = kernels.pack_weights_into(&Team::serial(), rhs, bytes).unwrap();
    let own = kernels.pack_weights(&Team::serial(), rhs).unwrap();
    assert!(packed.bytes()[..len] == own.bytes()[..len]);
    assert!((packed.k(), packed.n(), packed.isa()) == (100, 70, kernels.isa()));
    let mut short = vec![0_u8; len - 1];
    let error = kernels.pack_weights_into(&Team::serial(), rhs, &mut short).unwrap_err().to_string();
    assert!(error.contains(&len.to_string()) && error.contains(&(len - 1).to_string()), "{error}");
}
