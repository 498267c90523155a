//! Certificates of Pods' own (`podCertificate` sources of projected volumes): a key that is made here and leaves this node by the Pod's volume
//! alone, and what the signer that the Pod names makes of it. They are in memory only, beside the files that they are written to: an agent
//! that starts anew asks for others, as kubelets do.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{
    PodCertificateRequest, PodCertificateRequestSpec, PodCertificateRequestStatus,
};
use k8s_openapi::api::core::v1::{Node, Pod, PodCertificateProjection, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use yunfan_client::{Recorder, Severity, Writer};
use yunfan_identity::pki;

use super::read;
use super::volumes::What;

/// For how long a certificate is asked for where the Pod does not say, seconds.
const DEFAULT_SECONDS: i32 = 24 * 3600;
/// How soon a renewal that came to nothing is tried again.
const RETRY: Duration = Duration::from_secs(60);
/// How soon it is looked whether a signer has decided, beside the watch that tells of it.
const WAIT: Duration = Duration::from_secs(300);
/// Renewals begin up to so much later than the signer says, that not all of a node begin at once.
const SPREAD: Duration = Duration::from_secs(300);

/// What events of requests that came to nothing are called, as kubelets call them.
const DENIED: &str = "Denied";
const FAILED: &str = "Failed";

/// The certificates of this node's Pods.
pub(crate) struct Certificates {
    writer: Writer,
    recorder: Recorder,
    node: String,
    known: Mutex<HashMap<Key, Known>>,
}

/// Of which Pod, in which volume, which of its sources.
type Key = (String, String, usize);

#[derive(Clone, Default)]
struct Known {
    given: Option<Given>,
    asked: Option<Asked>,
}

/// A key and its certificates, PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Given {
    pub(super) key: String,
    pub(super) chain: String,
    renew_at: Timestamp,
    ends_at: Timestamp,
}

/// A request that nobody has decided on yet, by its name; or one that was refused, with why.
#[derive(Clone)]
struct Asked {
    name: String,
    key: String,
    refused: Option<String>,
}

impl Certificates {
    pub(super) fn new(writer: Writer, recorder: Recorder, node: &str) -> Self {
        Self { writer, recorder, node: node.to_owned(), known: Mutex::default() }
    }

    /// What is good now, and when it is to be looked at again.
    ///
    /// # Errors
    /// Why there is none, or none yet, for people.
    pub(super) async fn get(
        &self,
        pod: &Pod,
        volume: &str,
        index: usize,
        source: &PodCertificateProjection,
    ) -> Result<(Given, Duration), What> {
        let key = (pod.uid().unwrap_or_default(), volume.to_owned(), index);
        let mut known = self.lock().get(&key).cloned().unwrap_or_default();
        let now = Timestamp::now();
        if let Some(given) = known.given.as_ref().filter(|given| now < given.renew_at) {
            return Ok((given.clone(), left(now, given.renew_at)));
        }
        let come = self.bring(pod, source, &mut known).await;
        self.lock().insert(key.clone(), known.clone());
        match (come, known.given) {
            (Ok(()), Some(given)) if now < given.renew_at => {
                let again = left(now, given.renew_at);
                Ok((given, again))
            }
            // The old one is as good until its end.
            (come, Some(given)) if now < given.ends_at => {
                let refused = known.asked.is_some_and(|asked| asked.refused.is_some());
                let again = match come {
                    // That is the signer's last word: there is nothing to do before the Pod has no certificate any more.
                    Err(_) if refused => Duration::MAX,
                    Err(error) => {
                        tracing::warn!(%error, pod = %key.0, "a Pod's certificate could not be renewed, it is tried again");
                        RETRY
                    }
                    Ok(()) => WAIT,
                };
                let end = left(now, given.ends_at);
                Ok((given, again.min(end)))
            }
            (Err(error), _) => Err(error),
            (Ok(()), _) => {
                let name = known.asked.map(|asked| asked.name).unwrap_or_default();
                Err(What::Refused(format!(
                    "PodCertificateRequest {name:?} of signer {:?} is not issued yet",
                    source.signer_name
                )))
            }
        }
    }

    /// Asks for a certificate, or looks what became of what was asked for.
    async fn bring(
        &self,
        pod: &Pod,
        source: &PodCertificateProjection,
        known: &mut Known,
    ) -> Result<(), What> {
        let api = |error| What::Api(Box::new(error));
        let namespace = pod.namespace().unwrap_or_default();
        if let Some(asked) = &mut known.asked {
            if let Some(why) = &asked.refused {
                return Err(What::Refused(why.clone()));
            }
            let requests: Api<PodCertificateRequest> =
                Api::namespaced(self.writer.client().clone(), &namespace);
            // A node may look at its own alone.
            let fields = format!("metadata.name={},spec.nodeName={}", asked.name, self.node);
            let found = read::within(requests.list(&ListParams::default().fields(&fields))).await;
            match found.map_err(api)?.items.pop() {
                Some(request) => {
                    match end_of(&asked.name, request.status.unwrap_or_default(), &asked.key) {
                        Ok(Some(mut given)) => {
                            given.renew_at = spread(&given, rand::random());
                            *known = Known { given: Some(given), asked: None };
                        }
                        Ok(None) => {}
                        Err((how, why)) => {
                            self.recorder.event(pod, Severity::Warning, how, why.clone());
                            asked.refused = Some(why.clone());
                            return Err(What::Refused(why));
                        }
                    }
                    return Ok(());
                }
                // Nobody decided for long, and it was cleared away.
                None => known.asked = None,
            }
        }
        let (der, key) =
            pki::ask_for_key(&source.key_type).map_err(|error| What::Refused(error.to_string()))?;
        let request = self.request(pod, source, der).await.map_err(api)?;
        let made = read::within(self.writer.create(&request)).await.map_err(api)?;
        known.asked = Some(Asked { name: made.name_any(), key, refused: None });
        Ok(())
    }

    async fn request(
        &self,
        pod: &Pod,
        source: &PodCertificateProjection,
        der: Vec<u8>,
    ) -> Result<PodCertificateRequest, kube::Error> {
        let namespace = pod.namespace().unwrap_or_default();
        let account = pod.spec.as_ref().and_then(|spec| spec.service_account_name.clone());
        let account = account.filter(|name| !name.is_empty()).unwrap_or_else(|| "default".to_owned());
        let of_account = read::get::<ServiceAccount>(&self.writer, Some(&namespace), &account).await?;
        let node = read::get::<Node>(&self.writer, None, &self.node).await?;
        let uid = pod.uid().unwrap_or_default();
        let owner = OwnerReference {
            api_version: "v1".to_owned(),
            kind: "Pod".to_owned(),
            name: pod.name_any(),
            uid: uid.clone(),
            ..OwnerReference::default()
        };
        Ok(PodCertificateRequest {
            metadata: ObjectMeta {
                namespace: Some(namespace),
                generate_name: Some(format!("req-{}-", self.node)),
                owner_references: Some(vec![owner]),
                ..ObjectMeta::default()
            },
            spec: PodCertificateRequestSpec {
                signer_name: source.signer_name.clone(),
                pod_name: pod.name_any(),
                pod_uid: uid,
                service_account_name: account,
                service_account_uid: of_account.uid().unwrap_or_default(),
                node_name: self.node.clone(),
                node_uid: node.uid().unwrap_or_default(),
                max_expiration_seconds: Some(source.max_expiration_seconds.unwrap_or(DEFAULT_SECONDS)),
                stub_pkc_s10_request: ByteString(der),
                unverified_user_annotations: source.user_annotations.clone(),
            },
            status: None,
        })
    }

    /// Forgets those of a Pod.
    pub(super) fn forget(&self, uid: &str) {
        self.lock().retain(|key, _| key.0 != uid);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Known>> {
        // Nothing panics under this lock.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a signer made of a request: a certificate, nothing yet, or how and why there will be none.
fn end_of(
    name: &str,
    status: PodCertificateRequestStatus,
    key: &str,
) -> Result<Option<Given>, (&'static str, String)> {
    let mut conditions = status.conditions.iter().flatten();
    let Some(end) = conditions.find(|one| matches!(one.type_.as_str(), "Issued" | "Denied" | "Failed"))
    else {
        return Ok(None);
    };
    if end.type_ != "Issued" {
        let how = if end.type_ == "Denied" { DENIED } else { FAILED };
        let why = format!(
            "PodCertificateRequest {name:?} was {}: {}: {}",
            how.to_lowercase(),
            end.reason,
            end.message
        );
        return Err((how, why));
    }
    let (Some(chain), Some(renew_at), Some(ends_at)) =
        (status.certificate_chain, status.begin_refresh_at, status.not_after)
    else {
        let why = format!("PodCertificateRequest {name:?} was issued without a certificate or its times");
        return Err((FAILED, why));
    };
    Ok(Some(Given { key: key.to_owned(), chain, renew_at: renew_at.0, ends_at: ends_at.0 }))
}

/// When a renewal begins that begins at a share (0 to 1) of the time that it may be put off for: no more than a quarter of what is left then.
fn spread(given: &Given, share: f64) -> Timestamp {
    let most = SPREAD.min(left(given.renew_at, given.ends_at) / 4);
    given.renew_at.checked_add(most.mul_f64(share)).unwrap_or(given.renew_at)
}

/// How long it is from now until then.
fn left(now: Timestamp, then: Timestamp) -> Duration {
    Duration::try_from(now.duration_until(then)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http::{Method, Request, Response};
    use kube::client::Body;
    use serde_json::{Value, json};

    use super::*;

    fn status(kind: &str, more: Value) -> PodCertificateRequestStatus {
        let mut status = more;
        status["conditions"] = json!([{"type": kind, "status": "True", "reason": "Because", "message": "of that",
            "lastTransitionTime": "2026-01-01T00:00:00Z"}]);
        serde_json::from_value(status).unwrap()
    }

    #[test]
    fn a_signers_word_is_final() {
        assert_eq!(end_of("r", PodCertificateRequestStatus::default(), "k"), Ok(None));
        let why = end_of("r", status("Denied", json!({})), "k").unwrap_err();
        assert_eq!(why, ("Denied", "PodCertificateRequest \"r\" was denied: Because: of that".to_owned()));
        assert_eq!(end_of("r", status("Failed", json!({})), "k").unwrap_err().0, "Failed");
        assert_eq!(end_of("r", status("Issued", json!({})), "k").unwrap_err().0, "Failed");
        let times = json!({"certificateChain": "c", "beginRefreshAt": "2026-01-02T00:00:00Z", "notAfter": "2026-01-03T00:00:00Z"});
        let given = end_of("r", status("Issued", times), "k").unwrap().unwrap();
        assert_eq!((given.key.as_str(), given.chain.as_str()), ("k", "c"));
        assert!(given.renew_at < given.ends_at);
        let put_off = |given: &Given, share| left(given.renew_at, spread(given, share));
        assert_eq!(put_off(&given, 0.0), Duration::ZERO);
        assert_eq!(put_off(&given, 0.5), Duration::from_secs(150));
        let brief = Given { ends_at: "2026-01-02T00:06:40Z".parse().unwrap(), ..given };
        assert_eq!(put_off(&brief, 1.0), Duration::from_secs(100));
    }

    /// An API server with one account, one node and the requests that are made of it, which a signer answers at the second look.
    #[derive(Default)]
    struct Server {
        made: Mutex<Vec<Value>>,
        looks: Mutex<u32>,
    }

    impl Server {
        fn answer(&self, method: &Method, path: &str, body: &[u8]) -> Value {
            if path.contains("/serviceaccounts/") {
                return json!({"metadata": {"name": "default", "uid": "account-uid"}});
            }
            if path.contains("/nodes/") {
                return json!({"metadata": {"name": "n", "uid": "node-uid"}});
            }
            let mut made = self.made.lock().unwrap();
            if method == Method::POST {
                let mut request: Value = serde_json::from_slice(body).unwrap();
                request["metadata"]["name"] = json!("req-n-1");
                made.push(request.clone());
                return request;
            }
            let mut looks = self.looks.lock().unwrap();
            *looks += 1;
            let mut request = made[0].clone();
            if *looks > 1 {
                let in_hours =
                    |hours| (Timestamp::now() + jiff::SignedDuration::from_hours(hours)).to_string();
                let times = json!({"certificateChain": "chain", "beginRefreshAt": in_hours(1), "notAfter": in_hours(2)});
                request["status"] = json!(status("Issued", times));
            }
            json!({"apiVersion": "certificates.k8s.io/v1", "kind": "PodCertificateRequestList", "metadata": {}, "items": [request]})
        }
    }

    #[tokio::test]
    async fn a_certificate_is_asked_for_once_and_kept() {
        let server = Arc::new(Server::default());
        let of = server.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = of.clone();
            async move {
                let (parts, body) = request.into_parts();
                let body = body.collect_bytes().await.unwrap();
                let answer = server.answer(&parts.method, parts.uri.path(), &body).to_string();
                Ok::<_, std::io::Error>(Response::new(Body::from(answer.into_bytes())))
            }
        });
        let client = kube::Client::new(service, "default");
        let recorder = Recorder::new(client.clone(), "test", None);
        let certificates = Certificates::new(Writer::new(client, "test"), recorder, "n");
        let pod: Pod = serde_json::from_value(
            json!({"metadata": {"namespace": "ns", "name": "p", "uid": "u"}, "spec": {"containers": []}}),
        )
        .unwrap();
        let source: PodCertificateProjection =
            serde_json::from_value(json!({"signerName": "example.com/x", "keyType": "ED25519"})).unwrap();
        let get = async || certificates.get(&pod, "v", 0, &source).await;
        for _ in 0..2 {
            let waits = get().await.unwrap_err().to_string();
            assert_eq!(
                waits,
                "PodCertificateRequest \"req-n-1\" of signer \"example.com/x\" is not issued yet"
            );
        }
        let (given, again) = get().await.unwrap();
        assert!(given.key.contains("PRIVATE KEY") && given.chain == "chain");
        assert!(again > Duration::from_secs(3000), "{again:?}");
        assert_eq!(get().await.unwrap().0, given);
        let made = server.made.lock().unwrap().clone();
        assert_eq!(made.len(), 1, "{made:?}");
        let spec = &made[0]["spec"];
        assert_eq!(
            (&spec["podUID"], &spec["serviceAccountUID"], &spec["nodeUID"]),
            (&json!("u"), &json!("account-uid"), &json!("node-uid"))
        );
        assert_eq!(made[0]["metadata"]["ownerReferences"][0]["uid"], "u");
        let renews = async |refused: Option<&str>| {
            *server.looks.lock().unwrap() = 0;
            let (renew_at, ends_at) =
                (Timestamp::now(), Timestamp::now() + jiff::SignedDuration::from_hours(2));
            let old = Given { renew_at, ends_at, ..given.clone() };
            let asked = Asked {
                name: "req-n-1".to_owned(),
                key: "k".to_owned(),
                refused: refused.map(str::to_owned),
            };
            let known = Known { given: Some(old.clone()), asked: Some(asked) };
            certificates.lock().insert(("u".to_owned(), "v".to_owned(), 0), known);
            let (given, again) = get().await.unwrap();
            assert_eq!(given, old, "the old one is good");
            again
        };
        assert_eq!(renews(None).await, WAIT);
        assert!(renews(Some("denied")).await > Duration::from_secs(7000), "no pass before the end");
        let other = PodCertificateProjection { key_type: "RSA4096".to_owned(), ..source.clone() };
        let refused = certificates.get(&pod, "v", 1, &other).await.unwrap_err().to_string();
        assert!(refused.contains("RSA4096"), "{refused}");
        certificates.forget("u");
        assert!(certificates.lock().is_empty());
    }
}
