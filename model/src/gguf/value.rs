//! Typed metadata values as views of the mapped bytes.
//!
//! A scalar is decoded when it is asked for; a string stays bytes, because tokens need not be text; for arrays see
//! [`Array`].

use std::fmt;

use super::array::Array;

/// Type of a metadata value or of an array's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum ValueType {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    String,
    Array,
    U64,
    I64,
    F64,
}

impl ValueType {
    /// Every type, at the index that is its number in the file.
    pub const ALL: [ValueType; 13] = [
        ValueType::U8,
        ValueType::I8,
        ValueType::U16,
        ValueType::I16,
        ValueType::U32,
        ValueType::I32,
        ValueType::F32,
        ValueType::Bool,
        ValueType::String,
        ValueType::Array,
        ValueType::U64,
        ValueType::I64,
        ValueType::F64,
    ];

    /// The type with this number.
    pub fn from_id(id: u32) -> Option<ValueType> {
        ValueType::ALL.get(usize::try_from(id).ok()?).copied()
    }

    /// Its number in the file.
    pub fn id(self) -> u32 {
        self as u32
    }

    /// Its name, e.g. `u32` or `str`.
    pub fn name(self) -> &'static str {
        match self {
            ValueType::U8 => "u8",
            ValueType::I8 => "i8",
            ValueType::U16 => "u16",
            ValueType::I16 => "i16",
            ValueType::U32 => "u32",
            ValueType::I32 => "i32",
            ValueType::F32 => "f32",
            ValueType::Bool => "bool",
            ValueType::String => "str",
            ValueType::Array => "array",
            ValueType::U64 => "u64",
            ValueType::I64 => "i64",
            ValueType::F64 => "f64",
        }
    }

    /// Bytes of one value; `None` for strings and arrays.
    pub fn size(self) -> Option<usize> {
        match self {
            ValueType::U8 | ValueType::I8 | ValueType::Bool => Some(1),
            ValueType::U16 | ValueType::I16 => Some(2),
            ValueType::U32 | ValueType::I32 | ValueType::F32 => Some(4),
            ValueType::U64 | ValueType::I64 | ValueType::F64 => Some(8),
            ValueType::String | ValueType::Array => None,
        }
    }

    /// Whether it is an integer of some width.
    pub fn is_integer(self) -> bool {
        use ValueType::*;
        matches!(self, U8 | I8 | U16 | I16 | U32 | I32 | U64 | I64)
    }
}

impl fmt::Display for ValueType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A metadata value. `Display` prints it on one line without control characters, shortened unless the alternate form
/// (`{:#}`) is asked for.
#[derive(Debug, Clone, Copy, PartialEq)]
#[allow(missing_docs)]
pub enum Value<'a> {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    /// Bytes, by convention UTF-8.
    String(&'a [u8]),
    Array(Array<'a>),
    U64(u64),
    I64(i64),
    F64(f64),
}

impl<'a> Value<'a> {
    /// Its type.
    pub fn value_type(&self) -> ValueType {
        match self {
            Value::U8(_) => ValueType::U8,
            Value::I8(_) => ValueType::I8,
            Value::U16(_) => ValueType::U16,
            Value::I16(_) => ValueType::I16,
            Value::U32(_) => ValueType::U32,
            Value::I32(_) => ValueType::I32,
            Value::F32(_) => ValueType::F32,
            Value::Bool(_) => ValueType::Bool,
            Value::String(_) => ValueType::String,
            Value::Array(_) => ValueType::Array,
            Value::U64(_) => ValueType::U64,
            Value::I64(_) => ValueType::I64,
            Value::F64(_) => ValueType::F64,
        }
    }

    /// The number, if it is an integer of any width.
    pub fn as_integer(&self) -> Option<i128> {
        Some(match *self {
            Value::U8(v) => v.into(),
            Value::I8(v) => v.into(),
            Value::U16(v) => v.into(),
            Value::I16(v) => v.into(),
            Value::U32(v) => v.into(),
            Value::I32(v) => v.into(),
            Value::U64(v) => v.into(),
            Value::I64(v) => v.into(),
            _ => return None,
        })
    }

    /// The number, if it is a floating-point one.
    pub fn as_float(&self) -> Option<f64> {
        match *self {
            Value::F32(v) => Some(v.into()),
            Value::F64(v) => Some(v),
            _ => None,
        }
    }

    /// Decodes a value of fixed size from the start of `bytes`.
    pub(super) fn from_le_bytes(kind: ValueType, bytes: &[u8]) -> Option<Value<'static>> {
        fn le<const N: usize>(bytes: &[u8]) -> Option<[u8; N]> {
            bytes.first_chunk().copied()
        }
        Some(match kind {
            ValueType::U8 => Value::U8(u8::from_le_bytes(le(bytes)?)),
            ValueType::I8 => Value::I8(i8::from_le_bytes(le(bytes)?)),
            ValueType::U16 => Value::U16(u16::from_le_bytes(le(bytes)?)),
            ValueType::I16 => Value::I16(i16::from_le_bytes(le(bytes)?)),
            ValueType::U32 => Value::U32(u32::from_le_bytes(le(bytes)?)),
            ValueType::I32 => Value::I32(i32::from_le_bytes(le(bytes)?)),
            ValueType::F32 => Value::F32(f32::from_le_bytes(le(bytes)?)),
            ValueType::Bool => Value::Bool(u8::from_le_bytes(le(bytes)?) != 0),
            ValueType::U64 => Value::U64(u64::from_le_bytes(le(bytes)?)),
            ValueType::I64 => Value::I64(i64::from_le_bytes(le(bytes)?)),
            ValueType::F64 => Value::F64(f64::from_le_bytes(le(bytes)?)),
            ValueType::String | ValueType::Array => return None,
        })
    }
}

impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::F32(v) => write!(f, "{v:?}"),
            Value::F64(v) => write!(f, "{v:?}"),
            Value::Bool(v) => write!(f, "{v}"),
            Value::String(bytes) => write_string(f, bytes),
            Value::Array(array) => array.fmt(f),
            other => write!(f, "{}", other.as_integer().unwrap_or(0)),
        }
    }
}

/// Quotes and escapes a string, so that a file cannot send control sequences to a terminal.
fn write_string(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    const SHOWN: usize = 72;
    let text =
        String::from_utf8_lossy(if f.alternate() { bytes } else { bytes.get(..4 * SHOWN).unwrap_or(bytes) });
    let shown = if f.alternate() { usize::MAX } else { SHOWN };
    let head: String = text.chars().take(shown).collect();
    write!(f, "{head:?}")?;
    if head.len() < bytes.len() && !f.alternate() {
        write!(f, "... ({} bytes)", bytes.len())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn type_numbers_are_places_in_the_list() {
        for (id, kind) in (0..).zip(ValueType::ALL) {
            assert_eq!((kind.id(), ValueType::from_id(id)), (id, Some(kind)));
        }
        assert_eq!(ValueType::from_id(13), None);
        assert_eq!(ValueType::from_id(u32::MAX), None);
    }

    #[test]
    fn values_print_on_one_line_without_control_characters() {
        assert_eq!(Value::F32(1e-5).to_string(), "1e-5");
        assert_eq!(Value::I8(-3).to_string(), "-3");
        assert_eq!(Value::String(b"a\x1b[31m\n\"").to_string(), r#""a\u{1b}[31m\n\"""#);
        let long = [b'x'; 100];
        assert!(Value::String(&long).to_string().ends_with("x\"... (100 bytes)"));
        assert_eq!(format!("{:#}", Value::String(&long)).len(), 102);
        let a = Array { key: "k", element: ValueType::U8, len: 9, bytes: &[1, 2, 3, 4, 5, 6, 7, 8, 9] };
        assert_eq!(Value::Array(a).to_string(), "[1, 2, 3, 4, 5, 6, ...] (9 x u8)");
        assert_eq!(format!("{:#}", a), "[1, 2, 3, 4, 5, 6, 7, 8, 9]");
    }
}
