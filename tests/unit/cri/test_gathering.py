# SPDX-License-Identifier: Apache-2.0
"""Which pieces of output a link waits after."""

import pytest

from cri import gathering
from cri.gathering import Gathering

PIECES = [
    ("alone", [(0, 5000)], []),
    ("soon after another", [(0, 5000), (0.01, 5000), (0.02, 8000)], [1, 2]),
    ("long after another", [(0, 5000), (0.03, 5000)], []),
    ("lines that people read, answers", [(0, 80), (0.001, 4095), (0.002, 100)], []),
    ("an answer in between", [(0, 5000), (0.001, 50), (0.002, 5000)], [2]),
    ("as much as is read at once", [(0, 40000), (0.001, 65536), (0.002, 32768)], []),
    ("the rest of much", [(0, 65536), (0.001, 20000)], [1]),
]


@pytest.mark.parametrize(("pieces", "waited"), [one[1:] for one in PIECES], ids=[one[0] for one in PIECES])
def test_a_link_waits_after_small_pieces_of_much_output(pieces: list[tuple[float, int]], waited: list[int]) -> None:
    one = Gathering()
    pauses = [one.pause_s(size, 100 + at_s) for at_s, size in pieces]
    assert [number for number, pause_s in enumerate(pauses) if pause_s] == waited
    assert set(pauses) <= {0.0, gathering.GATHER_S}
