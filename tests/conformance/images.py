#!/usr/bin/env python3
"""Makes the images that Kubernetes' conformance tests run, in one OCI archive that `yunfan image import` takes.

Use: images.py PEERS ARCHIVE, where PEERS is the directory that peers.sh prints. Nothing is pulled: what is in the images was built there or comes from Debian's
packages. They stand in for the published ones, of which the tests use no more than this: `e2e.test --list-images` says the names, IMAGES below what is in them.
"""

import hashlib
import io
import json
import os
import pathlib
import platform
import subprocess
import sys
import tarfile
import tempfile

BUSYBOX = "/bin/busybox"
# What the tests call in agnhost beside agnhost, and a web server.
PACKAGES = "bash bash-static bind9-dnsutils curl iproute2 libc-bin netcat-openbsd nginx".split()
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

NGINX = """error_log stderr;
events {}
http {
  include mime.types;
  access_log /dev/stdout;
  server { listen 80; root /usr/share/nginx/html; }
}
"""
# The tests know the words of busybox's shell. Debian's holds back variables whose names it could not use itself, such as `data-1`, which bash passes on.
SH = """#!/bin/bash-static
[ "$*" != "-c env" ] || exec /bin/env
exec -a "$0" /bin/busybox "$@"
"""
# Nor has it this word of theirs.
PRINTENV = """#!/bin/bash-static
[ $# -gt 0 ] || exec /bin/env
for name; do [ "${!name+set}" ] || exit 1; printf '%s\\n' "${!name}"; done
"""
USERS = "root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33:www-data:/var/www:/bin/false\nnobody:x:65534:65534:nobody:/:/bin/false\n"
GROUPS = "root:x:0:\nwww-data:x:33:\nnogroup:x:65534:\n"
# Who is in a group that the image says, for the tests of supplementalGroupsPolicy.
USERS_OF_AGNHOST = USERS + "user-defined-in-image:x:1000:1000::/home/user-defined-in-image:/bin/sh\n"
GROUPS_OF_AGNHOST = GROUPS + "user-defined-in-image:x:1000:\ngroup-defined-in-image:x:50000:user-defined-in-image\n"


class Layout:
    """An OCI image layout, written into a directory."""

    def __init__(self, directory):
        self.directory = pathlib.Path(directory)
        self.blobs = self.directory / "blobs" / "sha256"
        self.blobs.mkdir(parents=True)
        self.manifests = []

    def blob(self, content, kind):
        """Keeps bytes; gives their descriptor."""
        digest = hashlib.sha256(content).hexdigest()
        (self.blobs / digest).write_bytes(content)
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": f"sha256:{digest}", "size": len(content)}

    def layer(self, entries):
        """A layer of (path, what, mode): what is text, the path of a file or directory, None for an empty directory, or `-> TARGET` for a link."""
        content = io.BytesIO()
        with tarfile.open(fileobj=content, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for path, what, mode in entries:
                entry = tarfile.TarInfo(path)
                entry.mode = mode
                if what is None:
                    entry.type = tarfile.DIRTYPE
                    tar.addfile(entry)
                elif isinstance(what, pathlib.Path):
                    tar.add(what, path, filter=lambda entry: plain(entry, mode))
                elif what.startswith("-> "):
                    entry.type, entry.linkname = tarfile.SYMTYPE, what[3:]
                    tar.addfile(entry)
                else:
                    entry.size = len(what)
                    tar.addfile(entry, io.BytesIO(what.encode()))
        return self.blob(content.getvalue(), "layer.v1.tar")

    def image(self, name, layers, config):
        """An image of the layers, by name."""
        architecture = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
        # The name is in it: two tags are two images.
        config = {"Env": [PATH], "Labels": {"org.opencontainers.image.title": name}, **config}
        whole = {"architecture": architecture, "os": "linux", "config": config}
        whole["rootfs"] = {"type": "layers", "diff_ids": [layer["digest"] for layer in layers]}
        manifest = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json"}
        manifest["config"] = self.blob(json.dumps(whole).encode(), "config.v1+json")
        manifest["layers"] = layers
        descriptor = self.blob(json.dumps(manifest).encode(), "manifest.v1+json")
        self.manifests.append({**descriptor, "annotations": {"io.containerd.image.name": name}})

    def pack(self, archive):
        """Writes the whole as a tar."""
        index = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": self.manifests}
        (self.directory / "index.json").write_text(json.dumps(index))
        (self.directory / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
        with tarfile.open(archive, "w") as tar:
            tar.add(self.directory, ".")


def plain(entry, mode):
    """An entry as root's and of no time; of a single file the mode is as said."""
    entry.uid = entry.gid = entry.mtime = 0
    entry.uname = entry.gname = ""
    if mode is not None:
        entry.mode = mode
    return entry


def unpacked_packages(work):
    """A directory of PACKAGES and all that they need, as if nothing were installed here."""
    archives, root = work / "archives", work / "root"
    (archives / "partial").mkdir(parents=True)
    (work / "status").touch()
    options = [f"Dir::State::status={work}/status", f"Dir::Cache::archives={archives}", "Debug::NoLocking=1", "APT::Sandbox::User=root"]
    get = ["apt-get", "-qq", "-y", "--no-install-recommends", "--download-only"]
    for option in options:
        get += ["-o", option]
    # Package lists may be older than the archive.
    if subprocess.run([*get, "install", *PACKAGES], stdout=sys.stderr).returncode:
        subprocess.run(["apt-get", "-qq", "update"], check=True, stdout=sys.stderr)
        subprocess.run([*get, "install", *PACKAGES], check=True, stdout=sys.stderr)
    for package in archives.glob("*.deb"):
        subprocess.run(["dpkg-deb", "-x", package, root], check=True)
    for needless in ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/icu", "var/run", "var/lock"):
        subprocess.run(["rm", "-rf", root / needless], check=True)
    return root


def busybox(root):
    """The entries of a layer with Debian's static busybox, and what any program looks for."""
    entries = [("bin/bash-static", root / "bin/bash-static", 0o755), ("bin/sh", SH, 0o755), ("bin/printenv", PRINTENV, 0o755)]
    entries += [(path, None, 0o755) for path in ("bin", "etc", "home", "root", "sbin", "usr", "usr/bin", "usr/sbin", "var", "var/www")]
    entries += [("tmp", None, 0o1777), ("bin/busybox", pathlib.Path(BUSYBOX), 0o755), ("usr/bin/env", "-> ../../bin/busybox", 0o777)]
    entries += [("etc/passwd", USERS, 0o644), ("etc/group", GROUPS, 0o644), ("etc/nsswitch.conf", "hosts: files dns\n", 0o644)]
    names = subprocess.run([BUSYBOX, "--list"], check=True, capture_output=True, text=True).stdout.split()
    return entries + [(f"bin/{name}", "-> busybox", 0o777) for name in names if name not in ("busybox", "printenv", "sh")]


def main():
    peers, archive = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    with tempfile.TemporaryDirectory(dir=archive.parent) as work:
        work = pathlib.Path(work)
        layout = Layout(work / "layout")
        files = peers / "images"
        root = unpacked_packages(work)
        small = layout.layer(busybox(root))
        tools = layout.layer([
            *((path.name, path, None) for path in sorted(root.iterdir())),
            # Debian's busybox would take its own `nc` for the one in PATH.
            ("bin/sh", "-> bash", 0o777),
            ("bin/nc", "-> nc.openbsd", 0o777),
            ("etc/nginx/nginx.conf", NGINX, 0o644),
        ])
        agnhost = layout.layer([
            ("agnhost", peers / "agnhost", 0o755),
            ("agnhost-2", "-> agnhost", 0o777),
            ("localhost.crt", files / "agnhost/porter/localhost.crt", 0o644),
            ("localhost.key", files / "agnhost/porter/localhost.key", 0o644),
            ("uploads", None, 0o755),
            ("etc/passwd", USERS_OF_AGNHOST, 0o644),
            ("etc/group", GROUPS_OF_AGNHOST, 0o644),
        ])

        def one(path, what, mode=0o755):
            return layout.layer([(path, what, mode)])

        def pictures(name):
            # The published ones are of Alpine Linux, which a test looks for.
            entries = [("etc/os-release", 'PRETTY_NAME="in place of Alpine Linux"\n', 0o644)]
            return layout.layer(entries + [(path.name, path, 0o644) for path in sorted((files / name / "html").iterdir())])

        serve = {"Entrypoint": ["/agnhost"], "Cmd": ["test-webserver"]}
        images = {
            "agnhost": ([small, tools, agnhost], {"Entrypoint": ["/agnhost"], "Cmd": ["pause"]}),
            "busybox": ([small], {"Cmd": ["sh"]}),
            "etcd": ([small, one("usr/local/bin/etcd", peers / "etcd")], {"Cmd": ["/usr/local/bin/etcd"]}),
            "glibc-dns-testing": ([small, tools], {"Cmd": ["bash"]}),
            "kitten": ([small, tools, agnhost, pictures("kitten")], serve),
            "nautilus": ([small, tools, agnhost, pictures("nautilus")], serve),
            "nginx": ([small, tools], {"Cmd": ["nginx", "-g", "daemon off;"], "ExposedPorts": {"80/tcp": {}}}),
            "nonewprivs": ([small, one("usr/local/bin/nnp", peers / "nonewprivs", 0o6755)], {"Cmd": ["nnp"]}),
            "nonroot": ([small], {"Cmd": ["sh"], "User": "1234"}),
            "pause": ([one("pause", peers / "pause")], {"Entrypoint": ["/pause"], "User": "65535:65535"}),
            "sample-apiserver": ([one("sample-apiserver", peers / "sample-apiserver")], {"Entrypoint": ["/sample-apiserver"]}),
        }
        listed = subprocess.run([peers / "e2e.test", "--list-images"], check=True, capture_output=True, text=True).stdout.split()
        for name in listed:
            kind = name.rsplit("/", 1)[1].split(":")[0]
            # Others are there to be refused.
            if name.startswith("registry.k8s.io/") and kind in images:
                layout.image(name, *images[kind])
        missing = [kind for kind in images if not any(f"/{kind}:" in name for name in listed)]
        if missing:
            sys.exit(f"images: the tests name no {', '.join(missing)}: what did they become?")
        layout.pack(work / "archive")
        os.replace(work / "archive", archive)


if __name__ == "__main__":
    main()
