# SPDX-License-Identifier: Apache-2.0
"""Immutable pods of rkt's in real VMs: what the apps wrote, how they ended, and what rkt sees of it."""

import os
import pty
import select
import subprocess
import termios
from pathlib import Path

import pytest

from stage1.rkt import machine
from stage1.vm import vmm
from tests.fakes.patience import PATIENCE
from tests.rkt.conftest import RUN, Rig, Running, wait_until
from tests.vm.agent_machine import GUEST_DIR

pytestmark = [
    pytest.mark.vm,
    pytest.mark.timeout(300),
    pytest.mark.skipif(os.geteuid() != 0, reason="rkt mounts overlays, so its fake needs root"),
]
ON_DISK = [{"name": "clearpod.io/root", "value": "disk"}]


def handlers(**lines: str) -> list[dict[str, object]]:
    return [{"name": name.replace("_", "-"), "exec": ["/bin/sh", "-c", line]} for name, line in lines.items()]


def read_terminal(fd: int, until: bytes) -> bytes:
    result = b""
    while until not in result:
        assert select.select([fd], [], [], 60)[0], result
        result += os.read(fd, 4096)
    return result


def test_a_pod_ends_with_its_apps_and_its_handlers_have_run(rig: Rig) -> None:
    events = handlers(pre_start="echo before; echo $PPID > /pre", post_stop="test -e /pre && echo after")
    apps = [
        rig.sh("one", "test -e /pre && echo one; echo wrong >&2; echo kept > /new; sync", eventHandlers=events),
        rig.sh("two", "id -u; hostname; echo $HOME", user="web", group="web"),
    ]
    running = rig.run(apps, "--hostname=here")
    code, out, err = running.finish()
    lines = out.decode().split("\n")
    assert code == 0 and err == b"wrong\n"
    assert [line for line in lines if line in ("before", "one", "after")] == ["before", "one", "after"]
    assert "1000" in lines and "here" in lines
    assert running.pod.status() == {"one": 0, "two": 0} and running.pod.state() == "exited"
    assert (running.pod.app_root("one") / "new").read_text() == "kept\n"
    hosts = running.pod.app_root("one") / "etc" / "hosts"
    assert hosts.stat().st_mode & 0o7777 == 0o644, "the host makes what is mounted over; crun's has 0700"
    assert (running.pod.dir / "overlay" / rig.image.tree / "upper" / "one" / "new").exists()


def test_an_app_that_fails_ends_the_pod_with_its_code(rig: Rig) -> None:
    apps = [
        rig.sh("slow", "trap 'echo told; exit 3' TERM; echo up; while :; do sleep 0.1; done"),
        rig.sh("bad", "sleep 1; kill -9 $$"),
    ]
    running = rig.run(apps)
    code, out, err = running.finish()
    assert (code, out) == (137, b"up\ntold\n") and b"app bad" in err and b"137" in err
    assert running.pod.status() == {"slow": 3, "bad": 137}


def test_empty_volumes_and_roots_are_on_a_disk_of_the_pods_and_begin_as_they_should(rig: Rig) -> None:
    """Volumes with owner and mode, read-only where an app wants that, and with what a Docker image has there. A root
    that is on the disk is that of its handlers too, and none of the host's.
    """
    (rig.image.root / "srv").mkdir(exist_ok=True)
    (rig.image.root / "srv" / "file").write_text("of the image\n")
    from_docker = rig.image._replace(name="example.com/docker", annotations={"appc.io/docker/repository": "x"})
    shared = {"name": "v", "kind": "empty", "mode": "0750", "uid": 1000, "gid": 7}
    first = (
        "grep -q ' /v ext4' /proc/self/mounts && ls -ldn /v && echo mine > /v/file && cat /srv/file && echo > /srv/new"
    )
    events = handlers(pre_start="cp /etc/passwd /made", post_stop="cat /told")
    second = "cp /made /told; while ! cat /v/file; do sleep 0.1; done 2>/dev/null; echo y > /v/file || exit 9"
    one = rig.sh("one", first, mountPoints=[{"name": "s", "path": "/srv"}])._replace(image=from_docker)
    apps = [
        one._replace(entry={"mounts": [{"volume": "v", "path": "/v"}]}),
        rig.sh(
            "two", second, mountPoints=[{"name": "v", "path": "/v", "readOnly": True}], eventHandlers=events
        )._replace(entry={"annotations": ON_DISK}),
    ]
    pod = rig.rkt.prepare(apps, volumes=[shared])
    running = Running(pod, pod.run(net="none", stdin=-3, stdout=-1, stderr=-1))
    code, out, err = running.finish()
    lines = out.decode().splitlines()
    assert (code, pod.status()) == (9, {"one": 0, "two": 9}), (out, err)
    assert {"of the image", "mine", "web:x:1000:1000::/:/bin/sh"} <= {*lines}
    assert not (pod.app_root("two") / "made").exists() and not (pod.app_root("two") / "told").exists()
    assert any(line.startswith("drwxr-x---") and " 1000 " in line and " 7 " in line for line in lines)
    assert os.listdir(pod.dir / "sharedVolumes" / "v") == [] and [*(pod.dir / "scratch").iterdir()]
    assert pod.gc().code == 0 and pod.state() == "gone"


def test_an_app_reads_its_limits_in_its_cgroup_and_can_not_change_them(rig: Rig) -> None:
    limits = [
        {"name": "resource/memory", "value": {"limit": "100Mi"}},
        {"name": "resource/cpu", "value": {"limit": "500m"}},
    ]
    line = "cd /sys/fs/cgroup && cat memory.max cpu.max; ls /sys/fs; echo 1 > memory.max || echo kept"
    running = rig.run([rig.sh("one", line, isolators=limits)])
    code, out, err = running.finish()
    assert code == 0, err
    shown = [one.split(b"one[", 1)[-1].split(b"]: ", 1)[-1] for one in out.splitlines()]
    assert shown == [str(100 << 20).encode(), b"50000 100000", b"cgroup", b"kept"], err


def test_a_command_that_can_not_be_run_is_reported_as_missing(rig: Rig) -> None:
    running = rig.run([rig.sh("one", "", exec=["/bin/busybox-of-another-kind"])])
    code, _, err = running.finish()
    assert code == 127 and b"busybox-of-another-kind" in err and running.pod.status() == {}


def test_input_through_a_pipe_and_a_code_of_the_apps_own_without_overlay(rig: Rig) -> None:
    much = os.urandom(200_000)
    app = rig.sh("one", "cat; exit 7")
    read_only = app._replace(entry={"readOnlyRootFS": True})
    running = rig.run([read_only], "--interactive", overlay=False, stdin=-1)
    code, out, _ = running.finish(much)
    assert (code, out == much, running.pod.status()) == (7, True, {"one": 7})


def test_a_terminal_of_the_callers(rig: Rig) -> None:
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (25, 100))
    before = termios.tcgetattr(theirs)
    running = rig.run([rig.sh("one", "stty size; read x; echo got $x; exit 5")], "--interactive",
                       stdin=theirs, stdout=theirs, stderr=theirs)  # fmt: skip
    read_terminal(ours, b"25 100\r\n")
    os.write(ours, b"words\r")
    read_terminal(ours, b"got words\r\n")
    assert running.process.wait(60 * PATIENCE) == 5 and termios.tcgetattr(theirs) == before
    os.close(ours), os.close(theirs)


def enter_on_a_terminal(running: Running) -> None:
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (30, 90))
    line = "stty size; read x; echo got $x; exit 6"
    process = running.pod.start_enter("sh", "-c", line, stdin=theirs, stdout=theirs, stderr=theirs)
    read_terminal(ours, b"30 90\r\n")
    termios.tcsetwinsize(theirs, (31, 91))
    os.write(ours, b"words\r")
    read_terminal(ours, b"got words\r\n")
    assert process.wait(60 * PATIENCE) == 6
    os.close(ours), os.close(theirs)


def test_a_running_pod_is_entered_and_stopped(rig: Rig) -> None:
    trap = "trap 'exit 9' TERM; echo up; while :; do sleep 0.1; done"
    running = rig.run([rig.sh("one", trap, user="web", group="web", environment=[{"name": "A", "value": "b c"}])])
    pod = running.pod
    first = pod.enter("sh", "-c", "echo $A:$TERM; pwd; id -u; cat; exit 42")
    assert (first.code, first.stdout) == (42, "b c:vt100\n/\n0\n") or first.stdout.startswith("b c:")
    assert first.code == 42 and first.stdout.endswith("\n/\n0\n")
    much = os.urandom(300_000)
    long = pod.start_enter("cat", stdin=-1, stdout=-1, stderr=-1)
    enter_on_a_terminal(running)
    missing = pod.enter("no-such-program")
    assert missing.code == 127 and "no-such-program" in missing.stderr
    assert pod.enter("true", app="nobody").code == 254
    out, err = long.communicate(much, timeout=60 * PATIENCE)
    assert (out == much, err, long.returncode) == (True, b"", 0)
    assert pod.state() == "running" and pod.stop().code == 0 and pod.state() == "exited"
    assert running.finish()[0] == 9 and pod.status() == {"one": 9}
    assert "already stopped" in pod.stop().stdout
    wait_until(lambda: not (RUN / pod.uuid / "broker.sock").exists())


def test_sigterm_to_the_process_is_an_orderly_stop(rig: Rig) -> None:
    running = rig.run([rig.sh("one", "trap 'exit 9' TERM; echo up; while :; do sleep 0.1; done")])
    running.wait_for(b"up\n")
    running.process.terminate()
    assert running.finish()[0] == 9 and running.pod.status() == {"one": 9}


def test_a_killed_launcher_or_vmm_ends_the_pod_within_a_second(rig: Rig) -> None:
    first = rig.run([rig.sh("one", "echo up; sleep 1000")])
    second = rig.run([rig.sh("one", "echo up; sleep 1000")])
    for running in (first, second):
        running.wait_for(b"up\n")
    place = machine.place(first.pod.uuid)
    first.process.kill()
    first.finish()
    wait_until(lambda: first.pod.state() == "exited" and vmm.find_unrecorded(place) is None, limit_s=3)
    result = vmm.find_unrecorded(machine.place(second.pod.uuid))
    assert result is not None
    result.kill()
    code, _, err = second.finish()
    assert code == 254 and b"signal 9" in err
    for pod in (first.pod, second.pod):
        assert pod.state() == "exited" and pod.gc(remove=False).code == 0 and pod.gc().code == 0
        assert pod.state() == "gone" and not (RUN / pod.uuid).exists()
        assert pod.uuid not in Path("/proc/self/mountinfo").read_text()


def test_a_pod_is_stopped_by_force_though_it_has_just_begun(rig: Rig) -> None:
    running = rig.run([rig.sh("one", "sleep 1000")])
    assert running.pod.wait_pid() == running.process.pid
    assert running.pod.stop(force=True).code == 0
    assert running.finish()[0] in (137, -9) and running.pod.state() == "exited" and running.pod.status() == {}


def test_a_pod_that_can_not_be_run_is_reported_and_rolled_back(rig: Rig) -> None:
    running = rig.run([rig.sh("one", "true", user="nobody-knows")], env={"PATH": "/usr/bin:/bin"})
    code, _, err = running.finish()
    assert code == 254 and b"nobody-knows" in err
    assert not (RUN / running.pod.uuid).exists() and running.pod.state() == "exited"
    assert running.pod.enter("true").code == 254 if running.pod.wait_pid() else True
    assert running.pod.gc().code == 0


def with_kernel(rig: Rig, name: str, line: str) -> Running:
    """A pod of one app, which asks for that kernel as by rkt's --annotation."""
    note = {"name": "clearpod.io/kernel", "value": name}
    one = rig.sh("one", line)._replace(entry={"annotations": [note]})
    pod = rig.rkt.prepare([one])
    piped = subprocess.PIPE
    return Running(pod, pod.run(net="none", stdin=subprocess.DEVNULL, stdout=piped, stderr=piped))


@pytest.mark.skipif(not (GUEST_DIR / "vmlinux-stock").exists(), reason="needs images/build stock")
def test_an_app_chooses_among_the_kernels_of_the_stage1_image(rig: Rig) -> None:
    code, out, err = with_kernel(rig, "stock", "ls /proc/modules").finish()
    assert (code, out) == (0, b"/proc/modules\n"), err
    code, out, err = with_kernel(rig, "default", "test -e /proc/modules || echo none").finish()
    assert (code, out) == (0, b"none\n"), err


def test_a_kernel_that_is_not_in_the_stage1_image_is_one_sentence(rig: Rig) -> None:
    code, out, err = with_kernel(rig, "other", "echo ran").finish()
    assert code == 254 and not out
    assert b"kernel 'other'" in err and b"scripts/build-aci --kernel stock" in err and err.count(b"\n") == 1, err
