//! What the columns of tables are for, as clients are told: most show a field, whose description it is.

use std::collections::HashMap;
use std::sync::LazyLock;

use crate::builtin::descriptions;

/// Kind, column, and the definition and field that it shows.
const FIELDS: &[(&str, &str, &str, &str)] = &[
    ("CSIDriver", "AttachRequired", "storage.v1.CSIDriverSpec", "attachRequired"),
    ("CSIDriver", "Modes", "storage.v1.CSIDriverSpec", "volumeLifecycleModes"),
    ("CSIDriver", "PodInfoOnMount", "storage.v1.CSIDriverSpec", "podInfoOnMount"),
    ("CSIDriver", "RequiresRepublish", "storage.v1.CSIDriverSpec", "requiresRepublish"),
    ("CSIDriver", "StorageCapacity", "storage.v1.CSIDriverSpec", "storageCapacity"),
    ("CSIDriver", "TokenRequests", "storage.v1.CSIDriverSpec", "tokenRequests"),
    (
        "CertificateSigningRequest",
        "RequestedDuration",
        "certificates.v1.CertificateSigningRequestSpec",
        "expirationSeconds",
    ),
    ("ClusterTrustBundle", "SignerName", "certificates.v1.ClusterTrustBundleSpec", "signerName"),
    ("PodCertificateRequest", "PodName", "certificates.v1.PodCertificateRequestSpec", "podName"),
    (
        "PodCertificateRequest",
        "ServiceAccountName",
        "certificates.v1.PodCertificateRequestSpec",
        "serviceAccountName",
    ),
    ("PodCertificateRequest", "NodeName", "certificates.v1.PodCertificateRequestSpec", "nodeName"),
    ("PodCertificateRequest", "SignerName", "certificates.v1.PodCertificateRequestSpec", "signerName"),
    (
        "PodCertificateRequest",
        "UnverifiedUserAnnotations",
        "certificates.v1.PodCertificateRequestSpec",
        "unverifiedUserAnnotations",
    ),
    ("ConfigMap", "Data", "core.v1.ConfigMap", "data"),
    ("ControllerRevision", "Revision", "apps.v1.ControllerRevision", "revision"),
    ("CronJob", "Active", "batch.v1.CronJobStatus", "active"),
    ("CronJob", "Last Schedule", "batch.v1.CronJobStatus", "lastScheduleTime"),
    ("CronJob", "Schedule", "batch.v1.CronJobSpec", "schedule"),
    ("CronJob", "Selector", "batch.v1.JobSpec", "selector"),
    ("CronJob", "Suspend", "batch.v1.CronJobSpec", "suspend"),
    ("CronJob", "Timezone", "batch.v1.CronJobSpec", "timeZone"),
    ("DaemonSet", "Available", "apps.v1.DaemonSetStatus", "numberAvailable"),
    ("DaemonSet", "Current", "apps.v1.DaemonSetStatus", "currentNumberScheduled"),
    ("DaemonSet", "Desired", "apps.v1.DaemonSetStatus", "desiredNumberScheduled"),
    ("DaemonSet", "Node Selector", "core.v1.PodSpec", "nodeSelector"),
    ("DaemonSet", "Ready", "apps.v1.DaemonSetStatus", "numberReady"),
    ("DaemonSet", "Selector", "apps.v1.DaemonSetSpec", "selector"),
    ("DaemonSet", "Up-to-date", "apps.v1.DaemonSetStatus", "updatedNumberScheduled"),
    ("Deployment", "Available", "apps.v1.DeploymentStatus", "availableReplicas"),
    ("Deployment", "Selector", "apps.v1.DeploymentSpec", "selector"),
    ("Deployment", "Up-to-date", "apps.v1.DeploymentStatus", "updatedReplicas"),
    ("EndpointSlice", "AddressType", "discovery.v1.EndpointSlice", "addressType"),
    ("EndpointSlice", "Endpoints", "discovery.v1.EndpointSlice", "endpoints"),
    ("EndpointSlice", "Ports", "discovery.v1.EndpointSlice", "ports"),
    ("Endpoints", "Endpoints", "core.v1.Endpoints", "subsets"),
    ("Event", "Count", "core.v1.Event", "count"),
    ("Event", "First Seen", "core.v1.Event", "firstTimestamp"),
    ("Event", "Last Seen", "core.v1.Event", "lastTimestamp"),
    ("Event", "Message", "core.v1.Event", "message"),
    ("Event", "Object", "core.v1.Event", "involvedObject"),
    ("Event", "Reason", "core.v1.Event", "reason"),
    ("Event", "Source", "core.v1.Event", "source"),
    ("Event", "Subobject", "core.v1.ObjectReference", "fieldPath"),
    ("Event", "Type", "core.v1.Event", "type"),
    ("FlowSchema", "DistinguisherMethod", "flowcontrol.v1.FlowSchemaSpec", "distinguisherMethod"),
    ("FlowSchema", "MatchingPrecedence", "flowcontrol.v1.FlowSchemaSpec", "matchingPrecedence"),
    ("FlowSchema", "PriorityLevel", "flowcontrol.v1.PriorityLevelConfigurationReference", "name"),
    ("HorizontalPodAutoscaler", "MaxPods", "autoscaling.v2.HorizontalPodAutoscalerSpec", "maxReplicas"),
    ("HorizontalPodAutoscaler", "MinPods", "autoscaling.v1.HorizontalPodAutoscalerSpec", "minReplicas"),
    ("HorizontalPodAutoscaler", "Reference", "autoscaling.v2.HorizontalPodAutoscalerSpec", "scaleTargetRef"),
    (
        "HorizontalPodAutoscaler",
        "Replicas",
        "autoscaling.v2.HorizontalPodAutoscalerStatus",
        "currentReplicas",
    ),
    ("HorizontalPodAutoscaler", "Targets", "autoscaling.v2.HorizontalPodAutoscalerSpec", "metrics"),
    ("Job", "Completions", "batch.v1.JobStatus", "succeeded"),
    ("Job", "Selector", "batch.v1.JobSpec", "selector"),
    ("Lease", "Holder", "coordination.v1.LeaseSpec", "holderIdentity"),
    ("NetworkPolicy", "Pod-Selector", "networking.v1.NetworkPolicySpec", "podSelector"),
    ("Node", "Container-Runtime", "core.v1.NodeSystemInfo", "containerRuntimeVersion"),
    ("Node", "External-IP", "core.v1.NodeStatus", "addresses"),
    ("Node", "Internal-IP", "core.v1.NodeStatus", "addresses"),
    ("Node", "Kernel-Version", "core.v1.NodeSystemInfo", "kernelVersion"),
    ("Node", "OS-Image", "core.v1.NodeSystemInfo", "osImage"),
    ("Node", "Version", "core.v1.NodeSystemInfo", "kubeletVersion"),
    ("PersistentVolume", "Access Modes", "core.v1.PersistentVolumeSpec", "accessModes"),
    ("PersistentVolume", "Capacity", "core.v1.PersistentVolumeSpec", "capacity"),
    ("PersistentVolume", "Claim", "core.v1.PersistentVolumeSpec", "claimRef"),
    ("PersistentVolume", "Reason", "core.v1.PersistentVolumeStatus", "reason"),
    ("PersistentVolume", "Reclaim Policy", "core.v1.PersistentVolumeSpec", "persistentVolumeReclaimPolicy"),
    ("PersistentVolume", "Status", "core.v1.PersistentVolumeStatus", "phase"),
    ("PersistentVolume", "VolumeMode", "core.v1.PersistentVolumeSpec", "volumeMode"),
    ("PersistentVolumeClaim", "Access Modes", "core.v1.PersistentVolumeClaimStatus", "accessModes"),
    ("PersistentVolumeClaim", "Capacity", "core.v1.PersistentVolumeClaimStatus", "capacity"),
    ("PersistentVolumeClaim", "Status", "core.v1.PersistentVolumeClaimStatus", "phase"),
    ("PersistentVolumeClaim", "Volume", "core.v1.PersistentVolumeClaimSpec", "volumeName"),
    ("PersistentVolumeClaim", "VolumeMode", "core.v1.PersistentVolumeClaimSpec", "volumeMode"),
    ("Pod", "IP", "core.v1.PodStatus", "podIP"),
    ("Pod", "Node", "core.v1.PodSpec", "nodeName"),
    ("Pod", "Nominated Node", "core.v1.PodStatus", "nominatedNodeName"),
    ("Pod", "Readiness Gates", "core.v1.PodSpec", "readinessGates"),
    ("PriorityClass", "Global-Default", "scheduling.v1.PriorityClass", "globalDefault"),
    ("PriorityClass", "PreemptionPolicy", "scheduling.v1.PriorityClass", "preemptionPolicy"),
    ("PriorityClass", "Value", "scheduling.v1.PriorityClass", "value"),
    ("PriorityLevelConfiguration", "HandSize", "flowcontrol.v1.QueuingConfiguration", "handSize"),
    (
        "PriorityLevelConfiguration",
        "NominalConcurrencyShares",
        "flowcontrol.v1.LimitedPriorityLevelConfiguration",
        "nominalConcurrencyShares",
    ),
    (
        "PriorityLevelConfiguration",
        "QueueLengthLimit",
        "flowcontrol.v1.QueuingConfiguration",
        "queueLengthLimit",
    ),
    ("PriorityLevelConfiguration", "Queues", "flowcontrol.v1.QueuingConfiguration", "queues"),
    ("PriorityLevelConfiguration", "Type", "flowcontrol.v1.PriorityLevelConfigurationSpec", "type"),
    ("ReplicaSet", "Current", "apps.v1.ReplicaSetStatus", "replicas"),
    ("ReplicaSet", "Desired", "apps.v1.ReplicaSetSpec", "replicas"),
    ("ReplicaSet", "Ready", "apps.v1.ReplicaSetStatus", "readyReplicas"),
    ("ReplicaSet", "Selector", "apps.v1.ReplicaSetSpec", "selector"),
    ("ReplicationController", "Current", "core.v1.ReplicationControllerStatus", "replicas"),
    ("ReplicationController", "Desired", "core.v1.ReplicationControllerSpec", "replicas"),
    ("ReplicationController", "Ready", "core.v1.ReplicationControllerStatus", "readyReplicas"),
    ("ReplicationController", "Selector", "core.v1.ReplicationControllerSpec", "selector"),
    ("ResourceSlice", "Driver", "resource.v1.ResourceSliceSpec", "driver"),
    ("ResourceSlice", "Node", "resource.v1.ResourceSliceSpec", "nodeName"),
    ("Scale", "Available", "autoscaling.v1.ScaleStatus", "replicas"),
    ("Scale", "Desired", "autoscaling.v1.ScaleSpec", "replicas"),
    ("Secret", "Data", "core.v1.Secret", "data"),
    ("Secret", "Type", "core.v1.Secret", "type"),
    ("Service", "Cluster-IP", "core.v1.ServiceSpec", "clusterIP"),
    ("Service", "External-IP", "core.v1.ServiceSpec", "externalIPs"),
    ("Service", "Port(s)", "core.v1.ServiceSpec", "ports"),
    ("Service", "Selector", "core.v1.ServiceSpec", "selector"),
    ("Service", "Type", "core.v1.ServiceSpec", "type"),
    ("StorageClass", "AllowVolumeExpansion", "storage.v1.StorageClass", "allowVolumeExpansion"),
    ("StorageClass", "Provisioner", "storage.v1.StorageClass", "provisioner"),
    ("StorageClass", "ReclaimPolicy", "storage.v1.StorageClass", "reclaimPolicy"),
    ("StorageClass", "VolumeBindingMode", "storage.v1.StorageClass", "volumeBindingMode"),
    ("VolumeAttachment", "Attached", "storage.v1.VolumeAttachmentStatus", "attached"),
    ("VolumeAttachment", "Attacher", "storage.v1.VolumeAttachmentSpec", "attacher"),
    ("VolumeAttachment", "Node", "storage.v1.VolumeAttachmentSpec", "nodeName"),
    ("VolumeAttachment", "PV", "storage.v1.VolumeAttachmentSource", "persistentVolumeName"),
];

/// Kinds, column, and its text, where it is no field's.
const WORDS: &[(&[&str], &str, &str)] = &[
    (&["APIService"], "Available", "Whether this service is available."),
    (&["APIService"], "Service", "The reference to the service that hosts this API endpoint."),
    (&["CSINode"], "Drivers", "Drivers indicates the number of CSI drivers registered on the node"),
    (
        &["CertificateSigningRequest"],
        "Condition",
        "Conditions applied to the request, such as approval or denial.",
    ),
    (&["CertificateSigningRequest"], "Requestor", "Base64-encoded PKCS#10 CSR data"),
    (
        &["CertificateSigningRequest"],
        "SignerName",
        "Requested signer for the request. It is a qualified name in the form: `scope-hostname.io/name`. If empty, it will be defaulted:\n 1. If it's a kubelet client certificate, it is assigned\n    \"kubernetes.io/kube-apiserver-client-kubelet\".\n 2. If it's a kubelet serving certificate, it is assigned\n    \"kubernetes.io/kubelet-serving\".\n 3. Otherwise, it is assigned \"kubernetes.io/legacy-unknown\".\nDistribution of trust for signers happens out of band. You can select on this field using `spec.signerName`.",
    ),
    (&["ClusterRoleBinding"], "Groups", "Groups in the clusterRoleBinding"),
    (
        &["ClusterRoleBinding"],
        "Role",
        "RoleRef can only reference a ClusterRole in the global namespace. If the RoleRef cannot be resolved, the Authorizer must return an error.",
    ),
    (&["ClusterRoleBinding"], "ServiceAccounts", "ServiceAccounts in the clusterRoleBinding"),
    (&["ClusterRoleBinding"], "Users", "Users in the clusterRoleBinding"),
    (&["ComponentStatus"], "Error", "Error of the component conditions"),
    (&["ComponentStatus"], "Message", "Message of the component conditions"),
    (&["ComponentStatus"], "Status", "Status of the component conditions"),
    (&["ControllerRevision"], "Controller", "Controller of the object"),
    (&["Deployment", "StatefulSet"], "Ready", "Number of the pod with ready state"),
    (&["FlowSchema"], "MissingPL", "references a broken or non-existent PriorityLevelConfiguration"),
    (
        &["IPAddress"],
        "ParentRef",
        "ParentRef references the resource that an IPAddress is attached to. An IPAddress must reference a parent object.",
    ),
    (&["Ingress"], "Address", "Address is a list containing ingress points for the load-balancer"),
    (
        &["Ingress"],
        "Class",
        "The name of the IngressClass resource that should be used for additional configuration",
    ),
    (&["Ingress"], "Hosts", "Hosts that incoming requests are matched against before the ingress rule"),
    (&["Ingress"], "Ports", "Ports of TLS configurations that open"),
    (&["IngressClass"], "Controller", "Controller that is responsible for handling this class"),
    (&["IngressClass"], "Parameters", "A reference to a resource with additional parameters"),
    (&["Job"], "Duration", "Time required to complete the job."),
    (&["Job"], "Status", "Status of the job."),
    (
        &["MutatingAdmissionPolicy"],
        "Mutations",
        "Mutation indicates the number of mutations rules defined in this configuration",
    ),
    (
        &["MutatingAdmissionPolicy", "ValidatingAdmissionPolicy"],
        "ParamKind",
        "ParamKind specifies the kind of resources used to parameterize this policy",
    ),
    (
        &["MutatingAdmissionPolicyBinding", "ValidatingAdmissionPolicyBinding"],
        "ParamRef",
        "ParamRef indicates the param resource which sets the configuration param",
    ),
    (
        &["MutatingAdmissionPolicyBinding", "ValidatingAdmissionPolicyBinding"],
        "PolicyName",
        "PolicyName indicates the policy definition which the policy binding binded to",
    ),
    (
        &["MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"],
        "Webhooks",
        "Webhooks indicates the number of webhooks registered in this configuration",
    ),
    (&["Namespace"], "Status", "The status of the namespace"),
    (&["Node"], "Roles", "The roles of the node"),
    (&["Node"], "Status", "The status of the node"),
    (&["PersistentVolume"], "StorageClass", "StorageClass of the pv"),
    (&["PersistentVolume"], "VolumeAttributesClass", "VolumeAttributesClass of the pv"),
    (&["PersistentVolumeClaim"], "StorageClass", "StorageClass of the pvc"),
    (&["PersistentVolumeClaim"], "VolumeAttributesClass", "VolumeAttributesClass of the pvc"),
    (&["Pod"], "Ready", "The aggregate readiness state of this pod for accepting traffic."),
    (
        &["Pod"],
        "Restarts",
        "The number of times the containers in this pod have been restarted and when the last container in this pod has restarted.",
    ),
    (&["Pod"], "Status", "The aggregate status of the containers in this pod."),
    (
        &["PodDisruptionBudget"],
        "Allowed Disruptions",
        "Calculated number of pods that may be disrupted at this time.",
    ),
    (&["PodDisruptionBudget"], "Max Unavailable", "The maximum number of pods that may be unavailable."),
    (&["PodDisruptionBudget"], "Min Available", "The minimum number of pods that must be available."),
    (&["PodTemplate"], "Pod Labels", "The labels for the pod template."),
    (
        &[
            "PodTemplate",
            "ReplicationController",
            "DaemonSet",
            "Deployment",
            "ReplicaSet",
            "StatefulSet",
            "CronJob",
            "Job",
        ],
        "Containers",
        "Names of each container in the template.",
    ),
    (
        &[
            "PodTemplate",
            "ReplicationController",
            "DaemonSet",
            "Deployment",
            "ReplicaSet",
            "StatefulSet",
            "CronJob",
            "Job",
        ],
        "Images",
        "Images referenced by each container in the template.",
    ),
    (&["ResourceClaim"], "State", "A summary of the current state (allocated, pending, reserved, etc.)."),
    (
        &["ResourceQuota"],
        "Limit",
        "Limits control the maximum amount of cpu/memory that a container may use independent of contention on the node.",
    ),
    (
        &["ResourceQuota"],
        "Request",
        "Request represents a minimum amount of cpu/memory that a container may consume.",
    ),
    (
        &["ResourceSlice"],
        "Pool",
        "Name is used to identify the pool. For node-local devices, this is often the node name, but this is not required.\n\nIt must not be longer than 253 characters and must consist of one or more DNS sub-domains separated by slashes. This field is immutable.",
    ),
    (&["RoleBinding"], "Groups", "Groups in the roleBinding"),
    (
        &["RoleBinding"],
        "Role",
        "RoleRef can reference a Role in the current namespace or a ClusterRole in the global namespace. If the RoleRef cannot be resolved, the Authorizer must return an error.",
    ),
    (&["RoleBinding"], "ServiceAccounts", "ServiceAccounts in the roleBinding"),
    (&["RoleBinding"], "Users", "Users in the roleBinding"),
    (
        &["ServiceCIDR"],
        "CIDRs",
        "CIDRs defines the IP blocks in CIDR notation (e.g. \"192.168.0.0/24\" or \"2001:db8::/64\") from which to assign service cluster IPs. Max of two CIDRs is allowed, one of each IP family. This field is immutable.",
    ),
    (
        &["ValidatingAdmissionPolicy"],
        "Validations",
        "Validations indicates the number of validation rules defined in this configuration",
    ),
    (&["PodCertificateRequest"], "State", "Is the request Pending, Issued, Denied, or Failed?"),
    (&["StorageVersionMigration"], "Resource", "GroupResource to migrate"),
    (&["StorageVersionMigration"], "Status", "Status of the migration"),
    (&["VolumeAttributesClass"], "DriverName", "Name of the CSI driver This field is immutable."),
];

/// The text of a column; empty where there is none.
pub(crate) fn column_text<'a>(kind: &'a str, column: &'a str) -> &'a str {
    // Nobody may ever ask for a table, and reading the descriptions takes some milliseconds.
    static TEXTS: LazyLock<HashMap<(&str, &str), String>> = LazyLock::new(|| {
        let all = descriptions().texts;
        let fields = FIELDS.iter().map(|(kind, column, definition, field)| {
            let texts = all.get(&format!("io.k8s.api.{definition}"));
            let text = texts.and_then(|texts| texts.get(*field)).cloned();
            let mut text = text.unwrap_or_default();
            // Columns are told without the values.
            text.truncate(text.find("\n\nPossible enum values:").unwrap_or(text.len()));
            ((*kind, *column), text)
        });
        fields.collect()
    });
    let said = WORDS.iter().find(|(kinds, name, _)| *name == column && kinds.contains(&kind));
    match said {
        Some((_, _, text)) => text,
        None => TEXTS.get(&(kind, column)).map_or("", String::as_str),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builtin::{descriptors, scale_descriptor};

    #[test]
    fn every_entry_is_of_a_column_and_has_a_text() {
        let kinds = [descriptors(), vec![scale_descriptor(false)]].concat();
        let is_column = |kind: &str, column: &str| {
            kinds
                .iter()
                .any(|known| known.kind == kind && known.columns.iter().any(|known| known.name == column))
        };
        let fields = FIELDS.iter().map(|(kind, column, ..)| (*kind, *column));
        let words = WORDS.iter().flat_map(|(kinds, column, _)| kinds.iter().map(|kind| (*kind, *column)));
        for (kind, column) in fields.chain(words) {
            assert!(is_column(kind, column), "{kind} {column}");
            assert!(!column_text(kind, column).is_empty(), "{kind} {column}");
        }
        assert_eq!(column_text("Service", "None"), "");
    }
}
