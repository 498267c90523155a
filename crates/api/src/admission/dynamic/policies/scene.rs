//! What of one request all policies are shown: each part is brought into the form of expressions once, for all bindings.

use std::collections::HashMap;
use std::sync::Arc;

use yunfan_cel::Value as Cel;
use yunfan_objects::ApiError;
use yunfan_objects::admission::to_cel;

use super::super::Dynamic;
use super::super::conditions::Facts;
use super::super::question::{Question, Subject, View};
use crate::kinds::Kinds;

/// A parameter as expressions see it.
#[derive(Clone)]
pub(super) struct Param {
    /// Its namespace and name; empty for no parameter.
    pub(super) place: (Arc<str>, Arc<str>),
    pub(super) shown: Cel,
}

impl Param {
    /// That of policies without parameters.
    pub(super) fn none() -> Self {
        Self { place: ("".into(), "".into()), shown: Cel::Null }
    }
}

/// What was made so far.
pub(super) struct Scene<'a> {
    pub(super) kinds: &'a Kinds,
    namespace: Option<Cel>,
    /// By the `apiVersion` that they are shown in, and their keys.
    pub(super) params: HashMap<(String, Arc<str>), Param>,
    facts: Vec<(View, Facts)>,
}

impl<'a> Scene<'a> {
    /// Of a request that nobody has looked at.
    pub(super) fn new(kinds: &'a Kinds) -> Self {
        Self { kinds, namespace: None, params: HashMap::new(), facts: Vec::new() }
    }

    /// The request's namespace; null for what is in none.
    ///
    /// # Errors
    /// 404 where there is no such namespace.
    pub(super) fn namespace(&mut self, dynamic: &Dynamic, question: &Question<'_>) -> Result<Cel, ApiError> {
        if self.namespace.is_none() {
            self.namespace = Some(to_cel(&dynamic.namespace_object(question)?));
        }
        Ok(self.namespace.clone().unwrap_or(Cel::Null))
    }

    /// The request in a view, where its subject stays as it is.
    ///
    /// # Errors
    /// 500 where a hook that converts fails.
    pub(super) async fn facts(
        &mut self,
        dynamic: &Dynamic,
        question: &Question<'_>,
        subject: &Subject,
        view: &View,
    ) -> Result<Facts, ApiError> {
        if let Some((_, facts)) = self.facts.iter().find(|(known, _)| known == view) {
            return Ok(facts.clone());
        }
        let mut own = subject.clone();
        own.show_as(&dynamic.webhooks, question, &view.kind).await?;
        let facts = Facts::new(&dynamic.judge, question, view, &own);
        self.facts.push((view.clone(), facts.clone()));
        Ok(facts)
    }
}
