//! URLs (Kubernetes' library), absolute ones and paths.

use super::{Library, failed, made, of, opaque, table, texts};
use crate::budget::Budget;
use crate::eval::EvalError;
use crate::value::{Key, Value};

#[derive(Clone, Debug, PartialEq)]
struct Url {
    scheme: String,
    host: String,
    path: String,
    query: String,
}

opaque!(Url, "kubernetes.URL");

pub(super) fn library() -> Library {
    table(&[
        ("url", "(string) kubernetes.URL", |v, b| match read(v, b)? {
            Some(url) => Ok(made(url)),
            None => failed(format!("URL parse error during conversion from string: {:?}", texts::<1>(v)?[0])),
        }),
        ("isURL", "(string) bool", |v, b| Ok(Value::Bool(read(v, b)?.is_some()))),
        ("getScheme", "kubernetes.URL.() string", |v, _| Ok(of::<Url>(v, 0)?.scheme.as_str().into())),
        ("getHost", "kubernetes.URL.() string", |v, _| Ok(of::<Url>(v, 0)?.host.as_str().into())),
        ("getHostname", "kubernetes.URL.() string", |v, _| Ok(of::<Url>(v, 0)?.host_and_port().0.into())),
        ("getPort", "kubernetes.URL.() string", |v, _| Ok(of::<Url>(v, 0)?.host_and_port().1.into())),
        ("getEscapedPath", "kubernetes.URL.() string", |v, _| Ok(of::<Url>(v, 0)?.path.as_str().into())),
        ("getQuery", "kubernetes.URL.() map<string, list<string>>", |v, b| {
            let url = of::<Url>(v, 0)?;
            b.charge_bytes(url.query.len() * 10)?;
            Ok(query(&url.query))
        }),
    ])
}

impl Url {
    fn host_and_port(&self) -> (&str, &str) {
        let end = self.host.rfind(']').map_or(0, |end| end + 1);
        let (host, port) = match self.host[end..].rfind(':') {
            Some(colon) => (&self.host[..end + colon], &self.host[end + colon + 1..]),
            None => (self.host.as_str(), ""),
        };
        (host.trim_start_matches('[').trim_end_matches(']'), port)
    }
}

fn read(values: &[Value], budget: &mut Budget) -> Result<Option<Url>, EvalError> {
    let [text] = texts::<1>(values)?;
    budget.charge_bytes(text.len())?;
    Ok(parse(text))
}

fn parse(text: &str) -> Option<Url> {
    let bad = |c: char| c.is_control() || matches!(c, ' ' | '<' | '>' | '"');
    if text.is_empty() || text.chars().any(bad) || !escapes_hold(text) {
        return None;
    }
    let (text, _) = text.split_once('#').unwrap_or((text, ""));
    let (text, query) = text.split_once('?').unwrap_or((text, ""));
    let query = query.to_owned();
    if text.starts_with('/') {
        return Some(Url { scheme: String::new(), host: String::new(), path: text.to_owned(), query });
    }
    let (scheme, rest) = text.split_once("://")?;
    let named = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
    if !scheme.starts_with(|c: char| c.is_ascii_alphabetic()) || !scheme.chars().all(named) {
        return None;
    }
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = authority.rsplit('@').next().unwrap_or_default();
    let url = Url { scheme: scheme.to_lowercase(), host: host.to_owned(), path: path.to_owned(), query };
    let port = url.host_and_port().1;
    port.bytes().all(|b| b.is_ascii_digit()).then_some(url)
}

fn escapes_hold(text: &str) -> bool {
    let bytes = text.as_bytes();
    let hex = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_hexdigit);
    bytes.iter().enumerate().all(|(at, byte)| *byte != b'%' || (hex(at + 1) && hex(at + 2)))
}

fn query(text: &str) -> Value {
    let mut out: std::collections::BTreeMap<Key, Vec<Value>> = Default::default();
    for pair in text.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        out.entry(Key::String(unescape(key).into())).or_default().push(unescape(value).into());
    }
    let map = out.into_iter().map(|(key, values)| (key, Value::from(values)));
    Value::Map(std::sync::Arc::new(map.collect()))
}

fn unescape(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'+' => out.push(b' '),
            b'%' => {
                let pair: String = bytes.by_ref().take(2).map(char::from).collect();
                out.push(u8::from_str_radix(&pair, 16).unwrap_or(b'?'));
            }
            byte => out.push(byte),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}
