//! Names and numbers of whole files' types, as llama.cpp gave them.

use gable_kernels::quant::Format;

/// How the tensors of a file share the bits, beside its main format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mix {
    /// One format, but for the output matrix.
    Plain,
    /// A few early matrices get one bit more.
    Small,
    /// Half of the sensitive matrices get six bits.
    Medium,
}

/// What a file is quantized to: `Q4_K_M` is not a tensor's type but a rule which tensor gets which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileType {
    /// Its name.
    pub name: &'static str,
    /// `general.file_type`.
    pub number: u32,
    /// What most tensors get.
    pub format: Format,
    pub(super) mix: Mix,
}

const fn plain(name: &'static str, number: u32, format: Format) -> FileType {
    FileType { name, number, format, mix: Mix::Plain }
}

const fn mixed(name: &'static str, number: u32, format: Format, mix: Mix) -> FileType {
    FileType { name, number, format, mix }
}

/// Every type that can be made.
pub static FILE_TYPES: [FileType; 15] = [
    plain("F32", 0, Format::F32),
    plain("F16", 1, Format::F16),
    plain("BF16", 32, Format::BF16),
    plain("Q8_0", 7, Format::Q8_0),
    plain("Q6_K", 18, Format::Q6_K),
    mixed("Q5_K_M", 17, Format::Q5_K, Mix::Medium),
    mixed("Q5_K_S", 16, Format::Q5_K, Mix::Small),
    plain("Q5_1", 9, Format::Q5_1),
    plain("Q5_0", 8, Format::Q5_0),
    mixed("Q4_K_M", 15, Format::Q4_K, Mix::Medium),
    mixed("Q4_K_S", 14, Format::Q4_K, Mix::Small),
    plain("IQ4_NL", 25, Format::IQ4_NL),
    plain("IQ4_XS", 30, Format::IQ4_XS),
    plain("Q4_1", 3, Format::Q4_1),
    plain("Q4_0", 2, Format::Q4_0),
];

impl FileType {
    /// By name in any case or by number; `Q4_K` and `Q5_K` are short for the medium mixes.
    pub fn parse(text: &str) -> Option<&'static FileType> {
        let number = text.parse::<u32>().ok();
        let name = match text.to_ascii_uppercase().as_str() {
            "Q4_K" => "Q4_K_M".to_owned(),
            "Q5_K" => "Q5_K_M".to_owned(),
            name => name.to_owned(),
        };
        FILE_TYPES.iter().find(|t| number.map_or(t.name == name, |n| t.number == n))
    }
}

/// The tensor type of that name, in any case, if it can be made.
pub fn format_by_name(text: &str) -> Option<Format> {
    Format::ALL.into_iter().find(|f| f.can_quantize() && f.name().eq_ignore_ascii_case(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_found_by_name_in_any_case_and_by_number() {
        for (text, name) in [("q4_k_m", "Q4_K_M"), ("15", "Q4_K_M"), ("Q4_K", "Q4_K_M"), ("q5_k", "Q5_K_M")] {
            assert_eq!(FileType::parse(text).unwrap().name, name);
        }
        assert_eq!(FileType::parse("0").unwrap().name, "F32");
        assert_eq!(FileType::parse("bf16").unwrap().format, Format::BF16);
        assert!(FileType::parse("4").is_none() && FileType::parse("Q4_K_L").is_none());
        assert_eq!(format_by_name("q5_k"), Some(Format::Q5_K));
        assert_eq!(format_by_name("iq4_nl"), Some(Format::IQ4_NL));
        assert_eq!(format_by_name("q2_k"), None);
    }
}
