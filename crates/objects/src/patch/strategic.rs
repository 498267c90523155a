//! Strategic merge patch: a merge patch that knows how lists are keyed.
//!
//! The results were compared with those of `kubectl patch --local` over random patches. Two
//! differences are meant: directives inside a new item are obeyed here and stored there, and a new
//! item goes before its neighbours also where the same patch deletes another one.

use serde_json::{Map, Value};

use super::MAP;
use crate::schema::{PatchMeta, Schema, SchemaRef};
use crate::{ApiError, Object, golang};

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const ELEMENT_ORDER: &str = "$setElementOrder/";
const DELETE_PRIMITIVES: &str = "$deleteFromPrimitiveList/";

/// Applies a strategic merge patch by the patch strategies and merge keys of a schema.
///
/// A kind without such a schema (any custom resource) has no strategic merge: the caller refuses
/// it with 415.
///
/// # Errors
/// 400 for a patch that is no object or has malformed lists; 500 without a reason, as Kubernetes has it, for an
/// unknown directive, an item without its merge key, and an order that does not fit.
pub fn strategic(document: &Object, patch: &Value, schema: &SchemaRef) -> Result<Object, ApiError> {
    let (original, patch) = match (document, patch) {
        (Value::Object(original), Value::Object(patch)) => (original, patch),
        (_, Value::Null) => return Ok(document.clone()),
        (_, other) => {
            return Err(ApiError::bad_request(format!(
                "json: cannot unmarshal {} into Go value of type {MAP}",
                golang::type_name(other)
            )));
        }
    };
    merge_map(original.clone(), patch, Some(schema)).map(Value::Object).map_err(|fault| match fault {
        Fault::Malformed(why) => ApiError::bad_request(why),
        Fault::Server(why) => ApiError::unclassified(why),
    })
}

/// What is wrong with a patch.
enum Fault {
    /// 400.
    Malformed(String),
    /// What Kubernetes takes for a fault of the server.
    Server(String),
}

impl From<String> for Fault {
    fn from(why: String) -> Self {
        Self::Malformed(why)
    }
}

impl From<&str> for Fault {
    fn from(why: &str) -> Self {
        Self::Malformed(why.to_owned())
    }
}

type Merged<T> = Result<T, Fault>;

fn directive(map: &Map<String, Value>) -> Merged<Option<&str>> {
    match map.get(DIRECTIVE) {
        None => Ok(None),
        Some(Value::String(word)) if matches!(word.as_str(), "merge" | "replace" | "delete") => {
            Ok(Some(word))
        }
        Some(other) => Err(unknown_directive(map, &golang::plain(other))),
    }
}

fn unknown_directive(map: &Map<String, Value>, word: &str) -> Fault {
    let map = golang::plain(&Value::Object(map.clone()));
    Fault::Server(format!("unknown patch type: {word} in map: {map}"))
}

fn merge_map(
    mut original: Map<String, Value>,
    patch: &Map<String, Value>,
    schema: Option<&Schema>,
) -> Merged<Map<String, Value>> {
    match directive(patch)? {
        Some("merge") => return Err(unknown_directive(patch, "merge")),
        Some("delete") => return Ok(Map::new()),
        // What stays in the patch is the whole new value.
        Some("replace") => {
            return Ok(patch
                .iter()
                .filter(|(key, _)| *key != DIRECTIVE)
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect());
        }
        _ => {}
    }
    if let Some(keys) = patch.get(RETAIN_KEYS) {
        retain_keys(&mut original, patch, keys)?;
    }
    for (key, value) in patch {
        if let Some(field) = key.strip_prefix(DELETE_PRIMITIVES) {
            let gone = value.as_array().ok_or_else(|| format!("{key}: must be a list"))?;
            if let Some(items) = original.get_mut(field).and_then(Value::as_array_mut) {
                items.retain(|item| !gone.contains(item));
            }
        }
    }
    for (key, value) in patch.iter().filter(|(key, _)| !key.starts_with('$')) {
        let field = schema.and_then(|schema| schema.field(key));
        merge_field(&mut original, key, value, patch, field)?;
    }
    // An order may be given without the list itself.
    for (key, order) in patch {
        if let Some(field) = key.strip_prefix(ELEMENT_ORDER)
            && !patch.contains_key(field)
            && let Some(items) = original.get_mut(field).and_then(Value::as_array_mut)
        {
            let merge_key = schema.and_then(|schema| schema.field(field)?.patch.merge_key.as_deref());
            let before = items.clone();
            *items = in_order(std::mem::take(items), order, &before, merge_key);
        }
    }
    Ok(original)
}

fn retain_keys(original: &mut Map<String, Value>, patch: &Map<String, Value>, keys: &Value) -> Merged<()> {
    let keys: Vec<&str> =
        keys.as_array().ok_or("$retainKeys: must be a list")?.iter().filter_map(Value::as_str).collect();
    if let Some(key) = patch.keys().find(|key| !key.starts_with('$') && !keys.contains(&key.as_str())) {
        return Err(Fault::Malformed(format!(
            "$retainKeys: the list must hold all fields that are patched, {key:?} is missing"
        )));
    }
    original.retain(|key, _| keys.contains(&key.as_str()));
    Ok(())
}

fn merge_field(
    original: &mut Map<String, Value>,
    key: &str,
    value: &Value,
    patch: &Map<String, Value>,
    field: Option<&SchemaRef>,
) -> Merged<()> {
    match value {
        Value::Null => {
            original.remove(key);
        }
        Value::Object(_) if field.is_some_and(|field| field.patch.replace) => {
            original.insert(key.to_owned(), value.clone());
        }
        Value::Object(inner) => {
            let before = match original.remove(key) {
                Some(Value::Object(map)) => map,
                _ => Map::new(),
            };
            let merged = merge_map(before, inner, field.map(|field| &**field))?;
            // A part that is deleted by its directive is gone, not empty.
            if directive(inner)? != Some("delete") {
                original.insert(key.to_owned(), Value::Object(merged));
            }
        }
        Value::Array(items) => {
            let plain = PatchMeta::default();
            let meta = field.map_or(&plain, |field| &field.patch);
            let merged = if meta.merge {
                let before = match original.remove(key) {
                    Some(Value::Array(list)) => list,
                    _ => Vec::new(),
                };
                let order = patch.get(&format!("{ELEMENT_ORDER}{key}"));
                let items_schema = field.and_then(|field| field.items.as_ref());
                merge_list(before, items, meta.merge_key.as_deref(), order, items_schema)?
            } else {
                items.clone()
            };
            original.insert(key.to_owned(), Value::Array(merged));
        }
        scalar => {
            original.insert(key.to_owned(), scalar.clone());
        }
    }
    Ok(())
}

fn merge_list(
    original: Vec<Value>,
    patch: &[Value],
    merge_key: Option<&str>,
    order: Option<&Value>,
    schema: Option<&SchemaRef>,
) -> Merged<Vec<Value>> {
    let before = original.clone();
    let merged = match merge_key {
        Some(merge_key) => merge_items(original, patch, merge_key, schema)?,
        None => {
            let mut out = original;
            for item in patch {
                if !out.contains(item) {
                    out.push(item.clone());
                }
            }
            out
        }
    };
    // Without an order given, the patch itself is one: so new items come first, as in Kubernetes.
    let order = match order {
        Some(order) => {
            fits_order(patch, order, merge_key)?;
            order.clone()
        }
        None => Value::Array(patch.to_vec()),
    };
    Ok(in_order(merged, &order, &before, merge_key))
}

/// Refuses an order in which the items of the patch stand differently or are missing.
fn fits_order(patch: &[Value], order: &Value, merge_key: Option<&str>) -> Merged<()> {
    let id = |item: &Value| merge_key.map_or_else(|| item.clone(), |key| item[key].clone());
    let mut wanted =
        patch.iter().filter(|item| merge_key.is_none() || item.get(DIRECTIVE).is_none()).map(id).peekable();
    for item in order.as_array().ok_or("$setElementOrder: must be a list")? {
        wanted.next_if(|next| *next == id(item));
    }
    match wanted.peek() {
        None => Ok(()),
        Some(_) => Err(Fault::Server(format!(
            "The order in patch list:\n{}\n doesn't match $setElementOrder list:\n{}\n",
            golang::plain(&Value::Array(patch.to_vec())),
            golang::plain(order)
        ))),
    }
}

fn merge_items(
    mut original: Vec<Value>,
    patch: &[Value],
    merge_key: &str,
    schema: Option<&SchemaRef>,
) -> Merged<Vec<Value>> {
    let maps: Vec<&Map<String, Value>> = patch
        .iter()
        .map(|item| {
            item.as_object()
                .ok_or_else(|| Fault::from(format!("{item} must be an object with the key {merge_key:?}")))
        })
        .collect::<Merged<_>>()?;
    let mut replace = false;
    for map in &maps {
        replace |= directive(map)? == Some("replace");
    }
    if replace {
        original.clear();
    }
    for map in maps {
        let word = directive(map)?;
        if word == Some("replace") {
            continue;
        }
        let Some(key) = map.get(merge_key) else {
            let map = golang::plain(&Value::Object(map.clone()));
            return Err(Fault::Server(format!(
                "map: {map} does not contain declared merge key: {merge_key}"
            )));
        };
        let at = original.iter().position(|item| item.get(merge_key) == Some(key));
        match (word, at) {
            (Some("delete"), _) => original.retain(|item| item.get(merge_key) != Some(key)),
            (_, at) => {
                let before = match at {
                    Some(at) => original[at].as_object().cloned().unwrap_or_default(),
                    None => Map::new(),
                };
                let merged = Value::Object(merge_map(before, map, schema.map(|schema| &**schema))?);
                match at {
                    Some(at) => original[at] = merged,
                    None => original.push(merged),
                }
            }
        }
    }
    Ok(original)
}

/// Sorts a merged list: items named by the order in that order, the others where they stood among
/// their old neighbours.
fn in_order(merged: Vec<Value>, order: &Value, before: &[Value], merge_key: Option<&str>) -> Vec<Value> {
    let id = |item: &Value| match merge_key {
        Some(key) => item.get(key).cloned().unwrap_or_default(),
        None => item.clone(),
    };
    let order: Vec<Value> = order.as_array().into_iter().flatten().map(id).collect();
    let before: Vec<Value> = before.iter().map(id).collect();
    let place = |list: &[Value], item: &Value| list.iter().position(|each| *each == id(item));
    let (mut named, mut others): (Vec<Value>, Vec<Value>) =
        merged.into_iter().partition(|item| place(&order, item).is_some());
    named.sort_by_key(|item| place(&order, item));
    others.sort_by_key(|item| place(&before, item));
    let mut out = Vec::with_capacity(named.len() + others.len());
    let mut others = others.into_iter().peekable();
    for item in named {
        while let Some(other) = others.next_if(
            |other| matches!((place(&before, other), place(&before, &item)), (Some(l), Some(r)) if l < r),
        ) {
            out.push(other);
        }
        out.push(item);
    }
    out.extend(others);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builtin;
    use serde_json::json;

    fn patched(kind: &str, document: Value, patch: Value) -> Value {
        strategic(&document, &patch, &schema(kind)).unwrap()
    }

    fn schema(kind: &str) -> SchemaRef {
        builtin::descriptors().into_iter().find(|each| each.kind == kind).unwrap().schema
    }

    fn containers(items: Value) -> Value {
        json!({"spec": {"template": {"spec": {"containers": items}}}})
    }

    #[test]
    fn containers_merge_by_name() {
        let before = containers(json!([{"name": "web", "image": "nginx:1", "args": ["a"]}]));
        let patch =
            containers(json!([{"name": "web", "image": "nginx:2"}, {"name": "log", "image": "fluent"}]));
        assert_eq!(
            patched("Deployment", before, patch),
            containers(
                json!([{"name": "web", "image": "nginx:2", "args": ["a"]}, {"name": "log", "image": "fluent"}])
            )
        );
    }

    #[test]
    fn atomic_lists_are_replaced_and_null_deletes() {
        let before = containers(json!([{"name": "web", "args": ["a", "b"], "image": "x"}]));
        let patch = containers(json!([{"name": "web", "args": ["c"], "image": null}]));
        assert_eq!(patched("Deployment", before, patch), containers(json!([{"name": "web", "args": ["c"]}])));
    }

    #[test]
    fn directives_delete_and_replace() {
        let before = containers(json!([{"name": "a", "image": "1"}, {"name": "b", "image": "2"}]));
        let delete = containers(json!([{"name": "a", "$patch": "delete"}]));
        assert_eq!(
            patched("Deployment", before.clone(), delete),
            containers(json!([{"name": "b", "image": "2"}]))
        );
        let replace = containers(json!([{"$patch": "replace"}, {"name": "c", "image": "3"}]));
        assert_eq!(
            patched("Deployment", before.clone(), replace),
            containers(json!([{"name": "c", "image": "3"}]))
        );
        let whole = json!({"spec": {"$patch": "replace", "replicas": 2}});
        assert_eq!(patched("Deployment", before.clone(), whole), json!({"spec": {"replicas": 2}}));
        let strategic = strategic(&before, &json!({"spec": {"$patch": "explode"}}), &builtin::object_meta());
        let error = strategic.unwrap_err();
        assert_eq!(
            (error.code(), error.message()),
            (500, "unknown patch type: explode in map: map[$patch:explode]")
        );
        let keyless = containers(json!([{"image": "x"}]));
        let all = builtin::descriptors();
        let schema = &all.iter().find(|each| each.kind == "Deployment").unwrap().schema;
        let error = super::strategic(&before, &keyless, schema).unwrap_err();
        assert_eq!(error.message(), "map: map[image:x] does not contain declared merge key: name");
    }

    #[test]
    fn retain_keys_clears_the_rest() {
        let before =
            json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}});
        let patch = json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}});
        assert_eq!(patched("Deployment", before, patch), json!({"spec": {"strategy": {"type": "Recreate"}}}));
    }

    #[test]
    fn element_order_is_kept() {
        let before = containers(json!([{"name": "a"}, {"name": "server"}, {"name": "b"}]));
        let patch = json!({"spec": {"template": {"spec": {
            "$setElementOrder/containers": [{"name": "b"}, {"name": "new"}, {"name": "a"}],
            "containers": [{"name": "new", "image": "x"}]
        }}}});
        assert_eq!(
            patched("Deployment", before, patch),
            containers(
                json!([{"name": "server"}, {"name": "b"}, {"name": "new", "image": "x"}, {"name": "a"}])
            )
        );
    }

    #[test]
    fn primitive_lists_merge_and_lose_items() {
        let before = json!({"metadata": {"finalizers": ["a/x", "b/x"]}});
        let add = json!({"metadata": {"finalizers": ["c/x", "a/x"]}});
        assert_eq!(
            patched("Pod", before.clone(), add)["metadata"]["finalizers"],
            json!(["c/x", "a/x", "b/x"])
        );
        let gone = json!({"metadata": {
            "$deleteFromPrimitiveList/finalizers": ["a/x"], "$setElementOrder/finalizers": ["b/x"]}});
        assert_eq!(patched("Pod", before, gone)["metadata"]["finalizers"], json!(["b/x"]));
    }

    #[test]
    fn ports_merge_by_their_number_and_volumes_keep_one_source() {
        let service = json!({"spec": {"ports": [{"port": 80, "name": "http", "targetPort": 8080}]}});
        let patch = json!({"spec": {"ports": [{"port": 80, "targetPort": 9090}, {"port": 443}]}});
        assert_eq!(
            patched("Service", service, patch),
            json!({"spec": {"ports": [{"port": 80, "name": "http", "targetPort": 9090}, {"port": 443}]}})
        );
        let pod = json!({"spec": {"volumes": [{"name": "v", "emptyDir": {}}]}});
        let patch = json!({"spec": {"volumes": [{"$retainKeys": ["name", "configMap"], "name": "v", "configMap": {"name": "c"}}]}});
        assert_eq!(
            patched("Pod", pod, patch),
            json!({"spec": {"volumes": [{"name": "v", "configMap": {"name": "c"}}]}})
        );
    }

    #[test]
    fn an_item_without_its_key_is_refused() {
        let error = strategic(&json!({}), &containers(json!([{"image": "x"}])), &schema("Deployment"));
        assert!(error.unwrap_err().message().contains("merge key: name"));
    }
}
