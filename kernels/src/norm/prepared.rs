//! Norms whose rows become the activations of matmuls.

use super::check_weight;
use crate::error::KernelError;
use crate::isa::Kernels;
use crate::matrix::MatRef;
use crate::pool::Team;
use crate::quant::{Activations, Forms};
use crate::rowwise::require;

/// # Norms in front of matmuls
///
/// What [`Activations::begin`], a norm and [`Kernels::prepare`] do one after the other, with the same bits and errors, but
/// a row at a time, so that its int8 groups are made while it is in the first-level cache; and in one operation of the
/// team instead of two.
impl Kernels {
    /// [`Kernels::rms_norm`] into `activations`, in the given forms.
    ///
    /// ```
    /// use gable_kernels::{Kernels, MatRef, Team, quant::{Activations, Forms}};
    /// let mut activations = Activations::new(1, 2, Forms::EXACT);
    /// let x = MatRef::from_rows(&[3.0, 3.0], 2);
    /// let (team, weight) = (Team::serial(), [1.0, 2.0]);
    /// Kernels::best().rms_norm_prepared(&team, x, &weight, 0.0, &mut activations, Forms::EXACT)?;
    /// assert_eq!(activations.f32().row(0), [1.0, 2.0]);
    /// # Ok::<(), gable_kernels::KernelError>(())
    /// ```
    pub fn rms_norm_prepared(
        self,
        team: &Team<'_>,
        x: MatRef<'_>,
        weight: &[f32],
        eps: f32,
        activations: &mut Activations,
        forms: Forms,
    ) -> Result<(), KernelError> {
        check_weight("rms_norm_prepared", x, weight, eps)?;
        activations.begin(x.rows(), x.cols())?;
        self.fill_and_prepare(team, activations, forms, |i, out| {
            self.table.rms_norm_row(x.row(i), weight, eps, out);
        })
    }

    /// [`Kernels::layer_norm`] into `activations`, in the given forms.
    ///
    /// ```
    /// use gable_kernels::{Kernels, MatRef, Team, quant::{Activations, Forms}};
    /// let mut activations = Activations::new(1, 2, Forms::EXACT);
    /// let x = MatRef::from_rows(&[7.0, 9.0], 2);
    /// let (team, weight, bias) = (Team::serial(), [1.0, 1.0], [0.0, 10.0]);
    /// Kernels::best().layer_norm_prepared(&team, x, (&weight, &bias), 0.0, &mut activations, Forms::EXACT)?;
    /// assert_eq!(activations.f32().row(0), [-1.0, 11.0]);
    /// # Ok::<(), gable_kernels::KernelError>(())
    /// ```
    pub fn layer_norm_prepared(
        self,
        team: &Team<'_>,
        x: MatRef<'_>,
        (weight, bias): (&[f32], &[f32]),
        eps: f32,
        activations: &mut Activations,
        forms: Forms,
    ) -> Result<(), KernelError> {
        const OP: &str = "layer_norm_prepared";
        check_weight(OP, x, weight, eps)?;
        require(OP, "bias.len", x.cols(), bias.len())?;
        activations.begin(x.rows(), x.cols())?;
        self.fill_and_prepare(team, activations, forms, |i, out| {
            self.table.layer_norm_row(x.row(i), weight, bias, eps, out);
        })
    }
}
