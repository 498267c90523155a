//! Reading any value, with a look for keys that are there more than once.

use std::collections::HashSet;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{DeserializeOwned, DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use serde_saphyr::Spanned;

use super::MAX_DEPTH;
use crate::Schema;

/// Most findings about repeated keys of one body.
const MAX_DUPLICATES: usize = 32;

/// A key as a format gives it.
pub(super) trait Key: DeserializeOwned {
    /// Whether a repeated key is noted after what is in its value.
    const LATE: bool;
    /// The key, and what is to be noted where it is there for the second time, at this path.
    fn text(&self) -> &str;
    fn repeated(&self, path: &[String]) -> String;
}

impl Key for String {
    const LATE: bool = false;

    fn text(&self) -> &str {
        self
    }

    fn repeated(&self, path: &[String]) -> String {
        format!("duplicate field {:?}", path.concat())
    }
}

impl Key for Spanned<String> {
    const LATE: bool = true;

    fn text(&self) -> &str {
        &self.value
    }

    fn repeated(&self, _: &[String]) -> String {
        format!("line {}: key {:?} already set in map", self.referenced.line(), self.value)
    }
}

fn too_deep() -> String {
    format!("the body nests deeper than {MAX_DEPTH} levels")
}

/// What is known of the value that is read.
#[derive(Clone, Copy)]
pub(super) enum Known<'a> {
    /// Nothing: all of it counts as it is.
    Anything,
    /// These are its fields, of a kind that Go reads into a type.
    Fields(&'a Schema),
    /// It is skipped, or kept as it came.
    Unread,
}

impl<'a> Known<'a> {
    fn field(self, key: &str) -> Self {
        match self {
            Self::Fields(schema) => schema.field(key).map_or(Self::Unread, |field| Self::Fields(field)),
            other => other,
        }
    }

    fn item(self) -> Self {
        match self {
            Self::Fields(schema) => schema.items.as_ref().map_or(Self::Unread, |item| Self::Fields(item)),
            other => other,
        }
    }
}

/// Reads a value, noting repeated keys and refusing deep nesting.
pub(super) struct Strict<'a, K> {
    duplicates: &'a mut Vec<String>,
    path: &'a mut Vec<String>,
    known: Known<'a>,
    /// The paths of all fields as they come, where somebody wants to know.
    pub(super) order: Option<&'a mut Vec<String>>,
    depth: usize,
    key: PhantomData<K>,
}

impl<'a, K> Strict<'a, K> {
    pub(super) fn new(duplicates: &'a mut Vec<String>, path: &'a mut Vec<String>, known: Known<'a>) -> Self {
        Self { duplicates, path, known, order: None, depth: 0, key: PhantomData }
    }

    fn inner(&mut self, known: Known<'a>) -> Strict<'_, K> {
        Strict {
            duplicates: self.duplicates,
            path: self.path,
            known,
            order: self.order.as_deref_mut(),
            depth: self.depth + 1,
            key: PhantomData,
        }
    }

    fn note(&mut self, findings: impl IntoIterator<Item = String>) {
        let room = MAX_DUPLICATES.saturating_sub(self.duplicates.len());
        self.duplicates.extend(findings.into_iter().take(room));
    }

    /// A value in the place of an earlier one of the same key: where the fields are known, it is laid over that.
    fn again(&mut self, known: Known<'a>, mut earlier: Value, later: Value) -> Value {
        let Known::Fields(schema) = known else { return later };
        let unknown = schema.prune_at(&mut earlier, &self.path.concat());
        self.note(unknown.iter().map(|path| format!("unknown field {path:?}")));
        schema.laid_over(earlier, later)
    }
}

impl<'de, K: Key> DeserializeSeed<'de> for Strict<'_, K> {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, reader: D) -> Result<Value, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de, K: Key> Visitor<'de> for Strict<'_, K> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        if value.is_finite() { Ok(value.into()) } else { Err(E::custom("a number must be finite")) }
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut access: A) -> Result<Value, A::Error> {
        if self.depth == MAX_DEPTH {
            return Err(A::Error::custom(too_deep()));
        }
        let mut list = Vec::new();
        loop {
            self.path.push(format!("[{}]", list.len()));
            let item = access.next_element_seed(self.inner(self.known.item()))?;
            self.path.pop();
            match item {
                Some(item) => list.push(item),
                None => return Ok(Value::Array(list)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut access: A) -> Result<Value, A::Error> {
        if self.depth == MAX_DEPTH {
            return Err(A::Error::custom(too_deep()));
        }
        let mut map = Map::new();
        let mut repeated = HashSet::new();
        while let Some(key) = access.next_key::<K>()? {
            let lead = if self.path.is_empty() { "" } else { "." };
            self.path.push(format!("{lead}{}", key.text()));
            if let Some(order) = &mut self.order {
                order.push(self.path.concat());
            }
            let earlier = map.remove(key.text());
            let is_new = earlier.is_some()
                && !matches!(self.known, Known::Unread)
                && repeated.insert(key.text().to_owned());
            let known = self.known.field(key.text());
            // Of an unknown field it does not count how often it is there.
            let finding = (is_new && !matches!(known, Known::Unread)).then(|| key.repeated(self.path));
            let (soon, late) = if K::LATE { (None, finding) } else { (finding, None) };
            self.note(soon);
            let mut value = access.next_value_seed(self.inner(known))?;
            self.note(late);
            if let Some(earlier) = earlier {
                value = self.again(known, earlier, value);
            }
            self.path.pop();
            map.insert(key.text().to_owned(), value);
        }
        Ok(Value::Object(map))
    }
}
