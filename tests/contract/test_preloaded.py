# SPDX-License-Identifier: Apache-2.0
"""A forked process of Python is as one that was started: what tests and daemons can see of it."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.fakes import preloaded

PROGRAM = """
import json, os, signal, sys
from pathlib import Path
print(json.dumps({
    "argv": sys.argv[1:], "name": __name__, "cwd": os.getcwd(), "env": dict(os.environ), "parent": os.getppid(),
    "command": Path("/proc/self/cmdline").read_text().rstrip("\\0").split("\\0"),
    "descriptors": sorted(os.listdir("/proc/self/fd"))[:3], "input": sys.stdin.read(), "pid": os.getpid(),
    "interrupt": signal.getsignal(signal.SIGINT) is signal.default_int_handler, "group": os.getpgrp(),
}))
sys.exit(7)
"""
pytestmark = pytest.mark.parametrize("popen", [subprocess.Popen, preloaded.Popen], ids=["started", "forked"])


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with the module `shown`, which prints its environment, and `waits`."""
    (tmp_path / "shown.py").write_text(PROGRAM)
    (tmp_path / "waits.py").write_text("import sys, time\nprint('here', flush=True)\ntime.sleep(1000)\n")
    return tmp_path


def started(popen: Any, module: str, place: Path, *more: str) -> Any:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return popen([sys.executable, "-m", module, *more], cwd=place, env={"A": "ä", "PYTHONPATH": str(place)}, **pipes)


def test_it_has_what_it_was_given_and_is_our_child(popen: Any, place: Path) -> None:
    with started(popen, "shown", place, "a b", "ü") as process:
        out, err = process.communicate(b"words", timeout=60)
    seen = json.loads(out)
    assert (err, process.returncode, seen["pid"]) == (b"", 7, process.pid)
    assert (seen["argv"], seen["name"], seen["cwd"], seen["input"]) == (["a b", "ü"], "__main__", str(place), "words")
    assert seen["command"] == [sys.executable, "-m", "shown", "a b", "ü"]
    assert seen["env"].items() >= {"A": "ä", "PYTHONPATH": str(place)}.items() and "HOME" not in seen["env"]
    assert (seen["parent"], seen["group"], seen["interrupt"]) == (os.getpid(), os.getpgrp(), True)
    assert seen["descriptors"] == ["0", "1", "2"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_it_dies_of_a_signal(popen: Any, place: Path, number: signal.Signals) -> None:
    with started(popen, "waits", place) as process:
        assert process.stdout.readline() == b"here\n" and process.poll() is None
        process.send_signal(number)
        assert process.wait(60) == -number


def test_it_has_a_session_of_its_own_if_it_is_to_have_one(popen: Any, place: Path) -> None:
    with popen([sys.executable, "-m", "waits"], cwd=place, stdout=subprocess.PIPE, start_new_session=True) as process:
        assert os.getsid(process.pid) == process.pid
        assert process.stdout.readline() == b"here\n"
        os.killpg(process.pid, signal.SIGKILL)


def test_what_takes_effect_at_the_start_does(popen: Any, place: Path) -> None:
    (place / "flags.py").write_text("import sys; sys.exit(sys.flags.no_user_site)")
    with popen([sys.executable, "-m", "flags"], cwd=place, env={**os.environ, "PYTHONNOUSERSITE": "1"}) as process:
        assert process.wait(60) == 1
