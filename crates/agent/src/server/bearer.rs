//! Who comes with a token instead of a certificate, as Prometheus and metrics-server come to kubelets: the API server says whose token it
//! is and what they may (Kubernetes' documentation, "Kubelet authentication/authorization").

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::response::Response;
use http::header::AUTHORIZATION;
use http::{HeaderMap, Method, StatusCode};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, UserInfo};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;
use yunfan_client::Writer;

use super::refuse;

/// The paths that tokens open, each with the part of `nodes` that one must have a right to. What else the agent does is for the cloud's
/// own components alone.
pub(super) const OPEN: [(&str, &str); 8] = [
    ("/logs/", "log"),
    ("/logs/{*path}", "log"),
    ("/metrics", "metrics"),
    ("/metrics/cadvisor", "metrics"),
    ("/metrics/probes", "metrics"),
    ("/metrics/resource", "metrics"),
    ("/pods", "pods"),
    ("/stats/summary", "stats"),
];

/// Reviews at one time.
const MOST: usize = 16;

/// How long it is remembered that a token was let in, from when the API server was asked on: a token that is revoked opens nothing a
/// second later. (Kubelets remember for minutes.)
const REMEMBERED: Duration = Duration::from_secs(1);
/// Tokens that are remembered, each with one path.
const MOST_REMEMBERED: usize = 256;

/// Asks the API server.
#[derive(Clone)]
pub(crate) struct Reviews {
    writer: Writer,
    node: String,
    turns: Arc<Semaphore>,
    passed: Arc<Mutex<Passed>>,
}

/// Who was let in a moment ago: until when, by a hash of the token, the verb and the part of the node. Those who were not are not among
/// them, so that made-up tokens take no room.
#[derive(Default)]
struct Passed(HashMap<[u8; 32], Instant>);

impl Passed {
    fn key(token: &str, verb: &str, part: &str) -> [u8; 32] {
        // Neither verbs nor parts have a line's end.
        Sha256::digest(format!("{verb}\n{part}\n{token}")).into()
    }

    fn has(&self, key: &[u8; 32], now: Instant) -> bool {
        self.0.get(key).is_some_and(|until| *until > now)
    }

    fn add(&mut self, key: [u8; 32], asked: Instant, now: Instant) {
        if self.0.len() >= MOST_REMEMBERED {
            self.0.retain(|_, until| *until > now);
        }
        if self.0.len() < MOST_REMEMBERED {
            self.0.insert(key, asked + REMEMBERED);
        }
    }
}

impl Reviews {
    /// For the node with this name.
    pub(crate) fn new(writer: Writer, node: &str) -> Self {
        Self { writer, node: node.to_owned(), turns: Arc::new(Semaphore::new(MOST)), passed: Arc::default() }
    }

    /// Whether who sends these headers may have what is at the path; if not, the answer.
    pub(super) async fn check(
        &self,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
    ) -> Result<(), Response> {
        let unauthorized = || refuse(StatusCode::UNAUTHORIZED, "Unauthorized".to_owned());
        let given = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()?.split_once(' '));
        let token =
            given.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("Bearer")).map(|(_, token)| token.trim());
        let token = token.filter(|token| !token.is_empty()).ok_or_else(unauthorized)?;
        let part = OPEN.iter().find(|(open, _)| *open == path).map_or("proxy", |(_, part)| part);
        let verb = if *method == Method::GET { "get" } else { "create" };
        let (key, asked) = (Passed::key(token, verb, part), Instant::now());
        if self.passed().has(&key, asked) {
            return Ok(());
        }
        // Whoever reaches the port can make up tokens; each costs the API server a question in this node's name.
        let busy = || {
            refuse(StatusCode::TOO_MANY_REQUESTS, "too many tokens are being reviewed; try again".to_owned())
        };
        let _turn = self.turns.try_acquire().map_err(|_| busy())?;
        let asks = |error: kube::Error| {
            refuse(StatusCode::INTERNAL_SERVER_ERROR, format!("the API server can't be asked: {error}"))
        };
        let user = self.user(token).await.map_err(asks)?.ok_or_else(unauthorized)?;
        // Who may have all of a node needs no right to its parts.
        for part in [part, "proxy"] {
            if self.may(&user, verb, part).await.map_err(asks)? {
                self.passed().add(key, asked, Instant::now());
                return Ok(());
            }
        }
        let name = user.username.unwrap_or_default();
        let message =
            format!("Forbidden (user={name}, verb={verb}, resource=nodes, subresource(s)=[{part} proxy])");
        Err(refuse(StatusCode::FORBIDDEN, message))
    }

    fn passed(&self) -> MutexGuard<'_, Passed> {
        // Nothing panics under this lock.
        self.passed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn user(&self, token: &str) -> kube::Result<Option<UserInfo>> {
        let spec = TokenReviewSpec { token: token.to_owned(), ..TokenReviewSpec::default() };
        let review = TokenReview { spec, ..TokenReview::default() };
        let status = self.writer.create(&review).await?.status.unwrap_or_default();
        Ok(status.user.filter(|_| status.authenticated == Some(true)))
    }

    async fn may(&self, user: &UserInfo, verb: &str, part: &str) -> kube::Result<bool> {
        let attributes = ResourceAttributes {
            verb: Some(verb.to_owned()),
            version: Some("v1".to_owned()),
            resource: Some("nodes".to_owned()),
            subresource: Some(part.to_owned()),
            name: Some(self.node.clone()),
            ..ResourceAttributes::default()
        };
        let spec = SubjectAccessReviewSpec {
            resource_attributes: Some(attributes),
            user: user.username.clone(),
            uid: user.uid.clone(),
            groups: user.groups.clone(),
            extra: user.extra.clone(),
            ..SubjectAccessReviewSpec::default()
        };
        let review = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
        Ok(self.writer.create(&review).await?.status.is_some_and(|status| status.allowed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_let_in_is_remembered_for_a_second_and_for_the_same_alone() {
        let (mut passed, asked) = (Passed::default(), Instant::now());
        let key = Passed::key("t", "get", "metrics");
        passed.add(key, asked, asked);
        assert!(passed.has(&key, asked + REMEMBERED - Duration::from_millis(1)));
        assert!(!passed.has(&key, asked + REMEMBERED));
        for other in [("u", "get", "metrics"), ("t", "create", "metrics"), ("t", "get", "pods")] {
            assert!(!passed.has(&Passed::key(other.0, other.1, other.2), asked), "{other:?}");
        }
    }

    #[test]
    fn no_more_are_remembered_than_there_is_room_for() {
        let (mut passed, asked) = (Passed::default(), Instant::now());
        let key = |n: usize| Passed::key(&n.to_string(), "get", "metrics");
        for n in 0..=MOST_REMEMBERED {
            passed.add(key(n), asked, asked);
        }
        assert!(passed.has(&key(0), asked) && !passed.has(&key(MOST_REMEMBERED), asked));
        assert_eq!(passed.0.len(), MOST_REMEMBERED);
        let later = asked + REMEMBERED;
        passed.add(key(MOST_REMEMBERED), later, later);
        assert_eq!(passed.0.len(), 1, "those that have had their time make room");
    }
}
