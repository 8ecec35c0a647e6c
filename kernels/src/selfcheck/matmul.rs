//! Matrix products: every format, order of summation and kind of activations.

use super::{Outcome, Random, Sweep};
use crate::error::KernelError;
use crate::gemm::{Epilogue, Phase};
use crate::isa::Kernels;
use crate::matrix::MatMut;
use crate::pool::Team;
use crate::quant::{Activations, Format, Forms, QuantWeights, Remainder};
use crate::reference::matmul::{self as reference, Sum};

/// What a problem is filled with.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fill {
    Random,
    /// Activations that two terms hold exactly, with fused and with separate roundings.
    TwoTerms,
    /// Ends of the integer ranges against activations of equal size: sums as large as they get.
    Extreme,
    /// A NaN in the first row of activations.
    Poisoned,
}

struct Problem {
    format: Format,
    fill: Fill,
    rows: usize,
    x: Vec<f32>,
    k: usize,
    n: usize,
    weights: Vec<u8>,
    /// Present in random problems: every row of out starts from its second half, the first half is the bias.
    added: Option<(Vec<f32>, Vec<f32>)>,
}

impl Problem {
    fn new(format: Format, fill: Fill, [rows, n, blocks]: [usize; 3]) -> Self {
        let mut random = Random::new((rows * 1000 + n * 10 + blocks) as u64);
        let k = if format.is_block_quantized() { blocks * format.block_len() } else { blocks * 32 };
        let mut x = random.floats(rows * k);
        match fill {
            Fill::Extreme => x.iter_mut().for_each(|x| *x = x.signum()),
            Fill::Poisoned => x.first_mut().into_iter().for_each(|x| *x = f32::NAN),
            Fill::TwoTerms => {
                for x in &mut x {
                    // Half a step of the first term is more than the second holds.
                    let steps = (*x * 32000.0) as i32;
                    *x = (steps + i32::from(steps & 255 == 128)) as f32 / 32768.0;
                }
                x.chunks_mut(32).flat_map(<[f32]>::first_mut).for_each(|x| *x = 127.0 / 128.0);
            }
            Fill::Random => {}
        }
        let weights = random.weights(format, n, k, fill == Fill::Extreme);
        let added = (fill == Fill::Random).then(|| (random.floats(n), random.floats(n)));
        Problem { format, fill, rows, x, k, n, weights, added }
    }

    fn forms(&self) -> Vec<Forms> {
        let fast = Forms::fast(self.format);
        match self.fill {
            Fill::TwoTerms if fast.int8 => vec![fast.with_remainder(Remainder::All)],
            Fill::TwoTerms => Vec::new(),
            _ if fast == Forms::EXACT => vec![fast],
            _ => vec![Forms::EXACT, fast],
        }
    }

    fn expected(&self, weights: &QuantWeights<'_>, forms: Forms) -> Vec<Sum> {
        let of_row = match forms {
            Forms { int8: true, remainder: Remainder::None, .. } => reference::int8,
            Forms { int8: true, .. } => reference::int8_two_terms,
            Forms { bf16: true, .. } => reference::bf16,
            _ => reference::f32,
        };
        self.x.chunks(self.k).flat_map(|x| of_row(x, weights)).collect()
    }

    fn product(
        &self,
        kernels: Kernels,
        weights: &QuantWeights<'_>,
        phase: Phase,
        forms: Forms,
    ) -> Result<Vec<f32>, KernelError> {
        let team = Team::serial();
        let mut a = Activations::new(self.rows, self.k, forms);
        let mut x = a.begin(self.rows, self.k)?;
        for (i, row) in self.x.chunks(self.k).enumerate() {
            x.row_mut(i).copy_from_slice(row);
        }
        kernels.prepare(&team, &mut a, forms)?;
        let (bias, residual) = self.added.as_ref().map(|(b, r)| (b.as_slice(), r.as_slice())).unzip();
        let mut out: Vec<f32> = match residual {
            Some(residual) => residual.repeat(self.rows),
            None => vec![f32::NAN; self.rows * self.n],
        };
        let epilogue = Epilogue { bias, accumulate: residual.is_some() };
        kernels.matmul(&team, phase, &a, weights, epilogue, MatMut::from_rows(&mut out, self.n))?;
        Ok(out)
    }

    /// Error bound: one chain of roundings over k, bias and residual; and what flushing a denormal may cost.
    fn compare(&self, outcome: &mut Outcome, got: &[f32], want: &[Sum]) {
        const UNIT: f64 = f32::EPSILON as f64 / 2.0;
        for (at, (got, want)) in got.iter().zip(want).enumerate() {
            let (i, j) = (at / self.n, at % self.n);
            let place = || {
                format!(
                    "{} {:?} {} x {} x {}: out[{i}, {j}]",
                    self.format, self.fill, self.rows, self.n, self.k
                )
            };
            if self.fill == Fill::Poisoned && i == 0 {
                outcome.require(got.is_nan(), || format!("{} is {got:e}, want NaN", place()));
                continue;
            }
            let (bias, residual) =
                self.added.as_ref().map_or((0.0, 0.0), |(b, r)| (b[j].into(), r[j].into()));
            let magnitude = want.magnitude + f64::abs(bias) + f64::abs(residual);
            let bound = (self.k + 4) as f64 * UNIT * magnitude + 1e-36;
            outcome.compare(f64::from(*got), want.value + bias + residual, bound, place);
        }
    }
}

fn name(phase: Phase, forms: Forms) -> &'static str {
    match (phase, forms) {
        (Phase::Prompt, Forms { int8: true, remainder: Remainder::All, .. }) => {
            "matmul prompt, int8 in two terms"
        }
        (Phase::Decode, Forms { int8: true, remainder: Remainder::All, .. }) => {
            "matmul decode, int8 in two terms"
        }
        (Phase::Prompt, Forms { int8: true, .. }) => "matmul prompt, int8",
        (Phase::Prompt, Forms { bf16: true, .. }) => "matmul prompt, bf16",
        (Phase::Prompt, _) => "matmul prompt, f32",
        (Phase::Decode, Forms { int8: true, .. }) => "matmul decode, int8",
        (Phase::Decode, Forms { bf16: true, .. }) => "matmul decode, bf16",
        (Phase::Decode, _) => "matmul decode, f32",
    }
}

/// Products of all formats.
pub(super) fn matmul(sweep: &mut Sweep) {
    // Rows of x, rows of weights, blocks per row (of 32 values, or of 256).
    let quick = vec![[1, 17, 1], [7, 33, 3], [2, 65, 18]];
    let mut full = quick.clone();
    for (i, rows) in [1, 2, 3, 5, 6, 13].into_iter().enumerate() {
        full.extend([15, 16, 31, 64, 100].map(|n| [rows, n, 1 + (3 * i + n) % 7]));
    }
    full.extend([[6, 64, 41], [13, 70, 67]]);
    for format in Format::ALL {
        for (at, mut shape) in sweep.choose(quick.clone(), full.clone()).into_iter().enumerate() {
            if format.block_len() == 256 {
                shape[2] = shape[2].div_ceil(8);
            }
            // What is special about the other fills does not depend on shapes.
            let fills = if at < quick.len() { 4 } else { 2 };
            for fill in [Fill::Random, Fill::TwoTerms, Fill::Extreme, Fill::Poisoned].into_iter().take(fills)
            {
                let problem = Problem::new(format, fill, shape);
                let row_bytes = problem.weights.len() / problem.n;
                let (n, k, bytes) = (problem.n, problem.k, &problem.weights);
                let weights = QuantWeights::from_bytes(format, n, k, row_bytes, bytes);
                for forms in problem.forms() {
                    let want = weights.as_ref().map_or(Vec::new(), |w| problem.expected(w, forms));
                    for kernels in sweep.isas() {
                        for phase in [Phase::Prompt, Phase::Decode] {
                            let outcome = sweep.outcome(kernels, name(phase, forms));
                            let weights = weights.clone();
                            match weights.and_then(|w| problem.product(kernels, &w, phase, forms)) {
                                Ok(got) => problem.compare(outcome, &got, &want),
                                Err(error) => outcome.accept(Err(error), || format.to_string()),
                            }
                        }
                    }
                }
            }
        }
    }
}
