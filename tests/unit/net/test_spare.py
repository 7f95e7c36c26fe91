# SPDX-License-Identifier: Apache-2.0
"""Network namespaces made ahead: handed out to a pod, dropped, and what a dead maker leaves. Needs root."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from stage1.errors import KernelError, NetworkFailed
from stage1.linux import namespace, process
from stage1.net import attach, spare
from stage1.net.settings import netns_path
from stage1.pod.model import Pod
from tests.fakes.cni import FakeCni


@pytest.fixture
def one() -> Iterator[str]:
    (path,) = spare.prepare()
    yield path
    spare.drop([path])


def number(path: str) -> int:
    """Which netns it is."""
    with namespace.inside_net(path):
        return os.stat("/proc/thread-self/ns/net").st_ino


def attached(cni: FakeCni, place: Path, path: str) -> Pod:
    pod = Pod(os.urandom(32).hex(), "web")
    place.mkdir(exist_ok=True)
    attach.attach(pod, str(place), settings=cni.settings, spare=path)
    return pod


def test_a_spare_has_its_loopback_up_and_a_pod_gets_just_that_one(tmp_path: Path, one: str) -> None:
    cni, wanted = FakeCni(tmp_path / "cni"), number(one)
    with namespace.inside_net(one):
        assert b"LOOPBACK,UP" in process.run(["ip", "link", "show", "lo"], timeout_s=5).stdout
    pod = attached(cni, tmp_path / "pod", one)
    assert number(netns_path(pod.id)) == wanted and not os.path.exists(one) and one not in spare.left()
    assert attach.detach(str(tmp_path / "pod")) == ""
    assert cni.left_over() == [] and not os.path.exists(netns_path(pod.id))


def test_a_spare_that_is_gone_is_replaced(tmp_path: Path, one: str) -> None:
    cni = FakeCni(tmp_path / "cni")
    spare.drop([one])
    pod = attached(cni, tmp_path / "pod", one)
    assert namespace.is_net(netns_path(pod.id))
    attach.detach(str(tmp_path / "pod"))
    assert cni.left_over() == []


def test_when_the_pod_fails_the_spare_is_used_up(tmp_path: Path, one: str) -> None:
    cni = FakeCni(tmp_path / "cni")
    cni.trouble("second", "ADD", "exit 1")
    with pytest.raises(NetworkFailed):
        attached(cni, tmp_path / "pod", one)
    assert cni.left_over() == [] and not os.path.exists(one)


def test_a_path_that_is_taken_keeps_the_spare(tmp_path: Path, one: str) -> None:
    (tmp_path / "taken").touch()
    with pytest.raises(KernelError, match="File exists"):
        spare.hand_out(one, str(tmp_path / "taken"))
    assert namespace.is_net(one) and (tmp_path / "taken").exists()


def test_what_a_dead_maker_left_is_found_and_dropped() -> None:
    made = spare.prepare(3)
    assert set(made) <= set(spare.left()) and len({number(path) for path in made}) == 3
    spare.drop(made)
    spare.drop(made)
    assert not set(made) & set(spare.left()) and not any(map(os.path.exists, made))


def test_many_hand_outs_at_once_give_each_pod_a_netns_of_its_own(tmp_path: Path) -> None:
    made, targets = spare.prepare(8), [str(tmp_path / str(n)) for n in range(8)]
    threads = [threading.Thread(target=spare.hand_out, args=pair) for pair in zip(made, targets, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({number(path) for path in targets}) == 8 and not set(made) & set(spare.left())
    for path in targets:
        namespace.remove_net(path)
