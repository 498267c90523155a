//! What runs the containers of this node: the runtime in this program, or one that serves CRI v1 on a socket.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use yunfan_cri::CriRuntime;
use yunfan_runtime::{EmbeddedRuntime, ImageService, Result, Runtime, RuntimeError, RuntimeFeatures, kit};

/// Which of both.
#[derive(Debug, Clone)]
pub enum ContainerRuntime {
    /// The one in this program.
    Embedded {
        /// Command line that enters its shim.
        shim: Vec<String>,
        /// Directory that says where images of registries are fetched from, as containerd's `certs.d`.
        registries: PathBuf,
    },
    /// Another one.
    Cri {
        /// Its socket.
        socket: PathBuf,
    },
}

/// A runtime that is open.
pub(crate) struct Containers {
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) images: Arc<dyn ImageService>,
    /// Name and version, as the Node tells them.
    pub(crate) version: String,
    pub(crate) features: RuntimeFeatures,
}

/// In the agent's directory: the socket of the runtime that has this node's containers. None is there for the embedded one.
const NOTE: &str = "container-runtime";

/// Opens the runtime that was chosen. In `memory` is what must not reach a disk, below `claims` what single Pods have mounted.
///
/// # Errors
/// When it can't be used, or containers of this node run by another one.
pub(crate) async fn open(
    chosen: ContainerRuntime,
    tag: &str,
    root: &Path,
    (memory, claims): (&Path, &Path),
) -> Result<Containers> {
    let socket = match &chosen {
        ContainerRuntime::Embedded { .. } => None,
        ContainerRuntime::Cri { socket } => Some(socket.clone()),
    };
    take_over(tag, root, socket.as_deref())?;
    Ok(match chosen {
        ContainerRuntime::Embedded { shim, registries } => {
            let registries = Some(registries);
            let (root, memory) = (root.to_owned(), Some(memory.to_owned()));
            let apart = vec![claims.to_owned()];
            let config =
                yunfan_runtime::Config { tag: tag.to_owned(), root, shim, registries, memory, apart };
            let runtime = EmbeddedRuntime::open(config).await?;
            let version = format!("yunfan://{}", env!("CARGO_PKG_VERSION"));
            let features = runtime.features();
            Containers { images: runtime.images(), runtime: Arc::new(runtime), version, features }
        }
        ContainerRuntime::Cri { socket } => {
            let runtime = Arc::new(CriRuntime::open(cri_config(tag, root, socket)).await?);
            let (version, features) = (runtime.version(), runtime.features());
            Containers { images: runtime.clone(), runtime, version, features }
        }
    })
}

fn cri_config(tag: &str, root: &Path, socket: PathBuf) -> yunfan_cri::Config {
    let handover = yunfan_cri::cni::HANDOVER.into();
    yunfan_cri::Config { tag: tag.to_owned(), root: root.to_owned(), socket, handover }
}

/// Writes down which runtime has this node's containers. What another one left on the disk of pods that run no more goes.
fn take_over(tag: &str, root: &Path, socket: Option<&Path>) -> Result<()> {
    let before = noted(root)?;
    if before.as_deref() == socket {
        return Ok(());
    }
    if kit::has_pods(tag) {
        let name = |socket: Option<&Path>| match socket {
            Some(socket) => format!("unix://{}", socket.display()),
            None => "the runtime in this program".to_owned(),
        };
        return Err(RuntimeError::InvalidConfig {
            field: "--container-runtime-endpoint",
            reason: format!(
                "Pods of this node are run by {}: end them with `yunfan down` before {} takes over",
                name(before.as_deref()),
                name(socket)
            ),
        });
    }
    let pods = root.join("pods");
    // No volume is to go with it.
    kit::unmount_below(&pods)?;
    kit::remove_tree(&pods)?;
    let path = root.join(NOTE);
    match socket {
        Some(socket) => kit::write_json(&path, &socket, true),
        None => std::fs::remove_file(&path).map_err(RuntimeError::io("remove", &path)),
    }
}

/// The socket of the runtime that has this node's containers; none for the embedded one.
fn noted(root: &Path) -> Result<Option<PathBuf>> {
    let path = root.join(NOTE);
    match std::fs::read(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(RuntimeError::io("read", &path)(error)),
        Ok(text) => serde_json::from_slice(&text)
            .map(Some)
            .map_err(|error| RuntimeError::io("read", &path)(error.into())),
    }
}

/// Removes everything of an instance's containers, whichever runtime has them. Blocks.
///
/// # Errors
/// What could not be removed; the processes are ended all the same.
pub(crate) fn teardown(tag: &str, root: &Path) -> Result<()> {
    let there = match noted(root) {
        Ok(Some(socket)) => yunfan_cri::teardown(cri_config(tag, root, socket)),
        other => other.map(drop),
    };
    // Also of what is left behind CRI: processes are in the instance's cgroups, mounts below its directory.
    yunfan_runtime::teardown(tag, root)?;
    there
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_runtime_takes_over_when_nothing_runs() {
        let dir = tempfile::tempdir().unwrap();
        let old = dir.path().join("pods/u/logs");
        let (one, other) = (Path::new("/run/one.sock"), Path::new("/run/other.sock"));
        // No instance has such a tag.
        let to = |socket| take_over("nosuch", dir.path(), socket).unwrap();
        for socket in [None, Some(one), Some(one), Some(other), None] {
            let before = noted(dir.path()).unwrap();
            std::fs::create_dir_all(&old).unwrap();
            to(socket);
            assert_eq!(noted(dir.path()).unwrap().as_deref(), socket);
            assert_eq!(old.exists(), before.as_deref() == socket, "{before:?} to {socket:?}");
        }
    }
}
