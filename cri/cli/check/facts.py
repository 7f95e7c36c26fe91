# SPDX-License-Identifier: Apache-2.0
"""What `clearpod check` knows about this host, gathered without judging: `requirements` does that.

Everything that can fail is kept as a sentence, so that one broken thing does not hide the others.
"""

import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from cri.cli.check import unit
from cri.pool.fit import Bounds
from cri.storage.space import Layers
from stage1.errors import PodError
from stage1.linux import cgroup, dbus, files, idmap, mount, process, scope
from stage1.linux.cgroup import LIMITED
from stage1.linux.host import HostFacts, device_error, has_text, memory_mib, which
from stage1.machine import JAILER
from stage1.net import networks
from stage1.net.conflist import find_plugin
from stage1.net.settings import Settings
from stage1.pod.ids import GUEST_IDS
from stage1.vm import hypervisors, kernels, needs, programs
from stage1.vm.choose import Choice, choose
from stage1.vm.slots import Range
from stage1.vm.vmm import AGENT

if TYPE_CHECKING:
    from cri.cli.check.start import Tried

TOOLS = ("mkfs.erofs", "mkfs.ext4", "gzip", "zstd", "crun")
GUEST_FILES = (
    *(hypervisors.kernels()),
    *(f"{name}-{kernels.STOCK}" for name in (*hypervisors.kernels(), "initramfs")),
    *("initramfs", "system.erofs", f"system-{kernels.STOCK}.erofs"),
    *(one.filter for one in hypervisors.ALL),
)
SUBORDINATE = ("/etc/subuid", "/etc/subgid")
CNI_PLUGINS = ("bridge", "host-local", "loopback", "portmap")
MANIFEST = "manifest.json"
"""The digests of the guest's files and the release of its kernel, as they were built."""
MOST_MANIFEST_BYTES = 1 << 20
KERNELS = ("bzImage", "vmlinux")
Value = TypeVar("Value")


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
    bin_dirs: tuple[str, ...] = ()
    network: str = ""
    network_note: str = ""
    network_problems: tuple[str, ...] = ()
    network_error: str = ""
    streaming: str = "127.0.0.1, any free port"
    is_streaming_open: bool = False
    cgroup: str = ""
    driver: tuple[str, str] = ("cgroupfs", "")
    """The cgroup driver, and what it lacks."""
    confinement: needs.Needs = needs.Needs()
    is_script: bool = False
    """The hypervisor's program is one, of which nobody knows what it starts."""
    covered: tuple[str, ...] = ()
    """Configured directories that lie where a script's jail has all of the host's programs."""
    tun_error: str = ""
    free_bytes: int = 0
    layers: Layers = Layers()
    storage: tuple[float, bool, int] = (0.0, False, 0)
    """overcommit, allocate and reserve_mib of the configuration."""
    kept_bytes: int = 0
    """Of the reserve."""
    is_root: bool = True
    pool: Bounds = Bounds()
    vm_mib: int = 0
    memory_mib: tuple[int, int] = (0, 0)
    """The host's, and what of it is available."""
    host_pods: tuple[str, ...] = ()
    host_pods_lack: tuple[str, ...] = ()
    limited: tuple[str, ...] = LIMITED
    """Resources of a VMM that can be limited on this host."""
    run_dir: str = ""
    unmapped: str = ""
    """Why what is in the run directory can't be shown to VMMs with mapped owners."""
    jail_ids: Range = Range()
    jail_overlaps: tuple[str, ...] = ()
    """Lines of /etc/subuid and /etc/subgid that give ids of VMMs to other users."""
    policy: tuple[str, ...] = ()
    """The policy in words: for all pods, and each rule."""
    start: "tuple[Tried, ...]" = ()
    """Problems for which a daemon refuses to start."""
    units: tuple[str, str] = ("", "")
    """The unit of the daemon that is used, and one that it hides."""
    guest_problems: tuple[str, ...] = ()
    """Files of the guest that are not as they were built."""


def gather(config: str | None) -> Facts:
    """Ask the host and read the configuration file (None: the default one)."""
    host = hypervisors.facts()
    facts = Facts(
        host=host,
        tools=tuple((tool, which(tool)) for tool in TOOLS),
        cgroup=cgroup_version(),
        limited=cgroup.limited(),
        tun_error=device_error("/dev/net/tun"),
        memory_mib=memory_mib(),
        is_root=os.geteuid() == 0,
        units=(unit.find(), unit.hidden()),
    )
    return _with_config(facts, config)


def _with_config(facts: Facts, path: str | None) -> Facts:
    # Late, because pydantic is slow to import and may be what is missing.
    from cri import policy
    from cri.cli.check import start
    from cri.config import Config, load
    from cri.storage.disk import measure, reserve_of

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
        is_script=choice is not None and programs.is_script(choice.binary),
        covered=tuple(one for one in (config.state_dir, config.run_dir) if programs.above(os.path.realpath(one))),
        confinement=confinement(f"{config.guest_dir}/{JAILER}", files.existing(config.run_dir)),
        guest_files=tuple(name for name in GUEST_FILES if os.path.isfile(f"{config.guest_dir}/{name}")),
        mount_errors=mount_errors(files.existing(config.state_dir)),
        free_bytes=free_bytes(files.existing(config.state_dir)),
        layers=measure(files.existing(config.state_dir)).layers,
        storage=(config.storage.overcommit, config.storage.allocate, config.storage.reserve_mib),
        kept_bytes=reserve_of(config).held_bytes(),
        missing_plugins=tuple(name for name in CNI_PLUGINS if not find_plugin(name, config.network.bin_dirs)),
        bin_dirs=config.network.bin_dirs,
        network=network_name(config.networks),
        network_note=networks.note(config.networks),
        network_problems=networks.find(config.networks).problems,
        network_error=networks.lacks(config.networks),
        streaming=f"{config.streaming.address}, {_port_name(config.streaming.port)}",
        is_streaming_open=not config.streaming.is_loopback,
        pool=Bounds(config.pool.size, config.pool.memory_mib),
        vm_mib=config.vm.memory_mib,
        driver=driver(config.cgroup_driver),
        host_pods=config.host_pods.allow,
        host_pods_lack=host_pods_lack(facts, config.guest_dir),
        run_dir=config.run_dir,
        unmapped=attempt(lambda: map_owners(files.existing(config.run_dir)))[1],
        jail_ids=config.jail.ids,
        jail_overlaps=tuple(line for path in SUBORDINATE for line in overlaps(path, config.jail.ids)),
        policy=policy.described(config.policy),
        start=start.tried(config),
        guest_problems=tuple(guest_problems(config.guest_dir)),
    )


def map_owners(directory: str) -> None:
    """Map the owners of a copy of its mount that is mounted nowhere. Raises Unsupported, KernelError."""
    ids = idmap.namespace([idmap.Extent(0, Range().first, GUEST_IDS)])
    try:
        tree = mount.open_tree(directory, recursive=False)
        try:
            idmap.set_owners(tree, ids, what=directory)
        finally:
            os.close(tree)
    finally:
        os.close(ids)


def overlaps(path: str, ids: Range) -> list[str]:
    """The lines of a file as subuid(5) that give some of `ids` to an account, with the file's name."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = [line.strip() for line in file]
    except OSError:
        return []
    overlapping = []
    for line in lines:
        numbers = line.split(":")[1:]
        if len(numbers) == 2 and all(number.isdecimal() for number in numbers):
            first, length = map(int, numbers)
            if first < ids.first + ids.length and ids.first < first + length:
                overlapping.append(f"{path}: {line}")
    return overlapping


def host_pods_lack(facts: Facts, guest_dir: str) -> tuple[str, ...]:
    """What pods with namespaces of the host need and this host lacks."""
    lack = [] if facts.host.crun else ["crun is not on PATH"]
    if not cgroup.tree():
        lack.append("cgroup v2 is not mounted")
    if not os.path.isfile(f"{guest_dir}/{AGENT}"):
        lack.append(f"{guest_dir}/{AGENT} does not exist")
    return tuple(lack)


def confinement(jailer: str, directory: str) -> needs.Needs:
    """What is missing for a jail, including what can only be found out by setting one up."""
    confinement = needs.find(jailer)
    return confinement if confinement.missing else confinement._replace(missing=needs.trial(jailer, directory))


def _port_name(port: int) -> str:
    return f"port {port}" if port else "any free port"


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
    argv = [sys.executable, "-m", "cri.cli.check.trial_mounts", directory]
    result, error = attempt(lambda: process.run(argv, timeout_s=20, env={**os.environ, "PYTHONPATH": unit.CHECKOUT}))
    if result is not None and result.code == 0:
        return tuple(json.loads(result.stdout).items())
    reason = result.stderr.decode(errors="replace").strip().rpartition("\n")[2] if result else error
    return (("erofs", reason), ("overlay", reason))


def network_name(settings: Settings) -> str:
    """The network that pods get, with its plugins and where it is configured; empty when there is none."""
    network = networks.find(settings).network
    return f"{network.name} ({', '.join(network.types())}), {network.file}" if network else ""


def cgroup_version() -> str:
    """The cgroup setup: v2, hybrid (v1 controllers and a v2 tree), v1, or empty when nothing is mounted."""
    if os.path.exists("/sys/fs/cgroup/cgroup.controllers"):
        return "v2"
    if os.path.exists("/sys/fs/cgroup/unified/cgroup.procs"):
        return "hybrid"
    return "v1" if os.path.isdir("/sys/fs/cgroup/memory") else ""


def driver(configured: str) -> tuple[str, str]:
    """The cgroup driver that the configuration's word means here, and why it can't work."""
    return ("systemd", dbus.why_not()) if scope.are_used(configured) else ("cgroupfs", "")


def free_bytes(path: str) -> int:
    """Free space of the file system of `path`."""
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize


def guest_problems(guest_dir: str) -> list[str]:
    """Differences of the guest's files from how they were built, one sentence each."""
    try:
        with open(f"{guest_dir}/{MANIFEST}", "rb") as file:
            manifest = json.loads(file.read(MOST_MANIFEST_BYTES))
        return [*_digests(guest_dir, manifest["files"]), *_releases(guest_dir, str(manifest["kernel_release"]))]
    except OSError as error:
        return [f"{guest_dir}/{MANIFEST} can't be read, so the guest's files can't be checked: {error.strerror}"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return [f"{guest_dir}/{MANIFEST} is damaged, so the guest's files can't be checked"]


def _digests(guest_dir: str, files: dict[str, Any]) -> Iterator[str]:
    for name, expected in sorted(files.items()):
        path = f"{guest_dir}/{os.path.basename(name)}"
        path = f"{path}/index.json" if os.path.isdir(path) else path
        try:
            with open(path, "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except FileNotFoundError:
            continue  # it was asked for once, or is packaged elsewhere
        except OSError as error:
            yield f"{path} can't be read: {error.strerror}"
            continue
        if digest != expected["sha256"]:
            yield (
                f"{path} is not the file that was built: its SHA-256 begins with {digest[:12]}, not with "
                + str(expected["sha256"])[:12]
            )


def _releases(guest_dir: str, release: str) -> Iterator[str]:
    for name in KERNELS:
        path = f"{guest_dir}/{name}"
        if release and os.path.isfile(path) and not has_text(path, b"Linux version " + release.encode()):
            yield f"{path} is not Linux {release}, as {MANIFEST} has it"
