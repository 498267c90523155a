//! APIServices for the group versions that are served here: made at start for Kubernetes' own, and kept for those of
//! definitions as these come and go. The label says which is which; an object without it is somebody else's business.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::future::join_all;
use serde_json::{Value, json};
use yunfan_identity::UserInfo;
use yunfan_objects::{ApiError, FieldValidation};

use super::checks::{Finding, LOCAL};
use super::services::condition;
use super::{GROUP, PLURAL, availability, prefix, priorities};
use crate::cache::Cursor;
use crate::door;
use crate::keys;
use crate::kinds::{CRD_GROUP, CRD_PLURAL, Kind};
use crate::registry::{DeleteOptions, Part, Registry, Writer};
use crate::warnings::Warnings;

const LABEL: &str = "kube-aggregator.kubernetes.io/automanaged";
/// Values of the label: put right once, at start, or whenever it differs.
const ON_START: &str = "onstart";
const ALWAYS: &str = "true";
/// A look at all even if nothing changed.
const IDLE: Duration = Duration::from_secs(300);
/// Wait after a write that failed; after the next one twice as long, and so on.
const AGAIN: Duration = Duration::from_secs(1);

/// What has been done so far.
#[derive(Default)]
pub(super) struct Keeper {
    /// Names of the objects that were there at the first look.
    at_start: HashSet<String>,
    looked: bool,
    /// Names of those that are put right once, and were.
    done: HashSet<String>,
}

/// What is to be done about one object.
#[derive(Debug, PartialEq)]
enum Step {
    Create,
    Update,
    Delete,
}

/// What an object should be, by its name.
type Wanted = BTreeMap<String, (&'static str, Value)>;

impl Keeper {
    /// Makes what is missing, puts right what is wrong, removes what nobody serves any more. One that is refused is said, and keeps
    /// none of the others from it.
    ///
    /// # Errors
    /// Some were refused: it is to be done again.
    pub(super) async fn pass(&mut self, registry: &Registry) -> Result<(), ApiError> {
        let kind = registry.kinds.table().get(GROUP, "v1", PLURAL);
        let kind = kind.ok_or_else(|| ApiError::internal("the kind apiservices is not served"))?;
        let prefix = prefix();
        let listing = registry.cache.kind(&prefix).list(&prefix);
        let present: HashMap<String, Arc<Value>> = listing
            .entries
            .iter()
            .map(|entry| (keys::split_name(&prefix, &entry.key).1.to_owned(), entry.value().clone()))
            .collect();
        if !std::mem::replace(&mut self.looked, true) {
            self.at_start = present.keys().cloned().collect();
        }
        let (wanted, local) = (wanted(registry), Finding::local());
        let names: HashSet<&String> = wanted.keys().chain(present.keys()).collect();
        let steps = names.into_iter().filter_map(|name| {
            let step = self.step(name, wanted.get(name), present.get(name).map(|object| &**object))?;
            let applied = apply(registry, &kind, name, step, wanted.get(name), present.get(name));
            Some(async move { (name, applied.await) })
        });
        let mut refused = refusals(join_all(steps).await);
        // One that had a Service before says still how that was.
        let wrong =
            present.iter().filter(|(_, object)| object["spec"]["service"].is_null() && !says_local(object));
        let local = &local;
        let told = wrong.map(|(name, _)| async move {
            (name, unless_overtaken(availability::write(registry, name, local).await))
        });
        refused.append(&mut refusals(join_all(told).await));
        let once =
            wanted.iter().filter(|(name, (mode, _))| *mode == ON_START && !refused.contains_key(*name));
        self.done.extend(once.map(|(name, _)| name.clone()));
        refused.into_values().next().map_or(Ok(()), Err)
    }

    fn step(&self, name: &str, wanted: Option<&(&str, Value)>, present: Option<&Value>) -> Option<Step> {
        let Some(present) = present else {
            let (mode, _) = wanted?;
            return (*mode == ALWAYS || !self.done.contains(name)).then_some(Step::Create);
        };
        match present["metadata"]["labels"][LABEL].as_str() {
            Some(ON_START) if !self.at_start.contains(name) || self.done.contains(name) => return None,
            Some(ON_START | ALWAYS) => {}
            _ => return None,
        }
        match wanted {
            None => Some(Step::Delete),
            Some((_, spec)) if present["spec"] != *spec => Some(Step::Update),
            Some(_) => None,
        }
    }
}

/// Those of the writes that were refused, by the object's name. Each is said.
fn refusals(done: Vec<(&String, Result<(), ApiError>)>) -> BTreeMap<String, ApiError> {
    let refused = done.into_iter().filter_map(|(name, done)| Some((name.clone(), done.err()?)));
    refused.inspect(|(name, error)| tracing::warn!(%error, name, "cannot put an APIService right")).collect()
}

/// Whether an APIService says that it is answered for here.
fn says_local(object: &Value) -> bool {
    condition(object).is_some_and(|one| one["status"] == "True" && one["reason"] == LOCAL)
}

/// What there should be, as the kinds are now.
fn wanted(registry: &Registry) -> Wanted {
    let table = registry.kinds.table();
    let defined: HashSet<(&str, &str)> = table
        .resources()
        .iter()
        .filter(|resource| resource.definition.is_some())
        .flat_map(|resource| &resource.versions)
        .map(|version| (version.group.as_str(), version.version.as_str()))
        .collect();
    let mut all = Wanted::new();
    for (group, versions) in door::all_groups(&table) {
        for version in versions {
            let (mode, priority) = match priorities::own(&group, &version) {
                Some(own) => (ON_START, own),
                None if defined.contains(&(group.as_str(), version.as_str())) => {
                    (ALWAYS, priorities::DEFINED)
                }
                None => continue,
            };
            let mut spec = json!({
                "version": version, "groupPriorityMinimum": priority.group, "versionPriority": priority.version,
            });
            if !group.is_empty() {
                spec["group"] = json!(group);
            }
            all.insert(format!("{version}.{group}"), (mode, spec));
        }
    }
    all
}

async fn apply(
    registry: &Registry,
    kind: &Kind,
    name: &str,
    step: Step,
    wanted: Option<&(&str, Value)>,
    present: Option<&Arc<Value>>,
) -> Result<(), ApiError> {
    let user = UserInfo::authenticated("system:apiserver", [yunfan_identity::user::MASTERS_GROUP]);
    let warnings = Warnings::default();
    let writer = Writer::system(&user, &warnings);
    let done = match (step, wanted) {
        (Step::Create, Some((mode, spec))) => {
            let mut object = json!({
                "apiVersion": format!("{GROUP}/v1"), "kind": "APIService",
                "metadata": {"name": name, "labels": {LABEL: mode}}, "spec": spec,
            });
            kind.descriptor.decode(&mut object, FieldValidation::Ignore, &[])?;
            registry.create(&writer, kind, "", object).await.map(drop)
        }
        (Step::Update, Some((_, spec))) => {
            let put = |old: &Value| {
                let mut new = old.clone();
                new["spec"] = spec.clone();
                Ok(new)
            };
            registry.modify(&writer, kind, "", name, Part::Main, put).await.map(drop)
        }
        _ => {
            let uid = present.and_then(|object| object["metadata"]["uid"].as_str()).map(str::to_owned);
            let options = DeleteOptions { uid, ..DeleteOptions::default() };
            registry.delete(&writer, kind, "", name, &options).await.map(drop)
        }
    };
    unless_overtaken(done)
}

/// Where somebody was faster, it is looked at again, as it has changed.
fn unless_overtaken(done: Result<(), ApiError>) -> Result<(), ApiError> {
    done.or_else(|error| if matches!(error.code(), 404 | 409) { Ok(()) } else { Err(error) })
}

/// Works until the registry is gone.
pub(super) async fn keep(mut keeper: Keeper, registry: Weak<Registry>) {
    let enter = |prefix: &str| registry.upgrade().map(|registry| registry.cache.kind(prefix).cursor_now());
    let (definitions, objects) = (keys::kind_prefix(CRD_GROUP, CRD_PLURAL), prefix());
    let (Some(mut kinds), Some(mut services)) = (enter(&definitions), enter(&objects)) else { return };
    let mut again = AGAIN;
    loop {
        for (cursor, prefix) in [(&mut kinds, &definitions), (&mut services, &objects)] {
            if !caught_up(cursor) {
                let Some(anew) = enter(prefix) else { return };
                *cursor = anew;
            }
        }
        let pause = {
            let Some(registry) = registry.upgrade() else { return };
            match keeper.pass(&registry).await {
                Ok(()) => {
                    again = AGAIN;
                    IDLE
                }
                // One may be refused for good.
                Err(_) => {
                    let pause = again;
                    again = (again * 2).min(IDLE);
                    pause
                }
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = kinds.changed() => {}
            () = services.changed() => {}
        }
    }
}

/// How long to wait for a change before the next look.
pub(super) fn pause(outcome: Result<(), ApiError>, aim: &str) -> Duration {
    match outcome {
        Ok(()) => IDLE,
        Err(error) => {
            tracing::warn!(%error, "cannot {aim}");
            AGAIN
        }
    }
}

/// Takes all changes that are there, of which none matters by itself. False where the place is lost.
pub(super) fn caught_up(cursor: &mut Cursor) -> bool {
    caught_up_with(cursor, |_| true).is_some()
}

/// Takes all changes that are there. Whether there was one of an object whose key matters; none where the place is lost.
pub(super) fn caught_up_with(cursor: &mut Cursor, matters: impl Fn(&str) -> bool) -> Option<bool> {
    let mut news = false;
    loop {
        match cursor.take() {
            Ok(batch) if batch.is_empty() => return Some(news),
            Ok(batch) => news |= batch.iter().any(|change| matters(&change.entry.key)),
            Err(_) => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_done_goes_by_the_label() {
        let mut keeper = Keeper { looked: true, ..Keeper::default() };
        keeper.at_start.insert("old".to_owned());
        let (spec, other) = (json!({"version": "v1"}), json!({"version": "v2"}));
        let (once, always) = ((ON_START, spec.clone()), (ALWAYS, spec.clone()));
        let object = |mode: &str, spec: &Value| json!({"metadata": {"labels": {LABEL: mode}}, "spec": spec});
        let step = |keeper: &Keeper, name, wanted, present: Option<Value>| {
            keeper.step(name, wanted, present.as_ref())
        };
        for (name, wanted, present, done) in [
            ("old", None, None, None),
            ("old", Some(&once), None, Some(Step::Create)),
            ("old", Some(&always), None, Some(Step::Create)),
            ("old", Some(&once), Some(object("", &other)), None),
            ("old", None, Some(object("", &other)), None),
            ("new", Some(&once), Some(object(ON_START, &other)), None),
            ("old", Some(&once), Some(object(ON_START, &other)), Some(Step::Update)),
            ("old", None, Some(object(ON_START, &other)), Some(Step::Delete)),
            ("new", None, Some(object(ALWAYS, &other)), Some(Step::Delete)),
            ("new", Some(&always), Some(object(ALWAYS, &other)), Some(Step::Update)),
            ("new", Some(&always), Some(object(ALWAYS, &spec)), None),
        ] {
            assert_eq!(step(&keeper, name, wanted, present.clone()), done, "{name} {wanted:?} {present:?}");
        }
        keeper.done.insert("old".to_owned());
        assert_eq!(step(&keeper, "old", Some(&once), None), None, "it was made once");
        assert_eq!(step(&keeper, "old", Some(&once), Some(object(ON_START, &other))), None);
        assert_eq!(step(&keeper, "old", Some(&always), None), Some(Step::Create));
    }
}
