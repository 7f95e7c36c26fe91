# SPDX-License-Identifier: Apache-2.0
"""A CNI plugin as a shell script, and a place with a configuration for it.

The plugin writes each call to `calls` and keeps a lease per container and plugin name. ADD makes a veth pair in the
pod's netns (for the plugins `first` and `bridge` only) and answers with `answer`; a file `trouble-<name>-<verb>` is
sourced first, so a test makes it fail, hang or crash. In `batch`, DEVICE stands for the name that the device gets.
"""

import json
import os
from pathlib import Path
from typing import Any

from stage1.net.settings import Settings

SCRIPT = """#!/bin/sh
here={here}
name=${{0##*/}}
cat > $here/stdin-$name-$CNI_COMMAND
case $name in first|bridge) device=yes ;; *) device= ;; esac
echo "$CNI_COMMAND $name" >> $here/calls
echo "$CNI_CONTAINERID" >> $here/pods
lease=$here/leases/$name-$CNI_CONTAINERID
[ $CNI_COMMAND = DEL ] && [ -e $CNI_NETNS/. -o -e "$CNI_NETNS" ] && nsenter --net=$CNI_NETNS ip -o -4 addr > $here/seen
[ $CNI_COMMAND = ADD ] && : > $lease
if [ -e $here/trouble-$name-$CNI_COMMAND ]; then . $here/trouble-$name-$CNI_COMMAND; fi
case $CNI_COMMAND in
VERSION) cat $here/versions ;;
GC)
    for lease in $here/leases/$name-*; do
        grep -q "${{lease##*-}}" $here/stdin-$name-GC || rm -f "$lease"
    done ;;
DEL)
    rm -f $lease
    [ ! "$device" ] || [ ! -e "$CNI_NETNS" ] || nsenter --net=$CNI_NETNS ip link del $CNI_IFNAME 2> /dev/null
    exit 0 ;;
ADD)
    [ ! "$device" ] || sed "s,DEVICE,$CNI_IFNAME,g" $here/batch | nsenter --net=$CNI_NETNS ip -batch - || exit 1
    cat $here/answer ;;
esac
"""
BATCH = """link add eth0 type veth peer name peer0
link set peer0 up
link set eth0 mtu 1450 up
addr add 10.9.0.5/24 dev eth0
addr add fd09::5/64 dev eth0 nodad
route add default via 10.9.0.1
neigh add 10.9.0.1 lladdr 02:00:00:00:00:01 dev eth0 nud permanent
"""


class FakeCni:
    """`settings` for the engine; a chain of the plugins `first` and `second`."""

    def __init__(self, root: Path, *, limit_s: float = 10.0) -> None:
        self.root, self._told = root, 0
        for name in ("net.d", "bin", "leases"):
            (root / name).mkdir(parents=True)
        for name in ("first", "second"):
            self._install(name)
        self.settings = Settings(f"{root}/net.d", (f"{root}/bin",), f"{root}/cache", limit_s, f"{root}/results")
        self.configure([{"type": "first"}, {"type": "second"}])
        self.answer({"ips": [{"address": "10.9.0.5/24"}, {"address": "fd09::5/64"}]})
        (root / "batch").write_text(BATCH)
        self.speaks("0.4.0", "1.0.0", "1.1.0")

    def _install(self, name: str) -> None:
        path = self.root / "bin" / name
        path.write_text(SCRIPT.format(here=self.root))
        path.chmod(0o755)

    def configure(self, plugins: list[dict[str, Any]], version: str = "1.0.0", **more: Any) -> None:
        """Replace the configuration."""
        document = {"cniVersion": version, "name": "fake", "plugins": plugins, **more}
        (self.root / "net.d" / "10.conflist").write_text(json.dumps(document))

    def make_first_reservable(self) -> None:
        """The first plugin is now one that is called when a pool slot is filled."""
        self._install("bridge")
        self.configure([{"type": "bridge", "ipam": {"type": "host-local"}}, {"type": "second"}])

    def answer(self, document: Any) -> None:
        """What ADD answers."""
        text = document if isinstance(document, str) else json.dumps({"cniVersion": "1.0.0", **document})
        (self.root / "answer").write_text(text)

    def make_one_device(self) -> None:
        """ADD leaves nothing but the pod's device in its netns, as real plugins do; else the peer is there too."""
        lines = [line for line in BATCH.splitlines(keepends=True) if "peer0" not in line]
        (self.root / "batch").write_text("".join(["link add eth0 type bridge\n", *lines]))

    def trouble(self, plugin: str, verb: str, script: str) -> None:
        """Shell code that `plugin` runs at `verb`; empty: none any more."""
        path = self.root / f"trouble-{plugin}-{verb}"
        path.write_text(script)

    def calls(self) -> list[str]:
        """All calls since the last time, as "VERB plugin", but those that only ask what the plugin speaks."""
        path = self.root / "calls"
        calls = path.read_text().splitlines(keepends=True) if path.exists() else []
        result = [one.rstrip("\n") for one in calls[self._told :] if one.endswith("\n")]
        self._told += len(result)
        return [one for one in result if not one.startswith("VERSION ")]

    def speaks(self, *versions: str) -> None:
        """The versions that the plugins say they know; none: they say nothing."""
        text = json.dumps({"cniVersion": "1.0.0", "supportedVersions": versions}) if versions else ""
        (self.root / "versions").write_text(text)

    def given(self, plugin: str, verb: str) -> Any:
        """The document that `plugin` had on its standard input at its last `verb`."""
        return json.loads((self.root / f"stdin-{plugin}-{verb}").read_text())

    def left_over(self) -> list[str]:
        """Leases, records and namespaces that pods left behind."""
        places = (self.root / "leases", self.root / "cache")
        result = [str(path) for place in places for path in place.glob("*") if path.is_file()]
        pods = self.root / "pods"
        ids = set(pods.read_text().split()) if pods.exists() else set()
        return result + [path for path in map("/run/netns/clearpod-{}".format, ids) if os.path.exists(path)]
