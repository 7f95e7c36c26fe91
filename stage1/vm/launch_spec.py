# SPDX-License-Identifier: Apache-2.0
"""The launch spec: how a VMM is to be started, for the launcher, which stays with it (images/launcher). For stage1/rkt.

Not started here, and nothing waits: this process has ended when the VM boots.
"""

import os
from typing import NamedTuple

from stage1.errors import BadRequest
from stage1.linux.libc import Guard
from stage1.vm import jail
from stage1.vm.jail import Launch
from stage1.vm.own_machine import BEGIN
from stage1.vm.spec import CONSOLE_FD, LISTENER_FD, MONITOR_FD, SerialLink, VmSpec
from stage1.vm.template import LOAD, RAM_FD, STATE_FD, spoken

VARIABLE, DESCRIPTION_VARIABLE, COPY_VARIABLE = "CLEARPOD_SPEC_FD", "CLEARPOD_LAUNCH_FD", "CLEARPOD_COPY_FD"
"""The launcher's descriptors for the parts of a launch spec."""
LOADED = "loaded"
"""The directory beside that of the image's VMM, for programs that its loader starts; images/stage1-aci/README.md."""


class LaunchSpec(NamedTuple):
    """`launcher` is for the launcher: a letter and a value each, ended by a zero (images/launcher/launcher.h).

    `jailer` is for the jailer, which it starts (images/jailer/README.md), and `copy` the same for a VM that is tried as
    a copy of a template first; empty: it boots. `warnings` are sentences for people.
    """

    launcher: bytes
    jailer: bytes
    copy: bytes = b""
    warnings: tuple[str, ...] = ()


def of(
    vm: VmSpec,
    *,
    interactive: bool,
    kernel: str = "",
    copy: VmSpec | None = None,
    statuses: tuple[str, str] | None = None,
) -> LaunchSpec:
    """The launch spec of a VMM that ends with the launcher; `kernel` is the item of one of the image's. `copy` is the
    same VM as a copy of a template, if it is tried as one first. `statuses`: the directory in which the guest writes
    the codes of its apps, and the one in which rkt looks for them. The directories of `vm` must exist. Raises
    BadRequest.
    """
    fields = [f"j{vm.jailer}", f"c{vm.run_dir}/console.log", f"l{vm.run_dir}/logs"]
    place = _listener(vm)
    fields += [f"s{place}"] if place else []
    fields += [f"k{kernel}"] if kernel else []
    fields += [f"w{statuses[0]}", f"r{statuses[1]}"] if statuses else []
    fields += [f"m{_begin()}"] if _has_monitor(vm) else []
    if interactive:
        fields += ["t", "i"] if vm.hypervisor.needs_terminal else ["i"]
    if copy and copy.template:
        fields += [f"v{copy.template.directory}", f"m{spoken(LOAD)}"]
    text = b"".join(os.fsencode(field) + b"\0" for field in fields)
    described = jail.describe(vm, _launch(vm))
    return LaunchSpec(text, described, jail.describe_copy(described, copy, launch=_launch(copy)) if copy else b"")


def _launch(vm: VmSpec) -> Launch:
    start = _start_of(vm.binary)
    listener = (LISTENER_FD,) if _listener(vm) else ()
    console = (CONSOLE_FD,) if vm.hypervisor.opens_console else ()
    return Launch(
        vm.hypervisor.argv(vm._replace(binary=start)),
        vm.hypervisor.environment(vm),
        (*listener, *console, *_monitor_and_copy(vm)),
        filter=vm.filter,
        dies_with_us=True,
        programs=() if start == vm.binary else _loader(start),
        links=() if start == vm.binary else ((start, os.path.realpath(start)),),
    )


def _begin() -> str:
    return "".join(f'{{"execute":"{command}"}}\n' for command in BEGIN)


def _has_monitor(vm: VmSpec) -> bool:
    """Whether the launcher is notified how the VM ends, which boots a kernel out of an image."""
    return bool(vm.own and vm.own.features.has_launcher)


def _monitor_and_copy(vm: VmSpec) -> tuple[int, ...]:
    if not vm.template:
        return (MONITOR_FD,) if _has_monitor(vm) else ()

    return MONITOR_FD, STATE_FD, RAM_FD


def _listener(vm: VmSpec) -> str:
    """The socket at which the VMM, or the agent's link in it, is reached; empty when by none."""
    if vm.own:
        return vm.own.monitor if vm.hypervisor.boots_all_kernels else ""
    return vm.link.socket if isinstance(vm.link, SerialLink) else ""


def _start_of(binary: str) -> str:
    """The program that starts it: a VMM of the stage1 image is dynamic, and the image has the loader for it."""
    loaded = f"{os.path.dirname(os.path.dirname(binary))}/{LOADED}/{os.path.basename(binary)}"
    return loaded if os.path.exists(loaded) else binary


def _loader(start: str) -> tuple[str, ...]:
    """The loader: the launcher, and the image's loader and libraries."""
    return os.path.realpath(start), f"{os.path.dirname(os.path.dirname(start))}/python"


def send(spec: LaunchSpec) -> None:
    """Send the launch spec to the launcher. Raises BadRequest when no launcher has started this process."""
    _write(DESCRIPTION_VARIABLE, spec.jailer)
    if spec.copy:
        _write(COPY_VARIABLE, spec.copy)
    _write(VARIABLE, spec.launcher)


def _write(variable: str, text: bytes) -> None:
    number = os.environ.get(variable, "")
    if not number.isdigit():
        raise BadRequest(f"{variable} is not set: this program is started by the launcher of the stage1 image")
    with Guard("write", "the launch spec for the launcher"):
        os.write(int(number), text)
