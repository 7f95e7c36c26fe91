# SPDX-License-Identifier: Apache-2.0
"""Records of pool slots, which have room in their files: what is added counts once it is whole, the file stays the same
one, and whatever a kill or a power cut leaves of a line, the record before it is found.
"""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from stage1.errors import PodError
from stage1.net import record
from stage1.net.conflist import Network
from stage1.net.protocol import Call
from stage1.net.record import Attachment, Record

POD = "a" * 64
SLOT = Record("/run/netns/x", ("/opt",), 10.0, ())


def claimed(**runtime: object) -> Record:
    """What a claim begins with."""
    network = Network("n", "1.0.0", ({"type": "bridge"},), "n.conflist")
    return SLOT._replace(attachments=(Attachment(network, Call(POD, "", "eth0", (), dict(runtime))),))


def inodes(path: str) -> list[int]:
    return [os.stat(name).st_ino for name in (path, f"{path}.first~")]


@pytest.fixture
def slot(tmp_path: Path) -> str:
    """The record of a slot that nobody has claimed."""
    path = record.place(str(tmp_path), POD)
    record.reserve(path, SLOT)
    return path


def test_a_slots_files_stay_the_same_ones_until_its_pod_goes(slot: str) -> None:
    before, plan = inodes(slot), claimed()
    assert record.load(slot) == record.load_first(slot) == SLOT and len(set(before)) == 2
    record.begin(slot, plan)
    assert record.load(slot) == plan
    record.save(slot, plan._replace(failures=1))
    record.save(slot, plan._replace(failures=2))
    assert record.load(slot) == plan._replace(failures=2) and inodes(slot) == before
    os.unlink(slot)
    assert record.load_first(slot) == plan, "what was synced is what was known before the first plugin"
    record.forget(slot)
    assert os.listdir(os.path.dirname(slot)) == []


def test_a_claim_syncs_its_line_and_nothing_else(slot: str, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[tuple[str, int]] = []
    real = os.open

    def note(path: str, flags: int, *more: int, **options: int) -> int:
        opened.append((path, flags))
        return real(path, flags, *more, **options)

    monkeypatch.setattr(os, "open", note)
    monkeypatch.setattr(os, "fsync", lambda _: pytest.fail("a whole file is synced"))
    record.begin(slot, claimed())
    assert [path for path, flags in opened if flags & os.O_DSYNC] == [f"{slot}.first~"]
    assert not any(flags & os.O_CREAT for _, flags in opened)


CUTS: dict[str, Callable[[bytes], bytes]] = {
    "nothing of it": lambda line: bytes(len(line)),
    "its first half": lambda line: line[: len(line) // 2] + bytes(len(line) - len(line) // 2),
    "its last half": lambda line: bytes(len(line) // 2) + line[len(line) // 2 :],
    "all but a sector": lambda line: line[:100] + bytes(100) + line[200:],
    "all but its end": lambda line: line[:-1] + b"\0",
}


@pytest.mark.parametrize("cut", CUTS)
def test_the_line_before_a_truncated_one_counts(cut: str, slot: str) -> None:
    first = f"{slot}.first~"
    whole = Path(slot).read_bytes()
    record.begin(slot, claimed())
    for name in (slot, first):
        data = Path(name).read_bytes()
        begin = len(whole.rstrip(b"\0"))
        end = len(data.rstrip(b"\0"))
        Path(name).write_bytes(data[:begin] + CUTS[cut](data[begin:end]) + data[end:])
    assert record.load(slot) == record.load_first(slot) == SLOT
    record.save(slot, claimed()._replace(failures=3))
    assert record.load(slot) == claimed()._replace(failures=3)


def test_what_has_no_space_any_more_replaces_the_file(slot: str) -> None:
    before, large = inodes(slot), claimed(ports=["x" * 1000] * 10)
    record.begin(slot, large)
    for failures in range(5):
        record.save(slot, large._replace(failures=failures))
        assert record.load(slot) == large._replace(failures=failures)
    path, first = inodes(slot)
    assert path != before[0] and first == before[1] and record.load_first(slot) is not None
    larger = claimed(ports=["x" * 1000] * 50)
    record.begin(slot, larger)
    assert record.load(slot) == larger and len(set(inodes(slot))) == 1, "as for a pod that had no slot"
    os.unlink(slot)
    assert record.load_first(slot) == larger


def test_a_file_that_another_name_shares_is_replaced_and_not_changed(slot: str) -> None:
    os.link(slot, f"{slot}.kept")
    kept = Path(slot).read_bytes()
    record.save(slot, claimed())
    assert record.load(slot) == claimed() and Path(f"{slot}.kept").read_bytes() == kept


def test_a_record_without_a_readable_line_is_damaged(slot: str) -> None:
    Path(slot).write_bytes(b'{"v": 1}\nnonsense\n' + bytes(500))
    with pytest.raises(PodError, match=slot):
        record.load(slot)
    assert record.load_first(slot) == SLOT
