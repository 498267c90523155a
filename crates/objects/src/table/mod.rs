//! Tables, as `kubectl get` asks for them.

mod jsonpath;

use jiff::Timestamp;
use serde_json::{Value, json};

pub use jsonpath::{JsonPath, JsonPathError};

use crate::lookup::text;
use crate::{Descriptor, Object, builtin};

/// Makes the cells of a built-in kind's row, in the order of its columns.
pub type CellsFn = fn(&Object, Timestamp) -> Vec<Value>;

/// What the name of an object is for, in the words of its schema.
const NAME: &str = "Name must be unique within a namespace. Is required when creating resources, although some resources may allow a client to request the generation of an appropriate name automatically. Name is primarily intended for creation idempotence and configuration definition. Cannot be updated. More info: https://kubernetes.io/docs/concepts/overview/working-with-objects/names#names";
/// The same of the time of its creation.
pub(crate) const CREATED: &str = "CreationTimestamp is a timestamp representing the server time when this object was created. It is not guaranteed to be set in happens-before order across separate operations. Clients may not set this value. It is represented in RFC3339 form and is in UTC.\n\nPopulated by the system. Read-only. Null for lists. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata";

/// One column.
#[derive(Clone, Debug)]
pub struct Column {
    /// Heading, as `Ready`.
    pub name: String,
    /// `string`, `integer`, `number`, `boolean` or `date`.
    pub kind: String,
    /// OpenAPI format; `name` marks the column that names the object.
    pub format: String,
    /// What it shows.
    pub description: String,
    /// 0 is always shown, higher with `-o wide`.
    pub priority: i32,
    /// Where the value is; `None` where [`Descriptor::cells`] makes it.
    pub path: Option<JsonPath>,
}

impl Column {
    /// A column that [`Descriptor::cells`] fills.
    pub fn new(name: &str, kind: &str, priority: i32, description: &str) -> Self {
        Self {
            name: name.to_owned(),
            kind: kind.to_owned(),
            format: String::new(),
            description: description.to_owned(),
            priority,
            path: None,
        }
    }

    /// The column that names the object.
    pub fn name() -> Self {
        let column = Self::new("Name", "string", 0, NAME);
        Self { format: "name".to_owned(), ..column }
    }

    /// The column `Age` of a custom resource without columns of its own.
    pub fn age() -> Self {
        let column = Self::new("Age", "date", 0, CREATED);
        Self { path: JsonPath::parse(".metadata.creationTimestamp").ok(), ..column }
    }
}

/// What comes along with each row (query parameter `includeObject`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IncludeObject {
    /// Nothing.
    None,
    /// apiVersion, kind and metadata.
    #[default]
    Metadata,
    /// The whole object.
    Object,
}

impl IncludeObject {
    /// Reads the query parameter; absent means [`Metadata`](Self::Metadata).
    ///
    /// # Errors
    /// 400 for a word that is none of the three.
    pub fn parse(parameter: Option<&str>) -> Result<Self, crate::ApiError> {
        match parameter {
            None | Some("" | "Metadata") => Ok(Self::Metadata),
            Some("None") => Ok(Self::None),
            Some("Object") => Ok(Self::Object),
            Some(other) => Err(crate::ApiError::bad_request(format!(
                "Unable to convert to Table as requested: includeObject: Invalid value: {other:?}: must be 'Metadata', 'Object', 'None', or empty"
            ))),
        }
    }
}

/// The `columnDefinitions` of a kind's table.
pub fn column_definitions(descriptor: &Descriptor) -> Value {
    let columns = descriptor.columns.iter().map(|column| {
        let description = match column.description.as_str() {
            "" if descriptor.builtin => builtin::column_text(&descriptor.kind, &column.name),
            given => given,
        };
        json!({
            "name": column.name,
            "type": column.kind,
            "format": column.format,
            "description": description,
            "priority": column.priority,
        })
    });
    Value::Array(columns.collect())
}

/// How an answer tells of objects beside themselves: what of them stands beside the rows of a table, and the version
/// of `meta.k8s.io` that tables and metadata are in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// Beside the rows.
    pub include: IncludeObject,
    /// As `meta.k8s.io/v1`.
    pub api_version: &'static str,
}

/// One row.
pub fn row(descriptor: &Descriptor, object: &Object, view: View, now: Timestamp) -> Value {
    let cells = match descriptor.cells {
        Some(cells) => cells(object, now),
        None => descriptor.columns.iter().map(|column| cell(column, object, now)).collect(),
    };
    let mut row = json!({ "cells": cells });
    let conditions = descriptor.strategy.row_conditions(object);
    if !conditions.is_empty() {
        row["conditions"] = Value::Array(conditions);
    }
    match view.include {
        IncludeObject::None => row["object"] = Value::Null,
        IncludeObject::Metadata => row["object"] = row_metadata(descriptor, object, view.api_version),
        IncludeObject::Object => row["object"] = object.clone(),
    }
    row
}

/// Annotations of a kind that hold what its older versions have no field for: rows are made before those are written.
fn annotations_of_versions(descriptor: &Descriptor) -> &'static [&'static str] {
    match (descriptor.group.as_str(), descriptor.kind.as_str()) {
        ("apps", "DaemonSet") => &["deprecated.daemonset.template.generation"],
        ("autoscaling", "HorizontalPodAutoscaler") => &[
            "autoscaling.alpha.kubernetes.io/behavior",
            "autoscaling.alpha.kubernetes.io/metrics",
            "autoscaling.alpha.kubernetes.io/conditions",
            "autoscaling.alpha.kubernetes.io/current-metrics",
        ],
        _ => &[],
    }
}

/// An object's metadata beside its row.
fn row_metadata(descriptor: &Descriptor, object: &Object, api_version: &str) -> Value {
    let of_versions = annotations_of_versions(descriptor);
    let mut partial = partial_metadata(object, api_version);
    if let Some(annotations) = partial["metadata"].get_mut("annotations").and_then(Value::as_object_mut) {
        annotations.retain(|key, _| !of_versions.contains(&key.as_str()));
        if annotations.is_empty()
            && !of_versions.is_empty()
            && let Some(metadata) = partial["metadata"].as_object_mut()
        {
            metadata.remove("annotations");
        }
    }
    partial
}

/// An object as `PartialObjectMetadata` in this version.
pub fn partial_metadata(object: &Object, api_version: &str) -> Value {
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": api_version,
        "metadata": object.get("metadata").cloned().unwrap_or_else(|| json!({})),
    })
}

/// A whole Table. `list_meta` is the list's metadata (resourceVersion,
/// continue, remainingItemCount).
pub fn render<'a>(
    descriptor: &Descriptor,
    objects: impl IntoIterator<Item = &'a Object>,
    view: View,
    now: Timestamp,
    list_meta: Value,
) -> Value {
    let rows: Vec<Value> = objects.into_iter().map(|object| row(descriptor, object, view, now)).collect();
    json!({
        "kind": "Table",
        "apiVersion": view.api_version,
        "metadata": list_meta,
        "columnDefinitions": column_definitions(descriptor),
        "rows": rows,
    })
}

fn cell(column: &Column, object: &Object, now: Timestamp) -> Value {
    let Some(path) = &column.path else {
        return json!(text(object, &["metadata", "name"]));
    };
    let found = path.find(object);
    let Some(first) = found.first() else { return Value::Null };
    match column.kind.as_str() {
        // What is behind the point is cut off.
        "integer" => {
            let whole = first.as_i64().or_else(|| first.as_f64().map(|number| number as i64));
            whole.map_or(Value::Null, |number| json!(number))
        }
        "number" => first.as_f64().map_or(Value::Null, |number| json!(number)),
        "boolean" => first.as_bool().map_or(Value::Null, |flag| json!(flag)),
        "date" => match first.as_str() {
            Some(at) if !at.is_empty() && at.parse::<Timestamp>().is_err() => json!("<invalid>"),
            Some(at) => json!(age(at, now)),
            None => Value::Null,
        },
        _ => json!(first.as_str().map_or_else(|| first.to_string(), str::to_owned)),
    }
}

/// How long ago a time is, as kubectl shows it; `<unknown>` where the text is no time.
pub fn age(at: &str, now: Timestamp) -> String {
    match at.parse::<Timestamp>() {
        Ok(at) => human_duration(now.as_second() - at.as_second()),
        Err(_) => "<unknown>".to_owned(),
    }
}

/// A number of seconds, as kubectl shows it: two units where the first is small.
pub fn human_duration(seconds: i64) -> String {
    // A clock that is a little ahead is no reason to alarm anybody.
    if seconds < -1 {
        return "<invalid>".to_owned();
    }
    let seconds = seconds.max(0);
    let two = |first: i64, unit: char, second: i64, small: char| match second {
        0 => format!("{first}{unit}"),
        _ => format!("{first}{unit}{second}{small}"),
    };
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    if seconds < 120 {
        format!("{seconds}s")
    } else if minutes < 10 {
        two(minutes, 'm', seconds % 60, 's')
    } else if minutes < 180 {
        format!("{minutes}m")
    } else if hours < 8 {
        two(hours, 'h', minutes % 60, 'm')
    } else if hours < 48 {
        format!("{hours}h")
    } else if hours < 24 * 8 {
        two(days, 'd', hours % 24, 'h')
    } else if hours < 24 * 365 * 2 {
        format!("{days}d")
    } else if hours < 24 * 365 * 8 {
        two(days / 365, 'y', days % 365, 'd')
    } else {
        format!("{}y", days / 365)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_kubectl_prints_them() {
        for (seconds, wanted) in [
            (-1, "0s"),
            (-5, "<invalid>"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (125, "2m5s"),
            (600, "10m"),
            (179 * 60, "179m"),
            (180 * 60, "3h"),
            (3 * 3600 + 60, "3h1m"),
            (8 * 3600, "8h"),
            (47 * 3600, "47h"),
            (50 * 3600, "2d2h"),
            (10 * 86_400, "10d"),
            (800 * 86_400, "2y70d"),
            (3650 * 86_400, "10y"),
        ] {
            assert_eq!(human_duration(seconds), wanted, "{seconds}");
        }
    }

    #[test]
    fn annotations_of_versions_are_those_of_their_kinds() {
        let of = |kind: &str| builtin::descriptors().into_iter().find(|each| each.kind == kind).unwrap();
        let object = json!({"metadata": {"annotations": {"deprecated.daemonset.template.generation": "1"}}});
        assert_eq!(row_metadata(&of("DaemonSet"), &object, "meta.k8s.io/v1")["metadata"], json!({}));
        assert_eq!(row_metadata(&of("ConfigMap"), &object, "meta.k8s.io/v1")["metadata"], object["metadata"]);
    }
}
