# SPDX-License-Identifier: Apache-2.0
"""Scopes of Debian's real systemd, over its own socket and over a real bus, without a VM: made, refused, kept at a
reload, many at once, and gone with their processes. tests/vm/test_pod_scope.py has them with VMs.
"""

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes import places
from tests.fakes.patience import PATIENCE
from tests.fakes.systemd_machine import SystemdMachine, why_not

REPO = Path(__file__).parents[2]
DEBIANS = Path("/usr/lib/systemd/system")
SLICE = "a-b.slice"
STEPS = """
import json, os, subprocess, sys, time
from concurrent.futures import ThreadPoolExecutor
from stage1.errors import PodError
from stage1.linux import cgroup, dbus, scope

LIMITS = cgroup.Limits(64 << 20, 50, 100000)
PATHS = [scope.inside("/sys/fs/cgroup/a.slice/a-b.slice", f"clearpod-{number}") for number in range(20)]
result = {"lack": dbus.why_not(), "wanted": scope.are_used("auto")}

def one(path):
    with scope.Keeper() as keeper:
        begun = time.monotonic()
        scope.begin([path], keeper.pid)
        spent = time.monotonic() - begun
        cgroup.make({"": path}, LIMITS)
        inside = open(f"/proc/{keeper.pid}/cgroup").read().strip().rpartition("0::")[2]
    scope.see_removed(path)
    return inside, spent

with scope.Keeper() as first:
    scope.begin(PATHS[:1], first.pid)
    os.system("systemctl daemon-reload")
    result["subtree"] = open(f"{scope.of(PATHS[0])}/cgroup.subtree_control").read().split()
    result["controllers"] = open(f"{scope.of(PATHS[0])}/cgroup.controllers").read().split()
    try:
        with scope.Keeper() as second:
            scope.begin(PATHS[:1], second.pid)
    except PodError as error:
        result["again"] = [error.grpc_code, str(error)]
killed = "from stage1.linux import scope; k = scope.Keeper(); k.__enter__(); scope.begin([sys.argv[1]], k.pid); "
dies = subprocess.run([sys.executable, "-c", f"import os, sys; {killed} os.kill(os.getpid(), 9)", PATHS[2]])
result["killed"] = dies.returncode
begun = time.monotonic()
scope.see_removed(PATHS[2])
result["gone_s"] = time.monotonic() - begun
with ThreadPoolExecutor(8) as pool:
    ended = list(pool.map(one, PATHS[1:]))
result["inside"] = sorted({inside.partition("clearpod-")[0] for inside, _ in ended})
result["ms"] = round(1000 * sorted(spent for _, spent in ended)[len(ended) // 2], 1)
scope.see_removed(PATHS[0])
result["left"] = [name for name in os.listdir("/sys/fs/cgroup/a.slice/a-b.slice") if name.startswith("clearpod")]
print(json.dumps(result))
"""


def bus_units() -> dict[str, str]:
    """Debian's units for the bus."""
    if not (shutil.which("dbus-daemon") and (DEBIANS / "dbus.service").exists()):
        pytest.skip("needs a bus: apt install dbus")
    return {name: (DEBIANS / name).read_text(encoding="utf-8") for name in ("dbus.service", "dbus.socket")}


@pytest.fixture(params=["private", "bus"])
def machine(request: pytest.FixtureRequest) -> Iterator[SystemdMachine]:
    if lacks := why_not():
        pytest.skip(f"systemd can't be PID 1 of namespaces here: it {lacks}")
    units = {SLICE: "[Slice]\n", **(bus_units() if request.param == "bus" else {})}
    with places.short_directory() as root, SystemdMachine(Path(root), units) as made:
        made.systemctl("start", SLICE, *(["dbus.socket", "dbus.service"] if request.param == "bus" else []))
        yield made


def test_scopes_are_made_refused_and_gone(machine: SystemdMachine) -> None:
    ran = machine.run("env", f"PYTHONPATH={REPO}", sys.executable, "-c", STEPS)
    assert ran.returncode == 0, ran.stderr
    output: dict[str, Any] = json.loads(ran.stdout)
    print(f"a scope takes {output['ms']} ms")
    assert (output["lack"], output["wanted"]) == ("", True)
    assert set(output["subtree"]) == set(output["controllers"])
    assert output["again"][0] == "FAILED_PRECONDITION" and "clearpod-0.scope" in output["again"][1]
    assert output["inside"] == ["/a.slice/a-b.slice/"] and output["left"] == []
    assert output["killed"] == -9 and output["gone_s"] < 5 * PATIENCE, (
        "whoever dies before the VMM is in, its scope goes"
    )
    units = ("list-units", "--all", "--plain", "--no-legend", "--type=scope", "clearpod-*")
    assert machine.systemctl(*units) == "" and machine.show(SLICE, "ActiveState") == "active"
    assert output["ms"] < 2000 * PATIENCE
