//! The system calls of the shim that no safe wrapper offers.

#![allow(unsafe_code)]

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
        pid => Pid::from_raw(pid)
            .filter(|_| pid > 0)
            .ok_or_else(|| Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::AGAIN)),
    }
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
    Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL))
}
