//! The driver with real QEMU processes. The guests are boot sectors: they are up half a second after the start.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::broadcast;
use tokio::time::{sleep, timeout};

use crate::cgroup::Hierarchies;
use crate::{
    AcceleratorChoice, Base, Disk, DiskFormat, DiskLimits, Error, ExitReason, Hypervisor, Nic, Qemu,
    QemuConfig, Reboot, VmConfig, VmEvent, VmEventKind, VmState, Volume, teardown,
};

mod ways;

/// Says `hello` on the serial port, then does `rest`.
fn boot_sector(rest: &[u8]) -> Vec<u8> {
    let head = [
        0x31, 0xc0, 0x8e, 0xd8, // xor ax, ax; mov ds, ax
        0xba, 0xf8, 0x03, // mov dx, 0x3f8
        0xbe, 0x00, 0x7d, // mov si, 0x7d00
        0xac, 0x84, 0xc0, 0x74, 0x03, // again: lodsb; test al, al; jz done
        0xee, 0xeb, 0xf8, // out dx, al; jmp again
    ];
    let mut sector = [&head, rest].concat();
    sector.resize(0x100, 0);
    sector.extend_from_slice(b"hello\r\n\0");
    sector.resize(510, 0);
    sector.extend_from_slice(&[0x55, 0xaa]);
    sector.resize(1 << 20, 0);
    sector
}

/// mov dx, 0x604; mov ax, 0x2000; out dx, ax; hlt
const POWER_OFF: [u8; 8] = [0xba, 0x04, 0x06, 0xb8, 0x00, 0x20, 0xef, 0xf4];

/// Powers off when the power button is pressed.
fn listens_to_button() -> Vec<u8> {
    let wait = [
        0xba, 0x02, 0x06, 0xb8, 0x00, 0x01, 0xef, // mov dx, 0x602; mov ax, 0x100; out dx, ax
        0xba, 0x00, 0x06, // mov dx, 0x600
        0xed, 0xf6, 0xc4, 0x01, 0x74, 0xfa, // again: in ax, dx; test ah, 1; jz again
    ];
    [&wait[..], &POWER_OFF].concat()
}

struct Bench {
    dir: TempDir,
    tag: String,
    uid: String,
}

impl Bench {
    fn new(name: &str, guest: &[u8]) -> Bench {
        let dir = tempfile::Builder::new().prefix("yunfan-hypervisor-").tempdir().unwrap();
        // Unlike any cloud's tag, which is hexadecimal.
        let bench = Bench { tag: format!("t{}{name}", std::process::id()), uid: format!("vm-{name}"), dir };
        std::fs::write(bench.path("base"), boot_sector(guest)).unwrap();
        let mut create = Command::new("qemu-img");
        create.args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"]);
        assert!(
            create
                .args([bench.path("base"), bench.path("disk")])
                .status()
                .expect("qemu-utils is installed")
                .success()
        );
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn root(&self) -> PathBuf {
        self.path("vms")
    }

    async fn open(&self) -> Qemu {
        let config =
            QemuConfig { tag: self.tag.clone(), root: self.root(), accelerator: AcceleratorChoice::Tcg };
        Qemu::open(config).await.unwrap()
    }

    fn config(&self) -> VmConfig {
        let base = Some(Base { path: self.path("base"), format: DiskFormat::Raw });
        let disk = Disk { path: self.path("disk"), format: DiskFormat::Qcow2, base };
        VmConfig {
            uid: self.uid.clone(),
            vcpus: 2,
            memory_mib: 64,
            disk,
            limits: DiskLimits::default(),
            volumes: vec![],
            nics: vec![],
            cdrom: None,
            display: true,
        }
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        teardown(&self.tag, &self.root()).unwrap();
        assert!(Hierarchies::find().unwrap().machines(&self.tag).is_empty());
    }
}

async fn hellos(qemu: &Qemu, uid: &str, count: usize) {
    let begun = Instant::now();
    loop {
        let log = qemu.console_log(uid, None).await.unwrap();
        if log.matches("hello").count() >= count {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "{log:?}");
        sleep(Duration::from_millis(50)).await;
    }
}

async fn wait_event(
    events: &mut broadcast::Receiver<VmEvent>,
    wanted: impl Fn(&VmEventKind) -> bool,
) -> VmEventKind {
    let found = async {
        loop {
            let event = events.recv().await.unwrap();
            if wanted(&event.kind) {
                return event.kind;
            }
        }
    };
    timeout(Duration::from_secs(20), found).await.expect("the event comes")
}

async fn state(qemu: &Qemu, uid: &str) -> VmState {
    qemu.get(uid).await.unwrap().expect("it is known").state
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_lives_from_start_to_removal() {
    let bench = Bench::new("life", &listens_to_button());
    let (qemu, uid) = (bench.open().await, bench.uid.as_str());
    let mut events = qemu.events();
    let begun = Instant::now();
    let info = qemu.start(bench.config()).await.unwrap();
    eprintln!("start to running: {:?}", begun.elapsed());
    assert_eq!(info.state, VmState::Running);
    let pid = info.pid.expect("it runs");
    let again = qemu.start(bench.config()).await.unwrap();
    assert_eq!(again.pid, Some(pid));
    jailed(&bench, pid);
    hellos(&qemu, uid, 1).await;

    qemu.pause(uid).await.unwrap();
    wait_event(&mut events, |kind| *kind == VmEventKind::Paused).await;
    assert!(qemu.resume(uid).await.unwrap());
    wait_event(&mut events, |kind| *kind == VmEventKind::Running).await;

    qemu.reboot(uid, Reboot::Hard).await.unwrap();
    wait_event(&mut events, |kind| *kind == VmEventKind::Rebooted { by_guest: false }).await;
    hellos(&qemu, uid, 2).await;
    qemu.reboot(uid, Reboot::Soft { grace: Duration::from_secs(20) }).await.unwrap();
    hellos(&qemu, uid, 3).await;
    let info = qemu.get(uid).await.unwrap().unwrap();
    assert_eq!((info.pid, info.state), (Some(pid), VmState::Running));
    assert_eq!(qemu.console_log(uid, Some(1)).await.unwrap().trim(), "hello");

    qemu.shutdown(uid, Duration::from_secs(20)).await.unwrap();
    assert_eq!(state(&qemu, uid).await, VmState::Stopped(ExitReason::Requested));
    assert_eq!(qemu.console_log(uid, None).await.unwrap().matches("hello").count(), 3);
    qemu.stop(uid).await.unwrap();

    qemu.start(bench.config()).await.unwrap();
    qemu.remove(uid).await.unwrap();
    qemu.remove(uid).await.unwrap();
    assert!(qemu.list().await.unwrap().is_empty() && !bench.root().join(uid).exists());
    assert!(Hierarchies::find().unwrap().machines(&bench.tag).is_empty());
    assert!(matches!(qemu.console_log(uid, None).await, Err(Error::NotFound { .. })));
}

/// It has no rights, its own cgroup, and no file but what it was given.
fn jailed(bench: &Bench, pid: u32) {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(
        status.contains("CapEff:\t0000000000000000")
            && status.contains("NoNewPrivs:\t1")
            && status.contains("Seccomp:\t2"),
        "{status}"
    );
    assert!(Hierarchies::find().unwrap().processes(&bench.tag, &bench.uid).contains(&pid));
    let files: Vec<PathBuf> = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok())
        .collect();
    let regular: Vec<&PathBuf> = files.iter().filter(|file| file.starts_with(bench.dir.path())).collect();
    assert!(
        regular.iter().all(|file| **file == bench.path("disk") || **file == bench.path("base")),
        "{regular:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_powers_off_is_noticed_and_its_last_words_are_kept() {
    let bench = Bench::new("off", &POWER_OFF);
    let qemu = bench.open().await;
    let mut events = qemu.events();
    qemu.start(bench.config()).await.unwrap();
    let end = wait_event(&mut events, |kind| matches!(kind, VmEventKind::Stopped(_))).await;
    assert_eq!(end, VmEventKind::Stopped(ExitReason::Guest));
    assert_eq!(qemu.console_log(&bench.uid, None).await.unwrap().trim(), "hello");
    // Known after a restart as well.
    let later = bench.open().await;
    assert_eq!(state(&later, &bench.uid).await, VmState::Stopped(ExitReason::Guest));
}

#[test]
fn machines_survive_the_death_of_their_driver() {
    let bench = Bench::new("again", &listens_to_button());
    let uid = bench.uid.as_str();
    let first = Runtime::new().unwrap();
    let pid = first.block_on(async { bench.open().await.start(bench.config()).await.unwrap().pid.unwrap() });
    // Every task and connection is gone at once, as after kill -9.
    first.shutdown_background();

    let second = Runtime::new().unwrap();
    second.block_on(async {
        let begun = Instant::now();
        let qemu = bench.open().await;
        eprintln!("found again in {:?}", begun.elapsed());
        let info = qemu.get(uid).await.unwrap().expect("it is found");
        assert_eq!((info.pid, info.state), (Some(pid), VmState::Running));
        hellos(&qemu, uid, 1).await;
    });
    second.shutdown_background();

    // The pid was never written down: the cgroup tells.
    let record = bench.root().join(uid).join("vm.json");
    let mut json: serde_json::Value = serde_json::from_slice(&std::fs::read(&record).unwrap()).unwrap();
    json["process"] = serde_json::Value::Null;
    std::fs::write(&record, json.to_string()).unwrap();
    Runtime::new().unwrap().block_on(async {
        let qemu = bench.open().await;
        assert_eq!(qemu.get(uid).await.unwrap().unwrap().pid, Some(pid));
        let mut events = qemu.events();
        assert!(Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
        let end = wait_event(&mut events, |kind| matches!(kind, VmEventKind::Stopped(_))).await;
        assert!(matches!(end, VmEventKind::Stopped(ExitReason::Failed { .. })), "{end:?}");
        assert!(qemu.start(bench.config()).await.unwrap().pid != Some(pid));
        qemu.stop(uid).await.unwrap();
    });
}

#[test]
fn a_power_off_that_nobody_watched_is_no_crash() {
    let bench = Bench::new("alone", &POWER_OFF);
    let first = Runtime::new().unwrap();
    // What it is when it has started is not asked: a guest so small may be at its end by then.
    first.block_on(async { bench.open().await.start(bench.config()).await.unwrap() });
    first.shutdown_background();
    // Long enough for the firmware to boot the guest, which powers off at once. Were it not, the rest would hold as well.
    std::thread::sleep(Duration::from_secs(1));
    Runtime::new().unwrap().block_on(async {
        let qemu = bench.open().await;
        let begun = Instant::now();
        while state(&qemu, &bench.uid).await != VmState::Stopped(ExitReason::Guest) {
            assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", state(&qemu, &bench.uid).await);
            sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(qemu.console_log(&bench.uid, None).await.unwrap().trim(), "hello");
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_or_broken_is_told_and_nothing_is_left() {
    let bench = Bench::new("bad", &POWER_OFF);
    let config =
        QemuConfig { tag: bench.tag.clone(), root: bench.root(), accelerator: AcceleratorChoice::Tcg };
    let without = Qemu::open_with(config, "qemu-system-none".into()).await.unwrap();
    let mut events = without.events();
    let error = without.start(bench.config()).await.unwrap_err();
    assert!(
        matches!(error, Error::MissingQemu { .. }) && error.to_string().contains("qemu-system-x86"),
        "{error}"
    );
    // It never began: there is no end to tell of or to write down.
    assert!(events.try_recv().is_err());
    assert!(without.get(&bench.uid).await.unwrap().is_none() && entries(&bench.root()).is_empty());
    drop(without);

    let qemu = bench.open().await;
    std::fs::write(bench.path("disk"), b"this is no qcow2").unwrap();
    let error = qemu.start(bench.config()).await.unwrap_err();
    assert!(matches!(&error, Error::StartFailed { message, .. } if message.contains("qcow2")), "{error}");
    let gone = VmConfig {
        disk: Disk { path: bench.path("nowhere"), format: DiskFormat::Qcow2, base: None },
        ..bench.config()
    };
    let error = qemu.start(gone).await.unwrap_err();
    assert!(error.to_string().contains("nowhere"), "{error}");
    assert!(Hierarchies::find().unwrap().machines(&bench.tag).is_empty());
    assert!(matches!(state(&qemu, &bench.uid).await, VmState::Stopped(ExitReason::Failed { .. })));
    qemu.remove(&bench.uid).await.unwrap();
    assert!(entries(&bench.root()).is_empty());
}

#[test]
fn teardown_needs_no_driver() {
    let bench = Bench::new("down", &listens_to_button());
    let driver = Runtime::new().unwrap();
    let info = driver.block_on(async { bench.open().await.start(bench.config()).await.unwrap() });
    driver.shutdown_background();
    assert_eq!(teardown(&bench.tag, &bench.root()).unwrap(), 1);
    assert_eq!(teardown(&bench.tag, &bench.root()).unwrap(), 0);
    assert!(!bench.root().exists());
    let pid = info.pid.unwrap();
    let running = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    assert!(running.is_empty(), "{running}");
}

fn volume(bench: &Bench, name: &str, base: bool) -> Volume {
    let path = bench.path(name);
    let format = if base { DiskFormat::Qcow2 } else { DiskFormat::Raw };
    if base {
        let mut create = Command::new("qemu-img");
        create.args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"]).arg(bench.path("base"));
        assert!(create.arg(&path).status().unwrap().success());
    } else {
        std::fs::File::create(&path).unwrap().set_len(64 << 20).unwrap();
    }
    let base = base.then(|| Base { path: bench.path("base"), format: DiskFormat::Raw });
    Volume {
        id: name.into(),
        serial: format!("serial-{name}"),
        disk: Disk { path, format, base },
        read_only: false,
        limits: DiskLimits::default(),
    }
}

/// Whether a machine's process has a file open.
fn has_open(pid: u32, path: &Path) -> bool {
    let links = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    links
        .into_iter()
        .any(|entry| std::fs::read_link(entry.unwrap().path()).is_ok_and(|target| target == path))
}

/// What QEMU says of the disk that is in a device.
async fn inserted(qemu: &Qemu, uid: &str, device: &str) -> serde_json::Value {
    let live = qemu.find(uid).unwrap().live().unwrap();
    let all = live.qmp.execute("query-block", serde_json::Value::Null).await.unwrap();
    let path = format!("/machine/peripheral/{device}/virtio-backend");
    let found = all.as_array().unwrap().iter().find(|one| one["qdev"] == path.as_str());
    found.unwrap_or_else(|| panic!("no {device}: {all}"))["inserted"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn disks_are_limited_and_read_only_from_the_start_and_when_they_are_plugged_in() {
    let bench = Bench::new("limits", &listens_to_button());
    let qemu = bench.open().await;
    let uid = bench.uid.as_str();
    let limits = DiskLimits { requests: [0, 100, 0], bytes: [1 << 20, 0, 0] };
    let slow = |name: &str, base| Volume { read_only: true, limits, ..volume(&bench, name, base) };
    let volumes = vec![slow("a", true), volume(&bench, "b", false)];
    let config = VmConfig { volumes, limits, ..bench.config() };
    qemu.start(config).await.unwrap();
    qemu.attach(uid, slow("c", false)).await.unwrap();
    for (device, read_only, reads, bytes) in [
        ("root", false, 100, 1 << 20),
        ("vol-a", true, 100, 1 << 20),
        ("vol-b", false, 0, 0),
        ("vol-c", true, 100, 1 << 20),
    ] {
        let told = inserted(&qemu, uid, device).await;
        assert_eq!(
            (&told["ro"], &told["iops_rd"], &told["bps"]),
            (&read_only.into(), &reads.into(), &bytes.into())
        );
    }
    qemu.stop(uid).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cd_is_in_the_drive_from_the_start_and_goes_with_the_machine() {
    let bench = Bench::new("cd", &listens_to_button());
    let qemu = bench.open().await;
    let uid = bench.uid.as_str();
    let cd = vec![7; 4096];
    qemu.start(VmConfig { cdrom: Some(cd.clone()), ..bench.config() }).await.unwrap();
    let live = qemu.find(uid).unwrap().live().unwrap();
    let all = live.qmp.execute("query-block", serde_json::Value::Null).await.unwrap();
    let drive = all.as_array().unwrap().iter().find(|one| one["inserted"]["node-name"] == "cdrom").unwrap();
    assert_eq!((&drive["removable"], &drive["inserted"]["ro"]), (&true.into(), &true.into()), "{drive}");
    assert_eq!(drive["inserted"]["image"]["virtual-size"], 4096);
    let file = bench.root().join(uid).join("cdrom.iso");
    assert_eq!(std::fs::read(&file).unwrap(), cd);
    assert!(qemu.volumes(uid).await.unwrap().is_empty(), "it is no volume");
    qemu.stop(uid).await.unwrap();
    // Another start has another one, or none.
    qemu.start(VmConfig { cdrom: Some(vec![8; 2048]), ..bench.config() }).await.unwrap();
    assert_eq!(std::fs::read(&file).unwrap(), vec![8; 2048]);
    qemu.stop(uid).await.unwrap();
    qemu.remove(uid).await.unwrap();
    assert!(!file.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_come_and_go_while_a_machine_runs() {
    let bench = Bench::new("vol", &listens_to_button());
    let qemu = bench.open().await;
    let uid = bench.uid.as_str();
    let config = VmConfig { volumes: vec![volume(&bench, "a", false)], ..bench.config() };
    let pid = qemu.start(config).await.unwrap().pid.unwrap();
    assert_eq!(qemu.volumes(uid).await.unwrap(), ["a"]);
    let (b, c) = (volume(&bench, "b", true), volume(&bench, "c", false));
    for one in [&b, &b, &c] {
        qemu.attach(uid, one.clone()).await.unwrap();
    }
    assert_eq!(qemu.volumes(uid).await.unwrap(), ["a", "b", "c"], "attaching twice is attaching once");
    assert!(["a", "b", "c"].iter().all(|name| has_open(pid, &bench.path(name))));
    qemu.grow(uid, Some("c"), 128 << 20).await.unwrap();
    qemu.grow(uid, None, 64 << 20).await.unwrap();
    assert!(matches!(qemu.grow(uid, Some("x"), 1 << 30).await, Err(Error::NotFound { .. })));
    copies_are_made_while_it_runs(&qemu, &bench, (&b, &c)).await;
    // What can't be opened leaves nothing behind.
    let gone = Disk { path: bench.path("nowhere"), format: DiskFormat::Qcow2, base: None };
    assert!(qemu.attach(uid, Volume { disk: gone, ..volume(&bench, "d", false) }).await.is_err());
    std::fs::write(bench.path("broken"), b"this is no qcow2").unwrap();
    let broken = Disk { path: bench.path("broken"), format: DiskFormat::Qcow2, base: None };
    let error = qemu.attach(uid, Volume { disk: broken, ..volume(&bench, "d", false) }).await;
    assert!(matches!(error, Err(Error::Refused { .. })), "{error:?}");
    assert!(!has_open(pid, &bench.path("broken")));
    // The guest of this test knows nothing of devices that go, so the volume stays until it is reset.
    assert!(matches!(qemu.detach(uid, "b").await, Err(Error::Busy { .. })));
    qemu.reboot(uid, Reboot::Hard).await.unwrap();
    let begun = Instant::now();
    while qemu.detach(uid, "b").await.is_err() {
        assert!(begun.elapsed() < Duration::from_secs(20));
    }
    qemu.detach(uid, "b").await.unwrap();
    assert_eq!(qemu.volumes(uid).await.unwrap(), ["a", "c"]);
    assert!(!has_open(pid, &bench.path("b")) && has_open(pid, &bench.path("c")));
    // Its place is free again.
    qemu.attach(uid, b).await.unwrap();
    assert_eq!(qemu.volumes(uid).await.unwrap().len(), 3);
    qemu.stop(uid).await.unwrap();
    assert!(matches!(qemu.volumes(uid).await, Err(Error::NotRunning { .. })));
}

/// What a disk holds is copied from under the guest, whole or what it has over its base, and nothing stays open.
async fn copies_are_made_while_it_runs(qemu: &Qemu, bench: &Bench, (based, own): (&Volume, &Volume)) {
    use std::os::unix::fs::FileExt;
    let uid = bench.uid.as_str();
    let empty = |of: &Volume, name: &str| {
        let path = bench.path(name);
        if of.disk.format == DiskFormat::Raw {
            std::fs::File::create(&path).unwrap().set_len(128 << 20).unwrap();
        } else {
            std::fs::copy(&of.disk.path, &path).unwrap();
        }
        Disk { path, ..of.disk.clone() }
    };
    let written = std::fs::OpenOptions::new().write(true).open(&own.disk.path).unwrap();
    written.write_all_at(b"marked", 1 << 20).unwrap();
    for (name, of) in [("copy-based", based), ("copy-own", own)] {
        let target = empty(of, name);
        // Twice: nothing of the first is left in the way of the second.
        qemu.copy(uid, Some(&of.id), &target).await.unwrap();
        qemu.copy(uid, Some(&of.id), &target).await.unwrap();
        let pid = qemu.get(uid).await.unwrap().unwrap().pid.unwrap();
        assert!(!has_open(pid, &target.path));
    }
    let mut read = [0_u8; 6];
    std::fs::File::open(bench.path("copy-own")).unwrap().read_exact_at(&mut read, 1 << 20).unwrap();
    assert_eq!(&read, b"marked");
    let gone = Disk { path: bench.path("nowhere"), format: DiskFormat::Raw, base: None };
    assert!(qemu.copy(uid, Some("b"), &gone).await.is_err());
    assert!(matches!(qemu.copy(uid, Some("x"), &gone).await, Err(Error::NotFound { .. })));
}

/// A tap device that is gone when its last descriptor is.
#[allow(unsafe_code)]
fn tap(name: &str) -> OwnedFd {
    /// The kernel's `struct ifreq`, as far as TUNSETIFF reads it.
    #[repr(C)]
    struct Request {
        name: [u8; 16],
        flags: u16,
        rest: [u8; 22],
    }
    const IFF_TAP_NO_PI_VNET_HDR: u16 = 0x0002 | 0x1000 | 0x4000;
    const TUNSETIFF: rustix::ioctl::Opcode = rustix::ioctl::opcode::write::<i32>(b'T', 202);
    let file = std::fs::File::options().read(true).write(true).open("/dev/net/tun").unwrap();
    let mut request = Request { name: [0; 16], flags: IFF_TAP_NO_PI_VNET_HDR, rest: [0; 22] };
    request.name[..name.len()].copy_from_slice(name.as_bytes());
    // SAFETY: TUNSETIFF reads and writes one `struct ifreq` of 40 bytes, which `Request` is.
    unsafe { rustix::ioctl::ioctl(&file, rustix::ioctl::Updater::<TUNSETIFF, Request>::new(&mut request)) }
        .unwrap();
    file.into()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tap_device_goes_to_its_machine_alone() {
    let bench = Bench::new("tap", &listens_to_button());
    let qemu = bench.open().await;
    let name = format!("yft{}", std::process::id());
    let link = PathBuf::from("/sys/class/net").join(&name);
    let nics = vec![Nic { mac: "02:00:00:00:00:01".into(), tap: tap(&name) }];
    let pid = qemu.start(VmConfig { nics, ..bench.config() }).await.unwrap().pid.unwrap();
    assert!(link.exists());
    let info = std::fs::read_dir(format!("/proc/{pid}/fdinfo")).unwrap();
    let held = info.filter(|entry| {
        let text = std::fs::read_to_string(entry.as_ref().unwrap().path()).unwrap_or_default();
        text.contains(&format!("iff:\t{name}"))
    });
    assert_eq!(held.count(), 1);
    qemu.stop(&bench.uid).await.unwrap();
    assert!(!link.exists(), "somebody else holds the tap device");
}

#[tokio::test(flavor = "multi_thread")]
async fn network_cards_come_and_go_while_a_machine_runs() {
    let bench = Bench::new("nic", &listens_to_button());
    let qemu = bench.open().await;
    let uid = bench.uid.as_str();
    let nic = |number: u32| Nic {
        mac: format!("02:00:00:00:00:0{number}"),
        tap: tap(&format!("yfn{number}-{}", std::process::id())),
    };
    qemu.start(VmConfig { nics: vec![nic(1)], ..bench.config() }).await.unwrap();
    assert_eq!(qemu.nics(uid).await.unwrap(), ["02:00:00:00:00:01"]);
    qemu.attach_nic(uid, nic(2)).await.unwrap();
    let mut there = qemu.nics(uid).await.unwrap();
    there.sort();
    assert_eq!(there, ["02:00:00:00:00:01", "02:00:00:00:00:02"]);
    let wrong = Nic { mac: "02".into(), tap: tap(&format!("yfn3-{}", std::process::id())) };
    assert!(matches!(qemu.attach_nic(uid, wrong).await, Err(Error::Invalid { .. })));
    // The guest of this test knows nothing of devices that go, so the card stays until it is reset.
    assert!(matches!(qemu.detach_nic(uid, "02:00:00:00:00:01").await, Err(Error::Busy { .. })));
    qemu.reboot(uid, Reboot::Hard).await.unwrap();
    let begun = Instant::now();
    while qemu.detach_nic(uid, "02:00:00:00:00:01").await.is_err() {
        assert!(begun.elapsed() < Duration::from_secs(20));
    }
    qemu.detach_nic(uid, "02:00:00:00:00:01").await.unwrap();
    assert_eq!(qemu.nics(uid).await.unwrap(), ["02:00:00:00:00:02"]);
    // Its place is free again.
    let again = tap(&format!("yfn4-{}", std::process::id()));
    qemu.attach_nic(uid, Nic { mac: "02:00:00:00:00:01".into(), tap: again }).await.unwrap();
    assert_eq!(qemu.nics(uid).await.unwrap().len(), 2);
    qemu.stop(uid).await.unwrap();
    assert!(matches!(qemu.nics(uid).await, Err(Error::NotRunning { .. })));
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect()
}
