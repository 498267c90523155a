//! Validating policies: what they say of a request, and what becomes of it.

use serde_json::{Value, json};
use yunfan_cel::{Type, Value as Cel};
use yunfan_objects::admission::Sight;
use yunfan_objects::error::{Cause, Details};
use yunfan_objects::{ApiError, Reason};

use super::super::Dynamic;
use super::super::book::Page;
use super::super::conditions::{Composer, Context, Expression, Finding, Wrong};
use super::super::purse::{Allowance, Purse};
use super::super::question::{Question, Subject, View};
use super::{Binding, LIMIT, Policy, Scene};
use crate::kinds::Kinds;

/// Longest message that an expression may make, bytes.
const MAX_MESSAGE: usize = 5 * 1024;
/// Characters of a value for the audit log; the rest is cut off (as in Kubernetes, which counts 10 kB).
const MAX_ANNOTATION: usize = 10 * 1024;
/// Annotation of the audit log with the validations that failed.
const FAILURES: &str = "validation.policy.admission.k8s.io/validation_failure";

/// A ValidatingAdmissionPolicy, ready to be run.
#[derive(Debug)]
pub(in crate::admission::dynamic) struct Validating {
    policy: Policy,
    variables: Vec<Expression>,
    validations: Vec<Validation>,
    /// Values for the audit log, by their keys.
    annotations: Vec<(String, Expression)>,
}

/// What must be true.
#[derive(Debug)]
struct Validation {
    expression: Expression,
    message: String,
    message_expression: Option<Expression>,
    reason: Reason,
}

/// Why a policy refuses a request.
#[derive(Debug)]
struct Denial {
    reason: Reason,
    message: String,
    /// Number of the validation.
    index: usize,
}

impl Denial {
    fn wrong(message: impl Into<String>) -> Self {
        Self { reason: Reason::Invalid, message: message.into(), index: 0 }
    }
}

/// What a policy says of a request.
#[derive(Default)]
struct Verdict {
    /// By validations: a binding may turn them into warnings.
    denials: Vec<Denial>,
    /// By what has to be computed.
    others: Vec<Denial>,
    /// For the audit log, by the policy's own keys.
    notes: Vec<(String, String)>,
}

impl Verdict {
    fn of(denial: Option<Denial>) -> Self {
        Self { denials: denial.into_iter().collect(), ..Self::default() }
    }
}

/// A policy's refusal, and by which binding if by any.
type Refused<'a> = (&'a Validating, Option<&'a Binding>, Denial);

impl Page for Validating {
    /// Compiles its expressions.
    fn read(policy: &Value) -> Self {
        let (spec, own) = (&policy["spec"], Policy::read(policy));
        let sight = Sight { params: own.params.is_some(), authorizer: true };
        let composer = Composer::new(&spec["variables"], sight);
        let all = |key: &str| spec[key].as_array().map(Vec::as_slice).unwrap_or_default();
        let validation = |one: &Value| Validation {
            expression: composer.expression(&one["expression"], sight, &[Type::Bool]),
            message: one["message"].as_str().unwrap_or_default().trim().to_owned(),
            message_expression: one["messageExpression"].as_str().filter(|text| !text.is_empty()).map(|_| {
                let sight = Sight { authorizer: false, ..sight };
                composer.expression(&one["messageExpression"], sight, &[Type::String])
            }),
            reason: match one["reason"].as_str() {
                Some("Forbidden") => Reason::Forbidden,
                Some("RequestEntityTooLarge") => Reason::RequestEntityTooLarge,
                _ => Reason::Invalid,
            },
        };
        let text_or_null = [Type::String, Type::Null];
        let annotation = |one: &Value| {
            let key = one["key"].as_str().unwrap_or_default().to_owned();
            (key, composer.expression(&one["valueExpression"], sight, &text_or_null))
        };
        let validations = all("validations").iter().map(validation).collect();
        let annotations = all("auditAnnotations").iter().map(annotation).collect();
        Self { policy: own, variables: composer.into_variables(), validations, annotations }
    }
}

impl Validating {
    /// What it says of a request: why it is refused, if it is.
    fn judge(&self, context: &Context<'_>, purse: &mut Purse) -> Verdict {
        // Where an expression has no value, the failure policy decides.
        let failed = |why: &dyn ToString| match self.policy.ignores_failure {
            true => None,
            false => Some(Denial::wrong(why.to_string())),
        };
        match self.policy.conditions.judge(context, purse) {
            Finding::Met => {}
            Finding::Unmet => return Verdict::default(),
            Finding::Unknown(why) => return Verdict::of(failed(&why)),
        }
        let (mut left, mut denials) = (Allowance::new(LIMIT, purse), Vec::new());
        for (index, validation) in self.validations.iter().enumerate() {
            match context.run(&validation.expression, &mut left) {
                Ok(Cel::Bool(true)) => {}
                Ok(_) => {
                    let message = validation.message(context, &mut left);
                    denials.push(Denial { reason: validation.reason, message, index });
                }
                Err(Wrong::Spent) => return Verdict::of(failed(&Wrong::Spent)),
                Err(why) => denials.extend(failed(&why).map(|denial| Denial { index, ..denial })),
            }
        }
        let (mut left, mut others, mut notes) = (Allowance::new(LIMIT, purse), Vec::new(), Vec::new());
        for (key, annotation) in &self.annotations {
            match context.run(annotation, &mut left) {
                Ok(Cel::String(text)) if !text.trim().is_empty() => {
                    let text: String = text.chars().take(MAX_ANNOTATION).collect();
                    notes.push((key.clone(), text));
                }
                Ok(_) => {}
                Err(why) => others.extend(failed(&why)),
            }
        }
        Verdict { denials, others, notes }
    }
}

impl Validation {
    /// What a refusal says: what the expression makes, else what is written, else the expression that failed.
    fn message(&self, context: &Context<'_>, left: &mut Allowance<'_>) -> String {
        if let Some(expression) = &self.message_expression
            && let Ok(Cel::String(text)) = context.run(expression, left)
        {
            let text = text.trim();
            if !text.is_empty() && text.len() <= MAX_MESSAGE && !text.contains('\n') {
                return text.to_owned();
            }
        }
        match self.message.as_str() {
            "" => format!("failed expression: {}", self.expression.source.trim()),
            message => message.to_owned(),
        }
    }
}

impl Dynamic {
    pub(in crate::admission::dynamic) async fn validate_by_policies(
        &self,
        kinds: &Kinds,
        question: &Question<'_>,
        subject: &Subject,
        purse: &mut Purse,
    ) -> Result<(), ApiError> {
        let (policies, bindings) = (self.validating_policies.all(), self.validating_bindings.all());
        let mut scene = Scene::new(kinds);
        let mut refused: Vec<Refused<'_>> = Vec::new();
        for validating in policies.iter() {
            let policy = &validating.policy;
            let view = match policy.criteria.view(self, question, subject) {
                Ok(Some(view)) => view,
                Ok(None) => continue,
                Err(error) => {
                    refused.extend(misconfigured(validating, None, error.message()));
                    continue;
                }
            };
            for binding in bindings.of(&policy.name) {
                let by = (validating, binding);
                let found = self.by_binding(&mut scene, question, subject, &view, by, purse).await?;
                refused.extend(found);
            }
        }
        match refused.first() {
            None => Ok(()),
            Some((validating, binding, denial)) => Err(refusal(question, validating, *binding, denial)),
        }
    }

    /// What a policy refuses by one of its bindings.
    async fn by_binding<'a>(
        &self,
        scene: &mut Scene<'_>,
        question: &Question<'_>,
        subject: &Subject,
        view: &View,
        (validating, binding): (&'a Validating, &'a Binding),
        purse: &mut Purse,
    ) -> Result<Vec<Refused<'a>>, ApiError> {
        let wrong = |why: &str| Ok(misconfigured(validating, Some(binding), why).into_iter().collect());
        let params = self.params_of(scene, question, subject, &validating.policy, binding).await;
        let params = match params {
            Ok(params) => params,
            Err(why) => return wrong(&why),
        };
        if params.is_empty() {
            return Ok(Vec::new());
        }
        let facts = match scene.facts(self, question, subject, view).await {
            Ok(facts) => facts,
            Err(error) => return wrong(&format!("failed to convert object version: {}", error.message())),
        };
        let namespace = scene.namespace(self, question)?;
        let (mut refused, mut failures) = (Vec::new(), Vec::new());
        for param in params {
            let judge = |purse: &mut Purse| {
                let context = Context::with_policy(&facts, &param.shown, &namespace, &validating.variables);
                validating.judge(&context, purse)
            };
            let Verdict { denials, others, notes } = purse.spend(&self.aside, judge).await?;
            for (key, value) in notes {
                question.warnings.note(&format!("{}/{key}", validating.policy.name), || value);
            }
            if binding.audits && question.warnings.keeps_notes() {
                failures.extend(denials.iter().map(|denial| binding.failure(denial)));
            }
            if binding.warns {
                let (policy, name) = (&validating.policy.name, &binding.name);
                question.warnings.extend(denials.iter().map(|denial| {
                    let why = &denial.message;
                    format!("Validation failed for ValidatingAdmissionPolicy '{policy}' with binding '{name}': {why}")
                }));
            }
            let denied = denials.into_iter().filter(|_| binding.denies).chain(others);
            refused.extend(denied.map(|denial| (validating, Some(binding), denial)));
        }
        if !failures.is_empty() {
            question.warnings.note_more(FAILURES, failures);
        }
        Ok(refused)
    }
}

impl Binding {
    /// What the audit log says of a validation that failed.
    fn failure(&self, denial: &Denial) -> Value {
        let actions = [("Deny", self.denies), ("Warn", self.warns), ("Audit", self.audits)];
        let actions: Vec<&str> = actions.iter().filter(|(_, does)| *does).map(|(name, _)| *name).collect();
        json!({"message": denial.message, "policy": self.policy, "binding": self.name, "expressionIndex": denial.index,
            "validationActions": actions})
    }
}

/// A policy or a binding that can't be used refuses requests, unless failures are ignored.
fn misconfigured<'a>(
    validating: &'a Validating,
    binding: Option<&'a Binding>,
    why: &str,
) -> Option<Refused<'a>> {
    let what = if binding.is_some() { "binding" } else { "policy" };
    let denial = || Denial::wrong(format!("failed to configure {what}: {why}"));
    (!validating.policy.ignores_failure).then(|| (validating, binding, denial()))
}

fn refusal(
    question: &Question<'_>,
    validating: &Validating,
    binding: Option<&Binding>,
    denial: &Denial,
) -> ApiError {
    let by = binding.map(|binding| format!(" with binding '{}'", binding.name)).unwrap_or_default();
    let (policy, why) = (&validating.policy.name, &denial.message);
    let message = format!("ValidatingAdmissionPolicy '{policy}'{by} denied request: {why}");
    let code = match denial.reason {
        Reason::Forbidden => 403,
        Reason::RequestEntityTooLarge => 413,
        _ => 422,
    };
    let plain = ApiError::forbidden(&question.resource(), question.name, &message);
    let cause = Cause { reason: String::new(), message, field: String::new() };
    let details = Details { causes: vec![cause], ..plain.details().cloned().unwrap_or_default() };
    ApiError::new(code, denial.reason, plain.message()).with_details(details)
}
