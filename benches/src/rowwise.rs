//! Row-wise kernels: what they are called, their shapes, and how they are run.

use crate::options::Options;
use crate::timing::{Candidate, filled};
use gable_kernels::activation::Activation;
use gable_kernels::matrix::for_rows;
use gable_kernels::rope::{Rope, RopeAngles, RopePairing, RopeScaling};
use gable_kernels::{KernelError, Kernels, MatMut, MatRef, Team};

/// Rows and columns: in a near cache, in a far one, one wide row.
pub const SHAPES: &[[usize; 2]] = &[[512, 512], [64, 49_152], [1, 262_144]];
/// Elements of a head, as rotary positions see a row.
const HEAD: usize = 64;

/// A row-wise operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// In place.
    Softmax,
    /// From one matrix to another.
    RmsNorm,
    /// From one matrix to another.
    LayerNorm,
    /// In place, heads of 64.
    Rope,
    /// From one matrix to another.
    Exp,
    /// In place.
    Silu,
    /// In place, by erf.
    Gelu,
    /// Two matrices to a third.
    SwiGlu,
}

impl Op {
    /// All of them.
    pub const ALL: [Op; 8] =
        [Op::Softmax, Op::RmsNorm, Op::LayerNorm, Op::Rope, Op::Exp, Op::Silu, Op::Gelu, Op::SwiGlu];

    /// For requests and benches.
    pub fn name(self) -> &'static str {
        match self {
            Op::Softmax => "softmax",
            Op::RmsNorm => "rms_norm",
            Op::LayerNorm => "layer_norm",
            Op::Rope => "rope",
            Op::Exp => "exp",
            Op::Silu => "silu",
            Op::Gelu => "gelu",
            Op::SwiGlu => "swiglu",
        }
    }

    /// By its name.
    pub fn named(name: &str) -> Option<Op> {
        Op::ALL.into_iter().find(|op| op.name() == name)
    }

    /// Bytes that a matrix of so many elements has read and written.
    pub fn bytes(self, elements: usize) -> usize {
        elements * if self == Op::SwiGlu { 12 } else { 8 }
    }
}

/// Gable's kernel on a matrix of this shape.
///
/// # Errors
/// A shape that the operation does not have.
pub fn candidate(op: Op, [rows, cols]: [usize; 2], options: &Options) -> Result<Candidate, String> {
    let (kernels, pool) = (options.kernels, options.pool.clone());
    let x = filled(rows * cols, |x| x);
    let mut to = x.to_vec();
    let weight = filled(cols, |x| x);
    let angles = angles(rows).map_err(|e| e.to_string())?;
    if op == Op::Rope && !cols.is_multiple_of(HEAD) {
        return Err(format!("{cols} columns, wanted a multiple of {HEAD}"));
    }
    let run = move |kernels: Kernels, team: &Team<'_>| {
        let out = MatMut::from_rows(&mut to, cols);
        let from = MatRef::from_rows(&x, cols);
        match op {
            Op::Softmax => kernels.softmax(team, 1.0, None, out),
            Op::RmsNorm => kernels.rms_norm(team, from, &weight, 1e-6, out),
            Op::LayerNorm => kernels.layer_norm(team, from, &weight, &weight, 1e-5, out),
            Op::Rope => kernels.rope(team, &angles, HEAD, out),
            Op::Exp => exp(kernels, team, from, out),
            Op::Silu => kernels.activate(team, Activation::Silu, out),
            Op::Gelu => kernels.activate(team, Activation::GeluErf, out),
            Op::SwiGlu => kernels.gated(team, Activation::Silu, from, from, out),
        }
    };
    let mut run = run;
    Ok(Candidate::new("gable", move || pool.enter(|team| run(kernels, team)).expect("shapes fit")))
}

/// Exponentials, which Gable has in place and on the calling thread only: copied and computed piece by piece.
fn exp(kernels: Kernels, team: &Team<'_>, from: MatRef<'_>, out: MatMut<'_>) -> Result<(), KernelError> {
    const PIECE: usize = 2048;
    for_rows(team, out, |rows, mut out| {
        for (i, row) in rows.enumerate() {
            for (to, from) in out.row_mut(i).chunks_mut(PIECE).zip(from.row(row).chunks(PIECE)) {
                to.copy_from_slice(from);
                kernels.exp(to);
            }
        }
    });
    Ok(())
}

/// Rows at positions of their own.
fn angles(rows: usize) -> Result<RopeAngles, KernelError> {
    let rope = Rope::new(RopePairing::Halves, HEAD, 10_000.0, RopeScaling::None, rows)?;
    let mut angles = RopeAngles::try_new(&rope, rows)?;
    let positions: Vec<u32> = (0..rows as u32).collect();
    angles.set(&rope, &positions)?;
    Ok(angles)
}
