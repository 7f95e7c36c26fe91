# SPDX-License-Identifier: Apache-2.0
"""The parts that a template was made from, and its name, which is their hash: a VM can be a copy only of a template
with the same parts. Called by `stage1.templates`. It looks at files' sizes and times, and reads no guest.
"""

import os

from stage1.errors import KernelError
from stage1.linux import files
from stage1.linux.libc import Guard
from stage1.vm.spec import Nic, SerialLink, VmSpec
from stage1.vm.template import Template

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

FORMAT = "2"
"""Of the files, and of what the agent does before it is saved."""
_CPU = frozenset(("vendor_id", "cpu family", "model", "stepping", "microcode", "flags"))
_FILES = ("kernel", "initramfs", "system", "hypervisor")
_POD = "/pod"
_MEASURED = ("tsc_early_khz=", "lpj=")
"""Kernel arguments with numbers that each daemon measures, slightly differently each time."""


def parts(vm: VmSpec, *, scratch_bytes: int, host: "Mapping[str, str]") -> dict[str, str]:
    """All that must be equal, by names for people. `host` is what `of_host` says. Raises BadRequest, KernelError."""
    plain = _without_pod(vm)
    named = dict(zip(_FILES, (vm.kernel, vm.initramfs, vm.system_image, vm.binary), strict=True))
    return {
        "format": FORMAT,
        "arguments": "\n".join(vm.hypervisor.argv(plain)),
        "scratch": str(scratch_bytes if vm.scratch else 0),
        **{name: identity(path) for name, path in named.items()},
        **host,
    }


def name(made_of: "Mapping[str, str]") -> str:
    """32 hexadecimal digits."""
    try:
        from _sha2 import sha256  # type: ignore[import-not-found]  # as the module random does: a pod of rkt's waits for hashlib
    except ImportError:
        from hashlib import sha256

    return str(sha256("\0".join(part for item in sorted(made_of.items()) for part in item).encode()).hexdigest())[:32]


def is_current(made_of: "Mapping[str, str]", host: "Mapping[str, str]") -> bool:
    """Whether a VM could still be made of the same: nothing of it was replaced since."""
    return not replaced(made_of, host)


def replaced(made_of: "Mapping[str, str]", host: "Mapping[str, str]") -> str:
    """The first part that is not there any more, whatever the pod is; empty when all are."""
    known = {"format": FORMAT, **host}
    others = (name for name, value in known.items() if made_of.get(name) != value)
    return next(others, "") or next((name for name in _FILES if not _is_there(made_of.get(name, ""))), "")


def _is_there(was: str) -> bool:
    return is_same(was.rsplit(" ", 3)[0], was)


def is_same(path: str, was: str) -> bool:
    """Whether the file has that `identity` still: it may have been replaced, or removed."""
    try:
        return identity(path) == was
    except KernelError:
        return False


def identity(path: str) -> str:
    """Another one after the file was replaced or written to. Raises KernelError."""
    real = os.path.realpath(path)
    with Guard("stat", real):
        status = os.stat(real)
    return f"{real} {status.st_size} {status.st_mtime_ns} {status.st_ino}"


def of_host(cpuinfo: str, kernel: "os.uname_result") -> dict[str, str]:
    """The parts that concern the machine: a guest keeps what it has found of the processor and of the tap."""
    first = cpuinfo.partition("\n\n")[0]
    fields = (line.partition(":") for line in first.splitlines())
    cpu = [f"{key.strip()}={value.strip()}" for key, _, value in fields if key.strip() in _CPU]
    return {"cpu": "\n".join(cpu), "host": f"{kernel.release} {kernel.version} {kernel.machine}"}


def this_host() -> dict[str, str]:
    """`of_host` of the machine that we are on. Raises KernelError."""
    return of_host(files.read("/proc/cpuinfo").decode(errors="replace"), os.uname())


def _without_pod(vm: VmSpec) -> VmSpec:
    """The same VM whoever's it is."""
    return vm._replace(
        name="template",
        run_dir=_POD,
        link=SerialLink(f"{_POD}/agent.sock"),
        shares=tuple(share._replace(path=f"{_POD}/{share.tag}") for share in vm.shares),
        scratch=vm.scratch and f"{_POD}/scratch",
        nics=tuple(Nic("tap", "") for _ in vm.nics),
        kernel_arguments=tuple(
            word.partition("=")[0] if word.startswith(_MEASURED) else word for word in vm.kernel_arguments
        ),
        template=Template("/template"),
    )
