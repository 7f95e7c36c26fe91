# SPDX-License-Identifier: Apache-2.0
"""The real rkt with an app image that brings a kernel of its own, on the real kvmtool, as in the lab: a bzImage and an
initrd, what they write, their codes and their end.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes import aci, kernels
from tests.rkt import small_stage1
from tests.rkt.real import RealRkt, removed
from tests.vm.agent_machine import missing

pytestmark = [
    pytest.mark.rkt,
    pytest.mark.vm,
    pytest.mark.kvmtool,
    pytest.mark.timeout(300),
    pytest.mark.skipif(os.geteuid() != 0, reason="rkt mounts overlays, so it needs root"),
]
INIT = b"""#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox cat /proc/cmdline
/bin/busybox xargs -0 -n1 echo was < /proc/1/environ
echo it is ready
/bin/busybox grep -q stay /proc/cmdline && exec /bin/busybox sleep 1000000
/bin/busybox reboot -f
"""


@pytest.fixture(scope="module")
def rkt(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealRkt]:
    """With a small stage1 image: in the lab rkt needs minutes to import the whole one."""
    if lacks := missing():
        pytest.skip(lacks)
    place = tmp_path_factory.mktemp("own")
    (place / "rkt").mkdir()
    made = RealRkt(place / "rkt", small_stage1.archive(place / "stage1"))
    yield made
    made.clean()


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory, guest_dir: Path) -> Path:
    """An app image with the kernel of our guests and a busybox."""
    place = tmp_path_factory.mktemp("image")
    root = place / "root"
    root.mkdir()
    for entry in kernels.plain_files(guest_dir, init=INIT):
        (root / entry.name).write_bytes(entry.data)
    labels = kernels.labelled(path="/kernel", initrd="/initrd", network="linux", machine="q35")
    return aci.pack(root, place / "plain.aci", name="example.com/plain", exec=["/kernel"], userLabels=labels)


def test_its_serial_port_is_the_output_and_its_reset_the_end(rkt: RealRkt, image: Path) -> None:
    pod = rkt.run(image, "--", "quiet", "word=given")
    done = pod.finish()
    assert (done.code, "word=given" in done.out, "it is ready" in done.out) == (0, True, True), (done.out, done.err)
    assert pod.status()["app-plain"] == "0"
    removed(rkt, pod)


def test_an_environment_that_no_command_line_can_have_comes_by_the_initrd(rkt: RealRkt, image: Path) -> None:
    given = {f"NUMBER_{number}": 'say "it"' for number in range(60)}
    pod = rkt.run(image, *(f"--environment={name}={text}" for name, text in given.items()), "--", "quiet", "word=given")
    done = pod.finish()
    assert (done.code, "it is ready" in done.out, "word=given" in done.out) == (0, True, True), (done.out, done.err)
    assert {f"was {name}={text}" for name, text in given.items()} <= set(done.out.splitlines()), done.out
    removed(rkt, pod)


def test_without_a_power_button_it_is_ended_at_once(rkt: RealRkt, image: Path) -> None:
    pod = rkt.run(image, "--", "quiet", "stay")
    pod.wait_for("it is ready")
    entered = rkt.call("enter", pod.uuid, "/bin/true")
    assert entered.code == 254 and "kernel" in entered.err
    assert rkt.call("stop", pod.uuid).code == 0
    assert pod.finish().code == 137 and pod.status()["app-plain"] == "137"
    removed(rkt, pod)
