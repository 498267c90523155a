//! Whether an extension server can be asked: its Service, its endpoints, and what it says of its group version.

use std::time::Duration;

use axum::body::Body;
use futures::future::select_ok;
use http::Request;
use http::header::HOST;
use serde_json::Value;
use yunfan_identity::UserInfo;

use super::{Aggregation, Remote, identity};
use crate::cache::Cache;
use crate::endpoints;
use crate::keys;

/// How long a server has for its answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How many endpoints are asked at once: one that answers is enough.
const AT_ONCE: usize = 3;

/// Why one that is answered for here is available.
pub(super) const LOCAL: &str = "Local";

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) available: bool,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

impl Finding {
    /// Of one that is answered for here.
    pub(super) fn local() -> Self {
        Self { available: true, reason: LOCAL, message: "Local APIServices are always available".to_owned() }
    }

    fn fault(reason: &'static str, message: String) -> Self {
        Self { available: false, reason, message }
    }
}

/// The user that servers are asked as whether they are there, and what they have.
pub(super) fn asker() -> UserInfo {
    UserInfo {
        name: "system:kube-aggregator".to_owned(),
        groups: vec![yunfan_identity::user::MASTERS_GROUP.to_owned()],
        ..UserInfo::default()
    }
}

/// The user that documents are read as, which whoever has a name may read.
pub(super) fn reader() -> UserInfo {
    UserInfo { name: "system:aggregator".to_owned(), ..UserInfo::default() }
}

/// Looks at a server.
pub(super) async fn check(aggregation: &Aggregation, cache: &Cache, remote: &Remote) -> Finding {
    let address = &remote.server.address;
    if let Some(fault) = service_fault(cache, &address.namespace, &address.name, address.port) {
        return fault;
    }
    let places = aggregation.reach.service(&address.namespace, &address.name, address.port);
    let attempts = places.map_or(1, |places| places.len().clamp(1, AT_ONCE));
    let asked = (0..attempts).map(|_| Box::pin(ask(aggregation, remote)));
    match select_ok(asked).await {
        Ok(_) => Finding { available: true, reason: "Passed", message: "all checks passed".to_owned() },
        Err(why) => Finding::fault("FailedDiscoveryCheck", why),
    }
}

/// What is wrong with the Service by itself.
fn service_fault(cache: &Cache, namespace: &str, name: &str, port: u16) -> Option<Finding> {
    let prefix = keys::kind_prefix("", "services");
    let shown = format!("service/{name} in {namespace:?}");
    let Some(service) = cache.kind(&prefix).get(&keys::object_key(&prefix, namespace, name)) else {
        return Some(Finding::fault("ServiceNotFound", format!("{shown} is not present")));
    };
    let service = service.decode_stored();
    if service["spec"]["type"] != "ClusterIP" {
        return None;
    }
    let Some(named) = endpoints::port_name(&service, port.into()) else {
        let why = format!("{shown} is not listening on port {port}");
        return Some(Finding::fault("ServicePortError", why));
    };
    let slices = endpoints::slices(cache, namespace, name);
    if slices.is_empty() {
        let why = format!("cannot find endpointslices for {shown}");
        return Some(Finding::fault("EndpointsNotFound", why));
    }
    let is_ready = |endpoint: &Value| endpoint["conditions"]["ready"] != false;
    let has_port =
        |port: &Value| port["name"].as_str().unwrap_or_default() == named && !port["port"].is_null();
    let any = |list: &Value, found: &dyn Fn(&Value) -> bool| list.as_array().into_iter().flatten().any(found);
    let serves = |slice: &Value| any(&slice["endpoints"], &is_ready) && any(&slice["ports"], &has_port);
    if slices.iter().any(|slice| serves(&slice.decode_stored())) {
        return None;
    }
    let why = format!("endpointslices for {shown} have no addresses with port name {named:?}");
    Some(Finding::fault("MissingEndpoints", why))
}

/// Asks for what every extension server must have.
async fn ask(aggregation: &Aggregation, remote: &Remote) -> Result<(), String> {
    let authority = remote.server.address.authority();
    let path = remote.path();
    let url = format!("https://{authority}{path}");
    let failing = |why: String| format!("failing or missing response from {url}: {why}");
    let got = |why: String| failing(format!("Get {url:?}: {why}"));
    let mut request =
        Request::get(path).header(HOST, &authority).body(Body::empty()).map_err(|e| got(e.to_string()))?;
    identity::tell(request.headers_mut(), &asker()).map_err(|error| got(error.message().to_owned()))?;
    let answer = tokio::time::timeout(PATIENCE, remote.server.send(&aggregation.reach, request)).await;
    let status = match answer {
        Ok(answer) => answer.map_err(got)?.status(),
        Err(_) => {
            let why = "context deadline exceeded (Client.Timeout exceeded while awaiting headers)";
            return Err(got(why.to_owned()));
        }
    };
    if !status.is_success() {
        return Err(failing(format!("bad status from {url}: {}", status.as_u16())));
    }
    Ok(())
}
