# SPDX-License-Identifier: Apache-2.0
"""The tests that need kvmtool, run in the lab to their end, also when the emulated machine breaks under them.

Called by `scripts/lab test`. A test that passed is in a journal outside (tests/conftest.py writes it), so a new machine
(`again`) goes on with the others; one that fails is a failure in any case.
"""

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.lab import client, retry
from tests.lab.state import LabError

IN_MEMORY = ("PYTHONDONTWRITEBYTECODE=1", "HYPOTHESIS_STORAGE_DIRECTORY=/tmp/hypothesis")
"""For what runs in there, where the checkout is read-only. Modules are compiled outside (start.py)."""


class Suite:
    """One run. `pytest` is its command line without the tests, `tests` are paths, `path` is PATH inside.

    Raises LabError when `tests` select nothing.
    """

    def __init__(self, root: Path, pytest: list[str], *, tests: list[str], path: str) -> None:
        self._root, self._pytest, self._path = root, pytest, path
        self._expected = self._discover(tests)
        if not self._expected:
            raise LabError(f"no test of {' '.join(tests)} was selected; see above")
        results = root / "build" / "results"
        results.mkdir(parents=True, exist_ok=True)
        self._journal = results / f"lab-passed.{os.getpid()}"
        self._listing = results / f"lab-tests.{os.getpid()}"

    def run(self, directory: Path, *, up: Callable[[], object], down: Callable[[], object]) -> int:
        """Pytest's exit code. Raises LabError when the machine breaks too often, and when no test ran to its end."""
        with self._files():
            code = retry.finish(lambda: self._run_left(directory), self._left, up=up, down=down)
            if code == 0 and not self._done("passed"):
                raise LabError(f"none of the {len(self._expected)} tests ran: all were skipped, for the reasons above")
            return code

    def _discover(self, tests: list[str]) -> list[str]:
        """Outside it is quick, says when nothing is selected, and leaves compiled tests for the slow machine."""
        argv = [*self._pytest, *tests, "--collect-only", "--verbosity=-1"]  # also if told -v
        env = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}
        done = subprocess.run(argv, cwd=self._root, env=env, check=False, stdout=subprocess.PIPE, text=True)
        lines = done.stdout.splitlines()
        print("\n".join(lines[-1:]))
        return [line for line in lines if line.startswith("tests/") and "::" in line]

    def _done(self, *outcomes: str) -> set[str]:
        lines = (line.partition(" ") for line in self._journal.read_text().splitlines())
        return {test for outcome, _, test in lines if outcome in outcomes}

    def _left(self) -> list[str]:
        done = self._done("passed", "skipped")
        return [test for test in self._expected if test not in done]

    def _run_left(self, directory: Path) -> int:
        self._listing.write_text("\n".join(self._left()) + "\n")
        env = [f"PATH={self._path}", f"CLEARPOD_PASSED={self._journal}", *IN_MEMORY]
        argv = ["env", *env, *self._pytest, f"@{self._listing}"]
        return client.run(directory, client.Job(argv, cwd=str(self._root)))

    @contextmanager
    def _files(self) -> Iterator[None]:
        self._journal.write_text("")
        try:
            yield
        finally:
            self._journal.unlink()
            self._listing.unlink(missing_ok=True)
