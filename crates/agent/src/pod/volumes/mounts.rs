//! What a container gets of its Pod's volumes.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, VolumeMount};
use yunfan_runtime::{Device, ImageMount, Mount, Propagation};

use super::{Place, Volumes};
use crate::pod::env::{NotExpanded, Room, TooLarge, try_expand};

/// Why a container can't have its mounts.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MountError {
    #[error("container {container}: volumeMounts names volume {volume}, which spec.volumes does not have")]
    Unknown { container: String, volume: String },
    #[error("missing value for {0:?}")]
    NoValue(String),
    #[error("subPathExpr: {0}")]
    TooLarge(TooLarge),
    #[error("error SubPath `{0}` must not be an absolute path")]
    Absolute(String),
    #[error("unable to provision SubPath `{0}`: must not contain '..'")]
    Steps(String),
    #[error("volume {0} has volumeMode Block, but is specified in volumeMounts")]
    IsDevice(String),
    #[error("volume {0} has volumeMode Filesystem, but is specified in volumeDevices")]
    IsNoDevice(String),
    #[error("mount {0}: Bidirectional mount propagation is available only to privileged containers")]
    Bidirectional(String),
}

/// A container's mounts, from the node and from images.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Mounts {
    pub(crate) node: Vec<Mount>,
    pub(crate) images: Vec<ImageMount>,
    pub(crate) devices: Vec<Device>,
}

impl Volumes {
    /// The mounts of a container with the environment `env`.
    pub(crate) fn mounts(
        &self,
        container: &Container,
        env: &BTreeMap<&str, &str>,
    ) -> Result<Mounts, MountError> {
        let mut mounts = Mounts::default();
        for mount in container.volume_mounts.iter().flatten() {
            let Some(known) = self.known.get(&mount.name) else {
                return Err(MountError::Unknown {
                    container: container.name.clone(),
                    volume: mount.name.clone(),
                });
            };
            let sub_path = sub_path(mount, env)?;
            let container_path = PathBuf::from("/").join(&mount.mount_path);
            let propagation = match mount.mount_propagation.as_deref() {
                Some("HostToContainer") => Propagation::FromNode,
                // The API server sees to that. What got past it would reach the node.
                Some("Bidirectional") if !is_privileged(container) => {
                    return Err(MountError::Bidirectional(mount.name.clone()));
                }
                Some("Bidirectional") => Propagation::Both,
                _ => Propagation::Private,
            };
            match &known.place {
                Place::Device(_) => return Err(MountError::IsDevice(mount.name.clone())),
                Place::Image(image) => {
                    mounts.images.push(ImageMount { image: image.clone(), container_path, sub_path });
                }
                Place::Node(path) => mounts.node.push(Mount {
                    host_path: path.clone(),
                    container_path,
                    read_only: mount.read_only.unwrap_or(false) || known.read_only,
                    recursive_read_only: is_recursive(mount),
                    propagation,
                    sub_path,
                }),
            }
        }
        for device in container.volume_devices.iter().flatten() {
            let known = self.known.get(&device.name).ok_or_else(|| MountError::Unknown {
                container: container.name.clone(),
                volume: device.name.clone(),
            })?;
            let Place::Device(path) = &known.place else {
                return Err(MountError::IsNoDevice(device.name.clone()));
            };
            mounts.devices.push(Device {
                host_path: path.clone(),
                container_path: PathBuf::from("/").join(&device.device_path),
                read_only: known.read_only,
            });
        }
        Ok(mounts)
    }
}

fn is_privileged(container: &Container) -> bool {
    container.security_context.as_ref().is_some_and(|security| security.privileged == Some(true))
}

/// Whether what is mounted below the mount is to be read-only too. The kernel can do that since Linux 5.12.
pub(crate) fn is_recursive(mount: &VolumeMount) -> bool {
    matches!(mount.recursive_read_only.as_deref(), Some("Enabled" | "IfPossible"))
}

fn sub_path(mount: &VolumeMount, env: &BTreeMap<&str, &str>) -> Result<Option<PathBuf>, MountError> {
    let text = match (&mount.sub_path, &mount.sub_path_expr) {
        (Some(path), _) if !path.is_empty() => path.clone(),
        (_, Some(expression)) if !expression.is_empty() => {
            let known = |name: &str| env.get(name).copied();
            try_expand(expression, known, &mut Room::new()).map_err(|why| match why {
                NotExpanded::Unknown(name) => MountError::NoValue(name),
                NotExpanded::TooLarge(why) => MountError::TooLarge(why),
            })?
        }
        _ => return Ok(None),
    };
    let path = Path::new(&text);
    if path.is_absolute() {
        return Err(MountError::Absolute(text));
    }
    if path.components().any(|part| part == Component::ParentDir) {
        return Err(MountError::Steps(text));
    }
    Ok(Some(path.components().filter(|part| *part != Component::CurDir).collect()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::Known;
    use super::*;

    fn mounts(mount: serde_json::Value) -> Result<Mounts, String> {
        of(json!({"name": "c", "volumeMounts": [mount]}))
    }

    fn of(container: serde_json::Value) -> Result<Mounts, String> {
        let known = |place, read_only| Known { place, read_only };
        let volumes = Volumes {
            known: BTreeMap::from([
                ("data".to_owned(), known(Place::Node("/d".into()), false)),
                ("config".to_owned(), known(Place::Node("/c".into()), true)),
                ("disk".to_owned(), known(Place::Device("/dev/loop9".into()), false)),
                ("tools".to_owned(), known(Place::Image("demo/tools:1".to_owned()), true)),
            ]),
            ..Volumes::default()
        };
        let container = serde_json::from_value(container).unwrap();
        volumes
            .mounts(&container, &BTreeMap::from([("NAME", "web"), ("BAD", "/etc")]))
            .map_err(|e| e.to_string())
    }

    #[test]
    fn mounts_are_what_the_container_asks_for() {
        let made =
            mounts(json!({"name": "data", "mountPath": "/a", "subPathExpr": "./logs/$(NAME)"})).unwrap();
        assert_eq!(made.node[0].sub_path.as_deref(), Some(Path::new("logs/web")));
        assert!(!made.node[0].read_only);
        let made =
            mounts(json!({"name": "config", "mountPath": "/a", "mountPropagation": "HostToContainer"}));
        let made = made.unwrap();
        assert!(made.node[0].read_only, "what is made from objects can't be written to");
        assert_eq!(made.node[0].propagation, Propagation::FromNode);
        let made = mounts(json!({"name": "tools", "mountPath": "/a", "subPath": "bin"})).unwrap();
        assert_eq!(made.images[0].image, "demo/tools:1");
    }

    #[test]
    fn a_device_is_no_directory() {
        let devices =
            |name: &str| of(json!({"name": "c", "volumeDevices": [{"name": name, "devicePath": "/dev/x"}]}));
        let device = &devices("disk").unwrap().devices[0];
        assert_eq!(
            (device.host_path.as_path(), device.container_path.as_path()),
            (Path::new("/dev/loop9"), Path::new("/dev/x"))
        );
        assert!(devices("data").unwrap_err().contains("has volumeMode Filesystem"));
        assert!(
            mounts(json!({"name": "disk", "mountPath": "/a"})).unwrap_err().contains("has volumeMode Block")
        );
    }

    #[test]
    fn a_sub_path_that_can_not_be_is_refused() {
        let refused = |expression: &str| {
            mounts(json!({"name": "data", "mountPath": "/a", "subPathExpr": expression})).unwrap_err()
        };
        assert_eq!(refused("$(BAD)/x"), "error SubPath `/etc/x` must not be an absolute path");
        assert_eq!(refused("$(NONE)"), "missing value for \"NONE\"");
        assert_eq!(refused("a/../../b"), "unable to provision SubPath `a/../../b`: must not contain '..'");
        assert!(mounts(json!({"name": "none", "mountPath": "/a"})).is_err());
        let both = json!({"name": "data", "mountPath": "/a", "mountPropagation": "Bidirectional"});
        assert!(mounts(both.clone()).unwrap_err().contains("only to privileged containers"));
        let made = of(json!({
            "name": "c", "securityContext": {"privileged": true}, "volumeMounts": [both],
        }));
        assert_eq!(made.unwrap().node[0].propagation, Propagation::Both);
    }
}
