//! The chain with those in it who are asked from outside: webhooks and policies.
//!
//! A write may be tried several times, because others are faster. Who has answered about the very same object
//! is not asked again ([`Memo`]): answers may be slow, and may have effects.

use serde_json::{Value, json};
use yunfan_objects::validations::briefly;
use yunfan_objects::{ApiError, meta, scale};

use super::{Registry, Writer};
use crate::admission::dynamic::{Action, Question, Rounds, Subject};
use crate::admission::{self, Attempt, Operation, Refusal, Validate, WritePlan};
use crate::aside::BRIEF;
use crate::kinds::Kind;

/// Answers so far.
#[derive(Default)]
pub(super) struct Memo {
    /// What was shown, and what came out.
    mutated: Option<(Subject, Value)>,
    allowed: Option<Subject>,
}

/// What it takes to ask others about a write.
pub(super) struct Asking<'a> {
    options: &'a Value,
    dry_run: bool,
    /// Whether the server chose the name: those who may change the object are asked before that.
    generated: bool,
    /// Puts what the server owns into an object that was changed.
    settle: &'a (dyn Fn(&mut Value) + Send + Sync),
    memo: &'a mut Memo,
}

impl<'a> Asking<'a> {
    /// About a change; none where the writer is one whom nobody is asked about.
    pub(super) fn new(
        writer: &'a Writer<'_>,
        settle: &'a (dyn Fn(&mut Value) + Send + Sync),
        memo: &'a mut Memo,
    ) -> Option<Self> {
        Self::of_new(writer, settle, memo, false)
    }

    /// About a new object.
    pub(super) fn of_new(
        writer: &'a Writer<'_>,
        settle: &'a (dyn Fn(&mut Value) + Send + Sync),
        memo: &'a mut Memo,
        generated: bool,
    ) -> Option<Self> {
        let options = writer.options.filter(|_| !writer.system)?;
        Some(Self { options, dry_run: writer.dry_run, generated, settle, memo })
    }

    fn question<'q>(&'q self, attempt: &'q Attempt<'_>) -> Question<'q> {
        let action = match attempt.operation {
            Operation::Create => Action::Create,
            Operation::Update => Action::Update,
            Operation::Delete => Action::Delete,
        };
        let place = (attempt.namespace, attempt.name);
        let about = Question::about(
            attempt.kind,
            action,
            attempt.subresource,
            place,
            attempt.user,
            self.options,
            attempt.warnings,
        );
        Question { dry_run: self.dry_run, ..about }
    }
}

/// An object as it is shown through a subresource.
fn shown(kind: &Kind, subresource: &str, object: &Value) -> Value {
    let scaled = (subresource == "scale").then(|| scale::to_scale(&kind.descriptor, object)).flatten();
    scaled.unwrap_or_else(|| object.clone())
}

fn subject(attempt: &Attempt<'_>) -> Subject {
    let show = |object: &Value| shown(attempt.kind, attempt.subresource, object);
    Subject { object: Some(show(attempt.object)), old: attempt.old.map(show) }
}

/// What the server alone says of an object's identity.
const OWN: [&str; 5] = ["uid", "creationTimestamp", "name", "namespace", "managedFields"];

/// Takes what is not known yet out of a new object.
fn conceal(object: &mut Value, generated: bool) {
    let Some(metadata) = object["metadata"].as_object_mut() else { return };
    for key in OWN.iter().take(if generated { 3 } else { 2 }) {
        metadata.remove(*key);
    }
}

/// Puts the object's identity back into it. Who manages which field was noted before: what others change is nobody's.
fn restore(object: &mut Value, before: &Value, generated: bool) -> Result<(), ApiError> {
    for key in ["name", "namespace"] {
        let (was, is) = (&before["metadata"][key], &object["metadata"][key]);
        if was != is && !(generated && key == "name" && is.is_null()) {
            return Err(ApiError::internal(format!("metadata.{key} may not be changed by admission")));
        }
    }
    if !object["metadata"].is_object() {
        return Err(ApiError::internal("metadata may not be taken away by admission"));
    }
    for key in OWN {
        match before["metadata"].get(key) {
            Some(value) => object["metadata"][key] = value.clone(),
            None => {
                object["metadata"].as_object_mut().map(|metadata| metadata.remove(key));
            }
        }
    }
    Ok(())
}

impl Registry {
    /// The whole chain.
    pub(super) async fn run_chain(
        &self,
        attempt: &mut Attempt<'_>,
        plan: &mut WritePlan,
        valid: Validate<'_>,
        asking: Option<Asking<'_>>,
    ) -> Result<(), Refusal> {
        let mut asking = asking;
        let mut step = self.steps.begin(attempt.operation);
        let mut given = admission::fill(&self.view(), attempt, plan, valid)?;
        if let Some(asking) = asking.as_mut().filter(|_| self.dynamic.mutates()) {
            let before = attempt.object.clone();
            self.ask_to_change(attempt, asking, valid).await?;
            if *attempt.object != before {
                // What they put in is asked for as what the client itself put in.
                let (filled, mut own) =
                    (admission::claims_of(attempt, &before), admission::claims_of(attempt, attempt.object));
                own.retain(|claim| !filled.contains(claim));
                given.extend(own);
                *plan = WritePlan::default();
                admission::fill(&self.view(), attempt, plan, valid)?;
            }
        }
        admission::allocate(&self.view(), attempt, plan)?;
        step.pass();
        self.check(attempt, valid).await?;
        if let Some(asking) = asking.as_mut().filter(|_| self.dynamic.validates()) {
            let subject = subject(attempt);
            if asking.memo.allowed.as_ref() != Some(&subject) {
                self.dynamic.validate(&self.kinds, &asking.question(attempt), &subject).await?;
                asking.memo.allowed = Some(subject);
            }
        }
        admission::charge(&self.view(), attempt, &given, plan)?;
        step.pass();
        Ok(())
    }

    /// Runs the links that refuse; anew, and aside, where a definition's rules take long.
    async fn check(&self, attempt: &mut Attempt<'_>, valid: Validate<'_>) -> Result<(), Refusal> {
        match briefly(BRIEF, || admission::check(&self.view(), attempt, valid)) {
            Some(done) => done,
            None => Box::pin(self.aside.run(|| admission::check(&self.view(), attempt, valid))).await?,
        }
    }

    /// Has others change the object, in two rounds where it was changed in the first.
    async fn ask_to_change(
        &self,
        attempt: &mut Attempt<'_>,
        asking: &mut Asking<'_>,
        valid: Validate<'_>,
    ) -> Result<(), Refusal> {
        let mut first = subject(attempt);
        let creates = attempt.operation == Operation::Create;
        if let (true, Some(object)) = (creates, &mut first.object) {
            conceal(object, asking.generated);
        }
        if let Some((_, after)) = asking.memo.mutated.as_ref().filter(|(before, _)| *before == first) {
            let mut after = after.clone();
            if creates {
                // The name may be another one than it was then.
                conceal(&mut after, asking.generated);
            }
            restore(&mut after, &attempt.object.clone(), asking.generated && creates)?;
            *attempt.object = after;
            return Ok(());
        }
        let mut rounds = Rounds::default();
        let mut subject = first.clone();
        self.one_round(attempt, asking, &mut subject, &mut rounds).await?;
        if rounds.changed {
            let answered = attempt.object.clone();
            admission::fill(&self.view(), attempt, &mut WritePlan::default(), valid)?;
            rounds.next(*attempt.object != answered);
            subject.object = Some(shown(attempt.kind, attempt.subresource, attempt.object));
            if let (true, Some(object)) = (creates, &mut subject.object) {
                conceal(object, asking.generated);
            }
            self.one_round(attempt, asking, &mut subject, &mut rounds).await?;
        }
        asking.memo.mutated = Some((first, attempt.object.clone()));
        Ok(())
    }

    /// One round; the attempt's object is what came out.
    async fn one_round(
        &self,
        attempt: &mut Attempt<'_>,
        asking: &Asking<'_>,
        subject: &mut Subject,
        rounds: &mut Rounds,
    ) -> Result<(), Refusal> {
        let generated = asking.generated && attempt.operation == Operation::Create;
        let mut question = asking.question(attempt);
        if generated {
            question.name = "";
        }
        self.dynamic.mutate(&self.kinds, &question, subject, rounds).await?;
        if !rounds.changed {
            return Ok(());
        }
        let Some(object) = &subject.object else { return Ok(()) };
        let mut new = match attempt.subresource {
            "scale" => scale::apply_scale(&attempt.kind.descriptor, attempt.object, object)?,
            _ => object.clone(),
        };
        restore(&mut new, attempt.object, generated)?;
        (asking.settle)(&mut new);
        // Settling may not put back what was noted of managers either.
        new["metadata"]["managedFields"] = attempt.object["metadata"]["managedFields"].clone();
        drop_null(&mut new);
        attempt.warnings.extend(single_owners(&mut new, AFTER));
        *attempt.object = new;
        Ok(())
    }

    /// Asks about something that is not stored: a Binding, an Eviction, the options of a stream. Gives the object as it
    /// was changed.
    ///
    /// # Errors
    /// What somebody refuses.
    pub(crate) async fn ask(&self, question: &Question<'_>, object: Value) -> Result<Value, ApiError> {
        let mut subject = Subject { object: Some(object), old: None };
        if self.dynamic.mutates() {
            let mut rounds = Rounds::default();
            self.dynamic.mutate(&self.kinds, question, &mut subject, &mut rounds).await?;
            if rounds.changed {
                rounds.next(false);
                self.dynamic.mutate(&self.kinds, question, &mut subject, &mut rounds).await?;
            }
        }
        if self.dynamic.validates() {
            self.dynamic.validate(&self.kinds, question, &subject).await?;
        }
        Ok(subject.object.unwrap_or_default())
    }

    /// Asks about a deletion: of one among many without its name.
    pub(super) async fn ask_deletion(
        &self,
        writer: &Writer<'_>,
        kind: &Kind,
        place: (&str, &str),
        collection: bool,
        old: &Value,
        memo: &mut Memo,
    ) -> Result<(), ApiError> {
        let Some(options) = writer.options.filter(|_| !writer.system) else { return Ok(()) };
        if !self.dynamic.mutates() && !self.dynamic.validates() {
            return Ok(());
        }
        let namespace = if kind.descriptor.namespaced { place.0 } else { "" };
        let place = (namespace, place.1);
        let about = Question::about(kind, Action::Delete, "", place, writer.user, options, writer.warnings);
        let name = if collection { "" } else { place.1 };
        let question = Question { dry_run: writer.dry_run, name, ..about };
        let mut subject = Subject { object: None, old: Some(old.clone()) };
        if memo.allowed.as_ref() == Some(&subject) {
            return Ok(());
        }
        self.dynamic.mutate(&self.kinds, &question, &mut subject, &mut Rounds::default()).await?;
        self.dynamic.validate(&self.kinds, &question, &subject).await?;
        memo.allowed = Some(subject);
        Ok(())
    }
}

/// What is said of owners that became the same ones on the way.
pub(crate) const AFTER: &str = " after mutating admission happens";

/// Drops owners that are there twice, and warns of them. `when` says so where it is known only then.
pub(crate) fn single_owners(object: &mut Value, when: &str) -> Option<String> {
    let uids = meta::drop_repeated_owners(object);
    (!uids.is_empty()).then(|| {
        format!(
            ".metadata.ownerReferences contains duplicate entries{when}; API server dedups owner references in 1.20+, and may reject such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: {}",
            uids.join(", ")
        )
    })
}

fn drop_null(object: &mut Value) {
    if object["metadata"]["managedFields"] == json!(null)
        && let Some(metadata) = object["metadata"].as_object_mut()
    {
        metadata.remove("managedFields");
    }
}
