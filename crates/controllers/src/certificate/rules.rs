//! What each of the cloud's signers signs.

use std::collections::BTreeSet;

use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
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
    use std::net::IpAddr;

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
    fn other_signers_are_not_the_clouds() {
        assert_eq!(Signer::named("example.com/x"), None);
        assert_eq!(Signer::named("kubernetes.io/kubelet-serving"), Some(Signer::NodeServing));
    }
}
