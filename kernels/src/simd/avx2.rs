//! AVX2 with FMA and F16C: two ymm registers per vector.
//!
//! | operation | instruction (twice) | per cycle (Zen 4 / 5) | note |
//! |---|---|---|---|
//! | `mul_add` | vfmadd231ps ymm | 2 | |
//! | `dot_u8i8` | vpmaddubsw + vpmaddwd + vpaddd | 2 / 2 / 4 | pair sums stay below 2^15 for w <= 127 |
//! | `add_pairs` | vpmaddubsw + vpaddw | 2 / 4 | widened once for up to 8 products |
//! | `dot_u8i8` | vpdpbusd ymm (VEX) | 2 | AVX-VNNI |
//! | `load_f16` | vcvtph2ps | 1 | |
//! | `shift_quarters` | vpsrlvd / vpsllvd | 2 | constant counts fold |
//!
//! Sixteen ymm registers hold eight vectors, so tiles have at most five accumulators.

use super::Simd;
use core::arch::x86_64::*;

/// AVX2, FMA, F16C.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(());
/// With AVX-VNNI.
#[derive(Clone, Copy)]
pub(crate) struct Avx2Vnni(());

/// Lanes 0..8 and 8..16.
type Floats = (__m256, __m256);
/// Lanes 0..8 and 8..16, or bytes 0..32 and 32..64.
type Ints = (__m256i, __m256i);

/// Folds 8 lanes: 8, 4, 2, 1.
///
/// # Safety
/// The CPU must have AVX.
#[inline(always)]
pub(super) unsafe fn sum8(v: __m256) -> f32 {
    // SAFETY: the caller's promise.
    unsafe {
        let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
        let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
        _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)))
    }
}

/// Folds 8 lanes: 8, 4, 2, 1.
///
/// # Safety
/// The CPU must have AVX.
#[inline(always)]
pub(super) unsafe fn max8(v: __m256) -> f32 {
    // SAFETY: the caller's promise.
    unsafe {
        let v = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
        let v = _mm_max_ps(v, _mm_movehl_ps(v, v));
        _mm_cvtss_f32(_mm_max_ss(v, _mm_movehdup_ps(v)))
    }
}

/// # Safety
/// The CPU must have AVX2.
#[inline(always)]
unsafe fn pow2_8(n: __m256) -> __m256 {
    // SAFETY: the caller's promise.
    unsafe {
        let exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
        _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent))
    }
}

/// Bytes of `value` where `bits` has a one, for 32 bits: each bit is brought into its byte's own place and tested.
///
/// # Safety
/// The CPU must have AVX2.
#[inline(always)]
unsafe fn expand_bits_32(bits: u32, value: u8) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe {
        let source_byte = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
        let own_bit = _mm256_set1_epi64x(0x8040201008040201_u64.cast_signed());
        let spread = _mm256_shuffle_epi8(_mm256_set1_epi32(bits.cast_signed()), source_byte);
        let set = _mm256_cmpeq_epi8(_mm256_and_si256(spread, own_bit), own_bit);
        _mm256_and_si256(set, _mm256_set1_epi8(value.cast_signed()))
    }
}

/// Eight lane indexes in memory.
#[repr(align(32))]
struct Lanes([i32; 8]);

/// Orders of [`spread_pair`].
struct Spread<const FIRST: usize, const STEP: usize>;

impl<const FIRST: usize, const STEP: usize> Spread<FIRST, STEP> {
    const LANES: [Lanes; 2] = [Self::order(0), Self::order(2 * STEP % 4)];

    /// Four times the lane `FIRST + at` of a half, four times the one a step further.
    const fn order(at: usize) -> Lanes {
        let (a, b) = (((FIRST + at) % 4) as i32, ((FIRST + at + STEP) % 4) as i32);
        Lanes([a, a, a, a, b, b, b, b])
    }
}

/// Each half of `v` in this order.
///
/// The order is hidden from the compiler, which would merge it with what filled the halves of `v` and take one permutation
/// across halves for each result instead of one for both: two operations apiece on Zen 3.
///
/// # Safety
/// The CPU must have AVX2.
#[inline(always)]
unsafe fn spread_pair(v: __m256, order: &Lanes) -> __m256 {
    // SAFETY: the caller's promise; eight aligned lanes.
    unsafe { _mm256_permutevar_ps(v, (&raw const order.0).cast::<__m256i>().read_volatile()) }
}

/// Transposes the 4 x 4 cells in each 128-bit half.
///
/// # Safety
/// The CPU must have AVX2.
#[inline(always)]
unsafe fn transpose_4x4(r: [__m256i; 4]) -> [__m256i; 4] {
    // SAFETY: the caller's promise.
    unsafe {
        let lo = [_mm256_unpacklo_epi32(r[0], r[1]), _mm256_unpacklo_epi32(r[2], r[3])];
        let hi = [_mm256_unpackhi_epi32(r[0], r[1]), _mm256_unpackhi_epi32(r[2], r[3])];
        [
            _mm256_unpacklo_epi64(lo[0], lo[1]),
            _mm256_unpackhi_epi64(lo[0], lo[1]),
            _mm256_unpacklo_epi64(hi[0], hi[1]),
            _mm256_unpackhi_epi64(hi[0], hi[1]),
        ]
    }
}

/// Eight cells of two bf16, widened: bf16 is the upper half of an f32.
///
/// # Safety
/// The CPU must have AVX2 and FMA.
#[inline(always)]
unsafe fn dot_bf16_8(acc: __m256, w: __m256i, a: __m256i) -> __m256 {
    // SAFETY: the caller's promise.
    unsafe {
        let upper = _mm256_set1_epi32(0xffff_0000_u32 as i32);
        let w_even = _mm256_castsi256_ps(_mm256_slli_epi32::<16>(w));
        let a_even = _mm256_castsi256_ps(_mm256_slli_epi32::<16>(a));
        let w_odd = _mm256_castsi256_ps(_mm256_and_si256(w, upper));
        let a_odd = _mm256_castsi256_ps(_mm256_and_si256(a, upper));
        _mm256_fmadd_ps(w_odd, a_odd, _mm256_fmadd_ps(w_even, a_even, acc))
    }
}

/// The upper half of each lane, rounded to nearest even; a NaN stays one.
///
/// # Safety
/// The CPU must have AVX2.
#[inline(always)]
unsafe fn upper_half(x: __m256) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe {
        let bits = _mm256_castps_si256(x);
        let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
        let rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
        let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x0040_0000));
        let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(x, x));
        _mm256_srli_epi32::<16>(_mm256_blendv_epi8(rounded, quiet, nan))
    }
}

/// Sixteen bf16 to nearest even: half of the last place is added, and one more where the kept part is odd; a NaN keeps
/// its upper half, made quiet.
///
/// # Safety
/// The CPU must have AVX2.
#[inline(always)]
unsafe fn narrow_bf16_16(v: Floats) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe {
        // Packing works inside 128-bit lanes: [0..4 | 8..12 | 4..8 | 12..16] comes out.
        _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packus_epi32(upper_half(v.0), upper_half(v.1)))
    }
}

/// The lanes of `a`, then those of `b`, as bytes with saturation.
///
/// # Safety
/// The CPU must have AVX2.
#[inline(always)]
unsafe fn narrow_i8_32(a: Ints, b: Ints) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe {
        // Packing works inside 128-bit lanes: a0..4 a8..12 b0..4 b8..12, and the same from 4 on.
        let bytes = _mm256_packs_epi16(_mm256_packs_epi32(a.0, a.1), _mm256_packs_epi32(b.0, b.1));
        _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7))
    }
}

/// `acc + 2^N (the two of a pair of 16-bit sums)`, in each 32-bit lane.
///
/// # Safety
/// The CPU must have AVX2.
#[inline(always)]
unsafe fn add_widened<const N: i32>(acc: __m256i, pairs: __m256i) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe { _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1 << N))) }
}

impl Avx2 {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(crate) fn new() -> Self {
        Self(())
    }

    /// Exact for `w <= 127`: a pair sum is at most 2 * 127 * 128 = 32512.
    #[inline(always)]
    fn dot_u8i8(acc: __m256i, w: __m256i, a: __m256i) -> __m256i {
        // SAFETY: only called by a token's operation, so the CPU has AVX2.
        unsafe { add_widened::<0>(acc, _mm256_maddubs_epi16(w, a)) }
    }

    /// |w| <= 128 and |a| <= 127, so a pair sum of |w| (sign(w) a) is at most 2 * 128 * 127 = 32512.
    #[inline(always)]
    fn dot_i8i8(acc: __m256i, w: __m256i, a: __m256i) -> __m256i {
        // SAFETY: only called by a token's operation, so the CPU has AVX2.
        unsafe { Self::dot_u8i8(acc, _mm256_abs_epi8(w), _mm256_sign_epi8(a, w)) }
    }
}

impl Avx2Vnni {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c,avxvnni")]
    pub(crate) fn new() -> Self {
        Self(())
    }

    #[inline(always)]
    fn dot_u8i8(acc: __m256i, w: __m256i, a: __m256i) -> __m256i {
        // SAFETY: only called by a token's operation, so the CPU has AVX-VNNI.
        unsafe { _mm256_dpbusd_avx_epi32(acc, w, a) }
    }

    /// The sign moves to the activation, which cannot overflow: a >= -127.
    #[inline(always)]
    fn dot_i8i8(acc: __m256i, w: __m256i, a: __m256i) -> __m256i {
        // SAFETY: only called by a token's operation, so the CPU has AVX-VNNI.
        unsafe { _mm256_dpbusd_avx_epi32(acc, _mm256_abs_epi8(w), _mm256_sign_epi8(a, w)) }
    }
}

/// The operations that both levels share; the dot products come from the token's own functions, and what only one has is
/// given in braces.
macro_rules! avx2_token {
    ($Token:ident, $dot_u8_max:literal, { $($own:tt)* }) => {
        // SAFETY: the only constructor is a `#[target_feature]` function, so a value exists only where the features do.
        unsafe impl Simd for $Token {
            type F32 = Floats;
            type I32 = Ints;
            type Bytes = Ints;
            const DOT_U8_MAX: u8 = $dot_u8_max;
            $($own)*

            ops! {
                fn splat(x: f32) -> Floats { (_mm256_set1_ps(x), _mm256_set1_ps(x)) }
                unsafe fn load(p: *const f32) -> Floats { (_mm256_loadu_ps(p), _mm256_loadu_ps(p.add(8))) }
                unsafe fn store(p: *mut f32, v: Floats) -> () {
                    _mm256_storeu_ps(p, v.0);
                    _mm256_storeu_ps(p.add(8), v.1)
                }
                unsafe fn load_f16(p: *const u16) -> Floats {
                    (_mm256_cvtph_ps(_mm_loadu_si128(p.cast())), _mm256_cvtph_ps(_mm_loadu_si128(p.add(8).cast())))
                }
                fn widen_f16(cells: Ints) -> Floats {
                    let half = |cells: __m256i| {
                        let lower = _mm256_setr_epi32(0x0504_0100, 0x0d0c_0908, -1, -1, 0x0504_0100, 0x0d0c_0908, -1, -1);
                        let packed = _mm256_permute4x64_epi64::<0b10_00>(_mm256_shuffle_epi8(cells, lower));
                        _mm256_cvtph_ps(_mm256_castsi256_si128(packed))
                    };
                    (half(cells.0), half(cells.1))
                }
                unsafe fn store_f16(p: *mut u16, v: Floats) -> () {
                    _mm_storeu_si128(p.cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v.0));
                    _mm_storeu_si128(p.add(8).cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v.1))
                }
                unsafe fn load_bf16(p: *const u16) -> Floats {
                    let half = |p: *const u16| {
                        let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast()));
                        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
                    };
                    (half(p), half(p.add(8)))
                }
                unsafe fn spread2(p: *const f32) -> Floats { (_mm256_broadcast_ss(&*p), _mm256_broadcast_ss(&*p.add(1))) }
                unsafe fn spread4(p: *const f32) -> Floats {
                    let pair = |p: *const f32| {
                        _mm256_blend_ps::<0xf0>(_mm256_broadcast_ss(&*p), _mm256_broadcast_ss(&*p.add(1)))
                    };
                    (pair(p), pair(p.add(2)))
                }
                unsafe fn spread_half_pair(p: *const u8) -> Floats {
                    let half = |p: *const u8| _mm256_cvtph_ps(_mm_set1_epi16(p.cast::<i16>().read_unaligned()));
                    (half(p), half(p.add(2)))
                }
                unsafe fn gather_halves<const STRIDE: usize, const PAIRS: bool>(p: *const u8) -> Floats {
                    let gather = |p: *const u8| {
                        let half = |i: usize| p.add(i * STRIDE).cast::<i16>().read_unaligned();
                        _mm256_cvtph_ps(_mm_setr_epi16(
                            half(0), half(1), half(2), half(3), half(4), half(5), half(6), half(7),
                        ))
                    };
                    (gather(p), if PAIRS { gather(p.add(2)) } else { _mm256_setzero_ps() })
                }
                fn add(a: Floats, b: Floats) -> Floats { (_mm256_add_ps(a.0, b.0), _mm256_add_ps(a.1, b.1)) }
                fn sub(a: Floats, b: Floats) -> Floats { (_mm256_sub_ps(a.0, b.0), _mm256_sub_ps(a.1, b.1)) }
                fn mul(a: Floats, b: Floats) -> Floats { (_mm256_mul_ps(a.0, b.0), _mm256_mul_ps(a.1, b.1)) }
                fn div(a: Floats, b: Floats) -> Floats { (_mm256_div_ps(a.0, b.0), _mm256_div_ps(a.1, b.1)) }
                fn mul_add(a: Floats, b: Floats, c: Floats) -> Floats {
                    (_mm256_fmadd_ps(a.0, b.0, c.0), _mm256_fmadd_ps(a.1, b.1, c.1))
                }
                fn max(a: Floats, b: Floats) -> Floats { (_mm256_max_ps(a.0, b.0), _mm256_max_ps(a.1, b.1)) }
                fn min(a: Floats, b: Floats) -> Floats { (_mm256_min_ps(a.0, b.0), _mm256_min_ps(a.1, b.1)) }
                fn select_lt(a: Floats, b: Floats, x: Floats, y: Floats) -> Floats {
                    (
                        _mm256_blendv_ps(y.0, x.0, _mm256_cmp_ps::<_CMP_LT_OQ>(a.0, b.0)),
                        _mm256_blendv_ps(y.1, x.1, _mm256_cmp_ps::<_CMP_LT_OQ>(a.1, b.1)),
                    )
                }
                fn sum(v: Floats) -> f32 { sum8(_mm256_add_ps(v.0, v.1)) }
                fn max_lane(v: Floats) -> f32 { max8(_mm256_max_ps(v.0, v.1)) }
                fn pow2(n: Floats) -> Floats { (pow2_8(n.0), pow2_8(n.1)) }
                fn low_bits_to_exponent(v: Floats) -> Floats {
                    let shifted = |v| _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_castps_si256(v)));
                    (shifted(v.0), shifted(v.1))
                }
                fn to_i32(v: Floats) -> Ints { (_mm256_cvtps_epi32(v.0), _mm256_cvtps_epi32(v.1)) }
                fn from_i32(v: Ints) -> Floats { (_mm256_cvtepi32_ps(v.0), _mm256_cvtepi32_ps(v.1)) }
                fn splat_i32(x: i32) -> Ints { (_mm256_set1_epi32(x), _mm256_set1_epi32(x)) }
                fn add_i32(a: Ints, b: Ints) -> Ints { (_mm256_add_epi32(a.0, b.0), _mm256_add_epi32(a.1, b.1)) }
                fn sub_i32(a: Ints, b: Ints) -> Ints { (_mm256_sub_epi32(a.0, b.0), _mm256_sub_epi32(a.1, b.1)) }
                fn shl_i32<const N: i32>(a: Ints) -> Ints { (_mm256_slli_epi32::<N>(a.0), _mm256_slli_epi32::<N>(a.1)) }
                fn sum_i32(v: Ints) -> i32 {
                    let v = _mm256_add_epi32(v.0, v.1);
                    let v = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256::<1>(v));
                    let v = _mm_add_epi32(v, _mm_shuffle_epi32::<0b01_00_11_10>(v));
                    _mm_cvtsi128_si32(_mm_add_epi32(v, _mm_shuffle_epi32::<0b10_11_00_01>(v)))
                }
                unsafe fn load_i32(p: *const i32) -> Ints {
                    (_mm256_loadu_si256(p.cast()), _mm256_loadu_si256(p.add(8).cast()))
                }
                unsafe fn store_i32(p: *mut i32, v: Ints) -> () {
                    _mm256_storeu_si256(p.cast(), v.0);
                    _mm256_storeu_si256(p.add(8).cast(), v.1);
                }
                unsafe fn load_u8(p: *const u8) -> Ints {
                    (
                        _mm256_cvtepu8_epi32(_mm_loadl_epi64(p.cast())),
                        _mm256_cvtepu8_epi32(_mm_loadl_epi64(p.add(8).cast())),
                    )
                }
                unsafe fn load_i8(p: *const i8) -> Ints {
                    (
                        _mm256_cvtepi8_epi32(_mm_loadl_epi64(p.cast())),
                        _mm256_cvtepi8_epi32(_mm_loadl_epi64(p.add(8).cast())),
                    )
                }
                unsafe fn store_i8(p: *mut i8, v: Ints) -> () {
                    // Packing works inside 128-bit lanes: [0..4 | 8..12 | 4..8 | 12..16] comes out, dwords 0 2 1 3 put it right.
                    let words = _mm256_packs_epi32(v.0, v.1);
                    let bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
                    _mm_storeu_si128(p.cast(), _mm_shuffle_epi32::<0b11_01_10_00>(bytes))
                }
                fn narrow_i8(v: [Ints; 4]) -> Ints { (narrow_i8_32(v[0], v[1]), narrow_i8_32(v[2], v[3])) }
                unsafe fn load_bytes(p: *const u8) -> Ints {
                    (_mm256_loadu_si256(p.cast()), _mm256_loadu_si256(p.add(32).cast()))
                }
                unsafe fn store_bytes(p: *mut u8, v: Ints) -> () {
                    _mm256_storeu_si256(p.cast(), v.0);
                    _mm256_storeu_si256(p.add(32).cast(), v.1)
                }
                unsafe fn load_quarters(p: [*const u8; 4]) -> Ints {
                    (
                        _mm256_loadu2_m128i(p[1].cast(), p[0].cast()),
                        _mm256_loadu2_m128i(p[3].cast(), p[2].cast()),
                    )
                }
                fn splat_cell(x: u32) -> Ints { (_mm256_set1_epi32(x.cast_signed()), _mm256_set1_epi32(x.cast_signed())) }
                fn and(a: Ints, b: Ints) -> Ints { (_mm256_and_si256(a.0, b.0), _mm256_and_si256(a.1, b.1)) }
                fn or(a: Ints, b: Ints) -> Ints { (_mm256_or_si256(a.0, b.0), _mm256_or_si256(a.1, b.1)) }
                fn xor(a: Ints, b: Ints) -> Ints { (_mm256_xor_si256(a.0, b.0), _mm256_xor_si256(a.1, b.1)) }
                fn shift_quarters(v: Ints, n: [i32; 4]) -> Ints {
                    let counts = |lo: i32, hi: i32| _mm256_setr_epi32(lo, lo, lo, lo, hi, hi, hi, hi);
                    let [r, l] = super::shift_counts(n);
                    (
                        _mm256_sllv_epi32(_mm256_srlv_epi32(v.0, counts(r[0], r[1])), counts(l[0], l[1])),
                        _mm256_sllv_epi32(_mm256_srlv_epi32(v.1, counts(r[2], r[3])), counts(l[2], l[3])),
                    )
                }
                fn deal_quarters(a: Ints, b: Ints) -> [Ints; 2] {
                    let even = |v: Ints| _mm256_permute2x128_si256::<0x20>(v.0, v.1);
                    let odd = |v: Ints| _mm256_permute2x128_si256::<0x31>(v.0, v.1);
                    [(even(a), even(b)), (odd(a), odd(b))]
                }
                fn zip_quarters(a: Ints, b: Ints) -> [Ints; 2] {
                    let even = |a, b| _mm256_permute2x128_si256::<0x20>(a, b);
                    let odd = |a, b| _mm256_permute2x128_si256::<0x31>(a, b);
                    [(even(a.0, b.0), even(a.1, b.1)), (odd(a.0, b.0), odd(a.1, b.1))]
                }
                fn expand_bits(bits: u64, value: u8) -> Ints {
                    (expand_bits_32(bits as u32, value), expand_bits_32((bits >> 32) as u32, value))
                }
                fn lookup16(table: [u8; 16], index: Ints) -> Ints {
                    let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()));
                    (_mm256_shuffle_epi8(table, index.0), _mm256_shuffle_epi8(table, index.1))
                }
                fn dot_u8i8(acc: Ints, w: Ints, a: Ints) -> Ints {
                    ($Token::dot_u8i8(acc.0, w.0, a.0), $Token::dot_u8i8(acc.1, w.1, a.1))
                }
                fn dot_i8i8(acc: Ints, w: Ints, a: Ints) -> Ints {
                    ($Token::dot_i8i8(acc.0, w.0, a.0), $Token::dot_i8i8(acc.1, w.1, a.1))
                }
                fn dot_i16(acc: Ints, w: Ints, a: Ints) -> Ints {
                    (
                        _mm256_add_epi32(acc.0, _mm256_madd_epi16(w.0, a.0)),
                        _mm256_add_epi32(acc.1, _mm256_madd_epi16(w.1, a.1)),
                    )
                }
                fn dot_bf16(acc: Floats, w: Ints, a: Ints) -> Floats {
                    (dot_bf16_8(acc.0, w.0, a.0), dot_bf16_8(acc.1, w.1, a.1))
                }
                fn narrow_bf16(lo: Floats, hi: Floats) -> Ints { (narrow_bf16_16(lo), narrow_bf16_16(hi)) }
                fn interleave_halves(v: Ints) -> Ints {
                    // Unpacking works inside 128-bit lanes.
                    let (lo, hi) = (_mm256_unpacklo_epi16(v.0, v.1), _mm256_unpackhi_epi16(v.0, v.1));
                    (_mm256_permute2x128_si256::<0x20>(lo, hi), _mm256_permute2x128_si256::<0x31>(lo, hi))
                }
                fn transpose_4x4(r: [Ints; 4]) -> [Ints; 4] {
                    let lo = transpose_4x4([r[0].0, r[1].0, r[2].0, r[3].0]);
                    let hi = transpose_4x4([r[0].1, r[1].1, r[2].1, r[3].1]);
                    [(lo[0], hi[0]), (lo[1], hi[1]), (lo[2], hi[2]), (lo[3], hi[3])]
                }
                fn prefetch(p: *const u8) -> () { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
                fn prefetch_far(p: *const u8) -> () { _mm_prefetch::<_MM_HINT_T1>(p.cast()) }
            }
        }
    };
}

avx2_token!(Avx2, 127, {
    const PAIR_MAX: u32 = i16::MAX as u32;
    const SPLITS_I8: bool = true;

    ops! {
        fn begin_pairs(_acc: Ints) -> Ints { (_mm256_setzero_si256(), _mm256_setzero_si256()) }
        fn add_pairs(sum: Ints, w: Ints, a: Ints) -> Ints {
            (
                _mm256_add_epi16(sum.0, _mm256_maddubs_epi16(w.0, a.0)),
                _mm256_add_epi16(sum.1, _mm256_maddubs_epi16(w.1, a.1)),
            )
        }
        fn end_pairs(acc: Ints, sum: Ints) -> Ints { (add_widened::<0>(acc.0, sum.0), add_widened::<0>(acc.1, sum.1)) }
        fn end_pairs_shifted<const N: i32>(acc: Ints, sum: Ints) -> Ints {
            (add_widened::<N>(acc.0, sum.0), add_widened::<N>(acc.1, sum.1))
        }
        fn spread_lanes<const FIRST: usize, const STEP: usize>(v: Floats) -> Floats {
            let half = if FIRST < 8 { v.0 } else { v.1 };
            let low = _mm256_permute2f128_ps::<0x00>(half, half);
            let high = _mm256_permute2f128_ps::<0x11>(half, half);
            // Four lanes in a row lie in one 128-bit half, every other lane in both.
            let first = if STEP == 1 && FIRST % 8 >= 4 { high } else { low };
            let second = if STEP == 1 && FIRST % 8 < 4 { low } else { high };
            let orders = const { &Spread::<FIRST, STEP>::LANES };
            (spread_pair(first, &orders[0]), spread_pair(second, &orders[1]))
        }
        fn split_i8(w: Ints) -> [Ints; 2] {
            let zero = _mm256_setzero_si256();
            let negative = (_mm256_cmpgt_epi8(zero, w.0), _mm256_cmpgt_epi8(zero, w.1));
            [(_mm256_abs_epi8(w.0), _mm256_abs_epi8(w.1)), negative]
        }
        fn dot_split(acc: Ints, w: [Ints; 2], a: Ints) -> Ints {
            // |w| <= 128 and a ^ n >= -128, so a pair sum is at least -2^15; a ^ n <= 127, so it is below 2^15.
            (
                Avx2::dot_u8i8(acc.0, w[0].0, _mm256_xor_si256(a.0, w[1].0)),
                Avx2::dot_u8i8(acc.1, w[0].1, _mm256_xor_si256(a.1, w[1].1)),
            )
        }
        fn add_negative(acc: Ints, w: [Ints; 2]) -> Ints {
            let one = _mm256_set1_epi8(1);
            (
                Avx2::dot_u8i8(acc.0, w[0].0, _mm256_and_si256(w[1].0, one)),
                Avx2::dot_u8i8(acc.1, w[0].1, _mm256_and_si256(w[1].1, one)),
            )
        }
    }
});
avx2_token!(Avx2Vnni, 255, {
    ops! {
        fn spread_lanes<const FIRST: usize, const STEP: usize>(v: Floats) -> Floats {
            let half = if FIRST < 8 { v.0 } else { v.1 };
            let spread = |i: usize| {
                let (a, b) = ((FIRST % 8 + i * STEP) as i32, (FIRST % 8 + (i + 1) * STEP) as i32);
                _mm256_permutevar8x32_ps(half, _mm256_setr_epi32(a, a, a, a, b, b, b, b))
            };
            (spread(0), spread(2))
        }
    }
});
