# SPDX-License-Identifier: Apache-2.0
"""What goes wrong with `clearpod run`: one clear sentence, the right exit code, and nothing left behind.

The fixture `clearpod` checks the last after each test.
"""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cri.cli.run.options import FAULT
from stage1.linux.host import which
from tests.fakes import sample
from tests.fakes.command import Command, Result
from tests.fakes.cpio import newc
from tests.fakes.oci_layout import OTHER_ARCH, Layer, Layout, directory, file, tar
from tests.fakes.patience import PACE, PATIENCE
from tests.fakes.registry import Registry, free_port

from .conftest import NO_VM

pytestmark = [pytest.mark.vm, pytest.mark.timeout(120)]
ends_before_a_vm = pytest.mark.only_on("qemu", NO_VM)
KERNELS = {"qemu": "vmlinux", "kvmtool": "bzImage"}


def _is_one_sentence(ended: Result, code: int, *options: str) -> None:
    """Nothing on standard output, one line on standard error that has all of `options`."""
    assert ended.out == b""
    assert ended.err.startswith("clearpod: ") and ended.err.count("\n") == 1, ended.err
    assert [word for word in options if word not in ended.err] == [], ended.err
    assert "Traceback" not in ended.err
    assert ended.code == code, ended.err


@ends_before_a_vm
@pytest.mark.parametrize(
    "options, code, message",
    [
        (("--vm-memory", "20m", "--", "true"), FAULT, ("20 MiB", "at least 48 MiB")),
        (("--vm-kernel", "stocked", "--", "true"), FAULT, ("'stocked'", "ask for one of these")),
        (("--vm-kernel", "stock fish", "--", "true"), FAULT, ("'stock fish'",)),
        (("oci:/no/such/layout", "--", "true"), FAULT, ("/no/such/layout", "not an OCI layout")),
        (("docker-archive:/no/such/file", "--", "true"), FAULT, ("/no/such/file",)),
        (("NotAReference", "--", "true"), FAULT, ("NotAReference",)),
        (("--pull", "never", "stored.example/nowhere"), FAULT, ("stored.example/nowhere", "--pull never")),
        (("-d", "stored.example/nowhere"), FAULT, ("clearpod.sock", "clearpod serve")),
    ],
)
def test_what_can_not_be(clearpod: Command, options: tuple[str, ...], code: int, message: tuple[str, ...]) -> None:
    _is_one_sentence(clearpod.run(*options), code, *message)


@pytest.mark.parametrize(
    "options, code, message",
    [
        (("--", "no-such-command"), 127, ("no-such-command", "not found")),
        (("--", "/etc/passwd"), 126, ("/etc/passwd", "not executable")),
        (("--", "/etc"), 126, ("/etc",)),
        (("--", ""), 127, ("find", "PATH")),
        (("-w", "/bin/busybox", "--", "true"), FAULT, ("/bin/busybox",)),
    ],
)
def test_what_the_guest_refuses(
    clearpod: Command, options: tuple[str, ...], code: int, message: tuple[str, ...]
) -> None:
    _is_one_sentence(clearpod.run(*options), code, *message)


def test_an_entrypoint_that_is_not_executable_or_not_there(clearpod: Command, tmp_path: Path, guest_dir: Path) -> None:
    layers = [sample.busybox(guest_dir), Layer(tar([file("start.sh", b"#!/bin/sh\n", 0o644)]))]
    cases = [("/start.sh", 126, "not executable"), ("/gone", 127, "/gone")]
    for entry, code, output in cases:
        image = sample.image(tmp_path / entry[1:], layers, Entrypoint=[entry])
        _is_one_sentence(clearpod.run(image), code, output)


@ends_before_a_vm
def test_an_image_without_a_command(clearpod: Command, tmp_path: Path) -> None:
    image = sample.image(tmp_path / "image", [Layer(tar([directory("etc/")]))], Env=["A=1"])
    _is_one_sentence(clearpod.run(image), FAULT, "a command")


def test_an_image_whose_user_it_does_not_know(clearpod: Command, tmp_path: Path, guest_dir: Path) -> None:
    image = sample.image(tmp_path / "image", [sample.busybox(guest_dir)], Cmd=["true"], User="nobody-we-know")
    _is_one_sentence(clearpod.run(image), FAULT, "nobody-we-know")


@ends_before_a_vm
def test_an_image_for_another_architecture(clearpod: Command, tmp_path: Path) -> None:
    image = sample.image(tmp_path / "image", [Layer(tar([file("a")]))], arch=OTHER_ARCH, Cmd=["true"])
    _is_one_sentence(clearpod.run(image), FAULT, OTHER_ARCH)


@ends_before_a_vm
def test_registries_and_what_they_do_not_have(clearpod: Command, tmp_path: Path) -> None:
    _is_one_sentence(clearpod.run(f"127.0.0.1:{free_port()}/t/x:1", "--", "true"), FAULT, "can't reach the registry")
    with Registry(tmp_path / "registry") as registry:
        _is_one_sentence(clearpod.run(f"{registry.host}/t/never:1", "--", "true"), FAULT, "no image", "t/never:1")


@ends_before_a_vm
def test_a_layer_that_is_damaged_in_the_registry(clearpod: Command, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "image")
    manifest = layout.image([Layer(tar([file("a", bytes(50_000))]))])
    layer = next(p for p in (tmp_path / "image/blobs/sha256").iterdir() if p.read_bytes()[:2] == b"\x1f\x8b")
    with Registry(tmp_path / "registry") as registry:
        name = registry.push(layout.tag("t", manifest), "t/broken:1")
        blob = registry.blob(f"sha256:{layer.name}")
        blob.write_bytes(blob.read_bytes()[:-9] + b"corrupted")
        _is_one_sentence(clearpod.run(name, "--", "true"), FAULT, "digest mismatch")


@ends_before_a_vm
def test_a_layer_that_does_not_match_the_config(clearpod: Command, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "image")
    image = layout.tag("t", layout.image([Layer(tar([file("a")]))], diff_ids=["sha256:" + "0" * 64]))
    _is_one_sentence(clearpod.run(image, "--", "true"), FAULT, "digest mismatch", "sha256:000000")


@pytest.mark.parametrize("lacks", ["everything", "the kernel", "initramfs", "system.erofs"])
def test_a_guest_that_is_not_built(clearpod: Command, tmp_path: Path, guest_dir: Path, lacks: str) -> None:
    file = KERNELS[clearpod.hypervisor] if lacks == "the kernel" else lacks
    clearpod.env["CLEARPOD_GUEST_DIR"] = str(_guest_without(tmp_path, guest_dir, file))
    _is_one_sentence(clearpod.run("--", "true"), FAULT, str(tmp_path), "clearpod images build")


@pytest.mark.parametrize("kind", ["panics", "has no init", "never says hello", "is not a kernel"])
def test_a_guest_that_does_not_come_up(clearpod: Command, tmp_path: Path, guest_dir: Path, kind: str) -> None:
    kernel, is_mute = KERNELS[clearpod.hypervisor], kind == "never says hello"
    if kind == "is not a kernel" and clearpod.hypervisor == "kvmtool":
        is_mute = True  # kvmtool runs it as code, whatever it is
    limit_s = 4 * PACE if is_mute else 60 * PATIENCE
    lacks = kernel if kind == "is not a kernel" else "initramfs"
    guest = _guest_without(tmp_path, guest_dir, lacks)
    if kind == "is not a kernel":
        (guest / kernel).write_bytes(b"not a kernel at all" * 1000)
    else:
        (guest / "initramfs").write_bytes(newc([("dev", 0o040755, b""), *_init(kind, tmp_path)]))
    clearpod.env["CLEARPOD_GUEST_DIR"] = str(guest)
    clearpod.configure(f"[vm]\nscratch_mib = 64\nboot_timeout_s = {limit_s}")
    ended = clearpod.run("--", "true")
    assert (ended.code, ended.out) == (FAULT, b""), ended.err
    output = {
        "panics": "Kernel panic - not syncing: Attempted to kill init!",
        "has no init": "Kernel panic",
        "never says hello": "",
        "is not a kernel": " ended ",
    }[kind]
    output = f"sent no hello within {limit_s} s" if is_mute else output
    assert output in ended.err and "Traceback" not in ended.err
    assert ended.err.count("clearpod: ") == 1


@ends_before_a_vm
def test_a_disk_that_fills_up_while_a_layer_is_written(clearpod: Command, tmp_path: Path) -> None:
    layer = Layer(tar([directory("./"), file("big", bytes(range(256)) * (40 << 12))]))
    image = sample.image(tmp_path / "image", [layer], Cmd=["true"])
    with _small_disk(tmp_path, clearpod.root / "small") as state:
        text = clearpod.config.read_text(encoding="utf-8")
        clearpod.config.write_text(text.replace(f"{clearpod.root}/state", str(state)), encoding="utf-8")
        _is_one_sentence(clearpod.run(image), FAULT, "bytes are free in", str(state))
        with Registry(tmp_path / "registry") as registry:
            _is_one_sentence(clearpod.run(registry.push(image, "t/big:1")), FAULT, "bytes are free in", str(state))
        assert [list((state / part).iterdir()) for part in ("tmp", "layers", "images")] == [[], [], []]


@ends_before_a_vm
@pytest.mark.parametrize(
    "line, message",
    [
        ("memory = 1", ':6: unknown key "vm.memory"; did you mean "memory_mib"?'),
        ("memory_mib = 1", ":6: "),
        ('vcpus = "two"', ":6: "),
        ("vcpus =", ":6: this is not TOML"),
    ],
)
def test_a_config_with_a_typo(clearpod: Command, line: str, message: str) -> None:
    clearpod.configure(f"[vm]\n{line}")
    _is_one_sentence(clearpod.run("--", "true"), FAULT, f"{clearpod.config}{message}")
    clearpod.config.unlink()
    _is_one_sentence(clearpod.run("--", "true"), FAULT, str(clearpod.config), "no such configuration file")


def _guest_without(place: Path, guest_dir: Path, lacks: str) -> Path:
    """A guest directory in which `lacks` is missing."""
    made = place / "guest"
    made.mkdir()
    started_by = ("jailer", "seccomp-qemu.bpf", "seccomp-kvmtool.bpf")
    for name in ("vmlinux", "bzImage", "initramfs", "system.erofs", "lkvm-shim.so", "sample", *started_by):
        if lacks not in (name, "everything"):
            (made / name).symlink_to(guest_dir / name)
    return made


def _init(kind: str, place: Path) -> list[tuple[str, int, bytes]]:
    """The program of a broken initramfs."""
    if kind == "has no init":
        return []
    compiler = which("musl-gcc")
    if not compiler:
        pytest.skip("needs musl-gcc: apt install musl-tools")
    body = "return 3;" if kind == "panics" else "for (;;) pause();"
    source = f"#include <unistd.h>\nint main(void) {{ {body} }}\n"
    argv = [compiler, "-static", "-Os", "-s", "-x", "c", "-o", place / "init", "-"]
    subprocess.run(argv, input=source.encode(), check=True, timeout=60 * PATIENCE)
    return [("init", 0o100755, (place / "init").read_bytes())]


@contextmanager
def _small_disk(place: Path, where: Path) -> Iterator[Path]:
    """An ext4 of 24 MiB, mounted at `where`; gives a directory in it."""
    disk = place / "disk"
    with disk.open("wb") as opened:
        opened.truncate(24 << 20)
    run: Callable[..., object] = lambda *argv: subprocess.run(argv, check=True, timeout=30 * PATIENCE)  # noqa: E731
    run("mkfs.ext4", "-q", str(disk))
    where.mkdir()
    run("mount", "-o", "loop", str(disk), str(where))
    try:
        yield where / "state"
    finally:
        run("umount", str(where))
        where.rmdir()
