# SPDX-License-Identifier: Apache-2.0
"""The builders, for tests of them."""

from collections.abc import Callable
from types import ModuleType

import pytest

from tests.fakes import builders


@pytest.fixture(scope="session")
def builder() -> Callable[[str], ModuleType]:
    """The builder in images/NAME."""
    return builders.load
