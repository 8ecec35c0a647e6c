//! Matrix multiplication: `out = x W^T`, activations times weights in any format.
//!
//! ```text
//! out[i, j] (+)= sum_k x[i, k] W[j, k] + bias[j]        x: m rows, W: n rows in their on-file layout
//! ```
//!
//! Two orders of summation exist, chosen by the caller's [`Phase`] and never by a shape:
//!
//! - [`Phase::Prompt`]: panels of `NR` weight rows are unpacked into the cache once and multiplied with all rows of
//!   x by a register tile. Each output is one chain over k (int8: over groups, each an exact integer).
//! - [`Phase::Decode`]: every weight row is streamed once and multiplied with each row of x; lanes hold partial
//!   sums over k that are folded at the end.
//!
//! Threads get disjoint ranges of weight rows; k is never split. So a row's bits depend on that row, the weights,
//! the phase and the instruction set, and on nothing else.
//!
//! The path down: [`Kernels::matmul`] (or, for several products at once, [`Kernels::matmul_each`]) checks shapes and cuts
//! the weight rows into parts, each part calls one leaf of the table (`prompt` or `decode`), which walks panels or rows
//! down to the tiles in `microkernel`.

mod decode;
mod joined;
pub(crate) mod microkernel;
mod panel;
mod prompt;
mod top_k;

use crate::error::KernelError;
use crate::isa::Kernels;
use crate::matrix::MatMut;
use crate::pool::Team;
use crate::quant::{Activations, Format, Forms, QuantWeights};
use crate::simd::LANES;

pub use joined::{Factor, Product};
pub use top_k::TopK;

pub(crate) use decode::decode;
pub(crate) use prompt::prompt;

/// Which order of summation a matmul uses: an explicit argument, so that results never depend on row counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Many rows at once (reading a prompt): register tiles over unpacked panels.
    Prompt,
    /// One or a few rows (generating): weight rows are streamed.
    Decode,
}

/// What happens to a product on its way to memory.
#[derive(Debug, Clone, Copy, Default)]
pub struct Epilogue<'a> {
    /// Added to every row: one value per weight row.
    pub bias: Option<&'a [f32]>,
    /// Adds to what `out` holds (a residual) instead of replacing it.
    pub accumulate: bool,
}

/// How the activations are read; follows from the weights' format and the forms that were made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Path {
    /// f32 activations, weights widened or dequantized to f32.
    F32,
    /// int8 groups against the blocks' integers.
    Int8,
    /// bf16 against bf16.
    Bf16,
}

impl Path {
    fn choose(format: Format, made: Forms) -> Self {
        let narrow = Forms::fast(format);
        match made.include(narrow) {
            true if narrow.int8 => Path::Int8,
            true if narrow.bf16 => Path::Bf16,
            _ => Path::F32,
        }
    }
}

/// How a matmul is computed: what [`Kernels::matmul`] follows, to be looked at beforehand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MatmulPlan {
    /// How the activations are read.
    pub path: Path,
    /// Rows of activations times weight rows of a register tile; `None` where weight rows are streamed one by one.
    pub tile: Option<(usize, usize)>,
    /// Parts that the weight rows are cut into, spread over the threads.
    pub parts: usize,
    /// Weight rows per part are a multiple of this.
    pub unit: usize,
}

/// One part of a matmul, as the leaves see it.
pub(crate) struct Job<'a> {
    pub(crate) weights: QuantWeights<'a>,
    pub(crate) x: &'a Activations,
    pub(crate) path: Path,
    pub(crate) bias: Option<&'a [f32]>,
    pub(crate) accumulate: bool,
    /// Weight rows from the first one of this part to where the next part of the same thread is likely to begin.
    pub(crate) next_part: usize,
}

impl Job<'_> {
    /// What a row of `out` starts from, before products are added: the residual or zero, plus the bias.
    #[inline(always)]
    fn start_row(&self, out: &mut [f32]) {
        match (self.bias, self.accumulate) {
            (None, false) => out.fill(0.0),
            (None, true) => {}
            (Some(bias), false) => out.copy_from_slice(bias),
            (Some(bias), true) => {
                for (o, b) in out.iter_mut().zip(bias) {
                    *o += b;
                }
            }
        }
    }
}

/// Weight rows of a part of a prompt at least, and a panel's where that is wider: of C, two cache lines of each row.
const PART_UNIT: usize = 32;

impl Kernels {
    /// How a product with `rows` weight rows of a format will be computed by a team of `threads`, if the forms `made`
    /// of the activations are there.
    ///
    /// ```
    /// use gable_kernels::{Kernels, gemm::{Path, Phase}, quant::{Format, Forms}};
    /// let plan = Kernels::best().matmul_plan(Phase::Decode, Format::Q4_K, Forms::fast(Format::Q4_K), 4096, 2);
    /// assert_eq!((plan.path, plan.tile), (Path::Int8, None));
    /// ```
    pub fn matmul_plan(
        self,
        phase: Phase,
        format: Format,
        made: Forms,
        rows: usize,
        threads: usize,
    ) -> MatmulPlan {
        let path = Path::choose(format, made);
        let threads = threads.max(1);
        let tiles = self.table.tiles;
        let (mr, nv) = if path == Path::Int8 { tiles.int8 } else { tiles.cells };
        let unit = match phase {
            Phase::Prompt => (nv * LANES).max(PART_UNIT),
            Phase::Decode => 16,
        };
        MatmulPlan {
            path,
            tile: (phase == Phase::Prompt).then_some((mr, nv * LANES)),
            parts: parts(rows, unit, threads, phase),
            unit,
        }
    }

    /// Multiplies activations with a weight matrix.
    ///
    /// `out[i, j] = sum_k x[i, k] W[j, k] + bias[j]`, or the same added to `out[i, j]` with
    /// [`Epilogue::accumulate`].
    ///
    /// Shapes: `x` is `m x k`, `weights` `n x k` in any [`Format`], `out` `m x n` with any row stride.
    ///
    /// Block-quantized weights are multiplied with the int8 groups if [`Kernels::prepare`] made them (with halves where the
    /// format asks for them: see [`Forms::fast`]), bf16 weights with bf16 rows if made; everything else computes in f32.
    /// The accumulator is always f32 (int8: exact i32 within a group). Error: at most `gamma_(k+2) sum |x w|` against the
    /// values that were really multiplied.
    ///
    /// NaN and infinity follow IEEE and stay within their row of x or of the weights. `m = 0` does nothing, `k = 0`
    /// gives bias (plus `out`).
    ///
    /// # Errors
    /// [`KernelError::Shape`] naming the argument; nothing has been written then.
    ///
    /// # Threads and determinism
    /// Weight rows are spread over the team. The bits of a row of `out` do not depend on the number of threads, on
    /// other rows, or on alignment.
    ///
    /// Source: K. Goto, R. van de Geijn, *Anatomy of High-Performance Matrix Multiplication*, 2008.
    ///
    /// ```
    /// use gable_kernels::{Kernels, MatMut, Team, gemm::{Epilogue, Phase}, quant::*};
    /// let bytes: Vec<u8> = [1.0_f32, 2.0, 3.0, 4.0].iter().flat_map(|x| x.to_le_bytes()).collect();
    /// let w = QuantWeights::from_bytes(Format::F32, 2, 2, 8, &bytes)?;
    /// let mut x = Activations::new(1, 2, Forms::EXACT);
    /// x.begin(1, 2)?.row_mut(0).copy_from_slice(&[10.0, 1.0]);
    /// let mut out = [0.0; 2];
    /// let y = MatMut::from_rows(&mut out, 2);
    /// Kernels::new()?.matmul(&Team::serial(), Phase::Decode, &x, &w, Epilogue::default(), y)?;
    /// assert_eq!(out, [12.0, 34.0]);
    /// # Ok::<(), gable_kernels::KernelError>(())
    /// ```
    pub fn matmul(
        self,
        team: &Team<'_>,
        phase: Phase,
        x: &Activations,
        weights: &QuantWeights<'_>,
        epilogue: Epilogue<'_>,
        out: MatMut<'_>,
    ) -> Result<(), KernelError> {
        self.matmul_each(team, phase, x, [Product { weights, epilogue, out }])
    }
}

/// How many parts the weight rows are cut into: one per thread, and a few more for prompts and for large matrices,
/// so that a thread that was held up does not hold up the others.
fn parts(rows: usize, unit: usize, threads: usize, phase: Phase) -> usize {
    if threads == 1 {
        return 1;
    }
    let units = rows.div_ceil(unit);
    let wanted = match phase {
        Phase::Prompt => units,
        Phase::Decode if rows >= 64 * unit => 4 * threads,
        Phase::Decode => threads,
    };
    wanted.clamp(1, units.max(1))
}
