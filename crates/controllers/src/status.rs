//! Writing a status: the difference alone, on top of the very object that was seen.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde::Serialize;
use serde_json::{Map, Value, json};

/// The merge patch (RFC 7386) that brings the status of the object with `meta` from `before` to `after`; none when they are
/// alike. It fails with a conflict when the object changed since.
pub(crate) fn status_patch<S: Serialize>(meta: &ObjectMeta, before: &S, after: &S) -> Option<Value> {
    let difference = difference(&json!(before), &json!(after))?;
    Some(json!({
        "metadata": {"uid": meta.uid, "resourceVersion": meta.resource_version},
        "status": difference,
    }))
}

fn difference(before: &Value, after: &Value) -> Option<Value> {
    let (Some(old), Some(new)) = (before.as_object(), after.as_object()) else {
        return (before != after).then(|| after.clone());
    };
    let mut changes = Map::new();
    for (key, value) in new {
        let change = match old.get(key) {
            Some(was) => difference(was, value),
            None => Some(value.clone()),
        };
        changes.extend(change.map(|change| (key.clone(), change)));
    }
    changes.extend(old.keys().filter(|key| !new.contains_key(*key)).map(|key| (key.clone(), Value::Null)));
    (!changes.is_empty()).then_some(Value::Object(changes))
}

/// A count as statuses say it: none at all is left out.
pub(crate) fn count(number: i32) -> Option<i32> {
    (number != 0).then_some(number)
}

/// How many there are, as statuses count.
pub(crate) fn number(len: usize) -> i32 {
    i32::try_from(len).unwrap_or(i32::MAX)
}

/// The present moment, in whole seconds, as the API keeps times.
pub(crate) fn now() -> Time {
    let now = jiff::Timestamp::now();
    // A second that a timestamp has is a timestamp.
    Time(jiff::Timestamp::from_second(now.as_second()).unwrap_or(now))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_difference_names_what_changed_and_what_is_no_more() {
        let before = json!({"a": 1, "b": {"c": [1], "d": 2}, "e": 3, "same": {}});
        let after = json!({"a": 2, "b": {"c": [1, 2]}, "new": {}, "same": {}});
        assert_eq!(
            difference(&before, &after),
            Some(json!({"a": 2, "b": {"c": [1, 2], "d": null}, "e": null, "new": {}}))
        );
        assert_eq!(difference(&after, &after), None);
        assert_eq!(status_patch(&ObjectMeta::default(), &after, &after), None);
    }
}
