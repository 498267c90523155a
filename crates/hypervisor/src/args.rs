//! QEMU's command line. It names no file of the host's: disks, tap devices and the monitor's socket are handed over as open
//! descriptors, so that the process needs no right to any path, and a guest that breaks into it finds none.

use std::os::fd::RawFd;

use serde_json::json;

use crate::console::{RING_BYTES, RING_NAME};
use crate::drives::{Place, ROOT_DEVICE, SLOTS, device_arguments, port};
use crate::nics::{self, NIC_SLOTS};
use crate::{Accelerator, Disk, Error, VmConfig};

/// Memory of TCG for translated code. QEMU's own default is a quarter of the guest's memory, up to 1 GiB.
const TRANSLATION_MIB: u32 = 64;
/// Memory of the screen: enough for 2048 × 1152 points. What the guest does not use of it takes none.
const VIDEO_MIB: u32 = 16;
/// The set of descriptors with the CD: between those of the root disk and those of volumes.
const CDROM_SET: usize = 5;
/// Most network cards. The machine has 32 PCI slots.
const MAX_NICS: usize = 16;
/// Most virtual processors of the machine.
const MAX_VCPUS: u32 = 255;
/// Least guest memory, MiB: less does not even boot the firmware.
const MIN_MEMORY_MIB: u64 = 16;
/// Most guest memory, MiB: 4 TiB.
const MAX_MEMORY_MIB: u64 = 4 << 20;

/// Memory, MiB, that a machine's process needs beyond its guest's: QEMU itself, translated code, I/O in flight.
pub const fn memory_overhead_mib() -> u64 {
    256
}

/// Descriptors that QEMU inherits.
#[derive(Debug)]
pub(crate) struct Descriptors {
    /// The listening socket of the monitor.
    pub(crate) monitor: RawFd,
    /// The root disk's files.
    pub(crate) disk: DiskFiles,
    /// The volumes' files, in the order of the configuration.
    pub(crate) volumes: Vec<DiskFiles>,
    /// The tap devices, in the order of the configuration.
    pub(crate) taps: Vec<RawFd>,
    /// The CD, open for reading.
    pub(crate) cdrom: Option<RawFd>,
}

/// The open files of one disk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DiskFiles {
    /// The disk's file, open for reading and writing.
    pub(crate) file: RawFd,
    /// The base image's file, open for reading.
    pub(crate) base: Option<RawFd>,
}

/// Refuses what QEMU would refuse, or would take for something else.
pub(crate) fn validate(config: &VmConfig) -> Result<(), Error> {
    let invalid = |field, message: String| Err(Error::Invalid { uid: config.uid.clone(), field, message });
    if !is_uid(&config.uid) {
        return invalid("uid", "must be 1 to 64 of a-z, 0-9 and '-'".into());
    }
    if !(1..=MAX_VCPUS).contains(&config.vcpus) {
        return invalid("vcpus", format!("must be 1 to {MAX_VCPUS}, is {}", config.vcpus));
    }
    if !(MIN_MEMORY_MIB..=MAX_MEMORY_MIB).contains(&config.memory_mib) {
        return invalid(
            "memory_mib",
            format!("must be {MIN_MEMORY_MIB} to {MAX_MEMORY_MIB}, is {}", config.memory_mib),
        );
    }
    if config.nics.len() > MAX_NICS {
        return invalid("nics", format!("must be at most {MAX_NICS}, are {}", config.nics.len()));
    }
    if config.volumes.len() > SLOTS {
        return invalid("volumes", format!("must be at most {SLOTS}, are {}", config.volumes.len()));
    }
    if config.volumes.iter().any(|volume| !is_uid(&volume.id)) {
        return invalid("volumes.id", "must be 1 to 64 of a-z, 0-9 and '-'".into());
    }
    if let Some(nic) = config.nics.iter().find(|nic| !is_mac(&nic.mac)) {
        return invalid("nics.mac", format!("{:?} is no address like 02:00:00:00:00:01", nic.mac));
    }
    Ok(())
}

/// Whether it can be the name of a directory and a cgroup.
pub(crate) fn is_uid(uid: &str) -> bool {
    (1..=64).contains(&uid.len())
        && uid.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

/// Whether it is an address of a network card.
pub(crate) fn is_mac(mac: &str) -> bool {
    mac.len() == 17
        && mac
            .split(':')
            .filter(|pair| pair.len() == 2 && pair.bytes().all(|byte| byte.is_ascii_hexdigit()))
            .count()
            == 6
}

fn is_uuid(uid: &str) -> bool {
    let lengths: Vec<usize> = uid.split('-').map(str::len).collect();
    lengths == [8, 4, 4, 4, 12] && uid.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit())
}

/// Which machine it is, and what carries its instructions out.
pub(crate) fn processor(accelerator: &Accelerator) -> Vec<String> {
    let (accelerator, model) = match accelerator {
        Accelerator::Kvm => ("kvm".to_owned(), "host"),
        Accelerator::Tcg { .. } => (format!("tcg,thread=multi,tb-size={TRANSLATION_MIB}"), "max"),
    };
    // `q35` and not `pc`: a Linux guest is up 0.4 s sooner with TCG. What nobody uses of it is left out.
    let machine = "q35,usb=off,vmport=off,sata=off,smbus=off,dump-guest-core=off";
    ["-machine", machine, "-accel", &accelerator, "-cpu", model].map(str::to_owned).to_vec()
}

/// All arguments, for a configuration that is valid.
pub(crate) fn arguments(config: &VmConfig, accelerator: &Accelerator, fds: &Descriptors) -> Vec<String> {
    let mut args = processor(accelerator);
    let mut add = |option: &str, value: String| args.extend([option.to_owned(), value]);
    add("-name", format!("{},debug-threads=on", config.uid));
    add("-smp", config.vcpus.to_string());
    add("-m", format!("{}M", config.memory_mib));
    if is_uuid(&config.uid) {
        add("-uuid", config.uid.clone());
    }
    // The product name by which cloud-init knows that an OpenStack metadata service is there.
    add("-smbios", "type=1,manufacturer=Yunfan,product=OpenStack Nova".into());
    add("-rtc", "base=utc,driftfix=slew".into());
    add("-boot", "strict=on".into());
    add("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny".into());
    // A guest that powers off leaves its process paused: we read the rest of the console, then end it.
    add("-action", "panic=none,reboot=reset,shutdown=pause".into());
    add("-chardev", format!("ringbuf,id={RING_NAME},size={RING_BYTES}"));
    add("-serial", format!("chardev:{RING_NAME}"));
    add("-chardev", format!("socket,id=monitor,fd={},server=on,wait=off", fds.monitor));
    add("-mon", "chardev=monitor,mode=control".into());
    add("-display", "none".into());
    if config.display {
        // It listens nowhere: who sees the screen is handed to it by the monitor (`ways.rs`). A place of its own, so that no
        // other device is found at another address because of it.
        add("-vnc", "none".into());
        add("-device", format!("VGA,vgamem_mb={VIDEO_MIB},addr=0x1c"));
    }
    drive(Place::Root, (&config.disk, false), fds.disk, &mut add);
    add("-device", format!("virtio-blk-pci,id={ROOT_DEVICE},drive={},bootindex=0", Place::Root.node()));
    for slot in 0..SLOTS {
        // Functions of one PCI slot. No I/O ports are set aside: what is plugged in needs none.
        let chassis = slot + 1;
        add(
            "-device",
            format!(
                "pcie-root-port,id={},chassis={chassis},addr=0x1e.{slot},multifunction=on,io-reserve=0",
                port(slot)
            ),
        );
    }
    for slot in 0..NIC_SLOTS {
        let chassis = SLOTS + slot + 1;
        add(
            "-device",
            format!(
                "pcie-root-port,id={},chassis={chassis},addr=0x1d.{slot},multifunction=on,io-reserve=0",
                nics::port(slot)
            ),
        );
    }
    for (slot, (volume, files)) in config.volumes.iter().zip(&fds.volumes).enumerate() {
        drive(Place::Slot(slot), (&volume.disk, volume.read_only), *files, &mut add);
        add("-device", device_arguments(&volume.id, &volume.serial, slot).to_string());
    }
    for (index, (nic, tap)) in config.nics.iter().zip(&fds.taps).enumerate() {
        let (netdev, id) = (nics::netdev(index), nics::device(index, &nic.mac));
        add("-netdev", format!("tap,id={netdev},fd={tap}"));
        // In a port it can be pulled out; there are not ports for all.
        let place =
            if index < NIC_SLOTS { format!(",id={id},bus={}", nics::port(index)) } else { String::new() };
        // No boot ROM: nothing boots from the network.
        add("-device", format!("virtio-net-pci,netdev={netdev},mac={},romfile={place}", nic.mac));
    }
    if let Some(fd) = fds.cdrom {
        cdrom(fd, &mut add);
    }
    add("-device", "virtio-rng-pci".into());
    args.extend(["-nodefaults".into(), "-no-user-config".into()]);
    args
}

/// The block nodes of one disk, over the files that QEMU inherits.
fn drive(
    place: Place,
    (disk, read_only): (&Disk, bool),
    files: DiskFiles,
    add: &mut impl FnMut(&str, String),
) {
    if let Some(base) = files.base {
        add("-add-fd", format!("fd={base},set={}", place.set() + 1));
    }
    add("-add-fd", format!("fd={},set={}", files.file, place.set()));
    for node in place.nodes(disk, read_only) {
        add("-blockdev", node.to_string());
    }
}

/// A drive with a CD in it, on a controller of its own, whose driver guests have that boot from virtio disks. Nothing boots from it.
fn cdrom(fd: RawFd, add: &mut impl FnMut(&str, String)) {
    add("-add-fd", format!("fd={fd},set={CDROM_SET}"));
    let file = json!({
        "driver": "file", "node-name": "cdrom-file", "filename": format!("/dev/fdset/{CDROM_SET}"), "read-only": true,
    });
    add("-blockdev", file.to_string());
    let top = json!({"driver": "raw", "node-name": "cdrom", "file": "cdrom-file", "read-only": true});
    add("-blockdev", top.to_string());
    add("-device", "virtio-scsi-pci,id=scsi".into());
    add("-device", "scsi-cd,bus=scsi.0,drive=cdrom,id=cdrom-drive".into());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Base, DiskFormat, DiskLimits, Volume};

    fn config(uid: &str) -> VmConfig {
        let base = Some(Base { path: "/base".into(), format: DiskFormat::Raw });
        VmConfig {
            uid: uid.into(),
            vcpus: 2,
            memory_mib: 256,
            disk: Disk { path: "/disk".into(), format: DiskFormat::Qcow2, base },
            limits: DiskLimits::default(),
            volumes: vec![],
            nics: vec![],
            cdrom: None,
            display: true,
        }
    }

    #[test]
    fn senseless_machines_are_refused_by_field() {
        let field = |config: &VmConfig| match validate(config) {
            Err(Error::Invalid { field, .. }) => field,
            _ => "",
        };
        assert_eq!(field(&config("a-1")), "");
        assert_eq!(field(&config("../x")), "uid");
        assert_eq!(field(&config("a,b")), "uid");
        assert_eq!(field(&config("")), "uid");
        assert_eq!(field(&VmConfig { vcpus: 0, ..config("a") }), "vcpus");
        assert_eq!(field(&VmConfig { memory_mib: 1, ..config("a") }), "memory_mib");
        let disk = Disk { path: "/volume".into(), format: DiskFormat::Raw, base: None };
        let volumes = vec![
            Volume {
                id: "v".into(),
                serial: String::new(),
                disk,
                read_only: false,
                limits: DiskLimits::default()
            };
            SLOTS + 1
        ];
        assert_eq!(field(&VmConfig { volumes, ..config("a") }), "volumes");
        assert!(is_mac("fa:16:3e:00:00:0a") && !is_mac("fa:16:3e:00:00:0a,x") && !is_mac("fa163e00000a"));
    }

    #[test]
    fn no_path_of_the_host_is_named() {
        let fds = Descriptors {
            monitor: 9,
            disk: DiskFiles { file: 10, base: Some(11) },
            volumes: vec![DiskFiles { file: 12, base: None }],
            taps: vec![],
            cdrom: Some(13),
        };
        let disk = Disk { path: "/volume".into(), format: DiskFormat::Raw, base: None };
        let volumes = vec![Volume {
            id: "v-1".into(),
            serial: "s-1".into(),
            disk,
            read_only: false,
            limits: DiskLimits::default(),
        }];
        let config = VmConfig { volumes, ..config("f0f0f0f0-0000-4000-8000-000000000001") };
        let args = arguments(&config, &Accelerator::Kvm, &fds);
        assert!(
            args.iter().all(|arg| arg != "/disk" && !arg.contains("/base") && !arg.contains("/volume")),
            "{args:?}"
        );
        assert!(args.windows(2).any(|pair| pair == ["-uuid", "f0f0f0f0-0000-4000-8000-000000000001"]));
        for set in ["fd=11,set=2", "fd=12,set=10", "fd=13,set=5"] {
            assert!(args.windows(2).any(|pair| pair == ["-add-fd", set]), "{set}");
        }
        let has_drive = |args: &[String]| args.iter().any(|arg| arg.starts_with("scsi-cd"));
        assert!(has_drive(&args));
        let fds = Descriptors { cdrom: None, ..fds };
        assert!(!has_drive(&arguments(&config, &Accelerator::Kvm, &fds)));
        let has_screen = |args: &[String]| args.iter().any(|arg| arg == "-vnc" || arg.starts_with("VGA"));
        assert!(has_screen(&args));
        let without = VmConfig { display: false, ..config };
        assert!(!has_screen(&arguments(&without, &Accelerator::Kvm, &fds)));
    }
}
