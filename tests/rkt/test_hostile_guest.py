# SPDX-License-Identifier: Apache-2.0
"""A guest of rkt's that was taken over, as an app with every capability is: what it leaves where the host's root looks
for codes of apps, and what it writes to its console. Under the fake of rkt.
"""

import os
import subprocess
from pathlib import Path

import pytest

from tests.rkt.conftest import RUN, Rig

pytestmark = [
    pytest.mark.vm,
    pytest.mark.skipif(os.geteuid() != 0, reason="rkt mounts overlays, so it needs root"),
]
FREE = ("--disable-capabilities-restriction", "--disable-seccomp", "--disable-paths")
PLANTS = """
cd /proc/1/root/run/clearpod/volumes/status || exit 1
ln -s /dev/zero two; mkfifo three; ln -s VICTIM one-started; ln -s VICTIM one-created; mkdir -p four/deep
echo 300 > .x; mv .x five; echo planted; read x
while ln -sf VICTIM .l && mv .l one && ln -sf VICTIM .l && mv .l two; do :; done &
echo more; read x; kill $!; exit 7
"""


def codes_of(pod_dir: Path) -> dict[str, bytes]:
    """What rkt finds: only files, and each is ours."""
    (status,) = {*pod_dir.glob("overlay/*/upper/rkt/status")} or {pod_dir / "stage1/rootfs/rkt/status"}
    entries = list(os.scandir(status))
    assert all(entry.is_file(follow_symlinks=False) for entry in entries), [entry.name for entry in entries]
    return {entry.name: Path(entry.path).read_bytes() for entry in entries if not entry.name.endswith("~")}


@pytest.mark.parametrize("overlay", [True, False])
def test_what_a_guest_leaves_for_codes_reaches_no_file_of_the_hosts(rig: Rig, tmp_path: Path, overlay: bool) -> None:
    victim = tmp_path / "victim"
    victim.write_text("whole")
    names = ("one", "two", "three", "four", "five")
    apps = [rig.sh("one", PLANTS.replace("VICTIM", str(victim)))]
    running = rig.run(apps, "--interactive", *FREE, overlay=overlay, stdin=subprocess.PIPE)
    pod_dir = Path(running.pod.dir)
    for name in names[1:]:
        (pod_dir / "appsinfo" / name).mkdir()
    running.wait_for(b"planted")
    assert codes_of(pod_dir) == {}
    assert running.process.stdin
    running.process.stdin.write(b"\n")
    running.process.stdin.flush()
    running.wait_for(b"more")
    code, _, err = running.finish(b"\n")
    assert code == 7, err
    assert codes_of(pod_dir) == {"one": b"7\n"} and victim.read_text() == "whole"
    running.pod.gc()


def test_a_console_that_is_written_without_end_takes_a_bounded_part_of_the_hosts_memory(rig: Rig) -> None:
    leave = "echo $$ > /proc/1/root/sys/fs/cgroup/cgroup.procs"  # by which no device but its own can be opened
    line = f"{leave}; exec > /proc/1/root/dev/ttyS0; dd if=/dev/zero bs=65536 count=64 2>&- | tr '\\0' x"
    running = rig.run([rig.sh("one", f"{line}; exit 5")], *FREE)
    console = RUN / running.pod.uuid / "console.log"
    code, _, err = running.finish()
    assert code == 5, err
    assert console.stat().st_size > 3 << 20 and console.stat().st_blocks * 512 < 3 << 20
