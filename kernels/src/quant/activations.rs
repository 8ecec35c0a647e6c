//! Activations: made once per norm, in every form that the following matmuls read.
//!
//! The rows are kept in f32 and, where the weights ask for it, as int8 groups of 32 with one scale each, or as
//! bf16. Q, K and V, or gate and up, share one [`Activations`]; kernels take it and never quantize inside.
//!
//! ```text
//! int8: x[32 g + i] ~ scale[g] q[32 g + i],  scale = max |x| / 127,  q = round(x / scale) in -127..=127
//! ```
//!
//! The int8 rows lie in *stripes* of 128 values, four groups side by side: first the first sixteen values of each group,
//! then the other sixteen. So one vector of 64 bytes meets four groups in quarters of their own, which is how most
//! block formats unpack, and four neighbouring values are still one cell.
//!
//! ```text
//! stripe   | g0: 0..16 | g1: 0..16 | g2: 0..16 | g3: 0..16 | g0: 16..32 | g1: 16..32 | g2: 16..32 | g3: 16..32 |
//! ```

#![allow(unsafe_code)]

use crate::error::KernelError;
use crate::isa::Kernels;
use crate::matrix::{MatMut, MatRef, for_rows};
use crate::pool::Team;
use crate::quant::Format;
use crate::quant::blocks::{SPAN, STRIPE};
use crate::simd::{LANES, Simd};

/// Values per int8 group.
pub(crate) const GROUP: usize = 32;

/// In which forms activations are kept, beside f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Forms {
    /// int8 groups of 32, for block-quantized weights.
    pub int8: bool,
    /// bf16, for bf16 weights.
    pub bf16: bool,
}

impl Forms {
    /// f32 only: what `exact` numerics use for every weight.
    pub const EXACT: Forms = Forms { int8: false, bf16: false };

    /// What `fast` numerics multiply weights of `format` with.
    pub fn fast(format: Format) -> Forms {
        Forms { int8: format.is_block_quantized(), bf16: format == Format::BF16 }
    }

    /// Both sides' forms.
    pub fn union(self, other: Forms) -> Forms {
        Forms { int8: self.int8 || other.int8, bf16: self.bf16 || other.bf16 }
    }
}

/// Per-row constants of int8 groups of one size, zeros behind the last group.
///
/// The floats of a span of 256 values lie together, as decoding reads them: `[scales | scaled sums]`, where a scaled sum
/// is `scale * sum`, what a block's minimum is multiplied with.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    /// Groups of a row, whole spans.
    pub(crate) stride: usize,
    /// `[rows][stride / per_span][2][per_span]`
    pub(crate) factors: Vec<f32>,
    /// Sum of the group's integers: `[rows][stride]`.
    pub(crate) sum: Vec<i32>,
}

impl Groups {
    fn with_capacity(len: usize) -> Self {
        Groups { stride: 0, factors: vec![0.0; 2 * len], sum: vec![0; len] }
    }

    fn rows_mut(&mut self, rows: usize) -> (MatMut<'_, f32>, MatMut<'_, i32>) {
        let (factors, sum) =
            (&mut self.factors[..2 * rows * self.stride], &mut self.sum[..rows * self.stride]);
        (MatMut::from_rows(factors, 2 * self.stride), MatMut::from_rows(sum, self.stride))
    }
}

/// Where the scale of a group of `size` values lies in its row's factors; its scaled sum is `SPAN / size` behind it.
#[inline(always)]
pub(crate) fn factor_at(size: usize, group: usize) -> usize {
    let per_span = SPAN / size;
    group / per_span * 2 * per_span + group % per_span
}

/// Rows of activations in f32 and in the forms that matmuls ask for. All memory is allocated by [`Activations::new`].
#[derive(Debug)]
pub struct Activations {
    max_rows: usize,
    max_k: usize,
    rows: usize,
    k: usize,
    /// Values from one row to the next, in every form: whole stripes and 64 more, so that rows do not share cache sets.
    stride: usize,
    made: Forms,
    f32: Vec<f32>,
    i8: Vec<i8>,
    bf16: Vec<u16>,
    /// Groups of 32.
    pub(crate) by32: Groups,
    /// The same for halves of groups, for formats with a scale per 16 values.
    pub(crate) by16: Groups,
}

fn stride_of(k: usize) -> usize {
    k.next_multiple_of(STRIPE) + 64
}

/// Where the sixteen values of half `half` of group `g` begin in an int8 row.
#[inline(always)]
pub(crate) fn half_group_at(g: usize, half: usize) -> usize {
    g / 4 * STRIPE + half * 64 + g % 4 * 16
}

/// Groups of a row: whole spans, and whole vectors.
fn groups_of(k: usize) -> usize {
    k.div_ceil(GROUP).next_multiple_of(LANES).max(LANES)
}

impl Activations {
    /// Room for `max_rows` rows of up to `max_k` values.
    pub fn new(max_rows: usize, max_k: usize, forms: Forms) -> Self {
        let len = max_rows * stride_of(max_k);
        let groups = if forms.int8 { max_rows * groups_of(max_k) } else { 0 };
        Activations {
            max_rows,
            max_k,
            rows: 0,
            k: 0,
            stride: 0,
            made: Forms::EXACT,
            f32: vec![0.0; len],
            i8: vec![0; if forms.int8 { len } else { 0 }],
            bf16: vec![0; if forms.bf16 { len } else { 0 }],
            by32: Groups::with_capacity(groups),
            by16: Groups::with_capacity(2 * groups),
        }
    }

    /// Starts a new set of `rows` rows of `k` values and gives the f32 rows to be filled.
    ///
    /// # Errors
    /// [`KernelError::Shape`] beyond the room that was allocated.
    pub fn begin(&mut self, rows: usize, k: usize) -> Result<MatMut<'_>, KernelError> {
        const OP: &str = "Activations::begin";
        if rows > self.max_rows {
            return Err(KernelError::Shape {
                op: OP,
                what: "rows (at most)",
                expected: self.max_rows,
                found: rows,
            });
        }
        if k > self.max_k {
            return Err(KernelError::Shape { op: OP, what: "k (at most)", expected: self.max_k, found: k });
        }
        (self.rows, self.k, self.stride, self.made) = (rows, k, stride_of(k), Forms::EXACT);
        self.by32.stride = groups_of(k);
        self.by16.stride = 2 * groups_of(k);
        for row in self.f32[..rows * self.stride].chunks_mut(self.stride.max(1)) {
            row[k..k.next_multiple_of(STRIPE)].fill(0.0);
        }
        MatMut::new(&mut self.f32[..rows * self.stride], rows, k, self.stride)
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Values per row.
    pub fn k(&self) -> usize {
        self.k
    }

    /// The f32 rows.
    pub fn f32(&self) -> MatRef<'_> {
        MatRef::from_rows(&self.f32[..self.rows * self.stride], self.stride).columns(0..self.k)
    }

    /// Which forms [`Kernels::prepare`] has made of the present rows.
    pub fn made(&self) -> Forms {
        self.made
    }

    /// Row `i` with its zeros up to whole stripes.
    #[inline(always)] // called inside leaves, as the next two
    pub(crate) fn f32_row(&self, i: usize) -> &[f32] {
        &self.f32[i * self.stride..][..self.k.next_multiple_of(STRIPE)]
    }

    /// Row `i` in stripes, with its zeros up to whole ones.
    #[inline(always)]
    pub(crate) fn i8_row(&self, i: usize) -> &[i8] {
        &self.i8[i * self.stride..][..self.k.next_multiple_of(STRIPE)]
    }

    /// Row `i` with its zeros up to whole stripes.
    #[inline(always)]
    pub(crate) fn bf16_row(&self, i: usize) -> &[u16] {
        &self.bf16[i * self.stride..][..self.k.next_multiple_of(STRIPE)]
    }

    /// Values from one row to the next.
    pub(crate) fn stride(&self) -> usize {
        self.stride
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
        let a = activations;
        let len = a.rows * a.stride;
        if (forms.int8 && a.i8.len() < len) || (forms.bf16 && a.bf16.len() < len) {
            return Err(KernelError::Value {
                op: "prepare",
                what: "forms",
                found: format!("{forms:?}"),
                allowed: "the forms given to Activations::new",
            });
        }
        let f32 = MatRef::from_rows(&a.f32[..len], a.stride.max(1));
        if forms.int8 {
            if !a.k.is_multiple_of(GROUP) {
                return Err(KernelError::BlockLength { format: Format::Q8_0, block: GROUP, cols: a.k });
            }
            let i8 = MatMut::from_rows(&mut a.i8[..len], a.stride.max(1));
            let groups = (a.by32.rows_mut(a.rows), a.by16.rows_mut(a.rows));
            let k = a.k.next_multiple_of(STRIPE);
            for_rows(team, (i8, groups), |rows, (mut i8, (mut by32, mut by16))| {
                for (i, row) in rows.enumerate() {
                    let mut out = QuantizedRow {
                        q: &mut i8.row_mut(i)[..k],
                        factors32: by32.0.row_mut(i),
                        sum32: by32.1.row_mut(i),
                        factors16: by16.0.row_mut(i),
                        sum16: by16.1.row_mut(i),
                    };
                    self.table.quantize_row(&f32.row(row)[..k], &mut out);
                }
            });
        }
        if forms.bf16 {
            let k = a.k.next_multiple_of(STRIPE);
            let bf16 = MatMut::from_rows(&mut a.bf16[..len], a.stride.max(1));
            for_rows(team, bf16, |rows, mut bf16| {
                for (i, row) in rows.enumerate() {
                    self.table.to_bf16_row(&f32.row(row)[..k], &mut bf16.row_mut(i)[..k]);
                }
            });
        }
        a.made = a.made.union(forms);
        Ok(())
    }
}

/// Where [`quantize_row`] writes one row.
pub(crate) struct QuantizedRow<'a> {
    pub(crate) q: &'a mut [i8],
    pub(crate) factors32: &'a mut [f32],
    pub(crate) sum32: &'a mut [i32],
    pub(crate) factors16: &'a mut [f32],
    pub(crate) sum16: &'a mut [i32],
}

/// Leaf: one row to int8 groups in stripes; `x` is padded with zeros to whole ones.
#[inline(always)]
pub(crate) fn quantize_row<S: Simd>(s: S, x: &[f32], out: &mut QuantizedRow<'_>) {
    let n = x.len();
    let groups = n / GROUP;
    assert!(n.is_multiple_of(STRIPE) && out.q.len() == n);
    assert!(out.sum32.len() >= groups && out.sum16.len() >= 2 * groups);
    assert!(out.factors32.len() == 2 * out.sum32.len() && out.factors16.len() == 2 * out.sum16.len());
    out.factors32[groups / 8 * 16..].fill(0.0);
    out.factors16[groups / 8 * 32..].fill(0.0);
    out.sum32[groups..].fill(0);
    out.sum16[2 * groups..].fill(0);
    let zero = s.splat(0.0);
    for g in 0..groups {
        // SAFETY: group g lies within x and q, whose lengths are whole groups.
        let (scale, sums) = unsafe {
            let (a, b) = (s.load(x.as_ptr().add(g * GROUP)), s.load(x.as_ptr().add(g * GROUP + LANES)));
            let abs = s.max(s.max(a, s.sub(zero, a)), s.max(b, s.sub(zero, b)));
            // 0 x is NaN exactly where x is NaN or infinite: carried into the scale, it poisons this row alone.
            let poison = s.sum(s.mul_add(b, zero, s.mul(a, zero)));
            let scale = s.max_lane(abs) / 127.0 + poison;
            let inverse = s.splat(if scale > f32::MIN_POSITIVE { 1.0 / scale } else { 0.0 });
            let (qa, qb) = (s.to_i32(s.mul(a, inverse)), s.to_i32(s.mul(b, inverse)));
            s.store_i8(out.q.as_mut_ptr().add(half_group_at(g, 0)), qa);
            s.store_i8(out.q.as_mut_ptr().add(half_group_at(g, 1)), qb);
            (scale, [s.sum_i32(qa), s.sum_i32(qb)])
        };
        // A NaN may have become any integer; the scale is NaN then.
        out.sum32[g] = sums[0].wrapping_add(sums[1]);
        let at = factor_at(GROUP, g);
        out.factors32[at] = scale;
        out.factors32[at + SPAN / GROUP] = scale * out.sum32[g] as f32;
        for (half, sum) in sums.into_iter().enumerate() {
            let at = factor_at(GROUP / 2, 2 * g + half);
            out.sum16[2 * g + half] = sum;
            out.factors16[at] = scale;
            out.factors16[at + 2 * SPAN / GROUP] = scale * sum as f32;
        }
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
