# SPDX-License-Identifier: Apache-2.0
"""The host's PostgreSQL in a real guest, with an emptyDir in memory at /dev/shm and its data in one on the host."""

import shutil
import subprocess
from pathlib import Path

import pytest

from cri.pb import runtime_pb2 as pb
from stage1.linux import mount
from tests.fakes.hypervisors import hypervisor, pytest_generate_tests

from .conftest import VmWorld
from .one_pod import Run, run
from .test_guest_volumes import Kubelet, _pod, world

__all__ = ["hypervisor", "pytest_generate_tests", "world"]
HOMES = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
pytestmark = [
    pytest.mark.vm,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not HOMES, reason="needs PostgreSQL: apt install postgresql"),
]

PROGRAMS = ("initdb", "postgres", "pgbench", "psql", "pg_ctl")
SCRIPT = """
set -e
export PATH={home}/bin:/bin LC_ALL=C PGDATA=/data/db PGHOST=/data
initdb --no-sync --auth=trust | grep -E 'shared memory|Success'
echo "unix_socket_directories = '/data'" >> $PGDATA/postgresql.conf
pg_ctl -w -t 300 -l /data/log start > /dev/null
pgbench --initialize --quiet --scale 1 postgres 2>/dev/null
pgbench --client 2 --transactions 20 postgres 2>/dev/null | grep 'actually processed'
psql -At -c 'select count(*) from pgbench_history' postgres
ls /dev/shm | grep -c PostgreSQL
pg_ctl -w -t 300 -m fast stop | tail -n 1
"""


def _installed(place: Path) -> Path:
    """Return a /usr with these programs, what they load and PostgreSQL's own files."""
    home = HOMES[-1].parents[1]
    usr = place / "usr"
    programs = [home / "bin" / name for name in PROGRAMS]
    for directory in (home / "lib", Path("/usr/share/postgresql") / home.name):
        shutil.copytree(directory, usr / directory.relative_to("/usr"), symlinks=True)
    needed = subprocess.run(["ldd", *programs], capture_output=True, text=True, check=True).stdout
    found = [Path(word) for word in needed.split() if word.startswith(("/lib", "/usr"))]
    for path in {*programs, *(one for one in found if not one.name.endswith(":"))}:
        target = usr / str(path).removeprefix("/usr").lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    for path in (usr, *usr.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755)
    return usr


async def test_it_uses_an_empty_directory_in_memory_for_shared_memory(world: VmWorld) -> None:
    kubelet = Kubelet(world.root / "kubelet", "uid-web")
    mount.mount("tmpfs", str(kubelet.memory), "tmpfs", flags=mount.MS_REMOUNT, data="size=64m")
    usr = _installed(world.root)
    places = {"/usr": usr, "/lib": usr / "lib", "/lib64": usr / "lib64"}
    mounts = [pb.Mount(host_path=str(path), container_path=at, readonly=True) for at, path in places.items()]
    mounts += [
        pb.Mount(host_path=str(kubelet.memory), container_path="/dev/shm"),
        pb.Mount(host_path=str(kubelet.data), container_path="/data"),
    ]
    security = {"run_as_user": pb.Int64Value(value=1000)}
    async with world.daemon() as cri:
        pod = await _pod(cri, 0, plain=True, memory_mib="512")
        one = Run(SCRIPT.format(home=HOMES[-1].parents[1]), security=security, fields={"mounts": mounts})
        seen = (await run(cri, pod, {"one": one}))["one"]
        lines = seen.out.splitlines()
        assert seen.status.exit_code == 0, (lines, seen.err)
        assert any("selecting dynamic shared memory implementation ... posix" in line for line in lines), lines
        assert "40/40" in lines[-4] and lines[-3] == "40" and int(lines[-2]) > 0, lines
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
