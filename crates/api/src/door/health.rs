//! `/healthz`, `/livez`, `/readyz`, each with its checks below it, under the names that kube-apiserver has for them.

use std::sync::atomic::{AtomicBool, Ordering};
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

const RBAC: &str = "rbac.authorization.k8s.io";
const FLOWS: &str = "flowcontrol.apiserver.k8s.io";

/// One check.
pub(crate) struct Check {
    pub(crate) name: &'static str,
    test: Test,
    /// Whether it says that the process is ready, and nothing of whether it lives.
    ready_only: bool,
}

/// What is looked at.
enum Test {
    /// Who answers at all passes.
    Answer,
    /// The store answers, and what was just written can be read.
    Store,
    /// The cache was loaded.
    Cache,
    /// What the start makes has been there once: group, plural, namespace and name of each.
    Made(&'static [(&'static str, &'static str, &'static str, &'static str)]),
}

/// How many checks there are.
const COUNT: usize = 9;

/// All checks, in kube-apiserver's order.
static CHECKS: [Check; COUNT] = [
    Check { name: "ping", test: Test::Answer, ready_only: false },
    // Clients know the store by this name, whichever it is.
    Check { name: "etcd", test: Test::Store, ready_only: false },
    Check { name: "informer-sync", test: Test::Cache, ready_only: true },
    Check {
        name: "poststarthook/start-system-namespaces-controller",
        test: Test::Made(&[
            ("", "namespaces", "", "default"),
            ("", "namespaces", "", "kube-node-lease"),
            ("", "namespaces", "", "kube-public"),
            ("", "namespaces", "", "kube-system"),
        ]),
        ready_only: false,
    },
    Check {
        name: "poststarthook/rbac/bootstrap-roles",
        test: Test::Made(&[(RBAC, "clusterroles", "", "cluster-admin")]),
        ready_only: false,
    },
    Check {
        name: "poststarthook/scheduling/bootstrap-system-priority-classes",
        test: Test::Made(&[
            ("scheduling.k8s.io", "priorityclasses", "", "system-cluster-critical"),
            ("scheduling.k8s.io", "priorityclasses", "", "system-node-critical"),
        ]),
        ready_only: false,
    },
    Check {
        name: "poststarthook/priority-and-fairness-config-producer",
        test: Test::Made(&[
            (FLOWS, "flowschemas", "", "catch-all"),
            (FLOWS, "flowschemas", "", "exempt"),
            (FLOWS, "prioritylevelconfigurations", "", "catch-all"),
            (FLOWS, "prioritylevelconfigurations", "", "exempt"),
        ]),
        ready_only: false,
    },
    Check {
        name: "poststarthook/start-cluster-authentication-info-controller",
        test: Test::Made(&[("", "configmaps", "kube-system", "extension-apiserver-authentication")]),
        ready_only: false,
    },
    Check {
        name: "autoregister-completion",
        test: Test::Made(&[
            ("apiregistration.k8s.io", "apiservices", "", "v1."),
            ("apiregistration.k8s.io", "apiservices", "", "v1.apps"),
        ]),
        ready_only: false,
    },
];

/// Which checks of what the start makes have passed: whoever takes that away later makes nobody unready.
#[derive(Default)]
pub(crate) struct Passed([AtomicBool; COUNT]);

/// The checks of an endpoint, by the first part of its path; none for any other path.
pub(crate) fn checks(endpoint: &str) -> impl Iterator<Item = &'static Check> {
    let (known, ready) = (matches!(endpoint, "healthz" | "livez" | "readyz"), endpoint == "readyz");
    CHECKS.iter().filter(move |check| known && (ready || !check.ready_only))
}

/// Makes the check of the store.
pub(super) async fn store(api: &Api) -> Result<(), String> {
    match tokio::time::timeout(PATIENCE, api.0.registry.cache.wait_current()).await {
        Ok(current) => current.map_err(|error| error.to_string()),
        Err(_) => Err(format!("the store did not answer within {} s", PATIENCE.as_secs())),
    }
}

impl Check {
    async fn run(&self, api: &Api) -> Result<(), String> {
        match &self.test {
            Test::Answer => Ok(()),
            Test::Store => store(api).await,
            Test::Cache if api.0.registry.cache.revision() > 0 => Ok(()),
            Test::Cache => Err("the cache was not loaded yet".to_owned()),
            Test::Made(objects) => {
                let place = CHECKS.iter().position(|check| check.name == self.name);
                let passed = place.map(|place| &api.0.passed.0[place]);
                if passed.is_some_and(|passed| passed.load(Ordering::Relaxed)) {
                    return Ok(());
                }
                for (group, plural, namespace, name) in *objects {
                    let prefix = keys::kind_prefix(group, plural);
                    let key = keys::object_key(&prefix, namespace, name);
                    if api.0.registry.cache.kind(&prefix).get(&key).is_none() {
                        return Err(format!("{plural} {name} is not there yet"));
                    }
                }
                if let Some(passed) = passed {
                    passed.store(true, Ordering::Relaxed);
                }
                Ok(())
            }
        }
    }
}

/// Answers a health check.
pub(crate) async fn handle(api: &Api, parts: &[&str], params: &Params) -> Result<Response<Body>, ApiError> {
    let (endpoint, wanted) = (parts.first().copied().unwrap_or_default(), parts[1..].join("/"));
    if !wanted.is_empty() {
        let Some(check) = checks(endpoint).find(|check| check.name == wanted) else {
            return Err(ApiError::no_such_path());
        };
        return Ok(match check.run(api).await {
            Ok(()) => respond::text(200, "ok"),
            Err(why) => respond::text(500, format!("internal server error: {why}\n")),
        });
    }
    let excluded = params.all("exclude");
    let mut report = String::new();
    let mut failed = false;
    for check in checks(endpoint) {
        let name = check.name;
        if excluded.iter().any(|excluded| excluded == name) {
            report.push_str(&format!("[+]{name} excluded: ok\n"));
            continue;
        }
        let outcome = check.run(api).await;
        api.0.metrics.health.note(name, endpoint, outcome.is_ok());
        match outcome {
            Ok(()) => report.push_str(&format!("[+]{name} ok\n")),
            Err(why) => {
                failed = true;
                // Anybody may ask: what exactly is wrong stands in the log.
                tracing::warn!(check = name, why, "health check failed");
                report.push_str(&format!("[-]{name} failed: reason withheld\n"));
            }
        }
    }
    let known = |name: &str| checks(endpoint).any(|check| check.name == name);
    let unknown: Vec<String> = excluded
        .iter()
        .filter(|excluded| !excluded.is_empty() && !known(excluded))
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
