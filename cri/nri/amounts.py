# SPDX-License-Identifier: Apache-2.0
"""Resources, translated between NRI and the CRI. Pure. Used by `shown` and `adjust`.

A resource that guests' cgroups do not have, or that belongs to the host, is refused by its name.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from google.protobuf.unknown_fields import UnknownFieldSet

from cri.pb import nri_pb2 as nri
from cri.pb import runtime_pb2 as pb
from cri.translate import bounds, limits, resources
from stage1.errors import BadRequest, Unsupported

NUMBERS = {
    ("memory", "limit"): ("memory_limit_in_bytes", nri.MemLimit),
    ("memory", "swap"): ("memory_swap_limit_in_bytes", nri.MemSwapLimit),
    ("cpu", "shares"): ("cpu_shares", nri.CPUShares),
    ("cpu", "quota"): ("cpu_quota", nri.CPUQuota),
    ("cpu", "period"): ("cpu_period", nri.CPUPeriod),
}
TEXTS = {
    ("cpu", "cpus"): ("cpuset_cpus", nri.CPUSetCPUs),
    ("cpu", "mems"): ("cpuset_mems", nri.CPUSetMems),
}
"""Field of LinuxResources -> field of LinuxContainerResources, and its number among NRI's fields."""
PIDS = "pids.max"

Claims = dict[tuple[int, str], str]
"""Field and, where it has parts, which -> who has set it."""


def of_cri(given: pb.LinuxContainerResources) -> nri.LinuxResources:
    """Convert for plugins. Zero and empty mean "unset" in both."""
    made = nri.LinuxResources(unified=given.unified)
    for (part, name), (ours, _) in NUMBERS.items():
        if value := getattr(given, ours):
            _set(getattr(getattr(made, part), name), value)
    for (part, name), (ours, _) in TEXTS.items():
        if text := getattr(given, ours):
            setattr(getattr(made, part), name, text)
    for page in given.hugepage_limits:
        made.hugepage_limits.add(page_size=page.page_size, limit=page.limit)
    return made


def _set(optional: Any, value: int) -> None:
    if value > 0 or optional.DESCRIPTOR.name != "OptionalUInt64":
        optional.value = value


def to_cri(given: nri.LinuxResources, *, who: str) -> pb.LinuxContainerResources:
    """The resources that a plugin requests. `who` begins error messages. Raises Unsupported, BadRequest."""
    require_known(given, ("memory", "cpu", "unified", "pids", "hugepage_limits"), who=who, where="resources")
    require_known(given.memory, ("limit", "swap"), who=who, where="resources.memory")
    require_known(given.cpu, ("shares", "quota", "period", "cpus", "mems"), who=who, where="resources.cpu")
    made = pb.LinuxContainerResources(unified=given.unified)
    for (part, name), (ours, _) in NUMBERS.items():
        value = getattr(getattr(given, part), name).value
        if value >= 1 << 63:
            raise BadRequest(f"{who} resources.{part}.{name} of {value}, which is out of the kernel's range")
        setattr(made, ours, value)
    for (part, name), (ours, _) in TEXTS.items():
        setattr(made, ours, getattr(getattr(given, part), name))
    for page in given.hugepage_limits:
        made.hugepage_limits.add(page_size=page.page_size, limit=page.limit)
    if given.pids.limit:
        made.unified[PIDS] = str(given.pids.limit) if given.pids.limit > 0 else "max"
    try:
        bounds.check(made)
        limits.check(made)
    except BadRequest as error:
        raise BadRequest(f"{who} invalid resources: {error}") from None
    return made


def with_updates(
    given: pb.LinuxContainerResources, wishes: Iterable[nri.ContainerUpdate], *, title: str, claims: Claims
) -> pb.LinuxContainerResources:
    """Merge what the plugin `title` requests into a request about a container. Raises as `to_cri`, `claim`."""
    made = pb.LinuxContainerResources.FromString(given.SerializeToString())
    for wish in wishes:
        claim(claims, fields(wish.linux.resources), title=title)
        resources.merge(made, to_cri(wish.linux.resources, who=f"the NRI plugin {title} sets"))
    return made


def fields(given: nri.LinuxResources) -> Iterator[tuple[int, str]]:
    """The parts of NRI's list of fields that it sets."""
    for table in (NUMBERS, TEXTS):
        for (part, name), (_, field) in table.items():
            if given.HasField(part) and name in {one.name for one, _ in getattr(given, part).ListFields()}:  # type: ignore[arg-type]
                yield field, ""
    if given.pids.limit:
        yield nri.PidsLimit, ""
    for key in given.unified:
        yield nri.CgroupsUnified, key


def claim(claims: Claims, parts: Iterator[tuple[int, str]], *, title: str) -> None:
    """Note who sets what. Raises BadRequest when another plugin has set it already."""
    for field, part in parts:
        other = claims.setdefault((field, part), title)
        if other != title:
            what = f"{nri.Field.Name(field)} {part}".strip()  # type: ignore[arg-type]
            raise BadRequest(f"the NRI plugins {other} and {title} both set {what}; only one of them can")


def require_known(message: Any, known: tuple[str, ...], *, who: str, where: str) -> None:
    """Raise Unsupported for a field that is set and not one of `known`."""
    for field, value in message.ListFields():
        is_set = field.is_repeated or field.type != field.TYPE_MESSAGE or value.ByteSize()
        if field.name not in known and is_set:
            name = f"{where}.{field.name}" if where else field.name
            raise Unsupported(f"{who} {name}, which clearpod does not support in a virtual machine; leave it out")
    for one in UnknownFieldSet(message):  # type: ignore[attr-defined]
        raise Unsupported(f"{who} field {one.field_number} of {where or 'the adjustment'}, of a newer NRI than ours")
