# SPDX-License-Identifier: Apache-2.0
"""Modules of a kernel, and the index by which the guest's modprobe finds them. Used by images/modules/build.py.

A line of the index is a name that the kernel asks for, and the modules behind it, each behind those that it needs.
Names have `_` where they have `-`, as the kernel compares them. Patterns of devices are left out: no driver is one.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from lib import tools

PARAMETERS = {"bonding": "max_bonds=0", "dummy": "numdummies=0", "ifb": "numifbs=0"}
"""These would make devices of themselves in a network namespace that nobody asked them for."""


class Module(NamedTuple):
    """One module: names that it answers to beside its own, and the modules that it needs, themselves in no order."""

    name: str
    aliases: tuple[str, ...]
    needs: tuple[str, ...]


def read(path: Path, work: Path) -> Module:
    """The module in a file; `work` is a file to overwrite."""
    tools.run(["objcopy", "-O", "binary", "--only-section=.modinfo", path, work])
    return parse(normalised(path.stem), work.read_bytes())


def parse(name: str, section: bytes) -> Module:
    """The module `name` by its section .modinfo."""
    pairs = [entry.partition("=")[::2] for entry in section.decode().split("\0")]
    aliases = tuple(normalised(value) for key, value in pairs if key == "alias" and not set(value) & set("*?["))
    needs = [normalised(one) for key, value in pairs if key == "depends" for one in value.split(",") if one]
    return Module(name, aliases, tuple(needs))


def normalised(name: str) -> str:
    """The name as it is compared."""
    return name.replace("-", "_")


def index(modules: Iterable[Module]) -> str:
    """The lines for all modules, sorted."""
    known = {module.name: module for module in modules}
    behind: dict[str, list[str]] = {}
    for name, module in sorted(known.items()):
        for alias in (name, *module.aliases):
            behind.setdefault(alias, []).append(name)
    return "".join(
        f"{alias} {' '.join(map(_word, _ordered(names, known)))}\n" for alias, names in sorted(behind.items())
    )


def _word(name: str) -> str:
    parameters = PARAMETERS.get(name)
    return f"{name},{parameters}" if parameters else name


def _ordered(names: Iterable[str], known: Mapping[str, Module]) -> list[str]:
    """With what they need in front of each. Raises KeyError for a module that needs one which is not there."""
    order: list[str] = []
    for name in names:
        order += [one for one in (*_ordered(known[name].needs, known), name) if one not in order]
    return list(dict.fromkeys(order))
