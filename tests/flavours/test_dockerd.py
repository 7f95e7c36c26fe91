# SPDX-License-Identifier: Apache-2.0
"""Dockerd in a privileged pod."""

import pytest

from tests.flavours.conftest import CONTEXT, Pods, privileged_sandbox

pytestmark = [pytest.mark.vm, pytest.mark.timeout(1800)]
IMAGE = "docker"
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


async def test_dockerd_builds_runs_and_publishes_in_a_privileged_pod(pods: Pods) -> None:
    async with pods.running("docker", linux=privileged_sandbox()) as (pod,):
        output = await pod.run(CONTEXT + DOCKER, name="dockerd", privileged=True)
        assert output.count("built by") >= 2
