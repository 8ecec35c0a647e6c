//! Spending bytes where they help most.
//!
//! The divergence that a tensor's quantization causes alone grows with the square of its rounding error, and every bit
//! halves that error. So from one measured cost `D` at `b` bits per weight those of all other formats follow,
//!
//! ```text
//! D(f) = D * 4^(b - bits(f))
//! ```
//!
//! and bytes go, step by step, to the tensor whose next better format takes off most of the sum per byte.

use super::recipe::Choice;
use crate::tensor_table::TensorInfo;
use gable_kernels::quant::Format;

/// What a tensor's quantization was found to cost.
#[derive(Debug, Clone, PartialEq)]
pub struct Cost {
    /// Name of the tensor.
    pub name: String,
    /// The format it had.
    pub format: Format,
    /// Mean KL divergence that it causes alone.
    pub divergence: f64,
}

/// Gives better formats to tensors of known cost while all tensors together stay within `budget` bytes; none gets a
/// format larger than its source's. Gives how many got one, and the bytes of all, which are above the budget only if they
/// were before.
pub fn spend(
    tensors: &[TensorInfo],
    choices: &mut [Choice],
    costs: &[Cost],
    budget: usize,
) -> (usize, usize) {
    let bytes = |t: &TensorInfo, f: Format| t.dims.n_bytes(f).unwrap_or(usize::MAX);
    let mut total =
        tensors.iter().zip(&*choices).fold(0_usize, |n, (t, c)| n.saturating_add(bytes(t, c.format)));
    let mut raised = vec![false; tensors.len()];
    let known: Vec<Option<&Cost>> =
        tensors.iter().map(|t| costs.iter().find(|cost| *cost.name == *t.name)).collect();
    loop {
        let mut best: Option<(f64, usize, Format, usize)> = None;
        for (i, ((tensor, choice), cost)) in tensors.iter().zip(&*choices).zip(&known).enumerate() {
            let Some(cost) = cost.filter(|_| tensor.format != choice.format) else { continue };
            let cols = tensor.dims.cols();
            let Some(next) = better(choice.format, tensor.format, cols) else { continue };
            let more = bytes(tensor, next).saturating_sub(bytes(tensor, choice.format));
            if more > budget.saturating_sub(total) {
                continue;
            }
            let at = |f| cost.divergence * 4.0_f64.powf(bits(cost.format, cols) - bits(f, cols));
            #[expect(clippy::cast_precision_loss, reason = "a gain per byte")]
            let gain = (at(choice.format) - at(next)) / more.max(1) as f64;
            if gain > 0.0 && best.is_none_or(|(other, ..)| gain > other) {
                best = Some((gain, i, next, more));
            }
        }
        let Some((_, i, format, more)) = best else { break };
        if let (Some(choice), Some(raised)) = (choices.get_mut(i), raised.get_mut(i)) {
            *choice = Choice { format, instead_of: None };
            *raised = true;
        }
        total = total.saturating_add(more);
    }
    (raised.iter().filter(|r| **r).count(), total)
}

/// Bits per weight; more than any for rows that do not divide into the format's blocks.
#[expect(clippy::cast_precision_loss, reason = "a small ratio")]
fn bits(format: Format, cols: usize) -> f64 {
    format.row_bytes(cols).map_or(f64::MAX, |bytes| 8.0 * bytes as f64 / cols.max(1) as f64)
}

/// The next larger format that rows of `cols` values can have, up to that of the source. Of equals the last in the
/// formats' order, which is the one with the finer scales.
fn better(format: Format, source: Format, cols: usize) -> Option<Format> {
    let (low, high) = (bits(format, cols), bits(source, cols));
    let mut next: Option<Format> = None;
    // F16 holds weights more exactly than BF16 does in as many bits.
    let larger =
        |f: &Format| f.can_quantize() && *f != Format::BF16 && bits(*f, cols) > low && bits(*f, cols) <= high;
    for f in Format::ALL.into_iter().filter(larger) {
        if next.is_none_or(|n| bits(f, cols) <= bits(n, cols)) {
            next = Some(f);
        }
    }
    // A source's own format is copied, whatever else has its size.
    next.map(|f| if bits(f, cols) == high { source } else { f })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor_table::Dims;

    fn tensors(n: usize) -> Vec<TensorInfo> {
        let dims = Dims::new(&[512, 64]).unwrap();
        let tensor = |i| TensorInfo {
            name: format!("t{i}").into(),
            dims,
            format: Format::F16,
            shard: 0,
            offset: 0,
            n_bytes: 512 * 64 * 2,
        };
        (0..n).map(tensor).collect()
    }

    fn spent(divergences: &[f64], bpw: f64) -> (Vec<Format>, usize) {
        let tensors = tensors(divergences.len());
        let mut choices = vec![Choice { format: Format::Q4_K, instead_of: None }; tensors.len()];
        let cost = |(i, &divergence): (usize, &f64)| Cost {
            name: format!("t{i}"),
            format: Format::Q4_K,
            divergence,
        };
        let costs: Vec<Cost> = divergences.iter().enumerate().map(cost).collect();
        let budget = (bpw * 512.0 * 64.0 / 8.0) as usize * tensors.len();
        let (raised, total) = spend(&tensors, &mut choices, &costs, budget);
        assert!(total <= budget.max(4 * 18432), "{total} of {budget}");
        let formats: Vec<Format> = choices.iter().map(|c| c.format).collect();
        assert_eq!(raised, formats.iter().filter(|f| **f != Format::Q4_K).count());
        (formats, total)
    }

    #[test]
    fn bytes_go_to_whom_they_help_most() {
        let (formats, _) = spent(&[0.1, 0.0001, 0.01, 0.0], 5.0);
        assert!(bits(formats[0], 512) > bits(formats[2], 512), "{formats:?}");
        assert_eq!((formats[1], formats[3]), (Format::Q4_K, Format::Q4_K));
        // What costs the same gets the same.
        let (formats, _) = spent(&[0.01; 4], 5.5);
        assert!(formats.iter().all(|f| *f == formats[0]), "{formats:?}");
    }

    #[test]
    fn more_budget_never_gives_a_tensor_less_and_enough_gives_the_source() {
        let divergences = [0.3, 0.02, 0.005, 0.001];
        let mut before = spent(&divergences, 4.0);
        assert_eq!(before.0, [Format::Q4_K; 4], "less than there is changes nothing");
        for bpw in [4.6, 5.0, 6.0, 8.0, 12.0, 16.0] {
            let now = spent(&divergences, bpw);
            assert!(now.1 >= before.1, "{bpw}");
            before = now;
        }
        assert_eq!(before.0, [Format::F16; 4]);
    }
}
