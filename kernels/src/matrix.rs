//! Views of matrices: rows, columns and a row stride, checked once.
//!
//! Element `(i, j)` lies at `i * stride + j`; a view's columns may be a strip of wider rows (Q, K and V as strips
//! of one fused projection). Mutable views can be cut into disjoint strips that several threads write at once;
//! the cutting is done here, by one pure function, so that no caller has to argue about overlap.

#![allow(unsafe_code)]

mod cut;

pub use cut::{Columns, Rows, for_columns, for_rows, part_range};
pub(crate) use cut::{for_columns_in_slots, for_elements, for_units};

use crate::error::KernelError;
use crate::memory::ALIGN;
use std::marker::PhantomData;
use std::ops::Range;

/// Checks that `len` elements hold `rows` rows of `cols` at `stride`.
fn check(op: &'static str, len: usize, rows: usize, cols: usize, stride: usize) -> Result<(), KernelError> {
    if stride < cols {
        return Err(KernelError::Shape { op, what: "row stride (at least)", expected: cols, found: stride });
    }
    let needed = match rows {
        0 => Some(0),
        _ => (rows - 1).checked_mul(stride).and_then(|n| n.checked_add(cols)),
    };
    match needed {
        Some(n) if n <= len => Ok(()),
        _ => Err(KernelError::Shape {
            op,
            what: "elements (at least)",
            expected: needed.unwrap_or(usize::MAX),
            found: len,
        }),
    }
}

/// A read-only matrix view.
#[derive(Debug)]
pub struct MatRef<'a, T = f32> {
    data: *const T,
    rows: usize,
    cols: usize,
    stride: usize,
    lifetime: PhantomData<&'a [T]>,
}

// SAFETY: a MatRef is a shared borrow of its elements, like `&[T]`.
unsafe impl<T: Sync> Send for MatRef<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for MatRef<'_, T> {}

impl<T> Clone for MatRef<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for MatRef<'_, T> {}

impl<'a, T> MatRef<'a, T> {
    /// `rows x cols` elements of `data`, rows `stride` elements apart.
    ///
    /// # Errors
    /// [`KernelError::Shape`] if the stride is below `cols` or the data are too short.
    pub fn new(data: &'a [T], rows: usize, cols: usize, stride: usize) -> Result<Self, KernelError> {
        check("MatRef::new", data.len(), rows, cols, stride)?;
        Ok(MatRef { data: data.as_ptr(), rows, cols, stride, lifetime: PhantomData })
    }

    /// Rows that follow each other without a gap; a last incomplete row is left out.
    pub fn from_rows(data: &'a [T], cols: usize) -> Self {
        let rows = data.len().checked_div(cols).unwrap_or(0);
        MatRef { data: data.as_ptr(), rows, cols, stride: cols, lifetime: PhantomData }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Elements from one row's start to the next's.
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// Where the first element is, to reach the whole view from.
    pub(crate) fn as_ptr(&self) -> *const T {
        self.data
    }

    /// Row `i`.
    ///
    /// # Panics
    /// If `i >= rows`.
    pub fn row(&self, i: usize) -> &'a [T] {
        assert!(i < self.rows);
        // SAFETY: row i lies inside the checked extent, which is borrowed for 'a.
        unsafe { std::slice::from_raw_parts(self.data.add(i * self.stride), self.cols) }
    }

    /// A strip of columns.
    ///
    /// # Panics
    /// If the range is not within the columns.
    pub fn columns(&self, cols: Range<usize>) -> Self {
        assert!(cols.start <= cols.end && cols.end <= self.cols);
        self.strip(0..self.rows, cols)
    }

    /// Some consecutive rows.
    ///
    /// # Panics
    /// If the range is not within the rows.
    pub fn row_range(&self, rows: Range<usize>) -> Self {
        assert!(rows.start <= rows.end && rows.end <= self.rows);
        self.strip(rows, 0..self.cols)
    }

    /// The elements at rows and columns that the caller has checked.
    fn strip(&self, rows: Range<usize>, cols: Range<usize>) -> Self {
        let offset =
            if rows.is_empty() || cols.is_empty() { 0 } else { rows.start * self.stride + cols.start };
        // SAFETY: an element of the view, or its start.
        let data = unsafe { self.data.add(offset) };
        MatRef { data, rows: rows.len(), cols: cols.len(), ..*self }
    }
}

/// A mutable matrix view.
#[derive(Debug)]
pub struct MatMut<'a, T = f32> {
    data: *mut T,
    rows: usize,
    cols: usize,
    stride: usize,
    lifetime: PhantomData<&'a mut [T]>,
}

// SAFETY: a MatMut is an exclusive borrow of its elements, like `&mut [T]`.
unsafe impl<T: Send> Send for MatMut<'_, T> {}
// SAFETY: `&MatMut` lets elements be read only; strips to write are taken by `Columns::column_part` and `Rows::part`.
unsafe impl<T: Sync> Sync for MatMut<'_, T> {}

impl<'a, T> MatMut<'a, T> {
    /// `rows x cols` elements of `data`, rows `stride` elements apart.
    ///
    /// # Errors
    /// [`KernelError::Shape`] if the stride is below `cols` or the data are too short.
    pub fn new(data: &'a mut [T], rows: usize, cols: usize, stride: usize) -> Result<Self, KernelError> {
        check("MatMut::new", data.len(), rows, cols, stride)?;
        Ok(MatMut { data: data.as_mut_ptr(), rows, cols, stride, lifetime: PhantomData })
    }

    /// Rows that follow each other without a gap; a last incomplete row is left out.
    pub fn from_rows(data: &'a mut [T], cols: usize) -> Self {
        let rows = data.len().checked_div(cols).unwrap_or(0);
        MatMut { data: data.as_mut_ptr(), rows, cols, stride: cols, lifetime: PhantomData }
    }

    /// Where the first element is, to reach the whole view from.
    pub(crate) fn as_mut_ptr(&mut self) -> *mut T {
        self.data
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Elements from one row's start to the next's.
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// Row `i`.
    ///
    /// # Panics
    /// If `i >= rows`.
    pub fn row_mut(&mut self, i: usize) -> &mut [T] {
        assert!(i < self.rows);
        // SAFETY: row i lies inside the checked extent, and `&mut self` makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(i * self.stride), self.cols) }
    }

    /// Where its last element is: what is asked for ahead should not lie behind it.
    pub(crate) fn last_element(&self) -> *const u8 {
        let last = (self.rows.max(1) - 1) * self.stride + self.cols.max(1) - 1;
        self.data.wrapping_add(last).cast()
    }

    /// Its rows, each for itself.
    pub(crate) fn into_rows(self) -> impl Iterator<Item = &'a mut [T]> {
        (0..self.rows).map(move |i| {
            // SAFETY: row i lies inside the checked extent, rows do not overlap, and each is given once.
            unsafe { std::slice::from_raw_parts_mut(self.data.add(i * self.stride), self.cols) }
        })
    }

    /// Some consecutive rows.
    ///
    /// # Panics
    /// If the range is not within the rows.
    pub fn row_range_mut(&mut self, rows: Range<usize>) -> MatMut<'_, T> {
        assert!(rows.start <= rows.end && rows.end <= self.rows);
        // SAFETY: inside the view, which is borrowed exclusively for as long as the strip lives.
        unsafe { self.strip(rows, 0..self.cols) }
    }

    /// Whether every row begins with a cache line.
    pub fn rows_begin_lines(&self) -> bool {
        let bytes = self.stride * size_of::<T>();
        self.data.addr().is_multiple_of(ALIGN) && (self.rows < 2 || bytes.is_multiple_of(ALIGN))
    }

    /// The same elements, to be read.
    pub fn as_ref(&self) -> MatRef<'_, T> {
        MatRef {
            data: self.data,
            rows: self.rows,
            cols: self.cols,
            stride: self.stride,
            lifetime: PhantomData,
        }
    }

    /// The same elements, to be read for as long as they were to be written.
    pub fn into_ref(self) -> MatRef<'a, T> {
        let MatMut { data, rows, cols, stride, lifetime: _ } = self;
        MatRef { data, rows, cols, stride, lifetime: PhantomData }
    }

    /// The view that consists of these.
    ///
    /// # Safety
    /// They must be those of a view that is borrowed exclusively for `'a`.
    pub(crate) unsafe fn from_raw(data: *mut T, rows: usize, cols: usize, stride: usize) -> Self {
        MatMut { data, rows, cols, stride, lifetime: PhantomData }
    }

    /// The same view for a shorter time.
    pub fn reborrow(&mut self) -> MatMut<'_, T> {
        MatMut {
            data: self.data,
            rows: self.rows,
            cols: self.cols,
            stride: self.stride,
            lifetime: PhantomData,
        }
    }

    /// A strip of columns.
    ///
    /// # Panics
    /// If the range is not within the columns.
    pub fn columns(&mut self, cols: Range<usize>) -> MatMut<'_, T> {
        assert!(cols.start <= cols.end && cols.end <= self.cols);
        // SAFETY: inside the view, which is borrowed exclusively for as long as the strip lives.
        unsafe { self.strip(0..self.rows, cols) }
    }

    /// Strips of the given widths, side by side from the first column on.
    ///
    /// # Panics
    /// If they are wider than the view.
    pub fn split_columns<const N: usize>(self, widths: [usize; N]) -> [MatMut<'a, T>; N] {
        let mut end = 0;
        widths.map(|width| {
            assert!(width <= self.cols - end);
            end += width;
            // SAFETY: disjoint ranges within the columns of a view that nobody else has.
            unsafe { self.strip(0..self.rows, end - width..end) }
        })
    }

    /// The elements at the given rows and columns.
    ///
    /// # Safety
    /// The ranges must lie within the view, and no other live strip or view may contain any of the elements.
    pub(crate) unsafe fn strip(&self, rows: Range<usize>, cols: Range<usize>) -> MatMut<'a, T> {
        let offset =
            if rows.is_empty() || cols.is_empty() { 0 } else { rows.start * self.stride + cols.start };
        MatMut {
            // SAFETY: an element of the view, or its start.
            data: unsafe { self.data.add(offset) },
            rows: rows.len(),
            cols: cols.len(),
            stride: self.stride,
            lifetime: PhantomData,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::Team;

    #[test]
    fn views_refuse_short_data_and_small_strides() {
        let data = [0.0; 10];
        assert!(MatRef::new(&data, 2, 5, 5).is_ok());
        assert!(MatRef::new(&data, 2, 4, 6).is_ok());
        assert!(MatRef::new(&data, 2, 5, 6).is_err());
        assert!(MatRef::new(&data, 2, 5, 4).is_err());
        assert!(MatRef::new(&data, usize::MAX, 5, 5).is_err());
        assert!(MatRef::new(&data, 0, 5, 5).is_ok());
    }

    #[test]
    fn strips_reach_their_own_elements_only() {
        let mut data: Vec<i32> = vec![0; 12];
        let mut m = MatMut::new(&mut data, 3, 4, 4).unwrap();
        m.columns(1..3).row_mut(2).fill(7);
        for_columns(&Team::serial(), [m], 2, 2, |_, cols, mut strip| {
            strip.row_mut(0).fill(cols.start as i32 + 1);
        });
        assert_eq!(data, [1, 1, 3, 3, 0, 0, 0, 0, 0, 7, 7, 0]);
        let [_, mut second, mut third] = MatMut::from_rows(&mut data, 4).split_columns([1, 2, 1]);
        second.row_mut(0).fill(8);
        third.row_mut(1).fill(9);
        assert_eq!(data, [1, 8, 8, 3, 0, 0, 0, 9, 0, 7, 7, 0]);
    }
}
