//! The subset of JSONPath that printer columns use.

use serde_json::Value;

/// A path such as `.status.conditions[?(@.type=="Ready")].status`.
#[derive(Clone, Debug, PartialEq)]
pub struct JsonPath {
    steps: Vec<Step>,
}

/// What is wrong with a path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct JsonPathError(String);

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Field(String),
    Index(i64),
    All,
    /// Items in which the value at these keys compares so to the literal.
    Filter(Vec<String>, bool, Value),
}

/// Most steps of a path.
const MAX_STEPS: usize = 64;

impl JsonPath {
    /// Parses a path; surrounding braces are allowed.
    ///
    /// # Errors
    /// What is not understood.
    pub fn parse(text: &str) -> Result<Self, JsonPathError> {
        let error = |what: &str| JsonPathError(format!("{what} in JSON path {text:?}"));
        let trimmed = text.trim();
        let inner = trimmed.strip_prefix('{').and_then(|t| t.strip_suffix('}')).unwrap_or(trimmed);
        let mut rest = inner.strip_prefix('$').unwrap_or(inner);
        let mut steps = Vec::new();
        while !rest.is_empty() {
            if steps.len() == MAX_STEPS {
                return Err(error("too many steps"));
            }
            if let Some(after) = rest.strip_prefix('[') {
                let end = closing_bracket(after).ok_or_else(|| error("unclosed '['"))?;
                steps.push(bracket(&after[..end]).ok_or_else(|| error("unsupported expression"))?);
                rest = &after[end + 1..];
            } else if let Some(after) = rest.strip_prefix('.') {
                if after.starts_with('.') {
                    return Err(error("unsupported recursive descent"));
                }
                let (name, remaining) = field_name(after);
                rest = remaining;
                match name.as_str() {
                    "" if rest.is_empty() && steps.is_empty() => {} // "." is the object itself
                    "" if rest.starts_with('[') => {}
                    "" => return Err(error("empty field name")),
                    "*" => steps.push(Step::All),
                    _ => steps.push(Step::Field(name)),
                }
            } else {
                return Err(error("expected '.' or '['"));
            }
        }
        Ok(Self { steps })
    }

    /// All values that it leads to.
    pub fn find<'a>(&self, root: &'a Value) -> Vec<&'a Value> {
        let mut found = vec![root];
        for step in &self.steps {
            found = found.into_iter().flat_map(|value| step.apply(value)).collect();
        }
        found
    }

    /// Whether it is made of plain fields only, as the paths of the scale subresource must be;
    /// if so the fields.
    pub fn plain_fields(&self) -> Option<Vec<String>> {
        let fields = self.steps.iter().map(|step| match step {
            Step::Field(name) => Some(name.clone()),
            _ => None,
        });
        fields.collect()
    }
}

impl Step {
    fn apply<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        match (self, value) {
            (Self::Field(name), Value::Object(map)) => map.get(name).into_iter().collect(),
            (Self::Index(index), Value::Array(list)) => {
                let at = if *index < 0 { list.len() as i64 + index } else { *index };
                usize::try_from(at).ok().and_then(|at| list.get(at)).into_iter().collect()
            }
            (Self::All, Value::Array(list)) => list.iter().collect(),
            (Self::All, Value::Object(map)) => map.values().collect(),
            (Self::Filter(keys, equal, literal), Value::Array(list)) => list
                .iter()
                .filter(|item| {
                    let found = keys.iter().try_fold(*item, |value, key| value.get(key));
                    found.is_some_and(|found| (found == literal) == *equal)
                })
                .collect(),
            _ => Vec::new(),
        }
    }
}

/// A field's name up to the next unescaped dot or bracket, and what follows.
fn field_name(text: &str) -> (String, &str) {
    let mut name = String::new();
    let mut letters = text.char_indices();
    while let Some((index, letter)) = letters.next() {
        match letter {
            '.' | '[' => return (name, &text[index..]),
            '\\' => name.extend(letters.next().map(|(_, letter)| letter)),
            _ => name.push(letter),
        }
    }
    (name, "")
}

/// A name without the marks that say that the next letter stands for itself.
fn unescaped(text: &str) -> String {
    let mut letters = text.chars();
    let mut name = String::with_capacity(text.len());
    while let Some(letter) = letters.next() {
        name.extend(if letter == '\\' { letters.next() } else { Some(letter) });
    }
    name
}

/// The place of the `]` that ends a bracket, skipping those inside quotes.
fn closing_bracket(text: &str) -> Option<usize> {
    let mut quote = None;
    for (index, letter) in text.char_indices() {
        match (quote, letter) {
            (None, ']') => return Some(index),
            (None, '"' | '\'') => quote = Some(letter),
            (Some(open), _) if open == letter => quote = None,
            _ => {}
        }
    }
    None
}

fn unquote(text: &str) -> Option<&str> {
    let single = text.strip_prefix('\'').and_then(|t| t.strip_suffix('\''));
    single.or_else(|| text.strip_prefix('"').and_then(|t| t.strip_suffix('"')))
}

fn bracket(text: &str) -> Option<Step> {
    let text = text.trim();
    if text == "*" {
        return Some(Step::All);
    }
    if let Some(name) = unquote(text) {
        // Within quotes, too, a dot may be marked as one of the name.
        return Some(Step::Field(unescaped(name)));
    }
    if let Ok(index) = text.parse() {
        return Some(Step::Index(index));
    }
    let condition = text.strip_prefix("?(")?.strip_suffix(')')?;
    let (left, equal, right) = match condition.split_once("==") {
        Some((left, right)) => (left, true, right),
        None => {
            let (left, right) = condition.split_once("!=")?;
            (left, false, right)
        }
    };
    let keys = JsonPath::parse(left.trim().strip_prefix('@')?).ok()?.plain_fields()?;
    let right = right.trim();
    let literal = match unquote(right) {
        Some(text) => Value::String(text.to_owned()),
        None => serde_json::from_str(right).ok()?,
    };
    Some(Step::Filter(keys, equal, literal))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths_find_values() {
        let object = json!({
            "a": {"b": [{"c": 1}, {"c": 2}], "x.y": "dot"},
            "status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "Other", "status": "False"}]}
        });
        for (path, wanted) in [
            (".a.b[0].c", json!([1])),
            ("{.a.b[-1].c}", json!([2])),
            (".a.b[*].c", json!([1, 2])),
            (".a.x\\.y", json!(["dot"])),
            (".a['x.y']", json!(["dot"])),
            (".a['x\\.y']", json!(["dot"])),
            (".status.conditions[?(@.type==\"Ready\")].status", json!(["True"])),
            (".status.conditions[?(@.type!='Ready')].status", json!(["False"])),
            (".nothing.here", json!([])),
        ] {
            let found = JsonPath::parse(path).unwrap();
            assert_eq!(json!(found.find(&object)), wanted, "{path}");
        }
        for bad in ["a", ".a[", "..a", ".a[?(@.b~1)]", ".a..b"] {
            assert!(JsonPath::parse(bad).is_err(), "{bad}");
        }
    }
}
