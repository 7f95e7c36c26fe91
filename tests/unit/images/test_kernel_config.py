# SPDX-License-Identifier: Apache-2.0
"""The kernel's fragments, the check that Kconfig took them, and the changed lines of its source."""

import shutil
from pathlib import Path

import pytest

from tests.fakes.builders import BuildFailed, changes, kconfig

KERNEL = Path(__file__).parents[3] / "images" / "kernel"
CONFIG = 'CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C="text"\nCONFIG_D=m\n'


@pytest.mark.parametrize(
    "settings, complaints",
    [
        ({"CONFIG_A": "y"}, []),
        ({"CONFIG_A": "n"}, ["CONFIG_A=n (it is y)"]),
        ({"CONFIG_B": "n"}, []),
        ({"CONFIG_B": "y"}, ["CONFIG_B=y (it is n)"]),
        ({"CONFIG_C": '"text"'}, []),
        ({"CONFIG_C": '"other"'}, ['CONFIG_C="other" (it is "text")']),
        ({"CONFIG_D": "y"}, ["CONFIG_D=y (it is m)"]),
        ({"CONFIG_ABSENT": "n"}, []),
        ({"CONFIG_ABSENT": "y", "CONFIG_A": "y"}, ["CONFIG_ABSENT=y (it is n)"]),
        ({"CONFIG_": "n"}, []),
    ],
)
def test_a_line_that_kconfig_did_not_take_is_reported(settings, complaints):
    assert [str(one) for one in kconfig.refused(settings, CONFIG)] == complaints


@pytest.mark.parametrize(
    "fragments, argv",
    [
        (["CONFIG_A=y\n", "CONFIG_A=y\n"], "CONFIG_A twice"),
        (["CONFIG_A=y\nCONFIG_A=n\n"], "CONFIG_A twice"),
        (["CONFIG_A\n"], "neither comment"),
        (["A=y\n"], "neither comment"),
        (["  CONFIG_A=y"], "neither comment"),
    ],
)
def test_a_fragment_that_makes_no_sense_is_named(fragments, argv):
    with pytest.raises(kconfig.Fault, match=argv):
        kconfig.asked(fragments)


def test_comments_and_empty_lines_are_ignored():
    assert kconfig.asked(["# a\n\nCONFIG_A=y\n", 'CONFIG_B="x=y"\n']) == {"CONFIG_A": "y", "CONFIG_B": '"x=y"'}


@pytest.fixture(scope="module")
def fragments(builder) -> dict[str, str]:
    return kconfig.asked(path.read_text() for path in builder("kernel")._fragments())


def test_every_fragment_in_the_folder_is_used(builder):
    assert {*KERNEL.rglob("*.config")} == {*builder("kernel")._fragments()}


def test_fragments_do_not_contradict_each_other(builder, monkeypatch, tmp_path):
    kernel = builder("kernel")
    monkeypatch.setattr(kernel, "HERE", shutil.copytree(KERNEL, tmp_path / "kernel"))
    (tmp_path / "kernel/net.config").write_text("CONFIG_SECURITY=y\n")
    with pytest.raises(BuildFailed, match="CONFIG_SECURITY twice"):
        kernel._asked()


@pytest.mark.parametrize("name", ["MODULES", "LEGACY_PTYS", "IP_PNP", "IKCONFIG", "ACPI", "RANDOMIZE_BASE"])
def test_what_costs_boot_time_is_refused_by_name(fragments, name):
    assert fragments[f"CONFIG_{name}"] == "n"


@pytest.mark.parametrize("name", ["BPF_SYSCALL", "CGROUP_BPF", "MEMCG", "SECCOMP_FILTER", "USER_NS", "PROC_CHILDREN"])
def test_what_crun_and_the_agent_can_not_do_without_is_on(fragments, name):
    assert fragments[f"CONFIG_{name}"] == "y"


def test_every_change_of_the_source_has_a_reason():
    result = changes.read(KERNEL / "changes.toml")
    assert result and all(edit.old != edit.new for change in result for edit in change.edit)
    assert [change for change in result if len(change.why.split()) < 6] == []


OTHER = changes.Edit("b.c", "int v;", "int u;")


def a_change(*more: changes.Edit, needed: bool = False, **other: str) -> changes.Change:
    first = changes.Edit(**{"file": "a.c", "old": "int x;", "new": "int y;"} | other)
    return changes.Change("", needed, (first, *more))


def test_a_change_replaces_the_one_line_it_names(tmp_path):
    (tmp_path / "a.c").write_text("int w;\nint x;\n")
    assert changes.apply(tmp_path, [a_change(needed=True)]) == []
    assert (tmp_path / "a.c").read_text() == "int w;\nint y;\n"


def test_an_edit_may_change_what_an_earlier_one_of_its_change_has_made(tmp_path):
    (tmp_path / "a.c").write_text("int x;\n")
    changes.apply(tmp_path, [a_change(changes.Edit("a.c", "int y;", "int z;"))])
    assert (tmp_path / "a.c").read_text() == "int z;\n"


ABSENT = pytest.mark.parametrize("text, times", [("int w;\n", 0), ("int x;int x;\n", 2), (None, 0)])


@ABSENT
def test_a_needed_change_that_does_not_apply_stops_the_build(tmp_path, text, times):
    if text is not None:
        (tmp_path / "a.c").write_text(text)
    with pytest.raises(BuildFailed, match=rf"a\.c has {times} times.*needed.*images/kernel/changes\.toml"):
        changes.apply(tmp_path, [a_change(needed=True)])


@ABSENT
def test_any_other_change_that_does_not_apply_is_skipped_whole_and_named(tmp_path, text, times):
    if text is not None:
        (tmp_path / "a.c").write_text(text)
    (tmp_path / "b.c").write_text("int v;\n")
    wanted = changes.Change("", False, (OTHER, *a_change().edit))
    (skipped,) = changes.apply(tmp_path, [wanted])
    assert (skipped.change, skipped.edit.file, skipped.count) == (wanted, "a.c", times)
    assert f"a.c has {times} times" in str(skipped) and "int x;" in str(skipped)
    assert (tmp_path / "b.c").read_text() == "int v;\n"


def test_the_changes_after_a_skipped_one_are_applied(tmp_path):
    (tmp_path / "b.c").write_text("int v;\n")
    assert len(changes.apply(tmp_path, [a_change(), changes.Change("", True, (OTHER,))])) == 1
    assert (tmp_path / "b.c").read_text() == "int u;\n"
