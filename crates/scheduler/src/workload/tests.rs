use serde_json::{Value, from_value, json};
use yunfan_resources::compute::{VirtualMachineSpec, VmResources};
use yunfan_resources::requests::{IMPOSSIBLE, MachineCharge};

use super::*;

fn pod(spec: Value) -> Workload {
    let pod: Pod = from_value(json!({"metadata": {"name": "p", "uid": "1"}, "spec": spec})).unwrap();
    Workload::from_pod(&Arc::new(pod))
}

#[test]
fn a_machine_is_charged_by_the_ratios() {
    let vm = |vcpus, memory_mib| {
        let mut vm = VirtualMachine::new("vm", VirtualMachineSpec::default());
        vm.spec.resources = Some(VmResources { vcpus, memory_mib, disk_gib: 1 });
        Arc::new(vm)
    };
    let requests = |vm: &Arc<VirtualMachine>, config| Workload::from_vm(vm, config).requests;
    let config = SchedulerConfig::default();
    assert_eq!(requests(&vm(2, 512), &config).cpu, 125);
    assert_eq!(requests(&vm(1, 512), &config).cpu, 63, "62.5 rounded up");
    assert_eq!(requests(&vm(1, 512), &config).memory, 576 << 20);
    assert_eq!(requests(&vm(1, 512), &config).pods, 0);
    let charge = |machines| SchedulerConfig { machines, ..SchedulerConfig::default() };
    let machines = MachineCharge { ram_allocation_ratio: 2.0, overhead_bytes: 0, ..config.machines };
    let config = charge(machines);
    assert_eq!(requests(&vm(1, 512), &config).memory, 256 << 20);
    let config = charge(MachineCharge { ram_allocation_ratio: 0.0, cpu_allocation_ratio: 0.0, ..machines });
    assert_eq!(requests(&vm(1, 512), &config).cpu, IMPOSSIBLE);
}

#[test]
fn what_is_for_this_scheduler() {
    let standing = |spec: Value| pod(spec).standing;
    assert_eq!(standing(json!({"containers": []})), Standing::Wanting);
    assert_eq!(standing(json!({"containers": [], "schedulerName": "default-scheduler"})), Standing::Wanting);
    assert_eq!(standing(json!({"containers": [], "schedulerName": "mine"})), Standing::Idle);
    assert_eq!(
        standing(json!({"containers": [], "schedulerName": "mine", "nodeName": "n"})),
        Standing::Placed
    );
    assert_eq!(standing(json!({"containers": [], "schedulingGates": [{"name": "g"}]})), Standing::Idle);
    let ended: Pod =
        from_value(json!({"spec": {"containers": [], "nodeName": "n"}, "status": {"phase": "Failed"}}))
            .unwrap();
    assert_eq!(Workload::from_pod(&Arc::new(ended)).standing, Standing::Idle);
    let vm = VirtualMachine::new("vm", VirtualMachineSpec::default());
    let vm = Workload::from_vm(&Arc::new(vm), &SchedulerConfig::default());
    assert_eq!(vm.standing, Standing::Idle, "its size is not filled in yet");
}
