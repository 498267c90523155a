//! The two system calls that have no safe wrapper. All unsafe code of the crate is here.
#![allow(unsafe_code)]

use rustix::io::Result;
use std::os::fd::{BorrowedFd, OwnedFd};

/// Gives the calling thread a new, empty network namespace.
pub(crate) fn unshare_network() -> Result<()> {
    // SAFETY: `unshare` is unsafe because of CLONE_FILES, which would let another thread's descriptors
    // dangle. CLONE_NEWNET changes only what the calling thread sees as "the network".
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }
}

/// `struct ifreq` as TUNSETIFF reads it: a name, flags, and the rest of the kernel's union.
#[repr(C)]
struct IfReq {
    name: [u8; 16],
    flags: u16,
    padding: [u8; 22],
}

const TUNSETIFF: rustix::ioctl::Opcode = 0x4004_54ca;
const IFF_TAP: u16 = 0x0002;
const IFF_NO_PI: u16 = 0x1000;
const IFF_VNET_HDR: u16 = 0x4000;

/// Makes `fd`, freshly opened from /dev/net/tun, the tap device `name` of the calling thread's namespace.
///
/// `name` must be at most 15 bytes; longer ones are cut, which the callers' names never are.
pub(crate) fn become_tap(fd: BorrowedFd<'_>, name: &str) -> Result<()> {
    let mut request = IfReq { name: [0; 16], flags: IFF_TAP | IFF_NO_PI | IFF_VNET_HDR, padding: [0; 22] };
    for (slot, byte) in request.name.iter_mut().take(15).zip(name.bytes()) {
        *slot = byte;
    }
    // SAFETY: TUNSETIFF takes a pointer to a `struct ifreq` of 40 bytes, reads it and writes the final name
    // back into it. `IfReq` has that layout (checked below), and outlives the call.
    unsafe { rustix::ioctl::ioctl(fd, rustix::ioctl::Updater::<TUNSETIFF, IfReq>::new(&mut request)) }
}

const _: () = assert!(size_of::<IfReq>() == 40);

/// Opens the device from which taps are made: close-on-exec and non-blocking, as QEMU wants it.
pub(crate) fn open_tun() -> Result<OwnedFd> {
    use rustix::fs::{Mode, OFlags};
    rustix::fs::open("/dev/net/tun", OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty())
}
