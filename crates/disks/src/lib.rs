//! Images of virtual machines, copy-on-write disks made from them, and volumes, on one node.
//!
//! **Owns** the files below its root directory: `images/ID/{image,info.json}`, `{disks,volumes,snapshots}/UID/{disk.qcow2,disk.json}`, and
//! `incoming/` for what is not whole yet (wiped on open).
//!
//! **Must never know** objects, projects or hypervisors: an image is an id and bytes, a disk is the id of who uses it.
//!
//! **Start reading** at [`ImageStore`] (upload, checks, removal), then [`DiskStore`], the one [`VolumeDriver`], then `header.rs` (what an uploaded file
//! must look like before any other program may open it).

#![forbid(unsafe_code)]

mod apart;
mod append;
pub mod conformance;
mod copy;
mod disk;
mod driver;
mod error;
mod foreign;
mod header;
mod image;
mod iso;
mod place;
mod qemu_img;
mod receive;
#[cfg(test)]
mod tests;

pub use copy::Copying;
pub use disk::{Disk, DiskStore};
pub use driver::{Filling, VolumeDriver};
pub use error::Error;
pub use image::{Format, ImageInfo, ImageStore, Limits};
pub use iso::iso;
