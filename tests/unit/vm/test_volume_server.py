# SPDX-License-Identifier: Apache-2.0
"""The server of volumes joined a VMM: what of the jail it gets, and what is said when it can't be started."""

from pathlib import Path

import pytest

from stage1.errors import VmFailed
from stage1.linux.idmap import Extent
from stage1.vm import jail, volume_server
from stage1.vm.jail import Joined
from stage1.vm.record import Record
from stage1.vm.vmm import VmProcess
from tests.unit.vm.test_argv import POD, QEMU, SHARES

SERVER, ROOT = "/g/volume-server", f"{POD}/share/volumes/sources"


def test_it_is_in_the_vmms_namespaces_and_cgroups_and_may_change_volumes_alone() -> None:
    launch = jail.Launch([SERVER, "10", ROOT], {}, (10,), filter="/g/filter", programs=(SERVER,))
    joined = Joined(4711, POD, ("/sys/fs/cgroup/one",), (Extent(0, 0x70010000, 65536),))
    fields = jail.describe_server(joined, launch, root=ROOT).decode().split("\0")
    assert {POD, "j4711", "n", "k10", "g/sys/fs/cgroup/one", "c0 1879113728 65536", "f/g/filter"} <= set(fields)
    changed = [one for one in fields if one.startswith("s") and int(one[1:].partition(":")[0], 16) & jail.TREE & 0b10]
    assert [one.partition(":")[2] for one in changed] == [ROOT]
    assert not [one for one in fields if one[:1] in "rmwvt" and one], "it brings no places and taps"


def test_its_program_is_seen_by_the_vmm_which_may_not_run_it(tmp_path: Path) -> None:
    program = tmp_path / "volume-server"
    program.touch()
    vm = QEMU._replace(shares=SHARES, volume_server=str(program))
    assert str(program) in {place.path for place in jail.places(vm)}
    assert not [path for path, _ in jail.rules(vm) if f"{program}/".startswith(f"{path}/")]


def test_a_vmm_without_a_port_for_it_is_named(tmp_path: Path) -> None:
    entry = Record(VmProcess(4711, 1, "")).with_server("/bin/sh")
    with pytest.raises(VmFailed, match=r"no port.*fuse\.sock"):
        volume_server.start(str(tmp_path), entry, cgroups=[], root=ROOT)


def test_without_the_program_it_is_named(tmp_path: Path) -> None:
    entry = Record(VmProcess(4711, 1, "")).with_server(f"{tmp_path}/volume-server")
    with pytest.raises(VmFailed, match=r"/volume-server .*images build"):
        volume_server.start(str(tmp_path), entry, cgroups=[], root=ROOT)
