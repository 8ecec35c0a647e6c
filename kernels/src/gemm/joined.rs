//! Several products of the same activations as one operation of the team.
//!
//! A decoded token's products are short, so that what it costs to hand their parts out and to collect them shows. Here the
//! rows of several weight matrices are cut as one list; a part may hold the end of one and the beginning of the next.

use super::prompt::MAX_CELL_NR;
use super::{Epilogue, Job, MatmulPlan, PART_UNIT, Path, Phase};
use crate::activation::Activation;
use crate::error::KernelError;
use crate::isa::Kernels;
use crate::matrix::{MatMut, for_columns, for_columns_in_slots};
use crate::pool::Team;
use crate::quant::{Activations, QuantWeights};
use crate::rowwise::require;
use std::ops::Range;

/// One of several products: arguments of [`Kernels::matmul`].
#[derive(Debug)]
pub struct Product<'a> {
    /// The weights.
    pub weights: &'a QuantWeights<'a>,
    /// What happens on the way to memory.
    pub epilogue: Epilogue<'a>,
    /// Where it goes.
    pub out: MatMut<'a>,
}

/// One of the two products of [`Kernels::matmul_gated`].
#[derive(Debug, Clone, Copy)]
pub struct Factor<'a> {
    /// The weights.
    pub weights: &'a QuantWeights<'a>,
    /// Added to every row: one value per weight row.
    pub bias: Option<&'a [f32]>,
}

impl Product<'_> {
    fn check(&self, x: &Activations) -> Result<(), KernelError> {
        const OP: &str = "matmul";
        require(OP, "weights.cols", x.k(), self.weights.cols())?;
        require(OP, "out.rows", x.rows(), self.out.rows())?;
        require(OP, "out.cols", self.weights.rows(), self.out.cols())?;
        require(
            OP,
            "bias.len()",
            self.weights.rows(),
            self.epilogue.bias.map_or(self.weights.rows(), <[_]>::len),
        )
    }
}

/// How a list of weight rows is cut, and what each piece is computed with.
pub(super) struct Cut<'a> {
    kernels: Kernels,
    phase: Phase,
    x: &'a Activations,
    pub(super) unit: usize,
    pub(super) parts: usize,
    threads: usize,
}

impl Cut<'_> {
    /// The columns `rows` of a product, which are those of `out`.
    pub(super) fn compute(
        &self,
        weights: &QuantWeights<'_>,
        epilogue: Epilogue<'_>,
        rows: Range<usize>,
        out: &mut MatMut<'_>,
    ) {
        let job = Job {
            path: Path::choose(weights.format(), self.x.made()),
            weights: weights.row_range(rows.clone()),
            x: self.x,
            bias: epilogue.bias.map(|b| &b[rows.clone()]),
            accumulate: epilogue.accumulate,
            // Parts are begun in order, by one thread after the other.
            next_part: self.threads * rows.len(),
        };
        match self.phase {
            Phase::Prompt => self.kernels.table.prompt(&job, out),
            Phase::Decode => self.kernels.table.decode(&job, out),
        }
    }
}

impl Kernels {
    /// `lines`: whether the rows of all outputs begin with cache lines.
    pub(super) fn cut<'a>(
        self,
        team: &Team<'_>,
        phase: Phase,
        x: &'a Activations,
        weights: &QuantWeights<'_>,
        rows: usize,
        lines: bool,
    ) -> Cut<'a> {
        let MatmulPlan { unit, mut parts, .. } =
            self.matmul_plan(phase, weights.format(), x.made(), rows, team.threads());
        if x.rows() > 1 && !lines {
            // Threads that write two halves of a line at a time wait for each other: fewer borders between them.
            parts = parts.min(2 * team.threads());
        }
        Cut { kernels: self, phase, x, unit, parts, threads: team.threads() }
    }

    /// Multiplies activations with several weight matrices, as [`Kernels::matmul`] would one after the other and with the
    /// same bits, but as one operation of the team.
    ///
    /// Shapes and special values of each product are as there.
    ///
    /// # Errors
    /// [`KernelError::Shape`] naming the argument; nothing has been written then.
    ///
    /// ```
    /// use gable_kernels::{Kernels, MatMut, Team, gemm::{Epilogue, Phase, Product}, quant::*};
    /// let bytes: Vec<u8> = [1.0_f32, 2.0, 3.0, 4.0].iter().flat_map(|x| x.to_le_bytes()).collect();
    /// let [q, k] = [0, 8].map(|at| QuantWeights::from_bytes(Format::F32, 1, 2, 8, &bytes[at..at + 8]));
    /// let (q, k, epilogue) = (q?, k?, Epilogue::default());
    /// let mut x = Activations::new(1, 2, Forms::EXACT);
    /// x.begin(1, 2)?.row_mut(0).copy_from_slice(&[10.0, 1.0]);
    /// let mut out = [[0.0]; 2];
    /// let [of_q, of_k] = out.each_mut().map(|out| MatMut::from_rows(out, 1));
    /// let products = [
    ///     Product { weights: &q, epilogue, out: of_q },
    ///     Product { weights: &k, epilogue, out: of_k },
    /// ];
    /// Kernels::best().matmul_each(&Team::serial(), Phase::Decode, &x, products)?;
    /// assert_eq!(out, [[12.0], [34.0]]);
    /// # Ok::<(), gable_kernels::KernelError>(())
    /// ```
    pub fn matmul_each<const N: usize>(
        self,
        team: &Team<'_>,
        phase: Phase,
        x: &Activations,
        products: [Product<'_>; N],
    ) -> Result<(), KernelError> {
        products.iter().try_for_each(|product| product.check(x))?;
        let rows = products.iter().map(|product| product.weights.rows()).sum();
        let Some(first) = products.first().filter(|_| x.rows() > 0 && rows > 0) else {
            return Ok(());
        };
        let lines = products.iter().all(|product| product.out.rows_begin_lines());
        let cut = self.cut(team, phase, x, first.weights, rows, lines);
        let of = products.each_ref().map(|product| (product.weights, product.epilogue));
        let out = products.map(|product| product.out);
        for_columns(team, out, cut.unit, cut.parts, |i, rows, mut out| {
            let (weights, epilogue) = of[i];
            cut.compute(weights, epilogue, rows, &mut out);
        });
        Ok(())
    }

    /// Multiplies activations with two weight matrices and makes the gated product of the results:
    /// `out_ij = activation(gate_ij) up_ij`.
    ///
    /// The bits are those of [`Kernels::matmul`] twice and [`Kernels::gated`], but a thread multiplies some columns of both
    /// factors at a time, in `scratch`, where they stay in its second-level cache. That needs at most
    /// [`Kernels::gated_scratch`] numbers.
    ///
    /// # Errors
    /// [`KernelError::Shape`] naming the argument; nothing has been written to `out` then.
    ///
    /// ```
    /// use gable_kernels::{Kernels, MatMut, Team, activation::Activation, gemm::{Factor, Phase}, quant::*};
    /// let bytes: Vec<u8> = [100.0_f32, 3.0].iter().flat_map(|x| x.to_le_bytes()).collect();
    /// let [gate, up] = [0, 4].map(|at| QuantWeights::from_bytes(Format::F32, 1, 1, 4, &bytes[at..at + 4]));
    /// let (gate, up, kernels, team) = (gate?, up?, Kernels::best(), Team::serial());
    /// let mut x = Activations::new(1, 1, Forms::EXACT);
    /// x.begin(1, 1)?.row_mut(0)[0] = 1.0;
    /// let factors = [&gate, &up].map(|weights| Factor { weights, bias: None });
    /// let mut scratch = vec![0.0; kernels.gated_scratch(1, 1, team.threads())];
    /// let mut out = [0.0];
    /// let view = MatMut::from_rows(&mut out, 1);
    /// kernels.matmul_gated(&team, Phase::Decode, &x, Activation::Silu, factors, &mut scratch, view)?;
    /// assert_eq!(out, [300.0]);
    /// # Ok::<(), gable_kernels::KernelError>(())
    /// ```
    #[expect(clippy::too_many_arguments, reason = "what is multiplied, how, and where to")]
    pub fn matmul_gated(
        self,
        team: &Team<'_>,
        phase: Phase,
        x: &Activations,
        activation: Activation,
        [gate, up]: [Factor<'_>; 2],
        scratch: &mut [f32],
        out: MatMut<'_>,
    ) -> Result<(), KernelError> {
        const OP: &str = "matmul_gated";
        let (rows, n) = (x.rows(), out.cols());
        for factor in [&gate, &up] {
            require(OP, "weights.cols", x.k(), factor.weights.cols())?;
            require(OP, "weights.rows", n, factor.weights.rows())?;
            require(OP, "bias.len()", n, factor.bias.map_or(n, <[_]>::len))?;
        }
        require(OP, "out.rows", rows, out.rows())?;
        if rows == 0 || n == 0 {
            return Ok(());
        }
        let cut = self.cut(team, phase, x, gate.weights, n, out.rows_begin_lines());
        let width = n.div_ceil(cut.unit).div_ceil(cut.parts) * cut.unit;
        let (slots, slot) = (team.threads().min(cut.parts), 2 * rows * width);
        if scratch.len() < slots * slot {
            let what = "scratch.len() (at least)";
            return Err(KernelError::Shape { op: OP, what, expected: slots * slot, found: scratch.len() });
        }
        let slots = MatMut::new(&mut scratch[..slots * slot], slots, slot, slot)?;
        for_columns_in_slots(team, out, slots, cut.unit, cut.parts, |cols, mut out, slot| {
            let mut products =
                slot.chunks_exact_mut(rows * width).zip([gate, up]).filter_map(|(room, factor)| {
                    let mut product = MatMut::new(room, rows, cols.len(), width).ok()?;
                    let epilogue = Epilogue { bias: factor.bias, accumulate: false };
                    cut.compute(factor.weights, epilogue, cols.clone(), &mut product);
                    Some(product)
                });
            let (Some(gate), Some(up)) = (products.next(), products.next()) else { return };
            for i in 0..rows {
                self.table.gated_row(activation, gate.as_ref().row(i), up.as_ref().row(i), out.row_mut(i));
            }
        });
        Ok(())
    }

    /// How many numbers of scratch memory [`Kernels::matmul_gated`] needs at most for `rows` rows of `cols` columns.
    pub fn gated_scratch(self, rows: usize, cols: usize, threads: usize) -> usize {
        let width = cols.saturating_add(threads.saturating_mul(PART_UNIT.max(MAX_CELL_NR)));
        rows.saturating_mul(2).saturating_mul(width)
    }
}
