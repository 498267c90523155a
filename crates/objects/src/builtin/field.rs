//! A value inside an object together with its path, so that validation reads as a list of rules.

use std::collections::HashSet;

use serde_json::Value;

use crate::builtin::formats::Rule;
use crate::error::FieldError;
use crate::meta::{all_wrong, label_value, qualified_name, validate_labels};

/// A value inside an object, and the path that messages call it by.
#[derive(Clone, Debug)]
pub(super) struct Field<'a> {
    pub(super) value: &'a Value,
    pub(super) path: String,
}

static ABSENT: Value = Value::Null;

impl<'a> Field<'a> {
    /// A whole object.
    pub(super) fn root(object: &'a Value) -> Self {
        Self { value: object, path: String::new() }
    }

    /// The value of a key; null where it is absent.
    pub(super) fn at(&self, key: &str) -> Self {
        let path = if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) };
        Self { value: self.value.get(key).unwrap_or(&ABSENT), path }
    }

    /// The value at a path of keys.
    pub(super) fn under(&self, keys: &[&str]) -> Self {
        keys.iter().fold(self.clone(), |field, key| field.at(key))
    }

    /// The items of a list; none where there is no list.
    pub(super) fn items(&self) -> impl Iterator<Item = Field<'a>> + use<'a> {
        let path = self.path.clone();
        self.list()
            .iter()
            .enumerate()
            .map(move |(index, value)| Field { value, path: format!("{path}[{index}]") })
    }

    /// The list; empty where there is none.
    pub(super) fn list(&self) -> &'a [Value] {
        self.value.as_array().map(Vec::as_slice).unwrap_or_default()
    }

    /// The text; empty where there is none.
    pub(super) fn text(&self) -> &'a str {
        self.value.as_str().unwrap_or_default()
    }

    /// The whole number.
    pub(super) fn number(&self) -> Option<i64> {
        self.value.as_i64()
    }

    /// Whether it is there.
    pub(super) fn is_given(&self) -> bool {
        !self.value.is_null()
    }

    /// It must be given.
    pub(super) fn required(&self, detail: &str) -> FieldError {
        FieldError::required(self.path.as_str(), detail)
    }

    /// Its value is wrong.
    pub(super) fn invalid(&self, detail: impl Into<String>) -> FieldError {
        FieldError::invalid(self.path.as_str(), self.value.clone(), detail)
    }

    /// It may not be given, or not be changed.
    pub(super) fn forbidden(&self, detail: impl Into<String>) -> FieldError {
        FieldError::forbidden(self.path.as_str(), detail)
    }

    /// It repeats another one.
    pub(super) fn duplicate(&self) -> FieldError {
        FieldError::duplicate(self.path.as_str(), self.value.clone())
    }

    /// All that is wrong with a text by the rule; one that is absent counts as empty.
    pub(super) fn obeys(&self, rule: Rule) -> Vec<FieldError> {
        all_wrong(&self.path, self.text(), rule(self.text())).collect()
    }

    /// Refuses a text that is given and breaks the rule.
    pub(super) fn follows(&self, rule: Rule) -> Vec<FieldError> {
        if self.value.is_string() { self.obeys(rule) } else { Vec::new() }
    }

    /// Refuses a text that is given, not empty, and breaks the rule.
    pub(super) fn may_follow(&self, rule: Rule) -> Vec<FieldError> {
        if self.text().is_empty() { Vec::new() } else { self.obeys(rule) }
    }

    /// Refuses a text that is absent, empty, or breaks the rule.
    pub(super) fn needs(&self, rule: Rule) -> Vec<FieldError> {
        if self.text().is_empty() { vec![self.required("")] } else { self.obeys(rule) }
    }

    /// Refuses an absent or empty text or list.
    pub(super) fn must_be_given(&self, detail: &str) -> Option<FieldError> {
        (self.text().is_empty() && self.list().is_empty()).then(|| self.required(detail))
    }

    /// Refuses a text that is given and none of these.
    pub(super) fn one_of(&self, allowed: &[&str]) -> Option<FieldError> {
        let given = self.value.as_str()?;
        (!allowed.contains(&given)).then(|| FieldError::not_supported(self.path.as_str(), given, allowed))
    }

    /// Refuses a text that is absent or none of these.
    pub(super) fn must_be_one_of(&self, allowed: &[&str]) -> Option<FieldError> {
        if self.text().is_empty() { Some(self.required("")) } else { self.one_of(allowed) }
    }

    /// Refuses a number below this one.
    pub(super) fn at_least(&self, least: i64) -> Option<FieldError> {
        let given = self.number()?;
        (given < least).then(|| self.invalid(format!("must be greater than or equal to {least}")))
    }

    /// Refuses a number that is no port.
    pub(super) fn port(&self) -> Option<FieldError> {
        let given = self.number()?;
        (!(1..=65535).contains(&given)).then(|| self.invalid("must be between 1 and 65535, inclusive"))
    }

    /// Refuses a list of more than so many items.
    pub(super) fn at_most(&self, limit: usize) -> Option<FieldError> {
        let count = self.list().len();
        (count > limit).then(|| FieldError::too_many(self.path.as_str(), count as u64, limit as u64))
    }

    /// Refuses a text of more than so many bytes.
    pub(super) fn no_longer_than(&self, limit: usize) -> Option<FieldError> {
        (self.text().len() > limit).then(|| FieldError::too_long(self.path.as_str(), limit as u64))
    }

    /// Refuses another value than the old object has here.
    pub(super) fn same_as(&self, old: &Field<'_>) -> Option<FieldError> {
        (self.value != old.value).then(|| self.invalid("field is immutable"))
    }

    /// Refuses items of a list that repeat an earlier one.
    pub(super) fn distinct(&self) -> Vec<FieldError> {
        let mut seen = HashSet::new();
        self.items().filter(|item| !seen.insert(item.value)).map(|item| item.duplicate()).collect()
    }

    /// Refuses items of a list whose `key` is that of an earlier one.
    pub(super) fn distinct_by(&self, key: &str) -> Vec<FieldError> {
        let mut seen = HashSet::new();
        let keys = self.items().map(|item| item.at(key)).filter(|own| !own.text().is_empty());
        keys.filter(|own| !seen.insert(own.text().to_owned())).map(|own| own.duplicate()).collect()
    }

    /// Checks a `metav1.LabelSelector`.
    pub(super) fn label_selector(&self) -> Vec<FieldError> {
        let labels = self.at("matchLabels");
        let mut errors = validate_labels(Some(labels.value), &labels.path);
        for requirement in self.at("matchExpressions").items() {
            let (values, operator) = (requirement.at("values"), requirement.at("operator"));
            match operator.text() {
                "In" | "NotIn" => {
                    errors
                        .extend(values.must_be_given("must be specified when `operator` is 'In' or 'NotIn'"));
                }
                "Exists" | "DoesNotExist" if !values.list().is_empty() => errors.push(
                    values.forbidden("may not be specified when `operator` is 'Exists' or 'DoesNotExist'"),
                ),
                "Exists" | "DoesNotExist" => {}
                given => {
                    let why = "not a valid selector operator";
                    errors.push(FieldError::invalid(operator.path.as_str(), given, why));
                }
            }
            errors.extend(requirement.at("key").obeys(qualified_name));
            errors.extend(values.items().flat_map(|value| value.follows(label_value)));
        }
        errors
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn texts(errors: impl IntoIterator<Item = FieldError>) -> Vec<String> {
        errors.into_iter().map(|error| error.to_string()).collect()
    }

    #[test]
    fn paths_name_the_field() {
        let object = json!({"spec": {"rules": [{"host": "a"}, {"host": ""}]}});
        let rules = Field::root(&object).under(&["spec", "rules"]);
        let hosts: Vec<_> = rules.items().map(|rule| rule.at("host")).collect();
        assert_eq!(hosts[1].path, "spec.rules[1].host");
        assert_eq!(texts(hosts[1].needs(crate::meta::dns_label)), ["spec.rules[1].host: Required value"]);
        assert_eq!(texts(hosts[0].needs(crate::meta::dns_label)), [""; 0]);
        assert!(!rules.at("nothing").at("there").is_given());
    }

    #[test]
    fn lists_and_numbers_are_held_to_their_rules() {
        let object = json!({"n": -1, "port": 70000, "l": ["a", "b", "a"], "k": [{"name": "x"}, {"name": "x"}, {}, {}]});
        let root = Field::root(&object);
        assert_eq!(
            texts(root.at("n").at_least(0)),
            ["n: Invalid value: -1: must be greater than or equal to 0"]
        );
        assert_eq!(
            texts(root.at("port").port()),
            ["port: Invalid value: 70000: must be between 1 and 65535, inclusive"]
        );
        assert_eq!(texts(root.at("l").distinct()), ["l[2]: Duplicate value: \"a\""]);
        assert_eq!(texts(root.at("k").distinct_by("name")), ["k[1].name: Duplicate value: \"x\""]);
        assert_eq!(texts(root.at("l").at_most(2)), ["l: Too many: 3: must have at most 2 items"]);
    }

    #[test]
    fn selectors_are_checked_as_upstream_checks_them() {
        let object = json!({"s": {"matchLabels": {"a b": "c"}, "matchExpressions": [
            {"key": "k", "operator": "In"}, {"key": "k", "operator": "Exists", "values": ["v"]},
            {"key": "", "operator": "Near"}, {"key": "k", "operator": "NotIn", "values": ["-"]}]}});
        let found = texts(Field::root(&object).at("s").label_selector());
        let beginnings = [
            "s.matchLabels: Invalid value: \"a b\": name part must consist of",
            "s.matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'",
            "s.matchExpressions[1].values: Forbidden: may not be specified when `operator` is",
            "s.matchExpressions[2].operator: Invalid value: \"Near\": not a valid selector operator",
            "s.matchExpressions[2].key: Invalid value: \"\": name part must be non-empty",
            "s.matchExpressions[2].key: Invalid value: \"\": name part must consist of",
            "s.matchExpressions[3].values[0]: Invalid value: \"-\": a valid label must be",
        ];
        assert_eq!(found.len(), beginnings.len(), "{found:#?}");
        for (found, beginning) in found.iter().zip(beginnings) {
            assert!(found.starts_with(beginning), "{found}");
        }
    }
}
