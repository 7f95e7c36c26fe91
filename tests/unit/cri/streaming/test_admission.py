# SPDX-License-Identifier: Apache-2.0
"""Which connection goes when there are too many, and what is one source."""

import pytest

from cri.streaming.listener import UnadmittedConnection, Waiting, source_of


class FakeConnection(UnadmittedConnection):
    """A gate without a connection."""

    def __init__(self, waiting: Waiting, source: str, *, is_local: bool = False) -> None:
        super().__init__(waiting, lambda _, __: None)
        self.source, self.is_local, self.was_cut = source, is_local, False

    def abort(self) -> None:
        self.was_cut = True


def entered(waiting: Waiting, source: str, count: int, *, is_local: bool = False) -> list[FakeConnection]:
    """So many connections from there, one after the other."""
    made = [FakeConnection(waiting, source, is_local=is_local) for _ in range(count)]
    for one in made:
        waiting.enter(one, 0)
    return made


async def test_one_source_cuts_its_own_oldest() -> None:
    waiting = Waiting(10, 3)
    (other,) = entered(waiting, "b", 1)
    flood = entered(waiting, "a", 5)
    assert [one.was_cut for one in flood] == [True, True, False, False, False]
    assert not other.was_cut and len(waiting) == 4
    waiting.close()
    assert other.was_cut and len(waiting) == 0


async def test_this_hosts_users_share_the_whole_budget_and_the_busiest_source_pays() -> None:
    waiting = Waiting(6, 3)
    others = entered(waiting, "a", 2)
    flood = entered(waiting, "127.0.0.1", 9, is_local=True)
    assert [one.was_cut for one in flood] == [True] * 5 + [False] * 4
    assert not any(one.was_cut for one in others) and len(waiting) == 6
    waiting.close()


async def test_who_was_admitted_is_not_counted_and_not_cut() -> None:
    waiting = Waiting(2, 2)
    first = entered(waiting, "a", 2)
    first[0].admit()
    first[0].admit()
    more = entered(waiting, "a", 2)
    assert [one.was_cut for one in (*first, *more)] == [False, True, False, False]
    waiting.close()
    assert not first[0].was_cut


@pytest.mark.parametrize(
    ("peer", "source"),
    [
        (("127.0.0.1", 5), ("127.0.0.1", True)),
        (("::1", 5, 0, 0), ("::1", True)),
        (("::ffff:10.0.0.1", 5, 0, 0), ("10.0.0.1", False)),
        (("10.0.0.2", 5), ("10.0.0.2", False)),
        (("fd00:1:2:3:4::5", 5, 0, 0), ("fd00:1:2:3::/64", False)),
        (("fe80::1%eth0", 5, 0, 2), ("fe80::/64", False)),
        (None, ("", True)),
    ],
)
def test_a_source_is_an_address_or_a_network_of_ipv6(peer: object, source: tuple[str, bool]) -> None:
    assert source_of(peer) == source
