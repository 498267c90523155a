//! How the parts of a cloud are put together in one process.

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use async_trait::async_trait;
use axum::Router;
use axum::body::Body;
use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::Node;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use yunfan_agent::{Agent, ApiServer, ContainerRuntime};
use yunfan_api::{Api, ApiConfig, ApiHandle, NodeDialer};
use yunfan_client::{Informers, Writer};
use yunfan_hypervisor::AcceleratorChoice;
use yunfan_identity::UserInfo;
use yunfan_identity::pki::{Authority, Trust, showing, trusting};
use yunfan_identity::rbac::RbacAuthorizer;
use yunfan_identity::token::{AccountKey, TokenKey};
use yunfan_openstack::{DoorContext, NodeError, NodeRequests};
use yunfan_resources::names::{CLUSTER_DOMAIN, COMPONENTS_GROUP, NODES_GROUP, component_user, node_user};
use yunfan_scheduler::SchedulerConfig;

use crate::agent::Settings;
use crate::cli::{AcceleratorArg, ContainerOptions, ServerOptions, Share};
use crate::instance::Instance;
use crate::ranges::second_family;
use crate::renewal::{self, Files};
use crate::{admin, encryption, holder, ready, say, store};

/// How long the end waits for records of the audit log to be written.
const FLUSH: Duration = Duration::from_secs(5);

/// Runs a cloud until it is told to stop; with an agent, or without.
pub(crate) async fn run(options: &ServerOptions, with_agent: bool) -> anyhow::Result<()> {
    let started = Instant::now();
    let second = second_family(options.cluster_cidr, options.service_cidr, options.node_cidr_mask_size_ipv6)?;
    if second.is_some() {
        tracing::warn!(
            "Services get addresses of IPv6 and nodes slices of it, but nodes carry IPv4 alone yet: Pods have no addresses of IPv6"
        );
    }
    let audit = options.audit.start().await.context("the audit log cannot be kept")?;
    // First of all: a cloud must not start with other rules than those it was given.
    let authorization = options.access.authorization().await?;
    let authentication = options.access.authentication().await?;
    let instance = Instance::open(&options.data.data_dir)?;
    let listener = holder::bind(options.listen).await?;
    let address = listener.local_addr()?;
    let endpoint = format!("https://{}", reachable(address));
    let authority = Arc::new(Authority::open_or_create(&instance.dir.join("pki"))?);
    let tokens = TokenKey::open_or_create(&instance.dir.join("pki"))?;
    let accounts = AccountKey::open_or_create(&instance.dir.join("pki"))?;
    let store = store::open(&instance.dir, &options.etcd).await?;
    let (store, encryption) = encryption::seal(store, &instance.dir, &options.encryption).await?;
    let dns = cluster_dns(options.service_cidr.four)?;
    let service_ip = api_service(options.service_cidr.four)?;
    let config = ApiConfig {
        service_cidr: options.service_cidr.four,
        service_cidr6: second.map(|second| second.service_cidr),
        node_ports: options.service_node_port_range.clone(),
        cluster_cidr: options.cluster_cidr.four,
        cluster_dns_ip: dns,
        compaction_interval: Duration::from_secs(options.compaction_interval),
        audit: audit.clone(),
        authentication: authentication.clone(),
        audiences: options.access.audiences(),
        authorization,
        ..ApiConfig::default()
    };
    let rbac = Arc::new(RbacAuthorizer::new());
    let api = Api::start(store, tokens.clone(), accounts.clone(), rbac, &authority, config).await?;
    api.add_metrics(yunfan_client::register_metrics);
    api.add_metrics(|catalog| encryption.register(catalog));
    api.bootstrap().await.context("the cloud's own objects")?;
    let handle = api.handle();
    let system = component(&handle, "cloud");
    let writer = Writer::new(system.clone(), "yunfan");
    let settings = Settings {
        service_cidr: options.service_cidr.four,
        cluster_cidr: options.cluster_cidr.four,
        service_cidr6: second.map(|second| second.service_cidr),
        cluster_cidr6: second.map(|second| second.cluster_cidr),
    };
    settings.publish(&writer).await?;
    let password = admin::ensure(&writer, &instance.dir).await?;

    let door = door(&handle, &api, system, tokens, endpoint.clone());
    let app = api.recorded(door).merge(api.router());
    let names = server_names(address, options.service_cidr.four);
    let serving = authority.shown_server("server", "yunfan", &names)?;
    let clients =
        [std::slice::from_ref(authority.certificate()), authentication.proxy_authorities()].concat();
    let tls = Arc::new(showing(serving, &clients)?);
    let mut tasks = JoinSet::new();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let mut told = stopped.clone();
    let serve = tokio::spawn(yunfan_serve::serve_tls(listener, tls, app, async move {
        let _ = told.wait_for(|stop| *stop).await;
    }));
    let files = Files { dir: instance.dir.clone(), endpoint: endpoint.clone(), password };
    let admin = files.write(&authority)?;

    let server = reachable(address);
    let api = yunfan_controllers::ApiServer {
        service_ip,
        // Loopback is another one inside a network: there the way is the Service's own address, which every node answers.
        address: if server.ip().is_loopback() { SocketAddr::from((service_ip, 443)) } else { server },
    };
    let brains = yunfan_controllers::Config {
        cluster_cidr: options.cluster_cidr.four,
        service_cidr: options.service_cidr.four,
        second,
        node_prefix: options.node_cidr_mask_size,
        authority: authority.clone(),
        accounts,
        api,
        kubernetes: options.controllers == Share::All,
        settings: options.controller.settings(),
    };
    let pods = options.scheduler == Share::All;
    start_brains(&mut tasks, &handle, brains, pods);
    let mut agent = None;
    if with_agent {
        let node = node_name(options)?;
        let api = ApiServer { address: service_ip, server: server.to_string() };
        let setup = AgentSetup {
            node,
            authority: &authority,
            handle: &handle,
            instance: &instance,
            options,
            dns,
            api,
        };
        agent = Some(setup.start(address.ip()).await.context("the agent of this node")?);
    }
    ready(&format!(
        "ready in {} ms: {endpoint} (data in {})",
        started.elapsed().as_millis(),
        instance.dir.display()
    ));
    say(&format!("try: kubectl --kubeconfig {} get nodes", instance.dir.join("kubeconfig").display()));

    let ended = async {
        match &mut agent {
            Some(agent) => agent.ended().await,
            None => std::future::pending().await,
        }
    };
    let asked = tokio::select! {
        asked = asked_to_stop()? => asked,
        ended = renewal::of_cloud(authority.clone(), files, admin) => {
            anyhow::bail!("certificates are no longer looked after: {ended:?}")
        }
        Some(result) = tasks.join_next() => anyhow::bail!("a part of the cloud ended: {result:?}"),
        () = ended => anyhow::bail!("the agent ended"),
    };
    match (asked, &agent) {
        (Stop::Node, Some(agent)) => shut_down(agent).await?,
        _ => tracing::info!("stopping; workloads go on"),
    }
    let _ = stop.send(true);
    drop(agent);
    tasks.shutdown().await;
    serve.await??;
    if let Some(audit) = audit {
        // A webhook that does not answer must not hold up the end.
        let _ = tokio::time::timeout(FLUSH, audit.flush()).await;
    }
    Ok(())
}

/// What a process was asked to end.
pub(crate) enum Stop {
    /// Itself (SIGTERM, SIGINT); workloads go on.
    Process,
    /// Its node with it (SIGUSR1, from `yunfan down`).
    Node,
}

/// Done when a signal asks this process to stop.
pub(crate) fn asked_to_stop() -> anyhow::Result<impl Future<Output = Stop>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut node = signal(SignalKind::user_defined1())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => Stop::Process,
            _ = interrupt.recv() => Stop::Process,
            _ = node.recv() => Stop::Node,
        }
    })
}

/// Ends the node's Pods, unless a further signal says that there is no time for that.
pub(crate) async fn shut_down(agent: &Agent) -> anyhow::Result<()> {
    tokio::select! {
        () = agent.shut_down() => {}
        _ = asked_to_stop()? => tracing::warn!("stopping before all Pods have ended"),
    }
    Ok(())
}

/// A client that acts as a part of the cloud.
fn component(handle: &ApiHandle, name: &str) -> kube::Client {
    handle.client_as(UserInfo::authenticated(component_user(name), [COMPONENTS_GROUP]))
}

fn start_brains(tasks: &mut JoinSet<()>, handle: &ApiHandle, config: yunfan_controllers::Config, pods: bool) {
    let client = component(handle, "controllers");
    // One informer per kind serves scheduler and controllers.
    let informers = Informers::new(client.clone());
    tasks.spawn(yunfan_controllers::run(client, informers.clone(), config));
    let client = component(handle, "scheduler");
    let config = SchedulerConfig { pods, ..SchedulerConfig::default() };
    tasks.spawn(yunfan_scheduler::run(client, informers, config, std::future::pending()));
}

fn door(handle: &ApiHandle, api: &Api, system: kube::Client, tokens: TokenKey, endpoint: String) -> Router {
    let clients = handle.clone();
    yunfan_openstack::router(DoorContext {
        client_as: Arc::new(move |user, peer| clients.client_from(user, peer)),
        system: system.clone(),
        tokens,
        endpoint,
        nodes: Arc::new(Nodes { dialer: api.nodes(), writer: Writer::new(system, "yunfan") }),
    })
}

/// The OpenStack door's way to the nodes: the API server's.
struct Nodes {
    dialer: NodeDialer,
    writer: Writer,
}

#[async_trait]
impl NodeRequests for Nodes {
    async fn request(
        &self,
        node: &str,
        request: http::Request<Body>,
    ) -> Result<http::Response<Body>, NodeError> {
        match self.dialer.request(node, request).await {
            Ok(answer) => Ok(answer.map(Body::new)),
            Err(error) => match self.writer.get::<Node>(None, node).await {
                Err(missing) if yunfan_client::is_not_found(&missing) => {
                    Err(NodeError::Unknown(node.to_owned()))
                }
                _ => Err(NodeError::Unreachable { node: node.to_owned(), why: error.to_string() }),
            },
        }
    }
}

/// What the agent in this process is made from.
struct AgentSetup<'a> {
    node: String,
    authority: &'a Authority,
    handle: &'a ApiHandle,
    instance: &'a Instance,
    options: &'a ServerOptions,
    dns: Ipv4Addr,
    api: ApiServer,
}

impl AgentSetup<'_> {
    async fn start(&self, listen: IpAddr) -> anyhow::Result<Agent> {
        let address = own_address(listen);
        let user = UserInfo::authenticated(node_user(&self.node), [NODES_GROUP]);
        let listener = holder::bind_agent(address, 0).await?;
        let names = [self.node.clone(), address.to_string()];
        let serving = self.authority.shown_server("agent", &node_user(&self.node), &names)?;
        let own = self.authority.shown_client("node", &node_user(&self.node), &[NODES_GROUP])?;
        let trust = Trust::of(self.authority.certificate())?;
        let config = yunfan_agent::Config {
            node: self.node.clone(),
            tag: self.instance.tag.clone(),
            root: self.instance.agent_dir(),
            address,
            listener,
            serving: Arc::new(showing(serving, std::slice::from_ref(self.authority.certificate()))?),
            agents: Arc::new(trusting(Some(trust), Some(own))?),
            client: self.handle.client_as(user),
            service_cidr: self.options.service_cidr.four,
            cluster_cidr: self.options.cluster_cidr.four,
            cluster_dns: self.dns,
            api: self.api.clone(),
            containers: containers(&self.options.containers)?,
            accelerator: accelerator(self.options.accelerator),
            pod_manifests: self.options.pod_manifest_path.clone(),
            shutdown: self.options.shutdown.periods()?,
            eviction: self.options.eviction.settings()?,
            pods: self.options.pods.settings()?,
            labels: Default::default(),
        };
        Ok(Agent::start(config).await?)
    }
}

/// What runs containers: unless told otherwise this very binary, whose shim is a command of it.
pub(crate) fn containers(options: &ContainerOptions) -> anyhow::Result<ContainerRuntime> {
    if let Some(socket) = options.container_runtime_endpoint.clone() {
        return Ok(ContainerRuntime::Cri { socket });
    }
    let binary = std::env::current_exe().context("the path of this binary")?;
    Ok(ContainerRuntime::Embedded {
        shim: vec![binary.to_string_lossy().into_owned(), crate::SHIM.to_owned()],
        registries: options.registry_config_dir.clone(),
    })
}

pub(crate) fn accelerator(choice: AcceleratorArg) -> AcceleratorChoice {
    match choice {
        AcceleratorArg::Auto => AcceleratorChoice::Auto,
        AcceleratorArg::Kvm => AcceleratorChoice::Kvm,
        AcceleratorArg::Tcg => AcceleratorChoice::Tcg,
        AcceleratorArg::Fake => AcceleratorChoice::Fake,
    }
}

fn node_name(options: &ServerOptions) -> anyhow::Result<String> {
    let name = match &options.node_name {
        Some(name) => name.clone(),
        None => rustix::system::uname().nodename().to_string_lossy().to_lowercase(),
    };
    let label = |part: &str| {
        !part.is_empty()
            && part.len() <= 63
            && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    anyhow::ensure!(
        name.len() <= 253 && name.split('.').all(label),
        "{name:?} is not usable as a node's name (RFC 1123: lower-case letters, digits, '-' and '.'): give one with --node-name"
    );
    Ok(name)
}

/// The tenth address of the Services' range.
pub(crate) fn cluster_dns(services: Ipv4Net) -> anyhow::Result<Ipv4Addr> {
    let address = services.hosts().nth(9);
    address.with_context(|| format!("--service-cidr {services} is too small: take a /24 or larger"))
}

/// The first address of the Services' range: the Service `kubernetes`.
pub(crate) fn api_service(services: Ipv4Net) -> anyhow::Result<Ipv4Addr> {
    let address = services.hosts().next();
    address.with_context(|| format!("--service-cidr {services} is too small: take a /24 or larger"))
}

/// Where others reach a server that listens on `address`.
fn reachable(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(own_address(address.ip()), address.port())
}

fn own_address(listen: IpAddr) -> IpAddr {
    if !listen.is_unspecified() {
        return listen;
    }
    yunfan_agent::default_route_address().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

/// The names and addresses that the API server's certificate is good for.
fn server_names(address: SocketAddr, services: Ipv4Net) -> Vec<String> {
    let mut names = vec![
        "localhost".to_owned(),
        "127.0.0.1".to_owned(),
        "::1".to_owned(),
        "kubernetes".to_owned(),
        "kubernetes.default".to_owned(),
        "kubernetes.default.svc".to_owned(),
        format!("kubernetes.default.svc.{CLUSTER_DOMAIN}"),
        own_address(address.ip()).to_string(),
    ];
    names.extend(services.hosts().next().map(|first| first.to_string()));
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    if host.is_ascii() && !host.is_empty() {
        names.push(host);
    }
    names.sort();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dns_address_is_in_the_range() {
        assert_eq!(cluster_dns("10.96.0.0/16".parse().unwrap()).unwrap(), Ipv4Addr::new(10, 96, 0, 10));
        assert!(cluster_dns("10.96.0.0/30".parse().unwrap()).is_err());
    }
}
