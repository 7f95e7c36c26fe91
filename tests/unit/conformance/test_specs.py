# SPDX-License-Identifier: Apache-2.0
"""The list of critest's specs and of our own tests that ask the same: complete, no duplicates, and the tests exist."""

import re
import tomllib
from collections import Counter
from pathlib import Path

CRI = Path(__file__).parents[2] / "cri"
SPECS = 137


def test_every_spec_is_listed_once_with_a_test_that_exists_or_a_reason() -> None:
    with (CRI / "critest_specs.toml").open("rb") as file:
        listed = tomllib.load(file)
    specs = Counter(spec for table in listed.values() for specs in table.values() for spec in specs)
    assert [spec for spec, count in specs.items() if count > 1] == []
    assert len(specs) == SPECS
    for test in listed["covered"]:
        file_name, _, function = test.partition("::")
        assert re.search(rf"^(async )?def {function}\(", (CRI / file_name).read_text(encoding="utf-8"), re.M), test
    assert sum(len(specs) for specs in listed["covered"].values()) > 90
