//! `/healthz`, `/livez`, `/readyz`, each with its checks below it.

use axum::body::Body;
use http::Response;

use super::params::Params;
use super::respond;
use crate::Api;

/// Answers a health check. Ready is who can read what was just written.
pub(crate) async fn handle(api: &Api, path: &str, params: &Params) -> Response<Body> {
    let deep = !path.starts_with("/livez");
    let store = if deep { api.0.registry.cache.wait_current().await.err() } else { None };
    let checks = [("ping", None), ("store", store)];
    let wanted = path.split('/').filter(|part| !part.is_empty()).nth(1);
    let excluded = params.all("exclude");
    let mut text = String::new();
    let (mut failed, mut found) = (false, wanted.is_none());
    for (name, error) in checks {
        if wanted.is_some_and(|wanted| wanted != name) || excluded.iter().any(|e| e == name) {
            continue;
        }
        found = true;
        failed |= error.is_some();
        match error {
            Some(error) => text.push_str(&format!("[-]{name} failed: {error}\n")),
            None => text.push_str(&format!("[+]{name} ok\n")),
        }
    }
    if !found {
        return respond::error(&yunfan_objects::ApiError::no_such_path());
    }
    let code = if failed { 500 } else { 200 };
    if !failed && !params.flag("verbose") {
        return respond::raw(200, "text/plain; charset=utf-8", "ok");
    }
    let name = path.split('/').find(|part| !part.is_empty()).unwrap_or_default();
    text.push_str(&format!("{name} check {}\n", if failed { "failed" } else { "passed" }));
    respond::raw(code, "text/plain; charset=utf-8", text)
}
