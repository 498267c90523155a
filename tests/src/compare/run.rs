//! Running a case against a server.

use std::collections::BTreeMap;

use serde_json::Value;

use super::answer::{Answer, missing};
use super::case::{Case, Step};
use crate::{run_with, seconds, until};

/// A server, and who asks it.
#[derive(Clone, Debug)]
pub struct Server {
    /// What it is called in messages.
    pub name: String,
    /// Its URL, without a slash at the end.
    pub url: String,
    /// Arguments of curl that say who asks and whom to trust.
    pub credentials: Vec<String>,
}

impl Server {
    /// Sends one request.
    #[track_caller]
    pub fn ask(&self, method: &str, path: &str, headers: &[String], body: Option<&str>) -> Answer {
        let url = format!("{}{path}", self.url);
        let mut arguments =
            vec!["-sS", "-g", "-i", "--http1.1", "--path-as-is", "--max-time", "60", "-X", method];
        arguments.extend(self.credentials.iter().map(String::as_str));
        if method == "HEAD" {
            // Else it waits for a body, which never comes.
            arguments.push("--head");
        }
        for header in headers {
            arguments.extend(["-H", header]);
        }
        if body.is_some() {
            // "Expect: 100-continue" would put a second head before the answer's own.
            arguments.extend(["--data-binary", "@-", "-H", "Expect:"]);
        }
        arguments.push(&url);
        read(&run_with("curl", &arguments, &[], body.unwrap_or_default()).ok())
    }
}

fn read(text: &str) -> Answer {
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((text, ""));
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|code| code.parse().ok());
    let mut headers = BTreeMap::<String, String>::new();
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        let all = headers.entry(name.to_lowercase()).or_default();
        if !all.is_empty() {
            all.push('\n');
        }
        all.push_str(value.trim());
    }
    let documents: Result<Vec<Value>, _> = serde_json::Deserializer::from_str(body).into_iter().collect();
    let body = match documents {
        Ok(mut documents) if documents.len() == 1 => documents.remove(0),
        Ok(documents) if documents.len() > 1 => Value::Array(documents),
        _ => Value::String(body.to_owned()),
    };
    Answer { status: status.unwrap_or(0), headers, body }
}

/// A case on its way through one server.
#[derive(Debug)]
pub struct Run<'a> {
    server: &'a Server,
    kept: BTreeMap<String, String>,
}

impl<'a> Run<'a> {
    /// Begins a case in this namespace, which the run makes, with two accounts for Pods: no controller makes the first, and
    /// neither gives Pods a volume, whose name would be random. Pods may ask for all that there is: here the namespace is a project.
    #[track_caller]
    pub fn new(server: &'a Server, namespace: &str) -> Self {
        let body = format!(
            r#"{{"apiVersion":"v1","kind":"Namespace","metadata":{{"name":"{namespace}","labels":{{"pod-security.kubernetes.io/enforce":"privileged"}}}}}}"#
        );
        let json = ["Content-Type: application/json".to_owned()];
        let make = |path: &str, body: &str| {
            let made = server.ask("POST", path, &json, Some(body));
            assert_eq!(made.status, 201, "{}: {}", server.name, made.body);
        };
        make("/api/v1/namespaces", &body);
        for name in ["default", "runner"] {
            let account = format!(
                r#"{{"apiVersion":"v1","kind":"ServiceAccount","metadata":{{"name":"{name}"}},"automountServiceAccountToken":false}}"#
            );
            make(&format!("/api/v1/namespaces/{namespace}/serviceaccounts"), &account);
        }
        Self { server, kept: BTreeMap::from([("ns".to_owned(), namespace.to_owned())]) }
    }

    fn fill(&self, text: &str) -> String {
        // Long names first: `$rv2` is not `$rv` and a 2.
        let mut names: Vec<&String> = self.kept.keys().collect();
        names.sort_by_key(|name| std::cmp::Reverse(name.len()));
        names
            .into_iter()
            .fold(text.to_owned(), |text, name| text.replace(&format!("${name}"), &self.kept[name]))
    }

    fn fill_value(&self, value: &Value) -> Value {
        match value {
            Value::String(text) => Value::String(self.fill(text)),
            Value::Array(list) => list.iter().map(|value| self.fill_value(value)).collect(),
            Value::Object(map) => {
                map.iter().map(|(key, value)| (self.fill(key), self.fill_value(value))).collect()
            }
            value => value.clone(),
        }
    }

    fn ask(&self, step: &Step) -> Answer {
        let (method, path) = step.request.split_once(' ').unwrap_or(("GET", &step.request));
        let mut headers: Vec<String> =
            step.headers.iter().map(|(name, value)| format!("{name}: {}", self.fill(value))).collect();
        let body = match (&step.body, &step.text) {
            (Some(body), _) => Some(self.fill_value(body).to_string()),
            (None, Some(text)) => Some(self.fill(text)),
            (None, None) => None,
        };
        headers.extend(step.patch.map(|patch| format!("Content-Type: {}", patch.media_type())));
        headers.extend(step.shape.map(|shape| format!("Accept: {}", shape.media_type())));
        let typed = step.patch.is_some();
        if body.is_some()
            && !typed
            && !step.headers.keys().any(|name| name.eq_ignore_ascii_case("content-type"))
        {
            headers.push("Content-Type: application/json".to_owned());
        }
        self.server.ask(method, &self.fill(path).replace(' ', "%20"), &headers, body.as_deref())
    }

    /// Takes one step and returns the answer, and what is not in it as it should be, one line each.
    #[track_caller]
    pub fn step(&mut self, step: &Step) -> (Answer, Vec<String>) {
        let check = |answer: &Answer| {
            let mut wrong = missing(&self.fill_value(&step.answer), &answer.body);
            if let Some(status) = step.status.filter(|status| *status != answer.status) {
                wrong.insert(0, format!("status is {}, not {status}: {}", answer.status, answer.body));
            }
            let headers = serde_json::json!(answer.headers);
            let wanted: Value =
                step.answer_headers.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
            if !step.answer_headers.is_empty() {
                let lines = missing(&self.fill_value(&wanted), &headers);
                wrong.extend(lines.iter().map(|line| format!("header {line}")));
            }
            wrong
        };
        let answer = if step.eventually {
            until(&format!("{} as expected", step.request), seconds(30), || {
                let answer = self.ask(step);
                let wrong = check(&answer);
                if wrong.is_empty() { Ok(answer) } else { Err(wrong.join("\n")) }
            })
        } else {
            self.ask(step)
        };
        let wrong = check(&answer);
        for (name, pointer) in &step.keep {
            let value = answer.body.pointer(pointer).cloned().unwrap_or_default();
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            self.kept.insert(name.clone(), text);
        }
        (answer, wrong)
    }

    /// Takes all steps of a case; see [`Run::step`].
    #[track_caller]
    pub fn all(mut self, case: &Case) -> Vec<(Answer, Vec<String>)> {
        case.steps.iter().map(|step| self.step(step)).collect()
    }
}
