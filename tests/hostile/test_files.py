# SPDX-License-Identifier: Apache-2.0
"""An attacker in the place of an agent that is to copy config maps and the like, and to write back a termination log:
its container's end comes, its neighbours are served, and little of it is logged.
"""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cri.live import outputs
from cri.pb import runtime_pb2 as pb
from cri.policy import FILES as WHERE
from cri.policy import SUSPEND
from tests.cri.counter_rig import Kubelet
from tests.fakes import places
from tests.fakes.open_policy import TEXT
from tests.fakes.patience import PACE, PATIENCE
from tests.hostile.file_attacks import FILES
from tests.hostile.rig import Node, node
from tests.hostile.test_saves import GROWTH_MIB, STALLED_MS, removed

pytestmark = [pytest.mark.vm, pytest.mark.timeout(240)]

CHANGES = 20
MOST_LOGGED, AGAIN_S = 3, 10
"""Lines about one container: that something was not copied is logged once in ten seconds, whatever has changed, and
at the end that a log was not written back."""


@pytest.fixture(scope="module")
def attacked(guest_dir: Path, reference: str) -> Iterator[Node]:
    """A node whose daemon lives through all attacks."""
    with places.short_directory() as root:
        volumes = f'[volumes]\nkubelet_root = "{root}/kubelet"\n'
        more = f"{TEXT}{volumes}[vm]\nscratch_mib = 16\nreact_timeout_s = {2 * PACE}"
        with node(Path(root), guest_dir, reference, more=more) as made:
            yield made


def change(kubelet: Kubelet, number: int) -> None:
    """As the kubelet brings a new version of a config map."""
    place = kubelet.map / f"..v{number}"
    place.mkdir()
    (place / "key").write_text(f"value {number}")
    (kubelet.map / "..data_tmp").symlink_to(place.name)
    (kubelet.map / "..data_tmp").rename(kubelet.map / "..data")


@pytest.mark.parametrize("attack", FILES)
async def test_a_guest_that_does_not_copy_harms_itself_alone(attacked: Node, attack: str) -> None:
    kubelet = Kubelet(attacked.root / "kubelet", f"uid-{attack}")
    async with attacked.client() as cri:
        await cri("PullImage", image=pb.ImageSpec(image=attacked.reference))
        good, ticking = await cri.running(f"good-{attack}", hostname="good")
        await cri.times(ticking, seconds=0.3)
        before, logged, since = attacked.rss_mib(), _lines(attacked), time.monotonic()
        names = pb.PodSandboxMetadata(name="bad", namespace="default", uid=f"uid-{attack}")
        asked = {"metadata": names, "annotations": {WHERE: "guest", SUSPEND: "manual"}}
        bad = await cri.pod("bad", hostname=attack, log_directory=f"{cri.logs}/bad", **asked)
        container = await cri.container(bad, "sleep", "1000", mounts=kubelet.mounts())
        await cri("StartContainer", container_id=container)
        taken = list[float]()
        for number in range(CHANGES):
            change(kubelet, number)
            taken += await cri.times(ticking, seconds=0.05)
        begun = time.monotonic()
        await cri("StopContainer", container_id=container, timeout=0)
        assert (await cri.status(container)).state == pb.CONTAINER_EXITED
        assert time.monotonic() - begun < (outputs.LIMIT_S + 5) * PATIENCE
        taken += await cri.times(ticking, seconds=0.3)
        await removed(cri, bad)
        assert max(taken) < STALLED_MS and attacked.rss_mib() - before < GROWTH_MIB
        assert await cri.is_ready(good) and kubelet.log.stat().st_size == 0
        assert _lines(attacked) - logged <= MOST_LOGGED + (time.monotonic() - since) // AGAIN_S
    await attacked.empty()


def _lines(vms: Node) -> int:
    """How often the daemon has logged that something was not copied."""
    text = (vms.root / "serve.log").read_text(encoding="utf-8")
    return text.count("volume.copy") + text.count("container.outputs")
