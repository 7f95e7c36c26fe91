# SPDX-License-Identifier: Apache-2.0
"""Container engines in a pod: podman and buildah without privileges, dockerd with them."""

import pytest

from cri.pb import runtime_pb2 as pb
from tests.flavours.conftest import UNCONFINED, Pods, privileged_sandbox

pytestmark = [pytest.mark.vm, pytest.mark.timeout(1800)]
IMAGE = "engines"
FUSE = pb.Device(host_path="/dev/fuse", container_path="/dev/fuse", permissions="rwm")
TUN = pb.Device(host_path="/dev/net/tun", container_path="/dev/net/tun", permissions="rwm")
CONTEXT = """
    mkdir -p /tmp/context; cd /tmp/context; cp /usr/bin/busybox .
    printf '%s\\n' 'FROM scratch' 'COPY busybox /bin/busybox' 'RUN ["/bin/busybox", "--install", "-s", "/bin"]' \
        'RUN echo built by $(uname -r) > /built' 'CMD ["cat", "/built"]' > Containerfile
    cp Containerfile Dockerfile
"""
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
DOCKER = """
    dockerd --version
    mkdir -p /var/lib/docker; mount -t tmpfs tmpfs /var/lib/docker
    dockerd --iptables=true > /tmp/log 2>&1 &
    for i in $(seq 600); do docker info > /tmp/info 2>&1 && break; sleep 0.2; done
    grep -E 'Storage Driver|Kernel Version|Cgroup' /tmp/info || { cat /tmp/log; exit 1; }
    cd /tmp/context
    DOCKER_BUILDKIT=0 docker build -q -t made .
    docker run --rm made
    docker run -d --name web -p 8080:80 made busybox httpd -f -p 80 -h /
    for i in $(seq 50); do busybox wget -qO- http://127.0.0.1:8080/built && break; sleep 0.2; done
    docker rm -f web
"""


@pytest.mark.parametrize(("engine", "work"), [("podman", PODMAN), ("buildah", BUILDAH)])
async def test_an_unprivileged_pod_builds_and_runs_an_image(pods: Pods, engine: str, work: str) -> None:
    """With `procMount: Unmasked` and AppArmor unconfined, and no capability beyond the usual ones."""
    async with pods.running("ci") as (pod,):
        script = CONTEXT + ROOTLESS.replace("{work}", work)
        said = await pod.run(script, name=engine, devices=[FUSE, TUN], apparmor=UNCONFINED)
        assert "built by" in said


async def test_dockerd_builds_runs_and_publishes_in_a_privileged_pod(pods: Pods) -> None:
    async with pods.running("docker", linux=privileged_sandbox()) as (pod,):
        said = await pod.run(CONTEXT + DOCKER, name="dockerd", privileged=True)
        assert said.count("built by") >= 2
