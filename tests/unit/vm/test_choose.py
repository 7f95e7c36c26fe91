# SPDX-License-Identifier: Apache-2.0
"""Every branch of the choice of a hypervisor."""

from pathlib import Path

import pytest

from stage1.errors import BadRequest, NotFound
from stage1.linux.host import HostFacts, Program
from stage1.vm import kvmtool, qemu
from stage1.vm.choose import SLOW, choose, crun

LKVM, EMULATOR = Program("/l/lkvm"), Program("/q/qemu-system-x86_64")
NONE = Program(lack="it is not on PATH", remedy="install it")


def host(kvmtool: Program = LKVM, qemu: Program = EMULATOR, **more: str) -> HostFacts:
    """A host with all that is needed, but for these facts."""
    return HostFacts(**{"cpu_virtualization": "vmx", "programs": {"kvmtool": kvmtool, "qemu": qemu}, **more})  # type: ignore[arg-type]


FULL, NO_LKVM, NO_QEMU = host(), host(kvmtool=NONE), host(qemu=NONE)
NO_CPU = host(cpu_virtualization="")
NO_KVM = host(kvm_error="Permission denied")
NO_VSOCK = host(vsock_error="No such file or directory")


@pytest.mark.parametrize(
    ("expected", "facts", "driver", "accel", "reason"),
    [
        ("auto", FULL, "kvmtool", "kvm", "kvmtool with KVM"),
        ("auto", FULL._replace(cpu_virtualization="svm"), "kvmtool", "kvm", "KVM"),
        ("auto", NO_QEMU, "kvmtool", "kvm", "KVM"),
        ("auto", NO_LKVM, "qemu", "kvm", "it is not on PATH (install it)"),
        (
            "auto",
            NO_VSOCK,
            "qemu",
            "kvm",
            "/dev/vhost-vsock: No such file or directory (modprobe vhost_vsock)",
        ),
        ("auto", NO_CPU, "qemu", "tcg", "vmx nor svm"),
        ("auto", NO_KVM, "qemu", "tcg", "/dev/kvm: Permission denied"),
        ("kvmtool", FULL, "kvmtool", "kvm", "kvmtool was asked for"),
        ("qemu", FULL, "qemu", "kvm", "QEMU was asked for"),
        ("qemu", NO_CPU, "qemu", "tcg", "vmx nor svm"),
        ("qemu", host(kvmtool=NONE, kvm_error="x"), "qemu", "tcg", "emulation (TCG)"),
    ],
)
def test_the_best_usable_hypervisor_is_chosen_with_the_reason(
    expected: str, facts: HostFacts, driver: str, accel: str, reason: str
) -> None:
    choice = choose(expected, facts)
    assert (choice.hypervisor.name, choice.accel) == (driver, accel)
    assert choice.binary == facts.programs[driver].path
    assert reason in "\n".join(choice.reasons)
    assert choice.warning == (SLOW if accel == "tcg" else "")
    assert len(set(choice.reasons)) == len(choice.reasons)


@pytest.mark.parametrize(
    ("expected", "facts", "error", "sentence"),
    [
        ("kvmtool", NO_LKVM, NotFound, r"kvmtool .*PATH \(install it\)$"),
        ("kvmtool", NO_CPU, NotFound, "vmx nor svm"),
        ("kvmtool", NO_KVM, NotFound, "/dev/kvm: Permission denied"),
        ("kvmtool", NO_VSOCK, NotFound, "modprobe vhost_vsock"),
        ("kvmtool", host(kvmtool=Program("/l/lkvm", "it is too old")), NotFound, "too old"),
        ("kvmtool", FULL._replace(kvm_error="Device or resource busy"), NotFound, "busy .*hypervisor"),
        (
            "kvmtool",
            host(kvmtool=NONE, cpu_virtualization="", kvm_error="x", vsock_error="y"),
            NotFound,
            "PATH.*; .*CPU.*; /dev/kvm.*; /dev/vhost",
        ),
        ("qemu", NO_QEMU, NotFound, "QEMU .*PATH"),
        ("auto", host(NONE, NONE), NotFound, "kvmtool .*: .*; QEMU .*: "),
        ("xen", FULL, BadRequest, "'xen'; .*auto, kvmtool .*qemu"),
        ("", FULL, BadRequest, "no hypervisor ''"),
        ("auto", FULL._replace(machine="aarch64"), BadRequest, "x86_64 .*aarch64"),
    ],
)
def test_what_can_not_run_is_refused_with_what_to_do(
    expected: str, facts: HostFacts, error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        choose(expected, facts)


def _sandboxed(facts: HostFacts, able: bool) -> HostFacts:
    return facts._replace(programs={**facts.programs, "qemu": EMULATOR._replace(sandbox=able)})


@pytest.mark.parametrize("facts", [NO_LKVM, NO_CPU])
@pytest.mark.parametrize("able", [True, False])
def test_qemu_is_asked_to_confine_itself_if_it_was_built_so(facts: HostFacts, able: bool) -> None:
    assert choose("qemu", _sandboxed(facts, able)).sandbox is able
    assert not choose("auto", _sandboxed(FULL, able)).sandbox, "kvmtool has no such thing"


def test_a_static_lkvm_is_used_without_what_would_be_preloaded() -> None:
    assert choose("auto", FULL).has_dax
    choice = choose("auto", host(kvmtool=LKVM._replace(preload=False)))
    assert (choice.hypervisor, choice.has_dax) == (kvmtool.HYPERVISOR, False)
    assert not choose("qemu", FULL).has_dax


def test_a_guest_has_the_instruction_for_random_numbers_if_the_processor_that_runs_it_has_it() -> None:
    facts = FULL._replace(has_rdrand=True)
    assert choose("auto", facts).has_rdrand and choose("qemu", facts).has_rdrand and not choose("auto", FULL).has_rdrand
    assert not choose("qemu", facts._replace(kvm_error="no such device")).has_rdrand, "an emulated one is another one"


def _elf(*, is_static: bool, text: bytes = b"") -> bytes:
    """An ELF file with one program header, of the dynamic loader unless it is static."""
    head = b"\x7fELF\x02".ljust(32, b"\0") + (64).to_bytes(8, "little") + b"\0" * 14
    return (
        head + (56).to_bytes(2, "little") + b"\1\0" + b"\0" * 6 + bytes([1 if is_static else 3]).ljust(56, b"\0") + text
    )


@pytest.mark.parametrize(
    ("content", "has_lack", "has_flaw", "preload"),
    [
        (_elf(is_static=False, text=b"/dev/vhost-vsock"), False, False, True),
        (_elf(is_static=True, text=b"/dev/vhost-vsock"), False, True, False),
        (_elf(is_static=False), True, False, True),
        (b"#!/bin/sh\n", False, False, True),
    ],
)
def test_an_lkvm_is_looked_into(tmp_path: Path, content: bytes, has_lack: bool, has_flaw: bool, preload: bool) -> None:
    (tmp_path / "lkvm").write_bytes(content)
    result = kvmtool.examine(str(tmp_path / "lkvm"))
    assert (bool(result.lack), bool(result.flaw), result.preload) == (has_lack, has_flaw, preload)
    assert bool(result.remedy) is (has_lack or has_flaw)


def test_a_program_that_is_not_on_path_is_a_lack_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    for driver, package in ((kvmtool, "kvmtool"), (qemu, "qemu-system-x86")):
        result = driver.find()
        assert not result.path and "not on PATH" in result.lack and package in result.remedy


def test_pods_on_the_host_need_crun_and_nothing_else() -> None:
    assert crun(HostFacts(crun="/c/crun")) == "/c/crun"
    with pytest.raises(NotFound, match="PATH: apt install crun"):
        crun(FULL)
