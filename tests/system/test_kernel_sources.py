# SPDX-License-Identifier: Apache-2.0
"""The changes of Linux's source apply to the installed linux-source-6.12; with CLEARPOD_ALL_SOURCES=1 also to each
version of it that apt offers, and, as a report, to the newest of another series (backports): 150 MB to download each.
"""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.builders import changes

CHANGES = Path(__file__).parents[2] / "images/kernel/changes.toml"
NONE = pytest.mark.skip("CLEARPOD_ALL_SOURCES is not 1")
INSTALLED = Path("/usr/src/linux-source-6.12.tar.xz")


def _offered() -> Iterator[str]:
    """NAME=VERSION of each package that apt can download; of other series than 6.12 only the newest."""
    if os.environ.get("CLEARPOD_ALL_SOURCES") != "1":
        return
    names = re.findall(r"linux-source-\d+\.\d+(?= )", _output("apt-cache", "search", "^linux-source-"))
    series = sorted({*names, "linux-source-6.12"}, key=lambda name: [int(part) for part in name[13:].split(".")])
    for name in {"linux-source-6.12", series[-1]}:
        versions = {line.split("|")[1].strip() for line in _output("apt-cache", "madison", name).splitlines()}
        yield from (f"{name}={version}" for version in sorted(versions))


def _output(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=600).stdout


def _extract(archive: str, into: Path, wanted: list[changes.Change]) -> Path:
    """Unpack only the changed files; `archive` is a shell command that writes a .tar.xz."""
    files = sorted({edit.file for change in wanted for edit in change.edit})
    names = " ".join(f"'*/{name}'" for name in files)
    options = "--strip-components=1 --wildcards --no-wildcards-match-slash"
    subprocess.run(
        ["sh", "-c", f"{archive} | tar -xJ -C {into} {options} {names} || true"],
        check=True,
        stderr=subprocess.DEVNULL,
        timeout=900,
    )
    return into


@pytest.mark.slow
@pytest.mark.skipif(not INSTALLED.exists(), reason="linux-source-6.12 is not installed")
def test_all_changes_apply_to_the_installed_source(tmp_path):
    wanted = changes.read(CHANGES)
    tree = _extract(f"cat {INSTALLED}", tmp_path, wanted)
    assert [str(one) for one in changes.apply(tree, wanted)] == []


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("package", [*_offered()] or [pytest.param("", marks=NONE)])
def test_no_needed_change_fails_on_a_source_that_apt_offers(tmp_path, package):
    name, _, version = package.partition("=")
    subprocess.run(
        ["apt-get", "download", "-qq", "-o", "APT::Sandbox::User=root", package], cwd=tmp_path, check=True, timeout=1200
    )
    (deb,) = tmp_path.glob("*.deb")
    wanted = changes.read(CHANGES)
    tree = tmp_path / "tree"
    tree.mkdir()
    _extract(f"dpkg-deb --fsys-tarfile {deb} | tar -xO ./usr/src/{name}.tar.xz", tree, wanted)
    if name == "linux-source-6.12":
        skipped = changes.apply(tree, wanted)
    else:  # a report: the build takes 6.12
        skipped = changes.apply(tree, [one._replace(needed=False) for one in wanted])
    print(f"{name} {version}: {len(wanted)} changes, {len(skipped)} skipped", *skipped, sep="\n  ")
