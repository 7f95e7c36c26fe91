# SPDX-License-Identifier: Apache-2.0
"""Which container of the original is meant by one that is created in a copy, and what may not differ."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cri.containers import claim
from cri.live.container import LiveContainer
from cri.pb import runtime_pb2 as pb
from cri.store.pods import ContainerRecord
from stage1.errors import WrongState
from stage1.pod.model import BOOT_ID_SEEN_AT, Container, Mount, Pod, Process

PRIVILEGED = pb.LinuxContainerConfig(security_context=pb.LinuxContainerSecurityContext(privileged=True))


def record(name: str = "c", *, image: str = "sha256:a", mounts: tuple[str, ...] = ("/data",), **config: Any) -> Any:
    """A container as it is asked for."""
    container = Container("id", name, image, Process(("sh",)), tuple(Mount("", target) for target in mounts))
    made = pb.ContainerConfig(**config).SerializeToString()
    return ContainerRecord(container, made, 0, 0, image, image)


def copied(*waiting: ContainerRecord) -> Any:
    """A copy in which these wait."""
    return SimpleNamespace(status=SimpleNamespace(waiting=waiting))


def test_the_one_of_that_name_is_meant_whatever_its_program_is_called_now() -> None:
    waiting = record(tty=True, command=["sh"])
    assert claim.find(copied(record("other"), waiting), record(tty=True, command=["other"])) is waiting
    assert claim.find(copied(waiting), record("new")) is None and claim.find(copied(), record()) is None


@pytest.mark.parametrize(
    ("asked", "word"),
    [
        ({"image": "sha256:b"}, "sha256:b"),
        ({"mounts": ("/data", "/more")}, "/more"),
        ({"mounts": ()}, "none"),
        ({"tty": True}, "tty"),
        ({"stdin": True}, "stdin"),
        ({"stdin_once": True}, "stdin_once"),
        ({"devices": [pb.Device(container_path="/dev/x", host_path="/dev/null")]}, "/dev/x"),
        ({"linux": PRIVILEGED}, "privileged"),
    ],
)
def test_what_it_can_not_be_any_more_is_refused(asked: dict[str, Any], word: str) -> None:
    with pytest.raises(WrongState, match=word):
        claim.find(copied(record()), record(**asked))


def test_who_asks_for_less_than_the_original_may_do_does_not_get_more() -> None:
    with pytest.raises(WrongState, match="privileged True"):
        claim.find(copied(record(linux=PRIVILEGED)), record())
    assert claim.find(copied(record(linux=PRIVILEGED)), record(linux=PRIVILEGED))


def test_what_was_written_down_of_it_may_be_damaged() -> None:
    with pytest.raises(WrongState, match="damaged"):
        claim.find(copied(record()._replace(config=b"\xff")), record())


def test_an_original_of_an_earlier_version_has_no_boot_id_of_its_own_and_keeps_the_kernels() -> None:
    now = ("/data", BOOT_ID_SEEN_AT)
    former, planned = record(), record(mounts=now)
    assert claim.find(copied(former), planned) is former
    assert [one.target for one in claim._with_mounts_of(former, planned).container.mounts] == ["/data"]
    assert claim._with_mounts_of(record(mounts=now), planned) == planned


def test_what_a_daemon_that_was_killed_has_left_is_replaced(tmp_path: Path) -> None:
    bundles = tmp_path / "tree/volumes/containers"
    bundles.mkdir(parents=True)
    (bundles / "former").symlink_to("gone")
    pod: Any = SimpleNamespace(directory=str(tmp_path), record=SimpleNamespace(pod=Pod("p", "p")))
    container = LiveContainer(record(mounts=())._replace(guest_id="former"), str(tmp_path), log_directory="")
    claim._make_files(pod, container)
    assert (bundles / "former").readlink() == Path("id") and (bundles / "former/config.json").exists()
