//! Making the forms of activations that matmuls read.

#![allow(unsafe_code)]

use super::activations::BITS;
use super::groups::{GROUP, GroupsMut, scales};
use super::int8_row::QuantizedRow;
use super::{Activations, Format, Forms, Remainder};
use crate::error::KernelError;
use crate::isa::Kernels;
use crate::matrix::{MatMut, Rows, for_rows};
use crate::pool::Team;
use crate::simd::Simd;
use std::ops::Range;

/// int8 rows to be written.
struct Int8Rows<'a> {
    q: MatMut<'a, i8>,
    by32: GroupsMut<'a>,
    by16: GroupsMut<'a>,
}

impl Int8Rows<'_> {
    fn row(&mut self, i: usize) -> QuantizedRow<'_> {
        QuantizedRow {
            q: self.q.row_mut(i),
            by32: self.by32.row(i),
            by16: self.by16.row(i),
            has_outlier: false,
        }
    }
}

impl Rows for Int8Rows<'_> {
    fn row_count(&self) -> usize {
        self.q.row_count()
    }

    unsafe fn part(&self, rows: Range<usize>) -> Self {
        // SAFETY: the caller's promise, for all three.
        unsafe {
            Int8Rows {
                q: self.q.part(rows.clone()),
                by32: self.by32.part(rows.clone()),
                by16: self.by16.part(rows),
            }
        }
    }
}

/// What rows of activations become.
struct Prepared<'a> {
    f32: MatMut<'a>,
    bf16: MatMut<'a, u16>,
    outlier: MatMut<'a, u8>,
    first: Int8Rows<'a>,
    second: Int8Rows<'a>,
}

impl Rows for Prepared<'_> {
    fn row_count(&self) -> usize {
        self.f32.row_count()
    }

    unsafe fn part(&self, rows: Range<usize>) -> Self {
        // SAFETY: the caller's promise, for all of them.
        unsafe {
            Prepared {
                f32: self.f32.part(rows.clone()),
                bf16: self.bf16.part(rows.clone()),
                outlier: self.outlier.part(rows.clone()),
                first: self.first.part(rows.clone()),
                second: self.second.part(rows),
            }
        }
    }
}

impl Activations {
    /// Refuses forms that there is no room for, and rows that do not divide into groups.
    fn check(&self, forms: Forms) -> Result<(), KernelError> {
        let int8_rows = forms.int8_rows(self.rows);
        let halves = if forms.halves { int8_rows * self.by16.stride } else { 0 };
        if self.i8.len() < int8_rows * self.stride
            || self.by16.sum.len() < halves
            || (forms.bf16 && self.bf16.len() < self.rows * self.stride)
        {
            return Err(KernelError::Value {
                op: "prepare",
                what: "forms",
                found: format!("{forms:?}"),
                allowed: "the forms given to Activations::new",
            });
        }
        if forms.int8 && !self.k.is_multiple_of(GROUP) {
            return Err(KernelError::BlockLength { format: Format::Q8_0, block: GROUP, cols: self.k });
        }
        Ok(())
    }

    /// All rows in the forms that are to be made, and `second` rows of second terms, with columns if these are `wanted`.
    /// Forms that nobody asked for have no columns.
    fn views(&mut self, forms: Forms, second: usize, wanted: bool) -> Result<Prepared<'_>, KernelError> {
        let (rows, stride, k) = (self.rows, self.stride, self.padded_k());
        let extent = |wanted: bool| if wanted { (k, stride) } else { (0, 0) };
        let ((f32_cols, f32_stride), (bf16_cols, bf16_stride)) = (extent(true), extent(forms.bf16));
        let [(cols, q_stride), (more_cols, more_stride)] = [extent(forms.int8), extent(wanted)];
        let first_q = (rows * q_stride).min(self.i8.len());
        let (q, more_q) = self.i8.split_at_mut(first_q);
        let [by32, more_by32] = self.by32.split([rows, second], [forms.int8, wanted])?;
        let halves = forms.int8 && forms.halves;
        let [by16, more_by16] = self.by16.split([rows, second], [halves, wanted && halves])?;
        Ok(Prepared {
            f32: MatMut::new(&mut self.f32, rows, f32_cols, f32_stride)?,
            bf16: MatMut::new(&mut self.bf16, rows, bf16_cols, bf16_stride)?,
            outlier: MatMut::new(&mut self.outlier, rows, 1, 1)?,
            first: Int8Rows { q: MatMut::new(q, rows, cols, q_stride)?, by32, by16 },
            second: Int8Rows {
                q: MatMut::new(more_q, second, more_cols, more_stride)?,
                by32: more_by32,
                by16: more_by16,
            },
        })
    }
}

impl Kernels {
    /// Makes the forms of `activations` that the coming matmuls need, row by row.
    ///
    /// A row holding a NaN or an infinity gets NaN scales, so what is computed from it is NaN, and nothing else is.
    /// A row's result depends on that row only.
    ///
    /// # Errors
    /// [`KernelError::Value`] if a form was not allocated for; [`KernelError::BlockLength`] if the rows do not divide into
    /// groups of 32.
    pub fn prepare(
        self,
        team: &Team<'_>,
        activations: &mut Activations,
        forms: Forms,
    ) -> Result<(), KernelError> {
        if Forms::EXACT.include(forms) {
            return Ok(());
        }
        self.fill_and_prepare(team, activations, forms, |_, _| {})
    }

    /// Has the rows written by `fill(row, values)` and makes their forms, one row after the other, while each is in the
    /// first-level cache: the bits of [`Kernels::prepare`] behind the operation that would write them.
    pub(crate) fn fill_and_prepare(
        self,
        team: &Team<'_>,
        activations: &mut Activations,
        forms: Forms,
        fill: impl Fn(usize, &mut [f32]) + Sync,
    ) -> Result<(), KernelError> {
        let a = activations;
        a.check(forms)?;
        let (rows, k) = (a.rows, a.k);
        let both = forms.int8 && forms.remainder == Remainder::All;
        for_rows(team, a.views(forms, rows, both)?, |range, mut out| {
            for (i, row) in range.enumerate() {
                let x = out.f32.row_mut(i);
                fill(row, &mut x[..k]);
                if forms.bf16 {
                    self.table.to_bf16_row(x, out.bf16.row_mut(i));
                }
                if forms.int8 {
                    let mut first = out.first.row(i);
                    self.table.quantize_row(x, &mut first);
                    out.outlier.row_mut(i)[0] = u8::from(first.has_outlier);
                    if both {
                        let second = &mut out.second.row(i);
                        self.table.quantize_remainder(x, first.q, first.by32.factors, 0.0, second);
                    }
                }
            }
        });
        a.made = a.made.union(forms);
        if forms.int8 {
            // What is made now replaces what was there.
            (a.made.halves, a.made.remainder) = (forms.halves, forms.remainder);
            a.keep_remainders(forms.remainder);
            if forms.remainder == Remainder::Outliers && !a.remainders.is_empty() {
                self.quantize_remainders(team, a, forms)?;
            }
        }
        Ok(())
    }

    /// Makes the second terms of the rows that are to be kept in two.
    fn quantize_remainders(
        self,
        team: &Team<'_>,
        a: &mut Activations,
        forms: Forms,
    ) -> Result<(), KernelError> {
        let (remainders, mut kept) = (std::mem::take(&mut a.remainders), std::mem::take(&mut a.kept));
        let bits = MatMut::new(&mut kept, remainders.len(), a.kept_stride, a.kept_stride)?;
        let k = a.k;
        let Prepared { f32, first, second, .. } = a.views(forms, remainders.len(), true)?;
        let (x, q, factors) = (f32.as_ref(), first.q.as_ref(), first.by32.factors.as_ref());
        for_rows(team, (second, bits), |range, (mut second, mut bits)| {
            for (i, row) in remainders[range].iter().enumerate() {
                let row = *row as usize;
                let (x, q, factors) = (x.row(row), q.row(row), factors.row(row));
                let least = Remainder::least(scales(factors, k));
                self.table.quantize_remainder(x, q, factors, least, &mut second.row(i));
                note_kept(scales(factors, k), least, bits.row_mut(i));
            }
        });
        (a.remainders, a.kept) = (remainders, kept);
        Ok(())
    }
}

/// Clears the bits of the groups whose scales are below `least`, and sets the others.
fn note_kept(scales: impl Iterator<Item = f32>, least: f32, bits: &mut [u32]) {
    bits.fill(0);
    for (g, scale) in scales.enumerate() {
        let left_out = scale < least;
        bits[g / BITS] |= u32::from(!left_out) << (g % BITS);
    }
}

/// Leaf: one row to bf16, to nearest even.
#[inline(always)]
pub(crate) fn to_bf16_row<S: Simd>(_s: S, x: &[f32], out: &mut [u16]) {
    for (x, out) in x.iter().zip(out) {
        let bits = x.to_bits();
        // Half of the last place, and one more where the kept part is odd; a NaN keeps its upper half, made quiet.
        let rounded = (bits.wrapping_add(0x7fff + (bits >> 16 & 1))) >> 16;
        *out = (if x.is_nan() { bits >> 16 | 0x40 } else { rounded }) as u16;
    }
}
