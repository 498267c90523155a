//! Admission policies: expressions that look at requests, and bindings that say which requests and with what parameters.

mod mutating;
mod params;
mod scene;
mod validating;

use serde_json::{Value, json};
use yunfan_objects::ApiError;

use super::Dynamic;
use super::book::Page;
use super::conditions::Conditions;
use super::matching::Criteria;
use super::question::{Question, Subject};

pub(super) use mutating::Mutating;
use params::{ParamKind, ParamRef};
use scene::{Param, Scene};
pub(super) use validating::Validating;

/// Most units of all expressions of a policy for one binding and one parameter.
const LIMIT: u64 = 10_000_000;

/// What all policies have.
#[derive(Debug)]
pub(super) struct Policy {
    pub(super) name: String,
    pub(super) criteria: Criteria,
    pub(super) conditions: Conditions,
    pub(super) params: Option<ParamKind>,
    /// Whether requests go on where an expression has no value.
    pub(super) ignores_failure: bool,
}

impl Policy {
    /// Reads what all policies have.
    pub(super) fn read(policy: &Value) -> Self {
        let spec = &policy["spec"];
        let params = ParamKind::read(&spec["paramKind"]);
        Self {
            name: policy["metadata"]["name"].as_str().unwrap_or_default().to_owned(),
            criteria: Criteria::of_policy(&spec["matchConstraints"]),
            conditions: Conditions::read(&spec["matchConditions"], params.is_some()),
            params,
            ignores_failure: spec["failurePolicy"] == "Ignore",
        }
    }
}

/// A binding of either kind.
#[derive(Debug)]
pub(super) struct Binding {
    pub(super) name: String,
    pub(super) policy: String,
    pub(super) params: Option<ParamRef>,
    criteria: Option<Criteria>,
    /// Whether what the policy refuses is refused.
    pub(super) denies: bool,
    /// Whether the client is warned of it.
    pub(super) warns: bool,
    /// Whether the audit log tells of it.
    pub(super) audits: bool,
}

impl Page for Binding {
    fn read(binding: &Value) -> Self {
        let (spec, text) = (&binding["spec"], |value: &Value| value.as_str().unwrap_or_default().to_owned());
        let does = |action: &str| {
            spec["validationActions"].as_array().is_some_and(|all| all.contains(&json!(action)))
        };
        let resources = &spec["matchResources"];
        Self {
            name: text(&binding["metadata"]["name"]),
            policy: text(&spec["policyName"]),
            params: ParamRef::read(&spec["paramRef"]),
            criteria: resources.is_object().then(|| Criteria::of_policy(resources)),
            denies: does("Deny"),
            warns: does("Warn"),
            audits: does("Audit"),
        }
    }

    fn topic(&self) -> &str {
        &self.policy
    }
}

impl Dynamic {
    /// The parameters that a policy is run with by a binding: none where that is not about this request.
    ///
    /// # Errors
    /// What is wrong with the binding.
    async fn params_of(
        &self,
        scene: &mut Scene<'_>,
        question: &Question<'_>,
        subject: &Subject,
        policy: &Policy,
        binding: &Binding,
    ) -> Result<Vec<Param>, String> {
        if let Some(criteria) = &binding.criteria {
            let view = criteria.view(self, question, subject).map_err(|error| error.message().to_owned())?;
            if view.is_none() {
                return Ok(Vec::new());
            }
        }
        self.params(scene, question, policy.params.as_ref(), binding.params.as_ref()).await
    }

    /// The request's namespace as expressions see it; null for what is in none.
    ///
    /// # Errors
    /// 404 where there is no such namespace.
    pub(super) fn namespace_object(&self, question: &Question<'_>) -> Result<Value, ApiError> {
        if question.namespace.is_empty() || question.plural == "namespaces" {
            return Ok(Value::Null);
        }
        let mut object = self.namespace(question.namespace)?.object();
        if let Some(metadata) = object["metadata"].as_object_mut() {
            metadata.remove("managedFields");
            metadata.remove("ownerReferences");
        }
        if let Some(map) = object.as_object_mut() {
            map.retain(|key, _| matches!(key.as_str(), "metadata" | "spec" | "status"));
        }
        Ok(object)
    }
}
