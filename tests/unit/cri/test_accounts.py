# SPDX-License-Identifier: Apache-2.0
"""Accounts of images, of which few are kept."""

import pytest

from cri.live.accounts import MOST, MOST_CHARACTERS, Accounts, KeptAccounts

ROOT = Accounts("root:x:0:0::/:\n", "root:x:0:\n")


@pytest.mark.parametrize(
    ("found", "reads"),
    [
        (ROOT, 1),
        (ROOT._replace(group=""), 1),
        (Accounts(), 2),
        (ROOT._replace(passwd=""), 2),
        (ROOT._replace(passwd="x" * MOST_CHARACTERS), 2),
        (ROOT._replace(group="x" * MOST_CHARACTERS), 2),
    ],
)
def test_accounts_are_read_once_unless_there_are_none_or_many(found: Accounts, reads: int) -> None:
    kept, calls = KeptAccounts(), []

    def read() -> Accounts:
        calls.append(1)
        return found

    assert [kept.of("a", read), kept.of("a", read)] == [found, found]
    assert len(calls) == reads


def test_what_was_read_first_makes_way() -> None:
    kept = KeptAccounts()
    for number in range(MOST + 3):
        kept.of(str(number), lambda: ROOT)
    other = ROOT._replace(group="")
    assert [kept.of(str(number), lambda: other) for number in (MOST + 2, 3, 0)] == [ROOT, ROOT, other]


def test_an_error_is_not_kept() -> None:
    kept = KeptAccounts()
    with pytest.raises(ZeroDivisionError):
        kept.of("a", lambda: Accounts(str(1 // 0)))
    assert kept.of("a", lambda: ROOT) == ROOT
