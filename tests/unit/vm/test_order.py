# SPDX-License-Identifier: Apache-2.0
"""What the launcher is told: words that images/launcher/order.c understands (its own test has the other side)."""

import os
from pathlib import Path

import pytest

from stage1.errors import BadRequest
from stage1.vm import order
from stage1.vm.confine import Confinement
from stage1.vm.spec import VsockLink
from tests.unit.vm.test_argv import LKVM, QEMU

NOTHING = Confinement("", False)


def words_of(text: bytes) -> list[str]:
    assert text.endswith(b"\0")
    return os.fsdecode(text[:-1]).split("\0")


def test_an_order_has_arguments_variables_and_the_console() -> None:
    words = words_of(order.order(QEMU._replace(attended=True), NOTHING, interactive=False))
    assert words[0] == "a/usr/bin/qemu-system-x86_64" and "a-nodefaults" in words
    assert f"eHOME={QEMU.run_dir}" in words and f"c{QEMU.run_dir}/console.log" in words
    assert not any(word[0] in "ni" for word in words)


def test_an_order_may_have_a_network_and_input() -> None:
    vm = LKVM._replace(attended=True, netns="/run/netns/p", link=VsockLink(5, 1024))
    words = words_of(order.order(vm, NOTHING, interactive=True))
    assert words[:2] == ["a/usr/local/bin/lkvm", "arun"] and "n/run/netns/p" in words and words[-2:] == ["t", "i"]


def test_a_vmm_that_is_loaded_by_another_program_is_started_by_that(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "loaded").mkdir()
    vm = LKVM._replace(binary=f"{tmp_path}/bin/lkvm", attended=True, link=VsockLink(5, 1024))
    assert words_of(order.order(vm, NOTHING, interactive=False))[0] == f"a{tmp_path}/bin/lkvm"
    (tmp_path / "loaded/lkvm").touch()
    words = words_of(order.order(vm, NOTHING, interactive=False))
    assert words[:2] == [f"a{tmp_path}/loaded/lkvm", "arun"]


def test_the_wrapper_comes_first_and_leaves_the_mounts() -> None:
    found = Confinement("/usr/bin/setpriv", False)
    words = words_of(order.order(QEMU._replace(attended=True), found, interactive=False))
    assert words[0] == "a/usr/bin/setpriv" and words.index("a--") < words.index("a/usr/bin/qemu-system-x86_64")


def test_it_is_written_where_the_launcher_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    fd = os.memfd_create("order")
    monkeypatch.setenv(order.VARIABLE, str(fd))
    order.hand_over(b"a/vm\0")
    assert os.pread(fd, 100, 0) == b"a/vm\0"
    os.close(fd)


@pytest.mark.parametrize("value", ["", "x"])
def test_without_a_launcher_it_says_so(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv(order.VARIABLE, value)
    with pytest.raises(BadRequest, match="started by the launcher"):
        order.hand_over(b"a/vm\0")
