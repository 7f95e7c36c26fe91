# SPDX-License-Identifier: Apache-2.0
"""urunc's file in an app's root, which names a kernel in it."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

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
        ({}, {f"{URUNC}binary": "L2s=", "pad": "x" * 9000}, None),
        ({}, ["odd"], None),
    ],
)
def test_uruncs_file_in_an_apps_root_names_its_kernel(
    tmp_path: Path, labels: Document, content: Any, kernel: Document | None
) -> None:
    place = lay(tmp_path, app(), image={"app": {**APP, "userLabels": labels}})
    (root_of(place) / manifest.KERNEL_FILE).write_text(json.dumps(content))
    entry = loader.read_pod(place, OPTIONS).own_kernel
    assert (dict(entry.kernel) if entry else None) == kernel


@pytest.mark.parametrize(
    "make", [lambda at: at.symlink_to("/etc/hostname"), lambda at: at.symlink_to(at.name), Path.mkdir, os.mkfifo]
)
def test_what_is_no_file_of_uruncs_is_not_read(tmp_path: Path, make: Any) -> None:
    place = lay(tmp_path, app())
    make(root_of(place) / manifest.KERNEL_FILE)
    assert loader.read_pod(place, OPTIONS).own_kernel is None


def test_the_names_of_kernels_are_those_of_the_module_that_reads_them() -> None:
    assert (own_kernel.OURS, own_kernel.URUNC) == manifest.KERNEL
    assert (own_kernel.FILE, own_kernel.MOST_FILE_BYTES) == (manifest.KERNEL_FILE, manifest.MOST_KERNEL_FILE_BYTES)
