# SPDX-License-Identifier: Apache-2.0
"""Directories of the host by virtiofsd, chosen by a user's annotation in a pod of a real kubelet's."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.patience import PATIENCE
from tests.kubernetes import configuration
from tests.kubernetes.cluster import Cluster

pytestmark = [
    pytest.mark.vm,
    pytest.mark.timeout(300 * PATIENCE),
    pytest.mark.skipif(not os.path.exists("/usr/libexec/virtiofsd"), reason="needs virtiofsd: apt install virtiofsd"),
]
STAYS = "trap 'exit 0' TERM; while :; do sleep 0.2; done"


@pytest.fixture(params=["virtiofs", "9p"])
def served(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[tuple[str, str, Path]]:
    """A pod whose directory of the host comes by this server; its name, that, and the directory."""
    kind = str(request.param)
    name, place = f"by-{kind}", cluster.node.root / f"host-{kind}"
    place.mkdir()
    pod = configuration.pod(
        name,
        cluster.node.image,
        STAYS,
        container={"volumeMounts": [{"name": "data", "mountPath": "/data"}]},
        volumes=[{"name": "data", "hostPath": {"path": str(place), "type": "Directory"}}],
    )
    pod["metadata"]["annotations"] = {"clearpod.io/volumes": kind}
    cluster.run(pod)
    yield name, kind, place
    cluster.delete(name)


def test_a_user_chooses_what_serves_directories_of_the_host(cluster: Cluster, served: tuple[str, str, Path]) -> None:
    name, kind, place = served
    (place / "ours").write_text("of the host\n")
    script = "grep ' /data ' /proc/mounts; cat /data/ours; echo of the pod > /data/theirs"
    output = cluster.kubectl("exec", name, "--", "sh", "-c", script).splitlines()
    assert (output[0].split()[2], output[1]) == (kind, "of the host")
    assert (place / "theirs").read_text() == "of the pod\n"
