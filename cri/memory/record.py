# SPDX-License-Identifier: Apache-2.0
"""The former settings of KSM, in run_dir/ksm.json, so that the next daemon can restore them if this one is killed.

Written by `merger` before it sets anything, read by it at its start and by `clearpod ksm`. It dies with the boot, as
the settings do.
"""

import json
from typing import NamedTuple

from stage1.errors import PodError
from stage1.linux import files
from stage1.linux.ksm import Settings

VERSION = 1


class Record(NamedTuple):
    """`wrote` is what was last set or about to be, `previous` what was in force until then; `level` is for people."""

    before: Settings
    wrote: Settings
    previous: Settings
    level: str = ""
    daemon: int = 0

    def explains(self, now: Settings) -> bool:
        """Whether each value is one that we wrote or found; otherwise another program has changed them since."""
        return all(value in pair for value, pair in zip(now, zip(*self[:3], strict=True), strict=True))


def path(run_dir: str) -> str:
    """Return the path of the record."""
    return f"{run_dir}/ksm.json"


def write(where: str, record: Record) -> None:
    """Write the record, atomically. Raises KernelError, NoSpace."""
    fields = {key: value._asdict() if isinstance(value, Settings) else value for key, value in record._asdict().items()}
    files.write_atomic(where, json.dumps({"v": VERSION, **fields}).encode())


def read(where: str) -> Record | None:
    """None if there is none, or if it can't be parsed: then the previous settings are unknown."""
    try:
        document = json.loads(files.read(where))
        if document["v"] != VERSION:
            return None
        before, wrote, previous = (_settings(document[key]) for key in ("before", "wrote", "previous"))
        return Record(before, wrote, previous, level=str(document["level"]), daemon=int(document["daemon"]))
    except (PodError, OSError, ValueError, KeyError, TypeError):
        return None


def _settings(document: dict[str, int]) -> Settings:
    return Settings(*(int(document[name]) for name in Settings._fields))


def forget(where: str) -> None:
    """Remove the record of KSM's original settings. Idempotent."""
    files.unlink(where)
