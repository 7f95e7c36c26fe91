# SPDX-License-Identifier: Apache-2.0
"""Pods and containers as values. Both front ends translate into these; everything below reads only these.

Sizes are bytes unless the name says otherwise, durations are microseconds where the kernel's files want them.
Zero and empty mean "not given".
"""

from typing import NamedTuple

PRIVATE, HOST_TO_CONTAINER, BIDIRECTIONAL = "private", "host-to-container", "bidirectional"

LEAST_MEMORY_MIB = 48
"""The memory that a guest needs to boot and to run one small container, with a margin."""
KERNEL_OF_IMAGE = "image"
"""Instead of the name of a guest's kernel: the pod's one container brings it, and no guest is booted before."""


POD_FILES = ("hosts", "hostname", "resolv.conf", "machine-id")
BOOT_ID, BOOT_ID_SEEN_AT = "boot-id", "/proc/sys/kernel/random/boot_id"
"""A file of pods that can be saved, and where their containers see it: a copy's kernel has its original's."""

SUSPEND = MANUAL, ON_DEMAND = "manual", "on-demand"
"""A suspended pod is resumed by request only, or by the next exec or attach as well."""

CGROUPS = "/sys/fs/cgroup"
"""Where a container sees its own cgroup."""
HOST_NAMESPACES = ("network", "pid", "ipc")
"""Which of the host's namespaces a pod can ask for."""

DEFAULT_PERIOD_US = 100_000
"""Of a quota whose period is not given: the kernel's own."""

MOST_WINDOW_MIB = 16384
"""Of images in the memory of one guest, which pays 1.6 percent of it."""


class Limits(NamedTuple):
    """cgroup v2 limits inside the guest, named after CRI LinuxContainerResources and OCI linux.resources."""

    memory: int = 0
    memory_swap: int = 0
    cpu_shares: int = 0
    cpu_quota_us: int = 0
    cpu_period_us: int = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    pids: int = 0
    unified: tuple[tuple[str, str], ...] = ()

    @property
    def cpus(self) -> int:
        """The number of processors that the quota needs, rounded up; 0 without one."""
        return -(-self.cpu_quota_us // (self.cpu_period_us or DEFAULT_PERIOD_US)) if self.cpu_quota_us > 0 else 0


class IdMap(NamedTuple):
    """Users and groups of a pod's user namespace: 0 is `first` in the guest, and so on, `length` of them.

    A length of 0 means that there is no user namespace.
    """

    first: int = 0
    length: int = 0


class EmptyDir(NamedTuple):
    """A volume that all containers of the pod share and that the guest has itself, on the pod's own disk or
    `in_memory`, as a tmpfs of `size_bytes`: `path` is its name, maybe with a path below; empty: it has none.

    A directory that is not there is made with `mode`, `uid` and `gid`, which are as the container sees them. A volume
    on the disk that has a limit has a `partition` there.
    """

    path: str = ""
    mode: int = 0o777
    uid: int = 0
    gid: int = 0
    partition: int = 0
    in_memory: bool = False
    size_bytes: int = 0


class DiskLimit(NamedTuple):
    """The size limit of the volume `name` on the pod's disk."""

    name: str
    size_bytes: int


class InMemory(NamedTuple):
    """A volume that the guest has a copy of, kept current, of at most so many bytes; 0: it has none. With `is_output`
    the copy is the container's to change, and what it is at the container's end is written to the source.
    """

    most_bytes: int = 0
    is_file: bool = False
    is_output: bool = False


class Mount(NamedTuple):
    """A host path that the container sees. `source` is resolved (no symlink); read-only is enforced on the host's side.

    `recursive_read_only` reaches the mounts below the source too; `read_only` alone does not (CRI Mount). With `image`,
    an image id, the source is a path inside that image, relative to its root, and what is seen is read-only.
    `options` are further ones of the bind in the container: noexec, nodev, nosuid.
    With `mapped` the container sees the owners that the host has, though it is in a user namespace. Without `recursive`
    what is mounted below the source is not seen. With `inside`, the id of a container that is only made and never run,
    what is seen is that one's root, and read-only is enforced by the guest's kernel. So it is with a volume that the
    guest has itself: `empty_dir`, whose source is the host's directory, and `memory`, which is a copy of the source.
    `shared_as` is the name by which the guest has one of the host's by FUSE, with all containers of its pod
    (stage1/served.py).
    """

    source: str
    target: str
    read_only: bool = False
    recursive_read_only: bool = False
    propagation: str = PRIVATE
    image: str = ""
    mapped: bool = False
    recursive: bool = True
    options: tuple[str, ...] = ()
    inside: str = ""
    empty_dir: EmptyDir = EmptyDir()
    memory: InMemory = InMemory()
    shared_as: str = ""

    @property
    def is_in_guest(self) -> bool:
        """Whether the guest has it itself."""
        return bool(self.empty_dir.path or self.memory.most_bytes)

    @property
    def is_of_host(self) -> bool:
        """Whether the container sees the host's own files."""
        return not (self.image or self.inside or self.is_in_guest)


class Device(NamedTuple):
    """The guest's own device `source` as `path` in the container. `access` is made of r, w and m (mknod)."""

    source: str
    path: str
    access: str = "rwm"


class Tmpfs(NamedTuple):
    """Memory of the guest as a file system of one container. `options` are of mount(8): size=64m, mode=1777, noexec."""

    target: str
    options: tuple[str, ...] = ()


class Rlimit(NamedTuple):
    """A resource limit of every process in a container: `name` is the kernel's (RLIMIT_NOFILE), limits up to
    `UNLIMITED`.
    """

    name: str
    soft: int
    hard: int


UNLIMITED = (1 << 64) - 1
"""RLIM_INFINITY."""


class HostName(NamedTuple):
    """One more line of /etc/hosts."""

    name: str
    address: str


class User(NamedTuple):
    """Numeric identity of a process in the guest. `groups` are supplementary, without `gid`."""

    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()


class Security(NamedTuple):
    """CRI LinuxContainerSecurityContext, as far as the OCI document needs it. Capability names carry CAP_."""

    privileged: bool = False
    no_new_privs: bool = False
    read_only_root: bool = False
    add_capabilities: tuple[str, ...] = ()
    drop_capabilities: tuple[str, ...] = ()
    ambient_capabilities: tuple[str, ...] = ()
    masked_paths: tuple[str, ...] = ()
    readonly_paths: tuple[str, ...] = ()
    seccomp: str = ""
    """OCI linux.seccomp as JSON text, or `seccomp.DEFAULT`; empty is unconfined."""
    pid_namespace: str = "pod"
    """pod, container, node; or "target:CONTAINER-ID"."""
    writable_sys: bool = False
    """Whether /sys is writable, as in privileged containers, without their other privileges."""
    apparmor: str = ""
    """Name of the AppArmor profile; empty is unconfined."""


class Process(NamedTuple):
    """The process: argv, environment (KEY=VALUE), working directory, identity. With `only_env` the environment is
    exactly that; else it gets what every container expects, see `oci.environment`. `size` are columns and rows of its
    terminal until a client sets others: without them a program that looks at once would see 0 by 0.
    """

    argv: tuple[str, ...]
    env: tuple[str, ...] = ()
    cwd: str = "/"
    user: User = User()
    tty: bool = False
    stdin: bool = False
    only_env: bool = False
    size: tuple[int, int] = (80, 24)


class Container(NamedTuple):
    """One container of a pod. `image` is the image id whose merged root is exported to the guest under that name.

    `pod_files` are those of the pod's own files that it sees in /etc, where no mount is; `files_over` are those of them
    that a mount of the whole /etc does not hide. `volumes` are directories of
    its root (VOLUME of an image), which are writable also when the root is not. With `root_of`, the id of a container
    that is only made and never run, its root is that one's.
    """

    id: str
    name: str
    image: str
    process: Process
    mounts: tuple[Mount, ...] = ()
    devices: tuple[Device, ...] = ()
    limits: Limits = Limits()
    security: Security = Security()
    stop_signal: int = 15
    oom_score_adj: int = 0
    pod_files: tuple[str, ...] = POD_FILES
    files_over: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    root_of: str = ""
    tmpfs: tuple[Tmpfs, ...] = ()
    rlimits: tuple[Rlimit, ...] = ()

    @property
    def has_guest_volumes(self) -> bool:
        """Whether its guest has one of its volumes itself."""
        return any(mount.is_in_guest for mount in self.mounts)

    @property
    def bound_mounts(self) -> dict[int, Mount]:
        """Return, by number, the mounts that the host binds into the bundle; the guest makes all others."""
        mounts = enumerate(self.mounts)
        return {
            number: one
            for number, one in mounts
            if not (one.image or one.inside or one.empty_dir.path or one.shared_as)
        }


class Port(NamedTuple):
    """A port of the pod that the host publishes. `protocol` is tcp, udp or sctp; an empty host_ip is every address."""

    container_port: int
    host_port: int
    protocol: str = "tcp"
    host_ip: str = ""


class Pod(NamedTuple):
    """One pod, one VM. Bandwidths are bits per second, 0 for no limit; ingress is what the pod receives.

    `networks` are names of networks that it gets beside the node's own. `kernel` names a variant of the guest's kernel;
    empty is the ordinary one. `profile` names a userspace for the guest (profile.py); empty is the ordinary one.
    `journal` is the directory of the host where one with systemd keeps its journal; empty is one that goes with the
    pod. `window_mib` is what a kvmtool guest reserves for images that are mapped into it while it runs. `scratch_mib`
    is the size of the disk for the containers' writable layers; 0 is as the host gives it to all. With `allow_spoofing`
    it may send from addresses that are not its own. With `boots` its VM is no copy of a template.
    `host` has the namespaces of the host that it shares, of HOST_NAMESPACES: then it has no VM. `memory_mib` and
    `vcpus` are what the VM has, up to which the pod may grow; of the vCPUs `online_vcpus` are in use now, 0 when that
    is all and stays so. `cgroup_parent` is the cgroup that the client made for it, if it exists; `limit_bytes` is the
    memory that its containers may have together, 0 when that is not given, `overhead_bytes` what its cgroup allows in
    addition, and `is_bounded` whether the guest holds
    them to it from the start, since every one of them has a limit. `kubelet_dir` is the kubelet's directory of the pod,
    empty if it is not needed. The volumes `disk_volumes` of that are on the pod's own disk, which lies in that
    directory then and outlives the pod: the next one of the same uid has it. Those of `disk_limits` have only a part of
    the disk. Those of `memory_volumes` are tmpfs of the guest, which end with it. With `copies_files` the guest has
    copies of its config maps and the like. `suspend` is how the pod can be resumed that can be suspended, one of
    SUSPEND; empty: it can't be.
    """

    id: str
    name: str
    namespace: str = "default"
    uid: str = ""
    attempt: int = 0
    hostname: str = ""
    memory_mib: int = 128
    vcpus: int = 1
    online_vcpus: int = 0
    sysctls: tuple[tuple[str, str], ...] = ()
    dns_servers: tuple[str, ...] = ()
    dns_searches: tuple[str, ...] = ()
    dns_options: tuple[str, ...] = ()
    hypervisor: str = "auto"
    ports: tuple[Port, ...] = ()
    ingress_bits: int = 0
    egress_bits: int = 0
    shm_bytes: int = 0
    networks: tuple[str, ...] = ()
    window_mib: int = 0
    ids: IdMap = IdMap()
    host: tuple[str, ...] = ()
    cgroup_parent: str = ""
    limit_bytes: int = 0
    overhead_bytes: int = 0
    is_bounded: bool = False
    kernel: str = ""
    profile: str = ""
    journal: str = ""
    allow_spoofing: bool = False
    scratch_mib: int = 0
    hosts: tuple[HostName, ...] = ()
    boots: bool = False
    kubelet_dir: str = ""
    disk_volumes: tuple[str, ...] = ()
    disk_limits: tuple[DiskLimit, ...] = ()
    memory_volumes: tuple[str, ...] = ()
    copies_files: bool = False
    suspend: str = ""
