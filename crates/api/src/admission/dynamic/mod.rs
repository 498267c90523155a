//! Dynamic admission: what objects of `admissionregistration.k8s.io` have to say about a request. They are asked by
//! the registry between the links of the chain that fill in fields and those that refuse ([`Dynamic::mutate`]), and
//! once more behind those ([`Dynamic::validate`]).
//!
//! Validating and mutating policies ([`policies`]) are expressions, and cost no more than time, of which each request has so
//! much ([`purse`]); [`webhooks`] are servers elsewhere. In both phases policies come first.
//!
//! Each configuration is read and its expressions are compiled once per revision ([`book`]). Where there are none, a
//! request pays for a look at how many there are. Who is asked about a request is decided in [`matching`]; in which
//! version of the object, in [`question`].

mod book;
mod conditions;
mod matching;
mod metrics;
mod policies;
mod purse;
mod question;
mod webhooks;

use std::collections::HashSet;
use std::sync::Arc;

use prometheus_client::registry::Registry as Catalog;
use serde_json::Value;
use yunfan_objects::{ApiError, GroupResource};

pub(crate) use question::{Action, Question, Subject};

use crate::aside::Aside;
use crate::cache::{Cache, Entry};
use crate::chain::Judge;
use crate::keys;
use crate::kinds::Kinds;
use crate::webhook::Webhooks;
use book::Book;
use metrics::Counts;
use policies::{Binding, Mutating, Validating};
use purse::Purse;
use webhooks::Hooks;

/// API group of the configurations.
const GROUP: &str = "admissionregistration.k8s.io";
/// Kinds of that group that nobody is asked about, so that nobody can lock themselves in.
const EXEMPT: [&str; 6] = [
    "ValidatingWebhookConfiguration",
    "MutatingWebhookConfiguration",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
    "MutatingAdmissionPolicy",
    "MutatingAdmissionPolicyBinding",
];
/// Group and plural of what no policy is asked about: a broad one would else take from everybody, nodes too, the means to
/// find out who somebody is and what they may do.
const REVIEWS: [(&str, &str); 6] = [
    ("authentication.k8s.io", "selfsubjectreviews"),
    ("authentication.k8s.io", "tokenreviews"),
    ("authorization.k8s.io", "localsubjectaccessreviews"),
    ("authorization.k8s.io", "selfsubjectaccessreviews"),
    ("authorization.k8s.io", "selfsubjectrulesreviews"),
    ("authorization.k8s.io", "subjectaccessreviews"),
];

/// All that is configured, and what it takes to ask it.
pub(crate) struct Dynamic {
    cache: Arc<Cache>,
    webhooks: Arc<Webhooks>,
    judge: Judge,
    /// Where expressions are run that take long.
    aside: Arc<Aside>,
    mutating_hooks: Book<Hooks>,
    validating_hooks: Book<Hooks>,
    mutating_policies: Book<Mutating>,
    mutating_bindings: Book<Binding>,
    validating_policies: Book<Validating>,
    validating_bindings: Book<Binding>,
    counts: Counts,
}

/// Where the mutation of one object has come to: there are two rounds at most.
#[derive(Default)]
pub(crate) struct Rounds {
    /// Whether this is the second.
    pub(crate) second: bool,
    /// Whether anything was changed in this round.
    pub(crate) changed: bool,
    /// Who was asked and wants to be asked again about a changed object.
    reinvocable: Vec<String>,
    /// Of those, before whose change they had answered.
    again: HashSet<String>,
    /// What is left for the expressions of both rounds.
    purse: Purse,
}

impl Rounds {
    /// Goes on to the second round. What links of the chain have changed since the first counts as a change; what the server
    /// owns of any object, such as its generation, does not.
    pub(crate) fn next(&mut self, changed: bool) {
        self.second = true;
        self.changed = false;
        if changed {
            self.ask_again();
        }
    }

    /// Those who have answered so far are asked again.
    fn ask_again(&mut self) {
        self.again.extend(self.reinvocable.drain(..));
    }

    /// Whether this one is asked in this round.
    fn asks(&self, id: &str) -> bool {
        !self.second || self.again.contains(id)
    }

    /// Notes an answer.
    fn answered(&mut self, id: &str, changed: bool, reinvocable: bool) {
        if changed {
            self.changed = true;
            self.ask_again();
        }
        if reinvocable && !self.reinvocable.iter().any(|known| known == id) {
            self.reinvocable.push(id.to_owned());
        }
    }
}

impl Dynamic {
    /// Reads configurations and namespaces from this cache.
    pub(crate) fn new(cache: Arc<Cache>, webhooks: Arc<Webhooks>, judge: Judge, aside: Arc<Aside>) -> Self {
        let prefix = |plural: &str| keys::kind_prefix(GROUP, plural);
        let hooks = |plural: &str| Book::new(&cache, &prefix(plural));
        let bindings = |plural: &str| Book::new(&cache, &prefix(plural));
        Self {
            mutating_hooks: hooks("mutatingwebhookconfigurations"),
            validating_hooks: hooks("validatingwebhookconfigurations"),
            mutating_policies: Book::new(&cache, &prefix("mutatingadmissionpolicies")),
            mutating_bindings: bindings("mutatingadmissionpolicybindings"),
            validating_policies: Book::new(&cache, &prefix("validatingadmissionpolicies")),
            validating_bindings: bindings("validatingadmissionpolicybindings"),
            cache,
            webhooks,
            judge,
            aside,
            counts: Counts::default(),
        }
    }

    /// Adds what is counted here to a catalog.
    pub(crate) fn register(&self, catalog: &mut Catalog) {
        self.counts.register(catalog);
    }

    /// Whether anything is configured that may change objects.
    pub(crate) fn mutates(&self) -> bool {
        !self.mutating_hooks.is_empty() || !self.mutating_bindings.is_empty()
    }

    /// Whether anything is configured that may refuse objects.
    pub(crate) fn validates(&self) -> bool {
        !self.validating_hooks.is_empty() || !self.validating_bindings.is_empty()
    }

    /// Has the object changed by all who want to, in the version of the request.
    ///
    /// # Errors
    /// What somebody who was asked refuses; 500 where somebody who must be asked cannot be.
    pub(crate) async fn mutate(
        &self,
        kinds: &Kinds,
        question: &Question<'_>,
        subject: &mut Subject,
        rounds: &mut Rounds,
    ) -> Result<(), ApiError> {
        if is_exempt(question) {
            return Ok(());
        }
        if !is_review(question) {
            Box::pin(self.mutate_by_policies(kinds, question, subject, rounds)).await?;
        }
        Box::pin(self.mutate_by_hooks(question, subject, rounds)).await
    }

    /// Has the object looked at by all who want to.
    ///
    /// # Errors
    /// As [`mutate`](Self::mutate).
    pub(crate) async fn validate(
        &self,
        kinds: &Kinds,
        question: &Question<'_>,
        subject: &Subject,
    ) -> Result<(), ApiError> {
        if is_exempt(question) {
            return Ok(());
        }
        let mut purse = Purse::default();
        if !is_review(question) {
            Box::pin(self.validate_by_policies(kinds, question, subject, &mut purse)).await?;
        }
        Box::pin(self.validate_by_hooks(question, subject, &mut purse)).await
    }

    /// The labels of the namespace that a request is in or about.
    ///
    /// # Errors
    /// 404 where there is no such namespace.
    fn namespace_labels(&self, question: &Question<'_>, subject: &Subject) -> Result<Value, ApiError> {
        let about_it = question.plural == "namespaces" && question.subresource.is_empty();
        if about_it && matches!(question.action, Action::Create | Action::Update) {
            let object = subject.object.as_ref().unwrap_or(&Value::Null);
            return Ok(object["metadata"]["labels"].clone());
        }
        Ok(self.namespace(question.namespace)?.labels().clone())
    }

    fn namespace(&self, name: &str) -> Result<Arc<Entry>, ApiError> {
        let prefix = keys::kind_prefix("", "namespaces");
        let found = self.cache.kind(&prefix).get(&keys::object_key(&prefix, "", name));
        found.ok_or_else(|| ApiError::not_found(&GroupResource::new("", "namespaces"), name))
    }
}

fn is_exempt(question: &Question<'_>) -> bool {
    question.kind.group == GROUP && EXEMPT.contains(&question.kind.kind.as_str())
}

fn is_review(question: &Question<'_>) -> bool {
    REVIEWS.contains(&(question.group, question.plural))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_round_asks_those_who_had_answered_before_a_change() {
        let mut rounds = Rounds::default();
        rounds.answered("a", true, true);
        rounds.answered("b", false, true);
        rounds.answered("c", true, false);
        rounds.answered("d", false, true);
        rounds.next(false);
        let asked = |rounds: &Rounds| ["a", "b", "c", "d", "e"].map(|id| rounds.asks(id));
        assert_eq!(asked(&rounds), [true, true, false, false, false]);
        let mut rounds = Rounds::default();
        rounds.answered("d", false, true);
        rounds.next(true);
        assert!(rounds.asks("d"), "the chain changed it meanwhile");
    }
}
