# SPDX-License-Identifier: Apache-2.0
"""Results of a long benchmark, kept as they come: a run that ends early goes on with what is missing.

A file of JSON lines, written by density.py and read by `in_lab`. Without a path nothing is kept.
"""

import json
import os
from pathlib import Path
from typing import Any


class Journal:
    """`path` may be absent: then nothing has been done yet."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._done: dict[str, Any] = {}
        if path is not None and path.exists():
            self._done = dict(json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())

    def find(self, name: str) -> Any:
        """The result of that name; None when there is none yet."""
        return self._done.get(name)

    def add(self, name: str, result: Any) -> None:
        """Keep it, on the disk before this returns. Raises OSError."""
        self._done[name] = result
        if self._path is None:
            return
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps([name, result]) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def names(self) -> set[str]:
        """Of all that is there."""
        return set(self._done)
