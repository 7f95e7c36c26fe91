# SPDX-License-Identifier: Apache-2.0
"""What a jail needs of this host, tried with the program `true`."""

import os
from pathlib import Path

import pytest

from stage1.linux import mount
from stage1.vm import needs


def test_where_pods_run_nothing_is_missing_and_the_trial_leaves_nothing(tmp_path: Path, jailer: str) -> None:
    assert needs.find(jailer).missing == "" and bool(needs.find(jailer).weaker) is not bool(needs.landlock())
    assert needs.trial(jailer, str(tmp_path)) == ""
    assert os.listdir(tmp_path) == []


def test_a_jailer_that_was_not_built_is_missing(tmp_path: Path) -> None:
    assert f"{tmp_path}/jailer" in needs.find(f"{tmp_path}/jailer").missing
    assert f"{tmp_path}/jailer" in needs.trial(f"{tmp_path}/jailer", str(tmp_path))


def test_a_run_directory_whose_owners_can_not_be_mapped_is_named(tmp_path: Path, jailer: str) -> None:
    for name in ("lower", "upper", "work", "run"):
        (tmp_path / name).mkdir()
    options = f"lowerdir={tmp_path}/lower,upperdir={tmp_path}/upper,workdir={tmp_path}/work"
    try:
        mount.mount("overlay", f"{tmp_path}/run", "overlay", 0, options)
    except OSError as error:
        pytest.skip(f"no overlay here: {error}")
    try:
        output = needs.trial(jailer, f"{tmp_path}/run")
        assert "idmapped mount" in output and f"{tmp_path}/run/check-" in output
        assert os.listdir(tmp_path / "run") == []
    finally:
        mount.umount(f"{tmp_path}/run", lazy=True)
