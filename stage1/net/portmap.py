# SPDX-License-Identifier: Apache-2.0
"""The conditions that make the portmap plugin leave ::1 alone. Pure: called by plugins.

The plugin's rules for IPv6 match connections to ::1 too, and redirect them to a pod whose answers the kernel drops
(docs/design/network.md). So they would hide the daemon, which listens on that address. The plugin has a key for
conditions on its rules, in the syntax of iptables or nftables. Other plugins get their documents unchanged.
"""

from stage1.linux.host import which
from stage1.net.protocol import Document

_NOT_LOOPBACK = {"iptables": ("!", "-d", "::1"), "nftables": ("ip6", "daddr", "!=", "::1")}


def adapted(plugin: Document) -> Document:
    """The plugin's document as this host's portmap must have it."""
    return except_loopback(plugin, has_iptables=bool(which("iptables"))) if plugin.get("type") == "portmap" else plugin


def except_loopback(plugin: Document, *, has_iptables: bool) -> Document:
    """portmap's document with one more condition; as it is when that can't be expressed."""
    conditions = plugin.get("conditionsV6") or []
    condition = _NOT_LOOPBACK.get(_tool(plugin, has_iptables=has_iptables), ())
    if not isinstance(conditions, list) or "::1" in conditions or not condition:
        return plugin
    return {**plugin, "conditionsV6": [*conditions, *condition]}


def _tool(plugin: Document, *, has_iptables: bool) -> str:
    """The backend as portmap chooses it: the document's, or the one of its conditions, else iptables if it exists."""
    if plugin.get("backend"):
        return str(plugin["backend"])
    for key in ("conditionsV4", "conditionsV6"):
        conditions = plugin.get(key)
        if isinstance(conditions, list) and conditions:
            return "iptables" if str(conditions[0])[:1] in ("-", "!") else "nftables"
    return "iptables" if has_iptables or plugin.get("externalSetMarkChain") else "nftables"
