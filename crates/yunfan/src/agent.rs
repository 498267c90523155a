//! `yunfan agent`: a node's agent as a process of its own.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use k8s_openapi::api::core::v1::ConfigMap;
use serde::{Deserialize, Serialize};
use yunfan_agent::{Agent, ApiServer};
use yunfan_identity::bootstrap::SETTINGS;
use yunfan_identity::pki::{Trust, showing, trusting};
use yunfan_resources::names::SYSTEM_NAMESPACE;

use crate::cli::AgentOptions;
use crate::cloud::{Stop, accelerator, api_service, asked_to_stop, cluster_dns, containers, shut_down};
use crate::instance::{Instance, write_private};
use crate::renewal::Credentials;
use crate::{holder, node, ready};

pub(crate) async fn run(options: &AgentOptions) -> anyhow::Result<()> {
    let started = std::time::Instant::now();
    let join = node::read(&options.join)?;
    let instance = Instance::open(&options.data.data_dir)?;
    let authority = authority(&join.authority)?;
    let credentials = Credentials::open(join, &instance.dir).await?;
    let join = &credentials.join;
    let client = credentials.client();
    let settings = Settings::of_node(&client, &instance.dir).await?;
    let listener = holder::bind_agent(join.address, options.port).await?;
    let config = yunfan_agent::Config {
        node: join.node.clone(),
        tag: instance.tag.clone(),
        root: instance.agent_dir(),
        address: join.address,
        listener,
        serving: Arc::new(showing(credentials.serving(), std::slice::from_ref(&authority))?),
        agents: Arc::new(trusting(Some(Trust::of(&authority)?), Some(credentials.own()))?),
        client,
        service_cidr: settings.service_cidr,
        cluster_cidr: settings.cluster_cidr,
        cluster_dns: cluster_dns(settings.service_cidr)?,
        api: ApiServer {
            address: api_service(settings.service_cidr)?,
            server: api_server(&join.kubeconfig)?,
        },
        containers: containers(&options.containers)?,
        accelerator: accelerator(options.accelerator),
        pod_manifests: options.pod_manifest_path.clone(),
        shutdown: options.shutdown.periods()?,
        eviction: options.eviction.settings()?,
        pods: options.pods.settings()?,
        labels: Default::default(),
    };
    let mut agent = Agent::start(config).await?;
    ready(&format!("ready in {} ms: node {}", started.elapsed().as_millis(), join.node));
    let asked = tokio::select! {
        asked = asked_to_stop()? => asked,
        () = agent.ended() => anyhow::bail!("the agent ended"),
        ended = credentials.keep() => anyhow::bail!("certificates are no longer looked after: {ended:?}"),
    };
    match asked {
        Stop::Process => Ok(()),
        Stop::Node => shut_down(&agent).await,
    }
}

/// Host and port of the API server that a kubeconfig names.
fn api_server(kubeconfig: &serde_json::Value) -> anyhow::Result<String> {
    let url = kubeconfig.pointer("/clusters/0/cluster/server").and_then(serde_json::Value::as_str);
    let url = url.context("the join file's kubeconfig names no server")?;
    let uri: http::Uri = url.parse().with_context(|| format!("the join file's server {url:?} is no URL"))?;
    let host = uri.host().with_context(|| format!("the join file's server {url:?} has no host"))?;
    Ok(format!("{host}:{}", uri.port_u16().unwrap_or(443)))
}

fn authority(pem: &str) -> anyhow::Result<rustls::pki_types::CertificateDer<'static>> {
    use rustls::pki_types::pem::PemObject;
    rustls::pki_types::CertificateDer::from_pem_slice(pem.as_bytes())
        .context("the authority's certificate in the join file is damaged")
}

/// The cloud's settings that every node must share. The server publishes them as a ConfigMap.
#[derive(Serialize, Deserialize)]
pub(crate) struct Settings {
    pub(crate) service_cidr: ipnet::Ipv4Net,
    pub(crate) cluster_cidr: ipnet::Ipv4Net,
}

/// Where a node keeps them, below its data directory.
const KEPT: &str = "settings.json";
/// How long the server has to tell them, where they are kept.
const WITHIN: Duration = Duration::from_secs(5);

impl Settings {
    /// Writes the settings down for nodes to come. They are for good: nodes and workloads have addresses by them.
    pub(crate) async fn publish(&self, writer: &yunfan_client::Writer) -> anyhow::Result<()> {
        let map: ConfigMap = serde_json::from_value(serde_json::json!({
            "metadata": {"name": SETTINGS, "namespace": SYSTEM_NAMESPACE},
            "data": {
                "clusterCIDR": self.cluster_cidr.to_string(),
                "serviceCIDR": self.service_cidr.to_string(),
            },
        }))?;
        match writer.create(&map).await {
            Err(error) if yunfan_client::is_exists(&error) => {
                let kept = Self::read(writer.client()).await?;
                anyhow::ensure!(
                    kept.cluster_cidr == self.cluster_cidr && kept.service_cidr == self.service_cidr,
                    "this cloud has --cluster-cidr {} and --service-cidr {}, by which its nodes and workloads have their \
                     addresses: start it with these, or make another with another --data-dir",
                    kept.cluster_cidr,
                    kept.service_cidr
                );
                Ok(())
            }
            Err(error) => Err(error.into()),
            Ok(_) => Ok(()),
        }
    }

    /// As the server says. While it is away, as it said when the node was here before: a node's own Pods run without it.
    async fn of_node(client: &kube::Client, dir: &Path) -> anyhow::Result<Self> {
        let file = dir.join(KEPT);
        let kept = std::fs::read(&file).ok().and_then(|text| serde_json::from_slice(&text).ok());
        let Some(kept) = kept else {
            let settings = Self::read(client).await?;
            write_private(&file, &serde_json::to_vec(&settings)?)?;
            return Ok(settings);
        };
        match tokio::time::timeout(WITHIN, Self::read(client)).await {
            Ok(Ok(settings)) => {
                write_private(&file, &serde_json::to_vec(&settings)?)?;
                Ok(settings)
            }
            Ok(Err(error)) if matches!(error.downcast_ref(), Some(kube::Error::Api(_))) => Err(error),
            _ => {
                tracing::warn!(
                    "the server does not answer: the node goes by the settings that it had before"
                );
                Ok(kept)
            }
        }
    }

    async fn read(client: &kube::Client) -> anyhow::Result<Self> {
        let maps: kube::Api<ConfigMap> = kube::Api::namespaced(client.clone(), SYSTEM_NAMESPACE);
        let map = maps.get(SETTINGS).await.context("the server does not answer as it should")?;
        let data = map.data.unwrap_or_default();
        let range = |key: &str| -> anyhow::Result<ipnet::Ipv4Net> {
            let text = data.get(key).with_context(|| format!("ConfigMap {SETTINGS} has no {key}"))?;
            text.parse().with_context(|| format!("ConfigMap {SETTINGS}: {key} is no range: {text}"))
        };
        Ok(Self { service_cidr: range("serviceCIDR")?, cluster_cidr: range("clusterCIDR")? })
    }
}
