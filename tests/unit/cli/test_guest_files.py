# SPDX-License-Identifier: Apache-2.0
"""`clearpod check` of a guest's files: damaged ones are named, whatever the manifest is like."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cri.cli.check.facts import guest_problems

KERNEL = b"...Linux version 6.12.1-clearpod (someone@somewhere)..."


def digest(data: bytes) -> dict[str, Any]:
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


@pytest.fixture
def guest(tmp_path: Path) -> Path:
    (tmp_path / "sample").mkdir()
    files = {"vmlinux": KERNEL, "initramfs": b"init", "sample/index.json": b"{}"}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    known = {Path(name).parts[0]: digest(data) for name, data in files.items()}
    manifest = {"kernel_release": "6.12.1-clearpod", "files": known | {"stage1.aci": digest(b"packaged elsewhere")}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    return tmp_path


def test_a_guest_as_it_was_built_has_no_problem(guest: Path) -> None:
    assert guest_problems(str(guest)) == []


def kernel_of_another_release(guest: Path) -> None:
    data = KERNEL.replace(b"6.12.1", b"6.12.0")
    (guest / "vmlinux").write_bytes(data)
    manifest = json.loads((guest / "manifest.json").read_text())
    manifest["files"]["vmlinux"] = digest(data)
    (guest / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("harm", "noun"),
    [
        (lambda guest: (guest / "initramfs").write_bytes(b"Init"), "initramfs"),
        (lambda guest: (guest / "sample/index.json").write_bytes(b""), "index.json"),
        (kernel_of_another_release, "6.12.1-clearpod"),
        (lambda guest: (guest / "manifest.json").unlink(), "manifest.json"),
        *[
            (lambda guest, text=text: (guest / "manifest.json").write_text(text), "damaged")
            for text in (
                "",
                "[]",
                "{}",
                '{"files": 5}',
                '{"files": {"initramfs": 5}, "kernel_release": ""}',
                "[" * 9999,
            )
        ],
    ],
)
def test_what_is_wrong_is_one_sentence(guest: Path, harm: Callable[[Path], object], noun: str) -> None:
    harm(guest)
    (problem,) = guest_problems(str(guest))
    assert noun in problem
