//! Every operation of a token against its definition, lane by lane, on random and on special inputs.
//!
//! The definitions are written out here for single lanes, so `Portable` is held to them like any other token. Results
//! must agree bit for bit (a NaN is a NaN), except where the trait leaves the CPU some freedom.
//!
//! This is compiled into the library and reached through the table, so that it also runs on machines (and in
//! emulators) that have nothing but the finished program.

#![allow(unsafe_code)]

use super::portable::fold;
use super::{LANES, Portable, Simd, VECTOR_BYTES};
use crate::selfcheck::Random;
use half::{bf16, f16};
use std::any::TypeId;
use std::array::from_fn;
use std::fmt::Debug;

/// What [`check`] found.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    /// Vectors compared.
    pub(crate) cases: usize,
    /// The first disagreement.
    pub(crate) wrong: Option<String>,
}

impl Findings {
    /// Compares the lanes of one result.
    fn equal<T: Same + Debug, const N: usize>(&mut self, op: &str, got: [T; N], want: [T; N]) {
        self.cases += 1;
        if self.wrong.is_none()
            && let Some(i) = (0..N).find(|i| !got[*i].same(&want[*i]))
        {
            self.wrong = Some(format!("{op}: lane {i} is {:?}, but {:?} is right", got[i], want[i]));
        }
    }
}

/// Equality that also holds between NaNs, and tells the zeros apart.
trait Same {
    fn same(&self, other: &Self) -> bool;
}
impl Same for f32 {
    fn same(&self, other: &f32) -> bool {
        self.to_bits() == other.to_bits() || (self.is_nan() && other.is_nan())
    }
}
impl Same for f16 {
    fn same(&self, other: &f16) -> bool {
        self.to_bits() == other.to_bits() || (self.is_nan() && other.is_nan())
    }
}
impl Same for bf16 {
    fn same(&self, other: &bf16) -> bool {
        self.to_bits() == other.to_bits() || (self.is_nan() && other.is_nan())
    }
}
macro_rules! same_by_eq {
    ($($T:ty),*) => { $(impl Same for $T {
        fn same(&self, other: &$T) -> bool {
            self == other
        }
    })* };
}
same_by_eq!(u8, i8, u16, i32, u32);

type Lanes = [f32; LANES];

/// Zeros, ones, ties, denormals, the ends of both float ranges, infinities, NaN.
const SPECIALS: [f32; 36] = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    0.5,
    1.5,
    2.5,
    -0.5,
    -2.5,
    127.0,
    -127.5,
    255.0,
    1e-45,
    -1e-45,
    1e-40,
    -3e-39,
    f32::MIN_POSITIVE,
    -f32::MIN_POSITIVE,
    f32::MAX,
    f32::MIN,
    f32::INFINITY,
    f32::NEG_INFINITY,
    f32::NAN,
    -f32::NAN,
    f32::EPSILON,
    16_777_216.0,
    16_777_217.0,
    65504.0,
    65519.996,
    65520.0,
    -1e5,
    6.1035e-5,
    5.9605e-8,
    2.980_232_2e-8,
    1.000_488_3,
    3.402_823e-20,
];

/// Operand `which` of case `case`: first every pair of special values, then random bits, then moderate numbers.
fn operand(which: usize, case: usize, random: &mut Random) -> Lanes {
    let n = SPECIALS.len();
    let rounds = n.div_ceil(LANES);
    from_fn(|lane| match case {
        _ if case < rounds * n => SPECIALS[(case % rounds * LANES + lane + which * (case / rounds)) % n],
        _ if case.is_multiple_of(2) => f32::from_bits(random.bits()),
        _ => random.float(),
    })
}
const FLOAT_CASES: usize = 300;

fn lanes2(a: Lanes, b: Lanes, f: impl Fn(f32, f32) -> f32) -> Lanes {
    from_fn(|i| f(a[i], b[i]))
}

/// Checks all operations of `s`.
#[inline(always)]
pub(crate) fn check<S: Simd + 'static>(s: S, findings: &mut Findings) {
    floats(s, findings);
    halves(s, findings);
    integers(s, findings);
    bytes(s, findings);
    dot_products(s, findings);
    transposes(s, findings);
}

#[inline(always)]
fn out<S: Simd>(s: S, v: S::F32) -> Lanes {
    let mut lanes = [0.0; LANES];
    // SAFETY: 16 f32.
    unsafe { s.store(lanes.as_mut_ptr(), v) };
    lanes
}

#[inline(always)]
fn ints<S: Simd>(s: S, x: [i32; LANES]) -> S::I32 {
    // SAFETY: 16 i32.
    unsafe { s.load_i32(x.as_ptr()) }
}

#[inline(always)]
fn ints_out<S: Simd>(s: S, v: S::I32) -> [i32; LANES] {
    let mut lanes = [0; LANES];
    // SAFETY: 16 i32.
    unsafe { s.store_i32(lanes.as_mut_ptr(), v) };
    lanes
}

#[inline(always)]
fn bytes_out<S: Simd>(s: S, v: S::Bytes) -> [u8; VECTOR_BYTES] {
    let mut bytes = [0; VECTOR_BYTES];
    // SAFETY: 64 bytes.
    unsafe { s.store_bytes(bytes.as_mut_ptr(), v) };
    bytes
}

#[inline(always)]
fn floats<S: Simd + 'static>(s: S, f: &mut Findings) {
    let mut random = Random::new(1);
    let may_round_twice = TypeId::of::<S>() == TypeId::of::<Portable>();
    for case in 0..FLOAT_CASES {
        let [a, b, c, d] = [0, 1, 2, 5].map(|which| operand(which, case, &mut random));
        // SAFETY: 16 f32 each.
        let [va, vb, vc, vd] = unsafe { [&a, &b, &c, &d].map(|x| s.load(x.as_ptr())) };
        f.equal("load, store", out(s, va), a);
        f.equal("splat", out(s, s.splat(a[0])), [a[0]; LANES]);
        f.equal("add", out(s, s.add(va, vb)), lanes2(a, b, |a, b| a + b));
        f.equal("sub", out(s, s.sub(va, vb)), lanes2(a, b, |a, b| a - b));
        f.equal("mul", out(s, s.mul(va, vb)), lanes2(a, b, |a, b| a * b));
        f.equal("div", out(s, s.div(va, vb)), lanes2(a, b, |a, b| a / b));
        let got = out(s, s.mul_add(va, vb, vc));
        let fused: Lanes = from_fn(|i| a[i].mul_add(b[i], c[i]));
        let twice: Lanes = from_fn(|i| a[i] * b[i] + c[i]);
        if !(may_round_twice && (0..LANES).all(|i| got[i].same(&twice[i]))) {
            f.equal("mul_add", got, fused);
        }
        f.equal("max", out(s, s.max(va, vb)), lanes2(a, b, |a, b| if a > b { a } else { b }));
        f.equal("min", out(s, s.min(va, vb)), lanes2(a, b, |a, b| if a < b { a } else { b }));
        let selected = from_fn(|i| if a[i] < b[i] { c[i] } else { d[i] });
        f.equal("select_lt", out(s, s.select_lt(va, vb, vc, vd)), selected);
        f.equal("sum", [s.sum(va)], [fold(a, |a, b| a + b)]);
        f.equal("max_lane", [s.max_lane(vb)], [fold(b, |a, b| if a > b { a } else { b })]);
        // SAFETY: 16 f32, of which 2 or 4 are read.
        let (two, four) = unsafe { (s.spread2(a.as_ptr()), s.spread4(b.as_ptr())) };
        f.equal("spread2", out(s, two), from_fn(|i| a[i / 8]));
        f.equal("spread4", out(s, four), from_fn(|i| b[i / 4]));
        f.equal("spread_lanes", out(s, s.spread_lanes::<0, 1>(va)), from_fn(|i| a[i / 4]));
        f.equal("spread_lanes", out(s, s.spread_lanes::<4, 1>(va)), from_fn(|i| a[4 + i / 4]));
        f.equal("spread_lanes", out(s, s.spread_lanes::<1, 2>(va)), from_fn(|i| a[1 + i / 4 * 2]));
        f.equal("spread_lanes", out(s, s.spread_lanes::<8, 2>(va)), from_fn(|i| a[8 + i / 4 * 2]));
    }
    for first in -127..=113 {
        let n: [i32; LANES] = from_fn(|i| first + i as i32);
        let want = n.map(|n| if n == -127 { 0.0 } else { 2.0_f64.powi(n) as f32 });
        let n = n.map(|n| n as f32);
        // SAFETY: 16 f32.
        f.equal("pow2", out(s, s.pow2(unsafe { s.load(n.as_ptr()) })), want);
        let biased = n.map(|n| 12_582_912.0 + n + 127.0);
        // SAFETY: 16 f32.
        let biased = unsafe { s.load(biased.as_ptr()) };
        f.equal("low_bits_to_exponent", out(s, s.low_bits_to_exponent(biased)), want);
    }
    for first in -150..=113 {
        let x: [f32; LANES] = from_fn(|i| 0.71 + 0.043 * i as f32);
        let n: [f32; LANES] = from_fn(|i| (first + i as i32) as f32);
        // What f64 holds exactly is rounded once.
        let want = from_fn(|i| (f64::from(x[i]) * f64::from(n[i]).exp2()) as f32);
        // SAFETY: 16 f32 each.
        let (x, n) = unsafe { (s.load(x.as_ptr()), s.load(n.as_ptr())) };
        f.equal("scale", out(s, s.scale(x, n)), want);
    }
    s.prefetch(std::ptr::null());
    s.prefetch_far(std::ptr::null());
}

/// All halves and bf16 both ways, and to halves also the ties and what lies next to them.
#[inline(always)]
fn halves<S: Simd>(s: S, f: &mut Findings) {
    for first in (0..=u16::MAX).step_by(LANES) {
        let bits: [u16; LANES] = from_fn(|i| first + i as u16);
        let wide = bits.map(|b| f16::from_bits(b).to_f32_const());
        // SAFETY: 16 u16 each.
        let (from_f16, from_bf16) = unsafe { (s.load_f16(bits.as_ptr()), s.load_bf16(bits.as_ptr())) };
        f.equal("load_f16", out(s, from_f16), wide);
        // SAFETY: 4 bytes.
        f.equal(
            "spread_half_pair",
            out(s, unsafe { s.spread_half_pair(bits.as_ptr().cast()) }),
            from_fn(|i| wide[i / 8]),
        );
        // SAFETY: 64 bytes.
        let cells = unsafe { s.load_bytes(bits.map(|b| u32::from(b) | 0xabcd_0000).as_ptr().cast()) };
        f.equal("widen_f16", out(s, s.widen_f16(cells)), wide);
        f.equal("load_bf16", out(s, from_bf16), bits.map(|b| f32::from_bits(u32::from(b) << 16)));
        for beyond in [0, 0xfff, 0x1000, 0x1001] {
            let x = wide.map(|x| f32::from_bits(x.to_bits() + beyond));
            let mut narrow = [0_u16; LANES];
            // SAFETY: 16 f32 and 16 u16.
            unsafe { s.store_f16(narrow.as_mut_ptr(), s.load(x.as_ptr())) };
            f.equal("store_f16", narrow.map(f16::from_bits), x.map(f16::from_f32_const));
        }
    }
    gather_halves::<S, 18, false>(s, f);
    gather_halves::<S, 20, true>(s, f);
    gather_halves::<S, 22, false>(s, f);
    gather_halves::<S, 24, true>(s, f);
    gather_halves::<S, 34, false>(s, f);
    for case in 0..FLOAT_CASES {
        let x = operand(0, case, &mut Random::new(case as u64));
        let mut narrow = [0_u16; LANES];
        // SAFETY: 16 f32 and 16 u16.
        unsafe { s.store_f16(narrow.as_mut_ptr(), s.load(x.as_ptr())) };
        f.equal("store_f16", narrow.map(f16::from_bits), x.map(f16::from_f32_const));
    }
    // Every upper half with lower halves at, below and above the tie.
    for first in (0..=u16::MAX).step_by(LANES) {
        for (lo, hi) in [(0x7fff, 0x8000), (0x8001, 0), (0xffff, 1)] {
            let x = [lo, hi].map(|low| {
                from_fn::<f32, LANES, _>(|i| f32::from_bits(u32::from(first + i as u16) << 16 | low))
            });
            // SAFETY: 16 f32 each.
            let narrow = unsafe { s.narrow_bf16(s.load(x[0].as_ptr()), s.load(x[1].as_ptr())) };
            let got = u16s(bytes_out(s, narrow)).map(bf16::from_bits);
            let right = from_fn(|i| {
                let x = x[i / LANES][i % LANES];
                let flushed = x.is_subnormal() && got[i].to_f32_const() == 0.0;
                if flushed { got[i] } else { bf16::from_f32_const(x) }
            });
            f.equal("narrow_bf16", got, right);
        }
    }
}

/// Pairs of bytes as they lie in memory on every target that has a token.
fn u16s(bytes: [u8; VECTOR_BYTES]) -> [u16; 2 * LANES] {
    from_fn(|i| u16::from_le_bytes([bytes[2 * i], bytes[2 * i + 1]]))
}

#[inline(always)]
fn gather_halves<S: Simd, const STRIDE: usize, const PAIRS: bool>(s: S, f: &mut Findings) {
    let mut random = Random::new(6);
    for _ in 0..50 {
        let bytes: Vec<u8> = (0..8 * STRIDE).map(|_| random.byte()).collect();
        let want = from_fn(|i| {
            let at = i % 8 * STRIDE + i / 8 * 2;
            if i < 8 || PAIRS { f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32_const() } else { 0.0 }
        });
        // SAFETY: eight strides of bytes.
        f.equal("gather_halves", out(s, unsafe { s.gather_halves::<STRIDE, PAIRS>(bytes.as_ptr()) }), want);
    }
}

#[inline(always)]
fn integers<S: Simd>(s: S, f: &mut Findings) {
    let mut random = Random::new(2);
    for case in 0..200 {
        let shift = case % 31;
        let mut any =
            || from_fn::<i32, LANES, _>(|_| (random.bits().cast_signed() >> shift).min(i32::MAX - 64));
        let (a, b) = (any(), any());
        let (va, vb) = (ints(s, a), ints(s, b));
        f.equal("add_i32", ints_out(s, va), a);
        f.equal("from_i32", out(s, s.from_i32(va)), a.map(|a| a as f32));
        // Halved, so that no sum or difference comes near 2^31, where reading the integers back would end.
        let (ha, hb) = (a.map(|a| a / 2 - 64), b.map(|b| b / 2 - 64));
        let (vha, vhb) = (ints(s, ha), ints(s, hb));
        f.equal("add_i32", ints_out(s, s.add_i32(vha, vhb)), from_fn(|i| ha[i] + hb[i]));
        f.equal("sub_i32", ints_out(s, s.sub_i32(vha, vhb)), from_fn(|i| ha[i] - hb[i]));
        f.equal("shl_i32", ints_out(s, s.shl_i32::<8>(va)), a.map(|a| a << 8));
        f.equal("sum_i32", [s.sum_i32(va)], [fold(a, i32::wrapping_add)]);
        f.equal("splat_i32", ints_out(s, s.splat_i32(b[0])), [b[0]; LANES]);
        f.equal(
            "add_i32",
            [s.sum_i32(s.add_i32(va, vb))],
            [fold(a, i32::wrapping_add).wrapping_add(fold(b, i32::wrapping_add))],
        );
        let mut narrow = [0_i8; LANES];
        // SAFETY: 16 bytes.
        unsafe { s.store_i8(narrow.as_mut_ptr(), va) };
        f.equal("store_i8", narrow, a.map(|a| a.clamp(-128, 127) as i8));
        let four = s.narrow_i8([va, vb, vha, vhb]);
        let want = from_fn(|i| [a, b, ha, hb][i / LANES][i % LANES].clamp(-128, 127) as u8);
        f.equal("narrow_i8", bytes_out(s, four), want);
        let bytes: [u8; LANES] = from_fn(|i| a[i] as u8);
        // SAFETY: 16 bytes.
        f.equal("load_u8", ints_out(s, unsafe { s.load_u8(bytes.as_ptr()) }), bytes.map(i32::from));
        let signed = bytes.map(u8::cast_signed);
        // SAFETY: 16 bytes.
        f.equal("load_i8", ints_out(s, unsafe { s.load_i8(signed.as_ptr()) }), signed.map(i32::from));
        // Ties and their neighbours, from fractions to beyond 2^24.
        let x = a.map(|a| a as f32 * 0.5_f32.powi(case % 5));
        // SAFETY: 16 f32.
        let rounded = s.to_i32(unsafe { s.load(x.as_ptr()) });
        if x.iter().all(|x| x.abs() < 2.0_f32.powi(31)) {
            f.equal("to_i32", ints_out(s, rounded), x.map(|x| x.round_ties_even() as i32));
        }
    }
}

#[inline(always)]
fn bytes<S: Simd>(s: S, f: &mut Findings) {
    let mut random = Random::new(3);
    for case in 0..200 {
        let a: [u8; VECTOR_BYTES] = from_fn(|_| random.byte());
        let b: [u8; VECTOR_BYTES] = from_fn(|_| random.byte());
        // SAFETY: 64 bytes each.
        let (va, vb) = unsafe { (s.load_bytes(a.as_ptr()), s.load_bytes(b.as_ptr())) };
        f.equal("load_bytes, store_bytes", bytes_out(s, va), a);
        f.equal("and", bytes_out(s, s.and(va, vb)), from_fn(|i| a[i] & b[i]));
        f.equal("or", bytes_out(s, s.or(va, vb)), from_fn(|i| a[i] | b[i]));
        f.equal("xor", bytes_out(s, s.xor(va, vb)), from_fn(|i| a[i] ^ b[i]));
        let in_turn = u16s(bytes_out(s, s.interleave_halves(va)));
        f.equal("interleave_halves", in_turn, from_fn(|i| u16s(a)[i / 2 + i % 2 * LANES]));
        let places = [17, 48, 0, 31];
        // SAFETY: 16 bytes from at most 48 on.
        let quarters = unsafe { s.load_quarters(places.map(|at| a.as_ptr().add(at))) };
        f.equal("load_quarters", bytes_out(s, quarters), from_fn(|i| a[places[i / 16] + i % 16]));
        for (op, got, from) in [
            ("deal_quarters", s.deal_quarters(va, vb), [[0, 2, 4, 6], [1, 3, 5, 7]]),
            ("zip_quarters", s.zip_quarters(va, vb), [[0, 4, 2, 6], [1, 5, 3, 7]]),
        ] {
            for half in 0..2 {
                let want = from_fn(|i| {
                    let quarter = from[half][i / 16];
                    if quarter < 4 { a[quarter * 16 + i % 16] } else { b[(quarter - 4) * 16 + i % 16] }
                });
                f.equal(op, bytes_out(s, got[half]), want);
            }
        }
        let x = random.bits();
        f.equal("splat_cell", bytes_out(s, s.splat_cell(x)), from_fn(|i| x.to_le_bytes()[i % 4]));
        let n = from_fn(|i| (case * (i + 1) * 5 % 63) as i32 - 31);
        let shifted: [u32; LANES] = from_fn(|cell| {
            let x = u32::from_le_bytes([a[4 * cell], a[4 * cell + 1], a[4 * cell + 2], a[4 * cell + 3]]);
            if n[cell / 4] >= 0 { x >> n[cell / 4] } else { x << -n[cell / 4] }
        });
        let got = bytes_out(s, s.shift_quarters(va, n));
        f.equal("shift_quarters", got, from_fn(|i| shifted[i / 4].to_le_bytes()[i % 4]));
        let bits = u64::from(random.bits()) << 32 | u64::from(random.bits());
        let value = b[0];
        let want = from_fn(|i| if bits >> i & 1 == 1 { value } else { 0 });
        f.equal("expand_bits", bytes_out(s, s.expand_bits(bits, value)), want);
        let table: [u8; 16] = from_fn(|i| b[i]);
        // SAFETY: 64 bytes.
        let index = unsafe { s.load_bytes(a.map(|a| a & 15).as_ptr()) };
        f.equal("lookup16", bytes_out(s, s.lookup16(table, index)), from_fn(|i| b[usize::from(a[i] & 15)]));
    }
}

#[inline(always)]
fn dot_products<S: Simd>(s: S, f: &mut Findings) {
    let mut random = Random::new(4);
    for case in 0..200 {
        // Pure extremes first, then mixed with random bytes.
        let mut pick = |extremes: [u8; 4]| -> [u8; VECTOR_BYTES] {
            from_fn(|_| match random.bits() % if case < 100 { 4 } else { 8 } {
                i @ 0..4 => extremes[i as usize],
                _ => random.byte(),
            })
        };
        let unsigned = pick([0, 1, S::DOT_U8_MAX, S::DOT_U8_MAX]).map(|w| w.min(S::DOT_U8_MAX));
        let signed = pick([0x80, 0x80, 0x7f, 0xff]);
        let a = pick([0x80, 0x81, 0x7f, 0x00]);
        let start: [i32; LANES] = from_fn(|_| random.bits().cast_signed() >> 2);
        // SAFETY: 64 bytes each.
        let [vu, vs, va] = unsafe { [&unsigned, &signed, &a].map(|x| s.load_bytes(x.as_ptr())) };
        let dot = |w: &dyn Fn(usize) -> i32, a: &[u8; VECTOR_BYTES]| -> [i32; LANES] {
            from_fn(|cell| {
                let terms = (4 * cell..4 * cell + 4).map(|i| w(i) * i32::from(a[i].cast_signed()));
                start[cell] + terms.sum::<i32>()
            })
        };
        let want = dot(&|i| i32::from(unsigned[i]), &a);
        f.equal("dot_u8i8", ints_out(s, s.dot_u8i8(ints(s, start), vu, va)), want);
        let a = a.map(|a| if a == 0x80 { 0x81 } else { a });
        // SAFETY: 64 bytes.
        let va = unsafe { s.load_bytes(a.as_ptr()) };
        let want = dot(&|i| i32::from(signed[i].cast_signed()), &a);
        f.equal("dot_i8i8", ints_out(s, s.dot_i8i8(ints(s, start), vs, va)), want);
        let split = s.split_i8(vs);
        let sum = s.add_negative(s.dot_split(ints(s, start), split, va), split);
        f.equal("dot_split", ints_out(s, sum), want);
        // As many of the largest products as a pair sum holds.
        let few = unsigned.map(|w| w.min(15));
        let dot = |i: usize| {
            (4 * i..4 * i + 4).map(|i| i32::from(few[i]) * i32::from(a[i].cast_signed())).sum::<i32>()
        };
        // SAFETY: 64 bytes.
        let few = unsafe { s.load_bytes(few.as_ptr()) };
        let (mut sum, mut shifted) = (s.begin_pairs(ints(s, start)), s.begin_pairs(s.splat_i32(0)));
        for _ in 0..8 {
            (sum, shifted) = (s.add_pairs(sum, few, va), s.add_pairs(shifted, few, va));
        }
        let want = from_fn(|i| start[i] + 8 * dot(i));
        f.equal("end_pairs", ints_out(s, s.end_pairs(ints(s, start), sum)), want);
        let want = from_fn(|i| start[i] + ((8 * dot(i)) << 8));
        f.equal("end_pairs_shifted", ints_out(s, s.end_pairs_shifted::<8>(ints(s, start), shifted)), want);
        let pair = |x: &[u8; VECTOR_BYTES], i: usize| i32::from(i16::from_le_bytes([x[i], x[i + 1]])) / 2;
        let halves = |x: &[u8; VECTOR_BYTES]| -> [i16; 32] { from_fn(|i| pair(x, 2 * i) as i16) };
        let (w, a) = (halves(&signed), halves(&a));
        // SAFETY: 64 bytes each.
        let (vw, va) = unsafe { (s.load_bytes(w.as_ptr().cast()), s.load_bytes(a.as_ptr().cast())) };
        let want = from_fn(|cell| {
            let product = |i: usize| i32::from(w[i]) * i32::from(a[i]);
            start[cell].wrapping_add(product(2 * cell)).wrapping_add(product(2 * cell + 1))
        });
        f.equal("dot_i16", ints_out(s, s.dot_i16(ints(s, start), vw, va)), want);
    }
    for _ in 0..200 {
        let mut pick = || from_fn::<bf16, 32, _>(|_| bf16::from_f32(random.float()));
        let (w, a) = (pick(), pick());
        let start: Lanes = from_fn(|_| random.float());
        // SAFETY: 64 bytes twice and 16 f32.
        let got = unsafe {
            let (w, a) = (s.load_bytes(w.as_ptr().cast()), s.load_bytes(a.as_ptr().cast()));
            out(s, s.dot_bf16(s.load(start.as_ptr()), w, a))
        };
        // Two products and two sums: at most three roundings each, in any order.
        let close = from_fn::<u8, LANES, _>(|i| {
            let terms = [2 * i, 2 * i + 1].map(|i| f64::from(w[i].to_f32()) * f64::from(a[i].to_f32()));
            let (want, first) = (terms[0] + terms[1] + f64::from(start[i]), f64::from(start[i]).abs());
            let bound = 2.0 * f64::from(f32::EPSILON) * (terms[0].abs() + terms[1].abs() + first);
            u8::from((f64::from(got[i]) - want).abs() <= bound)
        });
        f.equal("dot_bf16 (1 is close enough)", close, [1; LANES]);
    }
}

#[inline(always)]
fn transposes<S: Simd>(s: S, f: &mut Findings) {
    const EDGE: u32 = 0xdead_beef;
    for (src_stride, dst_stride) in [(16, 16), (19, 16), (16, 64), (17, 23)] {
        let mut random = Random::new(5);
        let src: Vec<u32> = (0..16 * src_stride).map(|_| random.bits()).collect();
        let mut dst = vec![EDGE; 16 * dst_stride];
        // SAFETY: 16 rows of at least 16 on both sides.
        unsafe { s.transpose(src.as_ptr(), src_stride, dst.as_mut_ptr(), dst_stride) };
        for (j, row) in dst.chunks(dst_stride).enumerate() {
            f.equal("transpose", from_fn::<_, LANES, _>(|i| row[i]), from_fn(|i| src[i * src_stride + j]));
            let outside = row[LANES..].iter().filter(|x| **x != EDGE).count();
            f.equal("transpose (cells written outside)", [outside as i32], [0]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::Kernels;

    #[test]
    fn every_operation_of_every_token_does_what_the_vocabulary_says() {
        for kernels in Kernels::every_available() {
            let mut findings = Findings::default();
            kernels.table.vocabulary(&mut findings);
            assert!(findings.wrong.is_none(), "{}: {}", kernels.isa(), findings.wrong.unwrap());
            assert!(findings.cases > 30_000, "{}", kernels.isa());
        }
    }

    #[test]
    fn findings_tell_zeros_apart_and_keep_the_first_difference() {
        let mut findings = Findings::default();
        findings.equal("nan", [f32::NAN], [-f32::NAN]);
        assert!(findings.wrong.is_none());
        findings.equal("zero", [1.0, 0.0], [1.0, -0.0]);
        findings.equal("later", [1], [2]);
        assert_eq!(findings.wrong.as_deref(), Some("zero: lane 1 is 0.0, but -0.0 is right"));
    }
}
