# SPDX-License-Identifier: Apache-2.0
"""What /proc says of a process, with an ordinary one in the VMM's place. Real jails: tests/vm/test_owners.py."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cri.cli.view import jail
from stage1.errors import Unsupported, WrongState
from stage1.linux import process
from stage1.linux.idmap import Extent
from stage1.vm import in_force


@pytest.fixture
def confined() -> Iterator[tuple[int, int]]:
    """A process with some things taken away from it: pid and start time."""
    argv = ["unshare", "--net", "--ipc", "setpriv", "--no-new-privs", "--bounding-set=-all,+chown,+mknod",
            "--inh-caps=-all", "prlimit", "--nofile=77:99", "sh", "-c", "echo; exec sleep 1000"]  # fmt: skip
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as one:
        assert one.stdout and one.stdout.readline() == b"\n"
        yield one.pid, process.start_time(one.pid)
        one.kill()


def test_what_is_in_force_is_read_as_it_is(confined: tuple[int, int]) -> None:
    result = in_force.read(*confined, cgroups=["/no/such/cgroup"])
    assert result.pid == confined[0] and os.path.isabs(result.program)
    assert set(result.users) == {os.getuid()} and result.uid_map == (Extent(0, 0, 4294967295),)
    assert result.capabilities["bounding"] == ("CAP_CHOWN", "CAP_MKNOD")
    assert result.capabilities["ambient"] == result.capabilities["inheritable"] == ()
    assert result.no_new_privs and result.seccomp == "off" and result.seccomp_filters == 0
    own = {one.kind for one in result.namespaces if not one.is_hosts}
    assert own == {"net", "ipc"}
    assert "etc" in result.root and any(one.path == "/" for one in result.mounts)
    proc = next(one for one in result.mounts if one.path == "/proc")
    assert (proc.type, proc.is_writable, proc.is_mapped) == ("proc", True, False)
    limits = {one.name: (one.soft, one.hard) for one in result.limits}
    assert limits["open files"] == ("77", "99")
    assert limits["realtime priority"] == ("0", "0") and len(limits) == 16
    assert result.cgroups == ()
    text = jail.text("/run/pods/abc", result)
    assert "inheritable caps  none\n" in text
    assert "bounding caps     CAP_CHOWN CAP_MKNOD\n" in text
    assert "its own: net ipc; the host's: user mnt" in text
    assert json.loads(json.dumps(jail.as_json("/run/pods/abc", result)))["limits"]["open files"]["soft"] == "77"


def test_who_has_ended_has_nothing_in_force(confined: tuple[int, int]) -> None:
    pid, started = confined
    with pytest.raises(WrongState, match="has ended"):
        in_force.read(pid, started + 1)


def test_a_pod_on_the_host_has_no_jail(confined: tuple[int, int], tmp_path: Path) -> None:
    agent = tmp_path / "agent"
    agent.write_bytes(Path("/bin/sleep").read_bytes())
    agent.chmod(0o755)
    with subprocess.Popen([agent, "1000"]) as one:
        try:
            record = {"pid": one.pid, "start_time": process.start_time(one.pid), "console": ""}
            (tmp_path / "vm.json").write_text(json.dumps(record))
            while os.path.basename(os.readlink(f"/proc/{one.pid}/exe")) != "agent":
                assert one.poll() is None
            with pytest.raises(Unsupported, match="on the host"):
                jail.inspect(str(tmp_path))
        finally:
            one.kill()


def test_names_of_capabilities_are_the_kernels() -> None:
    assert in_force._names("1f") == ("CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID")
    assert in_force._names(f"{1 << 40 | 1 << 50:x}") == ("CAP_CHECKPOINT_RESTORE", "CAP_50")
    assert in_force._names("0") == ()


def test_mounts_with_odd_names_and_options() -> None:
    text = (
        r"36 35 98:0 / /a\040b rw,noatime,idmapped master:1 shared:2 - ext4 /dev/root rw,errors=continue" + "\n"
        "37 35 98:0 / /c rw - ext4 /dev/x ro\n"
        "38 35 98:0 / /d ro - tmpfs  rw\n"
    )
    assert in_force._mounts(text) == (
        in_force.Place("/a b", "ext4", True, True),
        in_force.Place("/c", "ext4", False, False),
        in_force.Place("/d", "tmpfs", False, False),
    )
