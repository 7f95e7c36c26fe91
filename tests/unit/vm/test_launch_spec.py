# SPDX-License-Identifier: Apache-2.0
"""What the launcher is told: items that images/launcher/spec.c understands (its own test has the other side)."""

import json
import os
from pathlib import Path

import pytest

from stage1.errors import BadRequest
from stage1.linux.idmap import Extent
from stage1.vm import launch_spec
from stage1.vm.launch_spec import LaunchSpec
from stage1.vm.spec import SerialLink, VmSpec, VsockLink
from stage1.vm.template import ARGUMENT, Template
from tests.unit.vm.test_argv import LKVM, QEMU

IDS = (Extent(0, 0x70000000, 65536),)
JAILED = {"jailer": "/g/jailer", "filter": "/g/filter", "ids": IDS, "console_attached": True}


def fields_of(text: bytes) -> list[str]:
    assert text.endswith(b"\0")
    return os.fsdecode(text[:-1]).split("\0")


def specified(vm: VmSpec, *, interactive: bool = False) -> tuple[list[str], list[str]]:
    result = launch_spec.of(vm, interactive=interactive)
    return fields_of(result.launcher), fields_of(result.jailer)


def test_the_launcher_gets_the_jailer_the_console_and_the_link() -> None:
    argv, jail = specified(QEMU._replace(**JAILED))
    assert isinstance(QEMU.link, SerialLink)
    console, logs = f"c{QEMU.run_dir}/console.log", f"l{QEMU.run_dir}/logs"
    assert argv == ["j/g/jailer", console, logs, f"s{QEMU.link.socket}"]
    assert jail[0] == QEMU.run_dir and jail[1] == "a/usr/bin/qemu-system-x86_64" and "a-nodefaults" in jail
    assert {"eHOME=/vmm", "p", "k10", "k11", "f/g/filter", "c0 1879048192 65536"} <= {*jail}
    assert "afile,id=kernel,path=/dev/fdset/1,append=on" in jail and not any("agent.sock" in word for word in jail)


def test_a_launch_spec_may_have_a_network_and_input() -> None:
    vm = LKVM._replace(**JAILED, netns="/run/netns/p", link=VsockLink(5, 1024))
    argv, jail = specified(vm, interactive=True)
    assert argv[-2:] == ["t", "i"] and not any(word[0] == "s" for word in argv)
    assert jail[1:3] == ["a/usr/local/bin/lkvm", "arun"] and "n/run/netns/p" in jail
    assert not any(word[0] == "k" for word in jail)


def test_a_vmm_that_is_loaded_by_another_program_is_started_by_that(tmp_path: Path) -> None:
    for name in ("bin", "loaded", "python/lib"):
        (tmp_path / name).mkdir(parents=True)
    vm = LKVM._replace(**JAILED, binary=f"{tmp_path}/bin/lkvm", link=VsockLink(5, 1024))
    assert specified(vm)[1][1] == f"a{tmp_path}/bin/lkvm"
    launcher = tmp_path / "launcher"
    launcher.touch()
    (tmp_path / "loaded/lkvm").symlink_to("../launcher")
    jail = specified(vm)[1]
    assert jail[1:3] == [f"a{tmp_path}/loaded/lkvm", "arun"]
    assert {f"r{launcher}", f"r{tmp_path}/python", f"y{launcher}:{tmp_path}/loaded/lkvm"} <= {*jail}
    assert {f"s5:{launcher}", f"sd:{tmp_path}/python"} <= {*jail}


SPEC = LaunchSpec(b"j/jailer\0", b"/root\0a/vm\0")


def test_it_is_written_where_the_launcher_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    fds = [os.memfd_create("order"), os.memfd_create("launch")]
    monkeypatch.setenv(launch_spec.VARIABLE, str(fds[0]))
    monkeypatch.setenv(launch_spec.DESCRIPTION_VARIABLE, str(fds[1]))
    launch_spec.send(SPEC)
    assert [os.pread(fd, 100, 0) for fd in fds] == [*SPEC[:2]]
    for fd in fds:
        os.close(fd)


@pytest.mark.parametrize("name", [launch_spec.VARIABLE, launch_spec.DESCRIPTION_VARIABLE])
@pytest.mark.parametrize("value", ["", "x"])
def test_a_missing_launcher_is_reported(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    fd = os.memfd_create("other")
    for one in (launch_spec.VARIABLE, launch_spec.DESCRIPTION_VARIABLE):
        monkeypatch.setenv(one, str(fd))
    monkeypatch.setenv(name, value)
    with pytest.raises(BadRequest, match="launcher"):
        launch_spec.send(SPEC)
    os.close(fd)


def test_a_copy_has_a_description_of_its_own_that_is_the_one_that_looking_again_would_give() -> None:
    vm = QEMU._replace(**JAILED)
    copy = vm._replace(template=Template("/t/1"), kernel_arguments=(*vm.kernel_arguments, ARGUMENT))
    booted, result = launch_spec.of(vm, interactive=False), launch_spec.of(vm, interactive=False, copy=copy)
    assert booted.copy == b"" and result.jailer == booted.jailer
    *same, template, monitor = fields_of(result.launcher)
    assert same == fields_of(booted.launcher) and template == "v/t/1"
    assert [json.loads(line) for line in monitor[1:].splitlines()][-1]["execute"] == "migrate-incoming"
    assert sorted(fields_of(result.copy)) == sorted(fields_of(launch_spec.of(copy, interactive=False).jailer))
    assert {"k12", "k13", "k14", "adefer"} <= {*fields_of(result.copy)} and b"/t/1" not in result.copy
    argv = [word for word in fields_of(result.copy) if word[0] == "a"]
    assert argv == [word for word in fields_of(launch_spec.of(copy, interactive=False).jailer) if word[0] == "a"]
