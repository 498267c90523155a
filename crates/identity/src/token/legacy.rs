//! Tokens of service accounts as they were before TokenRequest: they have no end and no audience of their own, and are kept in a Secret of
//! the type `kubernetes.io/service-account-token`. Each holds for as long as that Secret holds it.

use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use super::account::Reference;
use crate::UserInfo;
use crate::user::service_account_user;

/// Who issues them, whatever the cloud's issuer is called.
const LEGACY_ISSUER: &str = "kubernetes/serviceaccount";

/// What the claims of each begin with once they are encoded: the issuer stands first in what we sign.
static BEGINNING: LazyLock<String> =
    LazyLock::new(|| URL_SAFE_NO_PAD.encode(format!("{{\"iss\":\"{LEGACY_ISSUER}")));

/// What such a token says. The issuer is the first field, by which [`LegacyClaims::are_of`] knows the token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LegacyClaims {
    iss: String,
    /// Namespace of the account and of the Secret.
    #[serde(rename = "kubernetes.io/serviceaccount/namespace")]
    pub namespace: String,
    /// Name of the Secret.
    #[serde(rename = "kubernetes.io/serviceaccount/secret.name")]
    pub secret: String,
    /// Name of the account.
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.name")]
    pub account: String,
    /// The account's uid.
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.uid")]
    pub account_uid: String,
    sub: String,
}

impl LegacyClaims {
    /// Claims of a token that the Secret `secret` of `namespace` is to hold for this account.
    pub fn new(namespace: &str, secret: &str, account: &Reference) -> Self {
        Self {
            iss: LEGACY_ISSUER.to_owned(),
            namespace: namespace.to_owned(),
            secret: secret.to_owned(),
            account: account.name.clone(),
            account_uid: account.uid.clone(),
            sub: service_account_user(namespace, &account.name),
        }
    }

    /// Whether a token says that it is such a one. Nothing of it is checked.
    pub fn are_of(token: &str) -> bool {
        token.split('.').nth(1).is_some_and(|claims| claims.starts_with(BEGINNING.as_str()))
    }

    /// Who issues such tokens.
    pub(super) fn issuer() -> &'static str {
        LEGACY_ISSUER
    }

    /// The user that a request with this token is from.
    pub fn user(&self) -> UserInfo {
        UserInfo::service_account(&self.namespace, &self.account, &self.account_uid)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::token::{AccountClaims, AccountKey, Bond};

    fn claims() -> LegacyClaims {
        let account = Reference { name: "robot".to_owned(), uid: "7".to_owned() };
        LegacyClaims::new("demo", "robot-token", &account)
    }

    #[test]
    fn a_token_comes_back_as_its_claims_which_have_kubernetes_names() {
        let key = AccountKey::ephemeral().unwrap();
        let token = key.issue_legacy(&claims()).unwrap();
        assert!(LegacyClaims::are_of(&token) && key.is_named_by(&token));
        for _ in 0..2 {
            assert_eq!(key.verify_legacy(&token).unwrap(), claims());
        }
        let body = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
        let body: Value = serde_json::from_slice(&body).unwrap();
        let expected = json!({
            "iss": "kubernetes/serviceaccount",
            "sub": "system:serviceaccount:demo:robot",
            "kubernetes.io/serviceaccount/namespace": "demo",
            "kubernetes.io/serviceaccount/secret.name": "robot-token",
            "kubernetes.io/serviceaccount/service-account.name": "robot",
            "kubernetes.io/serviceaccount/service-account.uid": "7",
        });
        assert_eq!(body, expected);
        let user = claims().user();
        assert_eq!((user.name.as_str(), user.uid.as_str()), ("system:serviceaccount:demo:robot", "7"));
    }

    #[test]
    fn neither_kind_passes_for_the_other_nor_anothers_for_ours() {
        let (key, other) = (AccountKey::ephemeral().unwrap(), AccountKey::ephemeral().unwrap());
        let legacy = key.issue_legacy(&claims()).unwrap();
        assert!(key.verify(&legacy).is_err());
        let bound = AccountClaims::new(Bond::default(), vec!["a".to_owned()], 600);
        let bound = key.issue(&bound).unwrap();
        assert!(!LegacyClaims::are_of(&bound) && key.verify_legacy(&bound).is_err());
        assert!(key.verify_legacy(&other.issue_legacy(&claims()).unwrap()).is_err());
        assert!(key.verify_legacy(&legacy[..legacy.len() - 4]).is_err());
    }
}
