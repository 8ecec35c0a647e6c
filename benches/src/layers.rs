//! Whole quantized layers: the matrices of a model that read the same activations, multiplied as its pass does.

use crate::options::Options;
use crate::timing::Candidate;
use gable_kernels::gemm::{Epilogue, Phase, Product};
use gable_kernels::memory::{Buffer, zeros};
use gable_kernels::quant::{Activations, Format, Forms, QuantWeights, Remainder};
use gable_kernels::{KernelError, Kernels, MatMut, Team};
use std::path::Path;

/// What `--numerics fast` makes of activations for a format.
pub fn fast_forms(phase: Phase, format: Format) -> Forms {
    let fast = Forms::fast(format);
    match phase {
        _ if !fast.int8 => fast,
        Phase::Prompt => fast.with_remainder(Remainder::Outliers),
        Phase::Decode => fast.with_remainder(Remainder::All),
    }
}

/// What is multiplied, and how often.
pub struct Problem {
    /// Of the weights.
    pub format: Format,
    /// Rows of activations.
    pub rows: usize,
    /// Columns of activations and of weights.
    pub k: usize,
    /// Weight rows of each matrix.
    pub n: Vec<usize>,
    /// Layers that one run takes, one after the other, each of memory of its own.
    pub copies: usize,
    /// Of all matrices of a layer, row by row.
    pub weights: Vec<u8>,
    /// Row by row.
    pub x: Vec<f32>,
}

impl Problem {
    /// With the files `weights` and `x` of a folder.
    ///
    /// # Errors
    /// What cannot be read, or does not have the size that the numbers give it.
    pub fn read(
        folder: &Path,
        format: Format,
        [rows, k, copies]: [usize; 3],
        n: &[usize],
    ) -> Result<Problem, String> {
        let file = |name: &str| std::fs::read(folder.join(name)).map_err(|e| format!("{name}: {e}"));
        let weights = file("weights")?;
        let row =
            format.row_bytes(k).ok_or(format!("{k} columns are no whole blocks of {}", format.name()))?;
        let x: Vec<f32> = file("x")?.as_chunks().0.iter().map(|x| f32::from_le_bytes(*x)).collect();
        let wanted = (row * n.iter().sum::<usize>(), rows * k);
        if (weights.len(), x.len()) != wanted || copies == 0 {
            let found = (weights.len(), x.len());
            return Err(format!("weights and x hold {found:?} bytes and numbers, wanted {wanted:?}"));
        }
        Ok(Problem { format, rows, k, n: n.to_vec(), copies, weights, x })
    }
}

/// Gable with a problem.
struct Gable {
    kernels: Kernels,
    problem: Problem,
    /// Weights of all layers.
    bytes: Vec<u8>,
    phase: Phase,
    forms: Forms,
    x: Activations,
    /// Of each matrix.
    out: Vec<Buffer<f32>>,
}

impl Gable {
    fn new(problem: Problem, kernels: Kernels) -> Result<Gable, KernelError> {
        let Problem { format, rows, k, .. } = problem;
        let phase = if rows == 1 { Phase::Decode } else { Phase::Prompt };
        let forms = fast_forms(phase, format);
        let mut x = Activations::try_new(rows, k, forms)?;
        let mut view = x.begin(rows, k)?;
        problem.x.chunks(k).enumerate().for_each(|(i, row)| view.row_mut(i).copy_from_slice(row));
        let bytes = problem.weights.repeat(problem.copies);
        let out = problem.n.iter().map(|n| zeros("out", rows * n)).collect::<Result<_, _>>()?;
        Ok(Gable { kernels, problem, bytes, phase, forms, x, out })
    }

    /// One layer: activations made ready, then all matrices as one operation.
    fn layer(&mut self, team: &Team<'_>, copy: usize) -> Result<(), KernelError> {
        let Problem { format, k, ref n, ref weights, .. } = self.problem;
        let layer = &self.bytes[copy * weights.len()..][..weights.len()];
        let row_bytes = weights.len() / n.iter().sum::<usize>();
        let all = QuantWeights::from_bytes(format, n.iter().sum(), k, row_bytes, layer)?;
        self.kernels.prepare(team, &mut self.x, self.forms)?;
        let product = Matrices { kernels: self.kernels, phase: self.phase, x: &self.x, all, n };
        match n.len() {
            1 => product.multiply::<1>(team, &mut self.out),
            2 => product.multiply::<2>(team, &mut self.out),
            _ => product.multiply::<3>(team, &mut self.out),
        }
    }
}

/// What one layer multiplies.
struct Matrices<'a> {
    kernels: Kernels,
    phase: Phase,
    x: &'a Activations,
    all: QuantWeights<'a>,
    n: &'a [usize],
}

impl Matrices<'_> {
    fn multiply<const N: usize>(&self, team: &Team<'_>, out: &mut [Buffer<f32>]) -> Result<(), KernelError> {
        let mut first = 0;
        let weights: [_; N] = std::array::from_fn(|i| {
            first += self.n[i];
            self.all.row_range(first - self.n[i]..first)
        });
        let mut out = out.iter_mut().zip(&weights);
        let products = std::array::from_fn(|_| {
            let (out, weights) = out.next().expect("one for each matrix");
            Product { weights, epilogue: Epilogue::default(), out: MatMut::from_rows(out, weights.rows()) }
        });
        self.kernels.matmul_each::<N>(team, self.phase, self.x, products)
    }
}

/// Gable. Before anything is timed, the results are written to the file `to`, matrix by matrix.
///
/// # Errors
/// No memory, or the file cannot be written.
pub fn candidate(problem: Problem, to: &Path, options: &Options) -> Result<Candidate, String> {
    let pool = options.pool.clone();
    let mut gable = Gable::new(problem, options.kernels).map_err(|e| e.to_string())?;
    pool.enter(|team| gable.layer(team, 0)).map_err(|e| e.to_string())?;
    let bytes: Vec<u8> = gable.out.iter().flat_map(|out| out.iter()).flat_map(|y| y.to_le_bytes()).collect();
    std::fs::write(to, bytes).map_err(|e| format!("{}: {e}", to.display()))?;
    Ok(Candidate::new("gable", move || {
        let copies = gable.problem.copies;
        pool.enter(|team| (0..copies).try_for_each(|copy| gable.layer(team, copy))).expect("shapes fit");
    }))
}
