//! Block formats, value by value.

use crate::quant::Format;
use half::{bf16, f16};

fn f16_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// Scale and minimum `j` of the twelve scale bytes of Q4_K and Q5_K.
fn scale_min(bytes: &[u8], j: usize) -> (u8, u8) {
    if j < 4 {
        (bytes[j] & 63, bytes[j + 4] & 63)
    } else {
        let scale = (bytes[j + 4] & 15) | ((bytes[j - 4] >> 6) << 4);
        let min = (bytes[j + 4] >> 4) | ((bytes[j] >> 6) << 4);
        (scale, min)
    }
}

/// One value as the formula's parts: `w = scale * q + min`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Value {
    /// The scale of the value's sub-block.
    pub scale: f32,
    /// The integer, offset taken off.
    pub q: i32,
    /// The minimum of the value's sub-block, where the format has one.
    pub min: Option<f32>,
}

impl Value {
    /// The value, rounded after the product and after the sum.
    pub fn to_f32(self) -> f32 {
        let product = self.scale * self.q as f32;
        self.min.map_or(product, |min| product + min)
    }
}

/// The values of a row of whole blocks. Plain floats have scale 1 and do not fit `q`: use [`dequantize`].
pub fn block_values(format: Format, row: &[u8]) -> Vec<Value> {
    let mut out = Vec::new();
    for b in row.chunks_exact(format.block_bytes()) {
        for i in 0..format.block_len() {
            let nibble = |bytes: &[u8]| if i < 16 { bytes[i] & 15 } else { bytes[i - 16] >> 4 };
            let fifth = |bytes: &[u8]| (bytes[i / 8] >> (i % 8) & 1) << 4;
            out.push(match format {
                Format::Q4_0 => Value { scale: f16_at(b, 0), q: i32::from(nibble(&b[2..])) - 8, min: None },
                Format::Q4_1 => {
                    Value { scale: f16_at(b, 0), q: i32::from(nibble(&b[4..])), min: Some(f16_at(b, 2)) }
                }
                Format::Q5_0 => {
                    let q = nibble(&b[6..]) | fifth(&b[2..6]);
                    Value { scale: f16_at(b, 0), q: i32::from(q) - 16, min: None }
                }
                Format::Q5_1 => {
                    let q = nibble(&b[8..]) | fifth(&b[4..8]);
                    Value { scale: f16_at(b, 0), q: i32::from(q), min: Some(f16_at(b, 2)) }
                }
                Format::Q8_0 => {
                    Value { scale: f16_at(b, 0), q: i32::from(b[2 + i].cast_signed()), min: None }
                }
                Format::Q4_K | Format::Q5_K => {
                    let sub = i / 32;
                    let (s, m) = scale_min(&b[4..16], sub);
                    let (high, low) = if format == Format::Q4_K { (0, 16) } else { (16, 48) };
                    let byte = b[low + sub / 2 * 32 + i % 32];
                    let mut q = if sub.is_multiple_of(2) { byte & 15 } else { byte >> 4 };
                    if format == Format::Q5_K {
                        q |= (b[high + i % 32] >> sub & 1) << 4;
                    }
                    let (d, dmin) = (f16_at(b, 0), f16_at(b, 2));
                    Value { scale: d * f32::from(s), q: i32::from(q), min: Some(-(dmin * f32::from(m))) }
                }
                Format::Q6_K => {
                    let (half, t, l) = (i / 128, i % 128 / 32, i % 32);
                    let low = b[64 * half + 32 * (t % 2) + l];
                    let low = if t < 2 { low & 15 } else { low >> 4 };
                    let high = b[128 + 32 * half + l] >> (2 * t) & 3;
                    let scale = f16_at(b, 208) * f32::from(b[192 + i / 16].cast_signed());
                    Value { scale, q: i32::from(low | high << 4) - 32, min: None }
                }
                Format::Q2_K => {
                    let q = b[16 + i / 128 * 32 + i % 32] >> (2 * (i % 128 / 32)) & 3;
                    let (scale, min) = (b[i / 16] & 15, b[i / 16] >> 4);
                    let (d, dmin) = (f16_at(b, 80), f16_at(b, 82));
                    let (scale, min) = (d * f32::from(scale), -(dmin * f32::from(min)));
                    Value { scale, q: i32::from(q), min: Some(min) }
                }
                Format::Q3_K => {
                    let low = b[32 + i / 128 * 32 + i % 32] >> (2 * (i % 128 / 32)) & 3;
                    let high = b[i % 32] >> (i / 32) & 1;
                    let sub = i / 16;
                    let bytes = &b[96..108];
                    let nibble = if sub < 8 { bytes[sub] & 15 } else { bytes[sub - 8] >> 4 };
                    let scale = nibble | (bytes[8 + sub % 4] >> (2 * (sub / 4)) & 3) << 4;
                    let scale = f16_at(b, 108) * (f32::from(scale) - 32.0);
                    Value { scale, q: i32::from(low | high << 2) - 4, min: None }
                }
                Format::IQ4_NL => {
                    let q = Format::NONLINEAR[usize::from(nibble(&b[2..]))];
                    Value { scale: f16_at(b, 0), q: i32::from(q), min: None }
                }
                Format::IQ4_XS => {
                    let (sub, l) = (i / 32, i % 32);
                    let low = b[4 + sub / 2] >> (4 * (sub % 2)) & 15;
                    let high = u16::from_le_bytes([b[2], b[3]]) >> (2 * sub) & 3;
                    let scale = f16_at(b, 0) * (f32::from(low) + 16.0 * f32::from(high) - 32.0);
                    let byte = b[8 + 16 * sub + l % 16];
                    let q = if l < 16 { byte & 15 } else { byte >> 4 };
                    Value { scale, q: i32::from(Format::NONLINEAR[usize::from(q)]), min: None }
                }
                Format::INT4 => {
                    let (d, zero) = (f16_at(b, 0), f32::from(b[2]));
                    Value { scale: d, q: i32::from(nibble(&b[3..])), min: Some(d * -zero) }
                }
                Format::F32 | Format::F16 | Format::BF16 => Value { scale: 1.0, q: 0, min: None },
            });
        }
    }
    out
}

/// A row of any format as f32.
pub fn dequantize(format: Format, row: &[u8]) -> Vec<f32> {
    match format {
        Format::F32 => row.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        Format::F16 => row.as_chunks::<2>().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
        Format::BF16 => row.as_chunks::<2>().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32()).collect(),
        _ => block_values(format, row).into_iter().map(Value::to_f32).collect(),
    }
}

/// An int8 group: `x ~ scale * q`.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    /// `max |x| / 127`
    pub scale: f32,
    /// Nearest integers of `x / scale`.
    pub q: Vec<i32>,
}

/// Activations as int8 groups of 32.
pub fn int8_groups(x: &[f32]) -> Vec<Group> {
    x.chunks(32)
        .map(|x| {
            let scale = x.iter().fold(0.0_f32, |m, v| m.max(v.abs())) / 127.0;
            let inverse = if scale > f32::MIN_POSITIVE { 1.0 / scale } else { 0.0 };
            Group { scale, q: x.iter().map(|v| (v * inverse).round_ties_even() as i32).collect() }
        })
        .collect()
}

/// What the groups leave over of `x`, in steps of a 256th of theirs.
pub fn second_terms(x: &[f32], groups: &[Group]) -> Vec<Group> {
    x.chunks(32)
        .zip(groups)
        .map(|(x, group)| {
            let scale = group.scale / 256.0;
            let inverse = if group.scale > f32::MIN_POSITIVE { 256.0 / group.scale } else { 0.0 };
            let step = |(x, q): (&f32, &i32)| {
                let rest = (f64::from(*x) - f64::from(group.scale) * f64::from(*q)) as f32;
                (rest * inverse).round_ties_even().clamp(-128.0, 127.0) as i32
            };
            Group { scale, q: x.iter().zip(&group.q).map(step).collect() }
        })
        .collect()
}
