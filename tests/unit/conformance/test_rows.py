# SPDX-License-Identifier: Apache-2.0
"""The list of critest's specs and of our own tests that ask the same: complete, no doubles, and the tests exist."""

import re
import tomllib
from collections import Counter
from pathlib import Path

CRI = Path(__file__).parents[2] / "cri"
SPECS = 137


def test_every_spec_is_listed_once_with_a_test_that_exists_or_a_reason() -> None:
    with (CRI / "contract_rows.toml").open("rb") as file:
        listed = tomllib.load(file)
    rows = Counter(row for table in listed.values() for rows in table.values() for row in rows)
    assert [row for row, count in rows.items() if count > 1] == []
    assert sorted(rows) == list(range(1, SPECS + 1))
    for test in listed["covered"]:
        file_name, _, function = test.partition("::")
        assert re.search(rf"^(async )?def {function}\(", (CRI / file_name).read_text(encoding="utf-8"), re.M), test
    assert sum(len(rows) for rows in listed["covered"].values()) > 90
