# SPDX-License-Identifier: Apache-2.0
"""Runs each test that has to do with a hypervisor on both: kvmtool where there is KVM, as in the lab, QEMU everywhere.

For the conftest.py of a folder to import. A test for one of them names it with the reason by the mark `only_on`.
"""

import pytest

from stage1.vm import hypervisors, kvmtool
from stage1.vm.choose import lacks

HYPERVISORS = {
    one.name: (pytest.mark.kvmtool,) if one is kvmtool.HYPERVISOR else () for one in reversed(hypervisors.ALL)
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Each test that uses the fixture `hypervisor`, once for each of them."""
    if "hypervisor" not in metafunc.fixturenames:
        return
    only = metafunc.definition.get_closest_marker("only_on")
    names = [only.args[0]] if only else list(HYPERVISORS)
    params = [pytest.param(name, marks=HYPERVISORS[name]) for name in names]
    metafunc.parametrize("hypervisor", params, indirect=True, scope="session")


@pytest.fixture(scope="session")
def hypervisor(request: pytest.FixtureRequest) -> str:
    """Its name, and that it runs here."""
    name = str(request.param)
    one = next(one for one in hypervisors.ALL if one.name == name)
    if missing := lacks(one, hypervisors.facts()):
        pytest.skip("; ".join(missing))
    return name
