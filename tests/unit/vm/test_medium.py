# SPDX-License-Identifier: Apache-2.0
"""The medium of a disk for images: what is joined, and what QEMU is asked, whose answers may be anybody's."""

from typing import Any

import pytest

from stage1.errors import VmFailed
from stage1.vm import medium
from stage1.vm.medium import Extent

DISK = 1 << 20
ROWS = [
    ((), [f"RW {DISK // 512} FLAT 7"]),
    ((Extent(0, 4096, 3),), ["RW 8 FLAT 3", f"RW {DISK // 512 - 8} FLAT 7"]),
    ((Extent(8192, 4096, 3), Extent(4096, 4096, 9)), ["RW 8 FLAT 7", "RW 8 FLAT 9", "RW 8 FLAT 3", "RW 2024 FLAT 7"]),
    ((Extent(DISK - 4096, 4096, 3),), ["RW 2040 FLAT 7", "RW 8 FLAT 3"]),
]


@pytest.mark.parametrize(("extents", "expected"), ROWS)
def test_what_lies_on_the_disk_is_joined_with_zeros(extents: tuple[Extent, ...], expected: list[str]) -> None:
    text = medium.described(extents, fill=7, disk_bytes=DISK)
    lines = [line for line in text.splitlines() if line.startswith("RW")]
    assert lines == [f'{" ".join(line.split()[:3])} "/dev/fdset/{line.split()[3]}" 0' for line in expected]
    assert sum(int(line.split()[1]) for line in lines) * 512 == DISK


@pytest.mark.parametrize(
    "extents",
    [
        (Extent(0, 8192, 3), Extent(4096, 4096, 4)),
        (Extent(DISK - 512, 1024, 3),),
        (Extent(100, 512, 3),),
        (Extent(0, 0, 3),),
        (Extent(0, 700, 3),),
    ],
)
def test_what_can_not_be_on_it_is_refused(extents: tuple[Extent, ...]) -> None:
    with pytest.raises(VmFailed, match="disk"):
        medium.described(extents, fill=7, disk_bytes=DISK)


class Qemu:
    """Has sets of descriptors, and keeps what else it is asked."""

    def __init__(self, sets: Any, *, drive: str = "window-a") -> None:
        self.sets, self.asked, self._drive = sets, [], drive

    def run(self, name: str, arguments: dict[str, Any] | None = None, *, descriptor: int = -1) -> Any:
        """As `Monitor.run`."""
        if name == "query-fdsets":
            return self.sets
        if name == "qom-get":
            return self._drive
        self.asked.append((name, arguments or {}))
        return {}

    def add_file(self, descriptor: int, word: str) -> int:
        """As `Monitor.add_file`."""
        self.sets.append({"fdset-id": 40 + len(self.sets), "fds": [{"fd": 9, "opaque": word}]})
        return 39 + len(self.sets)


def test_only_what_lies_in_the_range_is_taken_away() -> None:
    names = ("0 4096", "8192 4096", "12288 4096", "zeros", "guest")
    qemu = Qemu([{"fdset-id": number, "fds": [{"fd": 5, "opaque": word}]} for number, word in enumerate(names)])
    medium.remove(qemu, 8192, size=4096, disk_bytes=DISK)  # type: ignore[arg-type]
    assert [arguments["fdset-id"] for name, arguments in qemu.asked if name == "remove-fd"] == [45, 1]
    assert [arguments["value"] for name, arguments in qemu.asked if name == "qom-set"] == ["window-b"]
    qemu.asked.clear()
    medium.remove(qemu, 1 << 19, size=4096, disk_bytes=DISK)  # type: ignore[arg-type]
    assert qemu.asked == []


@pytest.mark.parametrize(("drive", "expected"), [("empty", []), ("window-a", ["empty"])])
def test_a_medium_is_taken_out_once(drive: str, expected: list[str]) -> None:
    """QEMU aborts when it is told to put in the one that is there."""
    qemu = Qemu([], drive=drive)
    medium.take_out(qemu)  # type: ignore[arg-type]
    assert [arguments["value"] for name, arguments in qemu.asked if name == "qom-set"] == expected


NUMBERS: list[Any] = ["x", "7", 1.5, float("inf"), True, -1, 1 << 64, None, [], {}]


@pytest.mark.parametrize(
    "sets",
    [{"a": 1}, [{"fds": [{}]}], [7], None, [{"fds": 3}], *([{"fdset-id": one, "fds": [{}]}] for one in NUMBERS)],
)
def test_descriptors_that_are_none_are_a_failure(sets: Any) -> None:
    with pytest.raises(VmFailed, match="descriptor"):
        medium.remove(Qemu(sets), 0, size=4096, disk_bytes=DISK)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "word", ["² 4096", "0 ٤", "0 " + "9" * 5000, "9" * 40 + " " + "9" * 40, "0", " ", "-1 4096", "0 4096 0"]
)
def test_numbers_that_name_no_place_are_those_of_something_else(word: str) -> None:
    qemu = Qemu([{"fdset-id": 3, "fds": [{"fd": 5, "opaque": word}]}])
    medium.remove(qemu, 0, size=4096, disk_bytes=DISK)  # type: ignore[arg-type]
    assert qemu.asked == []
