//! Webhooks: servers that are asked about requests over HTTPS.

mod review;
mod told;

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use serde_json::Value;
use yunfan_objects::{ApiError, patch};

use super::book::Page;
use super::conditions::{Conditions, Context, Facts, Finding};
use super::matching::Criteria;
use super::metrics::{Ending, Whom};
use super::purse::Purse;
use super::question::{Question, Subject, View};
use super::{Dynamic, Rounds};
use crate::webhook::ClientTarget;
use review::Answer;

/// How long a hook has where its configuration does not say.
const TIMEOUT: u64 = 10;

/// One webhook of a configuration, ready to be asked.
#[derive(Debug)]
pub(super) struct Hook {
    /// Tells it from all others.
    id: String,
    name: String,
    /// Name of the object that it is in.
    configuration: String,
    criteria: Criteria,
    conditions: Conditions,
    /// Why there is no target is told to whoever needs one.
    target: Result<ClientTarget, String>,
    timeout: Duration,
    /// Whether requests go on when it fails.
    ignores_failure: bool,
    /// Whether it may be asked about dry runs.
    harmless: bool,
    reinvocable: bool,
    /// Versions of reviews that it understands.
    accepted: Vec<String>,
}

/// The webhooks of a configuration.
pub(super) struct Hooks(Vec<Hook>);

impl Page for Hooks {
    fn read(configuration: &Value) -> Self {
        let place = configuration["metadata"]["name"].as_str().unwrap_or_default();
        let hooks = configuration["webhooks"].as_array().into_iter().flatten();
        Self(hooks.enumerate().map(|(index, hook)| Hook::read(place, index, hook)).collect())
    }
}

impl Hook {
    fn read(place: &str, index: usize, hook: &Value) -> Self {
        let name = hook["name"].as_str().unwrap_or_default().to_owned();
        let accepted = hook["admissionReviewVersions"].as_array().into_iter().flatten();
        Self {
            id: format!("{place}/{name}/{index}"),
            configuration: place.to_owned(),
            criteria: Criteria::of_hook(hook),
            conditions: Conditions::read(&hook["matchConditions"], false),
            target: ClientTarget::read(&hook["clientConfig"]),
            timeout: Duration::from_secs(hook["timeoutSeconds"].as_u64().unwrap_or(TIMEOUT)),
            ignores_failure: hook["failurePolicy"] == "Ignore",
            harmless: matches!(hook["sideEffects"].as_str(), Some("None" | "NoneOnDryRun")),
            reinvocable: hook["reinvocationPolicy"] == "IfNeeded",
            accepted: accepted.filter_map(Value::as_str).map(str::to_owned).collect(),
            name,
        }
    }

    fn whom(&self, question: &Question<'_>, mutating: bool) -> Whom<'_> {
        let step = if mutating { "admit" } else { "validating" };
        Whom { name: &self.name, step, operation: question.action.word() }
    }
}

/// When a hook is asked.
#[derive(Clone, Copy, Debug)]
struct Turn {
    mutating: bool,
    /// Whether it is asked once more about an object that was changed meanwhile.
    second: bool,
    /// Its place among all mutating hooks, or among the validating ones that are asked about the request.
    index: usize,
}

/// Why a hook's answer ends a request.
enum Failure {
    /// It could not be asked, or its answer makes no sense; and the code of that.
    Calling(String, u16),
    /// It said no.
    Denied(ApiError),
    /// It asked for what can't be done.
    Wrong(ApiError),
}

impl Dynamic {
    /// Whether a hook's conditions hold. What they see is kept for the next hook that sees the same.
    async fn is_met(
        &self,
        hook: &Hook,
        question: &Question<'_>,
        purse: &mut Purse,
        facts: &mut Option<Facts>,
        (view, subject): (&View, &Subject),
        mutating: bool,
    ) -> Result<bool, ApiError> {
        if hook.conditions.is_empty() {
            return Ok(true);
        }
        let facts = &*facts.get_or_insert_with(|| Facts::new(&self.judge, question, view, subject));
        let judge = |purse: &mut Purse| hook.conditions.judge(&Context::new(facts), purse);
        let finding = purse.spend(&self.aside, judge).await?;
        let whom = hook.whom(question, mutating);
        match finding {
            Finding::Met => Ok(true),
            Finding::Unmet => {
                self.counts.judged(whom, "webhook", false);
                Ok(false)
            }
            Finding::Unknown(why) => {
                self.counts.judged(whom, "webhook", true);
                if hook.ignores_failure {
                    return Ok(false);
                }
                Err(ApiError::forbidden(&question.resource(), question.name, &why))
            }
        }
    }

    pub(super) async fn mutate_by_hooks(
        &self,
        question: &Question<'_>,
        subject: &mut Subject,
        rounds: &mut Rounds,
    ) -> Result<(), ApiError> {
        let mut seen: Option<(View, Option<Facts>)> = None;
        for (index, hook) in self.mutating_hooks.all().iter().flat_map(|hooks| &hooks.0).enumerate() {
            let Some(view) = hook.criteria.view(self, question, subject)? else { continue };
            subject.show_as(&self.webhooks, question, &view.kind).await?;
            let mut facts = seen.take().filter(|(last, _)| *last == view).and_then(|(_, facts)| facts);
            let met =
                self.is_met(hook, question, &mut rounds.purse, &mut facts, (&view, subject), true).await?;
            seen = Some((view.clone(), facts));
            if !met || !rounds.asks(&hook.id) {
                continue;
            }
            let (started, turn) = (Instant::now(), Turn { mutating: true, second: rounds.second, index });
            let answer = self.ask(hook, question, &view, subject, true).await;
            let changed = answer.and_then(|answer| change(hook, question, &view, subject, (turn, answer)));
            told::mutation(question, hook, turn, matches!(changed, Ok(true)));
            let changed = self.judged(hook, question, turn, started, changed)?;
            if changed == Some(true) {
                seen = None;
            }
            rounds.answered(&hook.id, changed == Some(true), hook.reinvocable);
        }
        subject.show_as(&self.webhooks, question, &question.kind).await
    }

    pub(super) async fn validate_by_hooks(
        &self,
        question: &Question<'_>,
        subject: &Subject,
        purse: &mut Purse,
    ) -> Result<(), ApiError> {
        let all = self.validating_hooks.all();
        let mut asked: Vec<(&Hook, View, Arc<Subject>)> = Vec::new();
        // One copy, and one conversion, for all who see the same.
        let mut shown: Vec<(View, Arc<Subject>, Option<Facts>)> = Vec::new();
        for hook in all.iter().flat_map(|hooks| &hooks.0) {
            let Some(view) = hook.criteria.view(self, question, subject)? else { continue };
            let at = match shown.iter().position(|(known, ..)| *known == view) {
                Some(at) => at,
                None => {
                    let mut own = subject.clone();
                    own.show_as(&self.webhooks, question, &view.kind).await?;
                    shown.push((view.clone(), Arc::new(own), None));
                    shown.len() - 1
                }
            };
            let (_, own, facts) = &mut shown[at];
            if self.is_met(hook, question, purse, facts, (&view, own), false).await? {
                asked.push((hook, view, own.clone()));
            }
        }
        // All at once: none sees what another says.
        let answers = asked.iter().enumerate().map(|(index, (hook, view, subject))| async move {
            let (started, turn) = (Instant::now(), Turn { mutating: false, second: false, index });
            let answer = self.ask(hook, question, view, subject, false).await;
            self.judged(hook, question, turn, started, answer.map(drop)).map(drop)
        });
        join_all(answers).await.into_iter().collect()
    }

    /// Asks a hook.
    async fn ask(
        &self,
        hook: &Hook,
        question: &Question<'_>,
        view: &View,
        subject: &Subject,
        mutating: bool,
    ) -> Result<Answer, Failure> {
        if question.dry_run && !hook.harmless {
            let why = format!("admission webhook {:?} does not support dry run", hook.name);
            return Err(Failure::Wrong(ApiError::bad_request(why)));
        }
        let uid = uuid::Uuid::new_v4().to_string();
        let sent = review::question(&hook.accepted, &uid, question.request(view), subject)
            .map_err(|why| Failure::Calling(format!("could not create admission objects: {why}"), 400))?;
        let target = hook.target.as_ref();
        let target =
            target.map_err(|why| Failure::Calling(format!("could not get REST client: {why}"), 500))?;
        let received = self.webhooks.post(target, &sent, hook.timeout).await;
        let received =
            received.map_err(|why| Failure::Calling(format!("failed to call webhook: {why}"), 503))?;
        let answer = review::answer(&sent, &received, mutating)
            .map_err(|why| Failure::Calling(format!("received invalid webhook response: {why}"), 503))?;
        question.warnings.extend(answer.warnings.iter().cloned());
        for (key, value) in &answer.annotations {
            question.warnings.note(&format!("{}/{key}", hook.name), || value.clone());
        }
        match answer.allowed {
            true => Ok(answer),
            false => Err(Failure::Denied(review::denial(&hook.name, &answer.status))),
        }
    }

    /// Counts how a call ended, and says what that means for the request: none where the hook failed and need not
    /// have been asked.
    fn judged<T>(
        &self,
        hook: &Hook,
        question: &Question<'_>,
        turn: Turn,
        started: Instant,
        outcome: Result<T, Failure>,
    ) -> Result<Option<T>, ApiError> {
        let whom = hook.whom(question, turn.mutating);
        let count = |code: u16, refused: Option<&'static str>| {
            self.counts.called(whom, started.elapsed(), Ending { code, refused });
        };
        match outcome {
            Ok(value) => {
                count(200, None);
                Ok(Some(value))
            }
            Err(Failure::Denied(error)) => {
                count(error.code(), Some("no_error"));
                Err(error)
            }
            Err(Failure::Wrong(error)) => {
                count(0, Some("apiserver_internal_error"));
                Err(error)
            }
            Err(Failure::Calling(why, code)) if hook.ignores_failure => {
                count(code, None);
                self.counts.opened(whom);
                told::failed_open(question, hook, turn);
                tracing::warn!(webhook = hook.name, why, "a webhook failed; the request goes on");
                Ok(None)
            }
            Err(Failure::Calling(why, code)) => {
                count(code, Some("calling_webhook_error"));
                Err(ApiError::internal(format!("failed calling webhook {:?}: {why}", hook.name)))
            }
        }
    }
}

/// Changes the object as the answer says; whether that made another one of it.
fn change(
    hook: &Hook,
    question: &Question<'_>,
    view: &View,
    subject: &mut Subject,
    (turn, answer): (Turn, Answer),
) -> Result<bool, Failure> {
    let Some(changes) = answer.patch else { return Ok(false) };
    let undecodable =
        |why: String| Failure::Calling(format!("received undecodable patch in webhook response: {why}"), 503);
    let changes: Value = serde_json::from_slice(&changes).map_err(|error| undecodable(error.to_string()))?;
    let Value::Array(steps) = &changes else { return Err(undecodable("it is no list".to_owned())) };
    if steps.is_empty() {
        return Ok(false);
    }
    let Some(object) = &subject.object else {
        let why = format!(
            "admission webhook {:?} attempted to modify the object, which is not supported for this operation",
            hook.name
        );
        return Err(Failure::Wrong(ApiError::internal(why)));
    };
    let wrong = |error: ApiError| Failure::Wrong(ApiError::internal(error.message()));
    let mut new = patch::json(object, &changes).map_err(wrong)?;
    question.settle(&view.kind, &mut new).map_err(Failure::Wrong)?;
    let changed = new != *object;
    told::patch(question, hook, turn, &changes);
    subject.object = Some(new);
    Ok(changed)
}
