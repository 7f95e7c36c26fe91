# SPDX-License-Identifier: Apache-2.0
"""Which files are a profile's, and the error when it was not built."""

from pathlib import Path

import pytest

from stage1.errors import NotFound
from stage1.vm import profiles


def test_the_ordinary_files_need_not_be_there(tmp_path: Path) -> None:
    assert profiles.file_names(str(tmp_path), "") == ("initramfs", "system.erofs")


def test_a_profile_that_was_built_has_two_files(tmp_path: Path) -> None:
    for name in ("initramfs-systemd", "system-systemd.erofs"):
        (tmp_path / name).touch()
    assert profiles.file_names(str(tmp_path), "systemd") == ("initramfs-systemd", "system-systemd.erofs")


@pytest.mark.parametrize(
    ("present", "lacks"),
    [
        ((), "no initramfs-systemd and no system-systemd.erofs"),
        (("initramfs-systemd", "system.erofs"), "no system-systemd.erofs"),
        (("system-systemd.erofs", "initramfs"), "no initramfs-systemd"),
    ],
)
def test_one_that_was_not_is_named_with_how_to_build_it(tmp_path: Path, present: tuple[str, ...], lacks: str) -> None:
    for name in present:
        (tmp_path / name).touch()
    with pytest.raises(NotFound, match=rf"profile systemd, .*{tmp_path} has {lacks}; .*`images/build systemd`"):
        profiles.file_names(str(tmp_path), "systemd")


@pytest.mark.parametrize(
    ("profile", "variant", "present", "system"),
    [
        ("", "mine", (), "system.erofs"),
        ("", "mine", ("system-mine.erofs",), "system-mine.erofs"),
        ("", "mine", ("system-stock.erofs",), "system.erofs"),
        ("", "", ("system-.erofs", "system-stock.erofs"), "system.erofs"),
        ("systemd", "stock", ("initramfs-systemd-stock", "system-systemd-stock.erofs"), "system-systemd-stock.erofs"),
        ("systemd", "mine", ("system-stock.erofs",), "system-systemd.erofs"),
    ],
)
def test_a_kernel_with_modules_has_system_images_of_its_own(
    tmp_path: Path, profile: str, variant: str, present: tuple[str, ...], system: str
) -> None:
    for name in ("initramfs-systemd", "system-systemd.erofs", *present):
        (tmp_path / name).touch()
    assert profiles.file_names(str(tmp_path), profile, variant=variant)[1] == system


def test_a_kernel_that_boots_with_modules_has_an_initramfs_of_its_own(tmp_path: Path) -> None:
    for name in ("initramfs", "initramfs-stock", "system.erofs", "system-stock.erofs", "system-mine.erofs"):
        (tmp_path / name).touch()
    assert profiles.file_names(str(tmp_path), "", variant="stock") == ("initramfs-stock", "system-stock.erofs")
    assert profiles.file_names(str(tmp_path), "", variant="mine") == ("initramfs", "system-mine.erofs")


@pytest.mark.parametrize("missing", ["initramfs-stock", "system-stock.erofs"])
def test_debians_kernel_is_refused_without_its_modules(tmp_path: Path, missing: str) -> None:
    for name in {"initramfs", "initramfs-stock", "system.erofs", "system-stock.erofs"} - {missing}:
        (tmp_path / name).touch()
    with pytest.raises(NotFound, match=rf"{missing}.*`clearpod images build stock`"):
        profiles.file_names(str(tmp_path), "", variant="stock")


@pytest.mark.parametrize(("variant", "remedy"), [("stock", "`clearpod images build stock`"), ("mine", "put it beside")])
def test_a_profile_without_the_modules_of_its_kernel_is_refused(tmp_path: Path, variant: str, remedy: str) -> None:
    for name in ("initramfs-systemd", "system-systemd.erofs", f"system-{variant}.erofs"):
        (tmp_path / name).touch()
    with pytest.raises(NotFound, match=rf"system-systemd-{variant}\.erofs.*{remedy}"):
        profiles.file_names(str(tmp_path), "systemd", variant=variant)
