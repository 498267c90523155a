//! One metric of an autoscaler: how many Pods it asks for, and what its status says.

use k8s_openapi::api::autoscaling::v2::{
    ContainerResourceMetricStatus, ExternalMetricSource, ExternalMetricStatus, HorizontalPodAutoscaler,
    MetricSpec, MetricStatus, MetricTarget, MetricValueStatus, ObjectMetricSource, ObjectMetricStatus,
    PodsMetricSource, PodsMetricStatus, ResourceMetricStatus,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as RawQuantity;
use kube::{Client, ResourceExt};
use yunfan_objects::Quantity;

use super::fetch;
use super::usage::{Scaled, milli};

/// What a metric asks for.
#[derive(Debug)]
pub(super) struct Proposal {
    pub(super) replicas: i32,
    /// What it is told as.
    pub(super) name: String,
    pub(super) status: MetricStatus,
}

/// Why a metric asks for nothing.
#[derive(Debug)]
pub(super) struct Failure {
    /// The event's and the condition's reason.
    pub(super) reason: &'static str,
    /// What both say.
    pub(super) why: String,
    /// What is said of it among all metrics.
    pub(super) error: String,
}

/// Whose Pods are measured.
pub(super) struct Measured<'a> {
    pub(super) client: &'a Client,
    pub(super) autoscaler: &'a HorizontalPodAutoscaler,
    pub(super) scaled: Scaled<'a>,
    /// As text.
    pub(super) selector: &'a str,
    /// How many Pods there are.
    pub(super) there: i32,
}

impl Measured<'_> {
    /// What a metric asks for.
    pub(super) async fn propose(&self, spec: &MetricSpec) -> Result<Proposal, Failure> {
        let failure = |reason, what: String| {
            move |why: String| Failure { reason, error: format!("failed to get {what}: {why}"), why }
        };
        let base = MetricStatus { type_: spec.type_.clone(), ..MetricStatus::default() };
        if let ("Resource", Some(source)) = (spec.type_.as_str(), &spec.resource) {
            let what = format!("{} resource metric value", source.name);
            let (replicas, name, current) = self
                .resource(&source.name, None, &source.target)
                .await
                .map_err(failure("FailedGetResourceMetric", what))?;
            let resource = Some(ResourceMetricStatus { name: source.name.clone(), current });
            return Ok(Proposal { replicas, name, status: MetricStatus { resource, ..base } });
        }
        if let ("ContainerResource", Some(source)) = (spec.type_.as_str(), &spec.container_resource) {
            let (name, container) = (source.name.clone(), source.container.clone());
            let found = self.resource(&name, Some(&container), &source.target).await;
            let what = format!("{container} container metric value");
            let (replicas, told, current) =
                found.map_err(failure("FailedGetContainerResourceMetric", what))?;
            let container_resource = Some(ContainerResourceMetricStatus { name, container, current });
            return Ok(Proposal {
                replicas,
                name: told,
                status: MetricStatus { container_resource, ..base },
            });
        }
        match (spec.type_.as_str(), &spec.pods, &spec.object, &spec.external) {
            ("Pods", Some(source), ..) => {
                let found = self.pods(source, base).await;
                found.map_err(failure("FailedGetPodsMetric", "pods metric value".to_owned()))
            }
            ("Object", _, Some(source), _) => {
                let found = self.object(source, base).await;
                found.map_err(failure("FailedGetObjectMetric", "object metric value".to_owned()))
            }
            ("External", _, _, Some(source)) => {
                let what = format!("{} external metric value", source.metric.name);
                self.external(source, base).await.map_err(failure("FailedGetExternalMetric", what))
            }
            (other, ..) => {
                let why = format!("unknown metric source type {other:?}");
                Err(Failure { reason: "InvalidMetricSourceType", error: why.clone(), why })
            }
        }
    }

    fn namespace(&self) -> String {
        self.autoscaler.namespace().unwrap_or_default()
    }

    async fn resource(
        &self,
        resource: &str,
        container: Option<&str>,
        target: &MetricTarget,
    ) -> Result<(i32, String, MetricValueStatus), String> {
        let metrics = || async {
            let found =
                fetch::resource(self.client, &self.namespace(), self.selector, resource, container).await;
            found.map_err(|why| format!("unable to get metrics for resource {resource}: {why}"))
        };
        if let Some(wanted) = amount(target.average_value.as_ref()) {
            let found =
                metrics().await.and_then(|metrics| self.scaled.by_value(metrics, Some(resource), wanted));
            let (replicas, usage) = found.map_err(|why| format!("failed to get {resource} usage: {why}"))?;
            let current =
                MetricValueStatus { average_value: Some(of_resource(resource, usage)), ..Default::default() };
            return Ok((replicas, format!("{resource} resource"), current));
        }
        let Some(wanted) = target.average_utilization else {
            return Err("invalid resource metric source: neither an average utilization target nor an average value (usage) target was set".to_owned());
        };
        let found = metrics()
            .await
            .and_then(|metrics| self.scaled.by_utilization(metrics, resource, container, wanted));
        let (replicas, percent, usage) =
            found.map_err(|why| format!("failed to get {resource} utilization: {why}"))?;
        let current = MetricValueStatus {
            average_utilization: Some(percent),
            average_value: Some(of_resource(resource, usage)),
            value: None,
        };
        let of = if container.is_some() { "container resource" } else { "resource" };
        Ok((replicas, format!("{resource} {of} utilization (percentage of request)"), current))
    }

    async fn pods(&self, source: &PodsMetricSource, base: MetricStatus) -> Result<Proposal, String> {
        let metric = &source.metric;
        let metrics = fetch::of_pods(self.client, &self.namespace(), self.selector, metric).await;
        let metrics = metrics.map_err(|why| format!("unable to get metric {}: {why}", metric.name))?;
        let wanted = amount(source.target.average_value.as_ref()).unwrap_or(0);
        let (replicas, usage) = self.scaled.by_value(metrics, None, wanted)?;
        let current = MetricValueStatus { average_value: Some(thousandths(usage)), ..Default::default() };
        let pods = Some(PodsMetricStatus { metric: metric.clone(), current });
        let name = format!("pods metric {}", metric.name);
        Ok(Proposal { replicas, name, status: MetricStatus { pods, ..base } })
    }

    async fn object(&self, source: &ObjectMetricSource, base: MetricStatus) -> Result<Proposal, String> {
        let (metric, object) = (&source.metric, &source.described_object);
        let namespace = self.namespace();
        let value = async {
            let value = fetch::of_object(self.client, &namespace, object, metric).await;
            let (kind, name) = (&object.kind, &object.name);
            value.map_err(|why| {
                format!("unable to get metric {}: {why} on {kind} {namespace}/{name}", metric.name)
            })
        };
        let (replicas, current) = match wanted(&source.target) {
            Some(Wanted::Value(wanted)) => {
                let usage = value.await?;
                let replicas = self.scaled.by_ratio(usage as f64 / wanted as f64)?;
                (replicas, MetricValueStatus { value: Some(thousandths(usage)), ..Default::default() })
            }
            Some(Wanted::Average(wanted)) => {
                let usage = value
                    .await
                    .map_err(|why| format!("failed to get {} object metric: {why}", metric.name))?;
                let (replicas, each) = self.scaled.by_share(usage, wanted, self.there);
                (replicas, MetricValueStatus { average_value: Some(thousandths(each)), ..Default::default() })
            }
            None => {
                let why = "invalid object metric source: neither a value target nor an average value target was set";
                return Err(why.to_owned());
            }
        };
        let object =
            Some(ObjectMetricStatus { described_object: object.clone(), metric: metric.clone(), current });
        let name = format!("{} metric {}", source.described_object.kind, metric.name);
        Ok(Proposal { replicas, name, status: MetricStatus { object, ..base } })
    }

    async fn external(&self, source: &ExternalMetricSource, base: MetricStatus) -> Result<Proposal, String> {
        let metric = &source.metric;
        let namespace = self.namespace();
        let Some(wanted) = wanted(&source.target) else {
            let why =
                "invalid external metric source: neither a value target nor an average value target was set";
            return Err(why.to_owned());
        };
        let values = fetch::external(self.client, &namespace, metric).await.map_err(|why| {
            let selector = if metric.selector.is_some() { "selector" } else { "nil" };
            let why = format!("unable to get external metric {namespace}/{}/{selector}: {why}", metric.name);
            match wanted {
                Wanted::Average(_) => format!("failed to get {} external metric: {why}", metric.name),
                Wanted::Value(_) => format!("failed to get external metric {}: {why}", metric.name),
            }
        })?;
        let usage = values.into_iter().fold(0_i64, i64::saturating_add);
        let (replicas, current) = match wanted {
            Wanted::Average(wanted) => {
                let (replicas, each) = self.scaled.by_share(usage, wanted, self.there);
                (replicas, MetricValueStatus { average_value: Some(thousandths(each)), ..Default::default() })
            }
            Wanted::Value(wanted) => {
                let replicas = self.scaled.by_ratio(usage as f64 / wanted as f64)?;
                (replicas, MetricValueStatus { value: Some(thousandths(usage)), ..Default::default() })
            }
        };
        let external = Some(ExternalMetricStatus { metric: metric.clone(), current });
        let name = format!("external metric {}", metric.name);
        Ok(Proposal { replicas, name, status: MetricStatus { external, ..base } })
    }
}

/// What something that Pods share is to be, thousandths: all of it, or a Pod's part.
enum Wanted {
    Value(i64),
    Average(i64),
}

fn wanted(target: &MetricTarget) -> Option<Wanted> {
    let average = || amount(target.average_value.as_ref()).map(Wanted::Average);
    amount(target.value.as_ref()).map(Wanted::Value).filter(|_| target.type_ == "Value").or_else(average)
}

fn amount(quantity: Option<&RawQuantity>) -> Option<i64> {
    milli(&quantity?.0)
}

fn thousandths(amount: i64) -> RawQuantity {
    RawQuantity(Quantity::from_milli(amount).to_string())
}

/// Memory is told in whole bytes, by powers of 1024.
fn of_resource(resource: &str, amount: i64) -> RawQuantity {
    match resource {
        "memory" => {
            RawQuantity(Quantity::from_bytes(amount / 1000 + i64::from(amount % 1000 > 0)).to_string())
        }
        _ => thousandths(amount),
    }
}
