# SPDX-License-Identifier: Apache-2.0
"""Which files of the host a program opens by itself, so that its jail shows these and no others: its dynamic loader and
libraries, and what a hypervisor reads beside them (QEMU's firmware and accelerators).

Called by `jail` and `clearpod check`. The program's own loader finds the libraries. That is another process, so the
result is kept until the next boot, below PLACE, and is used as long as each of the files is what it was.
"""

import os
import zlib
from collections.abc import Iterable
from typing import NamedTuple

from stage1.errors import PodError
from stage1.linux import files, host, process
from stage1.vm.spec import Hypervisor

PLACE = "/run/clearpod-programs"
SYSTEM = ("/usr", "/lib", "/lib64", "/bin", "/sbin", "/opt", "/nix", "/gnu")
"""Directories with programs: in the jail of a program that is a script, which may start anything."""
LOADER_FILES = ("/etc/ld.so.cache", "/etc/ld.so.preload")
_PRELOADED = "libgcc_s.so.1"
"""glibc loads it when a thread ends, so no program names it."""
_LIBRARIES = ("lib", "lib64", "lib/x86_64-linux-gnu")
_TOOL_S = 10.0
_VERSION = "1"


class Needed(NamedTuple):
    """A file, and whether it is code: then it may be executed, and mapped so."""

    path: str
    is_code: bool


def is_script(program: str) -> bool:
    """Whether the program is a script, of which nobody knows what it starts. False if it can't be read."""
    try:
        with open(program, "rb") as file:
            return file.read(2) == b"#!"
    except OSError:
        return False


def above(path: str) -> str:
    """The directory of SYSTEM in which `path` lies; empty when in none."""
    return next((one for one in SYSTEM if f"{path}/".startswith(f"{os.path.realpath(one)}/")), "")


def needed(program: str, hypervisor: Hypervisor | None = None, *, place: str = PLACE) -> list[Needed]:
    """The files that `program` opens, itself left out. With `hypervisor` it is one of that, else any program.

    A program that can't be read, that is no ELF file or that is linked statically needs none. Never raises: what is
    missing is reported by the program itself.
    """
    kept = f"{place}/{zlib.crc32(os.fsencode(program)):08x}-{hypervisor.name if hypervisor else 'tool'}"
    known = _read(kept, program)
    if known is not None:
        return known
    libraries, others = _libraries(program), _of_hypervisor(program, hypervisor) if hypervisor else ()
    result = list(dict.fromkeys((*libraries, *others)))
    _write(kept, program, needed_files=result)
    return result


def _read(kept: str, program: str) -> list[Needed] | None:
    """The result that is kept; None when there is none, or one of its files has changed."""
    result = []
    try:
        with open(kept, encoding="utf-8", errors="surrogateescape") as file:
            version, of, *lines = file.read().splitlines()
        if (version, of) != (_VERSION, program):
            return None
        for line in lines:
            kind, was, path = line.split(" ", 2)
            if was != _identity(path):
                return None
            if kind != "-":
                result.append(Needed(path, kind == "x"))
    except (OSError, ValueError):
        return None
    return result


def _write(kept: str, program: str, *, needed_files: Iterable[Needed]) -> None:
    watched = [f"- {_identity(path)} {path}" for path in (program, *LOADER_FILES)]
    lines = [
        _VERSION,
        program,
        *watched,
        *(f"{'x' if code else 'r'} {_identity(path)} {path}" for path, code in needed_files),
    ]
    try:
        files.make_dirs(os.path.dirname(kept), 0o700)
        files.write_atomic(kept, os.fsencode("\n".join(lines)))
    except PodError:
        pass  # it is found again the next time


def _identity(path: str) -> str:
    """What differs when a file is another one or has other content; `0` without one."""
    try:
        about = os.stat(path)
    except OSError:
        return "0"
    return f"{about.st_dev:x}:{about.st_ino:x}:{about.st_mtime_ns:x}:{about.st_size:x}"


def _libraries(program: str) -> list[Needed]:
    """The program's dynamic loader, and what that would load."""
    loader = host.interpreter(program)
    if not loader or not os.path.isfile(loader):
        return []
    text = _output([loader, "--list", program], {"LD_PRELOAD": _PRELOADED}) or _output([loader, "--list", program], {})
    paths = [loader]
    for line in text.splitlines():  # "name => path (address)", or "path (address)"
        path = line.rpartition(" => ")[2].strip().rpartition(" (")[0]
        if path.startswith("/"):
            paths.append(path)
    return [Needed(path, True) for path in dict.fromkeys(map(_plain, paths))]


def _of_hypervisor(program: str, hypervisor: Hypervisor) -> list[Needed]:
    """The hypervisor's modules with their libraries, and its firmware."""
    real = os.path.realpath(program)
    if is_script(real) or not any(hypervisor.is_program(os.path.basename(path)) for path in (program, real)):
        return []
    top = os.path.dirname(os.path.dirname(real)).rstrip("/")
    modules = [
        f"{top}/{directory}/{name}"
        for directory in (_LIBRARIES if hypervisor.modules else ())
        for name in hypervisor.modules
        if os.path.isfile(f"{top}/{directory}/{name}")
    ]
    result = [one for module in modules for one in (Needed(module, True), *_of_module(module, program))]
    if not hypervisor.firmware:
        return result
    directories = [line for line in _output([program, "-L", "help"], {}).splitlines() if line.startswith("/")]
    for name in hypervisor.firmware:
        path = next((f"{one}/{name}" for one in directories if os.path.isfile(f"{one}/{name}")), "")
        if path:
            result.append(Needed(_plain(path), False))
    return result


def _of_module(module: str, program: str) -> list[Needed]:
    text = _output([host.interpreter(program) or "", "--list", module], {})
    paths = [line.rpartition(" => ")[2].strip().rpartition(" (")[0] for line in text.splitlines()]
    return [Needed(_plain(path), True) for path in paths if path.startswith("/")]


def _plain(path: str) -> str:
    return os.path.normpath(path)


def _output(argv: list[str], env: dict[str, str]) -> str:
    try:
        result = process.run(argv, timeout_s=_TOOL_S, env={"PATH": "/usr/bin:/bin", **env})
    except PodError:
        return ""
    return result.stdout.decode("utf-8", "surrogateescape") if result.code == 0 else ""
