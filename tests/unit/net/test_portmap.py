# SPDX-License-Identifier: Apache-2.0
"""portmap is told to leave ::1 alone, in the words of its tool; nobody else is told anything."""

from typing import Any

import pytest

from stage1.net import portmap

IPTABLES, NFTABLES = ["!", "-d", "::1"], ["ip6", "daddr", "!=", "::1"]


@pytest.mark.parametrize(
    ("text", "has_iptables", "expected"),
    [
        ({}, True, IPTABLES),
        ({}, False, NFTABLES),
        ({"backend": "nftables"}, True, NFTABLES),
        ({"backend": "iptables"}, False, IPTABLES),
        ({"backend": "other"}, True, None),
        ({"externalSetMarkChain": "X"}, False, IPTABLES),
        ({"conditionsV6": ["!", "-d", "fd00::/8"]}, False, ["!", "-d", "fd00::/8", *IPTABLES]),
        ({"conditionsV4": ["ip", "daddr", "10.0.0.1"], "conditionsV6": []}, True, NFTABLES),
        ({"conditionsV6": ["-d", "::1"]}, True, ["-d", "::1"]),
        ({"conditionsV6": "wrong"}, True, "wrong"),
    ],
)
def test_portmap_gets_one_more_condition(text: dict[str, Any], has_iptables: bool, expected: Any) -> None:
    plugin = {"type": "portmap", **text}
    before = {**plugin}
    assert portmap.except_loopback(plugin, has_iptables=has_iptables).get("conditionsV6") == expected
    assert plugin == before, "the record keeps what was read"


def test_other_plugins_get_what_was_read() -> None:
    plugin = {"type": "bridge"}
    assert portmap.adapted(plugin) is plugin
