//! Several products of the same activations as one operation of the team.
//!
//! A decoded token's products are short, so that what it costs to hand their parts out and to collect them shows. Here the
//! rows of several weight matrices are cut as one list; a part may hold the end of one and the beginning of the next.

use super::{Epilogue, Job, MatmulPlan, Path, Phase};
use crate::activation::Activation;
use crate::error::KernelError;
use crate::isa::Kernels;
use crate::matrix::{MatMut, for_columns};
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
struct Cut<'a> {
    kernels: Kernels,
    phase: Phase,
    x: &'a Activations,
    unit: usize,
    parts: usize,
}

impl Cut<'_> {
    /// The columns `rows` of a product, which are those of `out`.
    fn compute(
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
            bias: epilogue.bias.map(|b| &b[rows]),
            accumulate: epilogue.accumulate,
        };
        match self.phase {
            Phase::Prompt => self.kernels.table.prompt(&job, out),
            Phase::Decode => self.kernels.table.decode(&job, out),
        }
    }
}

impl Kernels {
    /// `lines`: whether the rows of all outputs begin with cache lines.
    fn cut<'a>(
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
        Cut { kernels: self, phase, x, unit, parts }
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
    /// `out_ij = activation(gate_ij) up_ij`, by the thread that has just written both factors.
    ///
    /// The bits are those of [`Kernels::matmul`] twice and [`Kernels::gated`]. `gate.out` and `up.out` hold the products
    /// afterwards; all three outputs have the same shape.
    ///
    /// # Errors
    /// [`KernelError::Shape`] naming the argument; nothing has been written then.
    ///
    /// ```
    /// use gable_kernels::{Kernels, MatMut, Team, activation::Activation, gemm::{Epilogue, Phase, Product}, quant::*};
    /// let bytes: Vec<u8> = [100.0_f32, 3.0].iter().flat_map(|x| x.to_le_bytes()).collect();
    /// let [gate, up] = [0, 4].map(|at| QuantWeights::from_bytes(Format::F32, 1, 1, 4, &bytes[at..at + 4]));
    /// let (gate, up, epilogue) = (gate?, up?, Epilogue::default());
    /// let mut x = Activations::new(1, 1, Forms::EXACT);
    /// x.begin(1, 1)?.row_mut(0)[0] = 1.0;
    /// let mut factors = [[0.0]; 2];
    /// let mut out = [0.0];
    /// let [of_gate, of_up] = factors.each_mut().map(|out| MatMut::from_rows(out, 1));
    /// let gate = Product { weights: &gate, epilogue, out: of_gate };
    /// let up = Product { weights: &up, epilogue, out: of_up };
    /// let view = MatMut::from_rows(&mut out, 1);
    /// Kernels::best().matmul_gated(&Team::serial(), Phase::Decode, &x, Activation::Silu, [gate, up], view)?;
    /// assert_eq!(out, [300.0]);
    /// # Ok::<(), gable_kernels::KernelError>(())
    /// ```
    pub fn matmul_gated(
        self,
        team: &Team<'_>,
        phase: Phase,
        x: &Activations,
        activation: Activation,
        [gate, up]: [Product<'_>; 2],
        out: MatMut<'_>,
    ) -> Result<(), KernelError> {
        gate.check(x)?;
        up.check(x)?;
        require("matmul_gated", "up.out.cols", gate.out.cols(), up.out.cols())?;
        require("matmul_gated", "out.cols", gate.out.cols(), out.cols())?;
        require("matmul_gated", "out.rows", x.rows(), out.rows())?;
        if x.rows() == 0 || out.cols() == 0 {
            return Ok(());
        }
        let lines = [&gate.out, &up.out, &out].iter().all(|out| out.rows_begin_lines());
        let cut = self.cut(team, phase, x, gate.weights, out.cols(), lines);
        let [of_gate, of_up] = [(gate.weights, gate.epilogue), (up.weights, up.epilogue)];
        let outputs = ((gate.out, up.out), out);
        for_columns(team, [outputs], cut.unit, cut.parts, |_, rows, ((mut gate, mut up), mut out)| {
            cut.compute(of_gate.0, of_gate.1, rows.clone(), &mut gate);
            cut.compute(of_up.0, of_up.1, rows, &mut up);
            let (gate, up) = (gate.as_ref(), up.as_ref());
            for i in 0..out.rows() {
                self.table.gated_row(activation, gate.row(i), up.row(i), out.row_mut(i));
            }
        });
        Ok(())
    }
}
