//! Watching the container runtime: what changed since the last look is told to those who listen. Runtimes that tell of events by
//! themselves are looked at when they do; all are once a second, which is how often the kubelet looks.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::Duration;

use k8s_cri::v1::{GetEventsRequest, ReopenContainerLogRequest};
use tonic::Code;
use yunfan_runtime::{ContainerId, ContainerState, ContainerStatus, RuntimeEvent, kit};

use crate::api::{BRIEF, said, within};
use crate::runtime::{Inner, blocking};
use crate::status::Seen;
use crate::{container, sandbox};

/// How often the lists are asked for.
const PERIOD: Duration = Duration::from_secs(1);
/// How many looks there are between two at the sizes of logs.
const LOGS: u32 = 10;
/// How long a runtime that broke off its events is left alone.
const AGAIN: Duration = Duration::from_secs(5);

/// What was seen last: whether sandboxes are alive, and in which states their containers are.
#[derive(Default)]
struct Known {
    sandboxes: BTreeMap<String, bool>,
    runs: BTreeMap<ContainerId, ContainerState>,
}

/// Looks once, then goes on in the background while there is somebody to tell.
pub(crate) async fn watch(inner: &Arc<Inner>) {
    let mut known = Known::default();
    match inner.look(None).await {
        // What is there already is no news.
        Ok(seen) => drop(known.changes(&seen)),
        Err(error) => tracing::warn!(%error, "the container runtime can't be looked at yet"),
    }
    tokio::spawn(run(Arc::downgrade(inner), known));
    tokio::spawn(listen(Arc::downgrade(inner)));
}

async fn run(inner: Weak<Inner>, mut known: Known) {
    let mut failed = false;
    for number in 0_u32.. {
        let Some(inner) = inner.upgrade() else { return };
        match inner.look(None).await {
            Ok(seen) => {
                failed = false;
                tell(&inner, &mut known, &seen);
                if number.is_multiple_of(LOGS) {
                    rotate_logs(&inner, &seen).await;
                }
            }
            // Said once: it may be away for long.
            Err(error) if !failed => {
                failed = true;
                tracing::warn!(%error, "the container runtime can't be looked at");
            }
            Err(_) => {}
        }
        let _ = tokio::time::timeout(PERIOD, inner.nudge.notified()).await;
    }
}

fn tell(inner: &Arc<Inner>, known: &mut Known, seen: &BTreeMap<String, Seen>) {
    let (changed, died) = known.changes(seen);
    for status in changed {
        let _ = inner.events.send(RuntimeEvent::Container(Box::new(status)));
    }
    for pod_uid in died {
        // One that was removed, by us or by somebody else, has nothing left; one that was stopped, nothing that runs.
        let over = |run: &ContainerStatus| run.state == ContainerState::Exited;
        let left = seen
            .get(&pod_uid)
            .filter(|pod| !pod.unclear.is_empty() || !pod.status.containers.iter().all(over))
            .cloned();
        let inner = Arc::clone(inner);
        // Whatever can't be ended there, others don't wait for it.
        tokio::spawn(async move {
            if let Some(pod) = left {
                end_all(&inner, &pod).await;
            }
            let _ = inner.events.send(RuntimeEvent::SandboxDied { pod_uid });
        });
    }
}

/// Ends the containers of a sandbox that is dead: without it they have no namespaces that others could join.
async fn end_all(inner: &Inner, pod: &Seen) {
    let uid = &pod.status.config.uid;
    tracing::warn!(pod = %uid, "the sandbox ended unexpectedly; ending its containers");
    if let Err(error) = sandbox::end(inner, &pod.id).await {
        tracing::warn!(pod = %uid, %error, "a dead sandbox can't be stopped");
    }
    for run in &pod.status.containers {
        // Who is told looks whether they are over.
        let _ = container::over(inner, &run.id).await;
    }
}

impl Known {
    /// The runs whose state is new, and the sandboxes that are not alive or not there any more.
    fn changes(&mut self, seen: &BTreeMap<String, Seen>) -> (Vec<ContainerStatus>, Vec<String>) {
        let mut now = Known {
            sandboxes: seen.iter().map(|(uid, pod)| (uid.clone(), pod.status.ready)).collect(),
            runs: seen
                .values()
                .flat_map(|pod| pod.status.containers.iter().map(|run| (run.id.clone(), run.state)))
                .collect(),
        };
        // Of whom nothing was heard, what was known stays.
        let unclear = seen.values().flat_map(|pod| &pod.unclear);
        now.runs.extend(unclear.filter_map(|id| Some((id.clone(), *self.runs.get(id)?))));
        let all = seen.values().flat_map(|pod| &pod.status.containers);
        let news = |run: &&ContainerStatus| {
            run.state != ContainerState::Created && self.runs.get(&run.id) != Some(&run.state)
        };
        let changed = all.filter(news).cloned().collect();
        let died =
            self.sandboxes.iter().filter(|(uid, ready)| **ready && now.sandboxes.get(*uid) != Some(&true));
        let died = died.map(|(uid, _)| uid.clone()).collect();
        *self = now;
        (changed, died)
    }
}

/// Has the runtime tell of its own accord, where it can.
async fn listen(inner: Weak<Inner>) {
    loop {
        let Some(mut api) = inner.upgrade().map(|inner| inner.api.runtime.clone()) else { return };
        match api.get_container_events(GetEventsRequest {}).await {
            Ok(answer) => {
                let mut events = answer.into_inner();
                while let Ok(Some(_)) = events.message().await {
                    let Some(inner) = inner.upgrade() else { return };
                    inner.nudge.notify_one();
                }
            }
            Err(status) if status.code() == Code::Unimplemented => {
                tracing::info!("the container runtime tells of no events: it is looked at once a second");
                return;
            }
            Err(_) => {}
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Gives logs that grew too large their next name, and has the runtime go on in a new file. Where it does not, it writes on under the old
/// name, so that the log grows too large again and is looked at again.
async fn rotate_logs(inner: &Inner, seen: &BTreeMap<String, Seen>) {
    let running = |pod: &Seen, id: &ContainerId| {
        pod.container(id).is_some_and(|status| status.state == ContainerState::Running)
    };
    for pod in seen.values() {
        for (id, run) in pod.runs.iter().filter(|(id, _)| running(pod, id)) {
            let path = inner.log_of(id);
            let rotated = blocking({
                let path = path.clone();
                move || Ok(rotate_if_large(&path))
            });
            if !rotated.await.unwrap_or_default() {
                continue;
            }
            let request = ReopenContainerLogRequest { container_id: run.name.clone() };
            let mut api = inner.api.runtime.clone();
            let reopened = api.reopen_container_log(request);
            if let Err(status) = within(BRIEF, "reopening of a log", reopened).await {
                tracing::warn!(%id, reason = said(&status), "a log was not opened anew");
                let _ = blocking(move || {
                    kit::take_back_log(&path);
                    Ok(())
                })
                .await;
            }
        }
    }
}

/// Rotates a log that grew too large. Returns whether it must be opened anew: also where it has no file, as somebody ended between the
/// two.
fn rotate_if_large(path: &Path) -> bool {
    match std::fs::metadata(path) {
        Ok(found) if found.len() > kit::ROTATE_BYTES => {
            kit::rotate_log(path);
            true
        }
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
        Ok(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(ready: bool, states: &[(&str, ContainerState)]) -> BTreeMap<String, Seen> {
        let config = serde_json::json!({"uid": "u", "namespace": "n", "name": "p", "hostname": "h"});
        let run = |(name, state): &(&str, ContainerState)| -> ContainerStatus {
            serde_json::from_value(serde_json::json!({
                "id": {"pod_uid": "u", "name": name, "attempt": 0}, "state": state, "image_id": "", "image": "",
                "oom_killed": false, "message": "",
            }))
            .unwrap()
        };
        let status = yunfan_runtime::SandboxStatus {
            config: serde_json::from_value(config).unwrap(),
            ready,
            shim_pid: None,
            containers: states.iter().map(run).collect(),
        };
        let seen = Seen { id: "s".to_owned(), status, runs: BTreeMap::new(), unclear: Default::default() };
        BTreeMap::from([("u".to_owned(), seen)])
    }

    #[test]
    fn changes_are_told_once() {
        use ContainerState::{Created, Exited, Running};
        let mut known = Known::default();
        let names = |(changed, died): (Vec<ContainerStatus>, Vec<String>)| {
            (changed.into_iter().map(|run| run.id.name).collect::<Vec<_>>().join(","), died.len())
        };
        let none = (String::new(), 0);
        assert_eq!(names(known.changes(&seen(true, &[("a", Created)]))), none);
        assert_eq!(
            names(known.changes(&seen(true, &[("a", Running), ("b", Exited)]))),
            ("a,b".to_owned(), 0)
        );
        assert_eq!(names(known.changes(&seen(true, &[("a", Running), ("b", Exited)]))), none);
        assert_eq!(names(known.changes(&seen(false, &[("a", Exited), ("b", Exited)]))), ("a".to_owned(), 1));
        assert_eq!(names(known.changes(&seen(false, &[("a", Exited)]))), none);
        assert_eq!(names(known.changes(&BTreeMap::new())), none);
        assert_eq!(names(known.changes(&seen(false, &[]))), none, "it was dead when it was first seen");
        let _ = known.changes(&seen(true, &[]));
        assert_eq!(names(known.changes(&BTreeMap::new())), (String::new(), 1), "somebody removed it");
    }

    #[test]
    fn of_whom_nothing_is_heard_there_is_no_news() {
        use ContainerState::{Exited, Running};
        let mut known = Known::default();
        let _ = known.changes(&seen(true, &[("a", Running), ("b", Running)]));
        let mut half = seen(true, &[("a", Running)]);
        let unclear = [ContainerId::new("u", "b", 0), ContainerId::new("u", "new", 0)];
        half.values_mut().for_each(|pod| pod.unclear.extend(unclear.clone()));
        let (changed, died) = known.changes(&half);
        assert!(changed.is_empty() && died.is_empty());
        let (changed, _) = known.changes(&seen(true, &[("a", Running), ("b", Running), ("new", Running)]));
        assert_eq!(changed.into_iter().map(|run| run.id.name).collect::<Vec<_>>(), ["new"]);
        let (changed, _) = known.changes(&seen(true, &[("a", Running), ("b", Exited)]));
        assert_eq!(changed.into_iter().map(|run| run.id.name).collect::<Vec<_>>(), ["b"]);
    }

    #[test]
    fn a_log_is_opened_anew_where_it_lost_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        assert!(rotate_if_large(&path), "whoever renamed it ended before the rest");
        std::fs::write(&path, "small").unwrap();
        assert!(!rotate_if_large(&path));
        std::fs::File::options().write(true).open(&path).unwrap().set_len(kit::ROTATE_BYTES + 1).unwrap();
        std::fs::write(dir.path().join("0.log.1"), "before").unwrap();
        assert!(rotate_if_large(&path) && !path.exists());
        kit::take_back_log(&path);
        assert_eq!(std::fs::metadata(&path).unwrap().len(), kit::ROTATE_BYTES + 1);
        assert_eq!(std::fs::read_to_string(dir.path().join("0.log.1")).unwrap(), "before");
        kit::take_back_log(&path);
        assert_eq!(std::fs::metadata(&path).unwrap().len(), kit::ROTATE_BYTES + 1, "it was made anew");
    }
}
