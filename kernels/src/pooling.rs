//! From the vectors of a text's tokens to one vector: means of rows, and rows of length 1.
//!
//! ```text
//! token 0   [ .. ] -.
//! token 1   [ .. ] --> mean_rows -> [ .. ] -> l2_normalize -> [ .. ]     products of such vectors are cosines
//! token 2   [ .. ] -'
//! ```

use crate::error::KernelError;
use crate::isa::Kernels;
use crate::matrix::{MatMut, MatRef, for_rows};
use crate::mutant::mutant;
use crate::norm::{SAFE_SUM, inverse_root, power_of_two_for, sum_of_squares};
use crate::pool::Team;
use crate::rowwise::{Map, map, require};
use crate::simd::Simd;
use std::ops::Range;

/// `(x scale) factor`, where `scale` is a power of two.
#[derive(Clone, Copy)]
struct Rescaled {
    scale: f32,
    factor: f32,
}
impl Map for Rescaled {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, x: S::F32) -> S::F32 {
        s.mul(s.mul(x, s.splat(self.scale)), s.splat(self.factor))
    }
}

/// One row divided by its length. Squares that leave f32's range are taken again, as in the norms.
#[inline(always)]
pub(crate) fn l2_normalize_row<S: Simd>(s: S, x: &mut [f32]) {
    let mut scale = 1.0;
    let mut sum = sum_of_squares(s, x, scale);
    if !SAFE_SUM.contains(&sum) && !mutant("length of a row beyond the range of f32") {
        scale = power_of_two_for(x);
        sum = sum_of_squares(s, x, scale);
    }
    if sum != 0.0 {
        map(s, x, Rescaled { scale, factor: inverse_root(sum, 1, scale, 0.0) });
    }
}

/// # Pooling
impl Kernels {
    /// Divides every row by its Euclidean length, in place.
    ///
    /// `x_ij = x_ij / sqrt(sum_k x_ik^2)`
    ///
    /// **Shapes:** `x` is `[rows, n]`.
    /// **Accuracy:** relative `(8 + n/32) 2^-23`, for any finite row: values near either end of f32's range neither
    /// overflow nor vanish on the way.
    /// **Special values:** a row of zeros stays; a NaN or an infinity makes its row NaN where it is not 0.
    /// **Errors:** none at present.
    /// **Threads:** rows are spread over the team; a row's bits depend on that row alone.
    ///
    /// ```
    /// use gable_kernels::{Kernels, MatMut, Team};
    /// let mut x = [3e30, 4e30, 0.0, 0.0];
    /// Kernels::best().l2_normalize(&Team::serial(), MatMut::from_rows(&mut x, 2))?;
    /// assert!((x[0] - 0.6).abs() < 1e-6 && (x[1] - 0.8).abs() < 1e-6 && x[2..] == [0.0, 0.0]);
    /// # Ok::<(), gable_kernels::KernelError>(())
    /// ```
    pub fn l2_normalize(self, team: &Team<'_>, x: MatMut<'_>) -> Result<(), KernelError> {
        for_rows(team, x, |rows, mut x| {
            for i in 0..rows.len() {
                self.table.l2_normalize_row(x.row_mut(i));
            }
        });
        Ok(())
    }

    /// The mean of each of some groups of neighbouring rows (mean pooling: a group is a text, its rows are its tokens).
    ///
    /// `out_gj = 1/n_g sum_(i in group g) x_ij`, `n_g` the number of rows of the group
    ///
    /// **Shapes:** `x` is `[rows, n]`, `out` is `[groups.len(), n]`; groups may overlap and leave rows out.
    /// **Accuracy:** absolute `(n_g + 1) 2^-24 1/n_g sum_i |x_ij|`; sums must be within f32's range.
    /// **Special values:** a NaN or infinity reaches its own column of its own groups only.
    /// **Errors:** [`KernelError::Shape`] if the shapes differ, a group is empty or reaches beyond the rows.
    /// **Threads:** groups are spread over the team; a mean's bits depend on its group's rows alone, which are summed in
    /// their order.
    ///
    /// ```
    /// use gable_kernels::{Kernels, MatMut, MatRef, Team};
    /// let x = MatRef::from_rows(&[1.0, 2.0, 3.0, 6.0, 5.0, 5.0], 2);
    /// let mut out = [0.0; 4];
    /// Kernels::best().mean_rows(&Team::serial(), x, &[0..2, 2..3], MatMut::from_rows(&mut out, 2))?;
    /// assert_eq!(out, [2.0, 4.0, 5.0, 5.0]);
    /// # Ok::<(), gable_kernels::KernelError>(())
    /// ```
    pub fn mean_rows(
        self,
        team: &Team<'_>,
        x: MatRef<'_>,
        groups: &[Range<usize>],
        out: MatMut<'_>,
    ) -> Result<(), KernelError> {
        const OP: &str = "mean_rows";
        require(OP, "out.rows", groups.len(), out.rows())?;
        require(OP, "out.cols", x.cols(), out.cols())?;
        for group in groups {
            if group.is_empty() {
                return Err(KernelError::Shape {
                    op: OP,
                    what: "rows of a group (at least)",
                    expected: 1,
                    found: 0,
                });
            }
            if group.end > x.rows() {
                let (expected, found) = (x.rows(), group.end);
                return Err(KernelError::Shape { op: OP, what: "end of a group (at most)", expected, found });
            }
        }
        for_rows(team, out, |range, mut out| {
            for (i, group) in groups[range].iter().enumerate() {
                let mean = out.row_mut(i);
                mean.copy_from_slice(x.row(group.start));
                for row in group.start + 1..group.end {
                    self.table.add_row(mean, x.row(row));
                }
                self.table.scale_row(mean, (1.0 / group.len() as f64) as f32);
            }
        });
        Ok(())
    }
}
