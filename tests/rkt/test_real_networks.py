# SPDX-License-Identifier: Apache-2.0
"""The real rkt and real CNI plugins in a host of the test's own: arguments, ports, mounts that are not shared."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from stage1.linux.host import host_facts
from stage1.net import writeoff
from tests.fakes import aci, kernels
from tests.rkt import stage1_image
from tests.rkt.real import RealRkt, removed, sh, wait_until
from tests.vm.agent_machine import missing

pytestmark = [
    pytest.mark.rkt,
    pytest.mark.vm,
    pytest.mark.skipif(os.geteuid() != 0, reason="rkt mounts overlays, so it needs root"),
]
HOST = """mount --bind /run/netns /run/netns
ip link set lo up
echo ready
exec sleep 100000
"""
STAYS = "trap 'exit 0' TERM; echo up; while :; do sleep 0.1; done"


@pytest.fixture(scope="module")
def host() -> Iterator[int]:
    """A process with a netns of its own, and a /run/netns that is a mount which reaches no other mounts."""
    os.makedirs("/run/netns", exist_ok=True)
    argv = ["unshare", "--net", "--mount", "--propagation=private", "sh", "-ec", HOST]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        assert process.stdout and process.stdout.readline() == b"ready\n"
        yield process.pid
        process.kill()


@pytest.fixture(scope="module")
def rkt(tmp_path_factory: pytest.TempPathFactory, guest_dir: Path, host: int) -> Iterator[RealRkt]:
    """rkt in there, with a bridge of the operator's."""
    if lacks := missing():
        pytest.skip(lacks)
    place = tmp_path_factory.mktemp("rkt")
    made = RealRkt(place, stage1_image.archive(guest_dir))
    made.prefix = ["nsenter", f"--target={host}", "--net", "--mount", *made.prefix, f"--local-config={place}/local"]
    ipam = {"type": "host-local", "subnet": "10.99.0.0/24", "dataDir": f"{place}/leases"}
    bridge = {"name": "br", "type": "bridge", "bridge": "br-rkt", "isGateway": True, "ipMasq": True, "ipam": ipam}
    (place / "local/net.d").mkdir(parents=True)
    (place / "local/net.d/10-br.conf").write_text(json.dumps(bridge))
    yield made
    made.clean()


def test_a_pod_gets_the_address_that_it_asks_for(rkt: RealRkt, app: Path) -> None:
    pod = rkt.run(app, *sh("ip -o -4 addr show dev eth0 | grep -o 'inet [0-9.]*'"), net="br:IP=10.99.0.77")
    done = pod.finish()
    assert (done.code, done.out) == (0, "inet 10.99.0.77\n"), done.err
    (network,) = pod.listed()["networks"]
    assert (network["ip"], network["args"]) == ("10.99.0.77", "IP=10.99.0.77")
    removed(rkt, pod)
    assert not (rkt.place / "leases/br/10.99.0.77").exists()


@pytest.mark.only_on("qemu", "the test's kernel is an ELF, and the other one boots a bzImage only")
def test_a_kernel_of_the_image_answers_at_the_pods_address(rkt: RealRkt, host: int, tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root/kernel").write_bytes(kernels.hello())
    labels = kernels.labelled(path="/kernel", network="linux")
    image = aci.pack(
        tmp_path / "root", tmp_path / "hello.aci", name="example.com/hello", exec=["/kernel"], userLabels=labels
    )
    pod = rkt.run(image, net="br:IP=10.99.0.80")
    pod.wait_for("ready\n")
    ping = ["nsenter", f"--target={host}", "--net", "busybox", "ping", "-c", "1", "-W", "20", "10.99.0.80"]
    subprocess.run(ping, check=True, stdout=subprocess.DEVNULL)
    pod.process.terminate()
    assert pod.finish().code == 137  # it has no power button
    removed(rkt, pod)


def test_a_port_has_one_pod_and_the_next_one_when_that_has_ended(rkt: RealRkt, app: Path) -> None:
    first = rkt.run("--port=web:18081", app, *sh(STAYS), net="br")
    first.wait_for("up\n")
    second = rkt.run("--port=web:18081", app, *sh(STAYS), net="br")
    refused = second.finish()
    assert refused.code == 254 and "18081/tcp" in refused.err and first.uuid in refused.err
    removed(rkt, second)
    first.process.kill()
    first.process.wait()
    wait_until(lambda: first.status()["state"] == "exited")
    third = rkt.run("--port=web:18081", app, *sh(STAYS), net="br")
    third.wait_for("up\n")
    (network,) = first.listed()["networks"]
    assert network["netName"] == "br", "it is still said which one it had"
    assert rkt.call("stop", third.uuid).code == 0 and third.finish().code == 0
    for pod in (first, third):
        removed(rkt, pod)


def test_a_network_that_can_not_be_given_back_makes_no_other_pods_gc_fail(rkt: RealRkt, app: Path) -> None:
    pod = rkt.run(app, *sh("exit 0"), net="br")
    assert pod.finish().code == 0
    records = rkt.data / "clearpod/networks"
    record = records / f"{pod.uuid}.json"
    document = json.loads(record.read_text())
    (lease,) = (one for one in os.listdir(rkt.place / "leases/br") if one.startswith("10."))
    document["attachments"][0]["network"]["plugins"][0]["type"] = "uninstalled"
    record.write_text(json.dumps(document))
    failed = rkt.call("rm", pod.uuid)
    assert "'uninstalled'" in failed.err and record.exists()
    output = _removals(rkt, app, record)
    assert f"{pod.uuid}.written-off" in output and not record.exists()
    assert not (rkt.place / "leases/br" / lease).exists(), "its IPAM plugin took the lease back"
    (records / f"{pod.uuid}.written-off").unlink()


def _removals(rkt: RealRkt, app: Path, record: Path) -> str:
    """What is printed while so many other pods are removed as the deferred DEL of `record` is tried, due each time."""
    output = ""
    for _ in range(writeoff.TRIES):
        if record.exists():
            os.utime(record, (0, 0))
        other = rkt.run(app, *sh("exit 0"))
        assert other.finish().code == 0
        done = rkt.call("rm", other.uuid)
        assert done.code == 0 and "exit status" not in done.err, done.err
        output += done.err
    return output


def test_a_plugin_that_hangs_is_written_off_after_some_tries(rkt: RealRkt, app: Path) -> None:
    plugin, tried = rkt.place / "local/net.d/hangs", rkt.place / "tried"
    answer = {"cniVersion": "0.4.0", "ips": [{"version": "4", "address": "10.97.0.2/24"}]}
    plugin.write_text(f"""#!/bin/sh
        test $CNI_COMMAND = ADD || {{ echo >> {tried}; trap '' TERM; sleep 1000 & wait; wait; }}
        nsenter --net=$CNI_NETNS sh -c "ip link add $CNI_IFNAME type veth peer name p && ip link set $CNI_IFNAME up"
        echo '{json.dumps(answer)}'
    """)
    plugin.chmod(0o755)
    (rkt.place / "local/net.d/30.conf").write_text(json.dumps({"name": "hangs", "type": "hangs"}))
    pod = rkt.run(app, *sh("exit 0"), net="hangs")
    assert pod.finish().code == 0
    records = rkt.data / "clearpod/networks"
    record = records / f"{pod.uuid}.json"
    document = json.loads(record.read_text())
    record.write_text(json.dumps({**document, "limit_s": 0.5}))
    output = rkt.call("rm", pod.uuid).err
    assert "did not finish DEL within 0.5 s" in output and record.exists()
    output += _removals(rkt, app, record)
    assert output.count("not retried") == 1 and f"{pod.uuid}.written-off" in output and not record.exists()
    assert len(tried.read_text()) == 2 * writeoff.TRIES - 1, "again without the netns, where that is lost; none since"
    assert not os.path.exists(f"/run/netns/clearpod-{pod.uuid}")
    (records / f"{pod.uuid}.written-off").unlink()


@pytest.mark.skipif(bool(host_facts().cpu_virtualization), reason="kvmtool has more devices")
def test_three_networks_are_the_most_with_qemu_and_a_fourth_is_refused(rkt: RealRkt, app: Path) -> None:
    for number in range(1, 5):
        ipam = {"type": "host-local", "subnet": f"10.98.{number}.0/24", "dataDir": f"{rkt.place}/leases"}
        document = {"name": f"n{number}", "type": "ptp", "ipam": ipam}
        (rkt.place / f"local/net.d/2{number}.conf").write_text(json.dumps(document))
    refused = rkt.run(app, *sh("true"), net="n1,n2,n3,n4")
    done = refused.finish()
    assert done.code == 254 and "networks" in done.err, done.err
    removed(rkt, refused)
    pod = rkt.run(app, *sh("ip -o -4 addr | grep -o '10[.]98[.][0-9]' | sort -u | tr '\\n' ' '"), net="n1,n2,n3")
    done = pod.finish()
    assert (done.code, done.out) == (0, "10.98.1 10.98.2 10.98.3 "), done.err
    removed(rkt, pod)
    assert not [one for number in (1, 2, 3, 4) for one in (rkt.place / f"leases/n{number}").glob("10.*")]
