//! A cloud without nodes: store, API server and control loops are real. Pods are placed on a pretended node, and there they
//! run, end and go as their annotations say.

// Each test uses a part of this.
#![allow(dead_code)]

pub(crate) mod shops;

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Event, Namespace, Node, Pod, ServiceAccount};
use kube::api::{Api as Objects, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::core::{NamespaceResourceScope, Request};
use kube::{Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinSet;
use yunfan_api::{Api, ApiConfig};
use yunfan_client::Informers;
use yunfan_identity::UserInfo;
use yunfan_identity::pki::Authority;
use yunfan_identity::rbac::RbacAuthorizer;
use yunfan_identity::token::{AccountKey, TokenKey};
use yunfan_resources::names;

/// The namespace that tests work in.
pub(crate) const SPACE: &str = "work";
/// With which code a Pod's container ends: a number, or `INDEX=CODE` for each completion index, by commas. Without it, it runs.
pub(crate) const EXIT: &str = "pretend.example/exit";
/// A Pod with this annotation never becomes ready.
pub(crate) const UNREADY: &str = "pretend.example/unready";
/// How often the pretended node looks.
pub(crate) const LOOK: Duration = Duration::from_millis(20);

/// A cloud that lives as long as this.
pub(crate) struct Cloud {
    pub(crate) client: Client,
    handle: yunfan_api::ApiHandle,
    /// As which the loops come, and how they are set up.
    controllers: (Client, yunfan_controllers::Config),
    loops: JoinSet<()>,
    _tasks: JoinSet<()>,
    _dir: TempDir,
}

/// What objects of tests are.
pub(crate) trait Kind:
    Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned
{
}
impl<K> Kind for K where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned
{
}

/// Starts a cloud with nodes of these names.
pub(crate) async fn start(nodes: &[&str]) -> Cloud {
    start_as(nodes, ApiConfig::default(), None).await
}

/// The same, set up so.
pub(crate) async fn start_as(
    nodes: &[&str],
    config: ApiConfig,
    second: Option<yunfan_controllers::SecondFamily>,
) -> Cloud {
    let dir = TempDir::new().expect("a temporary directory");
    let store = yunfan_store::open_embedded(dir.path().join("store")).expect("a store");
    let authority = Arc::new(Authority::open_or_create(&dir.path().join("pki")).expect("an authority"));
    let tokens = TokenKey::ephemeral().expect("a key");
    let accounts = AccountKey::ephemeral().expect("a key");
    let (cluster_cidr, service_cidr) = (config.cluster_cidr, config.service_cidr);
    let rbac = Arc::new(RbacAuthorizer::new());
    let api = Api::start(store, tokens, accounts.clone(), rbac, &authority, config).await.expect("the API");
    api.bootstrap().await.expect("what every cloud has");
    let handle = api.handle();
    let component = |name: &str| {
        handle.client_as(UserInfo::authenticated(names::component_user(name), [names::COMPONENTS_GROUP]))
    };
    let service_ip = std::net::Ipv4Addr::new(10, 96, 0, 1);
    let config = yunfan_controllers::Config {
        api: yunfan_controllers::ApiServer { service_ip, address: (service_ip, 443).into() },
        cluster_cidr,
        service_cidr,
        second,
        node_prefix: 24,
        authority: authority.clone(),
        accounts,
        kubernetes: true,
        settings: yunfan_controllers::Settings::default(),
    };
    let mut tasks = JoinSet::new();
    let client = component("door");
    make::<Node>(&client, None, nodes.iter().map(|name| json!({"metadata": {"name": name}}))).await;
    make::<Namespace>(&client, None, [json!({"metadata": {"name": SPACE}})]).await;
    tasks.spawn(pretend(client.clone(), nodes.first().map_or(String::new(), |node| (*node).to_owned())));
    let controllers = (component("controllers"), config);
    let mut cloud = Cloud { client, handle, controllers, loops: JoinSet::new(), _tasks: tasks, _dir: dir };
    cloud.restart_loops().await;
    cloud.await_account().await;
    cloud
}

async fn make<K>(client: &Client, namespace: Option<&str>, objects: impl IntoIterator<Item = Value>)
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    for object in objects {
        let body = serde_json::to_vec(&object).expect("JSON");
        let request = Request::new(K::url_path(&(), namespace)).create(&PostParams::default(), body);
        client.request::<K>(request.expect("a request")).await.expect("a created object");
    }
}

impl Cloud {
    /// Waits for the account that Pods are made with: a busy machine makes it later than a Pod waits for it.
    async fn await_account(&self) {
        for _ in 0..1500 {
            if self.of::<ServiceAccount>().get_opt("default").await.expect("an answer").is_some() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("the loop of accounts made none");
    }

    /// A client that comes as this user.
    pub(crate) fn client_as(&self, name: &str, groups: &[&str]) -> Client {
        self.handle.client_as(UserInfo::authenticated(name, groups.iter().copied()))
    }

    /// How the loops are set up.
    pub(crate) fn config(&self) -> yunfan_controllers::Config {
        self.controllers.1.clone()
    }

    /// Stops all loops wherever they are, and starts new ones, which know nothing.
    pub(crate) async fn restart_loops(&mut self) {
        self.loops.shutdown().await;
        let (client, config) = self.controllers.clone();
        let informers = Informers::new(client.clone());
        self.loops.spawn(yunfan_controllers::run(client, informers, config));
    }

    pub(crate) fn of<K: Kind>(&self) -> Objects<K> {
        Objects::namespaced(self.client.clone(), SPACE)
    }

    pub(crate) async fn create<K: Kind>(&self, object: Value) {
        make::<K>(&self.client, Some(SPACE), [object]).await;
    }

    pub(crate) async fn patch<K: Kind>(&self, name: &str, patch: Value) {
        let params = PatchParams::default();
        self.of::<K>().patch(name, &params, &Patch::Merge(patch)).await.expect("a patched object");
    }

    pub(crate) async fn list<K: Kind>(&self) -> Vec<K> {
        self.of::<K>().list(&ListParams::default()).await.expect("a list").items
    }

    /// Names of the Pods that are not on their way out.
    pub(crate) async fn pods(&self) -> Vec<String> {
        let pods = self.list::<Pod>().await;
        pods.iter()
            .filter(|pod| pod.metadata.deletion_timestamp.is_none())
            .map(|pod| pod.name_any())
            .collect()
    }

    /// Waits until the object says what is asked of it.
    pub(crate) async fn until<K: Kind + serde::Serialize>(
        &self,
        name: &str,
        is: impl Fn(&Value) -> bool,
    ) -> Value {
        let what = format!("{} {name} did not become as expected", K::kind(&()));
        until_some(&what, async || {
            let object = json!(self.of::<K>().get_opt(name).await.expect("an answer"));
            if !object.is_null() && is(&object) { Ok(object) } else { Err(object) }
        })
        .await
    }

    /// Waits until all objects of a kind together are as they should be.
    pub(crate) async fn until_all<K: Kind>(&self, what: &str, good: impl Fn(&[K]) -> bool) {
        until_some(&format!("not seen: {what}"), async || {
            if good(&self.list::<K>().await) { Ok(()) } else { Err(Value::Null) }
        })
        .await;
    }

    /// Waits for an event about an object.
    pub(crate) async fn until_event(&self, about: &str, reason: &str) -> Event {
        until_some(&format!("no event {reason} about {about}"), async || {
            let mut events = self.list::<Event>().await.into_iter();
            let is = |event: &Event| {
                event.involved_object.name.as_deref() == Some(about)
                    && event.reason.as_deref() == Some(reason)
            };
            events.find(is).ok_or(Value::Null)
        })
        .await
    }

    /// Waits until the object is gone.
    pub(crate) async fn until_gone<K: Kind>(&self, name: &str) {
        until_some(&format!("{} {name} does not go", K::kind(&())), async || {
            match self.of::<K>().get_opt(name).await.expect("an answer") {
                None => Ok(()),
                Some(_) => Err(Value::Null),
            }
        })
        .await;
    }
}

/// Looks again and again until there is something; what was seen last is told when it does not come.
pub(crate) async fn until_some<T>(what: &str, look: impl AsyncFn() -> Result<T, Value>) -> T {
    let mut last = Value::Null;
    for _ in 0..1500 {
        match look().await {
            Ok(found) => return found,
            Err(seen) => last = seen,
        }
        tokio::time::sleep(LOOK).await;
    }
    panic!("{what}: {last:#}");
}

/// Scheduler and agent in one.
async fn pretend(client: Client, node: String) {
    loop {
        tokio::time::sleep(LOOK).await;
        let all: Objects<Pod> = Objects::all(client.clone());
        let Ok(list) = all.list(&ListParams::default()).await else { continue };
        for pod in list.items {
            // What it misses now, it does the next time.
            let _ = attend(&client, &node, &pod).await;
        }
    }
}

async fn attend(client: &Client, node: &str, pod: &Pod) -> kube::Result<()> {
    let pods: Objects<Pod> = Objects::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
    let name = pod.name_any();
    if pod.metadata.deletion_timestamp.is_some() {
        return pods.delete(&name, &DeleteParams::default().grace_period(0)).await.map(|_| ());
    }
    if pod.spec.as_ref().is_none_or(|spec| spec.node_name.is_none()) {
        let node = daemon_node(pod).unwrap_or(node);
        let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node}});
        let params = PostParams::default();
        return pods
            .create_subresource::<Value, Value>("binding", &name, &params, &binding)
            .await
            .map(|_| ());
    }
    let status = match (exit_code(pod), pod.status.as_ref().and_then(|status| status.phase.as_deref())) {
        (_, Some("Succeeded" | "Failed")) => return Ok(()),
        (Some(code), _) => ended(code),
        (None, Some("Running")) => return Ok(()),
        (None, _) => running(pod),
    };
    let status = json!({"status": status});
    pods.patch_status(&name, &PatchParams::default(), &Patch::Merge(status)).await.map(|_| ())
}

/// The node that a DaemonSet's Pod is tied to.
fn daemon_node(pod: &Pod) -> Option<&str> {
    let affinity = pod.spec.as_ref()?.affinity.as_ref()?.node_affinity.as_ref()?;
    let terms = &affinity.required_during_scheduling_ignored_during_execution.as_ref()?.node_selector_terms;
    let fields = terms.iter().flat_map(|term| term.match_fields.iter().flatten());
    fields.filter_map(|field| field.values.as_ref()?.first()).map(String::as_str).next()
}

fn exit_code(pod: &Pod) -> Option<i64> {
    let said = pod.annotations().get(EXIT)?;
    let index = pod.annotations().get("batch.kubernetes.io/job-completion-index");
    let code = match index {
        Some(index) if said.contains('=') => {
            said.split(',').filter_map(|pair| pair.split_once('=')).find(|(at, _)| at == index)?.1
        }
        _ => said,
    };
    code.parse().ok()
}

fn running(pod: &Pod) -> Value {
    let ready = if pod.annotations().contains_key(UNREADY) { "False" } else { "True" };
    json!({"phase": "Running", "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": "2026-01-01T00:00:00Z"}]})
}

fn ended(code: i64) -> Value {
    // Long ago, so that nothing waits before it is tried again.
    let at = "2026-01-01T00:00:00Z";
    let state =
        json!({"terminated": {"exitCode": code, "finishedAt": at, "startedAt": at, "reason": "Ended"}});
    json!({
        "phase": if code == 0 { "Succeeded" } else { "Failed" },
        "conditions": [{"type": "Ready", "status": "False", "lastTransitionTime": at}],
        "containerStatuses": [{"name": "main", "image": "i", "imageID": "i", "ready": false, "restartCount": 0, "state": state}],
    })
}
