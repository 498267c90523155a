//! What comes next of a machine that is to run or to be halted, from what is known of it.

use yunfan_hypervisor::{ExitReason, VmInfo, VmState};
use yunfan_resources::compute::{VirtualMachine, VmPhase};

/// The next step.
#[derive(Debug, PartialEq)]
pub(super) enum Next {
    /// It runs, and otherwise than its spec says: it is started anew.
    Renew,
    /// It runs.
    GoOn(VmInfo),
    /// It ended, and is not to be started before somebody says so: why that is.
    StayOff(&'static str),
    /// It is started. What is known where it ran and ended by itself.
    Start(Option<String>),
}

impl Next {
    pub(super) fn of(machine: &VirtualMachine, present: Option<VmInfo>) -> Next {
        let ran = was_active(machine);
        match present {
            Some(info) if !matches!(info.state, VmState::Stopped(_)) => {
                if machine.is_outdated() {
                    Next::Renew
                } else {
                    Next::GoOn(info)
                }
            }
            // The guest switched itself off: that is its user's wish, and it stays off, as with Nova.
            Some(VmInfo { state: VmState::Stopped(ExitReason::Guest), .. }) if ran => {
                Next::StayOff("The guest powered itself off")
            }
            // What it held is gone. To boot it and halt it somewhere in that would pretend that it is not.
            _ if ran && machine.wants_halt() => {
                Next::StayOff("What the halted guest had in its memory is lost: it stays shut off")
            }
            Some(VmInfo { state: VmState::Stopped(ExitReason::Failed { message }), .. }) if ran => {
                Next::Start(Some(message))
            }
            _ => Next::Start(None),
        }
    }
}

/// Whether its status says that it runs, or is halted.
pub(super) fn was_active(machine: &VirtualMachine) -> bool {
    let phase = machine.status.as_ref().map(|status| status.phase);
    matches!(phase, Some(VmPhase::Active | VmPhase::Paused))
}

#[cfg(test)]
mod tests {
    use yunfan_hypervisor::Accelerator;
    use yunfan_resources::compute::{RunState, VirtualMachineStatus};

    use super::*;

    fn machine(wish: RunState, phase: VmPhase) -> VirtualMachine {
        let mut vm = VirtualMachine::new("vm", Default::default());
        vm.spec.run_state = wish;
        vm.status = Some(VirtualMachineStatus { phase, ..VirtualMachineStatus::default() });
        vm
    }

    fn info(state: VmState) -> Option<VmInfo> {
        Some(VmInfo { uid: "a".into(), pid: None, state, accelerator: Accelerator::Kvm })
    }

    fn failed() -> Option<VmInfo> {
        info(VmState::Stopped(ExitReason::Failed { message: "killed".into() }))
    }

    #[test]
    fn a_machine_that_should_run_is_started_again() {
        let active = machine(RunState::Running, VmPhase::Active);
        assert_eq!(Next::of(&active, failed()), Next::Start(Some("killed".into())));
        assert_eq!(Next::of(&active, None), Next::Start(None));
        assert!(matches!(Next::of(&active, info(VmState::Stopped(ExitReason::Guest))), Next::StayOff(_)));
        assert!(matches!(Next::of(&active, info(VmState::Running)), Next::GoOn(_)));
        let building = machine(RunState::Running, VmPhase::Building);
        assert_eq!(Next::of(&building, info(VmState::Stopped(ExitReason::Guest))), Next::Start(None));
    }

    #[test]
    fn a_halted_machine_that_lost_its_memory_stays_off() {
        for wish in [RunState::Paused, RunState::Suspended] {
            let halted = machine(wish, VmPhase::Paused);
            assert!(matches!(Next::of(&halted, None), Next::StayOff(_)));
            assert!(matches!(Next::of(&halted, failed()), Next::StayOff(_)));
            assert!(matches!(Next::of(&halted, info(VmState::Paused)), Next::GoOn(_)));
            // One that is to begin so has nothing to lose.
            assert_eq!(Next::of(&machine(wish, VmPhase::Building), None), Next::Start(None));
        }
    }

    #[test]
    fn one_that_runs_otherwise_is_renewed() {
        let mut vm = machine(RunState::Running, VmPhase::Active);
        vm.spec.rescue_image = Some("i".into());
        assert_eq!(Next::of(&vm, info(VmState::Running)), Next::Renew);
    }
}
