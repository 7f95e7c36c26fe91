# SPDX-License-Identifier: Apache-2.0
"""Errors of commands about a daemon that does not answer: one sentence of ours in place of gRPC's."""

from types import SimpleNamespace
from typing import Any

import pytest

from cri.cli.daemon import explained
from stage1.errors import Unavailable


def failed(code: str, details: str) -> Any:
    """As gRPC raises it."""
    return SimpleNamespace(
        code=lambda: SimpleNamespace(name=code), details=lambda: details, trailing_metadata=lambda: ()
    )


@pytest.mark.parametrize(
    "details",
    [
        "Socket closed",
        "failed to connect to all addresses; last error: UNKNOWN: unix:/run/clearpod/clearpod.sock: Connection refused",
        "failed to connect to all addresses; last error: FAILED_PRECONDITION: unix:/run/clearpod/clearpod.sock: "
        "connect failed: addr: unix:/run/clearpod/clearpod.sock error: No such file or directory",
        "",
    ],
)
def test_an_unreachable_daemon_is_reported_with_the_socket(details: str) -> None:
    error = explained(failed("UNAVAILABLE", details))
    assert isinstance(error, Unavailable) and "was lost" in str(error) and "unix:" not in str(error)


def test_the_daemons_own_error_is_passed_on() -> None:
    assert str(explained(failed("UNAVAILABLE", "clearpod is about to end"))) == "clearpod is about to end"
