# SPDX-License-Identifier: Apache-2.0
"""/etc/hosts, /etc/hostname and /etc/resolv.conf as containers of a real VM see them."""

from pathlib import Path

import pytest

from cri.pb import runtime_pb2 as pb
from tests.fakes.outer_net import OuterNet

from .conftest import Client, VmWorld
from .test_network import outer

__all__ = ["outer"]

pytestmark = pytest.mark.vm

FQDN = "web-0.web.default.svc.cluster.local"
SCRIPT = "for f in hosts hostname resolv.conf; do cat /etc/$f; echo ==; done; hostname; hostname -f; hostname -s"


async def seen(cri: Client, pod: str, name: str, *mounts: pb.Mount) -> list[str]:
    """hosts, hostname, resolv.conf and three times the name, as a container finds them."""
    container = await cri.container(pod, "sleep", "1000", name=name, mounts=mounts)
    await cri("StartContainer", container_id=container)
    reply = await cri("ExecSync", container_id=container, cmd=["sh", "-c", SCRIPT], timeout=30)
    assert reply.exit_code == 0, reply.stderr
    *files, names = reply.stdout.decode().split("==\n")
    return [*files, *names.split()]


async def test_a_pod_has_its_configured_names_and_resolver(outer: tuple[VmWorld, OuterNet], tmp_path: Path) -> None:
    aliases = tmp_path / "hosts"
    aliases.write_text("127.0.0.1\tlocalhost\n10.1.2.3\tforeign.example\n")
    dns = pb.DNSConfig(servers=["10.96.0.10", "fd00::10"], searches=["a.svc", "b"], options=["ndots:5", "edns0"])
    async with outer[0].daemon() as cri:
        pod = await cri.pod("web", hostname=FQDN, dns_config=dns)
        v4, v6 = cri.node.pods.get(pod).ips
        hosts, hostname, resolver, *names = await seen(cri, pod, "own")
        assert hosts.startswith("127.0.0.1\tlocalhost\n")
        assert hosts.endswith(f"{v4}\t{FQDN}\tweb-0\n{v6}\t{FQDN}\tweb-0\n")
        assert hostname == f"{FQDN}\n" and names == [FQDN, FQDN, "web-0"]
        assert resolver == "search a.svc b\nnameserver 10.96.0.10\nnameserver fd00::10\noptions ndots:5 edns0\n"
        mount = pb.Mount(container_path="/etc/hosts", host_path=str(aliases))
        assert (await seen(cri, pod, "kubelets", mount))[0] == aliases.read_text(), "hostAliases come by a mount"
        plain = await cri.pod("plain", dns_config=pb.DNSConfig())
        _, hostname, resolver, *names = await seen(cri, plain, "own")
        assert (hostname, names[0]) == ("plain\n", "plain")
        assert resolver == Path("/etc/resolv.conf").read_text()
        for one in (pod, plain):
            await cri("RemovePodSandbox", pod_sandbox_id=one)
    assert outer[0].left_over() == []
