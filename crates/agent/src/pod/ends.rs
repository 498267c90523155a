//! How containers of this node ended since the agent began, which its metrics tell.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use k8s_openapi::api::core::v1::Pod;
use yunfan_runtime::{ContainerState, RuntimeEvent};

use super::Pods;
use super::parts::{Kind, parts};
use super::status::end_reason;

/// What a container was to its Pod, its exit code and why it ended, in the kubelet's words.
pub(crate) type End = (&'static str, i32, &'static str);

/// How often each happened. There are no more than some thousand of them.
#[derive(Default)]
pub(super) struct Ends(Mutex<BTreeMap<End, u64>>);

impl Pods {
    /// Counts what happened to a Pod's container, if that was its end.
    pub(super) fn count_end(&self, pod: &Pod, event: &RuntimeEvent) {
        let end = end_of(pod, event);
        // Nothing panics under this lock.
        let mut known = self.ends.0.lock().unwrap_or_else(PoisonError::into_inner);
        end.into_iter().for_each(|end| *known.entry(end).or_default() += 1);
    }

    /// How often containers ended in which way.
    pub(crate) fn ends(&self) -> BTreeMap<End, u64> {
        self.ends.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn end_of(pod: &Pod, event: &RuntimeEvent) -> Option<End> {
    let RuntimeEvent::Container(run) = event else { return None };
    if run.state != ContainerState::Exited {
        return None;
    }
    let part = parts(pod).into_iter().find(|part| part.name() == run.id.name)?;
    let kind = match part.kind {
        Kind::Init | Kind::Sidecar => "init_container",
        Kind::Main => "container",
        Kind::Ephemeral => "ephemeral_container",
    };
    Some((kind, run.exit_code.unwrap_or(-1), end_reason(run)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use yunfan_runtime::ContainerStatus;

    use super::*;

    #[test]
    fn ends_are_told_by_kind_code_and_reason() {
        let spec = json!({"containers": [{"name": "main"}], "initContainers": [{"name": "first"}]});
        let pod: Pod = serde_json::from_value(json!({"spec": spec})).unwrap();
        let end = |name: &str, state: &str, code: i32| {
            let id = json!({"pod_uid": "u", "name": name, "attempt": 0});
            let run: ContainerStatus = serde_json::from_value(json!({"id": id, "state": state, "image_id": "", "image": "",
                "pid": null, "exit_code": code, "started_at": {"secs_since_epoch": 1, "nanos_since_epoch": 0}, "finished_at": null,
                "oom_killed": false, "message": ""}))
            .unwrap();
            end_of(&pod, &RuntimeEvent::Container(Box::new(run)))
        };
        assert_eq!(end("main", "Running", 0), None);
        assert_eq!(end("main", "Exited", 139), Some(("container", 139, "Error")));
        assert_eq!(end("first", "Exited", 0), Some(("init_container", 0, "Completed")));
        assert_eq!(end("none", "Exited", 0), None);
    }
}
