# SPDX-License-Identifier: Apache-2.0
"""Packets passed on by the host's kernel (/dev/vhost-net), with QEMU on hardware virtualisation.

The container is sent net_probe on its standard input, and talks to one that serves on the host.
"""

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from stage1.linux.host import host_facts
from tests.cri.net_rig import PORT, build_probe
from tests.fakes import net_counters
from tests.fakes.outer_net import BIN_DIR, OuterNet, conflist, outer_net

from .test_kvmtool import CHECKOUT, RUN_S, Place, _can_run_kvmtool, place

__all__ = ["_can_run_kvmtool", "place"]

pytestmark = [pytest.mark.vm, pytest.mark.kvmtool, pytest.mark.timeout(600)]

MIB = 4
PIPES = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
SCRIPT = f"""
cat > /probe; chmod +x /probe
for host in 10.77.0.1 fd77::1; do
    /probe get $host {PORT} {MIB} && /probe put $host {PORT} {MIB} && /probe udp $host {PORT} 8192 5 || exit 1
done
echo counters
cat /proc/net/snmp /proc/net/snmp6
"""


def opened_by_the_vmm(run_dir: Path) -> list[str]:
    """The devices that the VMM with files in `run_dir` has open, as soon as vhost-net is one of them."""
    deadline, found = time.monotonic() + RUN_S, list[str]()
    while time.monotonic() < deadline and "/dev/vhost-net" not in found:
        time.sleep(1)
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if f"{run_dir}/" in (process / "cmdline").read_text(errors="replace"):
                    found += [os.readlink(fd) for fd in (process / "fd").iterdir()]
            except OSError:
                continue
    return [path for path in found if path.startswith("/dev/")]


@contextmanager
def serving(probe: str) -> Iterator[None]:
    """net_probe serves on the host."""
    server = subprocess.Popen([probe, "serve"])
    try:
        yield
    finally:
        server.kill()
        server.wait()


def configure(place: Place, net: OuterNet) -> None:
    """Pods get the network of `net`; it has rules for nothing, which take long in an emulated machine."""
    document = conflist(net.root)
    document["plugins"] = [{**document["plugins"][0], "ipMasq": False}]
    net.configure(document)
    with place.config.open("a") as file:
        file.write(f"boot_timeout_s = {RUN_S}\n")  # into [vm], the last table
        file.write(f'[network]\nconf_dir = "{net.root}/net.d"\nbin_dirs = ["{BIN_DIR}"]\ncache = "{net.root}/cache"\n')


def test_a_pod_moves_data_through_vhost_net(place: Place, tmp_path: Path) -> None:
    if error := host_facts().vhost_net_error:
        pytest.skip(f"/dev/vhost-net: {error} (modprobe vhost_net)")
    probe = build_probe(tmp_path)
    with outer_net(tmp_path / "host") as net, serving(probe):
        configure(place, net)
        argv = place.command("--hypervisor", "qemu", "-i", "--", "sh", "-c", SCRIPT)
        with subprocess.Popen(argv, cwd=CHECKOUT, **PIPES) as run:
            devices = opened_by_the_vmm(place.run_dir)
            out, err = (said.decode() for said in run.communicate(Path(probe).read_bytes(), timeout=RUN_S))
        assert run.returncode == 0, err
        assert "/dev/vhost-net" in devices
        moved, counted = out.split("counters\n")
        assert [int(line.split()[0]) for line in moved.splitlines()] == [MIB << 20, MIB << 20, 2 * 5 * 8192] * 2
        assert net_counters.wrong_checksums(net_counters.parse(counted)) == {}
    assert place.left_over() == []
