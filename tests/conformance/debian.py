# SPDX-License-Identifier: Apache-2.0
"""Packages and sources of Debian's archive, fetched with the host's own apt sources and unpacked; nothing is installed.

For the stand-in images. The host may have no deb-src line: one is derived from its deb lines, in a directory of ours.
"""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.fakes.builders import BuildFailed
from tests.lab.debian_kernel import run, unpack

TARGETS = ["apt-get", "indextargets", "--format", "$(ORIGIN)\t$(REPO_URI)\t$(RELEASE)\t$(COMPONENT)\t$(SIGNED_BY)"]


def source_lines(targets: str) -> list[str]:
    """A deb-src line for each of Debian's own suites that `apt-get indextargets` told of. Pure."""
    lines = set()
    for fields in (line.split("\t") for line in targets.splitlines()):
        origin, uri, release, component, key = (*fields, "", "", "", "", "")[:5]
        if origin == "Debian" and component == "main":
            signed = f"[signed-by={key}] " if key and "$" not in key else ""
            lines.add(f"deb-src {signed}{uri} {release} {component}")
    return sorted(lines)


def fetch_source(package: str, into: Path) -> Path:
    """The upstream source tree of a Debian source package, unpacked in `into`. Raises BuildFailed."""
    lines = source_lines(run([*TARGETS, "Created-By: Packages"]))
    if not lines:
        raise BuildFailed(f"apt knows no archive of Debian here, and the source of {package} is wanted from it")
    with tempfile.TemporaryDirectory() as scratch:
        os.makedirs(f"{scratch}/lists/partial")
        Path(scratch, "list").write_text("\n".join(lines) + "\n")
        options = {
            "Dir::Etc::sourcelist": f"{scratch}/list", "Dir::Etc::sourceparts": "-",
            "Dir::State::lists": f"{scratch}/lists", "Dir::Cache::pkgcache": "", "Dir::Cache::srcpkgcache": "",
            "APT::Sandbox::User": "root",
        }  # fmt: skip
        apt = ["apt-get", "-qq", *(word for name, value in options.items() for word in ("-o", f"{name}={value}"))]
        run([*apt, "update"])
        run([*apt, "source", "--download-only", package], cwd=into)
    archive = next(into.glob("*.orig.tar.*"))
    run(["tar", "-xf", archive.name], cwd=into)
    return next(path for path in into.iterdir() if path.is_dir())


def fetch_packages(names: Sequence[str], into: Path) -> None:
    """Unpack Debian's packages over each other in `into`. Raises BuildFailed."""
    for name in names:
        unpack(name, into)
