# SPDX-License-Identifier: Apache-2.0
"""Answers about many pods: one that can't be translated or is too large does not spoil those about the others."""

from typing import Any, NamedTuple

import pytest

from cri.statistics.answers import each, fitting


class Pod(NamedTuple):
    """As much of a pod as is used."""

    id: str
    title: str


class Message(NamedTuple):
    """As much of a protobuf message as is used."""

    name: str
    size: int = 92

    def ByteSize(self) -> int:
        return self.size


async def test_a_pod_that_can_not_be_translated_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    def make(pod: Any, sample: Any) -> list[Message]:
        if sample is None:
            raise ValueError("Value out of range: 18446744073709551616")
        return [Message(pod.id), Message(pod.id)]

    samples: Any = [(Pod(name, f"pod x/{name}"), None if name == "b" else 1) for name in "abc"]
    assert [one.name for one in await each(samples, make)] == ["a", "a", "c", "c"]
    assert [record.message for record in caplog.records] == ["stats.untranslated"]


FITS = [
    ({"a": 1, "b": 1}, 200, "ab"),
    ({"a": 1, "b": 1}, 199, "b"),
    ({"a": 1, "b": 8, "c": 1}, 500, "ac"),
    ({"a": 3, "b": 2, "c": 1}, 300, "bbc"),
    ({"a": 9}, 100, ""),
    ({}, 0, ""),
]


@pytest.mark.parametrize(("counts", "most", "left"), FITS)
def test_the_largest_pods_are_left_out_of_what_does_not_fit(counts: dict[str, int], most: int, left: str) -> None:
    items = [Message(name) for name, count in counts.items() for _ in range(count)]
    assert "".join(one.name for one in fitting(items, lambda one: one.name, most_bytes=most)) == left
