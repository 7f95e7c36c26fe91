# SPDX-License-Identifier: Apache-2.0
"""Counters for metrics: buckets, sums, copies; and that the one without metrics keeps nothing."""

import pytest

from cri.recorder import BOUNDS_S, Counts, Recorder


@pytest.mark.parametrize(
    ("seconds", "bucket"),
    [(0.0, 0), (0.001, 0), (0.0010001, 1), (0.3, 8), (60.0, 14), (60.1, 15), (1e9, 15), (-1.0, 0)],
)
def test_a_value_is_in_the_first_bucket_that_is_not_below_it(seconds: float, bucket: int) -> None:
    counts = Counts()
    counts.observe(seconds, "a", "b")
    (histogram,) = counts.observed("a").values()
    assert histogram.buckets.index(1) == bucket
    assert (sum(histogram.buckets), len(histogram.buckets), histogram.total) == (1, len(BOUNDS_S) + 1, [seconds])


def test_what_was_given_out_does_not_change() -> None:
    counts = Counts()
    counts.count("a", "x")
    counts.observe(1, "a")
    counted, observed = counts.counted("a"), counts.observed("a")
    counts.count("a", "x")
    counts.observe(1, "a")
    assert counted == {("x",): 1}
    assert sum(observed[()].buckets) == 1 and observed[()].total == [1]
    assert counts.counted("a") == {("x",): 2}


def test_a_block_that_fails_is_not_timed() -> None:
    counts = Counts()
    with counts.timing("a"):
        pass
    with pytest.raises(KeyError), counts.timing("a"):
        raise KeyError
    assert sum(counts.observed("a")[()].buckets) == 1


def test_the_default_recorder_keeps_nothing() -> None:
    recorder = Recorder()
    recorder.count("a")
    with recorder.timing("b"):
        recorder.observe(1, "b")
    assert vars(recorder) == {}
