//! The element types of weight matrices, as they lie in files.
//!
//! A block format stores `block_len` consecutive values of a row in `block_bytes` bytes: small integers plus one
//! or more scales. Rows are whole numbers of blocks, so a row starts on a block.

/// Element type of a weight matrix, in its on-file layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(non_camel_case_types)]
#[non_exhaustive]
pub enum Format {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// The upper half of a binary32.
    BF16,
    /// 32 values: f16 `d`, 4-bit `q`; `w = d (q - 8)`.
    Q4_0,
    /// 32 values: f16 `d`, f16 `m`, 4-bit `q`; `w = d q + m`.
    Q4_1,
    /// 32 values: f16 `d`, 5-bit `q`; `w = d (q - 16)`.
    Q5_0,
    /// 32 values: f16 `d`, f16 `m`, 5-bit `q`; `w = d q + m`.
    Q5_1,
    /// 32 values: f16 `d`, signed 8-bit `q`; `w = d q`.
    Q8_0,
    /// 256 values in 16 sub-blocks of 16: f16 `d` and `dmin`, 4-bit scales and mins, 2-bit `q`;
    /// `w = d s q - dmin m`.
    Q2_K,
    /// 256 values in 16 sub-blocks of 16: f16 `d`, 6-bit scales around 32, 3-bit `q`; `w = d s (q - 4)`.
    Q3_K,
    /// 256 values in 8 sub-blocks of 32: f16 `d` and `dmin`, 6-bit scales and mins, 4-bit `q`.
    Q4_K,
    /// As [`Format::Q4_K`] with 5-bit `q`.
    Q5_K,
    /// 256 values in 16 sub-blocks of 16: f16 `d`, signed 8-bit scales, 6-bit `q`; `w = d s (q - 32)`.
    Q6_K,
    /// 32 values: f16 `d`, 4-bit `q`; `w = d t[q]` with the table [`Format::NONLINEAR`].
    IQ4_NL,
    /// 256 values in 8 sub-blocks of 32: f16 `d`, 6-bit scales around 32, 4-bit `q`; `w = d s t[q]`.
    IQ4_XS,
    /// 32 values: f16 `d`, 8-bit zero point `z`, 4-bit `q`; `w = d (q - z)`. Not a type of GGUF: what group-wise weights
    /// of AWQ, GPTQ and ONNX files become (see [`int4`](crate::quant::int4)).
    INT4,
}

impl Format {
    /// Every format that the kernels multiply with.
    pub const ALL: [Format; 16] = [
        Format::F32,
        Format::F16,
        Format::BF16,
        Format::Q4_0,
        Format::Q4_1,
        Format::Q5_0,
        Format::Q5_1,
        Format::Q8_0,
        Format::Q2_K,
        Format::Q3_K,
        Format::Q4_K,
        Format::Q5_K,
        Format::Q6_K,
        Format::IQ4_NL,
        Format::IQ4_XS,
        Format::INT4,
    ];

    /// What the 4-bit integers of [`Format::IQ4_NL`] and [`Format::IQ4_XS`] stand for: denser around zero, where most
    /// weights are.
    pub const NONLINEAR: [i8; 16] =
        [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

    /// The format of a GGUF tensor type number, if it is one of ours.
    pub fn from_gguf_id(id: u32) -> Option<Format> {
        Format::all_of_gguf().find(|f| f.gguf_id() == Some(id))
    }

    /// Those of [`Format::ALL`] that GGUF files hold.
    pub fn all_of_gguf() -> impl Iterator<Item = Format> {
        Format::ALL.into_iter().filter(|f| f.gguf_id().is_some())
    }

    /// The GGUF tensor type number, if GGUF files hold the format.
    pub fn gguf_id(self) -> Option<u32> {
        Some(match self {
            Format::F32 => 0,
            Format::F16 => 1,
            Format::Q4_0 => 2,
            Format::Q4_1 => 3,
            Format::Q5_0 => 6,
            Format::Q5_1 => 7,
            Format::Q8_0 => 8,
            Format::Q2_K => 10,
            Format::Q3_K => 11,
            Format::Q4_K => 12,
            Format::Q5_K => 13,
            Format::Q6_K => 14,
            Format::IQ4_NL => 20,
            Format::IQ4_XS => 23,
            Format::BF16 => 30,
            Format::INT4 => return None,
        })
    }

    /// The name used in files and tables, e.g. `Q4_K`.
    pub fn name(self) -> &'static str {
        match self {
            Format::F32 => "F32",
            Format::F16 => "F16",
            Format::BF16 => "BF16",
            Format::Q4_0 => "Q4_0",
            Format::Q4_1 => "Q4_1",
            Format::Q5_0 => "Q5_0",
            Format::Q5_1 => "Q5_1",
            Format::Q8_0 => "Q8_0",
            Format::Q2_K => "Q2_K",
            Format::Q3_K => "Q3_K",
            Format::Q4_K => "Q4_K",
            Format::Q5_K => "Q5_K",
            Format::Q6_K => "Q6_K",
            Format::IQ4_NL => "IQ4_NL",
            Format::IQ4_XS => "IQ4_XS",
            Format::INT4 => "INT4",
        }
    }

    /// Values per block; 1 for plain floats.
    pub fn block_len(self) -> usize {
        match self {
            Format::F32 | Format::F16 | Format::BF16 => 1,
            Format::Q4_0 | Format::Q4_1 | Format::Q5_0 | Format::Q5_1 | Format::Q8_0 => 32,
            Format::IQ4_NL | Format::INT4 => 32,
            Format::Q2_K | Format::Q3_K | Format::Q4_K | Format::Q5_K | Format::Q6_K | Format::IQ4_XS => 256,
        }
    }

    /// Bytes per block.
    pub fn block_bytes(self) -> usize {
        match self {
            Format::F32 => 4,
            Format::F16 | Format::BF16 => 2,
            Format::Q4_0 => 18,
            Format::Q4_1 => 20,
            Format::Q5_0 => 22,
            Format::Q5_1 => 24,
            Format::Q8_0 => 34,
            Format::Q2_K => 84,
            Format::Q3_K => 110,
            Format::Q4_K => 144,
            Format::Q5_K => 176,
            Format::Q6_K => 210,
            Format::IQ4_NL => 18,
            Format::IQ4_XS => 136,
            Format::INT4 => 19,
        }
    }

    /// Byte offsets of the f16 scales (and minima) in a block; none for plain floats.
    pub fn scale_offsets(self) -> &'static [usize] {
        match self {
            Format::F32 | Format::F16 | Format::BF16 => &[],
            Format::Q4_0 | Format::Q5_0 | Format::Q8_0 | Format::IQ4_NL | Format::IQ4_XS | Format::INT4 => {
                &[0]
            }
            Format::Q4_1 | Format::Q5_1 | Format::Q4_K | Format::Q5_K => &[0, 2],
            Format::Q2_K => &[80, 82],
            Format::Q3_K => &[108],
            Format::Q6_K => &[208],
        }
    }

    /// Values that share a scale; 1 for plain floats.
    pub fn sub_block_len(self) -> usize {
        match self {
            Format::F32 | Format::F16 | Format::BF16 => 1,
            Format::Q2_K | Format::Q3_K | Format::Q6_K => 16,
            _ => 32,
        }
    }

    /// Whether values are stored in blocks with shared scales.
    pub fn is_block_quantized(self) -> bool {
        self.block_len() > 1
    }

    /// Bytes of a row of `cols` values; `None` if `cols` is not a whole number of blocks or the size overflows.
    pub fn row_bytes(self, cols: usize) -> Option<usize> {
        if !cols.is_multiple_of(self.block_len()) {
            return None;
        }
        (cols / self.block_len()).checked_mul(self.block_bytes())
    }
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
