# SPDX-License-Identifier: Apache-2.0
"""Where images are placed in a window: for any sizes, in any order of coming and going."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from stage1.vm.window import PAGE_BYTES, Placed, Window

PAGES = 64


class Life(RuleBasedStateMachine):
    """Images come and go; a list of pages, each with its owner, says what must be so."""

    def __init__(self) -> None:
        super().__init__()
        self.window = Window(PAGES * PAGE_BYTES)
        self.owners: list[str] = [""] * PAGES
        self.count = 0

    @rule(pages=st.integers(1, PAGES + 1), short=st.integers(0, PAGE_BYTES - 1))
    def come(self, pages: int, short: int) -> None:
        self.count += 1
        name = f"i{self.count}"
        place = self.window.place(name, pages * PAGE_BYTES - short)
        text = "".join("x" if owner else "." for owner in self.owners)
        at = text.find("." * pages)
        assert (place is None) == (at < 0)
        if place is not None:
            assert place == Placed(name, at * PAGE_BYTES, pages * PAGE_BYTES)
            self.window = self.window.plus(place)
            self.owners[at : at + pages] = [name] * pages

    @precondition(lambda self: self.window.images)
    @rule(data=st.data())
    def go(self, data: st.DataObject) -> None:
        gone = data.draw(st.sampled_from(self.window.images))
        self.window = self.window.minus(gone.name)
        self.owners = ["" if owner == gone.name else owner for owner in self.owners]

    @invariant()
    def is_what_the_pages_say(self) -> None:
        seen = [""] * PAGES
        for image in self.window.images:
            first, last = image.offset // PAGE_BYTES, image.end // PAGE_BYTES
            assert not any(seen[first:last])
            seen[first:last] = [image.name] * (last - first)
        assert seen == self.owners
        assert sum(size for _, size in self.window.gaps()) == seen.count("") * PAGE_BYTES


TestLife = Life.TestCase


@given(st.integers(0, 1 << 40))
def test_what_is_larger_than_the_window_has_no_place(more: int) -> None:
    assert Window(8 * PAGE_BYTES).place("a", 8 * PAGE_BYTES + 1 + more) is None


@pytest.mark.parametrize(
    "wrong",
    [
        Placed("a", 0, 3 * PAGE_BYTES),
        Placed("b", 0, PAGE_BYTES),
        Placed("b", PAGE_BYTES, 2 * PAGE_BYTES),
        Placed("b", 7 * PAGE_BYTES, 2 * PAGE_BYTES),
        Placed("b", 512, PAGE_BYTES),
        Placed("b", 4 * PAGE_BYTES, 0),
        Placed("b", 4 * PAGE_BYTES, 100),
        Placed("a", 4 * PAGE_BYTES, PAGE_BYTES),
    ],
)
def test_a_place_that_is_not_free_or_no_whole_pages_is_an_error(wrong: Placed) -> None:
    window = Window(8 * PAGE_BYTES).plus(Placed("a", 0, 2 * PAGE_BYTES))
    with pytest.raises(ValueError, match="does not fit"):
        window.plus(wrong)
