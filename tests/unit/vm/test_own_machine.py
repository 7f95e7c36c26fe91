# SPDX-License-Identifier: Apache-2.0
"""The command line of a QEMU that boots a kernel out of an image, and what its jail shows it."""

import pytest

from stage1.errors import BadRequest
from stage1.pod import own_kernel
from stage1.vm import jail, kvmtool, qemu
from stage1.vm.spec import Features, Nic, OwnMachine, SerialLink, Share, VmSpec


def _vm(machine: str, *, line: str = "a b", features: "tuple[str, ...]" = (), **more: object) -> VmSpec:
    own = OwnMachine(
        machine,
        line,
        serial="/p/s",
        monitor="/p/monitor.sock",
        features=Features()._replace(**dict.fromkeys(features, True)),
    )
    vm = VmSpec("v", qemu.HYPERVISOR, "/usr/bin/qemu", "/p", "/p/share/layers/i/k", "", "", 64, 1, SerialLink(""),
                (Share("layers", "/p/share/layers", read_only=True),), own=own, jailer="/g/jailer")  # fmt: skip
    return vm._replace(**more)  # type: ignore[arg-type]


def _after(argv: list[str], word: str) -> list[str]:
    return [argv[i + 1] for i, one in enumerate(argv) if one == word]


@pytest.mark.parametrize(
    ("machine", "named", "device"),
    [
        ("microvm", "microvm,acpi=off", "virtio-net-device"),
        ("microvm-pci", "microvm,acpi=on,pcie=on", "virtio-net-pci"),
        ("q35", "q35,vmport=off", "virtio-net-pci"),
        ("pc", "pc,vmport=off", "virtio-net-pci"),
    ],
)
def test_each_machine_has_its_devices(machine: str, named: str, device: str) -> None:
    argv = qemu.argv(_vm(machine, nics=(Nic("t0", "02::1"),), scratch="/s.img", accel="kvm"))
    assert _after(argv, "-machine") == [named]
    assert [one.partition(",")[0] for one in _after(argv, "-device")] == [
        "pvpanic",
        device.replace("net", "blk"),
        device,
    ]
    assert _after(argv, "-append") == ["a b"]
    assert "-no-reboot" in argv
    assert "-initrd" not in argv


def test_a_microvm_without_the_clock_of_kvm_is_one_with_clocks() -> None:
    assert _after(qemu.argv(_vm("microvm-pci", accel="tcg")), "-machine") == ["q35,vmport=off"]


def test_an_initrd_and_the_debug_device_are_there_on_request() -> None:
    argv = qemu.argv(_vm("pc", features=("has_debug_exit",), initramfs="/p/share/layers/i/r"))
    assert _after(argv, "-initrd") == ["r"]
    assert [one for one in _after(argv, "-device") if one.startswith("isa-debug-exit")]


@pytest.mark.parametrize(
    ("kernel", "initrd", "named"),
    [
        ("/p/share/layers/i/boot/xen-4.20", "", ("xen-4.20", None)),
        ("/p/share/layers/i/k", "/p/share/layers/i/b/k", ("k", "initrd")),
        ("/p/share/layers/i/run", "/p/share/layers/i/two words", ("kernel", "initrd")),
        ("/p/share/layers/i/p", "/p/share/layers/i/kernel", ("kernel", "initrd")),
        ("/p/share/layers/i/\u00e9", "/p/share/layers/i/.x", ("kernel", "initrd")),
    ],
)
def test_a_kernel_does_not_learn_its_path_on_the_host(
    kernel: str, initrd: str, named: "tuple[str, str | None]"
) -> None:
    vm = _vm("pc", kernel=kernel, initramfs=initrd)
    argv = qemu.argv(vm)
    assert (_after(argv, "-kernel"), _after(argv, "-initrd")) == ([named[0]], [named[1]] if named[1] else [])
    assert not any("layers" in one for one in argv)
    assert any("/p/" in f"{one}/" for one in argv[1:]), "find_unrecorded goes by it"
    fields = jail.describe(vm, jail.Launch(argv, {})).decode().split("\0")
    expected = {f"y{path}:/{name}" for path, name in zip((kernel, initrd), named, strict=True) if name}
    assert expected == {one for one in fields if one.startswith("y/p")}


def test_what_can_not_be_the_target_of_a_jails_link_is_loaded_by_its_path() -> None:
    assert _after(qemu.argv(_vm("pc", kernel="/p/a:b")), "-kernel") == ["/p/a:b"]


def test_without_a_jail_there_are_no_names_for_it() -> None:
    assert _after(qemu.argv(_vm("pc", jailer="")), "-kernel") == ["/p/share/layers/i/k"]


def test_it_starts_by_its_monitor_which_reports_a_panic() -> None:
    argv = qemu.argv(_vm("q35"))
    assert _after(argv, "-trace") == ["*_system_shutdown_request"]
    assert ("-S" in argv, "pvpanic" in _after(argv, "-device"), _after(argv, "-mon")) == (
        True, True, ["chardev=monitor,mode=control"],
    )  # fmt: skip
    assert "socket,id=launcher,fd=12" in _after(qemu.argv(_vm("q35", features=("has_launcher",))), "-chardev")


@pytest.mark.parametrize(
    ("machine", "line", "given", "auto"),
    [
        ("microvm", "app netdev.ip=x -- -f a -- b", "app netdev.ip=x {} -- -f a -- b", False),
        ("microvm", "-- app", "{} -- app", False),
        ("microvm", "app --", "app {} --", False),
        ("microvm", "app --x a--b", "app --x a--b", True),
        ("q35", "a -- b", "a -- b", True),
    ],
)
def test_the_places_of_a_microvms_devices_are_in_front_of_what_is_the_programs(
    machine: str, line: str, given: str, auto: bool
) -> None:
    argv = qemu.argv(_vm(machine, line=line, scratch="/s.img", nics=(Nic("t0", "02::1"),)))
    places = "virtio_mmio.device=512@0xfeb00e00:12 virtio_mmio.device=512@0xfeb00c00:11"
    assert _after(argv, "-append") == [given.format(places)]
    assert ("auto-kernel-cmdline=off" not in _after(argv, "-machine")[0]) == auto


def test_without_devices_a_line_is_what_it_was() -> None:
    assert _after(qemu.argv(_vm("microvm", line="app -- x")), "-append") == ["app -- x"]


@pytest.mark.parametrize(("features", "word"), [((), "disable-legacy=off"), (("is_modern",), "disable-legacy=on")])
def test_a_kernel_that_knows_only_new_devices_gets_them(features: "tuple[str, ...]", word: str) -> None:
    nics = (Nic("t0", "02::1"),)
    (device,) = [one for one in _after(qemu.argv(_vm("pc", features=features, nics=nics)), "-device") if "net" in one]
    assert word in device.split(",") and "disable-modern=off" in device.split(",")
    mmio = qemu.argv(_vm("microvm", features=features, nics=nics))
    assert _after(mmio, "-global") == (["virtio-mmio.force-legacy=false"] if features else [])
    assert ("i8042,mouse-irq=15" in _after(mmio, "-device")) == bool(features)


def test_its_monitor_is_what_is_listened_at() -> None:
    assert qemu.HYPERVISOR.listener(_vm("pc")) == ("/p/monitor.sock", False)


def test_its_jail_shows_the_kernel_and_names_no_empty_path() -> None:
    vm = _vm("microvm")
    assert "" not in [place.path for place in jail.places(vm)]
    assert "" not in [path for path, _ in jail.rules(vm)]
    assert "/p/share/layers/i/k" in [path for path, _ in jail.rules(vm)]


def test_a_hypervisor_that_loads_a_bzimage_only_gets_its_disk_and_tap_as_options() -> None:
    vm = _vm("pc", hypervisor=kvmtool.HYPERVISOR, nics=(Nic("t0", "02::1"),), scratch="/s.img", initramfs="/i")
    argv = kvmtool.argv(vm)
    assert (_after(argv, "--kernel"), _after(argv, "--initrd")) == ([vm.kernel], ["/i"])
    assert (_after(argv, "--disk"), _after(argv, "--params")) == (["/s.img"], ["a b"])
    assert _after(argv, "--network")[0].startswith("mode=tap,")
    assert "--vsock" not in argv
    assert kvmtool.HYPERVISOR.listener(vm) is None


def test_a_line_that_it_would_cut_off_is_refused() -> None:
    vm = _vm("pc", hypervisor=kvmtool.HYPERVISOR)
    assert vm.own
    vm.own.command_line = "x" * 2000
    with pytest.raises(BadRequest, match="command line"):
        kvmtool.argv(vm)


def test_each_machine_that_an_image_can_name_is_known() -> None:
    for machine in own_kernel.MACHINES:
        assert _after(qemu.argv(_vm(machine, accel="kvm")), "-machine")[0].startswith(machine.removesuffix("-pci"))
