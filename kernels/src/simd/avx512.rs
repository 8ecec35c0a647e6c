//! AVX-512: one zmm register per vector.
//!
//! | operation | instruction | latency | per cycle (Zen 5 / Zen 4) | note |
//! |---|---|---|---|---|
//! | `mul_add` | vfmadd231ps zmm | 4 | 2 / 1 | |
//! | `dot_u8i8` | vpdpbusd zmm | 4 | 2 / 1 | VNNI; else vpmaddubsw + vpmaddwd + vpaddd |
//! | `dot_bf16` | vdpbf16ps zmm | 6 | 2 / 1 | flushes denormals, ignores MXCSR |
//! | `splat_cell` of memory | vpbroadcastd zmm, m32 | load | 2 | no ALU slot |
//! | `load_f16` | vcvtph2ps | 5 | 1 | |
//! | `shift_quarters` | vpsrlvd / vpsllvd | 1-2 | 2 / 1 | constant counts fold |

use super::Simd;
use core::arch::x86_64::*;

/// AVX-512 F, BW, DQ, VL.
#[derive(Clone, Copy)]
pub(crate) struct Avx512(());
/// With VNNI.
#[derive(Clone, Copy)]
pub(crate) struct Avx512Vnni(());
/// With VNNI, BF16 and VBMI.
#[derive(Clone, Copy)]
pub(crate) struct Avx512Bf16(());

/// Transposes the 4 x 4 cells in each quarter.
///
/// # Safety
/// The CPU must have AVX-512 F.
#[inline(always)]
unsafe fn transpose_4x4(r: [__m512i; 4]) -> [__m512i; 4] {
    // SAFETY: the caller's promise.
    unsafe {
        let lo = [_mm512_unpacklo_epi32(r[0], r[1]), _mm512_unpacklo_epi32(r[2], r[3])];
        let hi = [_mm512_unpackhi_epi32(r[0], r[1]), _mm512_unpackhi_epi32(r[2], r[3])];
        [
            _mm512_unpacklo_epi64(lo[0], lo[1]),
            _mm512_unpackhi_epi64(lo[0], lo[1]),
            _mm512_unpacklo_epi64(hi[0], hi[1]),
            _mm512_unpackhi_epi64(hi[0], hi[1]),
        ]
    }
}

/// Where the heads of eight blocks (their first two words each) lie in two vectors of words: entry i for the first word of
/// block i, entry 8 + i for the second.
struct HeadWords<const STRIDE: usize>;

impl<const STRIDE: usize> HeadWords<STRIDE> {
    /// Whether the heads of four blocks lie in one vector. If so, the vectors begin at blocks 0 and 4; if not, each four
    /// blocks have two, the second [`SECOND`](Self::SECOND) bytes behind the first, and the same entries.
    const FOUR_FIT: bool = 3 * STRIDE + 4 <= 64;
    /// At block 2, or earlier where the vector would reach beyond block 3.
    const SECOND: usize = if 2 * STRIDE + 64 <= 4 * STRIDE { 2 * STRIDE } else { 4 * STRIDE - 64 };

    const INDEX: [u16; 32] = {
        let mut index = [0; 32];
        let mut lane = 0;
        while lane < 16 {
            let byte = lane % 4 * STRIDE + lane / 8 * 2;
            let second_vector = if Self::FOUR_FIT { lane % 8 >= 4 } else { byte + 2 > 64 };
            let byte = if second_vector && !Self::FOUR_FIT { byte - Self::SECOND } else { byte };
            assert!(byte + 2 <= 64);
            index[lane] = (byte / 2 + if second_vector { 32 } else { 0 }) as u16;
            lane += 1;
        }
        index
    };
}

impl Avx512 {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    pub(crate) fn new() -> Self {
        Self(())
    }

    /// Exact for `w <= 127`: a pair sum is at most 2 * 127 * 128 = 32512.
    #[inline(always)]
    fn dot_u8i8(acc: __m512i, w: __m512i, a: __m512i) -> __m512i {
        // SAFETY: only called by a token's operation, so the CPU has AVX-512 BW.
        unsafe {
            let pairs = _mm512_maddubs_epi16(w, a);
            _mm512_add_epi32(acc, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)))
        }
    }

    /// |w| <= 128 and |a| <= 127, so a pair sum of |w| (sign(w) a) is at most 2 * 128 * 127 = 32512.
    #[inline(always)]
    fn dot_i8i8(acc: __m512i, w: __m512i, a: __m512i) -> __m512i {
        // SAFETY: only called by a token's operation, so the CPU has AVX-512 BW.
        unsafe {
            let signed_a = _mm512_mask_sub_epi8(a, _mm512_movepi8_mask(w), _mm512_setzero_si512(), a);
            Self::dot_u8i8(acc, _mm512_abs_epi8(w), signed_a)
        }
    }

    #[inline(always)]
    fn narrow_bf16(lo: __m512, hi: __m512) -> __m512i {
        // SAFETY: only called by a token's operation, so the CPU has AVX-512 F and DQ.
        unsafe {
            let lo = _mm512_castsi256_si512(narrow_bf16_16(lo));
            _mm512_inserti64x4::<1>(lo, narrow_bf16_16(hi))
        }
    }

    /// Widened: bf16 is the upper half of an f32.
    #[inline(always)]
    fn dot_bf16(acc: __m512, w: __m512i, a: __m512i) -> __m512 {
        // SAFETY: only called by a token's operation, so the CPU has AVX-512 F.
        unsafe {
            let upper = _mm512_set1_epi32(0xffff_0000_u32 as i32);
            let even = |x| _mm512_castsi512_ps(_mm512_slli_epi32::<16>(x));
            let odd = |x| _mm512_castsi512_ps(_mm512_and_si512(x, upper));
            _mm512_fmadd_ps(odd(w), odd(a), _mm512_fmadd_ps(even(w), even(a), acc))
        }
    }
}

/// Sixteen bf16 to nearest even: half of the last place is added, and one more where the kept part is odd; a NaN keeps
/// its upper half, made quiet.
///
/// # Safety
/// The CPU must have AVX-512 F.
#[inline(always)]
unsafe fn narrow_bf16_16(x: __m512) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe {
        let bits = _mm512_castps_si512(x);
        let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
        let rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
        let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x, x);
        let rounded = _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x0040_0000));
        _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(rounded))
    }
}

/// 0, 16, 1, 17, ..
static IN_TURN: [u16; 32] = {
    let mut index = [0; 32];
    let mut i = 0;
    while i < 16 {
        index[2 * i] = i as u16;
        index[2 * i + 1] = i as u16 + 16;
        i += 1;
    }
    index
};

impl Avx512Vnni {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    pub(crate) fn new() -> Self {
        Self(())
    }

    #[inline(always)]
    fn dot_u8i8(acc: __m512i, w: __m512i, a: __m512i) -> __m512i {
        // SAFETY: only called by a token's operation, so the CPU has VNNI.
        unsafe { _mm512_dpbusd_epi32(acc, w, a) }
    }

    /// `w a = (w + 128) a - 128 a`, both terms exact in i32.
    #[inline(always)]
    fn dot_i8i8(acc: __m512i, w: __m512i, a: __m512i) -> __m512i {
        // SAFETY: only called by a token's operation, so the CPU has VNNI.
        unsafe {
            let bias = _mm512_set1_epi8(-128);
            let shifted = _mm512_dpbusd_epi32(acc, _mm512_xor_si512(w, bias), a);
            _mm512_sub_epi32(shifted, _mm512_dpbusd_epi32(_mm512_setzero_si512(), bias, a))
        }
    }

    #[inline(always)]
    fn dot_bf16(acc: __m512, w: __m512i, a: __m512i) -> __m512 {
        Avx512::dot_bf16(acc, w, a)
    }

    #[inline(always)]
    fn narrow_bf16(lo: __m512, hi: __m512) -> __m512i {
        Avx512::narrow_bf16(lo, hi)
    }
}

impl Avx512Bf16 {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,avx512vbmi")]
    pub(crate) fn new() -> Self {
        Self(())
    }

    #[inline(always)]
    fn dot_u8i8(acc: __m512i, w: __m512i, a: __m512i) -> __m512i {
        Avx512Vnni::dot_u8i8(acc, w, a)
    }

    #[inline(always)]
    fn dot_i8i8(acc: __m512i, w: __m512i, a: __m512i) -> __m512i {
        Avx512Vnni::dot_i8i8(acc, w, a)
    }

    #[inline(always)]
    fn dot_bf16(acc: __m512, w: __m512i, a: __m512i) -> __m512 {
        // SAFETY: only called by a token's operation, so the CPU has BF16; both vector types are 64 plain bytes.
        unsafe {
            _mm512_dpbf16_ps(
                acc,
                core::mem::transmute::<__m512i, __m512bh>(w),
                core::mem::transmute::<__m512i, __m512bh>(a),
            )
        }
    }
}

impl Avx512Bf16 {
    #[inline(always)]
    fn narrow_bf16(lo: __m512, hi: __m512) -> __m512i {
        // SAFETY: only called by a token's operation, so the CPU has BF16; both vector types are 64 plain bytes.
        unsafe { core::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(hi, lo)) }
    }
}

/// The operations that all three levels share; the dot products come from the token's own functions.
macro_rules! avx512_token {
    ($Token:ident, $dot_u8_max:literal, bf16: $has_bf16:literal) => {
        // SAFETY: the only constructor is a `#[target_feature]` function, so a value exists only where the features do.
        unsafe impl Simd for $Token {
            type F32 = __m512;
            type I32 = __m512i;
            type Bytes = __m512i;
            const REGISTERS: usize = 32;
            const HAS_BF16: bool = $has_bf16;
            const DOT_U8_MAX: u8 = $dot_u8_max;

            ops! {
                fn splat(x: f32) -> __m512 { _mm512_set1_ps(x) }
                unsafe fn load(p: *const f32) -> __m512 { _mm512_loadu_ps(p) }
                unsafe fn store(p: *mut f32, v: __m512) -> () { _mm512_storeu_ps(p, v) }
                unsafe fn load_f16(p: *const u16) -> __m512 { _mm512_cvtph_ps(_mm256_loadu_si256(p.cast())) }
                fn widen_f16(cells: __m512i) -> __m512 { _mm512_cvtph_ps(_mm512_cvtepi32_epi16(cells)) }
                unsafe fn store_f16(p: *mut u16, v: __m512) -> () {
                    _mm256_storeu_si256(p.cast(), _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v))
                }
                unsafe fn load_bf16(p: *const u16) -> __m512 {
                    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast()))))
                }
                unsafe fn spread2(p: *const f32) -> __m512 {
                    let pair = _mm512_castpd_ps(_mm512_set1_pd(p.cast::<f64>().read_unaligned()));
                    let index = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
                    _mm512_permutexvar_ps(index, pair)
                }
                unsafe fn spread4(p: *const f32) -> __m512 {
                    let four = _mm512_broadcast_f32x4(_mm_loadu_ps(p));
                    let index = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
                    _mm512_permutexvar_ps(index, four)
                }
                fn spread_lanes<const FIRST: usize, const STEP: usize>(v: __m512) -> __m512 {
                    let (first, step) = (FIRST as i32, STEP as i32);
                    let (a, b, c, d) = (first, first + step, first + 2 * step, first + 3 * step);
                    _mm512_permutexvar_ps(_mm512_setr_epi32(a, a, a, a, b, b, b, b, c, c, c, c, d, d, d, d), v)
                }
                unsafe fn spread_half_pair(p: *const u8) -> __m512 {
                    let pairs = _mm256_set1_epi32(p.cast::<i32>().read_unaligned());
                    let first_then_second = _mm256_setr_epi32(
                        0x0100_0100, 0x0100_0100, 0x0100_0100, 0x0100_0100,
                        0x0302_0302, 0x0302_0302, 0x0302_0302, 0x0302_0302,
                    );
                    _mm512_cvtph_ps(_mm256_shuffle_epi8(pairs, first_then_second))
                }
                unsafe fn gather_halves<const STRIDE: usize, const PAIRS: bool>(p: *const u8) -> __m512 {
                    let wanted: u32 = if PAIRS { 0xffff } else { 0x00ff };
                    let load = |at: usize| _mm512_loadu_si512(p.add(at).cast());
                    let index = _mm512_loadu_si512(HeadWords::<STRIDE>::INDEX.as_ptr().cast());
                    let halves = if HeadWords::<STRIDE>::FOUR_FIT {
                        _mm512_maskz_permutex2var_epi16(wanted, load(0), index, load(4 * STRIDE))
                    } else {
                        let second_at = HeadWords::<STRIDE>::SECOND;
                        let first = (load(0), load(second_at));
                        let second = (load(4 * STRIDE), load(4 * STRIDE + second_at));
                        let low = _mm512_maskz_permutex2var_epi16(wanted & 0x0f0f, first.0, index, first.1);
                        let high = _mm512_maskz_permutex2var_epi16(wanted & 0xf0f0, second.0, index, second.1);
                        _mm512_or_si512(low, high)
                    };
                    _mm512_cvtph_ps(_mm512_castsi512_si256(halves))
                }
                fn add(a: __m512, b: __m512) -> __m512 { _mm512_add_ps(a, b) }
                fn sub(a: __m512, b: __m512) -> __m512 { _mm512_sub_ps(a, b) }
                fn mul(a: __m512, b: __m512) -> __m512 { _mm512_mul_ps(a, b) }
                fn div(a: __m512, b: __m512) -> __m512 { _mm512_div_ps(a, b) }
                fn mul_add(a: __m512, b: __m512, c: __m512) -> __m512 { _mm512_fmadd_ps(a, b, c) }
                fn max(a: __m512, b: __m512) -> __m512 { _mm512_max_ps(a, b) }
                fn min(a: __m512, b: __m512) -> __m512 { _mm512_min_ps(a, b) }
                fn select_lt(a: __m512, b: __m512, x: __m512, y: __m512) -> __m512 {
                    _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b), y, x)
                }
                fn sum(v: __m512) -> f32 {
                    let v = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps::<1>(v));
                    super::avx2::sum8(v)
                }
                fn max_lane(v: __m512) -> f32 {
                    let v = _mm256_max_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps::<1>(v));
                    super::avx2::max8(v)
                }
                fn pow2(n: __m512) -> __m512 {
                    let exponent = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
                    _mm512_castsi512_ps(_mm512_slli_epi32::<23>(exponent))
                }
                fn scale(x: __m512, n: __m512) -> __m512 { _mm512_scalef_ps(x, n) }
                fn low_bits_to_exponent(v: __m512) -> __m512 {
                    _mm512_castsi512_ps(_mm512_slli_epi32::<23>(_mm512_castps_si512(v)))
                }
                fn to_i32(v: __m512) -> __m512i { _mm512_cvtps_epi32(v) }
                fn from_i32(v: __m512i) -> __m512 { _mm512_cvtepi32_ps(v) }
                fn splat_i32(x: i32) -> __m512i { _mm512_set1_epi32(x) }
                fn add_i32(a: __m512i, b: __m512i) -> __m512i { _mm512_add_epi32(a, b) }
                fn sub_i32(a: __m512i, b: __m512i) -> __m512i { _mm512_sub_epi32(a, b) }
                fn shl_i32<const N: i32>(a: __m512i) -> __m512i { _mm512_sll_epi32(a, _mm_cvtsi32_si128(N)) }
                fn sum_i32(v: __m512i) -> i32 { _mm512_reduce_add_epi32(v) }
                unsafe fn load_i32(p: *const i32) -> __m512i { _mm512_loadu_si512(p.cast()) }
                unsafe fn store_i32(p: *mut i32, v: __m512i) -> () { _mm512_storeu_si512(p.cast(), v) }
                unsafe fn load_u8(p: *const u8) -> __m512i { _mm512_cvtepu8_epi32(_mm_loadu_si128(p.cast())) }
                unsafe fn load_i8(p: *const i8) -> __m512i { _mm512_cvtepi8_epi32(_mm_loadu_si128(p.cast())) }
                unsafe fn store_i8(p: *mut i8, v: __m512i) -> () { _mm_storeu_si128(p.cast(), _mm512_cvtsepi32_epi8(v)) }
                fn narrow_i8(v: [__m512i; 4]) -> __m512i {
                    // Packing works inside quarters: each comes out with four bytes of every vector.
                    let (a, b) = (_mm512_packs_epi32(v[0], v[1]), _mm512_packs_epi32(v[2], v[3]));
                    let index = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
                    _mm512_permutexvar_epi32(index, _mm512_packs_epi16(a, b))
                }
                unsafe fn load_bytes(p: *const u8) -> __m512i { _mm512_loadu_si512(p.cast()) }
                unsafe fn store_bytes(p: *mut u8, v: __m512i) -> () { _mm512_storeu_si512(p.cast(), v) }
                unsafe fn load_quarters(p: [*const u8; 4]) -> __m512i {
                    let quarter = |i: usize| _mm_loadu_si128(p[i].cast());
                    let v = _mm512_castsi128_si512(quarter(0));
                    let v = _mm512_mask_broadcast_i32x4(v, 0x00f0, quarter(1));
                    let v = _mm512_mask_broadcast_i32x4(v, 0x0f00, quarter(2));
                    _mm512_mask_broadcast_i32x4(v, 0xf000, quarter(3))
                }
                fn splat_cell(x: u32) -> __m512i { _mm512_set1_epi32(x.cast_signed()) }
                fn and(a: __m512i, b: __m512i) -> __m512i { _mm512_and_si512(a, b) }
                fn or(a: __m512i, b: __m512i) -> __m512i { _mm512_or_si512(a, b) }
                fn xor(a: __m512i, b: __m512i) -> __m512i { _mm512_xor_si512(a, b) }
                fn shift_quarters(v: __m512i, n: [i32; 4]) -> __m512i {
                    let counts = |n: [i32; 4]| {
                        _mm512_setr_epi32(
                            n[0], n[0], n[0], n[0], n[1], n[1], n[1], n[1], n[2], n[2], n[2], n[2], n[3], n[3], n[3], n[3],
                        )
                    };
                    let [right, left] = super::shift_counts(n);
                    _mm512_sllv_epi32(_mm512_srlv_epi32(v, counts(right)), counts(left))
                }
                fn deal_quarters(a: __m512i, b: __m512i) -> [__m512i; 2] {
                    [_mm512_shuffle_i64x2::<0b10_00_10_00>(a, b), _mm512_shuffle_i64x2::<0b11_01_11_01>(a, b)]
                }
                fn zip_quarters(a: __m512i, b: __m512i) -> [__m512i; 2] {
                    let even = _mm512_setr_epi64(0, 1, 8, 9, 4, 5, 12, 13);
                    let odd = _mm512_setr_epi64(2, 3, 10, 11, 6, 7, 14, 15);
                    [_mm512_permutex2var_epi64(a, even, b), _mm512_permutex2var_epi64(a, odd, b)]
                }
                fn expand_bits(bits: u64, value: u8) -> __m512i {
                    _mm512_maskz_set1_epi8(bits, value.cast_signed())
                }
                fn lookup16(table: [u8; 16], index: __m512i) -> __m512i {
                    let table = _mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast()));
                    _mm512_shuffle_epi8(table, index)
                }
                fn dot_u8i8(acc: __m512i, w: __m512i, a: __m512i) -> __m512i { $Token::dot_u8i8(acc, w, a) }
                fn dot_i8i8(acc: __m512i, w: __m512i, a: __m512i) -> __m512i { $Token::dot_i8i8(acc, w, a) }
                fn dot_i16(acc: __m512i, w: __m512i, a: __m512i) -> __m512i {
                    _mm512_add_epi32(acc, _mm512_madd_epi16(w, a))
                }
                fn dot_bf16(acc: __m512, w: __m512i, a: __m512i) -> __m512 { $Token::dot_bf16(acc, w, a) }
                fn narrow_bf16(lo: __m512, hi: __m512) -> __m512i { $Token::narrow_bf16(lo, hi) }
                fn interleave_halves(v: __m512i) -> __m512i {
                    _mm512_permutexvar_epi16(_mm512_loadu_si512(IN_TURN.as_ptr().cast()), v)
                }
                fn transpose_4x4(r: [__m512i; 4]) -> [__m512i; 4] { transpose_4x4(r) }
                fn prefetch(p: *const u8) -> () { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
                fn prefetch_far(p: *const u8) -> () { _mm_prefetch::<_MM_HINT_T1>(p.cast()) }
            }
        }
    };
}

avx512_token!(Avx512, 127, bf16: false);
avx512_token!(Avx512Vnni, 255, bf16: false);
avx512_token!(Avx512Bf16, 255, bf16: true);
