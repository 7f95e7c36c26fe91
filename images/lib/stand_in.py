# SPDX-License-Identifier: Apache-2.0
"""A small library in place of one that a program names and, as we use it, never calls: each function that the program
wants of it is there, in the version that it wants, and fails with ENOSYS. Used by the builder of the guest's image.
"""

import os
import re
from pathlib import Path

from lib import cache, tools

_COMPILE = ("gcc", "-std=c17", "-Wall", "-Wextra", "-Werror", "-Os", "-g0", "-fPIC", "-shared", "-s", "-nostdlib")
_LINK = "-Wl,--build-id=none,--hash-style=gnu,-z,noexecstack,-z,relro,-z,now"
_ENOSYS = 38

Wanted = dict[str, list[str]]
"""Names of functions by the version of the library in which they came."""


def wanted(program: Path, version: str) -> Wanted:
    """The functions that `program` wants of the library whose versions have names like `version`, a pattern.

    Raises BuildFailed when it wants none.
    """
    found: Wanted = {}
    for name, of in re.findall(rf" UND (\w+)@({version})\b", tools.run(["readelf", "-W", "--dyn-syms", program])):
        found.setdefault(of, []).append(name)
    if not found:
        raise cache.BuildFailed(f"{program} wants nothing of {version}; so no library need stand in for it")
    return found


def source(functions: Wanted) -> str:
    """In C. Who takes the result for an int or for a pointer gets none that is valid."""
    names = sorted(name for names in functions.values() for name in names)
    return "".join(f"long {name}(void);\nlong {name}(void)\n{{\n    return -{_ENOSYS};\n}}\n" for name in names)


def versions(functions: Wanted) -> str:
    """For the linker."""
    return "".join(f"{of} {{ global: {'; '.join(names)}; }};\n" for of, names in sorted(functions.items()))


def built(cache_dir: Path, functions: Wanted, *, library: str) -> Path:
    """The directory with `library`, and nothing else in it."""
    tools.need({"gcc": "gcc", "readelf": "binutils"})
    texts = (source(functions), versions(functions))
    key = cache.hash_of([tools.run(["gcc", "--version"]), *_COMPILE, _LINK, library, *texts])

    def make(out: Path) -> None:
        files = (out / "stand-in.c", out / "stand-in.map")
        for file, text in zip(files, texts, strict=True):
            file.write_text(text)
        link = f"{_LINK},-soname,{library},--version-script={files[1].name}"
        environment = {"PATH": os.environ["PATH"], "LC_ALL": "C"}
        tools.run([*_COMPILE, files[0].name, link, "-o", library], env=environment, cwd=out)
        for file in files:
            file.unlink()

    return cache.built(cache_dir, "guest-stand-in", key, make)
