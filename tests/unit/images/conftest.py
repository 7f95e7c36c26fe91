# SPDX-License-Identifier: Apache-2.0
"""Makes the builders' library importable as they import it: `lib`, from images/."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

IMAGES = Path(__file__).parents[3] / "images"
sys.path.append(str(IMAGES))


@pytest.fixture(scope="session")
def builder() -> Callable[[str], ModuleType]:
    """The builder in images/NAME."""

    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(f"images_{name}", IMAGES / name / "build.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load
