//! `AuthorizationConfiguration`: the chain as a file (`--authorization-config`).

use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use serde::Deserialize;
use yunfan_cel::{Decl, DeclKind, Type};

use super::Link;
use super::config::{Modes, modes_error};
use super::webhook::{Failure, Settings, Version, Webhook};
use crate::conditions::{Expression, decl, object, scalar, text_lists, texts};
use crate::error::{ConfigError, Fault};
use crate::files;
use crate::remote::Remote;

const VERSIONS: [&str; 3] = ["v1", "v1beta1", "v1alpha1"];
/// Most authorizers, and most conditions of one.
const MOST: usize = 64;
/// Longest that a webhook may take.
const LONGEST: Duration = Duration::from_secs(30);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    authorizers: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    r#type: String,
    #[serde(default)]
    name: String,
    webhook: Option<Hook>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Hook {
    #[serde(rename = "authorizedTTL")]
    authorized_ttl: Option<String>,
    #[serde(rename = "unauthorizedTTL")]
    unauthorized_ttl: Option<String>,
    cache_authorized_requests: Option<bool>,
    cache_unauthorized_requests: Option<bool>,
    timeout: Option<String>,
    #[serde(default)]
    subject_access_review_version: String,
    #[serde(default)]
    match_condition_subject_access_review_version: String,
    #[serde(default)]
    failure_policy: String,
    connection_info: Option<Connection>,
    #[serde(default)]
    match_conditions: Vec<Condition>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Connection {
    r#type: String,
    kube_config_file: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Condition {
    expression: String,
}

/// What conditions see: the spec of a SubjectAccessReview.
static REQUEST: LazyLock<Arc<Decl>> = LazyLock::new(|| {
    let text = || scalar(Type::String);
    let requirement = decl_list(object([("key", text()), ("operator", text()), ("values", texts())]));
    let selector = object([("rawSelector", text()), ("requirements", requirement)]);
    let resource = object([
        ("namespace", text()),
        ("verb", text()),
        ("group", text()),
        ("version", text()),
        ("resource", text()),
        ("subresource", text()),
        ("name", text()),
        ("fieldSelector", selector.clone()),
        ("labelSelector", selector),
    ]);
    object([
        ("user", text()),
        ("groups", texts()),
        ("uid", text()),
        ("extra", text_lists()),
        ("resourceAttributes", resource),
        ("nonResourceAttributes", object([("path", text()), ("verb", text())])),
    ])
});

fn decl_list(of: Arc<Decl>) -> Arc<Decl> {
    decl(DeclKind::List(of))
}

/// The chain that the text of the file at `path` describes.
///
/// # Errors
/// The field that is wrong.
pub(super) async fn read(path: &Path, text: &str, modes: &Modes) -> Result<Vec<Link>, ConfigError> {
    let document: Document =
        files::object(text, "AuthorizationConfiguration", &VERSIONS).map_err(|fault| fault.of(path))?;
    let count = document.authorizers.len();
    if count == 0 || count > MOST {
        let why = format!("must have 1 to {MOST} entries, has {count}");
        return Err(Fault::new("authorizers", why).of(path));
    }
    let (mut links, mut names, mut types) = (Vec::new(), Vec::new(), Vec::new());
    for (index, entry) in document.authorizers.into_iter().enumerate() {
        let at = format!("authorizers[{index}]");
        let fail = |field: &str, why: String| Err(Fault::new(format!("{at}.{field}"), why).of(path));
        if entry.name.is_empty() || names.contains(&entry.name) {
            let why = format!("is {:?}; give each authorizer a name of its own", entry.name);
            return fail("name", why);
        }
        names.push(entry.name.clone());
        let is_hook = entry.r#type == "Webhook";
        if !is_hook && types.contains(&entry.r#type) {
            return fail(
                "type",
                format!("is {:?} for the second time; only Webhook may be repeated", entry.r#type),
            );
        }
        types.push(entry.r#type.clone());
        match (entry.webhook, is_hook) {
            (Some(hook), true) => links.push(webhook(path, &at, entry.name, hook).await?),
            (None, true) => return fail("webhook", "is missing; a Webhook needs its settings".to_owned()),
            (Some(_), false) => return fail("webhook", "may only stand with the type Webhook".to_owned()),
            (None, false) => match modes.link(&entry.r#type) {
                Ok(Some(link)) => links.push(link),
                Ok(None) => return fail("type", modes_error(&entry.r#type)),
                Err(error) => return Err(error),
            },
        }
    }
    Ok(links)
}

async fn webhook(path: &Path, at: &str, name: String, hook: Hook) -> Result<Link, ConfigError> {
    let fail = |field: &str, why: &str| Fault::new(format!("{at}.webhook.{field}"), why).of(path);
    let time = |field: &str, text: &Option<String>, default: Option<Duration>| {
        let Some(text) = text else {
            return default.ok_or_else(|| fail(field, "is missing; give a duration such as 3s"));
        };
        let time = crate::duration(text).filter(|time| !time.is_zero());
        time.ok_or_else(|| fail(field, &format!("is {text:?}; it must be a duration above zero such as 3s")))
    };
    let kept =
        |wanted: Option<bool>, time: Duration| if wanted == Some(false) { Duration::ZERO } else { time };
    let authorized = time("authorizedTTL", &hook.authorized_ttl, Some(Duration::from_secs(300)))?;
    let unauthorized = time("unauthorizedTTL", &hook.unauthorized_ttl, Some(Duration::from_secs(30)))?;
    let timeout = time("timeout", &hook.timeout, None)?;
    if timeout > LONGEST {
        return Err(fail("timeout", "must be at most 30s"));
    }
    let version = Version::named(&hook.subject_access_review_version).ok_or_else(|| {
        let why = format!("is {:?}; it must be v1 or v1beta1", hook.subject_access_review_version);
        fail("subjectAccessReviewVersion", &why)
    })?;
    let seen = hook.match_condition_subject_access_review_version.as_str();
    if seen != "v1" && !(seen.is_empty() && hook.match_conditions.is_empty()) {
        return Err(fail("matchConditionSubjectAccessReviewVersion", &format!("is {seen:?}; it must be v1")));
    }
    let failure = match hook.failure_policy.as_str() {
        "Deny" => Failure::Deny,
        "NoOpinion" => Failure::NoOpinion,
        other => return Err(fail("failurePolicy", &format!("is {other:?}; it must be Deny or NoOpinion"))),
    };
    if hook.match_conditions.len() > MOST {
        return Err(fail("matchConditions", &format!("must have at most {MOST} entries")));
    }
    let mut conditions = Vec::new();
    for (index, condition) in hook.match_conditions.iter().enumerate() {
        let made = Expression::new(&condition.expression, ("request", REQUEST.clone()), &[Type::Bool]);
        conditions.push(made.map_err(|why| fail(&format!("matchConditions[{index}].expression"), &why))?);
    }
    let connection =
        hook.connection_info.ok_or_else(|| fail("connectionInfo", "is missing; say where the webhook is"))?;
    let kubeconfig = match (connection.r#type.as_str(), connection.kube_config_file) {
        ("KubeConfigFile", Some(file)) if file.is_absolute() => file,
        ("KubeConfigFile", _) => {
            return Err(fail("connectionInfo.kubeConfigFile", "must be the absolute path of a kubeconfig"));
        }
        (other, _) => {
            return Err(fail("connectionInfo.type", &format!("is {other:?}; it must be KubeConfigFile")));
        }
    };
    let remote = Remote::from_kubeconfig(&kubeconfig).await?;
    let settings = Settings {
        name,
        version,
        timeout,
        failure,
        authorized: kept(hook.cache_authorized_requests, authorized),
        unauthorized: kept(hook.cache_unauthorized_requests, unauthorized),
        conditions,
    };
    Ok(Link::Webhook(Box::new(Webhook::new(settings, remote))))
}
