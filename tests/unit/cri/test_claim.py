# SPDX-License-Identifier: Apache-2.0
"""Which container of the original is meant by one that is created in a copy, and what may not differ. That nothing is
forgotten is shown in test_decided.py.
"""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cri.containers import claim
from cri.live.container import LiveContainer
from cri.pb import runtime_pb2 as pb
from cri.snapshots import copies
from cri.store.pods import ContainerRecord, SavedContainer
from stage1.errors import WrongState
from stage1.pod.model import Container, Device, Mount, Pod, Process, Security, User

ALL = ("ALL",)
FREE = Security(add_capabilities=ALL)
CONFINED = Security(no_new_privs=True, read_only_root=True, drop_capabilities=ALL, seccomp="{}")


def record(name: str = "c", *, mounts: tuple[str, ...] = ("/data",), stdin_once: bool = False, **fields: Any) -> Any:
    """A container as it is asked for."""
    given = {"process": Process(("sh",)), "image": "sha256:a", **fields}
    container = Container("id", name, mounts=tuple(Mount("", target) for target in mounts), **given)
    made = pb.ContainerConfig(stdin_once=stdin_once).SerializeToString()
    return ContainerRecord(container, made, 0, 0, container.image, container.image)


def waits(was: ContainerRecord) -> SavedContainer:
    """It, as one of the original's."""
    return copies._container(was, {was.container.id: was.container.id})


def copied(*waiting: SavedContainer) -> Any:
    """A copy in which these wait."""
    return SimpleNamespace(status=SimpleNamespace(waiting=waiting), containers={})


def test_the_one_of_that_name_is_meant_whatever_its_program_is_called_now() -> None:
    waiting = waits(record(process=Process(("sh",), tty=True)))
    asked = record(process=Process(("other",), ("A=b",), tty=True))
    assert claim.find(copied(waits(record("other")), waiting), asked) is waiting
    assert claim.find(copied(waiting), record("new")) is None and claim.find(copied(), record()) is None


@pytest.mark.parametrize(
    ("asked", "word"),
    [
        ({"image": "sha256:b"}, "image sha256:a, and sha256:b"),
        ({"mounts": ("/data", "/more")}, "mounts /data, and /data, /more"),
        ({"mounts": ()}, "mounts /data, and none"),
        ({"process": Process((), tty=True)}, "tty False, and True"),
        ({"process": Process((), stdin=True)}, "stdin False, and True"),
        ({"process": Process((), user=User(1000))}, "run_as_user 0, and 1000"),
        ({"stdin_once": True}, "stdin_once False, and True"),
        ({"devices": (Device("/dev/null", "/dev/x"),)}, "devices none, and /dev/null /dev/x"),
        ({"security": Security(privileged=True)}, "privileged False, and True"),
        ({"security": FREE}, "add_capabilities none, and ALL"),
        ({"security": CONFINED}, "no_new_privs False, and True"),
    ],
)
def test_what_it_can_not_be_any_more_is_refused(asked: dict[str, Any], word: str) -> None:
    with pytest.raises(WrongState, match=f"container c .*has {word} "):
        claim.find(copied(waits(record())), record(**asked))


def test_who_asks_for_less_than_the_original_may_do_does_not_get_more() -> None:
    for former in (record(security=Security(privileged=True)), record(security=FREE)):
        for asked in (record(), record(security=CONFINED)):
            with pytest.raises(WrongState):
                claim.find(copied(waits(former)), asked)
        waiting = waits(former)
        assert claim.find(copied(waiting), former) is waiting


def test_what_a_daemon_that_was_killed_has_left_is_replaced(tmp_path: Path) -> None:
    bundles = tmp_path / "tree/volumes/containers"
    bundles.mkdir(parents=True)
    (bundles / "former").symlink_to("gone")
    pod: Any = SimpleNamespace(directory=str(tmp_path), record=SimpleNamespace(pod=Pod("p", "p")))
    container = LiveContainer(record(mounts=())._replace(guest_id="former"), str(tmp_path), log_directory="")
    claim._make_files(pod, container)
    assert (bundles / "former").readlink() == Path("id") and (bundles / "former/config.json").exists()
