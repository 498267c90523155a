//! The flags that say who may come in, and who may do what.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use yunfan_access::{
    Authentication, AuthenticationOptions, Authorization, AuthorizationOptions, ConfigError, HeaderOptions,
    OidcOptions,
};

/// Who may come in, and who may do what; the names are kube-apiserver's.
#[derive(Args)]
pub(crate) struct AccessOptions {
    /// Who decides what users may do, in this order: Node, RBAC, ABAC, Webhook, AlwaysAllow, AlwaysDeny. Without it Node and RBAC.
    #[arg(long, value_delimiter = ',', value_name = "MODE")]
    authorization_mode: Vec<String>,
    /// For the mode ABAC: a file of policies, one JSON object a line.
    #[arg(long, value_name = "FILE")]
    authorization_policy_file: Option<PathBuf>,
    /// For the mode Webhook: a kubeconfig that says whom to ask.
    #[arg(long, value_name = "FILE")]
    authorization_webhook_config_file: Option<PathBuf>,
    /// Version of the SubjectAccessReviews that the webhook is sent: v1 or v1beta1.
    #[arg(long, default_value = "v1", value_name = "VERSION")]
    authorization_webhook_version: String,
    /// How long the webhook's answers are kept that allow something, such as 5m.
    #[arg(long, default_value = "5m", value_name = "DURATION", value_parser = duration)]
    authorization_webhook_cache_authorized_ttl: Duration,
    /// How long its other answers are kept.
    #[arg(long, default_value = "30s", value_name = "DURATION", value_parser = duration)]
    authorization_webhook_cache_unauthorized_ttl: Duration,
    /// In place of all these but the policy file: an AuthorizationConfiguration (apiserver.config.k8s.io/v1), read anew when it changes.
    #[arg(long, value_name = "FILE")]
    authorization_config: Option<PathBuf>,
    /// A file of tokens: TOKEN,USER,UID,"GROUP,GROUP" in each line. Read anew when it changes.
    #[arg(long, value_name = "FILE")]
    token_auth_file: Option<PathBuf>,
    /// A file of passwords, or argon2 hashes of them: PASSWORD,USER,UID,"GROUP,GROUP" in each line. Read anew when it changes.
    #[arg(long, value_name = "FILE")]
    basic_auth_file: Option<PathBuf>,
    /// A kubeconfig that says who is asked whose a token is.
    #[arg(long, value_name = "FILE")]
    authentication_token_webhook_config_file: Option<PathBuf>,
    /// Version of the TokenReviews that it is sent: v1 or v1beta1.
    #[arg(long, default_value = "v1", value_name = "VERSION")]
    authentication_token_webhook_version: String,
    /// How long its answers are kept.
    #[arg(long, default_value = "2m", value_name = "DURATION", value_parser = duration)]
    authentication_token_webhook_cache_ttl: Duration,
    /// Whether requests without credentials are let in as system:anonymous, who may do next to nothing; true where nothing is given.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    anonymous_auth: Option<bool>,
    /// An AuthenticationConfiguration (apiserver.config.k8s.io/v1): issuers of OpenID tokens, and what is open to all. Read anew when it changes.
    #[arg(long, value_name = "FILE")]
    authentication_config: Option<PathBuf>,
    /// What the API server is called in tokens that are for it; its issuer's name where nothing is given.
    #[arg(long, value_delimiter = ',', value_name = "AUDIENCE")]
    api_audiences: Vec<String>,
    #[command(flatten)]
    oidc: OidcArgs,
    #[command(flatten)]
    headers: HeaderArgs,
}

/// One issuer of OpenID tokens, in short.
#[derive(Args)]
struct OidcArgs {
    /// URL (https) of an OpenID issuer whose tokens are taken.
    #[arg(long, value_name = "URL")]
    oidc_issuer_url: Option<String>,
    /// The client id that its tokens must be for.
    #[arg(long, value_name = "ID")]
    oidc_client_id: Option<String>,
    /// The claim that is the user's name; sub where nothing is given.
    #[arg(long, value_name = "CLAIM")]
    oidc_username_claim: Option<String>,
    /// What stands before it; the issuer's URL and # where nothing is given, nothing for the claim email, or with -.
    #[arg(long, value_name = "PREFIX", allow_hyphen_values = true)]
    oidc_username_prefix: Option<String>,
    /// The claim that has the user's groups.
    #[arg(long, value_name = "CLAIM")]
    oidc_groups_claim: Option<String>,
    /// What stands before each of them.
    #[arg(long, value_name = "PREFIX")]
    oidc_groups_prefix: Option<String>,
    /// A claim and the value that it must have; may be repeated.
    #[arg(long, value_name = "CLAIM=VALUE")]
    oidc_required_claim: Vec<String>,
    /// Algorithms of signatures that are taken; RS256 where nothing is given.
    #[arg(long, value_delimiter = ',', value_name = "ALGORITHM")]
    oidc_signing_algs: Vec<String>,
    /// Authorities (PEM) that the issuer's certificate is checked against; the system's where nothing is given.
    #[arg(long, value_name = "FILE")]
    oidc_ca_file: Option<PathBuf>,
}

/// Front proxies, which tell in headers on whose behalf they ask.
#[derive(Args)]
struct HeaderArgs {
    /// Authorities (PEM) of front proxies: who shows a certificate of theirs is believed whom it asks for.
    #[arg(long, value_name = "FILE")]
    requestheader_client_ca_file: Option<PathBuf>,
    /// Common names of such certificates; any where nothing is given.
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    requestheader_allowed_names: Vec<String>,
    /// Headers with the user's name, of which the first counts that is there; X-Remote-User where nothing is given.
    #[arg(long, value_delimiter = ',', value_name = "HEADER")]
    requestheader_username_headers: Vec<String>,
    /// Headers with the user's uid; X-Remote-Uid where nothing is given.
    #[arg(long, value_delimiter = ',', value_name = "HEADER")]
    requestheader_uid_headers: Vec<String>,
    /// Headers with the user's groups; X-Remote-Group where nothing is given.
    #[arg(long, value_delimiter = ',', value_name = "HEADER")]
    requestheader_group_headers: Vec<String>,
    /// What headers begin with that say more of the user; X-Remote-Extra- where nothing is given.
    #[arg(long, value_delimiter = ',', value_name = "PREFIX")]
    requestheader_extra_headers_prefix: Vec<String>,
}

impl AccessOptions {
    /// Who decides what users may do.
    ///
    /// # Errors
    /// What of the flags and files cannot be used.
    pub(crate) async fn authorization(&self) -> Result<Authorization, ConfigError> {
        let options = AuthorizationOptions {
            modes: self.authorization_mode.clone(),
            policy_file: self.authorization_policy_file.clone(),
            webhook_config_file: self.authorization_webhook_config_file.clone(),
            webhook_version: self.authorization_webhook_version.clone(),
            authorized_ttl: self.authorization_webhook_cache_authorized_ttl,
            unauthorized_ttl: self.authorization_webhook_cache_unauthorized_ttl,
            config: self.authorization_config.clone(),
        };
        options.read().await
    }

    /// The audiences of the API server; none where nothing was said.
    pub(crate) fn audiences(&self) -> Vec<String> {
        self.api_audiences.iter().filter(|one| !one.is_empty()).cloned().collect()
    }

    /// Who may come in, beside those whom the cloud itself knows.
    ///
    /// # Errors
    /// What of the flags and files cannot be used.
    pub(crate) async fn authentication(&self) -> Result<Authentication, ConfigError> {
        let options = AuthenticationOptions {
            token_file: self.token_auth_file.clone(),
            basic_file: self.basic_auth_file.clone(),
            webhook_config_file: self.authentication_token_webhook_config_file.clone(),
            webhook_version: self.authentication_token_webhook_version.clone(),
            webhook_cache_ttl: self.authentication_token_webhook_cache_ttl,
            anonymous: self.anonymous_auth,
            oidc: self.oidc.options(),
            headers: self.headers.options(),
            config: self.authentication_config.clone(),
        };
        options.read().await
    }
}

impl OidcArgs {
    fn options(&self) -> OidcOptions {
        OidcOptions {
            issuer_url: self.oidc_issuer_url.clone(),
            client_id: self.oidc_client_id.clone(),
            username_claim: self.oidc_username_claim.clone(),
            username_prefix: self.oidc_username_prefix.clone(),
            groups_claim: self.oidc_groups_claim.clone(),
            groups_prefix: self.oidc_groups_prefix.clone(),
            required_claims: self.oidc_required_claim.clone(),
            signing_algs: self.oidc_signing_algs.clone(),
            ca_file: self.oidc_ca_file.clone(),
        }
    }
}

impl HeaderArgs {
    fn options(&self) -> HeaderOptions {
        HeaderOptions {
            client_ca_file: self.requestheader_client_ca_file.clone(),
            allowed_names: self.requestheader_allowed_names.clone(),
            username_headers: self.requestheader_username_headers.clone(),
            uid_headers: self.requestheader_uid_headers.clone(),
            group_headers: self.requestheader_group_headers.clone(),
            extra_prefixes: self.requestheader_extra_headers_prefix.clone(),
        }
    }
}

/// Reads `1m30s`.
fn duration(text: &str) -> Result<Duration, String> {
    yunfan_access::duration(text).ok_or_else(|| "a duration is needed, such as 30s, 5m or 0s".to_owned())
}
