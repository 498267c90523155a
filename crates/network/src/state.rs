//! The small JSON files by which a restarted process knows what an earlier one set up.

use crate::error::{NetworkError, Result};
use crate::types::{Attachment, Member, NetworkConfig, Policy};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A network as it was last told to us.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct SavedNetwork {
    pub(crate) config: NetworkConfig,
    pub(crate) members: Vec<Member>,
    #[serde(default)]
    pub(crate) policy: Policy,
}

/// What was changed on the host itself, to be put back by teardown.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct SavedHost {
    /// The value of net.ipv4.ip_forward before this cloud came.
    pub(crate) ip_forward_before: Option<String>,
    /// First address of the uplink's /30.
    pub(crate) transfer: Option<Ipv4Addr>,
}

/// The addresses of this node's slice that are taken, by pod uid.
pub(crate) type SavedAddresses = BTreeMap<String, Ipv4Addr>;

/// The state directory.
#[derive(Debug, Clone)]
pub(crate) struct StateDir {
    root: PathBuf,
}

impl StateDir {
    /// Opens it, making what is missing.
    pub(crate) fn open(root: &Path) -> Result<Self> {
        let mut builder = std::fs::DirBuilder::new();
        builder.recursive(true).mode(0o700);
        for dir in [root.to_owned(), root.join("networks"), root.join("ports")] {
            builder.create(&dir).map_err(|e| NetworkError::io(format!("create {}", dir.display()), e))?;
        }
        Ok(Self { root: root.to_owned() })
    }

    pub(crate) fn networks(&self) -> Result<Vec<SavedNetwork>> {
        self.read_all("networks")
    }

    pub(crate) fn save_network(&self, network: &SavedNetwork) -> Result<()> {
        self.write(&format!("networks/{}.json", network.config.uid), network)
    }

    pub(crate) fn forget_network(&self, uid: &str) -> Result<()> {
        self.delete(&format!("networks/{uid}.json"))
    }

    pub(crate) fn attachments(&self) -> Result<Vec<Attachment>> {
        self.read_all("ports")
    }

    pub(crate) fn save_attachment(&self, attachment: &Attachment) -> Result<()> {
        self.write(&format!("ports/{}.json", attachment.port_uid), attachment)
    }

    pub(crate) fn forget_attachment(&self, port_uid: &str) -> Result<()> {
        self.delete(&format!("ports/{port_uid}.json"))
    }

    pub(crate) fn addresses(&self) -> Result<SavedAddresses> {
        Ok(self.read("addresses.json")?.unwrap_or_default())
    }

    pub(crate) fn save_addresses(&self, addresses: &SavedAddresses) -> Result<()> {
        self.write("addresses.json", addresses)
    }

    pub(crate) fn host(&self) -> Result<SavedHost> {
        Ok(self.read("host.json")?.unwrap_or_default())
    }

    pub(crate) fn save_host(&self, host: &SavedHost) -> Result<()> {
        self.write("host.json", host)
    }

    /// Removes all files of ours, and the directory if nothing else is in it.
    pub(crate) fn clear(&self) -> Result<()> {
        for name in ["networks", "ports"] {
            let dir = self.root.join(name);
            match std::fs::remove_dir_all(&dir) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(NetworkError::io(format!("remove {}", dir.display()), e));
                }
                _ => {}
            }
        }
        self.delete("addresses.json")?;
        self.delete("host.json")?;
        let _ = std::fs::remove_dir(&self.root);
        Ok(())
    }

    fn read_all<T: DeserializeOwned>(&self, dir: &str) -> Result<Vec<T>> {
        let path = self.root.join(dir);
        let entries =
            std::fs::read_dir(&path).map_err(|e| NetworkError::io(format!("list {}", path.display()), e))?;
        let mut names: Vec<String> = entries
            .flatten()
            .filter_map(|e| e.file_name().into_string().ok())
            .filter(|n| n.ends_with(".json"))
            .collect();
        names.sort();
        let mut all = Vec::with_capacity(names.len());
        for name in names {
            all.extend(self.read(&format!("{dir}/{name}"))?);
        }
        Ok(all)
    }

    fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        let path = self.root.join(name);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(NetworkError::io(format!("read {}", path.display()), e)),
        };
        serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|e| NetworkError::State { path: path.display().to_string(), message: e.to_string() })
    }

    /// Writes beside and renames, so that a killed process leaves the old file or the new one. Not fsync'd:
    /// after a power cut there are no namespaces either, and the agent attaches everything again.
    fn write<T: Serialize>(&self, name: &str, value: &T) -> Result<()> {
        let path = self.root.join(name);
        let beside = path.with_extension("new");
        let write = || -> std::io::Result<()> {
            let file = std::fs::OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&beside)?;
            let mut out = std::io::BufWriter::new(file);
            serde_json::to_writer(&mut out, value)?;
            std::io::Write::flush(&mut out)?;
            std::fs::rename(&beside, &path)
        };
        write().map_err(|e| NetworkError::io(format!("write {}", path.display()), e))
    }

    fn delete(&self, name: &str) -> Result<()> {
        let path = self.root.join(name);
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(NetworkError::io(format!("remove {}", path.display()), e))
            }
            _ => Ok(()),
        }
    }
}
