//! The parts of a Pod's spec (Kubernetes' `pkg/apis/core/types.go`): what stands in the API beside the containers of it stands in
//! its security context here.

use super::Is::{Each, Flag, Given, Number, Of, Optional, Text, Whole};
use super::volumes::{
    AWS_ELASTIC_BLOCK_STORE_VOLUME_SOURCE, AZURE_DISK_VOLUME_SOURCE, FC_VOLUME_SOURCE, FLOCKER_VOLUME_SOURCE,
    GCE_PERSISTENT_DISK_VOLUME_SOURCE, HOST_PATH_VOLUME_SOURCE, NFS_VOLUME_SOURCE,
    PERSISTENT_VOLUME_CLAIM_SPEC, PHOTON_PERSISTENT_DISK_VOLUME_SOURCE, PORTWORX_VOLUME_SOURCE,
    QUOBYTE_VOLUME_SOURCE, VSPHERE_VIRTUAL_DISK_VOLUME_SOURCE,
};
use super::{
    LABEL_SELECTOR, NODE_SELECTOR_TERM, POD_RESOURCE_CLAIM, PROFILE, Part, SECURITY_CONTEXT, SELINUX, WINDOWS,
};

/// The name of an object in the same namespace.
const LOCAL: &[Part] = &[Part("Name", "name", Text)];
const KEY_TO_PATH: &[Part] =
    &[Part("Key", "key", Text), Part("Path", "path", Text), Part("Mode", "mode", Optional)];

const FIELD: &[Part] = &[Part("APIVersion", "apiVersion", Text), Part("FieldPath", "fieldPath", Text)];
const RESOURCE_FIELD: &[Part] = &[
    Part("ContainerName", "containerName", Text),
    Part("Resource", "resource", Text),
    Part("Divisor", "divisor", Text),
];
const DOWNWARD_FILES: &[Part] = &[
    Part("Path", "path", Text),
    Part("FieldRef", "fieldRef", Of(FIELD)),
    Part("ResourceFieldRef", "resourceFieldRef", Of(RESOURCE_FIELD)),
    Part("Mode", "mode", Optional),
];

const PROJECTED_OBJECT: &[Part] = &[
    Part("Name", "name", Text),
    Part("Items", "items", Each(KEY_TO_PATH)),
    Part("Optional", "optional", Optional),
];
const PROJECTED_SOURCE: &[Part] = &[
    Part("Secret", "secret", Of(PROJECTED_OBJECT)),
    Part("DownwardAPI", "downwardAPI", Of(&[Part("Items", "items", Each(DOWNWARD_FILES))])),
    Part("ConfigMap", "configMap", Of(PROJECTED_OBJECT)),
    Part(
        "ServiceAccountToken",
        "serviceAccountToken",
        Of(&[
            Part("Audience", "audience", Text),
            Part("ExpirationSeconds", "expirationSeconds", Number),
            Part("Path", "path", Text),
        ]),
    ),
    Part("ClusterTrustBundle", "clusterTrustBundle", Of(CLUSTER_TRUST_BUNDLE)),
    Part(
        "PodCertificate",
        "podCertificate",
        Of(&[
            Part("SignerName", "signerName", Text),
            Part("KeyType", "keyType", Text),
            Part("MaxExpirationSeconds", "maxExpirationSeconds", Optional),
            Part("CredentialBundlePath", "credentialBundlePath", Text),
            Part("KeyPath", "keyPath", Text),
            Part("CertificateChainPath", "certificateChainPath", Text),
            Part("UserAnnotations", "userAnnotations", Optional),
        ]),
    ),
];

pub(in crate::builtin) const CLUSTER_TRUST_BUNDLE: &[Part] = &[
    Part("Name", "name", Optional),
    Part("SignerName", "signerName", Optional),
    Part("LabelSelector", "labelSelector", Of(LABEL_SELECTOR)),
    Part("Optional", "optional", Optional),
    Part("Path", "path", Text),
];

const ISCSI: &[Part] = &[
    Part("TargetPortal", "targetPortal", Text),
    Part("IQN", "iqn", Text),
    Part("Lun", "lun", Number),
    Part("ISCSIInterface", "iscsiInterface", Text),
    Part("FSType", "fsType", Text),
    Part("ReadOnly", "readOnly", Flag),
    Part("Portals", "portals", Optional),
    Part("DiscoveryCHAPAuth", "chapAuthDiscovery", Flag),
    Part("SessionCHAPAuth", "chapAuthSession", Flag),
    Part("SecretRef", "secretRef", Of(LOCAL)),
    Part("InitiatorName", "initiatorName", Optional),
];
const RBD: &[Part] = &[
    Part("CephMonitors", "monitors", Optional),
    Part("RBDImage", "image", Text),
    Part("FSType", "fsType", Text),
    Part("RBDPool", "pool", Text),
    Part("RadosUser", "user", Text),
    Part("Keyring", "keyring", Text),
    Part("SecretRef", "secretRef", Of(LOCAL)),
    Part("ReadOnly", "readOnly", Flag),
];
const FLEX_VOLUME: &[Part] = &[
    Part("Driver", "driver", Text),
    Part("FSType", "fsType", Text),
    Part("SecretRef", "secretRef", Of(LOCAL)),
    Part("ReadOnly", "readOnly", Flag),
    Part("Options", "options", Optional),
];
const CEPH_FS: &[Part] = &[
    Part("Monitors", "monitors", Optional),
    Part("Path", "path", Text),
    Part("User", "user", Text),
    Part("SecretFile", "secretFile", Text),
    Part("SecretRef", "secretRef", Of(LOCAL)),
    Part("ReadOnly", "readOnly", Flag),
];
const SCALE_IO: &[Part] = &[
    Part("Gateway", "gateway", Text),
    Part("System", "system", Text),
    Part("SecretRef", "secretRef", Of(LOCAL)),
    Part("SSLEnabled", "sslEnabled", Flag),
    Part("ProtectionDomain", "protectionDomain", Text),
    Part("StoragePool", "storagePool", Text),
    Part("StorageMode", "storageMode", Text),
    Part("VolumeName", "volumeName", Text),
    Part("FSType", "fsType", Text),
    Part("ReadOnly", "readOnly", Flag),
];
const STORAGE_OS: &[Part] = &[
    Part("VolumeName", "volumeName", Text),
    Part("VolumeNamespace", "volumeNamespace", Text),
    Part("FSType", "fsType", Text),
    Part("ReadOnly", "readOnly", Flag),
    Part("SecretRef", "secretRef", Of(LOCAL)),
];
const CSI: &[Part] = &[
    Part("Driver", "driver", Text),
    Part("ReadOnly", "readOnly", Optional),
    Part("FSType", "fsType", Optional),
    Part("VolumeAttributes", "volumeAttributes", Optional),
    Part("NodePublishSecretRef", "nodePublishSecretRef", Of(LOCAL)),
];

const VOLUME: &[Part] = &[
    Part("Name", "name", Text),
    Part("HostPath", "hostPath", Of(HOST_PATH_VOLUME_SOURCE)),
    Part(
        "EmptyDir",
        "emptyDir",
        Of(&[Part("Medium", "medium", Text), Part("SizeLimit", "sizeLimit", Optional)]),
    ),
    Part("GCEPersistentDisk", "gcePersistentDisk", Of(GCE_PERSISTENT_DISK_VOLUME_SOURCE)),
    Part("AWSElasticBlockStore", "awsElasticBlockStore", Of(AWS_ELASTIC_BLOCK_STORE_VOLUME_SOURCE)),
    Part(
        "GitRepo",
        "gitRepo",
        Of(&[
            Part("Repository", "repository", Text),
            Part("Revision", "revision", Text),
            Part("Directory", "directory", Text),
        ]),
    ),
    Part(
        "Secret",
        "secret",
        Of(&[
            Part("SecretName", "secretName", Text),
            Part("Items", "items", Each(KEY_TO_PATH)),
            Part("DefaultMode", "defaultMode", Optional),
            Part("Optional", "optional", Optional),
        ]),
    ),
    Part("NFS", "nfs", Of(NFS_VOLUME_SOURCE)),
    Part("ISCSI", "iscsi", Of(ISCSI)),
    Part(
        "Glusterfs",
        "glusterfs",
        Of(&[
            Part("EndpointsName", "endpoints", Text),
            Part("Path", "path", Text),
            Part("ReadOnly", "readOnly", Flag),
        ]),
    ),
    Part(
        "PersistentVolumeClaim",
        "persistentVolumeClaim",
        Of(&[Part("ClaimName", "claimName", Text), Part("ReadOnly", "readOnly", Flag)]),
    ),
    Part("RBD", "rbd", Of(RBD)),
    Part("Quobyte", "quobyte", Of(QUOBYTE_VOLUME_SOURCE)),
    Part("FlexVolume", "flexVolume", Of(FLEX_VOLUME)),
    Part(
        "Cinder",
        "cinder",
        Of(&[
            Part("VolumeID", "volumeID", Text),
            Part("FSType", "fsType", Text),
            Part("ReadOnly", "readOnly", Flag),
            Part("SecretRef", "secretRef", Of(LOCAL)),
        ]),
    ),
    Part("CephFS", "cephfs", Of(CEPH_FS)),
    Part("Flocker", "flocker", Of(FLOCKER_VOLUME_SOURCE)),
    Part(
        "DownwardAPI",
        "downwardAPI",
        Of(&[Part("Items", "items", Each(DOWNWARD_FILES)), Part("DefaultMode", "defaultMode", Optional)]),
    ),
    Part("FC", "fc", Of(FC_VOLUME_SOURCE)),
    Part(
        "AzureFile",
        "azureFile",
        Of(&[
            Part("SecretName", "secretName", Text),
            Part("ShareName", "shareName", Text),
            Part("ReadOnly", "readOnly", Flag),
        ]),
    ),
    Part(
        "ConfigMap",
        "configMap",
        Of(&[
            Part("Name", "name", Text),
            Part("Items", "items", Each(KEY_TO_PATH)),
            Part("DefaultMode", "defaultMode", Optional),
            Part("Optional", "optional", Optional),
        ]),
    ),
    Part("VsphereVolume", "vsphereVolume", Of(VSPHERE_VIRTUAL_DISK_VOLUME_SOURCE)),
    Part("AzureDisk", "azureDisk", Of(AZURE_DISK_VOLUME_SOURCE)),
    Part("PhotonPersistentDisk", "photonPersistentDisk", Of(PHOTON_PERSISTENT_DISK_VOLUME_SOURCE)),
    Part(
        "Projected",
        "projected",
        Of(&[
            Part("Sources", "sources", Each(PROJECTED_SOURCE)),
            Part("DefaultMode", "defaultMode", Optional),
        ]),
    ),
    Part("PortworxVolume", "portworxVolume", Of(PORTWORX_VOLUME_SOURCE)),
    Part("ScaleIO", "scaleIO", Of(SCALE_IO)),
    Part("StorageOS", "storageos", Of(STORAGE_OS)),
    Part("CSI", "csi", Of(CSI)),
    Part(
        "Ephemeral",
        "ephemeral",
        Of(&[Part(
            "VolumeClaimTemplate",
            "volumeClaimTemplate",
            Of(&[
                Part("labels", "/metadata/labels", Given),
                Part("annotations", "/metadata/annotations", Given),
                Part("Spec", "spec", Whole(PERSISTENT_VOLUME_CLAIM_SPEC)),
            ]),
        )]),
    ),
    Part(
        "Image",
        "image",
        Of(&[Part("Reference", "reference", Text), Part("PullPolicy", "pullPolicy", Text)]),
    ),
];

const KEY_OF_OBJECT: &[Part] =
    &[Part("Name", "name", Text), Part("Key", "key", Text), Part("Optional", "optional", Optional)];
const OBJECT: &[Part] = &[Part("Name", "name", Text), Part("Optional", "optional", Optional)];
const ENVIRONMENT: &[Part] = &[
    Part("Name", "name", Text),
    Part("Value", "value", Text),
    Part(
        "ValueFrom",
        "valueFrom",
        Of(&[
            Part("FieldRef", "fieldRef", Of(FIELD)),
            Part("ResourceFieldRef", "resourceFieldRef", Of(RESOURCE_FIELD)),
            Part("ConfigMapKeyRef", "configMapKeyRef", Of(KEY_OF_OBJECT)),
            Part("SecretKeyRef", "secretKeyRef", Of(KEY_OF_OBJECT)),
            Part(
                "FileKeyRef",
                "fileKeyRef",
                Of(&[
                    Part("VolumeName", "volumeName", Text),
                    Part("Path", "path", Text),
                    Part("Key", "key", Text),
                    Part("Optional", "optional", Optional),
                ]),
            ),
        ]),
    ),
];
const RESOURCES: &[Part] = &[
    Part("Limits", "limits", Optional),
    Part("Requests", "requests", Optional),
    Part("Claims", "claims", Each(&[Part("Name", "name", Text), Part("Request", "request", Text)])),
];

const EXEC: Part = Part("Exec", "exec", Of(&[Part("Command", "command", Optional)]));
const HTTP_GET: Part = Part(
    "HTTPGet",
    "httpGet",
    Of(&[
        Part("Path", "path", Text),
        Part("Port", "port", Number),
        Part("Host", "host", Text),
        Part("Scheme", "scheme", Text),
        Part("HTTPHeaders", "httpHeaders", Each(&[Part("Name", "name", Text), Part("Value", "value", Text)])),
    ]),
);
const TCP_SOCKET: Part =
    Part("TCPSocket", "tcpSocket", Of(&[Part("Port", "port", Number), Part("Host", "host", Text)]));
const PROBE: &[Part] = &[
    EXEC,
    HTTP_GET,
    TCP_SOCKET,
    Part("GRPC", "grpc", Of(&[Part("Port", "port", Number), Part("Service", "service", Optional)])),
    Part("InitialDelaySeconds", "initialDelaySeconds", Number),
    Part("TimeoutSeconds", "timeoutSeconds", Number),
    Part("PeriodSeconds", "periodSeconds", Number),
    Part("SuccessThreshold", "successThreshold", Number),
    Part("FailureThreshold", "failureThreshold", Number),
    Part("TerminationGracePeriodSeconds", "terminationGracePeriodSeconds", Optional),
];
const HOOK: &[Part] =
    &[EXEC, HTTP_GET, TCP_SOCKET, Part("Sleep", "sleep", Of(&[Part("Seconds", "seconds", Number)]))];

const MOUNT: &[Part] = &[
    Part("Name", "name", Text),
    Part("ReadOnly", "readOnly", Flag),
    Part("RecursiveReadOnly", "recursiveReadOnly", Optional),
    Part("MountPath", "mountPath", Text),
    Part("SubPath", "subPath", Text),
    Part("MountPropagation", "mountPropagation", Optional),
    Part("SubPathExpr", "subPathExpr", Text),
];

/// A container of any sort; those that come later have the one that they look at behind all else.
const CONTAINER: &[Part] = &[
    Part("Name", "name", Text),
    Part("Image", "image", Text),
    Part("Command", "command", Optional),
    Part("Args", "args", Optional),
    Part("WorkingDir", "workingDir", Text),
    Part(
        "Ports",
        "ports",
        Each(&[
            Part("Name", "name", Text),
            Part("HostPort", "hostPort", Number),
            Part("ContainerPort", "containerPort", Number),
            Part("Protocol", "protocol", Text),
            Part("HostIP", "hostIP", Text),
        ]),
    ),
    Part(
        "EnvFrom",
        "envFrom",
        Each(&[
            Part("Prefix", "prefix", Text),
            Part("ConfigMapRef", "configMapRef", Of(OBJECT)),
            Part("SecretRef", "secretRef", Of(OBJECT)),
        ]),
    ),
    Part("Env", "env", Each(ENVIRONMENT)),
    Part("Resources", "resources", Whole(RESOURCES)),
    Part(
        "ResizePolicy",
        "resizePolicy",
        Each(&[Part("ResourceName", "resourceName", Text), Part("RestartPolicy", "restartPolicy", Text)]),
    ),
    Part("RestartPolicy", "restartPolicy", Optional),
    Part(
        "RestartPolicyRules",
        "restartPolicyRules",
        Each(&[
            Part("Action", "action", Text),
            Part(
                "ExitCodes",
                "exitCodes",
                Of(&[Part("Operator", "operator", Text), Part("Values", "values", Optional)]),
            ),
        ]),
    ),
    Part("VolumeMounts", "volumeMounts", Each(MOUNT)),
    Part(
        "VolumeDevices",
        "volumeDevices",
        Each(&[Part("Name", "name", Text), Part("DevicePath", "devicePath", Text)]),
    ),
    Part("LivenessProbe", "livenessProbe", Of(PROBE)),
    Part("ReadinessProbe", "readinessProbe", Of(PROBE)),
    Part("StartupProbe", "startupProbe", Of(PROBE)),
    Part(
        "Lifecycle",
        "lifecycle",
        Of(&[
            Part("PostStart", "postStart", Of(HOOK)),
            Part("PreStop", "preStop", Of(HOOK)),
            Part("StopSignal", "stopSignal", Optional),
        ]),
    ),
    Part("TerminationMessagePath", "terminationMessagePath", Text),
    Part("TerminationMessagePolicy", "terminationMessagePolicy", Text),
    Part("ImagePullPolicy", "imagePullPolicy", Text),
    Part("SecurityContext", "securityContext", Of(SECURITY_CONTEXT)),
    Part("Stdin", "stdin", Flag),
    Part("StdinOnce", "stdinOnce", Flag),
    Part("TTY", "tty", Flag),
    // Of ephemeral containers, and of no others.
    Part("TargetContainerName", "targetContainerName", Given),
];

const POD_SECURITY_CONTEXT: &[Part] = &[
    Part("HostNetwork", "hostNetwork", Flag),
    Part("HostPID", "hostPID", Flag),
    Part("HostIPC", "hostIPC", Flag),
    Part("ShareProcessNamespace", "shareProcessNamespace", Optional),
    Part("HostUsers", "hostUsers", Optional),
    Part("SELinuxOptions", "/securityContext/seLinuxOptions", Of(SELINUX)),
    Part("WindowsOptions", "/securityContext/windowsOptions", Of(WINDOWS)),
    Part("RunAsUser", "/securityContext/runAsUser", Optional),
    Part("RunAsGroup", "/securityContext/runAsGroup", Optional),
    Part("RunAsNonRoot", "/securityContext/runAsNonRoot", Optional),
    Part("SupplementalGroups", "/securityContext/supplementalGroups", Optional),
    Part("SupplementalGroupsPolicy", "/securityContext/supplementalGroupsPolicy", Optional),
    Part("FSGroup", "/securityContext/fsGroup", Optional),
    Part("FSGroupChangePolicy", "/securityContext/fsGroupChangePolicy", Optional),
    Part(
        "Sysctls",
        "/securityContext/sysctls",
        Each(&[Part("Name", "name", Text), Part("Value", "value", Text)]),
    ),
    Part("SeccompProfile", "/securityContext/seccompProfile", Of(PROFILE)),
    Part("AppArmorProfile", "/securityContext/appArmorProfile", Of(PROFILE)),
    Part("SELinuxChangePolicy", "/securityContext/seLinuxChangePolicy", Optional),
];

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
const POD_TERM: &[Part] = &[
    Part("LabelSelector", "labelSelector", Of(LABEL_SELECTOR)),
    Part("Namespaces", "namespaces", Optional),
    Part("TopologyKey", "topologyKey", Text),
    Part("NamespaceSelector", "namespaceSelector", Of(LABEL_SELECTOR)),
    Part("MatchLabelKeys", "matchLabelKeys", Optional),
    Part("MismatchLabelKeys", "mismatchLabelKeys", Optional),
];
const POD_AFFINITY: &[Part] = &[
    Part("RequiredDuringSchedulingIgnoredDuringExecution", REQUIRED, Each(POD_TERM)),
    Part(
        "PreferredDuringSchedulingIgnoredDuringExecution",
        PREFERRED,
        Each(&[
            Part("Weight", "weight", Number),
            Part("PodAffinityTerm", "podAffinityTerm", Whole(POD_TERM)),
        ]),
    ),
];
const AFFINITY: &[Part] = &[
    Part(
        "NodeAffinity",
        "nodeAffinity",
        Of(&[
            Part(
                "RequiredDuringSchedulingIgnoredDuringExecution",
                REQUIRED,
                Of(&[Part("NodeSelectorTerms", "nodeSelectorTerms", Each(NODE_SELECTOR_TERM))]),
            ),
            Part(
                "PreferredDuringSchedulingIgnoredDuringExecution",
                PREFERRED,
                Each(&[
                    Part("Weight", "weight", Number),
                    Part("Preference", "preference", Whole(NODE_SELECTOR_TERM)),
                ]),
            ),
        ]),
    ),
    Part("PodAffinity", "podAffinity", Of(POD_AFFINITY)),
    Part("PodAntiAffinity", "podAntiAffinity", Of(POD_AFFINITY)),
];

const TOLERATION: &[Part] = &[
    Part("Key", "key", Text),
    Part("Operator", "operator", Text),
    Part("Value", "value", Text),
    Part("Effect", "effect", Text),
    Part("TolerationSeconds", "tolerationSeconds", Optional),
];
const SPREAD: &[Part] = &[
    Part("MaxSkew", "maxSkew", Number),
    Part("TopologyKey", "topologyKey", Text),
    Part("WhenUnsatisfiable", "whenUnsatisfiable", Text),
    Part("LabelSelector", "labelSelector", Of(LABEL_SELECTOR)),
    Part("MinDomains", "minDomains", Optional),
    Part("NodeAffinityPolicy", "nodeAffinityPolicy", Optional),
    Part("NodeTaintsPolicy", "nodeTaintsPolicy", Optional),
    Part("MatchLabelKeys", "matchLabelKeys", Optional),
];
const DNS: &[Part] = &[
    Part("Nameservers", "nameservers", Optional),
    Part("Searches", "searches", Optional),
    Part("Options", "options", Each(&[Part("Name", "name", Text), Part("Value", "value", Optional)])),
];

/// A Pod's spec.
pub(in crate::builtin) const POD_SPEC: &[Part] = &[
    Part("Volumes", "volumes", Each(VOLUME)),
    Part("InitContainers", "initContainers", Each(CONTAINER)),
    Part("Containers", "containers", Each(CONTAINER)),
    Part("EphemeralContainers", "ephemeralContainers", Each(CONTAINER)),
    Part("RestartPolicy", "restartPolicy", Text),
    Part("TerminationGracePeriodSeconds", "terminationGracePeriodSeconds", Optional),
    Part("ActiveDeadlineSeconds", "activeDeadlineSeconds", Optional),
    Part("DNSPolicy", "dnsPolicy", Text),
    Part("NodeSelector", "nodeSelector", Optional),
    Part("ServiceAccountName", "serviceAccountName", Text),
    Part("AutomountServiceAccountToken", "automountServiceAccountToken", Optional),
    Part("NodeName", "nodeName", Text),
    Part("SecurityContext", ".", Of(POD_SECURITY_CONTEXT)),
    Part("ImagePullSecrets", "imagePullSecrets", Each(LOCAL)),
    Part("Hostname", "hostname", Text),
    Part("Subdomain", "subdomain", Text),
    Part("SetHostnameAsFQDN", "setHostnameAsFQDN", Optional),
    Part("Affinity", "affinity", Of(AFFINITY)),
    Part("SchedulerName", "schedulerName", Text),
    Part("Tolerations", "tolerations", Each(TOLERATION)),
    Part(
        "HostAliases",
        "hostAliases",
        Each(&[Part("IP", "ip", Text), Part("Hostnames", "hostnames", Optional)]),
    ),
    Part("PriorityClassName", "priorityClassName", Text),
    Part("Priority", "priority", Optional),
    Part("PreemptionPolicy", "preemptionPolicy", Optional),
    Part("DNSConfig", "dnsConfig", Of(DNS)),
    Part("ReadinessGates", "readinessGates", Each(&[Part("ConditionType", "conditionType", Text)])),
    Part("RuntimeClassName", "runtimeClassName", Optional),
    Part("Overhead", "overhead", Optional),
    Part("EnableServiceLinks", "enableServiceLinks", Optional),
    Part("TopologySpreadConstraints", "topologySpreadConstraints", Each(SPREAD)),
    Part("OS", "os", Of(LOCAL)),
    Part("SchedulingGates", "schedulingGates", Each(LOCAL)),
    Part("ResourceClaims", "resourceClaims", Each(POD_RESOURCE_CLAIM)),
    Part("Resources", "resources", Of(RESOURCES)),
    Part("HostnameOverride", "hostnameOverride", Optional),
    Part("SchedulingGroup", "schedulingGroup", Of(&[Part("PodGroupName", "podGroupName", Optional)])),
];
