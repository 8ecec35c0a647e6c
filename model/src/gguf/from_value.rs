//! Conversions from metadata values to the types that the rest of the crate works with.

use super::array::Array;
use super::value::Value;

/// What [`Metadata::get`](super::Metadata::get) can give.
pub trait FromValue<'a>: Sized {
    /// What is accepted, for messages.
    fn expected() -> String;
    /// The value as this type, if it is one and fits.
    fn from_value(value: Value<'a>) -> Option<Self>;
}

/// One conversion for every integer type, from a value of any integer type.
macro_rules! integer_from_value {
    ($($int:ty),*) => {$(
        impl FromValue<'_> for $int {
            fn expected() -> String {
                format!("an integer of {} to {}", <$int>::MIN, <$int>::MAX)
            }
            fn from_value(value: Value<'_>) -> Option<$int> {
                value.as_integer()?.try_into().ok()
            }
        }
    )*};
}
integer_from_value!(u8, u16, u32, u64, usize, i32, i64);

impl FromValue<'_> for f32 {
    fn expected() -> String {
        "an f32".to_string()
    }

    fn from_value(value: Value<'_>) -> Option<f32> {
        let wide = value.as_float()?;
        // Rounds; a number that only f64 can hold becomes infinite and is refused.
        let narrow = wide as f32;
        (narrow.is_finite() || !wide.is_finite()).then_some(narrow)
    }
}

impl FromValue<'_> for bool {
    fn expected() -> String {
        "a bool".to_string()
    }

    fn from_value(value: Value<'_>) -> Option<bool> {
        if let Value::Bool(v) = value { Some(v) } else { None }
    }
}

impl<'a> FromValue<'a> for &'a str {
    fn expected() -> String {
        "UTF-8 text".to_string()
    }

    fn from_value(value: Value<'a>) -> Option<&'a str> {
        if let Value::String(bytes) = value { std::str::from_utf8(bytes).ok() } else { None }
    }
}

impl<'a> FromValue<'a> for Array<'a> {
    fn expected() -> String {
        "an array".to_string()
    }

    fn from_value(value: Value<'a>) -> Option<Array<'a>> {
        if let Value::Array(array) = value { Some(array) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_pass_between_widths_only_if_they_fit() {
        assert_eq!(u32::from_value(Value::U8(7)), Some(7));
        assert_eq!(u64::from_value(Value::I32(7)), Some(7));
        assert_eq!(u32::from_value(Value::I64(-1)), None);
        assert_eq!(u16::from_value(Value::U32(65_536)), None);
        assert_eq!(i32::from_value(Value::U64(u64::MAX)), None);
        assert_eq!(u32::from_value(Value::F32(1.0)), None);
        assert_eq!(u32::from_value(Value::Bool(true)), None);
    }

    #[test]
    fn a_double_too_large_for_f32_is_refused() {
        assert_eq!(f32::from_value(Value::F64(1e6)), Some(1e6));
        assert_eq!(f32::from_value(Value::F64(1e300)), None);
        assert_eq!(f32::from_value(Value::F64(f64::INFINITY)), Some(f32::INFINITY));
        assert_eq!(f32::from_value(Value::U32(1)), None);
    }

    #[test]
    fn text_must_be_utf_8() {
        assert_eq!(<&str>::from_value(Value::String(b"ab")), Some("ab"));
        assert_eq!(<&str>::from_value(Value::String(b"\xff")), None);
    }
}
