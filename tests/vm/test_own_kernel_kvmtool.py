# SPDX-License-Identifier: Apache-2.0
"""A bzImage with an initrd out of an image, on the real kvmtool, by `clearpod run`: the kernel of our own guests, and a
stock one. Skipped where KVM is not.
"""

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from stage1.vm import hypervisors, kvmtool
from stage1.vm.choose import lacks
from tests.fakes import kernels, sample
from tests.fakes.command import Command, finish
from tests.fakes.oci_layout import Entry, Layer, file, tar

pytestmark = [
    pytest.mark.vm,
    pytest.mark.kvmtool,
    pytest.mark.only_on("kvmtool", "tests/vm/test_run_own_kernel.py has the other one"),
    pytest.mark.timeout(300),
]
INIT = b"""#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
xargs -0 -n1 echo was < /proc/1/environ
echo "a kernel of $(uname -s) is ready"
grep -o 'word=[a-z]*' /proc/cmdline
grep -q stay /proc/cmdline && while :; do sleep 1; done
reboot -f
"""
"""That machine has no ACPI, and ends when it is reset."""


@pytest.fixture(autouse=True)
def _can_run_kvmtool() -> None:
    if missing := lacks(kvmtool.HYPERVISOR, hypervisors.facts()):
        pytest.skip("; ".join(missing))


Files = Callable[..., list[Entry]]
BOTH = pytest.mark.parametrize("files", [kernels.plain_files, kernels.debian_files])


def _image(place: Path, guest_dir: Path, files: Files) -> str:
    labels = kernels.labelled(path="kernel", initrd="initrd", network="linux", machine="q35")
    return sample.image(place, [Layer(tar(files(guest_dir, init=INIT)))], Labels=labels)


@BOTH
def test_its_output_is_the_pods_and_its_reset_the_end(
    clearpod: Command, tmp_path: Path, guest_dir: Path, files: Files
) -> None:
    image = _image(tmp_path / "image", guest_dir, files)
    code, out, err = clearpod.run("--vm-memory", "256m", image, "quiet", "word=given", limit_s=200)
    assert (code, b"a kernel of Linux is ready" in out, b"word=given" in out) == (0, True, True), (out, err)


def test_an_environment_that_no_command_line_can_have_comes_by_the_initrd(
    clearpod: Command, tmp_path: Path, guest_dir: Path
) -> None:
    image = _image(tmp_path / "image", guest_dir, kernels.plain_files)
    given = {f"NUMBER_{number}": f'the "value" of {number}' for number in range(60)}
    options = [f"--env={key}={text}" for key, text in given.items()]
    code, out, err = clearpod.run("--vm-memory", "256m", *options, image, "quiet", "word=given", limit_s=200)
    assert (code, b"word=given" in out) == (0, True), (out, err)
    assert {f"was {key}={text}".encode() for key, text in given.items()} <= set(out.splitlines()), out


@BOTH
def test_without_a_power_button_it_is_ended_at_once(
    clearpod: Command, tmp_path: Path, guest_dir: Path, files: Files
) -> None:
    image = _image(tmp_path / "image", guest_dir, files)
    process = clearpod.start("run", "--vm-memory", "256m", image, "quiet", "stay")
    assert process.stdout
    while b"is ready" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert finish(process)[0] == 137


def test_an_elf_is_refused_with_what_that_hypervisor_boots(clearpod: Command, tmp_path: Path) -> None:
    labels = kernels.labelled(path="/kernel", network="linux", machine="q35")
    layer = Layer(tar([file("kernel", kernels.hello(), 0o755)]))
    code, out, err = clearpod.run(sample.image(tmp_path / "image", [layer], Labels=labels))
    assert (code, out, err.count("\n")) == (125, b"", 1)
    assert "bzImage" in err
