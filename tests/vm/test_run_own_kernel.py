# SPDX-License-Identifier: Apache-2.0
"""`clearpod run` of an image that brings a kernel of its own. The fixture `clearpod` checks that nothing is left."""

import signal
from pathlib import Path

import pytest

from tests.fakes import kernels, sample
from tests.fakes.command import Command, finish
from tests.fakes.oci_layout import Layer, directory, file, tar

ONLY = "only a bzImage can be booted on the other one"
pytestmark = [pytest.mark.vm, pytest.mark.timeout(120), pytest.mark.only_on("qemu", ONLY)]


def _image(place: Path, **labels: str) -> str:
    layer = Layer(tar([file("kernel", kernels.hello(), 0o755)]))
    return sample.image(place, [layer], Labels=kernels.labelled(path="/kernel", network="linux", **labels))


def test_its_serial_port_is_the_output_and_its_code_the_commands(clearpod: Command, tmp_path: Path) -> None:
    code, out, err = clearpod.run(_image(tmp_path / "image", exit="debug-exit"), "count=2", "exit=9")
    assert (code, out.splitlines()[0], out.splitlines()[2:4], err) == (9, b"hello", [b"1", b"2"], "")


def test_it_gets_its_environment(clearpod: Command, tmp_path: Path) -> None:
    image = _image(tmp_path / "image")
    _, out, err = clearpod.run("--env", "A=two words", "--env", "B=1", image, "exit")
    assert out.splitlines()[1].startswith(b'arguments: console=ttyS0 panic=-1 "A=two words" B=1 exit'), err
    many = [word for number in range(31) for word in ("--env", f"V{number}=x")]
    code, out, err = clearpod.run(*many, image, "exit")
    assert (code, out, err.count("\n"), "31 variables" in err) == (125, b"", 1, True), err
    kept = _image(tmp_path / "kept", environment="none")
    _, out, _ = clearpod.run(*many, kept, "exit")
    assert out.splitlines()[1].startswith(b"arguments: console=ttyS0 panic=-1 exit")


def test_annotations_name_a_kernel_in_an_image_without_labels_and_change_those_of_one(
    clearpod: Command, tmp_path: Path
) -> None:
    plain = sample.image(tmp_path / "plain", [Layer(tar([file("kernel", kernels.hello(), 0o755)]))])
    given = kernels.labelled(path="/kernel", network="linux", exit="debug-exit")
    asked = [f"--annotation={key}={text}" for key, text in given.items()]
    code, out, err = clearpod.run(*asked, plain, "exit=9")
    assert (code, out.splitlines()[0], err) == (9, b"hello", "")
    change = f"--annotation={kernels.OURS}exit=debug-exit"
    assert clearpod.run(change, _image(tmp_path / "image"), "exit=8").code == 8
    for options, image, noun in (
        ((change,), plain, "which names none"),
        (("--annotation=clearpod.io/kernel=image",), plain, "kernel of its own"),
        ((f"--annotation={kernels.OURS}machine=isapc",), _image(tmp_path / "other"), "isapc"),
        ((f"--annotation={kernels.OURS}speed=1",), _image(tmp_path / "last"), "speed"),
    ):
        code, out, err = clearpod.run(*options, image, "true")
        assert (code, out, err.count("\n"), noun in err) == (125, b"", 1, True), err


def test_a_multiboot_kernel_and_its_module_do_not_learn_their_paths(clearpod: Command, tmp_path: Path) -> None:
    files = {"boot/my-kernel": kernels.multiboot(), "boot/two words": b"x"}
    layer = Layer(tar([directory("boot"), *(file(name, data) for name, data in files.items())]))
    given = kernels.labelled(
        path="/boot/my-kernel", network="none", machine="pc", exit="debug-exit", initrd="/boot/two words"
    )
    code, out, err = clearpod.run(sample.image(tmp_path / "image", [layer], Labels=given), "a", "b=c")
    assert (code, out) == (0, b"my-kernel a b=c\ninitrd"), err


def test_a_signal_presses_its_power_button(clearpod: Command, tmp_path: Path) -> None:
    process = clearpod.start("run", _image(tmp_path / "image", machine="q35"))
    assert process.stdout
    while process.stdout.readline() != b"ready without a network\n":
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    code, out, _ = finish(process)
    assert (code, out) == (0, b"asked to end\nbye\n")


def test_one_signal_is_enough_for_a_kernel_that_ignores_its_power_button(clearpod: Command, tmp_path: Path) -> None:
    process = clearpod.start("run", _image(tmp_path / "image", machine="q35"), "spin")
    assert process.stdout
    while process.stdout.readline() != b"ready without a network\n":
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    code, _, err = finish(process)
    assert code == 137 and "power button" in err, err


@pytest.mark.parametrize(
    ("machine", "word", "expected"), [("q35", "reset", 133), ("q35", "crash", 134), ("microvm", "reset", 0)]
)
def test_a_reset_is_a_success_only_where_a_kernel_can_not_power_off(
    clearpod: Command, tmp_path: Path, *, machine: str, word: str, expected: int
) -> None:
    code, out, err = clearpod.run(_image(tmp_path / "image", machine=machine), word)
    assert (code, out.splitlines()[0], ("reset" in err or "panic" in err)) == (expected, b"hello", expected > 0), err


@pytest.mark.parametrize("option", ["-i", "--tty", "-it"])
def test_without_a_standard_input_none_is_promised(clearpod: Command, tmp_path: Path, *, option: str) -> None:
    """The terminal would be a raw one, in which ^C is a byte for a kernel that reads none."""
    code, out, err = clearpod.run(option, _image(tmp_path / "image"))
    assert (code, out, err.count("\n"), "--interactive" in err) == (125, b"", 1, True), err


@pytest.mark.parametrize(("labels", "noun"), kernels.WRONG)
def test_what_is_no_kernel_or_has_labels_that_can_not_be_is_one_sentence(
    clearpod: Command, tmp_path: Path, *, labels: dict[str, str], noun: str
) -> None:
    files = {"kernel": kernels.hello(), **kernels.wrong()}
    layer = Layer(tar([file(name, data, 0o755) for name, data in files.items()]))
    given = kernels.labelled(**{"path": "/kernel", "network": "linux", **labels})
    code, out, err = clearpod.run(sample.image(tmp_path / "image", [layer], Labels=given))
    assert (code, out, err.count("\n"), noun in err) == (125, b"", 1, True), err
