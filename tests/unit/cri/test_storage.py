# SPDX-License-Identifier: Apache-2.0
"""How much pods may write together, errors of SQLite about its disk, and the sizes of disks."""

import contextlib
import sqlite3
from pathlib import Path

import pytest

from cri.config import parse
from cri.pb import runtime_pb2 as pb
from cri.storage.disk import Storage, measure
from cri.storage.space import Layers, Space, require_space
from cri.store.disk_errors import explained
from cri.translate import sandbox
from stage1.engine import Host
from stage1.errors import BadRequest, DiskFailed, NoSpace, PodError
from stage1.pod.model import Pod
from stage1.vm import qemu
from stage1.vm.choose import Choice
from tests.fakes.small_disk import small_disk

MIB = 1 << 20


@pytest.mark.parametrize(
    ("overcommit", "free", "used", "promised", "needed", "fits"),
    [
        (1, 100, 0, 0, 100, True),
        (1, 100, 0, 0, 101, False),
        (1, 100, 0, 60, 40, True),
        (1, 100, 0, 60, 41, False),
        (1, 40, 60, 60, 40, True),  # what is written already was promised before
        (1, 40, 60, 60, 41, False),
        (1, 0, 0, 0, 16, False),
        (2.5, 100, 0, 200, 50, True),
        (2.5, 100, 0, 200, 51, False),
        (0.5, 100, 0, 0, 50, True),
        (0.5, 100, 0, 0, 51, False),
        (1, 100, 0, 0, 0, True),
    ],
)
def test_pods_are_promised_no_more_than_is_allowed(
    overcommit: float, free: int, used: int, promised: int, needed: int, fits: bool
) -> None:
    space = Space(free * MIB, Layers(used * MIB))
    expected = (
        contextlib.nullcontext() if fits else pytest.raises(NoSpace, match=rf"{needed} MiB .*storage\.overcommit")
    )
    with expected:
        require_space(space, promised=promised * MIB, needed=needed * MIB, overcommit=overcommit)


@pytest.mark.parametrize(("needed", "fits"), [(0, True), (5, True), (7, False), (1 << 20, False)])
def test_a_file_leaves_what_is_kept_for_pods(tmp_path: Path, needed: int, fits: bool) -> None:
    """Of a disk of 8 MiB a sixteenth."""
    storage = Storage(parse(f'state_dir = "{tmp_path}"'), Host("", "", "", Choice(qemu.HYPERVISOR, "tcg", "", "", ())))
    with small_disk(tmp_path / "image", tmp_path / "disk", mib=8):
        expected = contextlib.nullcontext() if fits else pytest.raises(NoSpace, match=r"storage\.keep_free_mib")
        with expected:
            storage.require_free(str(tmp_path / "disk"), needed * MIB, what="a guest")


def test_a_pod_counts_with_its_disk_and_one_on_the_host_with_none(tmp_path: Path) -> None:
    config = parse(f'state_dir = "{tmp_path}"\n[storage]\novercommit = 1')
    host = Host(str(tmp_path), "/g", str(tmp_path), Choice(qemu.HYPERVISOR, "tcg", "/bin/true", "", ()), scratch_mib=64)
    storage, pod = Storage(config, host), Pod("1" * 64, "web")
    assert storage.is_bound
    sizes = [storage.size_of(one) for one in (pod, pod._replace(scratch_mib=16), pod._replace(host=("network",)))]
    assert sizes == [64 * MIB, 16 * MIB, 0]
    storage.require_space_for(pod, Space(128 * MIB, Layers()), others=[pod])
    with pytest.raises(NoSpace):
        storage.require_space_for(pod, Space(127 * MIB, Layers()), others=[pod])


def test_the_disks_of_pods_are_counted_by_what_they_take_and_by_what_they_may_grow_to(tmp_path: Path) -> None:
    assert measure(str(tmp_path)).layers == Layers()
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with (scratch / "a.img").open("wb") as file:
        file.truncate(8 * MIB)
        file.write(b"x" * MIB)
    (scratch / "directory-of-a-pod-on-the-host").mkdir()
    layers = measure(str(tmp_path)).layers
    assert (layers.size_bytes, layers.inodes) == (8 * MIB, 2)
    assert MIB <= layers.used_bytes < 2 * MIB


def _asked(text: str, **argv: str) -> Pod:
    names = pb.PodSandboxMetadata(name="web", namespace="default")
    expected = pb.PodSandboxConfig(metadata=names, annotations=argv)
    return sandbox.record(pb.RunPodSandboxRequest(config=expected), parse(text), handlers=("",)).pod


@pytest.mark.parametrize(
    ("asked", "given"),
    [
        *(("16", 16), ("17", 16), ("24", 24), ("31", 24), ("32", 32), ("100", 96), ("127", 96), ("128", 128)),
        *(("500", 0), ("", 0), ("0", 0)),
    ],
)
def test_a_pod_may_have_a_smaller_disk_of_one_of_few_sizes(asked: str, given: int) -> None:
    pod = _asked("[vm]\nscratch_mib = 500", **{"clearpod.io/scratch-mib": asked})
    assert pod.scratch_mib == given


@pytest.mark.parametrize(
    ("text", "asked", "output"),
    [
        ("", "15", "at least 16"),
        ("", "-1", "whole number"),
        ("", "99999999", "whole number"),
        ("[vm]\nscratch_mib = 100", "101", "policy.max_scratch_mib"),
        ("[policy]\nmax_scratch_mib = 20000", "20001", "at most 20000"),
        ('[policy]\nannotations = ["clearpod.io/vcpus"]', "64", "policy.annotations"),
    ],
)
def test_a_disk_that_is_not_allowed_is_refused(text: str, asked: str, output: str) -> None:
    with pytest.raises(BadRequest, match=output):
        _asked(text, **{"clearpod.io/scratch-mib": asked})


def test_the_policy_allows_a_larger_one() -> None:
    assert _asked("[policy]\nmax_scratch_mib = 20480", **{"clearpod.io/scratch-mib": "20480"}).scratch_mib == 16384


def _sqlite(name: str) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError(name)
    error.sqlite_errorname = name
    return error


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("SQLITE_FULL", NoSpace),
        ("SQLITE_IOERR_SHMSIZE", DiskFailed),
        ("SQLITE_READONLY", DiskFailed),
        ("SQLITE_READONLY_DIRECTORY", DiskFailed),
        ("SQLITE_CANTOPEN", DiskFailed),
        ("SQLITE_CORRUPT", PodError),
    ],
)
def test_errors_of_sqlite_about_its_disk(name: str, kind: type[PodError], tmp_path: Path) -> None:
    assert type(explained(f"{tmp_path}/images.db", _sqlite(name))) is kind


def test_an_io_error_of_sqlite_on_a_full_disk_is_a_full_disk(tmp_path: Path) -> None:
    with small_disk(tmp_path / "image", tmp_path / "disk", mib=8) as disk:
        disk.fill()
        assert type(explained(f"{disk.place}/images.db", _sqlite("SQLITE_IOERR_SHMSIZE"))) is NoSpace
