//! Admission: the links of a chain that look at every write before it is validated and stored. A
//! link may refuse, fill in fields, and add conditions and keys to the write's own transaction
//! ([`WritePlan`]): that is how a quota is exact and an address is never given twice, without a lock.
//!
//! First come the links that fill in fields ([`fill`]), then those that choose what nobody else has ([`allocate`]), then those
//! that refuse ([`check`]); claims and quota come last ([`charge`]), and charge what the others let through. Webhooks and policies
//! ([`dynamic`]) that change objects stand before the choice, which depends on what they make of them; those that refuse, behind
//! the checks.
//!
//! Links read the watch cache and never wait; of the dynamic ones, webhooks do. When another writer was faster the transaction fails as
//! a whole and the registry runs the chain again on what is there then.

mod addresses;
mod amounts;
mod certificates;
mod claims;
mod classes;
mod compute;
mod copies;
pub(crate) mod crds;
mod devices;
pub(crate) mod dynamic;
mod ids;
mod images;
mod limits;
mod namespace;
mod network;
mod node;
mod noderestriction;
mod params;
mod plan;
mod pods;
pub(crate) mod quota;
mod rbac;
mod scopes;
mod security;
mod service;
mod shelved;
mod storage;
mod usage;

use std::sync::Arc;

use serde_json::Value;
use yunfan_identity::UserInfo;
use yunfan_identity::rbac::RbacAuthorizer;
use yunfan_objects::validations::briefly;
use yunfan_objects::{ApiError, FieldError, GroupResource};

pub(crate) use claims::Claims;
pub(crate) use plan::WritePlan;
pub(crate) use pods::account::is_mirror;

use crate::aside::BRIEF;
use crate::cache::{Cache, Entry};
use crate::chain::Judge;
use crate::config::ApiConfig;
use crate::keys;
use crate::kinds::{Kind, Kinds};
use crate::warnings::Warnings;

/// What a write does to the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    /// There was none.
    Create,
    /// It changes, also by being marked for deletion.
    Update,
    /// It goes away.
    Delete,
}

/// A write as the chain sees it.
pub(crate) struct Attempt<'a> {
    pub(crate) kind: &'a Kind,
    pub(crate) operation: Operation,
    /// Empty for none.
    pub(crate) subresource: &'a str,
    /// Empty for cluster scope.
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
    /// The object as it is to be stored; before a deletion as it was.
    pub(crate) object: &'a mut Value,
    /// The object before an update or a deletion.
    pub(crate) old: Option<&'a Value>,
    /// Who writes.
    pub(crate) user: &'a UserInfo,
    /// The cloud's own start: it may write what others may not.
    pub(crate) system: bool,
    /// What the client is told beside the answer.
    pub(crate) warnings: &'a Warnings,
}

impl Attempt<'_> {
    /// Whether the object is of this kind.
    pub(crate) fn is(&self, group: &str, plural: &str) -> bool {
        let descriptor = &self.kind.descriptor;
        descriptor.plural == plural && descriptor.group == group
    }

    /// Whether this write marks the object for deletion.
    pub(crate) fn is_marked_now(&self) -> bool {
        self.operation == Operation::Update
            && !self.object["metadata"]["deletionTimestamp"].is_null()
            && self.old.is_some_and(|old| old["metadata"]["deletionTimestamp"].is_null())
    }

    /// Whether a Pod is made, as itself and not through a subresource.
    fn makes_pod(&self) -> bool {
        self.operation == Operation::Create && self.subresource.is_empty() && self.is("", "pods")
    }

    /// A number that is the object's own (a hash, FNV-1a, of its uid): where there is a choice, one that begins with it is the same
    /// each time the write is tried, and seldom that of another object.
    fn seed(&self) -> u32 {
        let uid = self.object["metadata"]["uid"].as_str().unwrap_or_default();
        uid.bytes().fold(2_166_136_261_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(16_777_619))
    }

    /// The kind's name in messages.
    pub(crate) fn resource(&self) -> GroupResource {
        self.kind.descriptor.group_resource()
    }

    /// 422 with one field at fault.
    pub(crate) fn invalid(&self, error: FieldError) -> Refusal {
        Refusal::Error(ApiError::invalid(&self.kind.descriptor.gvk(), self.name, &[error]))
    }

    /// 403 with a reason.
    pub(crate) fn forbidden(&self, why: &str) -> Refusal {
        Refusal::Error(ApiError::forbidden(&self.resource(), self.name, why))
    }

    /// 409 with a reason.
    pub(crate) fn conflict(&self, why: &str) -> Refusal {
        Refusal::Error(ApiError::conflict(&self.resource(), self.name, why))
    }
}

/// Why a write can't go on.
pub(crate) enum Refusal {
    /// For good.
    Error(ApiError),
    /// The `used` of the ResourceQuota with this namespace and name must be computed first; then again.
    Recompute(String, String),
    /// Another writer took what this chain had chosen: it must choose again.
    Outrun,
    /// What the write needs is about to be made: the object with this key is waited for a moment, then this is the error.
    Awaited(String, ApiError),
}

impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Self {
        Self::Error(error)
    }
}

/// What the links may look at.
pub(crate) struct View<'a> {
    pub(crate) cache: &'a Cache,
    pub(crate) kinds: &'a Kinds,
    pub(crate) config: &'a ApiConfig,
    pub(crate) judge: &'a Judge,
    pub(crate) rbac: &'a RbacAuthorizer,
}

impl View<'_> {
    /// One object of a kind, by its place.
    pub(crate) fn get(&self, group: &str, plural: &str, namespace: &str, name: &str) -> Option<Arc<Entry>> {
        let prefix = keys::kind_prefix(group, plural);
        self.cache.kind(&prefix).get(&keys::object_key(&prefix, namespace, name))
    }

    /// All objects of a kind in a namespace.
    pub(crate) fn list(&self, group: &str, plural: &str, namespace: &str) -> Vec<Arc<Entry>> {
        let prefix = keys::kind_prefix(group, plural);
        self.cache.kind(&prefix).list(&keys::namespace_prefix(&prefix, namespace)).entries
    }
}

/// What is wrong with an object in itself, whoever writes it and whatever else there is.
pub(crate) type Validate<'a> = &'a (dyn Fn(&Value) -> Result<(), ApiError> + Send + Sync);

/// The links that fill in fields. Gives what the writer itself asked for, which [`charge`] is told.
pub(crate) fn fill(
    view: &View<'_>,
    attempt: &mut Attempt<'_>,
    plan: &mut WritePlan,
    valid: Validate<'_>,
) -> Result<Claims, Refusal> {
    // The chain writes into specs: what has another shape is refused before that. Where rules are costly, the shape is right.
    if !matches!(attempt.object["spec"], Value::Null | Value::Object(_))
        && let Some(found) = briefly(BRIEF, || valid(attempt.object))
    {
        found?;
    }
    let given = claims::given(attempt);
    namespace::admit(view, attempt, plan)?;
    crds::admit(view, attempt, plan)?;
    rbac::admit(view, attempt)?;
    certificates::admit(view, attempt)?;
    ids::admit(attempt)?;
    node::admit(attempt);
    limits::fill(view, attempt);
    classes::fill(view, attempt);
    pods::fill(view, attempt, plan)?;
    compute::admit(view, attempt)?;
    images::admit(view, attempt, plan)?;
    shelved::admit(view, attempt, plan)?;
    storage::admit(view, attempt, plan)?;
    Ok(given)
}

/// The links that choose addresses, ports and the like for the object as it is to be stored.
pub(crate) fn allocate(
    view: &View<'_>,
    attempt: &mut Attempt<'_>,
    plan: &mut WritePlan,
) -> Result<(), Refusal> {
    network::admit(view, attempt, plan)?;
    service::admit(view, attempt)
}

/// What an object of this attempt would claim.
pub(crate) fn claims_of(attempt: &Attempt<'_>, object: &Value) -> Claims {
    claims::of(attempt, object)
}

/// The links that refuse, of an object that is `valid`.
pub(crate) fn check(view: &View<'_>, attempt: &mut Attempt<'_>, valid: Validate<'_>) -> Result<(), Refusal> {
    noderestriction::check(view, attempt)?;
    devices::check(view, attempt, valid)?;
    valid(attempt.object)?;
    params::check(view, attempt)?;
    limits::check(view, attempt)?;
    security::check(view, attempt)?;
    pods::check(view, attempt)
}

/// The last links: what the object takes is claimed, and charged to the quota.
pub(crate) fn charge(
    view: &View<'_>,
    attempt: &mut Attempt<'_>,
    given: &Claims,
    plan: &mut WritePlan,
) -> Result<(), Refusal> {
    claims::admit(view, attempt, given, plan)?;
    quota::admit(view, attempt, plan)
}
