//! Addresses in what a proxied server answers: those that lead to the server itself are led through the proxy.

/// Where a proxied server is seen, and where it believes itself to be.
#[derive(Debug, Clone)]
pub(super) struct Links {
    /// Path under which clients see the server's root, without a slash at its end.
    pub(super) prefix: String,
    /// Address and port that the server listens on.
    pub(super) server: String,
    /// The host that the client asked, as its request says.
    pub(super) host: String,
}

/// It is no URL at all.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("parse {0:?}: invalid URL")]
pub(super) struct Malformed(String);

/// A URL in parts, as they are written.
struct Parts<'a> {
    /// Scheme and authority with what divides them, perhaps empty.
    origin: &'a str,
    /// Host and port, perhaps empty.
    host: &'a str,
    path: &'a str,
    /// Query and fragment with what leads them in.
    rest: &'a str,
}

impl Links {
    /// What has to stand in place of a URL; none where it may stay.
    ///
    /// # Errors
    /// Where it is no URL.
    pub(super) fn rewrite(&self, url: &str) -> Result<Option<String>, Malformed> {
        let parts = Parts::of(url).ok_or_else(|| Malformed(url.to_owned()))?;
        let elsewhere = !parts.host.is_empty() && parts.host != self.server && parts.host != self.host;
        if elsewhere || !parts.path.starts_with('/') {
            return Ok(None);
        }
        // The server's own address means nothing to the client.
        let asked = !parts.host.is_empty() && parts.host == self.host;
        let origin = if asked { parts.origin } else { "" };
        let rest = parts.rest;
        let new = if parts.path.starts_with(&self.prefix) {
            format!("{origin}{}{rest}", parts.path)
        } else {
            format!("{origin}{}{rest}", join(&self.prefix, parts.path))
        };
        Ok((new != url).then_some(new))
    }
}

impl<'a> Parts<'a> {
    fn of(url: &'a str) -> Option<Self> {
        if url.bytes().any(|byte| byte.is_ascii_control()) {
            return None;
        }
        let schemeless = scheme(url).map_or(url, |scheme| &url[scheme.len() + 1..]);
        let (authority, tail) = match schemeless.strip_prefix("//") {
            Some(rest) => rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len())),
            None => ("", schemeless),
        };
        let (path, rest) = tail.split_at(tail.find(['?', '#']).unwrap_or(tail.len()));
        let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        let origin = &url[..url.len() - tail.len()];
        escapes_are_whole(path).then_some(Self { origin, host, path, rest })
    }
}

/// What stands before the first colon, if it can be a scheme. (RFC 3986, section 3.1.)
fn scheme(url: &str) -> Option<&str> {
    let (scheme, _) = url.split_once(':')?;
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.');
    let right = scheme.starts_with(|first: char| first.is_ascii_alphabetic()) && scheme.bytes().all(inner);
    right.then_some(scheme)
}

fn escapes_are_whole(path: &str) -> bool {
    path.split('%')
        .skip(1)
        .all(|after| after.len() >= 2 && after.bytes().take(2).all(|b| b.is_ascii_hexdigit()))
}

/// Appends a path and resolves its dots; a slash at its end stays.
fn join(prefix: &str, path: &str) -> String {
    let mut words: Vec<&str> = Vec::new();
    for word in prefix.split('/').chain(path.split('/')) {
        match word {
            "" | "." => {}
            ".." => drop(words.pop()),
            word => words.push(word),
        }
    }
    let end = if path.ends_with('/') && !words.is_empty() { "/" } else { "" };
    format!("/{}{end}", words.join("/"))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) const PREFIX: &str = "/api/v1/namespaces/d/pods/p/proxy";

    pub(crate) fn links() -> Links {
        Links {
            prefix: PREFIX.to_owned(),
            server: "10.0.0.7:80".to_owned(),
            host: "localhost:8001".to_owned(),
        }
    }

    #[test]
    fn what_leads_to_the_server_is_led_through_the_proxy() {
        let inside = |tail: &str| Ok(Some(format!("{PREFIX}{tail}")));
        for (url, tail) in [
            ("/", "/"),
            ("/x/?y=/1#z", "/x/?y=/1#z"),
            ("/a//b/../c", "/a/c"),
            ("//10.0.0.7:80/x", "/x"),
            ("http://10.0.0.7:80/x", "/x"),
            ("http:/x", "/x"),
            ("/a%2Fb", "/a%2Fb"),
            (&format!("http://10.0.0.7:80{PREFIX}/z"), "/z"),
        ] {
            assert_eq!(links().rewrite(url), inside(tail), "{url}");
        }
        let asked = format!("http://localhost:8001{PREFIX}/x");
        assert_eq!(links().rewrite("http://localhost:8001/x"), Ok(Some(asked.clone())));
        assert_eq!(links().rewrite(&asked), Ok(None));
    }

    #[test]
    fn all_else_stays() {
        let within = format!("{PREFIX}/z");
        for url in ["", "x", "./x", "?q", "#f", "mailto:x@y", "data:,/x", "http://elsewhere/x", &within] {
            assert_eq!(links().rewrite(url), Ok(None), "{url}");
        }
        for wrong in ["/a\tb", "/%zz", "/%2"] {
            assert_eq!(links().rewrite(wrong), Err(Malformed(wrong.to_owned())));
        }
        // A client that names no host has not asked for all URLs without one.
        let hostless = Links { host: String::new(), ..links() };
        assert_eq!(hostless.rewrite("file:/x"), Ok(Some(format!("{PREFIX}/x"))));
    }
}
