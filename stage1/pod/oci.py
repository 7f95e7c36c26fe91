# SPDX-License-Identifier: Apache-2.0
"""The OCI runtime documents that crun reads in the guest, made from the pod model.

Called by the engine. Pure: returns plain dictionaries, and what is written of them. Guest paths are those of
docs/dev/link.md. The containers of a pod share the guest's own network, IPC and UTS namespaces: the VM is the pod. See
OCI runtime-spec 1.2, config-linux.md.
"""

import json
import os
from typing import Any

from stage1.pod import devices, guest_volumes, profile, seccomp
from stage1.pod.capabilities import ambient, bounding
from stage1.pod.model import CGROUPS, Container, Limits, Mount, Pod, Process, Rlimit, Security

GUEST = "/run/clearpod"
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
OPEN_FILES = 1 << 20
BOUND = ("rbind", "rw")
NODES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty")
PTS_OPTIONS = ("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5")

MASKED = (
    "/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
    "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware",
    "/sys/devices/virtual/powercap",
)  # fmt: skip
READONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


def config(pod: Pod, container: Container, *, target_pid: int = 0) -> dict[str, Any]:
    """The bundle's config.json.

    Args:
        target_pid: guest pid whose pid namespace is joined when the container asks for a target's.
    """
    security = container.security
    root = f"{GUEST}/containers/{container.root_of or container.id}/rootfs"
    return {
        "ociVersion": "1.2.0",
        "process": process(pod, container, what=container.process),
        "root": {"path": root, "readonly": security.read_only_root},
        "mounts": _mounts(pod, container),
        "linux": {
            "namespaces": _namespaces(security, target_pid, user=bool(pod.ids.length)),
            "cgroupsPath": profile.cgroup(pod.profile, container.id),
            "devices": devices.nodes(container.devices, privileged=security.privileged),
            "resources": {
                "devices": devices.rules(container.devices, privileged=security.privileged),
                **resources(container.limits),
            },
            "maskedPaths": list(security.masked_paths),
            "readonlyPaths": list(security.readonly_paths),
            "rootfsPropagation": "rprivate",
            **({"seccomp": _seccomp(security)} if security.seccomp else {}),
        },
    }


def process(pod: Pod, container: Container, *, what: Process) -> dict[str, Any]:
    """An OCI process object: of the container itself, or of an exec in it (which gets the same confinement)."""
    security = container.security
    held, raised = list(_held(security)), list(ambient(security.ambient_capabilities))
    # The primary group too: a program that changes its gid would else lose, with the membership, what files deny to it.
    groups = list(dict.fromkeys((what.user.gid, *what.user.groups)))
    return {
        "terminal": what.tty,
        **({"consoleSize": dict(zip(("width", "height"), what.size, strict=True))} if what.tty else {}),
        "user": {"uid": what.user.uid, "gid": what.user.gid, "additionalGids": groups},
        "args": list(what.argv),
        "env": environment(pod, what),
        "cwd": what.cwd or "/",
        "capabilities": {
            "bounding": held,
            "effective": held,
            "permitted": held,
            "inheritable": raised,
            "ambient": raised,
        },
        "rlimits": _rlimits(container.rlimits),
        **({"apparmorProfile": security.apparmor} if security.apparmor else {}),
        "noNewPrivileges": security.no_new_privs,
        "oomScoreAdj": container.oom_score_adj,
    }


def _rlimits(given: tuple[Rlimit, ...]) -> list[dict[str, Any]]:
    limits = {one.name: one for one in (Rlimit("RLIMIT_NOFILE", OPEN_FILES, OPEN_FILES), *given)}
    return [{"type": one.name, "soft": one.soft, "hard": one.hard} for one in limits.values()]


def environment(pod: Pod, what: Process) -> list[str]:
    """The process's environment with what every container expects in front: PATH, HOSTNAME, with a terminal TERM."""
    if what.only_env:
        return list(what.env)
    given = {entry.partition("=")[0] for entry in what.env}
    first = [PATH, f"HOSTNAME={pod.hostname}", *(["TERM=xterm"] if what.tty else [])]
    return [entry for entry in first if entry.partition("=")[0] not in given] + list(what.env)


def written(document: Any) -> bytes:
    """The document for crun. Surrogate escapes in its strings (PEP 383) become the bytes that they stand for. It is not
    UTF-8 then, which the guest's crun takes (docs/dev/guest.md).
    """
    text = json.dumps(document)
    if "\\ud" not in text:  # neither such an escape nor anything beyond 16 bits
        return text.encode()
    text = json.dumps(document, ensure_ascii=False)
    try:
        return text.encode(errors="surrogateescape")
    except UnicodeEncodeError:  # an image's JSON can name halves of characters that stand for no byte
        return text.encode(errors="surrogatepass")


def is_raw(what: Process) -> bool:
    """Whether what is written of it is no UTF-8."""
    try:
        "".join((*what.argv, *what.env, what.cwd)).encode()
    except UnicodeEncodeError:
        return True
    return False


def resources(limits: Limits) -> dict[str, Any]:
    """OCI linux.resources of the limits that are set; also what `crun update` is given."""
    memory = {"limit": limits.memory, "swap": limits.memory_swap}
    cpu = {
        "shares": limits.cpu_shares,
        "quota": limits.cpu_quota_us,
        "period": limits.cpu_period_us,
        "cpus": limits.cpuset_cpus,
        "mems": limits.cpuset_mems,
    }
    parts: dict[str, Any] = {
        "memory": {key: value for key, value in memory.items() if value},
        "cpu": {key: value for key, value in cpu.items() if value},
        "pids": {"limit": limits.pids} if limits.pids else {},
        "unified": dict(limits.unified),
    }
    return {key: value for key, value in parts.items() if value}


def _namespaces(security: Security, target_pid: int, *, user: bool) -> list[dict[str, str]]:
    spaces = [{"type": "mount"}]
    if user:
        names = {"user": "user", "network": "net", "ipc": "ipc", "uts": "uts"}
        spaces += [{"type": kind, "path": f"{GUEST}/pause.{name}-ns"} for kind, name in names.items()]
    if user or not security.privileged:
        spaces.append({"type": "cgroup"})
    if security.pid_namespace == "container":
        spaces.append({"type": "pid"})
    elif security.pid_namespace == "pod":
        spaces.append({"type": "pid", "path": f"{GUEST}/pause.pid-ns"})
    elif security.pid_namespace.startswith("target:"):
        spaces.append({"type": "pid", "path": f"/proc/{target_pid}/ns/pid"})
    return spaces


def _mount(target: str, kind: str, *options: str, source: str = "") -> dict[str, Any]:
    return {"destination": target, "type": kind, "source": source or kind, "options": list(options)}


def _mounts(pod: Pod, container: Container) -> list[dict[str, Any]]:
    """Shorter targets first, so that no mount hides another. A volume at /dev takes the place of the usual one; below
    it is what crun needs and programs expect. One at /etc that the image declares hides no file of the pod's own.
    """
    first, own = _standard_mounts(container.security), _own_volumes(container)
    volumes = sorted([*own, *_volumes(container), *_tmpfs(container)], key=_depth)
    device = next((one for one in volumes if one["destination"] == "/dev"), None)
    if device:
        volumes.remove(device)
        at = [one["destination"] for one in first].index("/dev")
        first[at : at + 1] = [device, *(_mount(node, "bind", *BOUND, source=node) for node in NODES)]
    if any(one["type"] == "tmpfs" and one["destination"] == os.path.dirname(CGROUPS) for one in volumes):
        cgroups = first.pop()  # in that, and not below it
        volumes = sorted([cgroups, *volumes], key=_depth)
    below = [one for one in volumes if one["destination"] == "/etc" and one in own]
    under, over = _identity_mounts(pod, container)
    return [*first, *below, *under, *(one for one in volumes if one not in below), *over]


def _standard_mounts(security: Security) -> list[dict[str, Any]]:
    access = "rw" if security.privileged or security.writable_sys else "ro"
    return [
        _mount("/proc", "proc", "nosuid", "noexec", "nodev"),
        _mount("/dev", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
        _mount("/dev/pts", "devpts", *PTS_OPTIONS),
        _mount("/dev/shm", "bind", *BOUND, source=f"{GUEST}/shm"),
        _mount("/dev/mqueue", "mqueue", "nosuid", "noexec", "nodev"),
        _mount("/sys", "sysfs", "nosuid", "noexec", "nodev", access),
        _mount(CGROUPS, "cgroup", "nosuid", "noexec", "nodev", "relatime", access),
    ]


def _identity_mounts(pod: Pod, container: Container) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """hosts, hostname, resolv.conf and machine-id of the pod, unless the request mounts its own: those that are under
    the volumes, and those over them.

    What runs on the host is on no machine of its own.
    """
    taken = {mount.target for mount in container.mounts}
    names = [
        name for name in container.pod_files if f"/etc/{name}" not in taken and not (pod.host and name == "machine-id")
    ]
    mounts = {name: _mount(f"/etc/{name}", "bind", *BOUND, source=f"{GUEST}/volumes/pod/{name}") for name in names}
    over = [mounts.pop(name) for name in names if name in container.files_over]
    return [*mounts.values()], over


def _depth(mount: dict[str, Any]) -> int:
    return int(mount["destination"].count("/"))


def _own_volumes(container: Container) -> list[dict[str, Any]]:
    """The agent has bound them there."""
    base = f"{GUEST}/containers/{container.id}/volumes"
    return [_mount(path, "bind", *BOUND, source=f"{base}/{number}") for number, path in enumerate(container.volumes)]


def _volumes(container: Container) -> list[dict[str, Any]]:
    base = f"{GUEST}/volumes/containers/{container.id}/mounts"
    if not container.has_guest_volumes:
        return [_volume(mount, f"{base}/{number}") for number, mount in enumerate(container.mounts)]

    guest = guest_volumes.places(container)
    return [
        _guest_volume(mount, f"{GUEST}/containers/{container.id}/volumes/{guest[number]}")
        if number in guest
        else _volume(mount, f"{base}/{number}")
        for number, mount in enumerate(container.mounts)
    ]


def _tmpfs(container: Container) -> list[dict[str, Any]]:
    return [_mount(one.target, "tmpfs", "nosuid", "nodev", *one.options) for one in container.tmpfs]


def _volume(mount: Mount, shown: str) -> dict[str, Any]:
    """One that is `shown` by the host is read-only there."""
    if mount.shared_as:
        access = "ro" if mount.read_only else "rw"
        return _mount(mount.target, "bind", "rbind", access, *mount.options, source=f"{GUEST}/hosts/{mount.shared_as}")
    if mount.image:
        return _image_volume(mount)
    if mount.inside:
        access = "ro" if mount.read_only else "rw"
        return _mount(mount.target, "bind", "rbind", access, source=f"{GUEST}/containers/{mount.inside}/rootfs")
    return _mount(mount.target, "bind", *BOUND, *mount.options, source=shown)


def _guest_volume(mount: Mount, place: str) -> dict[str, Any]:
    """The agent has bound it there, or mounted what it has a copy in."""
    access = "ro" if mount.read_only else "rw"
    source = f"{place}/file" if mount.memory.is_file else place
    return _mount(mount.target, "bind", "rbind", access, *mount.options, source=source)


def _image_volume(mount: Mount) -> dict[str, Any]:
    root = f"{GUEST}/layers/{mount.image.removeprefix('sha256:')}"
    return _mount(mount.target, "bind", "rbind", "ro", *mount.options, source=f"{root}/{mount.source}".rstrip("/"))


def _held(security: Security) -> tuple[str, ...]:
    """The capabilities of the bounding set; ambient ones have to be in it as well."""
    added = security.add_capabilities + ambient(security.ambient_capabilities)
    return bounding(added, security.drop_capabilities, privileged=security.privileged)


def _seccomp(security: Security) -> dict[str, Any]:
    if security.seccomp == seccomp.DEFAULT:
        return seccomp.profile(_held(security))
    stored: dict[str, Any] = json.loads(security.seccomp)
    return stored
