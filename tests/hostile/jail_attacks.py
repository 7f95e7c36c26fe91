# SPDX-License-Identifier: Apache-2.0
"""Attacks of a compromised hypervisor against the host, one function for each idea.

Run by `vmm.py` in the VMM's place, inside the jail, each in a child of its own. A function that returns has succeeded,
and returns what it got; an OSError is a refusal. They use no library of ours, as an attacker would not.
"""

import ctypes
import json
import os
import resource
import signal
import socket
import stat
from collections.abc import Callable
from typing import NamedTuple

LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWUSER, CLONE_NEWNS = 0x10000000, 0x00020000
PTRACE_ATTACH = 16
MS_BIND = 4096


class Target(NamedTuple):
    """What the attacker knows of its pod and the host; `canary` is a directory that is none of its business."""

    directory: str
    volumes: str
    layers: str
    canary: str
    daemon_socket: str
    files: tuple[str, ...]


def _call(result: int) -> None:
    if result < 0:
        raise OSError(ctypes.get_errno(), "refused")


def _lines(path: str) -> list[str]:
    with open(path, encoding="ascii") as file:
        return file.read().splitlines()


def rename_containers(target: Target) -> str:
    """The measured one: a link to a directory of the host where the daemon removes containers."""
    for volumes in (f"{target.directory}/tree/volumes", target.volumes):
        try:
            os.rename(f"{volumes}/containers", f"{volumes}/gone")
            os.symlink(target.canary, f"{volumes}/containers")
        except OSError as error:
            last = error
        else:
            return volumes
    raise last


def write_into_the_share(target: Target) -> str:
    """A file among those that the host writes for the pod."""
    return _write_somewhere([target.volumes, f"{target.volumes}/pod", f"{target.volumes}/containers"])


def write_into_the_tree(target: Target) -> str:
    """The same, past the read-only view."""
    tree = f"{target.directory}/tree"
    return _write_somewhere([tree, f"{tree}/volumes", f"{tree}/volumes/pod", f"{tree}/layers"])


def write_into_the_records_directory(target: Target) -> str:
    """In the pod's own directory, where the daemon keeps who the VMM is."""
    return _write_somewhere([target.directory, f"{target.directory}/logs"])


def replace_a_socket(target: Target) -> str:
    """Where the daemon connects to: a link to another socket of the host's."""
    last: OSError = FileNotFoundError(2, "no socket")
    for name in ("agent.sock", "dax.sock"):
        try:
            os.unlink(f"{target.directory}/{name}")
            os.symlink(target.daemon_socket, f"{target.directory}/{name}")
        except OSError as error:
            last = error
        else:
            return name
    raise last


def write_into_an_image(target: Target) -> str:
    """Images are shared by all pods."""
    return _write_somewhere([target.layers, *(f"{target.layers}/{name}" for name in os.listdir(target.layers))])


def _write_somewhere(places: list[str]) -> str:
    last: OSError = FileNotFoundError(2, "nothing of it is there")
    for place in places:
        for make in (_make_file, os.mkdir, _make_link, _make_pipe):
            try:
                make(f"{place}/made-by-the-vmm")
            except OSError as error:
                last = error
            else:
                return place
    raise last


def _make_file(path: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write("x")


def _make_link(path: str) -> None:
    os.symlink("/etc", path)


def _make_pipe(path: str) -> None:
    os.mkfifo(path)


def change_the_guests_files(target: Target) -> str:
    """Kernel, initramfs and system image are those of every pod."""
    last: OSError = FileNotFoundError(2, "no file")
    for path in target.files:
        try:
            os.close(os.open(path, os.O_WRONLY))
        except OSError as error:
            last = error
        else:
            return path
    raise last


def read_the_hosts_files(target: Target) -> str:
    """What only root of the host may see."""
    places = ("/etc/shadow", "/root", "/var/lib", "/home", "/run", "/proc/1/root/root", target.canary)
    result = [path for path in places if path != "/run" and _lists_or_reads(path)]
    if not result:
        raise PermissionError(13, "none of them")
    return " ".join(result)


def _lists_or_reads(path: str) -> bool:
    try:
        if os.path.isdir(path):
            return bool(os.listdir(path))
        with open(path, "rb") as file:
            return bool(file.read(1))
    except OSError:
        return False


def leave_by_the_working_directory(target: Target) -> str:
    """chroot and too many dots."""
    os.chdir("/")
    for _ in range(64):
        os.chdir("..")
    if not os.path.exists(target.canary) and "root" not in os.listdir("."):
        raise PermissionError(13, "that is our own root")
    return os.getcwd()


def open_devices(target: Target) -> str:
    """Memory, disks, and the makers of network devices."""
    names = ("mem", "kmsg", "port", "net/tun", "vda", "sda", "fuse", "loop-control", "vhost-net", "mapper/control")
    result = []
    for name in names:
        try:
            os.close(os.open(f"/dev/{name}", os.O_RDWR))
        except OSError:
            continue
        result.append(name)
    if not result:
        raise PermissionError(13, "none of them")
    return " ".join(result)


def make_a_device(target: Target) -> str:
    """A node for the host's memory, wherever a file could be made."""
    last: OSError = PermissionError(13, "nowhere")
    for place in (target.directory, f"{target.directory}/vmm", target.volumes, "/dev", "/tmp", "/"):
        try:
            os.mknod(f"{place}/memory", 0o600 | stat.S_IFCHR, os.makedev(1, 1))
        except OSError as error:
            last = error
        else:
            return place
    raise last


def change_the_kernel(target: Target) -> str:
    """What a core dump starts, the magic keys, the clock of the OOM killer."""
    places = (
        "sys/kernel/core_pattern",
        "sysrq-trigger",
        "sys/vm/drop_caches",
        "1/oom_score_adj",
        "sys/kernel/hostname",
    )
    result = []
    for place in places:
        try:
            fd = os.open(f"/proc/{place}", os.O_WRONLY)
        except OSError:
            continue
        os.close(fd)
        result.append(place)
    result = [one for one in result if one != "1/oom_score_adj"]
    if not result:
        raise PermissionError(13, "none of them")
    return " ".join(result)


def mount_something(target: Target) -> str:
    """With the capabilities that it has, or with those of a new user namespace."""
    ctypes.set_errno(0)
    if LIBC.mount(b"none", b"/", b"tmpfs", 0, None) == 0:
        return "mount"
    _call(LIBC.unshare(CLONE_NEWUSER | CLONE_NEWNS))
    _call(LIBC.mount(b"/usr", b"/", None, MS_BIND, None))
    return "in a user namespace of its own"


def see_other_processes(target: Target) -> str:
    """Those that could be signalled or traced."""
    mine = {os.getpid(), os.getppid(), 1}
    others = [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if pid not in mine]
    for pid in others:
        ctypes.set_errno(0)
        if LIBC.ptrace(PTRACE_ATTACH, pid, 0, 0) == 0 or _can_signal(pid):
            return str(pid)
    raise PermissionError(1, f"{len(others)} others, none in reach")


def _can_signal(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


def connect_to_the_host(target: Target) -> str:
    """The daemon's own socket, the usual ones of a system, and every abstract one that is listed."""
    paths = [
        target.daemon_socket,
        "/run/dbus/system_bus_socket",
        "/run/systemd/private",
        "/run/containerd/containerd.sock",
    ]
    names = [line.split()[-1] for line in _lines("/proc/net/unix") if "@" in line]
    for path in (*paths, *("\0" + name[1:] for name in names)):
        with socket.socket(socket.AF_UNIX) as peer:
            try:
                peer.connect(path)
            except OSError as error:
                last = error
            else:
                return repr(path)
    raise last


def connect_to_the_network(target: Target) -> str:
    """Devices of the host's, packets past the tap, and the host's vsock."""
    names = [name for _, name in socket.if_nameindex() if name != "lo"]
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        if names:
            raw.bind((names[0], 0))
    return f"a packet socket, devices {names}"


def gain_root(target: Target) -> str:
    """Root of the host: by user id, by capability, by a file of root's."""
    outside = int(_lines("/proc/self/uid_map")[0].split()[1])
    if outside == 0:
        return "user 0 of the host's user namespace"
    os.chown("/usr/bin/env", 0, 0)
    return "chown"


def keep_more_capabilities(target: Target) -> str:
    """Any but those of a file server, or any in the host's user namespace."""
    status = dict(line.split(":\t", 1) for line in _lines("/proc/self/status"))
    few = 0b11011
    if int(status["CapBnd"], 16) & ~few or int(status["CapEff"], 16) & ~few:
        return f"CapBnd {status['CapBnd']} CapEff {status['CapEff']}"
    if status["NoNewPrivs"] != "1":
        return "no_new_privs is not set"
    raise PermissionError(1, "few")


def have_no_limits(target: Target) -> str:
    """Core files, and a cgroup without limits of memory or processes."""
    if resource.getrlimit(resource.RLIMIT_CORE)[1] != 0:
        return f"core files of {resource.getrlimit(resource.RLIMIT_CORE)[1]} bytes"
    children = []
    try:
        for _ in range(2000):
            pid = os.fork()
            if pid == 0:
                signal.pause()
                os._exit(0)
            children.append(pid)
    finally:
        for pid in children:
            os.kill(pid, 9)
        for pid in children:
            os.waitpid(pid, 0)
    return f"{len(children)} processes"


ATTACKS: tuple[Callable[[Target], str], ...] = (
    rename_containers,
    write_into_the_share,
    write_into_the_tree,
    write_into_the_records_directory,
    replace_a_socket,
    write_into_an_image,
    change_the_guests_files,
    read_the_hosts_files,
    leave_by_the_working_directory,
    open_devices,
    make_a_device,
    change_the_kernel,
    mount_something,
    see_other_processes,
    connect_to_the_host,
    connect_to_the_network,
    gain_root,
    keep_more_capabilities,
    have_no_limits,
)


def report(target: Target) -> str:
    """JSON: for each attack either ["refused", the error] or ["succeeded", what it got]."""
    result = {attack.__name__: _apart(attack, target) for attack in ATTACKS}
    return json.dumps(result)


def _apart(attack: Callable[[Target], str], target: Target) -> tuple[str, str]:
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        try:
            output = ("succeeded", attack(target))
        except OSError as error:
            output = ("refused", str(error))
        except BaseException as error:  # noqa: BLE001 - told to the test
            output = ("broken", repr(error))
        os.write(write, json.dumps(output).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as file:
        text = file.read()
    os.waitpid(pid, 0)
    first, second = json.loads(text) if text else ("refused", "it was killed")
    return first, second
