# SPDX-License-Identifier: Apache-2.0
"""The tables of the configuration, with what each key means: docs/reference/configuration.md is made from this file.
A table is a frozen record, whose keys carry the rules for their values.

Parsed by `cri.config`; `cri.config_check` reads the rules, and alone imports pydantic, which commands that read no
file do without. Pure: it must not look at the host.
"""

import dataclasses
import ipaddress
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self, TypeVar

from stage1.pod.ids import POD_IDS
from stage1.pod.model import LEAST_MEMORY_MIB, MOST_WINDOW_MIB
from stage1.rootfs.limits import Limits as ImageLimits
from stage1.vm import hypervisors
from stage1.vm.slots import LEAST_ID, Range

T = TypeVar("T", bound="Table")

RULES = "rules"
"""Under which a field's metadata have its `Rules`."""
ABSOLUTE = r"^/[^,\n]*$"
"""An absolute path that an option of a VMM can have in it."""


@dataclass(frozen=True, kw_only=True)
class Rules:
    """Arguments of `pydantic.Field` for the key, and properties that pydantic does not know."""

    field: Mapping[str, Any]
    """Such as `ge`, `pattern` and `strict`."""
    items: "Mapping[str, Any] | type[Table]"
    """The same for each item of a list, or the table of which there may be any number."""
    check: Callable[[Any], Any] | None = None
    """Returns the value that is taken, raises ValueError with the end of a sentence."""
    values: tuple[str, ...] = ()
    """Those that `check` lets pass, for the reference."""


NONE = Rules(field={}, items={})


@dataclass(frozen=True, kw_only=True)
class Table:
    """Values are not converted, and unknown keys are refused. One with `why_not` can refuse values as a whole."""

    def but(self, **changes: Any) -> Self:
        """Return a copy of the table with other values."""
        return dataclasses.replace(self, **changes)

    def values(self) -> dict[str, Any]:
        """The values as plain dictionaries; `made` is the inverse."""
        return dataclasses.asdict(self)


def key(
    *,
    default: Any = dataclasses.MISSING,
    items: Mapping[str, Any] | type[Table] | None = None,
    check: Callable[[Any], Any] | None = None,
    values: tuple[str, ...] = (),
    **field: Any,
) -> Any:
    """A key with rules (`Rules`). Without a default it is required."""
    rules = Rules(field=field, items=items or {}, check=check, values=values)
    return dataclasses.field(default=default, metadata={RULES: rules})


def rules(field: "dataclasses.Field[Any]") -> Rules:
    """Return the rules for the values of a key."""
    known: Rules = field.metadata.get(RULES, NONE)
    return known


def table_of(field: "dataclasses.Field[Any]") -> type[Table] | None:
    """The table that a key has, once or any number of times; None of one that has values."""
    if isinstance(field.default, Table):
        return type(field.default)
    items = rules(field).items
    return items if isinstance(items, type) else None


def made(kind: type[T], values: Mapping[str, Any]) -> T:
    """Return the table that has these `values`, which are not checked."""
    return kind(**{one.name: _value(one, values[one.name]) for one in dataclasses.fields(kind)})


def _value(field: "dataclasses.Field[Any]", value: Any) -> Any:
    inner = table_of(field)
    if isinstance(value, (list, tuple)):
        return tuple(made(inner, one) if inner else one for one in value)
    return made(inner, value) if inner else value


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
    """The socket's file mode, as octal text. Whoever can open the socket is root on this machine."""
    group: str = "root"
    """The socket's group."""


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
    """The default virtual machine of a pod."""

    hypervisor: str = key(default="auto", check=has_a_driver, values=("auto", *hypervisors.names()))
    """`auto` is kvmtool if it is installed and KVM works, else QEMU; `clearpod check` shows the choice and its
    reason.
    """
    memory_mib: int = key(default=128, ge=LEAST_MEMORY_MIB, le=1 << 20)
    """Memory of a VM in addition to the pod's memory limits."""
    vcpus: int = key(default=1, ge=1, le=256)
    """vCPUs of a VM whose pod has no CPU limit."""
    ceiling: float = key(default=2.0, ge=1, le=64, strict=False)
    """The ceiling: a pod may grow in place to this many times its limits. 1: not at all."""
    boot_timeout_s: float = key(default=60.0, gt=0, le=3600, strict=False)
    """Time within which the agent of a booting VM must answer."""
    adopt_timeout_s: float = key(default=10.0, gt=0, le=3600, strict=False)
    """Time within which a running guest must answer a restarted daemon; otherwise its VM is killed."""
    react_timeout_s: float = key(default=0.0, ge=0, le=3600, strict=False)
    """Time after a container's grace period within which a guest must have stopped it; otherwise its VM is killed.
    0: 4, and 16 where guests are emulated.
    """
    scratch_mib: int = key(default=10240, ge=16)
    """Size of the disk for the containers' writable layers. The file is sparse: only written blocks take space."""
    window_mib: int = key(default=256, ge=0, le=MOST_WINDOW_MIB)
    """Guest address space that kvmtool reserves for images by DAX, at most twice the VM's memory. 0: images are on
    9p.
    """
    huge_pages: bool = False
    """Let guests have transparent huge pages everywhere, as the host's own setting allows; makes idle pods larger:
    docs/admin/capacity.md.
    """


@dataclass(frozen=True, kw_only=True)
class Storage(Table):
    """The disk of `state_dir`, where pods write."""

    overcommit: float = key(default=0.0, ge=0, le=1000, strict=False)
    """The sum of all pods' disks may be this many times the free space of `state_dir`. 0: no limit. See
    docs/admin/storage.md.
    """
    allocate: bool = False
    """Allocate all blocks of a pod's disk when the pod is created, so that nothing else can take them."""
    reserve_mib: int = key(default=64, ge=0, le=1 << 20)
    """Size of a file that the daemon keeps on that disk as a reserve for removals when the disk is full."""
    keep_free_mib: int = key(default=256, ge=0, le=1 << 20)
    """The free space below which pods that continue to take space are held until there is space again."""


@dataclass(frozen=True, kw_only=True)
class Volumes(Table):
    """Volumes of the kubelet that can be in the guest: docs/user/volumes.md."""

    kubelet_root: str = key(default="/var/lib/kubelet", pattern=ABSOLUTE)
    """The kubelet's `--root-dir`, by which its volumes are recognised."""
    empty_dirs: Literal["host", "guest"] = "host"
    """emptyDirs of pods without `clearpod.io/emptydir`, except those in memory. `guest`: on the pod's disk, which
    programs of the host, the kubelet among them, can't look into; such pods boot, and get no VM of the warm pool.
    """
    files: Literal["host", "guest"] = "host"
    """configMaps, secrets and similar volumes of pods without `clearpod.io/files`. `guest`: copies in the guest's
    memory.
    """


@dataclass(frozen=True, kw_only=True)
class Ksm(Table):
    """KSM: merging of identical pages of guests by the host's kernel."""

    enabled: bool = False
    """The daemon makes the host's kernel merge equal pages of guests. **One tenant can then measure what the memory of
    others holds**: see docs/admin/capacity.md first.
    """
    max_cpu_percent: float = key(default=20.0, gt=0, le=100, strict=False)
    """Share of one processor that the kernel's thread may use."""


@dataclass(frozen=True, kw_only=True)
class Registry(Table):
    """The registry or location for images whose name begins with `prefix`."""

    prefix: str = key(min_length=1)
    """The prefix of image names that this entry applies to."""
    location: str = ""
    """The registry or repository to pull from. Empty: `prefix`."""
    mirrors: tuple[str, ...] = key(default=(), strict=False)
    """Mirrors, tried first in this order."""
    insecure: bool = False
    """Allow plain HTTP, and TLS without verifying the certificate."""


@dataclass(frozen=True, kw_only=True)
class Images(Table):
    """Limits of an image, and of reading one: `stage1.rootfs.limits`."""

    layers: int = key(default=_LARGEST.layers, ge=1, le=4096)
    """Maximum number of layers of an image. An image that exceeds this or any of the next eleven limits is refused:
    docs/admin/storage.md.
    """
    layer_mib: int = key(default=_LARGEST.layer_mib, ge=1, le=1 << 30)
    """Maximum size of a layer, unpacked."""
    image_mib: int = key(default=_LARGEST.image_mib, ge=1, le=1 << 30)
    """Maximum size of all layers of an image, as they are stored."""
    layer_entries: int = key(default=_LARGEST.layer_entries, ge=1, le=1 << 30)
    """Maximum number of files and directories in a layer."""
    header_kib: int = key(default=_LARGEST.header_kib, ge=1, le=1 << 20)
    """Maximum size of an extended header in a layer's tar: a long name, or a PAX header."""
    ratio: int = key(default=_LARGEST.ratio, ge=1, le=1 << 20)
    """Maximum ratio of unpacked bytes to a layer's blob, after the first 64 MiB."""
    path_bytes: int = key(default=_LARGEST.path_bytes, ge=255, le=4095)
    """Maximum length of a path in a layer."""
    path_depth: int = key(default=_LARGEST.path_depth, ge=1, le=2048)
    """Maximum number of components of a path in a layer."""
    manifest_kib: int = key(default=_LARGEST.manifest_kib, ge=1, le=4096)
    """Maximum size of a manifest or an index."""
    config_kib: int = key(default=_LARGEST.config_kib, ge=1, le=4096)
    """Maximum size of an image's config, which is part of status answers."""
    document_values: int = key(default=_LARGEST.document_values, ge=100, le=1 << 24)
    """Maximum number of values in one manifest, index or config: variables, labels, annotations, platforms."""
    index_depth: int = key(default=_LARGEST.index_depth, ge=1, le=16)
    """Maximum number of nested indexes."""
    memory_mib: int = key(default=_LARGEST.memory_mib, ge=128, le=1 << 20)
    """Memory limit of each process that reads a layer or a document."""
    readers: int = key(default=_LARGEST.readers, ge=1, le=64)
    """Number of layers that are read concurrently; others wait."""
    pulls: int = key(default=_LARGEST.pulls, ge=1, le=1024)
    """Number of concurrent pulls; others wait."""
    uid: int = key(default=_LARGEST.uid, ge=0, lt=2**32 - 1)
    """The user of the confined processes; 0: root without capabilities. No account may have this id."""

    @property
    def limits(self) -> ImageLimits:
        """The limits for the processes that read images."""
        return ImageLimits(**vars(self))


@dataclass(frozen=True, kw_only=True)
class Log(Table):
    """The daemon's own log, on standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """The lowest level that is logged. Calls that clients repeat each second are at `debug`."""
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
    """Directory of CNI configurations; the first valid one by file name is the pods' network. Read for each pod."""
    bin_dirs: tuple[str, ...] = key(
        default=("/opt/cni/bin", "/usr/lib/cni"), min_length=1, strict=False, check=are_absolute
    )
    """Directories of CNI plugins, in order."""
    cache: str = key(default="", pattern=r"^(/.*)?$")
    """Directory of the records for removing pods' networks, which must survive a reboot. Empty: `cni` in `state_dir`.
    """
    plugin_timeout_s: float = key(default=30.0, gt=0, le=600, strict=False)
    """Time limit of a plugin's call, after which it is killed."""
    default: bool = True
    """Give pods a bridge of clearpod's own while `conf_dir` has no configuration. Set it to false if another program
    will install one there.
    """
    default_subnets: tuple[str, ...] = key(default=DEFAULT_SUBNETS, strict=False, check=are_one_of_each)
    """Subnets of that bridge: one of IPv4, one of IPv6, or one of each."""


def is_an_address(address: str) -> str:
    """The IP address in its usual form. Raises ValueError."""
    try:
        return str(ipaddress.ip_address(address))
    except ValueError:
        raise ValueError("must be an IP address") from None


@dataclass(frozen=True, kw_only=True)
class Streaming(Table):
    """The server for clients of exec, attach and port-forward."""

    address: str = key(default="127.0.0.1", check=is_an_address)
    """IP address of the host where clients of exec, attach and port-forward connect. There is no TLS: see
    docs/dev/cri.md, "Streaming", before you choose another.
    """
    port: int = key(default=0, ge=0, le=65535)
    """TCP port; 0: any free port."""

    @property
    def is_loopback(self) -> bool:
        """Whether only this host can connect."""
        return ipaddress.ip_address(self.address).is_loopback


@dataclass(frozen=True, kw_only=True)
class Metrics(Table):
    """The Prometheus endpoint."""

    enabled: bool = False
    """Collect metrics and serve `GET /metrics`: docs/admin/monitoring.md."""
    address: str = key(default="127.0.0.1", check=is_an_address)
    """IP address of the host to listen on. There is no TLS, and anybody who can connect can read the metrics."""
    port: int = key(default=9547, ge=0, le=65535)
    """TCP port; 0: any free port."""


@dataclass(frozen=True, kw_only=True)
class Tracing(Table):
    """Traces for OpenTelemetry."""

    endpoint: str = key(default="", pattern=r"^(https?://.+)?$")
    """URL of the collector for spans, by OTLP over gRPC, such as `http://127.0.0.1:4317`. Empty: no tracing. Needs
    `clearpod[tracing]`.
    """
    ratio: float = key(default=0.0, ge=0, le=1, strict=False)
    """The fraction of calls without a trace of the client that start a new trace; a client's trace is continued if it
    is sampled.
    """


@dataclass(frozen=True, kw_only=True)
class Pool(Table):
    """The warm pool: prewarmed VMs."""

    size: int = key(default=0, ge=0, le=1000)
    """Number of VMs that are booted in advance: docs/admin/capacity.md, "The warm pool"."""
    memory_mib: int = key(default=0, ge=0)
    """Limit of the prewarmed VMs' memory in total. 0: no limit."""


@dataclass(frozen=True, kw_only=True)
class Templates(Table):
    """Templates: guests that have booted once, from which VMs on QEMU are copied."""

    enabled: bool = False
    """Start VMs as copies of a guest that has booted, which share its memory copy-on-write: docs/admin/templates.md.
    They also share some secrets of its kernel.
    """
    disk_mib: int = key(default=4096, ge=1)
    """Limit of the templates' total size below `state_dir`, and in the host's page cache."""


@dataclass(frozen=True, kw_only=True)
class Snapshots(Table):
    """Named snapshots of pods: docs/admin/templates.md, "Named snapshots"."""

    disk_mib: int = key(default=4096, ge=1)
    """Limit of their total size below `state_dir`. None is removed to make space for another."""


@dataclass(frozen=True, kw_only=True)
class HostPods(Table):
    """Pods with namespaces of the host."""

    allow: tuple[Literal["network", "pid", "ipc"], ...] = key(default=(), strict=False)
    """Namespaces of the host that pods may use. **Such a pod does not run in a VM**: see docs/admin/kubernetes.md
    first.
    """
    privileged: bool = False
    """Allow such pods to be privileged, which makes them root on this machine."""


@dataclass(frozen=True, kw_only=True)
class Jail(Table):
    """The host's ids for VMMs, of which each gets a range of 131072."""

    first_id: int = key(default=Range().first, ge=LEAST_ID, lt=1 << 31)
    """First of the host's uids and gids for VMMs. Nothing else may use them: no account, no range in `/etc/subuid`
    and `/etc/subgid` (`clearpod check` looks), and no range that the kubelet assigns to pods.
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
    """Let plugins of the Node Resource Interface connect: docs/admin/nri.md."""
    socket: str = key(default="/var/run/nri/nri.sock", pattern=ABSOLUTE, check=fits_a_socket)
    """The socket for plugins, at most 107 bytes. Only root can connect; a plugin controls all containers."""
    registration_timeout_s: float = key(default=5.0, gt=0, le=600, strict=False)
    """Time limit for a plugin to register."""
    request_timeout_s: float = key(default=2.0, gt=0, le=600, strict=False)
    """Time limit for a plugin's response; after that it is disconnected."""


@dataclass(frozen=True, kw_only=True)
class Limits(Table):
    """Limits of the node."""

    max_pods: int = key(default=0, ge=0)
    """Maximum number of pods that run or boot; more are RESOURCE_EXHAUSTED. 0: no limit."""
    max_pod_memory_mib: int = key(default=0, ge=0)
    """Maximum memory of a VM. 0: no limit."""
