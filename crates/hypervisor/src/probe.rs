//! Whether KVM really works: a device node proves nothing (nested clouds and sandboxes have one that fails at the first
//! instruction, or at the first that is not simple), so a virtual processor is started. `trial.rs` goes further, with QEMU.

use std::sync::mpsc;
use std::time::Duration;

use kvm_bindings::{kvm_regs, kvm_segment, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuExit, VmFd};

use crate::Accelerator;

/// How long the program may take.
const WITHIN: Duration = Duration::from_millis(500);
const PAGE: usize = 4096;
/// Where the program lies in the guest's memory. Its stack ends where the page does.
const GUEST_ADDRESS: u64 = 0x1000;
/// 32-bit code that returns from an interrupt that never was, to a HLT. HLT alone would do too little: a KVM without hardware
/// help emulates simple instructions, but not this return, which each firmware and boot loader needs.
const PROGRAM: [u8; 9] = [
    0x9c, // pushfd
    0x0e, // push cs
    0x68, 0x08, 0x10, 0x00, 0x00, // push 0x1008
    0xcf, // iretd
    0xf4, // hlt, at 0x1008
];
/// Descriptors of flat segments (none, code, data), which the return reads again.
const SEGMENTS: [u64; 3] = [0, 0x00cf_9a00_0000_ffff, 0x00cf_9200_0000_ffff];
/// Where they lie in the page.
const SEGMENTS_AT: usize = 0x800;

/// Finds out what can carry guests' instructions out. Blocks for up to half a second.
pub fn probe() -> Accelerator {
    let (sender, result) = mpsc::channel();
    // A thread of its own, because a broken KVM may keep it for ever: it is then left behind, once per process.
    let started = std::thread::Builder::new().name("kvm-probe".into()).spawn(move || {
        let _ = sender.send(run_program());
    });
    let why = match started {
        Err(error) => format!("no thread to try it on: {error}"),
        Ok(_) => match result.recv_timeout(WITHIN) {
            Ok(Ok(())) => return Accelerator::Kvm,
            Ok(Err(why)) => why,
            Err(_) => format!(
                "a virtual processor did not finish five instructions within {} ms",
                WITHIN.as_millis()
            ),
        },
    };
    Accelerator::Tcg { why }
}

/// Runs the program on a virtual processor.
fn run_program() -> Result<(), String> {
    let kvm = Kvm::new().map_err(step("opening /dev/kvm"))?;
    let vm = kvm.create_vm().map_err(step("creating a virtual machine"))?;
    // One page, aligned by hand. The memory outlives `vm`: it is declared before the vCPU and dropped after the run.
    let mut memory = vec![0_u8; 2 * PAGE];
    let offset = memory.as_ptr().align_offset(PAGE);
    memory[offset..offset + PROGRAM.len()].copy_from_slice(&PROGRAM);
    for (descriptor, place) in SEGMENTS.iter().zip(memory[offset + SEGMENTS_AT..].chunks_mut(8)) {
        place.copy_from_slice(&descriptor.to_le_bytes());
    }
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
    let result = run(&vm);
    drop(vm);
    drop(memory);
    result
}

fn run(vm: &VmFd) -> Result<(), String> {
    let mut vcpu = vm.create_vcpu(0).map_err(step("creating a virtual processor"))?;
    let mut special = vcpu.get_sregs().map_err(step("reading its registers"))?;
    let flat = kvm_segment { limit: u32::MAX, present: 1, db: 1, s: 1, g: 1, ..Default::default() };
    special.cs = kvm_segment { selector: 0x08, type_: 0xb, ..flat };
    let data = kvm_segment { selector: 0x10, type_: 0x3, ..flat };
    (special.ds, special.es, special.ss) = (data, data, data);
    special.gdt.base = GUEST_ADDRESS + SEGMENTS_AT as u64;
    special.gdt.limit = 8 * SEGMENTS.len() as u16 - 1;
    special.cr0 |= 1; // protected mode
    vcpu.set_sregs(&special).map_err(step("setting its registers"))?;
    let rsp = GUEST_ADDRESS + PAGE as u64;
    let registers = kvm_regs { rip: GUEST_ADDRESS, rsp, rflags: 2, ..Default::default() };
    vcpu.set_regs(&registers).map_err(step("setting its registers"))?;
    match vcpu.run() {
        Ok(VcpuExit::Hlt) => Ok(()),
        Ok(VcpuExit::InternalError) => {
            Err("the kernel's KVM can't carry out a return from an interrupt".into())
        }
        Ok(exit) => Err(format!("a virtual processor stopped half-way: {exit:?}")),
        Err(error) => Err(format!("running a virtual processor failed: {error}")),
    }
}

fn step(what: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> String {
    move |error| format!("{what} failed: {error}")
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
