# SPDX-License-Identifier: Apache-2.0
"""`clearpod check`: every verdict from facts alone, then the real host once."""

import json
import os
from pathlib import Path

import pytest

from cri.cli.check import facts as host_facts
from cri.cli.check import requirements
from cri.cli.check.facts import Facts
from cri.cli.check.requirements import FAIL, GIB, OK, WARN, evaluate
from cri.cli.check.start import Tried
from cri.cli.parser import Parser
from cri.pool.fit import Bounds
from cri.storage.space import Layers
from stage1.errors import PodError, Unsupported
from stage1.linux import files
from stage1.linux.host import HostFacts, Program
from stage1.net import networks
from stage1.net.settings import Default, Settings
from stage1.vm.choose import choose
from stage1.vm.needs import Needs
from stage1.vm.slots import Range

LKVM, QEMU = Program("/l/lkvm"), Program("/q/qemu-system-x86_64")
HOST = HostFacts(cpu_virtualization="vmx", programs={"kvmtool": LKVM, "qemu": QEMU})
GOOD = Facts(
    host=HOST,
    choice=choose("auto", HOST),
    guest_dir="/g",
    state_dir="/s",
    guest_files=host_facts.GUEST_FILES,
    tools=tuple((tool, f"/bin/{tool}") for tool in host_facts.TOOLS),
    mount_errors=(("erofs", ""), ("overlay", "")),
    bin_dirs=("/opt/cni/bin", "/usr/lib/cni"),
    network="pods (bridge, portmap), /etc/cni/net.d/10-net.conflist",
    cgroup="v2",
    free_bytes=100 * GIB,
    memory_mib=(1000, 700),
    vm_mib=128,
    policy=("all annotations",),
)


def pool(size: int, bound_mib: int = 0, *, available_mib: int = 700) -> Facts:
    """A good host that shall keep a warm pool."""
    return GOOD._replace(pool=Bounds(size, bound_mib), memory_mib=(1000, available_mib))


def disk(*, free: int, used: int, size: int, overcommit: float = 0, allocate: bool = False, reserve: int = 0) -> Facts:
    """A good host with these GiB on its disk."""
    layers = Layers(used * GIB, 1, size * GIB)
    return GOOD._replace(free_bytes=free * GIB, layers=layers, storage=(overcommit, allocate, reserve))


NO_LKVM = Program(lack="lkvm is not on PATH", remedy="install kvmtool yourself")
NO_QEMU = Program(lack="qemu-system-x86_64 is not on PATH", remedy="apt install qemu-system-x86")


def host(*, kvmtool: Program = LKVM, qemu: Program = QEMU, **changes: str | bool) -> Facts:
    """A good host but for these facts, with the choice that follows from them."""
    changed = HOST._replace(programs={"kvmtool": kvmtool, "qemu": qemu}, **changes)  # type: ignore[arg-type]
    try:
        return GOOD._replace(host=changed, choice=choose("auto", changed))
    except PodError as error:
        return GOOD._replace(host=changed, choice=None, choice_error=str(error))


def test_a_good_host_has_nothing_to_fix() -> None:
    items = evaluate(GOOD)
    assert {item.status for item in items} == {OK}
    assert all(item.detail and not item.remedy for item in items)
    assert len({item.name for item in items}) == len(items)


@pytest.mark.parametrize(
    ("facts", "name", "status", "detail", "remedy"),
    [
        (GOOD._replace(units=("/etc/u", "/usr/u")), "unit", WARN, "/etc/u is used and hides /usr/u", "remove"),
        (GOOD._replace(is_root=False), "user", FAIL, "not root", "sudo"),
        (pool(4), "warm pool", OK, "4 VMs of 128 MiB wait", ""),
        (pool(4, 300), "warm pool", OK, "2 VMs of 128 MiB wait and not 4, as pool.memory_mib is 300", ""),
        (pool(4, 100), "warm pool", WARN, "no VM of 128 MiB (vm.memory_mib) is within pool", "to 512, or"),
        (pool(8), "warm pool", WARN, "8 VMs of 128 MiB wait, together more than", "set pool.size to 7 or less"),
        (pool(7), "warm pool", OK, "7 VMs", ""),
        (pool(1, available_mib=227), "warm pool", WARN, "128 MiB of 227", "stop some pods"),
        (pool(1, available_mib=228), "warm pool", OK, "1 VMs", ""),
        (pool(2)._replace(choice=None), "warm pool", WARN, "without a hypervisor", "hypervisors"),
        (GOOD._replace(config_error="f:3: no such key"), "configuration", FAIL, "f:3: no such key", "fix"),
        (host(cpu_virtualization=""), "KVM", WARN, "neither vmx nor svm", "firmware"),
        (host(kvm_error="Permission denied"), "KVM", WARN, "/dev/kvm: Permission denied", "run as root"),
        (host(kvm_error="No such file or directory"), "KVM", WARN, "/dev/kvm: No such", "modprobe kvm_intel"),
        (host(kvm_error="Device or resource busy"), "KVM", WARN, "/dev/kvm: Device", "end the other hypervisor"),
        (
            host(kvmtool=LKVM._replace(flaw="it is static", remedy="-static")),
            "kvmtool",
            WARN,
            "it is static",
            "-static",
        ),
        (host(kvmtool=Program("/l/lkvm", "too old", remedy="a newer")), "kvmtool", WARN, "too old", "a newer"),
        (host(kvm_error="x", cpu_virtualization="svm"), "KVM", WARN, "/dev/kvm: x", "modprobe kvm_amd"),
        (host(vsock_error="No such file"), "vsock", WARN, "No such file", "modprobe vhost_vsock"),
        (
            GOOD._replace(confinement=Needs("there is no program /g/jailer")),
            "confinement",
            FAIL,
            "there is no program /g/jailer",
            "never started with less",
        ),
        (GOOD._replace(is_script=True), "confinement", WARN, "/l/lkvm is a script", "the program that it starts"),
        (
            GOOD._replace(is_script=True, covered=("/opt/s",)),
            "confinement",
            FAIL,
            "no pod can have files in /opt/s",
            "move the directory",
        ),
        (GOOD._replace(covered=("/opt/s",)), "confinement", OK, "only their own files", ""),
        (GOOD._replace(confinement=Needs(weaker="no fence")), "confinement", WARN, "no fence", "Landlock"),
        (
            host(kvmtool=NO_LKVM),
            "confinement",
            WARN,
            "/q/qemu-system-x86_64 was built without seccomp",
            "Debian's QEMU",
        ),
        (
            host(kvmtool=NO_LKVM, qemu=QEMU._replace(sandbox=True)),
            "confinement",
            OK,
            "no privileges on this host, and only their own",
            "",
        ),
        (host(kvmtool=NO_LKVM), "kvmtool", WARN, "not on PATH", "install kvmtool"),
        (host(qemu=NO_QEMU), "QEMU", WARN, "not on PATH", "apt install qemu-system-x86"),
        (host(kvmtool=NO_LKVM, qemu=NO_QEMU), "QEMU", FAIL, "not on PATH", "apt install qemu-system-x86"),
        (host(kvmtool=NO_LKVM, qemu=NO_QEMU), "hypervisor", FAIL, "kvmtool can't run here: lkvm is not on PATH", ""),
        (host(kvmtool=NO_LKVM), "hypervisor", OK, "qemu with kvm: lkvm is not on PATH", ""),
        (host(cpu_virtualization=""), "hypervisor", WARN, "isolation is by emulation and slow", ""),
        (host(machine="riscv64"), "hypervisor", FAIL, "riscv64", ""),
        (GOOD._replace(guest_files=("vmlinux",)), "kernel image", FAIL, "/g/bzImage", "clearpod images build"),
        (host(kvmtool=NO_LKVM)._replace(guest_files=()), "kernel image", FAIL, "/g/vmlinux", "clearpod images build"),
        (GOOD._replace(guest_files=()), "initramfs", FAIL, "/g/initramfs", "clearpod images build"),
        (GOOD._replace(guest_files=()), "system image", FAIL, "/g/system.erofs", "clearpod images build"),
        (GOOD._replace(tools=()), "mkfs.erofs", FAIL, "layers", "apt install erofs-utils"),
        (GOOD._replace(tools=()), "mkfs.ext4", FAIL, "scratch", "apt install e2fsprogs"),
        (GOOD._replace(tools=()), "gzip", FAIL, "gzip is not on PATH", "apt install gzip"),
        (GOOD._replace(guest_files=()), "seccomp", FAIL, "/g/seccomp-kvmtool.bpf", "clearpod images build"),
        (
            GOOD._replace(guest_problems=("initramfs differs",)),
            "guest files",
            FAIL,
            "initramfs differs",
            "clearpod-guest",
        ),
        (GOOD._replace(start=(Tried("socket", "/s", "it is a file"),)), "socket", FAIL, "it is a file", ""),
        (GOOD._replace(start=(Tried("x", "/s", "slow", is_fatal=False),)), "x", WARN, "slow", ""),
        (GOOD._replace(start=(Tried("socket", "/s: free"),)), "socket", OK, "/s: free", ""),
        (GOOD._replace(tools=()), "zstd", WARN, "zstd", "apt install zstd"),
        (GOOD._replace(tools=()), "crun", OK, "absent, needed by host pods only", ""),
        (GOOD._replace(mount_errors=(("erofs", "ENOTBLK"),)), "erofs", FAIL, "ENOTBLK", "Linux 6.12"),
        (GOOD._replace(mount_errors=(("overlay", "ENODEV"),)), "overlay", WARN, "ENODEV", "modprobe overlay"),
        (GOOD._replace(missing_plugins=("bridge",)), "CNI plugins", WARN, "bridge not in", "apt install container"),
        (GOOD._replace(network_error="there is none"), "CNI network", WARN, "there is none; pods have loo", "conflist"),
        (
            GOOD._replace(network="a", network_note="ignored: b", network_problems=("b",)),
            "CNI network",
            WARN,
            "ignored: b",
            "",
        ),
        (GOOD, "streaming", OK, "port-forward on 127.0.0.1, any free port", ""),
        (GOOD._replace(streaming="::, port 1", is_streaming_open=True), "streaming", WARN, "without TLS", "127.0.0.1"),
        (GOOD._replace(tun_error="No such device"), "tun", WARN, "No such device", "modprobe tun"),
        (GOOD._replace(cgroup="hybrid"), "cgroup", OK, "hybrid: each VMM has its own, with limits", ""),
        (GOOD._replace(limited=("cpu",)), "cgroup", WARN, "no limit of memory, pids", "unified_cgroup_hierarchy"),
        (GOOD, "cgroup driver", OK, "cgroupfs, as reported to the kubelet", ""),
        (GOOD._replace(driver=("systemd", "")), "cgroup driver", OK, "systemd, as reported to the kubelet", ""),
        (GOOD._replace(driver=("systemd", "no PID 1")), "cgroup driver", FAIL, "no PID 1", "cgroupDriver"),
        (GOOD, "pod overhead", OK, "takes up to 100 MiB for itself: overhead.podFixed.memory 100Mi", ""),
        (GOOD, "host pods", OK, "refused: host_pods.allow", ""),
        (GOOD._replace(host_pods=("network", "pid")), "host pods", OK, "network, pid allowed", ""),
        (
            GOOD._replace(host_pods=("ipc",), host_pods_lack=("crun is not on PATH",)),
            *("host pods", WARN, "ipc allowed, but crun is not on PATH", "apt install crun"),
        ),
        (GOOD._replace(host_pods=("ipc",), cgroup="hybrid"), "host pods", WARN, "without limits", "boot with"),
        (GOOD._replace(cgroup="", limited=()), "cgroup", WARN, "nothing", "unified_cgroup_hierarchy"),
        (GOOD, "owners", OK, "with mapped owners", ""),
        (GOOD._replace(unmapped="/r is on overlay"), "owners", FAIL, "/r is on overlay", "run_dir"),
        (GOOD, "ids", OK, "users from 1879048192 to 2147352575, enough for 2047 pods", ""),
        (GOOD._replace(jail_overlaps=("/etc/subuid: me:1:2",)), "ids", WARN, "subuid: me:1:2 gives", "jail.first_id"),
        (
            disk(free=1, used=2, size=4),
            "layers",
            WARN,
            "written 2.0 GiB and may write 4.0 GiB, more than the 3.0",
            "set",
        ),
        (disk(free=2, used=2, size=4), "layers", OK, "may write 4.0 GiB", ""),
        (disk(free=1, used=2, size=4, overcommit=2), "layers", OK, "of 6.0 GiB that storage.overcommit allows", ""),
        (disk(free=1, used=2, size=7, overcommit=2), "layers", WARN, "no pod is made", "remove pods"),
        (disk(free=1, used=4, size=4, allocate=True), "layers", OK, "which is allocated", ""),
        (disk(free=1, used=0, size=0, reserve=64), "reserve", OK, "0 MiB of the 64 MiB", ""),
        (disk(free=0, used=0, size=0, reserve=64), "reserve", WARN, "0 MiB of the 64 MiB", "free some"),
        (GOOD._replace(free_bytes=2 * GIB), "disk space", WARN, "2.0 GiB free for /s", "free some"),
        (GOOD._replace(free_bytes=0), "disk space", FAIL, "0.0 GiB free for /s", "free some"),
    ],
)
def test_what_is_wrong_is_reported_with_what_to_do(
    facts: Facts, name: str, status: str, detail: str, remedy: str
) -> None:
    (item,) = [item for item in evaluate(facts) if item.name == name]
    assert item.status == status
    assert detail in item.detail
    assert remedy in item.remedy
    assert bool(remedy) == bool(item.remedy)
    assert "\n" not in requirements.text([item])


def test_each_item_is_one_line_with_aligned_columns() -> None:
    lines = requirements.text(evaluate(GOOD._replace(cgroup="v1", limited=("memory",)))).splitlines()
    assert len(lines) == len(evaluate(GOOD))
    assert lines[0] == "ok    user           root"
    (cgroup,) = [line for line in lines if line[6:20].strip() == "cgroup"]
    assert cgroup.startswith("warn  cgroup         v1 mounted")
    assert "; boot with systemd.unified_cgroup_hierarchy=1" in cgroup


def test_ids_that_belong_to_an_account_are_reported(tmp_path: Path) -> None:
    file = tmp_path / "subuid"
    lines = ["me:1000:100", "at-the-edge:1:1999", "you:100000:65536", "odd", "odd:x:y", "one:2999:1", "next:3000:9", ""]
    file.write_text("\n".join(lines))
    for first, length, expected in (
        (2000, 1000, ["one:2999:1"]),
        (1, 1 << 30, [line for line in lines if ":" in line]),
    ):
        result = host_facts.overlaps(str(file), Range(first, length))
        assert result == [f"{file}: {line}" for line in expected if line != "odd:x:y"]
    assert host_facts.overlaps(str(tmp_path / "absent"), Range()) == []


def with_network(settings: Settings) -> host_facts.Facts:
    name, problems = host_facts.network_name(settings), networks.find(settings).problems
    return GOOD._replace(network=name, network_note=networks.note(settings), network_problems=problems)


def test_the_network_is_named_with_its_plugins_and_with_what_was_passed_over(tmp_path: Path) -> None:
    settings = Settings(str(tmp_path), ("/nowhere",), "/cache")
    (tmp_path / "10-a.conf").write_text("{")
    assert host_facts.network_name(settings) == ""
    (tmp_path / "20-b.conf").write_text('{"cniVersion": "1.0.0", "name": "b", "type": "ptp"}')
    facts = with_network(settings)
    (item,) = [one for one in evaluate(facts) if one.name == "CNI network"]
    assert item.status == WARN
    assert item.detail.startswith(f"b (ptp), {tmp_path}/20-b.conf; ignored: {tmp_path}/10-a.conf is not JSON: ")


def test_the_embedded_network_is_called_so(tmp_path: Path) -> None:
    for kind in ("bridge", "host-local", "portmap"):
        (tmp_path / kind).touch(0o755)
    settings = Settings("/nowhere", (str(tmp_path),), "/cache", default=Default(("10.1.0.0/24",)))
    facts = with_network(settings)
    (item,) = [one for one in evaluate(facts) if one.name == "CNI network"]
    assert (item.status, item.detail) == (
        OK,
        "clearpod (bridge, portmap), embedded in clearpod; the embedded network 'clearpod' is in use, since there is "
        "no CNI configuration in /nowhere",
    )


def test_free_space_is_that_of_where_the_directory_would_be_made(tmp_path: Path) -> None:
    assert files.existing(str(tmp_path / "not/yet")) == str(tmp_path)
    assert files.existing("/not/here/at/all") == "/"
    assert host_facts.free_bytes(str(tmp_path)) > 0


def test_mounting_is_tried_for_real_and_leaves_nothing(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    assert dict(host_facts.mount_errors(str(tmp_path))) == {"erofs": "", "overlay": ""}
    assert os.listdir(tmp_path) == []
    # Others may mount meanwhile: what is ours is the tmpfs called `room`, and what lies on it.
    mounts = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    assert [argv for argv in mounts if "room" in argv or argv[4].startswith("/tmp/merged")] == []


def test_a_directory_that_can_not_hold_images_is_reported(tmp_path: Path) -> None:
    reasons = dict(host_facts.mount_errors(str(tmp_path / "absent")))
    assert "absent" in reasons["erofs"]


def test_the_command_prints_every_item_and_its_exit_code_reports_a_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CLEARPOD_GUEST_DIR", str(tmp_path / "empty"))
    parser = Parser()
    requirements.add_arguments(parser)
    assert requirements.main(parser.parse_args(["--json"])) == 1
    items = json.loads(capsys.readouterr().out)
    assert all(set(item) == {"name", "status", "detail", "remedy"} for item in items)
    assert {item["name"]: item["status"] for item in items}["initramfs"] == FAIL
    requirements.main(parser.parse_args([]))
    assert len(capsys.readouterr().out.splitlines()) == len(items)


def test_a_broken_configuration_is_one_item_and_hides_no_other(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("no_such_key = 1\n")
    items = evaluate(host_facts.gather(str(tmp_path / "c.toml")))
    (item,) = [item for item in items if item.name == "configuration"]
    assert item.status == FAIL
    assert "c.toml:1" in item.detail
    assert {item.name for item in items} >= {item.name for item in evaluate(GOOD)}


def test_a_run_directory_whose_owners_can_not_be_mapped_is_reported(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    host_facts.map_owners(str(tmp_path))
    with pytest.raises(Unsupported, match=r"/proc/sys .* proc,"):
        host_facts.map_owners("/proc/sys")
    assert len(os.listdir("/proc/self/fd")) == before
