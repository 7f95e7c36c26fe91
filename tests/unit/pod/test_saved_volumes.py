# SPDX-License-Identifier: Apache-2.0
"""Which volumes keep a VM from being saved, and the copies of the pod's own files that do not."""

import pytest

from stage1.errors import BadRequest
from stage1.pod import guest_volumes
from stage1.pod.model import BOOT_ID_SEEN_AT, POD_FILES, Container, EmptyDir, InMemory, Mount, Process

COPY = InMemory(4096, is_file=True)


def container(*mounts: Mount) -> Container:
    """With these mounts."""
    return Container(id="c1", name="web", image="i", process=Process(("true",)), mounts=mounts)


@pytest.mark.parametrize(("mount", "is_one"), [
    (Mount("/srv", "/data"), True), (Mount("/srv", "/data", read_only=True), True),
    (Mount("x", "/i", image="sha256:1"), True),
    (Mount("/srv", "/data", memory=COPY), False), (Mount("/srv", "/data", empty_dir=EmptyDir("v")), False),
    (Mount("", "/data", inside="c0"), False),
])  # fmt: skip
def test_a_volume_that_is_not_in_the_guest_is_a_blocker(mount: Mount, is_one: bool) -> None:
    why = guest_volumes.blocker(container(Mount("/a", "/b", memory=COPY), mount))
    assert bool(why) == is_one and (mount.target in why) == is_one


def test_the_pods_files_are_copies_unless_something_else_is_mounted_there() -> None:
    mine = Mount("/kubelet/etc-hosts", "/etc/hosts", memory=COPY)
    made = guest_volumes.with_pod_files(container(mine), "/run/pod", has_boot_id=True)
    assert made.mounts[0] is mine
    assert {one.target for one in made.mounts} == {BOOT_ID_SEEN_AT, *(f"/etc/{name}" for name in POD_FILES)}
    assert [one.target for one in made.mounts if one.read_only] == [BOOT_ID_SEEN_AT]
    assert all(one.source.startswith("/run/pod/tree/") for one in made.mounts[1:])
    assert guest_volumes.blocker(made) == ""


def test_a_pod_of_an_earlier_version_has_no_boot_id_of_its_own() -> None:
    made = guest_volumes.with_pod_files(container(), "/run/pod", has_boot_id=False)
    assert {one.target for one in made.mounts} == {f"/etc/{name}" for name in POD_FILES}


def test_there_is_an_end_to_them() -> None:
    many = [Mount("/k", f"/{number}", memory=COPY) for number in range(guest_volumes.MOST)]
    with pytest.raises(BadRequest, match="volumes"):
        guest_volumes.with_pod_files(container(*many), "/run/pod", has_boot_id=True)
