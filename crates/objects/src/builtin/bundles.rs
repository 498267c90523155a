//! ClusterTrustBundle and PodCertificateRequest of certificates.k8s.io: whom Pods trust, and the certificates that their nodes ask for
//! in their names. (Kubernetes' pkg/apis/certificates/validation.)

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::Object;
use crate::builtin::field::Field;
use crate::builtin::formats::signer;
use crate::builtin::rows::{name, or_none};
use crate::builtin::rules::Rules;
use crate::builtin::{ColumnSpec, conditions, pem};
use crate::error::FieldError;
use crate::lookup::{entries, list, set_default, text};
use crate::meta::{Wrongs, all_wrong, dns_subdomain, qualified_name};

/// Most bytes of a bundle.
const MOST_BUNDLE: usize = 1024 * 1024;
/// Most bytes of a request, of its key or of the proof that its key is there.
const MOST_REQUEST: usize = 10 * 1024;
/// Most bytes of what is issued.
const MOST_CHAIN: usize = 100 * 1024;
/// Most bytes of annotations.
const MOST_ANNOTATIONS: usize = 256 * 1024;
/// Most characters of a uid.
const MOST_UID: usize = 128;
/// Seconds that a certificate may be asked for: least, most of Kubernetes' own signers, most of others.
const SECONDS: [i64; 3] = [3600, 24 * 3600, 91 * 24 * 3600];
/// What becomes of a request; each is its end.
const ENDS: [&str; 3] = ["Denied", "Failed", "Issued"];

pub(super) const BUNDLE_COLUMNS: &[ColumnSpec] = &[("Name", "string", 0), ("SignerName", "string", 0)];

pub(super) fn bundle_cells(bundle: &Object, _: Timestamp) -> Vec<Value> {
    vec![name(bundle), or_none(text(bundle, &["spec", "signerName"]))]
}

pub(super) const BUNDLE: Rules = Rules {
    validate: |bundle| {
        let spec = Field::root(bundle).at("spec");
        let signed_by = spec.at("signerName");
        let mut errors = bundle_name(bundle, signed_by.text());
        if !signed_by.text().is_empty() {
            errors.extend(signed_by.needs(signer));
        }
        errors
    },
    validate_create: |bundle| anchors(&Field::root(bundle).under(&["spec", "trustBundle"])),
    validate_update: |new, old| {
        let of = |object| Field::root(object).under(&["spec", "trustBundle"]);
        let (after, before) = (of(new), of(old));
        // What was taken once may stay, whatever readers say of it today.
        let mut errors = if after.text() == before.text() { Vec::new() } else { anchors(&after) };
        let signed_by = |object| Field::root(object).under(&["spec", "signerName"]);
        errors.extend(signed_by(new).same_as(&signed_by(old)));
        errors
    },
    path_segment_name: true,
    ..Rules::UNCOUNTED
};

/// A bundle of a signer is named after it, any other has a name without a colon.
fn bundle_name(bundle: &Object, signed_by: &str) -> Vec<FieldError> {
    let name = Field::root(bundle).under(&["metadata", "name"]);
    // One that the server is to give a name is looked at when it has one.
    if !name.is_given() {
        return Vec::new();
    }
    all_wrong(&name.path, name.text(), wrong_name(name.text(), signed_by)).collect()
}

/// What is wrong with the name of a bundle of this signer, or of none.
pub(super) fn wrong_name(name: &str, signed_by: &str) -> Wrongs {
    if signed_by.is_empty() {
        if name.contains(':') {
            return vec!["ClusterTrustBundle without signer name must not have \":\" in its name".to_owned()];
        }
        return dns_subdomain(name);
    }
    let prefix = format!("{}:", signed_by.replace('/', ":"));
    match name.strip_prefix(&prefix) {
        Some(own) => dns_subdomain(own),
        None => {
            vec![format!("ClusterTrustBundle for signerName {signed_by} must be named with prefix {prefix}")]
        }
    }
}

/// The signer that the name of a bundle begins with; empty for that of none.
pub(super) fn signer_of(name: &str) -> String {
    name.rsplit_once(':').map(|(signer, _)| signer.replace(':', "/")).unwrap_or_default()
}

/// What is wrong with what a Pod's author tells the signer. The case of keys does not matter.
pub(super) fn user_annotations(annotations: &Field<'_>) -> Vec<FieldError> {
    let (mut errors, mut size) = (Vec::new(), 0);
    for (key, value) in entries(annotations.value, &[]) {
        size += key.len() + value.as_str().map_or(0, str::len);
        let lower = key.to_lowercase();
        if lower.is_empty() {
            errors.push(annotations.required(""));
            continue;
        }
        let mut wrong = qualified_name(&lower);
        if wrong.is_empty() && !lower.contains('/') {
            wrong.push("must be a domain-prefixed key (such as \"acme.io/foo\")".to_owned());
        }
        errors.extend(all_wrong(&annotations.path, &lower, wrong));
    }
    if size > MOST_ANNOTATIONS {
        errors.push(FieldError::too_long(annotations.path.as_str(), MOST_ANNOTATIONS as u64));
    }
    errors
}

/// For how many seconds a certificate of this signer may be asked for, at least and at most.
pub(super) fn seconds_of(signed_by: &str) -> (i64, i64) {
    let [least, of_kubernetes, of_others] = SECONDS;
    let domain = signed_by.split('/').next().unwrap_or_default();
    let own = domain == "kubernetes.io" || domain.ends_with(".kubernetes.io");
    (least, if own { of_kubernetes } else { of_others })
}

/// What is wrong with the certificates of whom is trusted.
fn anchors(bundle: &Field<'_>) -> Vec<FieldError> {
    if bundle.text().len() > MOST_BUNDLE {
        return vec![FieldError::too_long(bundle.path.as_str(), MOST_BUNDLE as u64)];
    }
    let wrong = |why: String| FieldError::invalid(bundle.path.as_str(), "<value omitted>", why);
    let blocks = pem::blocks(bundle.text().as_bytes());
    let of_block = |(index, block): (usize, &pem::Block)| {
        let why = match pem::is_authority(&block.bytes) {
            _ if block.label != "CERTIFICATE" => format!("has bad block type: {}", block.label),
            _ if block.headers => "has PEM block headers".to_owned(),
            None => "does not parse as X.509".to_owned(),
            Some(false) => "does not have the CA bit set".to_owned(),
            Some(true) => return None,
        };
        Some(wrong(format!("entry {index} {why}")))
    };
    let errors: Vec<FieldError> = blocks.iter().enumerate().filter_map(of_block).collect();
    if !errors.is_empty() {
        return errors;
    }
    if blocks.is_empty() {
        return vec![wrong("at least one trust anchor must be provided".to_owned())];
    }
    let mut places: std::collections::BTreeMap<&[u8], Vec<String>> = std::collections::BTreeMap::new();
    for (index, block) in blocks.iter().enumerate() {
        places.entry(&block.bytes).or_default().push(index.to_string());
    }
    let repeated = places.into_values().filter(|places| places.len() > 1);
    repeated.map(|places| wrong(format!("duplicate trust anchor (indices [{}])", places.join(" ")))).collect()
}

pub(super) const REQUEST_COLUMNS: &[ColumnSpec] = &[
    ("Name", "string", 0),
    ("PodName", "string", 0),
    ("ServiceAccountName", "string", 0),
    ("NodeName", "string", 0),
    ("SignerName", "string", 0),
    ("State", "string", 0),
    ("UnverifiedUserAnnotations", "string", 0),
];

pub(super) fn request_cells(request: &Object, _: Timestamp) -> Vec<Value> {
    let of = |key: &str| json!(text(request, &["spec", key]));
    let mut kinds =
        list(request, &["status", "conditions"]).iter().map(|condition| text(condition, &["type"]));
    let state = kinds.rfind(|kind| ENDS.contains(kind)).unwrap_or("Pending");
    let annotations = entries(request, &["spec", "unverifiedUserAnnotations"]);
    let shown: Vec<String> =
        annotations.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect();
    vec![
        name(request),
        of("podName"),
        of("serviceAccountName"),
        of("nodeName"),
        of("signerName"),
        json!(state),
        or_none(&shown.join(",")),
    ]
}

pub(super) const POD_REQUEST: Rules = Rules {
    default: |request| {
        if let Some(spec) = request.get_mut("spec") {
            set_default(spec, "maxExpirationSeconds", 24 * 3600);
        }
    },
    validate: validate_request,
    validate_update: |new, old| {
        let spec = |object| Field::root(object).at("spec");
        let changed = spec(new).value != spec(old).value;
        changed.then(|| spec(new).invalid("field is immutable")).into_iter().collect()
    },
    validate_status: request_status,
    ..Rules::UNCOUNTED
};

fn validate_request(request: &Object) -> Vec<FieldError> {
    let spec = Field::root(request).at("spec");
    let mut errors = spec.at("signerName").needs(signer);
    errors.extend(user_annotations(&spec.at("unverifiedUserAnnotations")));
    for (by_name, by_uid) in
        [("podName", "podUID"), ("serviceAccountName", "serviceAccountUID"), ("nodeName", "nodeUID")]
    {
        errors.extend(spec.at(by_name).obeys(dns_subdomain));
        let uid = spec.at(by_uid);
        if uid.text().is_empty() {
            errors.push(FieldError::invalid(uid.path.as_str(), "", "must not be empty"));
        }
        errors.extend(uid.no_longer_than(MOST_UID));
    }
    let (least, most) = seconds_of(spec.at("signerName").text());
    let seconds = spec.at("maxExpirationSeconds");
    if !seconds.number().is_some_and(|given| (least..=most).contains(&given)) {
        errors.push(seconds.invalid(format!("must be in the range [{least}, {most}]")));
    }
    errors.extend(asked(&spec));
    errors
}

/// What is wrong with the request itself. Its signature is looked at where keys are known.
fn asked(spec: &Field<'_>) -> Vec<FieldError> {
    let stub = spec.at("stubPKCS10Request");
    let is_empty = |key: &str| spec.at(key).text().is_empty();
    let (key, proof) = (is_empty("pkixPublicKey"), is_empty("proofOfPossession"));
    let omitted =
        |field: &Field<'_>, why: &str| FieldError::invalid(field.path.as_str(), Value::Null, why).whole();
    if stub.text().is_empty() == (key && proof) || (key != proof) {
        let why = "exactly one of (stubPKCS10Request) or (pkixPublicKey, proofOfPossession) must be set";
        return vec![omitted(spec, why)];
    }
    if stub.text().is_empty() {
        let why = "is deprecated, and proofs of this form are not checked here: use stubPKCS10Request";
        return vec![omitted(&spec.at("pkixPublicKey"), why)];
    }
    let bytes = STANDARD.decode(stub.text()).unwrap_or_default();
    if bytes.len() > MOST_REQUEST {
        return vec![FieldError::too_long(stub.path.as_str(), MOST_REQUEST as u64)];
    }
    match pem::wrong_sequence(&bytes) {
        Some(_) => vec![omitted(&stub, "must be a valid PKCS#10 CSR")],
        None => Vec::new(),
    }
}

/// What is wrong with what became of a request, but for what needs its certificate read.
fn request_status(new: &Object, old: &Object) -> Vec<FieldError> {
    let status = Field::root(new).at("status");
    let all = status.at("conditions");
    let mut errors = Vec::new();
    for (index, condition) in all.items().enumerate() {
        let (kind, holds) = (condition.at("type"), condition.at("status"));
        if !ENDS.contains(&kind.text()) {
            errors.push(FieldError::not_supported(
                kind.path.as_str(),
                kind.text(),
                &["Denied", "Failed", "Issued"],
            ));
            continue;
        }
        if index > 0 {
            let why = "There may be at most one condition with type \"Issued\", \"Denied\", or \"Failed\"";
            errors.push(kind.invalid(why));
        }
        if holds.text() != "True" {
            errors.push(FieldError::not_supported(holds.path.as_str(), holds.text(), &["True"]));
        }
    }
    errors.extend(conditions::validate(&all));
    if !errors.is_empty() {
        return errors;
    }
    let end = |request: &Object| {
        let mut kinds = list(request, &["status", "conditions"]).iter();
        kinds.find_map(|one| ENDS.iter().find(|end| one["type"] == **end).copied())
    };
    let unshown = |why: &str| FieldError::invalid("status", Value::Null, why).whole();
    let is_same = || without_nothing(&new["status"]) == without_nothing(&old["status"]);
    match (end(old), end(new)) {
        (Some(_), _) if !is_same() => {
            vec![unshown("immutable after PodCertificateRequest is issued, denied, or failed")]
        }
        (None, None) if !is_same() => {
            vec![unshown("status is immutable unless transitioning to \"Issued\", \"Denied\", or \"Failed\"")]
        }
        (None, Some("Issued")) => issued(&status),
        (None, Some(_)) if without_nothing(&new["status"]).iter().any(|(key, _)| *key != "conditions") => {
            let why =
                "non-condition status fields must be empty when denying or failing the PodCertificateRequest";
            vec![unshown(why)]
        }
        _ => Vec::new(),
    }
}

/// The members that say something.
fn without_nothing(status: &Value) -> Vec<(&str, &Value)> {
    let says = |value: &Value| !value.is_null() && *value != json!("") && *value != json!([]);
    entries(status, &[]).filter(|(_, value)| says(value)).map(|(key, value)| (key.as_str(), value)).collect()
}

fn issued(status: &Field<'_>) -> Vec<FieldError> {
    let chain = status.at("certificateChain");
    if chain.text().len() > MOST_CHAIN {
        return vec![FieldError::too_long(chain.path.as_str(), MOST_CHAIN as u64)];
    }
    let blocks = pem::blocks(chain.text().as_bytes());
    if blocks.is_empty() {
        return vec![chain.invalid("issued certificate chain must contain at least one certificate")];
    }
    if blocks.iter().any(|block| block.label != "CERTIFICATE") {
        return vec![
            chain.invalid("issued certificate chain must consist entirely of CERTIFICATE PEM blocks"),
        ];
    }
    if let Some(index) = blocks.iter().position(|block| pem::is_authority(&block.bytes).is_none()) {
        let which = if index == 0 { "leaf" } else { "intermediate" };
        return vec![chain.invalid(format!("{which} certificate does not parse as valid X.509"))];
    }
    const AS_ISSUED: &str = "must be present and consistent with the issued certificate";
    const WITHIN: &str = "must be present and in the range [notbefore+10min, notafter-10min]";
    let needed = [("notBefore", AS_ISSUED), ("notAfter", AS_ISSUED), ("beginRefreshAt", WITHIN)];
    let missing: Vec<FieldError> = needed
        .iter()
        .filter(|(key, _)| !status.at(key).is_given())
        .map(|(key, why)| status.at(key).required(why))
        .collect();
    if !missing.is_empty() {
        return missing;
    }
    let [before, after, refresh] = needed.map(|(key, _)| status.at(key));
    let time = |field: &Field<'_>| field.text().parse::<Timestamp>().map_or(0, Timestamp::as_second);
    const MARGIN: i64 = 600;
    if time(&refresh) < time(&before) + MARGIN {
        return vec![refresh.invalid("must be at least 10 minutes after status.notBefore")];
    }
    if time(&refresh) > time(&after) - MARGIN {
        return vec![refresh.invalid("must be at least 10 minutes before status.notAfter")];
    }
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builtin::tests::{changed, created, kind, refusal, row, status_refusal};

    /// A certificate of nobody, of an authority or not.
    fn certificate(authority: bool) -> String {
        let wrap = |tag: u8, inner: &[u8]| {
            let mut out = vec![tag, u8::try_from(inner.len()).unwrap()];
            out.extend(inner);
            out
        };
        let sequence = |parts: &[Vec<u8>]| wrap(0x30, &parts.concat());
        let constraints = sequence(&if authority { vec![vec![1, 1, 0xff]] } else { Vec::new() });
        let extension = sequence(&[wrap(0x06, &[0x55, 0x1d, 0x13]), wrap(0x04, &constraints)]);
        let mut told = vec![vec![2, 1, 5]];
        told.extend(std::iter::repeat_n(sequence(&[]), 5));
        told.push(wrap(0xa3, &sequence(&[extension])));
        let whole = sequence(&[sequence(&told), sequence(&[]), wrap(0x03, &[0, 1])]);
        format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", STANDARD.encode(whole))
    }

    fn bundle(name: &str, signer: &str, text: &str) -> Object {
        json!({"metadata": {"name": name}, "spec": {"signerName": signer, "trustBundle": text}})
    }

    #[test]
    fn a_bundle_is_of_authorities_and_named_after_its_signer() {
        let of =
            |name: &str, signer: &str, text: &str| refusal("ClusterTrustBundle", bundle(name, signer, text));
        let own = certificate(true);
        let old =
            created(&kind("ClusterTrustBundle"), bundle("example.com:x:a", "example.com/x", &own)).unwrap();
        assert_eq!(row("ClusterTrustBundle", &old), ["example.com:x:a", "example.com/x"]);
        created(&kind("ClusterTrustBundle"), bundle("plain", "", &own)).unwrap();
        for (found, why) in [
            (of("a:b", "", &own), "must not have \":\" in its name"),
            (of("x", "example.com/x", &own), "must be named with prefix example.com:x:"),
            (of("x", "", ""), "at least one trust anchor must be provided"),
            (of("x", "", &certificate(false)), "entry 0 does not have the CA bit set"),
            (of("x", "", &format!("{own}{own}")), "duplicate trust anchor (indices [0 1])"),
            (of("x", "", &own.replace("CERTIFICATE", "THING")), "entry 0 has bad block type: THING"),
            (of("x", "", &own.replace("-----\nM", "-----\nA: b\n\nM")), "entry 0 has PEM block headers"),
        ] {
            assert!(found.contains(why), "{found}\n{why}");
        }
        let (_, found) = changed("ClusterTrustBundle", &old, json!({"spec": {"trustBundle": "x"}}));
        assert!(found.contains("at least one trust anchor"), "{found}");
    }

    fn request(change: Value) -> Object {
        let spec = json!({"signerName": "example.com/x", "podName": "p", "podUID": "1", "serviceAccountName": "s",
            "serviceAccountUID": "2", "nodeName": "n", "nodeUID": "3", "stubPKCS10Request": "MAMCAQU="});
        let spec = crate::patch::merge(&spec, &change).unwrap();
        json!({"metadata": {"name": "r"}, "spec": spec})
    }

    #[test]
    fn a_request_of_a_pod_ends_once() {
        const KIND: &str = "PodCertificateRequest";
        let old = created(&kind(KIND), request(json!({}))).unwrap();
        assert_eq!(old["spec"]["maxExpirationSeconds"], 86400);
        assert_eq!(row(KIND, &old), ["r", "p", "s", "n", "example.com/x", "Pending", "<none>"]);
        for (change, why) in [
            (json!({"podUID": ""}), "spec.podUID: Invalid value: \"\": must not be empty"),
            (json!({"maxExpirationSeconds": 60}), "must be in the range [3600, 7862400]"),
            (json!({"stubPKCS10Request": null}), "spec: Invalid value: exactly one of (stubPKCS10Request)"),
            (json!({"stubPKCS10Request": "eA=="}), "must be a valid PKCS#10 CSR"),
            (json!({"unverifiedUserAnnotations": {"a": "b"}}), "must be a domain-prefixed key"),
        ] {
            let found = refusal(KIND, request(change));
            assert!(found.contains(why), "{found}\n{why}");
        }
        let ended = |kind: &str| json!({"type": kind, "status": "True", "reason": "R", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"});
        let denied = json!({"conditions": [ended("Denied")]});
        assert_eq!(status_refusal(KIND, &old, denied.clone()), "");
        for (status, why) in [
            (json!({"certificateChain": "x"}), "status is immutable unless transitioning"),
            (json!({"conditions": [ended("Odd")]}), "Unsupported value: \"Odd\""),
            (json!({"conditions": [ended("Denied"), ended("Failed")]}), "There may be at most one condition"),
            (
                json!({"conditions": [ended("Denied")], "certificateChain": "x"}),
                "non-condition status fields",
            ),
            (json!({"conditions": [ended("Issued")]}), "must contain at least one certificate"),
            (
                json!({"conditions": [ended("Issued")], "certificateChain": certificate(false)}),
                "status.notBefore: Required value",
            ),
        ] {
            let found = status_refusal(KIND, &old, status);
            assert!(found.contains(why), "{found}\n{why}");
        }
        let mut over = old.clone();
        over["status"] = denied;
        let found = status_refusal(KIND, &over, json!({"conditions": [ended("Failed")]}));
        assert!(found.contains("immutable after PodCertificateRequest is issued"), "{found}");
    }
}
