//! Volumes of other systems: what is wrong with them beyond what they lack.

use std::sync::OnceLock;

use regex::Regex;

use crate::builtin::field::Field;
use crate::error::FieldError;
use crate::lookup::entries;
use crate::meta::dns_label;

/// The forms of the names of iSCSI's targets and initiators, by how they begin.
const ISCSI_NAMES: [(&str, &str); 3] = [
    ("iqn", r"iqn\.[0-9]{4}-[0-9]{2}\.([[:alnum:].-]+)(:[^,;*&$|\t\n\f\r ]+)$"),
    ("eui", "^eui.[[:alnum:]]{16}$"),
    ("naa", "^naa.[[:alnum:]]{32}$"),
];
/// What the address of an Azure disk begins with, and its form as it is shown.
const MANAGED_DISK: (&str, &str) = (
    "/subscriptions/",
    "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}",
);
const BLOB_DISK: (&str, &str) =
    ("https://", "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd");
const TENANT_LIMIT: usize = 64;

/// All that is wrong with a source of this kind but for missing fields; `lasting` is that of a PersistentVolume.
pub(super) fn validate(kind: &str, source: &Field<'_>, lasting: bool) -> Vec<FieldError> {
    match kind {
        "awsElasticBlockStore" | "gcePersistentDisk" => {
            // Upstream counts from 0 and says otherwise.
            within(&source.at("partition"), "must be between 1 and 255, inclusive").into_iter().collect()
        }
        "iscsi" => iscsi(source, lasting),
        "fc" => fibre_channel(source),
        "flocker" => flocker(source),
        "azureDisk" => azure_disk(source),
        "quobyte" => quobyte(source),
        "cinder" => secret(source),
        "flexVolume" => flex(source),
        "storageos" => {
            let mut errors = source.at("volumeName").may_follow(dns_label);
            errors.extend(source.at("volumeNamespace").may_follow(dns_label));
            errors.extend(secret(source));
            errors
        }
        _ => Vec::new(),
    }
}

fn within(number: &Field<'_>, why: &str) -> Option<FieldError> {
    number.number().is_some_and(|given| !(0..=255).contains(&given)).then(|| number.invalid(why))
}

/// A secret that is referred to has a name.
fn secret(source: &Field<'_>) -> Vec<FieldError> {
    let secret = source.at("secretRef");
    secret.is_given().then(|| secret.at("name").must_be_given("")).flatten().into_iter().collect()
}

fn iscsi(source: &Field<'_>, lasting: bool) -> Vec<FieldError> {
    let (target, initiator) = (source.at("iqn"), source.at("initiatorName"));
    let mut errors: Vec<FieldError> =
        (!target.text().is_empty()).then(|| iscsi_name(&target, lasting)).flatten().into_iter().collect();
    errors.extend(within(&source.at("lun"), "must be between 0 and 255, inclusive"));
    let chap = ["chapAuthDiscovery", "chapAuthSession"].iter().any(|key| *source.at(key).value == true);
    let secret = source.at("secretRef");
    if secret.is_given() && lasting {
        errors.extend(secret.at("name").must_be_given(""));
    } else if chap && !secret.is_given() {
        errors.push(secret.required(""));
    }
    if initiator.is_given() {
        // Upstream writes it so.
        let shown = Field { path: source.at("initiatorname").path, ..initiator };
        errors.extend(iscsi_name(&shown, lasting));
    }
    errors
}

fn iscsi_name(name: &Field<'_>, lasting: bool) -> Option<FieldError> {
    static COMPILED: OnceLock<Vec<(&str, Option<Regex>)>> = OnceLock::new();
    let forms = COMPILED.get_or_init(|| {
        ISCSI_NAMES.iter().map(|(start, pattern)| (*start, Regex::new(pattern).ok())).collect()
    });
    match forms.iter().find(|(start, _)| name.text().starts_with(start)) {
        None if lasting => Some(name.invalid("must be valid format")),
        None => Some(name.invalid("must be valid format starting with iqn, eui, or naa")),
        Some((_, form)) => {
            let good = form.as_ref().is_some_and(|form| form.is_match(name.text()));
            (!good).then(|| name.invalid("must be valid format"))
        }
    }
}

fn fibre_channel(source: &Field<'_>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let (targets, ids, lun) = (source.at("targetWWNs"), source.at("wwids"), source.at("lun"));
    match (targets.list().is_empty(), ids.list().is_empty()) {
        (true, true) => {
            errors.push(targets.required("must specify either targetWWNs or wwids, but not both"));
        }
        (false, false) => {
            errors.push(targets.invalid("targetWWNs and wwids can not be specified simultaneously"));
        }
        _ => {}
    }
    if !targets.list().is_empty() && !lun.is_given() {
        errors.push(lun.required("lun is required if targetWWNs is specified"));
    }
    errors.extend(within(&lun, "must be between 0 and 255, inclusive"));
    errors
}

fn flocker(source: &Field<'_>) -> Vec<FieldError> {
    let (name, id) = (source.at("datasetName"), source.at("datasetUUID"));
    let wrong = match (name.is_given(), id.is_given()) {
        (false, false) => Some(source.required("one of datasetName and datasetUUID is required")),
        (true, true) => {
            let why = "datasetName and datasetUUID can not be specified simultaneously";
            Some(FieldError::invalid(source.path.as_str(), "resource", why))
        }
        _ => name.text().contains('/').then(|| name.invalid("must not contain '/'")),
    };
    wrong.into_iter().collect()
}

fn azure_disk(source: &Field<'_>) -> Vec<FieldError> {
    let (kind, address) = (source.at("kind"), source.at("diskURI"));
    let mut errors = Vec::new();
    errors.extend(source.at("cachingMode").one_of(&["None", "ReadOnly", "ReadWrite"]));
    errors.extend(kind.one_of(&["Dedicated", "Managed", "Shared"]));
    let (start, form) = if kind.text() == "Managed" { MANAGED_DISK } else { BLOB_DISK };
    if kind.is_given() && !address.text().starts_with(start) {
        errors.push(FieldError::not_supported(address.path.as_str(), address.text(), &[form]));
    }
    errors
}

fn quobyte(source: &Field<'_>) -> Vec<FieldError> {
    const PAIRS: &str = "must be a host:port pair or multiple pairs separated by commas";
    let (registry, tenant) = (source.at("registry"), source.at("tenant"));
    let mut errors = Vec::new();
    if registry.text().is_empty() {
        errors.push(registry.required(PAIRS));
    } else if tenant.text().len() > TENANT_LIMIT {
        errors.push(tenant.required("must be a UUID and may not exceed a length of 64 characters"));
    } else {
        let wrong = registry.text().split(',').filter(|pair| !is_pair(pair));
        errors.extend(wrong.map(|_| registry.invalid(PAIRS)));
    }
    errors.extend(source.at("volume").must_be_given(""));
    errors
}

/// Whether a text is a host, a colon and a port; a host with colons is in brackets.
fn is_pair(text: &str) -> bool {
    match text.strip_prefix('[') {
        Some(rest) => rest
            .split_once("]:")
            .is_some_and(|(host, port)| !(host.contains('[') || port.contains([':', '[', ']']))),
        None => text
            .rsplit_once(':')
            .is_some_and(|(host, port)| !(host.contains([':', '[', ']']) || port.contains(['[', ']']))),
    }
}

fn flex(source: &Field<'_>) -> Vec<FieldError> {
    let options = source.at("options");
    let reserved = |key: &str| {
        let owner = key.split_once('/').map_or(key, |(owner, _)| owner);
        let owner = format!(".{}", owner.to_lowercase());
        owner.ends_with(".kubernetes.io") || owner.ends_with(".k8s.io")
    };
    let wrong = entries(options.value, &[]).map(|(key, _)| key).filter(|key| reserved(key));
    let why = "kubernetes.io and k8s.io namespaces are reserved";
    wrong.map(|key| FieldError::invalid(format!("{}[{key}]", options.path), key.as_str(), why)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn found(kind: &str, source: &Value) -> Vec<String> {
        let field = Field { value: source, path: "v".to_owned() };
        validate(kind, &field, false).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn names_of_iscsi_have_a_form() {
        for (name, good) in [
            ("iqn.2020-01.com.example:storage", true),
            ("iqn.2020-01.com.example", false),
            ("eui.0123456789abcdef", true),
            ("eui.01", false),
            ("naa.0123456789abcdef0123456789abcdef", true),
            ("naa.0123456789abcdef", false),
            ("other", false),
        ] {
            let found = found("iscsi", &json!({"iqn": name}));
            assert_eq!(found.is_empty(), good, "{name}: {found:?}");
        }
        assert!(ISCSI_NAMES.iter().all(|(_, pattern)| Regex::new(pattern).is_ok()));
    }

    #[test]
    fn each_system_has_its_rules() {
        for (kind, source, wanted) in [
            (
                "azureDisk",
                json!({"kind": "Managed", "diskURI": "x"}),
                "v.diskURI: Unsupported value: \"x\": supported values: \"/subscriptions/",
            ),
            (
                "azureDisk",
                json!({"kind": "Shared", "diskURI": "/subscriptions/x"}),
                "v.diskURI: Unsupported value",
            ),
            (
                "quobyte",
                json!({"registry": "a:1,b", "volume": "v"}),
                "v.registry: Invalid value: \"a:1,b\": must be a host:port pair",
            ),
            ("quobyte", json!({"registry": "[::1]:5"}), "v.volume: Required value"),
            (
                "flexVolume",
                json!({"options": {"x.k8s.io/y": "z"}}),
                "v.options[x.k8s.io/y]: Invalid value: \"x.k8s.io/y\": kubernetes.io and k8s.io",
            ),
            ("cinder", json!({"secretRef": {}}), "v.secretRef.name: Required value"),
            (
                "gcePersistentDisk",
                json!({"partition": 256}),
                "v.partition: Invalid value: 256: must be between 1 and 255",
            ),
            (
                "flocker",
                json!({"datasetName": "a/b"}),
                "v.datasetName: Invalid value: \"a/b\": must not contain '/'",
            ),
            ("fc", json!({"wwids": ["a"], "lun": 256}), "v.lun: Invalid value: 256"),
            ("storageos", json!({"volumeName": "A"}), "v.volumeName: Invalid value: \"A\""),
        ] {
            let found = found(kind, &source);
            assert!(found.len() == 1 && found[0].starts_with(wanted), "{kind}: {found:?}");
        }
        assert_eq!(found("azureDisk", &json!({"kind": "Managed", "diskURI": "/subscriptions/x"})), [""; 0]);
    }
}
