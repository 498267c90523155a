//! Eviction: a deletion of a Pod that its disruption budget allows.

use jiff::Timestamp;
use serde_json::{Value, json};
use yunfan_identity::node;
use yunfan_objects::error::{Cause, Details};
use yunfan_objects::selector::LabelSelector;
use yunfan_objects::{ApiError, GroupResource, Reason, meta};

use super::subresource::set_condition;
use super::{DeleteOptions, MAX_ATTEMPTS, Part, Registry, Writer, pause};
use crate::kinds::Kind;

const GROUP: &str = "policy";
const BUDGETS: &str = "poddisruptionbudgets";
/// Most Pods that a budget may wait for.
const MAX_DISRUPTED: usize = 2000;
/// When a client should try again where the budget has not been looked at yet, seconds.
const AGAIN: u32 = 10;

/// What a Pod's budget says of its eviction.
enum Verdict {
    /// It costs nothing: the Pod must go as it was seen, or not at all.
    Free,
    /// It is paid for.
    Paid,
}

impl Registry {
    /// Deletes a Pod unless its disruption budget forbids it (429). Webhooks and policies were asked about the Eviction, and
    /// are not about what follows from it.
    pub(crate) async fn evict(
        &self,
        writer: &Writer<'_>,
        pods: &Kind,
        namespace: &str,
        name: &str,
        options: DeleteOptions,
    ) -> Result<(), ApiError> {
        let writer = &Writer { options: None, ..*writer };
        for attempt in 0..MAX_ATTEMPTS {
            pause(attempt).await;
            self.cache.wait_current().await?;
            let pod = self.find(pods, namespace, name)?.object();
            if let Some(node) = node::of(writer.user).filter(|node| pod["spec"]["nodeName"] != *node) {
                let why = format!("node {node} can only evict pods with spec.nodeName set to itself");
                return Err(ApiError::forbidden(&pods.descriptor.group_resource(), name, &why));
            }
            // Before a budget pays for it.
            super::delete::preconditions(pods, name, &pod, &options)?;
            let ended = matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
                || !pod["metadata"]["deletionTimestamp"].is_null();
            let waits = pod["status"]["phase"] == "Pending";
            let verdict = match ended || waits {
                true => Verdict::Free,
                false => self.ask_budget(writer, namespace, &pod, options.dry_run).await?,
            };
            let mut exactly = options.clone();
            if matches!(verdict, Verdict::Free) && !ended && exactly.revision.is_none() {
                exactly.revision = pod["metadata"]["resourceVersion"].as_str().map(str::to_owned);
            }
            match self.disrupt(writer, pods, namespace, name, exactly).await {
                Err(error) if error.reason() == Reason::Conflict && options.revision.is_none() => {}
                done => return done,
            }
        }
        Err(ApiError::timeout(format!("the pod {name:?} changes faster than it can be evicted")))
    }

    /// Says why in the Pod's status, and deletes it.
    async fn disrupt(
        &self,
        writer: &Writer<'_>,
        pods: &Kind,
        namespace: &str,
        name: &str,
        mut options: DeleteOptions,
    ) -> Result<(), ApiError> {
        if !options.dry_run {
            // The server's own word: whoever evicts owns nothing of it, as in Kubernetes.
            let nobody = Writer { manager: "", ..*writer };
            let marked = self
                .modify(&nobody, pods, namespace, name, Part::Status, |pod| {
                    super::delete::preconditions(pods, name, pod, &options)?;
                    let mut pod = pod.clone();
                    let reason = "EvictionByEvictionAPI";
                    set_condition(
                        &mut pod,
                        json!({"type": "DisruptionTarget", "status": "True", "reason": reason,
                            "message": "Eviction API: evicting"}),
                    );
                    Ok(pod)
                })
                .await?;
            options.revision = options.revision.map(|_| marked.into_stored().revision.to_string());
        }
        self.delete(writer, pods, namespace, name, &options).await.map(|_| ())
    }

    async fn ask_budget(
        &self,
        writer: &Writer<'_>,
        namespace: &str,
        pod: &Value,
        dry_run: bool,
    ) -> Result<Verdict, ApiError> {
        let Some(kind) = self.kinds.table().get(GROUP, "v1", BUDGETS) else { return Ok(Verdict::Paid) };
        let all = self.view().list(GROUP, BUDGETS, namespace);
        let selected: Vec<_> = all.into_iter().filter(|budget| selects(&budget.object(), pod)).collect();
        let budget = match selected.as_slice() {
            [] => return Ok(Verdict::Paid),
            [one] => one.object(),
            _ => {
                let why = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
                return Err(ApiError::new(500, Reason::InternalError, why));
            }
        };
        if !is_ready(pod) {
            let status = &budget["status"];
            let (healthy, desired) = (count(status, "currentHealthy"), count(status, "desiredHealthy"));
            if budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
                || (healthy >= desired && desired > 0)
            {
                return Ok(Verdict::Free);
            }
        }
        let name = budget["metadata"]["name"].as_str().unwrap_or_default();
        let pod = pod["metadata"]["name"].as_str().unwrap_or_default();
        let writer = Writer { system: true, options: None, dry_run, ..*writer };
        self.modify(&writer, &kind, namespace, name, Part::Status, |budget| pay(budget, pod)).await?;
        Ok(Verdict::Paid)
    }
}

/// Whether a budget is about a Pod; one without a selector is about none.
fn selects(budget: &Value, pod: &Value) -> bool {
    let selector = &budget["spec"]["selector"];
    !selector.is_null() && LabelSelector::from_object(selector).is_ok_and(|wanted| wanted.matches_object(pod))
}

fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    object["status"]["conditions"].as_array()?.iter().find(|each| each["type"] == kind)
}

fn is_ready(pod: &Value) -> bool {
    condition(pod, "Ready").is_some_and(|ready| ready["status"] == "True")
}

fn count(status: &Value, field: &str) -> i64 {
    status[field].as_i64().unwrap_or(0)
}

/// Takes one disruption from the budget's allowance.
fn pay(budget: &Value, pod: &str) -> Result<Value, ApiError> {
    let name = budget["metadata"]["name"].as_str().unwrap_or_default();
    let status = &budget["status"];
    if count(status, "observedGeneration") < count(&budget["metadata"], "generation") {
        let why = format!("The disruption budget {name} is still being processed by the server.");
        return Err(violation(why, AGAIN));
    }
    let forbidden =
        |why: &str| Err(ApiError::forbidden(&GroupResource::new(GROUP, "poddisruptionbudget"), name, why));
    let allowed = count(status, "disruptionsAllowed");
    if allowed < 0 {
        return forbidden("pdb disruptions allowed is negative");
    }
    if status["disruptedPods"].as_object().is_some_and(|pods| pods.len() > MAX_DISRUPTED) {
        return forbidden("DisruptedPods map too big - too many evictions not confirmed by PDB controller");
    }
    if allowed == 0 {
        return Err(violation(why_not(budget, name), 0));
    }
    let mut budget = budget.clone();
    let now = meta::time(Timestamp::now());
    budget["status"]["disruptionsAllowed"] = json!(allowed - 1);
    // So the budget's controller does not count the Pod as there while it goes.
    budget["status"]["disruptedPods"][pod] = json!(now);
    Ok(budget)
}

/// Why a budget allows nothing, in the words of its controller where it has any.
fn why_not(budget: &Value, name: &str) -> String {
    let (healthy, desired) =
        (count(&budget["status"], "currentHealthy"), count(&budget["status"], "desiredHealthy"));
    let said = condition(budget, "DisruptionAllowed").filter(|each| each["status"] == "False");
    let text = |field: &str| said.and_then(|said| said[field].as_str()).unwrap_or_default();
    let (reason, message) = (text("reason"), text("message"));
    let does_not = format!("The disruption budget {name} does not allow evicting pods currently");
    match (reason, message) {
        ("SyncFailed", message) if !message.is_empty() => {
            format!("{does_not} because it failed sync: {message}")
        }
        _ if healthy <= desired => {
            format!("The disruption budget {name} needs {desired} healthy pods and has {healthy} currently")
        }
        (_, "") => does_not,
        _ => format!("{does_not} ({reason}): {message}"),
    }
}

fn violation(why: String, retry_after_seconds: u32) -> ApiError {
    let cause = Cause { reason: "DisruptionBudget".to_owned(), message: why, field: String::new() };
    ApiError::too_many_requests("Cannot evict pod as it would violate the pod's disruption budget.", 0)
        .with_details(Details { causes: vec![cause], retry_after_seconds, ..Details::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(allowed: i64) -> Value {
        json!({"metadata": {"name": "b", "generation": 2}, "spec": {"selector": {"matchLabels": {"a": "b"}}},
            "status": {"observedGeneration": 2, "disruptionsAllowed": allowed, "currentHealthy": 2, "desiredHealthy": 3}})
    }

    #[test]
    fn a_budget_is_paid_from_until_it_is_empty() {
        let after = pay(&budget(1), "web-1").unwrap();
        assert_eq!(after["status"]["disruptionsAllowed"], 0);
        assert!(after["status"]["disruptedPods"]["web-1"].is_string());
        let error = pay(&after, "web-2").unwrap_err();
        assert_eq!(error.code(), 429);
        let cause = &error.details().unwrap().causes[0];
        assert_eq!(cause.message, "The disruption budget b needs 3 healthy pods and has 2 currently");
        assert_eq!(pay(&budget(-1), "x").unwrap_err().code(), 403);
        let mut stale = budget(1);
        stale["metadata"]["generation"] = json!(3);
        assert_eq!(pay(&stale, "x").unwrap_err().details().unwrap().retry_after_seconds, AGAIN);
    }

    #[test]
    fn a_budget_selects_by_labels() {
        let pod = |label: &str| json!({"metadata": {"labels": {"a": label}}});
        assert!(selects(&budget(1), &pod("b")) && !selects(&budget(1), &pod("c")));
        assert!(selects(&json!({"spec": {"selector": {}}}), &pod("c")));
        assert!(!selects(&json!({"spec": {}}), &pod("b")));
    }
}
