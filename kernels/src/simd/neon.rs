//! Arm NEON with the int8 dot product: four q registers per vector.
//!
//! | operation | instruction (four times) | per cycle (Neoverse V1 / Apple M1) | note |
//! |---|---|---|---|
//! | `mul_add` | fmla | 4 | |
//! | `dot_u8i8`, `dot_i8i8` | sdot | 4 | signed times signed, no saturation |
//! | `load_f16`, `store_f16` | fcvtl, fcvtn | 2 | base instructions, the FP16 extension is not needed |
//! | `max`, `min` | fcmgt + bsl | 2 | fmax would give NaN where x86 gives the other operand |
//! | `shift_quarters` | ushl | 2 | negative counts shift right |
//!
//! Thirty-two q registers hold eight vectors: six accumulators, a vector of weights and a broadcast.
//!
//! Three instructions are written as `asm!` because their intrinsics are not stable yet: `sdot`, `fcvtl` and `fcvtn`
//! (with their upper-half forms), `prfm`.

use super::Simd;
use core::arch::aarch64::*;
use core::arch::asm;

/// NEON and DotProd.
#[derive(Clone, Copy)]
pub(crate) struct Neon(());

/// Lanes 0..4, 4..8, 8..12, 12..16.
type Floats = [float32x4_t; 4];
/// Lanes 0..4, 4..8, 8..12, 12..16.
type Ints = [int32x4_t; 4];
/// The quarters.
type Bytes = [uint8x16_t; 4];

impl Neon {
    #[inline]
    #[target_feature(enable = "neon,dotprod")]
    pub(crate) fn new() -> Self {
        Self(())
    }
}

#[inline(always)]
fn each<A: Copy, R>(a: [A; 4], f: impl Fn(A) -> R) -> [R; 4] {
    [f(a[0]), f(a[1]), f(a[2]), f(a[3])]
}

#[inline(always)]
fn zip<A: Copy, B: Copy, R>(a: [A; 4], b: [B; 4], f: impl Fn(A, B) -> R) -> [R; 4] {
    [f(a[0], b[0]), f(a[1], b[1]), f(a[2], b[2]), f(a[3], b[3])]
}

#[inline(always)]
fn zip3<A: Copy, B: Copy, C: Copy, R>(a: [A; 4], b: [B; 4], c: [C; 4], f: impl Fn(A, B, C) -> R) -> [R; 4] {
    [f(a[0], b[0], c[0]), f(a[1], b[1], c[1]), f(a[2], b[2], c[2]), f(a[3], b[3], c[3])]
}

/// `if a > b { a } else { b }` in four lanes.
///
/// # Safety
/// The CPU must have NEON.
#[inline(always)]
unsafe fn max4(a: float32x4_t, b: float32x4_t) -> float32x4_t {
    // SAFETY: the caller's promise.
    unsafe { vbslq_f32(vcgtq_f32(a, b), a, b) }
}

/// Widens eight IEEE halves.
///
/// # Safety
/// The CPU must have NEON.
#[inline(always)]
unsafe fn widen_f16(halves: uint16x8_t) -> [float32x4_t; 2] {
    let (lo, hi): (float32x4_t, float32x4_t);
    // SAFETY: two base NEON instructions on registers; they may raise flags in FPSR, so flags are not promised to stay.
    unsafe {
        asm!("fcvtl {out:v}.4s, {v:v}.4h", out = lateout(vreg) lo, v = in(vreg) halves, options(pure, nomem, nostack));
        asm!("fcvtl2 {out:v}.4s, {v:v}.8h", out = lateout(vreg) hi, v = in(vreg) halves, options(pure, nomem, nostack));
    }
    [lo, hi]
}

/// Narrows to eight IEEE halves, to nearest even (the rounding mode that Rust code runs in).
///
/// # Safety
/// The CPU must have NEON.
#[inline(always)]
unsafe fn narrow_f16(lo: float32x4_t, hi: float32x4_t) -> uint16x8_t {
    let mut halves: uint16x8_t;
    // SAFETY: two base NEON instructions on registers; the second leaves the lower half as the first wrote it.
    unsafe {
        asm!("fcvtn {out:v}.4h, {v:v}.4s", out = lateout(vreg) halves, v = in(vreg) lo, options(pure, nomem, nostack));
        asm!("fcvtn2 {out:v}.8h, {v:v}.4s", out = inout(vreg) halves, v = in(vreg) hi, options(pure, nomem, nostack));
    }
    halves
}

/// Four bf16 to nearest even: half of the last place is added, and one more where the kept part is odd; a NaN keeps its
/// upper half, made quiet.
///
/// # Safety
/// The CPU must have NEON.
#[inline(always)]
unsafe fn narrow_bf16_4(x: float32x4_t) -> uint16x4_t {
    // SAFETY: the caller's promise.
    unsafe {
        let bits = vreinterpretq_u32_f32(x);
        let odd = vandq_u32(vshrq_n_u32::<16>(bits), vdupq_n_u32(1));
        let rounded = vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff)));
        let quiet = vorrq_u32(bits, vdupq_n_u32(0x0040_0000));
        vshrn_n_u32::<16>(vbslq_u32(vceqq_f32(x, x), rounded, quiet))
    }
}

/// Sixteen lanes as bytes with saturation.
///
/// # Safety
/// The CPU must have NEON.
#[inline(always)]
unsafe fn narrow_i8_16(v: Ints) -> int8x16_t {
    // SAFETY: the caller's promise.
    unsafe {
        let lo = vqmovn_high_s32(vqmovn_s32(v[0]), v[1]);
        let hi = vqmovn_high_s32(vqmovn_s32(v[2]), v[3]);
        vqmovn_high_s16(vqmovn_s16(lo), hi)
    }
}

/// Adds to each lane the dot product of its four signed bytes.
///
/// # Safety
/// The CPU must have DotProd.
#[inline(always)]
unsafe fn sdot(mut acc: int32x4_t, w: uint8x16_t, a: uint8x16_t) -> int32x4_t {
    // SAFETY: the caller's promise; registers only, no flags.
    unsafe {
        asm!(
            ".arch_extension dotprod",
            "sdot {acc:v}.4s, {w:v}.16b, {a:v}.16b",
            acc = inout(vreg) acc,
            w = in(vreg) w,
            a = in(vreg) a,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    acc
}

/// Transposes 4 x 4 cells.
///
/// # Safety
/// The CPU must have NEON.
#[inline(always)]
unsafe fn transpose_4x4(r: [uint8x16_t; 4]) -> [uint8x16_t; 4] {
    // SAFETY: the caller's promise.
    unsafe {
        let r = each(r, |r| vreinterpretq_u32_u8(r));
        // [a0 b0 a2 b2] and [a1 b1 a3 b3], then halves of those.
        let even = [vtrn1q_u32(r[0], r[1]), vtrn1q_u32(r[2], r[3])].map(|v| vreinterpretq_u64_u32(v));
        let odd = [vtrn2q_u32(r[0], r[1]), vtrn2q_u32(r[2], r[3])].map(|v| vreinterpretq_u64_u32(v));
        let columns = [
            vtrn1q_u64(even[0], even[1]),
            vtrn1q_u64(odd[0], odd[1]),
            vtrn2q_u64(even[0], even[1]),
            vtrn2q_u64(odd[0], odd[1]),
        ];
        each(columns, |v| vreinterpretq_u8_u64(v))
    }
}

// SAFETY: the only constructor is a `#[target_feature]` function, so a value exists only where the features do.
unsafe impl Simd for Neon {
    type F32 = Floats;
    type I32 = Ints;
    type Bytes = Bytes;
    /// `sdot` takes both sides signed: bytes up to 127 are the same either way.
    const DOT_U8_MAX: u8 = 127;

    ops! {
        fn splat(x: f32) -> Floats { [vdupq_n_f32(x); 4] }
        unsafe fn load(p: *const f32) -> Floats { each([0, 4, 8, 12], |i| vld1q_f32(p.add(i))) }
        unsafe fn store(p: *mut f32, v: Floats) -> () {
            zip([0, 4, 8, 12], v, |i, v| vst1q_f32(p.add(i), v));
        }
        unsafe fn load_f16(p: *const u16) -> Floats {
            let ([a, b], [c, d]) = (widen_f16(vld1q_u16(p)), widen_f16(vld1q_u16(p.add(8))));
            [a, b, c, d]
        }
        unsafe fn store_f16(p: *mut u16, v: Floats) -> () {
            vst1q_u16(p, narrow_f16(v[0], v[1]));
            vst1q_u16(p.add(8), narrow_f16(v[2], v[3]));
        }
        unsafe fn load_bf16(p: *const u16) -> Floats {
            each([0, 4, 8, 12], |i| vreinterpretq_f32_u32(vshll_n_u16::<16>(vld1_u16(p.add(i)))))
        }
        unsafe fn spread2(p: *const f32) -> Floats {
            let (lo, hi) = (vld1q_dup_f32(p), vld1q_dup_f32(p.add(1)));
            [lo, lo, hi, hi]
        }
        unsafe fn spread4(p: *const f32) -> Floats { each([0, 1, 2, 3], |i| vld1q_dup_f32(p.add(i))) }
        fn spread_lanes<const FIRST: usize, const STEP: usize>(v: Floats) -> Floats {
            let mut lanes = [0.0_f32; 16];
            for i in 0..4 {
                vst1q_f32(lanes.as_mut_ptr().add(4 * i), v[i]);
            }
            each([0, 1, 2, 3], |i| vdupq_n_f32(lanes[FIRST + i * STEP]))
        }
        unsafe fn spread_half_pair(p: *const u8) -> Floats {
            let half = |p: *const u8| widen_f16(vdupq_n_u16(p.cast::<u16>().read_unaligned()))[0];
            let (a, b) = (half(p), half(p.add(2)));
            [a, a, b, b]
        }
        unsafe fn gather_halves<const STRIDE: usize, const PAIRS: bool>(p: *const u8) -> Floats {
            let gather = |p: *const u8| {
                let mut halves = [0_u16; 8];
                for i in 0..8 {
                    halves[i] = p.add(i * STRIDE).cast::<u16>().read_unaligned();
                }
                widen_f16(vld1q_u16(halves.as_ptr()))
            };
            let [a, b] = gather(p);
            let [c, d] = if PAIRS { gather(p.add(2)) } else { [vdupq_n_f32(0.0); 2] };
            [a, b, c, d]
        }
        fn add(a: Floats, b: Floats) -> Floats { zip(a, b, |a, b| vaddq_f32(a, b)) }
        fn sub(a: Floats, b: Floats) -> Floats { zip(a, b, |a, b| vsubq_f32(a, b)) }
        fn mul(a: Floats, b: Floats) -> Floats { zip(a, b, |a, b| vmulq_f32(a, b)) }
        fn div(a: Floats, b: Floats) -> Floats { zip(a, b, |a, b| vdivq_f32(a, b)) }
        fn mul_add(a: Floats, b: Floats, c: Floats) -> Floats { zip3(a, b, c, |a, b, c| vfmaq_f32(c, a, b)) }
        fn max(a: Floats, b: Floats) -> Floats { zip(a, b, |a, b| max4(a, b)) }
        fn min(a: Floats, b: Floats) -> Floats { zip(a, b, |a, b| vbslq_f32(vcltq_f32(a, b), a, b)) }
        fn select_lt(a: Floats, b: Floats, x: Floats, y: Floats) -> Floats {
            zip3(zip(a, b, |a, b| vcltq_f32(a, b)), x, y, |less, x, y| vbslq_f32(less, x, y))
        }
        fn sum(v: Floats) -> f32 {
            let v = vaddq_f32(vaddq_f32(v[0], v[2]), vaddq_f32(v[1], v[3]));
            vpadds_f32(vadd_f32(vget_low_f32(v), vget_high_f32(v)))
        }
        fn max_lane(v: Floats) -> f32 {
            let v = max4(max4(v[0], v[2]), max4(v[1], v[3]));
            let v = max4(v, vextq_f32::<2>(v, v));
            vgetq_lane_f32::<0>(max4(v, vextq_f32::<1>(v, v)))
        }
        fn pow2(n: Floats) -> Floats {
            each(n, |n| {
                let exponent = vaddq_s32(vcvtnq_s32_f32(n), vdupq_n_s32(127));
                vreinterpretq_f32_s32(vshlq_n_s32::<23>(exponent))
            })
        }
        fn low_bits_to_exponent(v: Floats) -> Floats {
            each(v, |v| vreinterpretq_f32_s32(vshlq_n_s32::<23>(vreinterpretq_s32_f32(v))))
        }
        fn to_i32(v: Floats) -> Ints { each(v, |v| vcvtnq_s32_f32(v)) }
        fn from_i32(v: Ints) -> Floats { each(v, |v| vcvtq_f32_s32(v)) }
        fn splat_i32(x: i32) -> Ints { [vdupq_n_s32(x); 4] }
        fn add_i32(a: Ints, b: Ints) -> Ints { zip(a, b, |a, b| vaddq_s32(a, b)) }
        fn sub_i32(a: Ints, b: Ints) -> Ints { zip(a, b, |a, b| vsubq_s32(a, b)) }
        fn shl_i32<const N: i32>(a: Ints) -> Ints { each(a, |a| vshlq_n_s32::<N>(a)) }
        fn sum_i32(v: Ints) -> i32 { vaddvq_s32(vaddq_s32(vaddq_s32(v[0], v[2]), vaddq_s32(v[1], v[3]))) }
        unsafe fn load_i32(p: *const i32) -> Ints { each([0, 4, 8, 12], |i| vld1q_s32(p.add(i))) }
        unsafe fn store_i32(p: *mut i32, v: Ints) -> () {
            zip([0, 4, 8, 12], v, |i, v| vst1q_s32(p.add(i), v));
        }
        unsafe fn load_u8(p: *const u8) -> Ints {
            let bytes = vld1q_u8(p);
            let (lo, hi) = (vmovl_u8(vget_low_u8(bytes)), vmovl_high_u8(bytes));
            [vmovl_u16(vget_low_u16(lo)), vmovl_high_u16(lo), vmovl_u16(vget_low_u16(hi)), vmovl_high_u16(hi)]
                .map(|v| vreinterpretq_s32_u32(v))
        }
        unsafe fn load_i8(p: *const i8) -> Ints {
            let bytes = vld1q_s8(p);
            let (lo, hi) = (vmovl_s8(vget_low_s8(bytes)), vmovl_high_s8(bytes));
            [vmovl_s16(vget_low_s16(lo)), vmovl_high_s16(lo), vmovl_s16(vget_low_s16(hi)), vmovl_high_s16(hi)]
        }
        unsafe fn store_i8(p: *mut i8, v: Ints) -> () { vst1q_s8(p, narrow_i8_16(v)) }
        fn narrow_i8(v: [Ints; 4]) -> Bytes { each(v, |v| vreinterpretq_u8_s8(narrow_i8_16(v))) }
        unsafe fn load_bytes(p: *const u8) -> Bytes { each([0, 16, 32, 48], |i| vld1q_u8(p.add(i))) }
        unsafe fn store_bytes(p: *mut u8, v: Bytes) -> () {
            zip([0, 16, 32, 48], v, |i, v| vst1q_u8(p.add(i), v));
        }
        unsafe fn load_quarters(p: [*const u8; 4]) -> Bytes { each(p, |p| vld1q_u8(p)) }
        fn splat_cell(x: u32) -> Bytes { [vreinterpretq_u8_u32(vdupq_n_u32(x)); 4] }
        fn and(a: Bytes, b: Bytes) -> Bytes { zip(a, b, |a, b| vandq_u8(a, b)) }
        fn or(a: Bytes, b: Bytes) -> Bytes { zip(a, b, |a, b| vorrq_u8(a, b)) }
        fn xor(a: Bytes, b: Bytes) -> Bytes { zip(a, b, |a, b| veorq_u8(a, b)) }
        fn shift_quarters(v: Bytes, n: [i32; 4]) -> Bytes {
            zip(v, n, |v, n| vreinterpretq_u8_u32(vshlq_u32(vreinterpretq_u32_u8(v), vdupq_n_s32(-n))))
        }
        fn deal_quarters(a: Bytes, b: Bytes) -> [Bytes; 2] { [[a[0], a[2], b[0], b[2]], [a[1], a[3], b[1], b[3]]] }
        fn zip_quarters(a: Bytes, b: Bytes) -> [Bytes; 2] { [[a[0], b[0], a[2], b[2]], [a[1], b[1], a[3], b[3]]] }
        fn expand_bits(bits: u64, value: u8) -> Bytes {
            // Bytes 2i and 2i + 1 of the bits, eight times each, tested against each place's own bit.
            let all = vreinterpretq_u8_u64(vdupq_n_u64(bits));
            let first = vcombine_u8(vdup_n_u8(0), vdup_n_u8(1));
            let own_bit = vreinterpretq_u8_u64(vdupq_n_u64(0x8040_2010_0804_0201));
            each([0, 2, 4, 6], |i| {
                let spread = vqtbl1q_u8(all, vaddq_u8(first, vdupq_n_u8(i)));
                vandq_u8(vtstq_u8(spread, own_bit), vdupq_n_u8(value))
            })
        }
        fn lookup16(table: [u8; 16], index: Bytes) -> Bytes {
            let table = vld1q_u8(table.as_ptr());
            each(index, |i| vqtbl1q_u8(table, i))
        }
        fn dot_u8i8(acc: Ints, w: Bytes, a: Bytes) -> Ints { zip3(acc, w, a, |acc, w, a| sdot(acc, w, a)) }
        fn dot_i8i8(acc: Ints, w: Bytes, a: Bytes) -> Ints { zip3(acc, w, a, |acc, w, a| sdot(acc, w, a)) }
        fn dot_i16(acc: Ints, w: Bytes, a: Bytes) -> Ints {
            zip3(acc, w, a, |acc, w, a| {
                let (w, a) = (vreinterpretq_s16_u8(w), vreinterpretq_s16_u8(a));
                let lo = vmull_s16(vget_low_s16(w), vget_low_s16(a));
                vaddq_s32(acc, vpaddq_s32(lo, vmull_high_s16(w, a)))
            })
        }
        fn dot_bf16(acc: Floats, w: Bytes, a: Bytes) -> Floats {
            // bf16 is the upper half of an f32.
            let upper = vdupq_n_u32(0xffff_0000);
            let even = |x| vreinterpretq_f32_u32(vshlq_n_u32::<16>(vreinterpretq_u32_u8(x)));
            let odd = |x| vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_u8(x), upper));
            zip3(acc, w, a, |acc, w, a| vfmaq_f32(vfmaq_f32(acc, even(w), even(a)), odd(w), odd(a)))
        }
        fn narrow_bf16(lo: Floats, hi: Floats) -> Bytes {
            let eight = |a, b| vreinterpretq_u8_u16(vcombine_u16(narrow_bf16_4(a), narrow_bf16_4(b)));
            [eight(lo[0], lo[1]), eight(lo[2], lo[3]), eight(hi[0], hi[1]), eight(hi[2], hi[3])]
        }
        fn interleave_halves(v: Bytes) -> Bytes {
            let [a, b, c, d] = each(v, |v| vreinterpretq_u16_u8(v));
            each([vzip1q_u16(a, c), vzip2q_u16(a, c), vzip1q_u16(b, d), vzip2q_u16(b, d)], |v| vreinterpretq_u8_u16(v))
        }
        fn prefetch(p: *const u8) -> () {
            asm!("prfm pldl1keep, [{p}]", p = in(reg) p, options(nomem, nostack, preserves_flags))
        }
        fn prefetch_far(p: *const u8) -> () {
            asm!("prfm pldl2keep, [{p}]", p = in(reg) p, options(nomem, nostack, preserves_flags))
        }
    }

    #[inline(always)]
    fn transpose_4x4(self, r: [Bytes; 4]) -> [Bytes; 4] {
        // Quarter l of all four rows is one block.
        let mut out = r;
        for l in 0..4 {
            // SAFETY: the token proves NEON.
            let block = unsafe { transpose_4x4([r[0][l], r[1][l], r[2][l], r[3][l]]) };
            for j in 0..4 {
                out[j][l] = block[j];
            }
        }
        out
    }
}
