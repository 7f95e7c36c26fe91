# SPDX-License-Identifier: Apache-2.0
"""The real rkt with app images that bring a kernel of their own: what is on its streams, its codes and its end."""

import os
import signal
from pathlib import Path

import pytest

from tests.fakes import aci, kernels
from tests.rkt.real import RealRkt, removed

pytestmark = [
    pytest.mark.rkt,
    pytest.mark.vm,
    pytest.mark.only_on("qemu", "the test's kernel is an ELF, and the other one boots a bzImage only"),
    pytest.mark.skipif(os.geteuid() != 0, reason="rkt mounts overlays, so it needs root"),
]


def _image(place: Path, *command: str, **labels: str) -> Path:
    root = place / "root"
    root.mkdir(parents=True)
    for name, data in {"kernel": kernels.hello(), **kernels.wrong()}.items():
        (root / name).write_bytes(data)
    given = kernels.labelled(**{"path": "/kernel", "network": "linux", **labels})
    return aci.pack(
        root, place / "hello.aci", name="example.com/hello", exec=[*command] or ["/kernel"], userLabels=given
    )


@pytest.mark.parametrize(("word", "code"), [("exit=9", 9), ("exit=0", 0)])
def test_its_serial_port_is_the_output_and_its_code_the_pods(
    rkt: RealRkt, tmp_path: Path, *, word: str, code: int
) -> None:
    pod = rkt.run(_image(tmp_path, exit="debug-exit"), "--", "count=2000", word)
    done = pod.finish()
    lines = done.out.splitlines()
    assert (done.code, lines[0], lines[2:2002]) == (code, "hello", [str(one) for one in range(1, 2001)]), done.err
    assert pod.status()["app-hello"] == str(code)
    removed(rkt, pod)


def test_it_gets_its_environment_and_can_be_requested(rkt: RealRkt, tmp_path: Path) -> None:
    asked = "--annotation=clearpod.io/kernel=image", "--environment=A=two words"
    pod = rkt.run(_image(tmp_path, exit="debug-exit"), *asked, "--", "exit=3")
    done = pod.finish()
    assert done.code == 3 and '"A=two words" exit=3' in done.out, done
    removed(rkt, pod)


INIT = b"""#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
echo; /bin/busybox xargs -0 -n1 echo was < /proc/1/environ
for one in "$@"; do echo "argument <$one>"; done
/bin/busybox reboot -f
"""


def test_a_linux_has_an_environment_by_its_initrd_that_no_command_line_can_have(
    rkt: RealRkt, guest_dir: Path, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    for entry in kernels.plain_files(guest_dir, init=INIT):
        (root / entry.name).write_bytes((guest_dir / "vmlinux").read_bytes() if entry.name == "kernel" else entry.data)
    labels = kernels.labelled(path="/kernel", initrd="/initrd", network="linux-init")
    image = aci.pack(root, tmp_path / "linux.aci", name="example.com/linux", exec=["/kernel"], userLabels=labels)
    given = {f"NUMBER_{number}": 'say "it"' for number in range(60)}
    options = [f"--environment={name}={text}" for name, text in given.items()]
    pod = rkt.run(image, *options, "--", "/init", 'a "b" c', "d")
    done = pod.finish()
    lines = done.out.splitlines()
    assert (done.code, {f"was {name}={text}" for name, text in given.items()} <= set(lines)) == (0, True), done
    assert [line for line in lines if "argument" in line] == ['argument <a "b" c>', "argument <d>"]
    removed(rkt, pod)


@pytest.mark.parametrize(
    ("machine", "word", "code"), [("q35", "reset", 133), ("pc", "crash", 134), ("microvm", "reset", 0)]
)
def test_a_reset_is_a_success_only_where_a_kernel_can_not_power_off(
    rkt: RealRkt, tmp_path: Path, *, machine: str, word: str, code: int
) -> None:
    pod = rkt.run(_image(tmp_path, machine=machine), "--", word)
    done = pod.finish()
    assert (done.code, done.out.splitlines()[0]) == (code, "hello"), done.err
    assert "reset" in done.err or code != 133
    assert pod.status()["app-hello"] == str(code)
    removed(rkt, pod)


@pytest.mark.parametrize("how", ["stop", signal.SIGTERM], ids=str)
def test_its_power_button_is_pressed(rkt: RealRkt, tmp_path: Path, *, how: "str | signal.Signals") -> None:
    pod = rkt.run(_image(tmp_path, machine="q35"))
    pod.wait_for("ready without a network\n")
    entered = rkt.call("enter", pod.uuid, "/bin/true")
    assert entered.code == 254 and "kernel" in entered.err
    if isinstance(how, signal.Signals):
        pod.process.send_signal(how)
    else:
        assert rkt.call("stop", pod.uuid).code == 0
    done = pod.finish()
    assert (done.code, done.out.splitlines()[-2:]) == (0, ["asked to end", "bye"]), done.err
    assert pod.status()["app-hello"] == "0"
    removed(rkt, pod)


def test_a_machine_without_a_button_is_ended_at_once(rkt: RealRkt, tmp_path: Path) -> None:
    pod = rkt.run(_image(tmp_path), "--", "spin")
    pod.wait_for("ready without a network\n")
    stopped = rkt.call("stop", pod.uuid)
    assert stopped.code == 0 and "without a power button" in stopped.err
    assert pod.finish().code == 137 and pod.status()["app-hello"] == "137"
    removed(rkt, pod)


@pytest.mark.parametrize(
    ("labels", "options", "noun"),
    [
        *((labels, (), noun) for labels, noun in kernels.WRONG),
        ({}, ("--interactive",), "--interactive"),
    ],
)
def test_what_can_not_be_is_one_sentence(
    rkt: RealRkt, tmp_path: Path, *, labels: dict[str, str], options: tuple[str, ...], noun: str
) -> None:
    pod = rkt.run(*options, _image(tmp_path, **labels))
    done = pod.finish()
    (line,) = [one for one in done.err.splitlines() if noun in one]
    assert (done.code, done.out) == (254, "") and "clearpod: " in line
    removed(rkt, pod)
