//! The paths of a kind, with all that can be asked there.

use serde_json::{Map, Value, json};
use yunfan_objects::subresource::Subresource;
use yunfan_objects::{Descriptor, GroupVersionKind};

use super::parameters::{self, parameter};
use super::schemas::{Schemas, Version, gvk};

/// Media types of answers with objects in them.
const JSON: &str = "application/json";
const YAML: &str = "application/yaml";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// The paths of a document, as they grow.
pub(super) struct Paths<'s, 't> {
    pub(super) version: Version,
    pub(super) schemas: &'s mut Schemas<'t>,
    pub(super) paths: Map<String, Value>,
}

/// What one path answers for one HTTP method.
struct Operation<'a> {
    /// As in `readCoreV1NamespacedPod`: what stands before the kind's group.
    id: &'a str,
    /// `get`, `list`, `post`, `put`, `patch`, `delete`, `deletecollection`, `connect`.
    action: &'a str,
    kind: &'a GroupVersionKind,
    parameters: &'a [&'a str],
    /// Schema of the body; a patch has its own.
    body: Option<String>,
    /// Schema of the answer; none is text.
    answer: Option<String>,
    codes: &'a [u16],
}

/// The kind that a path belongs to.
struct Place<'a> {
    descriptor: &'a Descriptor,
    /// As `CoreV1NamespacedPod`.
    name: String,
    builtin: bool,
}

impl Paths<'_, '_> {
    /// Adds all paths of a kind whose schema has this name.
    pub(super) fn add_kind(&mut self, descriptor: &Descriptor, schema: &str) {
        let base = super::root(&descriptor.group, &descriptor.version);
        let scope = if descriptor.namespaced { "/namespaces/{namespace}" } else { "" };
        let collection = format!("/{base}{scope}/{}", descriptor.plural);
        let place = Place { descriptor, name: place_name(descriptor), builtin: descriptor.builtin };
        self.add_collection(&place, &collection, schema);
        self.add_item(&place, &format!("{collection}/{{name}}"), schema);
        for sub in descriptor.all_subresources() {
            self.add_subresource(&place, &format!("{collection}/{{name}}/{}", sub.name), sub, schema);
        }
    }

    /// Adds the path of a kind that is only created, and answered at once.
    pub(super) fn add_review(
        &mut self,
        kind: &GroupVersionKind,
        plural: &str,
        namespaced: bool,
        schema: &str,
    ) {
        let base = super::root(&kind.group, &kind.version);
        let (scope, word) = if namespaced { ("/namespaces/{namespace}", "Namespaced") } else { ("", "") };
        let name = format!("{}{word}{}", group_name(&kind.group, &kind.version), kind.kind);
        let mut path = self.path(namespaced, false);
        path.insert("post".to_owned(), self.operation(&creation(kind, schema), &name, true));
        self.paths.insert(format!("/{base}{scope}/{plural}"), Value::Object(path));
    }

    fn add_collection(&mut self, place: &Place<'_>, path: &str, schema: &str) {
        let own = place.descriptor.gvk();
        let list = Operation {
            id: "list",
            action: "list",
            kind: &own,
            parameters: parameters::LIST,
            body: None,
            answer: Some(format!("{schema}List")),
            codes: &[200],
        };
        let create = creation(&own, schema);
        let delete = Operation {
            id: "deleteCollection",
            action: "deletecollection",
            kind: &own,
            parameters: parameters::DELETE_COLLECTION,
            body: Some(self.schemas.add_meta("DeleteOptions")),
            answer: Some(self.schemas.add_meta("Status")),
            codes: &[200],
        };
        let all =
            [("list", "get", &list), ("create", "post", &create), ("deletecollection", "delete", &delete)];
        let methods = self.path(place.descriptor.namespaced, false);
        self.add(place, path, methods, &all);
        if place.descriptor.namespaced {
            let path = format!("/{}/{}", super::root(&own.group, &own.version), place.descriptor.plural);
            let everywhere =
                Place { name: format!("{}ForAllNamespaces", place.name.replace("Namespaced", "")), ..*place };
            let methods = self.path(false, false);
            self.add(&everywhere, &path, methods, &all[..1]);
        }
    }

    fn add_item(&mut self, place: &Place<'_>, path: &str, schema: &str) {
        let own = place.descriptor.gvk();
        let (read, replace, patch) = whole(&own, schema);
        let delete = Operation {
            id: "delete",
            action: "delete",
            kind: &own,
            parameters: parameters::DELETE,
            body: Some(self.schemas.add_meta("DeleteOptions")),
            answer: Some(self.schemas.add_meta("Status")),
            codes: &[200, 202],
        };
        let all = [
            ("get", "get", &read),
            ("update", "put", &replace),
            ("patch", "patch", &patch),
            ("delete", "delete", &delete),
        ];
        let methods = self.path(place.descriptor.namespaced, true);
        self.add(place, path, methods, &all);
    }

    fn add_subresource(&mut self, place: &Place<'_>, path: &str, sub: &Subresource, schema: &str) {
        let title: String = capitalized(sub.name);
        let below = Place { name: format!("{}{title}", place.name), ..*place };
        let speaks = sub.spoken(place.descriptor);
        let mut methods = self.path(place.descriptor.namespaced, true);
        if sub.lasts() {
            for (_, method) in METHODS.iter().filter(|(verb, _)| sub.verbs.contains(verb)) {
                methods.insert((*method).to_owned(), self.stream(&below, sub, &speaks, method));
            }
            self.paths.insert(path.to_owned(), Value::Object(methods));
            return;
        }
        let schema = if speaks == place.descriptor.gvk() {
            schema.to_owned()
        } else {
            match self.schemas.add_builtin(&speaks) {
                Some(schema) => schema,
                None => return,
            }
        };
        let (read, replace, patch) = whole(&speaks, &schema);
        let all =
            [("get", read), ("update", replace), ("patch", patch), ("create", creation(&speaks, &schema))];
        for (verb, operation) in all.iter().filter(|(verb, _)| sub.verbs.contains(verb)) {
            let method = METHODS.iter().find(|(known, _)| known == verb).map_or(*verb, |(_, method)| method);
            methods.insert(method.to_owned(), self.operation(operation, &below.name, below.builtin));
        }
        self.paths.insert(path.to_owned(), Value::Object(methods));
    }

    /// One method of a subresource that answers with something else than an object.
    fn stream(&self, below: &Place<'_>, sub: &Subresource, kind: &GroupVersionKind, method: &str) -> Value {
        let (id, action) = if sub.connects() {
            (format!("connect{}", capitalized(method)), "connect")
        } else {
            ("read".to_owned(), "get")
        };
        let operation = Operation {
            id: &id,
            action,
            kind,
            parameters: match sub.name {
                "log" => parameters::LOG,
                "exec" | "attach" => parameters::STREAM,
                _ => &[],
            },
            body: None,
            answer: None,
            codes: &[200],
        };
        self.operation(&operation, &below.name, below.builtin)
    }

    /// Adds a path with those of these operations that the kind has: verb, method, operation.
    fn add(
        &mut self,
        place: &Place<'_>,
        path: &str,
        mut methods: Map<String, Value>,
        all: &[(&str, &str, &Operation<'_>)],
    ) {
        for (verb, method, operation) in all {
            if place.descriptor.verbs.iter().any(|known| known == verb) {
                methods.insert((*method).to_owned(), self.operation(operation, &place.name, place.builtin));
            }
        }
        self.paths.insert(path.to_owned(), Value::Object(methods));
    }

    /// A path with the parameters that all of its operations take.
    fn path(&self, namespaced: bool, named: bool) -> Map<String, Value> {
        let names = named.then_some("name").into_iter().chain(namespaced.then_some("namespace"));
        let all: Vec<Value> = names.chain(["pretty"]).map(|name| parameter(self.version, name)).collect();
        Map::from_iter([("parameters".to_owned(), Value::Array(all))])
    }

    fn operation(&self, operation: &Operation<'_>, name: &str, builtin: bool) -> Value {
        let mut parameters: Vec<Value> =
            operation.parameters.iter().map(|name| parameter(self.version, name)).collect();
        let kind = operation.kind;
        let mut out = json!({
            "description": format!("{} {}", operation.action, kind.kind),
            "operationId": format!("{}{name}", operation.id),
            "tags": [tag(&kind.group, &kind.version)],
            "x-kubernetes-action": operation.action,
            "x-kubernetes-group-version-kind": gvk(&kind.group, &kind.version, &kind.kind),
        });
        match self.version {
            Version::V2 => {
                parameters.extend(self.second_body(operation));
                out["consumes"] =
                    if operation.action == "patch" { json!(patches(builtin)) } else { json!(["*/*"]) };
                out["produces"] = json!(produces(operation, builtin));
                out["schemes"] = json!(["https"]);
            }
            Version::V3 => {
                if let Some(body) = self.third_body(operation, builtin) {
                    out["requestBody"] = body;
                }
            }
        }
        // A list with nothing in it would not survive the way through a client's types.
        if !parameters.is_empty() {
            out["parameters"] = Value::Array(parameters);
        }
        let codes =
            operation.codes.iter().map(|code| (code.to_string(), self.answer(operation, *code, builtin)));
        let refused = ("401".to_owned(), json!({"description": "Unauthorized"}));
        out["responses"] = Value::Object(codes.chain([refused]).collect());
        out
    }

    fn second_body(&self, operation: &Operation<'_>) -> Option<Value> {
        let schema = match (&operation.body, operation.action) {
            (_, "patch") => self.version.reference(PATCH_SCHEMA),
            (Some(schema), _) => self.version.reference(schema),
            (None, _) => return None,
        };
        let required = !operation.action.starts_with("delete");
        Some(json!({"name": "body", "in": "body", "required": required, "schema": schema}))
    }

    fn third_body(&self, operation: &Operation<'_>, builtin: bool) -> Option<Value> {
        let (schema, types) = match (&operation.body, operation.action) {
            (_, "patch") => (self.version.reference(PATCH_SCHEMA), patches(builtin)),
            (Some(schema), _) => (self.version.reference(schema), vec!["*/*"]),
            (None, _) => return None,
        };
        let content: Map<String, Value> =
            types.into_iter().map(|kind| (kind.to_owned(), json!({"schema": schema}))).collect();
        let mut body = json!({"content": content});
        if !operation.action.starts_with("delete") {
            body["required"] = json!(true);
        }
        Some(body)
    }

    fn answer(&self, operation: &Operation<'_>, code: u16, builtin: bool) -> Value {
        let text = match code {
            200 => "OK",
            201 => "Created",
            _ => "Accepted",
        };
        let schema = match &operation.answer {
            Some(name) => self.version.reference(name),
            None => json!({"type": "string"}),
        };
        if self.version == Version::V2 {
            return json!({"description": text, "schema": schema});
        }
        let content: Map<String, Value> = produces(operation, builtin)
            .into_iter()
            .map(|kind| (kind.to_owned(), json!({"schema": schema})))
            .collect();
        json!({"description": text, "content": content})
    }
}

/// The schema of every patch: what it holds depends on its media type.
pub(super) const PATCH_SCHEMA: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Patch";

/// The HTTP method of each verb.
const METHODS: [(&str, &str); 5] =
    [("get", "get"), ("create", "post"), ("update", "put"), ("patch", "patch"), ("delete", "delete")];

/// Making an object.
fn creation<'a>(kind: &'a GroupVersionKind, schema: &str) -> Operation<'a> {
    Operation {
        id: "create",
        action: "post",
        kind,
        parameters: parameters::WRITE,
        body: Some(schema.to_owned()),
        answer: Some(schema.to_owned()),
        codes: &[200, 201, 202],
    }
}

/// Reading, replacing and patching of a whole object.
fn whole<'a>(kind: &'a GroupVersionKind, schema: &str) -> (Operation<'a>, Operation<'a>, Operation<'a>) {
    let make = |id, action, parameters, body: bool, codes| Operation {
        id,
        action,
        kind,
        parameters,
        body: body.then(|| schema.to_owned()),
        answer: Some(schema.to_owned()),
        codes,
    };
    (
        make("read", "get", &[][..], false, &[200][..]),
        make("replace", "put", parameters::WRITE, true, &[200, 201]),
        make("patch", "patch", parameters::PATCH, true, &[200, 201]),
    )
}

/// Media types of patches. kubectl apply picks its patch by this, and custom kinds take no strategic merge.
fn patches(builtin: bool) -> Vec<&'static str> {
    let mut types =
        vec!["application/json-patch+json", "application/merge-patch+json", "application/apply-patch+yaml"];
    if builtin {
        types.insert(2, "application/strategic-merge-patch+json");
    }
    types
}

fn produces(operation: &Operation<'_>, builtin: bool) -> Vec<&'static str> {
    match (&operation.answer, operation.action, builtin) {
        (None, "connect", _) => vec!["*/*"],
        (None, ..) => vec!["text/plain", JSON, YAML, PROTOBUF],
        (_, "list", true) => vec![
            JSON,
            YAML,
            PROTOBUF,
            "application/json;stream=watch",
            "application/vnd.kubernetes.protobuf;stream=watch",
        ],
        (_, "list", false) => vec![JSON, YAML, "application/json;stream=watch"],
        (_, _, true) => vec![JSON, YAML, PROTOBUF],
        (_, _, false) => vec![JSON, YAML],
    }
}

/// As `CoreV1NamespacedPod`.
fn place_name(descriptor: &Descriptor) -> String {
    let scope = if descriptor.namespaced { "Namespaced" } else { "" };
    format!("{}{scope}{}", group_name(&descriptor.group, &descriptor.version), descriptor.kind)
}

/// As `RbacAuthorizationV1`.
fn group_name(group: &str, version: &str) -> String {
    let group = if group.is_empty() { "core" } else { group.trim_end_matches(".k8s.io") };
    group.split(['.', '-']).chain([version]).map(capitalized).collect()
}

/// As `core_v1`.
fn tag(group: &str, version: &str) -> String {
    let group = if group.is_empty() { "core" } else { group.trim_end_matches(".k8s.io") };
    format!("{}_{version}", group.replace(['.', '-'], "_"))
}

fn capitalized(word: &str) -> String {
    let mut chars = word.chars();
    chars.next().map(|first| first.to_uppercase().chain(chars).collect()).unwrap_or_default()
}
