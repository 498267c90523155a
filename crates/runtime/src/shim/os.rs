//! The system calls of the shim that no safe wrapper offers.

#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::Errno;
use rustix::process::Pid;
use rustix::thread::UnshareFlags;

use crate::seccomp::Instruction;

/// Gives this process namespaces of its own.
pub(super) fn unshare(flags: UnshareFlags) -> rustix::io::Result<()> {
    debug_assert!(!flags.contains(UnshareFlags::FILES));
    // SAFETY: unsharing endangers memory or I/O safety only for file descriptor tables shared between threads
    // (CLONE_FILES); no caller asks for that, and this process has one thread (checked at entry).
    unsafe { rustix::thread::unshare_unsafe(flags) }
}

/// Runs `work` in a copy of this process, which ends with its result as exit code.
pub(super) fn fork(work: impl FnOnce() -> i32) -> Result<Pid, Errno> {
    // SAFETY: the child of a fork may run arbitrary code only if no other thread existed that could have held a
    // lock. This process has one thread (checked at entry) and nothing here starts another.
    match unsafe { libc::fork() } {
        0 => {
            let code = work();
            // SAFETY: ends the process at once; no destructor or exit handler of the parent's state runs in the
            // copy, which is the purpose.
            unsafe { libc::_exit(code) }
        }
        pid => Pid::from_raw(pid).filter(|_| pid > 0).ok_or_else(|| last_error(Errno::AGAIN)),
    }
}

/// Children of this process leave nothing behind when they end: nobody asks how they did.
pub(super) fn let_children_go() -> Result<(), Errno> {
    on_children(libc::SIG_IGN)
}

/// Takes [`let_children_go`] back, which a copy of a process inherits.
pub(super) fn mind_children() -> Result<(), Errno> {
    on_children(libc::SIG_DFL)
}

fn on_children(what: libc::sighandler_t) -> Result<(), Errno> {
    // SAFETY: no function of ours is installed: the signal is ignored, or treated as by default.
    match unsafe { libc::signal(libc::SIGCHLD, what) } {
        libc::SIG_ERR => Err(last_error(Errno::INVAL)),
        _ => Ok(()),
    }
}

/// Has `/proc` show `line` as this process's command line: words that each end with a zero byte. It has to fit in where the words are
/// that the process was started with; asking the kernel to look elsewhere takes a capability that not every root has.
pub(super) fn set_command_line(line: &[u8]) -> std::io::Result<()> {
    use std::os::unix::fs::FileExt;
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // The fields from the third on (`man 5 proc_pid_stat`); the second may hold blanks. 48 and 49 are where the words begin and end.
    let fields = stat.rsplit_once(')').map(|(_, rest)| rest).unwrap_or_default();
    let place =
        |field: usize| fields.split_whitespace().nth(field - 3).and_then(|text| text.parse::<u64>().ok());
    let (Some(start), Some(end)) = (place(48), place(49)) else {
        return Err(std::io::Error::other("/proc/self/stat tells not where it is"));
    };
    let mut words = vec![0; usize::try_from(end.saturating_sub(start)).unwrap_or(0)];
    // The last byte stays zero, so that every word in there has an end.
    if line.len() >= words.len() {
        return Err(std::io::Error::other(format!("{} bytes do not fit in {}", line.len(), words.len())));
    }
    words[..line.len()].copy_from_slice(line);
    std::fs::OpenOptions::new().write(true).open("/proc/self/mem")?.write_all_at(&words, start)
}

/// Opens the inner side of a terminal by its master, wherever it is mounted (`TIOCGPTPEER`).
pub(super) fn inner_side(master: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: this request takes a number and no pointer, and the descriptor is open.
    match unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags) } {
        // SAFETY: the call just made this descriptor, and nobody else knows it.
        fd if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(last_error(Errno::INVAL)),
    }
}

fn last_error(unknown: Errno) -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(unknown)
}

/// Has the kernel check every system call of this process from now on with a filter.
pub(super) fn filter_system_calls(filter: &[Instruction]) -> Result<(), Errno> {
    let mut steps: Vec<libc::sock_filter> = filter
        .iter()
        .map(|step| libc::sock_filter { code: step.code, jt: step.yes, jf: step.no, k: step.value })
        .collect();
    let len = u16::try_from(steps.len()).map_err(|_| Errno::INVAL)?;
    let program = libc::sock_fprog { len, filter: steps.as_mut_ptr() };
    // SAFETY: the kernel copies the `len` instructions that `filter` points at before the call returns, and writes nothing. `steps`
    // lives until then.
    let done = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, std::ptr::from_ref(&program))
    };
    if done == 0 {
        return Ok(());
    }
    Err(last_error(Errno::INVAL))
}

/// Changes how mounts of the tree that is open are (`mount_setattr(2)`): the topmost one, or all of them.
pub(super) fn change_mounts(
    tree: BorrowedFd<'_>,
    all: bool,
    read_only: bool,
    propagation: u64,
) -> Result<(), Errno> {
    let attributes = libc::mount_attr {
        attr_set: if read_only { libc::MOUNT_ATTR_RDONLY } else { 0 },
        attr_clr: 0,
        propagation,
        userns_fd: 0,
    };
    let flags = libc::AT_EMPTY_PATH | if all { libc::AT_RECURSIVE } else { 0 };
    let size = size_of::<libc::mount_attr>();
    // SAFETY: the kernel reads a path of no bytes with its zero, and `size` bytes of `attributes`, and writes nothing. Both live until the
    // call returns, and the descriptor is open.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(&attributes),
            size,
        )
    };
    if done == 0 {
        return Ok(());
    }
    Err(last_error(Errno::INVAL))
}

/// What `bpf(2)` is asked to do, and for what kind of program.
const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_ATTACH: libc::c_int = 8;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
/// Programs of cgroups further up and down are asked as well.
const BPF_F_ALLOW_MULTI: u32 = 2;

/// The part of `union bpf_attr` that loading needs. There is no room between its fields.
#[repr(C)]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
}

/// The part of `union bpf_attr` that attaching needs.
#[repr(C)]
struct Attach {
    cgroup: i32,
    program: i32,
    kind: u32,
    flags: u32,
}

/// Has the kernel ask a program about each device that is opened or made in a cgroup (of v2), as long as the cgroup is there.
pub(super) fn filter_devices(cgroup: BorrowedFd<'_>, program: &[u64]) -> Result<(), Errno> {
    let count = u32::try_from(program.len()).map_err(|_| Errno::INVAL)?;
    // It calls no function of the kernel that is for some licenses only.
    let license = c"Apache-2.0";
    let load = Load {
        kind: BPF_PROG_TYPE_CGROUP_DEVICE,
        count,
        instructions: program.as_ptr() as u64,
        license: license.as_ptr() as u64,
    };
    let size = size_of::<Load>();
    // SAFETY: the kernel reads `size` bytes of `load`, `count` instructions and the license up to its zero, and writes nothing. All of them
    // live until the call returns.
    let loaded = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, std::ptr::from_ref(&load), size) };
    let loaded = i32::try_from(loaded).ok().filter(|fd| *fd >= 0).ok_or_else(|| last_error(Errno::INVAL))?;
    // SAFETY: the call just made this descriptor, and nobody else knows it.
    let loaded = unsafe { OwnedFd::from_raw_fd(loaded) };
    let attach = Attach {
        cgroup: cgroup.as_raw_fd(),
        program: loaded.as_raw_fd(),
        kind: BPF_CGROUP_DEVICE,
        flags: BPF_F_ALLOW_MULTI,
    };
    let size = size_of::<Attach>();
    // SAFETY: the kernel reads `size` bytes of `attach`, which lives until the call returns, and writes nothing. Both descriptors are open.
    match unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_ATTACH, std::ptr::from_ref(&attach), size) } {
        0 => Ok(()),
        _ => Err(last_error(Errno::INVAL)),
    }
}
