# SPDX-License-Identifier: Apache-2.0
"""What any field of a request may hold: lengths, characters, counts and ranges, before anybody uses it. Pure.

Called by the server for every request, so that no RPC repeats it. What depends on other fields or on the node is
checked where it is used. A test holds `NUMBERS` to the CRI's messages: every numeric field has an entry.
"""

import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, NamedTuple

from stage1.errors import BadRequest
from stage1.pod.users import MAX_ID

LINE_BYTES = 4096
"""Of a text without an entry of its own: one line, without control characters."""
PATH_BYTES, PART_BYTES = 4095, 255
"""Of a path and of each name in it: PATH_MAX and NAME_MAX, without the zero byte."""
ARGUMENT_BYTES = (128 << 10) - 1
"""Of one argument or variable of a process: the kernel's MAX_ARG_STRLEN."""
PROCESS_BYTES = 2 << 20
"""Of all arguments and variables together: a quarter of the usual limit of the stack."""
LABELS_BYTES = 512 << 10
"""Of the labels and annotations of one object. Kubernetes allows 256 KiB of annotations."""
SECRET_BYTES = 64 << 10
COUNT = 1024
"""Entries of a list or map without an entry of its own."""
MOST_SECONDS = (1 << 31) - 1
SHOWN = 60

FREE = {
    "ContainerConfig.command": ARGUMENT_BYTES,
    "ContainerConfig.args": ARGUMENT_BYTES,
    "ExecSyncRequest.cmd": ARGUMENT_BYTES,
    "ExecRequest.cmd": ARGUMENT_BYTES,
    "KeyValue.value": ARGUMENT_BYTES,
    "LabelsEntry.value": LABELS_BYTES,
    "AnnotationsEntry.value": LABELS_BYTES,
    "LabelSelectorEntry.value": LABELS_BYTES,
    **dict.fromkeys(("container_id", "pod_sandbox_id", "target_id"), LINE_BYTES),
    **{f"{what}Filter.id": LINE_BYTES for what in ("PodSandbox", "Container", "ContainerStats", "PodSandboxStats")},
    **{f"AuthConfig.{name}": SECRET_BYTES for name in ("username", "password", "auth")},
    **{f"AuthConfig.{name}": SECRET_BYTES for name in ("server_address", "identity_token", "registry_token")},
}
"""Texts with any characters but the zero byte, and how many bytes they may have. An id is only ever compared."""
PATHS = frozenset(
    """log_directory log_path working_dir host_path container_path image_sub_path masked_paths readonly_paths
    localhost_ref seccomp_profile_path cgroup_parent output_path checkpoint_path location""".split()
)
COUNTS = {
    "ContainerConfig.command": 1 << 16,
    "ContainerConfig.args": 1 << 16,
    "ContainerConfig.envs": 1 << 16,
    "ExecSyncRequest.cmd": 1 << 16,
    "ExecRequest.cmd": 1 << 16,
    "supplemental_groups": 1 << 16,
    "labels": 1 << 14,
    "annotations": 1 << 14,
    "servers": 64,
    "searches": 64,
    "options": 64,
}
_U32, _U64, _PORT = (0, (1 << 32) - 1), (0, (1 << 64) - 1), (0, 65535)
NUMBERS = {
    "attempt": _U32,
    "PortMapping.container_port": _PORT,
    "PortMapping.host_port": _PORT,
    "PortForwardRequest.port": _PORT,
    "IDMapping.host_id": _U32,
    "IDMapping.container_id": _U32,
    "IDMapping.length": _U32,
    "run_as_user": (0, MAX_ID),
    "run_as_group": (0, MAX_ID),
    "supplemental_groups": (0, MAX_ID),
    "cpu_period": (0, 1_000_000),
    "cpu_quota": (-1, 1 << 40),
    "cpu_shares": (0, 262_144),
    "memory_limit_in_bytes": (-1, 1 << 60),
    "memory_swap_limit_in_bytes": (-1, 1 << 60),
    "oom_score_adj": (-1000, 1000),
    "HugepageLimit.limit": _U64,
    "ExecSyncRequest.timeout": (0, MOST_SECONDS),
    "CheckpointContainerRequest.timeout": (0, MOST_SECONDS),
    "StopContainerRequest.timeout": (-(1 << 63), (1 << 63) - 1),
}
"""Field -> least and most. A stop takes any number: the pod's author chose it, and a refusal would keep the pod."""
ANY = frozenset({"resources.cpu_quota", "resources.memory_limit_in_bytes"})
"""Of UpdatePodSandboxResources: the kubelet takes the overhead from what it read in the pod's cgroup, also from what
stands for no limit. `resources` makes sense of it."""
TOGETHER = {
    "ContainerConfig": ((("command", "args", "envs"), PROCESS_BYTES), (("labels", "annotations"), LABELS_BYTES)),
    "PodSandboxConfig": ((("labels", "annotations"), LABELS_BYTES),),
    "ExecSyncRequest": ((("cmd",), PROCESS_BYTES),),
    "ExecRequest": ((("cmd",), PROCESS_BYTES),),
}
"""Message -> fields and what they may have together, in bytes."""
OTHERS = frozenset({"windows"})
"""Fields that clearpod does not read."""

_CONTROL = re.compile("[\x00-\x1f\x7f]")


def check(message: Any) -> None:
    """Raise BadRequest with the field's name, its value and what it may be. `message` is a protobuf request."""
    _message(message, "")


def short(value: object, most: int = SHOWN) -> str:
    """A value as a message shows it."""
    shown = repr(value[: most + 1] if isinstance(value, str | bytes) else value)
    return shown if len(shown) <= most + 3 else f"{shown[:most]}..."


class _Rule(NamedTuple):
    """How errors name one field. `kind` is a type of FieldDescriptor, or 0 for a boxed number."""

    kind: int
    bytes: int
    is_free: bool
    is_path: bool
    entries: int
    least: int
    most: int


@cache
def _rule(field: Any) -> _Rule:
    """The rule of a field: that of its message, else that of all fields of its name, else the default."""

    def entry(table: Mapping[str, Any], other: Any) -> Any:
        return table.get(f"{field.containing_type.name}.{field.name}", table.get(field.name, other))

    is_boxed = field.message_type is not None and field.message_type.name == "Int64Value"
    is_path = field.name in PATHS
    free = entry(FREE, 0)
    most = free or (PATH_BYTES if is_path else LINE_BYTES)
    return _Rule(0 if is_boxed else field.type, most, bool(free), is_path, entry(COUNTS, COUNT), *entry(NUMBERS, _U64))


def _message(message: Any, where: str) -> None:
    for field, value in message.ListFields():
        if field.name not in OTHERS:
            _field(field, value, where=f"{where}{field.name}")
    for fields, most in TOGETHER.get(message.DESCRIPTOR.name, ()):
        size = sum(_size(getattr(message, one)) for one in fields)
        if size > most:
            raise BadRequest(f"{where}{' and '.join(fields)} have {size} bytes, and at most {most} are allowed")


def _field(field: Any, value: Any, *, where: str) -> None:
    rule = _rule(field)
    if not field.is_repeated:
        _value(field, value, rule=rule, where=where)
        return
    if len(value) > rule.entries:
        raise BadRequest(f"{where} has {len(value)} entries, and at most {rule.entries} are allowed")
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        _map(field.message_type, value, where=where)
        return
    for one in value:
        _value(field, one, rule=rule, where=where)


def _map(kind: Any, value: Mapping[Any, Any], *, where: str) -> None:
    """All maps of the CRI are of texts."""
    keys, values = (_rule(kind.fields_by_name[name]) for name in ("key", "value"))
    for key, held in value.items():
        _text(key, keys, where=f"a key of {where}")
        _text(held, values, where=f"{where}[{short(key)}]")


def _value(field: Any, value: Any, *, rule: _Rule, where: str) -> None:
    if rule.kind in (field.TYPE_STRING, field.TYPE_BYTES):
        _text(value, rule, where=where)
    elif rule.kind == field.TYPE_MESSAGE:
        _message(value, f"{where}.")
    elif rule.kind == field.TYPE_ENUM:
        if value not in field.enum_type.values_by_number:
            raise BadRequest(f"{where} is {value}, which is no {field.enum_type.name}")
    elif rule.kind != field.TYPE_BOOL:
        number = value if rule.kind else value.value
        if not rule.least <= number <= rule.most and where not in ANY:
            raise BadRequest(f"{where} must be between {rule.least} and {rule.most}, but it is {number}")


def _text(value: str | bytes, rule: _Rule, *, where: str) -> None:
    size = len(value) if isinstance(value, bytes) or value.isascii() else len(value.encode())
    if size > rule.bytes:
        raise BadRequest(f"{where} has {size} bytes, and at most {rule.bytes} are allowed; it begins {short(value)}")
    if (b"\0" if isinstance(value, bytes) else "\0") in value:  # type: ignore[operator]
        raise BadRequest(f"{where} has a zero byte: {short(value)}")
    if not rule.is_free and _CONTROL.search(str(value)):
        raise BadRequest(f"{where} must be one line without control characters, but it is {short(value)}")
    if rule.is_path and any(len(part.encode()) > PART_BYTES for part in str(value).split("/")):
        raise BadRequest(f"{where} has a name of more than {PART_BYTES} bytes: {short(value)}")


def _size(values: Iterable[Any]) -> int:
    """Bytes of texts, of the keys and values of a map, or of variables."""
    if hasattr(values, "items"):
        return sum(_size(pair) for pair in values.items())
    total = 0
    for value in values:
        if isinstance(value, bytes):
            total += len(value)
        elif isinstance(value, str):
            total += len(value) if value.isascii() else len(value.encode())
        else:
            total += _size((value.key, value.value))
    return total
