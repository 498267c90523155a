//! Whether KVM really works: a device node proves nothing (nested clouds and sandboxes have one that fails at the first
//! instruction), so a virtual processor is started.

use std::sync::mpsc;
use std::time::Duration;

use kvm_bindings::{kvm_regs, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuExit};

use crate::Accelerator;

/// How long one HLT instruction may take.
const WITHIN: Duration = Duration::from_millis(500);
const PAGE: usize = 4096;
/// Where the program lies in the guest's memory.
const GUEST_ADDRESS: u64 = 0x1000;

/// Finds out what can carry guests' instructions out. Blocks for up to half a second.
pub fn probe() -> Accelerator {
    let (sender, result) = mpsc::channel();
    // A thread of its own, because a broken KVM may keep it for ever: it is then left behind, once per process.
    let started = std::thread::Builder::new().name("kvm-probe".into()).spawn(move || {
        let _ = sender.send(run_hlt());
    });
    let why = match started {
        Err(error) => format!("no thread to try it on: {error}"),
        Ok(_) => match result.recv_timeout(WITHIN) {
            Ok(Ok(())) => return Accelerator::Kvm,
            Ok(Err(why)) => why,
            Err(_) => format!(
                "a virtual processor did not finish one HLT instruction within {} ms",
                WITHIN.as_millis()
            ),
        },
    };
    Accelerator::Tcg { why }
}

/// Runs HLT on a virtual processor.
fn run_hlt() -> Result<(), String> {
    let step = |what: &'static str| move |error: kvm_ioctls::Error| format!("{what} failed: {error}");
    let kvm = Kvm::new().map_err(step("opening /dev/kvm"))?;
    let vm = kvm.create_vm().map_err(step("creating a virtual machine"))?;
    // One page, aligned by hand. The memory outlives `vm`: it is declared before the vCPU and dropped after the run.
    let mut memory = vec![0_u8; 2 * PAGE];
    let offset = memory.as_ptr().align_offset(PAGE);
    memory[offset] = 0xf4; // HLT
    let region = kvm_userspace_memory_region {
        slot: 0,
        flags: 0,
        guest_phys_addr: GUEST_ADDRESS,
        memory_size: PAGE as u64,
        userspace_addr: memory[offset..].as_ptr() as u64,
    };
    // SAFETY: the region is one page inside `memory`, which is neither moved nor freed before the virtual machine is gone, and
    // which nothing else uses meanwhile.
    #[allow(unsafe_code)]
    unsafe { vm.set_user_memory_region(region) }.map_err(step("giving it memory"))?;
    let result = (|| {
        let mut vcpu = vm.create_vcpu(0).map_err(step("creating a virtual processor"))?;
        let mut segments = vcpu.get_sregs().map_err(step("reading its registers"))?;
        segments.cs.base = 0;
        segments.cs.selector = 0;
        vcpu.set_sregs(&segments).map_err(step("setting its registers"))?;
        let registers = kvm_regs { rip: GUEST_ADDRESS, rflags: 2, ..Default::default() };
        vcpu.set_regs(&registers).map_err(step("setting its registers"))?;
        match vcpu.run() {
            Ok(VcpuExit::Hlt) => Ok(()),
            Ok(exit) => Err(format!("a virtual processor stopped at its first instruction: {exit:?}")),
            Err(error) => Err(format!("running a virtual processor failed: {error}")),
        }
    })();
    drop(vm);
    drop(memory);
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_comes_in_time_and_has_a_reason() {
        let begun = std::time::Instant::now();
        let found = probe();
        assert!(begun.elapsed() < WITHIN * 4, "{:?}", begun.elapsed());
        if let Accelerator::Tcg { why } = found {
            assert!(!why.is_empty());
        }
    }
}
