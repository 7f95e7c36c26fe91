# SPDX-License-Identifier: Apache-2.0
"""The part of D-Bus that a call of systemd's manager needs: call a method, wait for its job. Called by `scope`.

Unexpected messages are skipped. What comes is from root, the bus or systemd itself, and is bounded all the same. Must
not know what a unit is.
"""

import os
import socket
import time
from typing import Any

from stage1.errors import PodError, Unavailable, WrongState, both_ends
from stage1.linux import dbuswire as wire

SOCKETS = (("/run/dbus/system_bus_socket", True), ("/run/systemd/private", False))
"""The sockets of systemd, and whether each is a bus. systemctl uses the second one, which exists without a bus."""
LIMIT_S = 10.0
"""Time limit of a call and its job."""
NAME, PATH, MANAGER = "org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager"
_BUS = ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus")
_SIGNALS = f"type='signal',sender='{NAME}',interface='{MANAGER}',member='JobRemoved'"
_PASSING = ("NoReply", "ServiceUnknown", "NameHasNoOwner", "Timeout", "TimedOut", "Disconnected", "LimitsExceeded")
"""Errors that may be gone when it is tried again."""
_MOST_BYTES = 1 << 24


def why_not() -> str:
    """Why systemd can't be asked for a unit here; empty when it can."""
    if not os.path.isdir("/run/systemd/system"):
        return "systemd is not PID 1 of this host"
    if not any(os.path.exists(path) for path, _ in SOCKETS):
        return f"systemd can't be reached: there is neither {' nor '.join(path for path, _ in SOCKETS)}"
    return ""


def do_job(member: str, signature: str, *values: Any) -> None:
    """Call a method of systemd's manager that begins a job, and wait until that is done. The first value is a unit.

    Raises Unavailable when systemd does not answer, WrongState when it refuses, or the job fails.
    """
    _ask(member, signature, values, is_job=True)


def call(member: str, signature: str, *values: Any) -> None:
    """Call a method that is done when it is answered. Raises as `do_job`."""
    _ask(member, signature, values, is_job=False)


def _ask(member: str, signature: str, values: tuple[Any, ...], *, is_job: bool) -> None:
    connection, what = _Connection(), f"{member} {values[0]}"
    try:
        connection.ask(member, signature, values, is_job=is_job)
    except TimeoutError:
        raise Unavailable(f"systemd did not answer {what} within {LIMIT_S:g} s over {connection.path}") from None
    except (OSError, ValueError, IndexError) as error:
        raise Unavailable(f"systemd did not answer {what} over {connection.path}: {error}") from None
    finally:
        connection.close()


class _Connection:
    """A connection to systemd, by the first socket that answers. Close it."""

    def __init__(self) -> None:
        self._until = time.monotonic() + LIMIT_S
        self._serial, self._ended = 0, dict[str, str]()
        self._socket, self.path, self._is_bus = self._connect()

    def _connect(self) -> tuple[socket.socket, str, bool]:
        problems = []
        for path, is_bus in SOCKETS:
            made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
            made.settimeout(LIMIT_S)
            try:
                made.connect(path)
            except OSError as error:
                made.close()
                problems.append(f"{path}: {error.strerror or error}")
            else:
                return made, path, is_bus
        raise Unavailable(f"systemd can't be reached: {', '.join(problems)}")

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def ask(self, member: str, signature: str, values: tuple[Any, ...], *, is_job: bool) -> None:
        """Call the method; wait for the job that it answers with, if it does."""
        self._authenticate()
        if self._is_bus:
            self._call(_BUS, "Hello")
        if not is_job:
            self._call((NAME, PATH, MANAGER), member, signature, values)
            return
        if self._is_bus:
            self._call(_BUS, "AddMatch", "s", (_SIGNALS,))
            self._call((NAME, PATH, MANAGER), "Subscribe")
        (job,) = self._call((NAME, PATH, MANAGER), member, signature, values)
        while job not in self._ended:
            self._take()
        if self._ended[job] != "done":
            raise WrongState(f"systemd did not do {member} {values[0]}: the job's result is {self._ended[job][:100]}")

    def _authenticate(self) -> None:
        self._socket.sendall(b"\0AUTH EXTERNAL %s\r\n" % str(os.geteuid()).encode().hex().encode())
        reply = b""
        while not reply.endswith(b"\r\n"):
            reply += self._receive(1)
        if not reply.startswith(b"OK "):
            raise ValueError(f"it refused authentication ({reply[:60]!r})")
        self._socket.sendall(b"BEGIN\r\n")

    def _call(
        self, whom: tuple[str, str, str], member: str, signature: str = "", values: tuple[Any, ...] = ()
    ) -> list[Any]:
        name, path, interface = whom
        self._serial += 1
        fields = {wire.F_PATH: ("o", path), wire.F_INTERFACE: ("s", interface), wire.F_MEMBER: ("s", member)}
        fields[wire.F_DESTINATION] = ("s", name)
        self._socket.sendall(wire.message(wire.CALL, self._serial, fields=fields, body=(signature, values)))
        while True:
            kind, given, body = self._take()
            if given.get(wire.F_REPLY_TO) == self._serial:
                break
        if kind == wire.ERROR:
            raise _refusal(
                f"{member} {values[0] if values else ''}",
                str(given.get(wire.F_ERROR, "")),
                message=str(body[0]) if body else "",
            )
        return body

    def _take(self) -> tuple[int, dict[int, Any], list[Any]]:
        """The next message; of a job that has ended the result is kept."""
        head = self._receive(16)
        size, fields_size = (int.from_bytes(head[at : at + 4], "little") for at in (4, 12))
        if head[0] != ord("l") or size + fields_size > _MOST_BYTES:
            raise ValueError("it sent an invalid message")
        rest = self._receive(-(-fields_size // 8) * 8 + size)
        fields = wire.Reader(head[12:] + rest[:fields_size], at=0).fields()
        signature = str(fields.get(wire.F_SIGNATURE, ""))
        is_known = not set(signature) - set("sou")
        body = wire.Reader(rest[len(rest) - size :]).values(signature) if is_known else []
        if head[1] == wire.SIGNAL and fields.get(wire.F_MEMBER) == "JobRemoved" and len(body) == 4:
            self._ended[body[1]] = body[3]
        return head[1], fields, body

    def _receive(self, size: int) -> bytes:
        parts = b""
        while len(parts) < size:
            left_s = self._until - time.monotonic()
            if left_s <= 0:
                raise TimeoutError
            self._socket.settimeout(left_s)
            part = self._socket.recv(min(size - len(parts), 1 << 16))
            if not part:
                raise ValueError("it closed the connection")
            parts += part
        return parts


def _refusal(what: str, name: str, *, message: str) -> PodError:
    error = Unavailable if name.rpartition(".")[2] in _PASSING else WrongState
    return error(f"systemd refused {what}: {both_ends(message, 300) or name[:100]}")
