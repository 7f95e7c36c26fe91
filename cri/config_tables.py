# SPDX-License-Identifier: Apache-2.0
"""The tables of the configuration, with what each key means: docs/reference/configuration.md is made from this file.

Parsed by `cri.config`. Pure: it must not look at the host.
"""

import ipaddress
import os
from dataclasses import dataclass
from typing import Literal

from cri.config_keys import ABSOLUTE, Table, key
from stage1.pod.ids import POD_IDS
from stage1.pod.model import LEAST_MEMORY_MIB, MOST_WINDOW_MIB
from stage1.rootfs.limits import Limits as ImageLimits
from stage1.vm import hypervisors
from stage1.vm.slots import LEAST_ID, Range

DEFAULT_SUBNETS = ("10.86.0.0/16", "fd86:636c:6561:7270::/64")

_LARGEST = ImageLimits()


def fits_a_socket(path: str) -> str:
    """Return the path. Raises ValueError when it is longer than that of a unix socket."""
    if len(os.fsencode(path)) > 107:
        raise ValueError("is longer than the 107 bytes that a unix socket's path can have")
    return path


@dataclass(frozen=True, kw_only=True)
class Socket(Table):
    """The unix socket of the CRI."""

    path: str = key(default="", pattern=r"^(/.*)?$", check=fits_a_socket)
    """The CRI's unix socket, at most 107 bytes. Empty: `clearpod.sock` in `run_dir`."""
    mode: str = key(default="0660", pattern=r"^0[0-7]{3}$")
    """Its file mode, as octal text. Whoever can open it is root on this machine."""
    group: str = "root"
    """Its group."""


@dataclass(frozen=True, kw_only=True)
class Guest(Table):
    """The guest's files."""

    dir: str = key(default="", pattern=r"^(/[^,\n]*)?$")
    """Kernel, initramfs and system image of the guest. Empty: `$CLEARPOD_GUEST_DIR`, else `build/guest` of the
    checkout, else `guest` in `state_dir`.
    """


def has_a_driver(name: str) -> str:
    """The name of a hypervisor, or `auto`. Raises ValueError."""
    names = [repr(one) for one in ("auto", *hypervisors.names())]
    if repr(name) not in names:
        raise ValueError(f"should be {', '.join(names[:-1])} or {names[-1]}")
    return name


@dataclass(frozen=True, kw_only=True)
class Vm(Table):
    """The virtual machine of a pod that does not say otherwise."""

    hypervisor: str = key(default="auto", check=has_a_driver, values=("auto", *hypervisors.names()))
    """`clearpod check` says how `auto` chooses."""
    memory_mib: int = key(default=128, ge=LEAST_MEMORY_MIB, le=1 << 20)
    """Memory of a VM, to which a pod's own memory limits are added."""
    vcpus: int = key(default=1, ge=1, le=256)
    """vCPUs of a VM whose pod has no CPU limit."""
    ceiling: float = key(default=2.0, ge=1, le=64, strict=False)
    """A pod may grow in place to this many times its limits; 1: not at all."""
    boot_timeout_s: float = key(default=60.0, gt=0, le=3600, strict=False)
    """Time in which the agent of a VM that boots must answer."""
    adopt_timeout_s: float = key(default=10.0, gt=0, le=3600, strict=False)
    """Time in which a running guest must answer a daemon that starts again; then its VM is ended."""
    react_timeout_s: float = key(default=4.0, gt=0, le=3600, strict=False)
    """Time, beyond a container's grace period, in which a guest must end what it is told to end; then its VM is ended.
    Raise it where guests are slow, as by emulation on a busy host.
    """
    scratch_mib: int = key(default=10240, ge=16)
    """Size of the disk for the containers' writable layers. Sparse: only what is written takes space."""
    window_mib: int = key(default=256, ge=0, le=MOST_WINDOW_MIB)
    """Guest address space that kvmtool reserves for images by DAX, at most twice the VM's memory. 0: images come by 9p.
    """
    huge_pages: bool = False
    """Let guests have transparent huge pages everywhere, as the host's own setting says; makes idle pods larger:
    docs/admin/capacity.md.
    """


@dataclass(frozen=True, kw_only=True)
class Storage(Table):
    """The disk of `state_dir`, where pods write."""

    overcommit: float = key(default=0.0, ge=0, le=1000, strict=False)
    """All pods together may be promised this many times the free space of `state_dir`. 0: no bound. See
    docs/admin/storage.md.
    """
    allocate: bool = False
    """Allocate a pod's disk when the pod is made, so that nothing else can take its blocks."""
    reserve_mib: int = key(default=64, ge=0, le=1 << 20)
    """Kept by the daemon on that disk, so that it can remove things when the disk is full."""
    keep_free_mib: int = key(default=256, ge=0, le=1 << 20)
    """The free space below which a pod that continues to take space is held until there is space again."""


@dataclass(frozen=True, kw_only=True)
class Volumes(Table):
    """Where volumes of the kubelet's lie that need not be on the host: docs/user/volumes.md."""

    kubelet_root: str = key(default="/var/lib/kubelet", pattern=ABSOLUTE)
    """The kubelet's `--root-dir`, by which its volumes are recognised."""
    empty_dirs: Literal["auto", "host", "guest"] = "auto"
    """emptyDirs of pods without `clearpod.io/emptydir`. `guest`: on the pod's disk, as quick as its root; such pods are
    not claimed from the warm pool, and boot. `auto`: `guest` on a node without warm pool and templates whose
    `kubelet_root` is on the file system of `state_dir`.
    """
    server: Literal["9p", "virtiofs"] = "9p"
    """What brings directories of the host to pods without `clearpod.io/volumes`. `virtiofs`: virtiofsd, several times
    as quick for small files, for a process for each pod and memory that is not merged. QEMU only.
    """
    files: Literal["host", "guest"] = "host"
    """Config maps, secrets and the like of pods without `clearpod.io/files`. `guest`: copies in the guest's memory."""


@dataclass(frozen=True, kw_only=True)
class Ksm(Table):
    """Merging of equal pages of guests by the host's kernel."""

    enabled: bool = False
    """The daemon makes the host's kernel merge equal pages of guests. **One tenant can then measure what the memory of
    others holds**: see docs/admin/capacity.md first.
    """
    max_cpu_percent: float = key(default=20.0, gt=0, le=100, strict=False)
    """Share of one processor that the kernel's thread may take."""


@dataclass(frozen=True, kw_only=True)
class Registry(Table):
    """Where images whose name begins with `prefix` really come from."""

    prefix: str = key(min_length=1)
    """Images whose names begin so are fetched by this entry."""
    location: str = ""
    """Where they really are. Empty: at `prefix`."""
    mirrors: tuple[str, ...] = key(default=(), strict=False)
    """Places that are tried first, in order."""
    insecure: bool = False
    """Plain HTTP, or TLS without checking the certificate."""


@dataclass(frozen=True, kw_only=True)
class Images(Table):
    """Limits of an image, and of reading one: `stage1.rootfs.limits`."""

    layers: int = key(default=_LARGEST.layers, ge=1, le=4096)
    """Layers of an image. An image beyond this or any of the next eleven limits is refused: docs/admin/storage.md."""
    layer_mib: int = key(default=_LARGEST.layer_mib, ge=1, le=1 << 30)
    """One layer, unpacked."""
    image_mib: int = key(default=_LARGEST.image_mib, ge=1, le=1 << 30)
    """All layers of an image, as they are stored."""
    layer_entries: int = key(default=_LARGEST.layer_entries, ge=1, le=1 << 30)
    """Files and directories of one layer."""
    header_kib: int = key(default=_LARGEST.header_kib, ge=1, le=1 << 20)
    """One extended header of a layer's tar: a long name, or a PAX header."""
    ratio: int = key(default=_LARGEST.ratio, ge=1, le=1 << 20)
    """Unpacked bytes for each byte of a layer's blob, past the first 64 MiB."""
    path_bytes: int = key(default=_LARGEST.path_bytes, ge=255, le=4095)
    """A path in a layer."""
    path_depth: int = key(default=_LARGEST.path_depth, ge=1, le=2048)
    """Components of a path in a layer."""
    manifest_kib: int = key(default=_LARGEST.manifest_kib, ge=1, le=4096)
    """A manifest or an index."""
    config_kib: int = key(default=_LARGEST.config_kib, ge=1, le=4096)
    """An image's config, which status answers repeat."""
    document_values: int = key(default=_LARGEST.document_values, ge=100, le=1 << 24)
    """Values in one manifest, index or config: variables, labels, annotations, platforms."""
    index_depth: int = key(default=_LARGEST.index_depth, ge=1, le=16)
    """Indexes that lead from a name to a manifest."""
    memory_mib: int = key(default=_LARGEST.memory_mib, ge=128, le=1 << 20)
    """Memory of each process that reads a layer or a document."""
    readers: int = key(default=_LARGEST.readers, ge=1, le=64)
    """Layers that are read at once; more wait."""
    pulls: int = key(default=_LARGEST.pulls, ge=1, le=1024)
    """Pulls at once; more wait."""
    uid: int = key(default=_LARGEST.uid, ge=0, lt=2**32 - 1)
    """User of the processes that read; 0: root without capabilities. It must be nobody else's."""

    @property
    def limits(self) -> ImageLimits:
        """The same for those who read images."""
        return ImageLimits(**vars(self))


@dataclass(frozen=True, kw_only=True)
class Log(Table):
    """The daemon's own log, on standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Calls that clients repeat each second appear at `debug`."""
    format: Literal["text", "json"] = "text"
    """`json`: one object per line."""


def are_one_of_each(subnets: tuple[str, ...]) -> tuple[str, ...]:
    """Subnets of at most one for each version of IP, in their usual form. Raises ValueError."""
    networks = [ipaddress.ip_network(subnet) for subnet in subnets]
    if sorted(network.version for network in networks) not in ([4], [6], [4, 6]):
        raise ValueError("must be one subnet of IPv4, one of IPv6, or one of each")
    for network in networks:
        if network.num_addresses < 4:
            raise ValueError(f"must have room for a gateway and a pod, and {network} has none")
    return tuple(map(str, networks))


def are_absolute(paths: tuple[str, ...]) -> tuple[str, ...]:
    """Paths that a variable as PATH can have. Raises ValueError."""
    for path in paths:
        if not path.startswith("/") or ":" in path:
            raise ValueError(f"must be absolute paths without a colon, and {path!r} is not")
    return paths


@dataclass(frozen=True, kw_only=True)
class Network(Table):
    """CNI: configurations, plugins, and the bridge without a configuration."""

    conf_dir: str = key(default="/etc/cni/net.d", pattern=r"^/")
    """CNI configurations; the first by name that can be parsed is the pods' network. Read for each pod."""
    bin_dirs: tuple[str, ...] = key(
        default=("/opt/cni/bin", "/usr/lib/cni"), min_length=1, strict=False, check=are_absolute
    )
    """Where CNI plugins are looked for, in order."""
    cache: str = key(default="", pattern=r"^(/.*)?$")
    """Records of what must be undone for pods' networks, also after a reboot. Empty: `cni` in `state_dir`."""
    plugin_timeout_s: float = key(default=30.0, gt=0, le=600, strict=False)
    """Time after which a call of a plugin is killed."""
    default: bool = True
    """Pods get a bridge of clearpod's own while `conf_dir` has no configuration. Set it to false where another program
    will put one there.
    """
    default_subnets: tuple[str, ...] = key(default=DEFAULT_SUBNETS, strict=False, check=are_one_of_each)
    """Addresses of that bridge: one subnet of IPv4, one of IPv6, or one of each."""


def is_an_address(address: str) -> str:
    """The IP address in its usual form. Raises ValueError."""
    try:
        return str(ipaddress.ip_address(address))
    except ValueError:
        raise ValueError("must be an IP address") from None


@dataclass(frozen=True, kw_only=True)
class Streaming(Table):
    """Where clients of exec, attach and port-forward connect."""

    address: str = key(default="127.0.0.1", check=is_an_address)
    """IP address of the host where clients of exec, attach and port-forward connect. There is no TLS: see
    docs/dev/cri.md, "Streaming", before you choose another.
    """
    port: int = key(default=0, ge=0, le=65535)
    """TCP port; 0: any that is free."""

    @property
    def is_loopback(self) -> bool:
        """Whether only this host can connect."""
        return ipaddress.ip_address(self.address).is_loopback


@dataclass(frozen=True, kw_only=True)
class Metrics(Table):
    """The Prometheus endpoint."""

    enabled: bool = False
    """Whether the daemon counts, and answers `GET /metrics`: docs/admin/monitoring.md."""
    address: str = key(default="127.0.0.1", check=is_an_address)
    """IP address of the host where it answers. There is no TLS, and who can connect can read it all."""
    port: int = key(default=9547, ge=0, le=65535)
    """TCP port; 0: any that is free."""


@dataclass(frozen=True, kw_only=True)
class Tracing(Table):
    """Traces for OpenTelemetry."""

    endpoint: str = key(default="", pattern=r"^(https?://.+)?$")
    """Where spans are sent by OTLP over gRPC, as `http://127.0.0.1:4317`. Empty: nowhere. Needs `clearpod[tracing]`."""
    ratio: float = key(default=0.0, ge=0, le=1, strict=False)
    """Part of the calls without a trace of their client's that begin one; a client's is continued if it is sampled."""


@dataclass(frozen=True, kw_only=True)
class Pool(Table):
    """The warm pool: VMs that are booted before a pod is asked for."""

    size: int = key(default=0, ge=0, le=1000)
    """VMs that are booted before a pod is asked for, and wait: docs/admin/capacity.md, "The warm pool"."""
    memory_mib: int = key(default=0, ge=0)
    """Memory of all that wait together. 0: bounded by their number only."""


@dataclass(frozen=True, kw_only=True)
class Templates(Table):
    """Templates: guests that have booted once, of which VMs of QEMU are copies."""

    enabled: bool = False
    """New VMs begin as copies of a guest that has booted, and share its memory as long as they do not change it:
    docs/admin/templates.md. They also share some secrets of its kernel.
    """
    disk_mib: int = key(default=4096, ge=1)
    """What templates may take together below `state_dir`, and of the host's page cache."""
    warmed_mib: int = key(default=4096, ge=1)
    """What warmed templates may take together below `state_dir`. None is removed to make room."""


@dataclass(frozen=True, kw_only=True)
class HostPods(Table):
    """Pods that ask for namespaces of the host."""

    allow: tuple[Literal["network", "pid", "ipc"], ...] = key(default=(), strict=False)
    """Namespaces of the host that pods may ask for. **Such a pod has no VM around it**: see docs/admin/kubernetes.md
    first.
    """
    privileged: bool = False
    """Such a pod may be privileged, which makes it root of this machine."""


@dataclass(frozen=True, kw_only=True)
class Jail(Table):
    """The host's users and groups of which each VMM gets a range of 131072 for itself."""

    first_id: int = key(default=Range().first, ge=LEAST_ID, lt=1 << 31)
    """First of the users and groups of this host that are for VMMs. They must be nobody's: no account's, none in
    `/etc/subuid` and `/etc/subgid` (`clearpod check` looks), none that the kubelet gives to pods.
    """
    count: int = key(default=Range().length, ge=POD_IDS)
    """Number of these ids. Each pod takes 131072, so by default 2047 pods can run at a time."""

    def why_not(self) -> str:
        """Why no VM would have ids; empty when some would."""
        return self.ids.why_not()

    @property
    def ids(self) -> Range:
        """Return the ids as the engine takes them."""
        return Range(self.first_id, self.count)


@dataclass(frozen=True, kw_only=True)
class Nri(Table):
    """Plugins of the Node Resource Interface."""

    enabled: bool = False
    """Whether plugins of the Node Resource Interface may connect: docs/admin/nri.md."""
    socket: str = key(default="/var/run/nri/nri.sock", pattern=ABSOLUTE, check=fits_a_socket)
    """Where they connect, at most 107 bytes. Whoever can connect, which is root, decides about every container."""
    registration_timeout_s: float = key(default=5.0, gt=0, le=600, strict=False)
    """Time in which a plugin must register."""
    request_timeout_s: float = key(default=2.0, gt=0, le=600, strict=False)
    """Time in which a plugin must answer; one that does not is dropped."""


@dataclass(frozen=True, kw_only=True)
class Limits(Table):
    """What one node allows."""

    max_pods: int = key(default=0, ge=0)
    """Pods that run or boot at a time; more are RESOURCE_EXHAUSTED. 0: no limit."""
    max_pod_memory_mib: int = key(default=0, ge=0)
    """Memory of one VM. 0: no limit."""
