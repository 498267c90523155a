//! Where a server stands, in Nova's words: its status, and its VM, task and power states.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::jiff::Timestamp;
use yunfan_resources::compute::{RebootKind, RunState, VirtualMachine, VmPhase};

use crate::error::Fault;
use crate::stamp;
use crate::zone::PATIENCE;

/// Nova's words for the power states that there are.
const NONE: u8 = 0;
const RUNNING: u8 = 1;
const PAUSED: u8 = 3;
const SHUTDOWN: u8 = 4;

/// Where a server stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct State {
    pub(super) status: &'static str,
    pub(super) vm: &'static str,
    pub(super) task: Option<&'static str>,
    pub(super) power: u8,
}

const fn state(status: &'static str, vm: &'static str, task: Option<&'static str>, power: u8) -> State {
    State { status, vm, task, power }
}

/// Where a server stands.
pub(super) fn state_of(vm: &VirtualMachine, now: Timestamp) -> State {
    let mut found = standing(vm, now);
    if vm.spec.marked_error && found.vm != "building" && found.task.is_none() {
        found = State { status: "ERROR", vm: "error", ..found };
    }
    if vm.metadata.deletion_timestamp.is_some() {
        found.task = Some("deleting");
    }
    found
}

fn standing(vm: &VirtualMachine, now: Timestamp) -> State {
    let said = vm.status.as_ref();
    let phase = said.map(|status| status.phase).unwrap_or_default();
    let wish = vm.spec.run_state;
    let wants_off = matches!(wish, RunState::Stopped | RunState::Shelved);
    if phase == VmPhase::Offloaded {
        return offloaded(vm, now);
    }
    if let Some(found) = making(vm, wants_off, now) {
        return found;
    }
    if let Some(found) = changing(vm) {
        return found;
    }
    match phase {
        VmPhase::Active | VmPhase::Building if said.is_some_and(|status| status.rescued) => {
            rescued(vm, "RESCUE", None)
        }
        VmPhase::Active
            if vm.spec.reboot_generation
                > said.map(|status| status.reboot_generation).unwrap_or_default() =>
        {
            match vm.spec.reboot_kind {
                RebootKind::Soft => state("REBOOT", "active", Some("rebooting"), RUNNING),
                RebootKind::Hard => state("HARD_REBOOT", "active", Some("rebooting_hard"), RUNNING),
            }
        }
        VmPhase::Active => match wish {
            RunState::Running => state("ACTIVE", "active", None, RUNNING),
            RunState::Stopped => state("ACTIVE", "active", Some("powering-off"), RUNNING),
            RunState::Paused => state("ACTIVE", "active", Some("pausing"), RUNNING),
            RunState::Suspended => state("ACTIVE", "active", Some("suspending"), RUNNING),
            RunState::Shelved => state("ACTIVE", "active", Some("shelving"), RUNNING),
        },
        VmPhase::Paused => match wish {
            RunState::Paused => state("PAUSED", "paused", None, PAUSED),
            RunState::Suspended => state("SUSPENDED", "suspended", None, SHUTDOWN),
            RunState::Running => state("PAUSED", "paused", Some("unpausing"), PAUSED),
            RunState::Stopped => state("PAUSED", "paused", Some("powering-off"), PAUSED),
            RunState::Shelved => state("PAUSED", "paused", Some("shelving"), PAUSED),
        },
        VmPhase::Stopped if wish == RunState::Shelved => state("SHELVED", "shelved", None, SHUTDOWN),
        VmPhase::Stopped if wants_off => state("SHUTOFF", "stopped", None, SHUTDOWN),
        _ => state("SHUTOFF", "stopped", Some("powering-on"), SHUTDOWN),
    }
}

/// Of one that is shelved and has left its node, or is just leaving it.
fn offloaded(vm: &VirtualMachine, now: Timestamp) -> State {
    let (status, word) = ("SHELVED_OFFLOADED", "shelved_offloaded");
    match (vm.spec.run_state, vm.spec.node_name.is_some()) {
        (RunState::Shelved, true) => state("SHELVED", "shelved", Some("shelving_offloading"), SHUTDOWN),
        (RunState::Shelved, false) => state(status, word, None, SHUTDOWN),
        (_, true) => state(status, word, Some("spawning"), SHUTDOWN),
        // No node has room: it can be told something else.
        (_, false) if unplaced(vm, now).is_some() => state(status, word, None, SHUTDOWN),
        (_, false) => state(status, word, Some("unshelving"), SHUTDOWN),
    }
}

/// Of one that is being made, or could not be.
fn making(vm: &VirtualMachine, wants_off: bool, now: Timestamp) -> Option<State> {
    let said = vm.status.as_ref();
    match said.map(|status| status.phase).unwrap_or_default() {
        VmPhase::Pending if refused(vm, now).is_some() => Some(state("ERROR", "error", None, NONE)),
        VmPhase::Pending => Some(state("BUILD", "building", Some("scheduling"), NONE)),
        VmPhase::Building if said.is_none_or(|status| status.started_at.is_none()) && !wants_off => {
            Some(state("BUILD", "building", Some("spawning"), NONE))
        }
        VmPhase::Error => Some(state("ERROR", "error", None, NONE)),
        _ => None,
    }
}

/// Of one that gets another size, disk or image to boot.
fn changing(vm: &VirtualMachine) -> Option<State> {
    let in_rescue = vm.status.as_ref().is_some_and(|status| status.rescued);
    let off = matches!(vm.spec.run_state, RunState::Stopped | RunState::Shelved);
    let (before, power) = if off { ("stopped", SHUTDOWN) } else { ("active", RUNNING) };
    let resized = vm.spec.resized_from.is_some();
    if vm.is_rebuilding() {
        return Some(state("REBUILD", before, Some("rebuilding"), power));
    }
    match (vm.is_resizing(), resized) {
        (true, true) => return Some(state("RESIZE", before, Some("resize_migrating"), power)),
        (true, false) => return Some(state("REVERT_RESIZE", "resized", Some("resize_reverting"), power)),
        (false, true) => return Some(state("VERIFY_RESIZE", "resized", None, power)),
        (false, false) => {}
    }
    match (vm.spec.rescue_image.is_some(), in_rescue) {
        (true, false) => Some(state(if off { "SHUTOFF" } else { "ACTIVE" }, before, Some("rescuing"), power)),
        (false, true) => Some(rescued(vm, "RESCUE", Some("unrescuing"))),
        _ => None,
    }
}

fn rescued(vm: &VirtualMachine, status: &'static str, task: Option<&'static str>) -> State {
    let runs = vm.status.as_ref().is_some_and(|status| status.phase == VmPhase::Active);
    state(status, "rescued", task, if runs { RUNNING } else { SHUTDOWN })
}

/// The scheduler's word that no node has room for a server that was never on one, once it has held for long enough.
pub(super) fn refused(vm: &VirtualMachine, now: Timestamp) -> Option<&Condition> {
    unplaced(vm, now).filter(|_| vm.status.as_ref().is_some_and(|status| status.phase == VmPhase::Pending))
}

/// The scheduler's word that no node has room, once it has held for long enough.
fn unplaced(vm: &VirtualMachine, now: Timestamp) -> Option<&Condition> {
    let scheduled = vm.status.as_ref()?.conditions.iter().find(|condition| condition.type_ == "Scheduled")?;
    let since = stamp::created(vm).max(scheduled.last_transition_time.0);
    (scheduled.status == "False" && now.duration_since(since) > PATIENCE).then_some(scheduled)
}

/// Refuses an action on a server that is not in one of these VM states (none: any will do), or in the middle of something.
pub(super) fn expect(action: &str, id: &str, state: State, allowed: &[&str]) -> Result<(), Fault> {
    let action = action.trim_start_matches("os-");
    let refuse = |what: &str, value: &str| {
        Err(Fault::conflict(format!("Cannot '{action}' instance {id} while it is in {what} {value}")))
    };
    if !allowed.is_empty() && !allowed.contains(&state.vm) {
        return refuse("vm_state", state.vm);
    }
    match state.task {
        Some(task) => refuse("task_state", task),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use yunfan_resources::compute::{VirtualMachineStatus, VmResources, VmSize};

    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + seconds).unwrap()
    }

    fn machine(phase: VmPhase) -> VirtualMachine {
        let mut vm = VirtualMachine::new("web-1", Default::default());
        vm.spec.resources = Some(VmResources { vcpus: 1, memory_mib: 64, disk_gib: 1 });
        vm.metadata.creation_timestamp = Some(Time(at(0)));
        vm.status = Some(VirtualMachineStatus { phase, ..VirtualMachineStatus::default() });
        vm
    }

    fn shown(vm: &VirtualMachine) -> (&'static str, &'static str, Option<&'static str>) {
        let state = state_of(vm, at(1));
        (state.status, state.vm, state.task)
    }

    #[test]
    fn states_are_novas() {
        assert_eq!(shown(&machine(VmPhase::Pending)), ("BUILD", "building", Some("scheduling")));
        let mut vm = machine(VmPhase::Active);
        assert_eq!(shown(&vm), ("ACTIVE", "active", None));
        vm.spec.reboot_generation = 1;
        assert_eq!(shown(&vm), ("REBOOT", "active", Some("rebooting")));
        vm.status.as_mut().unwrap().reboot_generation = 1;
        vm.spec.run_state = RunState::Stopped;
        assert_eq!(shown(&vm), ("ACTIVE", "active", Some("powering-off")));
        vm.metadata.deletion_timestamp = Some(Time(at(1)));
        assert_eq!(shown(&vm), ("ACTIVE", "active", Some("deleting")));
        assert_eq!(shown(&machine(VmPhase::Stopped)), ("SHUTOFF", "stopped", Some("powering-on")));
    }

    #[test]
    fn halted_and_shelved_ones_are_told_by_the_wish() {
        let mut vm = machine(VmPhase::Paused);
        vm.spec.run_state = RunState::Paused;
        assert_eq!((shown(&vm).0, state_of(&vm, at(1)).power), ("PAUSED", PAUSED));
        vm.spec.run_state = RunState::Suspended;
        assert_eq!(shown(&vm), ("SUSPENDED", "suspended", None));
        vm.spec.run_state = RunState::Running;
        assert_eq!(shown(&vm).2, Some("unpausing"));
        let mut vm = machine(VmPhase::Stopped);
        vm.spec.run_state = RunState::Shelved;
        assert_eq!(shown(&vm), ("SHELVED", "shelved", None));
    }

    #[test]
    fn a_shelved_one_leaves_its_node_and_comes_back() {
        let mut vm = machine(VmPhase::Offloaded);
        vm.spec.run_state = RunState::Shelved;
        vm.spec.node_name = Some("n".into());
        assert_eq!(shown(&vm), ("SHELVED", "shelved", Some("shelving_offloading")));
        vm.spec.node_name = None;
        assert_eq!(shown(&vm), ("SHELVED_OFFLOADED", "shelved_offloaded", None));
        vm.spec.run_state = RunState::Running;
        assert_eq!(shown(&vm).2, Some("unshelving"));
        vm.spec.node_name = Some("m".into());
        assert_eq!(shown(&vm), ("SHELVED_OFFLOADED", "shelved_offloaded", Some("spawning")));
    }

    #[test]
    fn a_resize_goes_through_all_its_states() {
        let mut vm = machine(VmPhase::Active);
        let small = vm.spec.resources.clone().unwrap();
        vm.status.as_mut().unwrap().resources = Some(small.clone());
        vm.spec.resources = Some(VmResources { vcpus: 2, ..small.clone() });
        vm.spec.resized_from = Some(VmSize { flavor: "s".into(), resources: small.clone() });
        assert_eq!(shown(&vm), ("RESIZE", "active", Some("resize_migrating")));
        vm.status.as_mut().unwrap().resources = vm.spec.resources.clone();
        assert_eq!(shown(&vm), ("VERIFY_RESIZE", "resized", None));
        vm.spec.resized_from = None;
        assert_eq!(shown(&vm), ("ACTIVE", "active", None));
        vm.spec.resources = Some(small);
        assert_eq!(shown(&vm), ("REVERT_RESIZE", "resized", Some("resize_reverting")));
    }

    #[test]
    fn rescue_rebuild_and_a_marked_error() {
        let mut vm = machine(VmPhase::Active);
        vm.spec.rescue_image = Some("i".into());
        assert_eq!(shown(&vm), ("ACTIVE", "active", Some("rescuing")));
        vm.status.as_mut().unwrap().rescued = true;
        assert_eq!(shown(&vm), ("RESCUE", "rescued", None));
        vm.spec.rescue_image = None;
        assert_eq!(shown(&vm), ("RESCUE", "rescued", Some("unrescuing")));
        let mut vm = machine(VmPhase::Active);
        vm.spec.rebuild_generation = 1;
        assert_eq!(shown(&vm), ("REBUILD", "active", Some("rebuilding")));
        let mut vm = machine(VmPhase::Active);
        vm.spec.marked_error = true;
        assert_eq!(shown(&vm), ("ERROR", "error", None));
    }

    #[test]
    fn an_action_needs_the_right_state() {
        let of = |vm, task| State { status: "ACTIVE", vm, task, power: 1 };
        assert!(expect("os-stop", "1", of("active", None), &["active"]).is_ok());
        let wrong = expect("os-start", "1", of("active", None), &["stopped"]).unwrap_err();
        assert_eq!(wrong.message, "Cannot 'start' instance 1 while it is in vm_state active");
        assert!(expect("os-stop", "1", of("active", Some("deleting")), &["active"]).is_err());
    }
}
