# SPDX-License-Identifier: Apache-2.0
"""What `clearpod check` knows about this host, gathered without judging: `check_items` does that.

Everything that can fail is kept as a sentence, so that one broken thing does not hide the others.
"""

import json
import os
import sys
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from stage1.errors import PodError
from stage1.linux import process
from stage1.linux.host import HostFacts, device_error, host_facts, which
from stage1.vm import confine
from stage1.vm.choose import Choice, choose

TOOLS = ("skopeo", "mkfs.erofs", "mkfs.ext4", "zstd", "crun")
GUEST_FILES = ("vmlinux", "bzImage", "initramfs", "system.erofs")
CNI_PLUGINS = ("bridge", "host-local", "loopback", "portmap")
CNI_BIN_DIRS = ("/opt/cni/bin", "/usr/lib/cni")
Value = TypeVar("Value")
CNI_CONFIG_DIR = "/etc/cni/net.d"


class Facts(NamedTuple):
    """All of it. An `*_error` is empty when the thing works. A choice is None when no hypervisor can run."""

    host: HostFacts
    choice: Choice | None = None
    choice_error: str = ""
    config_error: str = ""
    guest_dir: str = ""
    state_dir: str = ""
    guest_files: tuple[str, ...] = ()
    tools: tuple[tuple[str, str], ...] = ()
    mount_errors: tuple[tuple[str, str], ...] = ()
    missing_plugins: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    cgroup: str = ""
    confinement: confine.Confinement = confine.Confinement("setpriv", True)
    tun_error: str = ""
    free_bytes: int = 0
    is_root: bool = True


def gather(config: str | None) -> Facts:
    """Ask the host and read the configuration file (None: the default one)."""
    host = host_facts()
    facts = Facts(
        host=host,
        tools=tuple((tool, which(tool)) for tool in TOOLS),
        missing_plugins=missing_plugins(),
        networks=networks(CNI_CONFIG_DIR),
        cgroup=cgroup_version(),
        confinement=confine.find(),
        tun_error=device_error("/dev/net/tun"),
        is_root=os.geteuid() == 0,
    )
    return _with_config(facts, config)


def _with_config(facts: Facts, path: str | None) -> Facts:
    # Late, because pydantic is slow to import and may be what is missing.
    from cri.config import Config, load

    config, error = Config(), ""
    try:
        config = load(path)
    except PodError as caught:
        error = str(caught)
    choice, choice_error = attempt(lambda: choose(config.vm.hypervisor, facts.host))
    return facts._replace(
        choice=choice,
        choice_error=choice_error,
        config_error=error,
        guest_dir=config.guest_dir,
        state_dir=config.state_dir,
        guest_files=tuple(name for name in GUEST_FILES if os.path.isfile(f"{config.guest_dir}/{name}")),
        mount_errors=mount_errors(existing(config.state_dir)),
        free_bytes=free_bytes(existing(config.state_dir)),
    )


def attempt(function: Callable[[], Value]) -> tuple[Value | None, str]:
    """The value and no error, or None and the error's sentence."""
    try:
        return function(), ""
    except PodError as error:
        return None, str(error)


def mount_errors(directory: str) -> tuple[tuple[str, str], ...]:
    """("erofs", why not) and ("overlay", why not) for images in `directory`.

    Tried for real in a process with mounts of its own.
    """
    argv = [sys.executable, "-m", "cri.cli.check_mounts", directory]
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    result, error = attempt(lambda: process.run(argv, timeout_s=20, env={**os.environ, "PYTHONPATH": root}))
    if result is not None and result.code == 0:
        return tuple(json.loads(result.stdout).items())
    said = result.stderr.decode(errors="replace").strip().rpartition("\n")[2] if result else error
    return (("erofs", said), ("overlay", said))


def missing_plugins() -> tuple[str, ...]:
    """The CNI plugins of a usual network that are in none of the usual directories."""
    return tuple(
        name for name in CNI_PLUGINS if not any(os.access(f"{directory}/{name}", os.X_OK) for directory in CNI_BIN_DIRS)
    )


def networks(directory: str) -> tuple[str, ...]:
    """The CNI configurations in `directory`, in the order in which they count."""
    try:
        names = sorted(os.listdir(directory))
    except OSError:
        return ()
    return tuple(name for name in names if name.endswith((".conf", ".conflist", ".json")))


def cgroup_version() -> str:
    """v2, hybrid (v1 controllers beside a v2 tree), v1, or empty when nothing is mounted."""
    if os.path.exists("/sys/fs/cgroup/cgroup.controllers"):
        return "v2"
    if os.path.exists("/sys/fs/cgroup/unified/cgroup.procs"):
        return "hybrid"
    return "v1" if os.path.isdir("/sys/fs/cgroup/memory") else ""


def existing(path: str) -> str:
    """`path`, or the nearest directory above it that exists."""
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    return path


def free_bytes(path: str) -> int:
    """Free space of the file system of `path`."""
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize
