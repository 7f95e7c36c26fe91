# SPDX-License-Identifier: Apache-2.0
"""What several of these tests begin with: a netns that stands for the host, and a store for images."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cri.store.images import ImageStore
from tests.fakes.bare_pods import Pods
from tests.fakes.oci_layout import Layout
from tests.fakes.outer_net import BIN_DIR, OuterNet, outer_net


@pytest.fixture
def outer(tmp_path: Path) -> Iterator[OuterNet]:
    """With Debian's CNI plugins. Needs root."""
    if not os.path.exists(f"{BIN_DIR}/bridge"):
        pytest.skip(f"needs {BIN_DIR}: apt install containernetworking-plugins iptables")
    with outer_net(tmp_path / "host") as made:
        yield made


@pytest.fixture
def pods(outer: OuterNet) -> Iterator[Pods]:
    """Those that a test forgets are detached."""
    made = Pods(outer)
    yield made
    made.forget()


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """An empty one."""
    return Layout(tmp_path / "layout")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ImageStore]:
    """An empty one."""
    opened = ImageStore(str(tmp_path / "state"))
    yield opened
    opened.close()
