//! The paths that are no kind's: what is served, the version, and how tokens are verified. In the third version each of
//! them has a document of its own.

use serde_json::{Map, Value, json};

use super::paths::{JSON, PROTOBUF, Paths, YAML, group_name, tag};
use super::schemas::Version;
use crate::door::review;
use crate::kinds::Table;

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";

/// Documents that there always are.
const ALWAYS: [&str; 5] = ["api", "apis", "version", ".well-known/openid-configuration", "openid/v1/jwks"];

/// The names of all documents here. Groups of custom kinds have none.
pub(super) fn names(table: &Table) -> Vec<String> {
    let stored = table.resources().iter().filter(|resource| resource.definition.is_none());
    let groups = stored.flat_map(|resource| resource.versions.iter().map(|version| version.group.as_str()));
    let mut groups: Vec<&str> = groups.chain(review::KINDS.iter().map(|kind| kind.group)).collect();
    groups.sort_unstable();
    groups.dedup();
    let groups = groups.into_iter().filter(|group| !group.is_empty()).map(|group| format!("apis/{group}"));
    ALWAYS.iter().map(|name| (*name).to_owned()).chain(groups).collect()
}

/// Whether there is such a document.
pub(super) fn is_served(table: &Table, name: &str) -> bool {
    ALWAYS.contains(&name)
        || (name.strip_prefix("apis/").is_some_and(|group| !group.contains('/'))
            && names(table).iter().any(|known| known == name))
}

/// What is read at one of these paths.
struct Read<'a> {
    id: String,
    tag: String,
    text: &'a str,
    /// The definition of the answer; none is text.
    answer: Option<String>,
    types: &'a [&'a str],
}

const OBJECTS: &[&str] = &[JSON, YAML, PROTOBUF];

impl Paths<'_, '_> {
    /// Adds the path of the document of this name.
    pub(super) fn add_general(&mut self, name: &str) {
        const VERSIONS: &str = "get available API versions";
        let meta = |kind: &str| Some(format!("{META}{kind}"));
        let (id, mark, text, answer, types) = match name {
            "api" => {
                ("CoreAPIVersions".to_owned(), "core".to_owned(), VERSIONS, meta("APIVersions"), OBJECTS)
            }
            "apis" => ("APIVersions".to_owned(), "apis".to_owned(), VERSIONS, meta("APIGroupList"), OBJECTS),
            "version" => (
                "CodeVersion".to_owned(),
                "version".to_owned(),
                "get the version information for this server",
                Some("io.k8s.apimachinery.pkg.version.Info".to_owned()),
                &[JSON][..],
            ),
            "openid/v1/jwks" => (
                "ServiceAccountIssuerOpenIDKeyset".to_owned(),
                "openid".to_owned(),
                "get service account issuer OpenID JSON Web Key Set (contains public token verification keys)",
                None,
                &["application/jwk-set+json"][..],
            ),
            ".well-known/openid-configuration" => (
                "ServiceAccountIssuerOpenIDConfiguration".to_owned(),
                "WellKnown".to_owned(),
                "get service account issuer OpenID configuration, also known as the 'OIDC discovery doc'",
                None,
                &[JSON][..],
            ),
            name => {
                let group = name.strip_prefix("apis/").unwrap_or(name);
                let id = format!("{}APIGroup", group_name(group, ""));
                (id, tag(group, ""), "get information of a group", meta("APIGroup"), OBJECTS)
            }
        };
        self.add_read(name, &Read { id, tag: mark, text, answer, types });
    }

    /// Adds the path that tells what a group and version has.
    pub(super) fn add_resources(&mut self, group: &str, version: &str) {
        let read = Read {
            id: format!("{}APIResources", group_name(group, version)),
            tag: tag(group, version),
            text: "get available resources",
            answer: Some(format!("{META}APIResourceList")),
            types: OBJECTS,
        };
        self.add_read(&super::root(group, version), &read);
    }

    fn add_read(&mut self, path: &str, read: &Read<'_>) {
        let schema = match &read.answer {
            Some(name) => self.version.reference(&self.schemas.want(name)),
            None => json!({"type": "string"}),
        };
        let mut get = json!({
            "description": read.text, "operationId": format!("get{}", read.id), "tags": [read.tag],
        });
        let answer = match self.version {
            Version::V2 => {
                if read.answer.is_some() {
                    get["consumes"] = json!(read.types);
                }
                get["produces"] = json!(read.types);
                get["schemes"] = json!(["https"]);
                json!({"description": "OK", "schema": schema})
            }
            Version::V3 => {
                let content: Map<String, Value> =
                    read.types.iter().map(|kind| ((*kind).to_owned(), json!({"schema": schema}))).collect();
                json!({"description": "OK", "content": content})
            }
        };
        get["responses"] = json!({"200": answer, "401": {"description": "Unauthorized"}});
        self.paths.insert(format!("/{path}/"), json!({"get": get}));
    }
}
