# SPDX-License-Identifier: Apache-2.0
"""The libraries of HTTP and WebSocket are loaded by the first client, not by the daemon's start."""

import subprocess
import sys

STARTS = "import sys, cri.server; print([name for name in ('h11', 'wsproto') if name in sys.modules])"
SERVES = "import sys, cri.streaming.connection; print([name for name in ('h11', 'wsproto') if name in sys.modules])"


def test_the_daemon_starts_without_them() -> None:
    result = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, check=True) for code in (STARTS, SERVES)
    ]
    assert [one.stdout for one in result] == [b"[]\n", b"['h11', 'wsproto']\n"]
