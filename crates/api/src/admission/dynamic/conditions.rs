//! Expressions at work: what they see of a request, and conditions that must hold before anybody is asked.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value as Json;
use yunfan_cel::{Budget, EvalError, Lookup, Program, Type, Value};
use yunfan_identity::rbac::RbacAuthorizer;
use yunfan_identity::{Attributes, Authorizer, UserInfo};
use yunfan_objects::admission::{
    Access, Authority, Compiler, REQUEST_RESOURCE, Sight, authorizer, resource_check, to_cel,
};

use super::question::{Question, Subject, View};

/// Most units of one run of one expression.
const CALL_LIMIT: u64 = 1_000_000;
/// Most units of all conditions of a webhook, or of a binding of a policy.
const CONDITIONS_LIMIT: u64 = 2_500_000;
/// Longest time of all of them, whatever they cost.
const TIME_LIMIT: Duration = Duration::from_secs(5);
/// What is said where the limit for all is reached.
const SPENT: &str =
    "validation failed due to running out of cost budget, no further validation rules will be run";

/// Asks the roles about the request's user.
#[derive(Clone)]
struct Roles {
    rbac: Arc<RbacAuthorizer>,
    user: UserInfo,
}

impl std::fmt::Debug for Roles {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Roles of {}", self.user.name)
    }
}

impl Authority for Roles {
    fn check(&self, access: &Access) -> (bool, String) {
        let account =
            access.account.as_ref().map(|(namespace, name)| UserInfo::service_account(namespace, name, ""));
        let user = account.as_ref().unwrap_or(&self.user);
        let decision = self.rbac.authorize(&Attributes {
            user,
            verb: &access.verb,
            group: &access.group,
            version: &access.version,
            resource: &access.resource,
            subresource: &access.subresource,
            namespace: &access.namespace,
            name: &access.name,
            path: &access.path,
        });
        (decision.is_allowed(), decision.reason().to_owned())
    }
}

/// What the expressions about one request see.
pub(super) struct Context {
    variables: Vec<(&'static str, Value)>,
    request_resource: Value,
}

impl Context {
    /// About a request as it is shown in a view: the objects are in its version.
    pub(super) fn new(
        rbac: &Arc<RbacAuthorizer>,
        question: &Question<'_>,
        view: &View,
        subject: &Subject,
    ) -> Self {
        let roles: Arc<dyn Authority> = Arc::new(Roles { rbac: rbac.clone(), user: question.user.clone() });
        let text = |text: &str| text.to_owned();
        let access = Access {
            group: text(question.group),
            version: text(question.version),
            resource: text(question.plural),
            subresource: text(question.subresource),
            namespace: text(question.namespace),
            name: text(question.name),
            ..Access::default()
        };
        let of = |object: &Option<Json>| object.as_ref().map_or(Value::Null, to_cel);
        Self {
            variables: vec![
                ("object", of(&subject.object)),
                ("oldObject", of(&subject.old)),
                ("request", to_cel(&question.request(view))),
                ("namespaceObject", Value::Null),
                ("authorizer", authorizer(roles.clone())),
            ],
            request_resource: resource_check(roles, access),
        }
    }

    /// Runs an expression within what is left for it and others.
    ///
    /// # Errors
    /// What the language calls an error; [`EvalError::Limit`] where the expression costs too much.
    pub(super) fn run(&self, program: &Program, left: &mut u64) -> Result<Value, EvalError> {
        let mut budget = Budget::new(CALL_LIMIT.min(*left), TIME_LIMIT);
        let out = program.run_with(&self.variables, self, &mut budget);
        *left = left.saturating_sub(budget.used());
        out
    }
}

impl Lookup for Context {
    fn get(&self, space: &str, field: &str, _: &mut Budget) -> Option<Result<Value, EvalError>> {
        ((space, field) == REQUEST_RESOURCE).then(|| Ok(self.request_resource.clone()))
    }
}

/// A condition on requests.
#[derive(Debug)]
struct Condition {
    expression: String,
    program: Result<Program, String>,
}

/// All conditions of a webhook or a policy.
#[derive(Debug)]
pub(super) struct Conditions(Vec<Condition>);

/// What conditions say of a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Finding {
    /// It is meant.
    Met,
    /// It is not.
    Unmet,
    /// None is unmet, but of some it is not known: why not.
    Unknown(String),
}

impl Conditions {
    /// Reads and compiles `matchConditions`.
    pub(super) fn read(list: &Json, params: bool) -> Self {
        let compiler = Compiler::new();
        let sight = Sight { params, authorizer: true };
        let each = list.as_array().into_iter().flatten().map(|condition| {
            let expression = condition["expression"].as_str().unwrap_or_default().to_owned();
            let program = compiler.compile(&expression, sight, &[Type::Bool]);
            Condition { expression, program }
        });
        Self(each.collect())
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What they say.
    pub(super) fn judge(&self, context: &Context) -> Finding {
        let (mut left, mut wrongs) = (CONDITIONS_LIMIT, Vec::new());
        for condition in &self.0 {
            let program = match &condition.program {
                Ok(program) => program,
                Err(why) => {
                    wrongs.push(format!("compilation error: {why}"));
                    continue;
                }
            };
            match context.run(program, &mut left) {
                Ok(Value::Bool(false)) => return Finding::Unmet,
                Ok(_) => {}
                Err(EvalError::Limit) if left == 0 => return Finding::Unknown(SPENT.to_owned()),
                Err(error) => {
                    wrongs.push(format!("expression '{}' resulted in error: {error}", condition.expression));
                }
            }
        }
        match wrongs.as_slice() {
            [] => Finding::Met,
            [one] => Finding::Unknown(one.clone()),
            many => Finding::Unknown(format!("[{}]", many.join(", "))),
        }
    }
}
