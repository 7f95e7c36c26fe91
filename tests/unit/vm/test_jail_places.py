# SPDX-License-Identifier: Apache-2.0
"""Which places of the host a jail has mounts of."""

import os
from pathlib import Path
from unittest.mock import ANY

from stage1.vm.jail import Place, outermost


def test_places_in_others_and_links_at_the_top_are_no_mounts_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    deep, top = Place(f"{tmp_path}/a/b"), Place(f"{tmp_path}/a")
    assert outermost([deep, top, deep]) == [top]
    writable = deep._replace(writable=True)
    assert outermost([writable, top]) == [top, writable]
    assert outermost([deep, top._replace(writable=True)]) == [top._replace(writable=True)]
    assert outermost([deep._replace(mapped=True), top]) == [top, deep._replace(mapped=True)]
    assert outermost([Place(f"{tmp_path}/absent")]) == []
    assert outermost([Place("/bin/sh"), Place("/usr")]) == ([Place("/usr")] if os.path.islink("/bin") else ANY)
