# SPDX-License-Identifier: Apache-2.0
"""Attach and detach with fake plugins: the order, what the guest is told, and that nothing is leaked. Needs root."""

import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from stage1.errors import BadRequest, NetworkFailed
from stage1.linux import namespace, process, tun
from stage1.linux.netlink import Netlink
from stage1.net import attach, deferred, plugins, record
from stage1.pod.model import Pod
from stage1.pod.network import Interface, Neighbour, Route
from tests.fakes.cni import FakeCni
from tests.fakes.patience import PATIENCE

ORDER = ["ADD first", "ADD second", "DEL second", "DEL first"]


@pytest.fixture
def cni(tmp_path: Path) -> FakeCni:
    return FakeCni(tmp_path / "cni")


@pytest.fixture
def pod() -> Iterator[Pod]:
    """A pod of which no netns stays, whatever the test did."""
    made = Pod(os.urandom(32).hex(), "web")
    yield made
    namespace.remove_net(netns(made))


@pytest.fixture
def directory(tmp_path: Path) -> str:
    (tmp_path / "pod").mkdir()
    return f"{tmp_path}/pod"


def netns(pod: Pod) -> str:
    return f"/run/netns/clearpod-{pod.id}"


def test_the_guest_gets_what_the_plugins_made_and_nothing_stays(cni: FakeCni, pod: Pod, directory: str) -> None:
    seen = attach.attach(pod, directory, settings=cni.settings)
    assert seen is not None
    (eth0,) = [one for one in seen.interfaces if one.name == "eth0"]
    assert eth0 == Interface("eth0", eth0.mac, 1450, ("10.9.0.5/24", "fd09::5/64"), eth0.tap)
    assert seen.routes == (Route("0.0.0.0/0", "10.9.0.1", "eth0"),)
    assert seen.neighbours == (Neighbour("10.9.0.1", "02:00:00:00:00:01", "eth0"),)
    assert seen.ips == ("10.9.0.5", "fd09::5")
    assert attach.read(directory) == seen
    attach.detach(directory)
    attach.detach(directory)
    assert cni.calls() == ORDER
    assert cni.left_over() == [] and not os.path.exists(netns(pod)) and os.listdir(directory) == []


@pytest.mark.parametrize("may_spoof, kind", [(False, "bpf"), (True, "u32")])
def test_a_pod_sends_as_itself_unless_it_may_spoof(
    cni: FakeCni, pod: Pod, tmp_path: Path, *, may_spoof: bool, kind: str
) -> None:
    seen = attach.attach(pod._replace(allow_spoofing=may_spoof), str(tmp_path), settings=cni.settings)
    with namespace.inside_net(netns(pod)):
        for one in seen.interfaces if seen else ():
            shown = process.run(
                ["tc", "filter", "show", "dev", one.tap, "parent", "ffff:"], timeout_s=9 * PATIENCE
            ).stdout
            redirect, _, rest = shown.decode().partition("pref 2")
            assert f"pref 1 {kind}" in redirect and f"Redirect to device {one.name}" in redirect and "bpf" in rest
    attach.detach(str(tmp_path))


def test_each_plugin_gets_the_result_of_the_one_before_and_del_the_last(cni: FakeCni, pod: Pod, directory: str) -> None:
    attach.attach(pod, directory, settings=cni.settings)
    attach.detach(directory)
    result = json.loads((cni.root / "answer").read_text())
    assert "prevResult" not in cni.given("first", "ADD")
    for plugin, verb in (("second", "ADD"), ("second", "DEL"), ("first", "DEL")):
        assert cni.given(plugin, verb)["prevResult"] == result


def test_without_a_configuration_there_is_no_network_and_a_broken_one_is_an_error(
    cni: FakeCni, pod: Pod, directory: str
) -> None:
    (file,) = (cni.root / "net.d").iterdir()
    file.write_text("{")
    with pytest.raises(BadRequest, match=r"network: .*JSON"):
        attach.attach(pod, directory, settings=cni.settings)
    file.unlink()
    assert attach.attach(pod, directory, settings=cni.settings) is None
    assert os.listdir(directory) == [] and attach.read(directory) is None


def test_a_plugin_that_is_missing_is_named_before_anything_is_made(cni: FakeCni, pod: Pod, directory: str) -> None:
    (cni.root / "bin" / "second").unlink()
    with pytest.raises(BadRequest, match=r"CNI plugin 'second' .*'fake' .*install"):
        attach.attach(pod, directory, settings=cni.settings)
    assert cni.calls() == [] and cni.left_over() == [] and os.listdir(directory) == []


@pytest.mark.parametrize(
    "script, sentence",
    [
        ('echo \'{"code": 11, "msg": "no address is left"}\'; exit 1', "ADD: .*address .*code 11.$"),
        ("echo panic >&2; kill -SEGV $$", "ADD: panic$"),
        ("exit 3", "status 3 .*nothing$"),
        ("sleep 60", "ADD within 0.5 s .*killed$"),
        ("(sleep 60 &) ; sleep 60", "ADD within 0.5 s .*killed$"),
        ("echo '{\"ips\": 7}'; exit 0", 'ADD .*"ips" .*list'),
        ("echo '{'; exit 0", "ADD .*JSON"),
    ],
)
@pytest.mark.parametrize("plugin", ["first", "second"])
def test_when_a_plugin_fails_the_whole_chain_is_undone(
    cni: FakeCni, pod: Pod, directory: str, plugin: str, script: str, sentence: str
) -> None:
    cni.trouble(plugin, "ADD", script)
    settings = cni.settings._replace(limit_s=0.5)
    with pytest.raises(NetworkFailed, match=f"CNI plugin '{plugin}' .*'fake' .*{sentence}"):
        attach.attach(pod, directory, settings=settings)
    assert cni.calls() == ORDER[: 1 + (plugin == "second")] + ORDER[2:]
    assert cni.left_over() == [] and not os.path.exists(netns(pod)) and os.listdir(directory) == []


def test_a_plugin_that_hangs_is_killed_with_its_children(cni: FakeCni, pod: Pod, directory: str) -> None:
    cni.trouble("first", "ADD", f"sleep 61 & echo $! > {cni.root}/child; sleep 62")
    with pytest.raises(NetworkFailed, match=r"ADD within 1 s .*killed"):
        attach.attach(pod, directory, settings=cni.settings._replace(limit_s=1.0))
    child = Path("/proc", (cni.root / "child").read_text().strip(), "cmdline")
    for _ in range(100):
        if not child.exists() or not child.read_bytes():
            break
        time.sleep(0.05)
    assert not child.exists() or not child.read_bytes(), "gone, or a zombie of whoever reaps here"
    assert cni.left_over() == []


def test_check_asks_each_plugin_with_the_result_unless_the_configuration_forbids_it(
    cni: FakeCni, pod: Pod, directory: str
) -> None:
    attach.check(directory)
    attach.attach(pod, directory, settings=cni.settings)
    cni.calls()
    attach.check(directory)
    assert cni.calls() == ["CHECK first", "CHECK second"]
    assert cni.given("second", "CHECK")["prevResult"] == json.loads((cni.root / "answer").read_text())
    cni.trouble("second", "CHECK", 'echo \'{"code": 4, "msg": "route is gone"}\'; exit 1')
    with pytest.raises(NetworkFailed, match=r"'second' .*'fake' .*CHECK: route is gone .code 4."):
        attach.check(directory)
    attach.detach(directory)
    file = cni.root / "net.d" / "10.conflist"
    file.write_text(json.dumps({**json.loads(file.read_text()), "disableCheck": True}))
    attach.attach(pod, directory, settings=cni.settings)
    cni.calls()
    attach.check(directory)
    assert cni.calls() == []
    attach.detach(directory)


def test_a_del_that_fails_is_reported_and_can_be_tried_again(cni: FakeCni, pod: Pod, directory: str) -> None:
    attach.attach(pod, directory, settings=cni.settings)
    cni.trouble("second", "DEL", 'echo \'{"code": 5, "msg": "not now"}\'; exit 1')
    with pytest.raises(NetworkFailed, match=r"CNI plugin 'second' .*DEL: not now .code 5."):
        attach.detach(directory, tries=2)
    assert "DEL first" in cni.calls(), "the others are done all the same"
    assert os.path.exists(netns(pod)), "the netns is needed for another try"
    cni.trouble("second", "DEL", "")
    attach.detach(directory)
    assert cni.left_over() == [] and not os.path.exists(netns(pod))


def test_a_failed_rollback_is_reported_with_the_first_error_and_stays_recorded(
    cni: FakeCni, pod: Pod, directory: str
) -> None:
    cni.trouble("second", "ADD", "exit 1")
    cni.trouble("second", "DEL", "exit 1")
    with pytest.raises(NetworkFailed, match="failed at ADD") as caught:
        attach.attach(pod, directory, settings=cni.settings)
    assert "is retried later" in caught.value.__notes__[0]
    assert os.listdir(directory) == [] and not os.path.exists(netns(pod))
    (path,) = record.every(cni.settings.cache_dir).values()
    assert deferred.is_deferred(path)
    cni.trouble("second", "DEL", "")
    attach.detach_recorded(path)
    assert cni.left_over() == []


def test_after_some_tries_the_pod_is_removed_and_its_del_deferred(cni: FakeCni, pod: Pod, directory: str) -> None:
    attach.attach(pod, directory, settings=cni.settings)
    cni.trouble("second", "DEL", "exit 1")
    for _ in range(2):
        with pytest.raises(NetworkFailed, match="failed at DEL"):
            attach.detach(directory, tries=3)
    assert attach.read(directory) is not None, "the pod still has it"
    warning = attach.detach(directory, tries=3)
    assert warning.startswith(f"the network of pod {pod.id} could not be released and is retried later: the CNI ")
    assert attach.detach(directory, tries=3) == "" and os.listdir(directory) == []
    assert not os.path.exists(netns(pod))
    (path,) = record.every(cni.settings.cache_dir).values()
    with pytest.raises(NetworkFailed):
        attach.detach_recorded(path)
    cni.trouble("second", "DEL", "")
    cni.calls()
    attach.detach_recorded(path)
    assert cni.calls() == ["DEL second"], "the other has done its part"
    assert "inet 10.9.0.5/24" in (cni.root / "seen").read_text(), "a stand-in has the addresses"
    assert cni.left_over() == [] and not os.path.exists(netns(pod))


def test_a_plugin_that_was_uninstalled_keeps_no_pod(cni: FakeCni, pod: Pod, directory: str) -> None:
    attach.attach(pod, directory, settings=cni.settings)
    plugin = cni.root / "bin" / "first"
    plugin.rename(cni.root / "aside")
    warning = attach.detach(directory, tries=3)
    assert "the CNI plugin 'first' of network 'fake' is not in" in warning
    assert cni.calls()[2:] == ["DEL second"], "the others are done all the same"
    (cni.root / "aside").rename(plugin)
    for path in record.every(cni.settings.cache_dir).values():
        attach.detach_recorded(path)
    assert cni.left_over() == []


def test_a_real_failure_with_a_missing_plugin_is_worth_another_try(cni: FakeCni, pod: Pod, directory: str) -> None:
    attach.attach(pod, directory, settings=cni.settings)
    (cni.root / "bin" / "first").rename(cni.root / "aside")
    cni.trouble("second", "DEL", "exit 1")
    with pytest.raises(NetworkFailed, match=r"'second' .*'fake' .*DEL"):
        attach.detach(directory, tries=3)
    cni.trouble("second", "DEL", "")
    (cni.root / "aside").rename(cni.root / "bin" / "first")
    attach.detach(directory)
    assert cni.left_over() == []


def test_a_del_that_fails_without_the_netns_keeps_no_pod(cni: FakeCni, pod: Pod, directory: str) -> None:
    attach.attach(pod, directory, settings=cni.settings)
    namespace.remove_net(netns(pod))
    cni.trouble("second", "DEL", "exit 1")
    warnings = attach.detach(directory, tries=3)
    assert "'second'" in warnings and "'fake'" in warnings and "DEL" in warnings
    cni.trouble("second", "DEL", "")
    for path in record.every(cni.settings.cache_dir).values():
        attach.detach_recorded(path)
    assert cni.left_over() == [] and not os.path.exists(netns(pod))


def test_a_record_that_was_not_written_to_its_end_goes_with_the_others(cni: FakeCni) -> None:
    cache = Path(cni.settings.cache_dir)
    cache.mkdir()
    for name in ("aa.json", "aa.json.123456~", "bb.json.654321~", "notes.txt", ".json", "~"):
        (cache / name).write_text("")
    actual = record.every(str(cache))
    assert actual == {"aa": f"{cache}/aa.json", "bb": f"{cache}/bb.json"}
    record.forget(actual["bb"])
    record.forget(actual["aa"])
    record.forget(actual["aa"])
    assert sorted(os.listdir(cache)) == [".json", "notes.txt", "~"]


class Killed(BaseException):
    """Stands for the death of the process: nothing may catch it and undo."""


@pytest.mark.parametrize("step", range(9))
def test_whatever_the_step_of_death_the_directory_is_enough_to_remove_all(
    cni: FakeCni, pod: Pod, directory: str, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each step that changes something is a call of one of these five; the process dies before the n-th."""
    count = 0

    def dying(real):  # type: ignore[no-untyped-def]
        def call(*args, **kwargs):  # type: ignore[no-untyped-def]
            nonlocal count
            count += 1
            if count == step + 1:
                raise Killed
            return real(*args, **kwargs)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(attach, "_undo", lambda *_: None)
        steps = ((record, "save"), (record, "link"), (namespace, "make_net"), (tun, "make_tap"), (Netlink, "ask"))
        for where, name in steps:
            patch.setattr(where, name, dying(getattr(where, name)))
        with pytest.raises(Killed):
            attach.attach(pod, directory, settings=cni.settings)
    for path in record.every(cni.settings.cache_dir).values() if step < 2 else ():
        attach.detach_recorded(path)  # as the sweep does
    attach.detach(directory)
    attach.detach(directory)
    assert cni.left_over() == [] and not os.path.exists(netns(pod)) and os.listdir(directory) == []


@pytest.mark.parametrize("step", range(5))
def test_whatever_the_step_of_death_in_del_another_call_removes_all(
    cni: FakeCni, pod: Pod, directory: str, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    attach.attach(pod, directory, settings=cni.settings)
    count = 0

    def dying(real):  # type: ignore[no-untyped-def]
        def call(*args, **kwargs):  # type: ignore[no-untyped-def]
            nonlocal count
            count += 1
            if count == step + 1:
                raise Killed
            return real(*args, **kwargs)

        return call

    with monkeypatch.context() as patch:
        for where, name in ((plugins.process, "run"), (namespace, "remove_net"), (record, "forget")):
            patch.setattr(where, name, dying(getattr(where, name)))
        with pytest.raises(Killed):
            attach.detach(directory)
    attach.detach(directory)
    assert cni.left_over() == [] and not os.path.exists(netns(pod)) and os.listdir(directory) == []


def test_a_del_that_is_done_is_not_done_again(
    cni: FakeCni, pod: Pod, directory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its address may be another pod's by then, and some plugins know a pod's rules by the address alone."""
    attach.attach(pod, directory, settings=cni.settings)
    with monkeypatch.context() as patch:
        patch.setattr(namespace, "remove_net", lambda _: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            attach.detach(directory)
    namespace.remove_net(netns(pod))
    assert cni.calls() == ORDER
    attach.detach(directory)
    assert cni.calls() == [] and cni.left_over() == []


def test_the_record_alone_is_enough_after_a_reboot(cni: FakeCni, pod: Pod, directory: str) -> None:
    attach.attach(pod, directory, settings=cni.settings)
    namespace.remove_net(netns(pod))
    os.unlink(f"{directory}/cni.json")
    for path in record.every(cni.settings.cache_dir).values():
        attach.detach_recorded(path)
    assert cni.calls() == ORDER and cni.left_over() == [] and not os.path.exists(netns(pod))


def test_a_netns_that_was_deleted_is_replaced_for_del_with_the_same_addresses(
    cni: FakeCni, pod: Pod, directory: str
) -> None:
    attach.attach(pod, directory, settings=cni.settings)
    namespace.remove_net(netns(pod))
    attach.detach(directory)
    assert "eth0    inet 10.9.0.5/24" in (cni.root / "seen").read_text() and cni.left_over() == []


def test_odd_but_valid_results_are_understood(cni: FakeCni, pod: Pod, directory: str) -> None:
    """No result's addresses at all: then those on the device count; a second device is the guest's too."""
    cni.answer({"interfaces": None, "ips": None, "routes": None, "dns": {"nameservers": ["10.9.0.2"]}, "more": 1})
    seen = attach.attach(pod, directory, settings=cni.settings)
    assert seen is not None and seen.ips == ("10.9.0.5", "fd09::5") and seen.dns_servers == ("10.9.0.2",)
    assert {one.name for one in seen.interfaces} == {"eth0", "peer0"}
    attach.detach(directory)


def test_twenty_pods_at_once_get_networks_and_leave_nothing(cni: FakeCni, tmp_path: Path) -> None:
    pods = [Pod(os.urandom(32).hex(), f"p{n}") for n in range(20)]
    seen: list[object] = []

    def one(pod: Pod) -> None:
        place = tmp_path / pod.id
        place.mkdir()
        seen.append(attach.attach(pod, str(place), settings=cni.settings))
        attach.detach(str(place))

    threads = [threading.Thread(target=one, args=(pod,)) for pod in pods]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([network for network in seen if network]) == 20
    assert cni.left_over() == [] and not any(os.path.exists(netns(pod)) for pod in pods)
