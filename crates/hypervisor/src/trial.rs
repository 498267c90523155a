//! Whether QEMU boots a guest with KVM here, in the jail that all machines are in: the last word on KVM, where its processor
//! runs but something that QEMU or a firmware needs of it is missing.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, memfd_create};

use crate::Accelerator;
use crate::args::processor;
use crate::spawn::{Launch, find_program, kvm_group, number, spawn, user_of};

/// How long firmware and guest may take together; TCG needs half a second.
const WITHIN: Duration = Duration::from_secs(5);

/// A boot sector that powers the machine off: mov dx, 0x604; mov ax, 0x2000; out dx, ax; hlt
const POWER_OFF: [u8; 8] = [0xba, 0x04, 0x06, 0xb8, 0x00, 0x20, 0xef, 0xf4];

/// Boots a guest that powers off at once. Tells why when it does not. Blocks for up to five seconds.
pub(crate) fn boots(program: &str, accelerator: &Accelerator) -> Result<(), String> {
    let program = find_program(program).ok_or_else(|| format!("{program} is not installed"))?;
    let disk = boot_disk().map_err(|error| format!("no disk to try it with: {error}"))?;
    let mut arguments = processor(accelerator);
    let rest = [
        "-nodefaults -no-user-config -display none -m 32 -no-reboot -boot strict=on",
        "-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
        &format!("-add-fd fd={},set=1", number(&disk)),
        "-blockdev driver=file,node-name=file,filename=/dev/fdset/1,read-only=on",
        "-blockdev driver=raw,node-name=disk,file=file,read-only=on -device virtio-blk-pci,drive=disk,bootindex=0",
    ];
    arguments.extend(rest.join(" ").split(' ').map(str::to_owned));
    let user = rustix::process::geteuid().is_root().then(|| user_of("trial"));
    let groups = kvm_group().into_iter().collect();
    let launch = Launch { program, arguments, inherited: vec![disk], cgroups: vec![], user, groups };
    let (mut child, mut complaints) =
        spawn(launch).map_err(|error| format!("QEMU could not be run: {error}"))?;
    let begun = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return Ok(()),
            Ok(Some(status)) => return Err(format!("QEMU can't use it ({status}): {}", complaints.read())),
            Ok(None) if begun.elapsed() < WITHIN => std::thread::sleep(Duration::from_millis(5)),
            Ok(None) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("a guest did not boot within {} s", WITHIN.as_secs()));
            }
            Err(error) => return Err(format!("QEMU can't be watched: {error}")),
        }
    }
}

/// A disk in memory with just a boot sector.
fn boot_disk() -> std::io::Result<OwnedFd> {
    let mut sector = POWER_OFF.to_vec();
    sector.resize(510, 0);
    sector.extend_from_slice(&[0x55, 0xaa]);
    // A smaller one has no geometry that the firmware would boot from.
    sector.resize(1 << 20, 0);
    let mut file = File::from(memfd_create("yunfan-trial", MemfdFlags::CLOEXEC)?);
    file.write_all(&sector)?;
    // QEMU looks for a descriptor that is only read from.
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
    File::open(path).map(OwnedFd::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_boots_where_it_can_and_the_reason_is_told_where_not() {
        boots("qemu-system-x86_64", &Accelerator::Tcg { why: String::new() }).unwrap();
        assert!(boots("no-such-qemu", &Accelerator::Kvm).unwrap_err().contains("not installed"));
        if let Accelerator::Tcg { why } = crate::probe() {
            let told = boots("qemu-system-x86_64", &Accelerator::Kvm).unwrap_err();
            eprintln!("probe: {why}; trial: {told}");
        }
    }
}
