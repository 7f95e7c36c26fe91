# SPDX-License-Identifier: Apache-2.0
"""`clearpod check` against the daemon itself: what `serve` refuses, check has found before, in the same words."""

import asyncio
import gc
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from cri.cli import serve
from cri.cli.check import start
from cri.config import Config, parse
from stage1.errors import NotFound, PodError
from stage1.linux import sandbox
from stage1.linux.host import which
from tests.fakes.patience import PATIENCE
from tests.fakes.places import short_directory

Fault = Callable[[Path, ExitStack], str]


def newer_pods(root: Path, _: ExitStack) -> str:
    (root / "run").mkdir()
    (root / "run/format").write_text("99\n")
    return ""


def newer_images(root: Path, _: ExitStack) -> str:
    (root / "state").mkdir()
    with closing(sqlite3.connect(root / "state/images.db")) as db:
        db.execute("PRAGMA user_version = 99")
    return ""


def no_socket(root: Path, _: ExitStack) -> str:
    (root / "sock").touch()
    return f'[socket]\npath = "{root}/sock"'


def taken_port(table: str) -> Fault:
    def make(root: Path, held: ExitStack) -> str:
        import socket

        listener = held.enter_context(socket.create_server(("127.0.0.1", 0)))
        more = "enabled = true\n" if table == "metrics" else ""
        return f"[{table}]\n{more}port = {listener.getsockname()[1]}"

    return make


def nri_is_a_file(root: Path, _: ExitStack) -> str:
    (root / "nri.sock").touch()
    return f'[nri]\nenabled = true\nsocket = "{root}/nri.sock"'


FAULTS: dict[str, Fault] = {
    "pods of a newer version": newer_pods,
    "images of a newer version": newer_images,
    "a file instead of the socket": no_socket,
    "a group that is not there": lambda *_: '[socket]\ngroup = "no-such-group"',
    "a taken port for streaming": taken_port("streaming"),
    "a taken port for metrics": taken_port("metrics"),
    "an address of another host": lambda *_: '[streaming]\naddress = "192.0.2.1"\nport = 1',
    "a file instead of NRI's socket": nri_is_a_file,
    "no OpenTelemetry": lambda *_: '[tracing]\nendpoint = "http://127.0.0.1:4317"',
}


@pytest.fixture
def root() -> Iterator[Path]:
    if not which("qemu-system-x86_64"):
        pytest.skip("needs qemu-system-x86_64: without a hypervisor serve refuses at once")
    with short_directory() as place:
        yield Path(place)


def refusal(config: Config) -> str:
    """The error of `serve`."""

    async def begin() -> None:
        await asyncio.wait_for(serve.serve(config), 60 * PATIENCE)

    with pytest.raises(PodError) as refused:
        asyncio.run(begin())
    gc.collect()
    return str(refused.value)


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # a daemon leaves its database to the end
@pytest.mark.parametrize("name", FAULTS)
def test_what_serve_refuses_check_reports_by_the_same_sentence(
    root: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "no OpenTelemetry":
        monkeypatch.setitem(__import__("sys").modules, "opentelemetry.sdk.trace.export", None)
    with ExitStack() as held:
        more = FAULTS[name](root, held)
        text = f'run_dir = "{root}/run"\nstate_dir = "{root}/state"\nnetwork.default = false\n{more}'
        config = parse(f'{text}\n[guest]\ndir = "{root}"\n[vm]\nhypervisor = "qemu"')
        errors = [one.error for one in start.tried(config) if one.error and one.is_fatal]
        assert errors == [refusal(config)]


def test_a_run_directory_that_outlives_a_boot_is_reported(root: Path) -> None:
    config = parse(f'run_dir = "/dev/shm/{root.name[-8:]}"\nstate_dir = "{root}/state"\n[guest]\ndir = "{root}"')
    (run_directory,) = [one for one in start.tried(config) if one.name == "run directory"]
    assert run_directory.error == "" and "tmpfs" in run_directory.detail
    config = parse(f'run_dir = "/var/{root.name[-8:]}"\nstate_dir = "{root}/state"\n[guest]\ndir = "{root}"')
    (run_directory,) = [one for one in start.tried(config) if one.name == "run directory"]
    assert "tmpfs" in run_directory.error and not run_directory.is_fatal


def test_a_host_without_setpriv_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/none")
    monkeypatch.setattr(sandbox, "which", lambda name: "")
    monkeypatch.setattr(sandbox, "_cached", [])
    with pytest.raises(NotFound) as refused:
        sandbox.means()
    config = parse(f'run_dir = "{root}/run"\nstate_dir = "{root}/state"\n[guest]\ndir = "{root}"')
    assert str(refused.value) in [one.error for one in start.tried(config)]
