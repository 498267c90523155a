//! Who is asked about a request: rules, selectors, and whether other versions of the resource count.

use serde_json::Value;
use yunfan_objects::ApiError;
use yunfan_objects::selector::LabelSelector;

use super::Dynamic;
use super::question::{Action, Question, Subject, View};

/// What of requests somebody wants to be asked about.
#[derive(Debug)]
pub(super) struct Criteria {
    rules: Vec<Rule>,
    /// Those that are not meant, whatever the rules say.
    excluded: Vec<Rule>,
    /// Whether a request counts that would match in another version.
    equivalent: bool,
    /// Without rules all requests are meant, and not none.
    open: bool,
    namespaces: Result<LabelSelector, String>,
    objects: Result<LabelSelector, String>,
}

/// Which requests on which resources.
#[derive(Debug)]
struct Rule {
    operations: Vec<String>,
    groups: Vec<String>,
    versions: Vec<String>,
    /// Resource and subresource.
    resources: Vec<(String, String)>,
    scope: String,
    /// Names of objects; empty for all.
    names: Vec<String>,
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn any(words: &[String], word: &str) -> bool {
    words.iter().any(|known| known == "*" || known == word)
}

impl Rule {
    fn read(rule: &Value) -> Self {
        let split = |text: String| match text.split_once('/') {
            Some((resource, below)) => (resource.to_owned(), below.to_owned()),
            None => (text, String::new()),
        };
        Self {
            operations: texts(&rule["operations"]),
            groups: texts(&rule["apiGroups"]),
            versions: texts(&rule["apiVersions"]),
            resources: texts(&rule["resources"]).into_iter().map(split).collect(),
            scope: rule["scope"].as_str().unwrap_or("*").to_owned(),
            names: texts(&rule["resourceNames"]),
        }
    }

    fn matches(&self, question: &Question<'_>, view: &View) -> bool {
        // A Namespace is of the cluster, though it is told which one it is by its own name.
        let in_cluster =
            question.namespace.is_empty() || (view.group.is_empty() && view.plural == "namespaces");
        let scope = match self.scope.as_str() {
            "*" => true,
            "Namespaced" => !in_cluster,
            "Cluster" => in_cluster,
            _ => false,
        };
        let is = |word: &str, given: &str| word == "*" || word == given;
        let resource = |(resource, below): &(String, String)| {
            is(resource, &view.plural) && is(below, question.subresource)
        };
        scope
            && any(&self.operations, question.action.word())
            && any(&self.groups, &view.group)
            && any(&self.versions, &view.version)
            && self.resources.iter().any(resource)
            && (self.names.is_empty() || self.names.iter().any(|name| name == question.name))
    }
}

impl Criteria {
    /// Those of a webhook.
    pub(super) fn of_hook(hook: &Value) -> Self {
        Self { open: false, ..Self::read(hook, "rules") }
    }

    /// Those of a policy, or of a binding.
    pub(super) fn of_policy(resources: &Value) -> Self {
        Self::read(resources, "resourceRules")
    }

    /// What both webhooks and policies say.
    fn read(value: &Value, rules: &str) -> Self {
        let all = |key: &str| value[key].as_array().into_iter().flatten().map(Rule::read).collect();
        let selector = |key: &str| match &value[key] {
            // What is stored has a default; nothing selects everything here.
            Value::Null => Ok(LabelSelector::default()),
            given => LabelSelector::from_object(given),
        };
        Self {
            rules: all(rules),
            excluded: all("excludeResourceRules"),
            equivalent: value["matchPolicy"] != "Exact",
            open: true,
            namespaces: selector("namespaceSelector"),
            objects: selector("objectSelector"),
        }
    }

    /// How whoever is asked is to see the request, if it is one that they want to be asked about.
    ///
    /// # Errors
    /// 404 where the request's namespace is not there, 500 where a selector can't be read.
    pub(super) fn view(
        &self,
        dynamic: &Dynamic,
        question: &Question<'_>,
        subject: &Subject,
    ) -> Result<Option<View>, ApiError> {
        if self.matched(&self.excluded, question).is_some() {
            return Ok(None);
        }
        let found = match self.open && self.rules.is_empty() {
            true => Some(question.own_view()),
            false => self.matched(&self.rules, question),
        };
        let Some(view) = found else { return Ok(None) };
        let selected =
            self.selects_object(question, subject)? && self.selects_namespace(dynamic, question, subject)?;
        Ok(selected.then_some(view))
    }

    fn matched(&self, rules: &[Rule], question: &Question<'_>) -> Option<View> {
        let own = question.own_view();
        if rules.iter().any(|rule| rule.matches(question, &own)) {
            return Some(own);
        }
        if !self.equivalent || rules.is_empty() {
            return None;
        }
        let others = question.other_views();
        rules.iter().find_map(|rule| others.iter().find(|other| rule.matches(question, other))).cloned()
    }

    fn selects_object(&self, question: &Question<'_>, subject: &Subject) -> Result<bool, ApiError> {
        let selector = self.objects.as_ref().map_err(ApiError::internal)?;
        // The options of a stream have no metadata: that is not the same as no labels.
        let labelled = question.action != Action::Connect;
        let matches = |object: &Option<Value>| object.as_ref().is_some_and(|o| selector.matches_object(o));
        Ok(selector.is_empty() || labelled && (matches(&subject.object) || matches(&subject.old)))
    }

    fn selects_namespace(
        &self,
        dynamic: &Dynamic,
        question: &Question<'_>,
        subject: &Subject,
    ) -> Result<bool, ApiError> {
        if question.namespace.is_empty() && question.plural != "namespaces" {
            // What is in no namespace is never let off by one.
            return Ok(true);
        }
        let selector = self.namespaces.as_ref().map_err(ApiError::internal)?;
        if selector.is_empty() {
            return Ok(true);
        }
        Ok(selector.matches(&dynamic.namespace_labels(question, subject)?))
    }
}
