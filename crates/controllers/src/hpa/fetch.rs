//! Metrics as Kubernetes' APIs give them: metrics.k8s.io, which the cloud serves itself, and custom.metrics.k8s.io and
//! external.metrics.k8s.io, which who wants them brings along.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::{CrossVersionObjectReference, MetricIdentifier};
use kube::Client;
use kube::api::ListParams;
use kube::core::Request;
use serde_json::{Value, json};
use yunfan_objects::selector::LabelSelector;

use super::usage::{Metrics, PodMetric, milli};
use crate::raw::{NO_PAGE, NO_RESOURCE, asked, encoded, get};
use crate::scale::find;

/// The time that a custom metric is over which does not say it.
const WINDOW: Duration = Duration::from_secs(60);

/// What Pods of a namespace use of a resource, or one container of theirs does.
pub(super) async fn resource(
    client: &Client,
    namespace: &str,
    selector: &str,
    resource: &str,
    container: Option<&str>,
) -> Result<Metrics, String> {
    let path = format!("/apis/metrics.k8s.io/v1beta1/namespaces/{namespace}/pods");
    let list = list(client, &path, selector)
        .await
        .map_err(|why| format!("unable to fetch metrics from resource metrics API: {why}"))?;
    let items = list["items"].as_array().filter(|items| !items.is_empty());
    let items = items.ok_or("no metrics returned from resource metrics API")?;
    if let Some(only) = container
        && let Some(item) = items.iter().find(|item| !has_container(item, only))
    {
        let name = item["metadata"]["name"].as_str().unwrap_or_default();
        return Err(format!("container {only} not present in metrics for pod {namespace}/{name}"));
    }
    Ok(items.iter().filter_map(|item| of_pod(item, resource, container)).collect())
}

fn has_container(item: &Value, name: &str) -> bool {
    item["containers"].as_array().is_some_and(|all| all.iter().any(|one| one["name"] == name))
}

/// A Pod's use; none where it is not known of one of the containers.
fn of_pod(item: &Value, resource: &str, container: Option<&str>) -> Option<(String, PodMetric)> {
    let all = item["containers"].as_array()?.iter();
    let counted = all.filter(|one| container.is_none_or(|only| one["name"] == only));
    let used = counted.map(|one| milli(one["usage"][resource].as_str()?));
    let used: Vec<i64> = used.collect::<Option<_>>().filter(|used: &Vec<i64>| !used.is_empty())?;
    let value = used.into_iter().fold(0_i64, i64::saturating_add);
    let window = item["window"].as_str().and_then(duration).unwrap_or_default();
    Some((name_of(&item["metadata"])?, PodMetric { at: time(&item["timestamp"]), window, value }))
}

/// A metric of each Pod.
pub(super) async fn of_pods(
    client: &Client,
    namespace: &str,
    selector: &str,
    metric: &MetricIdentifier,
) -> Result<Metrics, String> {
    let path = format!("namespaces/{namespace}/pods/*/{}", encoded(&metric.name));
    let items = custom(client, &path, selector, metric).await?;
    let one = |item: &Value| {
        let window = item["windowSeconds"].as_u64().map_or(WINDOW, Duration::from_secs);
        let value = milli(item["value"].as_str()?)?;
        Some((name_of(&item["describedObject"])?, PodMetric { at: time(&item["timestamp"]), window, value }))
    };
    Ok(items.iter().filter_map(one).collect())
}

/// A metric of an object, thousandths.
pub(super) async fn of_object(
    client: &Client,
    namespace: &str,
    object: &CrossVersionObjectReference,
    metric: &MetricIdentifier,
) -> Result<i64, String> {
    let version = object.api_version.as_deref().unwrap_or_default();
    let group = version.split_once('/').map_or("", |(group, _)| group);
    let path = if object.kind == "Namespace" && group.is_empty() {
        format!("namespaces/{namespace}/metrics/{}", encoded(&metric.name))
    } else {
        let resource = find(client, version, &object.kind).await?.resource();
        let (object, metric) = (encoded(&object.name), encoded(&metric.name));
        format!("namespaces/{namespace}/{resource}/{object}/{metric}")
    };
    let items = custom(client, &path, "", metric).await?;
    items[0]["value"].as_str().and_then(milli).ok_or_else(|| "the metric's value is no quantity".to_owned())
}

/// The values of something outside of the cloud, thousandths.
pub(super) async fn external(
    client: &Client,
    namespace: &str,
    metric: &MetricIdentifier,
) -> Result<Vec<i64>, String> {
    let path =
        format!("/apis/external.metrics.k8s.io/v1beta1/namespaces/{namespace}/{}", encoded(&metric.name));
    let selector = selector_text(metric)?;
    let list = list(client, &path, &selector).await.map_err(|why| {
        let why = match why.as_str() {
            NO_PAGE => format!("{NO_RESOURCE} (get {}.external.metrics.k8s.io)", metric.name),
            _ => why,
        };
        format!("unable to fetch metrics from external metrics API: {why}")
    })?;
    let items = list["items"].as_array().filter(|items| !items.is_empty());
    let items = items.ok_or("no metrics returned from external metrics API")?;
    Ok(items.iter().filter_map(|item| milli(item["value"].as_str()?)).collect())
}

/// The items that a path of the custom metrics API has, at least one.
async fn custom(
    client: &Client,
    path: &str,
    selector: &str,
    metric: &MetricIdentifier,
) -> Result<Vec<Value>, String> {
    let failed = |why: String| format!("unable to fetch metrics from custom metrics API: {why}");
    let about = get(client, "/apis/custom.metrics.k8s.io").await;
    let about =
        about.map_err(|_| failed("no custom metrics API (custom.metrics.k8s.io) registered".to_owned()))?;
    let version = about["preferredVersion"]["version"].as_str().unwrap_or("v1beta2");
    let labels = encoded(selector);
    let metrics = encoded(&selector_text(metric)?);
    let query = [("labelSelector", labels), ("metricLabelSelector", metrics)];
    let query: Vec<String> = query
        .into_iter()
        .filter(|(_, text)| !text.is_empty())
        .map(|(key, text)| format!("{key}={text}"))
        .collect();
    let path = format!("/apis/custom.metrics.k8s.io/{version}/{path}?{}", query.join("&"));
    let list = get(client, &path).await.map_err(|why| failed(why.text))?;
    let items = list["items"].as_array().filter(|items| !items.is_empty());
    items.cloned().ok_or_else(|| "no metrics returned from custom metrics API".to_owned())
}

fn selector_text(metric: &MetricIdentifier) -> Result<String, String> {
    match &metric.selector {
        None => Ok(String::new()),
        Some(selector) => LabelSelector::from_object(&json!(selector)).map(|selector| selector.to_string()),
    }
}

async fn list(client: &Client, path: &str, selector: &str) -> Result<Value, String> {
    let params = ListParams::default().labels(selector);
    let request = Request::new(path).list(&params).map_err(|error| error.to_string())?;
    Ok(asked(client, request).await?)
}

fn name_of(meta: &Value) -> Option<String> {
    meta["name"].as_str().map(str::to_owned)
}

fn time(value: &Value) -> Timestamp {
    value.as_str().and_then(|text| text.parse().ok()).unwrap_or(Timestamp::MIN)
}

/// A time as Go writes it, as `1m30.5s`.
fn duration(text: &str) -> Option<Duration> {
    let (mut rest, mut sum) = (text, 0.0);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let unit = rest[digits..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |end| digits + end);
        let scale = match &rest[digits..unit] {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        sum += rest[..digits].parse::<f64>().ok()? * scale;
        rest = &rest[unit..];
    }
    Duration::try_from_secs_f64(sum).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_go_writes_them() {
        assert_eq!(duration("10.5s"), Some(Duration::from_millis(10_500)));
        assert_eq!(duration("1m30s"), Some(Duration::from_secs(90)));
        assert_eq!(duration("250ms"), Some(Duration::from_millis(250)));
        for wrong in ["5", "5x", "s", "1m5"] {
            assert_eq!(duration(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_pod_uses_what_its_containers_do() {
        let item = json!({"metadata": {"name": "p"}, "timestamp": "2026-01-01T00:00:00Z", "window": "10s", "containers": [
            {"name": "a", "usage": {"cpu": "1500000n", "memory": "1Ki"}}, {"name": "b", "usage": {"cpu": "250m"}}]});
        let value = |resource: &str, container: Option<&str>| {
            of_pod(&item, resource, container).map(|(_, metric)| metric.value)
        };
        assert_eq!(value("cpu", None), Some(252));
        assert_eq!(value("cpu", Some("b")), Some(250));
        assert_eq!(value("memory", Some("a")), Some(1_024_000));
        assert_eq!(value("memory", None), None, "of one it is not known");
        assert_eq!(value("cpu", Some("c")), None);
        assert!(has_container(&item, "b") && !has_container(&item, "c"));
    }
}
