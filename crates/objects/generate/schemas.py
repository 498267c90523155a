#!/usr/bin/env python3
"""Makes src/builtin/schemas.json.gz, the schemas of Kubernetes' own kinds that Yunfan serves, and
src/builtin/descriptions.json.gz, what their fields are for, and src/builtin/enums.json.gz, which
values some of them are published with.

Source: the PyPI package kubernetes-validate 1.37.0 (Apache License 2.0, Copyright (C) 2018 Will
Thames), which carries the `definitions` of Kubernetes 1.37's own OpenAPI document (Apache License
2.0, Copyright The Kubernetes Authors). Descriptions are left out; the x-kubernetes-* extensions
that merging and ownership need are kept.

    pip download --no-deps kubernetes-validate==1.37.0 -d /tmp/kubernetes-validate
    kubectl get --raw /openapi/v2 >/tmp/openapi.json    # of a kube-apiserver 1.36.3
    ./schemas.py /tmp/kubernetes-validate/kubernetes_validate-1.37.0-py3-none-any.whl /tmp/openapi.json

The package has no lists of values (they are made without the feature OpenAPIEnums), so these, and what a
description says of each value, are taken from what a server publishes.

The output is the same byte for byte for the same input.
"""

import gzip
import json
import pathlib
import re
import sys
import zipfile

MEMBER = "kubernetes_validate/kubernetes-json-schema/v1.37.0-local/_definitions.json"
FOLDER = pathlib.Path(__file__).parent.parent / "src" / "builtin"

CORE = "io.k8s.api.core.v1."
META = "io.k8s.apimachinery.pkg.apis.meta.v1."
CRD = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1."
# Every kind of every stable version of Kubernetes' own groups, except lists, which are made of them.
STABLE = re.compile(r"io\.k8s\.(api|apiextensions-apiserver|kube-aggregator)\..*\.v[0-9]+\.(?!\w+List$)\w+")
META_ROOTS = [META + kind for kind in (
    "ObjectMeta", "ListMeta", "LabelSelector", "DeleteOptions", "Status", "WatchEvent", "APIVersions",
    "APIGroup", "APIGroupList", "APIResourceList",
)] + ["io.k8s.apimachinery.pkg.version.Info"]

KEEP = {
    "$ref", "type", "format", "required", "default",
    "x-kubernetes-list-type", "x-kubernetes-list-map-keys", "x-kubernetes-map-type",
    "x-kubernetes-patch-strategy", "x-kubernetes-patch-merge-key", "x-kubernetes-int-or-string",
    "x-kubernetes-preserve-unknown-fields", "x-kubernetes-group-version-kind",
}

# The source's only enums are the constants of apiVersion and kind, which the server checks itself. Those that are
# published are no rules either: what a field may hold is checked by the kind's own code.

# Definitions whose JSON is not what their schema says, or that hold anything.
SPECIAL = {
    "io.k8s.apimachinery.pkg.util.intstr.IntOrString": {
        "x-kubernetes-int-or-string": True, "format": "int-or-string",
    },
    "io.k8s.apimachinery.pkg.api.resource.Quantity": {
        "x-kubernetes-int-or-string": True, "format": "quantity",
    },
    CRD + "JSON": {"x-kubernetes-preserve-unknown-fields": True},
    CRD + "JSONSchemaPropsOrArray": {"x-kubernetes-preserve-unknown-fields": True},
    CRD + "JSONSchemaPropsOrBool": {"x-kubernetes-preserve-unknown-fields": True},
    CRD + "JSONSchemaPropsOrStringArray": {"x-kubernetes-preserve-unknown-fields": True},
}

# The kinds of metrics.k8s.io, which a server of their own answers for elsewhere, and which the source lacks.
# Their fields are those of the Go module k8s.io/metrics 0.36.3.
METRICS = "io.k8s.metrics.pkg.apis.metrics.v1beta1."
USAGE = {
    "description": "The memory usage is the memory working set.", "type": "object",
    "additionalProperties": {"$ref": "#/definitions/io.k8s.apimachinery.pkg.api.resource.Quantity"},
}


def metrics(kind, description, more):
    """A kind of metrics.k8s.io."""
    fields = {
        "apiVersion": {"type": "string", "description": "The group and version that this form is of."},
        "kind": {"type": "string", "description": "What the object is."},
        "metadata": {
            "description": "Standard object's metadata.", "$ref": "#/definitions/" + META + "ObjectMeta",
        },
        "timestamp": {
            "description": "The end of the time that the usage was measured over.",
            "$ref": "#/definitions/" + META + "Time",
        },
        "window": {"description": "How long that time was.", "type": "string"},
        **more,
    }
    group_version_kind = {"group": "metrics.k8s.io", "version": "v1beta1", "kind": kind}
    return {
        "description": description, "type": "object", "properties": fields,
        "required": ["timestamp", "window", *more], "x-kubernetes-group-version-kind": [group_version_kind],
    }


ADDED = {
    METRICS + "NodeMetrics": metrics("NodeMetrics", "Resource usage of a node.", {"usage": USAGE}),
    METRICS + "PodMetrics": metrics("PodMetrics", "Resource usage of a pod's containers.", {"containers": {
        "description": "Metrics for all containers are collected within the same time window.",
        "type": "array", "items": {"$ref": "#/definitions/" + METRICS + "ContainerMetrics"},
        "x-kubernetes-list-type": "atomic",
    }}),
    METRICS + "ContainerMetrics": {
        "description": "Resource usage of a container.", "type": "object", "required": ["name", "usage"],
        "properties": {
            "name": {"description": "The container's name in the pod's spec.", "type": "string"},
            "usage": USAGE,
        },
    },
}

# Defaults that the source leaves out and that take part in the keys of list maps: without them
# two writers would name the same port in two ways.
DEFAULTS = {
    (CORE + "ContainerPort", "protocol"): "TCP",
    (CORE + "ServicePort", "protocol"): "TCP",
}


def clean(schema):
    """A schema without what the server has no use for."""
    out = {key: value for key, value in schema.items() if key in KEEP}
    kind = out.get("type")
    if isinstance(kind, list):  # ["string", "null"]: in Kubernetes' own kinds null means absent
        kinds = [one for one in kind if one != "null"]
        assert len(kinds) == 1, schema
        out["type"] = kinds[0]
    if "properties" in schema:
        out["properties"] = {key: clean(value) for key, value in schema["properties"].items()}
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            out[key] = clean(schema[key])
    if "$ref" in out:
        out["$ref"] = "#/definitions/" + out["$ref"].rsplit("/", 1)[1]
    if out.get("type") == "object" and not {"properties", "additionalProperties"} & out.keys():
        out["x-kubernetes-preserve-unknown-fields"] = True
    return out


def references(schema):
    """Names of the definitions that a schema refers to."""
    if isinstance(schema, dict):
        for key, value in schema.items():
            if key == "$ref" and isinstance(value, str):
                yield value.rsplit("/", 1)[1]
            else:
                yield from references(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from references(value)


VALUES = "\n\nPossible enum values:\n"


def describe(schema, published):
    """The descriptions of a definition: its own under the empty name, and those of its fields."""
    fields = {"": schema, **schema.get("properties", {})}
    texts = {name: field["description"] for name, field in fields.items() if field.get("description")}
    for name, field in published.get("properties", {}).items():
        before, mark, values = field.get("description", "").partition(VALUES)
        if mark and name in fields:
            texts[name] = texts.get(name, before).partition(VALUES)[0] + mark + values
    return texts


def values(published):
    """The values of a definition's fields, by the field's name; those of what a list or a map holds by the
    name and its place."""
    found = {}
    for name, field in published.get("properties", {}).items():
        for place in ("", "/items", "/additionalProperties"):
            node = field.get(place[1:], {}) if place else field
            if isinstance(node, dict) and "enum" in node:
                found[name + place] = node["enum"]
    return found


def write(name, table):
    """Writes a table, the same byte for byte for the same input."""
    text = json.dumps(table, sort_keys=True, separators=(",", ":")).encode()
    (FOLDER / name).write_bytes(gzip.compress(text, 9, mtime=0))
    print(f"{name}: {len(table)} definitions, {len(text)} bytes, {(FOLDER / name).stat().st_size} compressed")


def main():
    source = json.loads(zipfile.ZipFile(sys.argv[1]).read(MEMBER))["$defs"] | ADDED
    stable = [
        name for name, schema in source.items()
        if STABLE.fullmatch(name) and "x-kubernetes-group-version-kind" in schema
    ]
    out, todo = {}, stable + META_ROOTS + [*ADDED]
    while todo:
        name = todo.pop()
        if name in out:
            continue
        out[name] = SPECIAL.get(name) or clean(source[name])
        todo.extend(references(out[name]))
    for (name, key), value in DEFAULTS.items():
        out[name]["properties"][key]["default"] = value
    write("schemas.json.gz", out)
    # Apart, because only documents for people need them.
    published = json.loads(pathlib.Path(sys.argv[2]).read_text())["definitions"]
    write("descriptions.json.gz", {name: describe(source[name], published.get(name, {})) for name in out})
    enums = {name: values(published[name]) for name in out if name in published}
    write("enums.json.gz", {name: found for name, found in enums.items() if found})


main()
