# SPDX-License-Identifier: Apache-2.0
"""Values that a guest may report: each field at both of its limits, and beyond."""

from typing import Any

import pytest

from stage1.guest import checked, codec, wire
from stage1.guest import messages as m
from stage1.guest.checked import MAX_AVERAGE, MAX_COUNT, MAX_CPU_US, MAX_NS, MAX_PID, OutOfRange
from stage1.guest.numbers import MOST_CONTAINERS, MOST_INTERFACES, MOST_STATS, TABLES, Pressure, Pressures

BIG = 2**64 - 1
ID = "f" * 64

FIELDS: list[tuple[type[Any], str, list[Any], list[Any]]] = [
    (m.Hello, "ready_ns", [0, MAX_NS], [MAX_NS + 1, BIG]),
    (m.Hello, "init_ns", [0, MAX_NS], [BIG]),
    (m.Hello, "first", [1, MAX_NS], [BIG]),
    (m.Hello, "kernel", ["", "6.12.9-clearpod+", "x" * 64], ["x" * 65, "a\nb", "\x1b[2J", "\u00fc"]),
    (m.Exited, "container", [ID, "a", "app-1", "_guest"], ["", "../..", "a/b", "a b", "x" * 100, "\u00fc", "a\0"]),
    (m.Exited, "exit_code", [0, 137, 255], [-1, 256, 2**31 - 1, -(2**31)]),
    (m.Exited, "unix_ns", [0, MAX_NS], [MAX_NS + 1, BIG]),
    (m.Container, "id", [ID], ["", "x" * 100, "\n"]),
    (m.Container, "state", [0, 1, 2], [3, -1]),
    (m.Container, "pid", [0, MAX_PID], [MAX_PID + 1, 2**32 - 1]),
    (m.Container, "exit_code", [255], [256, -1]),
    (m.Container, "started_ns", [MAX_NS], [BIG]),
    (m.Container, "finished_ns", [MAX_NS], [BIG]),
    (m.Container, "stdio", [None, m.Stdio(1, 2, 3, True, 80, 24)], [m.Stdio(width=2**16)]),
    (m.ContainerStats, "id", [ID], [""]),
    (m.ContainerStats, "at_ns", [MAX_NS], [BIG]),
    (m.ContainerStats, "cpu", [None, m.CpuStats(usage_us=MAX_CPU_US)], [m.CpuStats(usage_us=MAX_CPU_US + 1)]),
    (m.ContainerStats, "memory", [None, m.MemoryStats(oom_kills=MAX_COUNT)], [m.MemoryStats(oom_kills=BIG)]),
    (m.ContainerStats, "threads", [MAX_COUNT], [BIG]),
    (m.ContainerStats, "disk_inodes", [MAX_COUNT], [BIG]),
    (m.PodStats, "threads", [MAX_COUNT], [BIG]),
    (m.PodStats, "disk_inodes_free", [MAX_COUNT], [BIG]),
    (m.PodStats, "cpu", [None], [m.CpuStats(throttled_us=BIG)]),
    (
        m.InterfaceStats,
        "name",
        ["eth0", "a" * 15, "veth@x"],
        ["", ".", "..", "a/b", "a:b", "a b", "a" * 16, "\u00fc" * 8],
    ),
    (m.InterfaceStats, "tx_dropped", [MAX_COUNT], [BIG]),
    (m.Reply, "pid", [0, MAX_PID], [MAX_PID + 1]),
]
NAMED = {"id": ID, "name": "eth0", "container": ID}
HOLDERS: dict[type[Any], Any] = {
    m.Hello: checked.hello,
    m.Exited: checked.exited,
    m.Reply: checked.reply,
    m.Container: lambda one: checked.reply(m.Reply(containers=(one,))),
    m.ContainerStats: lambda one: checked.reply(m.Reply(stats=(one,))),
    m.PodStats: lambda one: checked.reply(m.Reply(pod=one)),
    m.InterfaceStats: lambda one: checked.reply(m.Reply(pod=m.PodStats(interfaces=(one,)))),
}


def made(kind: type[Any], **fields: Any) -> Any:
    """A message that is good but for these fields."""
    return kind(**{name: value for name, value in NAMED.items() if name in kind._fields} | fields)


@pytest.mark.parametrize(
    ("kind", "field", "good", "bad"), FIELDS, ids=[f"{one[0].__name__}.{one[1]}" for one in FIELDS]
)
def test_a_field_out_of_range_is_refused_by_its_name(
    kind: type[Any], field: str, good: list[Any], bad: list[Any]
) -> None:
    for value in good:
        HOLDERS[kind](made(kind, **{field: value}))
    for value in bad:
        what = type(value).__name__ if hasattr(value, "_fields") else f"{kind.__name__}.{field}"
        with pytest.raises(OutOfRange, match=what):
            HOLDERS[kind](made(kind, **{field: value}))


@pytest.mark.parametrize("holder", [m.ContainerStats, m.PodStats])
@pytest.mark.parametrize("field", Pressure._fields)
@pytest.mark.parametrize("resource", Pressures._fields)
def test_pressure_is_a_part_of_the_time(holder: type[Any], field: str, resource: str) -> None:
    def stated(value: int) -> None:
        one = Pressures(**{resource: Pressure(**{field: value})})
        HOLDERS[holder](made(holder, pressures=one))

    most = MAX_CPU_US if field.endswith("_us") else MAX_AVERAGE
    stated(most)
    with pytest.raises(OutOfRange, match=f"Pressure.{field}"):
        stated(most + 1)


def test_every_counter_of_a_guest_is_bounded() -> None:
    for kind in (m.ContainerStats, m.PodStats, m.InterfaceStats):
        for field, how in zip(kind._fields, TABLES[kind], strict=True):
            if how.kind == wire.U64:
                with pytest.raises(OutOfRange, match=f"{kind.__name__}.{field}"):
                    HOLDERS[kind](made(kind, **{field: BIG}))
    for part, kind in (("cpu", m.CpuStats), ("memory", m.MemoryStats)):
        for field in kind._fields:
            with pytest.raises(OutOfRange, match=f"{kind.__name__}.{field}"):
                HOLDERS[m.ContainerStats](made(m.ContainerStats, **{part: kind(**{field: BIG})}))


@pytest.mark.parametrize("field", ["containers", "stats"])
def test_duplicates_are_refused(field: str) -> None:
    one = m.Container(ID) if field == "containers" else m.ContainerStats(ID)
    with pytest.raises(OutOfRange, match="duplicate"):
        checked.reply(m.Reply(**{field: (one, one)}))


ERRORS = [
    ("crun: exec failed\n\tno such file", "crun: exec failed no such file"),
    ("\x1b[2Jgone\x00\u202e", "\ufffd[2Jgone\ufffd\ufffd"),
    ("x" * 10_000, "x" * 480),
    ("\u00fcml\u00e4ut", "\u00fcml\u00e4ut"),
]


@pytest.mark.parametrize(("text", "shown"), ERRORS)
def test_the_text_of_an_error_is_short_and_printable(text: str, shown: str) -> None:
    assert checked.reply(m.Reply(code=m.FAILED, error=text)).error == shown


TOO_MANY = {
    "Reply.containers": codec.encode(m.Reply(containers=(m.Container(),) * (MOST_CONTAINERS + 1))),
    "Reply.stats": codec.encode(m.Reply(stats=(m.ContainerStats(),) * (MOST_STATS + 1))),
    "PodStats.interfaces": codec.encode(
        m.Reply(pod=m.PodStats(interfaces=(m.InterfaceStats(),) * (MOST_INTERFACES + 1)))
    ),
    "Reply has more fields": b"\x18\x01" * 16384,
    "CpuStats has more fields": b"\x42\x10\x12\x0e" + b"\x08\x01" * 7 + b"\x42\x6a\x12\x68" + b"\x08\x01" * 52,
}


@pytest.mark.parametrize("what", TOO_MANY)
def test_a_message_has_no_more_entries_and_fields_than_it_can_need(what: str) -> None:
    with pytest.raises(wire.WireError, match=what):
        codec.decode_reply(TOO_MANY[what])


def test_a_value_that_does_not_fit_names_its_field() -> None:
    with pytest.raises(wire.WireError, match=r"Exited\.exec: 4294967296 does not fit"):
        codec.decode_event(b"\x0a\x06\x10" + b"\x80\x80\x80\x80\x10")
    with pytest.raises(wire.WireError, match=r"Container\.id: not valid UTF-8"):
        codec.decode_reply(b"\x22\x03\x0a\x01\xff")
