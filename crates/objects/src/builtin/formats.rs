//! What names, addresses and paths in the fields of objects must look like: each rule gives what is wrong
//! with a text, if anything, as upstream words it.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;

use crate::meta::{Wrongs, dns_label, dns_subdomain};

/// A rule for a text: all that is wrong with it.
pub(super) type Rule = fn(&str) -> Wrongs;

const WILDCARD_RULE: &str = "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character (e.g. '*.example.com', regex used for validation is '\\*\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const PATH_RULE: &str = "Invalid path (regex used for validation is '[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+')";
const CONFIG_KEY_RULE: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";
const HEADER_RULE: &str = "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')";
const SEARCH_RULE: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\\._?[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*')";

fn unless(good: bool, why: &str) -> Wrongs {
    if good { Wrongs::new() } else { vec![why.to_owned()] }
}

/// The first of two lists with anything in it.
fn or_else(first: Wrongs, second: impl FnOnce() -> Wrongs) -> Wrongs {
    if first.is_empty() { second() } else { first }
}

/// Where upstream makes one finding of several.
fn joined(wrongs: Wrongs, separator: &str) -> Wrongs {
    if wrongs.is_empty() { wrongs } else { vec![wrongs.join(separator)] }
}

/// A host of a rule: a DNS subdomain, or one below any single label.
pub(super) fn host(name: &str) -> Wrongs {
    if !name.contains('*') {
        return dns_subdomain(name);
    }
    unless(name.strip_prefix("*.").is_some_and(|rest| dns_subdomain(rest).is_empty()), WILDCARD_RULE)
}

/// The name of a port: an IANA service name.
pub(super) fn port_name(name: &str) -> Wrongs {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let findings = [
        (name.len() > 15, "must be no more than 15 characters"),
        (
            name.is_empty() || !name.bytes().all(allowed),
            "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)",
        ),
        (!name.bytes().any(|b| b.is_ascii_lowercase()), "must contain at least one letter (a-z)"),
        (name.contains("--"), "must not contain consecutive hyphens"),
        (name.starts_with('-') || name.ends_with('-'), "must not begin or end with a hyphen"),
    ];
    findings.into_iter().filter(|(bad, _)| *bad).map(|(_, why)| why.to_owned()).collect()
}

/// A key of a ConfigMap or a Secret, which may become a file's name.
pub(super) fn config_key(key: &str) -> Wrongs {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let mut found = Wrongs::new();
    if key.len() > crate::meta::SUBDOMAIN_LIMIT {
        found.push(format!("must be no more than {} characters", crate::meta::SUBDOMAIN_LIMIT));
    }
    found.extend(unless(!key.is_empty() && key.bytes().all(allowed), CONFIG_KEY_RULE));
    match key {
        "." | ".." => found.push(format!("must not be '{key}'")),
        _ if key.starts_with("..") => found.push("must not start with '..'".to_owned()),
        _ => {}
    }
    found
}

/// The name of a variable in a container's environment.
pub(super) fn variable_name(name: &str) -> Wrongs {
    let good = !name.contains('=') && name.bytes().all(|b| (b' '..=b'~').contains(&b));
    let why =
        "a valid environment variable name must consist only of printable ASCII characters other than '='";
    or_else(unless(!name.is_empty(), "environment variable name must be non-empty"), || unless(good, why))
}

/// An identifier of C.
pub(super) fn c_identifier(name: &str) -> Wrongs {
    let letter = |b: u8| b.is_ascii_alphabetic() || b == b'_';
    let good =
        name.bytes().next().is_some_and(letter) && name.bytes().all(|b| letter(b) || b.is_ascii_digit());
    let why = "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName', regex used for validation is '[A-Za-z_][A-Za-z0-9_]*')";
    unless(good, why)
}

/// The name of an HTTP header.
pub(super) fn header_name(name: &str) -> Wrongs {
    let good = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    unless(good, HEADER_RULE)
}

/// A domain that names are looked up in.
pub(super) fn search_domain(name: &str) -> Wrongs {
    let part = |part: &str| {
        let part = part.strip_prefix('_').unwrap_or(part);
        let edge = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
        edge(part.as_bytes().first()) && edge(part.as_bytes().last()) && part.bytes().all(allowed)
    };
    let long = unless(name.len() <= crate::meta::SUBDOMAIN_LIMIT, "must be no more than 253 characters");
    [long, unless(name.split('.').all(part), SEARCH_RULE)].concat()
}

/// The name of a CSI or DRA driver.
pub(super) fn driver(name: &str) -> Wrongs {
    dns_subdomain(&name.to_lowercase())
}

/// A qualified name that may be written in upper case.
pub(super) fn qualified(name: &str) -> Wrongs {
    crate::meta::qualified_name(&name.to_lowercase())
}

/// A domain, a slash and a path, as `acme.io/foo`.
pub(super) fn domain_prefixed_path(text: &str) -> Wrongs {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "/-._~%!$&'()*+,;=:".contains(c);
    match text.split_once('/') {
        Some((domain, path)) if !domain.is_empty() && !path.is_empty() => {
            [dns_subdomain(domain), unless(path.chars().all(allowed), PATH_RULE)].concat()
        }
        _ => vec!["must be a domain-prefixed path (such as \"acme.io/foo\")".to_owned()],
    }
}

/// A domain of at least three labels.
pub(super) fn fully_qualified(name: &str) -> Wrongs {
    or_else(joined(dns_subdomain(name), ","), || {
        let why = "should be a domain with at least three segments separated by dots";
        unless(name.split('.').count() >= 3, why)
    })
}

/// A domain of at least two labels; it may end in a dot.
pub(super) fn fully_qualified_domain(name: &str) -> Wrongs {
    let name = name.strip_suffix('.').unwrap_or(name);
    let labels = || {
        let wrong = name.split('.').map(dns_label).find(|wrong| !wrong.is_empty());
        joined(wrong.unwrap_or_default(), ",")
    };
    let why = "should be a domain with at least two segments separated by dots";
    or_else(joined(dns_subdomain(name), ","), || or_else(unless(name.contains('.'), why), labels))
}

/// The name of a signer, as `example.com/signer-name`.
pub(super) fn signer(name: &str) -> Wrongs {
    let Some((domain, path)) = name.split_once('/').filter(|(_, path)| !path.contains('/')) else {
        return vec![
            "must be a fully qualified domain and path of the form 'example.com/signer-name'".to_owned(),
        ];
    };
    let label = |rule: Rule| {
        move |label: &str| {
            let why = rule(label).into_iter().next()?;
            Some(format!("validating label {label:?}: {why}"))
        }
    };
    if let Some(why) = domain.split('.').find_map(label(dns_label)) {
        return vec![why];
    }
    if !domain.contains('.') {
        return vec!["should be a domain with at least two segments separated by dots".to_owned()];
    }
    path.split('.').find_map(label(dns_subdomain)).into_iter().collect()
}

/// An address, also in a form that is not the shortest.
pub(super) fn ip(text: &str) -> Wrongs {
    match text.parse::<IpAddr>() {
        Err(_) if has_leading_zeros(text) => vec!["must not have leading 0s".to_owned()],
        Err(_) => vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".to_owned()],
        Ok(address) => unless(!is_mapped(address), "must not be an IPv4-mapped IPv6 address"),
    }
}

/// Whether the text would be an address in four parts if none of them had zeros in front, which some programs read as
/// octal numbers.
fn has_leading_zeros(text: &str) -> bool {
    without_zeros(text).is_some_and(|plain| plain != text && plain.parse::<IpAddr>().is_ok())
}

/// The text without the zeros that its parts have in front; none where a part is empty.
pub(super) fn without_zeros(text: &str) -> Option<String> {
    let part = |part: &str| match part.trim_start_matches('0') {
        "" if part.is_empty() => None,
        "" => Some("0".to_owned()),
        rest => Some(rest.to_owned()),
    };
    text.split('.').map(part).collect::<Option<Vec<String>>>().map(|parts| parts.join("."))
}

/// An address in its one canonical form.
pub(super) fn canonical_ip(text: &str) -> Wrongs {
    or_else(ip(text), || canonical(text, text.parse::<IpAddr>().map(|ip| ip.to_string())))
}

fn canonical<E>(text: &str, form: Result<String, E>) -> Wrongs {
    form.map_or(Wrongs::new(), |form| unless(form == text, &format!("must be in canonical form ({form:?})")))
}

/// An address that a Service may lead to.
pub(super) fn endpoint_ip(text: &str) -> Wrongs {
    let Ok(address) = text.parse::<IpAddr>() else { return Wrongs::new() };
    let link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    let link_multicast = match address {
        IpAddr::V4(v4) => v4.octets()[..3] == [224, 0, 0],
        IpAddr::V6(v6) => v6.segments()[0] & 0xff0f == 0xff02,
    };
    let unspecified = format!("may not be unspecified ({text})");
    let findings = [
        (address.is_unspecified(), unspecified.as_str()),
        (address.is_loopback(), "may not be in the loopback range (127.0.0.0/8, ::1/128)"),
        (link_local, "may not be in the link-local range (169.254.0.0/16, fe80::/10)"),
        (link_multicast, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"),
    ];
    findings.into_iter().filter(|(bad, _)| *bad).map(|(_, why)| why.to_owned()).collect()
}

/// A range of addresses, as `10.9.8.0/24`.
pub(super) fn cidr(text: &str) -> Wrongs {
    let (address, length) = text.split_once('/').unwrap_or((text, ""));
    let padded = |part: &str| part.len() > 1 && part.starts_with('0');
    match text.parse::<IpNet>() {
        Ok(IpNet::V4(_)) if address.split('.').any(padded) || padded(length) => {
            vec!["must not have leading 0s in IP or prefix length".to_owned()]
        }
        Err(_) => vec!["must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)".to_owned()],
        Ok(range) if is_mapped(range.addr()) => vec!["must not have an IPv4-mapped IPv6 address".to_owned()],
        Ok(range) => {
            let why = "must not have bits set beyond the prefix length";
            unless(range.addr() == range.network(), why)
        }
    }
}

/// A range in its one canonical form.
pub(super) fn canonical_cidr(text: &str) -> Wrongs {
    or_else(cidr(text), || canonical(text, text.parse::<IpNet>().map(|range| range.to_string())))
}

fn is_mapped(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if Ipv6Addr::to_ipv4_mapped(&v6).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(rule: Rule, good: &[&str], bad: &[(&str, &str)]) {
        for text in good {
            assert!(rule(text).is_empty(), "{text}: {:?}", rule(text));
        }
        for (text, why) in bad {
            assert!(rule(text).iter().any(|found| found.contains(why)), "{text}: {:?}", rule(text));
        }
    }

    #[test]
    fn names_are_told_from_what_only_looks_like_them() {
        table(
            port_name,
            &["http", "a-1"],
            &[("", "only alpha"), ("UPPER", "at least one letter"), ("a--b", "consecutive"), ("-a", "begin")],
        );
        assert_eq!(port_name("UPPER").len(), 2);
        table(config_key, &["a.b", ".x"], &[("", "config key"), ("..", "not be '..'"), ("..x", "not start")]);
        table(variable_name, &["1 2", "A"], &[("", "non-empty"), ("a=b", "printable"), ("é", "printable")]);
        table(header_name, &["X-A"], &[("", "HTTP header"), ("a b", "HTTP header")]);
        table(search_domain, &["a.b", "_srv.a"], &[("a b", "'_', '-' or"), ("__a", "'_', '-' or")]);
        table(host, &["a.b", "*.a.b"], &[("*", "wildcard"), ("a.*.b", "wildcard"), ("A", "RFC 1123")]);
        table(driver, &["CSI.example.com"], &[("a_b", "RFC 1123")]);
        table(fully_qualified, &["a.b.c"], &[("a.b", "three segments"), ("A.b.c", "RFC 1123")]);
        table(fully_qualified_domain, &["a.b", "a.b."], &[("a", "two segments"), ("a_.b", "RFC 1123")]);
        table(
            signer,
            &["example.com/x", "kubernetes.io/kube-apiserver-client"],
            &[
                ("x", "of the form"),
                ("a/b", "two segments"),
                ("a.b/C", "validating label"),
                ("a.b/c/d", "of the form"),
            ],
        );
        table(
            domain_prefixed_path,
            &["example.com/controller", "a/b/c"],
            &[
                ("x", "domain-prefixed"),
                ("/x", "domain-prefixed"),
                ("a_/b", "RFC 1123"),
                ("a/b c", "Invalid path"),
            ],
        );
    }

    #[test]
    fn addresses_and_ranges_are_held_to_one_form() {
        table(
            ip,
            &["1.2.3.4", "2001:DB8::1"],
            &[("1.2.3", "valid IP"), ("::ffff:1.2.3.4", "mapped"), ("01.2.3.4", "leading 0s")],
        );
        table(
            canonical_ip,
            &["1.2.3.4", "2001:db8::1"],
            &[("2001:DB8::1", "canonical form (\"2001:db8::1\")")],
        );
        table(
            cidr,
            &["10.0.0.0/8", "2001:db8::/64"],
            &[("10.0.0.1/8", "bits set"), ("10.0.0.0", "valid CIDR"), ("::ffff:1.2.3.0/120", "mapped")],
        );
        table(canonical_cidr, &["10.0.0.0/8"], &[("2001:DB8::/64", "canonical form")]);
        table(
            endpoint_ip,
            &["10.0.0.1", "2001:db8::1"],
            &[
                ("0.0.0.0", "unspecified"),
                ("127.0.0.1", "loopback"),
                ("169.254.1.1", "link-local range"),
                ("224.0.0.5", "multicast"),
                ("ff02::1", "multicast"),
            ],
        );
    }
}
