//! One tensor in another format, rows over threads.

use crate::LoadError;
use crate::tensor_table::TensorInfo;
use gable_kernels::quant::{Format, QuantWeights, quantize_weights};
use gable_kernels::{KernelError, Kernels};
use rayon::prelude::*;
use std::sync::atomic::{AtomicBool, Ordering};

/// Values that one task converts, about.
const TASK_VALUES: usize = 1 << 16;

/// How far a converted tensor is from its source.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Deviation {
    /// Root of the mean squared difference.
    pub rms: f64,
    /// The same, over the root of the source's mean square; zero for zeros.
    pub relative: f64,
    /// The largest difference.
    pub max: f64,
}

/// A tensor in its new format.
#[derive(Debug)]
pub struct Converted {
    /// Its rows.
    pub bytes: Vec<u8>,
    /// How far they are off.
    pub deviation: Deviation,
}

/// How much columns matter.
struct Importance<'a> {
    all: &'a [f32],
    cols: usize,
    /// Rows with a list of their own.
    rows: usize,
}

impl<'a> Importance<'a> {
    fn new(all: &'a [f32], tensor: &TensorInfo) -> Result<Self, String> {
        let (cols, rows) = (tensor.dims.cols(), tensor.dims.rows());
        match all.len() {
            n if n == cols => Ok(Importance { all, cols, rows }),
            n if n == importances(tensor) => {
                Ok(Importance { all, cols, rows: tensor.dims.get(1).copied().unwrap_or(rows) })
            }
            n => Err(format!("has {cols} columns, but the importance of {n}")),
        }
    }

    fn of_row(&self, row: usize) -> &'a [f32] {
        let first = (row / self.rows.max(1)).saturating_mul(self.cols);
        self.all.get(first..first.saturating_add(self.cols)).unwrap_or(self.all)
    }
}

/// Values of importance that a tensor's columns have: those of each expert, if there are some.
pub fn importances(tensor: &TensorInfo) -> usize {
    let experts = tensor.dims.iter().skip(2).fold(1, |n: usize, d| n.saturating_mul(*d));
    tensor.dims.cols().saturating_mul(experts)
}

/// Threads for conversions.
#[derive(Debug)]
pub struct Quantizer {
    threads: rayon::ThreadPool,
    kernels: Kernels,
}

/// Sums over some rows.
#[derive(Default)]
struct Sums {
    difference: f64,
    source: f64,
    max: f64,
}

impl Quantizer {
    /// Starts `threads` threads of its own.
    ///
    /// # Errors
    /// [`LoadError::Threads`] if the system gives none.
    pub fn new(threads: usize) -> Result<Quantizer, LoadError> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        let threads = pool.map_err(|e| LoadError::Threads { n: threads, reason: e.to_string() })?;
        Ok(Quantizer { threads, kernels: Kernels::best() })
    }

    /// The tensor whose rows are `source`, in another format, weighted by the columns' importance if it is given: for all
    /// rows the same, or one list after the other for the slices of the slowest dimensions (experts). `None` if `cancel` was
    /// set meanwhile.
    ///
    /// # Errors
    /// [`LoadError::Tensor`] with the row for values that are not finite, for importance of another length, and if there
    /// is no memory for the result.
    pub fn convert(
        &self,
        tensor: &TensorInfo,
        source: &[u8],
        format: Format,
        importance: Option<&[f32]>,
        cancel: &AtomicBool,
    ) -> Result<Option<Converted>, LoadError> {
        let fault = |reason: String| LoadError::Tensor { name: tensor.name.to_string(), reason };
        let (rows, cols) = (tensor.dims.rows(), tensor.dims.cols());
        let view = tensor.format.row_bytes(cols).ok_or_else(|| fault("rows of broken blocks".to_owned()));
        let view = QuantWeights::from_bytes(tensor.format, rows, cols, view?, source)
            .map_err(|e| fault(e.to_string()))?;
        let row_bytes = format.row_bytes(cols);
        let row_bytes = row_bytes.ok_or_else(|| fault(format!("{cols} columns do not fit {format}")))?;
        let n_bytes = tensor.dims.n_bytes(format).unwrap_or(usize::MAX);
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(n_bytes).map_err(|e| fault(e.to_string()))?;
        bytes.resize(n_bytes, 0);
        if bytes.is_empty() {
            return Ok(Some(Converted { bytes, deviation: Deviation::default() }));
        }
        let importance = importance.map(|all| Importance::new(all, tensor)).transpose().map_err(&fault)?;
        let rows_per_task = (TASK_VALUES / cols.max(1)).max(1);
        let task = |(i, out): (usize, &mut [u8])| -> Result<Sums, LoadError> {
            let mut sums = Sums::default();
            let (mut x, mut y) = (vec![0.0_f32; cols], vec![0.0_f32; cols]);
            for (j, out) in out.chunks_exact_mut(row_bytes).enumerate() {
                if cancel.load(Ordering::Relaxed) {
                    break;
                }
                let row = i.saturating_mul(rows_per_task).saturating_add(j);
                let mut convert = || {
                    self.kernels.dequantize_row(&view, row, &mut x)?;
                    quantize_weights(format, &x, importance.as_ref().map(|all| all.of_row(row)), out)?;
                    let made = QuantWeights::from_bytes(format, 1, cols, row_bytes, out)?;
                    self.kernels.dequantize_row(&made, 0, &mut y)
                };
                convert().map_err(|e: KernelError| fault(format!("row {row}: {e}")))?;
                sums.add_row(&x, &y);
            }
            Ok(sums)
        };
        let tasks = || {
            let chunks = bytes.par_chunks_mut(row_bytes.saturating_mul(rows_per_task)).enumerate();
            chunks.map(task).collect::<Result<Vec<Sums>, LoadError>>()
        };
        let sums = self.threads.install(tasks)?;
        if cancel.load(Ordering::Relaxed) {
            return Ok(None);
        }
        Ok(Some(Converted { bytes, deviation: Sums::deviation(&sums, tensor.dims.elements()) }))
    }
}

impl Sums {
    fn add_row(&mut self, x: &[f32], y: &[f32]) {
        for (x, y) in x.iter().zip(y) {
            let (x, difference) = (f64::from(*x), f64::from(*x) - f64::from(*y));
            self.difference += difference * difference;
            self.source += x * x;
            self.max = self.max.max(difference.abs());
        }
    }

    /// In the order of the rows, so that the result does not depend on the threads.
    #[expect(clippy::cast_precision_loss, reason = "a count of elements")]
    fn deviation(parts: &[Sums], n: usize) -> Deviation {
        let (difference, source) =
            parts.iter().fold((0.0, 0.0), |(d, s), p| (d + p.difference, s + p.source));
        let max = parts.iter().fold(0.0, |m: f64, p| m.max(p.max));
        let relative = if source > 0.0 { (difference / source).sqrt() } else { 0.0 };
        Deviation { rms: (difference / n.max(1) as f64).sqrt(), relative, max }
    }
}
