//! Bytes that come from an address on the network (`web-download`).
//!
//! Who names an address has it asked by the cloud's own host, which reaches what its users must not: other programs on it, the nodes, the
//! metadata of a cloud below this one. So only addresses of the public Internet are asked, on HTTP's and HTTPS' own ports; each name is
//! resolved by us and connected to where that was public, and each redirect is looked at as the first address was.

use std::error::Error;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{StatusCode, header};
use ipnet::IpNet;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::redirect::Policy;
use reqwest::{Client, Response, Url};

use crate::error::Fault;

/// How many redirects are followed.
const REDIRECTS: usize = 5;
/// Until there is a connection, and until there is an answer.
const CONNECT: Duration = Duration::from_secs(10);
const ANSWER: Duration = Duration::from_secs(60);
/// Until a name is known.
const LOOKUP: Duration = Duration::from_secs(10);
/// One for all reasons: who asks is not to learn which names there are in the cloud's own network.
const NOWHERE: &str = "its host has no public address that can be found";

/// Which addresses, and which ports of them, may be asked.
#[derive(Clone)]
struct Allowed {
    address: Arc<dyn Fn(IpAddr) -> bool + Send + Sync>,
    port: fn(u16) -> bool,
}

impl Allowed {
    /// The addresses of a host that may be asked; at least one.
    async fn find(&self, host: &str) -> Result<Vec<SocketAddr>, &'static str> {
        let looked = tokio::time::timeout(LOOKUP, tokio::net::lookup_host((host, 0))).await;
        let found = looked.map_err(|_| NOWHERE)?.map_err(|_| NOWHERE)?;
        let found: Vec<SocketAddr> = found.filter(|one| (self.address)(one.ip())).collect();
        if found.is_empty() { Err(NOWHERE) } else { Ok(found) }
    }
}

/// Whether an address is one of the public Internet. (IANA's registries of special-purpose addresses, as of RFC 6890.)
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let special = matches!(
        (a, b, c),
        (0 | 10 | 127 | 224.., ..)
            | (100, 64..=127, _)
            | (169, 254, _)
            | (172, 16..=31, _)
            | (192, 0, 0 | 2)
            | (192, 31, 196)
            | (192, 52, 193)
            | (192, 88, 99)
            | (192, 168, _)
            | (192, 175, 48)
            | (198, 18 | 19, _)
            | (198, 51, 100)
            | (203, 0, 113)
    );
    !special
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let [a, b, ..] = address.segments();
    // What is given out begins with 001; of that, protocols' own, documentation, and 6to4, which holds any IPv4 address, are not.
    a & 0xe000 == 0x2000
        && !(a == 0x2001 && (b < 0x0200 || b == 0x0db8))
        && a != 0x2002
        && !(a == 0x3fff && b < 0x1000)
}

/// Resolves names to the addresses that may be asked.
struct Resolver(Allowed);

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let allowed = self.0.clone();
        Box::pin(async move {
            let found = allowed.find(name.as_str()).await?;
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

/// What asks for images.
pub(super) struct Web {
    client: Client,
    allowed: Allowed,
}

impl Web {
    /// One that asks the public Internet alone, but for the cloud's own addresses, on the ports of web servers (Glance's own default).
    ///
    /// # Errors
    /// Where the host has no certificates to trust.
    pub(super) fn public(own: Vec<IpNet>) -> Result<Web, Fault> {
        let address =
            Arc::new(move |address| is_public(address) && !own.iter().any(|net| net.contains(&address)));
        Self::new(Allowed { address, port: |port| matches!(port, 80 | 443) })
    }

    fn new(allowed: Allowed) -> Result<Web, Fault> {
        // The process may have one already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder()
            // A proxy would resolve names for itself.
            .no_proxy()
            .redirect(Policy::none())
            .dns_resolver(Arc::new(Resolver(allowed.clone())))
            .connect_timeout(CONNECT)
            .build();
        let client = client.map_err(|error| {
            let why = format!("This cloud's host cannot ask web servers: {}", told(&error));
            Fault::new(StatusCode::SERVICE_UNAVAILABLE, why)
        })?;
        Ok(Web { client, allowed })
    }

    /// An address that may be asked, as far as can be said without asking.
    ///
    /// # Errors
    /// 400 for all others.
    pub(super) async fn check(&self, uri: &str) -> Result<Url, Fault> {
        let url = Url::parse(uri).map_err(|error| refused(uri, &error.to_string()))?;
        self.look(&url).map_err(|why| refused(uri, &why))?;
        self.allowed.find(host(&url)).await.map_err(|why| refused(uri, why))?;
        Ok(url)
    }

    /// Looks at one address before it is asked: names are looked at by the resolver.
    fn look(&self, url: &Url) -> Result<(), String> {
        if !matches!(url.scheme(), "http" | "https") {
            return Err("its scheme is neither http nor https".to_owned());
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("it has a user or a password, which would be sent to whoever answers".to_owned());
        }
        let port = url.port_or_known_default().unwrap_or(0);
        if !(self.allowed.port)(port) {
            return Err(format!("port {port} is none of a web server's, which are 80 and 443"));
        }
        match host(url).parse::<IpAddr>() {
            Ok(address) if !(self.allowed.address)(address) => {
                Err(format!("{address} is not on the public Internet, or is the cloud's own"))
            }
            _ => Ok(()),
        }
    }

    /// Asks for what is at an address, of at most `most` bytes as far as the server says.
    ///
    /// # Errors
    /// What is wrong, in words for who wanted it.
    pub(super) async fn get(&self, mut url: Url, most: u64) -> Result<Body, String> {
        for _ in 0..=REDIRECTS {
            self.look(&url)?;
            let asked = tokio::time::timeout(ANSWER, self.client.get(url.clone()).send()).await;
            let answer = asked
                .map_err(|_| format!("{url} did not answer within {} s", ANSWER.as_secs()))?
                .map_err(|error| told(&error))?;
            if answer.status().is_redirection() {
                url = next(&url, &answer)?;
                continue;
            }
            if answer.status() != StatusCode::OK {
                return Err(format!("{url} answered {}", answer.status()));
            }
            if answer.content_length().is_some_and(|length| length > most) {
                return Err(format!("it is larger than {most} bytes"));
            }
            return Ok(Body::from_stream(answer.bytes_stream()));
        }
        Err(format!("there were more than {REDIRECTS} redirects"))
    }
}

/// The host of an address, without the brackets of IPv6.
fn host(url: &Url) -> &str {
    url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']')
}

/// Where a redirect leads.
fn next(url: &Url, answer: &Response) -> Result<Url, String> {
    let place = answer.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
    let place = place.ok_or_else(|| format!("{url} answered {} without a place", answer.status()))?;
    let next = url.join(place).map_err(|error| format!("{url} redirects to {place}: {error}"))?;
    if url.scheme() == "https" && next.scheme() != "https" {
        return Err(format!("{url} redirects from HTTPS to {next}"));
    }
    Ok(next)
}

/// An error with all that led to it: the outermost says little.
fn told(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        text = format!("{text}: {error}");
        next = error.source();
    }
    text
}

fn refused(uri: &str, why: &str) -> Fault {
    Fault::bad(format!("Invalid uri {uri} for import method web-download: {why}."))
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::response::Redirect;
    use axum::routing::get;

    use super::*;

    #[test]
    fn what_is_no_place_on_the_internet_is_told_from_what_is() {
        let public = |text: &str| is_public(text.parse().unwrap());
        for text in [
            "1.1.1.1",
            "93.184.216.34",
            "172.15.0.1",
            "172.32.0.1",
            "192.0.1.1",
            "2606:4700::1111",
            "2a00::1",
        ] {
            assert!(public(text), "{text}");
        }
        for text in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "127.0.0.1",
            "127.9.9.9",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.1",
            "192.0.2.1",
            "192.168.1.1",
            "198.18.0.1",
            "203.0.113.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:1.1.1.1",
            "64:ff9b::7f00:1",
            "fe80::1",
            "fd00::1",
            "ff02::1",
            "2001:db8::1",
            "2001::1",
            "2002:7f00:1::",
        ] {
            assert!(!public(text), "{text}");
        }
    }

    #[tokio::test]
    async fn only_the_public_web_is_asked() {
        let web = Web::public(vec!["1.0.0.0/30".parse().unwrap()]).unwrap();
        for (uri, words) in [
            ("no address", "relative URL"),
            ("ftp://example.com/a", "scheme"),
            ("file:///etc/shadow", "scheme"),
            ("http://ann:secret@1.1.1.1/", "password"),
            ("http://127.0.0.1/", "not on the public Internet"),
            ("http://2130706433/", "not on the public Internet"),
            ("http://0x7f.1/", "not on the public Internet"),
            ("http://[::1]/", "not on the public Internet"),
            ("http://[::ffff:127.0.0.1]/", "not on the public Internet"),
            ("http://169.254.169.254/latest/meta-data", "not on the public Internet"),
            ("https://1.1.1.1:6443/", "port 6443"),
            ("http://localhost:22/", "port 22"),
            ("http://localhost/", NOWHERE),
            ("http://a..b/", NOWHERE),
            ("http://1.0.0.1/", "not on the public Internet"),
        ] {
            let fault = web.check(uri).await.unwrap_err();
            assert!(fault.status == 400 && fault.message.contains(words), "{uri}: {}", fault.message);
        }
        assert_eq!(web.check("https://1.1.1.1/a").await.unwrap().path(), "/a");
        // A name is looked at where it is resolved, too, which is when it may lead elsewhere.
        let error = web.get("http://localhost/".parse().unwrap(), 9).await.unwrap_err();
        assert!(error.contains("no public address"), "{error}");
    }

    #[tokio::test]
    async fn redirects_are_looked_at_as_the_first_address_was() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let there = move |host: &str, path: &str| format!("http://{host}:{port}{path}");
        let (inside, round) = (there("127.0.0.2", "/file"), there("127.0.0.1", "/round"));
        let to = |place: String| get(move || async move { Redirect::temporary(&place) });
        let router = Router::new()
            .route("/file", get(|| async { "whole" }))
            .route("/there", to("/file".to_owned()))
            .route("/inside", to(inside))
            .route("/elsewhere", to("ftp://127.0.0.1/file".to_owned()))
            .route("/round", to(round));
        let serving = tokio::spawn(async move { axum::serve(listener, router).await });
        // As if that one address were the Internet.
        let one = |address: IpAddr| address == IpAddr::V4(Ipv4Addr::LOCALHOST);
        let web = Web::new(Allowed { address: Arc::new(one), port: |_| true }).unwrap();
        let ask = |path: &str, most: u64| web.get(there("127.0.0.1", path).parse().unwrap(), most);
        for path in ["/file", "/there"] {
            let body = ask(path, 5).await.unwrap();
            assert_eq!(axum::body::to_bytes(body, 9).await.unwrap(), "whole", "{path}");
        }
        for (path, words) in [
            ("/inside", "not on the public Internet"),
            ("/elsewhere", "scheme"),
            ("/round", "more than 5 redirects"),
            ("/none", "404"),
        ] {
            let error = ask(path, 5).await.map(drop).unwrap_err();
            assert!(error.contains(words), "{path}: {error}");
        }
        assert!(ask("/file", 4).await.map(drop).unwrap_err().contains("larger than 4 bytes"));
        serving.abort();
    }
}
