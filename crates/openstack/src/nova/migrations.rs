//! `/os-migrations`, of which a resize is one in Nova; here it is done in place, so from and to are the same node. And
//! `/os-instance_usage_audit_log`: the audits of usage that ran, of which there are none, as in a Nova that is not told to run them.

use axum::extract::Path;
use axum::http::StatusCode;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::jiff::Timestamp;
use k8s_openapi::jiff::civil::{Date, DateTime};
use k8s_openapi::jiff::tz::TimeZone;
use serde_json::{Value, json};
use yunfan_resources::Identified;
use yunfan_resources::compute::{VirtualMachine, VmAction};

use super::actions::admin_only;
use crate::auth::Session;
use crate::body::Params;
use crate::error::{Answer, Fault};
use crate::microversion::Microversion;
use crate::page::{self, Limits};
use crate::versions::ok;
use crate::{ids, stamp};

const PAGE: Limits = Limits { default: 1000, max: 1000 };

/// One resize of a server that is there.
struct Resize<'a> {
    vm: &'a VirtualMachine,
    action: &'a VmAction,
    status: &'static str,
}

/// The resizes that a machine remembers, each with what came of it.
fn of(vm: &VirtualMachine) -> Vec<Resize<'_>> {
    let actions = &vm.spec.actions;
    let failed = |action: &VmAction| {
        let results = vm.status.iter().flat_map(|status| &status.results);
        results.into_iter().any(|result| result.request == action.request && result.error.is_some())
    };
    let all = actions.iter().enumerate().filter(|(_, action)| action.action == "resize");
    all.map(|(at, action)| {
        let mut next = actions[at + 1..].iter().map(|action| action.action.as_str());
        let status = match next.find(|word| ["resize", "confirmResize", "revertResize"].contains(word)) {
            Some("confirmResize") => "confirmed",
            Some("revertResize") => "reverted",
            _ if failed(action) => "error",
            _ if vm.is_resizing() => "migrating",
            _ => "finished",
        };
        Resize { vm, action, status }
    })
    .collect()
}

impl Resize<'_> {
    /// Its id as a UUID.
    fn uuid(&self) -> String {
        ids::stable_uuid(&format!("{}{}", self.vm.id(), self.action.request))
    }

    /// Its id as the number that Nova's database would have given it.
    fn number(&self) -> u32 {
        u32::from_str_radix(&self.uuid()[..7], 16).unwrap_or_default()
    }

    fn view(&self, version: Microversion) -> Value {
        let node = self.vm.spec.node_name.as_deref();
        let at = self.action.at.as_ref().map(|at| stamp::micros_bare(at.0)).unwrap_or_default();
        let mut view = json!({
            "id": self.number(), "status": self.status, "instance_uuid": self.vm.id(), "source_node": node,
            "source_compute": node, "dest_node": node, "dest_compute": node, "dest_host": null,
            "old_instance_type_id": null, "new_instance_type_id": null, "created_at": at, "updated_at": null,
        });
        if version >= Microversion(23) {
            // Links are of live migrations that are under way.
            view["migration_type"] = json!("resize");
        }
        if version >= Microversion(59) {
            view["uuid"] = json!(self.uuid());
        }
        if version >= Microversion(80) {
            view["user_id"] = json!(self.action.user);
            view["project_id"] = json!(self.action.project);
        }
        view
    }
}

/// `GET /os-migrations`: the newest first.
pub(super) async fn list(session: Session, version: Microversion, params: Params) -> Answer {
    admin_only(&session, "os_compute_api:os-migrations:index")?;
    let machines = ids::list(&session.everywhere::<VirtualMachine>()).await?;
    let mut all: Vec<Resize<'_>> = machines.iter().flat_map(of).collect();
    all.retain(|one| {
        let is = |key: &str, value: &str| params.get(key).is_none_or(|wanted| wanted == value);
        let node = one.vm.spec.node_name.as_deref().unwrap_or_default();
        is("status", one.status)
            && is("instance_uuid", &one.vm.id())
            && is("migration_type", "resize")
            && ["host", "source_compute"].iter().all(|key| is(key, node))
            && (version < Microversion(80)
                || is("user_id", &one.action.user) && is("project_id", &one.action.project))
    });
    all.sort_by_key(|one| std::cmp::Reverse(one.action.at.as_ref().map(|at| at.0)));
    let params = if version >= Microversion(59) { params } else { Params(Vec::new()) };
    let (all, next) = page::cut(&params, PAGE, all, Resize::uuid)?;
    let views = all.iter().map(|one| one.view(version)).collect();
    let url = format!("{}/compute/v2.1/os-migrations", session.door.endpoint);
    Ok(ok(&page::body("migrations", views, (&url, &params, next.as_deref()))))
}

/// `GET /servers/{id}/migrations` (2.23): those that are under way to another node, of which there are none.
pub(super) async fn under_way(session: Session, version: Microversion, Path(id): Path<String>) -> Answer {
    if version < Microversion(23) {
        return Err(Fault::new(StatusCode::NOT_FOUND, "The resource could not be found."));
    }
    admin_only(&session, "os_compute_api:servers:migrations:index")?;
    super::servers::find(&session, &id).await?;
    Ok(ok(&json!({"migrations": []})))
}

/// The audits of the whole month before a day.
async fn audits(session: &Session, before: Date) -> Result<Value, Fault> {
    let end = before.first_of_month();
    let begin = end.yesterday().map_err(|error| Fault::bad(error.to_string()))?.first_of_month();
    let nodes = ids::list(&session.global::<Node>()).await?;
    let names: Vec<&str> = nodes.iter().map(ids::name).collect();
    Ok(json!({
        "hosts_not_run": names, "log": {}, "num_hosts": names.len(), "num_hosts_done": 0,
        "num_hosts_not_run": names.len(), "num_hosts_running": 0,
        "overall_status": format!("0 of {} hosts done. 0 errors.", names.len()),
        "period_beginning": format!("{begin} 00:00:00"), "period_ending": format!("{end} 00:00:00"),
        "total_errors": 0, "total_instances": 0,
    }))
}

/// `GET /os-instance_usage_audit_log`
pub(super) async fn audit_log(session: Session) -> Answer {
    admin_only(&session, "os_compute_api:os-instance-usage-audit-log:list")?;
    let today = Timestamp::now().to_zoned(TimeZone::UTC).date();
    Ok(ok(&json!({"instance_usage_audit_logs": audits(&session, today).await?})))
}

/// `GET /os-instance_usage_audit_log/{time}`
pub(super) async fn audit_log_before(session: Session, Path(time): Path<String>) -> Answer {
    admin_only(&session, "os_compute_api:os-instance-usage-audit-log:show")?;
    let before = day(&time)
        .ok_or_else(|| Fault::new(StatusCode::BAD_REQUEST, format!("Invalid timestamp for date {time}")))?;
    Ok(ok(&json!({"instance_usage_audit_log": audits(&session, before).await?})))
}

/// The day of `2026-11-23 14:00:00`, which may have a fraction of a second.
fn day(time: &str) -> Option<Date> {
    let (whole, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let digits = !fraction.is_empty() && fraction.bytes().all(|byte| byte.is_ascii_digit());
    let at = DateTime::strptime("%Y-%m-%d %H:%M:%S", whole).ok()?;
    digits.then(|| at.date())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resize_is_told_with_what_came_of_it() {
        let action = |word: &str, request: &str| VmAction {
            action: word.to_owned(),
            request: request.to_owned(),
            ..VmAction::default()
        };
        let mut vm = VirtualMachine::new("vm", Default::default());
        let actions =
            [("create", "1"), ("resize", "2"), ("reboot", "3"), ("confirmResize", "4"), ("resize", "5")];
        vm.spec.actions = actions.iter().map(|(word, request)| action(word, request)).collect();
        let told: Vec<_> = of(&vm).iter().map(|one| (one.action.request.clone(), one.status)).collect();
        assert_eq!(told, [("2".to_owned(), "confirmed"), ("5".to_owned(), "finished")]);
        assert_ne!(of(&vm)[0].uuid(), of(&vm)[1].uuid());
    }

    #[test]
    fn times_are_read_as_nova_reads_them() {
        assert_eq!(day("2026-11-23 14:00:00").unwrap().to_string(), "2026-11-23");
        assert!(day("2026-11-23 14:00:00.123").is_some());
        assert!(day("invalid_time").is_none() && day("2026-11-23").is_none());
    }
}
