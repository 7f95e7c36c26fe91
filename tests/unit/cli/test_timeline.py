# SPDX-License-Identifier: Apache-2.0
"""The phases of a start as drawn in a terminal and as a page, which Debian's Chromium must show whole."""

import html
import json
import re
import subprocess
from pathlib import Path

import pytest

from cri.cli.view import timeline, why
from cri.cli.view.why import Event, Record
from cri.store import history as h
from stage1.linux.host import which
from tests.fakes.patience import PATIENCE

BEGUN_S = 1_700_000_000.0
LONG = "registry.example/" + "very-long/" * 9 + "image:1"


def record(*more: Event, scale: float = 1.0) -> Record:
    """A pod that became ready; `scale` stretches its phases."""
    events, at_ms = [], 0.0
    for what, took_ms in (
        (h.FILES, 12),
        (h.NETWORK, 80),
        (h.VMM, 40),
        (h.KERNEL, 150),
        (h.AGENT, 20),
        (h.CONFIGURE, 3),
    ):
        at_ms += took_ms * scale
        events.append(Event(what, BEGUN_S + at_ms / 1000, took_ms * scale))
    events.append(Event(h.READY, BEGUN_S + at_ms / 1000, at_ms))
    return Record("default/web", "a" * 64, "ready", (*events, *more), hypervisor="qemu")


STARTED = (
    Event(h.PULL, BEGUN_S + 1.0, 600.0, text=LONG),
    Event(h.CREATED, BEGUN_S + 1.1, 50.0, subject="<b>nginx</b>&" + "x" * 99),
)


@pytest.mark.parametrize("columns", [1, 20, 40, 80, 300])
@pytest.mark.parametrize("scale", [0.0001, 1.0, 1e6])
def test_a_drawing_fits_into_its_terminal(columns: int, scale: float) -> None:
    drawn = timeline.chart(record(*STARTED, scale=scale))
    assert drawn is not None
    lines = timeline.drawn_text(drawn, columns).splitlines()
    assert len(lines) == len(drawn.bars) + 2
    assert max(map(len, lines)) <= columns


def test_phases_follow_each_other_and_later_containers_are_left_out() -> None:
    late = Event(h.CREATED, BEGUN_S + 9_999, 50.0, subject="late")
    drawn = timeline.chart(record(late))
    assert drawn is not None
    assert [bar.kind for bar in drawn.bars] == list(h.BOOT[:6])
    assert drawn.ready_ms == pytest.approx(drawn.total_ms)
    for before, after in zip(drawn.bars, drawn.bars[1:], strict=False):
        assert after.begun_ms == pytest.approx(before.begun_ms + before.took_ms, abs=0.01)


def test_nothing_is_drawn_of_nothing() -> None:
    assert timeline.chart(Record("default/web", "", "failed", ())) is None


@pytest.mark.parametrize("columns", [0, 1, 20, 80])
def test_a_story_fits_into_its_terminal(columns: int) -> None:
    exited = Event(
        h.EXITED, BEGUN_S + 2, subject="c", reason="OOMKilled", code=137, text="\x1b[2J" + "word " * 50, times=3
    )
    told = why.text(record(exited, *STARTED), now_s=BEGUN_S, columns=columns)
    assert "OOMKilled" in told.replace("\n", "") and "\x1b" not in told
    assert max(map(len, told.splitlines())) <= max(columns or why.WIDE, why.LEAST)


@pytest.mark.parametrize(
    "events, noun",
    [
        ([Event(h.EXITED, 1, subject="c", reason="OOMKilled", code=137)], "OOMKilled"),
        ([Event(h.EXITED, 1, subject="c", reason="Error", code=139)], "SIGSEGV"),
        ([Event(h.EXITED, 1, subject="c", reason="StartError", code=128, text="no such file")], "no such file"),
        ([Event(h.EXITED, 1, reason="OOMKilled", code=137), Event(h.EXITED, 2, code=1)], "OOMKilled"),
        ([Event(h.EXITED, 1, subject="c", reason="Completed")], "nothing"),
        ([Event(h.EXITED, 1, subject="debug-1f", reason="Error", code=137)], "nothing"),
        ([Event(h.HELD, 1, text="filling the disk")], "disk"),
        ([Event(h.HELD, 1, text="filling the disk"), Event(h.GOES_ON, 2)], "nothing"),
        ([Event(h.EXITED, 1, code=1, reason="Error"), Event(h.FULL, 2, text="the disk is full")], "disk is full"),
        ([Event(h.FULL, 1, text="full"), Event(h.NOT_FULL, 2), Event(h.EXITED, 3, code=9, reason="Error")], "code 9"),
        ([Event(h.FULL, 1, text="the disk is full")], "disk is full"),
        ([Event(h.FULL, 1, text="the disk is full"), Event(h.NOT_FULL, 2)], "nothing"),
        ([Event(h.FAILED, 1, subject="c", reason="CreateContainer", text="no image", times=2)], "no image"),
        ([Event("of a later version", 1, text="x")], "nothing"),
    ],
)  # fmt: skip
def test_the_verdict_names_what_matters_most(events: list[Event], noun: str) -> None:
    result = record(*events)
    sentence = why.verdict(result).sentence
    assert noun in sentence and sentence.count("full") == noun.count("full")
    assert len(why.lines(result, BEGUN_S)) == len(events) + 2


PROBE = """<script>addEventListener("load", () => {
  const cut = [], picture = document.querySelector("svg").getBoundingClientRect();
  for (const text of document.querySelectorAll("svg text")) {
    const box = text.getBoundingClientRect();
    if (box.left < picture.left || box.right > picture.right || box.bottom > picture.bottom) cut.push(text.textContent);
  }
  const root = document.documentElement, bars = document.querySelectorAll("svg rect").length;
  document.title = JSON.stringify({cut, wide: root.scrollWidth - root.clientWidth, bars});
});</script>"""


@pytest.mark.slow
def test_chromium_shows_the_page_whole(tmp_path: Path) -> None:
    chromium = which("chromium")
    if not chromium:
        pytest.skip("needs chromium: apt install chromium")
    result = record(*STARTED)
    drawn = timeline.chart(result)
    assert drawn is not None
    (tmp_path / "page.html").write_text(timeline.page(result, drawn) + PROBE, encoding="utf-8")
    argv = [chromium, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile"]
    argv += ["--window-size=500,900", "--virtual-time-budget=2000", "--dump-dom", f"file://{tmp_path}/page.html"]
    ended = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=60 * PATIENCE)
    title = re.search(r"<title>(\{.*?\})</title>", ended.stdout.decode())
    assert title, ended.stderr.decode()
    assert json.loads(html.unescape(title[1])) == {"cut": [], "wide": 0, "bars": len(drawn.bars) + 1}
