# SPDX-License-Identifier: Apache-2.0
"""A host of our own for real CNI plugins: a netns in which their bridge, rules and sysctls stay, and our table
that limits new neighbours, which is not part of what is compared.

The calling thread is in it, with all threads and processes that it starts.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stage1.linux import namespace, process
from stage1.net.settings import Default, Settings
from tests.fakes.patience import PATIENCE

BIN_DIR = "/usr/lib/cni"
SHOW = """
ip -o link | sed 's/@.*//;s/<.*//'
for save in iptables-save iptables-legacy-save ip6tables-save ip6tables-legacy-save
do $save 2> /dev/null | grep -v '^[#:]'
done
! command -v nft > /dev/null || nft list ruleset | sed '/^table inet clearpod {/,/^}/d;s/packets [0-9]* bytes [0-9]*//'
"""


def conflist(root: Path, *more: dict[str, Any], mtu: int = 1400) -> dict[str, Any]:
    """A bridge `ct0` with IPv4 and IPv6 and leases in `root`, host ports, and more plugins."""
    ipam = {
        "type": "host-local",
        "dataDir": f"{root}/leases",
        "ranges": [[{"subnet": "10.77.0.0/24"}], [{"subnet": "fd77::/64"}]],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
    }
    bridge = {"type": "bridge", "bridge": "ct0", "isGateway": True, "ipMasq": True, "hairpinMode": True, "mtu": mtu}
    portmap = {"type": "portmap", "capabilities": {"portMappings": True}}
    return {"cniVersion": "1.0.0", "name": "test", "plugins": [{**bridge, "ipam": ipam}, portmap, *more]}


class OuterNet:
    """`settings` for the engine, and what is in the netns."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.settings = Settings(f"{root}/net.d", (BIN_DIR,), f"{root}/cache", results_dir=f"{root}/results")
        (root / "net.d").mkdir(parents=True)
        self.configure(conflist(root))

    def configure(self, document: dict[str, Any], file: str = "10.conflist") -> None:
        """Replace the configuration, or add another."""
        (self.root / "net.d" / file).write_text(json.dumps(document))

    def use_default(self) -> None:
        """No configuration, and the embedded network with leases of its own."""
        (self.root / "net.d" / "10.conflist").unlink()
        default = Default(("10.78.0.0/24", "fd78::/64"), lease_dir=f"{self.root}/leases")
        self.settings = self.settings._replace(default=default)

    def state(self) -> str:
        """Links, rules, leases and records: to be compared. What plugins keep for the next pod is the bridge, three
        chains, and the names of host-local's last addresses.
        """
        output = process.run(["sh", "-c", SHOW], timeout_s=20 * PATIENCE).stdout.decode()
        kept = sorted(str(path) for name in ("leases", "cache") for path in (self.root / name).rglob("*"))
        return "\n".join([output, *kept])


@contextmanager
def outer_net(root: Path) -> Iterator[OuterNet]:
    """Be in a new netns, with its loopback up, until the block ends."""
    path = f"/run/netns/t-outer-{os.urandom(4).hex()}"
    namespace.make_net(path)
    try:
        with namespace.inside_net(path):
            process.run(["ip", "link", "set", "lo", "up"], timeout_s=5 * PATIENCE)
            yield OuterNet(root)
    finally:
        namespace.remove_net(path)
