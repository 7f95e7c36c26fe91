# SPDX-License-Identifier: Apache-2.0
"""A pod's network under kvmtool: real CNI plugins, a tap in the pod's netns, and traffic both ways.

What more there is to a network (two pods, IPv6 host ports, jumbo frames) does not depend on the hypervisor, and
tests/cri/test_network.py has it.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from cri.config import Config
from cri.pb import runtime_pb2 as pb
from cri.store.images import ImageStore
from stage1 import engine
from tests.cri import test_network as cri_network
from tests.cri.conftest import Registered, VmWorld
from tests.fakes import places
from tests.fakes.outer_net import BIN_DIR, OuterNet, conflist, outer_net
from tests.fakes.patience import PATIENCE
from tests.fakes.pulled import pull_blocking

pytestmark = [pytest.mark.vm, pytest.mark.timeout(240)]

PAYLOAD = os.urandom(1 << 20)
GATEWAY = "10.77.0.1"


class Answer(BaseHTTPRequestHandler):
    """Gives everybody the payload."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(PAYLOAD)))
        self.end_headers()
        self.wfile.write(PAYLOAD)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@contextmanager
def served() -> Iterator[int]:
    """A web server of the host, in the netns of its thread; its port."""
    server = ThreadingHTTPServer(("0.0.0.0", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def outer(hypervisor: str, guest_dir: Path) -> Iterator[tuple[VmWorld, OuterNet]]:
    """A host of its own with the sample image."""
    if not os.path.exists(f"{BIN_DIR}/bridge"):
        pytest.skip(f"needs {BIN_DIR}: apt install containernetworking-plugins iptables")
    with places.short_directory() as root, outer_net(Path(root, "host")) as net:
        store = ImageStore(f"{root}/state")
        image = pull_blocking(store, f"oci:{guest_dir}/sample:sample", config=Config())
        store.close()
        world = VmWorld(Path(root), Registered(image.id, f"{root}/state"), guest_dir, hypervisor=hypervisor)
        world.host = world.host._replace(network=net.settings)
        try:
            yield world, net
        finally:
            for place in engine.pod_directories(world.host):
                engine.clean_up(place)


@pytest.mark.only_on("kvmtool", "tests/cri/test_network.py has QEMU's")
async def test_a_pod_and_the_host_talk_to_each_other_and_nothing_stays(outer: tuple[VmWorld, OuterNet]) -> None:
    world, net = outer
    net.configure(conflist(net.root, mtu=1400))
    mapping = pb.PortMapping(protocol=pb.TCP, container_port=80, host_port=8080)
    async with world.daemon() as cri:
        await cri("RemovePodSandbox", pod_sandbox_id=await cri.pod("first", port_mappings=[mapping]))
        before = net.state()
        pod = await cri.pod("web", port_mappings=[mapping])
        script = "mkdir /w; head -c 1048576 /dev/urandom >/w/f; exec httpd -f -p 80 -h /w"
        container = await cri.container(pod, "sh", "-c", script)
        await cri("StartContainer", container_id=container)
        v4, v6 = await cri_network.addresses(cri, pod)
        ping = ("ping", "-c", "1", "-W", str(5 * PATIENCE))
        for address in (GATEWAY, "fd77::1"):
            assert "1 packets received" in await cri_network._output(cri, container, *ping, address)
        for host in (v4, f"[{v6}]", "127.0.0.1:8080", f"{GATEWAY}:8080"):
            got = await cri_network._until(lambda host=host: cri_network._get(host, "f"))  # type: ignore[misc]
            assert len(got) == 1 << 20, host
        with served() as port:
            fetch = f"wget -qO- http://{GATEWAY}:{port}/ | wc -c"
            assert (await cri_network._output(cri, container, "sh", "-c", fetch)).split() == [str(len(PAYLOAD))]
        assert "mtu 1400" in await cri_network._output(cri, container, "ip", "addr", "show", "eth0")
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
        assert net.state() == before
    assert world.left_over() == []
    assert not os.path.exists(f"/run/netns/clearpod-{pod}")
