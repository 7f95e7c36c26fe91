# SPDX-License-Identifier: Apache-2.0
"""Which protocol a client gets for its HTTP request. Pure. Called by `connection`."""

from typing import NamedTuple

Headers = tuple[tuple[str, str], ...]

V1 = "channel.k8s.io"
SPDY_CHANNELS = {"v4.channel.k8s.io": 4, "v3.channel.k8s.io": 3, "v2.channel.k8s.io": 2, V1: 1}
"""Version 5 adds nothing to SPDY, and other servers do not offer it there."""
WEBSOCKET_CHANNELS = {"v5.channel.k8s.io": 5, **SPDY_CHANNELS}
SPDY_FORWARD = {"portforward.k8s.io": 1}
WEBSOCKET_FORWARD = {"SPDY/3.1+portforward.k8s.io": 1}
SPDY, WEBSOCKET = "spdy", "websocket"


class Refusal(NamedTuple):
    """An answer that is no upgrade: status, one sentence, and what else belongs into its head."""

    status: int
    sentence: str
    headers: Headers = ()


class Upgrade(NamedTuple):
    """A 101: SPDY or WEBSOCKET, the name of what is spoken in it and its version, and the answer's headers."""

    transport: str
    protocol: str
    version: int
    headers: Headers


def decide(kind: str, headers: dict[str, list[str]]) -> Upgrade | Refusal:
    """`kind` is exec, attach or portforward; the names of `headers` are lower case."""
    protocols = _values(headers, "upgrade")
    if "upgrade" not in [word.lower() for word in _values(headers, "connection")] or not protocols:
        return Refusal(400, "this URL is for an upgrade of the connection, to SPDY/3.1 or websocket")
    if protocols[0].lower() == "websocket":
        return _websocket(kind, headers)
    if protocols[0].upper() == "SPDY/3.1":
        return _spdy(kind, headers)
    return Refusal(400, f"{protocols[0]} is not spoken here; SPDY/3.1 and websocket are")


def _spdy(kind: str, headers: dict[str, list[str]]) -> Upgrade | Refusal:
    known = SPDY_FORWARD if kind == "portforward" else SPDY_CHANNELS
    offers = _values(headers, "x-stream-protocol-version")
    if not offers:
        return Refusal(400, "the header X-Stream-Protocol-Version is missing")
    chosen = next((offer for offer in offers if offer in known), None)
    if chosen is None:
        accepted = tuple(("X-Accepted-Stream-Protocol-Versions", name) for name in known)
        return Refusal(403, f"none of these protocols is spoken here: {', '.join(offers)}", accepted)
    answer = (("Connection", "Upgrade"), ("Upgrade", "SPDY/3.1"), ("X-Stream-Protocol-Version", chosen))
    return Upgrade(SPDY, chosen, known[chosen], answer)


def _websocket(kind: str, headers: dict[str, list[str]]) -> Upgrade | Refusal:
    known = WEBSOCKET_FORWARD if kind == "portforward" else WEBSOCKET_CHANNELS
    offers = _values(headers, "sec-websocket-protocol")
    if _values(headers, "sec-websocket-version") != ["13"]:
        return Refusal(426, "only version 13 of WebSocket is spoken here", (("Sec-WebSocket-Version", "13"),))
    keys = _values(headers, "sec-websocket-key")
    if len(keys) != 1:
        return Refusal(400, "the header Sec-WebSocket-Key is missing")
    chosen = next((offer for offer in offers if offer in known), None)
    if chosen is None:
        return Refusal(403, f"none of these protocols is spoken here: {', '.join(offers) or '(none offered)'}")
    answer = (("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Protocol", chosen))
    return Upgrade(WEBSOCKET, chosen, known[chosen], (*answer, ("Sec-WebSocket-Accept", _accept(keys[0]))))


def _accept(key: str) -> str:
    from wsproto.utilities import generate_accept_token

    return generate_accept_token(key.encode("latin-1")).decode()


def _values(headers: dict[str, list[str]], name: str) -> list[str]:
    """The comma-separated words of a header, which may be repeated."""
    values = [word.strip() for value in headers.get(name, []) for word in value.split(",")]
    return [word for word in values if word]
