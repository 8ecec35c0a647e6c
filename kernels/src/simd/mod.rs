//! The vocabulary: what a kernel may ask of a CPU.
//!
//! Every algorithm of this crate is written once, as an `#[inline(always)]` leaf generic over [`Simd`], and
//! stamped out per instruction set by `table.rs`. A *token* (`Avx2`, `Avx512`, ...) is a zero-sized value whose
//! constructor is a safe `#[target_feature]` function: holding one proves that the CPU has the features, so the
//! operations below need no further check.
//!
//! # One width everywhere
//!
//! A vector is **16 lanes of 32 bits on every instruction set**: one zmm, two ymm, four NEON q registers, two
//! `wide::f32x8`. Leaves never ask for a lane count, tails look the same everywhere, and sums are taken in the
//! same order, so two instruction sets that both fuse multiply-add give the same bits. What differs per machine
//! is only how many such vectors fit into the register file, which is why tiles carry `MR x NV` in the table.
//!
//! ```text
//! F32    [ f32 x 16 ]
//! I32    [ i32 x 16 ]
//! Bytes  [ u8  x 64 ]  = 16 cells of 4 bytes = 4 quarters of 16 bytes
//! ```
//!
//! A *cell* is what one lane of a dot product eats: four 8-bit values or two bf16. `dot_*` multiplies 16 cells of
//! weights with 16 cells of activations and adds each cell's sum to its own 32-bit lane.
//!
//! An operation enters this trait when two leaves need it, or when one leaf cannot be fast without it.

#![allow(unsafe_code)]

/// Wraps each operation's expression in the one `unsafe` block that the token justifies. (A few consist of the token's own
/// safe functions and would not need it.)
macro_rules! ops {
    ($(fn $f:ident$(<$(const $N:ident: $T:ty),+>)?($($a:ident: $t:ty),*) -> $r:ty { $($body:tt)* } $($rest:tt)*)?) => { $(
        #[inline(always)]
        #[allow(unused_unsafe)]
        fn $f$(<$(const $N: $T),+>)?(self, $($a: $t),*) -> $r {
            // SAFETY: `self` proves the features these instructions need.
            unsafe { $($body)* }
        }
        ops! { $($rest)* }
    )? };
    (unsafe fn $f:ident$(<$(const $N:ident: $T:ty),+>)?($($a:ident: $t:ty),*) -> $r:ty { $($body:tt)* } $($rest:tt)*) => {
        #[inline(always)]
        unsafe fn $f$(<$(const $N: $T),+>)?(self, $($a: $t),*) -> $r {
            // SAFETY: `self` proves the features; the caller promised the memory that the trait asks for.
            unsafe { $($body)* }
        }
        ops! { $($rest)* }
    };
}

mod portable;
pub(crate) use portable::Portable;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
pub(crate) use {
    avx2::{Avx2, Avx2Vnni},
    avx512::{Avx512, Avx512Bf16, Avx512Vnni},
};

#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "aarch64")]
pub(crate) use neon::Neon;

pub(crate) mod vocabulary;

/// Splits signed shift counts into right and left ones.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn shift_counts(n: [i32; 4]) -> [[i32; 4]; 2] {
    let mut counts = [[0; 4]; 2];
    for i in 0..4 {
        if n[i] >= 0 {
            counts[0][i] = n[i];
        } else {
            counts[1][i] = -n[i];
        }
    }
    counts
}

/// Lanes of a vector, on every instruction set.
pub(crate) const LANES: usize = 16;
/// Bytes of a vector.
pub(crate) const VECTOR_BYTES: usize = 64;

/// A CPU's vector operations.
///
/// # Safety
/// A value of the implementing type may exist only on a CPU with every feature that the type stands for.
#[allow(clippy::wrong_self_convention)] // `self` is the token; conversions start from lanes
pub(crate) unsafe trait Simd: Copy {
    /// 16 f32 lanes.
    type F32: Copy;
    /// 16 i32 lanes.
    type I32: Copy;
    /// 64 bytes.
    type Bytes: Copy;

    /// How many of these vectors the register file holds: what tiles may have.
    const REGISTERS: usize = 8;
    /// Whether [`Simd::dot_bf16`] is one instruction.
    const HAS_BF16: bool = false;
    /// Largest weight byte for which [`Simd::dot_u8i8`] is exact: 255 where the CPU has the instruction, 127
    /// where it is built from 16-bit pair sums that would saturate.
    const DOT_U8_MAX: u8;
    /// What the products that [`Simd::add_pairs`] adds to a pair may come to.
    const PAIR_MAX: u32 = u32::MAX;

    /// All lanes `x`.
    fn splat(self, x: f32) -> Self::F32;
    /// # Safety
    /// `p` must be readable for 16 f32; any alignment.
    unsafe fn load(self, p: *const f32) -> Self::F32;
    /// # Safety
    /// `p` must be writable for 16 f32; any alignment.
    unsafe fn store(self, p: *mut f32, v: Self::F32);
    /// Widens 16 IEEE halves.
    /// # Safety
    /// `p` must be readable for 16 u16; any alignment.
    unsafe fn load_f16(self, p: *const u16) -> Self::F32;
    /// Narrows to IEEE halves, to nearest even; overflow gives infinity, NaN stays NaN.
    /// # Safety
    /// `p` must be writable for 16 u16; any alignment.
    unsafe fn store_f16(self, p: *mut u16, v: Self::F32);
    /// Widens 16 bf16.
    /// # Safety
    /// `p` must be readable for 16 u16; any alignment.
    unsafe fn load_bf16(self, p: *const u16) -> Self::F32;
    /// Lanes 0..8 are `p[0]`, lanes 8..16 are `p[1]`.
    /// # Safety
    /// `p` must be readable for 2 f32.
    unsafe fn spread2(self, p: *const f32) -> Self::F32;
    /// Lanes 4i..4i+4 are `p[i]`.
    /// # Safety
    /// `p` must be readable for 4 f32.
    unsafe fn spread4(self, p: *const f32) -> Self::F32;
    /// Quarter i is lane `FIRST + i * STEP` of `v`, all four in the same half of it.
    fn spread_lanes<const FIRST: usize, const STEP: usize>(self, v: Self::F32) -> Self::F32;
    /// Lanes 0..8 are the IEEE half at `p`, lanes 8..16 the one behind it, widened.
    /// # Safety
    /// `p` must be readable for 4 bytes.
    unsafe fn spread_half_pair(self, p: *const u8) -> Self::F32;
    /// Lane i of 0..8 is the IEEE half at `p + i * STRIDE`; lane 8 + i is the one behind it if `PAIRS`, else zero: the
    /// heads of eight blocks.
    /// # Safety
    /// `p` must be readable for `8 * STRIDE` bytes; STRIDE is even and 18 to 34.
    unsafe fn gather_halves<const STRIDE: usize, const PAIRS: bool>(self, p: *const u8) -> Self::F32;

    /// `a + b`
    fn add(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `a - b`
    fn sub(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `a b`
    fn mul(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `a / b`
    fn div(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `a b + c`, fused everywhere but on `Portable`.
    fn mul_add(self, a: Self::F32, b: Self::F32, c: Self::F32) -> Self::F32;
    /// `if a > b { a } else { b }`: a NaN on either side gives `b`.
    fn max(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `if a < b { a } else { b }`: a NaN on either side gives `b`.
    fn min(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `if a < b { x } else { y }`, lane by lane.
    fn select_lt(self, a: Self::F32, b: Self::F32, x: Self::F32, y: Self::F32) -> Self::F32;
    /// Sum of the lanes: halves are folded 16, 8, 4, 2, 1, in that order on every instruction set.
    fn sum(self, v: Self::F32) -> f32;
    /// Largest lane, folded like [`Simd::sum`].
    fn max_lane(self, v: Self::F32) -> f32;
    /// `2^n` for integral `n` in -126..=127; -127 gives 0 and 128 infinity.
    fn pow2(self, n: Self::F32) -> Self::F32;
    /// `x factor` to the nearest integer, below 2^22.
    #[inline(always)]
    fn round_product(self, x: Self::F32, factor: f32) -> Self::F32 {
        // From here on the last place of a number is 1.
        let round = self.splat(12_582_912.0); // 1.5 * 2^23
        self.sub(self.mul_add(x, self.splat(factor), round), round)
    }
    /// `x 2^n`, rounded once, for integral `n` in -150..=128 and `x` from 1/2 to 2: a denormal, 0 or infinity where that is next.
    #[inline(always)]
    fn scale(self, x: Self::F32, n: Self::F32) -> Self::F32 {
        // The first product is exact.
        let half = self.round_product(n, 0.5);
        self.mul(self.mul(x, self.pow2(half)), self.pow2(self.sub(n, half)))
    }
    /// The lowest nine bits of each lane where sign and exponent stand, zeros behind them: of 1.5 * 2^23 + n + 127 that is `2^n`.
    fn low_bits_to_exponent(self, v: Self::F32) -> Self::F32;
    /// To the nearest integer, ties to even. Out of range: unspecified.
    fn to_i32(self, v: Self::F32) -> Self::I32;
    /// Exact up to 2^24, to nearest beyond.
    fn from_i32(self, v: Self::I32) -> Self::F32;

    /// All lanes `x`.
    fn splat_i32(self, x: i32) -> Self::I32;
    /// `a + b`, wrapping.
    fn add_i32(self, a: Self::I32, b: Self::I32) -> Self::I32;
    /// `a - b`, wrapping.
    fn sub_i32(self, a: Self::I32, b: Self::I32) -> Self::I32;
    /// `a << N`: what is shifted out is lost.
    fn shl_i32<const N: i32>(self, a: Self::I32) -> Self::I32;
    /// Wrapping sum of the lanes.
    fn sum_i32(self, v: Self::I32) -> i32;
    /// # Safety
    /// `p` must be readable for 16 i32; any alignment.
    unsafe fn load_i32(self, p: *const i32) -> Self::I32;
    /// # Safety
    /// `p` must be writable for 16 i32; any alignment.
    unsafe fn store_i32(self, p: *mut i32, v: Self::I32);
    /// Zero-extends 16 bytes.
    /// # Safety
    /// `p` must be readable for 16 bytes.
    unsafe fn load_u8(self, p: *const u8) -> Self::I32;
    /// Sign-extends 16 bytes.
    /// # Safety
    /// `p` must be readable for 16 bytes.
    unsafe fn load_i8(self, p: *const i8) -> Self::I32;
    /// Narrows to i8 with saturation.
    /// # Safety
    /// `p` must be writable for 16 bytes.
    unsafe fn store_i8(self, p: *mut i8, v: Self::I32);
    /// Narrows to i8 with saturation: quarter i holds the lanes of `v[i]`.
    fn narrow_i8(self, v: [Self::I32; 4]) -> Self::Bytes;

    /// # Safety
    /// `p` must be readable for 64 bytes.
    unsafe fn load_bytes(self, p: *const u8) -> Self::Bytes;
    /// # Safety
    /// `p` must be writable for 64 bytes.
    unsafe fn store_bytes(self, p: *mut u8, v: Self::Bytes);
    /// Four quarters of 16 bytes from four places.
    /// # Safety
    /// Each pointer must be readable for 16 bytes.
    unsafe fn load_quarters(self, p: [*const u8; 4]) -> Self::Bytes;
    /// All 16 cells `x`.
    fn splat_cell(self, x: u32) -> Self::Bytes;
    /// Bitwise and.
    fn and(self, a: Self::Bytes, b: Self::Bytes) -> Self::Bytes;
    /// Bitwise or.
    fn or(self, a: Self::Bytes, b: Self::Bytes) -> Self::Bytes;
    /// Bitwise exclusive or.
    fn xor(self, a: Self::Bytes, b: Self::Bytes) -> Self::Bytes;
    /// Shifts every cell of quarter i right by `n[i]` bits (left by `-n[i]`), as 32-bit units: bits cross from
    /// byte to byte, so mask the bits that were meant.
    fn shift_quarters(self, v: Self::Bytes, n: [i32; 4]) -> Self::Bytes;
    /// The f16 in the lower half of every cell.
    #[inline(always)]
    fn widen_f16(self, cells: Self::Bytes) -> Self::F32 {
        let mut halves = [0_u16; 2 * LANES];
        // SAFETY: 64 bytes; sixteen elements.
        unsafe {
            self.store_bytes(halves.as_mut_ptr().cast(), cells);
            let lower: [u16; LANES] = std::array::from_fn(|i| halves[2 * i]);
            self.load_f16(lower.as_ptr())
        }
    }
    /// Quarters `[a0 a2 b0 b2]` and `[a1 a3 b1 b3]`.
    fn deal_quarters(self, a: Self::Bytes, b: Self::Bytes) -> [Self::Bytes; 2];
    /// Quarters `[a0 b0 a2 b2]` and `[a1 b1 a3 b3]`.
    fn zip_quarters(self, a: Self::Bytes, b: Self::Bytes) -> [Self::Bytes; 2];
    /// Byte i is `value` if bit i is set, else 0.
    fn expand_bits(self, bits: u64, value: u8) -> Self::Bytes;
    /// Byte i is `table[index[i]]`; indices are below 16.
    fn lookup16(self, table: [u8; 16], index: Self::Bytes) -> Self::Bytes;
    /// Per cell: `acc + sum w a` with unsigned `w <= DOT_U8_MAX` and signed `a`. Exact.
    fn dot_u8i8(self, acc: Self::I32, w: Self::Bytes, a: Self::Bytes) -> Self::I32;
    /// Per cell: `acc + sum w a`, both signed, `a >= -127`. Exact.
    fn dot_i8i8(self, acc: Self::I32, w: Self::Bytes, a: Self::Bytes) -> Self::I32;
    /// Begins a sum that adds to `acc` when it [ends](Simd::end_pairs). Its lanes are the token's own until then: where the CPU
    /// multiplies bytes to pair sums of 16 bits, they are added as such, and widened once instead of with every product.
    #[inline(always)]
    fn begin_pairs(self, acc: Self::I32) -> Self::I32 {
        acc
    }
    /// Adds what [`Simd::dot_u8i8`] would. Exact where the products of either pair of a cell, all of them with the largest
    /// magnitudes that `w` and `a` have anywhere, come to at most [`PAIR_MAX`](Simd::PAIR_MAX).
    #[inline(always)]
    fn add_pairs(self, sum: Self::I32, w: Self::Bytes, a: Self::Bytes) -> Self::I32 {
        self.dot_u8i8(sum, w, a)
    }
    /// `acc`, which the sum began with, and the products that were added.
    #[inline(always)]
    fn end_pairs(self, _acc: Self::I32, sum: Self::I32) -> Self::I32 {
        sum
    }
    /// `acc + 2^N sum`, of a sum that began with zero; N is at most 14.
    #[inline(always)]
    fn end_pairs_shifted<const N: i32>(self, acc: Self::I32, sum: Self::I32) -> Self::I32 {
        self.add_i32(acc, self.shl_i32::<N>(sum))
    }
    /// Whether [`Simd::split_i8`] changes anything.
    const SPLITS_I8: bool = false;
    /// Signed weights as [`Simd::dot_split`] takes them, which is faster for many `a`: where only unsigned bytes are
    /// multiplied with signed ones, the magnitudes, and all ones in the bytes of negative weights. With these,
    /// `sum w a = sum |w| (a ^ n) + sum of |w| where n`: what is behind the plus does not depend on `a`.
    #[inline(always)]
    fn split_i8(self, w: Self::Bytes) -> [Self::Bytes; 2] {
        [w, w]
    }
    /// Per cell: `acc + sum |w| (a ^ n)`.
    #[inline(always)]
    fn dot_split(self, acc: Self::I32, [w, _]: [Self::Bytes; 2], a: Self::Bytes) -> Self::I32 {
        self.dot_i8i8(acc, w, a)
    }
    /// Per cell: `acc +` the sum of `|w|` where n.
    #[inline(always)]
    fn add_negative(self, acc: Self::I32, _w: [Self::Bytes; 2]) -> Self::I32 {
        acc
    }
    /// Per cell of two i16: `acc + w0 a0 + w1 a1`. Exact but for two products of -32768 squared.
    fn dot_i16(self, acc: Self::I32, w: Self::Bytes, a: Self::Bytes) -> Self::I32;
    /// Per cell of two bf16: `acc + w0 a0 + w1 a1` (order and flushing of denormals are the CPU's).
    fn dot_bf16(self, acc: Self::F32, w: Self::Bytes, a: Self::Bytes) -> Self::F32;

    /// 32 bf16, to nearest even: the lanes of `lo`, then those of `hi`. Overflow gives infinity, NaN stays NaN, denormals
    /// may become zero.
    fn narrow_bf16(self, lo: Self::F32, hi: Self::F32) -> Self::Bytes;
    /// Of 32 numbers of 16 bits, those of the lower and of the upper half in turn: `v0 v16 v1 v17 ..`
    fn interleave_halves(self, v: Self::Bytes) -> Self::Bytes;

    /// Asks for the cache line at `p`; any address, never faults.
    fn prefetch(self, p: *const u8);
    /// The same, but only into the second-level cache: for what is still far away, and more than the first level should
    /// hold or wait for.
    fn prefetch_far(self, p: *const u8);

    /// Asks for what comes behind the `bytes` at `p` in a stream that is read once, from front to back.
    ///
    /// Lines go into the second-level cache, since the first waits for too few at a time. The first line of a page is asked
    /// for long before, because of the page's translation: mapped files have pages of 4 KB, and on a virtual machine to
    /// look one up takes longer than to fetch a line. (Asking again for a line that is on its way costs nothing.)
    ///
    /// Measured on a Zen 4 virtual machine, one core reading mapped memory: 18 GB/s without asking, 17 with lines asked
    /// for into the first level, 19 with lines far ahead, 24 with pages, 27 with both.
    #[inline(always)]
    fn read_ahead(self, p: *const u8, bytes: usize) {
        const LINES: usize = 8192;
        const PAGES: usize = 5 * 4096;
        for line in 0..bytes.div_ceil(64) {
            self.prefetch_far(p.wrapping_add(LINES + 64 * line));
        }
        self.prefetch(p.wrapping_add(PAGES).map_addr(|at| at & !4095));
    }

    /// In every quarter, transposes the 4 x 4 cells that the four vectors have there.
    fn transpose_4x4(self, rows: [Self::Bytes; 4]) -> [Self::Bytes; 4];

    /// Four cells from byte `at` on of each of sixteen rows: cell j of all of them, in order, in vector j.
    ///
    /// Vector i takes the cells of the rows i, i + 4, i + 8 and i + 12, a row per quarter, so that after
    /// `transpose_4x4` vector j holds column j of all sixteen rows in order: the long way across quarters is left to
    /// the loads, which have nothing else to do.
    ///
    /// ```text
    /// v0 [ r0c0..4 | r4c0..4 | r8c0..4 | r12c0..4 ]        [ r0c0 r1c0 r2c0 r3c0 | r4c0 .. | .. r15c0 ]
    /// v1 [ r1c0..4 | r5c0..4 | ...                   ->    [ r0c1 r1c1 ...
    /// ```
    ///
    /// # Safety
    /// Sixteen bytes must be readable in each row.
    #[inline(always)]
    unsafe fn load_columns(self, rows: &[*const u8; LANES], at: usize) -> [Self::Bytes; 4] {
        let mut across = [self.splat_cell(0); 4];
        for i in 0..4 {
            // SAFETY: the caller's promise.
            across[i] = unsafe {
                let [a, b, c, d] = [rows[i], rows[i + 4], rows[i + 8], rows[i + 12]];
                self.load_quarters([a.add(at), b.add(at), c.add(at), d.add(at)])
            };
        }
        self.transpose_4x4(across)
    }

    /// Transposes sixteen columns of sixteen rows of cells: `dst[j * dst_stride + i] = src[i * src_stride + j]`, strides in cells.
    ///
    /// # Safety
    /// Sixteen rows of sixteen cells must be readable on one side and writable on the other.
    #[inline(always)]
    unsafe fn transpose(self, src: *const u32, src_stride: usize, dst: *mut u32, dst_stride: usize) {
        // SAFETY: rows and columns below 16, within what the caller promised.
        unsafe {
            let rows = std::array::from_fn(|i| src.add(i * src_stride).cast());
            for column in (0..LANES).step_by(4) {
                let columns = self.load_columns(&rows, 4 * column);
                for j in 0..4 {
                    self.store_bytes(dst.add((column + j) * dst_stride).cast(), columns[j]);
                }
            }
        }
    }
}
