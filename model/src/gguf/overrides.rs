//! Values that take the place of what a file says, as `--override-kv KEY=TYPE:VALUE` sets them.

use super::value::{Value, ValueType};
use crate::LoadError;

/// A value set by the user; integers and floats fit entries of any width.
#[derive(Debug, Clone, PartialEq)]
pub enum OverrideValue {
    /// For every integer type.
    Integer(i64),
    /// For `f32` and `f64`.
    Float(f64),
    /// For `bool`.
    Bool(bool),
    /// For `str`.
    String(String),
}

impl OverrideValue {
    /// Reads `KEY=TYPE:VALUE`, with `int`, `float`, `bool` or `str` for the type.
    ///
    /// # Errors
    ///
    /// Another form, an unknown type, or a value that is none of its type.
    pub fn parse(text: &str) -> Result<(String, OverrideValue), LoadError> {
        let (key, kind, value) = text
            .split_once('=')
            .and_then(|(key, rest)| rest.split_once(':').map(|(kind, value)| (key, kind, value)))
            .filter(|(key, ..)| !key.is_empty())
            .ok_or_else(|| LoadError::Metadata {
                key: text.to_string(),
                reason: "is no override; write KEY=TYPE:VALUE, e.g. llama.context_length=int:4096"
                    .to_string(),
            })?;
        let parsed = match kind {
            "int" => value.parse().ok().map(OverrideValue::Integer),
            "float" => value.parse().ok().map(OverrideValue::Float),
            "bool" => value.parse().ok().map(OverrideValue::Bool),
            "str" => Some(OverrideValue::String(value.to_string())),
            _ => {
                let reason = format!("has override type {kind:?}; allowed: int, float, bool, str");
                return Err(LoadError::Metadata { key: key.to_string(), reason });
            }
        };
        let parsed = parsed.ok_or_else(|| LoadError::Metadata {
            key: key.to_string(),
            reason: format!("is overridden by {value:?}, which is no value of type {kind}"),
        })?;
        Ok((key.to_string(), parsed))
    }

    /// As a value of the file.
    pub(super) fn as_value(&self) -> Value<'_> {
        match self {
            OverrideValue::Integer(v) => Value::I64(*v),
            OverrideValue::Float(v) => Value::F64(*v),
            OverrideValue::Bool(v) => Value::Bool(*v),
            OverrideValue::String(v) => Value::String(v.as_bytes()),
        }
    }

    /// Whether it may stand for a value of type `held`.
    pub(super) fn replaces(&self, held: ValueType) -> bool {
        match self {
            OverrideValue::Integer(_) => held.is_integer(),
            OverrideValue::Float(_) => matches!(held, ValueType::F32 | ValueType::F64),
            OverrideValue::Bool(_) => held == ValueType::Bool,
            OverrideValue::String(_) => held == ValueType::String,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_form_is_read() {
        let parse = |text| OverrideValue::parse(text).unwrap();
        assert_eq!(parse("a.b=int:-3"), ("a.b".to_string(), OverrideValue::Integer(-3)));
        assert_eq!(parse("a=float:1e6").1, OverrideValue::Float(1e6));
        assert_eq!(parse("a=bool:true").1, OverrideValue::Bool(true));
        assert_eq!(parse("a=str:x=y:z").1, OverrideValue::String("x=y:z".to_string()));
        for (bad, want) in [
            ("a", "KEY=TYPE:VALUE"),
            ("a=3", "KEY=TYPE:VALUE"),
            ("=int:3", "KEY=TYPE:VALUE"),
            ("a=u8:3", "allowed: int, float, bool, str"),
            ("a=int:x", "no value of type int"),
            ("a=bool:1", "no value of type bool"),
        ] {
            let err = OverrideValue::parse(bad).unwrap_err().to_string();
            assert!(err.contains(want), "{bad}: {err}");
        }
    }
}
