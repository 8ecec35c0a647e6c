//! JSON objects in which no key may stand twice.
//!
//! JSON leaves open what a repeated key means; readers take the first, the last or both. A file that two programs
//! read differently can show a checker one model and the runner another, so it is refused.

use std::collections::HashSet;
use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};

/// The entries of an object, in the order of the text, under keys that are all different.
pub(crate) struct UniqueMap<V>(pub(crate) Vec<(String, V)>);

/// A value of such an object; its form may depend on its key.
pub(crate) trait Entry<'de>: Sized {
    /// Reads the value that follows `key`.
    fn read<A: MapAccess<'de>>(key: &str, map: &mut A) -> Result<Self, A::Error>;
}

impl<'de> Entry<'de> for String {
    fn read<A: MapAccess<'de>>(_: &str, map: &mut A) -> Result<String, A::Error> {
        map.next_value()
    }
}

impl<'de, V: Entry<'de>> Deserialize<'de> for UniqueMap<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<UniqueMap<V>, D::Error> {
        deserializer.deserialize_map(UniqueVisitor(PhantomData))
    }
}

struct UniqueVisitor<V>(PhantomData<V>);

impl<'de, V: Entry<'de>> Visitor<'de> for UniqueVisitor<V> {
    type Value = UniqueMap<V>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<UniqueMap<V>, A::Error> {
        let mut seen = HashSet::new();
        let mut out = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            if seen.contains(&key) {
                return Err(A::Error::custom(format!("the name {key:?} stands twice")));
            }
            let about = |err: A::Error| A::Error::custom(format!("{key:?}: {err}"));
            out.push((key.clone(), V::read(&key, &mut map).map_err(about)?));
            seen.insert(key);
        }
        Ok(UniqueMap(out))
    }
}
