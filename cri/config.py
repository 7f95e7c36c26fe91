# SPDX-License-Identifier: Apache-2.0
"""The daemon's configuration: one TOML file, checked before anything starts.

Read by `clearpod serve`, `clearpod run` and `clearpod check`; the rest of `cri` receives the frozen `Config`. Its
tables are in `config_tables`.
It must not look at the host: whether a directory exists or a hypervisor runs is for those who use it.
An error names the file and the line, since the reader is a person with an editor open.
"""

import difflib
import os
import re
import tomllib
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError, field_validator

from cri.config_tables import (
    AbsolutePath,
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
    Socket,
    Storage,
    Streaming,
    Table,
    Templates,
    Tracing,
    Vm,
    Volumes,
)
from cri.policy import Policy, Rule
from cri.toml_lines import find_line
from stage1.errors import BadRequest, NotFound
from stage1.net.settings import Default, Settings
from stage1.vm.slots import CONFIG

DEFAULT_PATH = CONFIG

PACKAGED_GUEST = "/usr/lib/clearpod/guest"
"""Where Debian's package clearpod-guest has it."""
RUN_DIR_BYTES = 22
"""A unix socket's path has at most 107 bytes, and that of a pod of `clearpod run` is
run_dir/run/pods/<64 digits>/agent.sock."""


class Config(Table):
    """The whole file; every key has a default."""

    run_dir: AbsolutePath = "/run/clearpod"
    """State of living pods. Must be on tmpfs, belongs to one daemon, and has at most 22 bytes."""
    state_dir: AbsolutePath = "/var/lib/clearpod"
    """Images and other things that survive a reboot. Belongs to one daemon."""
    cgroup_driver: Literal["auto", "cgroupfs", "systemd"] = "auto"
    """How VMs are put into their pods' cgroups, which the kubelet is told. `auto` is `systemd` where that is PID 1 and
    all cgroups are of version 2, else `cgroupfs`: docs/admin/node.md, "Cgroup drivers".
    """
    cdi_dirs: tuple[AbsolutePath, ...] = Field(default=("/etc/cdi", "/var/run/cdi"), strict=False)
    """Where CDI specs (`*.json`) are looked for: docs/user/volumes.md."""
    apparmor_dir: AbsolutePath = "/etc/clearpod/apparmor"
    """Where AppArmor profiles are looked for by name that the host's kernel has not loaded: docs/user/security.md."""
    socket: Socket = Socket()
    guest: Guest = Guest()
    vm: Vm = Vm()
    storage: Storage = Storage()
    volumes: Volumes = Volumes()
    ksm: Ksm = Ksm()
    network: Network = Network()
    streaming: Streaming = Streaming()
    registries: tuple[Registry, ...] = Field(default=(), strict=False)
    pinned_images: tuple[str, ...] = Field(default=(), strict=False)
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
        position = re.search(r"^(.*) \(at line (\d+), column (\d+)\)$", str(error))
        sentence, line = (position[1], int(position[2])) if position else (str(error), text.count("\n") + 1)
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
    problem_text = str(problem["msg"]).removeprefix("Value error, ").removeprefix("Input ").replace("String ", "")
    return f'"{name}" {problem_text}, but it is {problem["input"]!r}'


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
