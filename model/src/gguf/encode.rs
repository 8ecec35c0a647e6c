//! How values of metadata are written.

use super::value::ValueType;

/// A length as it stands before strings and arrays.
pub(super) fn length(n: usize) -> [u8; 8] {
    u64::try_from(n).unwrap_or(u64::MAX).to_le_bytes()
}

/// What can be written as a metadata value.
pub trait Encode {
    /// Its type in the file.
    const TYPE: ValueType;
    /// Appends its bytes.
    fn encode(&self, out: &mut Vec<u8>);
}

/// Every number is written in the same way.
macro_rules! encode_number {
    ($($number:ty => $kind:ident),*) => {$(
        impl Encode for $number {
            const TYPE: ValueType = ValueType::$kind;
            fn encode(&self, out: &mut Vec<u8>) {
                out.extend(self.to_le_bytes());
            }
        }
    )*};
}
encode_number!(u8 => U8, i8 => I8, u16 => U16, i16 => I16, u32 => U32, i32 => I32, f32 => F32);
encode_number!(u64 => U64, i64 => I64, f64 => F64);

impl Encode for bool {
    const TYPE: ValueType = ValueType::Bool;
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }
}

impl Encode for [u8] {
    const TYPE: ValueType = ValueType::String;
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend(length(self.len()));
        out.extend(self);
    }
}

impl Encode for str {
    const TYPE: ValueType = ValueType::String;
    fn encode(&self, out: &mut Vec<u8>) {
        self.as_bytes().encode(out);
    }
}

impl Encode for Vec<u8> {
    const TYPE: ValueType = ValueType::String;
    fn encode(&self, out: &mut Vec<u8>) {
        self.as_slice().encode(out);
    }
}

impl Encode for String {
    const TYPE: ValueType = ValueType::String;
    fn encode(&self, out: &mut Vec<u8>) {
        self.as_bytes().encode(out);
    }
}

impl<T: Encode + ?Sized> Encode for &T {
    const TYPE: ValueType = T::TYPE;
    fn encode(&self, out: &mut Vec<u8>) {
        (**self).encode(out);
    }
}
