//! Mutating policies: what they make of an object.

use serde_json::Value;
use yunfan_cel::Value as Cel;
use yunfan_objects::admission::{Sight, change_types, to_json};
use yunfan_objects::error::{Cause, Details};
use yunfan_objects::patch::{self, Unpatched};
use yunfan_objects::{ApiError, Reason};

use super::super::book::Page;
use super::super::conditions::{Composer, Context, Expression, Facts, Finding};
use super::super::purse::{Allowance, Purse};
use super::super::question::{Question, Subject, View};
use super::super::{Dynamic, Rounds};
use super::{Binding, LIMIT, Param, Policy, Scene};
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
    param: Param,
}

/// What came of a turn.
#[derive(Default)]
struct Outcome {
    /// The object as it is now, also as expressions see it; nothing where it is as it was.
    changed: Option<(Value, Facts)>,
    faults: Vec<Fault>,
    /// Whether the policy was asked, and not only its conditions.
    ran: bool,
}

/// What a policy could not do: policy, binding and why; and whether that is more than a wrong configuration.
struct Fault {
    message: String,
    invalid: bool,
}

impl Page for Mutating {
    /// Compiles its expressions.
    fn read(policy: &Value) -> Self {
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
}

impl Mutating {
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

impl Turn<'_> {
    /// Tells it from all others.
    fn id(&self) -> String {
        let (namespace, name) = &self.param.place;
        format!("policy {}/{}/{namespace}/{name}", self.mutating.policy.name, self.binding.name)
    }

    /// Runs the policy on the object as it is `before`, where its conditions hold and it is to be `asked`.
    fn run(
        &self,
        question: &Question<'_>,
        (facts, namespace): (&Facts, &Cel),
        before: Option<&Value>,
        asked: bool,
        purse: &mut Purse,
    ) -> Outcome {
        let Self { mutating, binding, view, param } = self;
        let mut out = Outcome::default();
        let mut context = Context::with_policy(facts, &param.shown, namespace, &mutating.variables);
        match mutating.policy.conditions.judge(&context, purse) {
            Finding::Met => {}
            Finding::Unmet => return out,
            Finding::Unknown(why) => {
                out.faults.extend(mutating.fault(Some(binding), true, &why));
                return out;
            }
        }
        if !asked {
            return out;
        }
        out.ran = true;
        for mutation in &mutating.mutations {
            let Some(object) = out.changed.as_ref().map(|(object, _)| object).or(before) else { break };
            match mutation.run(&context, question, view, object, purse) {
                Ok(new) if new == *object => {}
                Ok(new) => {
                    let mut shown = facts.clone();
                    shown.show_object(&new);
                    context.show_object(&shown);
                    out.changed = Some((new, shown));
                }
                Err(why) => out.faults.extend(mutating.fault(Some(binding), true, &why)),
            }
        }
        out.changed = out.changed.filter(|(new, _)| Some(new) != before);
        out
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
        purse: &mut Purse,
    ) -> Result<Value, String> {
        let made = context.run(&self.expression, &mut Allowance::new(LIMIT, purse));
        let made = made.map_err(|why| why.to_string())?;
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
        let (mut turns, mut faults, mut scene) = (Vec::new(), Vec::new(), Scene::new(kinds));
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
            for binding in bindings.of(&policy.name) {
                match self.params_of(&mut scene, question, subject, policy, binding).await {
                    Ok(params) => turns.extend(params.into_iter().map(|param| Turn {
                        mutating,
                        binding,
                        view: view.clone(),
                        param,
                    })),
                    Err(why) => {
                        let why = format!("failed to configure binding: {why}");
                        faults.extend(mutating.fault(Some(binding), false, &why));
                    }
                }
            }
        }
        let mut seen: Option<(&View, Facts)> = None;
        for turn in &turns {
            subject.show_as(&self.webhooks, question, &turn.view.kind).await?;
            let facts = match seen.take() {
                Some((view, facts)) if *view == turn.view => facts,
                _ => Facts::new(&self.judge, question, &turn.view, subject),
            };
            let (namespace, id) = (scene.namespace(self, question)?, turn.id());
            let (asked, before) = (rounds.asks(&id), subject.object.as_ref());
            let run = |purse: &mut Purse| turn.run(question, (&facts, &namespace), before, asked, purse);
            let outcome = rounds.purse.spend(&self.aside, run).await?;
            faults.extend(outcome.faults);
            if outcome.ran {
                rounds.answered(&id, outcome.changed.is_some(), turn.mutating.reinvocable);
            }
            let mut facts = facts;
            if let Some((object, shown)) = outcome.changed {
                (subject.object, facts) = (Some(object), shown);
                // Unlike a webhook, a policy is asked again about its own change as well.
                rounds.ask_again();
            }
            seen = Some((&turn.view, facts));
        }
        subject.show_as(&self.webhooks, question, &question.kind).await?;
        match faults.first() {
            None => Ok(()),
            Some(first) => Err(refusal(question, first, &faults)),
        }
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
