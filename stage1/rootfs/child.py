# SPDX-License-Identifier: Apache-2.0
"""The confined process that reads untrusted bytes: calls one function, writes its result as JSON, ends.

Started by `confined` through `sandbox.python`. It runs without privileges, network and other files than its own; its
result is validated by the caller.
"""

import os
import sys

from stage1.errors import PodError, both_ends
from stage1.rootfs.answers import INTERNAL, KINDS, LENGTH_DIGITS, MEMORY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_OUT_OF_MEMORY = b'{"error": "%s", "sentence": ""}' % MEMORY.encode()


def main() -> None:
    """`sys.argv`: a module, then the arguments for its function `job`. What that raises is the answer too.

    Without arguments it is a worker: questions with data come by standard input until that ends.
    """
    import importlib

    job = importlib.import_module(sys.argv[1]).job
    if sys.argv[2:]:
        _write(_answer(job, tuple(sys.argv[2:])))
    else:
        _serve(job)
    os._exit(0)


def _serve(job: "Callable[..., Any]") -> None:
    import json

    with open(0, "rb", closefd=False) as file:
        while lengths := file.read(2 * LENGTH_DIGITS):
            arguments = json.loads(file.read(int(lengths[:LENGTH_DIGITS])))
            answer = _answer(job, tuple(arguments), file.read(int(lengths[LENGTH_DIGITS:])))
            _write(b"%0*d" % (LENGTH_DIGITS, len(answer)) + answer)


def _write(text: bytes) -> None:
    view = memoryview(text)
    while view:
        view = view[os.write(1, view) :]


def _answer(job: "Callable[..., Any]", *given: "Any") -> bytes:
    import json

    answer: dict[str, Any]
    try:
        answer = {"ok": job(*given)}
    except PodError as error:
        kind = next((name for name in (k.__name__ for k in type(error).__mro__) if name in KINDS), "Corrupt")
        answer = {"error": kind, "sentence": str(error)}
    except MemoryError:
        return _OUT_OF_MEMORY
    except Exception as error:  # noqa: BLE001 - any way in which foreign bytes can break a reader
        answer = {"error": INTERNAL, "sentence": described(error)}
    try:
        return json.dumps(answer).encode()
    except MemoryError:
        return _OUT_OF_MEMORY


def described(error: BaseException) -> str:
    """The error and where it was raised, for debugging: `IndexError: ... (facts.py, line 7)`."""
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    where = f" ({os.path.basename(trace.tb_frame.f_code.co_filename)}, line {trace.tb_lineno})" if trace else ""
    return f"{type(error).__name__}: {both_ends(str(error), 200)}{where}"
