# SPDX-License-Identifier: Apache-2.0
"""How a VMM is to be started, written down for the launcher, which stays with it (images/launcher). For stage1/rkt.

Not started here, and nothing waits: this process has ended when the VM boots.
"""

import os

from stage1.errors import BadRequest
from stage1.linux.libc import Guard
from stage1.vm import confine, kvmtool, qemu
from stage1.vm.spec import VmSpec
from stage1.vm.vmm import is_kvmtool

VARIABLE = "CLEARPOD_ORDER_FD"
"""The launcher's descriptor for it."""
LOADED = "loaded"
"""Beside the directory of the image's VMM; images/stage1-aci/README.md."""


def order(vm: VmSpec, found: confine.Confinement, *, interactive: bool) -> bytes:
    """Words with a letter in front, each ended by a zero: what images/launcher/launcher.h says. Raises BadRequest."""
    vm = vm._replace(jailer="")
    driver = kvmtool if is_kvmtool(vm.binary) else qemu
    start = _start_of(vm.binary)
    wrapper = confine.command(found, vm, also=_loader(start) if start != vm.binary else ())
    words = [f"a{word}" for word in (*wrapper, *driver.argv(vm._replace(binary=start)))]
    words += [f"e{name}={value}" for name, value in driver.environment(vm).items()]
    words += [f"n{vm.netns}"] if vm.netns else []
    words += [f"c{vm.run_dir}/console.log", f"l{vm.run_dir}/logs"]
    if interactive:
        words += ["t", "i"] if driver is kvmtool else ["i"]  # kvmtool reads no input but a terminal's
    return b"".join(os.fsencode(word) + b"\0" for word in words)


def _start_of(binary: str) -> str:
    """What starts it: a VMM of the stage1 image is dynamic, and beside it is what loads it on any host."""
    loaded = f"{os.path.dirname(os.path.dirname(binary))}/{LOADED}/{os.path.basename(binary)}"
    return loaded if os.path.exists(loaded) else binary


def _loader(start: str) -> tuple[str, ...]:
    """What loads it: the launcher, and the image's loader and libraries."""
    return os.path.realpath(start), f"{os.path.dirname(os.path.dirname(start))}/python"


def hand_over(text: bytes) -> None:
    """Write it for the launcher. Raises BadRequest when no launcher has started this process."""
    number = os.environ.get(VARIABLE, "")
    if not number.isdigit():
        raise BadRequest(f"{VARIABLE} is not set: this program is started by the launcher of the stage1 image")
    with Guard("write", "the order for the launcher"):
        os.write(int(number), text)
