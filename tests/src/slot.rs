//! Ports and address ranges that one cloud has for itself on this host, also beside other test processes.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::net::TcpListener;
use std::path::Path;

/// A number that no other cloud under test has now.
#[derive(Debug)]
pub struct Slot {
    number: u16,
    lock: File,
}

const DIRECTORY: &str = "/var/tmp/yunfan-e2e-slots";
/// One /16 of 10.20 to 10.59 each.
const SLOTS: u16 = 40;
const FIRST_PORT: u16 = 21_000;

impl Slot {
    /// Takes a free slot. What a test process that was killed has left in it is removed first.
    pub fn take() -> Self {
        std::fs::create_dir_all(DIRECTORY).expect("a directory for slots");
        for number in 0..SLOTS {
            let path = Path::new(DIRECTORY).join(number.to_string());
            let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
            let lock = open.expect("a slot's file");
            match lock.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => continue,
                Err(TryLockError::Error(error)) => panic!("{}: {error}", path.display()),
            }
            let mut slot = Self { number, lock };
            slot.clear();
            if (0..4).all(|index| TcpListener::bind(("127.0.0.1", slot.port(index))).is_ok()) {
                return slot;
            }
        }
        panic!("all {SLOTS} slots are taken, see {DIRECTORY}");
    }

    fn clear(&mut self) {
        let mut left = String::new();
        self.lock.read_to_string(&mut left).expect("a slot's file");
        for dir in left.lines().map(Path::new) {
            if dir.join("instance").exists() {
                let dir = dir.to_string_lossy();
                crate::run(crate::binary(), &["down", "--delete-data", "--data-dir", &dir]);
            }
            let work = dir.parent().filter(|work| work.to_string_lossy().contains("/yunfan-e2e-"));
            let _ = work.map(std::fs::remove_dir_all);
        }
        self.lock.set_len(0).and_then(|()| self.lock.rewind()).expect("a slot's file");
    }

    /// Remembers a data directory in the slot, for the case that this process is killed.
    pub fn remember(&self, data_dir: &Path) {
        let mut lock = &self.lock;
        writeln!(lock, "{}", data_dir.display()).expect("a slot's file");
    }

    /// The slot's loopback ports: 0 is the API's, 1 to 9 are free for the test.
    pub fn port(&self, index: u16) -> u16 {
        FIRST_PORT + self.number * 10 + index
    }

    /// Range of the cluster network.
    pub fn cluster_cidr(&self) -> String {
        format!("10.{}.0.0/17", 20 + self.number)
    }

    /// Range of the Services' addresses.
    pub fn service_cidr(&self) -> String {
        format!("10.{}.128.0/17", 20 + self.number)
    }
}
