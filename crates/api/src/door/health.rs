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

impl Check {
    const fn new(name: &'static str, test: Test) -> Self {
        Self { name, test, ready_only: false }
    }
}

/// How many checks there are.
const COUNT: usize = 23;

/// The cloud's own kinds are the first that are defined.
const DEFINED: Test = Test::Made(&[(
    "apiextensions.k8s.io",
    "customresourcedefinitions",
    "",
    "virtualmachines.compute.yunfan.io",
)]);
/// The group versions that are answered here are registered among those of other servers.
const REGISTERED: Test = Test::Made(&[
    ("apiregistration.k8s.io", "apiservices", "", "v1."),
    ("apiregistration.k8s.io", "apiservices", "", "v1.apps"),
]);

/// All checks, in kube-apiserver's order. What it has informers for, each with a check of its own, is in the one cache here.
static CHECKS: [Check; COUNT] = [
    Check::new("ping", Test::Answer),
    // A line is written before its request goes on: who answers can write.
    Check::new("log", Test::Answer),
    // Clients know the store by this name, whichever it is.
    Check::new("etcd", Test::Store),
    Check { name: "informer-sync", test: Test::Cache, ready_only: true },
    Check::new("poststarthook/start-apiserver-admission-initializer", Test::Cache),
    Check::new("poststarthook/generic-apiserver-start-informers", Test::Cache),
    Check::new("poststarthook/start-apiextensions-informers", Test::Cache),
    Check::new("poststarthook/start-apiextensions-controllers", DEFINED),
    Check::new("poststarthook/crd-informer-synced", Test::Cache),
    Check::new(
        "poststarthook/start-system-namespaces-controller",
        Test::Made(&[
            ("", "namespaces", "", "default"),
            ("", "namespaces", "", "kube-node-lease"),
            ("", "namespaces", "", "kube-public"),
            ("", "namespaces", "", "kube-system"),
        ]),
    ),
    Check::new(
        "poststarthook/start-cluster-authentication-info-controller",
        Test::Made(&[("", "configmaps", "kube-system", "extension-apiserver-authentication")]),
    ),
    // Addresses of Services are claims, which are there with them.
    Check::new("poststarthook/start-service-ip-repair-controllers", Test::Cache),
    Check::new(
        "poststarthook/rbac/bootstrap-roles",
        Test::Made(&[(RBAC, "clusterroles", "", "cluster-admin")]),
    ),
    Check::new(
        "poststarthook/scheduling/bootstrap-system-priority-classes",
        Test::Made(&[
            ("scheduling.k8s.io", "priorityclasses", "", "system-cluster-critical"),
            ("scheduling.k8s.io", "priorityclasses", "", "system-node-critical"),
        ]),
    ),
    Check::new(
        "poststarthook/priority-and-fairness-config-producer",
        Test::Made(&[
            (FLOWS, "flowschemas", "", "catch-all"),
            (FLOWS, "flowschemas", "", "exempt"),
            (FLOWS, "prioritylevelconfigurations", "", "catch-all"),
            (FLOWS, "prioritylevelconfigurations", "", "exempt"),
        ]),
    ),
    Check::new("poststarthook/bootstrap-controller", Test::Made(&[("", "namespaces", "", "default")])),
    Check::new("poststarthook/start-kube-aggregator-informers", Test::Cache),
    Check::new("poststarthook/apiservice-status-local-available-controller", REGISTERED),
    Check::new("poststarthook/apiservice-status-remote-available-controller", REGISTERED),
    Check::new("poststarthook/apiservice-registration-controller", REGISTERED),
    Check::new("poststarthook/kube-apiserver-autoregistration", REGISTERED),
    Check::new("autoregister-completion", REGISTERED),
    Check::new("poststarthook/apiservice-openapi-controller", REGISTERED),
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
