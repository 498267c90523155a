//! CertificateSigningRequests: they say who asks as the server knows it, and what was decided about them stays. Bundles of whom is
//! trusted, and requests in Pods' names: whoever speaks for a signer needs a right on it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::{Value, json};
use yunfan_identity::pki::{CertificateRequest, PkiError};
use yunfan_identity::user::MASTERS_GROUP;
use yunfan_identity::{Attributes, node};
use yunfan_objects::builtin::certificate_part_errors;
use yunfan_objects::{ApiError, FieldError, Object, meta};

use super::{Attempt, Operation, Refusal, View};

/// Who asks, as `spec` has it.
const REQUESTER: [&str; 4] = ["username", "uid", "groups", "extra"];

/// Group of the requests, and of the signers that people may act for.
const GROUP: &str = "certificates.k8s.io";

/// The signer of certificates that the API server knows its clients by.
const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client";

/// The signers of what nodes show to their clients, and to the API server.
const NODE_SIGNERS: [&str; 2] =
    ["kubernetes.io/kubelet-serving", "kubernetes.io/kube-apiserver-client-kubelet"];

pub(super) fn admit(view: &View<'_>, attempt: &mut Attempt<'_>) -> Result<(), Refusal> {
    if attempt.is(GROUP, "clustertrustbundles") {
        return attested(view, attempt);
    }
    if attempt.is(GROUP, "podcertificaterequests") {
        return of_pod(view, attempt);
    }
    if !attempt.is(GROUP, "certificatesigningrequests") {
        return Ok(());
    }
    match (attempt.operation, attempt.old) {
        (Operation::Create, _) => {
            let user =
                serde_json::to_value(attempt.user).map_err(|error| ApiError::internal(error.to_string()))?;
            requested_by(attempt.object, user);
            of_no_master(attempt)?;
            of_its_node(attempt)?;
        }
        (Operation::Update, Some(old)) if matches!(attempt.subresource, "approval" | "status") => {
            let decided = |part: &str| attempt.object["status"][part] != old["status"][part];
            let verb = match attempt.subresource {
                "approval" => Some("approve"),
                _ if decided("certificate") || decided("conditions") => Some("sign"),
                _ => None,
            };
            if let Some(verb) = verb {
                for_signer(view, attempt, old, verb)?;
            }
            let errors = certificate_part_errors(attempt.subresource, attempt.object, old);
            if !errors.is_empty() {
                return Err(ApiError::invalid(&attempt.kind.descriptor.gvk(), attempt.name, &errors).into());
            }
            timed(attempt.object, old, &json!(meta::time(Timestamp::now())));
        }
        _ => {}
    }
    Ok(())
}

/// Whoever decides about a request needs a right on its signer, beside that on requests: by its whole name, or by its
/// domain (`example.com/*`).
fn for_signer(view: &View<'_>, attempt: &Attempt<'_>, old: &Value, verb: &str) -> Result<(), Refusal> {
    let signer = old["spec"]["signerName"].as_str().unwrap_or_default();
    if speaks_for(view, attempt, signer, verb) {
        return Ok(());
    }
    Err(attempt.forbidden(&format!("user not permitted to {verb} requests with signerName {signer:?}")))
}

/// Whether somebody may do this for a signer.
fn speaks_for(view: &View<'_>, attempt: &Attempt<'_>, signer: &str, verb: &str) -> bool {
    let domain = signer.split('/').next().unwrap_or_default();
    let may = |name: &str| {
        let asked = Attributes { name, ..Attributes::resource(attempt.user, verb, GROUP, "signers") };
        view.judge.authorize_here(&asked).is_allowed()
    };
    attempt.system || may(signer) || may(&format!("{domain}/*"))
}

/// Whoever says whom a signer's clients are to trust speaks for the signer. (Kubernetes' plugin ClusterTrustBundleAttest.)
fn attested(view: &View<'_>, attempt: &Attempt<'_>) -> Result<(), Refusal> {
    let signer = attempt.object["spec"]["signerName"].as_str().unwrap_or_default();
    // Owners and finalizers may change without that, as the garbage collector changes them.
    let said = |bundle: &Value| {
        let meta = &bundle["metadata"];
        [bundle["spec"].clone(), meta["labels"].clone(), meta["annotations"].clone()]
    };
    let same = attempt.old.is_some_and(|old| said(old) == said(attempt.object));
    if attempt.operation == Operation::Delete
        || signer.is_empty()
        || same
        || speaks_for(view, attempt, signer, "attest")
    {
        return Ok(());
    }
    Err(attempt.forbidden(&format!("user not permitted to attest for signerName {signer:?}")))
}

/// A request in a Pod's name is signed with the key that it is for, and who decides about it speaks for its signer.
fn of_pod(view: &View<'_>, attempt: &Attempt<'_>) -> Result<(), Refusal> {
    match (attempt.operation, attempt.old) {
        (Operation::Create, _) => {
            const FIELD: &str = "spec.stubPKCS10Request";
            let Some(asked) = asked_of_pod(attempt.object) else { return Ok(()) };
            asked.map(|_| ()).map_err(|_| {
                attempt.invalid(FieldError::invalid(FIELD, Value::Null, "invalid signature").whole())
            })
        }
        (Operation::Update, Some(old)) if attempt.subresource == "status" => {
            let signer = old["spec"]["signerName"].as_str().unwrap_or_default();
            if attempt.object["status"] == old["status"] {
                return Ok(());
            }
            if speaks_for(view, attempt, signer, "sign") {
                return issued_to_pod(attempt, old);
            }
            let why =
                format!("User {:?} is not permitted to \"sign\" for signer {signer:?}", attempt.user.name);
            Err(attempt.invalid(FieldError::forbidden("spec.signerName", why)))
        }
        _ => Ok(()),
    }
}

/// What a request in a Pod's name is signed with; none where it is not given, or not base64, which the kind's own rules refuse.
fn asked_of_pod(request: &Value) -> Option<Result<CertificateRequest, PkiError>> {
    let asked = request["spec"]["stubPKCS10Request"].as_str().filter(|asked| !asked.is_empty())?;
    STANDARD.decode(asked).ok()?;
    let pem = format!("-----BEGIN CERTIFICATE REQUEST-----\n{asked}\n-----END CERTIFICATE REQUEST-----\n");
    Some(CertificateRequest::parse(pem.as_bytes()))
}

/// How far a certificate may begin from now, in seconds.
const NEAR: i64 = 300;
/// How long a certificate of a Pod lasts at least, in seconds.
const SHORTEST: i64 = 3600;

/// A certificate that a Pod's request got is of the key that asked, and lasts as its status says, an hour at least and no longer
/// than was asked for. (Kubernetes' `ValidatePodCertificateRequestStatusUpdate`.) What can't be read, or is not said, is
/// refused by the kind's own rules.
fn issued_to_pod(attempt: &Attempt<'_>, old: &Value) -> Result<(), Refusal> {
    let status = &attempt.object["status"];
    let ended = |request: &Value| {
        let conditions = request["status"]["conditions"].as_array();
        conditions.is_some_and(|all| all.iter().any(|one| one["type"] == "Issued"))
    };
    let chain = status["certificateChain"].as_str().unwrap_or_default();
    let leaf = CertificateDer::from_pem_slice(chain.as_bytes()).ok();
    let (true, false, Some(leaf), Some(Ok(asked))) =
        (ended(attempt.object), ended(old), leaf, asked_of_pod(old))
    else {
        return Ok(());
    };
    let Some(issued) = asked.issued(&leaf) else { return Ok(()) };
    let wrong = |field: &str, value: Value, why: String| {
        Err(attempt.invalid(FieldError::invalid(format!("status.{field}"), value, why)))
    };
    if !issued.same_key {
        let why = "leaf certificate was not issued to the requested public key".to_owned();
        return wrong("certificateChain", json!(chain), why);
    }
    let said = |field: &str| status[field].as_str()?.parse::<Timestamp>().ok().map(Timestamp::as_second);
    let (Some(before), Some(after)) = (said("notBefore"), said("notAfter")) else { return Ok(()) };
    if before != issued.not_before {
        let why = "must be set to the NotBefore time encoded in the leaf certificate".to_owned();
        return wrong("notBefore", status["notBefore"].clone(), why);
    }
    if (before - Timestamp::now().as_second()).abs() >= NEAR {
        let why = "must be set to within 5 minutes of kube-apiserver's current time".to_owned();
        return wrong("notBefore", status["notBefore"].clone(), why);
    }
    if after != issued.not_after {
        let why = "must be set to the NotAfter time encoded in the leaf certificate".to_owned();
        return wrong("notAfter", status["notAfter"].clone(), why);
    }
    let lasts = after.saturating_sub(before);
    // Upstream shows a length of time as it counts it, in nanoseconds.
    let shown = json!(lasts.saturating_mul(1_000_000_000));
    if lasts < SHORTEST {
        let why = "leaf certificate lifetime must be >= 1 hour".to_owned();
        return wrong("certificateChain", shown, why);
    }
    let most = old["spec"]["maxExpirationSeconds"].as_i64().unwrap_or_default();
    if lasts > most {
        let why = format!("leaf certificate lifetime must be <= spec.maxExpirationSeconds ({most})");
        return wrong("certificateChain", shown, why);
    }
    Ok(())
}

/// Nobody becomes a master by a certificate that one approver waved through.
fn of_no_master(attempt: &Attempt<'_>) -> Result<(), Refusal> {
    let spec = &attempt.object["spec"];
    if spec["signerName"] != CLIENT_SIGNER {
        return Ok(());
    }
    // What can't be read is never signed.
    let Ok(asked) = request_in(spec) else { return Ok(()) };
    // The cloud's own loops are masters by another name.
    let master = asked
        .organizations
        .iter()
        .find(|group| *group == MASTERS_GROUP || *group == yunfan_resources::names::COMPONENTS_GROUP);
    if let Some(group) = master {
        let why = format!("use of {CLIENT_SIGNER} signer with {group} group is not allowed");
        return Err(attempt.forbidden(&why));
    }
    Ok(())
}

/// A node asks for certificates of its own name alone, as far as they are of the kinds that nodes show. (Kubernetes' admission
/// plugin NodeRestriction.)
fn of_its_node(attempt: &Attempt<'_>) -> Result<(), Refusal> {
    let spec = &attempt.object["spec"];
    let of_nodes = NODE_SIGNERS.iter().any(|signer| spec["signerName"] == *signer);
    let Some(node) = node::of(attempt.user).filter(|_| of_nodes && !attempt.system) else { return Ok(()) };
    let asked =
        request_in(spec).map_err(|error| attempt.forbidden(&format!("unable to parse csr: {error}")))?;
    if node.is_empty() || asked.common_name != attempt.user.name {
        let why = format!("can only create a node CSR with CN={}", attempt.user.name);
        return Err(attempt.forbidden(&why));
    }
    Ok(())
}

fn request_in(spec: &Value) -> Result<CertificateRequest, PkiError> {
    // What is not base64 is refused by the kind's own rules.
    let request = STANDARD.decode(spec["request"].as_str().unwrap_or_default()).unwrap_or_default();
    CertificateRequest::parse(&request)
}

/// Conditions say when they were written, and since when they are as they are.
fn timed(new: &mut Value, old: &Value, now: &Value) {
    let before = old["status"]["conditions"].as_array();
    let Some(conditions) = new.pointer_mut("/status/conditions").and_then(Value::as_array_mut) else {
        return;
    };
    for condition in conditions {
        let was = before
            .into_iter()
            .flatten()
            .find(|was| was["type"] == condition["type"] && was["status"] == condition["status"]);
        let since = was.map(|was| &was["lastTransitionTime"]).filter(|at| !at.is_null()).unwrap_or(now);
        for (key, at) in [("lastUpdateTime", now), ("lastTransitionTime", since)] {
            if condition[key].is_null() {
                condition[key] = at.clone();
            }
        }
    }
}

/// An approver trusts what stands here, so nothing that the client says of it is kept.
fn requested_by(request: &mut Object, mut user: Value) {
    let Some(spec) = request.get_mut("spec").and_then(Value::as_object_mut) else { return };
    for key in REQUESTER {
        match user.get_mut(key) {
            Some(value) => spec.insert(key.to_owned(), value.take()),
            None => spec.remove(key),
        };
    }
}
