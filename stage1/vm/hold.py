# SPDX-License-Identifier: Apache-2.0
"""A VM that is held: all of its VMM's threads are stopped until it is released. Called by `cri/`.

A file in the pod's directory records it, since the daemon may be killed: the next one releases the VM.
"""

from stage1.linux import beneath, process
from stage1.vm.vmm import VmProcess

FILE = "held"


def hold(vm: VmProcess, directory: str) -> None:
    """Stop it; idempotent. Undo: `go_on`. Raises NoSpace, KernelError; it runs on then."""
    with beneath.Root(directory) as own:
        own.write(FILE, b"")
    _signal(vm, process.SIGSTOP)


def go_on(vm: VmProcess, directory: str) -> None:
    """Let it run; idempotent, and fine when it has ended."""
    _signal(vm, process.SIGCONT)
    try:
        with beneath.Root(directory) as own:
            own.unlink(FILE)
    except FileNotFoundError:
        pass


def is_held(directory: str) -> bool:
    """Whether it is held, also if its holder was killed."""
    with beneath.Root(directory) as own:
        return own.exists(FILE)


def _signal(vm: VmProcess, number: int) -> None:
    handle = process.open_process(vm.pid, vm.start_time)
    if handle is not None:
        with handle:
            handle.kill(number)
