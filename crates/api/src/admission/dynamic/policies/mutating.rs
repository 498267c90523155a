//! Mutating policies: what they make of an object.

use serde_json::Value;
use yunfan_cel::Value as Cel;
use yunfan_objects::admission::{Sight, change_types, to_json};
use yunfan_objects::error::{Cause, Details};
use yunfan_objects::patch::{self, Unpatched};
use yunfan_objects::{ApiError, Reason};

use super::super::conditions::{Allowance, Composer, Context, Expression, Finding};
use super::super::question::{Question, Subject, View};
use super::super::{Dynamic, Rounds};
use super::{Binding, LIMIT, Policy};
use crate::kinds::Kinds;

/// A MutatingAdmissionPolicy, ready to be run.
#[derive(Debug)]
pub(in crate::admission::dynamic) struct Mutating {
    policy: Policy,
    variables: Vec<Expression>,
    mutations: Vec<Mutation>,
    reinvocable: bool,
}

/// One change.
#[derive(Debug)]
struct Mutation {
    expression: Expression,
    /// Whether it gives steps of a JSON patch, and not fields to lay over the object.
    steps: bool,
}

/// A policy to be run on a request, by one of its bindings and with one parameter.
struct Turn<'a> {
    mutating: &'a Mutating,
    binding: &'a Binding,
    view: View,
    param: Value,
}

/// What a policy could not do: policy, binding and why; and whether that is more than a wrong configuration.
struct Fault {
    message: String,
    invalid: bool,
}

impl Mutating {
    /// Reads a policy and compiles its expressions.
    pub(in crate::admission::dynamic) fn read(policy: &Value) -> Self {
        let (spec, own) = (&policy["spec"], Policy::read(policy));
        let sight = Sight { params: own.params.is_some(), authorizer: true };
        let composer = Composer::of_changes(&spec["variables"], sight);
        let [steps, fields] = change_types();
        let mutation = |one: &Value| match one["patchType"].as_str() {
            Some("JSONPatch") => Mutation {
                expression: composer.trimmed(
                    &one["jsonPatch"]["expression"],
                    sight,
                    std::slice::from_ref(&steps),
                ),
                steps: true,
            },
            _ => Mutation {
                expression: composer.trimmed(
                    &one["applyConfiguration"]["expression"],
                    sight,
                    std::slice::from_ref(&fields),
                ),
                steps: false,
            },
        };
        let mutations = spec["mutations"].as_array().into_iter().flatten().map(mutation).collect();
        let reinvocable = spec["reinvocationPolicy"] == "IfNeeded";
        Self { policy: own, variables: composer.into_variables(), mutations, reinvocable }
    }

    fn fault(&self, binding: Option<&Binding>, invalid: bool, why: &str) -> Option<Fault> {
        let policy = &self.policy.name;
        let message = match binding {
            Some(Binding { name, .. }) => {
                format!("policy '{policy}' with binding '{name}' denied request: {why}")
            }
            None => format!("policy {policy:?} denied request: {why}"),
        };
        (!self.policy.ignores_failure).then_some(Fault { message, invalid })
    }
}

impl Mutation {
    /// The changed object.
    fn run(
        &self,
        context: &Context<'_>,
        question: &Question<'_>,
        view: &View,
        object: &Value,
    ) -> Result<Value, String> {
        let made =
            context.run(&self.expression, &mut Allowance::new(LIMIT)).map_err(|why| why.to_string())?;
        let mut new = if self.steps {
            stepped(object, &made)?
        } else {
            let mut fields = to_json(&made)?;
            for key in ["apiVersion", "kind"] {
                fields[key] = object[key].clone();
            }
            question
                .laid_over(&view.kind, object, &fields)
                .map_err(|why| format!("error applying patch: {why}"))?
        };
        question.settle(&view.kind, &mut new).map_err(|error| error.message().to_owned())?;
        Ok(new)
    }
}

/// The object with the steps of a JSON patch done, or as it was where a test in them does not hold.
fn stepped(object: &Value, steps: &Cel) -> Result<Value, String> {
    match patch::json_tested(object, &to_json(steps)?) {
        Ok(new) => Ok(new),
        Err(Unpatched::Test(_)) => Ok(object.clone()),
        Err(Unpatched::Wrong(error)) => Err(format!("JSON Patch: {}", error.message())),
    }
}

impl Dynamic {
    pub(in crate::admission::dynamic) async fn mutate_by_policies(
        &self,
        kinds: &Kinds,
        question: &Question<'_>,
        subject: &mut Subject,
        rounds: &mut Rounds,
    ) -> Result<(), ApiError> {
        let (policies, bindings) = (self.mutating_policies.all(), self.mutating_bindings.all());
        let (mut turns, mut faults) = (Vec::new(), Vec::new());
        for mutating in policies.iter() {
            let policy = &mutating.policy;
            let view = match policy.criteria.view(self, question, subject) {
                Ok(Some(view)) => view,
                Ok(None) => continue,
                Err(error) => {
                    let why = format!("failed to configure policy: {}", error.message());
                    faults.extend(mutating.fault(None, false, &why));
                    continue;
                }
            };
            for binding in bindings.iter().filter(|binding| binding.policy == policy.name) {
                match self.params_of(kinds, question, subject, policy, binding).await {
                    Ok(params) => turns.extend(params.into_iter().map(|param| {
                        let binding = binding.as_ref();
                        Turn { mutating, binding, view: view.clone(), param }
                    })),
                    Err(why) => {
                        let why = format!("failed to configure binding: {why}");
                        faults.extend(mutating.fault(Some(binding), false, &why));
                    }
                }
            }
        }
        for turn in &turns {
            faults.extend(self.take_turn(question, subject, rounds, turn).await?);
        }
        subject.show_as(&self.webhooks, question, &question.kind).await?;
        match faults.first() {
            None => Ok(()),
            Some(first) => Err(refusal(question, first, &faults)),
        }
    }

    /// Runs a policy on the object; gives what it could not do.
    async fn take_turn(
        &self,
        question: &Question<'_>,
        subject: &mut Subject,
        rounds: &mut Rounds,
        turn: &Turn<'_>,
    ) -> Result<Vec<Fault>, ApiError> {
        let Turn { mutating, binding, view, param } = turn;
        subject.show_as(&self.webhooks, question, &view.kind).await?;
        let namespace = self.namespace_object(question)?;
        let context = Context::new(&self.rbac, question, view, subject);
        let mut context = context.with_policy(param, &namespace, &mutating.variables);
        match mutating.policy.conditions.judge(&context) {
            Finding::Met => {}
            Finding::Unmet => return Ok(Vec::new()),
            Finding::Unknown(why) => {
                return Ok(mutating.fault(Some(binding), true, &why).into_iter().collect());
            }
        }
        let meta = &param["metadata"];
        let id = format!(
            "policy {}/{}/{}/{}",
            mutating.policy.name, binding.name, meta["namespace"], meta["name"]
        );
        if !rounds.asks(&id) {
            return Ok(Vec::new());
        }
        let (before, mut faults) = (subject.object.clone(), Vec::new());
        for mutation in &mutating.mutations {
            let Some(object) = &subject.object else { break };
            match mutation.run(&context, question, view, object) {
                Ok(new) => {
                    context.show_object(&new);
                    subject.object = Some(new);
                }
                Err(why) => faults.extend(mutating.fault(Some(binding), true, &why)),
            }
        }
        let changed = subject.object != before;
        rounds.answered(&id, changed, mutating.reinvocable);
        if changed {
            // Unlike a webhook, a policy is asked again about its own change as well.
            rounds.ask_again();
        }
        Ok(faults)
    }
}

fn refusal(question: &Question<'_>, first: &Fault, all: &[Fault]) -> ApiError {
    let plain = ApiError::forbidden(&question.resource(), question.name, "");
    let cause = |fault: &Fault| Cause { message: fault.message.clone(), ..Cause::default() };
    let causes = all.iter().map(cause).collect();
    let details = Details { causes, ..plain.details().cloned().unwrap_or_default() };
    let reason = if first.invalid { Reason::Invalid } else { Reason::Forbidden };
    ApiError::new(403, reason, first.message.as_str()).with_details(details)
}
