# SPDX-License-Identifier: Apache-2.0
"""What the attacks share: an image in a registry, and a node whose pods are programs in the VMM's place."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes import places
from tests.fakes.hypervisors import hypervisor, pytest_generate_tests
from tests.fakes.registry import Registry
from tests.hostile.rig import Node, node

__all__ = ["hypervisor", "pytest_generate_tests"]


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory, guest_dir: Path) -> Iterator[str]:
    """The sample image."""
    with Registry(tmp_path_factory.mktemp("hostile") / "registry") as registry:
        yield registry.push(f"oci:{guest_dir}/sample:sample", "t/busybox:1")


@pytest.fixture
def in_memory(guest_dir: Path, reference: str) -> Iterator[Node]:
    """The same on a tmpfs."""
    with (
        tempfile.TemporaryDirectory(prefix="c", dir="/dev/shm") as root,
        node(Path(root), guest_dir, reference) as made,
    ):
        yield made


@pytest.fixture
def under_attack(guest_dir: Path, reference: str) -> Iterator[Node]:
    """A place with a short name: unix sockets have 107 bytes for their path."""
    with places.short_directory() as root, node(Path(root), guest_dir, reference) as made:
        yield made
