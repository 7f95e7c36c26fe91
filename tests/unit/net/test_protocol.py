# SPDX-License-Identifier: Apache-2.0
"""What plugins are given, and what their answers mean."""

import json
from typing import Any

import pytest

from stage1.errors import NetworkFailed
from stage1.net import protocol
from stage1.net.conflist import Network
from stage1.pod.model import Pod, Port

POD = Pod("5e" * 32, "web", uid="u-1", ports=(Port(80, 8080), Port(53, 0, "udp"), Port(443, 8443, "tcp", "::1")))
NETWORK = Network("pods", "1.0.0", ({"type": "bridge"},))


def given(plugin: dict[str, Any], pod: Pod = POD, previous: dict[str, Any] | None = None) -> Any:
    call = protocol.call_for(pod, "/run/netns/x", ifname="eth0")
    return json.loads(protocol.request(NETWORK, plugin, call=call, previous=previous))


def test_the_environment_has_the_command_and_the_pod_and_none_of_our_variables() -> None:
    call = protocol.call_for(POD, "/run/netns/x", ifname="eth0")
    assert protocol.environment("ADD", call, bin_dirs=("/a", "/b")) == {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": "5e" * 32,
        "CNI_NETNS": "/run/netns/x",
        "CNI_IFNAME": "eth0",
        "CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;"
        f"K8S_POD_INFRA_CONTAINER_ID={'5e' * 32};K8S_POD_UID=u-1",
        "CNI_PATH": "/a:/b",
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    }


def test_the_document_carries_name_version_and_the_previous_result() -> None:
    assert given({"type": "tuning", "sysctl": {"a": "1"}}, previous={"ips": []}) == {
        "type": "tuning",
        "sysctl": {"a": "1"},
        "cniVersion": "1.0.0",
        "name": "pods",
        "prevResult": {"ips": []},
    }


def test_a_plugin_gets_what_its_capabilities_ask_for_and_no_more() -> None:
    pod = POD._replace(ingress_bits=1_000_000, dns_servers=("10.0.0.10",), dns_options=("ndots:5",))
    mappings = [
        {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
        {"hostPort": 8443, "containerPort": 443, "protocol": "tcp", "hostIP": "::1"},
    ]
    both = given({"type": "x", "capabilities": {"portMappings": True, "bandwidth": False, "dns": True}}, pod)
    assert both == {
        "type": "x",
        "cniVersion": "1.0.0",
        "name": "pods",
        "runtimeConfig": {"portMappings": mappings, "dns": {"servers": ["10.0.0.10"], "options": ["ndots:5"]}},
    }
    rates = given({"type": "x", "capabilities": {"bandwidth": True}}, pod)["runtimeConfig"]["bandwidth"]
    assert rates == {"ingressRate": 1_000_000, "ingressBurst": 8 * 65536}
    assert "runtimeConfig" not in given({"type": "x", "capabilities": {"ips": True}}, pod)


@pytest.mark.parametrize(
    "result, ips",
    [
        ({}, ()),
        ({"ips": []}, ()),
        ({"ips": None, "interfaces": None}, ()),
        ({"ips": [{"address": "10.0.0.5/16"}, {"address": "fd00::5/64"}]}, ("10.0.0.5", "fd00::5")),
        ({"ips": [{"address": "fd00::5/64", "version": "6"}, {"address": "10.0.0.5/16"}]}, ("fd00::5", "10.0.0.5")),
        (
            {
                "interfaces": [{"name": "br0"}, {"name": "eth0", "sandbox": "/run/netns/x"}],
                "ips": [{"address": "10.0.0.1/16", "interface": 0}, {"address": "10.0.0.5/16", "interface": 1}],
            },
            ("10.0.0.5",),
        ),
        ({"interfaces": [], "ips": [{"address": "10.0.0.5/32", "interface": 3}]}, ("10.0.0.5",)),
        ({"ips": [{"address": "10.0.0.5/32"}, {"address": "10.0.0.5/32"}, {}]}, ("10.0.0.5",)),
    ],
)
def test_the_pods_addresses_are_those_inside_in_the_results_order(result: Any, ips: tuple[str, ...]) -> None:
    assert protocol.ips(result) == ips


def test_dns_of_a_result_has_its_domain_among_the_searches() -> None:
    text = {"nameservers": ["10.0.0.2"], "domain": "here", "search": ["there"], "options": ["ndots:1"]}
    assert protocol.dns({"dns": text}) == (("10.0.0.2",), ("here", "there"), ("ndots:1",))
    assert protocol.dns({}) == protocol.dns({"dns": None}) == ((), (), ())


NO_RESULTS = (
    *(b"", b"ok", b"[]", b'"x"', b'{"ips": {}}', b'{"interfaces": [1]}', b"[" * 100_000),
    *(b'{"dns": []}', b'{"dns": {"domain": 1}}', b'{"dns": {"search": "a"}}', b'{"dns": {"nameservers": [1]}}'),
)


@pytest.mark.parametrize("answer", NO_RESULTS, ids=range(len(NO_RESULTS)))
def test_an_answer_that_is_no_result_is_a_failure_that_names_the_plugin(answer: bytes) -> None:
    with pytest.raises(NetworkFailed, match=r"^the plugin .*ADD"):
        protocol.result(answer, "the plugin")


@pytest.mark.parametrize(
    "stdout, stderr, message",
    [
        (b'{"code": 11, "msg": "try later", "details": "busy"}', b"", "try later: busy (code 11)"),
        (b'{"code": 7, "msg": "bad"}', b"noise", "bad (code 7)"),
        (b'{"code": 7}', b"noise", "exit status 9"),
        (b"", b"panic: at the\x1b[31m disco\n", "panic: at the [31m disco"),
        (b"half a {", b"", "half a {"),
        (b"[]", b"", "[]"),
        (b"", b"", "it ended with status 9 and wrote nothing"),
    ],
)
def test_an_error_is_what_the_plugin_printed_as_far_as_it_can_be_shown(
    stdout: bytes, stderr: bytes, message: str
) -> None:
    assert protocol.error_text(stdout, stderr, code=9) == message
