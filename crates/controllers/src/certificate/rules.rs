//! What each of the cloud's signers signs.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::Ipv4Net;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use k8s_openapi::api::core::v1::Node;
use yunfan_identity::node::{GROUP as NODES, USER_PREFIX as NODE};
use yunfan_identity::pki::CertificateRequest;

/// The signers that the cloud's authority signs for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signer {
    /// Clients of the API server.
    Client,
    /// Nodes, as clients of the API server.
    NodeClient,
    /// Nodes, as servers.
    NodeServing,
    /// Whatever was asked for before signers had names.
    Legacy,
}

impl Signer {
    /// The signer of that name; none where it is another's.
    pub(super) fn named(name: &str) -> Option<Self> {
        match name {
            "kubernetes.io/kube-apiserver-client" => Some(Self::Client),
            "kubernetes.io/kube-apiserver-client-kubelet" => Some(Self::NodeClient),
            "kubernetes.io/kubelet-serving" => Some(Self::NodeServing),
            "kubernetes.io/legacy-unknown" => Some(Self::Legacy),
            _ => None,
        }
    }

    /// Whether it signs such a request.
    ///
    /// # Errors
    /// Why it does not.
    pub(super) fn check(self, asked: &CertificateRequest, usages: &[String]) -> Result<(), String> {
        match self {
            Self::Client => client_usages(usages),
            Self::NodeClient => {
                of_nodes(asked)?;
                without("DNS", asked.dns_names.is_empty())?;
                without("Email", asked.emails.is_empty())?;
                without("IP", asked.addresses.is_empty())?;
                without("URI", asked.uris.is_empty())?;
                of_node(asked)?;
                node_usages(usages, "client auth")
            }
            Self::NodeServing => {
                of_nodes(asked)?;
                if asked.dns_names.is_empty() && asked.addresses.is_empty() {
                    return Err("DNS or IP subjectAltName is required".to_owned());
                }
                without("Email", asked.emails.is_empty())?;
                without("URI", asked.uris.is_empty())?;
                node_usages(usages, "server auth")?;
                of_node(asked)
            }
            Self::Legacy => Ok(()),
        }
    }
}

fn client_usages(usages: &[String]) -> Result<(), String> {
    let own = ["digital signature", "key encipherment", "client auth"];
    if let Some(other) = usages.iter().find(|usage| !own.contains(&usage.as_str())) {
        return Err(format!("invalid usage for client certificate: {other}"));
    }
    if usages.iter().any(|usage| usage == "client auth") {
        return Ok(());
    }
    Err("missing required usage for client certificate: client auth".to_owned())
}

/// A node's certificate is for signatures and this, and may be for keys too, which RSA needs.
fn node_usages(usages: &[String], own: &str) -> Result<(), String> {
    let all = BTreeSet::from([own, "digital signature", "key encipherment"]);
    let mut given: BTreeSet<&str> = usages.iter().map(String::as_str).collect();
    given.insert("key encipherment");
    if given == all {
        return Ok(());
    }
    let all: Vec<_> = all.into_iter().collect();
    Err(format!("usages did not match [{}]", all.join(" ")))
}

fn of_nodes(asked: &CertificateRequest) -> Result<(), String> {
    if asked.organizations == [NODES] {
        return Ok(());
    }
    Err(format!("subject organization is not {NODES}"))
}

fn of_node(asked: &CertificateRequest) -> Result<(), String> {
    if asked.common_name.starts_with(NODE) {
        return Ok(());
    }
    Err(format!("subject common name does not begin with {NODE}"))
}

fn without(what: &str, is: bool) -> Result<(), String> {
    if is { Ok(()) } else { Err(format!("{what} subjectAltNames are not allowed")) }
}

/// Whether the names of a server that a node asks to be are its own: of names the Node's alone, of addresses those that its status tells and
/// no other Node's. The node writes its status itself, so what leads to the API server (`servers`, and the range of Services) or to
/// nobody else (loopback) is never a node's.
pub(super) fn is_own(
    asked: &CertificateRequest,
    nodes: &[Arc<Node>],
    servers: &[IpAddr],
    services: Ipv4Net,
) -> bool {
    let Some(name) = asked.common_name.strip_prefix(NODE) else { return false };
    let (own, others): (Vec<_>, Vec<_>) =
        nodes.iter().partition(|node| node.metadata.name.as_deref() == Some(name));
    let has = |node: &Node, text: &str| {
        node.status.iter().flat_map(|status| status.addresses.iter().flatten()).any(|own| own.address == text)
    };
    let names = asked.dns_names.iter().all(|dns| dns == name && !is_of_servers(dns));
    let addresses = asked.addresses.iter().all(|address| {
        let text = address.to_string();
        let of_servers = servers.contains(address)
            || address.is_loopback()
            || address.is_unspecified()
            || matches!(address, IpAddr::V4(address) if services.contains(address));
        !of_servers && own.iter().any(|node| has(node, &text)) && !others.iter().any(|node| has(node, &text))
    });
    names && addresses && !own.is_empty()
}

/// Names by which the API server is known.
fn is_of_servers(dns: &str) -> bool {
    dns == "localhost" || dns == "kubernetes" || dns.starts_with("kubernetes.")
}

/// A request's conditions.
pub(super) fn conditions(
    request: &CertificateSigningRequest,
) -> impl Iterator<Item = &CertificateSigningRequestCondition> {
    request.status.iter().flat_map(|status| status.conditions.iter().flatten())
}

/// Whether a request has a condition of this kind. It is the same what status it has: the decisions are always true.
pub(super) fn has(request: &CertificateSigningRequest, kind: &str) -> bool {
    conditions(request).any(|condition| condition.type_ == kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> CertificateRequest {
        let mut asked = CertificateRequest::default();
        asked.common_name = "system:node:a".to_owned();
        asked.organizations = vec![NODES.to_owned()];
        asked
    }

    /// What is said of a request with a change to it.
    fn said(signer: Signer, usages: &[&str], change: impl FnOnce(&mut CertificateRequest)) -> String {
        let mut asked = node();
        change(&mut asked);
        let usages: Vec<String> = usages.iter().map(|usage| (*usage).to_owned()).collect();
        signer.check(&asked, &usages).err().unwrap_or_default()
    }

    fn word(text: &str) -> Vec<String> {
        vec![text.to_owned()]
    }

    #[test]
    fn clients_get_what_clients_use() {
        let usages = |usages: &[&str]| said(Signer::Client, usages, |_| ());
        assert_eq!(usages(&["client auth"]), "");
        assert_eq!(usages(&["digital signature", "key encipherment", "client auth"]), "");
        assert_eq!(
            usages(&["client auth", "server auth"]),
            "invalid usage for client certificate: server auth"
        );
        assert_eq!(
            usages(&["digital signature"]),
            "missing required usage for client certificate: client auth"
        );
        assert_eq!(said(Signer::Legacy, &["any"], |_| ()), "");
    }

    #[test]
    fn nodes_get_their_own_names_as_clients() {
        let client = ["client auth", "digital signature"];
        let of = |change: fn(&mut CertificateRequest)| said(Signer::NodeClient, &client, change);
        assert_eq!(of(|_| ()), "");
        assert_eq!(
            said(Signer::NodeClient, &["client auth", "digital signature", "key encipherment"], |_| ()),
            ""
        );
        assert_eq!(
            said(Signer::NodeClient, &["client auth"], |_| ()),
            "usages did not match [client auth digital signature key encipherment]"
        );
        assert_eq!(of(|asked| asked.organizations = vec![]), "subject organization is not system:nodes");
        assert_eq!(
            of(|asked| asked.organizations.push("system:masters".to_owned())),
            "subject organization is not system:nodes"
        );
        let prefix = "subject common name does not begin with system:node:";
        assert_eq!(of(|asked| asked.common_name = "ann".to_owned()), prefix);
        assert_eq!(of(|asked| asked.dns_names = word("a")), "DNS subjectAltNames are not allowed");
        assert_eq!(of(|asked| asked.emails = word("a@b")), "Email subjectAltNames are not allowed");
        assert_eq!(of(|asked| asked.uris = word("a://b")), "URI subjectAltNames are not allowed");
        let address = |asked: &mut CertificateRequest| asked.addresses = vec![IpAddr::from([10, 0, 0, 1])];
        assert_eq!(said(Signer::NodeClient, &client, address), "IP subjectAltNames are not allowed");
    }

    #[test]
    fn nodes_get_names_and_addresses_as_servers() {
        let server = ["server auth", "digital signature", "key encipherment"];
        let of = |change: fn(&mut CertificateRequest)| said(Signer::NodeServing, &server, change);
        assert_eq!(of(|_| ()), "DNS or IP subjectAltName is required");
        assert_eq!(of(|asked| asked.dns_names = word("a")), "");
        assert_eq!(of(|asked| asked.addresses = vec![IpAddr::from([10, 0, 0, 1])]), "");
        let named = |asked: &mut CertificateRequest| asked.dns_names = word("a");
        assert_eq!(
            said(Signer::NodeServing, &["client auth", "digital signature"], named),
            "usages did not match [digital signature key encipherment server auth]"
        );
        let mailed = |asked: &mut CertificateRequest| {
            asked.dns_names = word("a");
            asked.emails = word("a@b");
        };
        assert_eq!(said(Signer::NodeServing, &server, mailed), "Email subjectAltNames are not allowed");
    }

    #[test]
    fn nodes_are_servers_under_their_own_names_alone() {
        let node = |name: &str, address: &str| -> Arc<Node> {
            let object = serde_json::json!({"metadata": {"name": name},
                "status": {"addresses": [{"type": "InternalIP", "address": address}]}});
            Arc::new(serde_json::from_value(object).unwrap())
        };
        let nodes = [node("a", "10.0.0.1"), node("b", "10.0.0.2"), node("c", "10.0.0.1")];
        let servers = [IpAddr::from([10, 0, 0, 9])];
        let own = |dns: &[&str], last: Option<u8>, nodes: &[Arc<Node>]| {
            let mut asked = self::node();
            asked.dns_names = dns.iter().map(|name| (*name).to_owned()).collect();
            asked.addresses = last.map(|last| IpAddr::from([10, 0, 0, last])).into_iter().collect();
            is_own(&asked, nodes, &servers, "10.96.0.0/12".parse().unwrap())
        };
        assert!(own(&["a"], Some(1), &nodes[..2]));
        assert!(!own(&["a"], Some(1), &nodes), "another Node has that address, too");
        assert!(!own(&["b"], Some(1), &nodes[..2]), "another's name");
        assert!(!own(&["a"], Some(2), &nodes[..2]), "another's address");
        assert!(!own(&["kubernetes.default.svc"], None, &nodes[..2]), "nobody's name");
        assert!(!own(&["a"], None, &nodes[1..]), "no Node");
        let claims = [node("a", "10.0.0.9")];
        assert!(!own(&["a"], Some(9), &claims), "the API server's address");
        // What it claims in its status makes no name its own.
        let claims = [node("a", "kubernetes.default.svc")];
        assert!(!own(&["kubernetes.default.svc"], None, &claims), "a name of the API server's");
        let claims = [node("localhost", "10.0.0.1"), node("kubernetes", "10.0.0.2")];
        assert!(!own(&["localhost"], None, &claims) && !own(&["kubernetes"], None, &claims));
        for address in ["127.0.0.1", "10.96.0.1", "::1", "0.0.0.0"] {
            let mut asked = self::node();
            asked.addresses = vec![address.parse().unwrap()];
            let claims = [node("a", address)];
            assert!(!is_own(&asked, &claims, &servers, "10.96.0.0/12".parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn other_signers_are_not_the_clouds() {
        assert_eq!(Signer::named("example.com/x"), None);
        assert_eq!(Signer::named("kubernetes.io/kubelet-serving"), Some(Signer::NodeServing));
    }
}
