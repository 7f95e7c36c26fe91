# SPDX-License-Identifier: Apache-2.0
"""Debian's PostgreSQL, gunicorn, SQLite and git, and a tree as npm leaves it, on volumes as the kubelet has them: what
they need of files that are open, renamed, locked, mapped or removed. All in one pod, once; each test looks at one.
"""

import asyncio
import contextlib
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from cri.config import parse
from cri.pb import runtime_pb2 as pb
from cri.policy import MEMORY
from cri.store.images import ImageStore
from stage1 import engine
from stage1.linux import mount
from tests.fakes import places
from tests.fakes.registry import Registry
from tests.flavours import images

from .conftest import Client, Registered, VmWorld
from .one_pod import Run, Seen, log_directory, run

pytestmark = [pytest.mark.vm, pytest.mark.slow, pytest.mark.timeout(900)]

UID = "uid-programs"
MEMORY_MIB = "768"
SHM_MIB, TMP_MIB = 128, 16
ROWS = 60
FILES = 800

POSTGRES = """
set -e
export PATH=/usr/lib/postgresql/17/bin:$PATH PGDATA=/data/db PGHOST=/data
initdb --no-sync --auth=trust > /data/initdb
grep -F 'dynamic shared memory implementation' /data/initdb
pg_ctl -w -t 200 -l /data/log -o '-c listen_addresses= -c unix_socket_directories=/data -c jit=off' start > /dev/null ||
    { cat /data/log >&2; exit 1; }
pgbench -i -q -s 1 postgres 2> /dev/null
pgbench -n -T 5 -c 2 postgres 2> /dev/null | grep -E 'failed transactions|actually processed'
psql -At -c 'set min_parallel_table_scan_size=0; set parallel_setup_cost=0; set parallel_tuple_cost=0;
    select count(*) from pgbench_accounts' postgres | tail -n 1
ls /dev/shm | grep -c PostgreSQL
pg_ctl -w -t 200 -m fast stop > /dev/null
grep -cE 'PANIC|FATAL|could not' /data/log || true
"""
GUNICORN = """
set -e
mkdir -p /srv/app; cd /srv/app
cat > app.py << 'END'
import os
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]
END
gunicorn --workers 2 --worker-tmp-dir /tmp --timeout 60 --bind 127.0.0.1:8000 app:app > /tmp/log 2>&1 &
server=$!
python3 - << 'END'
import time, urllib.request
ok, end = 0, time.monotonic() + 120
while ok < 12 and time.monotonic() < end:
    try:
        ok += urllib.request.urlopen("http://127.0.0.1:8000/", timeout=60).status == 200
    except OSError:
        pass
    time.sleep(0.5)
print("answers", ok)
END
kill $server; wait $server || true
echo booted $(grep -c 'Booting worker' /tmp/log)
grep -E 'TIMEOUT|Error|Exception|Traceback|SIGABRT|SIGKILL' /tmp/log || true
stat -f -c %T /tmp
"""
SQLITE = """
set -e
cd {place}
sqlite3 rows.db 'pragma journal_mode=wal; create table t(who, number);'
insert() {{
    (echo '.timeout 120000'
    for n in $(seq {rows}); do echo "insert into t values('$1', $n);"; done) | sqlite3 -bail rows.db
}}
insert one & first=$!
insert two
wait $first
sqlite3 rows.db 'select count(*), count(distinct who) from t; pragma integrity_check;'
"""
GIT = """
set -e
export HOME=/srv GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b
git config --global gc.auto 0
[ -d /srv/origin ] || (
    git init -q -b main /srv/origin; cd /srv/origin
    mkdir -p a/b; for n in $(seq 150); do echo "line $n" > a/b/file-$n; done
    ln -s a/b/file-1 link; echo '#!/bin/sh' > run; chmod 755 run
    git add -A; git commit -qm one
    git checkout -q -b moved; git mv a/b c; git rm -q link; git commit -qam two; git checkout -q main
)
git clone -q file:///srv/origin {place}/clone
cd {place}/clone
git status --porcelain
git checkout -q moved; git checkout -q main; git checkout -q moved
git status --porcelain
git gc -q; git fsck --strict 2>&1 | grep -v '^notice' || true
ls c | wc -l; stat -c %a run
"""
TREE = """
import hashlib, os, shutil, sys
place, files = sys.argv[1], int(sys.argv[2])
modules = f"{place}/node_modules"
def content(n):
    return f"module.exports = {n};\\n".encode() * (1 + n % 40)
def install():
    os.makedirs(f"{modules}/.bin")
    for package in range(files // 20):
        temporary = f"{modules}/.p{package}-x7Gh"
        os.makedirs(f"{temporary}/lib")
        for n in range(package * 20, package * 20 + 20):
            path = f"{temporary}/lib/{n}.js"
            with open(path + ".tmp", "xb") as file:
                file.write(content(n))
            os.chmod(path + ".tmp", 0o755 if n % 20 == 0 else 0o644)
            os.utime(path + ".tmp", ns=(499162500123456789, 499162500123456789))
            os.rename(path + ".tmp", path)
        os.rename(temporary, f"{modules}/p{package}")
        os.symlink(f"../p{package}/lib/{package * 20}.js", f"{modules}/.bin/p{package}")
def wrong():
    for package in range(files // 20):
        for n in range(package * 20, package * 20 + 20):
            path = f"{modules}/p{package}/lib/{n}.js"
            status = os.stat(path)
            if open(path, "rb").read() != content(n) or status.st_mtime_ns != 499162500123456789:
                yield path
            if status.st_mode & 0o777 != (0o755 if n % 20 == 0 else 0o644):
                yield path
        if not os.path.samefile(f"{modules}/.bin/p{package}", f"{modules}/p{package}/lib/{package * 20}.js"):
            yield package
install()
shutil.rmtree(modules)
install()
print(sum(len(names) for _, _, names in os.walk(modules)), list(wrong())[:3])
"""


class Directories(NamedTuple):
    """Those of the pod's volumes: of the kubelet, two of them in memory, and one of the host."""

    data: Path
    shm: Path
    tmp: Path
    host: Path


def _directories(root: Path) -> Directories:
    """As the kubelet makes and mounts them."""
    names = (f"kubelet/pods/{UID}/volumes/kubernetes.io~empty-dir/{name}" for name in ("data", "shm", "tmp"))
    made = Directories(*(root / name for name in (*names, "srv/data")))
    for path in made:
        path.mkdir(parents=True)
    for path, mib in ((made.shm, SHM_MIB), (made.tmp, TMP_MIB)):
        mount.mount("tmpfs", str(path), "tmpfs", data=f"size={mib << 20},mode=1777")
    for path in (made.data, made.host):
        path.chmod(0o777)
    return made


def _on(place: Path, at: str) -> dict[str, list[pb.Mount]]:
    return {"mounts": [pb.Mount(host_path=str(place), container_path=at)]}


def _runs(here: Directories) -> dict[str, Run]:
    database = [*_on(here.data, "/data")["mounts"], *_on(here.shm, "/dev/shm")["mounts"]]
    postgres = {"run_as_username": "postgres"}
    runs = {
        "postgres": Run(POSTGRES, security=postgres, fields={"mounts": database}),
        "gunicorn": Run(GUNICORN, fields=_on(here.tmp, "/tmp")),
    }
    for kind, place in (("empty", here.data), ("host", here.host)):
        for name, script in (
            ("sqlite", SQLITE.format(place="/v", rows=ROWS)),
            ("git", GIT.format(place="/v")),
            ("tree", f"exec python3 -c '{TREE}' /v {FILES}"),
        ):
            runs[f"{name} {kind}"] = Run(script, fields=_on(place, "/v"))
    return runs


async def _run_all(world: VmWorld, here: Directories) -> dict[str, Seen]:
    """Two at a time: each takes a processor."""
    results: dict[str, Seen] = {}
    runs = {name.replace(" ", "-"): one for name, one in _runs(here).items()}
    async with world.daemon() as cri:
        pod = await _pod(cri, log_directory(world))
        for name, one in runs.items():
            results |= await run(cri, pod, {name: one}, limit_s=300)
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
    return results


async def _pod(cri: Client, logs: str) -> str:
    await cri("PullImage", image=pb.ImageSpec(image=cri.image), deadline_s=300)
    names = pb.PodSandboxMetadata(name="programs", namespace="default", uid=UID, attempt=0)
    return await cri.pod("programs", metadata=names, annotations={MEMORY: MEMORY_MIB}, log_directory=logs)


class Ended(NamedTuple):
    """What came of all of them, and where their volumes are."""

    here: Directories
    seen: dict[str, Seen]

    def lines(self, name: str) -> list[str]:
        """The output of one that has succeeded."""
        one = self.seen[name]
        assert one.status.exit_code == 0, (one.status.exit_code, one.out[-2000:], one.err[-2000:])
        return one.out.splitlines()


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory, guest_dir: Path) -> Iterator[Ended]:
    if reason := images.why_not():
        pytest.skip(reason)
    place = tmp_path_factory.mktemp("programs")
    with Registry(place / "registry") as registry, places.short_directory() as root:
        pushed = images.push(registry, "programs", place / "layout")
        ImageStore(f"{place}/state").close()
        world = VmWorld(Path(root), Registered(pushed, f"{place}/state"), guest_dir)
        world.config = world.config.but(volumes=parse(f'[volumes]\nkubelet_root = "{root}/kubelet"\n').volumes)
        world.host = world.host._replace(scratch_mib=2048)
        here = _directories(Path(root))
        try:
            yield Ended(here, asyncio.run(_run_all(world, here)))
        finally:
            for pod in engine.pod_directories(world.host):
                engine.clean_up(pod)
            for path in (here.shm, here.tmp):
                mount.umount(str(path), lazy=True)


def test_postgresql_has_its_shared_memory_in_an_empty_directory_of_memory(ended: Ended) -> None:
    kind, processed, failed, rows, segments, faults = ended.lines("postgres")
    assert kind.endswith("posix") and rows == "100000" and int(segments) > 0 and faults == "0"
    assert int(processed.rsplit(": ")[1]) > 0 and "failed transactions: 0 " in failed


def test_gunicorns_workers_live_with_their_files_in_an_empty_directory_of_memory(ended: Ended) -> None:
    assert ended.lines("gunicorn") == ["answers 12", "booted 2", "tmpfs"]


@pytest.mark.parametrize("kind", ["empty", "host"])
def test_two_processes_write_one_database_of_sqlite_with_a_log(ended: Ended, kind: str) -> None:
    assert ended.lines(f"sqlite-{kind}") == ["wal", f"{2 * ROWS}|2", "ok"]
    if kind == "host":
        with contextlib.closing(sqlite3.connect(ended.here.host / "rows.db")) as database:
            assert database.execute("select count(*) from t").fetchone() == (2 * ROWS,)


@pytest.mark.parametrize("kind", ["empty", "host"])
def test_git_clones_and_changes_branches(ended: Ended, kind: str) -> None:
    assert ended.lines(f"git-{kind}") == ["150", "755"]
    if kind == "host":
        safe = f"safe.directory={ended.here.host}/clone"
        argv = ["git", "-c", safe, "-C", ended.here.host / "clone", "status", "--porcelain"]
        assert subprocess.run(argv, capture_output=True, text=True, check=True).stdout == ""


@pytest.mark.parametrize("kind", ["empty", "host"])
def test_thousands_of_small_files_are_what_was_written_after_renames(ended: Ended, kind: str) -> None:
    assert ended.lines(f"tree-{kind}") == [f"{FILES + FILES // 20} []"]
