//! Ends everything of one cloud instance, without its process.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;

use crate::Error;
use crate::args::is_uid;
use crate::cgroup::Hierarchies;
use crate::process::kill;
use crate::record::Files;

/// Ends every machine of the cloud instance `tag`, and removes their cgroups and everything in `root` (which need not exist).
/// Disks are kept elsewhere and stay. Returns how many machines there were. Doing it twice is fine. Blocks.
pub fn teardown(tag: &str, root: &Path) -> Result<usize, Error> {
    let hierarchies = Hierarchies::find().map_err(Error::io("read", "/proc/self/mountinfo"))?;
    let mut machines: BTreeSet<String> = hierarchies.machines(tag);
    match fs::read_dir(root) {
        Ok(entries) => machines.extend(
            entries
                .flatten()
                .filter_map(|entry| entry.file_name().into_string().ok())
                .filter(|uid| is_uid(uid)),
        ),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(Error::io("read", root)(error)),
    }
    for uid in &machines {
        let files = Files::new(root, uid);
        if let Ok(Some(record)) = files.load()
            && let Some(process) = record.process
            && let Ok(Some(handle)) = process.open()
        {
            kill(&handle).map_err(Error::io("end QEMU of", &files.dir))?;
        }
        hierarchies.remove(tag, uid).map_err(Error::io("remove the cgroup of", &files.dir))?;
    }
    match fs::remove_dir_all(root) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", root)(error)),
        _ => Ok(machines.len()),
    }
}
