# SPDX-License-Identifier: Apache-2.0
"""The daemon's configuration: one TOML file, checked before anything starts.

Read by `clearpod serve`, `clearpod run` and `clearpod check`; the rest of `cri` receives the frozen `Config`. Its
tables are in `config_tables`.
It must not look at the host: whether a directory exists or a hypervisor runs is for those who use it.
An error names the file and the line, since the reader is a person with an editor open.
"""

import os
import re
import tomllib
from dataclasses import dataclass
from typing import Literal

from cri.config_tables import (
    ABSOLUTE,
    Guest,
    HostPods,
    Images,
    Jail,
    Ksm,
    Limits,
    Log,
    Metrics,
    Network,
    Nri,
    Pool,
    Registry,
    Snapshots,
    Socket,
    Storage,
    Streaming,
    Table,
    Templates,
    Tracing,
    Vm,
    Volumes,
    key,
)
from cri.policy import Policy
from stage1.errors import BadRequest, NotFound
from stage1.net.settings import Default, Settings
from stage1.vm.slots import CONFIG

DEFAULT_PATH = CONFIG

PACKAGED_GUEST = "/usr/lib/clearpod/guest"
"""The guest's directory in Debian's package clearpod-guest."""
RUN_DIR_BYTES = 22
"""A unix socket's path has at most 107 bytes, and that of a pod of `clearpod run` is
run_dir/run/pods/<64 digits>/agent.sock."""


def fits_socket_paths(path: str) -> str:
    """The run directory, if sockets of pods can have names in it. Raises ValueError."""
    if len(os.fsencode(path)) > RUN_DIR_BYTES:
        raise ValueError(f"may have at most {RUN_DIR_BYTES} bytes, since the pods' sockets are below it")
    return path


@dataclass(frozen=True, kw_only=True)
class Config(Table):
    """The whole file; every key has a default."""

    run_dir: str = key(default="/run/clearpod", pattern=ABSOLUTE, check=fits_socket_paths)
    """Directory of the state of running pods. Must be on tmpfs, belongs to one daemon, and has at most 22 bytes."""
    state_dir: str = key(default="/var/lib/clearpod", pattern=ABSOLUTE)
    """Directory of images and other data that survive a reboot. Belongs to one daemon."""
    cgroup_driver: Literal["auto", "cgroupfs", "systemd"] = "auto"
    """The cgroup driver for VMs, also reported to the kubelet. `auto` is `systemd` if it is PID 1 and all cgroups are
    v2, else `cgroupfs`: docs/admin/node.md, "Cgroup drivers".
    """
    cdi_dirs: tuple[str, ...] = key(default=("/etc/cdi", "/var/run/cdi"), strict=False, items={"pattern": ABSOLUTE})
    """Directories of CDI specs (`*.json`): docs/user/volumes.md."""
    apparmor_dir: str = key(default="/etc/clearpod/apparmor", pattern=ABSOLUTE)
    """Directory of AppArmor profiles that are not loaded in the host's kernel, by name: docs/user/security.md."""
    socket: Socket = Socket()
    guest: Guest = Guest()
    vm: Vm = Vm()
    storage: Storage = Storage()
    volumes: Volumes = Volumes()
    ksm: Ksm = Ksm()
    network: Network = Network()
    streaming: Streaming = Streaming()
    registries: tuple[Registry, ...] = key(default=(), strict=False, items=Registry)
    pinned_images: tuple[str, ...] = key(default=(), strict=False)
    """Full names of images, as `crictl images` shows them, that garbage collection by the kubelet and `crictl rmi
    --prune` keeps; `*` stands for anything.
    """
    images: Images = Images()
    log: Log = Log()
    metrics: Metrics = Metrics()
    tracing: Tracing = Tracing()
    limits: Limits = Limits()
    pool: Pool = Pool()
    templates: Templates = Templates()
    snapshots: Snapshots = Snapshots()
    host_pods: HostPods = HostPods()
    jail: Jail = Jail()
    policy: Policy = Policy()
    nri: Nri = Nri()

    @property
    def socket_path(self) -> str:
        """The socket's path, by default in the run directory."""
        return self.socket.path or f"{self.run_dir}/clearpod.sock"

    @property
    def networks(self) -> Settings:
        """The network's settings as the engine wants them."""
        cache_dir = self.network.cache or f"{self.state_dir}/cni"
        network = self.network
        default = Default(network.default_subnets) if network.default else None
        return Settings(
            network.conf_dir, network.bin_dirs, cache_dir, limit_s=network.plugin_timeout_s, default=default
        )

    @property
    def guest_dir(self) -> str:
        """The guest's files: the configured directory, CLEARPOD_GUEST_DIR, the checkout's build, the package's place,
        or the state directory.
        """
        checkout = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
        places = (f"{checkout}/build/guest", PACKAGED_GUEST)
        return (
            self.guest.dir
            or os.environ.get("CLEARPOD_GUEST_DIR", "")
            or next((place for place in places if os.path.isdir(place)), f"{self.state_dir}/guest")
        )


def load(path: str | None) -> Config:
    """Read the file at `path`; None is the default path, where a missing file means all defaults.

    Raises NotFound for a missing file that was asked for, BadRequest with "file:line: sentence" otherwise.
    """
    text = read(path)
    return Config() if text is None else parse(text, path or DEFAULT_PATH)


def read(path: str | None) -> str | None:
    """The text of the file, as `load` finds it; None where a missing one means all defaults."""
    file = path or DEFAULT_PATH
    try:
        with open(file, encoding="utf-8") as opened:
            return opened.read()
    except FileNotFoundError:
        if path is None:
            return None
        raise NotFound(f"{file}: there is no such configuration file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise BadRequest(f"{file}: can't be read as a configuration file: {error}") from None


def parse(text: str, file: str = "config") -> Config:
    """Check `text`; `file` is only its name in errors. Raises BadRequest with "file:line: sentence"."""
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        position = re.search(r"^(.*) \(at line (\d+), column (\d+)\)$", str(error))
        sentence, line = (position[1], int(position[2])) if position else (str(error), text.count("\n") + 1)
        raise BadRequest(f"{file}:{line}: this is not TOML: {sentence}") from None
    from cri.config_check import Refused, checked, find_line  # late: it loads pydantic

    try:
        return checked(Config, values)
    except Refused as error:
        raise BadRequest(f"{file}:{find_line(text, error.where)}: {error.sentence}") from None
