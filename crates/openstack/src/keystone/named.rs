//! What users, groups and projects have in common: each is in a domain, has a name that is unique in it, and keeps what else clients
//! write down about it.

use std::collections::BTreeMap;

use kube::api::Api;
use serde_json::{Map, Value, json};
use yunfan_resources::Identified;
use yunfan_resources::iam::{Group, Project, User};

use super::name_matches;
use crate::auth::Session;
use crate::body::Params;
use crate::directory::DEFAULT_DOMAIN;
use crate::error::Fault;
use crate::ids::{self, Kind};

/// Attributes of a client's own that an object keeps, and bytes of each.
const MAX_EXTRA: usize = 64;
const MAX_EXTRA_BYTES: usize = 8192;

/// Something that is in a domain.
pub(super) trait InDomain: Kind + Identified {
    /// `metadata.name` of its Domain; none for the default one.
    fn domain(&self) -> Option<&str>;
    /// Whether it is switched on.
    fn enabled(&self) -> bool;
    /// What Keystone says when another has the name.
    fn taken(name: &str) -> String;
}

impl InDomain for Project {
    fn domain(&self) -> Option<&str> {
        self.spec.domain.as_deref()
    }

    fn enabled(&self) -> bool {
        self.spec.enabled
    }

    fn taken(name: &str) -> String {
        format!(
            "Conflict occurred attempting to store project - it is not permitted to have two projects with the same name \
             in the same domain : {name}."
        )
    }
}

impl InDomain for User {
    fn domain(&self) -> Option<&str> {
        self.spec.domain.as_deref()
    }

    fn enabled(&self) -> bool {
        self.spec.enabled
    }

    fn taken(name: &str) -> String {
        format!("Conflict occurred attempting to store user - Duplicate entry found with name {name}.")
    }
}

impl InDomain for Group {
    fn domain(&self) -> Option<&str> {
        self.spec.domain.as_deref()
    }

    fn enabled(&self) -> bool {
        true
    }

    fn taken(name: &str) -> String {
        format!("Conflict occurred attempting to store group - Duplicate entry found with name {name}.")
    }
}

/// Those that pass the filters of a list: name, domain, and whether they are switched on.
pub(super) async fn filtered<K: InDomain>(
    session: &Session,
    params: &Params,
    api: &Api<K>,
) -> Result<Vec<K>, Fault> {
    let enabled = params.flag("enabled")?;
    let mut found = Vec::new();
    for object in ids::list(api).await? {
        if !name_matches(params, &object.display_name()) || enabled.is_some_and(|it| it != object.enabled()) {
            continue;
        }
        let domain = session.door.directory.domain_of(object.domain()).await?;
        if params.get("domain_id").is_none_or(|wanted| wanted == domain.id) {
            found.push(object);
        }
    }
    Ok(found)
}

/// Refuses a name that another (than the one with the id `except`) has in the domain.
pub(super) async fn refuse_taken<K: InDomain>(
    api: &Api<K>,
    name: &str,
    domain: Option<&str>,
    except: Option<&str>,
) -> Result<(), Fault> {
    let within = |domain: Option<&str>| domain.unwrap_or(DEFAULT_DOMAIN).to_owned();
    let taken = ids::list(api).await?.into_iter().any(|object| {
        object.display_name() == name
            && within(object.domain()) == within(domain)
            && Some(object.id().as_str()) != except
    });
    if taken { Err(Fault::conflict(K::taken(name))) } else { Ok(()) }
}

/// Members of a request that Keystone has no meaning for and keeps: each value as JSON. A null takes one away.
pub(super) fn extra(given: &Map<String, Value>) -> Result<BTreeMap<String, String>, Fault> {
    if given.len() > MAX_EXTRA {
        return Err(Fault::bad(format!("At most {MAX_EXTRA} attributes of your own are kept.")));
    }
    let mut kept = BTreeMap::new();
    for (name, value) in given {
        let text = value.to_string();
        if name.is_empty() || name.len() > 255 || text.len() > MAX_EXTRA_BYTES {
            return Err(Fault::bad(format!(
                "Invalid input for field/attribute {name}. Attributes of your own have names of 1 to 255 bytes and values of up to \
                 {MAX_EXTRA_BYTES}."
            )));
        }
        kept.insert(name.clone(), text);
    }
    Ok(kept)
}

/// The change of an object's spec that keeps them.
pub(super) fn extra_change(given: &Map<String, Value>) -> Result<Option<Value>, Fault> {
    if given.is_empty() {
        return Ok(None);
    }
    let gone = |value: &Value| value.is_null();
    let kept = extra(given)?;
    let changes: Map<String, Value> = kept
        .into_iter()
        .map(|(name, text)| {
            let value = if given.get(&name).is_some_and(gone) { Value::Null } else { json!(text) };
            (name, value)
        })
        .collect();
    Ok(Some(Value::Object(changes)))
}

/// Puts what was kept into a view; what Keystone itself says goes before.
pub(super) fn show_extra(view: &mut Value, kept: &BTreeMap<String, String>) {
    let Some(view) = view.as_object_mut() else { return };
    for (name, text) in kept {
        if !view.contains_key(name)
            && let Ok(value) = serde_json::from_str(text)
        {
            view.insert(name.clone(), value);
        }
    }
}

/// `options` of domains, projects and roles: there is one, `immutable`. `Some(None)` takes it away.
pub(super) fn immutable_option(options: Option<&Map<String, Value>>) -> Result<Option<bool>, Fault> {
    let Some(options) = options else { return Ok(None) };
    let mut found = None;
    for (name, value) in options {
        match (name.as_str(), value) {
            ("immutable", Value::Bool(value)) => found = Some(*value),
            ("immutable", Value::Null) => found = Some(false),
            _ => {
                return Err(Fault::bad(format!(
                    "Invalid input for field/attribute options. There is the option immutable, true or false, and no {name}={value}."
                )));
            }
        }
    }
    Ok(found)
}

/// How `immutable` is shown.
pub(super) fn options_view(immutable: bool) -> Value {
    if immutable { json!({"immutable": true}) } else { json!({}) }
}

/// Keystone's refusal to change or delete what is immutable.
pub(super) fn refuse_immutable(what: &str, id: &str, immutable: bool) -> Result<(), Fault> {
    if immutable {
        return Err(Fault::forbidden(format!(
            "Unable to update or delete immutable {what} resource: {id}. Set resource option \"immutable\" to false first."
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_of_a_clients_own_are_kept_and_taken_away() {
        let given = json!({"a": {"b": [1]}, "c": null});
        let given = given.as_object().unwrap();
        assert_eq!(extra_change(given).unwrap(), Some(json!({"a": "{\"b\":[1]}", "c": null})));
        let mut view = json!({"name": "x"});
        show_extra(
            &mut view,
            &[("a".to_owned(), "1".to_owned()), ("name".to_owned(), "2".to_owned())].into(),
        );
        assert_eq!(view, json!({"name": "x", "a": 1}));
        let many = (0..=MAX_EXTRA).map(|n| (n.to_string(), json!(1))).collect();
        assert!(extra(&many).is_err());
    }

    #[test]
    fn immutable_is_the_one_option() {
        let options = |value: Value| immutable_option(value.as_object());
        assert_eq!(options(json!({"immutable": true})).unwrap(), Some(true));
        assert_eq!(options(json!({"immutable": null})).unwrap(), Some(false));
        assert_eq!(options(json!({})).unwrap(), None);
        assert!(options(json!({"other": 1})).is_err());
    }
}
