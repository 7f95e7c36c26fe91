# SPDX-License-Identifier: Apache-2.0
"""Good documents of each kind, which `documents.variants` spoils."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cri.store.pods import ContainerRecord, PodRecord

DIGEST = "sha256:" + "a" * 64
_OCI = "application/vnd.oci.image"
_PLATFORM = {"os": "linux", "architecture": "amd64"}

CNI: tuple[Any, ...] = (
    {
        "cniVersion": "1.1.0",
        "interfaces": [{"name": "veth1"}, {"name": "eth0", "sandbox": "/run/netns/x", "mac": "aa:bb:cc:dd:ee:ff"}],
        "ips": [{"address": "10.86.0.5/16", "gateway": "10.86.0.1", "interface": 1}, {"address": "fd00::5/64"}],
        "routes": [{"dst": "0.0.0.0/0", "gw": "10.86.0.1", "mtu": 1500, "priority": 1}],
        "dns": {"nameservers": ["10.0.0.1"], "domain": "a.test", "search": ["b.test"], "options": ["ndots:5"]},
    },
    {"cniVersion": "1.1.0", "code": 7, "msg": "no address", "details": "the range is empty"},
)

OCI: tuple[Any, ...] = (
    {
        "schemaVersion": 2,
        "config": {"mediaType": f"{_OCI}.config.v1+json", "digest": DIGEST, "size": 2},
        "layers": [{"mediaType": f"{_OCI}.layer.v1.tar+gzip", "digest": DIGEST, "size": 10}],
    },
    {"mediaType": f"{_OCI}.index.v1+json", "manifests": [{"digest": DIGEST, "platform": {**_PLATFORM, "variant": ""}}]},
    {
        **_PLATFORM,
        "rootfs": {"type": "layers", "diff_ids": [DIGEST]},
        "config": {
            "User": "1:2",
            "Env": ["A=b"],
            "Cmd": ["sh"],
            "WorkingDir": "/",
            "StopSignal": "TERM",
            "Volumes": {"/a": {}},
        },
    },
)

CHECKPOINT: tuple[Any, ...] = (
    {
        "v": 1,
        "made_of": {"scratch": "4294967296"},
        "files": {"guest": [4096, "c" * 64], "disk": [4096, "d" * 64]},
        "facts": {},
        "memory_mib": 128,
        "pieces": [["/merged", 0, 4096, "/merged 1 2 3"]],
        "images": [["a" * 64, 0, 8192]],
        "interfaces": [["eth0", "02:00:00:00:00:01", 1500, ["10.0.0.2/24"], ""]],
        "more": {
            "id": "a" * 64, "name": "web", "namespace": "default", "uid": "u", "handler": "", "config": "",
            "made_ns": 1, "link_key": "MDEyMzQ1Njc4OWFiY2RlZg==", "ids": 1024, "decided": [],
            "containers": [
                {
                    "guest_id": "b" * 64, "name": "c", "attempt": 0, "image_id": DIGEST, "image_ref": "r",
                    "window_image": "i", "config": "", "mounts": ["/map"], "stdin": 0, "stdout": 7, "stderr": 8,
                },
            ],
        },
    },
)  # fmt: skip

_APP = {
    "exec": ["/bin/sh", "-c", "true"],
    "user": "0",
    "group": "0",
    "supplementaryGIDs": [5],
    "workingDirectory": "/",
    "environment": [{"name": "A", "value": "b"}],
    "eventHandlers": [{"name": "pre-start", "exec": ["/bin/true"]}],
    "mountPoints": [{"name": "data", "path": "/data", "readOnly": True}],
    "ports": [{"name": "web", "protocol": "tcp", "port": 80, "count": 1}],
    "isolators": [
        {"name": "resource/memory", "value": {"limit": "64M"}},
        {"name": "os/linux/capabilities-retain-set", "value": {"set": ["CAP_CHOWN"]}},
    ],
}
RKT: tuple[Any, ...] = (
    {
        "acVersion": "1.30.0",
        "acKind": "PodManifest",
        "apps": [{"name": "web", "image": {"id": "sha512-" + "a" * 128, "name": "a/b"}, "app": _APP, "mounts": []}],
        "volumes": [{"name": "data", "kind": "host", "source": "/srv", "readOnly": True, "recursive": True}],
        "ports": [{"name": "web", "hostPort": 8080, "hostIP": "127.0.0.1"}],
        "annotations": [{"name": "coreos.com/rkt/stage1/mutable", "value": "true"}],
        "isolators": [],
    },
    {"acKind": "ImageManifest", "acVersion": "0.8.11", "name": "example.test/web", "labels": [], "app": _APP},
)


def nri_pod() -> "PodRecord":
    """A pod for whose container NRI's plugins have wishes."""
    from cri.store.pods import PodRecord
    from stage1.pod.model import Pod

    return PodRecord(Pod("a" * 64, "web"), b"", "", 1)


def nri_container() -> "ContainerRecord":
    """The container."""
    from cri.pb import runtime_pb2 as pb
    from cri.store.pods import ContainerRecord
    from stage1.pod.model import Container, Process

    config = pb.ContainerConfig(metadata=pb.ContainerMetadata(name="c"), annotations={"a": "b"})
    own = Container("b" * 64, "c", DIGEST, Process(("sh",), ("A=b",)))
    return ContainerRecord(own, config.SerializeToString(), 0, 1, DIGEST, DIGEST)
