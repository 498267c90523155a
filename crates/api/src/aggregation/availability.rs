//! Keeps the condition Available of APIServices: looked at again when the Service or its endpoints have changed, and from
//! time to time, as what is behind them may go away without a word.

use std::collections::{HashMap, HashSet};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use futures::FutureExt;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use yunfan_identity::UserInfo;
use yunfan_objects::ApiError;

use super::checks::{self, Finding};
use super::local::caught_up_with;
use super::{Aggregation, GROUP, PLURAL, Remote, prefix};
use crate::cache::Cache;
use crate::endpoints;
use crate::keys;
use crate::registry::{Part, Registry, Writer};
use crate::warnings::Warnings;

/// A server that is available is looked at again after this time; so is, at the latest, one that is not.
const AGAIN: Duration = Duration::from_secs(30);
/// One that is not is looked at again so soon, then after twice the time, and so on.
const SOON: Duration = Duration::from_millis(500);
/// How many are looked at at one time.
const AT_ONCE: usize = 32;

/// One server, as it was looked at last.
struct Watched {
    /// That of its Service.
    namespace: String,
    /// What it was then: its Service and its endpoints, by their revisions.
    stamp: Vec<u64>,
    under_way: bool,
    next: Instant,
    patience: Duration,
}

/// Works until the registry is gone.
pub(super) async fn keep(aggregation: Weak<Aggregation>, registry: Weak<Registry>) {
    let prefixes =
        [prefix(), keys::kind_prefix("", "services"), keys::kind_prefix(endpoints::GROUP, endpoints::PLURAL)];
    let enter = |prefix: &String| registry.upgrade().map(|registry| registry.cache.kind(prefix).cursor_now());
    let [Some(one), Some(two), Some(three)] = prefixes.each_ref().map(enter) else { return };
    let mut cursors = [one, two, three];
    let mut watched: HashMap<String, Watched> = HashMap::new();
    let mut wake = Instant::now();
    let mut checks: JoinSet<(Arc<Remote>, Finding)> = JoinSet::new();
    loop {
        let mut news = false;
        for (cursor, prefix) in cursors.iter_mut().zip(&prefixes) {
            news |= match caught_up_with(cursor, |key| concerns(&watched, prefix, key)) {
                Some(news) => news,
                None => {
                    let Some(anew) = enter(prefix) else { return };
                    *cursor = anew;
                    true
                }
            };
        }
        if news || Instant::now() >= wake {
            let (Some(aggregation), Some(registry)) = (aggregation.upgrade(), registry.upgrade()) else {
                return;
            };
            wake = begin(&aggregation, &registry, &mut watched, &mut checks);
        }
        let [one, two, three] = &mut cursors;
        let done = tokio::select! {
            Some(done) = checks.join_next() => done.ok(),
            () = tokio::time::sleep_until(wake.into()) => None,
            () = one.changed() => None,
            () = two.changed() => None,
            () = three.changed() => None,
        };
        if let Some((remote, finding)) = done {
            wake = Instant::now();
            let (Some(aggregation), Some(registry)) = (aggregation.upgrade(), registry.upgrade()) else {
                return;
            };
            conclude(&aggregation, &registry, &mut watched, &remote, &finding).await;
        }
    }
}

/// Begins the checks whose time has come; when the next one's comes.
fn begin(
    aggregation: &Arc<Aggregation>,
    registry: &Arc<Registry>,
    watched: &mut HashMap<String, Watched>,
    checks: &mut JoinSet<(Arc<Remote>, Finding)>,
) -> Instant {
    let services = aggregation.services();
    aggregation.forget_all_but(&services);
    let names: HashSet<&String> = services.remotes.values().map(|remote| &remote.name).collect();
    watched.retain(|name, _| names.contains(name));
    let now = Instant::now();
    let mut wake = now + AGAIN;
    for remote in services.remotes.values() {
        let stamp = stamp(&registry.cache, remote);
        let namespace = remote.server.address.namespace.clone();
        let known = watched.entry(remote.name.clone()).or_insert_with(|| Watched {
            namespace: String::new(),
            stamp: Vec::new(),
            under_way: false,
            next: now,
            patience: SOON,
        });
        known.namespace = namespace;
        if known.stamp != stamp {
            known.next = now;
            known.patience = SOON;
        }
        if known.under_way {
            continue;
        }
        if known.next > now || checks.len() >= AT_ONCE {
            wake = wake.min(known.next.max(now + SOON));
            continue;
        }
        known.under_way = true;
        known.stamp = stamp;
        let (aggregation, cache, remote) = (aggregation.clone(), registry.cache.clone(), remote.clone());
        checks.spawn(async move {
            let finding = sound(async {
                let finding = checks::check(&aggregation, &cache, &remote).await;
                if finding.available {
                    // Before it is said, so that who waits for that finds it.
                    aggregation.learn(&remote).await;
                }
                finding
            });
            let finding = finding.await;
            if !finding.available {
                aggregation.lose(&remote.name);
            }
            (remote, finding)
        });
    }
    wake
}

/// What a check found; one that panics finds that: it is known whose it was, and that is looked at again.
async fn sound(check: impl Future<Output = Finding>) -> Finding {
    let panicked = |_| Finding {
        available: false,
        reason: "FailedDiscoveryCheck",
        message: "the check failed inside of the API server: see its log".to_owned(),
    };
    AssertUnwindSafe(check).catch_unwind().await.unwrap_or_else(panicked)
}

/// Whether a change of this object, of the kind with this prefix, may have to do with one of the servers: an APIService always, and of
/// the others what is in the namespace of a Service that one is behind.
fn concerns(watched: &HashMap<String, Watched>, kind: &str, key: &str) -> bool {
    let (namespace, _) = keys::split_name(kind, key);
    namespace.is_empty() || watched.values().any(|known| known.namespace == namespace)
}

/// What a check depends on, but for the server itself.
fn stamp(cache: &Cache, remote: &Remote) -> Vec<u64> {
    let address = &remote.server.address;
    let prefix = keys::kind_prefix("", "services");
    let service = cache.kind(&prefix).get(&keys::object_key(&prefix, &address.namespace, &address.name));
    // Another address is another server, for which the connections are others, too.
    let mut stamp = vec![Arc::as_ptr(&remote.server) as u64, service.map_or(0, |entry| entry.revision)];
    let slices = endpoints::slices(cache, &address.namespace, &address.name);
    stamp.extend(slices.iter().map(|slice| slice.revision));
    stamp
}

/// Writes down what a check found.
async fn conclude(
    aggregation: &Aggregation,
    registry: &Registry,
    watched: &mut HashMap<String, Watched>,
    remote: &Remote,
    finding: &Finding,
) {
    if let Some(known) = watched.get_mut(&remote.name) {
        known.under_way = false;
        let pause = if finding.available { AGAIN } else { known.patience };
        known.patience = if finding.available { SOON } else { (known.patience * 2).min(AGAIN) };
        known.next = Instant::now() + pause;
    }
    if remote.available && !finding.available {
        aggregation.metrics.went_away(&remote.name, finding.reason);
    }
    match write(registry, &remote.name, finding).await {
        Err(error) if error.code() != 404 => {
            tracing::warn!(%error, name = remote.name, "cannot say whether an APIService is available");
        }
        _ => {}
    }
}

/// Writes the condition of an APIService.
pub(super) async fn write(registry: &Registry, name: &str, finding: &Finding) -> Result<(), ApiError> {
    let kind = registry.kinds.table().get(GROUP, "v1", PLURAL);
    let kind = kind.ok_or_else(|| ApiError::internal("the kind apiservices is not served"))?;
    let user = UserInfo::authenticated("system:apiserver", [yunfan_identity::user::MASTERS_GROUP]);
    let warnings = Warnings::default();
    let writer = Writer::system(&user, &warnings);
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let put = |old: &Value| Ok(with_condition(old, finding, &now));
    registry.modify(&writer, &kind, "", name, Part::Status, put).await.map(drop)
}

/// The object with its condition in place of the old one, whose time stays where its status does.
fn with_condition(object: &Value, finding: &Finding, now: &str) -> Value {
    let mut object = object.clone();
    if object["spec"]["service"].is_null() != (finding.reason == checks::LOCAL) {
        // It has become a local one meanwhile, or is one no more.
        return object;
    }
    let status = if finding.available { "True" } else { "False" };
    let mut all = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let known = all.iter_mut().find(|one| one["type"] == "Available");
    let since =
        known.as_ref().filter(|one| one["status"] == status).map(|one| one["lastTransitionTime"].clone());
    let new = json!({
        "type": "Available", "status": status, "reason": finding.reason, "message": finding.message,
        "lastTransitionTime": since.unwrap_or_else(|| json!(now)),
    });
    match known {
        Some(known) => *known = new,
        None => all.push(new),
    }
    object["status"]["conditions"] = json!(all);
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_check_that_panics_found_something() {
        let found = sound(async { panic!("no") }).await;
        assert_eq!((found.available, found.reason), (false, "FailedDiscoveryCheck"));
        assert_eq!(sound(async { Finding::local() }).await, Finding::local());
    }

    #[test]
    fn what_happens_in_other_namespaces_is_no_reason_to_look() {
        let known = |namespace: &str| Watched {
            namespace: namespace.to_owned(),
            stamp: Vec::new(),
            under_way: false,
            next: Instant::now(),
            patience: SOON,
        };
        let watched = HashMap::from([("v1.a".to_owned(), known("one"))]);
        let slices = keys::kind_prefix(endpoints::GROUP, endpoints::PLURAL);
        let of = |namespace: &str| concerns(&watched, &slices, &keys::object_key(&slices, namespace, "x"));
        assert_eq!((of("one"), of("two"), of("on")), (true, false, false));
        assert!(concerns(&watched, &prefix(), &keys::object_key(&prefix(), "", "v1.b")));
    }

    #[test]
    fn a_condition_keeps_its_time_while_its_status_stays() {
        let found = |available, reason| Finding { available, reason, message: String::new() };
        let before = json!({"spec": {"service": {}}, "status": {"conditions": [{"type": "Other"}]}});
        let one = with_condition(&before, &found(false, "ServiceNotFound"), "1");
        let two = with_condition(&one, &found(false, "MissingEndpoints"), "2");
        let conditions = &two["status"]["conditions"];
        assert_eq!((&conditions[0]["type"], &conditions[1]["type"]), (&json!("Other"), &json!("Available")));
        assert_eq!(
            (&conditions[1]["reason"], &conditions[1]["lastTransitionTime"]),
            (&json!("MissingEndpoints"), &json!("1"))
        );
        let three = with_condition(&two, &found(true, "Passed"), "3");
        assert_eq!(three["status"]["conditions"][1]["lastTransitionTime"], "3");
        let local = json!({"spec": {}});
        assert_eq!(with_condition(&local, &found(true, "Passed"), "4"), local);
        assert_eq!(
            with_condition(&local, &Finding::local(), "4")["status"]["conditions"][0]["reason"],
            "Local"
        );
        assert_eq!(with_condition(&before, &Finding::local(), "4"), before);
    }
}
