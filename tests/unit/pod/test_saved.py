# SPDX-License-Identifier: Apache-2.0
"""A saved guest that no pod of this host can be a copy of any more: the sentence names what has changed."""

import os
from pathlib import Path

import pytest

from stage1 import saved
from stage1.saved import Manifest
from stage1.vm import template_key
from stage1.vm.template_key import identity


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    """Of a guest that was saved here just now."""
    files = {}
    for name in ("kernel", "initramfs", "system", "hypervisor", "image"):
        (tmp_path / name).write_bytes(b"x")
        files[name] = identity(str(tmp_path / name))
    image = files.pop("image")
    made_of = {"format": template_key.FORMAT, **template_key.this_host(), **files}
    return Manifest(64, made_of, ((f"{tmp_path}/image", 0, 4096, image),), (), (), {})


def test_one_of_now_is_not_outdated(manifest: Manifest) -> None:
    assert saved.outdated(manifest) == ""


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ("cpu", "processor of the host"),
        ("host", "kernel of the host"),
        ("format", "format"),
        ("hypervisor", "VMM"),
        ("system", "system image"),
        ("kernel", "kernel"),
    ],
)
def test_what_has_changed_is_named(manifest: Manifest, part: str, name: str) -> None:
    changed = manifest._replace(made_of={**manifest.made_of, part: "another"})
    assert f"another {name} than" in saved.outdated(changed)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ((), ""),
        (("arguments",), "arguments"),
        (("arguments", "hypervisor"), "hypervisor"),  # which is the first of the arguments
        (("scratch", "kernel", "system"), "kernel"),
    ],
)
def test_what_was_replaced_is_named_before_what_the_pod_asks_for(changed: tuple[str, ...], named: str) -> None:
    was = dict.fromkeys(("format", "arguments", "scratch", "kernel", "system", "hypervisor"), "as it was")
    assert saved.difference(was, was | dict.fromkeys(changed, "another")) == named


def test_an_image_that_was_pulled_anew_is_named(manifest: Manifest, tmp_path: Path) -> None:
    (tmp_path / "new").write_bytes(b"x")
    os.rename(tmp_path / "new", tmp_path / "image")
    assert f"{tmp_path}/image" in saved.outdated(manifest)
    (tmp_path / "image").unlink()
    assert f"{tmp_path}/image" in saved.outdated(manifest)
