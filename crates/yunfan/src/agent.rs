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
use crate::ranges::Ranges;
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
    /// The same of IPv6, where the cloud has both families.
    #[serde(default)]
    pub(crate) service_cidr6: Option<ipnet::Ipv6Net>,
    #[serde(default)]
    pub(crate) cluster_cidr6: Option<ipnet::Ipv6Net>,
}

/// What the ranges of IPv6 are called in the ConfigMap: the Pods' and the Services'.
const SIX: [&str; 2] = ["clusterCIDRv6", "serviceCIDRv6"];
/// Where a node keeps them, below its data directory.
const KEPT: &str = "settings.json";
/// How long the server has to tell them, where they are kept.
const WITHIN: Duration = Duration::from_secs(5);

impl Settings {
    /// Writes the settings down for nodes to come. They are for good: nodes and workloads have addresses by them.
    pub(crate) async fn publish(&self, writer: &yunfan_client::Writer) -> anyhow::Result<()> {
        let data = serde_json::json!({
            "clusterCIDR": self.cluster_cidr,
            "serviceCIDR": self.service_cidr,
            SIX[0]: self.cluster_cidr6,
            SIX[1]: self.service_cidr6,
        });
        let known: serde_json::Map<String, serde_json::Value> = data
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(_, value)| !value.is_null())
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        let map: ConfigMap = serde_json::from_value(serde_json::json!({
            "metadata": {"name": SETTINGS, "namespace": SYSTEM_NAMESPACE},
            "data": known,
        }))?;
        match writer.create(&map).await {
            Err(error) if yunfan_client::is_exists(&error) => {
                let kept = Self::read(writer.client()).await?;
                anyhow::ensure!(
                    self.goes_with(&kept),
                    "this cloud has --cluster-cidr {} and --service-cidr {}, by which its nodes and workloads have their \
                     addresses: start it with these, or make another with another --data-dir",
                    Ranges { four: kept.cluster_cidr, six: kept.cluster_cidr6 },
                    Ranges { four: kept.service_cidr, six: kept.service_cidr6 }
                );
                if self.service_cidr6 != kept.service_cidr6 || self.cluster_cidr6 != kept.cluster_cidr6 {
                    let patch = serde_json::json!({"data": data});
                    writer.merge::<ConfigMap>(Some(SYSTEM_NAMESPACE), SETTINGS, &patch).await?;
                }
                Ok(())
            }
            Err(error) => Err(error.into()),
            Ok(_) => Ok(()),
        }
    }

    /// Whether a cloud that had the `kept` settings may have these: its ranges stay, and a second family may come to them.
    fn goes_with(&self, kept: &Self) -> bool {
        let stays = |kept: Option<ipnet::Ipv6Net>, now| kept.is_none() || kept == now;
        kept.cluster_cidr == self.cluster_cidr
            && kept.service_cidr == self.service_cidr
            && stays(kept.cluster_cidr6, self.cluster_cidr6)
            && stays(kept.service_cidr6, self.service_cidr6)
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
        let range = |key: &str| -> anyhow::Result<Option<ipnet::IpNet>> {
            let Some(text) = data.get(key) else { return Ok(None) };
            let range = text.parse();
            Ok(Some(range.with_context(|| format!("ConfigMap {SETTINGS}: {key} is no range: {text}"))?))
        };
        let four = |key: &str| match range(key)? {
            Some(ipnet::IpNet::V4(range)) => Ok(range),
            _ => anyhow::bail!("ConfigMap {SETTINGS} has no range of IPv4 in {key}"),
        };
        let six = |key: &str| match range(key)? {
            Some(ipnet::IpNet::V6(range)) => Ok(Some(range)),
            None => Ok(None),
            _ => anyhow::bail!("ConfigMap {SETTINGS} has no range of IPv6 in {key}"),
        };
        Ok(Self {
            service_cidr: four("serviceCIDR")?,
            cluster_cidr: four("clusterCIDR")?,
            cluster_cidr6: six(SIX[0])?,
            service_cidr6: six(SIX[1])?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_family_may_come_and_stays_then() {
        let settings = |six: Option<&str>| Settings {
            service_cidr: "10.2.0.0/16".parse().unwrap(),
            cluster_cidr: "10.1.0.0/16".parse().unwrap(),
            service_cidr6: six.map(|_| "fd00:2::/112".parse().unwrap()),
            cluster_cidr6: six.map(|range| range.parse().unwrap()),
        };
        let (one, both) = (settings(None), settings(Some("fd00:1::/56")));
        assert!(one.goes_with(&one) && both.goes_with(&one) && both.goes_with(&both));
        assert!(!one.goes_with(&both) && !settings(Some("fd00:3::/56")).goes_with(&both));
        let moved = Settings { cluster_cidr: "10.3.0.0/16".parse().unwrap(), ..settings(None) };
        assert!(!moved.goes_with(&one));
    }
}
