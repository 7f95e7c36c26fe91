# SPDX-License-Identifier: Apache-2.0
"""urunc's file in an app's root, which names a kernel in it."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from stage1.errors import BadRequest
from stage1.pod import own_kernel
from stage1.rkt import loader, manifest
from stage1.rkt.arguments import RunOptions
from tests.unit.rkt.pod_dir import APP, UUID, Document, app, lay, root_of

OPTIONS = RunOptions(UUID)
URUNC = "com.urunc.unikernel."


@pytest.mark.parametrize(
    "labels, content, kernel",
    [
        ({}, {f"{URUNC}binary": "L2s="}, {f"{URUNC}binary": "/k"}),
        ({f"{URUNC}binary": "/label"}, {f"{URUNC}binary": "L2s="}, {f"{URUNC}binary": "/label"}),
        (
            {"io.clearpod.kernel.machine": "pc"},
            {f"{URUNC}binary": "L2s="},
            {"io.clearpod.kernel.machine": "pc", f"{URUNC}binary": "/k"},
        ),
        (
            {"io.clearpod.kernel.path": "/k"},
            ["odd"],
            {"io.clearpod.kernel.path": "/k", own_kernel.FAULT: "json"},
        ),
    ],
)
def test_uruncs_file_in_an_apps_root_names_its_kernel(
    tmp_path: Path, labels: Document, content: Any, kernel: Document
) -> None:
    place = lay(tmp_path, app(), image={"app": {**APP, "userLabels": labels}})
    (root_of(place) / manifest.KERNEL_FILE).write_text(json.dumps(content))
    entry = loader.read_pod(place, OPTIONS).own_kernel
    assert entry and dict(entry.kernel) == kernel


@pytest.mark.parametrize(
    "make",
    [
        lambda at: at.symlink_to(at.name),
        Path.mkdir,
        os.mkfifo,
        lambda at: at.write_text('["odd"]'),
        lambda at: at.write_text(json.dumps({f"{URUNC}binary": "L2s=", "pad": "x" * 9000})),
    ],
)
def test_an_invalid_file_of_uruncs_is_refused(tmp_path: Path, make: Any) -> None:
    place = lay(tmp_path, app())
    make(root_of(place) / manifest.KERNEL_FILE)
    with pytest.raises(BadRequest, match=manifest.KERNEL_FILE):
        loader.read_pod(place, OPTIONS)


def test_a_link_out_of_the_apps_root_in_place_of_uruncs_file_is_none(tmp_path: Path) -> None:
    place = lay(tmp_path, app())
    (root_of(place) / manifest.KERNEL_FILE).symlink_to("/no/such/file")
    assert loader.read_pod(place, OPTIONS).own_kernel is None


def test_the_names_of_kernels_are_those_of_the_module_that_reads_them() -> None:
    assert (own_kernel.OURS, own_kernel.URUNC) == manifest.KERNEL
    assert (own_kernel.FILE, own_kernel.MOST_FILE_BYTES) == (manifest.KERNEL_FILE, manifest.MOST_KERNEL_FILE_BYTES)
