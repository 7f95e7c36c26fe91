# SPDX-License-Identifier: Apache-2.0
"""The index of a kernel's modules, and the program that the kernel starts to load them."""

import subprocess
from pathlib import Path

import pytest

from stage1.linux.host import which
from tests.fakes import builders

IMAGES = Path(__file__).parents[3] / "images"
SECTION = (
    b"license=GPL\0alias=rtnl-link-bond\0alias=pci:v00001AF4d*sv*\0depends=tls,nf-conntrack\0alias=ip_set_hash:ip\0"
    b"vermagic=6.12 SMP\0intree=Y\0name=bonding\0"
)
RECORDER = """
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>
long syscall(long number, ...)
{
    char link[32], path[300] = "";
    va_list more;
    va_start(more, number);
    int file = va_arg(more, int);
    const char *parameters = va_arg(more, const char *);
    int flags = va_arg(more, int);
    va_end(more);
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    if (readlink(link, path, sizeof path - 1) < 0)
        return -1;
    printf("%s %s %d\\n", path, parameters, flags);
    return 0;
}
"""


@pytest.fixture(scope="module")
def modules():
    return builders.modules


def test_a_module_answers_to_its_aliases_but_not_to_patterns_of_devices(modules):
    made = modules.parse("bonding", SECTION)
    assert made == modules.Module("bonding", ("rtnl_link_bond", "ip_set_hash:ip"), ("tls", "nf_conntrack"))


def test_the_index_has_what_a_module_needs_in_front_of_it(modules):
    named = modules.Module
    given = [
        named("top", ("fs-top".replace("-", "_"), "both"), ("left", "right")),
        named("left", (), ("base",)), named("right", ("both",), ("base",)), named("base", (), ()),
        named("bonding", ("rtnl_link_bond",), ()),
    ]  # fmt: skip
    assert modules.index(given).splitlines() == [
        "base base",
        "bonding bonding,max_bonds=0",
        "both base right left top",
        "fs_top base left right top",
        "left base left",
        "right base right",
        "rtnl_link_bond bonding,max_bonds=0",
        "top base left right top",
    ]
    with pytest.raises(KeyError, match="absent"):
        modules.index([named("one", (), ("absent",))])


@pytest.fixture(scope="module")
def modprobe(tmp_path_factory):
    """The program, with a directory of its own; it prints what it would give to the kernel."""
    if not which("gcc"):
        pytest.skip("needs gcc")
    place = tmp_path_factory.mktemp("modprobe")
    (place / "record.c").write_text(RECORDER)
    (place / "modules").mkdir()
    (place / "loaded/base").mkdir(parents=True)
    index = "fs_top base left_1 top\nlost base gone\nrtnl_link_bond bonding,max_bonds=0\n"
    (place / "modules/index").write_text(index)
    for name in ("base", "left_1", "top", "bonding"):
        (place / f"modules/{name}.ko").touch()
    names = [f'-DDIRECTORY="{place}/modules"', f'-DLOADED="{place}/loaded"']
    flags = ["-std=c17", "-D_GNU_SOURCE"]
    sources = [IMAGES / "modules/modprobe.c", place / "record.c"]
    subprocess.run(["gcc", *flags, *names, *sources, "-o", place / "modprobe"], check=True, timeout=60)
    return place / "modprobe"


@pytest.mark.parametrize(
    ("name", "loaded", "code"),
    [
        ("fs-top", ["left_1.ko  0", "top.ko  0"], 0),
        ("fs_top", ["left_1.ko  0", "top.ko  0"], 0),
        ("rtnl-link-bond", ["bonding.ko max_bonds=0 0"], 0),
        ("lost", [], 1), ("fs-to", [], 1), ("fs-top ", [], 1), ("fs-top base", [], 1), ("", [], 1), ("top", [], 1),
        ("../modules/top", [], 1), ("\n", [], 1), ("fs" * 3000, [], 1),
    ],
)  # fmt: skip
def test_modules_that_the_kernel_requests_are_loaded_in_order_and_no_others(modprobe, name, loaded, code):
    done = subprocess.run([modprobe, "-q", "--", name], capture_output=True, text=True, timeout=20)
    lines = [line.removeprefix(f"{modprobe.parent}/modules/") for line in done.stdout.splitlines()]
    assert (lines, done.returncode) == (loaded, code)


def test_without_a_name_or_an_index_nothing_is_loaded(modprobe):
    assert subprocess.run([modprobe], timeout=20).returncode == 1
    index = modprobe.parent / "modules/index"
    text = index.read_text()
    index.unlink()
    assert subprocess.run([modprobe, "-q", "--", "fs-top"], timeout=20).returncode == 1
    index.write_text(text)
