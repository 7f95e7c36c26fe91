# SPDX-License-Identifier: Apache-2.0
"""Which networks a pod gets: the node's, the embedded one, and those that it names."""

import json
from pathlib import Path
from typing import Any

import pytest

from stage1.errors import BadRequest
from stage1.net import networks
from stage1.net.settings import Default, Settings

SUBNETS = ("10.86.0.0/16", "fd86::/64")
EMBEDDED_KINDS = ("bridge", "host-local", "portmap")


class Node:
    """A node's directories, with plugins that are never run."""

    def __init__(self, root: Path) -> None:
        self.conf, self.bins = root / "net.d", root / "bin"
        self.conf.mkdir()
        self.bins.mkdir()
        self.settings = Settings(str(self.conf), (str(self.bins),), f"{root}/cache", default=Default(SUBNETS))

    def plugins(self, *kinds: str) -> None:
        for kind in kinds:
            (self.bins / kind).write_text("#!/bin/sh\n")
            (self.bins / kind).chmod(0o755)

    def configure(self, file: str, **changes: Any) -> None:
        document = {"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "bridge"}], **changes}
        (self.conf / file).write_text(json.dumps(document))

    def names(self, *expected: str) -> list[str]:
        return [network.name for network in networks.chosen(expected, self.settings)]


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def test_without_a_configuration_the_embedded_network_is_used_and_reported(node: Node) -> None:
    node.plugins(*EMBEDDED_KINDS)
    assert node.names() == ["clearpod"] and networks.lacks(node.settings) == ""
    output = f"the embedded network 'clearpod' is in use, since there is no CNI configuration in {node.conf}"
    assert networks.note(node.settings) == output
    node.conf.rmdir()
    assert node.names() == ["clearpod"], "the directory need not exist"


def test_the_embedded_network_can_be_turned_off(node: Node) -> None:
    node.plugins(*EMBEDDED_KINDS)
    node.settings = node.settings._replace(default=None)
    assert node.names() == []
    assert networks.lacks(node.settings) == f"there is no CNI configuration in {node.conf}"


@pytest.mark.parametrize(
    "present, sentence",
    [
        ((), "CNI plugin 'bridge' and 'host-local' and 'portmap' "),
        (("bridge", "host-local"), "CNI plugin 'portmap' "),
    ],
)
def test_what_the_embedded_network_lacks_is_named_with_the_package(
    node: Node, present: tuple[str, ...], sentence: str
) -> None:
    node.plugins(*present)
    assert node.names() == [], "the pod has loopback, as with no network at all"
    output = networks.lacks(node.settings)
    assert sentence in output and output.endswith(": apt install containernetworking-plugins")


@pytest.mark.parametrize("text", ["{", "[]", '{"name": "x", "cniVersion": "9.0.0", "type": "bridge"}'])
def test_a_broken_configuration_is_never_replaced_by_the_embedded_one(node: Node, text: str) -> None:
    node.plugins(*EMBEDDED_KINDS)
    (node.conf / "10.conflist").write_text(text)
    assert f"{node.conf}/10.conflist" in networks.lacks(node.settings)
    with pytest.raises(BadRequest, match=r"network: .*10\.conflist"):
        node.names()


def test_a_configuration_directory_that_is_none_is_an_error_too(node: Node) -> None:
    node.plugins(*EMBEDDED_KINDS)
    node.conf.rmdir()
    node.conf.write_text("")
    assert networks.lacks(node.settings) == f"{node.conf} can't be read: Not a directory"


def test_the_embedded_network_has_the_families_that_the_host_has() -> None:
    both = networks.embedded(Default(SUBNETS), has_ipv6=True)
    (bridge, portmap) = both.plugins
    assert bridge["bridge"] == "clearpod0" and portmap["capabilities"] == {"portMappings": True}
    assert bridge["ipam"]["ranges"] == [[{"subnet": "10.86.0.0/16"}], [{"subnet": "fd86::/64"}]]
    assert bridge["ipam"]["routes"] == [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]
    single = networks.embedded(Default(SUBNETS), has_ipv6=False, has_firewall=True)
    assert single.plugins[0]["ipam"]["ranges"] == [[{"subnet": "10.86.0.0/16"}]]
    assert single.types() == ("bridge", "portmap", "firewall")


def test_named_networks_come_after_the_nodes_own_in_order(node: Node) -> None:
    node.plugins("bridge")
    for file, name in (("20.conflist", "storage"), ("10.conflist", "pods"), ("30.conflist", "late")):
        node.configure(file, name=name)
    assert node.names() == ["pods"]
    assert node.names("storage", "late") == ["pods", "storage", "late"]


@pytest.mark.parametrize("names", [("storage", "late", "storage"), ("pods",)])
def test_a_pod_is_in_a_network_once(node: Node, names: tuple[str, ...]) -> None:
    node.plugins("bridge")
    for file, name in (("20.conflist", "storage"), ("10.conflist", "pods"), ("30.conflist", "late")):
        node.configure(file, name=name)
    with pytest.raises(BadRequest, match=r"network '(storage|pods)' twice"):
        node.names(*names)


def test_the_embedded_network_can_not_be_named_again(node: Node) -> None:
    node.plugins(*EMBEDDED_KINDS)
    with pytest.raises(BadRequest, match="network 'clearpod' twice"):
        node.names("clearpod")


@pytest.mark.parametrize(
    "expected, sentence",
    [
        (("storrage",), r"network 'storrage', .*: pods, storage$"),
        (("broken",), r"network 'broken', .*: pods, storage; .*30-broken.* JSON"),
        (("pods",) * 8, r"8 .*networks; .*7"),
    ],
)
def test_a_name_that_is_unknown_is_refused_with_those_that_are_there(
    node: Node, expected: tuple[str, ...], sentence: str
) -> None:
    node.plugins("bridge")
    node.configure("10.conflist")
    node.configure("20.conflist", name="storage")
    if "broken" in expected:
        (node.conf / "30-broken.conf").write_text("{")
    with pytest.raises(BadRequest, match=sentence):
        node.names(*expected)


def test_a_plugin_that_only_a_named_network_lacks_is_named_with_it(node: Node) -> None:
    node.plugins("bridge")
    node.configure("10.conflist")
    node.configure("20.conflist", name="storage", plugins=[{"type": "macvlan"}])
    assert node.names() == ["pods"]
    with pytest.raises(BadRequest, match=r"CNI plugin 'macvlan' .*'storage' \(.*20\.conflist\)"):
        node.names("storage")
