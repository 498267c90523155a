//! The registry: every verb on every kind, over the store. One code path for all kinds; what is special
//! about a kind is in its descriptor's strategy and in the admission chain.
//!
//! Each write is one transaction compared on the object's revision. When somebody else was faster the
//! write waits until the cache has caught up, and is made again on what is there then.

mod asked;
mod create;
mod delete;
mod evict;
mod grace;
mod history;
mod list;
mod managed;
mod select;
mod subresource;
mod token;
pub(crate) mod unreadable;
mod update;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use jiff::Timestamp;
use serde_json::Value;
use yunfan_identity::UserInfo;
use yunfan_identity::rbac::RbacAuthorizer;
use yunfan_objects::patch::apply;
use yunfan_objects::{ApiError, codec, golang};
use yunfan_store::{Compare, Op, Revision, Store, Txn};

use asked::Asking;
pub(crate) use asked::{AFTER, single_owners};
pub(crate) use delete::DeleteOptions;
pub(crate) use history::History;
pub(crate) use list::{Entries, ListOptions, Page, RevisionMatch};
pub(crate) use select::Selection;
pub(crate) use update::{Part, same_uid};

use crate::admission::dynamic::Dynamic;
use crate::admission::{self, Attempt, Refusal, Validate, View, WritePlan};
use crate::aside::Aside;
use crate::cache::{Cache, Entry};
use crate::chain::Judge;
use crate::config::ApiConfig;
use crate::errors::store_error;
use crate::keys;
use crate::kinds::{Kind, Kinds};
use crate::metrics::{Asked, Steps, StoreTimes};
use crate::warnings::Warnings;
use crate::webhook::Webhooks;

/// How often a write is made again because somebody else was faster.
const MAX_ATTEMPTS: u32 = 200;
/// From this attempt on there is a pause before each.
const PATIENCE: u32 = 20;
/// The pause.
const PAUSE: Duration = Duration::from_millis(2);
/// How long a write waits for an object that it needs and another is about to make. About as long as kube-apiserver
/// waits for a namespace's default ServiceAccount.
const AWAITED: Duration = Duration::from_millis(1350);

/// The registry.
pub(crate) struct Registry {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) cache: Arc<Cache>,
    pub(crate) kinds: Kinds,
    pub(crate) config: ApiConfig,
    pub(crate) judge: Judge,
    pub(crate) rbac: Arc<RbacAuthorizer>,
    /// The way to the hooks of definitions.
    pub(crate) webhooks: Arc<Webhooks>,
    /// Who else is asked about a write.
    pub(crate) dynamic: Dynamic,
    /// Where rules are run that take long.
    pub(crate) aside: Arc<Aside>,
    /// How long the store took.
    pub(crate) times: StoreTimes,
    /// How long admission took.
    pub(crate) steps: Steps,
}

/// Who writes, and how.
pub(crate) struct Writer<'a> {
    pub(crate) user: &'a UserInfo,
    /// The cloud's own start.
    pub(crate) system: bool,
    /// Do everything but store.
    pub(crate) dry_run: bool,
    /// Name in managedFields; empty where nobody is to own what is written.
    pub(crate) manager: &'a str,
    /// A server-side apply, which has put managedFields in place itself.
    pub(crate) applies: bool,
    /// What the client is told beside the answer.
    pub(crate) warnings: &'a Warnings,
    /// What the request's options say, as webhooks and policies are told; none: they are not asked.
    pub(crate) options: Option<&'a Value>,
}

impl<'a> Writer<'a> {
    /// The cloud itself, as this user of its own.
    pub(crate) fn system(user: &'a UserInfo, warnings: &'a Warnings) -> Self {
        Self {
            user,
            system: true,
            dry_run: false,
            manager: "yunfan",
            applies: false,
            warnings,
            options: None,
        }
    }

    /// The same as owner of fields.
    pub(crate) fn of_fields<'b>(&self, subresource: &'b str, api_version: &'b str) -> apply::Writer<'b>
    where
        'a: 'b,
    {
        apply::Writer { manager: self.manager, subresource, api_version, now: Timestamp::now() }
    }
}

/// An object as it was stored (or, by a dry run, would be).
pub(crate) struct Stored {
    /// Without resourceVersion; where versions differ in more than their name, in the version of the request.
    pub(crate) bytes: Bytes,
    /// 0 for a dry run of a creation.
    pub(crate) revision: Revision,
}

/// What became of a write.
pub(crate) enum Written {
    /// The object is there.
    Stored(Stored),
    /// It is gone; this is its last state.
    Deleted(Stored),
}

impl Written {
    /// The object, there or gone.
    pub(crate) fn into_stored(self) -> Stored {
        match self {
            Self::Stored(stored) | Self::Deleted(stored) => stored,
        }
    }
}

impl From<&Arc<Entry>> for Stored {
    fn from(entry: &Arc<Entry>) -> Self {
        Self { bytes: entry.bytes.clone(), revision: entry.revision }
    }
}

/// The outcome of one transaction.
enum Commit {
    Done(Revision),
    /// A condition did not hold; the cache has what there is now.
    Lost,
}

/// The outcome of one run of the admission chain.
enum Admitted {
    Yes,
    /// Something had to be computed first: look again.
    Again,
}

impl Registry {
    /// One object, as it is now (`revision` empty), or as the cache has it.
    pub(crate) async fn get(
        &self,
        kind: &Kind,
        namespace: &str,
        name: &str,
        revision: Option<&str>,
    ) -> Result<Arc<Entry>, ApiError> {
        match parse_revision(revision)? {
            None => self.cache.wait_current().await?,
            Some(at) => self.cache.wait_for(at).await?,
        }
        self.present_one(kind, self.find(kind, namespace, name)?).await
    }

    fn find(&self, kind: &Kind, namespace: &str, name: &str) -> Result<Arc<Entry>, ApiError> {
        let found = self.find_kept(kind, namespace, name)?;
        match unreadable::refusal([&found]) {
            Some(error) => Err(error),
            None => Ok(found),
        }
    }

    /// As [`Registry::find`], where it matters only that it is there.
    fn find_kept(&self, kind: &Kind, namespace: &str, name: &str) -> Result<Arc<Entry>, ApiError> {
        let found = kind.resource.cache.get(&kind.key(namespace, name));
        found.ok_or_else(|| ApiError::not_found(&kind.descriptor.group_resource(), name))
    }

    fn view(&self) -> View<'_> {
        View {
            cache: &self.cache,
            kinds: &self.kinds,
            config: &self.config,
            judge: &self.judge,
            rbac: &self.rbac,
        }
    }

    /// One transaction: the object's key (absent for `None`) and the plan.
    async fn commit(
        &self,
        key: &str,
        expected: Revision,
        value: Option<Bytes>,
        plan: WritePlan,
    ) -> Result<Commit, ApiError> {
        let (mut compares, mut success) = plan.into_parts();
        let place = key;
        let key = Bytes::copy_from_slice(key.as_bytes());
        let asked = match (&value, expected) {
            (None, _) => Asked::Delete,
            (Some(_), 0) => Asked::Create,
            (Some(_), _) => Asked::Update,
        };
        compares.push(Compare::ModRevision { key: key.clone(), equals: expected });
        success.push(match value {
            Some(value) => Op::Put { key, value },
            None => Op::Delete { key },
        });
        let began = Instant::now();
        let done = self.store.txn(Txn { compares, success, failure: vec![] }).await;
        self.times.count(asked, place, began, done.is_ok());
        let done = done.map_err(store_error)?;
        // Each caller reads its own writes, and authorization and admission see them.
        self.cache.wait_for(done.revision).await?;
        Ok(if done.succeeded { Commit::Done(done.revision) } else { Commit::Lost })
    }

    /// Runs the admission chain, and asks whoever else is `asking` to be asked; where a quota is not computed yet, that is
    /// done and the caller looks again.
    async fn admit(
        &self,
        attempt: &mut Attempt<'_>,
        plan: &mut WritePlan,
        valid: Validate<'_>,
        asking: Option<Asking<'_>>,
    ) -> Result<Admitted, ApiError> {
        match self.run_chain(attempt, plan, valid, asking).await {
            Ok(()) => Ok(Admitted::Yes),
            Err(Refusal::Error(error)) => Err(error),
            Err(Refusal::Outrun) => Ok(Admitted::Again),
            Err(Refusal::Awaited(key, error)) => {
                if self.appears(&key).await {
                    Ok(Admitted::Again)
                } else {
                    Err(error)
                }
            }
            Err(Refusal::Recompute(namespace, name)) => {
                self.compute_quota(&namespace, &name).await?;
                Ok(Admitted::Again)
            }
        }
    }

    /// Waits a moment for an object that another is about to make.
    async fn appears(&self, key: &str) -> bool {
        let Some(prefix) = keys::split_kind(key) else { return false };
        let objects = self.cache.kind(prefix);
        let seen = async {
            let mut cursor = objects.cursor_now();
            while objects.get(key).is_none() {
                cursor.changed().await;
                // What changed does not matter.
                if cursor.take().is_err() {
                    cursor = objects.cursor_now();
                }
            }
        };
        tokio::time::timeout(AWAITED, seen).await.is_ok()
    }

    /// Makes `status` of a ResourceQuota what the namespace's objects use.
    pub(crate) async fn compute_quota(&self, namespace: &str, name: &str) -> Result<(), ApiError> {
        let prefix = keys::kind_prefix("", "resourcequotas");
        let key = keys::object_key(&prefix, namespace, name);
        for attempt in 0..MAX_ATTEMPTS {
            pause(attempt).await;
            let Some(entry) = self.cache.kind(&prefix).get(&key) else { return Ok(()) };
            let quota = admission::quota::recompute(&self.view(), &entry, namespace);
            if quota == **entry.value() {
                return Ok(());
            }
            let value = Some(codec::encode(&quota));
            if let Commit::Done(_) = self.commit(&key, entry.revision, value, WritePlan::default()).await? {
                return Ok(());
            }
        }
        Err(admission::quota::busy(namespace, name))
    }
}

/// Waits a little where many write the same.
async fn pause(attempt: u32) {
    if attempt >= PATIENCE {
        tokio::time::sleep(PAUSE).await;
    }
}

/// Reads a `resourceVersion` of a query; none where it is not given.
pub(crate) fn parse_revision(text: Option<&str>) -> Result<Option<Revision>, ApiError> {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(None) };
    text.parse().map(Some).map_err(|_| {
        ApiError::bad_request(format!(
            "invalid resource version: resourceVersion: Invalid value: {text:?}: {}",
            golang::number_error("ParseUint", text)
        ))
    })
}

fn too_contended(kind: &Kind, name: &str) -> ApiError {
    ApiError::conflict(
        &kind.descriptor.group_resource(),
        name,
        "too many others write the same; please try again",
    )
}
