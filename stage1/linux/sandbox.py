# SPDX-License-Identifier: Apache-2.0
"""The command line that confines a program which parses foreign bytes: setpriv, unshare and prlimit of util-linux.

Called by `rootfs`. Only makes arguments, except for `means`, which tries once what this host
can do. Must not start the program itself: see `supervise`.
"""

import os
import sys
from typing import NamedTuple

from stage1.errors import NotFound, PodError
from stage1.linux import callfilter, process
from stage1.linux.host import which
from stage1.linux.libc import Guard

# Access rights of landlock(7), as setpriv names them. A rule for a file takes no rights of directories.
READ, RUN = "read-file,read-dir", "execute,read-file,read-dir"
WRITE = "read-file,write-file,truncate,read-dir,remove-file,remove-dir,make-reg,make-dir"
_FILE_RIGHTS = {"execute", "read-file", "write-file", "truncate"}

SYSTEM = (
    *((path, RUN) for path in ("/usr", "/lib", "/lib64", "/bin", "/sbin", "/nix", "/gnu")),
    ("/etc/ld.so.cache", "read-file"),
    ("/dev/null", "read-file,write-file"),
    ("/dev/urandom", "read-file"),
)
"""Directories that any program needs to start: libraries and programs of the system, readable by all."""

NETWORK_PLACES = tuple((path, READ) for path in ("/etc", "/run", "/var/lib/ca-certificates"))
"""Files that a program with network access reads besides: name resolution, and certificates of authorities."""

_NAMESPACES = ("--net", "--ipc", "--uts", "--pid", "--fork", "--kill-child=KILL")
_TRIAL_S = 10.0
_PROCESSES, _FILES = 256, 8192
"""A user's processes are counted over all sandboxes that run at once."""


class Box(NamedTuple):
    """What the program may have. Relative paths are below `directory`, its working directory.

    `file_bytes` bounds each file that it writes, 0: it may write none; `memory_bytes` its address space. `uid` 0 stays
    root, without capabilities.
    """

    memory_bytes: int
    cpu_s: int
    file_bytes: int = 0
    directory: str = "/"
    places: tuple[tuple[str, str], ...] = ()
    """Paths, with the rights of landlock(7) that it has there; one that is absent is left out."""
    uid: int = 0
    network: bool = False
    sockets: bool = False
    """Whether the filter of system calls leaves them."""


class Means(NamedTuple):
    """The means of confinement that work on this host. `lacks` is a sentence about the others; empty if all work."""

    setpriv: str
    unshare: str
    prlimit: str
    landlock: bool
    lacks: str = ""
    filters: tuple[str, str] = ("", "")
    """The paths of the filters of system calls, without sockets and with them; empty where there is none."""


def command(box: Box, tools: Means) -> list[str]:
    """The arguments before those of the program."""
    argv = [tools.setpriv, "--pdeathsig=KILL", "--"]
    argv += _apart(box, tools) if tools.unshare else ["env", f"--chdir={box.directory}"]
    # Soft and hard alike: the first process of a PID namespace ignores SIGXCPU, which the soft one sends.
    argv += [tools.prlimit, *(f"--{kind}={most}" for kind, most in bounds(box).items()), "--"]
    argv += [tools.setpriv, *_powers(box)]
    argv += _fence(box) if tools.landlock else []
    filter_ = tools.filters[box.sockets]
    argv += [f"--seccomp-filter={filter_}"] if filter_ else []
    return [*argv, "--"]


def _apart(box: Box, tools: Means) -> list[str]:
    kinds = [kind for kind in _NAMESPACES if not (box.network and kind == "--net")]
    return [tools.unshare, *kinds, f"--wd={box.directory}", "--"]


def bounds(box: Box) -> dict[str, int]:
    """Return the limits of what runs in the box, by setrlimit(2)'s names in small letters."""
    processes = {"nproc": _PROCESSES} if box.uid else {}
    return {
        "as": box.memory_bytes,
        "cpu": box.cpu_s,
        "fsize": box.file_bytes,
        "nofile": _FILES,
        **processes,
        "core": 0,
    }


def _powers(box: Box) -> list[str]:
    user = [f"--reuid={box.uid}", f"--regid={box.uid}"] if box.uid else []
    none = ["--no-new-privs", "--inh-caps=-all", "--ambient-caps=-all", "--bounding-set=-all"]
    # Once more, since a change of the user takes the first one back.
    return [*user, "--clear-groups", *none, "--pdeathsig=KILL"]


def _fence(box: Box) -> list[str]:
    rules = (f"--landlock-rule=path-beneath:{rights}:{path}" for path, rights in existing(box))
    return ["--landlock-access=fs", *rules]


def existing(box: Box) -> tuple[tuple[str, str], ...]:
    """The system's places and the box's own that are there, with the rights that what is there can have."""
    rules = []
    for path, rights in (*SYSTEM, *box.places):
        there = os.path.join(box.directory, path)
        if os.path.isdir(there):
            rules.append((path, rights))
        elif os.path.exists(there):
            rules.append((path, ",".join(right for right in rights.split(",") if right in _FILE_RIGHTS)))
    return tuple(rules)


_cached: list[Means] = []


def means() -> Means:
    """The means that this host has, tried once per process with the program `true`: some 20 ms. Raises NotFound
    without util-linux.
    """
    if not _cached:
        _cached.append(_find())
    return _cached[0]


def _find() -> Means:
    setpriv, unshare, prlimit = (which(name) for name in ("setpriv", "unshare", "prlimit"))
    if not (setpriv and unshare and prlimit):
        raise NotFound("there are no setpriv, unshare and prlimit programs; install util-linux")
    whole = Means(setpriv, unshare, prlimit, landlock=True, filters=_filters())
    lacks = [] if whole.filters[0] else ["there is no seccomp filter for this architecture"]
    if whole.filters[0] and (why := _trial(whole._replace(landlock=False, unshare=""))):
        lacks.append(f"setpriv can't load a seccomp filter ({why})")
        whole = whole._replace(filters=("", ""))
    if why := _trial(whole._replace(landlock=False)):
        lacks.append(f"namespaces can't be made ({why})")
        whole = whole._replace(unshare="")
    if why := _trial(whole):
        lacks.append(f"setpriv can't use Landlock ({why})")
        whole = whole._replace(landlock=False)
    return whole._replace(lacks=f"programs that read images are less confined: {' and '.join(lacks)}" if lacks else "")


def _filters() -> tuple[str, str]:
    """Their bytes are in memory for as long as this process lives. setpriv opens them while it still is root."""
    if os.uname().machine != callfilter.ARCHITECTURE:
        return "", ""
    return _kept(callfilter.program()), _kept(callfilter.program(sockets=True))


def _kept(data: bytes) -> str:
    with Guard("memfd_create", "a filter of system calls"):
        fd = os.memfd_create("filter", os.MFD_CLOEXEC)
        os.write(fd, data)
    return f"/proc/{os.getpid()}/fd/{fd}"


def _trial(tools: Means) -> str:
    box = Box(memory_bytes=1 << 30, cpu_s=5, uid=65530)
    try:
        result = process.run([*command(box, tools), which("true") or "true"], timeout_s=_TRIAL_S, env=ENVIRONMENT)
    except PodError as error:
        return str(error)
    last = result.stderr.decode(errors="replace").strip().rpartition("\n")[2]
    return "" if result.code == 0 else last or f"code {result.code}"


ENVIRONMENT = {
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    "LC_ALL": "C.UTF-8",
    "OPENSSL_CONF": "/dev/null",
    "TMPDIR": "out",
}
"""Of a confined program; its temporary files are in the directory `out`, if it has one."""

_FILE = os.path.abspath(globals().get("__file__", ""))
"""This one; modules of rkt's image have none, and confine no processes."""
_CODE = os.path.dirname(os.path.dirname(os.path.dirname(_FILE)))
_START = "import sys; sys.path.insert(0, sys.argv.pop(1)); from stage1.rootfs.confined import {}; {}()"


def python(arguments: tuple[str, ...], *, main: str = "main") -> list[str]:
    """The command line of a Python with our code and nothing else: the function `main` of `rootfs.confined`.

    To be confined by `command`, but for the fork server.
    """
    return [os.path.realpath(sys.executable), "-I", "-S", "-B", "-c", _START.format(main, main), _CODE, *arguments]


def python_places() -> tuple[tuple[str, str], ...]:
    """The files that `python` reads besides the system's."""
    code = tuple((f"{_CODE}/{name}", READ) for name in ("stage1", "cri"))
    return ((_CODE, "read-dir"), *code, (sys.base_prefix, RUN), (sys.base_exec_prefix, RUN))


def usable_uid(uid: int) -> int:
    """`uid` if it can reach Python and our code, else 0: they may be below a directory that is root's own."""
    paths = (os.path.realpath(sys.executable), _FILE)
    return uid if uid and all(_is_open(path) for path in paths) else 0


def _is_open(path: str) -> bool:
    if not os.stat(path).st_mode & 0o004:
        return False
    while (path := os.path.dirname(path)) != "/":
        if not os.stat(path).st_mode & 0o001:
            return False
    return True
