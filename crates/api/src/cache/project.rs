//! Reads a few values out of a JSON document without building the rest of it.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// What is wanted below one value; empty: the value itself.
#[derive(Default)]
struct Tree<'p>(BTreeMap<&'p str, Tree<'p>>);

/// An object that holds the values at these paths (parts joined by dots) and nothing else. Paths that lead nowhere are
/// left out; a document that is no JSON has none.
pub(crate) fn project<'p>(json: &[u8], paths: impl IntoIterator<Item = &'p str>) -> Value {
    let mut tree = Tree::default();
    for path in paths {
        let mut at = &mut tree;
        for part in path.trim_start_matches('.').split('.') {
            at = at.0.entry(part).or_default();
        }
    }
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let found = Wanted(&tree).deserialize(&mut deserializer);
    found.ok().flatten().unwrap_or_else(|| Value::Object(Map::new()))
}

#[derive(Clone, Copy)]
struct Wanted<'t, 'p>(&'t Tree<'p>);

impl<'de> DeserializeSeed<'de> for Wanted<'_, '_> {
    type Value = Option<Value>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        if self.0.0.is_empty() {
            return serde::Deserialize::deserialize(deserializer).map(Some);
        }
        deserializer.deserialize_any(self)
    }
}

/// What is no object has nothing below it.
macro_rules! nothing {
    ($($method:ident: $type:ty),*) => {
        $(fn $method<E>(self, _: $type) -> Result<Self::Value, E> {
            Ok(None)
        })*
    };
}

impl<'de> Visitor<'de> for Wanted<'_, '_> {
    type Value = Option<Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    nothing!(visit_bool: bool, visit_i64: i64, visit_u64: u64, visit_f64: f64, visit_str: &str);

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(None)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut out = Map::new();
        while let Some(found) = map.next_key_seed(Key(self.0))? {
            let Some((name, below)) = found else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            if let Some(value) = map.next_value_seed(Wanted(below))? {
                out.insert(name.to_owned(), value);
            }
        }
        Ok(Some(Value::Object(out)))
    }
}

/// A key: what is wanted below it, if anything is. Nothing is copied of the others.
struct Key<'t, 'p>(&'t Tree<'p>);

impl<'de, 't, 'p> DeserializeSeed<'de> for Key<'t, 'p> {
    type Value = Option<(&'p str, &'t Tree<'p>)>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'t, 'p> Visitor<'_> for Key<'t, 'p> {
    type Value = Option<(&'p str, &'t Tree<'p>)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<Self::Value, E> {
        Ok(self.0.0.get_key_value(key).map(|(name, below)| (*name, below)))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_is_asked_for_is_read() {
        let document = json!({
            "metadata": {"name": "a", "labels": {"l": "v"}, "annotations": {"x": "y"}},
            "spec": {"nodeName": "n", "containers": [{"name": "c"}], "hostNetwork": true},
            "status": null, "list": [1, 2], "quoted\"key": {"in": 1},
        });
        let bytes = document.to_string().into_bytes();
        let paths = [
            ".metadata.name",
            "metadata.labels",
            "spec.nodeName",
            "spec.hostNetwork",
            "list.a",
            "status.x",
            "none",
        ];
        assert_eq!(
            project(&bytes, paths),
            json!({"metadata": {"name": "a", "labels": {"l": "v"}}, "spec": {"nodeName": "n", "hostNetwork": true}})
        );
        assert_eq!(project(b"{broken", ["a"]), json!({}));
        assert_eq!(
            project(br#"{"quoted\"key":{"in":1}}"#, ["quoted\"key.in"]),
            json!({"quoted\"key": {"in": 1}})
        );
    }
}
