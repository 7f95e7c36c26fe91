# SPDX-License-Identifier: Apache-2.0
"""What our kernel fragments ask for, and whether Kconfig granted it. Pure; used by images/kernel/build.py.

Kconfig drops a line without a word when a dependency is missing or something else selects the opposite, so the
finished .config is compared with each line.
"""

from collections.abc import Iterable
from typing import NamedTuple


class Fault(Exception):
    """The fragments contradict themselves; one sentence."""


class Refused(NamedTuple):
    """One option that was not taken: the value that was asked for, and the one in .config."""

    name: str
    value: str
    got: str

    def __str__(self) -> str:
        return f"{self.name}={self.value} (it is {self.got})"


def asked(fragments: Iterable[str]) -> dict[str, str]:
    """Name to value of all the fragments. Raises Fault for a name that is given twice and for a strange line."""
    options: dict[str, str] = {}
    for line in "\n".join(fragments).splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        name, equals, value = line.partition("=")
        if not equals or not name.startswith("CONFIG_"):
            raise Fault(f"a kernel fragment has a line that is neither comment nor CONFIG_NAME=value: {line!r}")
        if name in options:
            raise Fault(f"the kernel fragments give {name} twice")
        options[name] = value
    return options


def render(options: dict[str, str]) -> str:
    """One file for KCONFIG_ALLCONFIG."""
    return "".join(f"{name}={value}\n" for name, value in options.items())


def refused(options: dict[str, str], config: str) -> list[Refused]:
    """The lines of `options` that the text of .config does not hold. A name that is absent there counts as n."""
    lines = (line.partition("=") for line in config.splitlines() if line.startswith("CONFIG_"))
    got = {name: value for name, _, value in lines}
    return [Refused(name, value, got.get(name, "n")) for name, value in options.items() if got.get(name, "n") != value]
