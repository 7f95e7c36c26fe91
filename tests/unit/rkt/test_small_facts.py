# SPDX-License-Identifier: Apache-2.0
"""Environment, streams, sizes and the texts of hosts and resolv.conf."""

from pathlib import Path
from typing import Any

import pytest

from stage1.errors import BadRequest
from stage1.pod.network import PodNetwork
from stage1.rkt import environment, sizing, streams, texts
from stage1.rkt.arguments import RunOptions
from stage1.rkt.isolators import Isolators
from stage1.rkt.manifest import Entry
from stage1.rkt.streams import Streams

UUID = "6733c088-a507-4694-aabf-eda9d3f3f5c0"
OPTIONS = RunOptions(UUID)
DEFAULTS = {
    f"PATH={environment.PATH}", "SHELL=/bin/sh", "USER=root", "LOGNAME=root", "HOME=/root", "AC_APP_NAME=a",
}  # fmt: skip


def test_an_environment_is_what_was_given_and_defaults() -> None:
    assert set(environment.variables("a", ())) == DEFAULTS
    output = [("PATH", "/x"), ("N", "a\nb=c"), ("AC_APP_NAME", "lie")]
    expected = (DEFAULTS - {f"PATH={environment.PATH}"}) | {"PATH=/x", "N=a\nb=c"}
    assert set(environment.variables("a", output)) == expected


@pytest.mark.parametrize(
    "given, terminal, term",
    [((), "xterm", "TERM=xterm"), ((), "", "TERM=vt100"), ((("TERM", "dumb"),), "xterm", "TERM=dumb")],
)
def test_with_a_terminal(given: Any, terminal: str, term: str) -> None:
    assert set(environment.variables("a", given, terminal=terminal)) == DEFAULTS | {term}


def test_the_metadata_url() -> None:
    assert environment.metadata_url("172.16.28.1", "t0") == "http://172.16.28.1:18112/t0"
    assert environment.metadata_url("fd00::1", "t0") == "http://[fd00::1]:18112/t0"


def entry(**given: str) -> Entry:
    annotations = tuple((f"coreos.com/rkt/stage2/{name}", mode) for name, mode in given.items() if name != "log")
    log = (("coreos.com/rkt/experiment/kubernetes-log-path", given["log"]),) if "log" in given else ()
    return Entry("a", "", ("x",), "0", "0", ("0", "0"), False, annotations=annotations + log)


PLAIN = {
    "coreos.com/rkt/experiment/logmode": "k8s-plain",
    "coreos.com/rkt/experiment/kubernetes-log-dir": "/var/log/pods/p",
}


@pytest.mark.parametrize(
    "given, pod, interactive, expected",
    [
        (entry(), {}, False, Streams()),
        (entry(stdin="stream", stdout="null", stderr="tty"), {}, False, Streams("stream", "null", "tty")),
        (entry(stdin="tty"), {}, True, Streams("interactive", "interactive", "interactive")),
        (entry(stdin=""), {}, False, Streams()),
        (
            entry(stdout="stream", log="a_0.log"),
            PLAIN,
            False,
            Streams("null", "stream", "log", "/var/log/pods/p/a_0.log"),
        ),
        (entry(stdout="stream", log="a_0.log"), {}, False, Streams("null", "stream")),
        (entry(log="a_0.log"), PLAIN, False, Streams()),
    ],
)
def test_streams(given: Entry, pod: dict[str, str], interactive: bool, expected: Streams) -> None:
    assert streams.of_app(given, pod, interactive=interactive) == expected


def test_what_streams_ask_for() -> None:
    assert Streams("tty").is_terminal and Streams(stderr="tty").is_terminal and not Streams("stream").is_terminal
    assert not Streams().has_input and Streams("interactive").has_input
    assert not Streams(log_path="tty").is_terminal


@pytest.mark.parametrize(
    "given, pod, sentence",
    [
        (entry(stdin="log"), {}, "app 'a': .*stdin .*'log'; .* null, stream, tty, interactive"),
        (entry(stdout="odd"), {}, "app 'a': .*stdout .*'odd'; .*log, null, stream, tty, interactive"),
        (
            entry(stdout="stream", log="../x"),
            PLAIN,
            "app 'a': .*log '../x' .*/var/log/pods/p",
        ),
        (entry(stdout="stream", log="."), PLAIN, r"app 'a': .*log '\.' .*/var/log/pods/p"),
        (
            entry(stdout="stream"),
            PLAIN,
            "app 'a': k8s-plain .*coreos.com/rkt/experiment/kubernetes-log-dir"
            ".* coreos.com/rkt/experiment/kubernetes-log-path",
        ),
    ],
)
def test_streams_that_cant_be(given: Entry, pod: dict[str, str], sentence: str) -> None:
    with pytest.raises(BadRequest, match=sentence):
        streams.of_app(given, pod, interactive=False)


MIB = 1 << 20


@pytest.mark.parametrize(
    "limits, annotations, mutable, expected",
    [
        ([], {}, True, 512),
        ([0], {}, False, 512),
        ([0, 0], {}, False, 960),
        ([100 * MIB], {}, False, 164),
        ([100 * MIB + 1], {}, False, 165),
        ([100 * MIB, 1024 * MIB], {}, False, 1188),
        ([100 * MIB], {}, True, 512),
        ([100 * MIB], {"clearpod.io/memory-mib": "96"}, True, 96),
    ],
)
def test_memory(limits: list[int], annotations: dict[str, str], mutable: bool, expected: int) -> None:
    apps = [Isolators(memory=limit) for limit in limits]
    assert sizing.memory_mib(apps, annotations, mutable=mutable, host_mib=8192) == expected


@pytest.mark.parametrize(
    "limits, host_mib, expected",
    [([0] * 12, 4096, 3072), ([0] * 64, 24000, 18000), ([0] * 64, 1024, 64 + 64 * 32), ([0], 1024, 512),
     ([100 * MIB] * 20, 1024, 2064), ([900 * MIB, 0], 1024, 64 + 900 + 32)],
)  # fmt: skip
def test_many_apps_without_limits_share_what_the_host_has(limits: list[int], host_mib: int, expected: int) -> None:
    apps = [Isolators(memory=limit) for limit in limits]
    assert sizing.memory_mib(apps, {}, mutable=False, host_mib=host_mib) == expected


@pytest.mark.parametrize(
    "limits, annotations, expected",
    [
        ([], {}, 4),
        ([0], {}, 4),
        ([500], {}, 1),
        ([1500], {}, 2),
        ([500, 400], {}, 1),
        ([500, 600], {}, 2),
        ([500, 0], {}, 4),
        ([64000], {}, 4),
        ([500], {"clearpod.io/vcpus": "3"}, 3),
    ],
)
def test_cpus(limits: list[int], annotations: dict[str, str], expected: int) -> None:
    assert sizing.vcpus([Isolators(cpu_milli=limit) for limit in limits], annotations, cpus=4) == expected


@pytest.mark.parametrize("text", ["", "-1", "1.5", "many", "٣", "9" * 30])
def test_sizes_are_numbers(text: str) -> None:
    with pytest.raises(BadRequest, match=r"annotation clearpod\.io/vcpus .*number"):
        sizing.vcpus([], {"clearpod.io/vcpus": text}, cpus=1)


@pytest.fixture
def pod(tmp_path: Path) -> str:
    etc = tmp_path / "stage1" / "rootfs" / "etc"
    etc.mkdir(parents=True)
    (etc / "rkt-resolv.conf").write_text("nameserver 9.9.9.9\n")
    (etc / "rkt-hosts").write_text("# odd\n127.0.0.1 localhost # here\n1.2.3.4 far\n")
    return str(tmp_path)


DNS = PodNetwork(dns_servers=("1.1.1.1",), dns_searches=("a.b",), dns_options=("ndots:2",))


@pytest.mark.parametrize(
    "mode, network, expected",
    [
        ("default", None, None),
        ("default", PodNetwork(), None),
        ("default", DNS, "search a.b\nnameserver 1.1.1.1\noptions ndots:2\n"),
        ("none", DNS, None),
        ("stage0", DNS, "nameserver 9.9.9.9\n"),
    ],
)
def test_resolv_conf(pod: str, mode: str, network: PodNetwork | None, expected: str | None) -> None:
    assert texts.resolv_conf(pod, OPTIONS._replace(resolv_mode=mode), network=network) == expected


def test_the_hosts_own_files(pod: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "_read", lambda path: f"text of {path}")
    options = OPTIONS._replace(resolv_mode="host", hosts_mode="host")
    assert texts.resolv_conf(pod, options, network=DNS) == "text of /etc/resolv.conf"
    assert texts.hosts(pod, options, hostname="h") == ("text of /etc/hosts", True)


def test_hosts_of_rkt_get_the_pods_name(pod: str) -> None:
    result = texts.hosts(pod, OPTIONS._replace(hosts_mode="stage0"), hostname="h")
    assert result == ("# odd\n127.0.0.1 localhost h\n1.2.3.4 far\n", True)


def test_default_hosts_do_not_replace_the_images(pod: str) -> None:
    text, wins = texts.hosts(pod, OPTIONS, hostname="h")
    assert text.splitlines()[0].split() == ["127.0.0.1", "localhost", "h"] and not wins


def test_hosts_without_loopback_get_it(pod: str) -> None:
    (Path(pod) / "stage1" / "rootfs" / "etc" / "rkt-hosts").write_text("1.2.3.4 far\n")
    text, _ = texts.hosts(pod, OPTIONS._replace(hosts_mode="stage0"), hostname="h")
    assert text == "127.0.0.1\tlocalhost h\n1.2.3.4 far\n"
