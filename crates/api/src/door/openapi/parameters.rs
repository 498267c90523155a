//! The parameters of requests.

use serde_json::{Value, json};

use super::schemas::Version;

/// Parameters that each list, watch and deletion of a collection takes.
pub(super) const LIST: &[&str] = &[
    "allowWatchBookmarks",
    "continue",
    "fieldSelector",
    "labelSelector",
    "limit",
    "resourceVersion",
    "resourceVersionMatch",
    "sendInitialEvents",
    "timeoutSeconds",
    "watch",
];
/// Of a deletion.
pub(super) const DELETE: &[&str] = &["dryRun", "gracePeriodSeconds", "orphanDependents", "propagationPolicy"];
/// Of a deletion of a collection.
pub(super) const DELETE_COLLECTION: &[&str] = &[
    "continue",
    "dryRun",
    "fieldSelector",
    "gracePeriodSeconds",
    "labelSelector",
    "limit",
    "orphanDependents",
    "propagationPolicy",
    "resourceVersion",
    "resourceVersionMatch",
    "sendInitialEvents",
    "timeoutSeconds",
];
/// Of a write.
pub(super) const WRITE: &[&str] = &["dryRun", "fieldManager", "fieldValidation"];
/// Of a patch.
pub(super) const PATCH: &[&str] = &["dryRun", "fieldManager", "fieldValidation", "force"];
/// Of a Pod's log.
pub(super) const LOG: &[&str] = &[
    "container",
    "follow",
    "limitBytes",
    "previous",
    "sinceSeconds",
    "sinceTime",
    "stream",
    "tailLines",
    "timestamps",
];
/// Of a stream to a container.
pub(super) const STREAM: &[&str] = &["command", "container", "stderr", "stdin", "stdout", "tty"];

/// Name, type, what it does.
const QUERY: [(&str, &str, &str); 36] = [
    ("allowWatchBookmarks", "boolean", "Asks for BOOKMARK events, which say how far a watch has come."),
    ("command", "string", "The command to run, one argument each time that it is given."),
    ("container", "string", "The container; the only one, or the default one, if it is not given."),
    ("continue", "string", "Where a list that came in pages goes on: the token of the page before."),
    ("dryRun", "string", "All: go through every step of a change, and keep nothing of it."),
    ("fieldManager", "string", "Who makes the change, at most 128 printable characters."),
    ("fieldSelector", "string", "Selects objects by their fields; everything if it is not given."),
    (
        "fieldValidation",
        "string",
        "What to do about unknown and repeated fields: Ignore, Warn (the default) or Strict.",
    ),
    ("follow", "boolean", "Goes on sending the log while the container writes it."),
    ("force", "boolean", "Lets an apply take fields that others own."),
    ("gracePeriodSeconds", "integer", "Seconds that an object has before it is deleted; 0 is at once."),
    ("labelSelector", "string", "Selects objects by their labels; everything if it is not given."),
    ("limit", "integer", "Most objects in one answer; the answer says how to go on."),
    ("limitBytes", "integer", "Most bytes of the log."),
    ("orphanDependents", "boolean", "Deprecated: use propagationPolicy."),
    ("path", "string", "The path to what is behind the proxy."),
    ("ports", "integer", "A port to forward, once for each."),
    ("pretty", "string", "If 'true', the answer is indented."),
    ("previous", "boolean", "The log of the container before its last restart."),
    (
        "propagationPolicy",
        "string",
        "What becomes of what the object owns: Orphan, Background or Foreground.",
    ),
    ("resourceVersion", "string", "Which version of the objects may be answered; see resourceVersionMatch."),
    ("resourceVersionMatch", "string", "How resourceVersion is meant: Exact or NotOlderThan."),
    (
        "sendInitialEvents",
        "boolean",
        "Begins a watch with all objects as they are, and a bookmark behind them.",
    ),
    ("sinceSeconds", "integer", "Lines of the log that are no older than so many seconds."),
    ("sinceTime", "string", "Lines of the log since this time."),
    ("stderr", "boolean", "Whether the error output is wanted."),
    ("stdin", "boolean", "Whether there is input."),
    ("stdout", "boolean", "Whether the output is wanted."),
    ("stream", "string", "Which of the outputs: All, Stdout or Stderr."),
    ("tailLines", "integer", "So many lines from the end of the log."),
    ("timeoutSeconds", "integer", "How long the request may take at most."),
    ("timestamps", "boolean", "Puts the time before each line."),
    ("tty", "boolean", "Whether the command runs in a terminal."),
    ("watch", "boolean", "Sends changes as they happen instead of a list."),
    ("name", "path", "Name of the object."),
    ("namespace", "path", "Namespace of the object."),
];

/// These stand where they are used also in the second version: clients look for them there, and follow no
/// reference.
const INLINE: [&str; 2] = ["dryRun", "fieldValidation"];

/// A parameter in its place.
pub(super) fn parameter(version: Version, name: &str) -> Value {
    if version == Version::V2 && !INLINE.contains(&name) {
        return json!({"$ref": format!("#/parameters/{name}")});
    }
    definition(version, name)
}

/// The parameters that documents of the second version refer to.
pub(super) fn definitions() -> Value {
    let all = QUERY.iter().filter(|(name, ..)| !INLINE.contains(name));
    Value::Object(all.map(|(name, ..)| ((*name).to_owned(), definition(Version::V2, name))).collect())
}

fn definition(version: Version, name: &str) -> Value {
    let row = QUERY.iter().find(|(known, ..)| *known == name);
    let (_, kind, text) = row.copied().unwrap_or((name, "string", ""));
    let (place, kind) = if kind == "path" || name == "path" { ("path", "string") } else { ("query", kind) };
    let mut out = json!({"name": name, "in": place, "description": text});
    if place == "path" {
        out["required"] = json!(true);
    }
    match version {
        Version::V2 => {
            out["type"] = json!(kind);
            out["uniqueItems"] = json!(true);
        }
        Version::V3 => out["schema"] = json!({"type": kind, "uniqueItems": true}),
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_parameter_that_is_used_is_defined() {
        for name in [LIST, DELETE, DELETE_COLLECTION, WRITE, PATCH, LOG, STREAM].concat() {
            assert!(QUERY.iter().any(|(known, ..)| *known == name), "{name}");
        }
        assert_eq!(parameter(Version::V2, "limit"), json!({"$ref": "#/parameters/limit"}));
        assert_eq!(parameter(Version::V2, "dryRun")["in"], "query");
        let name = parameter(Version::V3, "name");
        assert_eq!(
            (&name["in"], &name["required"], &name["schema"]["type"]),
            (&json!("path"), &json!(true), &json!("string"))
        );
    }
}
