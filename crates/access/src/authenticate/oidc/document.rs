//! The issuers of an `AuthenticationConfiguration`, and those of the flags `--oidc-*`.

use std::path::PathBuf;

use http::Uri;
use jsonwebtoken::Algorithm;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde::Deserialize;
use yunfan_cel::Type;

use super::claims::{CLAIMS, From, Mapping, Rule, USER};
use super::distributed::Distributed;
use super::keys::{Keys, Source};
use super::{ALGORITHMS, Issuer};
use crate::conditions::Expression;
use crate::error::{ConfigError, Fault};
use crate::files;

/// Most issuers, and most of each of an issuer's lists.
const MOST: usize = 64;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(in crate::authenticate) struct Jwt {
    issuer: IssuerPart,
    #[serde(default)]
    claim_validation_rules: Vec<ClaimRule>,
    claim_mappings: Mappings,
    #[serde(default)]
    user_validation_rules: Vec<UserRule>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct IssuerPart {
    url: String,
    #[serde(default, rename = "discoveryURL")]
    discovery_url: String,
    #[serde(default)]
    certificate_authority: String,
    audiences: Vec<String>,
    #[serde(default)]
    audience_match_policy: String,
    /// Which way to the provider: there is one here, the direct one, as in Kubernetes without a configuration of ways out.
    #[serde(default)]
    egress_selector_type: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
struct ClaimRule {
    claim: String,
    required_value: String,
    expression: String,
    message: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct UserRule {
    expression: String,
    #[serde(default)]
    message: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Mappings {
    username: Prefixed,
    #[serde(default)]
    groups: Prefixed,
    #[serde(default)]
    uid: Prefixed,
    #[serde(default)]
    extra: Vec<Extra>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Prefixed {
    claim: String,
    prefix: Option<String>,
    expression: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Extra {
    key: String,
    value_expression: String,
}

/// The flags `--oidc-*`, the short form of one issuer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// `--oidc-issuer-url`; without it there is no issuer.
    pub issuer_url: Option<String>,
    /// `--oidc-client-id`.
    pub client_id: Option<String>,
    /// `--oidc-username-claim`; `sub` where nothing is given.
    pub username_claim: Option<String>,
    /// `--oidc-username-prefix`; `-` is none.
    pub username_prefix: Option<String>,
    /// `--oidc-groups-claim`.
    pub groups_claim: Option<String>,
    /// `--oidc-groups-prefix`.
    pub groups_prefix: Option<String>,
    /// `--oidc-required-claim`, each `KEY=VALUE`.
    pub required_claims: Vec<String>,
    /// `--oidc-signing-algs`; RS256 where nothing is given.
    pub signing_algs: Vec<String>,
    /// `--oidc-ca-file`.
    pub ca_file: Option<PathBuf>,
}

impl Flags {
    /// Whether any is given.
    pub(in crate::authenticate) fn any(&self) -> bool {
        *self != Self::default()
    }

    /// The issuer that they describe.
    pub(in crate::authenticate) fn read(&self) -> Result<Option<Issuer>, ConfigError> {
        if !self.any() {
            return Ok(None);
        }
        let given = |flag: &str, value: &Option<String>| {
            let value = value.clone().filter(|value| !value.is_empty());
            value.ok_or_else(|| {
                ConfigError::flag(flag, "is missing; an issuer needs its URL and our client id")
            })
        };
        let url = given("--oidc-issuer-url", &self.issuer_url)?;
        let client = given("--oidc-client-id", &self.client_id)?;
        let claim = self.username_claim.clone().unwrap_or_else(|| "sub".to_owned());
        // As kube-apiserver: users of another issuer must not become ours by their name alone.
        let prefix = match self.username_prefix.as_deref() {
            Some("-") => String::new(),
            Some(prefix) if !prefix.is_empty() => prefix.to_owned(),
            _ if claim == "email" => String::new(),
            _ => format!("{url}#"),
        };
        let mut rules = Vec::new();
        for pair in &self.required_claims {
            let (claim, value) = pair.split_once('=').ok_or_else(|| {
                ConfigError::flag("--oidc-required-claim", format!("is {pair:?}; it must be CLAIM=VALUE"))
            })?;
            let (claim, required_value) = (claim.to_owned(), value.to_owned());
            rules.push(ClaimRule { claim, required_value, ..ClaimRule::default() });
        }
        let mut algorithms = Vec::new();
        for name in &self.signing_algs {
            let known = ALGORITHMS.into_iter().find(|algorithm| format!("{algorithm:?}") == *name);
            algorithms.push(known.ok_or_else(|| {
                ConfigError::flag("--oidc-signing-algs", format!("{name:?} is none of {ALGORITHMS:?}"))
            })?);
        }
        if algorithms.is_empty() {
            algorithms.push(Algorithm::RS256);
        }
        let certificate_authority = self.ca_file.as_deref().map(files::read).transpose()?.unwrap_or_default();
        let jwt = Jwt {
            issuer: IssuerPart {
                url,
                certificate_authority,
                audiences: vec![client],
                ..IssuerPart::default()
            },
            claim_validation_rules: rules,
            claim_mappings: Mappings {
                username: Prefixed { claim, prefix: Some(prefix), ..Prefixed::default() },
                groups: Prefixed {
                    claim: self.groups_claim.clone().unwrap_or_default(),
                    prefix: self
                        .groups_claim
                        .as_ref()
                        .map(|_| self.groups_prefix.clone().unwrap_or_default()),
                    ..Prefixed::default()
                },
                ..Mappings::default()
            },
            ..Jwt::default()
        };
        let made = jwt.issuer("", &algorithms);
        made.map(Some)
            .map_err(|fault| ConfigError::flag("--oidc-*", format!("{}: {}", fault.field, fault.why)))
    }
}

/// The issuers of a file.
pub(in crate::authenticate) fn read(list: Vec<Jwt>) -> Result<Vec<Issuer>, Fault> {
    if list.len() > MOST {
        return Err(Fault::new("jwt", format!("must have at most {MOST} entries")));
    }
    let mut issuers: Vec<Issuer> = Vec::new();
    for (index, jwt) in list.into_iter().enumerate() {
        let at = format!("jwt[{index}].");
        if issuers.iter().any(|issuer| issuer.url == jwt.issuer.url) {
            let why =
                format!("{:?} is there for the second time; give each issuer one entry", jwt.issuer.url);
            return Err(Fault::new(format!("{at}issuer.url"), why));
        }
        issuers.push(jwt.issuer(&at, &ALGORITHMS)?);
    }
    Ok(issuers)
}

impl Jwt {
    fn issuer(self, at: &str, algorithms: &[Algorithm]) -> Result<Issuer, Fault> {
        let fail = |field: &str, why: &str| Fault::new(format!("{at}{field}"), why);
        let part = &self.issuer;
        check_url(&part.url).map_err(|why| fail("issuer.url", why))?;
        let discovery = match part.discovery_url.as_str() {
            "" => format!("{}/.well-known/openid-configuration", part.url.trim_end_matches('/')),
            url if url == part.url => {
                return Err(fail("issuer.discoveryURL", "must be another one than the issuer's url"));
            }
            url => {
                check_url(url).map_err(|why| fail("issuer.discoveryURL", why))?;
                url.to_owned()
            }
        };
        if part.audiences.is_empty() || part.audiences.iter().any(String::is_empty) {
            return Err(fail("issuer.audiences", "must have at least one entry, and none that is empty"));
        }
        match (part.audience_match_policy.as_str(), part.audiences.len()) {
            ("MatchAny", _) | ("", 1) => {}
            _ => {
                return Err(fail(
                    "issuer.audienceMatchPolicy",
                    "must be MatchAny where there are several audiences",
                ));
            }
        }
        if !matches!(part.egress_selector_type.as_str(), "" | "controlplane" | "cluster") {
            return Err(fail("issuer.egressSelectorType", "must be either controlplane or cluster"));
        }
        let authorities = authorities(&part.certificate_authority)
            .map_err(|why| fail("issuer.certificateAuthority", &why))?;
        self.check_email(&fail)?;
        let mapping = self.mapping(&fail)?;
        let distributed = match &mapping.groups {
            Some(From::Claim { name, .. }) => Some(Distributed::new(name, authorities.clone())),
            _ => None,
        };
        let source = Source { issuer: part.url.clone(), discovery, authorities };
        Ok(Issuer {
            url: part.url.clone(),
            audiences: part.audiences.clone(),
            algorithms: algorithms.to_vec(),
            mapping,
            keys: Keys::new(source),
            distributed,
        })
    }

    fn mapping(&self, fail: &impl Fn(&str, &str) -> Fault) -> Result<Mapping, Fault> {
        let mappings = &self.claim_mappings;
        let text = |field: &str, from: &Prefixed, prefixed: bool, wanted: &[Type]| {
            let at = |name: &str| format!("claimMappings.{field}.{name}");
            match (from.claim.as_str(), from.expression.as_str()) {
                ("", "") if from.prefix.is_some() => Err(fail(&at("claim"), "is missing beside the prefix")),
                ("", "") => Ok(None),
                ("", source) if from.prefix.is_none() => expression(source, &CLAIMS, "claims", wanted)
                    .map(|made| Some(From::Expression(made)))
                    .map_err(|why| fail(&at("expression"), &why)),
                (claim, "") => match (&from.prefix, prefixed) {
                    (Some(prefix), true) => {
                        Ok(Some(From::Claim { name: claim.to_owned(), prefix: prefix.clone() }))
                    }
                    (None, true) => Err(fail(&at("prefix"), "is missing; give \"\" for none")),
                    (None, false) => Ok(Some(From::Claim { name: claim.to_owned(), prefix: String::new() })),
                    (Some(_), false) => Err(fail(&at("prefix"), "is no field of this mapping")),
                },
                _ => Err(fail(&at("expression"), "cannot stand beside claim or prefix")),
            }
        };
        let lists = [Type::list(Type::String), Type::list(Type::Dyn), Type::String];
        let username = text("username", &mappings.username, true, &[Type::String])?
            .ok_or_else(|| fail("claimMappings.username", "needs a claim or an expression"))?;
        let mut extra: Vec<(String, Expression)> = Vec::new();
        check_count("claimMappings.extra", mappings.extra.len(), fail)?;
        for (index, entry) in mappings.extra.iter().enumerate() {
            let at = |name: &str| format!("claimMappings.extra[{index}].{name}");
            check_extra_key(&entry.key).map_err(|why| fail(&at("key"), why))?;
            if extra.iter().any(|(key, _)| *key == entry.key) {
                return Err(fail(&at("key"), "is there for the second time"));
            }
            let made = expression(&entry.value_expression, &CLAIMS, "claims", &lists);
            extra.push((entry.key.clone(), made.map_err(|why| fail(&at("valueExpression"), &why))?));
        }
        Ok(Mapping {
            rules: self.rules(fail)?,
            username,
            groups: text("groups", &mappings.groups, true, &lists)?,
            uid: text("uid", &mappings.uid, false, &[Type::String])?,
            extra,
            users: self.user_rules(fail)?,
        })
    }

    fn rules(&self, fail: &impl Fn(&str, &str) -> Fault) -> Result<Vec<Rule>, Fault> {
        check_count("claimValidationRules", self.claim_validation_rules.len(), fail)?;
        let one = |(index, rule): (usize, &ClaimRule)| {
            let at = |name: &str| format!("claimValidationRules[{index}].{name}");
            match (rule.claim.as_str(), rule.expression.as_str()) {
                ("", "") => Err(fail(&at("claim"), "is missing; give a claim or an expression")),
                ("", source) if rule.required_value.is_empty() => {
                    expression(source, &CLAIMS, "claims", &[Type::Bool])
                        .map(|expression| Rule::Expression { expression, message: rule.message.clone() })
                        .map_err(|why| fail(&at("expression"), &why))
                }
                (claim, "") if rule.message.is_empty() => {
                    Ok(Rule::Required { claim: claim.to_owned(), value: rule.required_value.clone() })
                }
                (_, "") => Err(fail(&at("message"), "may only stand beside an expression")),
                _ => Err(fail(&at("expression"), "cannot stand beside claim or requiredValue")),
            }
        };
        self.claim_validation_rules.iter().enumerate().map(one).collect()
    }

    fn user_rules(&self, fail: &impl Fn(&str, &str) -> Fault) -> Result<Vec<(Expression, String)>, Fault> {
        check_count("userValidationRules", self.user_validation_rules.len(), fail)?;
        let one = |(index, rule): (usize, &UserRule)| {
            expression(&rule.expression, &USER, "user", &[Type::Bool])
                .map(|made| (made, rule.message.clone()))
                .map_err(|why| fail(&format!("userValidationRules[{index}].expression"), &why))
        };
        self.user_validation_rules.iter().enumerate().map(one).collect()
    }

    /// Kubernetes' rule: who is known by an address of mail that they only claim to have can be anybody.
    fn check_email(&self, fail: &impl Fn(&str, &str) -> Fault) -> Result<(), Fault> {
        let sees = |source: &str, field: &str| {
            let made = expression(source, &CLAIMS, "claims", &[]);
            made.is_ok_and(|made| made.program.fields_of("claims").contains(field))
        };
        let mappings = &self.claim_mappings;
        if !sees(&mappings.username.expression, "email") {
            return Ok(());
        }
        let extra = mappings.extra.iter().map(|extra| extra.value_expression.as_str());
        let rules = self.claim_validation_rules.iter().map(|rule| rule.expression.as_str());
        let mut all = extra.chain(rules).chain([mappings.username.expression.as_str()]);
        if all.any(|source| sees(source, "email_verified")) {
            return Ok(());
        }
        let why = "uses claims.email: claims.email_verified must be used there, in an extra or in a validation rule";
        Err(fail("claimMappings.username.expression", why))
    }
}

fn expression(
    source: &str,
    shape: &std::sync::Arc<yunfan_cel::Decl>,
    name: &str,
    wanted: &[Type],
) -> Result<Expression, String> {
    Expression::new(source, (name, shape.clone()), wanted)
}

fn check_count(field: &str, count: usize, fail: &impl Fn(&str, &str) -> Fault) -> Result<(), Fault> {
    if count > MOST { Err(fail(field, &format!("must have at most {MOST} entries"))) } else { Ok(()) }
}

fn check_url(url: &str) -> Result<(), &'static str> {
    let uri: Uri = url.parse().map_err(|_| "must be an https URL")?;
    if uri.scheme_str() != Some("https") || uri.host().is_none_or(str::is_empty) {
        return Err("must be an https URL with a host");
    }
    let authority = uri.authority().map(http::uri::Authority::as_str).unwrap_or_default();
    if authority.contains('@') || uri.query().is_some() || url.contains('#') {
        return Err("must have neither a user nor a query nor a fragment");
    }
    Ok(())
}

/// Keys say whose they are, and Kubernetes' own are its own.
fn check_extra_key(key: &str) -> Result<(), &'static str> {
    let Some((domain, path)) =
        key.split_once('/').filter(|(domain, path)| !domain.is_empty() && !path.is_empty())
    else {
        return Err("must be a path below a domain, such as example.com/department");
    };
    if key.chars().any(|c| c.is_ascii_uppercase() || c.is_whitespace() || !c.is_ascii()) || path.contains('%')
    {
        return Err("must be of lower-case letters, digits, dots, dashes and slashes");
    }
    for own in ["kubernetes.io", "k8s.io", "yunfan.io"] {
        if domain == own || domain.strip_suffix(own).is_some_and(|rest| rest.ends_with('.')) {
            return Err("must not be below kubernetes.io, k8s.io or yunfan.io");
        }
    }
    Ok(())
}

fn authorities(pem: &str) -> Result<Option<Vec<Vec<u8>>>, String> {
    if pem.trim().is_empty() {
        return Ok(None);
    }
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    let read = read.map_err(|error| format!("is no certificate in PEM: {error}"))?;
    if read.is_empty() {
        return Err(
            "has no certificate; give one in PEM, or leave it out for the system's authorities".to_owned()
        );
    }
    Ok(Some(read.into_iter().map(|certificate| certificate.to_vec()).collect()))
}
