//! Plain Rust over `wide`: the baseline of any target, and the specification that the other tokens are compared with.
//!
//! `wide` picks its instructions at compile time, so an x86-64 build gets SSE2 and multiplies and adds apart.

use super::Simd;
use wide::{f32x8, i32x8};

/// No CPU feature beyond the target's baseline.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

impl Portable {
    #[inline(always)]
    pub(crate) fn new() -> Self {
        Portable
    }
}

type Floats = [f32x8; 2];
type Ints = [i32x8; 2];

#[inline(always)]
fn each(a: Floats, b: Floats, f: impl Fn(f32x8, f32x8) -> f32x8) -> Floats {
    [f(a[0], b[0]), f(a[1], b[1])]
}

#[inline(always)]
fn lanes(v: Floats) -> [f32; 16] {
    let (lo, hi) = (v[0].to_array(), v[1].to_array());
    let mut out = [0.0; 16];
    out[..8].copy_from_slice(&lo);
    out[8..].copy_from_slice(&hi);
    out
}

#[inline(always)]
fn floats(v: [f32; 16]) -> Floats {
    let (mut lo, mut hi) = ([0.0; 8], [0.0; 8]);
    lo.copy_from_slice(&v[..8]);
    hi.copy_from_slice(&v[8..]);
    [f32x8::new(lo), f32x8::new(hi)]
}

#[inline(always)]
fn int_lanes(v: Ints) -> [i32; 16] {
    let (lo, hi) = (v[0].to_array(), v[1].to_array());
    let mut out = [0; 16];
    out[..8].copy_from_slice(&lo);
    out[8..].copy_from_slice(&hi);
    out
}

#[inline(always)]
fn ints(v: [i32; 16]) -> Ints {
    let (mut lo, mut hi) = ([0; 8], [0; 8]);
    lo.copy_from_slice(&v[..8]);
    hi.copy_from_slice(&v[8..]);
    [i32x8::new(lo), i32x8::new(hi)]
}

/// Folds 16 lanes: 16, 8, 4, 2, 1.
#[inline(always)]
pub(super) fn fold<T: Copy>(mut v: [T; 16], f: impl Fn(T, T) -> T) -> T {
    let mut n = 8;
    while n > 0 {
        for i in 0..n {
            v[i] = f(v[i], v[i + n]);
        }
        n /= 2;
    }
    v[0]
}

#[inline(always)]
fn zip_bytes(a: [u8; 64], b: [u8; 64], f: impl Fn(u8, u8) -> u8) -> [u8; 64] {
    let mut out = [0; 64];
    for i in 0..64 {
        out[i] = f(a[i], b[i]);
    }
    out
}

/// Quarter `from[i]` of each vector.
#[inline(always)]
fn quarters(v: [&[u8; 64]; 4], from: [usize; 4]) -> [u8; 64] {
    let mut out = [0; 64];
    for i in 0..4 {
        out[16 * i..16 * i + 16].copy_from_slice(&v[i][16 * from[i]..16 * from[i] + 16]);
    }
    out
}

/// Adds each cell's four products to its lane.
#[inline(always)]
fn dot(acc: Ints, product: impl Fn(usize) -> i32) -> Ints {
    let mut out = int_lanes(acc);
    for (cell, lane) in out.iter_mut().enumerate() {
        for i in 0..4 {
            *lane = lane.wrapping_add(product(4 * cell + i));
        }
    }
    ints(out)
}

// SAFETY: needs no feature.
unsafe impl Simd for Portable {
    type F32 = Floats;
    type I32 = Ints;
    type Bytes = [u8; 64];
    const REGISTERS: usize = 4;
    const DOT_U8_MAX: u8 = 255;

    #[inline(always)]
    fn splat(self, x: f32) -> Floats {
        [f32x8::splat(x); 2]
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> Floats {
        // SAFETY: the caller promised 16 readable f32.
        floats(unsafe { p.cast::<[f32; 16]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: Floats) {
        // SAFETY: the caller promised 16 writable f32.
        unsafe { p.cast::<[f32; 16]>().write_unaligned(lanes(v)) }
    }
    #[inline(always)]
    unsafe fn load_f16(self, p: *const u16) -> Floats {
        // SAFETY: the caller promised 16 readable u16.
        let bits = unsafe { p.cast::<[u16; 16]>().read_unaligned() };
        floats(bits.map(|b| half::f16::from_bits(b).to_f32_const()))
    }
    #[inline(always)]
    unsafe fn store_f16(self, p: *mut u16, v: Floats) {
        let bits = lanes(v).map(|x| half::f16::from_f32_const(x).to_bits());
        // SAFETY: the caller promised 16 writable u16.
        unsafe { p.cast::<[u16; 16]>().write_unaligned(bits) }
    }
    #[inline(always)]
    unsafe fn load_bf16(self, p: *const u16) -> Floats {
        // SAFETY: the caller promised 16 readable u16.
        let bits = unsafe { p.cast::<[u16; 16]>().read_unaligned() };
        floats(bits.map(|b| f32::from_bits(u32::from(b) << 16)))
    }
    #[inline(always)]
    unsafe fn spread2(self, p: *const f32) -> Floats {
        // SAFETY: the caller promised 2 readable f32.
        let [a, b] = unsafe { p.cast::<[f32; 2]>().read_unaligned() };
        [f32x8::splat(a), f32x8::splat(b)]
    }
    #[inline(always)]
    unsafe fn spread4(self, p: *const f32) -> Floats {
        // SAFETY: the caller promised 4 readable f32.
        let [a, b, c, d] = unsafe { p.cast::<[f32; 4]>().read_unaligned() };
        floats([a, a, a, a, b, b, b, b, c, c, c, c, d, d, d, d])
    }
    #[inline(always)]
    fn spread_lanes<const FIRST: usize, const STEP: usize>(self, v: Floats) -> Floats {
        let (from, mut out) = (lanes(v), [0.0; 16]);
        for i in 0..16 {
            out[i] = from[FIRST + i / 4 * STEP];
        }
        floats(out)
    }
    #[inline(always)]
    unsafe fn spread_half_pair(self, p: *const u8) -> Floats {
        // SAFETY: the caller promised 4 readable bytes.
        let [a, b] =
            unsafe { p.cast::<[u16; 2]>().read_unaligned() }.map(|h| half::f16::from_bits(h).to_f32_const());
        [f32x8::splat(a), f32x8::splat(b)]
    }
    #[inline(always)]
    unsafe fn gather_halves<const STRIDE: usize, const PAIRS: bool>(self, p: *const u8) -> Floats {
        let mut out = [0.0; 16];
        for i in 0..if PAIRS { 16 } else { 8 } {
            // SAFETY: inside the eight strides that the caller promised.
            let bits = unsafe { p.add(i % 8 * STRIDE + i / 8 * 2).cast::<u16>().read_unaligned() };
            out[i] = half::f16::from_bits(bits).to_f32_const();
        }
        floats(out)
    }

    #[inline(always)]
    fn add(self, a: Floats, b: Floats) -> Floats {
        each(a, b, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, a: Floats, b: Floats) -> Floats {
        each(a, b, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, a: Floats, b: Floats) -> Floats {
        each(a, b, |a, b| a * b)
    }
    #[inline(always)]
    fn div(self, a: Floats, b: Floats) -> Floats {
        each(a, b, |a, b| a / b)
    }
    #[inline(always)]
    fn mul_add(self, a: Floats, b: Floats, c: Floats) -> Floats {
        [a[0] * b[0] + c[0], a[1] * b[1] + c[1]]
    }
    #[inline(always)]
    fn max(self, a: Floats, b: Floats) -> Floats {
        self.select_lt(b, a, a, b)
    }
    #[inline(always)]
    fn min(self, a: Floats, b: Floats) -> Floats {
        self.select_lt(a, b, a, b)
    }
    #[inline(always)]
    fn select_lt(self, a: Floats, b: Floats, x: Floats, y: Floats) -> Floats {
        [a[0].simd_lt(b[0]).select(x[0], y[0]), a[1].simd_lt(b[1]).select(x[1], y[1])]
    }
    #[inline(always)]
    fn sum(self, v: Floats) -> f32 {
        fold(lanes(v), |a, b| a + b)
    }
    #[inline(always)]
    fn max_lane(self, v: Floats) -> f32 {
        fold(lanes(v), |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn pow2(self, n: Floats) -> Floats {
        floats(lanes(n).map(|n| f32::from_bits(((n as i32 + 127) as u32) << 23)))
    }
    #[inline(always)]
    fn low_bits_to_exponent(self, v: Floats) -> Floats {
        floats(lanes(v).map(|v| f32::from_bits(v.to_bits() << 23)))
    }
    #[inline(always)]
    fn to_i32(self, v: Floats) -> Ints {
        ints(lanes(v).map(|x| x.round_ties_even() as i32))
    }
    #[inline(always)]
    fn from_i32(self, v: Ints) -> Floats {
        floats(int_lanes(v).map(|x| x as f32))
    }

    #[inline(always)]
    fn splat_i32(self, x: i32) -> Ints {
        [i32x8::splat(x); 2]
    }
    #[inline(always)]
    fn add_i32(self, a: Ints, b: Ints) -> Ints {
        [a[0] + b[0], a[1] + b[1]]
    }
    #[inline(always)]
    fn sub_i32(self, a: Ints, b: Ints) -> Ints {
        [a[0] - b[0], a[1] - b[1]]
    }
    #[inline(always)]
    fn shl_i32<const N: i32>(self, a: Ints) -> Ints {
        ints(int_lanes(a).map(|a| a << N))
    }
    #[inline(always)]
    fn sum_i32(self, v: Ints) -> i32 {
        fold(int_lanes(v), i32::wrapping_add)
    }
    #[inline(always)]
    unsafe fn load_i32(self, p: *const i32) -> Ints {
        // SAFETY: the caller promised 16 readable i32.
        ints(unsafe { p.cast::<[i32; 16]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn store_i32(self, p: *mut i32, v: Ints) {
        // SAFETY: the caller promised 16 writable i32.
        unsafe { p.cast::<[i32; 16]>().write_unaligned(int_lanes(v)) }
    }
    #[inline(always)]
    unsafe fn load_u8(self, p: *const u8) -> Ints {
        // SAFETY: the caller promised 16 readable bytes.
        ints(unsafe { p.cast::<[u8; 16]>().read() }.map(i32::from))
    }
    #[inline(always)]
    unsafe fn load_i8(self, p: *const i8) -> Ints {
        // SAFETY: the caller promised 16 readable bytes.
        ints(unsafe { p.cast::<[i8; 16]>().read() }.map(i32::from))
    }
    #[inline(always)]
    unsafe fn store_i8(self, p: *mut i8, v: Ints) {
        let bytes = int_lanes(v).map(|x| x.clamp(-128, 127) as i8);
        // SAFETY: the caller promised 16 writable bytes.
        unsafe { p.cast::<[i8; 16]>().write(bytes) }
    }

    #[inline(always)]
    fn narrow_i8(self, v: [Ints; 4]) -> [u8; 64] {
        let mut out = [0; 64];
        for (out, v) in out.chunks_exact_mut(16).zip(v) {
            for (out, x) in out.iter_mut().zip(int_lanes(v)) {
                *out = (x.clamp(-128, 127) as i8).cast_unsigned();
            }
        }
        out
    }

    #[inline(always)]
    unsafe fn load_bytes(self, p: *const u8) -> [u8; 64] {
        // SAFETY: the caller promised 64 readable bytes.
        unsafe { p.cast::<[u8; 64]>().read() }
    }
    #[inline(always)]
    unsafe fn store_bytes(self, p: *mut u8, v: [u8; 64]) {
        // SAFETY: the caller promised 64 writable bytes.
        unsafe { p.cast::<[u8; 64]>().write(v) }
    }
    #[inline(always)]
    unsafe fn load_quarters(self, p: [*const u8; 4]) -> [u8; 64] {
        let mut out = [0; 64];
        for (i, p) in p.into_iter().enumerate() {
            // SAFETY: the caller promised 16 readable bytes at each pointer.
            out[16 * i..16 * i + 16].copy_from_slice(&unsafe { p.cast::<[u8; 16]>().read() });
        }
        out
    }
    #[inline(always)]
    fn splat_cell(self, x: u32) -> [u8; 64] {
        let cell = x.to_le_bytes();
        let mut out = [0; 64];
        for i in 0..64 {
            out[i] = cell[i % 4];
        }
        out
    }
    #[inline(always)]
    fn and(self, a: [u8; 64], b: [u8; 64]) -> [u8; 64] {
        zip_bytes(a, b, |a, b| a & b)
    }
    #[inline(always)]
    fn or(self, a: [u8; 64], b: [u8; 64]) -> [u8; 64] {
        zip_bytes(a, b, |a, b| a | b)
    }
    #[inline(always)]
    fn xor(self, a: [u8; 64], b: [u8; 64]) -> [u8; 64] {
        zip_bytes(a, b, |a, b| a ^ b)
    }
    #[inline(always)]
    fn shift_quarters(self, v: [u8; 64], n: [i32; 4]) -> [u8; 64] {
        let mut out = [0; 64];
        for cell in 0..16 {
            let i = 4 * cell;
            let x = u32::from_le_bytes([v[i], v[i + 1], v[i + 2], v[i + 3]]);
            let n = n[cell / 4];
            let x = if n >= 0 { x >> n } else { x << -n };
            out[i..i + 4].copy_from_slice(&x.to_le_bytes());
        }
        out
    }
    #[inline(always)]
    fn deal_quarters(self, a: [u8; 64], b: [u8; 64]) -> [[u8; 64]; 2] {
        [quarters([&a, &a, &b, &b], [0, 2, 0, 2]), quarters([&a, &a, &b, &b], [1, 3, 1, 3])]
    }
    #[inline(always)]
    fn zip_quarters(self, a: [u8; 64], b: [u8; 64]) -> [[u8; 64]; 2] {
        [quarters([&a, &b, &a, &b], [0, 0, 2, 2]), quarters([&a, &b, &a, &b], [1, 1, 3, 3])]
    }
    #[inline(always)]
    fn expand_bits(self, bits: u64, value: u8) -> [u8; 64] {
        let mut out = [0; 64];
        for (i, byte) in out.iter_mut().enumerate() {
            *byte = if bits >> i & 1 == 1 { value } else { 0 };
        }
        out
    }
    #[inline(always)]
    fn lookup16(self, table: [u8; 16], index: [u8; 64]) -> [u8; 64] {
        let mut out = [0; 64];
        for i in 0..64 {
            out[i] = table[usize::from(index[i] & 15)];
        }
        out
    }
    #[inline(always)]
    fn dot_u8i8(self, acc: Ints, w: [u8; 64], a: [u8; 64]) -> Ints {
        dot(acc, |i| i32::from(w[i]) * i32::from(a[i].cast_signed()))
    }
    #[inline(always)]
    fn dot_i8i8(self, acc: Ints, w: [u8; 64], a: [u8; 64]) -> Ints {
        dot(acc, |i| i32::from(w[i].cast_signed()) * i32::from(a[i].cast_signed()))
    }
    #[inline(always)]
    fn dot_i16(self, acc: Ints, w: [u8; 64], a: [u8; 64]) -> Ints {
        let value = |v: &[u8; 64], i: usize| i32::from(i16::from_le_bytes([v[i], v[i + 1]]));
        let mut out = int_lanes(acc);
        for (cell, lane) in out.iter_mut().enumerate() {
            for i in [4 * cell, 4 * cell + 2] {
                *lane = lane.wrapping_add(value(&w, i) * value(&a, i));
            }
        }
        ints(out)
    }
    #[inline(always)]
    fn dot_bf16(self, acc: Floats, w: [u8; 64], a: [u8; 64]) -> Floats {
        let widen = |v: &[u8; 64], i: usize| f32::from_bits(u32::from_le_bytes([0, 0, v[i], v[i + 1]]));
        let mut out = lanes(acc);
        for (cell, lane) in out.iter_mut().enumerate() {
            let i = 4 * cell;
            *lane += widen(&w, i) * widen(&a, i);
            *lane += widen(&w, i + 2) * widen(&a, i + 2);
        }
        floats(out)
    }

    #[inline(always)]
    fn narrow_bf16(self, lo: Floats, hi: Floats) -> [u8; 64] {
        let (lo, hi) = (lanes(lo), lanes(hi));
        let mut out = [0; 64];
        for i in 0..16 {
            out[2 * i..2 * i + 2].copy_from_slice(&half::bf16::from_f32_const(lo[i]).to_le_bytes());
            out[32 + 2 * i..34 + 2 * i].copy_from_slice(&half::bf16::from_f32_const(hi[i]).to_le_bytes());
        }
        out
    }
    #[inline(always)]
    fn interleave_halves(self, v: [u8; 64]) -> [u8; 64] {
        let mut out = [0; 64];
        for i in 0..16 {
            out[4 * i..4 * i + 2].copy_from_slice(&v[2 * i..2 * i + 2]);
            out[4 * i + 2..4 * i + 4].copy_from_slice(&v[32 + 2 * i..34 + 2 * i]);
        }
        out
    }

    #[inline(always)]
    fn transpose_4x4(self, rows: [[u8; 64]; 4]) -> [[u8; 64]; 4] {
        let mut out = rows;
        for quarter in 0..4 {
            for i in 0..4 {
                for j in 0..4 {
                    let (from, to) = (16 * quarter + 4 * j, 16 * quarter + 4 * i);
                    out[j][to..to + 4].copy_from_slice(&rows[i][from..from + 4]);
                }
            }
        }
        out
    }
    #[inline(always)]
    fn prefetch(self, _: *const u8) {}
    #[inline(always)]
    fn prefetch_far(self, _: *const u8) {}
}
