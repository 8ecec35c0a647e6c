//! Row-wise kernels, in the caches and out of them. Their limit is memory's, what is read and written as fast as copies
//! and updates of as much memory are, or that of the units which multiply: softmax takes several multiply-adds for each
//! element. Those count as two operations each, multiplications too, since they take the place of one.

use super::case::{Case, Group, Operand, Row, Run, Setting, count};
use crate::limits::Access;
use crate::work::Work;
use anyhow::Result;
use gable_kernels::activation::Activation;
use gable_kernels::memory::zeros;
use gable_kernels::rope::{Rope, RopeAngles, RopePairing, RopeScaling};
use gable_kernels::{MatMut, MatRef, Team};

/// Elements of a row, and of a head as rotary positions see it.
const COLS: usize = 2048;
/// Elements of a row as wide as a large vocabulary.
const WIDE: usize = 262_144;
const HEAD: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Op {
    Softmax,
    RmsNorm,
    LayerNorm,
    Rope,
    Gated,
}

impl Op {
    const ALL: [Op; 5] = [Op::Softmax, Op::RmsNorm, Op::LayerNorm, Op::Rope, Op::Gated];

    fn name(self) -> &'static str {
        match self {
            Op::Softmax => "softmax",
            Op::RmsNorm => "rms_norm",
            Op::LayerNorm => "layer_norm",
            Op::Rope => "rope",
            Op::Gated => "silu(x) * y",
        }
    }

    /// How it goes through memory.
    fn access(self) -> Access {
        match self {
            Op::Softmax | Op::Rope => Access::Update,
            Op::RmsNorm | Op::LayerNorm => Access::Copy,
            Op::Gated => Access::Join,
        }
    }

    /// Matrices that it keeps, and how often it reads or writes one.
    fn matrices(self) -> (usize, usize) {
        match self.access() {
            Access::Read => (1, 1),
            Access::Update => (1, 2),
            Access::Copy => (2, 2),
            Access::Join => (3, 3),
        }
    }

    /// Multiplications and multiply-adds for each element, where they are so many that they can bind.
    fn multiplies(self) -> usize {
        match self {
            Op::Softmax => gable_kernels::softmax::MULTIPLIES,
            _ => 0,
        }
    }

    /// Rows of [`COLS`] elements, as many as half a second-level cache holds or more than all caches do.
    fn case(self, setting: &Setting, outside: bool) -> Result<Case> {
        let (matrices, _) = self.matrices();
        let wanted = if outside { setting.sizes.beyond() } else { setting.sizes.l2 / 2 };
        let row = COLS.saturating_mul(size_of::<f32>());
        self.of(setting, (wanted / row.saturating_mul(matrices)).max(1), COLS)
    }

    fn of(self, setting: &Setting, rows: usize, cols: usize) -> Result<Case> {
        let (matrices, touched) = self.matrices();
        let matrix = rows.saturating_mul(cols).saturating_mul(size_of::<f32>());
        Ok(Case {
            work: Work {
                f32: count(&[2, self.multiplies(), rows, cols]),
                bytes: count(&[matrix, touched]),
                ..Work::default()
            },
            access: self.access(),
            working_set: matrix.saturating_mul(matrices),
            // Nothing is to be read from memory that might be in the caches: all is gone through before it comes again.
            rotates: false,
            run: self.run(setting, rows, cols)?,
        })
    }

    fn run(self, setting: &Setting, rows: usize, cols: usize) -> Result<Run> {
        let (kernels, len) = (setting.kernels, rows.saturating_mul(cols));
        let mut to = zeros::<f32>("a matrix", len)?;
        Ok(match self {
            Op::Softmax => Box::new(move |team: &Team<'_>| {
                kernels.softmax(team, 1.0, None, MatMut::from_rows(&mut to[..], cols))
            }),
            Op::RmsNorm | Op::LayerNorm => {
                let (from, weight) = (Operand::new(len, |x| x)?, Operand::new(cols, |x| x)?);
                Box::new(move |team| {
                    let (from, to) = (MatRef::from_rows(&from, cols), MatMut::from_rows(&mut to[..], cols));
                    match self {
                        Op::LayerNorm => kernels.layer_norm(team, from, &weight, &weight, 1e-5, to),
                        _ => kernels.rms_norm(team, from, &weight, 1e-6, to),
                    }
                })
            }
            Op::Rope => {
                to.copy_from_slice(&Operand::new(len, |x| x)?);
                let angles = angles(rows)?;
                Box::new(move |team| kernels.rope(team, &angles, HEAD, MatMut::from_rows(&mut to[..], cols)))
            }
            Op::Gated => {
                let (gate, up) = (Operand::new(len, |x| x)?, Operand::new(len, |x| -x)?);
                Box::new(move |team| {
                    let [gate, up] = [&gate, &up].map(|x| MatRef::from_rows(x, cols));
                    kernels.gated(team, Activation::Silu, gate, up, MatMut::from_rows(&mut to[..], cols))
                })
            }
        })
    }
}

/// All of them.
pub fn rows() -> Vec<Row> {
    let row = |op: Op, outside: bool| {
        let place = if outside { "from DRAM" } else { "in cache" };
        let row = Row::new(Group::RowWise, format!("{}, {place}", op.name()), move |s| op.case(s, outside));
        row.quick(!outside && matches!(op, Op::Softmax | Op::RmsNorm | Op::Gated))
    };
    let wide = format!("{}, one row of {WIDE}", Op::Softmax.name());
    let wide = Row::new(Group::RowWise, wide, |s| Op::Softmax.of(s, 1, WIDE));
    let all = Op::ALL.into_iter().flat_map(|op| [false, true].map(|outside| row(op, outside)));
    all.chain([wide]).collect()
}

/// Rows at positions of their own.
fn angles(rows: usize) -> Result<RopeAngles> {
    let rope = Rope::new(RopePairing::Halves, HEAD, 10_000.0, RopeScaling::None, rows)?;
    let mut angles = RopeAngles::try_new(&rope, rows)?;
    let positions: Vec<u32> = (0..rows).map(|i| u32::try_from(i).unwrap_or(u32::MAX)).collect();
    angles.set(&rope, &positions)?;
    Ok(angles)
}
