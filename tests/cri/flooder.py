# SPDX-License-Identifier: Apache-2.0
"""A client that keeps a TCP port busy: `python -m tests.cri.flooder HOST PORT COUNT [again]`.

Opens COUNT connections, prints "up" and holds them. With `repeat` it then replaces the oldest by a new one without end,
as fast as it can; it prints "again" after each COUNT of these. Used by test_streaming_flood.py, in a process of its
own.
"""

import resource
import socket
import sys
from collections import deque


def opened(address: tuple[str, int]) -> socket.socket:
    """A connection; it may still be on its way."""
    made = socket.socket(socket.AF_INET)
    made.setblocking(False)
    made.connect_ex(address)
    return made


def main(host: str, port: str, count: str, repeat: str = "") -> None:
    """Never ends by itself."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    address = (host, int(port))
    held: deque[socket.socket] = deque()
    for _ in range(int(count)):
        made = socket.create_connection(address)
        held.append(made)
    print("up", flush=True)
    while repeat:
        for _ in range(int(count)):
            held.append(opened(address))
            held.popleft().close()
        print("again", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
