//! Formats that a definition names and nobody knows: they are no rule, and clients are told so.

use std::collections::HashSet;

use serde_json::Value;

use crate::Object;
use crate::lookup::{entries, list, text};
use crate::schema::{MAX_FINDINGS, MAX_SCHEMA_DEPTH, is_format_of};

/// What a client is told of a definition that is accepted; `old` is what a change began with.
pub fn warnings(new: &Object, old: Option<&Object>) -> Vec<String> {
    let before: HashSet<&str> = old.map(unknown).unwrap_or_default().into_iter().collect();
    let mut out: Vec<String> = Vec::new();
    for format in unknown(new).iter().filter(|format| !before.contains(*format)) {
        let warning = format!("unrecognized format {format:?}");
        if !out.contains(&warning) && out.len() < MAX_FINDINGS {
            out.push(warning);
        }
    }
    out
}

fn unknown(crd: &Object) -> Vec<&str> {
    let mut found = Vec::new();
    for version in list(crd, &["spec", "versions"]) {
        find(&version["schema"]["openAPIV3Schema"], 0, &mut found);
    }
    found
}

fn find<'a>(source: &'a Value, depth: usize, found: &mut Vec<&'a str>) {
    if depth > MAX_SCHEMA_DEPTH || !source.is_object() {
        return;
    }
    let format = text(source, &["format"]);
    if !format.is_empty() && !is_format_of(text(source, &["type"]), format) {
        found.push(format);
    }
    find(&source["items"], depth + 1, found);
    for word in ["allOf", "anyOf", "oneOf"] {
        list(source, &[word]).iter().for_each(|branch| find(branch, depth + 1, found));
    }
    find(&source["not"], depth + 1, found);
    entries(source, &["properties"]).for_each(|(_, property)| find(property, depth + 1, found));
    find(&source["additionalProperties"], depth + 1, found);
}
