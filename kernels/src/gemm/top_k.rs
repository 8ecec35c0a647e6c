//! A product of which only the largest outputs are wanted, as a sampler does of the scores of a vocabulary: they are looked
//! at while they are in the cache, and never written to memory.

use super::{Epilogue, Phase};
use crate::activation::check_cap;
use crate::error::KernelError;
use crate::isa::Kernels;
use crate::largest::{Entry, Largest};
use crate::matrix::{MatMut, for_units, part_range};
use crate::memory::{Buffer, zeros};
use crate::pool::Team;
use crate::quant::{Activations, QuantWeights};
use crate::rowwise::require;

/// Outputs that a thread makes before it looks at them: half of a first-level cache, and a stream of weights long enough
/// that its beginning does not show.
const CHUNK: usize = 4096;

/// The largest outputs of a product, and the memory to find them: none by default.
#[derive(Debug, Default)]
pub struct TopK {
    slots: Vec<Slot>,
    all: Largest,
}

/// What a thread needs.
#[derive(Debug)]
struct Slot {
    outputs: Buffer<f32>, // [CHUNK]
    largest: Largest,
}

impl TopK {
    /// Room for the `k` largest outputs, found by up to `threads` threads.
    ///
    /// # Errors
    /// [`KernelError::Memory`] if the system refuses.
    pub fn new(k: usize, threads: usize) -> Result<Self, KernelError> {
        let slot =
            |_| Ok(Slot { outputs: zeros("the outputs of a chunk", CHUNK)?, largest: Largest::new(k)? });
        let slots = (0..threads.max(1)).map(slot).collect::<Result<_, KernelError>>()?;
        Ok(TopK { slots, all: Largest::new(k)? })
    }

    /// The outputs found by the last product, in the order of their columns: fewer than k where there are fewer that are not
    /// `-inf`.
    ///
    /// # Errors
    /// The first column whose output is NaN.
    pub fn entries(&self) -> Result<&[Entry], u32> {
        self.all.entries()
    }
}

impl Kernels {
    /// Multiplies one row of activations with a weight matrix and finds the k largest outputs.
    ///
    /// `out[j] = sum_k x[k] W[j, k]`, then `cap tanh(out[j] / cap)` with a `soft_cap`; of equal outputs those of lower columns.
    /// The bits are those of [`Kernels::matmul`] and [`Kernels::softcap`].
    ///
    /// Shapes: `x` is `1 x k`, `weights` `n x k`.
    ///
    /// A NaN is told by [`TopK::entries`]; `-inf` is never among the largest.
    ///
    /// # Errors
    /// [`KernelError::Shape`] naming the argument, [`KernelError::Value`] for a cap that is not positive.
    ///
    /// # Threads and determinism
    /// Weight rows are spread over the team, at most as many threads as `top` was made for. The result does not depend on
    /// their number.
    ///
    /// ```
    /// use gable_kernels::{Kernels, Team, gemm::{Phase, TopK}, quant::*};
    /// let bytes: Vec<u8> = [1.0_f32, 3.0, 2.0].iter().flat_map(|x| x.to_le_bytes()).collect();
    /// let w = QuantWeights::from_bytes(Format::F32, 3, 1, 4, &bytes)?;
    /// let mut x = Activations::new(1, 1, Forms::EXACT);
    /// x.begin(1, 1)?.row_mut(0)[0] = 10.0;
    /// let mut top = TopK::new(2, 1)?;
    /// Kernels::best().matmul_top_k(&Team::serial(), Phase::Decode, &x, &w, None, &mut top)?;
    /// let found: Vec<_> = top.entries().unwrap().iter().map(|e| (e.index, e.value)).collect();
    /// assert_eq!(found, [(1, 30.0), (2, 20.0)]);
    /// # Ok::<(), gable_kernels::KernelError>(())
    /// ```
    pub fn matmul_top_k(
        self,
        team: &Team<'_>,
        phase: Phase,
        x: &Activations,
        weights: &QuantWeights<'_>,
        soft_cap: Option<f32>,
        top: &mut TopK,
    ) -> Result<(), KernelError> {
        const OP: &str = "matmul_top_k";
        let n = weights.rows();
        require(OP, "x.rows", 1, x.rows())?;
        require(OP, "weights.cols", x.k(), weights.cols())?;
        if top.slots.is_empty() {
            return Err(KernelError::Shape {
                op: OP,
                what: "top's threads (at least)",
                expected: 1,
                found: 0,
            });
        }
        if u32::try_from(n).is_err() {
            let (found, allowed) = (n.to_string(), "at most 2^32 - 1");
            return Err(KernelError::Value { op: OP, what: "weights.rows", found, allowed });
        }
        soft_cap.map_or(Ok(()), |cap| check_cap(OP, "soft_cap", cap))?;
        let TopK { slots, all } = top;
        slots.iter_mut().for_each(|slot| slot.largest.clear());
        all.clear();
        let cut = self.cut(team, phase, x, weights, n, true);
        let used = slots.len().min(team.threads()).min(cut.parts);
        let slots = &mut slots[..used];
        for_units(team, MatMut::from_rows(slots, 1), cut.parts, |part, slot| {
            let [Slot { outputs, largest }] = slot else { return };
            let cols = part_range(n, cut.unit, cut.parts, part);
            for first in cols.clone().step_by(CHUNK) {
                let some = first..(first + CHUNK).min(cols.end);
                let outputs = &mut outputs[..some.len()];
                let mut out = MatMut::from_rows(&mut *outputs, some.len());
                cut.compute(weights, Epilogue::default(), some, &mut out);
                if let Some(cap) = soft_cap {
                    self.table.softcap_row(outputs, cap);
                }
                // A thread's parts come in the order of their columns.
                largest.take(first as u32, outputs);
            }
        });
        slots.iter().for_each(|slot| all.merge(&slot.largest));
        all.finish();
        Ok(())
    }
}
