# SPDX-License-Identifier: Apache-2.0
"""Podman and buildah in a pod without privileges."""

import pytest

from cri.pb import runtime_pb2 as pb
from tests.flavours.conftest import CONTEXT, UNCONFINED, Pods

pytestmark = [pytest.mark.vm, pytest.mark.timeout(1800)]
IMAGE = "podman"
FUSE = pb.Device(host_path="/dev/fuse", container_path="/dev/fuse", permissions="rwm")
TUN = pb.Device(host_path="/dev/net/tun", container_path="/dev/net/tun", permissions="rwm")
ROOTLESS = """
    useradd -m -u 1000 builder 2>/dev/null || true
    printf 'builder:100000:65536\\n' | tee /etc/subuid > /etc/subgid
    chown -R builder /tmp/context
    cat > /tmp/work <<'END'
    set -e
    export HOME=/home/builder XDG_RUNTIME_DIR=/tmp/runtime
    mkdir -p $XDG_RUNTIME_DIR; cd /tmp/context
    {work}
END
    setpriv --reuid 1000 --regid 1000 --clear-groups bash /tmp/work
"""
PODMAN = """
    podman --version
    podman build --isolation chroot -q -t made .
    podman run --rm --cgroups disabled --network none made
"""
BUILDAH = """
    buildah --version
    buildah build --isolation chroot -q -t made .
    buildah images
    c=$(buildah from made); buildah run --isolation chroot $c -- cat /built
"""


@pytest.mark.parametrize(("engine", "work"), [("podman", PODMAN), ("buildah", BUILDAH)])
async def test_an_unprivileged_pod_builds_and_runs_an_image(pods: Pods, engine: str, work: str) -> None:
    """With `procMount: Unmasked`, AppArmor unconfined, file capabilities on newuidmap and newgidmap, and no capability
    of the container's beyond the usual ones.
    """
    async with pods.running("ci") as (pod,):
        script = CONTEXT + ROOTLESS.replace("{work}", work)
        output = await pod.run(script, name=engine, devices=[FUSE, TUN], apparmor=UNCONFINED)
        assert "built by" in output
