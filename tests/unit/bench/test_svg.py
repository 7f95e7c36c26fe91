# SPDX-License-Identifier: Apache-2.0
"""A plot is well-formed, has a bar for each part in proportion, and is the same text for the same numbers."""

import xml.etree.ElementTree as ET

import pytest

from tests.bench.lib import svg

NAME = "{http://www.w3.org/2000/svg}"
LEGEND = ("load & start", "kernel")
ROWS = [svg.Bar("a <b>", (10.0, 30.0)), svg.Bar("c", (0.0, 80.0))]


def bars(rows, title="t"):
    return svg.bars(title, "ms", legend=LEGEND, rows=rows, note="by hand, 2026")


def rectangles(text: str) -> list[float]:
    """The widths of the bars' parts: those that are as high as a bar."""
    result = ET.fromstring(text).iter(f"{NAME}rect")
    return [float(one.get("width", 0)) for one in result if one.get("height") == str(svg.BAR)]


def test_parts_are_as_long_as_their_numbers():
    first, second, third, fourth = rectangles(bars(ROWS))
    assert third == 0 and second == pytest.approx(3 * first, abs=0.2) and fourth == pytest.approx(8 * first, abs=0.4)
    assert fourth <= svg.WIDTH


def test_all_texts_are_there_and_escaped():
    texts = {one.text for one in ET.fromstring(bars(ROWS, "x < y")).iter(f"{NAME}text")}
    assert {"x < y", "ms", "by hand, 2026", "load & start", "kernel", "a <b>", "c", "40.0", "80.0"} <= texts


def test_the_same_numbers_give_the_same_text():
    assert bars(ROWS) == bars(list(ROWS))


def test_no_bars_are_a_plot_too():
    assert rectangles(bars([])) == []


@pytest.mark.parametrize("parts", [(1.0,), (1.0, 2.0, 3.0), (1.0, -0.1)])
def test_a_bar_that_does_not_fit_the_legend_is_refused(parts):
    with pytest.raises(ValueError, match="'odd'"):
        bars([svg.Bar("odd", parts)])


@pytest.mark.parametrize(("most", "last"), [(100, 100), (80.9, 80), (2301, 2000), (0.5, 0.5), (7, 6)])
def test_ticks_are_round_and_end_near_the_most(most, last):
    result = svg.ticks(most)
    assert result[0] == 0 and result[-1] == pytest.approx(last) and 3 <= len(result) <= 8
