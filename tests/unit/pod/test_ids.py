# SPDX-License-Identifier: Apache-2.0
"""Which host ids stand for the users of a guest, and for those of a pod with a user namespace."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stage1.errors import Unsupported
from stage1.linux.idmap import Extent, outside
from stage1.pod.ids import GUEST_IDS, POD_IDS, SHARED, extents, shifted
from stage1.pod.model import IdMap

HOST = 0x70000000
END = 1 << 31


def shared(begin: int, end: int) -> Extent:
    return Extent(begin, SHARED + begin - GUEST_IDS, end - begin)


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (IdMap(), (shared(65536, END),)),
        (IdMap(65536, 65536), (Extent(65536, HOST + 65536, 65536), shared(131072, END))),
        (IdMap(200000, 65536), (Extent(200000, HOST + 65536, 65536), shared(65536, 200000), shared(265536, END))),
        (IdMap(1000, 100000), (Extent(65536, HOST + 65536, 35464), shared(101000, END))),
        (IdMap(1, 65535), (shared(65536, END),)),
        (IdMap(END - 100, 200), (Extent(END - 100, HOST + 65536, 200), shared(65536, END - 100))),
        (IdMap(4294901758, 65536), (Extent(4294901758, HOST + 65536, 65536), shared(65536, END))),
    ],
)
def test_the_guests_ids_come_first_and_then_those_of_its_user_namespace_and_those_that_all_share(
    ids: IdMap, expected: tuple[Extent, ...]
) -> None:
    assert extents(HOST, ids) == (Extent(0, HOST, 65536), *expected)


@pytest.mark.parametrize("ids", [IdMap(65536, 65537), IdMap(1000, 200000)])
def test_more_than_a_slot_has_is_refused(ids: IdMap) -> None:
    with pytest.raises(Unsupported, match=f"at most {GUEST_IDS}"):
        extents(HOST, ids)


def test_a_shifted_volume_has_the_containers_ids_on_its_disk_and_the_vmms_own_for_a_moment() -> None:
    ids = IdMap(1000, 100000)
    assert shifted(ids, extents(HOST, ids)) == (
        Extent(0, HOST + 1000, 64536),
        Extent(64536, HOST + 65536, 35464),
        Extent(HOST, HOST, 1),
    )


@given(st.integers(1, 1 << 31), st.integers(1, GUEST_IDS))
def test_each_id_has_one_place_and_all_are_in_the_slot(first: int, length: int) -> None:
    ids = IdMap(first, length)
    maps, disk = extents(HOST, ids), shifted(ids, extents(HOST, ids))
    for inside in (0, GUEST_IDS - 1, first, first + length // 2, first + length - 1):
        assert HOST <= outside(maps, inside) < HOST + POD_IDS
    for number in (0, length // 2, length - 1):
        assert outside(disk, number) == outside(maps, first + number)
    assert sum(one.length for one in disk) == length + 1
    for beyond in (max(first + length, GUEST_IDS), END - 1, END, (1 << 32) - 1):
        if first <= beyond < first + length:
            continue
        if beyond >= END:
            with pytest.raises(ValueError, match="is not mapped"):
                outside(maps, beyond)
        else:
            assert SHARED <= outside(maps, beyond) < (1 << 32) - 1
    ends = sorted((one.outside, one.outside + one.length) for one in maps)
    assert all(one[1] <= other[0] for one, other in pairwise(ends))
