# SPDX-License-Identifier: Apache-2.0
"""A directory that looks like /sys/kernel/mm/ksm, for tests that must not touch the host's, and a kernel's thread for
simulations.
"""

from pathlib import Path
from typing import NamedTuple

from stage1.linux.ksm import RUN, Counters, Settings

FILES = {
    "run": 0,
    "pages_to_scan": 100,
    "sleep_millisecs": 20,
    "use_zero_pages": 0,
    "pages_shared": 0,
    "pages_sharing": 0,
    "pages_unshared": 0,
    "pages_volatile": 0,
    "full_scans": 0,
    "ksm_zero_pages": 0,
    "pages_scanned": 0,
    "general_profit": 0,
}


class FakeKsm:
    """The files; `without` leaves some out, as an older kernel does."""

    def __init__(self, path: Path, *, without: tuple[str, ...] = (), **values: int) -> None:
        self.path = path
        path.mkdir()
        for name, value in (FILES | values).items():
            if name not in without:
                self.set(name, value)
        self.say("advisor_mode", "[none] scan-time")

    def set(self, name: str, value: int) -> None:
        """As another program, or the kernel, would."""
        self.say(name, str(value))

    def say(self, name: str, text: str) -> None:
        """The file's whole text."""
        (self.path / name).write_text(f"{text}\n", encoding="ascii")

    def settings(self) -> dict[str, int]:
        """What is in force."""
        return {name: int((self.path / name).read_text()) for name in Settings._fields if (self.path / name).exists()}


class Thread(NamedTuple):
    """ksmd in front of `total` pages, of which `equal` can be merged, each at its second pass. `progress` is what it
    has done of a pass that began before these pages were there.
    """

    total: int
    equal: int
    us_per_page: float = 2.0
    counters: Counters = Counters(ksm_zero_pages=0, pages_scanned=0)
    used_s: float = 0.0
    progress: float = 0.0

    def after(self, settings: Settings, seconds: float) -> "Thread":
        """What it has done then."""
        if settings.run != RUN:
            return self
        round_s = settings.sleep_millisecs / 1000 + settings.pages_to_scan * self.us_per_page / 1e6
        pages = settings.pages_to_scan / round_s * seconds
        progress = self.progress + pages / self.total
        result = min(max(progress - 2, 0), 1) * self.equal
        before = self.counters
        counters = before._replace(
            pages_sharing=int(result), full_scans=int(progress), pages_scanned=before.pages_scanned + int(pages)
        )
        return self._replace(counters=counters, used_s=self.used_s + pages * self.us_per_page / 1e6, progress=progress)
