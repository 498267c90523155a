//! What a container gets of its pod's volumes: each is mounted by the shim, which knows how mounts are to reach it, and bound from there.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use super::Inner;
use super::pod::Pod;
use crate::error::{Result, RuntimeError};
use crate::mounts::{share, tree_of};
use crate::proto::{Bind, NETNS_DIR};
use crate::spec::Bound;
use crate::sys::MOST_FDS;
use crate::types::{ContainerConfig, Mount, Propagation};

/// The binds of a container.
#[derive(Default)]
pub(super) struct Volumes {
    /// What its specification says.
    pub(super) bounds: Vec<Bound>,
    /// What the shim mounts for that.
    pub(super) binds: Vec<Bind>,
    /// The node's mounts that it needs for that.
    pub(super) trees: Vec<OwnedFd>,
}

/// The container's binds from the node.
pub(super) fn of(inner: &Inner, pod: &Pod, bundle: &Path, config: &ContainerConfig) -> Result<Volumes> {
    let mut all = Volumes::default();
    for (number, mount) in config.mounts.iter().enumerate() {
        if !mount.host_path.exists() {
            let why = format!("{:?} does not exist on the node", mount.host_path);
            return Err(RuntimeError::invalid("volumeMounts", why));
        }
        let at = format!("binds/{number}");
        let mut base = mount.host_path.clone();
        if pod.takes_trees {
            // Parts of it are bound once more: it is made sure then that they are inside.
            let whole = if mount.sub_path.is_some() { format!("{at}-whole") } else { at.clone() };
            let path = match is_of_node(inner, pod, mount) {
                true => {
                    all.trees.push(tree_of_node(inner, mount)?);
                    None
                }
                false => Some(base),
            };
            base = bundle.join(&whole);
            let bare = bare(inner, mount);
            all.binds.push(Bind::Tree { path, at: whole, propagation: mount.propagation, bare });
        } else if mount.propagation == Propagation::Both {
            let why = "this Pod was begun by an older version of its node, which knew no Bidirectional: make it anew";
            return Err(RuntimeError::invalid("volumeMounts.mountPropagation", why));
        }
        let source = match &mount.sub_path {
            None => base,
            Some(path) => {
                all.binds.push(Bind::Part { base, path: path.clone(), at: at.clone(), make: true });
                bundle.join(at)
            }
        };
        all.bounds.push(Bound {
            source,
            target: mount.container_path.clone(),
            read_only: mount.read_only,
            recursive_read_only: mount.recursive_read_only,
            propagation: mount.propagation,
        });
    }
    if all.trees.len() > MOST_FDS {
        let why = format!(
            "a container may have {MOST_FDS} mounts of claims, of paths of the node, and of volumes that follow its mounts; this one has {}",
            all.trees.len()
        );
        return Err(RuntimeError::invalid("volumeMounts", why));
    }
    Ok(all)
}

/// Whether a volume is taken from the node's own mounts: what its pod sees of them has not all that is mounted later, and no mounts that are
/// other pods'. Only the pod has what its shim mounted.
fn is_of_node(inner: &Inner, pod: &Pod, mount: &Mount) -> bool {
    let path = &mount.host_path;
    if mount.propagation != Propagation::Private || inner.config.apart.iter().any(|dir| path.starts_with(dir))
    {
        return true;
    }
    let own = pod.status().config.tmpfs_volumes;
    !path.starts_with(&inner.config.root) && !own.iter().any(|volume| path.starts_with(&volume.path))
}

/// What of a path of the node is to have no mounts in it, where they would not go with the node's: a container would keep what other pods have
/// for as long as it lives.
fn bare(inner: &Inner, mount: &Mount) -> Vec<PathBuf> {
    if mount.propagation != Propagation::Private {
        return Vec::new();
    }
    let Ok(path) = std::fs::canonicalize(&mount.host_path) else { return Vec::new() };
    let memory = inner.memory.as_ref().and_then(|memory| memory.hidden());
    let others = inner.config.apart.iter().map(PathBuf::as_path).chain(memory).chain([Path::new(NETNS_DIR)]);
    let others = others.filter_map(|dir| std::fs::canonicalize(dir).ok());
    others.filter_map(|dir| Some(dir.strip_prefix(&path).ok()?.to_owned())).collect()
}

/// Whether a path is below what the agent has its pods' volumes in.
fn is_ours(inner: &Inner, path: &Path) -> bool {
    let memory = inner.memory.as_ref().and_then(|memory| memory.hidden());
    let apart = inner.config.apart.iter().map(PathBuf::as_path);
    apart.chain(memory).chain([inner.config.root.as_path()]).any(|dir| path.starts_with(dir))
}

fn tree_of_node(inner: &Inner, mount: &Mount) -> Result<OwnedFd> {
    match mount.propagation {
        Propagation::Private => {}
        // Anybody may ask for it: the mount that this node's own data is on is not changed for that. Who mounts there is privileged, and has
        // it shared.
        Propagation::FromNode if is_ours(inner, &mount.host_path) => {}
        // What is there already is seen all the same.
        Propagation::FromNode => {
            if let Err(error) = share(&mount.host_path) {
                tracing::warn!(%error, "a container will not see what is mounted on the node later");
            }
        }
        Propagation::Both => share(&mount.host_path)?,
    }
    tree_of(&mount.host_path)
        .map_err(|errno| RuntimeError::io("take the mounts at", &mount.host_path)(errno.into()))
}
