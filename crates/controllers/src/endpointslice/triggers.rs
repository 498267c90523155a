//! When what a slice tells of began to change: whoever measures how long the news take asks for that.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::ResourceExt;
use yunfan_client::ObjectKey;

/// What was known of a Service when it was last looked at.
#[derive(Default)]
struct Known {
    service: Option<Timestamp>,
    /// When its Pods became ready, or stopped to be, by their names.
    pods: HashMap<String, Timestamp>,
}

/// What is known of all Services. It begins anew when the process does.
#[derive(Default)]
pub(super) struct Triggers(Mutex<HashMap<ObjectKey, Known>>);

impl Triggers {
    /// The earliest of the moments that are news since the last look; none where nothing has a moment.
    pub(super) fn changed(&self, key: &ObjectKey, service: &Service, pods: &[Arc<Pod>]) -> Option<Timestamp> {
        let now = Known {
            service: service.creation_timestamp().map(|time| time.0),
            pods: pods.iter().filter_map(|pod| Some((pod.name_any(), turned(pod)?))).collect(),
        };
        // Nothing panics under this lock.
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = all.remove(key).unwrap_or_default();
        let news = now.pods.iter().filter(|(name, at)| before.pods.get(*name).is_none_or(|was| was < *at));
        let service = now.service.filter(|at| before.service.is_none_or(|was| was < *at));
        let first = news.map(|(_, at)| *at).chain(service).min();
        all.insert(key.clone(), now);
        first
    }

    pub(super) fn forget(&self, key: &ObjectKey) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }
}

fn turned(pod: &Pod) -> Option<Timestamp> {
    let mut conditions = pod.status.as_ref()?.conditions.iter().flatten();
    let ready = conditions.find(|condition| condition.type_ == "Ready")?;
    ready.last_transition_time.as_ref().map(|time| time.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_first_of_the_news_counts() {
        let at = |second: u32| format!("2026-01-01T00:00:{second:02}Z");
        let service: Service =
            serde_json::from_value(json!({"metadata": {"creationTimestamp": at(5)}})).unwrap();
        let pod = |name: &str, second| -> Arc<Pod> {
            let ready = json!([{"type": "Ready", "status": "True", "lastTransitionTime": at(second)}]);
            Arc::new(
                serde_json::from_value(json!({"metadata": {"name": name}, "status": {"conditions": ready}}))
                    .unwrap(),
            )
        };
        let (triggers, key) = (Triggers::default(), ObjectKey::new("a", "b"));
        let seen = |pods: &[Arc<Pod>]| triggers.changed(&key, &service, pods).map(|at| at.to_string());
        assert_eq!(seen(&[]), Some(at(5)));
        assert_eq!(seen(&[pod("p", 7), pod("q", 8)]), Some(at(7)));
        assert_eq!(seen(&[pod("p", 7), pod("q", 9)]), Some(at(9)));
        assert_eq!(seen(&[pod("p", 7)]), None, "one that goes has no moment");
        triggers.forget(&key);
        assert_eq!(seen(&[]), Some(at(5)));
    }
}
