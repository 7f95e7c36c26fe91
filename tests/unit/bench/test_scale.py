# SPDX-License-Identifier: Apache-2.0
"""The model of docs/admin/capacity.md, and that the document has the model's results for the committed report."""

import json
from typing import Any

import pytest

from tests.bench import scale
from tests.bench.lib import scale_model
from tests.bench.lib.scale_model import GIB, MIB, Cost, Machine

NOTHING = Cost(0, 0, 0, 0, 0, 0, 384, 0, 0)
HOST = Machine("test", 100, 4)


def ends(cost: Cost, resource: str, machine: Machine = HOST) -> int:
    """The number of pods with which it ends."""
    return next(need.ends_at for need in scale_model.needs(cost, machine, 1) if resource in need.resource)


@pytest.mark.parametrize(
    ("changes", "resource", "pods"),
    [
        ({"unique": 90 * MIB}, "memory of the guests", 1024),
        ({"page_tables": 9 * MIB}, "page tables", 10240),
        ({"descriptors": 2}, "descriptors", 262_144),
        ({"threads": 4}, "processes and threads", 1_048_576),
        ({"mounts": 5}, "fs.mount-max", 20_000),
        ({}, "ports of one bridge", 1023),
        ({}, "vsock", (1 << 32) - 3),
        ({}, "/dev/shm", 0),
    ],
)
def test_each_resource_ends_at_its_limit(changes: dict[str, float], resource: str, pods: int) -> None:
    assert ends(NOTHING._replace(**changes), resource) == pods


def test_mounts_take_memory_in_the_host_and_in_the_jail() -> None:
    cost = NOTHING._replace(mounts=4.0, mount_bytes=400.0)
    result = next(n for n in scale_model.needs(cost, HOST, 1000) if n.resource == "the kernel's memory for mounts")
    assert result.needed == pytest.approx((4 + scale_model.JAIL_MOUNTS) * 400 * 1000 / GIB)


def test_all_memory_together_ends_where_its_parts_fill_the_host() -> None:
    cost = Cost(8 * MIB, MIB, MIB / 2, 65536, 300_000, 4.0, 384.0, 1, 4)
    count = ends(cost, "all memory together")
    each = cost.unique + cost.page_tables + cost.daemon + cost.run_dir + cost.network
    each += (4 + scale_model.JAIL_MOUNTS) * 384
    assert each * count == pytest.approx(90 * GIB, rel=0.001)
    assert count < ends(cost, "memory of the guests")


def test_the_first_to_end_is_reported_first() -> None:
    cost = NOTHING._replace(unique=1000 * MIB)
    assert scale_model.needs(cost, HOST, 1)[0].ends_at == 92
    assert "ends first, at 92 pods" in scale_model.verdict(cost, HOST)


def test_a_report_without_the_row_is_refused() -> None:
    with pytest.raises(ValueError, match="idle pods"):
        scale_model.cost({"rows": [], "kernel": {}})


def report() -> dict[str, Any]:
    """The committed one."""
    result: dict[str, Any] = json.loads(scale.REPORT.read_text(encoding="utf-8"))
    return result


def test_the_document_has_the_figures_of_the_report() -> None:
    document = scale.DOCUMENT.read_text(encoding="utf-8")
    assert scale.BEGIN in document
    assert scale.replaced(document, report()) == document, "run scripts/bench scale --write"
