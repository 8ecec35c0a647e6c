//! Activation functions, gated products, and the other element-wise steps of a layer.
//!
//! ```text
//! silu      x / (1 + e^-x)
//! gelu      x / (1 + e^-2u),  u = sqrt(2/pi) (x + 0.044715 x^3)      which is 0.5 x (1 + tanh u)
//! gelu_erf  x erfc(-x / sqrt 2) / 2                                  which is 0.5 x (1 + erf(x / sqrt 2))
//! ```
//!
//! These forms do not cancel for negative x, where `1 + tanh` and `1 + erf` lose every digit. All three tend to
//! 0 for x to -inf; so that this holds for -inf too (and not -inf * 0), the factor x is held at -120, far below the
//! point where the result has vanished.

use crate::error::KernelError;
use crate::isa::Kernels;
use crate::math::{erfc_nonnegative, exp, tanh};
use crate::matrix::{MatMut, MatRef, for_elements};
use crate::pool::Team;
use crate::rowwise::{Map, Times, Zip, map, require, zip, zip_in_place};
use crate::simd::Simd;

/// The nonlinearity of a feed-forward layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Activation {
    /// `x / (1 + e^-x)`, also called swish. Ramachandran et al. 2017.
    Silu,
    /// `0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))`: GPT-2's and Gemma's GELU.
    Gelu,
    /// `0.5 x (1 + erf(x / sqrt 2))`: the exact GELU. Hendrycks and Gimpel 2016.
    GeluErf,
    /// `max(x, 0)`
    Relu,
}

/// x, but not below -120.
#[inline(always)]
fn held<S: Simd>(s: S, x: S::F32) -> S::F32 {
    s.max(s.splat(-120.0), x)
}

#[derive(Clone, Copy)]
struct Silu;
impl Map for Silu {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, x: S::F32) -> S::F32 {
        let e = exp(s, s.sub(s.splat(0.0), x));
        s.div(held(s, x), s.add(s.splat(1.0), e))
    }
}

#[derive(Clone, Copy)]
struct Gelu;
impl Map for Gelu {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, x: S::F32) -> S::F32 {
        // -2 sqrt(2/pi), and that times 0.044715.
        let cubic = s.mul_add(s.mul(x, x), s.splat(-0.071_354_814), s.splat(-1.595_769));
        let e = exp(s, s.mul(cubic, x));
        s.div(held(s, x), s.add(s.splat(1.0), e))
    }
}

#[derive(Clone, Copy)]
struct GeluErf;
impl Map for GeluErf {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, x: S::F32) -> S::F32 {
        let (zero, one) = (s.splat(0.0), s.splat(1.0));
        let a = s.mul(s.max(x, s.sub(zero, x)), s.splat(std::f32::consts::FRAC_1_SQRT_2));
        // P(X > |x|) of a normal variable.
        let upper = s.mul(erfc_nonnegative(s, a), s.splat(0.5));
        s.mul(held(s, x), s.select_lt(x, zero, upper, s.sub(one, upper)))
    }
}

#[derive(Clone, Copy)]
struct Relu;
impl Map for Relu {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, x: S::F32) -> S::F32 {
        // In this order, so that a NaN stays one.
        s.max(s.splat(0.0), x)
    }
}

/// `f(x) y`
#[derive(Clone, Copy)]
struct Gated<F>(F);
impl<F: Map> Zip for Gated<F> {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, x: S::F32, y: S::F32) -> S::F32 {
        s.mul(self.0.apply(s, x), y)
    }
}

#[derive(Clone, Copy)]
struct Add;
impl Zip for Add {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, x: S::F32, y: S::F32) -> S::F32 {
        s.add(x, y)
    }
}

/// `cap tanh(x / cap)`
#[derive(Clone, Copy)]
struct Softcap(f32);
impl Map for Softcap {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, x: S::F32) -> S::F32 {
        let cap = s.splat(self.0);
        s.mul(tanh(s, s.div(x, cap)), cap)
    }
}

/// `x = activation(x)`
#[inline(always)]
pub(crate) fn activate_row<S: Simd>(s: S, activation: Activation, x: &mut [f32]) {
    match activation {
        Activation::Silu => map(s, x, Silu),
        Activation::Gelu => map(s, x, Gelu),
        Activation::GeluErf => map(s, x, GeluErf),
        Activation::Relu => map(s, x, Relu),
    }
}

/// `out = activation(gate) up`
#[inline(always)]
pub(crate) fn gated_row<S: Simd>(s: S, activation: Activation, gate: &[f32], up: &[f32], out: &mut [f32]) {
    match activation {
        Activation::Silu => zip(s, gate, up, out, Gated(Silu)),
        Activation::Gelu => zip(s, gate, up, out, Gated(Gelu)),
        Activation::GeluErf => zip(s, gate, up, out, Gated(GeluErf)),
        Activation::Relu => zip(s, gate, up, out, Gated(Relu)),
    }
}

/// `x += y`
#[inline(always)]
pub(crate) fn add_row<S: Simd>(s: S, x: &mut [f32], y: &[f32]) {
    zip_in_place(s, x, y, Add);
}

/// `x *= factor`
#[inline(always)]
pub(crate) fn scale_row<S: Simd>(s: S, x: &mut [f32], factor: f32) {
    map(s, x, Times(factor));
}

/// `x = cap tanh(x / cap)`
#[inline(always)]
pub(crate) fn softcap_row<S: Simd>(s: S, x: &mut [f32], cap: f32) {
    map(s, x, Softcap(cap));
}

/// What the maximum of a soft cap may be.
pub(crate) fn check_cap(op: &'static str, what: &'static str, cap: f32) -> Result<(), KernelError> {
    if cap.is_finite() && cap > 0.0 {
        return Ok(());
    }
    Err(KernelError::Value { op, what, found: cap.to_string(), allowed: "positive finite numbers" })
}

/// # Activations and other element-wise operations
///
/// An element's bits depend on the operands alone; rows, and strips of a few wide ones, are spread over the team.
impl Kernels {
    /// Applies an activation function to every element, in place.
    ///
    /// **Accuracy:** absolute 1e-6 or relative 4e-6 ([`Activation::Gelu`]: 4e-5).
    /// **Special values:** `-inf` gives (minus) 0, `inf` gives `inf`, NaN stays NaN.
    /// **Errors:** none at present.
    ///
    /// ```
    /// use gable_kernels::{Kernels, MatMut, Team, activation::Activation};
    /// let mut x = [0.0, 100.0];
    /// Kernels::best().activate(&Team::serial(), Activation::Silu, MatMut::from_rows(&mut x, 2))?;
    /// assert_eq!(x, [0.0, 100.0]);
    /// # Ok::<(), gable_kernels::KernelError>(())
    /// ```
    pub fn activate(self, team: &Team<'_>, activation: Activation, x: MatMut<'_>) -> Result<(), KernelError> {
        for_elements(team, x, |rows, _, mut x| {
            for i in 0..rows.len() {
                self.table.activate_row(activation, x.row_mut(i));
            }
        });
        Ok(())
    }

    /// The gated product of a feed-forward layer.
    ///
    /// `out_ij = activation(gate_ij) up_ij`
    ///
    /// **Shapes:** all three are `[rows, cols]`; gate and up may be column strips of one fused projection.
    /// **Accuracy and special values:** those of [`Kernels::activate`], times `up`.
    /// **Errors:** [`KernelError::Shape`] if the shapes differ.
    /// **Source:** Shazeer 2020, arXiv 2002.05202.
    ///
    /// ```
    /// use gable_kernels::{Kernels, MatMut, MatRef, Team, activation::Activation};
    /// let both = MatRef::from_rows(&[100.0, 3.0], 2);
    /// let mut out = [0.0];
    /// let (gate, up) = (both.columns(0..1), both.columns(1..2));
    /// Kernels::best().gated(&Team::serial(), Activation::Gelu, gate, up, MatMut::from_rows(&mut out, 1))?;
    /// assert_eq!(out, [300.0]);
    /// # Ok::<(), gable_kernels::KernelError>(())
    /// ```
    pub fn gated(
        self,
        team: &Team<'_>,
        activation: Activation,
        gate: MatRef<'_>,
        up: MatRef<'_>,
        out: MatMut<'_>,
    ) -> Result<(), KernelError> {
        require("gated", "up.rows", gate.rows(), up.rows())?;
        require("gated", "up.cols", gate.cols(), up.cols())?;
        require("gated", "out.rows", gate.rows(), out.rows())?;
        require("gated", "out.cols", gate.cols(), out.cols())?;
        for_elements(team, out, |rows, cols, mut out| {
            let (gate, up) = (gate.columns(cols.clone()), up.columns(cols));
            for (i, row) in rows.enumerate() {
                self.table.gated_row(activation, gate.row(row), up.row(row), out.row_mut(i));
            }
        });
        Ok(())
    }

    /// Adds a matrix to another in place: a residual connection.
    ///
    /// `x_ij += y_ij`, correctly rounded. **Errors:** [`KernelError::Shape`] if the shapes differ.
    ///
    /// ```
    /// use gable_kernels::{Kernels, MatMut, MatRef, Team};
    /// let mut x = [1.0, 2.0];
    /// let y = MatRef::from_rows(&[10.0, 20.0], 2);
    /// Kernels::best().add(&Team::serial(), MatMut::from_rows(&mut x, 2), y)?;
    /// assert_eq!(x, [11.0, 22.0]);
    /// # Ok::<(), gable_kernels::KernelError>(())
    /// ```
    pub fn add(self, team: &Team<'_>, x: MatMut<'_>, y: MatRef<'_>) -> Result<(), KernelError> {
        require("add", "y.rows", x.rows(), y.rows())?;
        require("add", "y.cols", x.cols(), y.cols())?;
        for_elements(team, x, |rows, cols, mut x| {
            let y = y.columns(cols);
            for (i, row) in rows.enumerate() {
                self.table.add_row(x.row_mut(i), y.row(row));
            }
        });
        Ok(())
    }

    /// Multiplies every element by a number, in place, correctly rounded.
    ///
    /// ```
    /// use gable_kernels::{Kernels, MatMut, Team};
    /// let mut x = [1.0, 2.0];
    /// Kernels::best().scale(&Team::serial(), 3.0, MatMut::from_rows(&mut x, 2))?;
    /// assert_eq!(x, [3.0, 6.0]);
    /// # Ok::<(), gable_kernels::KernelError>(())
    /// ```
    pub fn scale(self, team: &Team<'_>, factor: f32, x: MatMut<'_>) -> Result<(), KernelError> {
        for_elements(team, x, |rows, _, mut x| {
            for i in 0..rows.len() {
                self.table.scale_row(x.row_mut(i), factor);
            }
        });
        Ok(())
    }

    /// Bounds every element smoothly, in place, as some models do with logits.
    ///
    /// `x_ij = cap tanh(x_ij / cap)`
    ///
    /// **Accuracy:** 6 ulp, and `cap 2^-149` where `x / cap` is a denormal. **Special values:** infinities give `-cap` and `cap`, NaN stays NaN.
    /// **Errors:** [`KernelError::Value`] if `cap` is not a positive finite number.
    ///
    /// ```
    /// use gable_kernels::{Kernels, MatMut, Team};
    /// let mut x = [0.0, 1e9];
    /// Kernels::best().softcap(&Team::serial(), 30.0, MatMut::from_rows(&mut x, 2))?;
    /// assert_eq!(x, [0.0, 30.0]);
    /// # Ok::<(), gable_kernels::KernelError>(())
    /// ```
    pub fn softcap(self, team: &Team<'_>, cap: f32, x: MatMut<'_>) -> Result<(), KernelError> {
        check_cap("softcap", "cap", cap)?;
        for_elements(team, x, |rows, _, mut x| {
            for i in 0..rows.len() {
                self.table.softcap_row(x.row_mut(i), cap);
            }
        });
        Ok(())
    }
}
