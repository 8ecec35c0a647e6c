//! f32 to and from the two 16-bit formats.
//!
//! ```text
//! f16    s eeeee mmmmmmmmmm            largest 65504, denormals down to 2^-24
//! bf16   s eeeeeeee mmmmmmm            the upper half of an f32
//! ```

use crate::error::KernelError;
use crate::isa::Kernels;
use crate::rowwise::{load, load_bf16, load_f16, padded, require, store, store_f16};
use crate::simd::{LANES, Simd};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

/// Narrows a row to f16.
#[inline(always)]
pub(crate) fn f16_from_f32_row<S: Simd>(s: S, src: &[f32], dst: &mut [u16]) {
    assert_eq!(src.len(), dst.len());
    let (body, tail) = src.as_chunks::<LANES>();
    let (dst_body, dst_tail) = dst.as_chunks_mut::<LANES>();
    for (dst, src) in dst_body.iter_mut().zip(body) {
        store_f16(s, dst, load(s, src));
    }
    if !tail.is_empty() {
        let mut lanes = [0; LANES];
        store_f16(s, &mut lanes, load(s, &padded(tail, 0.0)));
        dst_tail.copy_from_slice(&lanes[..tail.len()]);
    }
}

/// Widens a row of f16.
#[inline(always)]
pub(crate) fn f32_from_f16_row<S: Simd>(s: S, src: &[u16], dst: &mut [f32]) {
    assert_eq!(src.len(), dst.len());
    let (body, tail) = src.as_chunks::<LANES>();
    let (dst_body, dst_tail) = dst.as_chunks_mut::<LANES>();
    for (dst, src) in dst_body.iter_mut().zip(body) {
        store(s, dst, load_f16(s, src));
    }
    if !tail.is_empty() {
        let mut lanes = [0.0; LANES];
        store(s, &mut lanes, load_f16(s, &padded(tail, 0)));
        dst_tail.copy_from_slice(&lanes[..tail.len()]);
    }
}

/// Widens a row of bf16.
#[inline(always)]
pub(crate) fn f32_from_bf16_row<S: Simd>(s: S, src: &[u16], dst: &mut [f32]) {
    assert_eq!(src.len(), dst.len());
    let (body, tail) = src.as_chunks::<LANES>();
    let (dst_body, dst_tail) = dst.as_chunks_mut::<LANES>();
    for (dst, src) in dst_body.iter_mut().zip(body) {
        store(s, dst, load_bf16(s, src));
    }
    for (dst, src) in dst_tail.iter_mut().zip(tail) {
        *dst = f32::from_bits(u32::from(*src) << 16);
    }
}

/// # Conversions of slices
///
/// On the calling thread. Each refuses slices of different lengths with [`KernelError::Shape`]. The results are the
/// same on every instruction set.
impl Kernels {
    /// Narrows to IEEE half precision, to nearest, ties to even.
    ///
    /// **Special values:** beyond 65520 infinity, denormals exact to 2^-25, a NaN stays one (and is made quiet).
    ///
    /// ```
    /// let mut out = [half::f16::ZERO; 2];
    /// gable_kernels::Kernels::best().f16_from_f32(&[1.0, 1e6], &mut out)?;
    /// assert_eq!(out, [half::f16::ONE, half::f16::INFINITY]);
    /// # Ok::<(), gable_kernels::KernelError>(())
    /// ```
    pub fn f16_from_f32(self, src: &[f32], dst: &mut [f16]) -> Result<(), KernelError> {
        require("f16_from_f32", "dst.len", src.len(), dst.len())?;
        self.table.f16_from_f32_row(src, dst.reinterpret_cast_mut());
        Ok(())
    }

    /// Widens IEEE halves: exact.
    ///
    /// ```
    /// let mut out = [0.0; 1];
    /// gable_kernels::Kernels::best().f32_from_f16(&[half::f16::MAX], &mut out)?;
    /// assert_eq!(out, [65504.0]);
    /// # Ok::<(), gable_kernels::KernelError>(())
    /// ```
    pub fn f32_from_f16(self, src: &[f16], dst: &mut [f32]) -> Result<(), KernelError> {
        require("f32_from_f16", "dst.len", src.len(), dst.len())?;
        self.table.f32_from_f16_row(src.reinterpret_cast(), dst);
        Ok(())
    }

    /// Narrows to bf16, to nearest, ties to even.
    ///
    /// **Special values:** beyond the largest bf16 infinity, denormals are kept, a NaN stays one (and is made quiet).
    ///
    /// ```
    /// let mut out = [half::bf16::ZERO; 1];
    /// gable_kernels::Kernels::best().bf16_from_f32(&[1.0], &mut out)?;
    /// assert_eq!(out, [half::bf16::ONE]);
    /// # Ok::<(), gable_kernels::KernelError>(())
    /// ```
    pub fn bf16_from_f32(self, src: &[f32], dst: &mut [bf16]) -> Result<(), KernelError> {
        require("bf16_from_f32", "dst.len", src.len(), dst.len())?;
        self.table.to_bf16_row(src, dst.reinterpret_cast_mut());
        Ok(())
    }

    /// Widens bf16: exact.
    ///
    /// ```
    /// let mut out = [0.0; 1];
    /// gable_kernels::Kernels::best().f32_from_bf16(&[half::bf16::ONE], &mut out)?;
    /// assert_eq!(out, [1.0]);
    /// # Ok::<(), gable_kernels::KernelError>(())
    /// ```
    pub fn f32_from_bf16(self, src: &[bf16], dst: &mut [f32]) -> Result<(), KernelError> {
        require("f32_from_bf16", "dst.len", src.len(), dst.len())?;
        self.table.f32_from_bf16_row(src.reinterpret_cast(), dst);
        Ok(())
    }
}
