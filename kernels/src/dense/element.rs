//! What dense matrices consist of, and views of them whose element type is a value.

#![allow(unsafe_code)]

use super::output::{GROUP, Scales};
use crate::matrix::{MatMut, MatRef};
use half::{bf16, f16};
use std::marker::PhantomData;

/// The type of a dense matrix's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ElementType {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of an f32.
    Bf16,
    /// Signed bytes.
    I8,
    /// Unsigned bytes.
    U8,
    /// Sums of products of bytes.
    I32,
}

impl ElementType {
    /// Bytes of an element.
    pub fn bytes(self) -> usize {
        match self {
            ElementType::F32 | ElementType::I32 => 4,
            ElementType::F16 | ElementType::Bf16 => 2,
            ElementType::I8 | ElementType::U8 => 1,
        }
    }

    /// `f32`, `f16`, `bf16`, `i8`, `u8` or `i32`.
    pub fn name(self) -> &'static str {
        match self {
            ElementType::F32 => "f32",
            ElementType::F16 => "f16",
            ElementType::Bf16 => "bf16",
            ElementType::I8 => "i8",
            ElementType::U8 => "u8",
            ElementType::I32 => "i32",
        }
    }
}

impl std::fmt::Display for ElementType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

mod sealed {
    pub trait Sealed {}
}

/// A type that dense matrices may have: `f32`, [`struct@f16`], [`struct@bf16`], `i8`, `u8` and, for results, `i32`.
pub trait Element: sealed::Sealed + Copy + Send + Sync + 'static {
    /// The same as a value.
    const TYPE: ElementType;
}

macro_rules! elements {
    ($($T:ty = $ty:ident),*) => { $(
        impl sealed::Sealed for $T {}
        impl Element for $T {
            const TYPE: ElementType = ElementType::$ty;
        }
    )* };
}
elements!(f32 = F32, f16 = F16, bf16 = Bf16, i8 = I8, u8 = U8, i32 = I32);

/// A matrix to read.
#[derive(Clone, Copy)]
pub(crate) struct Source<'a> {
    data: *const u8,
    pub(crate) element: ElementType,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    /// Bytes from one row's start to the next's.
    pub(crate) stride: usize,
    lifetime: PhantomData<&'a [u8]>,
}

// SAFETY: a shared borrow of plain numbers.
unsafe impl Send for Source<'_> {}
// SAFETY: as above.
unsafe impl Sync for Source<'_> {}

impl<'a> Source<'a> {
    pub(crate) fn of<T: Element>(m: MatRef<'a, T>) -> Self {
        Source {
            data: m.as_ptr().cast(),
            element: T::TYPE,
            rows: m.rows(),
            cols: m.cols(),
            stride: m.stride() * T::TYPE.bytes(),
            lifetime: PhantomData,
        }
    }

    /// All rows, and what lies between them.
    pub(crate) fn bytes(&self) -> &'a [u8] {
        let last = self.cols * self.element.bytes();
        let len = if self.rows == 0 { 0 } else { (self.rows - 1) * self.stride + last };
        // SAFETY: the view's extent, whose elements are plain numbers without padding.
        unsafe { std::slice::from_raw_parts(self.data, len) }
    }

    /// The elements `from..to` of a row.
    #[inline(always)]
    pub(crate) fn elements(&self, row: usize, from: usize, to: usize) -> &'a [u8] {
        assert!(row < self.rows && from <= to && to <= self.cols);
        let size = self.element.bytes();
        // SAFETY: a part of a row of the view, whose elements are plain numbers without padding.
        unsafe {
            std::slice::from_raw_parts(self.data.add(row * self.stride + from * size), (to - from) * size)
        }
    }
}

/// A matrix to write; who writes which elements is settled by the caller.
#[derive(Clone, Copy)]
pub struct Target<'a> {
    data: *mut u8,
    pub(crate) element: ElementType,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    /// Bytes from one row's start to the next's.
    pub(crate) stride: usize,
    /// Of int8 groups.
    pub(crate) scales: Option<Scales>,
    lifetime: PhantomData<&'a mut [u8]>,
}

// SAFETY: an exclusive borrow of plain numbers; its methods leave the sharing to the caller.
unsafe impl Send for Target<'_> {}
// SAFETY: as above.
unsafe impl Sync for Target<'_> {}

impl<'a> Target<'a> {
    pub(crate) fn of<T: Element>(mut m: MatMut<'a, T>) -> Self {
        Target {
            data: m.as_mut_ptr().cast(),
            element: T::TYPE,
            rows: m.rows(),
            cols: m.cols(),
            stride: m.stride() * T::TYPE.bytes(),
            scales: None,
            lifetime: PhantomData,
        }
    }

    pub(crate) fn with_scales(self, scales: Scales) -> Self {
        Target { scales: Some(scales), ..self }
    }

    /// Columns that are written together.
    pub(crate) fn group(&self) -> usize {
        if self.scales.is_some() { GROUP } else { 1 }
    }

    /// The whole as a matrix.
    ///
    /// # Safety
    /// `T` must be the element type, and nobody else may use the matrix meanwhile.
    pub(crate) unsafe fn matrix<T>(&self) -> MatMut<'a, T> {
        assert!(size_of::<T>() == self.element.bytes());
        // SAFETY: the view that this was made of, exclusively the caller's.
        unsafe { MatMut::from_raw(self.data.cast(), self.rows, self.cols, self.stride / size_of::<T>()) }
    }

    /// Where an element is, to reach the rows below from.
    #[inline(always)]
    pub(crate) fn at(&self, row: usize, col: usize) -> *mut u8 {
        assert!(row < self.rows && col < self.cols);
        // SAFETY: an element of the view.
        unsafe { self.data.add(row * self.stride + col * self.element.bytes()) }
    }

    /// The elements `from..to` of a row.
    ///
    /// # Safety
    /// `T` must be the element type, and nobody else may use these elements meanwhile.
    #[inline(always)]
    pub(crate) unsafe fn elements<T>(&self, row: usize, from: usize, to: usize) -> &'a mut [T] {
        assert!(row < self.rows && from <= to && to <= self.cols && size_of::<T>() == self.element.bytes());
        // SAFETY: a part of a row of the view, exclusively the caller's.
        unsafe {
            let start = self.data.add(row * self.stride + from * size_of::<T>());
            std::slice::from_raw_parts_mut(start.cast(), to - from)
        }
    }
}
