//! Dense products: every type, every way to give B.

use super::{Random, Sweep};
use crate::dense::{DenseScratch, Element, ElementType, Output, Rhs, Store};
use crate::error::KernelError;
use crate::isa::Kernels;
use crate::matrix::{MatMut, MatRef};
use crate::pool::Team;
use crate::reference::dense as reference;
use half::{bf16, f16};

/// How B is given.
const WAYS: [&str; 4] = ["straight", "transposed", "packed", "streamed"];

/// Products of all types.
pub(super) fn dense(sweep: &mut Sweep) {
    of::<f32, f32, f32>(sweep, "dense, f32", |r| r.float(), |r| r.float());
    let half = |r: &mut Random| f16::from_f32(r.float());
    of::<f16, f16, f32>(sweep, "dense, f16", half, half);
    let brain = |r: &mut Random| bf16::from_f32(r.float());
    of::<bf16, bf16, f32>(sweep, "dense, bf16", brain, brain);
    let signed = |r: &mut Random| r.byte().cast_signed();
    of::<i8, i8, i32>(sweep, "dense, i8", signed, signed);
    of::<u8, i8, i32>(sweep, "dense, u8 x i8", |r| r.byte(), signed);
}

fn of<A, B, C>(
    sweep: &mut Sweep,
    kernel: &'static str,
    a_of: fn(&mut Random) -> A,
    b_of: fn(&mut Random) -> B,
) where
    A: Element + Into<f64>,
    B: Element + Into<f64>,
    C: Element + Into<f64> + Default,
    for<'m> MatMut<'m, C>: Output<'m>,
{
    let integers = C::TYPE == ElementType::I32;
    let quick = vec![[1, 33, 65], [7, 100, 70], [13, 300, 17]];
    let mut full = quick.clone();
    full.extend([[2, 1, 64], [6, 64, 64], [4, 257, 129], [31, 640, 96]]);
    for [m, k, n] in sweep.choose(quick, full) {
        let mut random = Random::new((m * 1000 + k + n) as u64);
        let a: Vec<A> = (0..m * k).map(|_| a_of(&mut random)).collect();
        let b: Vec<B> = (0..k * n).map(|_| b_of(&mut random)).collect();
        let across: Vec<B> = (0..n * k).map(|at| b[at % k * n + at / k]).collect();
        let [wide_a, wide_b] = [a.iter().map(|&x| x.into()).collect(), b.iter().map(|&x| x.into()).collect()];
        let wide: [Vec<f64>; 2] = [wide_a, wide_b];
        let want = reference::product(&wide[0], &wide[1], [m, k, n]);
        for kernels in sweep.isas() {
            for way in WAYS {
                if integers && way == "streamed" {
                    continue;
                }
                let outcome = sweep.outcome(kernels, kernel);
                let place = |at: usize| format!("{m} x {k} x {n}, {way}: out[{}, {}]", at / n, at % n);
                match product::<A, B, C>(kernels, way, (&a, &b, &across), [m, k, n]) {
                    Err(error) => outcome.accept(Err(error), || place(0)),
                    Ok(got) => {
                        for (at, (got, want)) in got.iter().zip(&want).enumerate() {
                            let rounding = (k + 4) as f64 * f64::from(f32::EPSILON) / 2.0 * want.magnitude;
                            let bound = if integers { 0.0 } else { rounding + 1e-36 };
                            outcome.compare((*got).into(), want.value, bound, || place(at));
                        }
                    }
                }
            }
        }
    }
}

/// C, with B as it lies in `b`, or across in `across`.
fn product<A: Element, B: Element, C: Element + Default>(
    kernels: Kernels,
    way: &str,
    (a, b, across): (&[A], &[B], &[B]),
    [_, k, n]: [usize; 3],
) -> Result<Vec<C>, KernelError>
where
    for<'m> MatMut<'m, C>: Output<'m>,
{
    let team = Team::serial();
    let (b, across) = (MatRef::from_rows(b, n), MatRef::from_rows(across, k));
    let packed;
    let rhs = match way {
        "straight" => Rhs::Straight(b),
        "transposed" => Rhs::Transposed(across),
        "streamed" => Rhs::Streamed(across),
        _ => {
            packed = kernels.pack_weights(&team, Rhs::Transposed(across))?;
            Rhs::Packed(&packed)
        }
    };
    let mut c = vec![C::default(); a.len() / k * n];
    let out = MatMut::from_rows(&mut c, n);
    kernels.gemm(&team, MatRef::from_rows(a, k), rhs, &Store::default(), out, &mut DenseScratch::new())?;
    Ok(c)
}
