# SPDX-License-Identifier: Apache-2.0
"""What the Debian packages consist of, as far as none has to be built; tests/system/test_packages.py builds them."""

import importlib.util
import re
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

DEB = Path(__file__).parents[3] / "images/deb"


@pytest.fixture(scope="module")
def build() -> ModuleType:
    spec = importlib.util.spec_from_file_location("deb_build", DEB / "build.py")
    assert spec and spec.loader
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def test_a_commit_sorts_before_the_release_that_it_leads_to(build: ModuleType) -> None:
    version = build._version()
    release = re.split("[~+]", version)[0]
    if version == release:
        pytest.skip("this is a release")
    compare = ["dpkg", "--compare-versions", version, "lt", release]
    assert subprocess.run(compare, check=False).returncode == 0, version


def test_the_package_has_the_pages_an_example_and_the_runtime_class(build: ModuleType, tmp_path: Path) -> None:
    build._add_pages(tmp_path / "doc")
    for name in ("README.md", "admin/node.md", "user/run.md", "examples/config.toml", "examples/runtimeclass.yaml"):
        assert (tmp_path / "doc" / name).stat().st_size > 500, name


def test_the_packages_unit_names_what_the_package_has(build: ModuleType, tmp_path: Path) -> None:
    unit = build._unit()
    assert "/opt/" not in unit and "Documentation=man:clearpod(1) file:///usr/share/doc/clearpod/" in unit
    build._add_pages(tmp_path / "doc")
    (page,) = re.findall("file:///usr/share/doc/clearpod/(.*)", unit)
    assert (tmp_path / "doc" / page).exists()


def test_what_the_daemon_cannot_do_without_is_no_recommendation() -> None:
    """apt is told to leave recommendations out: those of QEMU are a desktop."""
    control = (DEB / "clearpod.control").read_text()
    (depends,) = re.findall("^Depends: (.*)$", control, re.MULTILINE)
    names = {one.split()[0] for one in depends.split(", ")}
    assert {"kmod", "ca-certificates", "qemu-system-x86", "erofs-utils"} <= names
