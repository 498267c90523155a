#!/usr/bin/env python3
"""Makes src/wire/messages.txt.gz: how Kubernetes' own kinds are written in protobuf.

Source: the Go modules k8s.io/api, k8s.io/apimachinery and k8s.io/apiextensions-apiserver (Apache License 2.0,
Copyright The Kubernetes Authors): field types from their generated.proto, JSON names, and whether an empty value
is left out, from the tags in their types.go. Only facts are kept: numbers, names, types.

    cd /tmp && go mod init x && for m in api apimachinery apiextensions-apiserver; do
        go mod download k8s.io/$m@v0.37.0; done
    ./messages.py ~/go/pkg/mod/k8s.io v0.37.0

The output is the same byte for byte for the same input. Its lines:

    K GROUP/VERSION KIND MESSAGE        a kind (the core group is an empty GROUP)
    M MESSAGE [special]                 a message; special: time, microtime, quantity, intorstring, json, list, or...
    NUMBER JSONNAME FLAGS TYPE          a field of the message before; JSONNAME is `-` for one that is inlined

Flags: `*` repeated, `%` map with text keys, `0` an empty value is left out, `.` none.
Types: s text, y bytes, b truth value, i whole number, d double, f float, m:MESSAGE.
"""

import gzip
import pathlib
import re
import sys

OUT = pathlib.Path(__file__).parent.parent / "src" / "wire" / "messages.txt.gz"
SCALARS = {
    "string": "s", "bytes": "y", "bool": "b", "double": "d", "float": "f",
    "int32": "i", "int64": "i", "uint32": "i", "uint64": "i",
}
SPECIAL = {
    "apimachinery.pkg.apis.meta.v1.Time": "time",
    "apimachinery.pkg.apis.meta.v1.MicroTime": "microtime",
    "apimachinery.pkg.apis.meta.v1.FieldsV1": "json",
    "apimachinery.pkg.apis.meta.v1.Duration": "duration",
    "apimachinery.pkg.api.resource.Quantity": "quantity",
    "apimachinery.pkg.runtime.RawExtension": "json",
    "apimachinery.pkg.util.intstr.IntOrString": "intorstring",
    "apiextensions_apiserver.pkg.apis.apiextensions.v1.JSON": "json",
    "apiextensions_apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrBool": "orbool",
    "apiextensions_apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrArray": "orarray",
    "apiextensions_apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrStringArray": "orarray",
}
TAG = re.compile(r"^\s*(\S+\s+)?(\S.*?)?\s*`[^`]*json:\"([^\"]*)\"[^`]*protobuf:\"[a-z0-9]+,(\d+),[^\"]*\"")
FIELD = re.compile(r"^\s*(optional|repeated|required)\s+(\S+)\s+(\w+)\s*=\s*(\d+)")
MAP = re.compile(r"^\s*map<string,\s*([^>]+)>\s+(\w+)\s*=\s*(\d+)")


def go_facts(directory):
    """Struct name -> field number -> (JSON name, keep zero); names of types that are lists."""
    structs, lists = {}, set()
    for file in sorted(directory.glob("*.go")):
        if file.name.startswith(("zz_", "generated")) or file.name.endswith("_test.go"):
            continue
        current = None
        for line in file.read_text().splitlines():
            start = re.match(r"^type (\w+) struct \{", line)
            if start:
                current = structs.setdefault(start.group(1), {})
            elif re.match(r"^type (\w+) \[\]", line):
                lists.add(re.match(r"^type (\w+)", line).group(1))
            elif line.startswith("}"):
                current = None
            elif current is not None and "protobuf:" in line and "json:" in line:
                tag = TAG.match(line)
                if not tag:
                    continue
                json_name, *options = tag.group(3).split(",")
                words = line.split("`")[0].split()
                pointer = words[-1].startswith("*")
                inline = "inline" in options or (not json_name and len(words) == 1)
                keep = pointer or not ({"omitempty", "omitzero"} & set(options))
                current[int(tag.group(4))] = ("-" if inline else json_name, keep)
    return structs, lists


def messages(file):
    """Package name, and message name -> list of (number, proto name, flag, type)."""
    package, current, found = None, None, {}
    for line in file.read_text().splitlines():
        if line.startswith("package "):
            package = line.split()[1].rstrip(";")
        start = re.match(r"^message (\w+) \{", line)
        if start:
            current = found.setdefault(start.group(1), [])
        elif line.startswith("}"):
            current = None
        elif current is not None:
            entry, field = MAP.match(line), FIELD.match(line)
            if entry:
                current.append((int(entry.group(3)), entry.group(2), "%", entry.group(1)))
            elif field:
                flag = "*" if field.group(1) == "repeated" else ""
                current.append((int(field.group(4)), field.group(3), flag, field.group(2)))
    return package.removeprefix("k8s.io."), found


def main(root, version):
    table, kinds = {}, []
    modules = [pathlib.Path(root) / f"{m}@{version}" for m in ("api", "apimachinery", "apiextensions-apiserver")]
    for file in sorted(f for m in modules for f in m.rglob("generated.proto")):
        directory = file.parent
        if "testdata" in file.parts or "testing" in str(file):
            continue
        stable = not re.search(r"(alpha|beta)", directory.name)
        package, found = messages(file)
        structs, lists = go_facts(directory)
        register = directory / "register.go"
        group = re.search(r"GroupName\s*=\s*\"([^\"]*)\"", register.read_text()) if register.exists() else None
        for name, fields in found.items():
            full = f"{package}.{name}"
            facts = structs.get(name, {})
            lines = []
            for number, proto, flag, kind in fields:
                json_name, keep = facts.get(number, (proto, True))
                kind = kind.strip()
                if kind not in SCALARS:
                    kind = kind.removeprefix(".k8s.io.") if kind.startswith(".") else f"{package}.{kind}"
                    kind = f"m:{kind}"
                else:
                    kind = SCALARS[kind]
                flags = flag or ("." if keep or kind.startswith("m:") else "0")
                lines.append(f"{number} {json_name} {flags} {kind}")
            special = SPECIAL.get(full) or ("list" if name in lists else "")
            table[full] = (special, lines)
            # A kind has metadata of its own.
            if stable and group and any(f[1] in ("metadata",) for f in fields) and "TypeMeta" not in name:
                kinds.append(f"K {group.group(1)}/{directory.name} {name} {full}")
    out = sorted(kinds)
    # What no stable kind needs stays out.
    wanted = [k.split()[3] for k in kinds] + ["apimachinery.pkg.apis.meta.v1." + n for n in ("DeleteOptions", "Status")]
    needed = set()
    while wanted:
        name = wanted.pop()
        if name not in needed:
            needed.add(name)
            wanted.extend(line.split()[3].removeprefix("m:") for line in table[name][1] if " m:" in line)
    for name in sorted(needed):
        special, lines = table[name]
        out.append(f"M {name} {special}".rstrip())
        out.extend(lines)
    OUT.write_bytes(gzip.compress(("\n".join(out) + "\n").encode(), 9, mtime=0))
    print(f"{len(kinds)} kinds, {len(needed)} messages, {OUT.stat().st_size} bytes")


main(*sys.argv[1:])
