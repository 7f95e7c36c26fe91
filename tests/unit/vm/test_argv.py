# SPDX-License-Identifier: Apache-2.0
"""VmSpec to argv, held to golden files: one option with its value on each line, seen as a reviewer would.

After a wanted change: `CLEARPOD_REGOLD=1 python -m pytest tests/unit/vm/test_argv.py`, then read the diff.
"""

import os
from pathlib import Path
from typing import Any

import pytest

from stage1.errors import BadRequest
from stage1.vm import host, kvmtool, qemu
from stage1.vm.host import HostPod
from stage1.vm.spec import Dax, DaxImage, Nic, SerialLink, Share, VmSpec, VsockLink
from stage1.vm.template import Template

GOLDEN = Path(__file__).parent / "golden"
POD = "/run/clearpod/pods/0123"
VSOCK = VsockLink(4711, 1024)

QEMU = VmSpec(
    name="clearpod-0123",
    hypervisor=qemu.HYPERVISOR,
    binary="/usr/bin/qemu-system-x86_64",
    run_dir=POD,
    kernel="/g/vmlinux",
    initramfs="/g/initramfs",
    system_image="/g/system.erofs",
    memory_mib=128,
    vcpus=1,
    link=SerialLink(f"{POD}/agent.sock"),
    sandbox=True,
)
LKVM = QEMU._replace(
    hypervisor=kvmtool.HYPERVISOR, binary="/usr/local/bin/lkvm", kernel="/g/bzImage", link=VSOCK, accel="kvm"
)
SHARES = (
    Share("layers", f"{POD}/share/layers", read_only=True),
    Share("volumes", f"{POD}/share/volumes", read_only=False),
)
NICS = (Nic("cp0", "02:00:00:00:00:01"), Nic("cp1", "02:00:00:00:00:02"))
SYSTEM = DaxImage("/g/system.erofs", 6 << 20)
DAX = Dax("/g/lkvm-shim.so", (SYSTEM,))
WINDOW = Dax("/g/lkvm-shim.so", (SYSTEM, DaxImage("/i/app.erofs", 4096)), 256 << 20, f"{POD}/dax.sock")
CGROUP = "/sys/fs/cgroup/kubepods/clearpod-0123"


def on_host(*namespaces: str, **more: Any) -> HostPod:
    """A pod that has these namespaces of the host."""
    return HostPod("clearpod-0123", "/g/agent", POD, "/usr/bin/crun", CGROUP, namespaces, **more)


ALL = {
    "shares": SHARES,
    "scratch": "/var/lib/clearpod/scratch/0123.img",
    "nics": NICS,
    "kernel_arguments": ("clearpod.mark",),
}

CASES = {
    "qemu-minimal": QEMU,
    "qemu-without-sandbox": QEMU._replace(sandbox=False),
    "qemu-kvm": QEMU._replace(accel="kvm"),
    "qemu-vsock": QEMU._replace(link=VSOCK),
    "qemu-scratch": QEMU._replace(scratch=f"{POD}/scratch.img"),
    "qemu-tap": QEMU._replace(nics=NICS[:1]),
    "qemu-shares": QEMU._replace(shares=SHARES),
    "qemu-volumes": QEMU._replace(shares=SHARES, jailer="/g/jailer", volume_server="/g/volume-server"),
    "qemu-all": QEMU._replace(**ALL, memory_mib=4096, vcpus=8),
    "qemu-console": QEMU._replace(console_attached=True, shares=SHARES),
    "qemu-console-vsock": QEMU._replace(console_attached=True, link=VSOCK),
    "qemu-stock": QEMU._replace(**ALL, is_stock=True, jailer="/g/jailer"),
    "kvmtool-stock": LKVM._replace(**ALL, is_stock=True),
    "kvmtool-console": LKVM._replace(console_attached=True, shares=SHARES),
    "kvmtool-minimal": LKVM,
    "kvmtool-with-rdrand": LKVM._replace(has_rdrand=True),
    "kvmtool-scratch": LKVM._replace(scratch=f"{POD}/scratch.img"),
    "kvmtool-tap": LKVM._replace(nics=NICS[:1]),
    "kvmtool-dax": LKVM._replace(dax=DAX, scratch=f"{POD}/scratch.img"),
    "kvmtool-dax-window": LKVM._replace(**ALL, memory_mib=4096, vcpus=8, dax=WINDOW),
    "host-network": on_host("network"),
    "host-all": on_host("network", "pid", "ipc", scratch="/var/lib/clearpod/scratch/0123"),
    "host-pid-with-network": on_host("pid", netns="/run/netns/clearpod-0123"),
    "host-ipc-without-network": on_host("ipc"),
    "qemu-jailed": QEMU._replace(**ALL, jailer="/g/jailer"),
    "qemu-console-jailed": QEMU._replace(console_attached=True, shares=SHARES, jailer="/g/jailer"),
    "qemu-template-made": QEMU._replace(**ALL, jailer="/g/jailer", template=Template("/t/1", monitor=9)),
    "qemu-template-copy": QEMU._replace(**ALL, jailer="/g/jailer", template=Template("/t/1")),
    "qemu-template-copy-gives-back": QEMU._replace(
        **ALL, jailer="/g/jailer", template=Template("/t/1"), memory_shim="/g/qemu-shim.so"
    ),
    "qemu-suspends": QEMU._replace(**{**ALL, "shares": SHARES[1:]}, jailer="/g/jailer", window_bytes=1 << 40),
    "qemu-resumed": QEMU._replace(shares=SHARES[1:], window_bytes=1 << 40, is_resumed=True),
    "kvmtool-jailed": LKVM._replace(**ALL, dax=WINDOW, jailer="/g/jailer"),
    "kvmtool-all": LKVM._replace(**ALL, memory_mib=4096, vcpus=8),
}


def lines(argv: list[str]) -> str:
    """Options begin a line, their values follow on it."""
    text = argv[0]
    for word in argv[1:]:
        text += ("\n" if word.startswith("-") else " ") + word
    return text + "\n"


def argv_of(vm: VmSpec | HostPod) -> list[str]:
    return host.argv(vm) if isinstance(vm, HostPod) else vm.hypervisor.argv(vm)


@pytest.mark.parametrize("name", CASES)
def test_the_argv_is_the_golden_one(name: str) -> None:
    golden = GOLDEN / f"{name}.txt"
    if os.environ.get("CLEARPOD_REGOLD"):
        golden.write_text(lines(argv_of(CASES[name])))
    assert lines(argv_of(CASES[name])) == golden.read_text()


def test_first_a_balloon_goes_then_random_numbers_and_then_there_is_an_answer() -> None:
    def with_networks(count: int) -> VmSpec:
        nics = tuple(Nic(f"cp{n}", f"02:00:00:00:00:0{n}") for n in range(count))
        return QEMU._replace(**{**ALL, "nics": nics})

    argvs = [qemu.argv(with_networks(count)) for count in range(4)]
    assert [qemu.BALLOON in argv for argv in argvs] == [True, True, False, False]
    assert ["virtio-rng-device" in argv for argv in argvs] == [True, True, True, False]
    with pytest.raises(BadRequest, match=r"9 virtio devices .*microvm .*8"):
        qemu.argv(with_networks(4))


def test_every_golden_file_has_a_case() -> None:
    assert {path.stem for path in GOLDEN.iterdir()} == set(CASES)


@pytest.mark.parametrize("base", [QEMU, LKVM], ids=["qemu", "kvmtool"])
@pytest.mark.parametrize(
    "change",
    [
        {"scratch": "/a,readonly=on"},
        {"system_image": "relative"},
        {"run_dir": "/run/a,b"},
        {"shares": (Share("t", "/x,y", read_only=False),)},
        {"dax": DAX._replace(images=(DaxImage("/a,b", 4096),))},
        {"dax": DAX._replace(socket="relative")},
        {"dax": DAX._replace(library="/with space.so")},
        {"dax": DAX._replace(library="/with:colon.so")},
        {"dax": DAX._replace(library="lkvm-shim.so")},
        {"kernel_arguments": ("two words",)},
        {"kernel_arguments": ('quo"ted',)},
        {"kernel_arguments": ("x" * 2000,)},
        {"kernel_arguments": ("é" * 1000,)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_a_vmm_would_misread_is_refused(base: VmSpec, change: dict[str, str]) -> None:
    with pytest.raises(BadRequest):
        argv_of(base._replace(**change))  # type: ignore[arg-type]


@pytest.mark.parametrize("base", [QEMU, LKVM], ids=["qemu", "kvmtool"])
def test_the_longest_kernel_line_fits_and_one_byte_more_does_not(base: VmSpec) -> None:
    def fits(length: int) -> bool:
        try:
            argv_of(base._replace(kernel_arguments=("x" * length,)))
        except BadRequest as error:
            assert "of at most 2048" in str(error)  # noqa: PT017  both outcomes are wanted
            return False
        return True

    most = max(length for length in range(1, 2048) if fits(length))
    assert not fits(most + 1)
    assert most > 1400


def test_kvmtool_without_vsock_is_refused() -> None:
    with pytest.raises(BadRequest, match="no serial link"):
        kvmtool.argv(LKVM._replace(link=SerialLink("/x")))


@pytest.mark.parametrize("module", [qemu, kvmtool])
def test_the_environment_has_the_pods_directory_as_home_and_nothing_of_ours(
    module: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "x")
    environment = (qemu if module is qemu else kvmtool).environment(LKVM)
    assert environment == {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": POD}


def test_kvmtool_is_preloaded_only_where_there_is_something_to_map() -> None:
    environment = kvmtool.environment(LKVM._replace(dax=WINDOW))
    assert environment["LD_PRELOAD"] == "/g/lkvm-shim.so"
    assert environment["CLEARPOD_DAX_IMAGES"] == "0x100000000:6291456:/g/system.erofs,0x100600000:4096:/i/app.erofs"
    assert "CLEARPOD_DAX_LISTENER" not in environment and environment["HOME"] == POD
    jailed = kvmtool.environment(LKVM._replace(dax=WINDOW, jailer="/g/jailer"))
    assert (jailed["CLEARPOD_DAX_LISTENER"], jailed["HOME"]) == ("10", "/vmm")
    assert environment["CLEARPOD_DAX_WINDOW"] == f"0x100800000:268435456:{POD}/dax.sock"
    assert set(environment) == {"PATH", "HOME", "LD_PRELOAD", "CLEARPOD_DAX_IMAGES", "CLEARPOD_DAX_WINDOW"}


def test_qemu_is_preloaded_only_for_a_copy_and_for_a_guest_that_is_loaded() -> None:
    copy = QEMU._replace(template=Template("/t/1"), memory_shim="/g/qemu-shim.so")
    assert qemu.environment(copy) == qemu.environment(QEMU) | {
        "LD_PRELOAD": "/g/qemu-shim.so",
        "CLEARPOD_RAM": f"14:{128 << 20}",
    }
    made = copy._replace(template=Template("/t/1", monitor=9))
    for vm in (made, copy._replace(template=None), copy._replace(memory_shim="")):
        assert qemu.environment(vm) == qemu.environment(QEMU)
    loaded = copy._replace(template=None, is_resumed=True)
    assert qemu.environment(loaded) == qemu.environment(QEMU) | {
        "LD_PRELOAD": "/g/qemu-shim.so",
        "CLEARPOD_LOADS": str(128 << 20),
    }
    assert qemu.environment(loaded._replace(memory_shim="")) == qemu.environment(QEMU)
    assert qemu.COPY_BALLOON in qemu.argv(made), "copies have the devices of their maker"
    for odd in ("qemu-shim.so", "/a b.so", "/a:b.so"):
        with pytest.raises(BadRequest, match="preloaded"):
            qemu.argv(copy._replace(memory_shim=odd))


def test_an_image_that_is_no_whole_pages_is_refused() -> None:
    with pytest.raises(BadRequest, match="not whole pages"):
        kvmtool.argv(LKVM._replace(dax=DAX._replace(images=(DaxImage("/g/system.erofs", 1),))))
