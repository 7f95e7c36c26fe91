# SPDX-License-Identifier: Apache-2.0
"""Requests with nasty values in any of their fields, made from the CRI's own descriptors. For test_generated.py.

A request begins as one that works, so that the values get as deep as they can, and then some fields are replaced.
"""

from typing import Any

from hypothesis import strategies as st

from cri.pb import runtime_pb2 as pb

TEXTS = (
    "", "a", "web", "/", "/tmp", "/etc/passwd", "../../etc", "/a/../b", "a\nb", "a\0b", "\x1b[2J", " ",
    "é" * 300, "x" * 300, "x" * 5000, "9" * 5000, "-1", "0", "1", "0x10", "99999999999999999999", "1e9", "٣",
    "--help", "-", "*", "a;b=c", "a,b,c", "localhost/", "runtime/default", "CAP_ALL", "ALL", "CAP_FOO",
    "NET_ADMIN", "net.ipv4.ip_forward", "kernel.../x", "memory.high", "0-3", "3-0", "0,", "sha256:" + "f" * 64,
    "registry.example:99999/a:b", "docker://x", "oci:/tmp", "/dev/null", "/dev/fuse", "rwm", "1.1.1.1",
    "fe80::1%eth0", "\u202e\ufffe", "true", "systemd", "10M", "9" * 4000 + "M", "..", "/..", "a/../../b", "x" * 300_000,
    "a,b=c;" * 50_000, "1.1.1.1 a," * 3000, "{" * 5000, "é" * 40_000,
)  # fmt: skip
KEYS = (
    "a", "", "x" * 300, "clearpod.io/memory-mib", "clearpod.io/vcpus", "clearpod.io/shm-mib", "clearpod.io/networks",
    "clearpod.io/dax-window-mib", "clearpod.io/kernel", "clearpod.io/guest-profile", "clearpod.io/allow-spoofing",
    "clearpod.io/hosts", "clearpod.io/tmpfs", "clearpod.io/ulimits", "clearpod.io/fork-of",
    "clearpod.io/emptydir-limits", "clearpod.io/template", "clearpod.io/suspend", "clearpod.io/scratch-mib",
    "../../x", "net..x", "net/../x", "kubernetes.io/ingress-bandwidth", "net.ipv4.ip_forward", "memory.high",
    "memory.max", "a\nb",
)  # fmt: skip
COPIES = (0, 2, 3, 64, 1024, 1025, 5000)
"""Of a message in a list."""
NUMBERS = (0, 1, -1, 2, 3, 80, 999, 1000, 65535, 65536, 1 << 20, (1 << 31) - 1, -(1 << 31), 1 << 31, (1 << 32) - 1)
NUMBERS += (1 << 32, 1 << 40, 1 << 60, (1 << 63) - 1, -(1 << 63), (1 << 64) - 1)
LIMITS = {"INT32": (-(1 << 31), (1 << 31) - 1), "UINT32": (0, (1 << 32) - 1), "INT64": (-(1 << 63), (1 << 63) - 1)}
LIMITS["UINT64"] = 0, (1 << 64) - 1
DEPTH = 6


def requests(base: Any) -> st.SearchStrategy[Any]:
    """Variants of the request `base`."""
    if not leaves(type(base).DESCRIPTOR):
        return st.just(base)
    return st.lists(changes(type(base).DESCRIPTOR), max_size=4).map(lambda drawn: changed(base, drawn))


Change = tuple[tuple[Any, ...], Any]
"""The fields on the way down, and the value at its end."""


def changes(message: Any, path: tuple[Any, ...] = ()) -> st.SearchStrategy[Change]:
    """A change of one field, of the message or of one inside of it."""
    return st.sampled_from(tuple(leaves(message, path))).flatmap(
        lambda drawn: st.tuples(st.just(drawn), values(drawn[-1]))
    )


def leaves(message: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The ways to all fields that are no messages, maps among them, and to all lists of messages."""
    result = []
    for field in message.fields:
        if field.message_type is None or field.message_type.GetOptions().map_entry:
            result.append((*path, field))
        elif len(path) < DEPTH:
            result += leaves(field.message_type, (*path, field))
            if field.is_repeated:
                result.append((*path, field))
    return result


def values(field: Any) -> st.SearchStrategy[Any]:
    """Values for the field; lists and maps are mostly short and sometimes long."""
    if field.message_type is not None and not field.message_type.GetOptions().map_entry:
        return st.sampled_from(COPIES)
    if field.message_type is not None:
        return st.dictionaries(st.sampled_from(KEYS), st.sampled_from(TEXTS), max_size=4)
    kind = next(name for name in dir(field) if name.startswith("TYPE_") and getattr(field, name) == field.type)[5:]
    one: st.SearchStrategy[Any]
    if kind == "BOOL":
        one = st.booleans()
    elif kind == "STRING":
        one = st.one_of(st.sampled_from(TEXTS), st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
    elif kind == "BYTES":
        one = st.one_of(st.sampled_from([text.encode() for text in TEXTS]), st.binary(max_size=30))
    elif kind == "ENUM":
        one = st.sampled_from([0, 1, 2, 3, 7, 9, 15, 64, 65, 1000, -1, (1 << 31) - 1])
    else:
        low, high = LIMITS[kind]
        one = st.one_of(st.sampled_from([n for n in NUMBERS if low <= n <= high]), st.integers(low, high))
    if not field.is_repeated:
        return one
    return st.one_of(st.lists(one, max_size=3), one.map(lambda value: [value] * 2000))


def changed(base: Any, drawn: list[Change]) -> Any:
    """A copy of `base` with these changes."""
    made = type(base).FromString(base.SerializeToString())
    for path, value in drawn:
        target = made
        for field in path[:-1]:
            target = getattr(target, field.name)
            if field.is_repeated:
                target = target[0] if target else target.add()
            else:
                target.SetInParent()
        last = path[-1]
        if last.message_type is not None and not last.message_type.GetOptions().map_entry:
            _multiply(getattr(target, last.name), value)
        elif last.message_type is not None:
            getattr(target, last.name).clear()
            getattr(target, last.name).update(value)
        elif last.is_repeated:
            del getattr(target, last.name)[:]
            getattr(target, last.name).extend(value)
        else:
            setattr(target, last.name, value)
    return made


def _multiply(messages: Any, count: int) -> None:
    """Make them so many copies of the first one, or of an empty one."""
    first = messages[0] if messages else messages.add()
    kept = type(first).FromString(first.SerializeToString())
    del messages[:]
    messages.extend([kept] * count)


def message_of(name: str) -> Any:
    """The class of the RPC's request."""
    service = next(one for one in pb.DESCRIPTOR.services_by_name.values() if name in one.methods_by_name)
    return getattr(pb, service.methods_by_name[name].input_type.name)
