//! metrics.k8s.io: what nodes and Pods use now. Nothing of it is stored: each answer is made of what the nodes say when they are asked
//! (the kubelet's `/stats/summary`).
//!
//! As with metrics-server, who says nothing is left out of lists, and is not found when asked for alone.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use futures::StreamExt;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};
use yunfan_objects::builtin::nano_cores;
use yunfan_objects::{ApiError, GroupResource, Quantity, codec};

use super::Call;
use super::negotiate::Format;
use super::resource::{Reply, selection};
use crate::Api;
use crate::cache::Entry;
use crate::keys;
use crate::kinds::Kind;
use crate::registry::{Page, Selection, Stored};

const GROUP: &str = "metrics.k8s.io";
/// How many nodes are asked at once.
const AT_ONCE: usize = 32;
/// How long a node has for its answer; then it is left out.
const PATIENCE: Duration = Duration::from_secs(5);
/// Most bytes of a node's answer.
const MAX_SUMMARY: usize = 16 << 20;

/// Whether it is one of these kinds.
pub(super) fn is(kind: &Kind) -> bool {
    kind.descriptor.group == GROUP
}

/// Answers a get or a list.
pub(super) async fn handle(
    api: &Api,
    call: &Call,
    kind: &Kind,
    format: Format,
) -> Result<Response<Body>, ApiError> {
    let reply = Reply::new(call, kind, format)?;
    let selected = selection(call, kind)?;
    let measured = if kind.descriptor.namespaced {
        pods(api, call, &selected).await?
    } else {
        nodes(api, call, &selected).await?
    };
    let entry = |object: &Value| {
        let text = |key: &str| object["metadata"][key].as_str().unwrap_or_default();
        Arc::new(Entry::new(kind.key(text("namespace"), text("name")).into(), codec::encode(object), 0))
    };
    if !call.info.name.is_empty() {
        let found = measured.first().map(entry).ok_or_else(|| {
            let (namespace, name) = (call.info.object_namespace(), &call.info.name);
            let shown = if namespace.is_empty() { name.clone() } else { format!("{namespace}/{name}") };
            ApiError::not_found(&kind.descriptor.group_resource(), &shown)
        })?;
        return reply.object(200, &Stored::from(&found));
    }
    let entries: Vec<Arc<Entry>> = measured.iter().map(entry).collect();
    let revision = api.0.registry.cache.revision();
    reply.list(Page::whole(Box::new(entries.into_iter()), revision))
}

/// The objects of a kind of the core group that are asked for: the one with the name, or those that are selected.
fn asked_for(
    api: &Api,
    call: &Call,
    plural: &str,
    selected: &Selection,
) -> Result<Vec<Arc<Entry>>, ApiError> {
    let prefix = keys::kind_prefix("", plural);
    let cache = api.0.registry.cache.kind(&prefix);
    let (namespace, name) = (call.info.object_namespace(), call.info.name.as_str());
    if name.is_empty() {
        let mut all = cache.list(&keys::namespace_prefix(&prefix, namespace)).entries;
        all.retain(|entry| selected.matches(entry));
        return Ok(all);
    }
    let found = cache.get(&keys::object_key(&prefix, namespace, name));
    // As metrics-server has it: an object that is not there is one of the core group that is not found.
    Ok(vec![found.ok_or_else(|| ApiError::not_found(&GroupResource::new("", plural), name))?])
}

async fn nodes(api: &Api, call: &Call, selected: &Selection) -> Result<Vec<Value>, ApiError> {
    let entries = asked_for(api, call, "nodes", selected)?;
    let objects: Vec<Arc<Value>> = entries.iter().map(|entry| entry.value().clone()).collect();
    let names = objects.iter().map(|node| name_of(node)).collect();
    let said = ask(api, names).await;
    let of = |node: &Arc<Value>| {
        let summary = said.get(&name_of(node))?;
        let usage = Usage::of(&[(&summary.node.cpu, &summary.node.memory)])?;
        let mut object = usage.object("NodeMetrics", node);
        object["usage"] = usage.parts.first()?.clone();
        Some(object)
    };
    Ok(objects.iter().filter_map(of).collect())
}

async fn pods(api: &Api, call: &Call, selected: &Selection) -> Result<Vec<Value>, ApiError> {
    let entries = asked_for(api, call, "pods", selected)?;
    let mut objects: Vec<Arc<Value>> = entries.iter().map(|entry| entry.value().clone()).collect();
    objects.retain(|pod| pod["status"]["phase"] == "Running");
    if objects.is_empty() && !call.info.name.is_empty() {
        return Err(ApiError::not_found(&GroupResource::new("", "pods"), &call.info.name));
    }
    let node_of = |pod: &Value| pod["spec"]["nodeName"].as_str().unwrap_or_default().to_owned();
    let said = ask(api, objects.iter().map(|pod| node_of(pod)).collect()).await;
    // A node speaks for its own Pods alone.
    let by_node: HashMap<(&str, &str), &PodStats> = said
        .iter()
        .flat_map(|(node, summary)| summary.pods.iter().map(move |pod| (node.as_str(), pod)))
        .map(|(node, pod)| ((node, pod.reference.uid.as_str()), pod))
        .collect();
    let of = |pod: &Arc<Value>| {
        let stats = by_node.get(&(pod["spec"]["nodeName"].as_str()?, pod["metadata"]["uid"].as_str()?))?;
        let parts: Vec<_> = stats.containers.iter().map(|one| (&one.cpu, &one.memory)).collect();
        let usage = Usage::of(&parts)?;
        let mut object = usage.object("PodMetrics", pod);
        let named = stats.containers.iter().zip(&usage.parts);
        object["containers"] = named.map(|(one, usage)| json!({"name": one.name, "usage": usage})).collect();
        Some(object)
    };
    Ok(objects.iter().filter_map(of).collect())
}

fn name_of(object: &Value) -> String {
    object["metadata"]["name"].as_str().unwrap_or_default().to_owned()
}

/// What these nodes say; those that do not are left out.
async fn ask(api: &Api, nodes: BTreeSet<String>) -> HashMap<String, Summary> {
    let asked = nodes.into_iter().map(|node| async move {
        let answer = tokio::time::timeout(PATIENCE, summary_of(api, &node)).await;
        let why = match answer {
            Ok(Ok(summary)) => return Some((node, summary)),
            Ok(Err(error)) => error.message().to_owned(),
            Err(_) => "it took too long".to_owned(),
        };
        tracing::debug!(%node, %why, "a node does not say what it uses");
        None
    });
    futures::stream::iter(asked).buffer_unordered(AT_ONCE).filter_map(std::future::ready).collect().await
}

async fn summary_of(api: &Api, node: &str) -> Result<Summary, ApiError> {
    let fault = |why: String| ApiError::internal(why);
    let request = Request::get("/stats/summary").body(Body::empty());
    let answer = api.0.dialer.request(node, request.map_err(|error| fault(error.to_string()))?).await?;
    if answer.status() != StatusCode::OK {
        return Err(fault(format!("it answers {}", answer.status())));
    }
    let body = Limited::new(answer.into_body(), MAX_SUMMARY).collect().await;
    let body = body.map_err(|error| fault(error.to_string()))?.to_bytes();
    serde_json::from_slice(&body).map_err(|error| fault(error.to_string()))
}

/// The Summary API, as far as it is of use here.
#[derive(Debug, Deserialize)]
struct Summary {
    node: Stats,
    #[serde(default)]
    pods: Vec<PodStats>,
}

#[derive(Debug, Deserialize)]
struct Stats {
    #[serde(default)]
    name: String,
    #[serde(default)]
    cpu: Cpu,
    #[serde(default)]
    memory: Memory,
}

#[derive(Debug, Deserialize)]
struct PodStats {
    #[serde(rename = "podRef")]
    reference: Reference,
    #[serde(default)]
    containers: Vec<Stats>,
}

#[derive(Debug, Deserialize)]
struct Reference {
    uid: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Cpu {
    time: Option<String>,
    usage_nano_cores: Option<u64>,
    window_seconds: Option<f64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Memory {
    working_set_bytes: Option<u64>,
}

/// What something uses: all of its parts, or nothing where one is not known.
#[derive(Debug, PartialEq)]
struct Usage {
    parts: Vec<Value>,
    /// Of the part that was looked at first.
    time: String,
    window: Duration,
}

impl Usage {
    fn of(parts: &[(&Cpu, &Memory)]) -> Option<Self> {
        let oldest = parts.iter().map(|(cpu, _)| cpu).min_by_key(|cpu| cpu.time.as_deref())?;
        let window = oldest.window_seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        let amounts = parts.iter().map(|(cpu, memory)| {
            let bytes = i64::try_from(memory.working_set_bytes?).unwrap_or(i64::MAX);
            let memory = Quantity::from_bytes(bytes).to_string();
            Some(json!({"cpu": nano_cores(cpu.usage_nano_cores?), "memory": memory}))
        });
        Some(Self {
            parts: amounts.collect::<Option<_>>()?,
            time: oldest.time.clone()?,
            window: window.unwrap_or_default(),
        })
    }

    /// An object of this kind about another one, still without numbers.
    fn object(&self, kind: &str, about: &Value) -> Value {
        let meta = &about["metadata"];
        let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let mut metadata = json!({"name": meta["name"], "creationTimestamp": now});
        for key in ["namespace", "labels"] {
            if let Some(value) = meta.get(key) {
                metadata[key] = value.clone();
            }
        }
        json!({"kind": kind, "apiVersion": format!("{GROUP}/v1beta1"), "metadata": metadata,
            "timestamp": self.time, "window": shown(self.window)})
    }
}

/// A time as Go writes it, to the millisecond.
fn shown(time: Duration) -> String {
    let millis = time.as_millis();
    let (minutes, rest) = (millis / 60_000, millis % 60_000);
    let seconds = format!("{}.{:03}", rest / 1000, rest % 1000);
    let seconds = seconds.trim_end_matches('0').trim_end_matches('.');
    if minutes > 0 { format!("{minutes}m{seconds}s") } else { format!("{seconds}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(containers: Value) -> Summary {
        serde_json::from_value(json!({
            "node": {"nodeName": "n", "cpu": {"time": "2026-01-01T00:00:20Z", "usageNanoCores": 5}},
            "pods": [{"podRef": {"name": "p", "namespace": "n", "uid": "u"}, "containers": containers}],
        }))
        .unwrap()
    }

    fn usage(containers: Value) -> Option<Usage> {
        let all = summary(containers);
        Usage::of(&all.pods[0].containers.iter().map(|one| (&one.cpu, &one.memory)).collect::<Vec<_>>())
    }

    #[test]
    fn a_pod_is_known_when_all_its_containers_are() {
        let container = |second: u32, cpu: Value| {
            json!({"name": "c", "cpu": {"time": format!("2026-01-01T00:00:{second}Z"), "usageNanoCores": cpu, "windowSeconds": 10.017},
                "memory": {"workingSetBytes": 3 << 20}})
        };
        let both = usage(json!([container(20, json!(1500)), container(18, json!(2_000_000))])).unwrap();
        assert_eq!(
            both.parts,
            [json!({"cpu": "1500n", "memory": "3Mi"}), json!({"cpu": "2m", "memory": "3Mi"})]
        );
        assert_eq!((both.time.as_str(), shown(both.window).as_str()), ("2026-01-01T00:00:18Z", "10.017s"));
        assert_eq!(usage(json!([container(20, json!(1500)), container(18, json!(null))])), None);
        assert_eq!(usage(json!([])), None);
        let node = summary(json!([])).node;
        assert_eq!(Usage::of(&[(&node.cpu, &node.memory)]), None, "memory is not known");
    }

    #[test]
    fn times_are_written_as_go_does() {
        let written = |millis| shown(Duration::from_millis(millis));
        assert_eq!([0, 10_000, 10_017, 90_500].map(written), ["0s", "10s", "10.017s", "1m30.5s"]);
    }
}
