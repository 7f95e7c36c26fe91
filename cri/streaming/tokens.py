# SPDX-License-Identifier: Apache-2.0
"""Requests that wait for their client, each under an unguessable token. Pure: the caller brings the clock.

A token works once and for a minute. Used by `server`.
"""

import hashlib
import secrets
from typing import Any, NamedTuple

from stage1.errors import NoSpace

LIFE_S = 60.0
MOST = 1000
"""Tokens that may wait at a time."""
TOKEN_BYTES = 16


class Offer(NamedTuple):
    """What a token authorises: exec, attach or portforward, and the RPC's request."""

    kind: str
    request: Any


class Tokens:
    """The offers. `now_s` is any clock that only goes forward."""

    def __init__(self) -> None:
        self._offers: dict[bytes, tuple[float, Offer]] = {}  # by the token's digest, oldest first

    def add(self, offer: Offer, now_s: float) -> str:
        """Return a new token. Raises NoSpace."""
        self._expire(now_s)
        if len(self._offers) >= MOST:
            raise NoSpace(f"{MOST} streaming requests wait for their clients already; try again in a minute")
        token = secrets.token_urlsafe(TOKEN_BYTES)
        self._offers[_digest(token)] = now_s + LIFE_S, offer
        return token

    def take(self, token: str, now_s: float) -> Offer | None:
        """The offer, once; None for a token that never was, was used, or is too old."""
        self._expire(now_s)
        entry = self._offers.pop(_digest(token), None)
        return entry[1] if entry else None

    def _expire(self, now_s: float) -> None:
        while self._offers and (oldest := next(iter(self._offers))) and self._offers[oldest][0] <= now_s:
            del self._offers[oldest]


def _digest(token: str) -> bytes:
    """The digest that is compared, so that the time of the comparison reveals nothing about the token."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
