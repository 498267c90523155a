//! `/os-simple-tenant-usage`: how long servers have been there, and how large. Of servers that are gone nothing is known.

use std::collections::BTreeMap;

use axum::extract::Path;
use k8s_openapi::jiff::{Timestamp, civil::DateTime, tz::TimeZone};
use serde_json::{Value, json};
use yunfan_resources::Identified;
use yunfan_resources::compute::VirtualMachine;

use super::actions::admin_only;
use super::state::state_of;
use crate::auth::Session;
use crate::body::Params;
use crate::error::{Answer, Fault};
use crate::microversion::Microversion;
use crate::page::{self, Limits};
use crate::versions::ok;
use crate::{ids, quota, stamp};

const PAGE: Limits = Limits { default: 1000, max: 1000 };
const DAYS: i64 = 24 * 3600;

/// The time that is asked about.
struct Period {
    start: Timestamp,
    stop: Timestamp,
    detailed: bool,
}

fn time(params: &Params, key: &str) -> Result<Option<Timestamp>, Fault> {
    let Some(text) = params.get(key).filter(|text| !text.is_empty()) else { return Ok(None) };
    let at = text.parse::<Timestamp>().ok().or_else(|| {
        // Without a zone it is UTC.
        text.parse::<DateTime>().ok()?.to_zoned(TimeZone::UTC).ok().map(|zoned| zoned.timestamp())
    });
    at.map(Some).ok_or_else(|| Fault::bad(format!("Datetime is in invalid format: {key}={text}")))
}

impl Period {
    fn of(params: &Params) -> Result<Self, Fault> {
        let now = Timestamp::now();
        let stop = time(params, "end")?.unwrap_or(now);
        let month = Timestamp::from_second(stop.as_second().saturating_sub(28 * DAYS)).unwrap_or_default();
        let start = time(params, "start")?.unwrap_or(month);
        if start > stop {
            return Err(Fault::bad("Invalid start time. The start time cannot occur after the end time."));
        }
        Ok(Self { start, stop, detailed: params.get("detailed") == Some("1") })
    }

    /// Hours of it in which a machine was there.
    fn hours(&self, vm: &VirtualMachine) -> f64 {
        let (from, to) = (stamp::created(vm).max(self.start), Timestamp::now().min(self.stop));
        to.duration_since(from).as_secs_f64().max(0.0) / 3600.0
    }
}

fn server(period: &Period, project: &str, vm: &VirtualMachine) -> Value {
    let now = Timestamp::now();
    let size = vm.spec.resources.clone().unwrap_or_default();
    json!({
        "instance_id": vm.id(), "name": vm.display_name(), "tenant_id": project, "flavor": vm.spec.flavor,
        "hours": period.hours(vm), "local_gb": size.disk_gib, "memory_mb": size.memory_mib, "vcpus": size.vcpus,
        "started_at": stamp::micros_bare(stamp::created(vm)), "ended_at": null, "state": state_of(vm, now).vm,
        "uptime": now.duration_since(stamp::created(vm)).as_secs().max(0),
    })
}

fn usage(period: &Period, project: &str, machines: &[&VirtualMachine], detailed: bool) -> Value {
    let sum = |amount: &dyn Fn(&VirtualMachine) -> f64| -> f64 { machines.iter().map(|vm| amount(vm)).sum() };
    let size = |vm: &VirtualMachine| vm.spec.resources.clone().unwrap_or_default();
    let mut usage = json!({
        "tenant_id": project, "start": stamp::micros_bare(period.start), "stop": stamp::micros_bare(period.stop),
        "total_hours": sum(&|vm| period.hours(vm)),
        "total_vcpus_usage": sum(&|vm| period.hours(vm) * f64::from(size(vm).vcpus)),
        "total_memory_mb_usage": sum(&|vm| period.hours(vm) * f64::from(size(vm).memory_mib)),
        "total_local_gb_usage": sum(&|vm| period.hours(vm) * f64::from(size(vm).disk_gib)),
    });
    if detailed {
        usage["server_usages"] =
            json!(machines.iter().map(|vm| server(period, project, vm)).collect::<Vec<Value>>());
    }
    usage
}

/// The machines that were there in the period: created before its end.
fn within<'a>(period: &Period, machines: &'a [VirtualMachine]) -> Vec<&'a VirtualMachine> {
    machines.iter().filter(|vm| stamp::created(*vm) < period.stop).collect()
}

/// `GET /os-simple-tenant-usage`
pub(super) async fn list(session: Session, version: Microversion, params: Params) -> Answer {
    admin_only(&session, "os_compute_api:os-simple-tenant-usage:list")?;
    let period = Period::of(&params)?;
    let machines = ids::list(&session.everywhere::<VirtualMachine>()).await?;
    let projects = ids::list(&session.global::<yunfan_resources::iam::Project>()).await?;
    let mut by_project: BTreeMap<String, Vec<&VirtualMachine>> = BTreeMap::new();
    for vm in within(&period, &machines) {
        let owner = projects.iter().find(|one| crate::directory::home(one) == Some(ids::namespace(vm)));
        by_project.entry(owner.map(Identified::id).unwrap_or_default()).or_default().push(vm);
    }
    let params = if version >= Microversion(40) { params } else { Params(Vec::new()) };
    let all: Vec<(String, Vec<&VirtualMachine>)> = by_project.into_iter().collect();
    let (all, next) = page::cut(&params, PAGE, all, |(project, _)| project.clone())?;
    let views: Vec<Value> =
        all.iter().map(|(project, machines)| usage(&period, project, machines, period.detailed)).collect();
    let url = format!("{}/compute/v2.1/os-simple-tenant-usage", session.door.endpoint);
    Ok(ok(&page::body("tenant_usages", views, (&url, &params, next.as_deref()))))
}

/// `GET /os-simple-tenant-usage/{project}`
pub(super) async fn show(session: Session, params: Params, Path(project): Path<String>) -> Answer {
    let period = Period::of(&params)?;
    let namespace = quota::namespace_of(&session, &project).await?;
    let machines = ids::list(&session.within::<VirtualMachine>(&namespace)).await?;
    let machines = within(&period, &machines);
    if machines.is_empty() {
        return Ok(ok(&json!({"tenant_usage": {}})));
    }
    Ok(ok(&json!({"tenant_usage": usage(&period, &project, &machines, true)})))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(pairs: &[(&str, &str)]) -> Params {
        Params(pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn periods_are_read_and_checked() {
        let period = Period::of(&params(&[("start", "2026-01-01T00:00:00"), ("end", "2026-01-02")])).unwrap();
        assert_eq!(period.stop.duration_since(period.start).as_secs(), DAYS);
        assert!(
            Period::of(&params(&[("start", "2026-01-03T00:00:00"), ("end", "2026-01-02T00:00:00")])).is_err()
        );
        assert!(Period::of(&params(&[("start", "yesterday")])).is_err());
    }
}
