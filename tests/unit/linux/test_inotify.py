# SPDX-License-Identifier: Apache-2.0
"""Watches report that a link was switched or a file written, and nothing once they are removed."""

import select
from collections.abc import Iterator
from pathlib import Path

import pytest

from stage1.linux.inotify import Watches
from stage1.linux.libc import Missing


@pytest.fixture
def watches() -> Iterator[Watches]:
    made = Watches()
    yield made
    made.close()
    made.close()


def test_a_switched_link_and_a_written_file_are_reported(watches: Watches, tmp_path: Path) -> None:
    number, file = watches.add(str(tmp_path)), tmp_path / "hosts"
    assert watches.changed() == set()
    (tmp_path / "new").symlink_to("v1")
    (tmp_path / "new").rename(tmp_path / "..data")
    assert select.select([watches.fd], [], [], 10)[0]
    assert watches.changed() == {number}
    file.touch()
    watches.changed()
    of_file = watches.add(str(file))
    file.write_text("more")
    assert watches.changed() == {number, of_file}
    watches.remove(number)
    watches.remove(number)
    watches.changed()
    (tmp_path / "other").write_text("x")
    assert watches.changed() == set()


def test_what_is_not_there_can_not_be_watched(watches: Watches, tmp_path: Path) -> None:
    with pytest.raises(Missing):
        watches.add(str(tmp_path / "nothing"))
