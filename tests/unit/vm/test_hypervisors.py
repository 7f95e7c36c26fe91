# SPDX-License-Identifier: Apache-2.0
"""What is listed is used everywhere: a third hypervisor is chosen, planned, started, recognised and checked for."""

from pathlib import Path

import pytest

from cri.cli.check.facts import Facts
from cri.cli.check.requirements import FAIL, OK, evaluate
from cri.config import parse
from stage1 import engine, machine
from stage1.errors import BadRequest, NotFound
from stage1.linux.host import HostFacts
from stage1.pod.model import Pod
from stage1.vm import hypervisors
from stage1.vm.choose import choose
from stage1.vm.spec import SerialLink
from stage1.vm.starter import ProcessVmm
from stage1.vm.vmm import is_vmm
from tests.fakes import third_hypervisor

POD = Pod("0123abcd" * 8, "web")
THIRD = third_hypervisor.HYPERVISOR
SCRIPT = '#!/bin/sh\necho "$THIRD $@"\nexec sleep 60\n'


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one line."""
    monkeypatch.setattr(hypervisors, "ALL", (*hypervisors.ALL, THIRD))


@pytest.fixture
def facts(listed: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HostFacts:
    """A host with its program and no other's."""
    program = tmp_path / "bin/third-vmm"
    program.parent.mkdir()
    program.write_text(SCRIPT)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    result = hypervisors.facts()
    return result._replace(programs={"third": result.programs["third"]})


def test_it_is_chosen_on_request_and_where_there_is_no_other(facts: HostFacts) -> None:
    assert choose("auto", facts).hypervisor is choose("third", facts).hypervisor is THIRD
    assert parse('vm.hypervisor = "third"').vm.hypervisor == "third"


def test_it_is_named_where_another_name_is_refused_and_where_none_can_run(facts: HostFacts) -> None:
    with pytest.raises(BadRequest, match="third"):
        choose("fourth", facts)
    with pytest.raises(NotFound, match=r"Third .*: .*write it"):
        choose("third", facts._replace(programs={"third": THIRD.find()._replace(lack="none", remedy="write it")}))


def test_its_vm_has_its_kernel_filter_and_link_and_is_started_by_its_command_line(
    facts: HostFacts, tmp_path: Path, jailer: str
) -> None:
    guest = tmp_path / "guest"
    guest.mkdir()
    for name in ("Image", "initramfs", "system.erofs"):
        (guest / name).write_bytes(b"x")
    host = engine.Host(str(tmp_path / "run"), str(guest), str(tmp_path), choose("third", facts), scratch_mib=0)
    vm = machine.vm_spec(POD, host, directory=str(tmp_path))
    assert (vm.hypervisor, vm.link, vm.dax) == (THIRD, SerialLink(f"{tmp_path}/agent.sock"), None)
    assert (vm.kernel, vm.filter) == (f"{guest}/Image", f"{guest}/seccomp-third.bpf")
    vmm = ProcessVmm(watch_s=0).start(vm._replace(shares=(), jailer=jailer, filter=""))
    try:
        while not vmm.console_tail():
            assert vmm.alive()
        assert vmm.console_tail().startswith(f"{vm.name} {vm.kernel} {POD.memory_mib}M clearpod.link=serial")
        assert is_vmm(vm.binary)
    finally:
        vmm.kill()


def test_check_has_a_line_for_it(facts: HostFacts) -> None:
    absent = facts._replace(programs={"third": facts.programs["third"]._replace(lack="it is gone", remedy="write it")})
    for given, status in ((facts, OK), (absent, FAIL)):
        assert next(item for item in evaluate(Facts(given)) if item.name == "Third").status == status
