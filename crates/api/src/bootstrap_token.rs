//! Bootstrap tokens: what a machine that joins brings for as long as it has no certificate. Each is a Secret of the type
//! `bootstrap.kubernetes.io/token` in kube-system (Kubernetes' page "Authenticating with Bootstrap Tokens").

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::Value;
use sha2::{Digest, Sha256};
use yunfan_identity::UserInfo;

use crate::cache::Cache;
use crate::keys;

const NAMESPACE: &str = "kube-system";
const TYPE: &str = "bootstrap.kubernetes.io/token";
/// Group of all of them; others that a Secret names must begin with it.
const GROUP: &str = "system:bootstrappers";

/// Reads the Secrets.
pub(crate) struct BootstrapTokens {
    cache: Arc<Cache>,
    /// Prefix of their keys.
    secrets: String,
}

impl BootstrapTokens {
    pub(crate) fn new(cache: Arc<Cache>) -> Self {
        Self { cache, secrets: keys::kind_prefix("", "secrets") }
    }

    /// Whose token it is, if it is one and holds.
    pub(crate) fn user(&self, token: &str) -> Option<UserInfo> {
        let (id, secret) = parts(token)?;
        let key = keys::object_key(&self.secrets, NAMESPACE, &format!("bootstrap-token-{id}"));
        let object = self.cache.kind(&self.secrets).get(&key)?.decode_stored();
        user(&object, id, secret, Timestamp::now())
    }
}

/// `abcdef.0123456789abcdef`.
fn parts(token: &str) -> Option<(&str, &str)> {
    let (id, secret) = token.split_once('.')?;
    let plain = |text: &str| text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    (id.len() == 6 && secret.len() == 16 && plain(id) && plain(secret)).then_some((id, secret))
}

fn user(object: &Value, id: &str, secret: &str, now: Timestamp) -> Option<UserInfo> {
    if object["type"] != TYPE || !object["metadata"]["deletionTimestamp"].is_null() {
        return None;
    }
    let data = |key: &str| {
        let bytes = STANDARD.decode(object["data"][key].as_str()?).ok()?;
        String::from_utf8(bytes).ok().filter(|text| !text.is_empty())
    };
    // Hashes differ everywhere if the secrets do: the time of the comparison tells nothing.
    let same = Sha256::digest(data("token-secret")?) == Sha256::digest(secret);
    if !same || data("token-id")? != id || data("usage-bootstrap-authentication").as_deref() != Some("true") {
        return None;
    }
    // What cannot be read has passed.
    let given = object["data"]["expiration"].as_str().is_some_and(|text| !text.is_empty());
    let end = data("expiration").and_then(|end| end.parse::<Timestamp>().ok());
    if given && end.is_none_or(|end| end <= now) {
        return None;
    }
    let mut groups = vec![GROUP.to_owned()];
    for group in data("auth-extra-groups").unwrap_or_default().split(',').map(str::trim) {
        if !group.is_empty() && !is_extra(group) {
            return None;
        }
        groups.extend((!group.is_empty()).then(|| group.to_owned()));
    }
    Some(UserInfo::authenticated(format!("system:bootstrap:{id}"), groups))
}

/// `system:bootstrappers:` and up to 256 letters, digits, `:` and `-`, of which the last is a letter or digit.
fn is_extra(group: &str) -> bool {
    let Some(rest) = group.strip_prefix(GROUP).and_then(|rest| rest.strip_prefix(':')) else { return false };
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    rest.len() <= 256
        && rest.bytes().all(|b| plain(b) || matches!(b, b':' | b'-'))
        && rest.bytes().last().is_some_and(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const SECRET: &str = "0123456789abcdef";

    fn secret(change: &[(&str, &str)]) -> Value {
        let mut data = json!({});
        let standard = [
            ("token-id", "abcdef"),
            ("token-secret", SECRET),
            ("usage-bootstrap-authentication", "true"),
            ("auth-extra-groups", "system:bootstrappers:workers, system:bootstrappers:a-b"),
            ("expiration", "2026-01-01T00:00:00Z"),
        ];
        for (key, value) in standard.iter().chain(change) {
            data[*key] = json!(STANDARD.encode(value));
        }
        json!({"type": TYPE, "metadata": {"name": "bootstrap-token-abcdef"}, "data": data})
    }

    fn found(object: &Value, given: &str) -> Option<UserInfo> {
        user(object, "abcdef", given, "2025-12-31T00:00:00Z".parse().expect("a time"))
    }

    #[test]
    fn a_secret_is_a_user() {
        let user = found(&secret(&[]), SECRET).expect("holds");
        assert_eq!(user.name, "system:bootstrap:abcdef");
        assert_eq!(
            user.groups,
            [GROUP, "system:bootstrappers:workers", "system:bootstrappers:a-b", "system:authenticated"]
        );
    }

    #[test]
    fn what_has_passed_or_is_for_something_else_lets_nobody_in() {
        for change in [
            ("expiration", "2025-12-30T00:00:00Z"),
            ("expiration", "soon"),
            ("usage-bootstrap-authentication", "false"),
            ("token-id", "abcdeg"),
            ("auth-extra-groups", "system:masters"),
            ("auth-extra-groups", "system:bootstrappers:"),
            ("auth-extra-groups", "system:bootstrappers:x-"),
            ("token-secret", "0123456789abcdeg"),
        ] {
            assert_eq!(found(&secret(&[change]), SECRET), None, "{change:?}");
        }
        assert_eq!(found(&secret(&[]), "0123456789abcdeg"), None);
        let mut other = secret(&[]);
        other["type"] = json!("Opaque");
        assert_eq!(found(&other, SECRET), None);
        let mut going = secret(&[]);
        going["metadata"]["deletionTimestamp"] = json!("2025-12-30T00:00:00Z");
        assert_eq!(found(&going, SECRET), None);
    }

    #[test]
    fn only_what_looks_like_a_token_is_looked_up() {
        assert_eq!(parts("abcdef.0123456789abcdef"), Some(("abcdef", SECRET)));
        for other in [
            "",
            "abcdef",
            "abcde.0123456789abcdef",
            "abcdef.0123456789abcde",
            "ABCDEF.0123456789abcdef",
            "a/../f.0123456789abcdef",
        ] {
            assert_eq!(parts(other), None, "{other}");
        }
    }
}
