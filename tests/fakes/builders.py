# SPDX-License-Identifier: Apache-2.0
"""The builders in images/ and their library, which they import as `lib`: under that one name here too, so that an error
of theirs has one class. Used by tests, the lab and benchmarks.
"""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

IMAGES = Path(__file__).parents[2] / "images"

if "lib" not in sys.modules:
    _lib = ModuleType("lib")
    _lib.__path__ = [str(IMAGES / "lib")]  # and no other `lib` that happens to be on sys.path
    sys.modules["lib"] = _lib

from lib import bzimage, cache, changes, cpio, kconfig, oci, progress, tools  # noqa: E402
from lib.cache import BuildFailed  # noqa: E402

__all__ = [
    "BuildFailed",
    "bzimage",
    "cache",
    "changes",
    "cpio",
    "kconfig",
    "load",
    "oci",
    "progress",
    "tools",
]


def load(name: str) -> ModuleType:
    """The builder images/NAME/build.py, as a module of its own."""
    spec = importlib.util.spec_from_file_location(f"images_{name}", IMAGES / name / "build.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
