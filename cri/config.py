# SPDX-License-Identifier: Apache-2.0
"""The daemon's configuration: one TOML file, checked before anything starts.

Read by `clearpod serve`, `clearpod run` and `clearpod check`; the rest of `cri` receives the frozen `Config`.
It must not look at the host: whether a directory exists or a hypervisor runs is for those who use it.
An error names the file and the line, since the reader is a person with an editor open.
"""

import difflib
import ipaddress
import os
import re
import tomllib
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from cri.lines import find_line
from cri.policy import Policy, Rule
from stage1.errors import BadRequest, NotFound
from stage1.net.settings import Default, Settings
from stage1.pod.ids import POD_IDS
from stage1.pod.model import LEAST_MEMORY_MIB, MOST_WINDOW_MIB
from stage1.rootfs.limits import Limits as ImageLimits
from stage1.vm.slots import CONFIG, LEAST_ID, Range

DEFAULT_PATH = CONFIG

RUN_DIR_BYTES = 22
"""A unix socket's path has at most 107 bytes, and that of a pod of `clearpod run` is
run_dir/run/pods/<64 digits>/agent.sock."""

DEFAULT_SUBNETS = ("10.86.0.0/16", "fd86:636c:6561:7270::/64")

_LARGEST = ImageLimits()

AbsolutePath = Annotated[str, Field(pattern=r"^/[^,\n]*$")]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def fits_a_socket(path: str) -> str:
    """The path. Raises ValueError."""
    if len(os.fsencode(path)) > 107:
        raise ValueError("is longer than the 107 bytes that a unix socket's path can have")
    return path


class Socket(_Table):
    """The unix socket of the CRI.

    Whoever can open it is root on this machine, so the mode is the protection.
    """

    path: str = Field(default="", pattern=r"^(/.*)?$")
    mode: str = Field(default="0660", pattern=r"^0[0-7]{3}$")
    group: str = "root"

    _fits = field_validator("path")(fits_a_socket)


class Guest(_Table):
    """Where the guest's kernel, initramfs and system image are; empty: found as `guest_dir` says."""

    dir: str = Field(default="", pattern=r"^(/[^,\n]*)?$")


class Vm(_Table):
    """The virtual machine of a pod that does not say otherwise. A pod may grow to `ceiling` times its limits."""

    hypervisor: Literal["auto", "kvmtool", "qemu"] = "auto"
    memory_mib: int = Field(default=128, ge=LEAST_MEMORY_MIB, le=1 << 20)
    vcpus: int = Field(default=1, ge=1, le=256)
    ceiling: float = Field(default=2.0, ge=1, le=64, strict=False)
    boot_timeout_s: float = Field(default=60.0, gt=0, le=3600, strict=False)
    adopt_timeout_s: float = Field(default=10.0, gt=0, le=3600, strict=False)
    react_timeout_s: float = Field(default=4.0, gt=0, le=3600, strict=False)
    scratch_mib: int = Field(default=10240, ge=16)
    window_mib: int = Field(default=256, ge=0, le=MOST_WINDOW_MIB)
    huge_pages: bool = False


class Storage(_Table):
    """The disk of `state_dir`, where pods write. `overcommit`: all pods together may write so many times what there is;
    0: no bound. `allocate`: a pod's disk is allocated when it is made. `reserve_mib` is the daemon's. While less
    than `keep_free_mib` is free, a pod that takes more is held.
    """

    overcommit: float = Field(default=0.0, ge=0, le=1000, strict=False)
    allocate: bool = False
    reserve_mib: int = Field(default=64, ge=0, le=1 << 20)
    keep_free_mib: int = Field(default=256, ge=0, le=1 << 20)


class Ksm(_Table):
    """Equal pages of guests are merged by the host's kernel: docs/admin/capacity.md says what that gives and what it
    tells tenants about each other. `max_cpu_percent` is of one processor, for the kernel's thread.
    """

    enabled: bool = False
    max_cpu_percent: float = Field(default=20.0, gt=0, le=100, strict=False)


class Registry(_Table):
    """Where images whose name begins with `prefix` really come from; mirrors are tried first, in order."""

    prefix: str = Field(min_length=1)
    location: str = ""
    mirrors: tuple[str, ...] = Field(default=(), strict=False)
    insecure: bool = False


class Images(_Table):
    """What an image may be, and what reading one may take: `stage1.rootfs.limits` says what each is."""

    layers: int = Field(default=_LARGEST.layers, ge=1, le=4096)
    layer_mib: int = Field(default=_LARGEST.layer_mib, ge=1, le=1 << 30)
    image_mib: int = Field(default=_LARGEST.image_mib, ge=1, le=1 << 30)
    layer_entries: int = Field(default=_LARGEST.layer_entries, ge=1, le=1 << 30)
    header_kib: int = Field(default=_LARGEST.header_kib, ge=1, le=1 << 20)
    ratio: int = Field(default=_LARGEST.ratio, ge=1, le=1 << 20)
    path_bytes: int = Field(default=_LARGEST.path_bytes, ge=255, le=4095)
    path_depth: int = Field(default=_LARGEST.path_depth, ge=1, le=2048)
    manifest_kib: int = Field(default=_LARGEST.manifest_kib, ge=1, le=4096)
    config_kib: int = Field(default=_LARGEST.config_kib, ge=1, le=4096)
    document_values: int = Field(default=_LARGEST.document_values, ge=100, le=1 << 24)
    index_depth: int = Field(default=_LARGEST.index_depth, ge=1, le=16)
    memory_mib: int = Field(default=_LARGEST.memory_mib, ge=128, le=1 << 20)
    readers: int = Field(default=_LARGEST.readers, ge=1, le=64)
    pulls: int = Field(default=_LARGEST.pulls, ge=1, le=1024)
    uid: int = Field(default=_LARGEST.uid, ge=0, lt=2**32 - 1)

    @property
    def limits(self) -> ImageLimits:
        """The same for those who read images."""
        return ImageLimits(**self.model_dump())


class Log(_Table):
    """The daemon's own log, on standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"


class Network(_Table):
    """Where the CNI's configuration and plugins are. `cache` keeps what must be undone: empty, cni in state_dir.

    `default`: without any configuration pods get a bridge with `default_subnets`.
    """

    conf_dir: str = Field(default="/etc/cni/net.d", pattern=r"^/")
    bin_dirs: tuple[str, ...] = Field(default=("/opt/cni/bin", "/usr/lib/cni"), min_length=1, strict=False)
    cache: str = Field(default="", pattern=r"^(/.*)?$")
    plugin_timeout_s: float = Field(default=30.0, gt=0, le=600, strict=False)
    default: bool = True
    default_subnets: tuple[str, ...] = Field(default=DEFAULT_SUBNETS, strict=False)

    @field_validator("default_subnets")
    @classmethod
    def _are_one_of_each(cls, subnets: tuple[str, ...]) -> tuple[str, ...]:
        """In their usual form."""
        networks = [ipaddress.ip_network(subnet) for subnet in subnets]
        if sorted(network.version for network in networks) not in ([4], [6], [4, 6]):
            raise ValueError("must be one subnet of IPv4, one of IPv6, or one of each")
        for network in networks:
            if network.num_addresses < 4:
                raise ValueError(f"must have room for a gateway and a pod, and {network} has none")
        return tuple(map(str, networks))

    @field_validator("bin_dirs")
    @classmethod
    def _are_absolute(cls, bin_dirs: tuple[str, ...]) -> tuple[str, ...]:
        for path in bin_dirs:
            if not path.startswith("/") or ":" in path:
                raise ValueError(f"must be absolute paths without a colon, and {path!r} is not")
        return bin_dirs


class Streaming(_Table):
    """Where clients of exec, attach and port-forward connect. `port` 0: any that is free."""

    address: str = "127.0.0.1"
    port: int = Field(default=0, ge=0, le=65535)

    @field_validator("address")
    @classmethod
    def _is_an_address(cls, address: str) -> str:
        try:
            return str(ipaddress.ip_address(address))
        except ValueError:
            raise ValueError("must be an IP address") from None

    @property
    def is_loopback(self) -> bool:
        """Whether only this host can connect."""
        return ipaddress.ip_address(self.address).is_loopback


class Pool(_Table):
    """Virtual machines that are booted before a pod is asked for: `size` of them wait, 0 for none.

    `memory_mib` bounds what they may have together; 0: only by their number.
    """

    size: int = Field(default=0, ge=0, le=1000)
    memory_mib: int = Field(default=0, ge=0)


class HostPods(_Table):
    """Pods that ask for namespaces of the host: those in `allow` may be asked for. Such a pod has no VM around it.

    `privileged`: it may be privileged too, which makes it root of this machine.
    """

    allow: tuple[Literal["network", "pid", "ipc"], ...] = Field(default=(), strict=False)
    privileged: bool = False


class Jail(_Table):
    """The host's users and groups, `count` from `first_id` on, of which each VMM gets a range of 131072 for itself.

    They must be nobody's: no account's, and not in /etc/subuid and /etc/subgid.
    """

    first_id: int = Field(default=Range().first, ge=LEAST_ID, lt=1 << 31)
    count: int = Field(default=Range().length, ge=POD_IDS)

    @model_validator(mode="after")
    def _has_a_slot(self) -> "Jail":
        if why := self.ids.why_not():
            raise ValueError(why)
        return self

    @property
    def ids(self) -> Range:
        """For the engine."""
        return Range(self.first_id, self.count)


class Nri(_Table):
    """Plugins of the Node Resource Interface, which connect to `socket`: docs/admin/nri.md. One that does not register
    or answer within its time is dropped.
    """

    enabled: bool = False
    socket: AbsolutePath = "/var/run/nri/nri.sock"
    registration_timeout_s: float = Field(default=5.0, gt=0, le=600, strict=False)
    request_timeout_s: float = Field(default=2.0, gt=0, le=600, strict=False)

    _fits = field_validator("socket")(fits_a_socket)


class Limits(_Table):
    """What one node allows. 0: no limit."""

    max_pods: int = Field(default=0, ge=0)
    max_pod_memory_mib: int = Field(default=0, ge=0)


class Config(_Table):
    """The whole file; every key has a default."""

    run_dir: AbsolutePath = "/run/clearpod"
    state_dir: AbsolutePath = "/var/lib/clearpod"
    cgroup_driver: Literal["auto", "cgroupfs", "systemd"] = "auto"
    cdi_dirs: tuple[AbsolutePath, ...] = Field(default=("/etc/cdi", "/var/run/cdi"), strict=False)
    socket: Socket = Socket()
    guest: Guest = Guest()
    vm: Vm = Vm()
    storage: Storage = Storage()
    ksm: Ksm = Ksm()
    network: Network = Network()
    streaming: Streaming = Streaming()
    registries: tuple[Registry, ...] = Field(default=(), strict=False)
    pinned_images: tuple[str, ...] = Field(default=(), strict=False)
    images: Images = Images()
    log: Log = Log()
    limits: Limits = Limits()
    pool: Pool = Pool()
    host_pods: HostPods = HostPods()
    jail: Jail = Jail()
    policy: Policy = Policy()
    nri: Nri = Nri()

    @field_validator("run_dir")
    @classmethod
    def _leaves_room(cls, path: str) -> str:
        if len(os.fsencode(path)) > RUN_DIR_BYTES:
            raise ValueError(f"may have at most {RUN_DIR_BYTES} bytes, since the pods' sockets are below it")
        return path

    @property
    def socket_path(self) -> str:
        """The socket's path, by default in the run directory."""
        return self.socket.path or f"{self.run_dir}/clearpod.sock"

    @property
    def networks(self) -> Settings:
        """The network's settings as the engine wants them."""
        cache_dir = self.network.cache or f"{self.state_dir}/cni"
        said = self.network
        default = Default(said.default_subnets) if said.default else None
        return Settings(said.conf_dir, said.bin_dirs, cache_dir, limit_s=said.plugin_timeout_s, default=default)

    @property
    def guest_dir(self) -> str:
        """The guest's files: the configured directory, CLEARPOD_GUEST_DIR, the checkout's build, or the state
        directory.
        """
        checkout = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
        built = f"{checkout}/build/guest"
        return (
            self.guest.dir
            or os.environ.get("CLEARPOD_GUEST_DIR", "")
            or (built if os.path.isdir(built) else f"{self.state_dir}/guest")
        )


def load(path: str | None) -> Config:
    """Read the file at `path`; None is the default path, where a missing file means all defaults.

    Raises NotFound for a missing file that was asked for, BadRequest with "file:line: sentence" otherwise.
    """
    file = path or DEFAULT_PATH
    try:
        with open(file, encoding="utf-8") as opened:
            text = opened.read()
    except FileNotFoundError:
        if path is None:
            return Config()
        raise NotFound(f"{file}: there is no such configuration file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise BadRequest(f"{file}: can't be read as a configuration file: {error}") from None
    return parse(text, file)


def parse(text: str, file: str = "config") -> Config:
    """Check `text`; `file` is only its name in errors. Raises BadRequest with "file:line: sentence"."""
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = re.search(r"^(.*) \(at line (\d+), column (\d+)\)$", str(error))
        sentence, line = (found[1], int(found[2])) if found else (str(error), text.count("\n") + 1)
        raise BadRequest(f"{file}:{line}: this is not TOML: {sentence}") from None
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = tuple(problem["loc"])
        raise BadRequest(f"{file}:{find_line(text, where)}: {_sentence(problem, where)}") from None


def _sentence(problem: Any, where: tuple[int | str, ...]) -> str:
    name = _dotted(where)
    if problem["type"] == "extra_forbidden":
        guess = difflib.get_close_matches(str(where[-1]), _known_keys(where[:-1]), n=1)
        hint = f'did you mean "{guess[0]}"?' if guess else f"known here: {', '.join(_known_keys(where[:-1]))}"
        return f'unknown key "{name}"; {hint}'
    if problem["type"] == "missing":
        return f'the key "{name}" is missing'
    said = str(problem["msg"]).removeprefix("Value error, ").removeprefix("Input ").replace("String ", "")
    return f'"{name}" {said}, but it is {problem["input"]!r}'


def _dotted(where: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in where if isinstance(part, str))


def _known_keys(table: tuple[int | str, ...]) -> list[str]:
    """The keys that the table at this path may have."""
    model: type[BaseModel] = Config
    items: dict[str, type[BaseModel]] = {"registries": Registry, "rules": Rule}
    for part in table:
        if isinstance(part, str):
            model = items[part] if part in items else type(model.model_fields[part].default)
    return list(model.model_fields)
