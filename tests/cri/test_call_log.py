# SPDX-License-Identifier: Apache-2.0
"""The log's lines: one for each call, at the level that its code deserves, with the pod and container it was about."""

import io
import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from cri import notify
from cri.call_log import LEVELS
from cri.cli.serve import JournalFormat, JsonFormat, TextFormat
from cri.live import changes
from cri.node import Node
from stage1.errors import DiskFailed, PodError, VmFailed

from .conftest import Client, World


def calls(caplog: pytest.LogCaptureFixture, name: str) -> list[Any]:
    """The lines of this RPC, oldest first."""
    return [one for one in caplog.records if getattr(one, "rpc", "") == name]


async def _fail(cri: Client, name: str, error: Exception, *, monkeypatch: pytest.MonkeyPatch) -> str:
    """Let the RPC of a pod fail so; the code."""

    async def settle(node: Node, request: object) -> None:
        raise error

    pod = cri.node.pods.pods()[0].id
    with monkeypatch.context() as patched:
        patched.setattr(Node, "settle", settle)
        return (await cri.refused(name, pod_sandbox_id=pod))[0]


async def test_a_call_is_one_line_with_the_names_of_its_pod_and_container(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    async with world.daemon() as cri:
        pod = await cri.pod()
        container = await cri.container(pod, "sleep", "1000")
        await cri("StartContainer", container_id=container)
        await cri.refused("StartContainer", container_id=container)
        await cri.refused("ExecSync", container_id="")
        await cri.refused("CreateContainer", pod_sandbox_id="f" * 64, config=cri.config("true"))
    whole = {"pod": pod, "title": "pod default/web", "container": container, "container_name": "c"}
    made, repeated = calls(caplog, "StartContainer")
    for line in (made, repeated):
        assert {key: getattr(line, key) for key in whole} == whole
    assert (made.code, made.levelname) == ("OK", "INFO")
    assert (repeated.code, repeated.levelname, "running" in repeated.error) == ("FAILED_PRECONDITION", "INFO", True)
    (run,) = calls(caplog, "RunPodSandbox")
    assert (run.pod, run.title, run.levelname) == (pod, "pod default/web", "INFO")
    created, unknown = calls(caplog, "CreateContainer")
    assert (created.pod, created.container, created.container_name) == (pod, container, "c")
    assert (unknown.pod, unknown.container_name, unknown.code) == ("f" * 64, "c", "NOT_FOUND")
    (nameless,) = calls(caplog, "ExecSync")
    assert (nameless.code, hasattr(nameless, "pod")) == ("NOT_FOUND", False)


FAILURES = [
    (VmFailed("its VM ended"), "UNKNOWN", "ERROR", False),
    (DiskFailed("write", 5, "the disk"), "UNAVAILABLE", "WARNING", False),
    (ZeroDivisionError("by zero"), "INTERNAL", "ERROR", True),
]


async def test_the_level_depends_on_whether_client_or_daemon_is_at_fault(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with world.daemon() as cri:
        await cri.pod()
        for error, code, level, has_traceback in FAILURES:
            caplog.clear()
            assert await _fail(cri, "StopPodSandbox", error, monkeypatch=monkeypatch) == code
            (line,) = [one for one in caplog.records if one.levelno >= logging.INFO]
            assert (line.rpc, line.code, line.levelname) == ("StopPodSandbox", code, level)
            assert line.title == "pod default/web"
            assert bool(line.exc_info) == has_traceback


def test_each_code_that_an_error_can_have_has_a_level() -> None:
    def below(kind: type[PodError]) -> set[str]:
        return {kind.grpc_code}.union(*map(below, kind.__subclasses__()))

    assert below(PodError) - set(LEVELS) <= {"INTERNAL", "UNKNOWN", "DATA_LOSS"}, "all others are errors"


@pytest.mark.parametrize("seconds", [0.0, 0.0009, 0.9999, 1.0, 1795939200.123456, 1795939199.9999])
def test_the_time_of_a_line_is_as_by_default(seconds: float) -> None:
    record = logging.makeLogRecord({"created": seconds, "msecs": int(seconds * 1000 % 1000) + 0.0, "msg": "one"})
    own = TextFormat()
    for other in (record, logging.makeLogRecord({"created": seconds - 1, "msecs": 1.0}), record):
        assert own.formatTime(other) == logging.Formatter().formatTime(other)


@pytest.mark.parametrize("formatter", [TextFormat(), JsonFormat()])
async def test_both_formats_have_all_of_it(world: World, formatter: logging.Formatter) -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    logging.getLogger("clearpod.rpc").addHandler(handler)
    try:
        async with world.daemon() as cri:
            pod = await cri.pod()
            await cri.refused("CreateContainer", pod_sandbox_id=pod, config=cri.config(name="n\nERROR forged"))
    finally:
        logging.getLogger("clearpod.rpc").removeHandler(handler)
    (line,) = [one for one in stream.getvalue().splitlines() if "CreateContainer" in one]
    if isinstance(formatter, JsonFormat):
        told = json.loads(line)
        assert (told["event"], told["rpc"], told["pod"], told["level"]) == ("rpc", "CreateContainer", pod, "info")
    else:
        assert f"pod={pod}" in line and 'title="pod default/web"' in line and " INFO " in line


@pytest.mark.parametrize("formatter", [TextFormat(), JsonFormat()])
@pytest.mark.parametrize(
    ("level", "number"), [("DEBUG", 7), ("INFO", 6), ("WARNING", 4), ("ERROR", 3), ("CRITICAL", 2)]
)
def test_the_journal_gets_the_priority_of_each_line(formatter: logging.Formatter, level: str, number: int) -> None:
    record = logging.makeLogRecord({"levelno": getattr(logging, level), "levelname": level, "msg": "one"})
    try:
        raise ValueError("of two\nlines")
    except ValueError:
        record.exc_info = sys.exc_info()
    plain = formatter.format(record)
    lines = JournalFormat(formatter).format(record).splitlines()
    assert lines == [f"<{number}>{line}" for line in plain.splitlines()]


def test_the_journal_is_known_by_its_stream(tmp_path: Path) -> None:
    with (tmp_path / "stderr").open("w") as stream:
        about = os.fstat(stream.fileno())
        assert notify.is_journal(stream, {"JOURNAL_STREAM": f"{about.st_dev}:{about.st_ino}"})
        for other in ("", f"{about.st_dev}:{about.st_ino + 1}", "x", "1:2:3"):
            assert not notify.is_journal(stream, {"JOURNAL_STREAM": other})
    assert not notify.is_journal(io.StringIO(), {"JOURNAL_STREAM": "1:2"})


async def test_a_repeated_failure_is_logged_once(world: World, caplog: pytest.LogCaptureFixture) -> None:
    async with world.daemon() as cri:
        for _ in range(3):
            await cri.refused("PodSandboxStatus", pod_sandbox_id="f" * 64)
    assert [one.levelname for one in calls(caplog, "PodSandboxStatus")] == ["INFO", "DEBUG", "DEBUG"]


def states(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    """Event and level of each line about a pod or container, oldest first."""
    events = (*changes.EVENTS.values(), "pod.ready", "pod.dead", "pod.removed")
    return [(one.getMessage(), one.levelname) for one in caplog.records if one.getMessage() in events]


async def test_each_change_of_state_is_one_line_with_pod_and_container(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    async with world.daemon() as cri:
        pod = await cri.pod()
        short, long = await cri.container(pod, "false", name="short"), await cri.container(pod, "sleep", "100")
        for one in (short, long):
            await cri("StartContainer", container_id=one)
        await cri.ended(short)
        await cri("RemoveContainer", container_id=short)
        await cri("StopPodSandbox", pod_sandbox_id=pod)
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
    assert {level for _, level in states(caplog)} == {"INFO"}
    told = [event for event, _ in states(caplog)]
    assert told[0] == "pod.ready" and told.count("pod.removed") == 1
    for event, count in {"container.created": 2, "container.started": 2, "container.exited": 2, "pod.dead": 1}.items():
        assert told.count(event) == count, event
    assert told.count("container.removed") == 2
    lines: list[Any] = [one for one in caplog.records if one.getMessage().startswith("container.")]
    assert all((one.pod, one.title) == (pod, "pod default/web") and one.container in (short, long) for one in lines)
    exited: Any = next(one for one in lines if one.getMessage() == "container.exited" and one.container == short)
    assert (exited.container_name, exited.code, exited.reason) == ("short", 1, "Error")
    (removal,) = calls(caplog, "RemovePodSandbox")
    assert removal.title == "pod default/web", "though it is gone when the call ends"


async def test_an_unexpected_end_is_a_warning(world: World, caplog: pytest.LogCaptureFixture) -> None:
    async with world.daemon() as cri:
        pod = await cri.pod()
        await cri("StartContainer", container_id=await cri.container(pod, "sleep", "100"))
        live = cri.node.pods.get(pod)
        assert live.vm is not None
        live.vm.kill()
        await live.gone.wait()
    assert ("pod.dead", "WARNING") in states(caplog) and ("container.exited", "WARNING") in states(caplog)
    (dead,) = [one for one in caplog.records if one.getMessage() == "pod.dead"]
    assert vars(dead)["error"] == live.status.why
