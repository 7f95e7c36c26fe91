# SPDX-License-Identifier: Apache-2.0
"""What a process that is started in a jail has around it. A shell in the VMM's place looks."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import ANY

import pytest

from stage1.errors import KernelError
from stage1.linux import mount, namespace, process
from stage1.vm import jail
from stage1.vm.confine import Confinement, Place, places
from stage1.vm.jail import Jail, outermost
from stage1.vm.spec import SerialLink, Share, VmSpec
from stage1.vm.starter import ProcessVmm

SYSTEM = tuple(Place(path) for path in ("/usr", "/lib", "/lib64", "/bin", "/sbin", "/proc"))
NULL = Place("/dev/null", writable=True)


@pytest.fixture
def pod(tmp_path: Path) -> Path:
    """Its directory, with a file; beside it there is a secret."""
    made = tmp_path / "pod"
    made.mkdir()
    (made / "own").write_text("content")
    (tmp_path / "secret").write_text("content")
    return made


Run = Callable[..., str]


@pytest.fixture
def run(pod: Path) -> Run:
    """What a script says in the jail."""

    def run(script: str, *more: Place, netns: str = "") -> str:
        output = pod.parent / "output"
        with output.open("wb") as file:
            words = ["/bin/sh", "-c", script]
            start = Jail(str(pod), (*SYSTEM, NULL, Place(str(pod), writable=True), *more), netns)
            pid = jail.start(start, lambda: process.spawn(words, stdout=file.fileno(), stderr=file.fileno(), env={}))
        with process.PidHandle(pid, os.pidfd_open(pid)) as handle:
            assert handle.wait(20)
        return output.read_text().strip()

    return run


def test_it_sees_the_pods_files_and_the_systems_and_no_other(run: Run, pod: Path) -> None:
    assert run(f"cat {pod}/own; ls {pod.parent}") == "contentpod"
    assert sorted(run("ls /").split()) == sorted({"bin", "dev", "lib", "lib64", "proc", "sbin", "tmp", "usr"})
    assert run("ls /dev") == "null"


def test_only_what_is_writable_can_be_written(run: Run, pod: Path) -> None:
    assert run(f"echo x >{pod}/new && echo x >/dev/null && echo yes") == "yes" and (pod / "new").exists()
    for path in ("/new", "/usr/new", "/proc/sys/kernel/hostname", f"{pod.parent}/new"):
        assert "Read-only file system" in run(f"echo x >{path}"), path


def test_a_file_may_be_writable_in_a_directory_that_is_not(run: Run, pod: Path) -> None:
    disk, directory = pod.parent / "state/disk", pod.parent / "state"
    directory.mkdir()
    disk.write_text("")
    said = run(f"echo x >{disk}; echo y >{directory}/new", Place(str(directory)), Place(str(disk), writable=True))
    assert disk.read_text() == "x\n" and "Read-only file system" in said


def test_nothing_is_open_for_writing_that_others_could_inherit(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a child of another thread has it, before its exec, the new root can't be made read-only."""
    opened: list[int] = []

    def note(path: str, flags: int, mode: int = 0o777) -> int:
        opened.append(flags)
        return real(path, flags, mode)

    real = os.open
    monkeypatch.setattr(jail.os, "open", note)
    assert run("echo yes") == "yes" and not any(flags & (os.O_WRONLY | os.O_RDWR) for flags in opened)


def test_it_is_the_first_process_and_nobody_else_is_there(run: Run) -> None:
    assert run(f"echo $$; kill -0 {os.getpid()} || echo nobody").split("\n")[0] == "1"
    assert run(f"kill -0 {os.getpid()} 2>/dev/null || echo nobody") == "nobody"


@pytest.mark.parametrize("name", ["mnt", "pid", "ipc", "uts", "net"])
def test_its_namespaces_are_its_own_and_ours_stay(run: Run, name: str) -> None:
    ours = os.readlink(f"/proc/thread-self/ns/{name}")
    assert run(f"readlink /proc/self/ns/{name}") != ours == os.readlink(f"/proc/thread-self/ns/{name}")


def test_its_netns_is_the_given_one(run: Run) -> None:
    path = f"/run/netns/t-{os.urandom(6).hex()}"
    namespace.make_net(path)
    try:
        with namespace.inside_net(path):
            there = os.readlink("/proc/thread-self/ns/net")
        assert run("readlink /proc/self/ns/net", netns=path) == there
    finally:
        namespace.remove_net(path)


def test_no_mount_of_the_host_is_left_and_the_host_gets_none(run: Run, pod: Path) -> None:
    lines = run("cat /proc/self/mountinfo").splitlines()
    assert str(pod) not in Path("/proc/self/mountinfo").read_text()
    below = len(mount.mounts_below("/usr")) + len(mount.mounts_below("/proc"))
    assert len(lines) <= len(SYSTEM) + 3 + below, lines


def test_what_the_host_mounts_later_below_a_shared_place_comes_in(run: Run, pod: Path) -> None:
    share = pod / "share"
    (share / "layer").mkdir(parents=True)
    (pod / "go").touch()
    mount.bind(str(share), str(share))
    mount.set_propagation(str(share), mount.MS_SHARED)
    words = ["/bin/sh", "-c", f"until test -e {share}/layer/file; do sleep 0.01; done; : >{pod}/saw"]
    start = Jail(str(pod), (*SYSTEM, NULL, Place(str(pod), writable=True)))
    try:
        pid = jail.start(start, lambda: process.spawn(words, env={}))
        with process.PidHandle(pid, os.pidfd_open(pid)) as handle:
            mount.mount("t", str(share / "layer"), "tmpfs")
            (share / "layer/file").touch()
            assert handle.wait(20), "it did not see the mount"
    finally:
        for point in mount.mounts_below(str(share)):
            mount.umount(point, lazy=True)
    assert (pod / "saw").exists()


def test_where_the_root_is_the_initramfs_it_is_covered(run: Run, monkeypatch: pytest.MonkeyPatch, pod: Path) -> None:
    def refuse(name: str, *args: object, what: str) -> int:
        if name == "pivot_root":
            raise KernelError(name, 22, what)
        return real(name, *args, what=what)  # type: ignore[arg-type]

    real = jail.libc.syscall
    monkeypatch.setattr(jail.libc, "syscall", refuse)
    assert run(f"cat {pod}/own; ls {pod.parent}; ls /dev") == "contentpod\nnull"


def test_a_place_that_can_not_be_had_is_named_and_nothing_is_started(pod: Path) -> None:
    where = Jail(str(pod / "absent"), SYSTEM)
    with pytest.raises(KernelError, match=f"{pod}/absent.*ENOENT"):
        jail.start(where, lambda: pytest.fail("it was started"))


def test_places_in_others_and_links_at_the_top_are_no_mounts_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    deep, top = Place(f"{tmp_path}/a/b"), Place(f"{tmp_path}/a")
    assert outermost([deep, top, deep]) == [top]
    writable = deep._replace(writable=True)
    assert outermost([writable, top]) == [top, writable]
    assert outermost([deep, top._replace(writable=True)]) == [top._replace(writable=True)]
    assert outermost([Place(f"{tmp_path}/absent")]) == []
    assert outermost([Place("/bin/sh"), Place("/usr")]) == ([Place("/usr")] if os.path.islink("/bin") else ANY)


def test_a_vmms_places_are_what_its_rules_allow(tmp_path: Path) -> None:
    for name in ("kernel", "initramfs", "system", "scratch"):
        (tmp_path / name).touch()
    files = [f"{tmp_path}/{name}" for name in ("kernel", "initramfs", "system")]
    shares = (Share("l", f"{tmp_path}/pod/layers", read_only=True), Share("v", f"{tmp_path}/pod/v", read_only=False))
    vm = VmSpec("n", "/usr/bin/q", f"{tmp_path}/pod", *files, 64, 1, SerialLink("/l"), shares, f"{tmp_path}/scratch")
    found = {place.path: place.writable for place in places(Confinement("/nix/bin/setpriv", True), vm)}
    assert [found[path] for path in (*files, "/usr", "/proc", "/nix/bin/setpriv")] == [False] * 6
    assert found[vm.run_dir] and found[vm.scratch] and found[shares[1].path] and not found[shares[0].path]


@pytest.fixture
def vm(pod: Path) -> VmSpec:
    binary = pod / "qemu"
    binary.write_text("#!/bin/sh\nexec sleep 60\n")
    binary.chmod(0o755)
    return VmSpec("n", str(binary), str(pod), "/k", "/i", "/s", 64, 1, SerialLink("/l"))


@pytest.mark.parametrize("path", [None, "/usr/bin"])
def test_a_vmm_that_shall_end_with_us_does_so_and_no_sooner(vm: VmSpec, path: str | None) -> None:
    code = (
        "import sys, time\nfrom stage1.vm.spec import *\nfrom stage1.vm.starter import ProcessVmm\n"
        f"vm = ProcessVmm(ends_with_us=True).start({vm!r})\n"
        "time.sleep(0.3)\nprint(vm.pid, vm.start_time, vm.alive(), flush=True)\ntime.sleep(60)"
    )
    environment = {"PYTHONPATH": os.getcwd(), **({"PATH": path} if path else {})}
    starter = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment, text=True)
    assert starter.stdout is not None
    pid, start_time, alive = starter.stdout.readline().split()
    assert alive == "True"
    starter.kill()
    starter.communicate()
    handle = process.open_process(int(pid), int(start_time))
    assert handle is None or handle.wait(5), "it outlived its starter"


def test_a_vmm_sees_no_socket_of_the_host(vm: VmSpec, tmp_path: Path) -> None:
    Path(vm.binary).write_text("#!/bin/sh\necho in the jail: $(echo /run/* /var/* /tmp/*)\nexec sleep 60\n")
    started = ProcessVmm().start(vm)
    try:
        while not (said := started.console_tail()):
            time.sleep(0.01)
    finally:
        started.kill()
    top = "/" + str(tmp_path).split("/")[1]
    shown = {"/run", "/var", "/tmp"} - {top}
    assert all(f"{directory}/*" in said.split() for directory in shown), said
