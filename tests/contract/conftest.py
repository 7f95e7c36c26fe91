# SPDX-License-Identifier: Apache-2.0
"""A guest of each kind, and the host that talks to it."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from stage1.guest import messages as m
from tests.contract.guest_host import Host
from tests.contract.guest_rigs import RIGS, Rig


@pytest.fixture(params=RIGS)
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    """A guest."""
    yield from request.param(tmp_path)


@pytest.fixture
def host(rig: Rig) -> Iterator[Host]:
    """A host that has said hello and configured the pod."""
    host = Host(rig, os.urandom(16))
    host.client.call(m.Configure(hostname="pod"))
    yield host
    host.client.close()
