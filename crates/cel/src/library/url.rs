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

/// Reads a URL as Go's `url.Parse` does, if it is absolute, or an absolute path.
fn parse(text: &str) -> Option<Url> {
    if text.is_empty() || text.chars().any(|c| c.is_ascii_control()) {
        return None;
    }
    let (text, query) = text.split_once('?').unwrap_or((text, ""));
    // What follows a # is the reader's own.
    let query = if text.contains('#') { "" } else { query.split('#').next().unwrap_or_default() }.to_owned();
    let named = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
    let (scheme, rest) = match text.split_once(':') {
        Some((scheme, rest))
            if scheme.starts_with(|c: char| c.is_ascii_alphabetic()) && scheme.chars().all(named) =>
        {
            (scheme.to_lowercase(), rest)
        }
        _ => (String::new(), text),
    };
    if !rest.starts_with('/') {
        // What has no root, as `mailto:somebody`, is one word to whoever knows the scheme.
        let none = String::new;
        return (!scheme.is_empty()).then(|| Url { scheme, host: none(), path: none(), query });
    }
    let (authority, path) =
        match rest.strip_prefix("//").filter(|_| !scheme.is_empty() || !rest.starts_with("///")) {
            Some(rest) => rest.split_at(rest.find('/').unwrap_or(rest.len())),
            None => ("", rest),
        };
    let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    let path = escaped(path.split('#').next().unwrap_or_default())?;
    let url = Url { scheme, host: host.to_owned(), path, query };
    let port = url.host_and_port().1;
    let in_user = |c: char| c.is_ascii_alphanumeric() || "-._:~!$&'()*+,;=%@".contains(c);
    let in_host =
        |c: char| !c.is_ascii() || c.is_ascii_alphanumeric() || "!$&'()*+,;=:[]<>\"-_.~%".contains(c);
    let closed = !host.starts_with('[') || host.contains(']');
    let whole = user.chars().all(in_user) && host.chars().all(in_host) && closed && escapes_hold(authority);
    (whole && port.bytes().all(|b| b.is_ascii_digit())).then_some(url)
}

/// A path with everything escaped that must be, if its escapes are ones; as it is where that is so already.
fn escaped(path: &str) -> Option<String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~$&+,/:;=@".contains(&byte);
    if !escapes_hold(path) {
        return None;
    }
    if path.bytes().all(|byte| plain(byte) || b"!'()*[]%".contains(&byte)) {
        return Some(path.to_owned());
    }
    let mut out = String::with_capacity(path.len());
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        let byte = if byte == b'%' { unhexed(&mut bytes) } else { byte };
        if plain(byte) { out.push(char::from(byte)) } else { out.push_str(&format!("%{byte:02X}")) }
    }
    Some(out)
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

/// The byte that two hexadecimal digits stand for.
fn unhexed(bytes: &mut impl Iterator<Item = u8>) -> u8 {
    let pair: String = bytes.take(2).map(char::from).collect();
    u8::from_str_radix(&pair, 16).unwrap_or(b'?')
}

fn unescape(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'+' => out.push(b' '),
            b'%' => out.push(unhexed(&mut bytes)),
            byte => out.push(byte),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}
