//! Cutting what an operation writes into disjoint parts, by one pure function.

#![allow(unsafe_code)]

use super::MatMut;
use crate::memory::ALIGN;
use crate::pool::Team;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Part `i` of `parts` of `0..total`, cut at multiples of `unit`: contiguous, disjoint, together the whole, the
/// first parts at most one unit longer than the last.
pub fn part_range(total: usize, unit: usize, parts: usize, i: usize) -> Range<usize> {
    let units = total.div_ceil(unit);
    let (share, extra) = (units / parts, units % parts);
    let first = i * share + i.min(extra);
    let end = first + share + usize::from(i < extra);
    (first * unit).min(total)..(end * unit).min(total)
}

/// Mutable things that consist of rows and can be cut between them: a matrix, or a pair of such things with equally
/// many rows. Pairs nest, so one operation can fill several matrices row by row.
pub trait Rows: Sync + Sized {
    /// Number of rows.
    fn row_count(&self) -> usize;
    /// The given rows.
    ///
    /// # Safety
    /// The range must lie within the rows, ranges taken of one value must be disjoint, and the value itself must not be
    /// used for access any more.
    unsafe fn part(&self, rows: Range<usize>) -> Self;
}

impl<T: Send + Sync> Rows for MatMut<'_, T> {
    fn row_count(&self) -> usize {
        self.rows
    }

    unsafe fn part(&self, rows: Range<usize>) -> Self {
        // SAFETY: the caller's promise.
        unsafe { self.strip(rows, 0..self.cols) }
    }
}

impl<A: Rows, B: Rows> Rows for (A, B) {
    fn row_count(&self) -> usize {
        assert_eq!(self.0.row_count(), self.1.row_count());
        self.0.row_count()
    }

    unsafe fn part(&self, rows: Range<usize>) -> Self {
        // SAFETY: the caller's promise, for both sides.
        unsafe { (self.0.part(rows.clone()), self.1.part(rows)) }
    }
}

/// Runs `f(rows, part)` on disjoint ranges of rows that together are the whole, spread over the team.
pub fn for_rows<R: Rows>(team: &Team<'_>, rows: R, f: impl Fn(Range<usize>, R) + Sync) {
    let total = rows.row_count();
    let parts = team.threads().min(total);
    team.run(parts, &|i| {
        let range = part_range(total, 1, parts, i);
        // SAFETY: `part_range` gives disjoint ranges within the rows, each part runs once.
        f(range.clone(), unsafe { rows.part(range) });
    });
}

/// Mutable things that consist of columns and can be cut between them: a matrix, or a pair of such things with equally
/// many columns.
pub trait Columns: Sync + Sized {
    /// Number of columns.
    fn column_count(&self) -> usize;
    /// The given columns of all rows.
    ///
    /// # Safety
    /// The range must lie within the columns, ranges taken of one value must be disjoint, and the value itself must not be
    /// used for access any more.
    unsafe fn column_part(&self, cols: Range<usize>) -> Self;
}

impl<T: Send + Sync> Columns for MatMut<'_, T> {
    fn column_count(&self) -> usize {
        self.cols
    }

    unsafe fn column_part(&self, cols: Range<usize>) -> Self {
        // SAFETY: the caller's promise.
        unsafe { self.strip(0..self.rows, cols) }
    }
}

impl<A: Columns, B: Columns> Columns for (A, B) {
    fn column_count(&self) -> usize {
        assert_eq!(self.0.column_count(), self.1.column_count());
        self.0.column_count()
    }

    unsafe fn column_part(&self, cols: Range<usize>) -> Self {
        // SAFETY: the caller's promise, for both sides.
        unsafe { (self.0.column_part(cols.clone()), self.1.column_part(cols)) }
    }
}

/// Runs `f(i, columns, strip)` on disjoint strips of columns of the i-th output that together are the whole of all
/// outputs. These are cut as one list, at multiples of `unit` from the beginning of each, in `parts` parts spread over the
/// team; a part calls `f` for every output that it reaches into.
pub fn for_columns<C: Columns, const N: usize>(
    team: &Team<'_>,
    outputs: [C; N],
    unit: usize,
    parts: usize,
    f: impl Fn(usize, Range<usize>, C) + Sync,
) {
    let units = outputs.each_ref().map(|output| output.column_count().div_ceil(unit));
    let total = units.iter().sum();
    team.run(parts, &|part| {
        let range = part_range(total, 1, parts, part);
        let mut first = 0;
        for (i, output) in outputs.iter().enumerate() {
            let end = first + units[i];
            let [from, to] = [range.start, range.end].map(|at| (at.clamp(first, end) - first) * unit);
            let cols = from.min(output.column_count())..to.min(output.column_count());
            if !cols.is_empty() {
                // SAFETY: `part_range` gives disjoint ranges of units, which are disjoint columns; each part runs once.
                f(i, cols.clone(), unsafe { output.column_part(cols) });
            }
            first = end;
        }
    });
}

/// Runs `f(rows, columns, part)` on disjoint parts of a matrix that together are the whole, spread over the team: bands of rows
/// or, where there are fewer of them than threads, wide rows in strips of whole cache lines.
pub(crate) fn for_elements(
    team: &Team<'_>,
    x: MatMut<'_>,
    f: impl Fn(Range<usize>, Range<usize>, MatMut<'_>) + Sync,
) {
    /// What is worth a thread of its own.
    const WIDE: usize = 4096;
    let (rows, cols) = (x.rows(), x.cols());
    let strips = team.threads().min(cols / WIDE);
    if strips > rows {
        let line = ALIGN / size_of::<f32>();
        return for_columns(team, [x], line, strips, |_, cols, part| f(0..rows, cols, part));
    }
    for_rows(team, x, |rows, part| f(rows, 0..cols, part));
}

/// Calls `f(unit, slot)` for every unit, each thread with a slot of its own, a row of `slots`; units go to whoever is
/// free.
pub(crate) fn for_units<T: Send + Sync>(
    team: &Team<'_>,
    slots: MatMut<'_, T>,
    units: usize,
    f: impl Fn(usize, &mut [T]) + Sync,
) {
    let next = AtomicUsize::new(0);
    let parts = slots.rows();
    team.run(parts, &|part| {
        // SAFETY: a row of the matrix for each part, and each part runs once.
        let mut slot = unsafe { slots.strip(part..part + 1, 0..slots.cols()) };
        if parts == 1 {
            return (0..units).for_each(|unit| f(unit, slot.row_mut(0)));
        }
        loop {
            // Relaxed: the number is all that is agreed on; the team orders the data.
            let unit = next.fetch_add(1, Ordering::Relaxed);
            if unit >= units {
                return;
            }
            f(unit, slot.row_mut(0));
        }
    });
}

/// Runs `f(columns, strip, slot)` on the columns of `output`, cut at multiples of `unit` in `parts` parts, each thread with a
/// slot of its own, a row of `slots`.
pub(crate) fn for_columns_in_slots<C: Columns, T: Send + Sync>(
    team: &Team<'_>,
    output: C,
    slots: MatMut<'_, T>,
    unit: usize,
    parts: usize,
    f: impl Fn(Range<usize>, C, &mut [T]) + Sync,
) {
    let total = output.column_count();
    for_units(team, slots, parts, |part, slot| {
        let cols = part_range(total, unit, parts, part);
        // SAFETY: `part_range` gives disjoint columns, and every part is called for once.
        f(cols.clone(), unsafe { output.column_part(cols) }, slot);
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::Pool;

    #[test]
    fn parts_are_disjoint_and_together_the_whole() {
        for total in [0, 1, 5, 64, 100, 576] {
            for unit in [1, 4, 32] {
                for parts in [1, 2, 3, 7, 64] {
                    let mut next = 0;
                    for i in 0..parts {
                        let r = part_range(total, unit, parts, i);
                        assert!(r.start == next && (r.end.is_multiple_of(unit) || r.end == total));
                        next = r.end;
                    }
                    assert_eq!(next, total);
                }
            }
        }
    }

    #[test]
    fn every_element_is_met_once_in_bands_or_in_strips() {
        for (rows, cols) in [(0, 9000), (1, 0), (1, 9001), (2, 5000), (3, 20_000), (9, 17)] {
            for threads in [1, 2, 7] {
                let mut data = vec![0.0; rows * cols];
                Pool::new(threads).enter(|team| {
                    let x = MatMut::new(&mut data, rows, cols, cols).unwrap();
                    for_elements(team, x, |rows, cols, mut part| {
                        assert!(part.rows() == rows.len() && part.cols() == cols.len());
                        for i in 0..rows.len() {
                            for (x, col) in part.row_mut(i).iter_mut().zip(cols.clone()) {
                                *x += (1 + rows.start + i + col) as f32;
                            }
                        }
                    });
                });
                let right = |at: usize| (1 + at / cols.max(1) + at % cols.max(1)) as f32;
                assert!(
                    data.iter().enumerate().all(|(at, x)| *x == right(at)),
                    "{rows} x {cols}, {threads} threads"
                );
            }
        }
    }

    #[test]
    fn several_outputs_are_cut_as_one_list_and_every_column_is_met_once() {
        for widths in [[5, 16, 1], [0, 33, 0], [16, 0, 16], [0, 0, 0], [70, 20, 20]] {
            for parts in [1, 2, 3, 8, 40] {
                let mut data = widths.map(|cols| vec![0; 2 * cols]);
                let [a, b, c] = data.each_mut();
                let outputs = [(a, 0), (b, 1), (c, 2)].map(|(data, i)| MatMut::from_rows(data, widths[i]));
                for_columns(&Team::serial(), outputs, 8, parts, |i, cols, mut strip| {
                    assert!(cols.start % 8 == 0 && (cols.end % 8 == 0 || cols.end == widths[i]));
                    for row in 0..strip.rows() {
                        for (x, col) in strip.row_mut(row).iter_mut().zip(cols.clone()) {
                            *x += 1 + 100 * i + 1000 * col;
                        }
                    }
                });
                for (i, data) in data.iter().enumerate() {
                    let right = |at: usize| 1 + 100 * i + 1000 * (at % widths[i].max(1));
                    assert!(
                        data.iter().enumerate().all(|(at, x)| *x == right(at)),
                        "{widths:?}, {parts} parts"
                    );
                }
            }
        }
    }
}
