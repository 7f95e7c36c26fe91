# SPDX-License-Identifier: Apache-2.0
"""`scripts/bench density` without a pod: the sums of smaps, the journal, and the commands for the lab."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from stage1.errors import NotFound
from stage1.vm import kvmtool, qemu
from tests.bench.lib import density_plots, footprint, in_lab
from tests.bench.lib.journal import Journal
from tests.lab.state import LabError

ROOT = Path(__file__).parents[3]

spec = importlib.util.spec_from_file_location("bench_density", ROOT / "tests/bench/density.py")
assert spec is not None and spec.loader is not None
bench = importlib.util.module_from_spec(spec)
spec.loader.exec_module(bench)

MAPPING = """\
7fe270600000-7fe270c00000 {mode} 00000000 00:1c 5456011                    {name}
Rss:                {rss:>4} kB
Pss:                {pss:>4} kB
Pss_Anon:           {anon:>4} kB
AnonHugePages:      {huge:>4} kB
VmFlags: rd wr {flags}
"""


def mapping(name: str, *, rss: int, pss: int, anon: int = 0, huge: int = 0, flags: str = "sh") -> str:
    return MAPPING.format(name=name, mode="r--s", rss=rss, pss=pss, anon=anon, huge=huge, flags=flags)


SMAPS = (
    mapping("/srv/guest/system.erofs", rss=3336, pss=166)
    + mapping("/srv/a place/state/layers/064a.erofs (deleted)", rss=1804, pss=90)
    + mapping("/usr/lib/libc.so.6", rss=900, pss=30)
    + mapping("/srv/guest/lkvm-shim.so", rss=8, pss=8, anon=8)
    + mapping("", rss=30000, pss=29000, anon=29000, huge=26624, flags="mg nh")
)


def test_images_count_by_their_part_and_in_full_wherever_they_are():
    assert footprint.sums(SMAPS) == {
        "unique": 29008, "guest": 29000, "all": 29294, "dax": 256, "dax_seen": 5140, "rss": 36048, "huge": 26624,
    }  # fmt: skip


def test_a_vmm_without_images_has_no_dax():
    assert footprint.sums(mapping("/usr/bin/lkvm", rss=100, pss=50))["dax_seen"] == 0


def test_a_journal_goes_on_where_it_ended(tmp_path: Path):
    first = Journal(tmp_path / "journal")
    assert first.find("one") is None
    first.add("one", {"mib": 5.1})
    first.add("two", [1, 2])
    second = Journal(tmp_path / "journal")
    assert (second.find("one"), second.find("two"), second.names()) == ({"mib": 5.1}, [1, 2], {"one", "two"})


def test_a_journal_without_a_file_remembers():
    journal = Journal(None)
    journal.add("one", 1)
    assert journal.find("one") == 1


class Lab:
    """Stands in `in_lab.run`'s place: it measures what the words say, as the bench in there would."""

    def __init__(self) -> None:
        self.measured: list[str] = []
        self.rows: list[str] = []

    def run(self, name: str, argv: list[str], *, rows: list[str], kept: Path, paths: list[str]) -> Journal:
        args = bench.parse([*argv, "--journal", str(kept)])
        journal = Journal(kept)
        self.measured, self.rows = [plan.name for plan in bench.plans(args)], rows
        for number, row in enumerate(self.measured):
            journal.add(row, {"number": number})
        for row in ("around", *(("own", "peer") if args.peer else ())):
            journal.add(row, {row: True})
        return journal


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Lab:
    made = Lab()
    monkeypatch.setattr(in_lab, "run", made.run)
    monkeypatch.setattr(in_lab, "RESULTS", tmp_path)
    monkeypatch.setattr(bench.hypervisors, "facts", lambda: None)
    monkeypatch.setattr(bench, "choose", lambda name, _: _Driver(name))
    return made


class _Driver:
    def __init__(self, name: str) -> None:
        self.hypervisor = {"kvmtool": kvmtool, "qemu": qemu, "auto": qemu}[name].HYPERVISOR


@pytest.mark.parametrize(
    "argv",
    [
        ["--lab"],
        ["--lab", "--pods", "20", "--serving", "0", "--setup", "no-dax", "--ksm-percent", "50", "--settle", "1.5"],
        ["--lab", "--pods", "", "--serving", "3", "--memory-mib", "64", "--peer", "/opt/venv"],
    ],
)
def test_the_lab_measures_the_very_rows_that_are_awaited(lab: Lab, argv: list[str]):
    args = bench.parse(argv)
    result: dict[str, Any] = bench.run_in_lab(args)
    assert [name for name in lab.rows if name.startswith("[")] == lab.measured
    assert [row["number"] for row in result["rows"]] == list(range(len(lab.measured)))
    assert result["around"] and ("peer" in result) == ("--peer" in argv)


def test_qemu_has_no_dax_to_leave_out_and_kvmtool_has(lab: Lab):
    assert {plan.setup.dax for plan in bench.plans(bench.parse([]))} == {True}
    assert {plan.setup.dax for plan in bench.plans(bench.parse(["--hypervisor", "kvmtool"]))} == {True, False}


def test_this_host_need_not_run_what_the_lab_runs(lab: Lab, monkeypatch: pytest.MonkeyPatch):
    def refuse(name: str, facts: object) -> None:
        raise NotFound(f"{name} can't run here")

    monkeypatch.setattr(bench, "choose", refuse)
    assert len(bench.plans(bench.parse(["--lab", "--hypervisor", "kvmtool", "--pods", "1", "--serving", "0"]))) == 3


def test_results_of_the_lab_are_kept_where_it_can_write(lab: Lab, tmp_path: Path):
    old = in_lab.journal(None, "density")
    old.write_text("left by a run before")
    assert not in_lab.journal(None, "density").exists()
    kept = tmp_path / "mine"
    kept.write_text("counts")
    assert in_lab.journal(kept, "density").read_text() == "counts"
    with pytest.raises(LabError, match="write only in"):
        in_lab.journal(tmp_path / "below" / "mine", "density")


def test_a_lab_without_kvmtool_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(in_lab, "find_lkvm", lambda paths: "")
    monkeypatch.setattr(in_lab.os, "geteuid", lambda: 0)
    with pytest.raises(LabError, match="no lkvm on PATH"):
        in_lab.run("density", [], rows=["row"], kept=tmp_path / "journal", paths=[])


def row(pods: int, **changes: Any) -> dict[str, Any]:
    """As much of a row as its name, its order and its bars take."""
    sizes = {"guest": 3.0, "beside": 1.0, "dax": 0.5, "page_tables": 0.25}
    plain = {"pods": pods, "serving": False, "hypervisor": "kvmtool", "huge_pages": False, "dax": True}
    more = {"memory_mib": 128, "ksm_percent": 50.0, "daemon_mib_per_pod": -0.01, "before": sizes, "ksm": sizes}
    return plain | more | changes


def test_a_journal_is_turned_into_a_report_in_order(tmp_path: Path):
    journal = Journal(tmp_path / "some.jsonl")
    rows = [row(20, dax=False), row(50), row(1, serving=True), row(20, ksm_percent=20.0), row(20)]
    for number, one in enumerate(rows):
        journal.add(f"[{number}]", one)
    journal.add("around", {"host": {}})
    journal.add("peer", {"name": "other"})
    result = bench.read(tmp_path / "some.jsonl")
    assert result["rows"] == [rows[4], rows[3], rows[1], rows[0], rows[2]]
    assert (result["host"], result["peer"]) == ({}, {"name": "other"})


def test_rows_that_differ_in_ksm_alone_share_the_bar_without_it():
    drawn = density_plots.drawn({"rows": [row(20), row(20, ksm_percent=20.0), row(20, serving=True)]})
    assert sorted(drawn) == ["density-idle-kvmtool.svg", "density-serving-kvmtool.svg"]
    labels = [text for text in drawn["density-idle-kvmtool.svg"].split(">") if text.startswith("20 pods")]
    assert [label.partition("<")[0] for label in labels] == [
        "20 pods, DAX", "20 pods, DAX, KSM 50%", "20 pods, DAX, KSM 20%"
    ]  # fmt: skip
