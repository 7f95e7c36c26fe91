# SPDX-License-Identifier: Apache-2.0
"""Options of `clearpod run` with podman's names, many in one pod, as its container sees them."""

import os
import signal
import subprocess
import urllib.request
from pathlib import Path

import pytest

from stage1.vm import kernels
from tests.fakes.command import Command, finish
from tests.fakes.outer_net import BIN_DIR, outer_net
from tests.fakes.patience import PATIENCE

pytestmark = [pytest.mark.vm, pytest.mark.timeout(120)]

SCRIPT = """
id; pwd; cat file; touch file 2>/dev/null || echo volume is read-only; touch /x 2>/dev/null || echo root is read-only
touch /tmp/x && echo tmp is not; hostname; ulimit -n; ulimit -Hn; grep CapBnd /proc/self/status | cut -f2
grep -c "10.0.0.5.db" /etc/hosts; grep nameserver /etc/resolv.conf; echo $A $B $HERE
grep -c " /scratch tmpfs rw,.*size=4096k,mode=700" /proc/mounts; grep -c " /dev/shm .*size=8192k" /proc/mounts
cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/cpu.max; cut -d: -f2 /proc/net/dev | grep -c .
"""
SEEN = """uid=1000 gid=100 groups=100
/data
hello
volume is read-only
root is read-only
tmp is not
boxy
100
200
0000000000001000
1
nameserver 192.0.2.1
1 two here
1
1
67108864
50000 100000
3
"""


def test_many_options_in_one_pod(clearpod: Command, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "file").write_text("hello\n")
    (tmp_path / "env").write_text("A=1\nB=1\nHERE\n")
    clearpod.env["HERE"] = "here"
    options = f"""-v {tmp_path}:/data:ro,Z --tmpfs /scratch:size=4m,mode=700 --env-file {tmp_path}/env -e B=two
        -u 1000:100 -w /data --read-only --hostname boxy --ulimit nofile=100:200 --cap-drop ALL --cap-add NET_ADMIN
        --add-host db:10.0.0.5 --dns 192.0.2.1 -m 64m --cpus 0.5 --shm-size 8m --init --rm --name web --network none"""
    try:
        ended = clearpod.run(*options.split(), "--entrypoint", "sh", "--", "-c", SCRIPT)
    finally:
        del clearpod.env["HERE"]
    assert (ended.code, ended.out.decode()) == (0, SEEN) and all(
        kernels.SLOW in line for line in ended.err.splitlines()
    )


def test_a_name_is_one_pods_and_a_port_without_the_hosts_is_reported(clearpod: Command) -> None:
    arguments = ("--name", "web", "-i", "--", "sh", "-c", "echo ready; read word")
    first = clearpod.start("run", *arguments, stdin=subprocess.PIPE)
    assert first.stdout is not None and first.stdout.readline() == b"ready\n"
    second = clearpod.run(*arguments)
    (pod,) = os.listdir(clearpod.root / "run/run/pods")
    assert second.code == 125 and pod[:13] in second.err and second.err.count("\n") == 1
    assert finish(first, feed=b"\n").code == 0
    third = clearpod.run("--name", "web", "-p", "80", "--", "true")
    assert third.code == 0 and "->80/tcp" in third.err


def test_a_published_port_leads_to_the_pod(clearpod: Command, tmp_path: Path) -> None:
    if not os.path.exists(f"{BIN_DIR}/bridge"):
        pytest.skip(f"needs {BIN_DIR}: apt install containernetworking-plugins iptables")
    with outer_net(tmp_path / "host") as net:
        more = f'network.conf_dir = "{net.settings.conf_dir}"\n[vm]\nscratch_mib = 64'
        clearpod.configure(more)
        script = "mkdir /w; echo served >/w/f; httpd -p 80 -h /w; echo ready; read word"
        process = clearpod.start("run", "-i", "-p", "8080:80", "--", "sh", "-c", script, stdin=subprocess.PIPE)
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        with urllib.request.urlopen("http://127.0.0.1:8080/f", timeout=30 * PATIENCE) as reply:
            assert reply.read() == b"served\n"
        assert finish(process, feed=b"\n").code == 0


def test_a_run_that_was_killed_leaves_nothing_that_the_next_does_not_remove(clearpod: Command, tmp_path: Path) -> None:
    options = ("-v", f"{tmp_path}:/data", "--tmpfs", "/scratch", "--privileged", "--")
    process = clearpod.start("run", *options, "sh", "-c", "touch /data/made; echo ready; read", stdin=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGKILL)
    finish(process)
    assert clearpod.run("--", "true").code == 0  # the fixture looks for what is left
    assert (tmp_path / "made").exists()
