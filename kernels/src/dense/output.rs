//! Where products go.

#![allow(unsafe_code)]

use super::element::{Element, Target};
use crate::matrix::MatMut;

/// Columns of C that share a scale, where C is int8 groups.
pub(crate) const GROUP: usize = 32;

/// int8 values with one scale for each 32 columns of a row: `c = scale q`, `scale = max |c| / 127`, the last group of a row
/// as long as is left. The rounding is that of [`Activations`](crate::quant::Activations): to the nearest, ties to even.
/// A group with a NaN has a NaN scale, one without a normal number zeros.
#[derive(Debug)]
pub struct Int8Groups<'a> {
    /// `m x n`
    pub values: MatMut<'a, i8>,
    /// `m x ceil(n / 32)`
    pub scales: MatMut<'a, f32>,
}

mod sealed {
    pub trait Sealed {}
}

/// What a product can be written to: a matrix of floats, one of i32 for products of integers, or [`Int8Groups`].
pub trait Output<'a>: sealed::Sealed {
    #[doc(hidden)]
    fn target(self) -> Target<'a>;
}

impl<T: Element> sealed::Sealed for MatMut<'_, T> {}
impl<'a, T: Element> Output<'a> for MatMut<'a, T> {
    fn target(self) -> Target<'a> {
        Target::of(self)
    }
}

impl sealed::Sealed for Int8Groups<'_> {}
impl<'a> Output<'a> for Int8Groups<'a> {
    fn target(self) -> Target<'a> {
        Target::of(self.values).with_scales(Scales::of(self.scales))
    }
}

/// The groups' scales; who writes which is settled by the caller.
#[derive(Clone, Copy)]
pub(crate) struct Scales {
    data: *mut f32,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    stride: usize,
}

// SAFETY: an exclusive borrow of floats (that of the `Target` it is in); `set` leaves the sharing to the caller.
unsafe impl Send for Scales {}
// SAFETY: as above.
unsafe impl Sync for Scales {}

impl Scales {
    fn of(mut scales: MatMut<'_, f32>) -> Self {
        let (rows, cols, stride) = (scales.rows(), scales.cols(), scales.stride());
        Scales { data: scales.as_mut_ptr(), rows, cols, stride }
    }

    /// # Safety
    /// Nobody else may use this scale meanwhile.
    #[inline(always)]
    pub(crate) unsafe fn set(&self, row: usize, group: usize, scale: f32) {
        assert!(row < self.rows && group < self.cols);
        // SAFETY: an element of the view, exclusively the caller's.
        unsafe { *self.data.add(row * self.stride + group) = scale };
    }
}
