# SPDX-License-Identifier: Apache-2.0
"""rkt's pods as copies of a template, in real VMs: as pods that have booted, and when something is wrong with it."""

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from stage1.entry import templating
from stage1.guest.messages import List
from stage1.linux.flock import Lock
from stage1.rkt import connect, machine
from stage1.snapshot.format import decode
from stage1.snapshot.store import TemplateStore
from stage1.vm.vmm import find_unrecorded
from tests.fakes.patience import PATIENCE
from tests.rkt.conftest import Rig, Running, wait_until
from tests.rkt.stage0 import Done, Pod

pytestmark = [
    pytest.mark.vm,
    pytest.mark.timeout(300),
    pytest.mark.skipif(os.geteuid() != 0, reason="rkt mounts overlays, so its fake needs root"),
]
HOW = "grep -q clearpod.template /proc/cmdline && echo copy || echo booted"
FACTS = f"{HOW}; hostname; date +%s; head -c 16 /dev/urandom | od -An -tx1; cat /proc/sys/kernel/random/boot_id"


def collected(pod: Pod, so: Callable[[Done], object]) -> Done:
    """The answer of gc when it is `so`. One program of the machine makes templates at a time, perhaps another rkt's;
    others make none then and report nothing.
    """
    until = time.monotonic() + 60 * PATIENCE
    while not so(done := pod.gc(remove=False)):
        assert (done.code, done.stderr) == (0, "") and time.monotonic() < until, done
        time.sleep(0.1)
    assert done.code == 0
    return done


def is_there(top: Path) -> bool:
    """Whether the directory of templates has one."""
    return bool([*top.glob("*/manifest.json")])


def whole(top: Path) -> list[Path]:
    """What has a name there."""
    return [one for one in top.iterdir() if one.name != ".new"]


def nothing_is_in_the_making() -> bool:
    return not [*Path(templating.WORK, "pods").iterdir()]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory, small_stage1_image: Path, small_image: Path) -> Path:
    """The template of pods of one app without a network, made by the gc of the first one."""
    rig = Rig(tmp_path_factory.mktemp("kept"), small_stage1_image, small_image)
    try:
        top = rig.use_templates()
        first = rig.run([rig.sh("one", HOW)])
        assert first.finish() == (0, b"booted\n", b"")
        with Lock(templating._LOCK, limit_s=60 * PATIENCE):
            done = first.pod.gc(remove=False)
            assert (done.code, done.stderr, top.exists()) == (0, "", False), "another program is at work"
        assert collected(first.pod, lambda _: is_there(top)).stderr == ""
        (template,) = whole(top)
        wait_until(nothing_is_in_the_making)
        return template
    finally:
        rig.clean()


@pytest.fixture
def made(rig: Rig, kept: Path) -> Path:
    """The same of the test's own, as if it had been made here."""
    ram, state = kept / "ram", kept / "state"
    store = TemplateStore(str(rig.use_templates()))
    new = store.prepare(kept.name, ram.stat().st_size)
    for source, target in ((ram, new.ram), (state, new.state)):
        subprocess.run(["cp", "--sparse=always", source, target], check=True)
    store.commit(kept.name, decode((kept / "manifest.json").read_bytes(), of=str(kept)).made_of)
    return Path(store.top, kept.name)


def test_a_gc_waits_for_one_that_only_cleans_up(rig: Rig) -> None:
    """Or the first pod's gc would make no template, by chance."""
    top = rig.use_templates()
    first = rig.run([rig.sh("one", HOW)])
    assert first.finish()[0] == 0
    is_taken = threading.Event()

    def hold() -> None:
        with Lock(templating._LOCK, limit_s=60 * PATIENCE):
            is_taken.set()
            time.sleep(1)

    other = threading.Thread(target=hold)
    other.start()
    assert is_taken.wait(60 * PATIENCE)
    done = first.pod.gc(remove=False)
    other.join()
    assert (done.code, done.stderr, is_there(top)) == (0, "", True)


def test_a_template_has_three_files_and_nothing_else(kept: Path) -> None:
    assert sorted(os.listdir(kept)) == ["manifest.json", "ram", "state"]


def test_copies_at_once_have_names_clocks_and_random_numbers_of_their_own(rig: Rig, made: Path) -> None:
    pods = [rig.run([rig.sh("one", FACTS)], f"--hostname=host{number}") for number in range(2)]
    seen = []
    for number, running in enumerate(pods):
        code, out, err = running.finish()
        how, name, clock, *random = out.decode().splitlines()
        assert (code, err, how, name) == (0, b"", "copy", f"host{number}")
        assert abs(int(clock) - time.time()) < 60
        seen.append(random)
    assert not {*seen[0]} & {*seen[1]}
    assert [running.pod.gc().code for running in pods] == [0, 0] and made.exists()


def test_a_copy_takes_input_has_volumes_is_entered_and_stopped_and_has_its_apps_code(rig: Rig, made: Path) -> None:
    running = rig.run([rig.sh("one", "cat; exit 7")], "--interactive", stdin=subprocess.PIPE)
    much = os.urandom(100_000)
    code, out, _ = running.finish(much)
    assert (code, out == much, running.pod.status()) == (7, True, {"one": 7})
    running = rig.run([rig.sh("one", f"{HOW}; trap 'exit 17' TERM; while :; do sleep 0.1; done")])
    assert running.wait_for(b"\n") == b"copy\n"
    assert running.pod.enter("sh", "-c", "echo $0 inside; exit 3", app="one")[:2] == (3, "sh inside\n")
    assert running.pod.stop().code == 0 and running.finish()[0] == 17


def test_a_sandbox_becomes_a_copy_as_well(rig: Rig, made: Path) -> None:
    """It has a disk, so it is of another kind: it boots, and the next one is a copy."""
    for expected in ("booted", "copy"):
        running = rig.run([], "--mutable")
        pod = running.pod
        wait_until(pod.is_ready)
        assert pod.app_add(rig.sh("a", f"{{ {HOW}; }} > /how; sync; exec sleep 1000")).code == 0
        assert pod.app_start("a").code == 0
        wait_until(lambda: pod.enter("cat", "/how", app="a").stdout == f"{expected}\n")  # noqa: B023  waited for here
        assert pod.stop().code == 0 and running.finish()[0] == 0
        collected(pod, lambda _: len([*made.parent.glob("*/manifest.json")]) == 2)


def test_a_host_that_greets_a_copy_before_it_has_its_pod_is_answered(rig: Rig, made: Path) -> None:
    """The greeting waits in the socket when the VM begins, and the agent reads it before its launcher's word."""
    running = rig.run([rig.sh("one", f"{HOW}; exec sleep 1000")])
    wait_until(running.pod.is_ready)
    with connect.to_agent(running.pod.uuid, timeout_s=60) as client:
        assert client.call(List(), 20)
    assert running.wait_for(b"\n") == b"copy\n"
    assert running.pod.stop().code == 0 and running.finish()[0] == 143


@pytest.mark.parametrize("file", ["ram", "state", "manifest.json"])
def test_one_that_was_changed_is_not_used_and_the_pod_boots(rig: Rig, made: Path, file: str) -> None:
    os.chmod(made / file, 0o600)
    with (made / file).open("r+b") as damaged:
        damaged.write(b"\xff" * 4096)
    for lines in (1, 0):
        code, out, err = rig.run([rig.sh("one", HOW)]).finish()
        assert (code, out) == (0, b"booted\n") and err.decode().count("\n") == lines
        assert not lines or b"template" in err


def test_a_state_that_can_not_be_loaded_is_given_up_and_the_pod_boots(rig: Rig, made: Path) -> None:
    """As when QEMU refuses what it has written itself: sizes and times are right here."""
    state = (made / "state").read_bytes()
    before = os.stat(made / "state")
    os.chmod(made / "state", 0o600)
    (made / "state").write_bytes(state[: len(state) // 2] + b"\xff" * (len(state) - len(state) // 2))
    _forgive(made, before)
    code, out, err = rig.run([rig.sh("one", HOW)]).finish()
    assert (code, out) == (0, b"booted\n") and err.decode().count("\n") == 1 and str(made).encode() in err
    assert (made / "rejected").exists()


def _forgive(template: Path, before: os.stat_result) -> None:
    """Let the manifest have the file's new times."""
    after = os.stat(template / "state")
    manifest = template / "manifest.json"
    old, new = (f"{one.st_size} {one.st_mtime_ns} {one.st_ctime_ns}" for one in (before, after))
    text = manifest.read_text()
    assert old in text
    manifest.write_text(text.replace(old, new))


def test_an_app_that_asks_for_a_boot_gets_one_and_so_do_all_where_templates_are_forbidden(rig: Rig, made: Path) -> None:
    note = [{"name": "clearpod.io/template", "value": "none"}]
    assert rig.run([rig.sh("one", HOW)._replace(entry={"annotations": note})]).finish() == (0, b"booted\n", b"")
    made.parent.rename(made.parent.with_name("off"))
    made.parent.symlink_to("/dev/null")
    assert rig.run([rig.sh("one", HOW)]).finish() == (0, b"booted\n", b"")


def test_a_gc_that_is_killed_leaves_a_template_to_the_next_one(rig: Rig) -> None:
    top = rig.use_templates()
    pods = [rig.run([rig.sh("one", HOW)]) for _ in range(2)]
    assert [running.finish()[0] for running in pods] == [0, 0]
    while True:
        collecting = threading.Thread(target=pods[0].pod.gc, kwargs={"remove": False})
        collecting.start()
        wait_until(lambda: [*top.glob(".new/*/ram")] or not collecting.is_alive())  # noqa: B023  waited for here
        if [*top.glob(".new/*/ram")]:
            break
    pods[0].pod.processes[-1].kill()
    collecting.join()
    collected(pods[1].pod, lambda _: is_there(top))
    (template,) = whole(top)
    assert "manifest.json" in os.listdir(template)
    wait_until(nothing_is_in_the_making)
    assert rig.run([rig.sh("one", HOW)]).finish() == (0, b"copy\n", b"")


def test_where_the_disk_is_full_no_template_is_made_and_pods_boot(rig: Rig) -> None:
    top = rig.use_templates()
    top.mkdir(mode=0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", top], check=True)
    try:
        for _ in range(2):
            running = rig.run([rig.sh("one", HOW)])
            assert running.finish() == (0, b"booted\n", b"")
            done = collected(running.pod, lambda done: done.stderr)
            assert done.stderr.count("\n") == 1 and "template" in done.stderr and whole(top) == []
            wait_until(nothing_is_in_the_making)
    finally:
        subprocess.run(["umount", top], check=True)


def test_a_copy_that_is_killed_at_its_start_boots_or_ends_and_leaves_the_template(rig: Rig, made: Path) -> None:
    """Its launcher first, with which the VM ends; then the VM, in whose place the launcher boots another one. Where the
    copy has its pod by then, its start was over, and another one is tried.
    """
    while (running := _killed_at_its_start(rig, launcher=True)).process.poll() != -signal.SIGKILL:
        assert running.finish() == (0, b"copy\n", b"")
    assert running.finish()[1:] in ((b"", b""), (b"copy\n", b""))
    place = machine.place(running.pod.uuid)
    wait_until(lambda: not find_unrecorded(place))
    assert running.pod.gc().code == 0 and not Path(place).exists()
    assert rig.run([rig.sh("one", HOW)]).finish() == (0, b"copy\n", b"")
    while (ended := _killed_at_its_start(rig, launcher=False).finish())[1] != b"booted\n":
        assert ended[0] or ended[1] == b"copy\n", ended
    code, _, err = ended
    assert (code, err.count(b"\n")) == (0, 1) and str(made).encode() in err


def _killed_at_its_start(rig: Rig, *, launcher: bool) -> Running:
    """A pod of which its launcher, or its VM, was killed as soon as the VM was seen."""
    running = rig.run([rig.sh("one", HOW)])
    place = machine.place(running.pod.uuid)
    wait_until(lambda: find_unrecorded(place) or running.process.poll() is not None, pause_s=0)
    if launcher:
        running.process.kill()
        running.process.wait()
    elif vmm := find_unrecorded(place):
        vmm.kill()
    return running


def test_gc_finds_a_template_that_is_not_as_it_was_written(rig: Rig, made: Path) -> None:
    """Damage by the disk, which no size, time or inode tells."""
    running = rig.run([rig.sh("one", HOW)])
    assert running.finish() == (0, b"copy\n", b"")
    manifest = (made / "manifest.json").read_text()
    digest = json.loads(manifest)["files"]["ram"][1]
    (made / "manifest.json").write_text(manifest.replace(digest, "0" * len(digest)))
    os.utime(made / "state", (10_000, 10_000))
    done = collected(running.pod, lambda done: done.stderr)
    assert done.stderr.count("\n") == 1 and str(made) in done.stderr and "ram" in done.stderr
    assert not made.exists()


def test_a_template_that_can_not_be_made_is_reported_once_and_not_retried(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    top = rig.use_templates()
    pods = [rig.run([rig.sh("one", HOW)]) for _ in range(2)]
    assert [running.finish()[0] for running in pods] == [0, 0]
    program = tmp_path / "bin/qemu-system-x86_64"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    assert "template" in collected(pods[0].pod, lambda done: done.stderr).stderr
    second = pods[1].pod.gc()
    assert (second.code, second.stderr) == (0, ""), second
    (mark,) = whole(top)
    assert os.listdir(mark) == ["rejected"]
    wait_until(nothing_is_in_the_making)
