//! Expressions at work: what they see of a request, and conditions that must hold before anybody is asked.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::Value as Json;
use yunfan_cel::{Budget, EvalError, Lookup, Program, Type, Value};
use yunfan_identity::{Attributes, UserInfo};
use yunfan_objects::admission::{
    Access, Authority, Compiler, REQUEST_RESOURCE, Sight, VARIABLES, authorizer, resource_check, to_cel,
};

use yunfan_objects::selector::LabelSelector;

use super::purse::{Allowance, Purse};
use super::question::{Question, Subject, View};
use crate::chain::Judge;
use crate::door::path::{field_terms, label_terms};

/// Most units of all conditions of a webhook, or of a binding of a policy.
const CONDITIONS_LIMIT: u64 = 2_500_000;
/// What is said where the limit for all is reached.
const SPENT: &str =
    "validation failed due to running out of cost budget, no further validation rules will be run";

/// Asks what the request's user may do.
#[derive(Clone)]
struct Roles {
    judge: Judge,
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
        // What can't be read says nothing, and an answer without it is the stricter one.
        let selected = field_terms(&access.field_selector).unwrap_or_default();
        let labels = LabelSelector::parse(&access.label_selector).map(|read| label_terms(&read));
        let labels = labels.unwrap_or_default();
        let decision = self.judge.authorize_here(&Attributes {
            user,
            verb: &access.verb,
            group: &access.group,
            version: &access.version,
            resource: &access.resource,
            subresource: &access.subresource,
            namespace: &access.namespace,
            name: &access.name,
            path: &access.path,
            selected: &selected,
            labels: &labels,
        });
        (decision.is_allowed(), decision.reason().to_owned())
    }
}

/// An expression of a webhook or a policy.
#[derive(Debug)]
pub(super) struct Expression {
    pub(super) source: String,
    program: Result<Program, String>,
    /// The variables that it names, by their place among all of the policy.
    names: BTreeMap<String, usize>,
    /// The places of those and of all that they need themselves, in order.
    needs: BTreeSet<usize>,
}

/// The expressions of one policy, while it is read.
#[derive(Debug)]
pub(super) struct Composer {
    compiler: Compiler,
    variables: Vec<Expression>,
    /// Where the last variable of a name is.
    places: BTreeMap<String, usize>,
}

impl Composer {
    /// For a webhook or a policy with these variables.
    pub(super) fn new(variables: &Json, sight: Sight) -> Self {
        let none = variables.as_array().is_none_or(Vec::is_empty);
        Self::with(if none { Compiler::new() } else { Compiler::composed() }, variables, sight)
    }

    /// For a policy that changes objects.
    pub(super) fn of_changes(variables: &Json, sight: Sight) -> Self {
        Self::with(Compiler::changing(), variables, sight)
    }

    fn with(compiler: Compiler, variables: &Json, sight: Sight) -> Self {
        let list = variables.as_array().map(Vec::as_slice).unwrap_or_default();
        let mut new = Self { compiler, variables: Vec::new(), places: BTreeMap::new() };
        for variable in list {
            let text = |key: &str| variable[key].as_str().unwrap_or_default();
            let program = new.compiler.variable(text("name"), text("expression"), sight);
            let mut expression = new.resolve(text("expression"), program);
            // Whoever names it is told so, and not before.
            let failed = |why| format!("composited variable {:?} fails to compile: {why}", text("name"));
            expression.program = expression.program.map_err(failed);
            new.places.insert(text("name").to_owned(), new.variables.len());
            new.variables.push(expression);
        }
        new
    }

    /// Compiles an expression that gives one of these types; of any type where there are none.
    pub(super) fn expression(&self, source: &Json, sight: Sight, wanted: &[Type]) -> Expression {
        let source = source.as_str().unwrap_or_default();
        self.resolve(source, self.compiler.compile(source, sight, wanted))
    }

    /// The same, of a source that may stand between blanks.
    pub(super) fn trimmed(&self, source: &Json, sight: Sight, wanted: &[Type]) -> Expression {
        let source = source.as_str().unwrap_or_default().trim();
        self.resolve(source, self.compiler.compile(source, sight, wanted))
    }

    fn resolve(&self, source: &str, program: Result<Program, String>) -> Expression {
        let named = program.as_ref().map(|program| program.fields_of(VARIABLES)).unwrap_or_default();
        let names: BTreeMap<String, usize> =
            named.into_iter().filter_map(|name| Some((name.clone(), *self.places.get(&name)?))).collect();
        let mut needs = BTreeSet::new();
        for place in names.values() {
            needs.extend(self.variables[*place].needs.iter().copied());
            needs.insert(*place);
        }
        Expression { source: source.to_owned(), program, names, needs }
    }

    /// The variables, once all is read.
    pub(super) fn into_variables(self) -> Vec<Expression> {
        self.variables
    }
}

/// Why an expression has no value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wrong {
    /// What is left for all expressions is used up.
    Spent,
    /// In words.
    Said(String),
}

impl std::fmt::Display for Wrong {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Spent => out.write_str(SPENT),
            Self::Said(why) => out.write_str(why),
        }
    }
}

/// What all expressions see of a request in one view, in their own form. A copy is cheap.
#[derive(Clone)]
pub(super) struct Facts {
    object: Value,
    old: Value,
    request: Value,
    authorizer: Value,
    request_resource: Value,
}

impl Facts {
    /// Those of a request as it is shown in a view: the objects are in its version.
    pub(super) fn new(judge: &Judge, question: &Question<'_>, view: &View, subject: &Subject) -> Self {
        let roles: Arc<dyn Authority> = Arc::new(Roles { judge: judge.clone(), user: question.user.clone() });
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
            object: of(&subject.object),
            old: of(&subject.old),
            request: to_cel(&question.request(view)),
            authorizer: authorizer(roles.clone()),
            request_resource: resource_check(roles, access),
        }
    }

    /// Shows another object.
    pub(super) fn show_object(&mut self, object: &Json) {
        self.object = to_cel(object);
    }
}

/// What the expressions of a webhook or a policy see.
pub(super) struct Context<'a> {
    given: Vec<(&'static str, Value)>,
    request_resource: Value,
    /// The policy's variables, and what came out of those that were needed so far.
    variables: &'a [Expression],
    values: RefCell<Vec<Option<Result<Value, EvalError>>>>,
}

impl<'a> Context<'a> {
    /// Of a webhook.
    pub(super) fn new(facts: &Facts) -> Self {
        Self::with_policy(facts, &Value::Null, &Value::Null, &[])
    }

    /// Of a policy, which sees its parameters and variables, and the request's namespace, as well.
    pub(super) fn with_policy(
        facts: &Facts,
        params: &Value,
        namespace: &Value,
        variables: &'a [Expression],
    ) -> Self {
        Self {
            given: vec![
                ("object", facts.object.clone()),
                ("oldObject", facts.old.clone()),
                ("request", facts.request.clone()),
                ("namespaceObject", namespace.clone()),
                ("params", params.clone()),
                ("authorizer", facts.authorizer.clone()),
            ],
            request_resource: facts.request_resource.clone(),
            variables,
            values: RefCell::new(vec![None; variables.len()]),
        }
    }

    /// The changed object, for what comes next; variables are computed anew.
    pub(super) fn show_object(&mut self, facts: &Facts) {
        if let Some((_, value)) = self.given.iter_mut().find(|(name, _)| *name == "object") {
            *value = facts.object.clone();
        }
        self.values = RefCell::new(vec![None; self.variables.len()]);
    }

    /// Runs an expression within what is `left` for it and others. The variables that it names are there before it runs:
    /// so none of them can be as deep as all of them together.
    ///
    /// # Errors
    /// Why there is no value.
    pub(super) fn run(&self, expression: &Expression, left: &mut Allowance<'_>) -> Result<Value, Wrong> {
        let program = expression.program.as_ref();
        let program = program.map_err(|why| Wrong::Said(format!("compilation error: {why}")))?;
        if left.is_spent() {
            return Err(Wrong::Spent);
        }
        for place in &expression.needs {
            if self.values.borrow()[*place].is_some() {
                continue;
            }
            let variable = &self.variables[*place];
            let value = match &variable.program {
                Ok(program) => self.single(program, &variable.names, left),
                Err(why) => Err(EvalError::failed(why.as_str())),
            };
            if matches!(value, Err(EvalError::Limit)) && left.is_spent() {
                return Err(Wrong::Spent);
            }
            self.values.borrow_mut()[*place] = Some(value);
        }
        self.single(program, &expression.names, left).map_err(|error| match error {
            EvalError::Limit if left.is_spent() => Wrong::Spent,
            error => Wrong::Said(format!("expression '{}' resulted in error: {error}", expression.source)),
        })
    }

    fn single(
        &self,
        program: &Program,
        names: &BTreeMap<String, usize>,
        left: &mut Allowance<'_>,
    ) -> Result<Value, EvalError> {
        left.run(|budget| program.run_with(&self.given, &Known { context: self, names }, budget))
    }
}

/// What one expression finds behind a dot.
struct Known<'a> {
    context: &'a Context<'a>,
    names: &'a BTreeMap<String, usize>,
}

impl Lookup for Known<'_> {
    fn get(&self, space: &str, field: &str, _: &mut Budget) -> Option<Result<Value, EvalError>> {
        if (space, field) == REQUEST_RESOURCE {
            return Some(Ok(self.context.request_resource.clone()));
        }
        if space != VARIABLES {
            return None;
        }
        let place = *self.names.get(field)?;
        let value = self.context.values.borrow().get(place).cloned().flatten()?;
        Some(value.map_err(|why| match why {
            EvalError::Limit => EvalError::Limit,
            why => EvalError::failed(format!("composited variable {field:?} fails to evaluate: {why}")),
        }))
    }
}

/// All conditions of a webhook or a policy.
#[derive(Debug)]
pub(super) struct Conditions(Vec<Expression>);

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
        let sight = Sight { params, authorizer: true };
        let composer = Composer::new(&Json::Null, sight);
        let each = list.as_array().into_iter().flatten();
        Self(each.map(|one| composer.expression(&one["expression"], sight, &[Type::Bool])).collect())
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What they say.
    pub(super) fn judge(&self, context: &Context<'_>, purse: &mut Purse) -> Finding {
        let (mut left, mut wrongs) = (Allowance::new(CONDITIONS_LIMIT, purse), Vec::new());
        for condition in &self.0 {
            match context.run(condition, &mut left) {
                Ok(Value::Bool(false)) => return Finding::Unmet,
                Ok(_) => {}
                Err(Wrong::Spent) => return Finding::Unknown(SPENT.to_owned()),
                Err(Wrong::Said(why)) => wrongs.push(why),
            }
        }
        match wrongs.as_slice() {
            [] => Finding::Met,
            [one] => Finding::Unknown(one.clone()),
            many => Finding::Unknown(format!("[{}]", many.join(", "))),
        }
    }
}
