//! A cloud without nodes: store, API server, control loops and the door are real; one node is pretended,
//! with image bytes in memory and machines that are active as soon as they are placed.

pub(crate) mod client;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use axum::body::Body;
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use k8s_openapi::api::core::v1::Node;
use kube::Client;
use kube::api::{Api as Objects, ListParams, Patch, PatchParams, PostParams};
use md5::{Digest, Md5};
use serde_json::{Value, json};
use sha2::Sha512;
use tempfile::TempDir;
use tokio::task::JoinSet;
use yunfan_api::{Api, ApiConfig, ApiHandle};
use yunfan_client::Informers;
use yunfan_identity::UserInfo;
use yunfan_identity::pki::Authority;
use yunfan_identity::rbac::RbacAuthorizer;
use yunfan_identity::token::{AccountKey, TokenKey};
use yunfan_openstack::{DoorContext, NodeError, NodeRequests};
use yunfan_resources::compute::{RunState, VirtualMachine, VmAction, VmPhase};
use yunfan_resources::names;
use yunfan_resources::network::Port;
use yunfan_resources::storage::{Volume, VolumeSnapshot};

/// The admin's password.
pub(crate) const PASSWORD: &str = "correct horse";
/// The pretended node.
pub(crate) const NODE: &str = "n1";

/// A cloud that lives as long as this.
pub(crate) struct Cloud {
    /// The door and, behind it, the kube door.
    pub(crate) router: Router,
    /// Patterns of the paths that the door answers.
    pub(crate) paths: Vec<String>,
    /// Acts as the cloud itself.
    pub(crate) system: Client,
    /// Image bytes by id.
    pub(crate) node: Arc<PretendedNode>,
    handle: ApiHandle,
    _tasks: JoinSet<()>,
    _dir: TempDir,
}

/// Starts a cloud whose links begin with `endpoint`.
pub(crate) async fn start(endpoint: &str) -> Cloud {
    let dir = TempDir::new().expect("a temporary directory");
    let store = yunfan_store::open_embedded(dir.path().join("store")).expect("a store");
    let authority = Arc::new(Authority::open_or_create(&dir.path().join("pki")).expect("an authority"));
    let tokens = TokenKey::ephemeral().expect("a key");
    let config = ApiConfig::default();
    let (cluster_cidr, service_cidr) = (config.cluster_cidr, config.service_cidr);
    let rbac = Arc::new(RbacAuthorizer::new());
    let accounts = AccountKey::ephemeral().expect("a key");
    let api =
        Api::start(store, tokens.clone(), accounts.clone(), rbac, &authority, config).await.expect("the API");
    api.bootstrap().await.expect("what every cloud has");
    let handle = api.handle();
    let component = |name: &str| {
        handle.client_as(UserInfo::authenticated(names::component_user(name), [names::COMPONENTS_GROUP]))
    };
    let system = component("door");
    let mut tasks = JoinSet::new();
    let client = component("controllers");
    let informers = Informers::new(client.clone());
    let service_ip = std::net::Ipv4Addr::new(10, 96, 0, 1);
    let config = yunfan_controllers::Config {
        api: yunfan_controllers::ApiServer { service_ip, address: (service_ip, 443).into() },
        cluster_cidr,
        service_cidr,
        second: None,
        node_prefix: 24,
        authority: authority.clone(),
        accounts,
        kubernetes: true,
        settings: yunfan_controllers::Settings::default(),
    };
    tasks.spawn(yunfan_controllers::run(client, informers, config));
    make_admin(&system).await;
    make_node(&system).await;
    tasks.spawn(pretend(system.clone()));
    let node = Arc::new(PretendedNode::default());
    let clients = handle.clone();
    let context = || DoorContext {
        client_as: Arc::new({
            let clients = clients.clone();
            move |user, peer| clients.client_from(user, peer)
        }),
        system: system.clone(),
        tokens: tokens.clone(),
        endpoint: endpoint.to_owned(),
        nodes: node.clone(),
    };
    let paths = yunfan_openstack::paths(context());
    let door = yunfan_openstack::router(context());
    let router = door.merge(api.router());
    let cloud = Cloud { router, paths, system, node, handle, _tasks: tasks, _dir: dir };
    cloud.wait_for_admin_project().await;
    cloud
}

impl Cloud {
    /// Acts as a user who has what bindings give them and nothing else.
    pub(crate) fn acting(&self, user: &str) -> Client {
        self.handle.client_as(UserInfo::authenticated(user, Vec::<String>::new()))
    }

    async fn wait_for_admin_project(&self) {
        let projects = Objects::<yunfan_resources::iam::Project>::all(self.system.clone());
        for _ in 0..500 {
            let project = projects.get(names::ADMIN).await.expect("the admin's project");
            if project.status.is_some_and(|status| status.namespace.is_some()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the project loop made no namespace");
    }
}

async fn create<K>(client: &Client, namespace: Option<&str>, object: Value)
where
    K: kube::Resource<DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned
        + serde::Serialize,
{
    let object: K = serde_json::from_value(object).expect("an object");
    let mut request = kube::core::Request::new(K::url_path(&(), namespace))
        .create(&PostParams::default(), serde_json::to_vec(&object).expect("JSON"))
        .expect("a request");
    request.extensions_mut().clear();
    client.request::<K>(request).await.expect("a created object");
}

async fn make_admin(client: &Client) {
    use yunfan_resources::iam::{Domain, Project, User};
    let hash = yunfan_identity::password::hash(PASSWORD).await.expect("a hash");
    let spec = |more: Value| {
        let mut object =
            json!({"metadata": {"name": "admin"}, "spec": {"displayName": "admin", "domain": "default"}});
        for (key, value) in more.as_object().into_iter().flatten() {
            object["spec"][key] = value.clone();
        }
        object
    };
    create::<Domain>(
        client,
        None,
        json!({"metadata": {"name": "default"}, "spec": {"id": "default", "displayName": "Default"}}),
    )
    .await;
    create::<Project>(client, None, spec(json!({}))).await;
    create::<User>(client, None, spec(json!({"defaultProject": "admin"}))).await;
    create::<k8s_openapi::api::rbac::v1::ClusterRoleBinding>(
        client,
        None,
        json!({
            "metadata": {"name": "yunfan:admin"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "admin"}],
        }),
    )
    .await;
    create::<k8s_openapi::api::core::v1::Secret>(
        client,
        Some(names::SYSTEM_NAMESPACE),
        json!({
            "metadata": {"name": names::password_secret("admin"), "namespace": names::SYSTEM_NAMESPACE},
            "type": names::PASSWORD_SECRET_TYPE, "data": {"hash": base64(&hash)},
        }),
    )
    .await;
}

fn base64(text: &str) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(text)
}

async fn make_node(client: &Client) {
    create::<Node>(client, None, json!({"metadata": {"name": NODE}})).await;
    assert!(ready(client).await, "the node becomes ready");
}

async fn ready(client: &Client) -> bool {
    let status = json!({"status": {
        "conditions": [{"type": "Ready", "status": "True"}],
        "capacity": {"cpu": "4", "memory": "8Gi"}, "allocatable": {"cpu": "4", "memory": "8Gi"},
        "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
    }});
    let nodes = Objects::<Node>::all(client.clone());
    nodes.patch_status(NODE, &PatchParams::default(), &Patch::Merge(status)).await.is_ok()
}

/// Scheduler and agent in one: places every machine and says that it does what it should.
async fn pretend(client: Client) {
    let machines = Objects::<VirtualMachine>::all(client.clone());
    for round in 0_u64.. {
        tokio::time::sleep(Duration::from_millis(20)).await;
        pretend_volumes(&client).await;
        pretend_snapshots(&client).await;
        // No agent renews its lease, so that the cloud gives it up now and then.
        if round % 50 == 0 && !ready(&client).await {
            return;
        }
        let Ok(all) = machines.list(&ListParams::default()).await else { continue };
        for vm in all.items {
            let (namespace, name) = (
                vm.metadata.namespace.clone().unwrap_or_default(),
                vm.metadata.name.clone().unwrap_or_default(),
            );
            let own = Objects::<VirtualMachine>::namespaced(client.clone(), &namespace);
            let ports = Objects::<Port>::namespaced(client.clone(), &namespace);
            let Ok(ports) = ports.list(&ListParams::default()).await else { continue };
            let addresses: Vec<Value> = ports
                .items
                .iter()
                .filter(|port| port.spec.holder.as_ref().is_some_and(|holder| Some(&holder.uid) == vm.metadata.uid.as_ref()))
                .map(|port| {
                    let ip = port.spec.fixed_ips.first().and_then(|fixed| fixed.ip.clone()).unwrap_or_default();
                    json!({"network": port.spec.network, "port": port.metadata.name, "ip": ip, "mac": port.spec.mac_address})
                })
                .collect();
            if addresses.len() < vm.spec.networks.len() {
                continue;
            }
            let offloaded = vm.status.as_ref().is_some_and(|status| status.phase == VmPhase::Offloaded);
            let phase = match vm.spec.run_state {
                RunState::Running => "Active",
                RunState::Paused | RunState::Suspended => "Paused",
                RunState::Shelved if offloaded || pretend_image(&client, &vm).await => "Offloaded",
                RunState::Stopped | RunState::Shelved => "Stopped",
            };
            let done = |action: &VmAction| json!({"request": action.request, "at": action.at});
            let status = json!({"status": {
                "phase": phase, "addresses": addresses, "rebootGeneration": vm.spec.reboot_generation,
                "rebuildGeneration": vm.spec.rebuild_generation, "resources": vm.spec.resources,
                "rescued": vm.spec.rescue_image.is_some(),
                "results": vm.spec.actions.iter().map(done).collect::<Vec<Value>>(),
            }});
            // A machine that was deleted meanwhile is no fault.
            let shelved = vm.spec.run_state == RunState::Shelved;
            if vm.spec.node_name.is_none() != (shelved && offloaded) {
                let node = if shelved { Value::Null } else { json!(NODE) };
                let placed = json!({"spec": {"nodeName": node}});
                let _ = own.patch(&name, &PatchParams::default(), &Patch::Merge(placed)).await;
            }
            let _ = own.patch_status(&name, &PatchParams::default(), &Patch::Merge(status)).await;
        }
    }
}

/// Makes the image that a shelved machine names; whether the machine can leave its node.
async fn pretend_image(client: &Client, vm: &VirtualMachine) -> bool {
    let Some(name) = &vm.spec.shelved_image else { return vm.boot_volume().is_some() };
    let namespace = vm.metadata.namespace.clone().unwrap_or_default();
    let images = Objects::<yunfan_resources::image::Image>::namespaced(client.clone(), &namespace);
    let status = json!({"status": {"phase": "Active", "sizeBytes": 1, "nodes": [NODE]}});
    images.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await.is_ok()
}

/// Places every volume, makes it as large as it should be, and gives it to the machine that wishes for it.
async fn pretend_volumes(client: &Client) {
    let (volumes, machines) =
        (Objects::<Volume>::all(client.clone()), Objects::<VirtualMachine>::all(client.clone()));
    let params = ListParams::default();
    let (Ok(volumes), Ok(machines)) = (volumes.list(&params).await, machines.list(&params).await) else {
        return;
    };
    for volume in volumes.items.into_iter().filter(|volume| volume.spec.unmet.is_none()) {
        let (namespace, name) = (
            volume.metadata.namespace.clone().unwrap_or_default(),
            volume.metadata.name.clone().unwrap_or_default(),
        );
        let own = Objects::<Volume>::namespaced(client.clone(), &namespace);
        let holder = machines.items.iter().find(|vm| volume.wish_of(vm).is_some());
        let attachments: Vec<Value> = holder
            .map(|vm| json!({"machine": vm.metadata.name, "uid": vm.metadata.uid}))
            .into_iter()
            .collect();
        let phase = if attachments.is_empty() { "Available" } else { "InUse" };
        let status = json!({"status": {
            "phase": phase, "sizeGib": volume.spec.size_gib, "attachments": attachments,
        }});
        // A volume that was deleted meanwhile is no fault.
        let placed = json!({"spec": {"nodeName": NODE}});
        let _ = own.patch(&name, &PatchParams::default(), &Patch::Merge(placed)).await;
        let _ = own.patch_status(&name, &PatchParams::default(), &Patch::Merge(status)).await;
    }
}

/// Takes every snapshot at once.
async fn pretend_snapshots(client: &Client) {
    let snapshots = Objects::<VolumeSnapshot>::all(client.clone());
    let Ok(snapshots) = snapshots.list(&ListParams::default()).await else { return };
    for snapshot in snapshots.items.into_iter().filter(|one| one.status.is_none()) {
        let namespace = snapshot.metadata.namespace.clone().unwrap_or_default();
        let own = Objects::<VolumeSnapshot>::namespaced(client.clone(), &namespace);
        let status = json!({"status": {"phase": "Available"}});
        // One that was deleted meanwhile is no fault.
        let name = snapshot.metadata.name.unwrap_or_default();
        let _ = own.patch_status(&name, &PatchParams::default(), &Patch::Merge(status)).await;
    }
}

/// The agent's HTTPS API, in memory.
#[derive(Default)]
pub(crate) struct PretendedNode {
    pub(crate) images: Mutex<HashMap<String, Vec<u8>>>,
}

#[async_trait]
impl NodeRequests for PretendedNode {
    async fn request(&self, node: &str, request: Request<Body>) -> Result<Response<Body>, NodeError> {
        if node != NODE {
            return Err(NodeError::Unknown(node.to_owned()));
        }
        let (parts, body) = request.into_parts();
        let answer = |status: StatusCode, body: Vec<u8>| {
            let mut response = Response::new(Body::from(body));
            *response.status_mut() = status;
            Ok(response)
        };
        let path: Vec<&str> = parts.uri.path().split('/').skip(1).collect();
        match (&parts.method, path.as_slice()) {
            (&Method::PUT, ["images", _namespace, id]) => {
                let Ok(bytes) = body.collect().await else {
                    return answer(
                        StatusCode::BAD_REQUEST,
                        br#"{"message":"The upload broke off"}"#.to_vec(),
                    );
                };
                let bytes = bytes.to_bytes().to_vec();
                if bytes.starts_with(b"corrupt") {
                    return answer(
                        StatusCode::BAD_REQUEST,
                        br#"{"message":"This is no qcow2 image"}"#.to_vec(),
                    );
                }
                let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
                let told = json!({
                    "sizeBytes": bytes.len(), "virtualSizeBytes": 1 << 20,
                    "sha512": hex(&Sha512::digest(&bytes)), "md5": hex(&Md5::digest(&bytes)),
                });
                self.images.lock().expect("no panic").insert((*id).to_owned(), bytes);
                answer(StatusCode::OK, told.to_string().into_bytes())
            }
            (&Method::GET, ["images", id]) => match self.images.lock().expect("no panic").get(*id) {
                Some(bytes) => match parts.headers.get("range").and_then(|range| range.to_str().ok()) {
                    Some(range) => {
                        let (first, last) = range["bytes=".len()..].split_once('-').expect("a whole range");
                        let place = |text: &str| text.parse::<usize>().expect("a number");
                        answer(StatusCode::PARTIAL_CONTENT, bytes[place(first)..=place(last)].to_vec())
                    }
                    None => answer(StatusCode::OK, bytes.clone()),
                },
                None => answer(StatusCode::NOT_FOUND, br#"{"message":"no such image"}"#.to_vec()),
            },
            (&Method::DELETE, ["images", id]) => {
                self.images.lock().expect("no panic").remove(*id);
                answer(StatusCode::NO_CONTENT, Vec::new())
            }
            (&Method::GET, ["console", uid]) => {
                let query = parts.uri.query().unwrap_or_default();
                answer(StatusCode::OK, format!("booted {uid} {query}\n").into_bytes())
            }
            (&Method::GET, ["console", _, "vnc" | "serial"])
                if parts.headers.get("upgrade").is_some_and(|word| word == "yunfan-console") =>
            {
                answer(StatusCode::TOO_MANY_REQUESTS, br#"{"message":"others are there"}"#.to_vec())
            }
            _ => answer(StatusCode::NOT_FOUND, Vec::new()),
        }
    }
}
