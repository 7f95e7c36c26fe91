# SPDX-License-Identifier: Apache-2.0
"""Accounts of images, of which few are kept."""

import pytest

from cri.live.images import MOST, MOST_CHARACTERS, Accounts, KeptAccounts

A = ("sha256:a", b"1 2")
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

    assert [kept.of(A, read), kept.of(A, read)] == [found, found]
    assert len(calls) == reads


def test_what_was_read_first_makes_way() -> None:
    kept = KeptAccounts()
    for number in range(MOST + 3):
        kept.of((str(number), b""), lambda: ROOT)
    other = ROOT._replace(group="")
    assert [kept.of((str(number), b""), lambda: other) for number in (MOST + 2, 3, 0)] == [ROOT, ROOT, other]


def test_an_error_is_not_kept() -> None:
    kept = KeptAccounts()
    with pytest.raises(ZeroDivisionError):
        kept.of(A, lambda: Accounts(str(1 // 0)))
    assert kept.of(A, lambda: ROOT) == ROOT


def test_accounts_of_files_that_were_replaced_are_read_again() -> None:
    kept, damaged = KeptAccounts(), Accounts("ro\0t:x:0:0::/:\n")
    assert kept.of(A, lambda: damaged) == damaged
    assert kept.of((A[0], b"3 4"), lambda: ROOT) == ROOT
