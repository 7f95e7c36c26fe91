# SPDX-License-Identifier: Apache-2.0
"""Each test that has to do with a hypervisor, on both: kvmtool where there is KVM, as in the lab, QEMU everywhere.

For the conftest.py of a folder to import. A test that is for one of them says which and why with the mark `only_on`.
"""

import pytest

from stage1.linux.host import QEMU, host_facts, which
from stage1.vm.choose import kvmtool_lacks

HYPERVISORS = {"qemu": (), "kvmtool": (pytest.mark.kvmtool,)}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Each test that uses the fixture `hypervisor`, once for each of the two."""
    if "hypervisor" not in metafunc.fixturenames:
        return
    only = metafunc.definition.get_closest_marker("only_on")
    names = [only.args[0]] if only else list(HYPERVISORS)
    params = [pytest.param(name, marks=HYPERVISORS[name]) for name in names]
    metafunc.parametrize("hypervisor", params, indirect=True, scope="session")


@pytest.fixture(scope="session")
def hypervisor(request: pytest.FixtureRequest) -> str:
    """Its name, qemu or kvmtool, and that it runs here."""
    name = str(request.param)
    if name == "kvmtool" and (lacks := kvmtool_lacks(host_facts())):
        pytest.skip("; ".join(lacks))
    if name == "qemu" and not which(QEMU):
        pytest.skip(f"needs {QEMU}: apt install qemu-system-x86")
    return name
