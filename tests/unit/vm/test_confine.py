# SPDX-License-Identifier: Apache-2.0
"""Confinement with a shell script in the VMM's place: what it can still reach, and hosts where it can't be had."""

from collections.abc import Callable
from pathlib import Path

import pytest

from stage1.linux import process
from stage1.vm import confine
from stage1.vm.confine import Confinement, find
from stage1.vm.spec import Dax, DaxImage, SerialLink, Share, VmSpec

OLD = 'case "$*" in *landlock*) echo "setpriv: unrecognized option" >&2; exit 1;; esac'
NEVER = "echo 'setpriv: apply bounding set: Operation not permitted' >&2; exit 1"
PASS_ON = 'while [ "$1" != -- ]; do shift; done; shift; exec "$@"'


@pytest.fixture
def vm(tmp_path: Path) -> VmSpec:
    """A VM with files of its own, in `pod`, and `secret` beside that."""
    pod = tmp_path / "pod"
    for name in ("bin", "layers", "volumes"):
        (pod / name).mkdir(parents=True)
    for path in (pod / "kernel", pod / "initramfs", pod / "system", pod / "scratch", tmp_path / "secret"):
        path.write_text("content")
    (pod / "layers/file").write_text("content")
    shares = (Share("l", f"{pod}/layers", read_only=True), Share("v", f"{pod}/volumes", read_only=False))
    kernel, initramfs, system = (f"{pod}/{name}" for name in ("kernel", "initramfs", "system"))
    link = SerialLink(f"{pod}/agent.sock")
    binary = f"{pod}/bin/qemu"
    return VmSpec("n", binary, str(pod), kernel, initramfs, system, 64, 1, link, shares, f"{pod}/scratch")


@pytest.fixture
def fake_setpriv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts a script in setpriv's place."""

    def put(script: str) -> None:
        path = tmp_path / "setpriv"
        path.write_text(f"#!/bin/sh\n{script}\n{PASS_ON}\n")
        path.chmod(0o755)
        monkeypatch.setattr(confine, "which", lambda name: str(path) if name == "setpriv" else f"/bin/{name}")

    return put


def succeeds(vm: VmSpec, script: str, found: Confinement) -> bool:
    """Whether the script ends well, confined as the VMM of `vm`."""
    Path(vm.binary).write_text(f"#!/bin/sh\n{script}\n")
    Path(vm.binary).chmod(0o755)
    return process.run([*confine.command(found, vm), vm.binary], timeout_s=10).code == 0


def without_fence() -> Confinement:
    """As on a host whose kernel has no Landlock."""
    return find()._replace(landlock=False)


@pytest.mark.parametrize(
    ("script", "allowed"),
    [
        ("cat layers/file && ls layers", True),
        ("echo x >layers/file", False),
        ("echo x >volumes/file && mkdir volumes/d && mv volumes/file volumes/d/file && rm -r volumes/d", True),
        ("ln -s /etc volumes/way && cat volumes/way/shadow", False),
        ("echo x >scratch && cat scratch", True),
        ("cat kernel initramfs system", True),
        ("echo x >kernel", False),
        ("cat ../secret", False),
        ("ls ..", False),
        ("echo x >../secret", False),
        ("echo x >file", False),
        ("rm kernel", False),
        ("cp /bin/true volumes/true && volumes/true", False),
        ("cat /etc/shadow", False),
        ("cat /proc/1/environ", False),
        ("mknod volumes/null c 1 3", False),
        ("chown 5:6 volumes && chmod 2700 volumes && : >volumes/x", True),
        ("mount -t tmpfs none volumes", False),
        ("mkdir .lkvm && : >.lkvm/file", False),
    ],
)
def test_a_confined_vmm_reaches_what_is_the_pods(vm: VmSpec, script: str, allowed: bool) -> None:
    found = find()
    if not found.landlock:
        pytest.skip(f"needs Landlock: {found.lacks}")
    assert succeeds(vm, f"cd {vm.run_dir}; {script}", found) is allowed


@pytest.mark.parametrize(("script", "allowed"), [("mknod volumes/null c 1 3", False), ("cat ../secret", True)])
def test_without_the_fence_the_capabilities_are_few_all_the_same(vm: VmSpec, script: str, allowed: bool) -> None:
    assert succeeds(vm, f"cd {vm.run_dir}; {script}", without_fence()) is allowed


def test_where_all_of_it_works_nothing_is_lacking_and_where_not_it_is_said() -> None:
    found = find()
    assert bool(found.lacks) is not (bool(found.setpriv) and found.landlock)


def test_an_old_setpriv_or_kernel_costs_the_fence_only(vm: VmSpec, fake_setpriv: Callable[[str], None]) -> None:
    fake_setpriv(OLD)
    found = find()
    assert (bool(found.setpriv), found.landlock) == (True, False)
    assert "can't use Landlock (setpriv: unrecognized option), so VMMs can reach files" in found.lacks
    words = confine.command(found, vm)
    assert "--no-new-privs" in words and words[-1] == "--"
    assert not any("landlock" in word for word in words)


def test_the_fence_lets_an_attended_vmm_write_its_log(vm: VmSpec) -> None:
    log = f"{vm.run_dir}/console.log"
    Path(log).touch()
    assert succeeds(vm._replace(attended=True), f"echo x >> {log}", find())
    assert not succeeds(vm, f"echo x >> {log}", find())


def test_where_nothing_can_be_given_up_a_vmm_still_starts(vm: VmSpec, fake_setpriv: Callable[[str], None]) -> None:
    fake_setpriv(NEVER)
    found = find()
    assert found == Confinement("", False, found.lacks)
    assert "apply bounding set: Operation not permitted" in found.lacks
    assert confine.command(found, vm) == []


def test_without_setpriv_a_vmm_still_starts(vm: VmSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confine, "which", lambda _: "")
    found = find()
    assert found == Confinement("", False, "setpriv is not on PATH, so VMMs keep all of root's privileges")
    assert confine.command(found, vm) == []


def test_dax_opens_the_fence_for_its_library_and_images_only(tmp_path: Path, vm: VmSpec) -> None:
    for name in ("shim.so", "image", "other"):
        (tmp_path / name).write_text("content")
    vm = vm._replace(dax=Dax(f"{tmp_path}/shim.so", (DaxImage(f"{tmp_path}/image", 4096),)))
    found = find()
    if not found.landlock:
        pytest.skip(f"needs Landlock: {found.lacks}")
    assert succeeds(vm, f"cat {tmp_path}/shim.so {tmp_path}/image", found)
    assert not succeeds(vm, f"echo x >{tmp_path}/image", found)
    assert not succeeds(vm, f"cat {tmp_path}/other", found)
