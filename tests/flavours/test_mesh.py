# SPDX-License-Identifier: Apache-2.0
"""Init containers that redirect a pod's traffic, as service meshes do: by both kinds of iptables, and by nft."""

import pytest

from tests.flavours.conftest import Pods

pytestmark = [pytest.mark.vm, pytest.mark.timeout(900)]
IMAGE = "net"
CAPS = ("NET_ADMIN", "NET_RAW")
INIT = {
    "legacy": """
        iptables-legacy -t nat -N MESH
        iptables-legacy -t nat -A MESH -m owner --uid-owner 1337 -j RETURN
        iptables-legacy -t nat -A MESH -p tcp -m comment --comment mesh -j REDIRECT --to-ports 15001
        iptables-legacy -t nat -A OUTPUT -p tcp -d 127.0.0.2 --dport 80 -j MESH
        iptables-legacy-save -t nat | grep MESH
    """,
    "iptables-nft": """
        iptables-nft -t nat -N MESH
        iptables-nft -t nat -A MESH -m owner --uid-owner 1337 -j RETURN
        iptables-nft -t nat -A MESH -p tcp -j REDIRECT --to-ports 15001
        iptables-nft -t nat -A OUTPUT -p tcp -d 127.0.0.2 --dport 80 -j MESH
        iptables-nft-save -t nat | grep MESH
    """,
    "nft": """
        nft -f - <<'END'
        table inet mesh {
            set ports { type inet_service; elements = { 80 } }
            chain output {
                type nat hook output priority -100;
                meta skuid 1337 return
                ip daddr 127.0.0.2 tcp dport @ports counter redirect to :15001
            }
        }
END
        nft list ruleset
    """,
}
PROXY = "while :; do echo proxied | nc -l -N 127.0.0.1 15001; done"
CLIENT = """
    for i in $(seq 100); do ss -ltn | grep -q :15001 && break; sleep 0.1; done
    test "$(nc -w 5 127.0.0.2 80 < /dev/null)" = proxied && echo redirected
"""


@pytest.mark.parametrize("backend", INIT)
async def test_an_init_container_redirects_what_the_pod_sends(pods: Pods, backend: str) -> None:
    async with pods.running("mesh") as (pod,):
        await pod.run(INIT[backend], name="init", caps=CAPS)
        await pod.start(PROXY, name="proxy")
        assert "redirected" in await pod.run(CLIENT, name="app")


async def test_a_container_without_the_capability_changes_no_rule(pods: Pods) -> None:
    async with pods.running("mesh") as (pod,):
        output = await pod.run("! nft add table inet mesh; ! iptables-legacy -t nat -N MESH", name="app", caps=())
        assert "not permitted" in output.lower()
