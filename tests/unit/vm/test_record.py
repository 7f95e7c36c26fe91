# SPDX-License-Identifier: Apache-2.0
"""vm.json: what is written is read again, by old and new, and what is damaged is no record."""

import json
from pathlib import Path

import pytest

from stage1.errors import VmFailed
from stage1.linux.idmap import Extent
from stage1.vm import record
from stage1.vm.record import Record
from stage1.vm.vmm import VmProcess

VMM = VmProcess(4711, 99, "/run/pod/console.log")
OF_VMM = {"v": 1, **VMM.to_json()}


@pytest.mark.parametrize(
    "one",
    [
        Record(VMM),
        Record(VMM._replace(server=(4712, 100))),
        Record(VMM, (Extent(0, 1879048192, 65536), Extent(70000, 1, 2)), memory_bytes=1 << 30, cid=77),
    ],
)
def test_a_record_comes_back(tmp_path: Path, one: Record) -> None:
    assert record.read(str(tmp_path)) is None
    record.write(str(tmp_path), one)
    assert record.read(str(tmp_path)) == one
    assert ("cid" in json.loads((tmp_path / record.FILE).read_text())) is bool(one.cid)


def test_one_of_an_earlier_version_has_no_ids_and_no_limit(tmp_path: Path) -> None:
    (tmp_path / record.FILE).write_text(json.dumps(OF_VMM))
    assert record.read(str(tmp_path)) == Record(VMM)


@pytest.mark.parametrize(
    "change",
    [
        *({"cid": cid} for cid in (0, 2, -1, 2**32, "7", None)),
        *({"ids": ids} for ids in (7, [7], [[1, 2]], [[1, 2, 3, 4]], [["a", 1, 2]], [[0, -1, 1]], [[0, 0, 2**32]])),
        *({"memory_bytes": size} for size in (-1, "1", None)),
        *({"pid": pid} for pid in (1, -1, 2**31, "2")),
    ],
    ids=str,
)
def test_a_damaged_one_is_refused_by_its_file(tmp_path: Path, change: dict[str, object]) -> None:
    (tmp_path / record.FILE).write_text(json.dumps(OF_VMM | change))
    with pytest.raises(VmFailed, match="damaged"):
        record.read(str(tmp_path))
