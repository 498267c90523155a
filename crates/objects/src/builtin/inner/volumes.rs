//! The parts of volumes and claims.

use super::Is::{Flag, Number, Of, Optional, Text, Whole};
use super::{LABEL_SELECTOR, Part};

pub(super) const GCE_PERSISTENT_DISK_VOLUME_SOURCE: &[Part] = &[
    Part("PDName", "pdName", Text),
    Part("FSType", "fsType", Text),
    Part("Partition", "partition", Number),
    Part("ReadOnly", "readOnly", Flag),
];
pub(super) const AWS_ELASTIC_BLOCK_STORE_VOLUME_SOURCE: &[Part] = &[
    Part("VolumeID", "volumeID", Text),
    Part("FSType", "fsType", Text),
    Part("Partition", "partition", Number),
    Part("ReadOnly", "readOnly", Flag),
];
pub(super) const HOST_PATH_VOLUME_SOURCE: &[Part] =
    &[Part("Path", "path", Text), Part("Type", "type", Optional)];
const GLUSTERFS_PERSISTENT_VOLUME_SOURCE: &[Part] = &[
    Part("EndpointsName", "endpoints", Text),
    Part("Path", "path", Text),
    Part("ReadOnly", "readOnly", Flag),
    Part("EndpointsNamespace", "endpointsNamespace", Optional),
];
pub(super) const NFS_VOLUME_SOURCE: &[Part] =
    &[Part("Server", "server", Text), Part("Path", "path", Text), Part("ReadOnly", "readOnly", Flag)];
const SECRET_REFERENCE: &[Part] = &[Part("Name", "name", Text), Part("Namespace", "namespace", Text)];
const RBD_PERSISTENT_VOLUME_SOURCE: &[Part] = &[
    Part("CephMonitors", "monitors", Optional),
    Part("RBDImage", "image", Text),
    Part("FSType", "fsType", Text),
    Part("RBDPool", "pool", Text),
    Part("RadosUser", "user", Text),
    Part("Keyring", "keyring", Text),
    Part("SecretRef", "secretRef", Of(SECRET_REFERENCE)),
    Part("ReadOnly", "readOnly", Flag),
];
pub(super) const QUOBYTE_VOLUME_SOURCE: &[Part] = &[
    Part("Registry", "registry", Text),
    Part("Volume", "volume", Text),
    Part("ReadOnly", "readOnly", Flag),
    Part("User", "user", Text),
    Part("Group", "group", Text),
    Part("Tenant", "tenant", Text),
];
const ISCSI_PERSISTENT_VOLUME_SOURCE: &[Part] = &[
    Part("TargetPortal", "targetPortal", Text),
    Part("IQN", "iqn", Text),
    Part("Lun", "lun", Number),
    Part("ISCSIInterface", "iscsiInterface", Text),
    Part("FSType", "fsType", Text),
    Part("ReadOnly", "readOnly", Flag),
    Part("Portals", "portals", Optional),
    Part("DiscoveryCHAPAuth", "chapAuthDiscovery", Flag),
    Part("SessionCHAPAuth", "chapAuthSession", Flag),
    Part("SecretRef", "secretRef", Of(SECRET_REFERENCE)),
    Part("InitiatorName", "initiatorName", Optional),
];
const FLEX_PERSISTENT_VOLUME_SOURCE: &[Part] = &[
    Part("Driver", "driver", Text),
    Part("FSType", "fsType", Text),
    Part("SecretRef", "secretRef", Of(SECRET_REFERENCE)),
    Part("ReadOnly", "readOnly", Flag),
    Part("Options", "options", Optional),
];
const CINDER_PERSISTENT_VOLUME_SOURCE: &[Part] = &[
    Part("VolumeID", "volumeID", Text),
    Part("FSType", "fsType", Text),
    Part("ReadOnly", "readOnly", Flag),
    Part("SecretRef", "secretRef", Of(SECRET_REFERENCE)),
];
const CEPH_FS_PERSISTENT_VOLUME_SOURCE: &[Part] = &[
    Part("Monitors", "monitors", Optional),
    Part("Path", "path", Text),
    Part("User", "user", Text),
    Part("SecretFile", "secretFile", Text),
    Part("SecretRef", "secretRef", Of(SECRET_REFERENCE)),
    Part("ReadOnly", "readOnly", Flag),
];
pub(super) const FC_VOLUME_SOURCE: &[Part] = &[
    Part("TargetWWNs", "targetWWNs", Optional),
    Part("Lun", "lun", Optional),
    Part("FSType", "fsType", Text),
    Part("ReadOnly", "readOnly", Flag),
    Part("WWIDs", "wwids", Optional),
];
pub(super) const FLOCKER_VOLUME_SOURCE: &[Part] =
    &[Part("DatasetName", "datasetName", Text), Part("DatasetUUID", "datasetUUID", Text)];
const AZURE_FILE_PERSISTENT_VOLUME_SOURCE: &[Part] = &[
    Part("SecretName", "secretName", Text),
    Part("ShareName", "shareName", Text),
    Part("ReadOnly", "readOnly", Flag),
    Part("SecretNamespace", "secretNamespace", Optional),
];
pub(super) const VSPHERE_VIRTUAL_DISK_VOLUME_SOURCE: &[Part] = &[
    Part("VolumePath", "volumePath", Text),
    Part("FSType", "fsType", Text),
    Part("StoragePolicyName", "storagePolicyName", Text),
    Part("StoragePolicyID", "storagePolicyID", Text),
];
pub(super) const AZURE_DISK_VOLUME_SOURCE: &[Part] = &[
    Part("DiskName", "diskName", Text),
    Part("DataDiskURI", "diskURI", Text),
    Part("CachingMode", "cachingMode", Optional),
    Part("FSType", "fsType", Optional),
    Part("ReadOnly", "readOnly", Optional),
    Part("Kind", "kind", Optional),
];
pub(super) const PHOTON_PERSISTENT_DISK_VOLUME_SOURCE: &[Part] =
    &[Part("PdID", "pdID", Text), Part("FSType", "fsType", Text)];
pub(super) const PORTWORX_VOLUME_SOURCE: &[Part] =
    &[Part("VolumeID", "volumeID", Text), Part("FSType", "fsType", Text), Part("ReadOnly", "readOnly", Flag)];
const SCALE_IO_PERSISTENT_VOLUME_SOURCE: &[Part] = &[
    Part("Gateway", "gateway", Text),
    Part("System", "system", Text),
    Part("SecretRef", "secretRef", Of(SECRET_REFERENCE)),
    Part("SSLEnabled", "sslEnabled", Flag),
    Part("ProtectionDomain", "protectionDomain", Text),
    Part("StoragePool", "storagePool", Text),
    Part("StorageMode", "storageMode", Text),
    Part("VolumeName", "volumeName", Text),
    Part("FSType", "fsType", Text),
    Part("ReadOnly", "readOnly", Flag),
];
const LOCAL_VOLUME_SOURCE: &[Part] = &[Part("Path", "path", Text), Part("FSType", "fsType", Optional)];
const OBJECT_REFERENCE: &[Part] = &[
    Part("Kind", "kind", Text),
    Part("Namespace", "namespace", Text),
    Part("Name", "name", Text),
    Part("UID", "uid", Text),
    Part("APIVersion", "apiVersion", Text),
    Part("ResourceVersion", "resourceVersion", Text),
    Part("FieldPath", "fieldPath", Text),
];
const STORAGE_OS_PERSISTENT_VOLUME_SOURCE: &[Part] = &[
    Part("VolumeName", "volumeName", Text),
    Part("VolumeNamespace", "volumeNamespace", Text),
    Part("FSType", "fsType", Text),
    Part("ReadOnly", "readOnly", Flag),
    Part("SecretRef", "secretRef", Of(OBJECT_REFERENCE)),
];
const CSI_PERSISTENT_VOLUME_SOURCE: &[Part] = &[
    Part("Driver", "driver", Text),
    Part("VolumeHandle", "volumeHandle", Text),
    Part("ReadOnly", "readOnly", Flag),
    Part("FSType", "fsType", Text),
    Part("VolumeAttributes", "volumeAttributes", Optional),
    Part("ControllerPublishSecretRef", "controllerPublishSecretRef", Of(SECRET_REFERENCE)),
    Part("NodeStageSecretRef", "nodeStageSecretRef", Of(SECRET_REFERENCE)),
    Part("NodePublishSecretRef", "nodePublishSecretRef", Of(SECRET_REFERENCE)),
    Part("ControllerExpandSecretRef", "controllerExpandSecretRef", Of(SECRET_REFERENCE)),
    Part("NodeExpandSecretRef", "nodeExpandSecretRef", Of(SECRET_REFERENCE)),
];
pub(in crate::builtin) const PERSISTENT_VOLUME_SOURCE: &[Part] = &[
    Part("GCEPersistentDisk", "gcePersistentDisk", Of(GCE_PERSISTENT_DISK_VOLUME_SOURCE)),
    Part("AWSElasticBlockStore", "awsElasticBlockStore", Of(AWS_ELASTIC_BLOCK_STORE_VOLUME_SOURCE)),
    Part("HostPath", "hostPath", Of(HOST_PATH_VOLUME_SOURCE)),
    Part("Glusterfs", "glusterfs", Of(GLUSTERFS_PERSISTENT_VOLUME_SOURCE)),
    Part("NFS", "nfs", Of(NFS_VOLUME_SOURCE)),
    Part("RBD", "rbd", Of(RBD_PERSISTENT_VOLUME_SOURCE)),
    Part("Quobyte", "quobyte", Of(QUOBYTE_VOLUME_SOURCE)),
    Part("ISCSI", "iscsi", Of(ISCSI_PERSISTENT_VOLUME_SOURCE)),
    Part("FlexVolume", "flexVolume", Of(FLEX_PERSISTENT_VOLUME_SOURCE)),
    Part("Cinder", "cinder", Of(CINDER_PERSISTENT_VOLUME_SOURCE)),
    Part("CephFS", "cephfs", Of(CEPH_FS_PERSISTENT_VOLUME_SOURCE)),
    Part("FC", "fc", Of(FC_VOLUME_SOURCE)),
    Part("Flocker", "flocker", Of(FLOCKER_VOLUME_SOURCE)),
    Part("AzureFile", "azureFile", Of(AZURE_FILE_PERSISTENT_VOLUME_SOURCE)),
    Part("VsphereVolume", "vsphereVolume", Of(VSPHERE_VIRTUAL_DISK_VOLUME_SOURCE)),
    Part("AzureDisk", "azureDisk", Of(AZURE_DISK_VOLUME_SOURCE)),
    Part("PhotonPersistentDisk", "photonPersistentDisk", Of(PHOTON_PERSISTENT_DISK_VOLUME_SOURCE)),
    Part("PortworxVolume", "portworxVolume", Of(PORTWORX_VOLUME_SOURCE)),
    Part("ScaleIO", "scaleIO", Of(SCALE_IO_PERSISTENT_VOLUME_SOURCE)),
    Part("Local", "local", Of(LOCAL_VOLUME_SOURCE)),
    Part("StorageOS", "storageos", Of(STORAGE_OS_PERSISTENT_VOLUME_SOURCE)),
    Part("CSI", "csi", Of(CSI_PERSISTENT_VOLUME_SOURCE)),
];
const VOLUME_RESOURCE_REQUIREMENTS: &[Part] =
    &[Part("Limits", "limits", Optional), Part("Requests", "requests", Optional)];
const TYPED_LOCAL_OBJECT_REFERENCE: &[Part] =
    &[Part("APIGroup", "apiGroup", Optional), Part("Kind", "kind", Text), Part("Name", "name", Text)];
const TYPED_OBJECT_REFERENCE: &[Part] = &[
    Part("APIGroup", "apiGroup", Optional),
    Part("Kind", "kind", Text),
    Part("Name", "name", Text),
    Part("Namespace", "namespace", Optional),
];
pub(in crate::builtin) const PERSISTENT_VOLUME_CLAIM_SPEC: &[Part] = &[
    Part("AccessModes", "accessModes", Optional),
    Part("Selector", "selector", Of(LABEL_SELECTOR)),
    Part("Resources", "resources", Whole(VOLUME_RESOURCE_REQUIREMENTS)),
    Part("VolumeName", "volumeName", Text),
    Part("StorageClassName", "storageClassName", Optional),
    Part("VolumeMode", "volumeMode", Optional),
    Part("DataSource", "dataSource", Of(TYPED_LOCAL_OBJECT_REFERENCE)),
    Part("DataSourceRef", "dataSourceRef", Of(TYPED_OBJECT_REFERENCE)),
    Part("VolumeAttributesClassName", "volumeAttributesClassName", Optional),
];
