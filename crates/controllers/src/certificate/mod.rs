//! CertificateSigningRequests: those of nodes for themselves are approved, approved ones for the cloud's own signers are signed with
//! the cloud's authority, and old ones go.
//!
//! A request takes its steps in one loop, each from what the object says: approve, sign or fail, remove.

mod expiry;
pub mod pods;
mod rules;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestCondition, CertificateSigningRequestSpec,
};
use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;
use kube::api::{DeleteParams, Preconditions};
use serde_json::{Value, json};
use yunfan_client::{Informer, ObjectKey, Queue, is_conflict, is_not_found, run_loop};
use yunfan_identity::pki::CertificateRequest;

use crate::Context;
use crate::status::now;
use expiry::expiry;
use rules::{Signer, has, is_own};

/// How long a certificate is valid when the request does not say, and at most.
const LONGEST: Duration = Duration::from_secs(365 * 86_400);
/// A certificate is valid for so long at least: twice what it is valid before now.
const SHORTEST: Duration = Duration::from_secs(600);
/// A node's request that its user may not make is looked at again after this: the right may come later.
const ASK_AGAIN: Duration = Duration::from_secs(60);

/// Runs the loop.
pub async fn run(context: Context) {
    let requests = context.informers.of::<CertificateSigningRequest>();
    requests.synced().await;
    let nodes = context.informers.of::<Node>();
    nodes.synced().await;
    let queue = Queue::new();
    queue.feed(&requests, |request| [ObjectKey::of(request)]);
    let work = Arc::new(Loop { context, requests, nodes });
    run_loop("certificates", queue, 2, move |key| {
        let work = work.clone();
        async move { work.reconcile(&key).await }
    })
    .await;
}

/// What is to be done with a request now.
#[derive(Debug)]
enum Step {
    /// Nothing, for as long as it stays as it is.
    Rest,
    /// Ask whether its user may have it, by these rights in turn, and approve it.
    Approve(&'static [Right]),
    /// Look whether its names are those of the node that asks, and nobody else's, and approve it.
    ApproveServer(Box<CertificateRequest>),
    /// Sign it.
    Sign(Box<CertificateRequest>),
    /// Say why it can't be signed.
    Fail(String),
}

/// A subresource that a user must be allowed to create for a request to be approved, and what the approval says.
type Right = (&'static str, &'static str);

const FOR_ITSELF: Right =
    ("selfnodeclient", "Auto approving self kubelet client certificate after SubjectAccessReview.");
const FOR_NODES: Right =
    ("nodeclient", "Auto approving kubelet client certificate after SubjectAccessReview.");

const AS_SERVER: &str = "Auto approving kubelet serving certificate for the addresses of its Node.";

struct Loop {
    context: Context,
    requests: Informer<CertificateSigningRequest>,
    nodes: Informer<Node>,
}

impl Loop {
    async fn reconcile(&self, key: &ObjectKey) -> kube::Result<Option<Duration>> {
        let Some(request) = self.requests.get_key(key) else { return Ok(None) };
        if request.metadata.deletion_timestamp.is_some() {
            return Ok(None);
        }
        let left = expiry(&request).map(|at| Duration::try_from(at.duration_since(Timestamp::now())));
        // A time that is over is no duration.
        let left = left.map(Result::unwrap_or_default);
        if left.is_some_and(|left| left.is_zero()) {
            self.remove(&request).await?;
            return Ok(None);
        }
        let again = match step(&request) {
            Step::Rest => None,
            Step::Approve(rights) => self.approve(&request, rights).await?.then_some(ASK_AGAIN),
            Step::ApproveServer(asked) => self.approve_server(&request, &asked).await?.then_some(ASK_AGAIN),
            Step::Sign(asked) => {
                self.sign(&request, &asked).await?;
                None
            }
            Step::Fail(why) => {
                self.fail(&request, why).await?;
                None
            }
        };
        Ok([left, again].into_iter().flatten().min())
    }

    /// Whether its user may not have it.
    async fn approve(&self, request: &CertificateSigningRequest, rights: &[Right]) -> kube::Result<bool> {
        for (subresource, message) in rights {
            if self.allows(&request.spec, subresource).await? {
                let mut approved = condition("Approved", "AutoApproved", (*message).to_owned());
                approved.last_transition_time = Some(now());
                self.write("approval", request, with(request, approved)).await?;
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether it is not approved: a server's names are what others know it by, so that none may be another's.
    async fn approve_server(
        &self,
        request: &CertificateSigningRequest,
        asked: &CertificateRequest,
    ) -> kube::Result<bool> {
        let api = &self.context.config.api;
        let servers = [api.address.ip(), IpAddr::V4(api.service_ip)];
        let own = is_own(asked, &self.nodes.list(), &servers, self.context.config.service_cidr);
        if !own || !self.allows(&request.spec, FOR_ITSELF.0).await? {
            return Ok(true);
        }
        let approved = condition("Approved", "AutoApproved", AS_SERVER.to_owned());
        self.write("approval", request, with(request, approved)).await?;
        Ok(false)
    }

    async fn allows(&self, by: &CertificateSigningRequestSpec, subresource: &str) -> kube::Result<bool> {
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: by.username.clone(),
                uid: by.uid.clone(),
                groups: by.groups.clone(),
                extra: by.extra.clone(),
                resource_attributes: Some(ResourceAttributes {
                    group: Some("certificates.k8s.io".to_owned()),
                    version: Some("*".to_owned()),
                    resource: Some("certificatesigningrequests".to_owned()),
                    subresource: Some(subresource.to_owned()),
                    verb: Some("create".to_owned()),
                    ..ResourceAttributes::default()
                }),
                non_resource_attributes: None,
            },
            ..SubjectAccessReview::default()
        };
        let answer = self.context.writer.create(&review).await?;
        Ok(answer.status.is_some_and(|status| status.allowed))
    }

    async fn sign(
        &self,
        request: &CertificateSigningRequest,
        asked: &CertificateRequest,
    ) -> kube::Result<()> {
        let usages = request.spec.usages.as_deref().unwrap_or_default();
        let validity = validity(request.spec.expiration_seconds);
        match self.context.config.authority.sign_request(asked, usages, validity) {
            Ok(certificate) => {
                let certificate = ByteString(certificate.into_bytes());
                self.write("status", request, json!({"certificate": certificate})).await
            }
            Err(error) => self.fail(request, error.to_string()).await,
        }
    }

    async fn fail(&self, request: &CertificateSigningRequest, why: String) -> kube::Result<()> {
        let failed = condition("Failed", "SignerValidationFailure", why);
        self.write("status", request, with(request, failed)).await
    }

    async fn write(
        &self,
        part: &str,
        request: &CertificateSigningRequest,
        status: Value,
    ) -> kube::Result<()> {
        let meta = &request.metadata;
        let patch = json!({"metadata": {"uid": meta.uid, "resourceVersion": meta.resource_version},
            "status": status});
        let name = request.name_any();
        let writer = &self.context.writer;
        match writer.merge_part::<CertificateSigningRequest>(part, None, &name, &patch).await {
            // What it has become is looked at as it comes.
            Err(error) if !is_not_found(&error) && !is_conflict(&error) => Err(error),
            _ => Ok(()),
        }
    }

    async fn remove(&self, request: &CertificateSigningRequest) -> kube::Result<()> {
        let params = DeleteParams {
            // What changed since may have given it more time.
            preconditions: Some(Preconditions {
                uid: request.uid(),
                resource_version: request.resource_version(),
            }),
            ..DeleteParams::default()
        };
        let name = request.name_any();
        self.context.writer.delete_with::<CertificateSigningRequest>(None, &name, &params).await
    }
}

/// What is to be done with a request.
fn step(request: &CertificateSigningRequest) -> Step {
    let status = request.status.clone().unwrap_or_default();
    let issued = status.certificate.is_some_and(|certificate| !certificate.0.is_empty());
    if issued || has(request, "Denied") || has(request, "Failed") {
        return Step::Rest;
    }
    let Some(signer) = Signer::named(&request.spec.signer_name) else { return Step::Rest };
    let approved = has(request, "Approved");
    if !approved && !matches!(signer, Signer::NodeClient | Signer::NodeServing) {
        return Step::Rest;
    }
    let usages = request.spec.usages.as_deref().unwrap_or_default();
    let asked = CertificateRequest::parse(&request.spec.request.0).map_err(|error| error.to_string());
    let asked = asked.and_then(|asked| signer.check(&asked, usages).map(|()| asked));
    match (approved, asked) {
        (true, Ok(asked)) => Step::Sign(Box::new(asked)),
        (true, Err(why)) => Step::Fail(why),
        // Somebody may see what is wrong, and deny it.
        (false, Err(_)) => Step::Rest,
        (false, Ok(asked)) if request.spec.username.as_ref() == Some(&asked.common_name) => match signer {
            Signer::NodeServing => Step::ApproveServer(Box::new(asked)),
            _ => Step::Approve(&[FOR_ITSELF, FOR_NODES]),
        },
        (false, Ok(_)) if signer == Signer::NodeServing => Step::Rest,
        (false, Ok(_)) => Step::Approve(&[FOR_NODES]),
    }
}

/// For how long a certificate is valid of which so many seconds are wished.
fn validity(wish: Option<i32>) -> Duration {
    let wish = wish.map_or(LONGEST, |seconds| Duration::from_secs(u64::try_from(seconds).unwrap_or(0)));
    wish.clamp(SHORTEST, LONGEST)
}

fn condition(kind: &str, reason: &str, message: String) -> CertificateSigningRequestCondition {
    CertificateSigningRequestCondition {
        type_: kind.to_owned(),
        status: "True".to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_update_time: Some(now()),
        last_transition_time: Some(now()),
    }
}

/// The conditions with one more.
fn with(request: &CertificateSigningRequest, one: CertificateSigningRequestCondition) -> Value {
    let own = request.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let all: Vec<_> = own.chain(std::iter::once(&one)).collect();
    json!({"conditions": all})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_last_as_long_as_is_wished_within_bounds() {
        let seconds = |wish| validity(wish).as_secs();
        assert_eq!(seconds(None), 365 * 86_400);
        assert_eq!(seconds(Some(3600)), 3600);
        assert_eq!((seconds(Some(5)), seconds(Some(-5))), (600, 600));
        assert_eq!(seconds(Some(i32::MAX)), 365 * 86_400);
    }
}
