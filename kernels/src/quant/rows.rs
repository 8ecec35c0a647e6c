//! Rows of weights as f32, whatever their format.

#![allow(unsafe_code)]

use super::Format;
use super::blocks::{self as formats, Block, CHUNK_SUBS, STEP};
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
            Format::Q4_0 => blocks::<S, formats::Q4_0>(s, row, from, to, out),
            Format::Q4_1 => blocks::<S, formats::Q4_1>(s, row, from, to, out),
            Format::Q5_0 => blocks::<S, formats::Q5_0>(s, row, from, to, out),
            Format::Q5_1 => blocks::<S, formats::Q5_1>(s, row, from, to, out),
            Format::Q8_0 => blocks::<S, formats::Q8_0>(s, row, from, to, out),
            Format::Q4_K => blocks::<S, formats::Q4_K>(s, row, from, to, out),
            Format::Q5_K => blocks::<S, formats::Q5_K>(s, row, from, to, out),
            Format::Q6_K => blocks::<S, formats::Q6_K>(s, row, from, to, out),
            Format::Q2_K => blocks::<S, formats::Q2_K>(s, row, from, to, out),
            Format::Q3_K => blocks::<S, formats::Q3_K>(s, row, from, to, out),
            Format::IQ4_NL => blocks::<S, formats::IQ4_NL>(s, row, from, to, out),
            Format::IQ4_XS => blocks::<S, formats::IQ4_XS>(s, row, from, to, out),
            Format::INT4 => blocks::<S, formats::INT4>(s, row, from, to, out),
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

/// Writes the values `from..to` of a row to `out` as f32, rounded as the format's formula says (scale times
/// integer, then plus the minimum, never fused). `from` is a multiple of 512.
///
/// # Safety
/// The values must lie within the row, `out` must be writable for `to - from` values rounded up to 64.
#[inline(always)]
unsafe fn blocks<S: Simd, B: Block>(s: S, row: *const u8, from: usize, to: usize, out: *mut f32) {
    let mut value = from;
    while value < to {
        let sub = value / B::SUB;
        let n = ((to - value) / B::SUB).min(CHUNK_SUBS);
        let (mut scale, mut min) = ([0.0; LANES], [0.0; LANES]);
        // SAFETY: chunk by chunk inside the row and inside `out`; the arrays hold what is read from them.
        unsafe {
            let chunk = B::scales(s, row, sub, n);
            s.store(scale.as_mut_ptr(), chunk.scale);
            s.store(min.as_mut_ptr(), chunk.min);
            for step in 0..(n * B::SUB).div_ceil(STEP) {
                let at = value + step * STEP;
                let mut q = [0_u8; STEP];
                s.store_bytes(q.as_mut_ptr(), B::bytes(s, row, at, at + 32 >= to));
                for i in 0..STEP / LANES {
                    let sub = ((step * STEP + i * LANES) / B::SUB).min(LANES - 1);
                    let p = q.as_ptr().add(i * LANES);
                    let integers = if B::SIGNED {
                        s.load_i8(p.cast())
                    } else {
                        s.sub_i32(s.load_u8(p), s.splat_i32(i32::from(B::OFFSET)))
                    };
                    let w = s.mul(s.splat(scale[sub]), s.from_i32(integers));
                    let w = if B::HAS_MIN { s.add(w, s.splat(min[sub])) } else { w };
                    s.store(out.add(at - from + i * LANES), w);
                }
            }
        }
        value += n * B::SUB;
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
