# SPDX-License-Identifier: Apache-2.0
"""The boundary between what a guest sends and the rest of the program: decoded messages in, the same messages out with
every number, name and time within its range.

Called only by `link.py`, for each HELLO, reply and event, so that all other code gets validated messages. Pure. It must
not know what a pod or a container is to the caller; it clamps nothing, since a value out of range can't come from our
agent.
"""

from typing import Any

from stage1.guest.messages import CREATED, EXITED, Container, ContainerStats, Exited, Hello, PodStats, Reply
from stage1.guest.numbers import CpuStats, InterfaceStats
from stage1.guest.wire import WireError

MAX_NS = 2**63 - 1
"""Latest time, in nanoseconds since 1970 or since the boot: what protobuf's int64 holds, the year 2262."""
MAX_COUNT = 2**63 - 1
"""Largest counter or size."""
MAX_CPU_US = 2**53
"""Longest CPU time: 285 years. A thousand times as much still fits into 64 bits, as the CRI's nanoseconds must."""
MAX_AVERAGE = 10_000
"""All of the time, in hundredths of a percent."""
MAX_PID = 2**22
"""The kernel's PID_MAX_LIMIT."""
MAX_EXIT_CODE = 255
MAX_TERMINAL = 2**16 - 1
MAX_ERROR = 480
"""Characters of an error's text, as many as agent.options allows bytes."""

MAX_ID = 99
MAX_INTERFACE = 15
"""Bytes of an interface's name: the kernel's IFNAMSIZ without the zero."""
MAX_KERNEL = 64
"""Characters of a kernel's release, as in uname(2)."""
_ID_CHARACTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-")


class OutOfRange(WireError):
    """A field of a message has a value that the agent can't have sent; the text names the field."""


def hello(message: Hello) -> Hello:
    """Raises OutOfRange."""
    for name in ("init_ns", "ready_ns", "unix_ns", "first", "received"):
        _number(f"Hello.{name}", getattr(message, name), most=MAX_NS)
    kernel = message.kernel
    if len(kernel) > MAX_KERNEL or not (kernel.isascii() and kernel.isprintable()):
        raise _no_text("Hello.kernel", kernel)
    return message


def exited(message: Exited) -> Exited:
    """Raises OutOfRange."""
    _id("Exited.container", message.container)
    _number("Exited.exit_code", message.exit_code, most=MAX_EXIT_CODE)
    _number("Exited.unix_ns", message.unix_ns, most=MAX_NS)
    return message


def reply(message: Reply) -> Reply:
    """The reply, its error's text made printable. Raises OutOfRange."""
    _number("Reply.pid", message.pid, most=MAX_PID)
    _distinct("Reply.containers", [_container(one) for one in message.containers])
    _distinct("Reply.stats", [_container_stats(one) for one in message.stats])
    if message.pod is not None:
        _pod_stats(message.pod)
    return message._replace(error=printable(message.error)) if message.error else message


def printable(text: str, most: int = MAX_ERROR) -> str:
    """A guest's text for people: at most so many characters, white space as single spaces, control characters replaced.

    It ends in answers to clients, in logs and on terminals.
    """
    shown = " ".join(text[: 4 * most].split())
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in shown[:most])


def _container(one: Container) -> str:
    _id("Container.id", one.id)
    if not CREATED <= one.state <= EXITED:
        raise OutOfRange(f"Container.state is {one.state}, which is not a state of a container")
    _number("Container.pid", one.pid, most=MAX_PID)
    _number("Container.exit_code", one.exit_code, most=MAX_EXIT_CODE)
    _number("Container.started_ns", one.started_ns, most=MAX_NS)
    _number("Container.finished_ns", one.finished_ns, most=MAX_NS)
    if one.stdio is not None:
        _number("Stdio.width", one.stdio.width, most=MAX_TERMINAL)
        _number("Stdio.height", one.stdio.height, most=MAX_TERMINAL)
    return one.id


def _container_stats(one: ContainerStats) -> str:
    _id("ContainerStats.id", one.id)
    _cpu(one.cpu)
    _counts(one.memory)
    _number("ContainerStats.at_ns", one.at_ns, most=MAX_NS)
    _counts(one, first=4, last=15)
    _pressures(one)
    return one.id


def _pod_stats(pod: PodStats) -> None:
    _number("PodStats.at_ns", pod.at_ns, most=MAX_NS)
    _cpu(pod.cpu)
    _counts(pod.memory)
    _counts(pod, first=5, last=10)
    _pressures(pod)
    _number("PodStats.threads", pod.threads, most=MAX_COUNT)
    _distinct("PodStats.interfaces", [_interface(one) for one in pod.interfaces])


def _interface(one: InterfaceStats) -> str:
    name = one.name  # as dev_valid_name of the kernel, and printable
    is_long = not 0 < len(name.encode()) <= MAX_INTERFACE
    if is_long or name in (".", "..") or not name.isprintable() or any(c in "/:" or c.isspace() for c in name):
        raise _no_text("InterfaceStats.name", name)
    _counts(one, first=1)
    return one.name


def _cpu(cpu: CpuStats | None) -> None:
    if cpu is not None:
        _counts(cpu, most=MAX_CPU_US)


def _pressures(stats: ContainerStats | PodStats) -> None:
    for one in stats.pressures or ():
        if one is not None:
            _counts(one, most=MAX_CPU_US)
            _counts(one._replace(some_us=0, full_us=0), most=MAX_AVERAGE)


def _counts(message: Any, *, first: int = 0, last: int | None = None, most: int = MAX_COUNT) -> None:
    """The fields from number `first` on, up to but without `last`, which are numbers."""
    if message is not None and max(numbers := _numbers(message, first, last=last)) > most:
        field = message._fields[first + numbers.index(max(numbers))]
        _number(f"{type(message).__name__}.{field}", max(numbers), most=most)


def _numbers(message: Any, first: int, *, last: int | None) -> tuple[int, ...]:
    numbers: tuple[int, ...] = message[first:last]
    return numbers


def _number(field: str, value: int, *, most: int) -> None:
    if not 0 <= value <= most:
        raise OutOfRange(f"{field} is {value}, and must be from 0 to {most}")


def _id(field: str, value: str) -> None:
    if not 0 < len(value) <= MAX_ID or not _ID_CHARACTERS.issuperset(value):
        raise _no_text(field, value)


def _no_text(field: str, value: str) -> OutOfRange:
    return OutOfRange(f"{field} is {printable(value, 100)!r}, which it can't be")


def _distinct(field: str, names: list[str]) -> None:
    if len(set(names)) != len(names):
        raise OutOfRange(f"{field} has a duplicate entry")
