# SPDX-License-Identifier: Apache-2.0
"""rkt pods whose guest has systemd: apps are its units, and the host reads its journal."""

import json
import os
import subprocess
from collections.abc import Callable

import pytest

from stage1.pod.profile import WORD
from tests.rkt import conftest
from tests.rkt.conftest import Rig, Running
from tests.rkt.images import AppSpec
from tests.rkt.stage0 import Pod

pytestmark = [
    pytest.mark.vm,
    pytest.mark.timeout(300),
    pytest.mark.skipif(os.geteuid() != 0, reason="rkt mounts overlays, so its fake needs root"),
]
LASTING = "trap 'echo told; exit 3' TERM; echo up; while :; do sleep 0.1; done"


def run(rig: Rig, apps: list[AppSpec], *, profile: str = "systemd", mutable: bool = False) -> Running:
    note = {"name": WORD, "value": profile}
    pod = rig.rkt.prepare(apps, mutable=mutable, annotations=[note])
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return Running(pod, pod.run(net="none", **streams))


def entries(pod: Pod) -> list[dict[str, str]]:
    """The journal, as read from its files on the host."""
    place = pod.root / "var" / "log" / "journal" / pod.uuid.replace("-", "")
    argv = ["journalctl", "-D", place, "-o", "json", "--all", "--no-pager"]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def output_of(pod: Pod, app: str) -> list[str]:
    return [one["MESSAGE"] for one in entries(pod) if one.get("_SYSTEMD_UNIT") == f"app@{app}.service"]


def wait_until(what: Callable[[], object]) -> None:
    """To read the journal is to start a program: four times in a second are enough."""
    conftest.wait_until(what, pause_s=0.25)


def systemctl(pod: Pod, *arguments: str) -> str:
    done = pod.enter("systemctl", *arguments, app="guest")
    return f"{done.code}: {done.stdout}{done.stderr}"


def shown(pod: Pod, app: str, *names: str) -> list[str]:
    """Properties of the app's unit, in the order of `names`."""
    out = pod.enter("systemctl", "show", *(f"-p{name}" for name in names), f"app@{app}", app="guest").stdout
    result = dict(line.split("=", 1) for line in out.splitlines())
    return [result[name] for name in names]


def test_two_apps_are_units_and_write_into_a_journal_that_the_host_reads(rig: Rig) -> None:
    running = run(rig, [rig.sh("one", LASTING), rig.sh("two", "echo out; echo wrong >&2; sleep 2; exit 0")])
    pod = running.pod
    running.wait_for(b"up")
    assert shown(pod, "one", "ActiveState", "SubState") == ["active", "running"]
    wait_until(lambda: output_of(pod, "two") == ["out", "wrong"])
    wait_until(lambda: pod.status() == {"two": 0})
    assert systemctl(pod, "kill", "--signal=KILL", "systemd-journald").startswith("0: ")
    wait_until(lambda: [one["MESSAGE"] for one in entries(pod)].count("Journal started") == 2)
    assert shown(pod, "two", "ActiveState", "Result") == ["inactive", "success"]
    systemctl(pod, "stop", "--no-block", "app@one")  # with it the pod ends, maybe before that is answered
    code, _, err = running.finish()
    assert code == 3 and b"app one" in err and pod.status() == {"one": 3, "two": 0}
    assert output_of(pod, "one") == ["up", "told"]


def test_what_is_killed_inside_ends_as_everywhere(rig: Rig) -> None:
    apps = [rig.sh(name, LASTING) for name in ("signalled", "orphaned", "last")]
    pod = run(rig, apps, mutable=True).pod
    assert pod.wait_ready()
    wait_until(lambda: all(output_of(pod, app.name) == ["up"] for app in apps))
    assert systemctl(pod, "kill", "--kill-whom=main", "--signal=TERM", "app@last").startswith("0: ")
    main = shown(pod, "orphaned", "MainPID")[0]
    assert systemctl(pod, "kill", "--signal=KILL", "app@signalled").startswith("0: ")
    assert systemctl(pod, "kill", "--kill-whom=main", "--signal=KILL", "app@orphaned").startswith("0: ")
    wait_until(lambda: pod.status() == {"signalled": 137, "orphaned": 137, "last": 3})
    assert main != "0" and shown(pod, "orphaned", "Result", "ActiveState") == ["signal", "failed"]
    assert shown(pod, "orphaned", "ControlGroup") == [""], "nothing of it is left"
    assert systemctl(pod, "start", "app@last").startswith("1: "), "only the pod starts its apps"
    started = pod.app_start("last")
    assert started.code == 0, started
    wait_until(lambda: output_of(pod, "last") == ["up", "told", "up"])
    refused = systemctl(pod, "poweroff")
    assert "masked" in refused and not refused.startswith("0: ")
    gone = pod.app_rm("orphaned")
    assert gone.code == 0 and "app@orphaned" not in systemctl(pod, "list-units", "--all")
    assert pod.stop().code == 0 and pod.status() == {"signalled": 137, "last": 3}


def test_the_pod_ends_with_the_agent(rig: Rig) -> None:
    running = run(rig, [rig.sh("one", LASTING)])
    running.wait_for(b"up")
    running.pod.enter("systemctl", "kill", "--signal=KILL", "clearpod-agent", app="guest")
    code, _, err = running.finish()
    assert code == 254 and b"KILL" in err
