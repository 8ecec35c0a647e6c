//! Softmax of rows.

use crate::simd::Simd;

/// Placeholder of the row kernel.
#[inline(always)]
pub(crate) fn row<S: Simd>(_s: S, _row: &mut [f32]) {}
