//! What the row-wise kernels share: going along a row, sixteen values at a time.
//!
//! A row is full vectors and a tail. A tail is copied into one vector on the stack that is padded with a value
//! the operation ignores, so nothing is ever read or written past the end of a row, and each element goes through the same
//! instructions wherever it lies: its bits do not depend on the row's length, alignment or neighbours.
//!
//! ```text
//! row    [ 16 | 16 | 16 | 5 ]
//!                          '-> [ 5 values | 11 x fill ] -> one vector -> 5 values back
//! ```
//!
//! Element-wise operations are zero-sized (or small) values with an `apply`, and one of the loops below.
//! This is the only row-wise file with `unsafe` in it.

#![allow(unsafe_code)]

use crate::error::KernelError;
use crate::mutant::mutant;
use crate::simd::{LANES, Simd};

/// Refuses an extent that is not the one the other arguments ask for.
pub(crate) fn require(
    op: &'static str,
    what: &'static str,
    expected: usize,
    found: usize,
) -> Result<(), KernelError> {
    if expected == found { Ok(()) } else { Err(KernelError::Shape { op, what, expected, found }) }
}

#[inline(always)]
pub(crate) fn load<S: Simd>(s: S, x: &[f32; LANES]) -> S::F32 {
    // SAFETY: the array has 16 f32.
    unsafe { s.load(x.as_ptr()) }
}

#[inline(always)]
pub(crate) fn store<S: Simd>(s: S, x: &mut [f32; LANES], v: S::F32) {
    // SAFETY: the array has 16 f32.
    unsafe { s.store(x.as_mut_ptr(), v) }
}

#[inline(always)]
pub(crate) fn load_f16<S: Simd>(s: S, x: &[u16; LANES]) -> S::F32 {
    // SAFETY: the array has 16 u16.
    unsafe { s.load_f16(x.as_ptr()) }
}

#[inline(always)]
pub(crate) fn store_f16<S: Simd>(s: S, x: &mut [u16; LANES], v: S::F32) {
    // SAFETY: the array has 16 u16.
    unsafe { s.store_f16(x.as_mut_ptr(), v) }
}

#[inline(always)]
pub(crate) fn load_bf16<S: Simd>(s: S, x: &[u16; LANES]) -> S::F32 {
    // SAFETY: the array has 16 u16.
    unsafe { s.load_bf16(x.as_ptr()) }
}

/// At most 16 values, padded with `fill`.
#[inline(always)]
pub(crate) fn padded<T: Copy>(x: &[T], fill: T) -> [T; LANES] {
    let mut v = [fill; LANES];
    v[..x.len()].copy_from_slice(x);
    v
}

/// A tail as a vector, padded with `fill`.
#[inline(always)]
pub(crate) fn load_tail<S: Simd>(s: S, x: &[f32], fill: f32) -> S::F32 {
    load(s, &padded(x, fill))
}

/// Writes as many lanes as the tail has elements.
#[inline(always)]
pub(crate) fn store_tail<S: Simd>(s: S, x: &mut [f32], v: S::F32) {
    let mut lanes = [0.0; LANES];
    store(s, &mut lanes, v);
    x.copy_from_slice(&lanes[..x.len()]);
}

/// A function of one value.
pub(crate) trait Map: Copy {
    fn apply<S: Simd>(self, s: S, x: S::F32) -> S::F32;
}

/// A function of two values.
pub(crate) trait Zip: Copy {
    fn apply<S: Simd>(self, s: S, x: S::F32, y: S::F32) -> S::F32;
}

/// `x = f(x)`
#[inline(always)]
pub(crate) fn map<S: Simd>(s: S, x: &mut [f32], f: impl Map) {
    let (body, tail) = x.as_chunks_mut::<LANES>();
    for v in body {
        let y = f.apply(s, load(s, v));
        store(s, v, y);
    }
    if !tail.is_empty() {
        let y = f.apply(s, load_tail(s, tail, 0.0));
        store_tail(s, tail, y);
    }
}

/// `x = f(x, y)`
#[inline(always)]
pub(crate) fn zip_in_place<S: Simd>(s: S, x: &mut [f32], y: &[f32], f: impl Zip) {
    assert_eq!(x.len(), y.len());
    let (body, tail) = x.as_chunks_mut::<LANES>();
    let (y_body, y_tail) = y.as_chunks::<LANES>();
    for (v, y) in body.iter_mut().zip(y_body) {
        let z = f.apply(s, load(s, v), load(s, y));
        store(s, v, z);
    }
    if !tail.is_empty() {
        let z = f.apply(s, load_tail(s, tail, 0.0), load_tail(s, y_tail, 0.0));
        store_tail(s, tail, z);
    }
}

/// `out = f(x, y)`
#[inline(always)]
pub(crate) fn zip<S: Simd>(s: S, x: &[f32], y: &[f32], out: &mut [f32], f: impl Zip) {
    assert!(x.len() == out.len() && y.len() == out.len());
    let (body, tail) = out.as_chunks_mut::<LANES>();
    let (x_body, x_tail) = x.as_chunks::<LANES>();
    let (y_body, y_tail) = y.as_chunks::<LANES>();
    for ((out, x), y) in body.iter_mut().zip(x_body).zip(y_body) {
        let z = f.apply(s, load(s, x), load(s, y));
        store(s, out, z);
    }
    if !tail.is_empty() && !mutant("tail of a row left as it was") {
        let z = f.apply(s, load_tail(s, x_tail, 0.0), load_tail(s, y_tail, 0.0));
        store_tail(s, tail, z);
    }
}

/// `out += f(x, y)`, the sum rounded by itself.
#[inline(always)]
pub(crate) fn zip_add<S: Simd>(s: S, x: &[f32], y: &[f32], out: &mut [f32], f: impl Zip) {
    assert!(x.len() == out.len() && y.len() == out.len());
    let (body, tail) = out.as_chunks_mut::<LANES>();
    let (x_body, x_tail) = x.as_chunks::<LANES>();
    let (y_body, y_tail) = y.as_chunks::<LANES>();
    for ((out, x), y) in body.iter_mut().zip(x_body).zip(y_body) {
        let z = s.add(load(s, out), f.apply(s, load(s, x), load(s, y)));
        store(s, out, z);
    }
    if !tail.is_empty() {
        let z = f.apply(s, load_tail(s, x_tail, 0.0), load_tail(s, y_tail, 0.0));
        let z = s.add(load_tail(s, tail, 0.0), z);
        store_tail(s, tail, z);
    }
}

/// The product with a number.
#[derive(Clone, Copy)]
pub(crate) struct Times(pub(crate) f32);
impl Map for Times {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, x: S::F32) -> S::F32 {
        s.mul(x, s.splat(self.0))
    }
}
