# SPDX-License-Identifier: Apache-2.0
"""A plugin's wishes in a container's record, without a daemon. Refusals: tests/cri/test_nri_adjust.py."""

from pathlib import Path

import pytest

from cri.nri.adjust import adjusted
from cri.nri.amounts import Claims
from cri.pb import nri_pb2 as nri
from cri.pb import runtime_pb2 as pb
from cri.store.pods import ContainerRecord, PodRecord
from stage1.errors import BadRequest, PodError
from stage1.pod.model import Container, Limits, Mount, Pod, Process

POD = PodRecord(Pod("a" * 64, "web"), b"", "", 1)
HOST = PodRecord(Pod("a" * 64, "web", host=("network",)), b"", "", 1)


def record(*places: str, added: tuple[str, ...] = (), volumes: tuple[str, ...] = ()) -> ContainerRecord:
    """A container with mounts that the request asks for at `places`, and others that CDI has added."""
    config = pb.ContainerConfig(mounts=[pb.Mount(container_path=place, host_path="/old") for place in places])
    mounts = tuple(Mount("/old", place) for place in (*places, *added))
    own = Container("b" * 64, "c", "sha256:x", Process(("sh",), ("A=b",)), mounts=mounts, volumes=volumes)
    return ContainerRecord(own, config.SerializeToString(), 0, 1, "sha256:x", "")


def apply(old: ContainerRecord, wish: nri.ContainerAdjustment, pod: PodRecord = POD) -> ContainerRecord:
    claims: Claims = {}
    return adjusted(old, wish, title="00-x", claims=claims, pod=pod)


def mounts(*places: str, source: str = "/tmp") -> nri.ContainerAdjustment:
    return nri.ContainerAdjustment(mounts=[nri.Mount(destination=place, source=source) for place in places])


MOUNTS = [
    (("/new",), ("/a", "/b", "/added", "/new"), ("/a", "/b")),
    (("/a",), ("/b", "/added", "/a"), ("/b",)),
    (("-/a",), ("/b", "/added"), ("/b",)),
    (("-/a/../b",), ("/a", "/added"), ("/a",)),
    (("-/added",), ("/a", "/b"), ("/a", "/b")),
    (("-/added", "/added"), ("/a", "/b", "/added"), ("/a", "/b")),
    (("-/unknown",), ("/a", "/b", "/added"), ("/a", "/b")),
]


@pytest.mark.parametrize(("expected", "made", "echoed"), MOUNTS)
def test_mounts_are_added_replaced_and_removed_and_the_status_keeps_their_order(
    expected: tuple[str, ...], made: tuple[str, ...], echoed: tuple[str, ...]
) -> None:
    new = apply(record("/a", "/b", added=("/added",)), mounts(*expected))
    assert tuple(one.target for one in new.container.mounts) == made
    assert tuple(one.container_path for one in pb.ContainerConfig.FromString(new.config).mounts) == echoed


def test_a_mount_takes_the_place_of_a_volume_of_the_image() -> None:
    assert apply(record(volumes=("/data", "/more")), mounts("/data")).container.volumes == ("/more",)


def test_nothing_asked_changes_nothing() -> None:
    old = record("/a")
    empty = nri.ContainerAdjustment()
    empty.linux.resources.memory.SetInParent()
    assert apply(old, empty) == old


def test_what_is_refused_leaves_no_part_and_names_the_plugin(tmp_path: Path) -> None:
    wish = mounts(f"{tmp_path}/x", source=str(tmp_path))
    wish.env.add(key="NEW", value="1")
    wish.linux.resources.memory.limit.value = 1 << 26
    wish.linux.resources.memory.swap.value = 1 << 25
    with pytest.raises(BadRequest, match=r"plugin 00-x .*memory_swap_limit_in_bytes"):
        apply(record(), wish)


def test_a_source_below_a_file_can_not_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PodError, match="00-x"):
        apply(record(), mounts("/x", source=f"{tmp_path}/file/below"))


def test_swap_is_held_to_the_memory_that_the_request_has() -> None:
    old = record()
    output = pb.ContainerConfig()
    output.linux.resources.memory_limit_in_bytes = 1 << 27
    old = old._replace(config=output.SerializeToString())
    wish = nri.ContainerAdjustment()
    wish.linux.resources.memory.swap.value = 1 << 26
    with pytest.raises(BadRequest, match="memory and swap"):
        apply(old, wish)


def test_processors_mean_nothing_in_a_guest_and_something_on_the_host() -> None:
    wish = nri.ContainerAdjustment()
    wish.linux.resources.cpu.cpus = "0"
    assert apply(record(), wish).container.limits == Limits()
    assert apply(record(), wish, HOST).container.limits == Limits(cpuset_cpus="0")
    assert pb.ContainerConfig.FromString(apply(record(), wish).config).linux.resources.cpuset_cpus == "0"
