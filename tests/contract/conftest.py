# SPDX-License-Identifier: Apache-2.0
"""A guest of each kind, and the host that talks to it."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from stage1.errors import PodError
from stage1.guest import messages as m
from tests.contract.guest_host import Host
from tests.contract.guest_rigs import RIGS, Rig, agent

STREAMS = tuple(range(1, 100))
"""Of containers that a test left: what they still have to say is taken in."""


class Booted:
    """The real agent's guest, for one test after the other: a boot takes longer than most of them. Each test is to it
    what the next daemon is. A guest that has ended, or can't be made empty, is followed by a new one.
    """

    def __init__(self, places: pytest.TempPathFactory) -> None:
        self._places = places
        self._rig: Rig | None = None
        self._running: Iterator[Rig] = iter(())

    def lend(self) -> Rig:
        """An empty guest."""
        if self._rig is None:
            self._running = agent(self._places.mktemp("agent"))
            self._rig = next(self._running)
            return self._rig
        return self._rig._replace(is_new=False)

    def take_back(self) -> None:
        """Remove what a test has left in the guest."""
        try:
            assert self._rig and self._rig.alive()
            _empty(self._rig)
        except (AssertionError, PodError):
            self.end()

    def end(self) -> None:
        """End the guest, if there is one."""
        self._rig = None
        for _ in self._running:
            raise AssertionError("a rig yields once")


def _empty(rig: Rig) -> None:
    host = Host(rig, rig.key, streams=STREAMS)
    for container in host.client.call(m.List()).containers:
        host.client.call(m.Delete(container.id))
        shutil.rmtree(rig.bundles / container.id)
    while host.take(timeout_s=0):
        pass
    assert host.client.call(m.List()).containers == ()
    host.client.close()


@pytest.fixture(scope="module")
def booted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Booted]:
    """The real agent's guest."""
    result = Booted(tmp_path_factory)
    yield result
    result.end()


@pytest.fixture(params=RIGS)
def rig(request: pytest.FixtureRequest, booted: Booted, tmp_path: Path) -> Iterator[Rig]:
    """A guest."""
    if request.param is agent:
        yield booted.lend()
        booted.take_back()
    else:
        yield from request.param(tmp_path)


@pytest.fixture
def host(rig: Rig) -> Iterator[Host]:
    """A host that has said hello and configured the pod."""
    host = Host(rig, rig.key)
    if rig.is_new:
        host.client.call(m.Configure(hostname="pod"))
    yield host
    host.client.close()
