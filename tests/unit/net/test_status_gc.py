# SPDX-License-Identifier: Apache-2.0
"""STATUS and GC with fake plugins: who is asked, with what, and what their answers mean. Needs root."""

import json
import os
import re
import threading
import time
from pathlib import Path

import pytest

from stage1.net import attach, conflist, deferred, record, status_gc
from stage1.net.lock import AttachLock
from stage1.pod.model import Pod
from tests.fakes.cni import FakeCni
from tests.fakes.patience import PATIENCE

CHAIN = [{"type": "first", "x": 1}, {"type": "second", "capabilities": {"portMappings": True}}]


@pytest.fixture
def cni(tmp_path: Path) -> FakeCni:
    made = FakeCni(tmp_path / "cni")
    made.configure(CHAIN, "1.1.0")
    return made


def status(cni: FakeCni) -> str:
    network = conflist.find(cni.settings.conf_dir).network
    assert network is not None
    return status_gc.status(network, cni.settings)


def attached(cni: FakeCni, place: Path) -> str:
    pod = Pod(os.urandom(32).hex(), "web")
    (place / pod.id).mkdir()
    attach.attach(pod, f"{place}/{pod.id}", settings=cni.settings)
    cni.calls()
    return f"{place}/{pod.id}"


def test_status_asks_each_plugin_and_nothing_of_a_pod(cni: FakeCni) -> None:
    assert status(cni) == "" and cni.calls() == ["STATUS first", "STATUS second"]
    assert cni.given("second", "STATUS") == {"type": "second", "cniVersion": "1.1.0", "name": "fake"}


@pytest.mark.parametrize("version", ["0.4.0", "1.0.0"])
def test_plugins_of_an_older_network_are_not_asked(cni: FakeCni, version: str) -> None:
    cni.configure(CHAIN, version)
    assert status(cni) == "" and status_gc.collect_garbage(cni.settings) == () and cni.calls() == []


@pytest.mark.parametrize(
    "script, sentence",
    [
        ('echo \'{"code": 50, "msg": "no controller"}\'; exit 1', r"STATUS: no controller \(code 50\)"),
        ("exit 3", "STATUS: .*status 3 .*nothing"),
        ("sleep 60", "STATUS within 0.3 s .*killed"),
    ],
)
def test_a_plugin_that_is_not_ready_reports_why(cni: FakeCni, script: str, sentence: str) -> None:
    cni.trouble("second", "STATUS", script)
    cni.settings = cni.settings._replace(limit_s=0.3)
    assert re.search(f"CNI plugin 'second' .*'fake' .*{sentence}", status(cni))


def test_a_version_that_a_plugin_does_not_speak_is_noticed_before_the_first_pod(cni: FakeCni) -> None:
    cni.speaks("0.4.0", "1.0.0")
    text = status(cni)
    assert text.startswith("the CNI plugin 'first' supports versions 0.4.0, 1.0.0 and not 1.1.0, which network 'fake'")
    assert text.endswith("; change its cniVersion") and cni.calls() == []


def test_a_plugin_that_lists_no_versions_counts_as_ready(cni: FakeCni) -> None:
    cni.speaks()
    assert status(cni) == ""


def test_what_a_plugin_speaks_is_asked_once_and_again_when_it_was_replaced(cni: FakeCni) -> None:
    path = cni.root / "bin" / "first"
    assert status_gc.versions(str(path)) == ("0.4.0", "1.0.0", "1.1.0")
    cni.speaks("1.0.0")
    assert status_gc.versions(str(path))[-1] == "1.1.0"
    os.utime(path, ns=(1, 1))
    assert status_gc.versions(str(path)) == ("1.0.0",)
    assert status_gc.versions(f"{path}.absent") == ()


def test_garbage_is_all_but_what_pods_have(cni: FakeCni, tmp_path: Path) -> None:
    directory = attached(cni, tmp_path)
    pod_id = os.path.basename(directory)
    stray = [cni.root / "leases" / f"{name}-{'0' * 64}" for name in ("first", "second")]
    for path in stray:
        path.touch()
    assert status_gc.collect_garbage(cni.settings) == ()
    assert cni.calls() == ["GC first", "GC second"] and not any(path.exists() for path in stray)
    mine = [{"containerID": pod_id, "ifname": "eth0"}]
    given = cni.given("first", "GC")
    valid = given["cni.dev/valid-attachments"]
    assert valid == given["cni.dev/attachments"] and given["x"] == 1
    assert [one for one in valid if one["containerID"] in (pod_id, "0" * 64)] == mine
    assert sorted(os.listdir(cni.root / "leases")) == [f"first-{pod_id}", f"second-{pod_id}"]
    attach.detach(directory)


def test_a_network_whose_del_is_deferred_is_no_garbage_and_those_of_other_runtimes_neither(
    cni: FakeCni, tmp_path: Path
) -> None:
    directory = attached(cni, tmp_path)
    cni.trouble("second", "DEL", "exit 1")
    assert attach.detach(directory)
    results = Path(cni.settings.results_dir)
    results.mkdir()
    for network in ("fake", "other"):
        text = {"kind": "cniCacheV1", "containerId": "c1", "ifName": "eth0", "networkName": network}
        (results / f"{network}-c1-eth0").write_text(json.dumps(text))
    assert status_gc.collect_garbage(cni.settings) == ()
    valid = cni.given("second", "GC")["cni.dev/valid-attachments"]
    mine = [one["containerID"] for one in valid if one["containerID"] in (os.path.basename(directory), "c1")]
    assert sorted(mine) == sorted([os.path.basename(directory), "c1"])
    (results / "odd").write_text("{")
    assert status_gc.collect_garbage(cni.settings) == (
        f"garbage collection failed: {results}/odd is not a CNI attachment that can be read; repair or remove it",
    )
    cni.trouble("second", "DEL", "")
    for path in record.every(cni.settings.cache_dir).values():
        assert deferred.is_deferred(path)
        attach.detach_recorded(path)


def test_with_a_damaged_record_no_garbage_is_collected(cni: FakeCni) -> None:
    os.mkdir(cni.settings.cache_dir)
    path = Path(cni.settings.cache_dir, f"{'a' * 64}.json")
    path.write_text("{")
    (problem,) = status_gc.collect_garbage(cni.settings)
    assert problem.startswith("garbage collection failed: ") and str(path) in problem and cni.calls() == []


def test_a_configuration_may_forbid_it_and_a_failure_is_reported(cni: FakeCni) -> None:
    cni.trouble("first", "GC", "exit 4")
    (problem,) = status_gc.collect_garbage(cni.settings)
    assert "'first' of network 'fake' failed at GC" in problem and cni.calls() == ["GC first", "GC second"]
    cni.configure(CHAIN, "1.1.0", disableGC=True)
    assert status_gc.collect_garbage(cni.settings) == () and cni.calls() == []


def test_a_pod_that_is_being_attached_is_waited_for(cni: FakeCni) -> None:
    os.mkdir(cni.settings.cache_dir)
    done = threading.Event()

    def call_gc() -> None:
        status_gc.collect_garbage(cni.settings)
        done.set()

    with AttachLock(), AttachLock():
        thread = threading.Thread(target=call_gc)
        thread.start()
        time.sleep(0.3)
        assert not done.is_set() and cni.calls() == []
    thread.join(10 * PATIENCE)
    assert done.is_set() and cni.calls() == ["GC first", "GC second"]
