# SPDX-License-Identifier: Apache-2.0
"""Every branch of the choice of a hypervisor."""

import pytest

from stage1.errors import BadRequest, NotFound
from stage1.linux.host import HostFacts
from stage1.vm.choose import SLOW, choose, on_host

FULL = HostFacts(cpu_virtualization="vmx", lkvm="/l/lkvm", qemu="/q/qemu-system-x86_64")
NO_CPU = FULL._replace(cpu_virtualization="")
NO_KVM = FULL._replace(kvm_error="Permission denied")
NO_VSOCK = FULL._replace(vsock_error="No such file or directory")
NO_LKVM = FULL._replace(lkvm="")
NO_QEMU = FULL._replace(qemu="")


@pytest.mark.parametrize(
    ("wanted", "facts", "driver", "accel", "reason"),
    [
        ("auto", FULL, "kvmtool", "kvm", "lkvm, KVM and vhost-vsock are here"),
        ("auto", FULL._replace(cpu_virtualization="svm"), "kvmtool", "kvm", "lkvm"),
        ("auto", NO_QEMU, "kvmtool", "kvm", "lkvm"),
        ("auto", NO_LKVM, "qemu", "kvm", "lkvm is not on PATH"),
        (
            "auto",
            NO_VSOCK,
            "qemu",
            "kvm",
            "/dev/vhost-vsock: No such file or directory (modprobe vhost_vsock)",
        ),
        ("auto", NO_CPU, "qemu", "tcg", "the CPU shows neither vmx nor svm"),
        ("auto", NO_KVM, "qemu", "tcg", "/dev/kvm: Permission denied"),
        ("kvmtool", FULL, "kvmtool", "kvm", "lkvm"),
        ("qemu", FULL, "qemu", "kvm", "QEMU was asked for"),
        ("qemu", NO_CPU, "qemu", "tcg", "the CPU shows neither vmx nor svm"),
        ("qemu", NO_KVM._replace(lkvm=""), "qemu", "tcg", "emulation (TCG)"),
    ],
)
def test_the_best_that_runs_here_is_chosen_and_says_why(
    wanted: str, facts: HostFacts, driver: str, accel: str, reason: str
) -> None:
    choice = choose(wanted, facts)
    assert (choice.driver, choice.accel) == (driver, accel)
    assert choice.binary == (facts.lkvm if driver == "kvmtool" else facts.qemu)
    assert reason in "\n".join(choice.reasons)
    assert choice.warning == (SLOW if accel == "tcg" else "")
    assert len(set(choice.reasons)) == len(choice.reasons)


@pytest.mark.parametrize(
    ("wanted", "facts", "error", "sentence"),
    [
        ("kvmtool", NO_LKVM, NotFound, r"kvmtool can't run here: lkvm is not on PATH \(.*install kvmtool yourself\)$"),
        ("kvmtool", NO_CPU, NotFound, "neither vmx nor svm"),
        ("kvmtool", NO_KVM, NotFound, "/dev/kvm: Permission denied"),
        ("kvmtool", NO_VSOCK, NotFound, "modprobe vhost_vsock"),
        (
            "kvmtool",
            FULL._replace(lkvm_old=True),
            NotFound,
            r"run here: /l/lkvm is too old: it has no option --vsock \(",
        ),
        ("kvmtool", FULL._replace(kvm_error="Device or resource busy"), NotFound, "busy .end the other hypervisor"),
        (
            "kvmtool",
            HostFacts(kvm_error="x", vsock_error="y"),
            NotFound,
            "lkvm.*; the CPU.*; /dev/kvm.*; /dev/vhost",
        ),
        ("qemu", NO_QEMU, NotFound, "apt install qemu-system-x86$"),
        (
            "auto",
            NO_QEMU._replace(lkvm=""),
            NotFound,
            "apt install qemu-system-x86 .kvmtool can't run either: lkvm",
        ),
        ("xen", FULL, BadRequest, "no hypervisor 'xen'; it is auto, kvmtool or qemu"),
        ("", FULL, BadRequest, "no hypervisor ''"),
        ("auto", FULL._replace(machine="aarch64"), BadRequest, "x86_64 only, and this machine is aarch64"),
    ],
)
def test_what_can_not_run_is_refused_with_the_way_to_mend_it(
    wanted: str, facts: HostFacts, error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        choose(wanted, facts)


@pytest.mark.parametrize("facts", [NO_LKVM, NO_CPU])
@pytest.mark.parametrize("able", [True, False])
def test_qemu_is_asked_to_confine_itself_if_it_was_built_so(facts: HostFacts, able: bool) -> None:
    assert choose("qemu", facts._replace(qemu_sandbox=able)).sandbox is able
    assert not choose("auto", FULL._replace(qemu_sandbox=able)).sandbox, "kvmtool has no such thing"


def test_a_static_lkvm_is_used_without_what_would_be_preloaded() -> None:
    assert choose("auto", FULL).preload
    choice = choose("auto", FULL._replace(lkvm_static=True))
    assert (choice.driver, choice.preload) == ("kvmtool", False)


def test_pods_on_the_host_need_crun_and_nothing_else() -> None:
    bare = HostFacts(crun="/c/crun")
    assert on_host(bare)[:3] == ("host", "none", "/c/crun")
    with pytest.raises(NotFound, match="crun, which is not on PATH: apt install crun"):
        on_host(FULL)
