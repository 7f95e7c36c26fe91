# SPDX-License-Identifier: Apache-2.0
"""Dockerd in a privileged pod: an image, and containers on a network of their own."""

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
COMPOSED = """
    own=$(ip -o -4 addr show dev eth0 | grep -oE '10[0-9.]+' | head -1)
    docker network create --subnet 172.30.0.0/24 app
    docker volume create data
    docker run -d --name api --network app -v data:/data --memory 64m --cpus 0.5 --read-only --cap-drop ALL \\
        --cap-add NET_BIND_SERVICE --security-opt no-new-privileges made busybox httpd -f -p 80 -h /
    docker run --rm --network app made busybox nslookup api 127.0.0.11
    docker run -d --name web --network app -p 8081:80 -v data:/data made busybox httpd -f -p 80 -h /
    address=$(docker inspect -f '{{ (index .NetworkSettings.Networks "app").IPAddress }}' api)
    docker exec web busybox wget -qO- http://$address/built
    docker exec web sh -c 'echo kept > /data/f'; docker exec api cat /data/f
    for i in $(seq 50); do busybox wget -qO- http://$own:8081/built && break; sleep 0.2; done
    docker network inspect -f '{{ len .Containers }} containers' app
    iptables -t nat -S | grep -E 'DNAT|MASQUERADE'
    docker kill -s TERM api web > /dev/null; docker network disconnect -f app web; echo composed
"""


async def test_dockerd_builds_runs_and_publishes_in_a_privileged_pod(pods: Pods) -> None:
    async with pods.running("docker", linux=privileged_sandbox()) as (pod,):
        output = await pod.run(CONTEXT + DOCKER + COMPOSED, name="dockerd", privileged=True)
        assert output.count("built by") >= 4 and "Name:" in output
        assert "kept" in output and "2 containers" in output and "composed" in output
