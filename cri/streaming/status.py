# SPDX-License-Identifier: Apache-2.0
"""The content of the error stream at the end of an exec or attach. Pure. From version 4 of the protocol on it is
always one JSON document, kubectl's `Status`; before, a message if something failed, else nothing.
"""

import json

from stage1.errors import ERROR_KIND

FIRST_WITH_JSON = 4


def success(version: int) -> bytes:
    """Return the status of success."""
    return _document({"metadata": {}, "status": "Success"}) if version >= FIRST_WITH_JSON else b""


def exit_code(version: int, code: int) -> bytes:
    """Return the status of a command that ended with `code`."""
    if code == 0:
        return success(version)
    message = f"command terminated with non-zero exit code: exit status {code}"
    if version < FIRST_WITH_JSON:
        return message.encode()
    return _document({
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": "NonZeroExitCode",
        "details": {"causes": [{"reason": "ExitCode", "message": str(code)}]},
    })  # fmt: skip


def failure(version: int, message: str, *, kind: str = "") -> bytes:
    """Return the status of a command that failed without an exit code; `kind` is the class of our error, which
    `clearpod exec` turns into an exit code.
    """
    if version < FIRST_WITH_JSON:
        return message.encode()
    details = {"details": {"causes": [{"reason": ERROR_KIND, "message": kind}]}} if kind else {}
    return _document({
        "metadata": {}, "status": "Failure", "message": message, "reason": "InternalError", "code": 500, **details,
    })  # fmt: skip


def _document(status: dict[str, object]) -> bytes:
    return json.dumps(status, separators=(",", ":")).encode()
