# SPDX-License-Identifier: Apache-2.0
"""What a container and a pod are in their guest, and what of it a copy has from its original: `copies` writes
it down with the guest, and a copy is refused where it asks for something else.

Each field of the values of `stage1.pod.model` has a rule here; the tests have one for each field of the CRI's messages
(`tests/unit/cri/test_decided.py`). A field without a rule fails a test. Pure.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from cri.pb import runtime_pb2 as pb
from cri.store.pods import ContainerRecord, Decided
from stage1.pod.model import (
    BOOT_ID_SEEN_AT,
    Container,
    Device,
    DiskLimit,
    EmptyDir,
    InMemory,
    Mount,
    Pod,
    Process,
    Rlimit,
    Security,
    Tmpfs,
    User,
)

MOST, MOST_CHARACTERS = 64, 256
"""Fields that differ from a container without anything, and characters of one's value."""
_SHOWN = 160
_PLAIN = re.compile(r"[\w./:=+@-]+", re.ASCII)


class Rule(NamedTuple):
    """What becomes of a field in a copy: it must equal the original's (`name` is what people call it), or why not."""

    name: str = ""
    why: str = ""


def _same(name: str) -> Rule:
    return Rule(name=name)


def _own(why: str) -> Rule:
    return Rule(why=why)


_PROGRAM = _own("of the program that runs: a process keeps it, and a kubelet's differs by the pod's name and address")
_HOST = _own("applied anew by the host")
_GUEST = _own("applied anew in the guest")
_MACHINE = _own("part of the machine, which stage1.snapshot compares")
_PARTS = _own("its own fields have rules")

RULES: dict[type, dict[str, Rule]] = {
    Container: {
        "id": _own("each container has its own"),
        "name": _own("by which the original's container is found"),
        "image": _same("image"),
        "process": _PARTS,
        "mounts": _same("mounts"),
        "devices": _same("devices"),
        "limits": _GUEST,
        "security": _PARTS,
        "stop_signal": _HOST,
        "oom_score_adj": _own("orders kills within the guest, and depends on the node"),
        "pod_files": _same("files of the pod"),
        "files_over": _same("files of the pod over a mount"),
        "volumes": _same("volumes of the image"),
        "root_of": _same("root"),
        "tmpfs": _same("tmpfs"),
        "rlimits": _same("rlimits"),
    },
    Process: {
        "argv": _PROGRAM,
        "env": _PROGRAM,
        "cwd": _same("working_dir"),
        "user": _PARTS,
        "tty": _same("tty"),
        "stdin": _same("stdin"),
        "only_env": _PROGRAM,
        "size": _own("of the terminal, which its client sets"),
    },
    User: {"uid": _same("run_as_user"), "gid": _same("run_as_group"), "groups": _same("supplemental_groups")},
    Security: {
        "privileged": _same("privileged"),
        "no_new_privs": _same("no_new_privs"),
        "read_only_root": _same("readonly_rootfs"),
        "add_capabilities": _same("add_capabilities"),
        "drop_capabilities": _same("drop_capabilities"),
        "ambient_capabilities": _same("add_ambient_capabilities"),
        "masked_paths": _same("masked_paths"),
        "readonly_paths": _same("readonly_paths"),
        "seccomp": _same("seccomp"),
        "pid_namespace": _same("namespace_options.pid"),
        "writable_sys": _same("a writable /sys"),
        "apparmor": _same("apparmor"),
    },
    Mount: {
        "source": _own("a directory of the host is mounted anew; of an image's, `_mount` has it"),
        "target": _same("container_path"),
        "read_only": _same("readonly"),
        "recursive_read_only": _same("recursive_read_only"),
        "propagation": _same("propagation"),
        "image": _same("image"),
        "mapped": _same("mappings"),
        "recursive": _same("recursive"),
        "options": _same("mount_options"),
        "inside": _same("root"),
        "shared_as": _own("names the mount of a volume of the host in the copy's own guest"),
        "empty_dir": _PARTS,
        "memory": _PARTS,
    },
    EmptyDir: {
        "path": _same("volume"),
        "mode": _own("of a directory that is there already"),
        "uid": _own("of a directory that is there already"),
        "gid": _own("of a directory that is there already"),
        "partition": _same("partition"),
        "in_memory": _same("in_memory"),
        "size_bytes": _GUEST,
    },
    InMemory: {
        "most_bytes": _own("only bounds what is copied into the guest; whether it is, `_mount` has"),
        "is_file": _same("is_file"),
        "is_output": _same("is_output"),
    },
    Device: {"source": _same("host_path"), "path": _same("container_path"), "access": _same("permissions")},
    Tmpfs: {"target": _same("target"), "options": _same("options")},
    Rlimit: {"name": _same("name"), "soft": _same("soft"), "hard": _same("hard")},
    Pod: {
        **dict.fromkeys(("id", "name", "namespace", "uid", "attempt"), _own("the identity, which is the copy's own")),
        **dict.fromkeys(("hostname", "dns_servers", "dns_searches", "dns_options", "hosts"), _GUEST),
        **dict.fromkeys(("memory_mib", "vcpus", "hypervisor", "networks", "window_mib", "kernel", "profile"), _MACHINE),
        "scratch_mib": _MACHINE,
        **dict.fromkeys(("online_vcpus", "limit_bytes", "overhead_bytes", "is_bounded"), _GUEST),
        **dict.fromkeys(("ports", "ingress_bits", "egress_bits", "cgroup_parent", "allow_spoofing"), _HOST),
        **dict.fromkeys(("kubelet_dir", "journal", "suspend"), _HOST),
        "boots": _own("a copy of a running pod is none of a template that has only booted"),
        "sysctls": _same("sysctls"),
        "shm_bytes": _same("the size of /dev/shm in bytes"),
        "ids": _same("userns_options"),
        "host": _same("namespaces of the host"),
        "disk_volumes": _same("volumes on its disk"),
        "memory_volumes": _same("volumes in its memory"),
        "disk_limits": _same("limits of volumes on its disk"),
        "copies_files": _same("copies of files"),
    },
    DiskLimit: {"name": _same("name"), "size_bytes": _same("size_bytes")},
}
"""By type and field."""
RAW = ("stdin_once", "linux.security_context.selinux_options", "linux.security_context.seccomp_profile_path")
"""Fields of a ContainerConfig that no value has: the daemon's own business, or without effect in a guest."""


def of_container(record: ContainerRecord, *, guest_ids: Mapping[str, str]) -> tuple[Decided, ...]:
    """What is not as in a container without anything. `guest_ids` has how the guest calls the containers of the pod,
    by their ids. Raises DecodeError when the record is damaged.
    """
    container = record.container
    kind, _, target = container.security.pid_namespace.partition(":")
    if target:
        joined = container.security._replace(pid_namespace=f"{kind}:{guest_ids.get(target, target)}")
        container = container._replace(security=joined)
    config = pb.ContainerConfig.FromString(record.config)
    raw = ((path.rpartition(".")[2], _raw(config, path)) for path in RAW)
    return _beyond((*_fields(container), *raw), _PLAIN_CONTAINER)


def of_pod(pod: Pod) -> tuple[Decided, ...]:
    """What is not as in a pod without anything."""
    return _beyond(_fields(pod), _PLAIN_POD)


def difference(former: tuple[Decided, ...], now: tuple[Decided, ...]) -> tuple[str, str, str] | None:
    """The first field in which they differ, with its two values; None when they are the same."""
    was, asked = ({one.name: one.value for one in decided} for decided in (former, now))
    known = (*_PLAIN_CONTAINER, *_PLAIN_POD)
    for name in (*known, *sorted((was.keys() | asked.keys()).difference(known))):
        plain = _PLAIN_CONTAINER.get(name, _PLAIN_POD.get(name, _text("")))
        values = was.get(name, plain), asked.get(name, plain)
        if values[0] != values[1]:
            return name, values[0][:MOST_CHARACTERS], values[1][:MOST_CHARACTERS]
    return None


def _beyond(fields: Iterable[tuple[str, str]], plain: Mapping[str, str]) -> tuple[Decided, ...]:
    return tuple(Decided(name, value) for name, value in fields if plain.get(name, _text("")) != value)


def _fields(value: Any) -> Iterator[tuple[str, str]]:
    """The names and texts of all fields of a value that are compared."""
    for field, rule in RULES[type(value)].items():
        item = getattr(value, field)
        if rule.name:
            yield rule.name, _text(item)
        elif type(item) in RULES:
            yield from _fields(item)


def _text(value: Any) -> str:
    """A value for a sentence, and to compare: a long one is cut, with a hash of all of it."""
    if isinstance(value, int):
        return str(value)
    if not value:
        return "none"
    if isinstance(value, str):
        text = _word(value)
    elif type(value) is tuple:
        seen = (one for one in value if not (isinstance(one, Mount) and one.target == BOOT_ID_SEEN_AT))
        text = ", ".join(sorted(map(_item, seen))) or "none"
    else:
        text = _item(value)
    if len(text) > _SHOWN:
        return f"{text[:_SHOWN]}... (sha256 {hashlib.sha256(text.encode()).hexdigest()[:32]})"
    return text


def _item(value: Any) -> str:
    """One of several values: what names it, and the fields that are not as usual."""
    if not isinstance(value, tuple):
        return _word(str(value))
    rules = RULES.get(type(value))
    if rules is None:  # two parts, or a range of ids
        return "=".join(_word(str(one)) for one in value)
    parts, usual = [], getattr(type(value), "_field_defaults", {})
    for field, rule in rules.items():
        item = getattr(value, field)
        if rule.name and field not in usual:
            parts.append(_text(item))
        elif rule.name and item != usual[field]:
            parts.append(f"{rule.name}={_text(item)}")
        elif type(item) in RULES and item != usual.get(field):
            parts.append(_item(item))
    if isinstance(value, Mount):
        parts += [f"image_sub_path={_word(value.source)}"] if value.image or value.inside else []
        parts += ["in-memory"] if value.memory.most_bytes else []
    return " ".join(part for part in parts if part)


def _word(text: str) -> str:
    return text if _PLAIN.fullmatch(text) and text != "none" else json.dumps(text)


def _raw(config: pb.ContainerConfig, path: str) -> str:
    """A field of the request, by its path."""
    value: Any = config
    for name in path.split("."):
        value = getattr(value, name)
    return _text(value) if isinstance(value, (int, str)) else _text(value.SerializeToString(deterministic=True).hex())


_PLAIN_CONTAINER = {
    **dict(_fields(Container("", "", "", Process(())))),
    **{path.rpartition(".")[2]: _raw(pb.ContainerConfig(), path) for path in RAW},
}
_PLAIN_POD = dict(_fields(Pod("", "")))
