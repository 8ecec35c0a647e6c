//! Floats to blocks: the way into a weight format.
//!
//! [`quantize_weights`] is plain arithmetic in a fixed order, the same on every instruction set: a row gives the same
//! bytes everywhere. It is for making files, not for inference.
//!
//! - Q4_0, Q4_1, Q5_0, Q5_1 and Q8_0 round to the nearest step of the block's range, as the reference formulas do.
//! - Q4_K, Q5_K and Q6_K search: least squares for scale and minimum under many trial scales, then the block's integers
//!   against the scales as they are stored, then the stored scales against the integers. IQ4_NL and IQ4_XS search in the
//!   same way, with the sixteen levels of their table in the place of integers.
//! - Importance turns the same searches into weighted ones, and makes them available to the four legacy formats of four
//!   and five bits. Q8_0 has nothing to gain.

mod k_quants;
mod legacy;
mod search;

use super::Format;
use crate::error::KernelError;
use half::{bf16, f16};

const OP: &str = "quantize_weights";
/// The largest finite f16.
const F16_MAX: f32 = 65504.0;
/// The smallest positive f16.
const F16_TINY: f32 = 5.960_464_5e-8;

impl Format {
    /// Whether [`quantize_weights`] writes this format.
    pub fn can_quantize(self) -> bool {
        !matches!(self, Format::Q2_K | Format::Q3_K | Format::INT4)
    }
}

/// Writes a row of floats in a weight format.
///
/// Minimises `sum importance[i] (x[i] - w[i])^2` over what the format can hold (all ones without importance), exactly
/// for plain floats, by search for the K- and IQ4-formats, and by the reference rounding for the legacy ones, whose bytes are
/// those of `gguf.quants` where the block's values are within the range of f16.
///
/// Shapes: `x` and `importance` are a row of `cols` values, `out` its [`Format::row_bytes`].
///
/// Special values: scales are finite whatever finite values come in; what lies beyond `65504` steps of a block, or
/// beyond f16 in a row of F16, is clipped to the nearest value the format has. Blocks of zeros become zeros. Columns
/// without importance weigh a thousandth of the mean.
///
/// # Errors
/// [`KernelError::BlockLength`] if the row is no whole number of blocks; [`KernelError::Shape`] for another length of
/// `importance` or `out`; [`KernelError::Value`] for a NaN or infinity in `x`, for importance that is negative or not
/// finite, and for a format that cannot be written.
///
/// ```
/// use gable_kernels::quant::{Format, quantize_weights};
/// let x = [0.5_f32; 32];
/// let mut block = [0; 34];
/// quantize_weights(Format::Q8_0, &x, None, &mut block)?;
/// assert_eq!(block[2], 127);
/// # Ok::<(), gable_kernels::KernelError>(())
/// ```
pub fn quantize_weights(
    format: Format,
    x: &[f32],
    importance: Option<&[f32]>,
    out: &mut [u8],
) -> Result<(), KernelError> {
    let block = format.block_len();
    let bytes = format.row_bytes(x.len());
    let bytes = bytes.ok_or(KernelError::BlockLength { format, block, cols: x.len() })?;
    if out.len() != bytes {
        return Err(KernelError::Shape { op: OP, what: "out.len()", expected: bytes, found: out.len() });
    }
    if let Some(importance) = importance {
        check_importance(importance, x.len())?;
    }
    if let Some(i) = x.iter().position(|x| !x.is_finite()) {
        let found = format!("{} at column {i}", x[i]);
        return Err(KernelError::Value { op: OP, what: "x", found, allowed: "finite values" });
    }
    match format {
        Format::F32 => write(x, out, |x| x.to_le_bytes()),
        Format::F16 => write(x, out, |x| f16::from_f32(x.clamp(-F16_MAX, F16_MAX)).to_le_bytes()),
        Format::BF16 => write(x, out, |x| nearest_bf16(x).to_le_bytes()),
        Format::Q8_0 => legacy::q8_0(x, out),
        Format::Q4_0 | Format::Q4_1 | Format::Q5_0 | Format::Q5_1 => {
            let weights = importance.map(weights);
            legacy::row(format, x, weights.as_deref(), out);
        }
        Format::Q4_K | Format::Q5_K | Format::Q6_K | Format::IQ4_NL | Format::IQ4_XS => {
            let weights = importance.map_or_else(|| vec![1.0; x.len()], weights);
            match format {
                Format::IQ4_NL => legacy::iq4_nl(x, &weights, out),
                _ => k_quants::row(format, x, &weights, out),
            }
        }
        Format::Q2_K | Format::Q3_K | Format::INT4 => {
            let allowed = "F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K, IQ4_NL, IQ4_XS";
            return Err(KernelError::Value { op: OP, what: "format", found: format.to_string(), allowed });
        }
    }
    Ok(())
}

fn check_importance(importance: &[f32], cols: usize) -> Result<(), KernelError> {
    if importance.len() != cols {
        let what = "importance.len()";
        return Err(KernelError::Shape { op: OP, what, expected: cols, found: importance.len() });
    }
    if let Some(i) = importance.iter().position(|w| !w.is_finite() || *w < 0.0) {
        let found = format!("{} at column {i}", importance[i]);
        let allowed = "finite values from 0 on";
        return Err(KernelError::Value { op: OP, what: "importance", found, allowed });
    }
    Ok(())
}

/// Importance over its mean, within a range whose sums f32 can hold.
fn weights(importance: &[f32]) -> Vec<f32> {
    let mean = importance.iter().map(|w| f64::from(*w)).sum::<f64>() / importance.len().max(1) as f64;
    if mean == 0.0 {
        return vec![1.0; importance.len()];
    }
    importance.iter().map(|w| ((f64::from(*w) / mean) as f32).clamp(1e-3, 1e6)).collect()
}

fn write<const N: usize>(x: &[f32], out: &mut [u8], bytes: impl Fn(f32) -> [u8; N]) {
    for (out, x) in out.as_chunks_mut().0.iter_mut().zip(x) {
        *out = bytes(*x);
    }
}

/// To nearest even, but never to infinity.
fn nearest_bf16(x: f32) -> bf16 {
    let nearest = bf16::from_f32(x);
    if nearest.is_finite() { nearest } else { bf16::MAX.copysign(nearest) }
}
