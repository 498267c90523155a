//! CertificateSigningRequest.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::Object;
use crate::builtin::ColumnSpec;
use crate::builtin::field::Field;
use crate::builtin::formats::signer;
use crate::builtin::pem;
use crate::builtin::rows::{name, or_none, since_creation};
use crate::builtin::rules::Rules;
use crate::error::FieldError;
use crate::lookup::{copy_key, list, number, text};
use crate::table::human_duration;

/// Signer of requests from before signers had names.
const LEGACY_SIGNER: &str = "kubernetes.io/legacy-unknown";

const USAGES: [&str; 23] = [
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];

pub(super) const COLUMNS: &[ColumnSpec] = &[
    ("Name", "string", 0),
    ("Age", "string", 0),
    ("SignerName", "string", 0),
    ("Requestor", "string", 0),
    ("RequestedDuration", "string", 0),
    ("Condition", "string", 0),
];

pub(super) fn cells(request: &Object, now: Timestamp) -> Vec<Value> {
    let lifetime = number(request, &["spec", "expirationSeconds"]).map(human_duration);
    vec![
        name(request),
        since_creation(request, now),
        or_none(text(request, &["spec", "signerName"])),
        json!(text(request, &["spec", "username"])),
        json!(lifetime.unwrap_or_else(|| "<none>".to_owned())),
        json!(state(request)),
    ]
}

fn state(request: &Object) -> String {
    let has = |kind: &str| list(request, &["status", "conditions"]).iter().any(|c| c["type"] == kind);
    let mut state = match (has("Denied"), has("Approved")) {
        (true, _) => "Denied".to_owned(),
        (false, true) => "Approved".to_owned(),
        (false, false) => "Pending".to_owned(),
    };
    if has("Failed") {
        state.push_str(",Failed");
    }
    if !text(request, &["status", "certificate"]).is_empty() {
        state.push_str(",Issued");
    }
    state
}

pub(super) const REQUEST: Rules = Rules {
    validate,
    // What was asked for stays as it was asked for.
    prepare_update: |new, old| copy_key(new, old, "spec"),
    // What `approval` writes is no status to the machinery.
    validate_update: |new, _| conditions(&Field::root(new).under(&["status", "conditions"])),
    validate_status: |new, old| {
        let status = Field::root(new).at("status");
        let certificate = |object: &Object| text(object, &["status", "certificate"]).to_owned();
        let mut errors = conditions(&status.at("conditions"));
        // One that was there before may be anything.
        if certificate(new) != certificate(old)
            && let Some(why) = wrong_certificate(&certificate(new))
        {
            errors.push(FieldError::invalid("status.certificate", "<certificate data>", why));
        }
        errors
    },
    path_segment_name: true,
    ..Rules::UNCOUNTED
};

fn validate(request: &Object) -> Vec<FieldError> {
    let spec = Field::root(request).at("spec");
    let (usages, lifetime, by) = (spec.at("usages"), spec.at("expirationSeconds"), spec.at("signerName"));
    let asked = spec.at("request");
    let mut errors = Vec::new();
    errors.extend(wrong_request(asked.text()).map(|why| asked.invalid(why)));
    errors.extend(usages.must_be_given(""));
    errors.extend(usages.items().filter_map(|usage| usage.one_of(&USAGES)));
    errors.extend(usages.distinct());
    if by.text() == LEGACY_SIGNER {
        errors.push(by.invalid("the legacy signerName is not allowed via this API version"));
    } else {
        errors.extend(by.needs(signer));
    }
    if lifetime.number().is_some_and(|seconds| seconds < 600) {
        errors.push(lifetime.invalid("may not specify a duration less than 600 seconds (10 minutes)"));
    }
    errors
}

/// What is wrong with a text that should be, in base64, a PEM block of a certificate request.
fn wrong_request(encoded: &str) -> Option<&'static str> {
    let bytes = STANDARD.decode(encoded).unwrap_or_default();
    match pem::blocks(&bytes).first() {
        Some(block) if block.label == "CERTIFICATE REQUEST" => pem::wrong_sequence(&block.bytes),
        _ => Some("PEM block type must be CERTIFICATE REQUEST"),
    }
}

/// What is wrong with a text that should be, in base64, PEM blocks of certificates; it may be empty.
fn wrong_certificate(encoded: &str) -> Option<String> {
    let bytes = STANDARD.decode(encoded).unwrap_or_default();
    if bytes.is_empty() {
        return None;
    }
    let blocks = pem::blocks(&bytes);
    if blocks.is_empty() {
        return Some("must contain at least one CERTIFICATE PEM block".to_owned());
    }
    blocks.iter().find_map(|block| match block.label.as_str() {
        "CERTIFICATE" if block.headers => Some("no PEM block headers are permitted".to_owned()),
        "CERTIFICATE" => pem::wrong_sequence(&block.bytes).map(|_| "x509: malformed certificate".to_owned()),
        other => Some(format!("only CERTIFICATE PEM blocks are allowed, found {other:?}")),
    })
}

fn conditions(field: &Field<'_>) -> Vec<FieldError> {
    let mut errors = field.distinct_by("type");
    for condition in field.items() {
        let (kind, status) = (condition.at("type"), condition.at("status"));
        errors.extend(kind.must_be_given(""));
        let decided = matches!(kind.text(), "Approved" | "Denied" | "Failed");
        errors.extend(status.must_be_one_of(if decided { &["True"] } else { &["False", "True", "Unknown"] }));
    }
    let has = |kind: &str| field.list().iter().rposition(|condition| condition["type"] == kind);
    if let (Some(approved), Some(denied)) = (has("Approved"), has("Denied")) {
        let later = if approved > denied { "Approved" } else { "Denied" };
        let why = "Approved and Denied conditions are mutually exclusive";
        errors.push(FieldError::invalid(field.path.as_str(), later, why));
    }
    errors
}

/// What a write of the subresource `approval` or `status` may not do: decisions and certificates stay, and
/// each is made through the subresource that is for it.
pub fn certificate_part_errors(subresource: &str, new: &Object, old: &Object) -> Vec<FieldError> {
    const FIELD: &str = "status.conditions";
    let of = |request: &Object, kind: &str| -> Vec<Value> {
        let all = list(request, &["status", "conditions"]).iter();
        all.filter(|condition| condition["type"] == kind).cloned().collect()
    };
    let mut errors = Vec::new();
    for kind in ["Approved", "Denied", "Failed"] {
        let (after, before) = (of(new, kind), of(old, kind));
        let settable = kind == "Failed" || subresource == "approval";
        let what = match after.len().cmp(&before.len()) {
            std::cmp::Ordering::Less => "remove",
            std::cmp::Ordering::Greater if !settable => "add",
            std::cmp::Ordering::Equal if !settable && after != before => "modify",
            _ => continue,
        };
        errors.push(FieldError::forbidden(
            FIELD,
            format!("updates may not {what} a condition of type {kind:?}"),
        ));
    }
    let (after, before) = (text(new, &["status", "certificate"]), text(old, &["status", "certificate"]));
    if after != before && subresource != "status" {
        errors.push(FieldError::forbidden("status.certificate", "updates may not set certificate content"));
    } else if after != before && !before.is_empty() {
        let why = "updates may not modify existing certificate content";
        errors.push(FieldError::forbidden("status.certificate", why));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builtin::tests::{changed, created, kind, refusal, row, status_refusal};

    fn request(change: Value) -> Object {
        let block = "-----BEGIN CERTIFICATE REQUEST-----\nMAMCAQU=\n-----END CERTIFICATE REQUEST-----\n";
        let spec = json!({"request": STANDARD.encode(block), "signerName": "example.com/x", "usages": ["client auth"], "expirationSeconds": 3600});
        let spec = crate::patch::merge(&spec, &change).unwrap();
        json!({"metadata": {"name": "csr"}, "spec": spec, "status": {"certificate": "eA=="}})
    }

    #[test]
    fn a_request_stays_as_it_was_made() {
        let old = created(&kind("CertificateSigningRequest"), request(json!({}))).unwrap();
        assert_eq!(old["status"], json!({}));
        assert_eq!(row("CertificateSigningRequest", &old)[2..], ["example.com/x", "", "60m", "Pending"]);
        let (new, refused) = changed("CertificateSigningRequest", &old, json!({"spec": {"usages": ["any"]}}));
        assert_eq!((refused.as_str(), &new["spec"]), ("", &old["spec"]));
        for (change, why) in [
            (json!({"request": "eA=="}), "spec.request: Invalid value: \"eA==\": PEM block type must be"),
            (json!({"usages": []}), "spec.usages: Required value"),
            (json!({"usages": ["any", "any"]}), "spec.usages[1]: Duplicate value: \"any\""),
            (json!({"usages": ["flying"]}), "spec.usages[0]: Unsupported value: \"flying\""),
            (
                json!({"signerName": "x"}),
                "spec.signerName: Invalid value: \"x\": must be a fully qualified domain and path",
            ),
            (json!({"signerName": LEGACY_SIGNER}), "the legacy signerName is not allowed"),
            (json!({"expirationSeconds": 599}), "may not specify a duration less than 600 seconds"),
        ] {
            let found = refusal("CertificateSigningRequest", request(change));
            assert!(found.contains(why), "{found}\n{why}");
        }
    }

    #[test]
    fn certificates_are_pem_blocks() {
        let block = |label: &str, body: &str| {
            STANDARD.encode(format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n"))
        };
        for (encoded, why) in [
            (String::new(), None),
            (block("CERTIFICATE", "MAMCAQU="), None),
            ("Zm9v".to_owned(), Some("must contain at least one CERTIFICATE PEM block")),
            (
                block("PRIVATE KEY", "MAMCAQU="),
                Some("only CERTIFICATE PEM blocks are allowed, found \"PRIVATE KEY\""),
            ),
            (block("CERTIFICATE", "eA=="), Some("x509: malformed certificate")),
        ] {
            assert_eq!(wrong_certificate(&encoded).as_deref(), why);
        }
        let old = created(&kind("CertificateSigningRequest"), request(json!({}))).unwrap();
        let found = status_refusal("CertificateSigningRequest", &old, json!({"certificate": "Zm9v"}));
        assert!(
            found.contains("status.certificate: Invalid value: \"<certificate data>\": must contain"),
            "{found}"
        );
    }

    #[test]
    fn decisions_are_made_once_and_through_approval() {
        let old = created(&kind("CertificateSigningRequest"), request(json!({}))).unwrap();
        let with = |conditions: Value, certificate: &str| {
            let mut new = old.clone();
            new["status"] = json!({"conditions": conditions, "certificate": certificate});
            new
        };
        let texts = |part: &str, new: &Object, old: &Object| -> Vec<String> {
            certificate_part_errors(part, new, old).iter().map(ToString::to_string).collect()
        };
        let approved = with(json!([{"type": "Approved", "status": "True"}]), "");
        assert!(texts("approval", &approved, &old).is_empty());
        assert_eq!(
            texts("status", &approved, &old),
            ["status.conditions: Forbidden: updates may not add a condition of type \"Approved\""]
        );
        assert_eq!(
            texts("approval", &old, &approved),
            ["status.conditions: Forbidden: updates may not remove a condition of type \"Approved\""]
        );
        let issued = with(json!([]), "Yw==");
        assert!(texts("status", &issued, &old).is_empty());
        assert_eq!(
            texts("approval", &issued, &old),
            ["status.certificate: Forbidden: updates may not set certificate content"]
        );
        assert_eq!(
            texts("status", &with(json!([]), "ZA=="), &issued),
            ["status.certificate: Forbidden: updates may not modify existing certificate content"]
        );
        let both = json!({"conditions": [{"type": "Approved", "status": "False"}, {"type": "Denied", "status": "True"}]});
        let found = status_refusal("CertificateSigningRequest", &old, both);
        assert!(
            found.contains(
                "status.conditions[0].status: Unsupported value: \"False\": supported values: \"True\""
            ),
            "{found}"
        );
        assert!(found.contains("Approved and Denied conditions are mutually exclusive"), "{found}");
        assert_eq!(
            row("CertificateSigningRequest", &with(json!([{"type": "Approved"}]), "Yw=="))[5],
            "Approved,Issued"
        );
    }
}
