#!/usr/bin/env python3
"""Makes src/protobuf/table.json.gz: how the protobuf bodies of Kubernetes' own kinds become JSON.

Source: the Go modules k8s.io/api, k8s.io/apimachinery, k8s.io/apiextensions-apiserver and
k8s.io/kube-aggregator 0.37.2 (Apache License 2.0, Copyright The Kubernetes Authors): their
generated.proto files say what is on the wire, the struct tags of their Go types say what it is
called in JSON and whether a zero is left out. Nothing else of them is kept.

    ./protobuf.py

downloads them through the Go module proxy (`go` must be installed), and ends with an error when
one of them has something that the table cannot say. Made at the same version as schemas.py's
source. The output is the same byte for byte for the same input.

The table is {"kinds": {"apps/v1 Deployment": 3, ...}, "messages": [...]}. A message is the name of
one with a JSON form of its own (src/protobuf/special.rs knows it), or a list of fields: [number,
JSON name, type, shape, keep], where a type is the index of a message or a letter (SCALARS), and
the others are explained at field() below.
"""

import gzip
import json
import pathlib
import re
import subprocess
import sys
import tempfile

VERSION = "v0.37.2"
MODULES = [
    "k8s.io/api", "k8s.io/apimachinery", "k8s.io/apiextensions-apiserver", "k8s.io/kube-aggregator",
]
OUT = pathlib.Path(__file__).parent.parent / "src" / "protobuf" / "table.json.gz"

META = "k8s.io.apimachinery.pkg.apis.meta.v1."
CRD = "k8s.io.apiextensions_apiserver.pkg.apis.apiextensions.v1."


def kinds(api_version, package, *names):
    """Kinds of one group and version, with their messages."""
    return {f"{api_version} {name}": f"k8s.io.api.{package}.{name}" for name in names}


ROOTS = {
    **kinds("v1", "core.v1", "Binding", "ComponentStatus", "ConfigMap", "Endpoints", "Event",
            "LimitRange", "Namespace", "Node", "PersistentVolume", "PersistentVolumeClaim", "Pod",
            "PodTemplate", "ReplicationController", "ResourceQuota", "Secret", "Service",
            "ServiceAccount"),
    **kinds("admissionregistration.k8s.io/v1", "admissionregistration.v1",
            "MutatingAdmissionPolicy", "MutatingAdmissionPolicyBinding",
            "MutatingWebhookConfiguration", "ValidatingAdmissionPolicy",
            "ValidatingAdmissionPolicyBinding", "ValidatingWebhookConfiguration"),
    **kinds("apps/v1", "apps.v1",
            "ControllerRevision", "DaemonSet", "Deployment", "ReplicaSet", "StatefulSet"),
    **kinds("authentication.k8s.io/v1", "authentication.v1",
            "SelfSubjectReview", "TokenRequest", "TokenReview"),
    **kinds("authorization.k8s.io/v1", "authorization.v1", "LocalSubjectAccessReview",
            "SelfSubjectAccessReview", "SelfSubjectRulesReview", "SubjectAccessReview"),
    **kinds("autoscaling/v1", "autoscaling.v1", "HorizontalPodAutoscaler", "Scale"),
    **kinds("autoscaling/v2", "autoscaling.v2", "HorizontalPodAutoscaler"),
    **kinds("batch/v1", "batch.v1", "CronJob", "Job"),
    **kinds("certificates.k8s.io/v1", "certificates.v1",
            "CertificateSigningRequest", "ClusterTrustBundle", "PodCertificateRequest"),
    **kinds("coordination.k8s.io/v1", "coordination.v1", "Lease"),
    **kinds("discovery.k8s.io/v1", "discovery.v1", "EndpointSlice"),
    **kinds("events.k8s.io/v1", "events.v1", "Event"),
    **kinds("flowcontrol.apiserver.k8s.io/v1", "flowcontrol.v1",
            "FlowSchema", "PriorityLevelConfiguration"),
    **kinds("networking.k8s.io/v1", "networking.v1",
            "IPAddress", "Ingress", "IngressClass", "NetworkPolicy", "ServiceCIDR"),
    **kinds("node.k8s.io/v1", "node.v1", "RuntimeClass"),
    **kinds("policy/v1", "policy.v1", "Eviction", "PodDisruptionBudget"),
    **kinds("rbac.authorization.k8s.io/v1", "rbac.v1",
            "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"),
    **kinds("resource.k8s.io/v1", "resource.v1", "DeviceClass", "DeviceTaintRule",
            "ResourceClaim", "ResourceClaimTemplate", "ResourceSlice"),
    **kinds("scheduling.k8s.io/v1", "scheduling.v1", "PriorityClass"),
    **kinds("storage.k8s.io/v1", "storage.v1", "CSIDriver", "CSINode", "CSIStorageCapacity",
            "StorageClass", "VolumeAttachment", "VolumeAttributesClass"),
    **kinds("storagemigration.k8s.io/v1", "storagemigration.v1", "StorageVersionMigration"),
    "apiextensions.k8s.io/v1 CustomResourceDefinition": CRD + "CustomResourceDefinition",
    "apiregistration.k8s.io/v1 APIService":
        "k8s.io.kube_aggregator.pkg.apis.apiregistration.v1.APIService",
    **{f"v1 {kind}": META + kind for kind in (
        "Status", "APIVersions", "APIGroup", "APIGroupList", "APIResourceList",
    )},
    # Clients send DeleteOptions under the group and version of what they delete.
    **{f"meta.k8s.io/v1 {kind}": META + kind for kind in (
        "DeleteOptions", "ListMeta", "PartialObjectMetadata",
    )},
    # The same message as in v1.
    "meta.k8s.io/v1beta1 PartialObjectMetadata": META + "PartialObjectMetadata",
}

# Messages whose JSON is no object, or is not made of their fields. Those that lead to other
# messages name them; all their fields are kept.
SPECIAL = {
    META + "Time": "time",
    META + "MicroTime": "micro-time",
    META + "FieldsV1": "json",
    "k8s.io.apimachinery.pkg.runtime.RawExtension": "json",
    "k8s.io.apimachinery.pkg.api.resource.Quantity": "quantity",
    "k8s.io.apimachinery.pkg.util.intstr.IntOrString": "int-or-string",
    "k8s.io.api.authentication.v1.AttestationValue": "strings",
    "k8s.io.api.authentication.v1.ExtraValue": "strings",
    "k8s.io.api.authorization.v1.ExtraValue": "strings",
    "k8s.io.api.certificates.v1.ExtraValue": "strings",
    META + "Verbs": "strings",
    CRD + "JSON": "json",
    CRD + "JSONSchemaPropsOrArray": ["schema-or-array", CRD + "JSONSchemaProps"],
    CRD + "JSONSchemaPropsOrBool": ["schema-or-bool", CRD + "JSONSchemaProps"],
    CRD + "JSONSchemaPropsOrStringArray": ["schema-or-strings", CRD + "JSONSchemaProps"],
}

SCALARS = {"string": "s", "bytes": "y", "bool": "b", "int32": "i", "int64": "l", "double": "d"}

ONE, LIST, MAP, INLINE = range(4)

PROTO_FIELD = re.compile(r"(?:(optional|repeated) (\S+)|map<string, (\S+)>) (\w+) = (\d+);")
GO_FIELD = re.compile(r'\t(?:(\w+)\s+)?(\S+)\s+`(.*protobuf:"\w+,(\d+),.*)`')


def download():
    """The folders of the modules."""
    with tempfile.TemporaryDirectory() as folder:
        for module in MODULES:
            command = ["go", "mod", "download", "-json", f"{module}@{VERSION}"]
            done = subprocess.run(command, cwd=folder, check=True, stdout=subprocess.PIPE)
            yield module, pathlib.Path(json.loads(done.stdout)["Dir"])


def read_proto(text, package, messages):
    """Adds the messages of a generated.proto: name -> [(number, proto name, type, shape)]."""
    fields = None
    for line in text.splitlines():
        line = line.strip()
        if match := re.fullmatch(r"message (\w+) \{", line):
            assert fields is None, line
            fields = messages[package + "." + match[1]] = []
        elif line == "}":
            fields = None
        elif fields is not None and line and not line.startswith("//"):
            match = PROTO_FIELD.fullmatch(line)
            assert match, f"{package}: {line}"
            label, plain, value, name, number = match.groups()
            shape = MAP if value else LIST if label == "repeated" else ONE
            kind = value or plain
            if kind not in SCALARS:
                kind = kind[1:] if kind.startswith(".") else f"{package}.{kind}"
            fields.append((int(number), name, kind, shape))


def read_go(text, package, structs):
    """Adds the structs of a Go file: name -> {number: (Go name, Go type, JSON name, options)}."""
    fields = None
    for line in text.splitlines():
        if match := re.fullmatch(r"type (\w+) struct \{", line):
            fields = structs.setdefault(package + "." + match[1], {})
        elif line.startswith("}"):
            fields = None
        elif fields is not None and (match := GO_FIELD.match(line)):
            name, kind, tags, number = match.groups()
            number = int(number)
            # Types with a JSON form of their own may have no JSON tags.
            json_tag = re.search(r'json:"([^"]*)"', tags)
            json_name, *options = json_tag[1].split(",") if json_tag else [""]
            assert number not in fields, line
            fields[number] = (name, kind, json_name, options)


def field(owner, number, kind, shape, go):
    """A field of the table.

    Its shape: 0 one value, 1 a list, 2 a map with text keys, 3 a message whose fields are its
    owner's. Its keep: 1 where a zero value is written in JSON (a pointer, which is on the wire only
    when it is set, or a field without omitempty), 0 where it is left out; and 2 more where something
    is always written: no pointer, and either no omitempty or a struct, which is never empty.
    """
    go_name, go_type, json_name, options = go
    if go_name is None and not json_name:
        assert shape == ONE and kind not in SCALARS, (owner, number)
        assert not go_type.startswith("*"), (owner, number)
        return [number, "", kind, INLINE, 0]
    assert json_name not in ("", "-"), (owner, number)
    keep = go_type.startswith("*") or not {"omitempty", "omitzero"} & set(options)
    struct = shape == ONE and kind not in SCALARS and "omitzero" not in options
    always = not go_type.startswith("*") and (keep or struct)
    return [number, json_name, kind, shape, int(keep) + 2 * int(always)]


def main():
    messages, structs = {}, {}
    for module, folder in download():
        for proto in sorted(folder.rglob("generated.proto")):
            package = re.search(r"^package (\S+);", proto.read_text(), re.M)[1]
            read_proto(proto.read_text(), package, messages)
            for source in sorted(proto.parent.glob("*.go")):
                if not source.name.endswith(("_test.go", ".pb.go")):
                    read_go(source.read_text(), package, structs)

    order, out = list(ROOTS.values()), []
    index = {name: at for at, name in enumerate(order)}

    def refer(name):
        if name in SCALARS:
            return SCALARS[name]
        if name not in index:
            index[name] = len(order)
            order.append(name)
        return index[name]

    for name in order:  # grows on the way
        special = SPECIAL.get(name)
        if isinstance(special, list):
            out.append([special[0], refer(special[1])])
        elif special:
            out.append(special)
        else:
            fields = []
            for number, _, kind, shape in sorted(messages[name]):
                assert number in structs[name], f"{name}: no Go field {number}"
                fields.append(field(name, number, kind, shape, structs[name][number]))
            for one in fields:
                one[2] = refer(one[2])
            out.append(fields)
    table = {"kinds": {kind: index[name] for kind, name in ROOTS.items()}, "messages": out}
    text = json.dumps(table, sort_keys=True, separators=(",", ":")).encode()
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_bytes(gzip.compress(text, 9, mtime=0))
    print(f"{len(out)} messages, {len(text)} bytes, {OUT.stat().st_size} compressed")
    if "-v" in sys.argv:
        for at, name in enumerate(order):
            print(at, name, out[at])


main()
