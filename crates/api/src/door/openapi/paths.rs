//! The paths of a kind, with all that can be asked there.

use serde_json::{Map, Value, json};
use yunfan_objects::subresource::Subresource;
use yunfan_objects::{Descriptor, GroupVersionKind};

use super::parameters::{self, parameter};
use super::schemas::{Schemas, Version, gvk};

/// Media types of answers with objects in them.
pub(super) const JSON: &str = "application/json";
pub(super) const YAML: &str = "application/yaml";
pub(super) const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

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
    /// As in `deleteCoreV1CollectionNamespacedPod`: what stands behind it.
    word: &'a str,
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

/// What a path belongs to.
#[derive(Clone)]
struct Place<'a> {
    /// As `CoreV1`.
    group: String,
    /// As `NamespacedPodStatus`.
    name: String,
    /// The kind of the objects there.
    kind: &'a str,
    /// What of the object is there: its subresource, or nothing.
    part: &'a str,
    builtin: bool,
}

impl<'a> Place<'a> {
    fn of(descriptor: &'a Descriptor) -> Self {
        let scope = if descriptor.namespaced { "Namespaced" } else { "" };
        Self {
            group: group_name(&descriptor.group, &descriptor.version),
            name: format!("{scope}{}", descriptor.kind),
            kind: &descriptor.kind,
            part: "",
            builtin: descriptor.builtin,
        }
    }

    /// What an operation here does, in Kubernetes' words.
    fn described(&self, operation: &Operation<'_>) -> String {
        let kind = self.kind;
        let article = if kind.starts_with(['A', 'E', 'I', 'O', 'U']) { "an" } else { "a" };
        let of = if self.part.is_empty() { String::new() } else { format!("{} of ", self.part) };
        match operation.action {
            "list" if self.builtin => format!("list or watch objects of kind {kind}"),
            "list" => format!("list objects of kind {kind}"),
            "get" => format!("read {of}the specified {kind}"),
            "put" => format!("replace {of}the specified {kind}"),
            "patch" => format!("partially update {of}the specified {kind}"),
            "post" => format!("create {of}{article} {kind}"),
            "delete" => format!("delete {of}{article} {kind}"),
            "deletecollection" => format!("delete collection of {kind}"),
            "watchlist" => format!(
                "watch individual changes to a list of {kind}. deprecated: use the 'watch' parameter with a list operation instead."
            ),
            "watch" => format!(
                "watch changes to an object of kind {kind}. deprecated: use the 'watch' parameter with a list operation instead, filtered to a single item with the 'fieldSelector' parameter."
            ),
            _ => format!("connect {} requests to {of}{kind}", operation.word.to_uppercase()),
        }
    }
}

impl Paths<'_, '_> {
    /// Adds all paths of a kind whose schema has this name.
    pub(super) fn add_kind(&mut self, descriptor: &Descriptor, schema: &str) {
        let base = super::root(&descriptor.group, &descriptor.version);
        let scope = if descriptor.namespaced { "/namespaces/{namespace}" } else { "" };
        let collection = format!("/{base}{scope}/{}", descriptor.plural);
        self.add_collection(descriptor, &collection, schema);
        self.add_item(descriptor, &format!("{collection}/{{name}}"), schema);
        for sub in descriptor.all_subresources() {
            self.add_subresource(descriptor, &format!("{collection}/{{name}}/{}", sub.name), sub, schema);
        }
        if descriptor.builtin && descriptor.verbs.iter().any(|verb| verb == "watch") {
            self.add_watches(descriptor, scope);
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
        let place = Place {
            group: group_name(&kind.group, &kind.version),
            name: format!("{word}{}", kind.kind),
            kind: &kind.kind,
            part: "",
            builtin: true,
        };
        let mut path = self.path(namespaced, false);
        path.insert("post".to_owned(), self.operation(&creation(kind, schema), &place));
        self.paths.insert(format!("/{base}{scope}/{plural}"), Value::Object(path));
    }

    fn add_collection(&mut self, descriptor: &Descriptor, path: &str, schema: &str) {
        let own = descriptor.gvk();
        let list = Operation {
            id: "list",
            word: "",
            action: "list",
            kind: &own,
            parameters: parameters::LIST,
            body: None,
            answer: Some(format!("{schema}List")),
            codes: &[200],
        };
        let create = creation(&own, schema);
        let delete = Operation {
            id: "delete",
            word: "Collection",
            action: "deletecollection",
            kind: &own,
            parameters: parameters::DELETE_COLLECTION,
            body: Some(self.schemas.add_meta("DeleteOptions")),
            answer: Some(self.schemas.add_meta("Status")),
            codes: &[200],
        };
        let all =
            [("list", "get", &list), ("create", "post", &create), ("deletecollection", "delete", &delete)];
        let place = Place::of(descriptor);
        let methods = self.path(descriptor.namespaced, false);
        self.add(&place, descriptor, path, methods, &all);
        if descriptor.namespaced {
            let path = format!("/{}/{}", super::root(&own.group, &own.version), descriptor.plural);
            let everywhere = Place { name: format!("{}ForAllNamespaces", descriptor.kind), ..place };
            let methods = self.path(false, false);
            self.add(&everywhere, descriptor, &path, methods, &all[..1]);
        }
    }

    fn add_item(&mut self, descriptor: &Descriptor, path: &str, schema: &str) {
        let own = descriptor.gvk();
        let (read, replace, patch) = whole(&own, schema);
        let delete = Operation {
            id: "delete",
            word: "",
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
        let methods = self.path(descriptor.namespaced, true);
        self.add(&Place::of(descriptor), descriptor, path, methods, &all);
    }

    /// The paths that watch, which lists do as well today.
    fn add_watches(&mut self, descriptor: &Descriptor, scope: &str) {
        let base = format!("/{}/watch", super::root(&descriptor.group, &descriptor.version));
        let (kind, plural) = (&descriptor.kind, &descriptor.plural);
        let own = Place::of(descriptor);
        let listed = Place { name: format!("{}List", own.name), ..own.clone() };
        let mut all = vec![
            (format!("{base}{scope}/{plural}"), listed, false, "watchlist"),
            (format!("{base}{scope}/{plural}/{{name}}"), own.clone(), true, "watch"),
        ];
        if descriptor.namespaced {
            let everywhere = Place { name: format!("{kind}ListForAllNamespaces"), ..own };
            all.push((format!("{base}/{plural}"), everywhere, false, "watchlist"));
        }
        let event = self.schemas.add_meta("WatchEvent");
        for (path, place, named, action) in all {
            let operation = Operation {
                id: "watch",
                word: "",
                action,
                kind: &descriptor.gvk(),
                parameters: &[],
                body: None,
                answer: Some(event.clone()),
                codes: &[200],
            };
            let mut methods = self.path(path.contains("{namespace}"), named);
            if let Some(Value::Array(parameters)) = methods.get_mut("parameters") {
                parameters.extend(parameters::LIST.iter().map(|name| parameter(self.version, name)));
            }
            methods.insert("get".to_owned(), self.operation(&operation, &place));
            self.paths.insert(path, Value::Object(methods));
        }
    }

    fn add_subresource(&mut self, descriptor: &Descriptor, path: &str, sub: &Subresource, schema: &str) {
        let own = Place::of(descriptor);
        let below = Place { name: format!("{}{}", own.name, capitalized(sub.name)), part: sub.name, ..own };
        let speaks = sub.spoken(descriptor);
        let mut methods = self.path(descriptor.namespaced, true);
        if sub.lasts() {
            self.add_stream(&below, path, sub, &speaks, methods);
            return;
        }
        let schema = if speaks == descriptor.gvk() {
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
            methods.insert(method.to_owned(), self.operation(operation, &below));
        }
        self.paths.insert(path.to_owned(), Value::Object(methods));
    }

    /// Adds a subresource that answers with something else than an object; a proxy also with the path of what is
    /// behind it.
    fn add_stream(
        &mut self,
        below: &Place<'_>,
        path: &str,
        sub: &Subresource,
        speaks: &GroupVersionKind,
        mut methods: Map<String, Value>,
    ) {
        let asked = METHODS.iter().filter(|(verb, _)| sub.verbs.contains(verb)).map(|(_, method)| *method);
        let is_proxy = sub.name == "proxy";
        let asked: Vec<&str> = asked.chain(["head", "options"].into_iter().filter(|_| is_proxy)).collect();
        if is_proxy {
            let further = Place { name: format!("{}WithPath", below.name), ..below.clone() };
            let mut methods = methods.clone();
            if let Some(Value::Array(parameters)) = methods.get_mut("parameters") {
                parameters.push(parameter(self.version, "path"));
            }
            for method in &asked {
                methods.insert((*method).to_owned(), self.stream(&further, sub, speaks, method));
            }
            self.paths.insert(format!("{path}/{{path}}"), Value::Object(methods));
        }
        for method in asked {
            methods.insert(method.to_owned(), self.stream(below, sub, speaks, method));
        }
        self.paths.insert(path.to_owned(), Value::Object(methods));
    }

    /// One method of a subresource that answers with something else than an object.
    fn stream(&self, below: &Place<'_>, sub: &Subresource, kind: &GroupVersionKind, method: &str) -> Value {
        let (id, word, action) = if sub.connects() {
            ("connect", capitalized(method), "connect")
        } else {
            ("read", String::new(), "get")
        };
        let operation = Operation {
            id,
            word: &word,
            action,
            kind,
            parameters: match sub.name {
                "log" => parameters::LOG,
                "exec" | "attach" => parameters::STREAM,
                "portforward" => &["ports"],
                _ => &[],
            },
            body: None,
            answer: None,
            codes: &[200],
        };
        self.operation(&operation, below)
    }

    /// Adds a path with those of these operations that the kind has: verb, method, operation.
    fn add(
        &mut self,
        place: &Place<'_>,
        descriptor: &Descriptor,
        path: &str,
        mut methods: Map<String, Value>,
        all: &[(&str, &str, &Operation<'_>)],
    ) {
        for (verb, method, operation) in all {
            if descriptor.verbs.iter().any(|known| known == verb) {
                methods.insert((*method).to_owned(), self.operation(operation, place));
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

    fn operation(&self, operation: &Operation<'_>, place: &Place<'_>) -> Value {
        let builtin = place.builtin;
        let mut parameters: Vec<Value> =
            operation.parameters.iter().map(|name| parameter(self.version, name)).collect();
        let kind = operation.kind;
        let mut out = json!({
            "description": place.described(operation),
            "operationId": format!("{}{}{}{}", operation.id, place.group, operation.word, place.name),
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
        word: "",
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
        word: "",
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
        (_, "list" | "watch" | "watchlist", true) => vec![
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

/// As `RbacAuthorizationV1`.
pub(super) fn group_name(group: &str, version: &str) -> String {
    words(group).chain([version]).map(capitalized).collect()
}

/// As `rbacAuthorization_v1`, or without the version where there is none.
pub(super) fn tag(group: &str, version: &str) -> String {
    let mut words = words(group);
    let first = words.next().unwrap_or_default().to_owned();
    let group: String = [first].into_iter().chain(words.map(capitalized)).collect();
    if version.is_empty() { group } else { format!("{group}_{version}") }
}

/// What a group is called by in names.
fn words(group: &str) -> impl Iterator<Item = &str> {
    let group = if group.is_empty() { "core" } else { group.trim_end_matches(".k8s.io") };
    group.split(['.', '-'])
}

fn capitalized(word: &str) -> String {
    let mut chars = word.chars();
    chars.next().map(|first| first.to_uppercase().chain(chars).collect()).unwrap_or_default()
}
