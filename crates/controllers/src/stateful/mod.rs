//! StatefulSet → Pods and their claims: numbered Pods, each of which keeps its name and its claims when it is made anew.

mod claims;
mod plan;
mod pod;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::ResourceExt;
use serde_json::json;
use yunfan_client::{Informer, ObjectKey, Queue, Severity, is_exists, is_not_found, run_loop};

use self::plan::{Step, View};
use self::pod::{claims_of, identity, ordinal_of, pod_of, revision_of};
use crate::Context;
use crate::ahead::Ahead;
use crate::children::{Children, owners_of};
use crate::claim::claim;
use crate::history::{self, History, template_of};
use crate::pod_writer::{only, reason};
use crate::pods::{controller_of, matches, sooner};
use crate::status::{now, status_patch};

/// When it is looked again whether a claim that stands in the way is gone.
const CLAIM_AGAIN: Duration = Duration::from_secs(1);

/// Runs the loop.
pub async fn run(context: Context) {
    let sets = context.informers.of::<StatefulSet>();
    let pods = context.informers.of::<Pod>();
    let claims = context.informers.of::<PersistentVolumeClaim>();
    let revisions = context.informers.of::<ControllerRevision>();
    tokio::join!(sets.synced(), pods.synced(), claims.synced(), revisions.synced());
    let queue = Queue::new();
    queue.feed(&sets, |set| [ObjectKey::of(set)]);
    let all = sets.clone();
    queue.feed(&pods, move |pod| sets_of(&all, pod));
    let all = sets.clone();
    queue.feed(&claims, move |claim| sets_of_claim(&all, claim));
    let work = Arc::new(Loop {
        written_sets: Ahead::new(sets.clone()),
        written_pods: Ahead::new(pods.clone()),
        written_claims: Ahead::new(claims.clone()),
        of_pods: Children::new(&pods),
        of_revisions: Children::new(&revisions),
        context,
        sets,
        pods,
        claims,
    });
    run_loop("statefulset", queue, 4, move |key| {
        let work = work.clone();
        async move { work.reconcile(&key).await }
    })
    .await;
}

/// The sets that one of whose claims this is, by its name.
fn sets_of_claim(sets: &Informer<StatefulSet>, claim: &PersistentVolumeClaim) -> Vec<ObjectKey> {
    let name = claim.metadata.name.as_deref().unwrap_or_default();
    let is_one_of = |set: &StatefulSet| {
        let mut templates = set.spec.volume_claim_templates.iter().flatten();
        templates.any(|template| {
            let rest = template.metadata.name.as_deref().and_then(|template| name.strip_prefix(template));
            let rest = rest.and_then(|rest| rest.strip_prefix('-'));
            rest.is_some_and(|rest| rest.starts_with(set.metadata.name.as_deref().unwrap_or_default()))
        })
    };
    let all = sets.in_namespace(claim.metadata.namespace.as_deref().unwrap_or_default());
    all.iter().filter(|set| is_one_of(set)).map(|set| ObjectKey::of(set.as_ref())).collect()
}

fn sets_of(sets: &Informer<StatefulSet>, pod: &Pod) -> Vec<ObjectKey> {
    let labels = pod.metadata.labels.as_ref();
    let mut keys = owners_of(sets, &pod.metadata, |set| matches(&set.spec.selector, labels));
    // Whoever's it is, it may stand where a set wants a Pod of its own.
    let named = pod.metadata.name.as_deref().and_then(|name| Some(name.rsplit_once('-')?.0));
    let named = named.filter(|name| ordinal_of(name, pod).is_some()).and_then(|name| {
        sets.get(pod.metadata.namespace.as_deref(), name).map(|set| ObjectKey::of(set.as_ref()))
    });
    keys.extend(named.filter(|key| !keys.contains(key)));
    keys
}

struct Loop {
    context: Context,
    sets: Informer<StatefulSet>,
    pods: Informer<Pod>,
    claims: Informer<PersistentVolumeClaim>,
    of_pods: Children<Pod>,
    of_revisions: Children<ControllerRevision>,
    written_sets: Ahead<StatefulSet>,
    written_pods: Ahead<Pod>,
    written_claims: Ahead<PersistentVolumeClaim>,
}

impl Loop {
    async fn reconcile(&self, key: &ObjectKey) -> kube::Result<Option<Duration>> {
        let Some(set) = self.sets.get_key(key) else {
            self.written_sets.forget(key);
            self.written_pods.forget(key);
            self.written_claims.forget(key);
            return Ok(None);
        };
        let behind = sooner(self.written_sets.behind(key), self.written_pods.behind(key));
        if let Some(wait) = sooner(behind, self.written_claims.behind(key)) {
            return Ok(Some(wait));
        }
        let selector = &set.spec.selector;
        let writer = &self.context.writer;
        let mut pods = self.of_pods.around(&set.metadata);
        pods.retain(|pod| ordinal_of(&key.name, pod).is_some());
        let pods = claim(writer, set.as_ref(), selector, None, pods).await?;
        let collisions = set.status.as_ref().and_then(|status| status.collision_count).unwrap_or(0);
        let known = self.of_revisions.around(&set.metadata);
        let template = &set.spec.template;
        let history = history::settle(writer, set.as_ref(), selector, template, collisions, known).await?;
        let update = history.update.name_any();
        let before = set.status.as_ref().and_then(|status| status.current_revision.clone());
        let current = history.all.iter().find(|revision| Some(revision.name_any()) == before);
        let current = current.unwrap_or(&history.update).clone();
        let view =
            View { set: &set, current: &current.name_any(), update: &update, pods: &pods, now: now().0 };
        let plan = view.plan();
        let done = self.carry_out(key, &view, &current, &plan.steps).await;
        let status = view.status(history.collisions);
        let before = set.status.clone().unwrap_or_default();
        if let Some(patch) = status_patch(&set.metadata, &before, &status) {
            match writer.merge_status::<StatefulSet>(key.namespace(), &key.name, &patch).await {
                Ok(written) => self.written_sets.wrote(key, &written),
                Err(error) if is_not_found(&error) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        self.trim_history(&set, &pods, &history, &current).await?;
        Ok(sooner(plan.again, done?))
    }

    async fn trim_history(
        &self,
        set: &StatefulSet,
        pods: &[Arc<Pod>],
        history: &History,
        current: &ControllerRevision,
    ) -> kube::Result<()> {
        let mut live: HashSet<String> = pods.iter().map(|pod| revision_of(pod).to_owned()).collect();
        live.extend([current.name_any(), history.update.name_any()]);
        history::trim(&self.context.writer, history, &live, set.spec.revision_history_limit).await
    }

    /// Does what is to be done; tells when to look again.
    async fn carry_out(
        &self,
        key: &ObjectKey,
        view: &View<'_>,
        current: &ControllerRevision,
        steps: &[Step],
    ) -> kube::Result<Option<Duration>> {
        let mut again = None;
        for step in steps {
            match step {
                Step::Create { ordinal, updated } => {
                    let old = template_of(current).filter(|_| !updated);
                    let revision = if old.is_some() { view.current } else { view.update };
                    let template = old.as_ref().unwrap_or(&view.set.spec.template);
                    let pod = pod_of(view.set, template, revision, *ordinal);
                    again = sooner(again, self.create(key, view, &pod, *ordinal).await?);
                }
                Step::Delete(pod) => self.delete(key, view.set, pod).await?,
                Step::Claims(pod) => {
                    again = sooner(again, self.make_claims(key, view.set, pod).await?);
                }
                Step::Identify(pod) => self.identify(key, view.set, pod).await?,
                Step::Retain(pod) => self.retain(key, view, pod).await?,
            }
        }
        Ok(again)
    }

    async fn create(
        &self,
        key: &ObjectKey,
        view: &View<'_>,
        pod: &Pod,
        ordinal: i32,
    ) -> kube::Result<Option<Duration>> {
        let stale = claims_of(view.set, ordinal).iter().any(|claim| {
            let there = self.claims.get(key.namespace(), &claim.name_any());
            there.is_some_and(|there| claims::is_stale(view.set, &there.metadata, &pod.name_any()))
        });
        if stale {
            return Ok(Some(CLAIM_AGAIN));
        }
        if let Some(wait) = self.make_claims(key, view.set, pod).await? {
            return Ok(Some(wait));
        }
        let made = self.context.writer.create(pod).await;
        if made.as_ref().is_err_and(is_exists) && !self.is_taken(key, view.set, &pod.name_any()) {
            // The last of this name is on its way out, or the informer lags.
            return Ok(Some(CLAIM_AGAIN));
        }
        self.tell(view.set, "Create", &pod.name_any(), made.as_ref().err());
        let made = made?;
        self.written_pods.wrote(key, &made);
        self.retain(key, view, &made).await?;
        Ok(None)
    }

    /// Whether a Pod's name is another's, who shows no sign of leaving it.
    fn is_taken(&self, key: &ObjectKey, set: &StatefulSet, name: &str) -> bool {
        self.pods.get(key.namespace(), name).is_some_and(|there| {
            let owner = controller_of(&there.metadata).map(|owner| &owner.uid);
            there.metadata.deletion_timestamp.is_none() && owner != set.metadata.uid.as_ref()
        })
    }

    /// Makes the claims of a Pod that are missing; tells when to look again where one stands in the way.
    async fn make_claims(
        &self,
        key: &ObjectKey,
        set: &StatefulSet,
        pod: &Pod,
    ) -> kube::Result<Option<Duration>> {
        let Some(ordinal) = ordinal_of(&key.name, pod) else { return Ok(None) };
        for claim in claims_of(set, ordinal) {
            let name = claim.name_any();
            match self.claims.get(key.namespace(), &name) {
                Some(there) if there.metadata.deletion_timestamp.is_some() => return Ok(Some(CLAIM_AGAIN)),
                Some(_) => continue,
                None => {}
            }
            let made = self.context.writer.create(&claim).await;
            if made.as_ref().is_err_and(is_exists) {
                continue;
            }
            let about = format!("Pod {} in StatefulSet {}", pod.name_any(), key.name);
            let (severity, event, message) = match &made {
                Ok(_) => {
                    (Severity::Normal, "SuccessfulCreate", format!("Create Claim {name} {about} success"))
                }
                Err(error) => {
                    let why = reason(error);
                    let message = format!("Create Claim {name} for {about} failed error: {why}");
                    (Severity::Warning, "FailedCreate", message)
                }
            };
            self.context.recorder.event(set, severity, event, message);
            self.written_claims.wrote(key, &made?);
        }
        Ok(None)
    }

    async fn delete(&self, key: &ObjectKey, set: &StatefulSet, pod: &Pod) -> kube::Result<()> {
        let name = pod.name_any();
        let deleted = self.context.writer.delete_told::<Pod>(key.namespace(), &name, &only(pod.uid())).await;
        self.tell(set, "Delete", &name, deleted.as_ref().err());
        self.written_pods.wrote_at(key, deleted?);
        Ok(())
    }

    async fn identify(&self, key: &ObjectKey, set: &StatefulSet, pod: &Pod) -> kube::Result<()> {
        let name = pod.name_any();
        let Some(ordinal) = ordinal_of(&key.name, pod) else { return Ok(()) };
        let labels: std::collections::BTreeMap<_, _> = identity(&name, ordinal).into();
        let patch = json!({"metadata": {"uid": pod.uid(), "labels": labels}});
        let patched = self.context.writer.merge::<Pod>(key.namespace(), &name, &patch).await;
        self.tell(set, "Update", &name, patched.as_ref().err());
        self.written_pods.wrote(key, &patched?);
        Ok(())
    }

    async fn retain(&self, key: &ObjectKey, view: &View<'_>, pod: &Pod) -> kube::Result<()> {
        let Some(ordinal) = ordinal_of(&key.name, pod) else { return Ok(()) };
        for claim in claims_of(view.set, ordinal) {
            let name = claim.name_any();
            let Some(there) = self.claims.get(key.namespace(), &name) else { continue };
            let owners = claims::owners(view.set, pod, view.has_place(pod), &there.metadata);
            let Some(owners) = owners else { continue };
            let meta = &there.metadata;
            let patch = json!({"metadata": {
                "uid": meta.uid, "resourceVersion": meta.resource_version, "ownerReferences": owners}});
            let writer = &self.context.writer;
            let patched = writer.merge::<PersistentVolumeClaim>(key.namespace(), &name, &patch).await?;
            self.written_claims.wrote(key, &patched);
        }
        Ok(())
    }

    fn tell(&self, set: &StatefulSet, verb: &str, pod: &str, problem: Option<&kube::Error>) {
        let about = format!("{verb} Pod {pod} in StatefulSet {}", set.name_any());
        let reasons = match verb {
            "Create" => ("SuccessfulCreate", "FailedCreate"),
            "Delete" => ("SuccessfulDelete", "FailedDelete"),
            _ => ("SuccessfulUpdate", "FailedUpdate"),
        };
        let recorder = &self.context.recorder;
        match problem {
            None => recorder.event(set, Severity::Normal, reasons.0, format!("{about} successful")),
            Some(error) => {
                let message = format!("{about} failed error: {}", reason(error));
                recorder.event(set, Severity::Warning, reasons.1, message);
            }
        }
    }
}
