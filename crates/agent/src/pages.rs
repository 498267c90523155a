//! Huge pages: what the node keeps of them, and what Kubernetes calls them (`hugepages-2Mi`).

use std::path::Path;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::pod::resources::milli;

/// What names of such resources begin with, and the media of emptyDirs of a size of pages; those of the only size have this alone.
pub(crate) const PREFIX: &str = "hugepages-";
pub(crate) const MEDIUM: &str = "HugePages";
/// Where the kernel says what it keeps.
const POOLS: &str = "/sys/kernel/mm/hugepages";

/// The pages of one size that the node keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pool {
    pub(crate) page_bytes: u64,
    pub(crate) pages: u64,
}

impl Pool {
    /// What the resource is called.
    pub(crate) fn name(&self) -> String {
        format!("{PREFIX}{}", binary(self.page_bytes))
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.page_bytes.saturating_mul(self.pages)
    }

    /// How much there is, as a quantity.
    pub(crate) fn amount(&self) -> String {
        binary(self.bytes())
    }
}

/// All sizes of pages that this node's kernel has, also those of which it keeps none.
pub(crate) fn of_node() -> Vec<Pool> {
    of(Path::new(POOLS))
}

fn of(pools: &Path) -> Vec<Pool> {
    let Ok(entries) = std::fs::read_dir(pools) else { return Vec::new() };
    let mut found: Vec<Pool> = entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let kib: u64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
            let pages = std::fs::read_to_string(entry.path().join("nr_hugepages")).ok()?;
            Some(Pool { page_bytes: kib.checked_mul(1024)?, pages: pages.trim().parse().ok()? })
        })
        .collect();
    found.sort_by_key(|pool| pool.page_bytes);
    found
}

/// The size of pages, bytes, that a resource or an emptyDir's medium is of (`hugepages-2Mi`, `HugePages-2Mi`); none of another name.
pub(crate) fn size_in(name: &str) -> Option<u64> {
    let size = name.strip_prefix(PREFIX).or_else(|| name.strip_prefix(MEDIUM)?.strip_prefix('-'))?;
    u64::try_from(milli(&Quantity(size.to_owned()))? / 1000).ok().filter(|bytes| *bytes > 0)
}

/// A number of bytes as Kubernetes writes it: in the largest unit of which it is a multiple.
fn binary(bytes: u64) -> String {
    let units = ["", "Ki", "Mi", "Gi", "Ti"];
    let step =
        (0..units.len()).rev().find(|step| bytes != 0 && bytes.is_multiple_of(1 << (10 * step))).unwrap_or(0);
    format!("{}{}", bytes >> (10 * step), units[step])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_have_kubernetes_names() {
        let dir = tempfile::tempdir().unwrap();
        for (name, pages) in [("hugepages-1048576kB", "0\n"), ("hugepages-2048kB", "3\n"), ("other", "1\n")] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
            std::fs::write(dir.path().join(name).join("nr_hugepages"), pages).unwrap();
        }
        let told: Vec<(String, String)> =
            of(dir.path()).iter().map(|pool| (pool.name(), pool.amount())).collect();
        let pair = |name: &str, amount: &str| (name.to_owned(), amount.to_owned());
        assert_eq!(told, [pair("hugepages-2Mi", "6Mi"), pair("hugepages-1Gi", "0")]);
        assert_eq!((size_in("hugepages-2Mi"), size_in("HugePages-1Gi")), (Some(2 << 20), Some(1 << 30)));
        assert_eq!((size_in("HugePages"), size_in("cpu"), size_in("hugepages-x")), (None, None, None));
        assert_eq!(of(Path::new("/nonexistent")), []);
    }
}
