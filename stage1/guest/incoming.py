# SPDX-License-Identifier: Apache-2.0
"""The results of a link for its owner: values that `link.py` returns, and the errors that it raises. No behaviour."""

from typing import NamedTuple

from stage1.errors import PodError
from stage1.guest.messages import Exited, Hello, Reply


class LinkFault(PodError):
    """A violation of the link's protocol by the guest. Nothing that it sends can be relied on any more."""

    grpc_code, exit_code = "UNKNOWN", 12


class LinkFull(LinkFault):
    """The guest is slow to take or to answer what we ask: this request is not sent. No rule is broken."""


class HelloSeen(NamedTuple):
    """The guest answered: the link works (again)."""

    hello: Hello


class ReplySeen(NamedTuple):
    """The answer to request `id`."""

    id: int
    reply: Reply


class EventSeen(NamedTuple):
    """Something happened in the guest. Acknowledge `seq` when it is safe with you."""

    event: Exited
    seq: int


class DataSeen(NamedTuple):
    """Output on a stream; `end` means that nothing follows. Acknowledge `seq`, and give the bytes back by
    `consumed`."""

    stream: int
    data: bytes
    end: bool
    seq: int


Incoming = HelloSeen | ReplySeen | EventSeen | DataSeen
