# SPDX-License-Identifier: Apache-2.0
"""What a VMM has around it in its jail. A shell in its place looks, and tries what an attacker would."""

import ctypes
import os
import re
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stage1.errors import VmFailed
from stage1.linux import mount, namespace, process, tun
from stage1.linux.idmap import Extent
from stage1.vm import jail, kvmtool, needs, qemu
from stage1.vm.spec import Dax, DaxImage, Nic, SerialLink, Share, VmSpec, VsockLink
from stage1.vm.starter import ProcessVmm
from stage1.vm.vmm import VmProcess
from tests.fakes.patience import PATIENCE
from tests.fakes.processes import children

OWNER = 0x70010000
IDS = (Extent(0, OWNER, 65536),)
FEW = f"{0b11011:016x}"
"""CAP_CHOWN 0, CAP_DAC_OVERRIDE 1, CAP_FOWNER 3, CAP_FSETID 4."""
END = "that is all"
NO_FENCE = "" if needs.landlock() else "this kernel has no Landlock"


@pytest.fixture
def vm(tmp_path: Path, jailer: str) -> VmSpec:
    """A pod as the engine leaves it, with a volume; beside it there is a secret."""
    pod = tmp_path / "pod"
    for name in ("bin", "share/layers/image", "share/volumes/pod", "share/volumes/containers/main/mounts/0"):
        (pod / name).mkdir(parents=True)
    for name in ("share/layers/image/file", "share/volumes/containers/main/config.json", "scratch", "own", "../secret"):
        (pod / name).write_text("content")
        (pod / name).chmod(0o600)
    for name in ("kernel", "initramfs", "system"):
        (pod / name).write_text(name)
    shares = (Share("l", f"{pod}/share/layers", True), Share("v", f"{pod}/share/volumes", False))
    files = (f"{pod}/kernel", f"{pod}/initramfs", f"{pod}/system")
    link = SerialLink(f"{pod}/agent.sock")
    binary = f"{pod}/bin/qemu"
    return VmSpec(
        "n", qemu.HYPERVISOR, binary, str(pod), *files, 64, 1, link, shares, f"{pod}/scratch", ids=IDS, jailer=jailer
    )


Start = Callable[..., VmProcess]


@pytest.fixture
def start(vm: VmSpec) -> Iterator[Start]:
    """Starts a script in the VMM's place; it does not outlive the test."""
    started: list[VmProcess] = []

    def start(script: str, **changes: object) -> VmProcess:
        Path(vm.binary).write_text(f"#!/bin/sh\ncd ${{0%/bin/*}}\n{script}\n")
        os.chmod(vm.binary, 0o755)
        started.append(ProcessVmm(watch_s=0).start(vm._replace(**changes)))  # type: ignore[arg-type]
        return started[-1]

    yield start
    for one in started:
        one.kill()


@pytest.fixture
def run(vm: VmSpec, start: Start) -> Callable[..., str]:
    """What a script says in the jail."""

    def run(script: str, **changes: object) -> str:
        console = Path(vm.run_dir, "console.log")
        console.write_text("")
        Path(vm.run_dir, "agent.sock").unlink(missing_ok=True)
        started = start(f"{script}\necho; echo {END}; exec sleep 60", **changes)
        while not (output := console.read_text()).endswith(f"{END}\n"):
            assert started.alive(), output
            time.sleep(0.01)
        return output.removesuffix(f"{END}\n").strip()

    return run


Run = Callable[..., str]


def test_it_is_root_nowhere_but_in_its_user_namespace(vm: VmSpec, start: Start) -> None:
    pid = start("exec sleep 60").pid
    while Path(f"/proc/{pid}/comm").read_text() != "sleep\n":
        time.sleep(0.01)
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    assert status["Uid"].split() == status["Gid"].split() == [str(OWNER)] * 4 and not status["Groups"].strip()
    assert {status[name] for name in ("CapPrm", "CapEff", "CapBnd")} == {FEW}
    assert int(status["CapInh"], 16) == int(status["CapAmb"], 16) == 0
    assert (status["NoNewPrivs"], status["NSpid"].split()[1:]) == ("1", ["1"])
    for name in ("uid_map", "gid_map"):
        assert Path(f"/proc/{pid}/{name}").read_text().split() == ["0", str(OWNER), "65536"]
    for kind in ("mnt", "pid", "ipc", "uts", "net", "user", "cgroup"):
        assert os.readlink(f"/proc/{pid}/ns/{kind}") != os.readlink(f"/proc/thread-self/ns/{kind}"), kind
    assert os.getsid(pid) == pid


def test_the_engine_can_mount_volumes_there_and_the_vmm_can_write_only_these(vm: VmSpec, start: Start) -> None:
    name = f"{vm.run_dir}/share/volumes/containers/main/mounts/0"
    script = f"until test -e {name}/go/on; do sleep 0.01; done; mkdir {name}/made && echo x >{name}/made/file"
    process_ = start(script)
    source = Path(vm.run_dir, "../source")
    source.mkdir()
    (source / "go").mkdir()
    os.chown(source, OWNER, OWNER)
    tree = mount.open_tree(str(source))
    try:
        namespace.in_mounts_of(process_.pid, lambda: mount.move_tree(tree, name))
    finally:
        os.close(tree)
    # In its /proc our threads are not.
    assert namespace.in_mounts_of(process_.pid, lambda: mount.mounts_below(name)) == [name]
    (source / "go/on").touch()
    assert process_.wait(20 * PATIENCE) and (source / "made/file").read_text() == "x\n"
    assert os.stat(source / "made").st_uid == OWNER


ATTACKS = [
    ("cat own", "No such file"),
    ("cat ../secret", "No such file"),
    ("cat scratch && echo x >scratch && echo could", "could"),
    ("cat share/layers/image/file", "content"),
    ("cat share/volumes/containers/main/config.json", "content"),
    ("cat kernel initramfs system && echo could", "could"),
    ("echo x >kernel", "denied|Read-only"),
    ("echo x >share/layers/image/file", "denied|Read-only"),
    ("echo x >share/volumes/pod/hosts", "denied|Read-only"),
    ("echo x >share/volumes/containers/main/config.json", "denied|Read-only"),
    ("mv share/volumes/containers share/volumes/c2", "denied|Read-only"),
    ("mv share/volumes/containers/main share/volumes/containers/other", "denied|Read-only"),
    ("ln -s /etc share/volumes/containers/main/mounts/1", "denied|Read-only"),
    ("rm -r share/volumes/containers/main", "denied|Read-only"),
    ("chown 5 share/volumes/containers", "denied|Read-only"),
    ("chmod 777 share/volumes/containers", "denied|Read-only"),
    ("mkdir new", "denied|Read-only"),
    ("mkdir /new", "denied|Read-only"),
    ("echo x >/usr/new", "denied|Read-only"),
    ("echo x >/proc/sys/kernel/hostname", "denied|Read-only|No such|nonexistent"),
    ("cat /etc/shadow /etc/passwd", "No such file|denied"),
    ("cat /dev/kvm", "No such file"),
    ("cat /dev/net/tun", "No such file|nonexistent"),
    ("mknod /vmm/null c 1 3", "denied|not permitted"),
    ("mknod share/volumes/null c 1 3", "denied|not permitted|Read-only"),
    ("mount -t tmpfs none /vmm", "denied|permitted"),
    ("umount share/layers", "denied|permitted|superuser|Invalid"),
    ("mount -o remount,bind,rw share/volumes", "denied|permitted|find"),
    ("echo x >/vmm/file && cat /vmm/file", "^x$"),
    ("head -c 2000000 /dev/zero >/vmm/file; stat -c %s /vmm/file", "No space(.|\n)*10[0-9]+"),
    ("cp /bin/true /vmm/true && /vmm/true", "denied"),
    ("unshare --user true", "denied|permitted|No space|Invalid"),
    ("ls /proc/self >/dev/null && ls /proc", "^[0-9 \n]+self\nthread-self$"),
    ("echo >/dev/null && head -c 3 /dev/zero | wc -c", "3"),
]


@pytest.mark.parametrize(("script", "message"), ATTACKS)
def test_its_system_calls_and_their_results(run: Run, script: str, message: str) -> None:
    output = run(f"({script}) 2>&1")
    assert re.search(message, output), output


def test_there_is_no_other_process_to_signal_or_connect_to(run: Run, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as named, socket.socket(socket.AF_UNIX) as abstract:
        named.bind(str(tmp_path / "daemon.sock"))
        named.listen()
        abstract.bind(f"\0clearpod-{os.getpid()}")
        abstract.listen()
        connect = f'import socket; socket.socket(socket.AF_UNIX).connect("\\x00clearpod-{os.getpid()}")'
        script = (
            f"kill -0 {os.getpid()} 2>&1; test -e {tmp_path}/daemon.sock || echo nothing there; "
            f"/usr/bin/python3 -I -S -c '{connect}' 2>&1 | tail -1"
        )
        output = run(script)
    assert "No such process" in output and "nothing there" in output and "Refused" in output.title(), output


def test_it_has_not_our_sessions_keys(run: Run) -> None:
    keyctl, join, find, session = 250, 1, 0, -3
    assert ctypes.CDLL(None).syscall(keyctl, join, None) > 0
    ours = ctypes.CDLL(None).syscall(keyctl, find, session, 0)
    program = f"import ctypes; print(ctypes.CDLL(None).syscall({keyctl}, {find}, {session}, 0))"
    output = run(f"/usr/bin/python3 -I -S -c '{program}'")
    assert output.isdigit() and int(output) != ours


def test_its_root_has_its_files_and_the_systems_and_no_other_mount(vm: VmSpec, run: Run) -> None:
    lines = [line.split() for line in run("cat /proc/self/mountinfo").splitlines()]
    below = len(mount.mounts_below("/usr")) + len(mount.mounts_below("/sys/devices/system"))
    assert len(lines) <= 24 + below
    writable = {line[4] for line in lines if "ro" not in line[5].split(",")}
    assert writable == {vm.scratch, "/vmm", "/proc"}
    assert all("nosuid" in line[5] for line in lines)
    assert all("nodev" in line[5] for line in lines if line[4] != "/")
    assert vm.run_dir not in Path("/proc/self/mountinfo").read_text()


def test_devices_are_few_and_of_the_vmms_own(vm: VmSpec, start: Start) -> None:
    pid = start("exec sleep 60", accel="kvm", link=VsockLink(7, 1024)).pid
    names = set(os.listdir(f"/proc/{pid}/root/dev"))
    assert names == {"null", "zero", "random", "urandom", "kvm", "vhost-vsock"}
    about = os.stat(f"/proc/{pid}/root/dev/kvm")
    assert (stat.S_ISCHR(about.st_mode), os.major(about.st_rdev), os.minor(about.st_rdev)) == (True, 10, 232)
    assert (about.st_uid, about.st_mode & 0o777) == (OWNER, 0o600)


def test_what_the_host_mounts_later_below_the_share_comes_in(vm: VmSpec, start: Start) -> None:
    share = f"{vm.run_dir}/share"
    mount.bind(share, share)
    mount.set_propagation(share, mount.MS_SHARED)
    try:
        name = f"{share}/layers/image"
        started = start(f"until test -e {name}/late; do sleep 0.01; done")
        mount.mount("t", name, "tmpfs")
        Path(name, "late").touch()
        assert started.wait(20 * PATIENCE), "it did not see the mount"
    finally:
        for point in mount.mounts_below(share):
            mount.umount(point, lazy=True)


def test_it_gets_the_socket_at_which_it_is_reached_and_no_other_descriptor(vm: VmSpec, run: Run) -> None:
    output = run("ls -l /proc/self/fd | tail -n +2").splitlines()
    names = {line.split()[-3]: line.split()[-1] for line in output}
    assert names.pop("3").startswith("/proc/")  # of ls
    assert set(names) == {"0", "1", "2", "10"} and names["10"].startswith("socket:")
    about = os.stat(f"{vm.run_dir}/agent.sock")
    assert (stat.S_ISSOCK(about.st_mode), about.st_mode & 0o777, about.st_uid) == (True, 0o600, 0)


def test_its_tap_is_open_though_it_could_not_open_one(vm: VmSpec, run: Run) -> None:
    path = f"/run/netns/t-{os.urandom(6).hex()}"
    namespace.make_net(path)
    try:
        with namespace.inside_net(path):
            tun.make_tap("tap7")
        output = run(
            "ls -l /proc/self/fd/16; cat /proc/self/fdinfo/16", netns=path, nics=(Nic("tap7", "02:00:00:00:00:01"),)
        )
        assert "/dev/net/tun" in output and "iff:\ttap7" in output
        with pytest.raises(VmFailed, match="open the tap tap8"):
            run("echo", netns=path, nics=(Nic("tap8/", "02:00:00:00:00:01"),))
    finally:
        namespace.remove_net(path)


def test_a_filter_is_in_force_from_its_first_instruction(tmp_path: Path, run: Run) -> None:
    lines = tmp_path / "seccomp-qemu.bpf"
    allow = b"\x06\0\0\0\0\0\xff\x7f"  # BPF_RET, SECCOMP_RET_ALLOW
    lines.write_bytes(allow)
    assert "Seccomp:\t2" in run("cat /proc/self/status", filter=str(lines))
    lines.write_bytes(allow[:5])
    with pytest.raises(VmFailed, match=r"filter .*seccomp-qemu\.bpf"):
        run("true", filter=str(lines))
    with pytest.raises(VmFailed, match=r"absent\.bpf"):
        run("true", filter=f"{tmp_path}/absent.bpf")


@pytest.mark.parametrize(("huge_pages", "allowed"), [(False, "0"), (True, "1")])
def test_its_memory_has_huge_pages_only_on_request(vm: VmSpec, huge_pages: bool, allowed: str) -> None:
    Path(vm.binary).write_text("#!/bin/sh\nexec sleep 60\n")
    os.chmod(vm.binary, 0o755)
    started = ProcessVmm(watch_s=0, huge_pages=huge_pages).start(vm)
    try:
        assert f"THP_enabled:\t{allowed}\n" in Path(f"/proc/{started.pid}/status").read_text()
        assert "THP_enabled:\t1\n" in Path("/proc/self/status").read_text()
    finally:
        started.kill()


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"jailer": "/nonexistent/jailer"}, "/nonexistent/jailer .*executable"),
        ({"jailer": ""}, "not an executable"),
        ({"netns": "/run/netns/none"}, "network namespace /run/netns/none: No such file"),
        ({"cgroups": ("/sys/none",)}, "/sys/none/cgroup.procs: No such file"),
        ({"ids": (Extent(0, 5, 10), Extent(5, 50, 10))}, "Invalid argument"),
        ({"ids": (Extent(1, 5, 10),)}, "the launch description"),
    ],
)
def test_what_can_not_be_had_is_named_and_nothing_stays(
    vm: VmSpec, run: Run, changes: dict[str, object], why: str
) -> None:
    before, descriptors = children(), len(os.listdir("/proc/self/fd"))
    with pytest.raises(VmFailed, match=why):
        run("sleep 60", **changes)
    assert children() <= before and len(os.listdir("/proc/self/fd")) == descriptors
    assert not os.path.exists(f"{vm.run_dir}/agent.sock") and vm.run_dir not in Path("/proc/self/mountinfo").read_text()


def test_a_file_that_the_vmm_could_not_read_is_named(vm: VmSpec, run: Run) -> None:
    os.chmod(vm.kernel, 0o600)
    with pytest.raises(VmFailed, match=f"{vm.kernel} .*read.*chmod"):
        run("true")


def test_what_is_not_the_vms_is_not_in_its_description(vm: VmSpec) -> None:
    fields = jail.describe(vm, jail.Launch(["/bin/vm"], {"A": "b"}, [10], "/f", True, True)).split(b"\0")
    letters = {word[:1] for word in fields if word}
    assert letters == {
        b"/",
        b"a",
        b"e",
        b"n",
        b"c",
        b"r",
        b"m",
        b"w",
        b"d",
        b"h",
        b"s",
        b"l",
        b"k",
        b"f",
        b"u",
        b"p",
        b"b",
    }
    writable = [word for word in fields if word.startswith(b"w")]
    assert writable == [b"w" + vm.scratch.encode()]
    assert f"w{vm.run_dir}".encode() not in fields and f"r{vm.run_dir}".encode() not in fields
    dax = Dax("/lib/shim.so", (DaxImage(vm.system_image, 4096),), 4096, "/x/dax.sock")
    assert kvmtool.HYPERVISOR.listener(vm._replace(dax=dax)) == ("/x/dax.sock", True)
    assert qemu.HYPERVISOR.listener(vm) == (f"{vm.run_dir}/agent.sock", False)


def test_no_rule_of_landlock_lets_more_be_changed_than_is_to_be(vm: VmSpec) -> None:
    changing = {path for path, rights in jail.rules(vm) if rights & ~(jail.RUN | jail.READ_TREE)}
    devices = {f"/dev/{name}" for name in ("null", "zero", "random", "urandom")}
    volumes = {f"{vm.run_dir}/share/volumes/{name}" for name in ("containers", "journal", "apps", "status")}
    assert changing == {vm.scratch, "/vmm"} | volumes | devices


@pytest.mark.skipif(bool(NO_FENCE), reason=NO_FENCE)
def test_where_a_mount_is_writable_by_mistake_landlock_still_refuses(vm: VmSpec, start: Start) -> None:
    name = f"{vm.run_dir}/share/volumes/pod"
    script = f"until test -e {name}/go; do sleep 0.01; done; echo x >{name}/new; mv {name}/go {name}/gone"
    source = Path(vm.run_dir, "../source")
    source.mkdir(mode=0o777)
    (source / "go").touch()
    tree = mount.open_tree(str(source))
    try:
        started = start(script)
        namespace.in_mounts_of(started.pid, lambda: mount.move_tree(tree, name))
    finally:
        os.close(tree)
    assert started.wait(20 * PATIENCE) and os.listdir(source) == ["go"]


@pytest.mark.parametrize("path", [None, "/usr/bin"])
def test_a_vmm_that_shall_end_with_us_does_so_and_no_sooner(vm: VmSpec, path: str | None) -> None:
    Path(vm.binary).write_text("#!/bin/sh\nexec sleep 60\n")
    os.chmod(vm.binary, 0o755)
    code = (
        "import sys, time\nfrom stage1.linux.idmap import Extent\nfrom stage1.vm import qemu\n"
        "from stage1.vm.spec import *\nfrom stage1.vm.starter import ProcessVmm\n"
        f"vm = {vm._replace(hypervisor=None)!r}._replace(hypervisor=qemu.HYPERVISOR)\n"  # type: ignore[arg-type]
        "vm = ProcessVmm(ends_with_us=True).start(vm)\n"
        "time.sleep(0.3)\nprint(vm.pid, vm.start_time, vm.alive(), flush=True)\ntime.sleep(60)"
    )
    environment = {"PYTHONPATH": os.getcwd(), **({"PATH": path} if path else {})}
    starter_ = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment, text=True)
    assert starter_.stdout is not None
    pid, start_time, alive = starter_.stdout.readline().split()
    assert alive == "True"
    starter_.kill()
    starter_.communicate()
    handle = process.open_process(int(pid), int(start_time))
    assert handle is None or handle.wait(5 * PATIENCE), "it outlived its starter"
