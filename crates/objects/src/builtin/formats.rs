//! What names, addresses and paths in the fields of objects must look like: each rule gives what is wrong
//! with a text, if anything, as upstream words it.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;

use crate::meta::{dns_label, dns_subdomain};

/// A rule for a text.
pub(super) type Rule = fn(&str) -> Option<String>;

const DNS_1035_RULE: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const WILDCARD_RULE: &str = "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character (e.g. '*.example.com', regex used for validation is '\\*\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const PATH_RULE: &str = "Invalid path (regex used for validation is '[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+')";

/// A DNS label that begins with a letter.
pub(super) fn dns_1035(name: &str) -> Option<String> {
    if name.len() > crate::meta::LABEL_LIMIT {
        return dns_label(name);
    }
    let good = dns_label(name).is_none() && name.starts_with(|c: char| c.is_ascii_lowercase());
    (!good).then(|| DNS_1035_RULE.to_owned())
}

/// A host of a rule: a DNS subdomain, or one below any single label.
pub(super) fn host(name: &str) -> Option<String> {
    if !name.contains('*') {
        return dns_subdomain(name);
    }
    let good = name.strip_prefix("*.").is_some_and(|rest| dns_subdomain(rest).is_none());
    (!good).then(|| WILDCARD_RULE.to_owned())
}

/// The name of a CSI or DRA driver.
pub(super) fn driver(name: &str) -> Option<String> {
    dns_subdomain(&name.to_lowercase())
}

/// A qualified name that may be written in upper case.
pub(super) fn qualified(name: &str) -> Option<String> {
    crate::meta::qualified_name(&name.to_lowercase())
}

/// A domain, a slash and a path, as `acme.io/foo`.
pub(super) fn domain_prefixed_path(text: &str) -> Option<String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "/-._~%!$&'()*+,;=:".contains(c);
    match text.split_once('/') {
        Some((domain, path)) if !domain.is_empty() && !path.is_empty() => {
            dns_subdomain(domain).or_else(|| (!path.chars().all(allowed)).then(|| PATH_RULE.to_owned()))
        }
        _ => Some("must be a domain-prefixed path (such as \"acme.io/foo\")".to_owned()),
    }
}

/// A domain of at least three labels.
pub(super) fn fully_qualified(name: &str) -> Option<String> {
    dns_subdomain(name).or_else(|| {
        let short = name.split('.').count() < 3;
        short.then(|| "should be a domain with at least three segments separated by dots".to_owned())
    })
}

/// A domain of at least two labels; it may end in a dot.
pub(super) fn fully_qualified_domain(name: &str) -> Option<String> {
    let name = name.strip_suffix('.').unwrap_or(name);
    dns_subdomain(name)
        .or_else(|| {
            let short = name.split('.').count() < 2;
            short.then(|| "should be a domain with at least two segments separated by dots".to_owned())
        })
        .or_else(|| name.split('.').find_map(dns_label))
}

/// The name of a signer, as `example.com/signer-name`.
pub(super) fn signer(name: &str) -> Option<String> {
    let Some((domain, path)) = name.split_once('/').filter(|(_, path)| !path.contains('/')) else {
        return Some(
            "must be a fully qualified domain and path of the form 'example.com/signer-name'".to_owned(),
        );
    };
    let label = |rule: Rule| move |label: &str| Some(format!("validating label {label:?}: {}", rule(label)?));
    if let Some(why) = domain.split('.').find_map(label(dns_label)) {
        return Some(why);
    }
    if !domain.contains('.') {
        return Some("should be a domain with at least two segments separated by dots".to_owned());
    }
    path.split('.').find_map(label(dns_subdomain))
}

/// An address, also in a form that is not the shortest.
pub(super) fn ip(text: &str) -> Option<String> {
    match text.parse::<IpAddr>() {
        Err(_) => Some("must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".to_owned()),
        Ok(address) if is_mapped(address) => Some("must not be an IPv4-mapped IPv6 address".to_owned()),
        Ok(_) => None,
    }
}

/// An address in its one canonical form.
pub(super) fn canonical_ip(text: &str) -> Option<String> {
    ip(text).or_else(|| {
        let canonical = text.parse::<IpAddr>().ok()?.to_string();
        (canonical != text).then(|| format!("must be in canonical form ({canonical:?})"))
    })
}

/// An address that a Service may lead to.
pub(super) fn endpoint_ip(text: &str) -> Option<String> {
    let address: IpAddr = text.parse().ok()?;
    let link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    let link_multicast = match address {
        IpAddr::V4(v4) => v4.octets()[..3] == [224, 0, 0],
        IpAddr::V6(v6) => v6.segments()[0] & 0xff0f == 0xff02,
    };
    if address.is_unspecified() {
        Some(format!("may not be unspecified ({text})"))
    } else if address.is_loopback() {
        Some("may not be in the loopback range (127.0.0.0/8, ::1/128)".to_owned())
    } else if link_local {
        Some("may not be in the link-local range (169.254.0.0/16, fe80::/10)".to_owned())
    } else if link_multicast {
        Some("may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)".to_owned())
    } else {
        None
    }
}

/// A range of addresses, as `10.9.8.0/24`.
pub(super) fn cidr(text: &str) -> Option<String> {
    match text.parse::<IpNet>() {
        Err(_) => Some("must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)".to_owned()),
        Ok(range) if is_mapped(range.addr()) => Some("must not have an IPv4-mapped IPv6 address".to_owned()),
        Ok(range) if range.addr() != range.network() => {
            Some("must not have bits set beyond the prefix length".to_owned())
        }
        Ok(_) => None,
    }
}

/// A range in its one canonical form.
pub(super) fn canonical_cidr(text: &str) -> Option<String> {
    cidr(text).or_else(|| {
        let canonical = text.parse::<IpNet>().ok()?.to_string();
        (canonical != text).then(|| format!("must be in canonical form ({canonical:?})"))
    })
}

fn is_mapped(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if Ipv6Addr::to_ipv4_mapped(&v6).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(rule: Rule, good: &[&str], bad: &[(&str, &str)]) {
        for text in good {
            assert_eq!(rule(text), None, "{text}");
        }
        for (text, why) in bad {
            assert!(rule(text).is_some_and(|found| found.contains(why)), "{text}: {:?}", rule(text));
        }
    }

    #[test]
    fn names_are_told_from_what_only_looks_like_them() {
        table(dns_1035, &["a", "v1", "my-name"], &[("1a", "DNS-1035"), ("", "DNS-1035"), ("A", "DNS-1035")]);
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
            &[("1.2.3", "valid IP"), ("::ffff:1.2.3.4", "mapped"), ("01.2.3.4", "valid IP")],
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
