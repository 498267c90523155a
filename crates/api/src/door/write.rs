//! The options of writes: what the query says of a creation, an update or a patch, and what query or body
//! say of a deletion. What is wrong with them is told in one refusal (422), as for any object.

use http::HeaderMap;
use http::header::USER_AGENT;
use serde_json::{Value, json};
use yunfan_objects::patch::{manager_name, validate_manager};
use yunfan_objects::{ApiError, FieldError, FieldValidation, GroupVersionKind, builtin, decode, golang};

use super::Call;
use super::body::Received;
use super::params::Params;
use crate::registry::{DeleteOptions, Writer};

/// Schema of the body of a deletion.
const DELETE_OPTIONS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";

/// Which options a request has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Create,
    Update,
    Patch,
    Apply,
}

/// The options of a write that is no deletion.
#[derive(Debug)]
pub(super) struct WriteOptions {
    pub(super) dry_run: bool,
    /// Name in managedFields.
    pub(super) manager: String,
    pub(super) mode: FieldValidation,
    /// An apply takes fields from other managers.
    pub(super) force: bool,
    applies: bool,
    /// As they were given, for webhooks and policies.
    pub(super) shown: Value,
}

impl WriteOptions {
    pub(super) fn parse(params: &Params, headers: &HeaderMap, verb: Verb) -> Result<Self, ApiError> {
        let mut errors = Vec::new();
        let manager = params.get("fieldManager").unwrap_or_default();
        match verb {
            Verb::Apply if manager.is_empty() => {
                errors.push(FieldError::required("fieldManager", "is required for apply patch"));
            }
            Verb::Patch if params.get("force").is_some() => {
                errors.push(FieldError::forbidden("force", "may not be specified for non-apply patch"));
            }
            _ => {}
        }
        errors.extend(validate_manager(manager));
        let dry_run = dry_run(params.all("dryRun"), &mut errors);
        let mode = params.get("fieldValidation").unwrap_or_default();
        let mode = FieldValidation::parse(mode).unwrap_or_else(|| {
            let known = ["", "Ignore", "Strict", "Warn"];
            errors.push(FieldError::not_supported("fieldValidation", mode, &known));
            FieldValidation::default()
        });
        refuse(verb.options(), &errors)?;
        let mut shown = given(&["fieldManager", "fieldValidation"].map(|key| (key, json!(params.get(key)))));
        if dry_run {
            shown["dryRun"] = json!(["All"]);
        }
        let agent = headers.get(USER_AGENT).and_then(|agent| agent.to_str().ok()).unwrap_or_default();
        Ok(Self {
            dry_run,
            manager: manager_name(Some(manager), agent),
            mode,
            force: params.flag("force"),
            applies: verb == Verb::Apply,
            shown,
        })
    }

    /// The caller as one who writes with these options.
    pub(super) fn writer<'a>(&'a self, call: &'a Call) -> Writer<'a> {
        Writer {
            user: &call.user,
            system: false,
            dry_run: self.dry_run,
            manager: &self.manager,
            applies: self.applies,
            warnings: &call.warnings,
            options: Some(&self.shown),
        }
    }
}

impl Verb {
    fn options(self) -> &'static str {
        match self {
            Self::Create => "CreateOptions",
            Self::Update => "UpdateOptions",
            Self::Patch | Self::Apply => "PatchOptions",
        }
    }
}

fn refuse(kind: &str, errors: &[FieldError]) -> Result<(), ApiError> {
    if errors.is_empty() {
        return Ok(());
    }
    Err(ApiError::invalid(&GroupVersionKind::new("meta.k8s.io", "v1", kind), "", errors))
}

fn dry_run(words: &[String], errors: &mut Vec<FieldError>) -> bool {
    if words.iter().any(|word| word != "All") {
        errors.push(FieldError::not_supported("dryRun", words.to_vec(), &["All"]));
    }
    !words.is_empty()
}

/// The options of a deletion: those of the body, or where it is empty those of the query.
pub(super) fn delete_options(call: &Call, received: &Received) -> Result<DeleteOptions, ApiError> {
    if received.bytes.is_empty() {
        return of_query(&call.params);
    }
    let mut body = received.plain_object(&GroupVersionKind::new("", "v1", "DeleteOptions"))?;
    match body["kind"].as_str() {
        None | Some("" | "DeleteOptions") => of_body(&mut body),
        Some(other) => Err(ApiError::bad_request(format!(
            "no kind {other:?} is registered for version {:?} in scheme {:?}",
            body["apiVersion"].as_str().unwrap_or_default(),
            decode::TABLE
        ))),
    }
}

/// Asks to delete an object even if it can't be read.
const UNREAD: &str = "ignoreStoreReadErrorWithClusterBreakingPotential";

/// Reads a DeleteOptions object.
pub(super) fn of_body(body: &mut Value) -> Result<DeleteOptions, ApiError> {
    let schema = builtin::definitions().reference(DELETE_OPTIONS);
    schema.drop_nulls(body);
    if let Some(why) = schema.unmarshal_error("DeleteOptions", body) {
        return Err(ApiError::bad_request(why));
    }
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let words = body["dryRun"].as_array().into_iter().flatten().filter_map(text).collect();
    Raw {
        grace: body["gracePeriodSeconds"].as_i64(),
        uid: text(&body["preconditions"]["uid"]),
        revision: text(&body["preconditions"]["resourceVersion"]),
        propagation: text(&body["propagationPolicy"]),
        orphan: body["orphanDependents"].as_bool(),
        dry_run: words,
        unread: body[UNREAD].as_bool().unwrap_or_default(),
    }
    .check()
}

fn of_query(params: &Params) -> Result<DeleteOptions, ApiError> {
    let text = |name: &str| params.get(name).map(str::to_owned);
    let grace = match params.get("gracePeriodSeconds") {
        Some(word) => {
            Some(word.parse().map_err(|_| ApiError::bad_request(golang::number_error("ParseInt", word)))?)
        }
        None => None,
    };
    Raw {
        grace,
        uid: text("preconditions.uid"),
        revision: text("preconditions.resourceVersion"),
        propagation: text("propagationPolicy"),
        orphan: params.get("orphanDependents").map(|_| params.flag("orphanDependents")),
        dry_run: params.all("dryRun").to_vec(),
        unread: params.flag(UNREAD),
    }
    .check()
}

/// Options of a deletion as they came.
struct Raw {
    grace: Option<i64>,
    uid: Option<String>,
    revision: Option<String>,
    propagation: Option<String>,
    /// The form that propagation had before it had a name.
    orphan: Option<bool>,
    dry_run: Vec<String>,
    unread: bool,
}

impl Raw {
    fn check(self) -> Result<DeleteOptions, ApiError> {
        let mut errors = Vec::new();
        let field = "propagationPolicy";
        if let Some(word) = &self.propagation {
            if self.orphan.is_some() {
                let why = "orphanDependents and deletionPropagation cannot be both set";
                errors.push(FieldError::invalid(field, word.as_str(), why));
            }
            let known = ["Foreground", "Background", "Orphan", "nil"];
            if !known[..3].contains(&word.as_str()) {
                errors.push(FieldError::not_supported(field, word.as_str(), &known));
            }
        }
        let dry_run = dry_run(&self.dry_run, &mut errors);
        refuse("DeleteOptions", &errors)?;
        let shown = self.shown(dry_run);
        let old_form = self.orphan.map(|orphan| if orphan { "Orphan" } else { "Background" }.to_owned());
        Ok(DeleteOptions {
            grace: self.grace,
            uid: self.uid,
            revision: self.revision,
            propagation: self.propagation.or(old_form),
            accepted: self.orphan == Some(false),
            dry_run,
            collection: false,
            unread: self.unread,
            shown,
        })
    }

    /// What was given, as one object.
    fn shown(&self, dry_run: bool) -> Value {
        let mut shown = given(&[
            ("gracePeriodSeconds", json!(self.grace)),
            ("propagationPolicy", json!(self.propagation)),
            ("orphanDependents", json!(self.orphan)),
        ]);
        let preconditions = given(&[("uid", json!(self.uid)), ("resourceVersion", json!(self.revision))]);
        if preconditions != json!({}) {
            shown["preconditions"] = preconditions;
        }
        if dry_run {
            shown["dryRun"] = json!(["All"]);
        }
        shown
    }
}

/// An object of what is there.
fn given(pairs: &[(&str, Value)]) -> Value {
    let there = pairs.iter().filter(|(_, value)| !value.is_null());
    Value::Object(there.map(|(key, value)| ((*key).to_owned(), value.clone())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(query: &str, verb: Verb) -> Result<WriteOptions, ApiError> {
        WriteOptions::parse(&Params::parse(Some(query)), &HeaderMap::new(), verb)
    }

    #[test]
    fn wrong_options_are_told_all_at_once() {
        let message = |query, verb| parse(query, verb).unwrap_err().message().to_owned();
        assert_eq!(
            message("dryRun=Some&fieldValidation=Odd", Verb::Create),
            "CreateOptions.meta.k8s.io \"\" is invalid: [dryRun: Unsupported value: [\"Some\"]: supported values: \"All\", fieldValidation: Unsupported value: \"Odd\": supported values: \"\", \"Ignore\", \"Strict\", \"Warn\"]"
        );
        assert_eq!(
            message("", Verb::Apply),
            "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch"
        );
        assert!(message("force=true", Verb::Patch).contains("force: Forbidden: may not be specified"));
        assert!(message("fieldManager=a%0Ab", Verb::Update).starts_with("UpdateOptions.meta.k8s.io"));
        let options = parse("fieldManager=me&force=true&dryRun=All&dryRun=All", Verb::Apply).unwrap();
        assert!(options.force && options.dry_run && options.manager == "me");
    }

    #[test]
    fn a_deletions_options_come_from_body_or_query() {
        let options = of_body(&mut json!({
            "gracePeriodSeconds": 5, "orphanDependents": true, "preconditions": {"uid": "u", "resourceVersion": null}
        }))
        .unwrap();
        assert_eq!((options.grace, options.propagation.as_deref()), (Some(5), Some("Orphan")));
        assert_eq!((options.uid.as_deref(), options.revision), (Some("u"), None));
        let shown = json!({"gracePeriodSeconds": 5, "orphanDependents": true, "preconditions": {"uid": "u"}});
        assert_eq!(options.shown, shown, "as webhooks are told");
        let of = |query| of_query(&Params::parse(Some(query)));
        assert_eq!(of("gracePeriodSeconds=-1").unwrap().grace, Some(-1));
        assert!(of("orphanDependents=false").unwrap().accepted);
        assert_eq!(of("gracePeriodSeconds=x").unwrap_err().code(), 400);
        assert_eq!(of_body(&mut json!({"gracePeriodSeconds": "x"})).unwrap_err().code(), 400);
        // What an API server does not read back is not deleted on anybody's word here.
        assert!(of_body(&mut json!({"ignoreStoreReadErrorWithClusterBreakingPotential": true})).is_ok());
        for wrong in [
            json!({"propagationPolicy": "Odd"}),
            json!({"propagationPolicy": "Orphan", "orphanDependents": false}),
            json!({"dryRun": ["all"]}),
        ] {
            assert_eq!(of_body(&mut wrong.clone()).unwrap_err().code(), 422, "{wrong}");
        }
    }
}
