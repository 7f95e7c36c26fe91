# SPDX-License-Identifier: Apache-2.0
"""Podman, buildah and fuse-overlayfs in a pod without privileges, and podman's networks in a privileged one."""

import pytest

from cri.pb import runtime_pb2 as pb
from tests.flavours.conftest import CONTEXT, UNCONFINED, Pods, privileged_sandbox

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

NETWORK = """
    export STORAGE_DRIVER=overlay; mkdir -p /var/lib/containers; mount -t tmpfs tmpfs /var/lib/containers
    cd /tmp/context; podman build -q -t made .
    own=$(ip -o -4 addr show dev eth0 | grep -oE '10[0-9.]+' | head -1)
    podman network create --disable-dns --subnet 10.66.0.0/24 app
    podman run -d --name web --network app -p 8080:80 made busybox httpd -f -p 80 -h /
    for i in $(seq 50); do busybox wget -qO- http://$own:8080/built && break; sleep 0.2; done
    podman exec web cat /built
    podman run --rm --network app made busybox wget -qO- http://10.66.0.2/built
    podman rm -f -t 1 web
"""
OVERLAY = """
    mkdir -p /tmp/o/lower /tmp/o/upper /tmp/o/work /tmp/o/merged; echo below > /tmp/o/lower/f; chown -R 1000:1000 /tmp/o
    setpriv --reuid 1000 --regid 1000 --clear-groups unshare -Urm bash -ec '
        cd /tmp/o; fuse-overlayfs -o lowerdir=lower,upperdir=upper,workdir=work merged
        grep merged /proc/mounts; cat merged/f; echo above > merged/f; rm -f merged/none; cat upper/f lower/f'
"""


async def test_podman_publishes_a_port_of_a_network_in_a_privileged_pod(pods: Pods) -> None:
    async with pods.running("ci", linux=privileged_sandbox()) as (pod,):
        output = await pod.run(CONTEXT + NETWORK, name="podman", privileged=True)
        assert output.count("built by") >= 3


async def test_a_user_without_rights_mounts_fuse_overlayfs(pods: Pods) -> None:
    async with pods.running("ci") as (pod,):
        output = await pod.run(OVERLAY, name="fuse", devices=[FUSE], apparmor=UNCONFINED)
        assert "fuse.fuse-overlayfs" in output and output.count("below") == 2 and "above" in output


@pytest.mark.parametrize(("engine", "work"), [("podman", PODMAN), ("buildah", BUILDAH)])
async def test_an_unprivileged_pod_builds_and_runs_an_image(pods: Pods, engine: str, work: str) -> None:
    """With `procMount: Unmasked`, AppArmor unconfined, file capabilities on newuidmap and newgidmap, and no capability
    of the container's beyond the usual ones.
    """
    async with pods.running("ci") as (pod,):
        script = CONTEXT + ROOTLESS.replace("{work}", work)
        output = await pod.run(script, name=engine, devices=[FUSE, TUN], apparmor=UNCONFINED)
        assert "built by" in output
