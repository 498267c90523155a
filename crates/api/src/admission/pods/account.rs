//! The ServiceAccount that a Pod runs as: it must be there, and the Pod finds its token where clients look for it.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Map, Value, json};
use yunfan_objects::builtin::names_secret;
use yunfan_objects::{ApiError, GroupResource, meta};

use super::super::{Attempt, Operation, Refusal, View, WritePlan};
use crate::cache::Entry;
use crate::keys;

/// The account of a Pod that names none.
const DEFAULT: &str = "default";
/// What the volume's name begins with.
const VOLUME: &str = "kube-api-access-";
/// Where clients look for their token.
const PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// An hour, and what kube-apiserver knows such tokens by.
const SECONDS: i64 = 3607;
/// Present on the Pod that shows what a node runs by itself.
pub(super) const MIRROR: &str = "kubernetes.io/config.mirror";
/// On an account whose Pods may use only the secrets that it lists.
const ENFORCE: &str = "kubernetes.io/enforce-mountable-secrets";

pub(super) fn fill(view: &View<'_>, attempt: &mut Attempt<'_>, plan: &mut WritePlan) -> Result<(), Refusal> {
    if !attempt.makes_pod() || is_mirror(attempt.object) || !attempt.object["spec"].is_object() {
        return Ok(());
    }
    let spec = &mut attempt.object["spec"];
    if spec["serviceAccountName"].as_str().unwrap_or_default().is_empty() {
        spec["serviceAccountName"] = json!(DEFAULT);
    }
    // The older name of the same field.
    spec["serviceAccount"] = spec["serviceAccountName"].clone();
    let entry = find(view, attempt)?;
    // Were the account deleted meanwhile, the Pod would wait for its token for ever.
    plan.exists(entry.key.as_ref());
    let account = entry.value();
    // The same each time that the write is tried: else nobody could tell that it is the same Pod.
    let volume = meta::numbered_name(VOLUME, attempt.seed());
    let spec = &mut attempt.object["spec"];
    let says = |object: &Value| object["automountServiceAccountToken"].as_bool();
    if says(spec).or(says(account)).unwrap_or(true) {
        mount(spec, &volume);
    }
    let secrets = &account["imagePullSecrets"];
    if is_empty(&spec["imagePullSecrets"]) && !is_empty(secrets) {
        spec["imagePullSecrets"] = secrets.clone();
    }
    Ok(())
}

pub(super) fn check(view: &View<'_>, attempt: &Attempt<'_>) -> Result<(), Refusal> {
    let debugs = attempt.operation == Operation::Update
        && attempt.subresource == "ephemeralcontainers"
        && attempt.is("", "pods");
    if !attempt.makes_pod() && !debugs {
        return Ok(());
    }
    let pod = &*attempt.object;
    if !debugs && is_mirror(pod) {
        return mirror(pod).map_err(|why| attempt.forbidden(why));
    }
    let account = find(view, attempt)?;
    let account = account.value();
    let enforced = account["metadata"]["annotations"][ENFORCE].as_str();
    if !enforced.is_some_and(|text| matches!(text, "1" | "t" | "T" | "TRUE" | "true" | "True")) {
        return Ok(());
    }
    let checked = if debugs { debug_secrets(pod, account) } else { secrets(pod, account) };
    checked.map_err(|why| attempt.forbidden(&why))
}

/// Whether it stands for a static Pod of its node.
pub(crate) fn is_mirror(pod: &Value) -> bool {
    !pod["metadata"]["annotations"][MIRROR].is_null()
}

fn is_empty(list: &Value) -> bool {
    list.as_array().is_none_or(Vec::is_empty)
}

fn find(view: &View<'_>, attempt: &Attempt<'_>) -> Result<Arc<Entry>, Refusal> {
    let name = attempt.object["spec"]["serviceAccountName"].as_str().unwrap_or_default();
    if name.is_empty() {
        let why = format!("no service account specified for pod {}/{}", attempt.namespace, attempt.name);
        return Err(attempt.forbidden(&why));
    }
    if let Some(entry) = view.get("", "serviceaccounts", attempt.namespace, name) {
        return Ok(entry);
    }
    let missing = ApiError::not_found(&GroupResource::new("", "serviceaccount"), name);
    let why = format!("error looking up service account {}/{name}: {}", attempt.namespace, missing.message());
    let error = ApiError::forbidden(&attempt.resource(), attempt.name, &why);
    if name != DEFAULT {
        return Err(error.into());
    }
    // A new namespace is given its own a moment after it is made.
    let prefix = keys::kind_prefix("", "serviceaccounts");
    Err(Refusal::Awaited(keys::object_key(&prefix, attempt.namespace, name), error))
}

/// Puts the token, what it is checked by, and the namespace where all containers see them: in a volume of this name, if there
/// is none yet.
fn mount(spec: &mut Value, new: &str) {
    let known = spec["volumes"].as_array().into_iter().flatten();
    let known = known.filter_map(|volume| volume["name"].as_str()).find(|name| name.starts_with(VOLUME));
    let name = known.unwrap_or(new).to_owned();
    let has_volume = known.is_some();
    let mut is_needed = false;
    for kind in ["initContainers", "containers"] {
        for container in spec.get_mut(kind).and_then(Value::as_array_mut).into_iter().flatten() {
            let Some(container) = container.as_object_mut() else { continue };
            let mut mounts = container.get("volumeMounts").and_then(Value::as_array).into_iter().flatten();
            // What the Pod itself has there stays.
            if !mounts.any(|mount| mount["mountPath"] == PATH) {
                push(container, "volumeMounts", json!({"name": name, "readOnly": true, "mountPath": PATH}));
                is_needed = true;
            }
        }
    }
    if is_needed
        && !has_volume
        && let Some(spec) = spec.as_object_mut()
    {
        push(spec, "volumes", volume(&name));
    }
}

fn push(object: &mut Map<String, Value>, key: &str, item: Value) {
    match object.get_mut(key).and_then(Value::as_array_mut) {
        Some(list) => list.push(item),
        None => {
            object.insert(key.to_owned(), json!([item]));
        }
    }
}

fn volume(name: &str) -> Value {
    json!({"name": name, "projected": {"defaultMode": 0o644, "sources": [
        {"serviceAccountToken": {"path": "token", "expirationSeconds": SECONDS}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace",
            "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
    ]}})
}

/// A node runs such a Pod without asking the API server for anything.
fn mirror(pod: &Value) -> Result<(), &'static str> {
    let spec = &pod["spec"];
    if !spec["serviceAccountName"].as_str().unwrap_or_default().is_empty() {
        return Err("a mirror pod may not reference service accounts");
    }
    if !is_empty(&spec["imagePullSecrets"]) || names_secret(spec) {
        return Err("a mirror pod may not reference secrets");
    }
    let volumes = spec["volumes"].as_array().into_iter().flatten();
    let mut sources =
        volumes.flat_map(|volume| volume["projected"]["sources"].as_array().into_iter().flatten());
    if sources.any(|source| !source["serviceAccountToken"].is_null()) {
        return Err("a mirror pod may not use ServiceAccountToken volume projections");
    }
    Ok(())
}

fn names_in(list: &Value) -> BTreeSet<&str> {
    list.as_array().into_iter().flatten().filter_map(|each| each["name"].as_str()).collect()
}

fn listed<'a>(object: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    object[key].as_array().into_iter().flatten()
}

/// Secrets of a Pod must be among those of its account.
fn secrets(pod: &Value, account: &Value) -> Result<(), String> {
    let spec = &pod["spec"];
    let name = account["metadata"]["name"].as_str().unwrap_or_default();
    let known = names_in(&account["secrets"]);
    for volume in listed(spec, "volumes") {
        if let Some(secret) = volume["secret"]["secretName"].as_str().filter(|secret| !known.contains(secret))
        {
            return Err(format!(
                "volume with secret.secretName=\"{secret}\" is not allowed because service account {name} does not reference that secret"
            ));
        }
    }
    for (kind, word) in [("initContainers", "init container"), ("containers", "container")] {
        for container in listed(spec, kind) {
            of_variables(container, word, &known, name)?;
            of_sources(container, word, &known, name)?;
        }
    }
    let pulls = names_in(&account["imagePullSecrets"]);
    for (index, secret) in listed(spec, "imagePullSecrets").enumerate() {
        let secret = secret["name"].as_str().unwrap_or_default();
        if !pulls.contains(secret) {
            return Err(format!(
                "imagePullSecrets[{index}].name=\"{secret}\" is not allowed because service account {name} does not reference that imagePullSecret"
            ));
        }
    }
    Ok(())
}

fn debug_secrets(pod: &Value, account: &Value) -> Result<(), String> {
    let name = account["metadata"]["name"].as_str().unwrap_or_default();
    let known = names_in(&account["secrets"]);
    listed(&pod["spec"], "ephemeralContainers").try_for_each(|container| {
        of_variables(container, "ephemeral container", &known, name)?;
        of_sources(container, "ephemeral container", &known, name)
    })
}

fn of_variables(container: &Value, word: &str, known: &BTreeSet<&str>, account: &str) -> Result<(), String> {
    for variable in listed(container, "env") {
        let secret = variable["valueFrom"]["secretKeyRef"]["name"].as_str();
        if let Some(secret) = secret.filter(|secret| !known.contains(secret)) {
            return Err(format!(
                "{word} {} with envVar {} referencing secret.secretName=\"{secret}\" is not allowed because service account {account} does not reference that secret",
                container["name"].as_str().unwrap_or_default(),
                variable["name"].as_str().unwrap_or_default(),
            ));
        }
    }
    Ok(())
}

fn of_sources(container: &Value, word: &str, known: &BTreeSet<&str>, account: &str) -> Result<(), String> {
    for source in listed(container, "envFrom") {
        let secret = source["secretRef"]["name"].as_str();
        if let Some(secret) = secret.filter(|secret| !known.contains(secret)) {
            return Err(format!(
                "{word} {} with envFrom referencing secret.secretName=\"{secret}\" is not allowed because service account {account} does not reference that secret",
                container["name"].as_str().unwrap_or_default(),
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_container_finds_its_token() {
        let mut spec = json!({"initContainers": [{"name": "i"}], "containers": [
            {"name": "a", "volumeMounts": [{"name": "own", "mountPath": PATH}]}, {"name": "b", "volumeMounts": null}]});
        mount(&mut spec, "kube-api-access-b4c5d");
        let name = spec["volumes"][0]["name"].as_str().unwrap().to_owned();
        assert_eq!(name, "kube-api-access-b4c5d");
        let mount_of = json!([{"name": name, "readOnly": true, "mountPath": PATH}]);
        assert_eq!(spec["initContainers"][0]["volumeMounts"], mount_of);
        assert_eq!(spec["containers"][1]["volumeMounts"], mount_of);
        assert_eq!(spec["containers"][0]["volumeMounts"][0]["name"], "own");
        let before = spec.clone();
        mount(&mut spec, "kube-api-access-other");
        assert_eq!(spec, before, "a Pod that was read and made again has one such volume");
        let mut own = json!({"containers": [{"volumeMounts": [{"name": "own", "mountPath": PATH}]}]});
        mount(&mut own, "kube-api-access-other");
        assert!(own["volumes"].is_null());
    }

    #[test]
    fn a_mirror_asks_for_nothing_of_the_server() {
        let of = |spec: Value| mirror(&json!({"spec": spec}));
        assert_eq!(of(json!({"containers": [{"name": "a"}]})), Ok(()));
        assert_eq!(
            of(json!({"serviceAccountName": "a"})),
            Err("a mirror pod may not reference service accounts")
        );
        for spec in [
            json!({"imagePullSecrets": [{"name": "a"}]}),
            json!({"containers": [{"env": [{"valueFrom": {"secretKeyRef": {"name": "a"}}}]}]}),
            json!({"volumes": [{"projected": {"sources": [{"secret": {"name": "a"}}]}}]}),
        ] {
            assert_eq!(of(spec), Err("a mirror pod may not reference secrets"));
        }
        assert_eq!(
            of(json!({"volumes": [{"projected": {"sources": [{"serviceAccountToken": {}}]}}]})),
            Err("a mirror pod may not use ServiceAccountToken volume projections")
        );
    }

    #[test]
    fn secrets_are_those_of_the_account_where_it_says_so() {
        let account = json!({"metadata": {"name": "robot"}, "secrets": [{"name": "s"}], "imagePullSecrets": [{"name": "p"}]});
        let of = |spec: Value| secrets(&json!({"spec": spec}), &account);
        let good = json!({"volumes": [{"secret": {"secretName": "s"}}, {"emptyDir": {}}], "imagePullSecrets": [{"name": "p"}],
            "containers": [{"env": [{"name": "E", "valueFrom": {"secretKeyRef": {"name": "s"}}}]}]});
        assert_eq!(of(good), Ok(()));
        for (spec, wanted) in [
            (
                json!({"volumes": [{"secret": {"secretName": "x"}}]}),
                "volume with secret.secretName=\"x\" is not allowed because service account robot does not reference that secret",
            ),
            (
                json!({"initContainers": [{"name": "c", "env": [{"name": "E", "valueFrom": {"secretKeyRef": {"name": "x"}}}]}]}),
                "init container c with envVar E referencing secret.secretName=\"x\" is not allowed because service account robot does not reference that secret",
            ),
            (
                json!({"containers": [{"name": "c", "envFrom": [{"secretRef": {"name": "x"}}]}]}),
                "container c with envFrom referencing secret.secretName=\"x\" is not allowed because service account robot does not reference that secret",
            ),
            (
                json!({"imagePullSecrets": [{"name": "x"}]}),
                "imagePullSecrets[0].name=\"x\" is not allowed because service account robot does not reference that imagePullSecret",
            ),
        ] {
            assert_eq!(of(spec).unwrap_err(), wanted);
        }
        let debug = json!({"spec": {"ephemeralContainers": [{"name": "c", "envFrom": [{"secretRef": {"name": "x"}}]}]}});
        assert!(
            debug_secrets(&debug, &account).unwrap_err().starts_with("ephemeral container c with envFrom")
        );
    }
}
