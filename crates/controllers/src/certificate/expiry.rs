//! When a request has been there for long enough.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use yunfan_identity::pki::CertificateUser;

use super::rules::conditions;

/// A request about which all is said goes so long after it was said.
const DECIDED: SignedDuration = SignedDuration::from_hours(1);
/// A request that waits for somebody goes after this.
const WAITING: SignedDuration = SignedDuration::from_hours(24);

/// When the request is to go: the earliest of what its conditions, its age and its certificate say.
pub(super) fn expiry(request: &CertificateSigningRequest) -> Option<Timestamp> {
    let after = |at: Timestamp, time: SignedDuration| at.checked_add(time).ok();
    let certificate = request.status.as_ref().and_then(|status| status.certificate.as_ref());
    let certificate = certificate.map(|bytes| bytes.0.as_slice()).filter(|bytes| !bytes.is_empty());
    let mut ends: Vec<Timestamp> = Vec::new();
    let mut undecided = true;
    for condition in conditions(request) {
        undecided = false;
        let keep = match condition.type_.as_str() {
            "Approved" if certificate.is_none() => WAITING,
            "Approved" | "Denied" | "Failed" => DECIDED,
            _ => continue,
        };
        ends.extend(condition.last_update_time.as_ref().and_then(|at| after(at.0, keep)));
        if condition.type_ == "Approved" {
            let ended = certificate.and_then(CertificateUser::pem_ends);
            ends.extend(ended.and_then(|seconds| Timestamp::from_second(seconds).ok()));
        }
    }
    if undecided {
        let made = request.metadata.creation_timestamp.as_ref();
        ends.extend(made.and_then(|at| after(at.0, WAITING)));
    }
    ends.into_iter().min()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn expires(conditions: Value, certificate: Option<&str>) -> Option<String> {
        let certificate = certificate.map(|text| k8s_openapi::ByteString(text.as_bytes().to_vec()));
        let request = json!({"metadata": {"creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"request": "", "signerName": "a.b/c"},
            "status": {"conditions": conditions, "certificate": certificate}});
        expiry(&serde_json::from_value(request).unwrap()).map(|at| at.to_string())
    }

    #[test]
    fn a_request_goes_an_hour_after_all_is_said_and_a_day_after_it_began_to_wait() {
        let at =
            |kind: &str| json!([{"type": kind, "status": "True", "lastUpdateTime": "2026-01-02T00:00:00Z"}]);
        let said = |text: &str| Some(text.to_owned());
        assert_eq!(expires(json!([]), None), said("2026-01-02T00:00:00Z"));
        assert_eq!(expires(at("Denied"), None), said("2026-01-02T01:00:00Z"));
        assert_eq!(expires(at("Failed"), None), said("2026-01-02T01:00:00Z"));
        assert_eq!(expires(at("Approved"), None), said("2026-01-03T00:00:00Z"));
        assert_eq!(expires(at("Approved"), Some("what no one can read")), said("2026-01-02T01:00:00Z"));
        assert_eq!(expires(at("other"), None), None);
        assert_eq!(expires(json!([{"type": "Denied", "status": "True"}]), None), None);
    }

    #[test]
    fn a_request_goes_with_its_certificate() {
        let dir = tempfile::tempdir().unwrap();
        let authority = yunfan_identity::pki::Authority::open_or_create(dir.path()).unwrap();
        let over = authority.issue_client("ann", &[] as &[&str], 0).unwrap();
        let end = CertificateUser::pem_ends(over.certificate_pem.as_bytes()).unwrap();
        let late = json!([{"type": "Approved", "status": "True", "lastUpdateTime": "2126-01-01T00:00:00Z"}]);
        let expected = Timestamp::from_second(end).unwrap().to_string();
        assert_eq!(expires(late, Some(&over.certificate_pem)), Some(expected));
    }
}
