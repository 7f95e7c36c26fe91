# SPDX-License-Identifier: Apache-2.0
"""Disks and journals that pods of an earlier boot have left."""

import os
import time
from pathlib import Path

import pytest

from stage1.rootfs import orphans

LATER = time.time() + 3600


@pytest.fixture
def state(tmp_path: Path) -> Path:
    for place in orphans.PLACES:
        (tmp_path / place).mkdir()
    (tmp_path / "scratch/dead.img").touch()
    (tmp_path / "scratch/alive.img").touch()
    (tmp_path / "journals/dead/machine").mkdir(parents=True)
    return tmp_path


def left(state: Path) -> list[str]:
    return sorted(str(path.relative_to(state)) for place in orphans.PLACES for path in (state / place).iterdir())


def test_what_is_of_no_pod_and_older_than_the_boot_goes(state: Path) -> None:
    assert orphans.remove(str(state), is_known=lambda pod: pod == "alive", booted_s=LATER) == []
    assert left(state) == ["scratch/alive.img"]


def test_what_was_made_since_the_boot_stays_also_when_it_is_unknown(state: Path) -> None:
    assert orphans.remove(str(state), is_known=lambda _: False) == []
    assert left(state) == ["journals/dead", "scratch/alive.img", "scratch/dead.img"]


def test_where_nothing_was_kept_nothing_is_removed(tmp_path: Path) -> None:
    assert orphans.remove(str(tmp_path / "absent"), is_known=lambda _: False, booted_s=LATER) == []


def test_what_can_not_be_removed_is_reported(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str) -> None:
        raise PermissionError(1, os.strerror(1), path)

    monkeypatch.setattr(orphans.files, "remove_tree", refuse)
    output = orphans.remove(str(state), is_known=lambda pod: pod == "alive", booted_s=LATER)
    assert len(output) == 2 and "scratch/dead.img, left by a pod" in output[0]
