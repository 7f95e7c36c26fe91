# SPDX-License-Identifier: Apache-2.0
"""A benchmark that needs KVM, run in the lab from outside, in one command. For density.py and pool.py.

What it finds it must keep in a journal below build/results, which both sides see: the emulated machine breaks now and
then, and a new one goes on with what is missing. A lab that was up already is used, and stays up.
"""

import os
from collections.abc import Callable
from pathlib import Path

from stage1.errors import PodError
from tests.bench.lib.journal import Journal
from tests.bench.nested.command import find_lkvm
from tests.fakes.builders import BuildFailed
from tests.lab import client, plan, retry, start, state
from tests.lab.main import directory
from tests.lab.state import LabError
from tests.lab.suite import IN_MEMORY

ROOT = Path(__file__).parents[3]
RESULTS = ROOT / "build" / "results"
MEMORY_MIB = 4608
"""For 50 pods, the daemon, and the host's own."""
CODES = (0, 1)
"""1: a budget is broken, but all was measured."""


def journal(given: Path | None, name: str) -> Path:
    """Where results are kept: the given file, whose results count, or a new one. Raises LabError for another place."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    if given is None:
        path = RESULTS / f"{name}.jsonl"
        path.unlink(missing_ok=True)
        return path
    if given.resolve().parent != RESULTS:
        raise LabError(f"--journal: the lab can write only in {RESULTS}, so {given} can't be filled there", 2)
    return given.resolve()


def run(name: str, arguments: list[str], *, rows: list[str], kept: Path, paths: list[str]) -> Journal:
    """`tests/bench/NAME.py WORDS` in the lab until all that is `rows` is in the journal `kept`.

    `paths` are where lkvm may be, see `find_lkvm`. Raises LabError, with what was kept until then left in place.
    """
    if os.geteuid() != 0:
        raise LabError("--lab needs root: use sudo")
    lkvm = _lkvm(paths)
    argv = [str(ROOT / ".venv/bin/python"), f"tests/bench/{name}.py", *arguments, "--journal", str(kept)]
    path = f"PATH={os.path.dirname(lkvm)}:{plan.STANDARD_PATH}"
    job = client.Job(["env", path, "PYTHONPATH=.", *IN_MEMORY, *argv], cwd=str(ROOT))
    place = directory()

    def left() -> list[str]:
        done = Journal(kept).names()
        return [one for one in rows if one not in done]

    was_up = state.read(place).word != "down"
    try:
        retry.finish(lambda: _work(place, job, left), left, up=lambda: _up(place, lkvm), down=lambda: start.down(place))
    except PodError as error:
        raise LabError(str(error)) from None
    finally:
        if not was_up:
            start.down(place)
    return Journal(kept)


def _lkvm(paths: list[str]) -> str:
    try:
        result = find_lkvm(paths)
    except BuildFailed as error:
        raise LabError(str(error)) from None
    if not result:
        raise LabError(
            "there is no lkvm on PATH, in --path or $CLEARPOD_LAB_PATH, and the lab is for kvmtool; "
            "docs/dev/testing.md says how to get it"
        )
    return result


def _up(place: Path, lkvm: str) -> None:
    start.up(start.describe(place, {"memory_mib": MEMORY_MIB}, [os.path.dirname(lkvm)]))


def _work(place: Path, job: client.Job, left: Callable[[], list[str]]) -> int:
    """One go. A guest that the emulation broke fails a row, and no machine: that counts as a break too."""
    code = client.run(place, job)
    if code not in CODES or left():
        raise LabError(f"the benchmark ended with {code} before it had measured all")
    return code
