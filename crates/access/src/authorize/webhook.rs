//! An authorizer elsewhere: it is asked with a SubjectAccessReview, and what it answers is kept for a while.

use std::time::Duration;

use serde_json::{Value, json};
use yunfan_cel::Value as Cel;
use yunfan_identity::authz::{FieldTerm, LabelTerm};
use yunfan_identity::{Attributes, Decision};
use yunfan_objects::admission::to_cel;

use crate::conditions::Expression;
use crate::kept::{self, Kept};
use crate::remote::Remote;

/// Answers of each kind that are kept (kube-apiserver's number).
const MOST: usize = 8192;
/// A question that is longer than this is asked each time: a client must not fill memory with long names.
const MAX_KEPT_QUESTION: usize = 10_000;

/// The form of the question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    V1,
    V1Beta1,
}

impl Version {
    /// By its name; `None` for others.
    pub(super) fn named(name: &str) -> Option<Self> {
        match name {
            "v1" => Some(Self::V1),
            "v1beta1" => Some(Self::V1Beta1),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V1Beta1 => "v1beta1",
        }
    }
}

/// What is made of it when there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The request is refused.
    Deny,
    /// The next authorizer is asked.
    NoOpinion,
}

/// How a webhook is asked.
pub(super) struct Settings {
    /// Of the webhook, for people.
    pub(super) name: String,
    pub(super) version: Version,
    pub(super) timeout: Duration,
    pub(super) failure: Failure,
    /// How long answers are kept that allow; zero keeps none.
    pub(super) authorized: Duration,
    /// How long others are kept.
    pub(super) unauthorized: Duration,
    /// All must hold, or it is not asked.
    pub(super) conditions: Vec<Expression>,
}

pub(super) struct Webhook {
    settings: Settings,
    remote: Remote,
    allowed: Kept<Decision>,
    others: Kept<Decision>,
}

impl Webhook {
    pub(super) fn new(settings: Settings, remote: Remote) -> Self {
        Self { settings, remote, allowed: Kept::new(MOST), others: Kept::new(MOST) }
    }

    /// The decision, where it needs no question: it was answered a moment ago, or is none of this webhook's.
    pub(super) fn remembered(&self, request: &Attributes<'_>) -> Option<Decision> {
        let spec = spec(request);
        match self.meant(&spec) {
            Ok(true) => {}
            Ok(false) => return Some(Decision::NoOpinion { reason: String::new() }),
            Err(why) => return Some(self.failed(&why)),
        }
        let key = kept::key(&[question(&spec).as_bytes()]);
        self.allowed.get(&key).or_else(|| self.others.get(&key))
    }

    /// Asks. Its conditions were found to hold.
    pub(super) async fn authorize(&self, request: &Attributes<'_>) -> Decision {
        let spec = spec(request);
        let question = question(&spec);
        let body = self.review(spec);
        let answer = self.remote.post(&body, self.settings.timeout).await.map_err(|error| error.to_string());
        let decision = match answer.and_then(|answer| self.read(&answer)) {
            Ok(decision) => decision,
            Err(why) => return self.failed(&why),
        };
        if question.len() <= MAX_KEPT_QUESTION {
            let key = kept::key(&[question.as_bytes()]);
            match decision.is_allowed() {
                true => self.allowed.insert(key, decision.clone(), self.settings.authorized),
                false => self.others.insert(key, decision.clone(), self.settings.unauthorized),
            }
        }
        decision
    }

    /// Whether all conditions hold. One that does not settles it, whatever is wrong with others.
    fn meant(&self, spec: &Value) -> Result<bool, String> {
        if self.settings.conditions.is_empty() {
            return Ok(true);
        }
        let (request, mut wrong) = (to_cel(spec), None);
        for condition in &self.settings.conditions {
            match condition.run(("request", request.clone())) {
                Ok(Cel::Bool(false)) => return Ok(false),
                Ok(Cel::Bool(true)) => {}
                Ok(other) => {
                    wrong.get_or_insert(format!(
                        "expression '{}' gave {}",
                        condition.source,
                        other.type_name()
                    ));
                }
                Err(why) => {
                    wrong.get_or_insert(why);
                }
            }
        }
        wrong.map_or(Ok(true), Err)
    }

    fn failed(&self, why: &str) -> Decision {
        tracing::warn!(webhook = self.settings.name, why, "authorization webhook failed");
        // Where it is and what happened there is for the log: users get a word.
        let reason = format!("webhook authorizer {:?} failed", self.settings.name);
        match self.settings.failure {
            Failure::Deny => Decision::Deny { reason },
            Failure::NoOpinion => Decision::NoOpinion { reason },
        }
    }

    fn review(&self, mut spec: Value) -> Value {
        let version = self.settings.version;
        // The one field that was called otherwise.
        if version == Version::V1Beta1
            && let Some(spec) = spec.as_object_mut()
            && let Some(groups) = spec.remove("groups")
        {
            spec.insert("group".to_owned(), groups);
        }
        json!({
            "kind": "SubjectAccessReview",
            "apiVersion": format!("authorization.k8s.io/{}", version.name()),
            "metadata": {"creationTimestamp": null},
            "spec": spec,
            "status": {"allowed": false},
        })
    }

    fn read(&self, answer: &Value) -> Result<Decision, String> {
        let version = format!("authorization.k8s.io/{}", self.settings.version.name());
        if answer["kind"] != "SubjectAccessReview" || answer["apiVersion"] != version.as_str() {
            return Err(format!(
                "the answer is {} {}, and no {version} SubjectAccessReview",
                answer["apiVersion"], answer["kind"]
            ));
        }
        let status = &answer["status"];
        let flag = |name: &str| match &status[name] {
            Value::Null => Ok(false),
            Value::Bool(value) => Ok(*value),
            other => Err(format!("status.{name} is {other}, and neither true nor false")),
        };
        let reason = status["reason"].as_str().unwrap_or_default().to_owned();
        match (flag("allowed")?, flag("denied")?) {
            (true, true) => Err("the answer says both allowed and denied".to_owned()),
            (false, true) => Ok(Decision::Deny { reason }),
            (true, false) => Ok(Decision::Allow { reason }),
            (false, false) => Ok(Decision::NoOpinion { reason }),
        }
    }
}

fn question(spec: &Value) -> String {
    spec.to_string()
}

/// The spec of a SubjectAccessReview (v1): what conditions see, and what is asked.
fn spec(request: &Attributes<'_>) -> Value {
    let user = request.user;
    let mut spec = json!({"user": user.name, "groups": user.groups, "uid": user.uid});
    if !user.extra.is_empty() {
        spec["extra"] = json!(user.extra);
    }
    if !request.is_resource_request() {
        spec["nonResourceAttributes"] = json!({"path": request.path, "verb": request.verb});
        return spec;
    }
    spec["resourceAttributes"] = json!({
        "namespace": request.namespace, "verb": request.verb, "group": request.group, "version": request.version,
        "resource": request.resource, "subresource": request.subresource, "name": request.name,
    });
    if !request.selected.is_empty() {
        let one = |term: &FieldTerm| {
            let operator = if term.equal { "In" } else { "NotIn" };
            json!({"key": term.field, "operator": operator, "values": [term.value]})
        };
        let requirements: Vec<Value> = request.selected.iter().map(one).collect();
        spec["resourceAttributes"]["fieldSelector"] = json!({"requirements": requirements});
    }
    if !request.labels.is_empty() {
        let one = |term: &LabelTerm| match term.values.as_slice() {
            [] => json!({"key": term.key, "operator": term.operator}),
            values => json!({"key": term.key, "operator": term.operator, "values": values}),
        };
        let requirements: Vec<Value> = request.labels.iter().map(one).collect();
        spec["resourceAttributes"]["labelSelector"] = json!({"requirements": requirements});
    }
    spec
}
