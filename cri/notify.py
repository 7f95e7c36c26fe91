# SPDX-License-Identifier: Apache-2.0
"""What systemd is told: notifications, as sd_notify(3), one datagram for each message, and the priorities of lines in
its journal, as sd-daemon(3); nothing without systemd. Made by `clearpod serve`. It never blocks: what can't be sent now
is sent with the next message.
"""

import logging
import os
import socket
import time
from collections.abc import Mapping, MutableMapping
from typing import IO

log = logging.getLogger("clearpod.notify")

READY, STOPPING, ALIVE = "READY=1", "STOPPING=1", "WATCHDOG=1"
_MOST_UNSENT = 16
_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
"""The least level and the priority of syslog(3)."""


def is_journal(stream: IO[str], environ: Mapping[str, str]) -> bool:
    """Whether what is written to the stream goes to the journal, which reads a priority at the beginning of a line."""
    try:
        about = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return environ.get("JOURNAL_STREAM") == f"{about.st_dev}:{about.st_ino}"


def with_priority(text: str, level: int) -> str:
    """The text, each line with the priority of a level of `logging`."""
    number = next((number for least, number in _PRIORITIES if level >= least), 7)
    return "\n".join(f"<{number}>{line}" for line in text.splitlines())


class Notifier:
    """`watchdog_s` is how long systemd waits for a sign of life before it kills us; 0: it does not."""

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        """Takes its variables out of `environ`, so that child processes can't notify systemd."""
        names = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
        path, usec, pid = (environ.pop(name, "") for name in names)
        self._address = f"\0{path[1:]}" if path.startswith("@") else path if path.startswith("/") else ""
        if path and not self._address:
            log.warning("notify.unusable", extra={"warning": f"NOTIFY_SOCKET={path} is neither a path nor abstract"})
        is_ours = pid in ("", str(os.getpid())) and usec.isdecimal() and bool(self._address)
        self.watchdog_s = int(usec) / 1e6 if is_ours else 0.0
        self._unsent: list[bytes] = []

    def tell(self, *lines: str) -> None:
        """Send these assignments in one message. A line break in one of them becomes a space."""
        if self._address:
            message = "\n".join(" ".join(word.splitlines()) for word in lines)
            self._unsent = [*self._unsent[-_MOST_UNSENT:], message.encode(errors="replace")]
            self._send()

    def _send(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as channel:
            while self._unsent:
                try:
                    channel.sendto(self._unsent[0], self._address)
                except BlockingIOError:
                    return
                except OSError as error:
                    log.debug("notify.failed", extra={"error": str(error)})
                del self._unsent[0]


def reloading() -> tuple[str, str]:
    """Return the messages that tell systemd that the configuration is being read again, from now."""
    return "RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}"


def status(sentence: str) -> str:
    """The text in `systemctl status`."""
    return f"STATUS={sentence}"
