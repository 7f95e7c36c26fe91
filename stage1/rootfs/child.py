# SPDX-License-Identifier: Apache-2.0
"""The confined process that reads foreign bytes: calls one function, writes its result as JSON, ends.

Started by `confined` through `sandbox.python`. It runs without privileges, network and other files than its own, and
must not count on what it says being believed.
"""

import os
import sys

from stage1.errors import PodError
from stage1.rootfs.confined import KINDS, MEMORY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_OUT_OF_MEMORY = b'{"error": "%s", "sentence": ""}' % MEMORY.encode()


def main() -> None:
    """`sys.argv`: a module, then the words for its function `job`. What that raises is the answer too."""
    try:
        text = _answer(sys.argv[1], tuple(sys.argv[2:]))
    except MemoryError:
        text = _OUT_OF_MEMORY
    view = memoryview(text)
    while view:
        view = view[os.write(1, view) :]
    os._exit(0)


def _answer(module: str, words: tuple[str, ...]) -> bytes:
    import importlib
    import json

    answer: dict[str, Any]
    try:
        answer = {"ok": importlib.import_module(module).job(words)}
    except PodError as error:
        kind = next((name for name in (k.__name__ for k in type(error).__mro__) if name in KINDS), "Corrupt")
        answer = {"error": kind, "sentence": str(error)}
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - any way in which foreign bytes can break a reader
        answer = {"error": "Corrupt", "sentence": f"an image can't be read: {type(error).__name__}: {error}"}
    return json.dumps(answer).encode()
