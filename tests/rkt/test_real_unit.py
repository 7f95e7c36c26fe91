# SPDX-License-Identifier: Apache-2.0
"""The unit of docs/user/rkt.md under Debian's real systemd, with the real rkt: an app that fails is started again, one
that is stopped is not.
"""

import os
import re
import shutil
import time
from pathlib import Path

import pytest

from tests.fakes.patience import PATIENCE
from tests.fakes.systemd_machine import SystemdMachine, why_not
from tests.rkt.real import RealRkt

pytestmark = [
    pytest.mark.rkt,
    pytest.mark.vm,
    pytest.mark.timeout(300),
    pytest.mark.skipif(os.geteuid() != 0, reason="rkt mounts overlays, so it needs root"),
]
DOCUMENT = (Path(__file__).parents[2] / "docs/user/rkt.md").read_text(encoding="utf-8")
LINE = """
echo one >> /data/starts
[ $(wc -l < /data/starts) -gt 1 ] || exit 3
trap "exit 0" TERM; echo up > /data/up; while :; do sleep 0.1; done
"""


def unit(rkt: RealRkt, *argv: str) -> str:
    """That of the document, with the tests' rkt, and `argv` instead of the pod that it names."""
    match = re.search(r"```ini\n(.*?)```", DOCUMENT, re.DOTALL)
    assert match
    text = match[1].replace("/usr/bin/rkt", " ".join([shutil.which("rkt") or "", *rkt.prefix[1:]]))
    more = f"[Service]\nEnvironment=PATH={os.environ['PATH']}\n"
    return re.sub(r"(?m)^(ExecStart=.*? run) .*$", lambda line: " ".join([line[1], *argv]), text) + more


def test_a_pod_whose_app_fails_is_started_again_by_systemd_and_one_that_is_stopped_is_not(
    rkt: RealRkt, app: Path, tmp_path: Path
) -> None:
    if lacks := why_not():
        pytest.skip(f"systemd can't be PID 1 of namespaces here: it {lacks}")
    data = tmp_path / "data"
    data.mkdir()
    (data / "line").write_text(LINE)
    flags = ["--net=none", f"--stage1-path={rkt.stage1}", f"--volume=data,kind=host,source={data}"]
    text = unit(rkt, *flags, "--volume=more,kind=empty", str(app), "--exec=/bin/sh", "--", "/data/line")
    with SystemdMachine(tmp_path, {"pod.service": text}) as machine:
        machine.systemctl("start", "pod.service")
        until = time.monotonic() + 120 * PATIENCE
        while not (data / "up").exists():
            assert time.monotonic() < until, machine.systemctl("status", "pod.service")
            time.sleep(0.1)
        assert machine.show("pod.service", "NRestarts") == "1", "code 3 is a failure"
        machine.systemctl("stop", "pod.service")
        assert machine.show("pod.service", "Result") == "success"
        assert (
            machine.show("pod.service", "ExecMainStatus") == "0" and machine.show("pod.service", "SubState") == "dead"
        )
        pods = machine.run("rkt", f"--dir={rkt.data}", "list", "--no-legend").stdout
        assert pods.count("exited") == 2 and "running" not in pods
        machine.run("rkt", f"--dir={rkt.data}", "gc", "--grace-period=0s")
    assert (data / "starts").read_text() == "one\n" * 2
