# SPDX-License-Identifier: Apache-2.0
"""critest's own plugin, written with NRI's library in Go, against our end: its specs of NRI, with instant fake guests.

On real virtual machines `scripts/conformance --focus NRI` runs them.
"""

import asyncio
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cri.config_tables import Registry as Mapped
from cri.pb import nri_pb2 as nri
from tests.conformance import report
from tests.conformance.main import NRI_FLAG, knows
from tests.fakes import places
from tests.fakes.oci_layout import Layer, Layout, directory, tar
from tests.fakes.patience import PATIENCE
from tests.fakes.registry import Registry

from .conftest import Registered, World
from .nri_rig import limited, plugin

pytestmark = [pytest.mark.critest, pytest.mark.timeout(300)]

IMAGE = "e2e-test-images/busybox:1.29-2"
SPECS = 13


@pytest.fixture
def image_world(tmp_path: Path) -> Iterator[World]:
    """A machine that pulls critest's image from a registry of ours."""
    layout = Layout(tmp_path / "layout")
    tagged = layout.tag("1", layout.image([Layer(tar([directory("./")]))]))
    with Registry(tmp_path / "registry") as registry, places.short_directory() as root:
        registry.push(tagged, IMAGE)
        world = limited(World(Path(root), Registered(IMAGE, f"{tmp_path}/state")), request_timeout_s=30 * PATIENCE)
        mapped = Mapped(prefix="registry.k8s.io", location=registry.host, insecure=True)
        world.config = world.config.but(registries=(mapped,))
        yield world
        world.vmm.stop()


def _sleeps(request: nri.ContainerRequest) -> nri.CreateContainerResponse:
    """critest's containers run `top`, which needs a terminal where a container is a process of the host."""
    args = ["", "sleep", "1000"] if request.container.args[-1] == "top" else []
    return nri.CreateContainerResponse(adjust=nri.ContainerAdjustment(args=args))


async def test_critests_specs_of_nri_pass(image_world: World, tmp_path: Path) -> None:
    if not await asyncio.to_thread(knows, NRI_FLAG):
        pytest.skip(f"needs a critest that knows {NRI_FLAG}")
    target, config = tmp_path / "report.json", image_world.config
    async with image_world.daemon(), plugin(image_world, "sleeps", "01") as one:
        one.answers["CreateContainer"] = _sleeps
        process = await asyncio.create_subprocess_exec(
            shutil.which("critest") or "critest",
            f"-runtime-endpoint=unix://{config.socket_path}",
            f"{NRI_FLAG}={config.nri.socket}",
            f"--ginkgo.json-report={target}",
            "--ginkgo.focus=NRI",
            "--ginkgo.no-color",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        await process.wait()
        assert not one.gone.is_set()
    result = [spec for spec in report.specs(json.loads(target.read_text())) if spec.name.startswith("NRI ")]
    assert [(spec.name, spec.reason) for spec in result if spec.state != report.PASSED] == []
    assert len(result) >= SPECS
