# SPDX-License-Identifier: Apache-2.0
"""What the instructions of rkt's `run` are for: for `scripts/bench entry --parts`.

The program calls getpgid, which nothing else here does, wherever another part begins; there callgrind writes what it
has counted and starts anew. What counting costs is in it: the marks themselves, some percent.
"""

import re
from collections.abc import Iterable
from pathlib import Path

OPTIONS = "--dump-before=getpgid --combine-dumps=no"
START, NETWORK, JAIL, REST = "start_of_python", "network", "jail", "rest"
MODULES = {
    NETWORK: ("stage1.net", "stage1.rkt.network", "stage1.linux.netlink", "stage1.linux.tun", "stage1.linux.bpf"),
    JAIL: (
        *("stage1.vm.jail", "stage1.vm.limits", "stage1.vm.slots", "stage1.placement", "stage1.linux.idmap"),
        *("stage1.linux.cgroup", "stage1.linux.podcgroup", "stage1.rootfs.owners", "stage1.rootfs.overlay"),
    ),
}
CALLS = {
    NETWORK: ("stage1.rkt.network.attach", "stage1.rkt.network.host_ip"),
    JAIL: (
        *("stage1.placement.add", "stage1.rootfs.owners.keep_plain", "stage1.rkt.machine.show"),
        *("stage1.vm.jail.describe", "stage1.vm.slots.configured"),
    ),
}
_MARKS = """
import posix
log = posix.open({path!r} + sys.argv[1], posix.O_WRONLY | posix.O_CREAT | posix.O_APPEND | posix.O_CLOEXEC, 0o600)
parts = [{start!r}]

def turn(part):
    "What was counted until now is for the part before."
    posix.write(log, parts[-1].encode() + b" ")
    posix.getpgid(0)
    parts.append(part)

def back():
    turn(parts[-2])
    del parts[-2:]

def part_of(name):
    found = [part for part, names in {modules!r}.items() if any(name == n or name.startswith(n + ".") for n in names)]
    return found[0] if found else {rest!r}

def within(part, do):
    def wrapped(*arguments, **named):
        turn(part)
        try:
            return do(*arguments, **named)
        finally:
            back()
    return wrapped

loads = space["Modules"].exec_module
space["Modules"].exec_module = lambda self, module: within(part_of(module.__name__), loads)(self, module)
"""
_WRAPPED = """
for part, names in {calls!r}.items() if sys.argv[1] == "run" else ():
    for name in names:
        place, _, function = name.rpartition(".")
        module = __import__(place, fromlist=(function,))
        setattr(module, function, within(part, getattr(module, function)))
turn({rest!r})
"""
"""A `with` makes its value only when it is entered: what is wrapped here are plain functions."""


def marked(start: str, path: Path) -> str:
    """The program `start` (entry.START), with a mark at each turn; the names of the parts go to `path` with the name
    of the program.
    """
    begin = start.replace('{"__name__": "start", "__file__": __file__}', "space", 1)
    begin = begin.replace(
        "import marshal, sys\n", 'import marshal, sys\nspace = {"__name__": "start", "__file__": __file__}\n'
    )
    marks = _MARKS.format(path=str(path), start=START, modules=MODULES, rest=REST)
    begin = begin.replace("import os\n", f"{marks}\nimport os\n", 1)
    last = begin.rindex("code = dispatch.enter(")
    return begin[:last] + _WRAPPED.format(calls=CALLS, rest=REST) + begin[last:]


def read(marks: Path, files: Iterable[Path]) -> dict[str, int]:
    """Instructions by part, from callgrind's files."""
    counts = dict(map(_count, files))
    parts = [*marks.read_text().split(), REST]
    result = dict.fromkeys((START, NETWORK, JAIL, REST), 0)
    for part, number in zip(parts, sorted(counts), strict=True):
        result[part] += counts[number]
    return result


def _count(path: Path) -> tuple[int, int]:
    """The number of a file, and the instructions in it."""
    text = path.read_text()
    number, total = (re.search(rf"^(?:{names}): (\d+)", text, re.MULTILINE) for names in ("part", "summary|totals"))
    assert number and total, path
    return int(number[1]), int(total[1])
