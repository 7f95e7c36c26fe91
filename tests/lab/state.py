# SPDX-License-Identifier: Apache-2.0
"""The state directory of a lab (build/lab), seen from outside: whether there is a lab, whether it is ready, its output.

Used by the commands. Facts come from the keeper's lock, never from a file alone.
"""

import fcntl
import json
from pathlib import Path
from typing import Any, NamedTuple

from stage1.linux import files
from tests.lab import keeper, plan

READY = "ready"
TAIL_LINES = 15


class LabError(Exception):
    """One sentence: what is wrong, what to do. `code` is the exit code of the command."""

    def __init__(self, text: str, code: int = 1) -> None:
        super().__init__(text)
        self.code = code


class State(NamedTuple):
    """`record` is the keeper's, empty when there is no lab."""

    directory: Path
    record: dict[str, Any]
    ready: bool

    @property
    def word(self) -> str:
        """down, starting or up."""
        return "down" if not self.record else "up" if self.ready else "starting"


def read(directory: Path) -> State:
    """The state of the lab in `directory`, which may be absent."""
    record = _record(directory / keeper.RECORD)
    return State(directory, record, bool(record) and _ready_of(directory) == str(record["pid"]))


def _record(path: Path) -> dict[str, Any]:
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return {}
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            text = file.read().strip()
            return json.loads(text) if text else {"pid": 0, "started": 0, "children": {}}
    return {}


def _ready_of(directory: Path) -> str:
    try:
        return (directory / READY).read_text()
    except FileNotFoundError:
        return ""


def mark_ready(state: State) -> None:
    """Write down that this very lab answers."""
    files.write_atomic(str(state.directory / READY), str(state.record["pid"]).encode())


def evidence(directory: Path) -> str:
    """The last output of the keeper and the console."""
    parts = []
    for name in ("keeper.log", plan.CONSOLE):
        path = directory / name
        if not path.exists():
            continue
        with path.open("rb") as file:
            text = files.tail(file.fileno(), TAIL_LINES).strip()
        if text:
            parts.append(f"--- the end of {path}\n{text}")
    return "\n".join(parts)
