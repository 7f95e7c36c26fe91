# SPDX-License-Identifier: Apache-2.0
"""Programs that the builders call: found or asked for by their Debian package, run quietly, quoted when they fail."""

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from lib.cache import BuildFailed

TAIL_LINES = 30


def need(packages: Mapping[str, str], files: Mapping[str, str] | None = None) -> None:
    """Raise BuildFailed with the Debian packages of programs and files that are missing.

    need({"mkfs.erofs": "erofs-utils"}, {"/usr/include/libelf.h": "libelf-dev"})
    """
    path = f"/usr/local/sbin:/usr/sbin:/sbin:{os.environ.get('PATH', os.defpath)}"
    missing = {name: package for name, package in packages.items() if not shutil.which(name, path=path)}
    missing |= {name: package for name, package in (files or {}).items() if not os.path.exists(name)}
    if missing:
        names, debian = " ".join(sorted(missing)), " ".join(sorted(set(missing.values())))
        raise BuildFailed(f"missing: {names}; install with: apt-get install --no-install-recommends {debian}")


def run(argv: Sequence[str | Path], *, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> str:
    """Standard output of a program that must succeed."""
    done = subprocess.run(argv, cwd=cwd, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-TAIL_LINES:])
        raise BuildFailed(f"{argv[0]} failed with exit status {done.returncode}:\n{tail}")
    return done.stdout


def make(source: Path, out: Path) -> None:
    """Run the Makefile in `source`, whose results go to `out`: by its path from there, as make knows no spaces."""
    out.mkdir(exist_ok=True)
    place = os.path.relpath(os.path.realpath(out), os.path.realpath(source))
    run(["make", "-C", source, f"OUT={place}"], env={"PATH": os.environ["PATH"], "LC_ALL": "C"})


def package_version(name: str) -> str:
    """Of an installed Debian package; empty when it is not installed or this is not Debian."""
    if not shutil.which("dpkg-query"):
        return ""
    done = subprocess.run(
        ["dpkg-query", "-W", "-f=${Version}", name], stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    return done.stdout if done.returncode == 0 else ""
