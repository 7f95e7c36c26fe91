# SPDX-License-Identifier: Apache-2.0
"""Programs behind rkt's seccomp sets, run by the crun of this machine as that of the guest would run them."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from stage1.pod import oci
from stage1.pod.model import Container, Pod, Process, User
from stage1.rkt import security
from stage1.rkt.arguments import RunOptions
from stage1.rkt.isolators import Isolators, Names

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="crun needs root here"),
    pytest.mark.skipif(not (shutil.which("crun") and shutil.which("cc")), reason="needs crun and cc"),
]

SOURCE = """
static long call(long number, long a, long b, long c) {
  long result;
  __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
  return result;
}
void _start(void) {  /* without a C library it makes just these calls: getppid, statx, exit_group */
  long parent = call(110, 0, 0, 0), young = call(332, -1, 0, 0);
  call(231, (parent < 0 ? -parent : 0) | (young == -38 ? 64 : 0), 0, 0);
}
"""
EPERM, EACCES, ENOSYS_SEEN, KILLED = 1, 13, 64, 128 + 31


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("bundle")
    (place / "rootfs").mkdir()
    (place / "probe.c").write_text(SOURCE)
    command = ["cc", "-O1", "-static", "-nostdlib", "-o", place / "rootfs" / "probe", place / "probe.c"]
    subprocess.run(command, check=True)
    return place


def run(bundle: Path, expected: Names | None, user: User) -> int:
    """The exit code. The machine's cgroups are left alone: crun gets a mount namespace with an empty tree of them."""
    options = RunOptions("6733c088-a507-4694-aabf-eda9d3f3f5c0")
    confined = security.security(
        Isolators(seccomp=expected), options, uid=user.uid, read_only_root=True, where="x"
    )._replace(masked_paths=(), readonly_paths=())
    container = Container("x", "x", "", Process(("/probe",), user=user), security=confined, pod_files=())
    document = oci.config(Pod("x", "x"), container)
    document["root"]["path"] = str(bundle / "rootfs")
    document["linux"]["namespaces"] = [{"type": "mount"}, {"type": "pid"}]
    document["mounts"] = document["mounts"][:2]
    document["process"]["rlimits"] = []
    del document["linux"]["cgroupsPath"], document["process"]["oomScoreAdj"]
    (bundle / "config.json").write_text(json.dumps(document))
    crun = f"crun --root {bundle}/state --cgroup-manager=disabled run -b {bundle} probe-{os.getpid()}"
    script = f"mount -t cgroup2 none /sys/fs/cgroup && exec {crun}"
    done = subprocess.run(["unshare", "-m", "sh", "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode in (0, EPERM, EACCES, ENOSYS_SEEN, ENOSYS_SEEN | EPERM, KILLED), done.stderr
    assert not done.stderr, done.stderr
    return done.returncode


@pytest.mark.parametrize("user", [User(), User(1000, 1000)], ids=["root", "user"])
@pytest.mark.parametrize(
    "expected, code",
    [
        (None, 0),
        (Names(True, ("@appc.io/all",)), 0),
        (Names(True, ("write",), "EPERM"), ENOSYS_SEEN | EPERM),
        (Names(True, ("write",)), KILLED),
        (Names(True, ("getppid",)), ENOSYS_SEEN),
        (Names(True, ("getppid", "statx")), 0),
        (Names(False, ("getppid",), "EACCES"), EACCES),
        (Names(False, ("getppid",)), KILLED),
        (Names(False, ("@systemd/privileged",)), 0),
        (Names(False, ("prctl",)), 0),
        (Names(False, ("@rkt/default-blacklist",), "EPERM"), 0),
        (Names(True, ("@rkt/default-whitelist", "mount"), "EPERM"), 0),
        (Names(True, ("@docker/default-whitelist",)), 0),
    ],
)
def test_an_app_starts_and_meets_its_filter(bundle: Path, expected: Names | None, code: int, user: User) -> None:
    assert run(bundle, expected, user) == code
