//! Rows of weights as f32, whatever their format.

#![allow(unsafe_code)]

use super::{Format, blocks};
use crate::error::KernelError;
use crate::isa::Kernels;
use crate::quant::QuantWeights;
use crate::simd::{LANES, Simd};

/// Writes the values `from..to` of a row in `format` to `out`, zeros from `to` up to the next multiple of 16.
/// `from` is a multiple of 512.
///
/// # Safety
/// The values must lie within the row (`row` points to its first byte); `out` must be writable for `to - from`
/// values rounded up to 64.
#[inline(always)]
pub(crate) unsafe fn dequantize_row<S: Simd>(
    s: S,
    format: Format,
    row: *const u8,
    from: usize,
    to: usize,
    out: *mut f32,
) {
    // SAFETY: the caller's promise, passed on; floats are read 16 at a time and the last few from a padded copy.
    unsafe {
        match format {
            Format::F32 => floats(row.cast(), from, to, out, s, |s, p| s.load(p)),
            Format::F16 => floats(row.cast(), from, to, out, s, |s, p| s.load_f16(p)),
            Format::BF16 => floats(row.cast(), from, to, out, s, |s, p| s.load_bf16(p)),
            Format::Q4_0 => blocks::dequantize::<S, blocks::Q4_0>(s, row, from, to, out),
            Format::Q4_1 => blocks::dequantize::<S, blocks::Q4_1>(s, row, from, to, out),
            Format::Q5_0 => blocks::dequantize::<S, blocks::Q5_0>(s, row, from, to, out),
            Format::Q5_1 => blocks::dequantize::<S, blocks::Q5_1>(s, row, from, to, out),
            Format::Q8_0 => blocks::dequantize::<S, blocks::Q8_0>(s, row, from, to, out),
            Format::Q4_K => blocks::dequantize::<S, blocks::Q4_K>(s, row, from, to, out),
            Format::Q5_K => blocks::dequantize::<S, blocks::Q5_K>(s, row, from, to, out),
            Format::Q6_K => blocks::dequantize::<S, blocks::Q6_K>(s, row, from, to, out),
            Format::Q2_K => blocks::dequantize::<S, blocks::Q2_K>(s, row, from, to, out),
            Format::Q3_K => blocks::dequantize::<S, blocks::Q3_K>(s, row, from, to, out),
            Format::IQ4_NL => blocks::dequantize::<S, blocks::IQ4_NL>(s, row, from, to, out),
            Format::IQ4_XS => blocks::dequantize::<S, blocks::IQ4_XS>(s, row, from, to, out),
        }
    }
}

/// Widens floats of `T`, 16 at a time.
///
/// # Safety
/// As [`dequantize_row`]; `load` must read 16 elements at the pointer and nothing else.
#[inline(always)]
unsafe fn floats<S: Simd, T: Copy + Default>(
    row: *const T,
    from: usize,
    to: usize,
    out: *mut f32,
    s: S,
    load: impl Fn(S, *const T) -> S::F32,
) {
    let mut i = from;
    while i < to {
        // SAFETY: whole vectors are inside the row; the last few elements go through a copy padded with zeros.
        unsafe {
            let v = if i + LANES <= to {
                load(s, row.add(i))
            } else {
                let mut tail = [T::default(); LANES];
                for j in 0..to - i {
                    tail[j] = row.add(i + j).read_unaligned();
                }
                load(s, tail.as_ptr())
            };
            s.store(out.add(i - from), v);
        }
        i += LANES;
    }
}

/// Leaf: a whole row as f32.
#[inline(always)]
pub(crate) fn embed<S: Simd>(s: S, weights: &QuantWeights<'_>, row: usize, out: &mut [f32]) {
    assert!(out.len() == weights.cols());
    let bytes = weights.row(row);
    let mut buffer = [0.0_f32; 512];
    for (i, chunk) in out.chunks_mut(512).enumerate() {
        let from = i * 512;
        // SAFETY: `row` has exactly the bytes of `cols` values, the buffer holds a chunk.
        unsafe {
            dequantize_row(
                s,
                weights.format(),
                bytes.as_ptr(),
                from,
                from + chunk.len(),
                buffer.as_mut_ptr(),
            );
        }
        chunk.copy_from_slice(&buffer[..chunk.len()]);
    }
}

impl Kernels {
    /// Row `row` of a weight matrix as f32: an embedding lookup, or the way to look at quantized weights.
    ///
    /// `out[j] = W[row, j]`, bit-equal to the formats' reference formulas (scale times integer, then plus the
    /// minimum, each rounded to f32; no fused operation), on every instruction set.
    ///
    /// # Errors
    /// [`KernelError::Shape`] if `row` is beyond the rows or `out` is not `cols` long.
    ///
    /// ```
    /// use gable_kernels::{Kernels, quant::{Format, QuantWeights}};
    /// let bytes: Vec<u8> = [1.0_f32, 2.0, 3.0, 4.0].iter().flat_map(|x| x.to_le_bytes()).collect();
    /// let w = QuantWeights::from_bytes(Format::F32, 2, 2, 8, &bytes)?;
    /// let mut row = [0.0; 2];
    /// Kernels::new()?.dequantize_row(&w, 1, &mut row)?;
    /// assert_eq!(row, [3.0, 4.0]);
    /// # Ok::<(), gable_kernels::KernelError>(())
    /// ```
    pub fn dequantize_row(
        self,
        weights: &QuantWeights<'_>,
        row: usize,
        out: &mut [f32],
    ) -> Result<(), KernelError> {
        const OP: &str = "dequantize_row";
        if row >= weights.rows() {
            let (what, expected) = ("row (below)", weights.rows());
            return Err(KernelError::Shape { op: OP, what, expected, found: row });
        }
        if out.len() != weights.cols() {
            let (what, expected) = ("out.len()", weights.cols());
            return Err(KernelError::Shape { op: OP, what, expected, found: out.len() });
        }
        self.table.dequantize_row(weights, row, out);
        Ok(())
    }
}
