//! Reading any value, with a look for keys that are there more than once.

use std::collections::HashMap;
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
    /// Notes where fields stand, where somebody wants to know.
    pub(super) order: Option<&'a mut Order>,
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

    fn room(&self) -> usize {
        MAX_DUPLICATES.saturating_sub(self.duplicates.len())
    }

    fn enter(&mut self, step: String) {
        if let Some(order) = &mut self.order {
            order.enter(&step);
        }
        self.path.push(step);
    }

    fn leave(&mut self) {
        if let Some(order) = &mut self.order {
            order.leave();
        }
        self.path.pop();
    }

    /// Takes the value of a key that is there once more, `last`, to those before it. Each of them is looked at once, however many
    /// there are: what is `clean` is not looked at again.
    fn lay(&mut self, schema: &Schema, clean: Option<Value>, mut last: Value) -> Value {
        if last.is_object() || last.is_array() {
            let unknown = schema.prune(&mut last);
            let room = self.room();
            if room > 0 && !unknown.is_empty() {
                let start = self.path.concat();
                let dot = |path: &str| if path.starts_with('[') { "" } else { "." };
                let said = unknown
                    .iter()
                    .map(|path| format!("unknown field {:?}", format!("{start}{}{path}", dot(path))));
                self.duplicates.extend(said.take(room));
            }
        }
        match clean {
            Some(clean) => schema.laid_over(clean, last),
            None => last,
        }
    }
}

/// Where fields of these paths stand in a body. Paths are told apart by a hash of their text, so that the way to each of many fields
/// costs no more than its own name.
pub(super) struct Order {
    places: HashMap<u64, Vec<usize>>,
    fields: usize,
    hashes: Vec<u64>,
}

impl Order {
    /// Notes these paths.
    pub(super) fn of<'p>(paths: impl Iterator<Item = &'p str>) -> Self {
        let places = paths.map(|path| (hash(HASH_OF_NOTHING, path), Vec::new())).collect();
        Self { places, fields: 0, hashes: Vec::new() }
    }

    fn enter(&mut self, step: &str) {
        let above = self.hashes.last().copied().unwrap_or(HASH_OF_NOTHING);
        self.hashes.push(hash(above, step));
    }

    fn leave(&mut self) {
        self.hashes.pop();
    }

    /// The field that was entered stands here.
    fn note(&mut self) {
        self.fields += 1;
        if let Some(places) = self.hashes.last().and_then(|hash| self.places.get_mut(hash))
            && places.len() < PLACES
        {
            places.push(self.fields);
        }
    }

    /// Where the field of this path stands for the first time (`nth` is 0) or the second.
    pub(super) fn place(&self, path: &str, nth: usize) -> Option<usize> {
        self.places.get(&hash(HASH_OF_NOTHING, path))?.get(nth).copied()
    }
}

/// Places of one path that are of interest: that of its first finding, and of its repetition.
const PLACES: usize = 2;
/// FNV-1a, 64 bits. It goes on where it ended, as a path does; who makes two paths collide has two findings in another order.
const HASH_OF_NOTHING: u64 = 0xcbf2_9ce4_8422_2325;

fn hash(start: u64, text: &str) -> u64 {
    text.bytes().fold(start, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
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
            self.enter(format!("[{}]", list.len()));
            let item = access.next_element_seed(self.inner(self.known.item()))?;
            self.leave();
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
        // Keys that are there more than once: what all values but the last make together, where fields are known.
        let mut repeated: HashMap<String, Option<Value>> = HashMap::new();
        while let Some(key) = access.next_key::<K>()? {
            let lead = if self.path.is_empty() { "" } else { "." };
            self.enter(format!("{lead}{}", key.text()));
            if let Some(order) = &mut self.order {
                order.note();
            }
            let earlier = map.remove(key.text());
            let known = self.known.field(key.text());
            // Of an unknown field it does not count how often it is there.
            let tells = earlier.is_some()
                && !matches!(known, Known::Unread)
                && !repeated.contains_key(key.text())
                && self.room() > 0;
            let finding = tells.then(|| key.repeated(self.path));
            let (soon, late) = if K::LATE { (None, finding) } else { (finding, None) };
            self.duplicates.extend(soon);
            let value = access.next_value_seed(self.inner(known))?;
            if self.room() > 0 {
                self.duplicates.extend(late);
            }
            if let Some(earlier) = earlier {
                let before = repeated.remove(key.text()).flatten();
                let clean = match known {
                    Known::Fields(schema) => Some(self.lay(schema, before, earlier)),
                    _ => None,
                };
                repeated.insert(key.text().to_owned(), clean);
            }
            self.leave();
            map.insert(key.text().to_owned(), value);
        }
        for (key, clean) in repeated {
            let (Some(clean), Known::Fields(schema)) = (clean, self.known.field(&key)) else { continue };
            if let Some(last) = map.remove(&key) {
                map.insert(key, schema.laid_over(clean, last));
            }
        }
        Ok(Value::Object(map))
    }
}
