# SPDX-License-Identifier: Apache-2.0
"""What CheckpointPod refuses, and that nothing of it stays. That it is done: test_checkpoint_vms.py."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cri.policy import SUSPEND
from stage1.guest.messages import WRONG_STATE, Reply, Shares
from stage1.rootfs import checkpoint as place

from .conftest import Client, World

UNKNOWN = "0" * 64


def _file(path: Path) -> None:
    path.write_bytes(b"")


def _full(path: Path) -> None:
    path.mkdir(0o700)
    (path / "kept").write_text("kept")


def _open_to_all(path: Path) -> None:
    path.mkdir()
    path.chmod(0o777)


def _elsewhere(path: Path) -> None:
    path.symlink_to(path.parent)


PLACES: list[tuple[Callable[[Path], None], str, str]] = [
    (lambda path: None, "NOT_FOUND", "does not exist"),
    (_file, "INVALID_ARGUMENT", "a regular file"),
    (_elsewhere, "INVALID_ARGUMENT", "a symbolic link"),
    (_open_to_all, "INVALID_ARGUMENT", "0700"),
    (_full, "ALREADY_EXISTS", "kept"),
]


async def _pod(cri: Client) -> tuple[str, str]:
    """A pod with a running container, that can be suspended: a fake guest has no disk for images, so it is made
    without the annotation.
    """
    pod = await cri.pod()
    live = cri.node.pods.get(pod)
    live.record = live.record._replace(pod=live.record.pod._replace(suspend="manual", copies_files=True))
    container = await cri.container(pod, "sleep", "1000")
    await cri("StartContainer", container_id=container)
    return pod, container


@pytest.mark.parametrize(("make", "code", "word"), PLACES)
async def test_another_place_is_refused_and_stays_as_it_is(
    world: World, tmp_path: Path, make: Callable[[Path], None], code: str, word: str
) -> None:
    output = tmp_path / "output"
    make(output)
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    async with world.daemon() as cri:
        pod, container = await _pod(cri)
        asked = {"pod_sandbox_id": pod, "output_path": str(output), "container_ids": [container]}
        got, text = await cri.refused("CheckpointPod", **asked)
        assert got == code and word in text and str(output) in text
    assert sorted(str(path) for path in tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("fields", "code", "word"),
    [
        ({"output_path": "relative"}, "INVALID_ARGUMENT", "relative"),
        ({"output_path": "{0}/../x"}, "INVALID_ARGUMENT", "/../x"),
        ({"output_path": ""}, "INVALID_ARGUMENT", "absolute"),
        ({"options": {"tcp": "yes"}}, "INVALID_ARGUMENT", "tcp"),
        ({"container_ids": []}, "INVALID_ARGUMENT", "each once"),
        ({"container_ids": ["{1}", "{1}"]}, "INVALID_ARGUMENT", "each once"),
        ({"container_ids": ["{1}", UNKNOWN]}, "NOT_FOUND", UNKNOWN),
        ({"pod_sandbox_id": UNKNOWN}, "NOT_FOUND", UNKNOWN),
    ],
)
async def test_a_request_that_makes_no_sense_is_refused(
    world: World, tmp_path: Path, fields: dict[str, Any], code: str, word: str
) -> None:
    async with world.daemon() as cri:
        pod, container = await _pod(cri)

        def filled(value: Any) -> Any:
            if isinstance(value, list):
                return [filled(one) for one in value]
            return value.format(tmp_path, container) if isinstance(value, str) else value

        asked = {"pod_sandbox_id": pod, "output_path": str(tmp_path), "container_ids": [container]}
        got, text = await cri.refused("CheckpointPod", **asked | {name: filled(one) for name, one in fields.items()})
        assert got == code and word in text
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("path", "is_whole"), [("{0}/", True), ("{0}//", True), ("/.{0}/.", False), ("/{0}", False)])
async def test_a_directory_and_containers_can_be_given_in_other_words(
    world: World, tmp_path: Path, path: str, is_whole: bool
) -> None:
    """What is asked for is begun, and fails later: the VM has no monitor."""
    async with world.daemon() as cri:
        pod, container = await _pod(cri)
        ids = [container if is_whole else container[:10]]
        asked = {"pod_sandbox_id": pod[:13], "output_path": path.format(tmp_path), "container_ids": ids}
        code, text = await cri.refused("CheckpointPod", **asked)
        assert "qmp" in text, (code, text)
        asked = {"checkpoint_path": path.format(tmp_path), "config": cri.sandbox("again")}
        code, text = await cri.refused("RestorePod", **asked)
        assert code == "NOT_FOUND" and text.startswith(f"{tmp_path} has no {place.MANIFEST}")
        other = await cri.pod("other")
        elsewhere = await cri.container(other, "sleep", "1000")
        asked = {"pod_sandbox_id": pod, "output_path": str(tmp_path), "container_ids": [elsewhere]}
        assert (await cri.refused("CheckpointPod", **asked))[0] == "NOT_FOUND"


async def test_what_blocks_it_is_reported_and_a_failure_leaves_nothing(world: World, tmp_path: Path) -> None:
    """The VM has no monitor, so nothing can be saved."""
    async with world.daemon() as cri:
        plain = await cri.pod("plain")
        container = await cri.container(plain, "sleep", "1000")
        await cri("StartContainer", container_id=container)
        asked = {"pod_sandbox_id": plain, "output_path": str(tmp_path), "container_ids": [container]}
        code, text = await cri.refused("CheckpointPod", **asked)
        assert code == "FAILED_PRECONDITION" and SUSPEND in text and "checkpointed" in text
        pod, container = await _pod(cri)
        live = cri.node.pods.get(pod)
        more = await cri.container(pod, "sleep", "1000", name="second")
        asked = {"pod_sandbox_id": pod, "output_path": str(tmp_path), "container_ids": [container]}
        code, text = await cri.refused("CheckpointPod", **asked)
        assert code == "FAILED_PRECONDITION" and "second" in text
        code, text = await cri.refused("CheckpointPod", **asked | {"container_ids": [container, more]})
        assert code == "FAILED_PRECONDITION" and "second" in text
        await cri("RemoveContainer", container_id=more)
        code, text = await cri.refused("CheckpointPod", **asked)
        assert "qmp" in text and not list(tmp_path.iterdir())
        assert not os.path.lexists(f"{live.directory}/{place.LINK}")


async def test_a_guest_that_keeps_a_directory_goes_on(world: World, tmp_path: Path) -> None:
    async with world.daemon() as cri:
        pod, container = await _pod(cri)
        asked = {"pod_sandbox_id": pod, "output_path": str(tmp_path), "container_ids": [container]}
        world.faults.refuse = {Shares: Reply(code=WRONG_STATE, error="in use")}
        code, text = await cri.refused("CheckpointPod", **asked)
        assert code == "FAILED_PRECONDITION" and "in use" in text and not list(tmp_path.iterdir())
        assert not cri.node.pods.get(pod).is_suspended
        assert (await cri("ExecSync", container_id=container, cmd=["true"], timeout=10)).exit_code == 0
