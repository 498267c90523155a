//! `/healthz`, `/livez`, `/readyz`, each with its checks below it.

use std::time::Duration;

use axum::body::Body;
use http::Response;
use yunfan_objects::ApiError;

use super::params::Params;
use super::respond;
use crate::Api;
use crate::keys;

/// A store that takes longer to answer is not ready.
const PATIENCE: Duration = Duration::from_secs(5);

/// Checks of `/livez`: a process that could not reach its store would not get better by being started anew.
const ALIVE: &[&str] = &["ping"];
/// Checks of the others: ready is who can read what was just written, and knows who may.
const READY: &[&str] = &["ping", "etcd", "poststarthook/rbac/bootstrap-roles"];

/// The checks of an endpoint, by the first part of its path; none for any other path.
pub(crate) fn checks(endpoint: &str) -> &'static [&'static str] {
    match endpoint {
        "livez" => ALIVE,
        "healthz" | "readyz" => READY,
        _ => &[],
    }
}

/// Makes one check.
pub(super) async fn check(api: &Api, name: &str) -> Result<(), String> {
    match name {
        // Clients know the store by this name, whichever it is.
        "etcd" => match tokio::time::timeout(PATIENCE, api.0.registry.cache.wait_current()).await {
            Ok(current) => current.map_err(|error| error.to_string()),
            Err(_) => Err(format!("the store did not answer within {} s", PATIENCE.as_secs())),
        },
        "poststarthook/rbac/bootstrap-roles" => {
            let prefix = keys::kind_prefix("rbac.authorization.k8s.io", "clusterroles");
            let admin = keys::object_key(&prefix, "", "cluster-admin");
            let found = api.0.registry.cache.kind(&prefix).get(&admin);
            found.map(|_| ()).ok_or_else(|| "the roles that every cloud has are not there yet".to_owned())
        }
        _ => Ok(()),
    }
}

/// Answers a health check.
pub(crate) async fn handle(api: &Api, parts: &[&str], params: &Params) -> Result<Response<Body>, ApiError> {
    let (endpoint, wanted) = (parts.first().copied().unwrap_or_default(), parts[1..].join("/"));
    let all = checks(endpoint);
    if !wanted.is_empty() {
        let Some(name) = all.iter().find(|name| **name == wanted) else {
            return Err(ApiError::no_such_path());
        };
        return Ok(match check(api, name).await {
            Ok(()) => respond::text(200, "ok"),
            Err(why) => respond::text(500, format!("internal server error: {why}\n")),
        });
    }
    let excluded = params.all("exclude");
    let mut report = String::new();
    let mut failed = false;
    for name in all {
        if excluded.iter().any(|excluded| excluded == name) {
            report.push_str(&format!("[+]{name} excluded: ok\n"));
            continue;
        }
        match check(api, name).await {
            Ok(()) => report.push_str(&format!("[+]{name} ok\n")),
            Err(why) => {
                failed = true;
                // Anybody may ask: what exactly is wrong stands in the log.
                tracing::warn!(check = name, why, "health check failed");
                report.push_str(&format!("[-]{name} failed: reason withheld\n"));
            }
        }
    }
    let unknown: Vec<String> = excluded
        .iter()
        .filter(|excluded| !excluded.is_empty() && !all.contains(&excluded.as_str()))
        .map(|excluded| format!("{excluded:?}"))
        .collect();
    if !unknown.is_empty() {
        let names = unknown.join(",");
        report.push_str(&format!("warn: some health checks cannot be excluded: no matches for {names}\n"));
    }
    if failed {
        return Ok(respond::text(500, format!("{report}{endpoint} check failed\n")));
    }
    if params.all("verbose").is_empty() {
        return Ok(respond::text(200, "ok"));
    }
    Ok(respond::text(200, format!("{report}{endpoint} check passed\n")))
}
