//! Label selectors and field selectors.

mod labels;
mod terms;

use serde_json::Value;

use crate::lookup::{at, entries, list, text};
use crate::{ApiError, Descriptor, Object, meta};
use terms::Term;

/// Most requirements in one selector.
const MAX_REQUIREMENTS: usize = 256;

/// One condition on a label.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    key: String,
    operator: Operator,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Operator {
    /// One value, written with a sign: it is shown so.
    Is(String),
    IsNot(String),
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    DoesNotExist,
    Greater(i64),
    Less(i64),
}

/// A label selector: all conditions must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
    /// Matches no object at all: an absent `metav1.LabelSelector`.
    nothing: bool,
}

impl LabelSelector {
    /// Parses the text of a query: `a=b,c!=d,e in (f,g),h notin (i),j,!k,l>5`.
    ///
    /// # Errors
    /// 400 with the place at fault.
    pub fn parse(text: &str) -> Result<Self, ApiError> {
        let requirements = labels::parse(text, MAX_REQUIREMENTS).map_err(ApiError::bad_request)?;
        Ok(Self { requirements, nothing: false })
    }

    /// Reads a `metav1.LabelSelector`; null or absent matches nothing, an empty one everything.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn from_object(selector: &Value) -> Result<Self, String> {
        if selector.is_null() {
            return Ok(Self { requirements: Vec::new(), nothing: true });
        }
        let mut requirements = Vec::new();
        for (key, value) in entries(selector, &["matchLabels"]) {
            let value = value.as_str().ok_or_else(|| format!("matchLabels.{key}: must be a string"))?;
            requirements.push(requirement(key, Operator::Is(value.to_owned()))?);
        }
        for expression in list(selector, &["matchExpressions"]) {
            let values: Vec<String> =
                list(expression, &["values"]).iter().filter_map(Value::as_str).map(str::to_owned).collect();
            let operator = match (text(expression, &["operator"]), values.is_empty()) {
                ("In", false) => Operator::In(values),
                ("NotIn", false) => Operator::NotIn(values),
                ("Exists", true) => Operator::Exists,
                ("DoesNotExist", true) => Operator::DoesNotExist,
                ("In" | "NotIn", true) => {
                    return Err("values: must be specified when `operator` is 'In' or 'NotIn'".to_owned());
                }
                ("Exists" | "DoesNotExist", false) => {
                    return Err("values: may not be specified when `operator` is 'Exists' or 'DoesNotExist'"
                        .to_owned());
                }
                (other, _) => return Err(format!("{other:?} is not a valid label selector operator")),
            };
            requirements.push(requirement(text(expression, &["key"]), operator)?);
        }
        Ok(Self { requirements, nothing: false })
    }

    /// A selector for exactly these labels (a Service's or ReplicationController's map).
    pub fn from_map(labels: &Value) -> Self {
        let requirements = entries(labels, &[])
            .map(|(key, value)| Requirement {
                key: key.clone(),
                operator: Operator::Is(value.as_str().unwrap_or_default().to_owned()),
            })
            .collect();
        Self { requirements, nothing: false }
    }

    /// Whether it matches everything.
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty() && !self.nothing
    }

    /// The labels that must have one of some values, with those: lets an index be used.
    pub fn demands(&self) -> impl Iterator<Item = (&str, &[String])> {
        self.requirements.iter().filter_map(|requirement| match &requirement.operator {
            Operator::Is(value) => Some((requirement.key.as_str(), std::slice::from_ref(value))),
            Operator::In(values) => Some((requirement.key.as_str(), values.as_slice())),
            _ => None,
        })
    }

    /// Its conditions in the words of a `metav1.LabelSelectorRequirement`: label, operator, values. Those on numbers have none.
    pub fn terms(&self) -> impl Iterator<Item = (&str, &'static str, &[String])> {
        self.requirements.iter().filter_map(|requirement| {
            let (operator, values): (_, &[String]) = match &requirement.operator {
                Operator::Is(value) => ("In", std::slice::from_ref(value)),
                Operator::IsNot(value) => ("NotIn", std::slice::from_ref(value)),
                Operator::In(values) => ("In", values),
                Operator::NotIn(values) => ("NotIn", values),
                Operator::Exists => ("Exists", &[]),
                Operator::DoesNotExist => ("DoesNotExist", &[]),
                Operator::Greater(_) | Operator::Less(_) => return None,
            };
            Some((requirement.key.as_str(), operator, values))
        })
    }

    /// Whether it matches these labels (`metadata.labels`, or null).
    pub fn matches(&self, labels: &Value) -> bool {
        !self.nothing && self.requirements.iter().all(|requirement| requirement.matches(labels))
    }

    /// Whether it matches the labels of an object.
    pub fn matches_object(&self, object: &Object) -> bool {
        self.matches(at(object, &["metadata", "labels"]).unwrap_or(&Value::Null))
    }
}

impl std::fmt::Display for LabelSelector {
    /// The text that [`parse`](Self::parse) reads, as kubectl shows it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.nothing {
            return f.write_str("<none>");
        }
        let mut sorted: Vec<&Requirement> = self.requirements.iter().collect();
        sorted.sort_by(|one, other| one.key.cmp(&other.key));
        let joined = |values: &[String]| {
            let mut values: Vec<&str> = values.iter().map(String::as_str).collect();
            values.sort_unstable();
            values.join(",")
        };
        for (index, Requirement { key, operator }) in sorted.into_iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            match operator {
                Operator::Is(value) => write!(f, "{key}={value}")?,
                Operator::IsNot(value) => write!(f, "{key}!={value}")?,
                Operator::In(values) => write!(f, "{key} in ({})", joined(values))?,
                Operator::NotIn(values) => write!(f, "{key} notin ({})", joined(values))?,
                Operator::Exists => write!(f, "{key}")?,
                Operator::DoesNotExist => write!(f, "!{key}")?,
                Operator::Greater(bound) => write!(f, "{key}>{bound}")?,
                Operator::Less(bound) => write!(f, "{key}<{bound}")?,
            }
        }
        Ok(())
    }
}

impl Requirement {
    fn matches(&self, labels: &Value) -> bool {
        let value = labels.get(&self.key).and_then(Value::as_str);
        match (&self.operator, value) {
            (Operator::Is(wanted), Some(value)) => wanted == value,
            (Operator::IsNot(unwanted), value) => value.is_none_or(|value| unwanted != value),
            (Operator::In(values), Some(value)) => values.iter().any(|v| v == value),
            (Operator::NotIn(values), Some(value)) => values.iter().all(|v| v != value),
            (Operator::NotIn(_) | Operator::DoesNotExist, None) => true,
            (Operator::Exists, value) => value.is_some(),
            (Operator::Greater(bound), Some(value)) => value.parse::<i64>().is_ok_and(|v| v > *bound),
            (Operator::Less(bound), Some(value)) => value.parse::<i64>().is_ok_and(|v| v < *bound),
            (Operator::DoesNotExist, Some(_)) | (_, None) => false,
        }
    }
}

fn requirement(key: &str, operator: Operator) -> Result<Requirement, String> {
    if let Some(why) = meta::qualified_name(key).first() {
        return Err(format!("key {key:?}: {why}"));
    }
    let values = match &operator {
        Operator::Is(value) | Operator::IsNot(value) => std::slice::from_ref(value),
        Operator::In(values) | Operator::NotIn(values) => values,
        _ => &[],
    };
    for value in values {
        if let Some(why) = meta::label_value(value).first() {
            return Err(format!("value {value:?}: {why}"));
        }
    }
    Ok(Requirement { key: key.to_owned(), operator })
}

/// Fields of Kubernetes' own kinds that are true or false, and false where they are absent.
const FLAGS: [&str; 2] = ["spec.unschedulable", "spec.hostNetwork"];

/// The field of a Job that is selected by, and the name that it has in Job's own definition.
const SUCCESSES: (&str, &str) = ("status.successful", "status.succeeded");

/// A field selector: `metadata.name=x,status.phase!=Failed`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector {
    /// Path, whether it must be equal (or else must not), value.
    terms: Vec<(String, bool, String)>,
}

impl Descriptor {
    /// The refusal of a field that nothing of this kind can be selected by: each of Kubernetes' own kinds that has
    /// fields of its own to select by says it itself.
    pub fn refused_field(&self, field: &str) -> String {
        match (self.group.as_str(), self.kind.as_str()) {
            _ if !self.builtin => format!("field label not supported: {field}"),
            ("batch", "Job") => format!("field label {field:?} not supported for Job"),
            ("resource.k8s.io", "ResourceSlice") => {
                format!("field label not supported for {}: {field}", self.gvk())
            }
            _ if self.selectable_fields.is_empty() => format!(
                "{field:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
            ),
            _ => format!("field label not supported: {field}"),
        }
    }
}

impl FieldSelector {
    /// Parses the text of a query for objects of a kind. Besides metadata.name and metadata.namespace they may be selected on the kind's
    /// selectable fields.
    ///
    /// # Errors
    /// 400 for malformed text or another field.
    pub fn parse(text: &str, kind: &Descriptor) -> Result<Self, ApiError> {
        let allowed = &kind.selectable_fields;
        let of_job = kind.builtin && kind.kind == "Job";
        let mut terms = Vec::new();
        for Term { field, equal, value } in terms::parse(text)? {
            let known = matches!(field, "metadata.name" | "metadata.namespace")
                || if of_job { field == SUCCESSES.0 } else { allowed.iter().any(|allowed| allowed == field) };
            let stored = if of_job && field == SUCCESSES.0 { SUCCESSES.1 } else { field };
            if !known {
                return Err(ApiError::bad_request(kind.refused_field(field)));
            }
            if of_job && stored == SUCCESSES.1 && value == "0" {
                // None is left out.
                terms.push((stored.to_owned(), equal, String::new()));
            } else if kind.builtin && FLAGS.contains(&field) && value == "false" {
                // An absent flag is false, and stands nowhere.
                terms.push((field.to_owned(), !equal, "true".to_owned()));
            } else {
                terms.push((stored.to_owned(), equal, value));
            }
        }
        if terms.len() > MAX_REQUIREMENTS {
            let why = format!("a field selector may have at most {MAX_REQUIREMENTS} requirements");
            return Err(ApiError::bad_request(why));
        }
        Ok(Self { terms })
    }

    /// Whether it matches everything.
    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }

    /// The conditions of a selector's text, of whatever kind it selects objects: field, whether it must be equal (or else must not), value.
    ///
    /// # Errors
    /// 400 for malformed text.
    pub fn conditions(text: &str) -> Result<Vec<(String, bool, String)>, ApiError> {
        let terms = terms::parse(text)?.into_iter();
        Ok(terms.map(|term| (term.field.to_owned(), term.equal, term.value)).collect())
    }

    /// The one name it asks for, if it does: such a list is a get.
    pub fn exact_name(&self) -> Option<&str> {
        self.exact("metadata.name")
    }

    /// The one value that it asks of a field, if it does: lets an index be used.
    pub fn exact(&self, field: &str) -> Option<&str> {
        let term = self.terms.iter().find(|(path, equal, _)| *equal && path == field)?;
        Some(&term.2)
    }

    /// The fields that must have some value, with that: lets an index be used.
    pub fn demands(&self) -> impl Iterator<Item = (&str, &str)> {
        let equal = self.terms.iter().filter(|(_, equal, _)| *equal);
        equal.map(|(path, _, value)| (path.as_str(), value.as_str()))
    }

    /// Whether it matches an object. An absent field counts as empty text.
    pub fn matches(&self, object: &Object) -> bool {
        self.terms.iter().all(|(path, equal, wanted)| {
            let value = path.split('.').try_fold(object, |value, key| value.get(key));
            let same = match value {
                None | Some(Value::Null) => wanted.is_empty(),
                Some(Value::String(text)) => text == wanted,
                Some(Value::Bool(flag)) => wanted == if *flag { "true" } else { "false" },
                Some(other) => wanted.parse::<Value>().is_ok_and(|wanted| wanted == *other),
            };
            same == *equal
        })
    }
}

/// Brings the fields that were read for field selectors into the form that they are selected by: an Event's `source`
/// is the name of its component, or of the newer field that says who reports.
pub fn settle_fields(fields: &mut Value) {
    let names = [&["source", "component"][..], &["reportingComponent"]].map(|path| text(fields, path));
    let name = names.into_iter().find(|name| !name.is_empty()).map(str::to_owned);
    if let Some(name) = name.filter(|_| fields.get("source").is_none_or(Value::is_object)) {
        fields["source"] = Value::String(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn label_selectors_match() {
        let labels = json!({"app": "web", "tier": "front", "n": "7"});
        for (text, wanted) in [
            ("", true),
            ("app=web", true),
            ("app==web,tier!=back", true),
            ("app in (db, web)", true),
            ("app notin (web)", false),
            ("zone notin (a)", true),
            ("zone!=a", true),
            ("zone", false),
            ("!zone , app", true),
            ("n>6,n<8", true),
            ("n>7", false),
        ] {
            let selector = LabelSelector::parse(text).unwrap();
            assert_eq!(selector.matches(&labels), wanted, "{text}");
            let shown = selector.to_string();
            assert_eq!(LabelSelector::parse(&shown).unwrap().to_string(), shown, "{text}");
            assert_eq!(LabelSelector::parse(&shown).unwrap().matches(&labels), wanted, "{shown}");
        }
        let selector = LabelSelector::parse("!x,app in (a,b),tier=c,zone!=d").unwrap();
        let demands: Vec<_> = selector.demands().map(|(key, values)| (key, values.join("|"))).collect();
        assert_eq!(demands, [("app", "a|b".to_owned()), ("tier", "c".to_owned())]);
        for bad in ["a,,b", "a in b", "a in (b", "=b", "a=b c", "a>x", "a b"] {
            assert_eq!(LabelSelector::parse(bad).unwrap_err().code(), 400, "{bad}");
        }
    }

    #[test]
    fn selector_objects_match() {
        let labels = json!({"app": "web"});
        let selector = json!({"matchLabels": {"app": "web"}, "matchExpressions": [{"key": "x", "operator": "DoesNotExist"}]});
        assert!(LabelSelector::from_object(&selector).unwrap().matches(&labels));
        assert!(!LabelSelector::from_object(&Value::Null).unwrap().matches(&labels));
        assert!(LabelSelector::from_object(&json!({})).unwrap().matches(&labels));
        let bad = json!({"matchExpressions": [{"key": "x", "operator": "In"}]});
        assert!(LabelSelector::from_object(&bad).is_err());
    }

    fn kind(name: &str) -> Descriptor {
        crate::builtin::descriptors().into_iter().find(|each| each.kind == name).unwrap()
    }

    #[test]
    fn field_selectors_match() {
        let pod =
            json!({"metadata": {"name": "a"}, "spec": {"nodeName": "n1"}, "status": {"phase": "Running"}});
        let pods = kind("Pod");
        for (text, wanted) in [
            ("metadata.name=a", true),
            ("spec.nodeName==n1,status.phase!=Failed", true),
            ("spec.nodeName=", false),
            ("metadata.namespace=", true),
        ] {
            assert_eq!(FieldSelector::parse(text, &pods).unwrap().matches(&pod), wanted, "{text}");
        }
        assert_eq!(
            FieldSelector::parse("metadata.name=a", &kind("ConfigMap")).unwrap().exact_name(),
            Some("a")
        );
        let conditions = |text| FieldSelector::conditions(text).unwrap();
        let term = |field: &str, equal, value: &str| (field.to_owned(), equal, value.to_owned());
        assert_eq!(
            conditions("x!=y,metadata.name==a"),
            [term("x", false, "y"), term("metadata.name", true, "a")]
        );
        assert_eq!(conditions(r"x!=\,metadata.name\=a"), [term("x", false, ",metadata.name=a")]);
        let selector = FieldSelector::parse("status.phase!=Failed,spec.nodeName=n1", &pods).unwrap();
        assert_eq!(selector.demands().collect::<Vec<_>>(), [("spec.nodeName", "n1")]);
        let error = FieldSelector::parse("spec.foo=1", &pods).unwrap_err();
        assert_eq!(error.message(), "field label not supported: spec.foo");
        let job = kind("Job");
        let two = FieldSelector::parse("status.successful=2", &job).unwrap();
        assert!(two.matches(&json!({"status": {"succeeded": 2}})) && !two.matches(&json!({})));
        let none = FieldSelector::parse("status.successful=0", &job).unwrap();
        assert!(none.matches(&json!({})) && !none.matches(&json!({"status": {"succeeded": 2}})));
        let error = FieldSelector::parse("status.succeeded=2", &job).unwrap_err();
        assert_eq!(error.message(), "field label \"status.succeeded\" not supported for Job");
        for (name, wanted) in [
            ("ResourceSlice", "field label not supported for resource.k8s.io/v1, Kind=ResourceSlice: x"),
            ("Role", "\"x\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\""),
        ] {
            assert_eq!(kind(name).refused_field("x"), wanted);
        }
        let flag = kind("Node");
        let schedulable = FieldSelector::parse("spec.unschedulable=false", &flag).unwrap();
        assert!(schedulable.matches(&json!({"spec": {}})));
        assert!(!schedulable.matches(&json!({"spec": {"unschedulable": true}})));
        assert!(FieldSelector::parse("spec.unschedulable!=false", &flag).unwrap().demands().next().is_some());
    }

    #[test]
    fn fields_of_custom_resources_are_what_they_are_called() {
        let fields = ["status.succeeded", "spec.unschedulable"].map(str::to_owned).to_vec();
        let custom = Descriptor { builtin: false, selectable_fields: fields, ..kind("Job") };
        let none = FieldSelector::parse("status.succeeded=0,spec.unschedulable=false", &custom).unwrap();
        assert!(!none.matches(&json!({})));
        assert!(none.matches(&json!({"status": {"succeeded": 0}, "spec": {"unschedulable": false}})));
        let error = FieldSelector::parse("status.successful=0", &custom).unwrap_err();
        assert_eq!(error.message(), "field label not supported: status.successful");
    }

    #[test]
    fn an_event_is_selected_by_who_reports_it() {
        for (mut fields, wanted) in [
            (json!({"source": {"component": "a"}, "reportingComponent": "b"}), json!("a")),
            (json!({"source": {}, "reportingComponent": "b"}), json!("b")),
            (json!({"reportingComponent": "b"}), json!("b")),
            (json!({"source": "text", "reportingComponent": "b"}), json!("text")),
            (json!({"type": "x"}), Value::Null),
        ] {
            settle_fields(&mut fields);
            assert_eq!(fields["source"], wanted);
        }
    }
}
