# SPDX-License-Identifier: Apache-2.0
"""What `clearpod run` makes of its options: the CRI's messages, and the pod that they mean."""

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cri.cli.parser import Parser
from cri.cli.run import command
from cri.cli.run import request as run_request
from cri.cli.run.request import Request
from cri.config import Config
from cri.pb import runtime_pb2 as pb
from stage1.errors import PodError
from stage1.linux.host import memory_mib

MIB = 1 << 20
OURS = {"HERE": "value of ours"}


def asked(*argv: str) -> Request:
    parser = Parser(prog="clearpod run")
    command.add_arguments(parser)
    return run_request.of(parser.parse_args(argv), OURS)


def refused(*argv: str) -> str:
    with pytest.raises(PodError) as caught:
        asked(*argv)
    return str(caught.value)


Field = Callable[[Request], Any]
SECURITY: Field = lambda r: r.container.linux.security_context  # noqa: E731 - a column of the table below
RESOURCES: Field = lambda r: r.container.linux.resources  # noqa: E731


@pytest.mark.parametrize(
    "argv, field, value",
    [
        ("-m 64m", lambda r: RESOURCES(r).memory_limit_in_bytes, 64 * MIB),
        ("-m 65536k", lambda r: RESOURCES(r).memory_limit_in_bytes, 64 * MIB),
        ("-m 67108864", lambda r: RESOURCES(r).memory_limit_in_bytes, 64 * MIB),
        ("--memory=67108864b", lambda r: r.sandbox.linux.resources.memory_limit_in_bytes, 64 * MIB),
        ("-m 0.125G", lambda r: RESOURCES(r).memory_limit_in_bytes, 128 * MIB),
        ("--cpus 0.5", lambda r: (RESOURCES(r).cpu_quota, RESOURCES(r).cpu_period), (50_000, 100_000)),
        ("--vm-memory 100m", lambda r: dict(r.sandbox.annotations), {"clearpod.io/memory-mib": "100"}),
        ("--vm-kernel stock", lambda r: dict(r.sandbox.annotations), {"clearpod.io/kernel": "stock"}),
        ("--shm-size 1k", lambda r: dict(r.sandbox.annotations), {"clearpod.io/shm-mib": "1"}),
        ("-u 5:6", lambda r: SECURITY(r).run_as_username, "5:6"),
        ("--read-only --tmpfs /tmp/", lambda r: SECURITY(r).readonly_rootfs, True),
        (
            "--read-only --tmpfs /tmp:size=4m",
            lambda r: dict(r.container.annotations),
            {"clearpod.io/tmpfs": "/tmp:size=4m;/run;/var/tmp"},
        ),
        (
            "--mount type=tmpfs,dst=/x,tmpfs-size=4m,noexec",
            lambda r: dict(r.container.annotations),
            {"clearpod.io/tmpfs": "/x:size=4m,noexec"},
        ),
        (
            "--ulimit nofile=5:6 --ulimit core=-1",
            lambda r: dict(r.container.annotations),
            {"clearpod.io/ulimits": "nofile=5:6,core=-1"},
        ),
        ("--privileged", lambda r: (SECURITY(r).privileged, r.sandbox.linux.security_context.privileged), (True, True)),
        (
            "--cap-add ALL --cap-add SYS_TIME",
            lambda r: [*SECURITY(r).capabilities.add_capabilities],
            ["ALL", "SYS_TIME"],
        ),
        (
            "-e A=1=2 -e HERE -e NOWHERE -e A=3",
            lambda r: {e.key: e.value for e in r.container.envs},
            {"A": b"3", "HERE": b"value of ours"},
        ),
        ("image cmd -x --", lambda r: [*r.container.args], ["cmd", "-x", "--"]),
        (
            "--entrypoint sh image -c x",
            lambda r: ([*r.container.command], [*r.container.args]),
            (["sh", "-c", "x"], []),
        ),
        ('--entrypoint ["a","b"] image c', lambda r: [*r.container.command], ["a", "b", "c"]),
        ("--entrypoint= image c", lambda r: [*r.container.command], ["c"]),
        ("-it", lambda r: (r.container.stdin, r.container.tty), (True, True)),
        ("--hostname box --name web", lambda r: (r.sandbox.hostname, r.sandbox.metadata.name), ("box", "web")),
        (
            "--dns 1.2.3.4 --dns-search a.b",
            lambda r: ([*r.sandbox.dns_config.servers], [*r.sandbox.dns_config.searches]),
            (["1.2.3.4"], ["a.b"]),
        ),
        (
            "--add-host six:[fd00::5] --add-host db:10.0.0.5",
            lambda r: r.sandbox.annotations["clearpod.io/hosts"],
            "six:fd00::5,db:10.0.0.5",
        ),
        ("--network storage", lambda r: r.sandbox.annotations["clearpod.io/networks"], "storage"),
        ("--net bridge", lambda r: dict(r.sandbox.annotations), {}),
        (
            "--annotation example.com/a=b=c --annotation clearpod.io/vcpus=1 --annotation clearpod.io/vcpus=2 -m 64m",
            lambda r: (dict(r.sandbox.annotations), dict(r.container.annotations)),
            ({"example.com/a": "b=c", "clearpod.io/vcpus": "2"},) * 2,
        ),
        (
            "--annotation clearpod.io/tmpfs=/x --annotation empty= --ulimit core=0",
            lambda r: dict(r.container.annotations),
            {"clearpod.io/tmpfs": "/x", "empty": "", "clearpod.io/ulimits": "core=0"},
        ),
    ],
)
def test_each_option_is_a_field_of_the_cri(argv: str, field: Field, value: object) -> None:
    assert field(asked(*argv.split())) == value


@pytest.mark.parametrize(
    "word, ports",
    [
        ("18080:80", [("", 18080, 80, pb.TCP)]),
        ("18080:80/udp", [("", 18080, 80, pb.UDP)]),
        ("127.0.0.1:18080:80", [("127.0.0.1", 18080, 80, pb.TCP)]),
        ("[::1]:18080:80/tcp", [("::1", 18080, 80, pb.TCP)]),
        ("18081-18082:1-2", [("", 18081, 1, pb.TCP), ("", 18082, 2, pb.TCP)]),
    ],
)
def test_published_ports(word: str, ports: list[tuple[str, int, int, int]]) -> None:
    got = asked("-p", word).sandbox.port_mappings
    assert [(one.host_ip, one.host_port, one.container_port, one.protocol) for one in got] == ports


@pytest.mark.parametrize(
    "options, inner",
    [("-p 80", [80]), ("-p 127.0.0.1::80/udp -p 127.0.0.1::80/udp", [80, 80]), ("-p 1-3", [1, 2, 3])],
)
def test_a_port_without_one_of_the_host_gets_a_free_one(options: str, inner: list[int]) -> None:
    request = asked(*options.split())
    got = request.sandbox.port_mappings
    assert [one.container_port for one in got] == inner and [*request.chosen] == [*got]
    assert len({one.host_port for one in got if one.host_port}) == len(inner)


def test_a_port_with_a_listener_is_refused() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert str(port) in refused("-p", f"127.0.0.1:{port}:80")


def test_volumes_are_the_hosts_files_with_their_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir()
    monkeypatch.chdir(tmp_path)
    argv = (
        "-v",
        "./a:/x/../b:ro,Z",
        "-v",
        f"{tmp_path}:/c:noexec,rslave",
        "--mount",
        "type=bind,src=./a,dst=/d,ro=true",
    )
    one, two, three = asked(*argv).container.mounts
    assert (one.host_path, one.container_path, one.readonly) == (f"{tmp_path}/a", "/b", True)
    assert (two.readonly, [*two.mount_options]) == (False, ["noexec"])
    assert two.propagation == pb.PROPAGATION_HOST_TO_CONTAINER
    assert (three.host_path, three.container_path, three.readonly) == (f"{tmp_path}/a", "/d", True)


def test_variables_of_files_come_before_those_of_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "env").write_text("# no\n\n  A=1 # stays\nHERE\nNOWHERE\nB=\n")
    envs = asked("--env-file", f"{tmp_path}/env", "-e", "B=2").container.envs
    assert {one.key: one.value for one in envs} == {"A": b"1 # stays", "HERE": b"value of ours", "B": b"2"}


@pytest.mark.parametrize(
    "argv, sentence",
    [
        ("-m 64", "64m"),
        ("-m 999999g", "999999g"),
        ("-m 64x", "64x"),
        ("-m -5", "-5"),
        ("--vm-memory 99999999m", "this host"),
        ("--shm-size 99999g", "--shm-size"),
        ("--cpus 0", "--cpus"),
        ("--cpus nan", "--cpus"),
        (f"--cpus {(os.cpu_count() or 1) + 1}", "--cpus"),
        ("-e =1", "--env"),
        ("--env-file /no/such", "/no/such"),
        ("--env-file /dev/zero", "/dev/zero"),
        ("-v data:/x", "./data"),
        ("-v /no/such:/x", "/no/such"),
        ("-v /tmp", "SRC:DST"),
        ("-v /tmp:/x:U", "U"),
        ("-v /tmp:x", "absolute"),
        ("--mount type=volume,src=/tmp,dst=/x", "volume"),
        ("--mount type=bind,src=/tmp", "target"),
        ("--tmpfs x", "absolute"),
        ("--tmpfs /x:uid=5", "uid=5"),
        ("--tmpfs /x;/y", ";"),
        ("-p 80:", "''"),
        ("-p 127.0.0.1:80", "127.0.0.1"),
        ("-p [::1]:80", "1]"),
        ("-p 0:80", "'0'"),
        ("-p 65536:80", "65536"),
        ("-p 1-3:1-2", "3 ports"),
        ("-p 1-9999:1-9999", "at most"),
        ("-p 8080:80/icmp", "protocol"),
        ("-p 8080:80 --network none", "--network none"),
        ("--network host", "virtual machine"),
        ("--network container:x", "virtual machine"),
        ("--ulimit nofile=6:5", "soft"),
        ("--ulimit nofile=99999999", "1048576"),
        ("--ulimit files=5", "files"),
        ("--ulimit nofile", "nofile"),
        ("--add-host db", "NAME:ADDRESS"),
        ("--add-host db:nowhere", "IP address"),
        ("--entrypoint= image", "--entrypoint"),
        ("--entrypoint [1] image", "--entrypoint"),
        ("--annotation name", "KEY=VALUE"),
        ("--annotation =value", "KEY=VALUE"),
        ("--annotation clearpod.io/memory=5", "clearpod.io/memory-mib"),
        ("--annotation clearpod.io/unheard-of=5", "known are"),
        ("--annotation clearpod.io/emptydir=guest", "kubelet"),
        ("--annotation clearpod.io/memory-mib=96 --vm-memory 96m", "--vm-memory"),
        ("--annotation clearpod.io/kernel=stock --vm-kernel stock", "--vm-kernel"),
        ("--annotation clearpod.io/tmpfs=/x --read-only", "--read-only"),
        ("--annotation clearpod.io/ulimits=core=x", "core=x"),
        ("--annotation clearpod.io/networks=a --network none", "--network none"),
        ("--annotation a=\udcff", "UTF-8"),
        ("--name \udcff", "--name"),
        ("-w /\udcff", "--workdir"),
        ("-v /tmp:/\udcff", "--volume"),
        ("-e \udcff=1", "--env"),
        ("image echo \udcff", "UTF-8"),
    ],
)
def test_a_wrong_value_is_named_at_once(argv: str, sentence: str) -> None:
    assert sentence in refused(*argv.split())


@pytest.mark.parametrize("argv", ["--ipc host x", "--pid=host", "-c 512", "--security-opt seccomp=unconfined x"])
def test_what_makes_no_sense_in_a_vm_is_refused_with_the_reason(argv: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="125"):
        asked(*argv.split())
    sentence = capsys.readouterr().err
    assert sentence.count("\n") == 1 and argv.split()[0].partition("=")[0] in sentence


@pytest.mark.parametrize(
    ("annotation", "noun"),
    [
        ("clearpod.io/snapshot=web", "--detach"),
        ("clearpod.io/suspend=manual", "--detach"),
        ("clearpod.io/forkable=true", "--detach"),
        ("clearpod.io/fork-of=web", "--detach"),
        ("clearpod.io/vcpus=many", "whole number"),
        ("clearpod.io/allow-spoofing=yes", "true or false"),
        ("clearpod.io/scratch-mib=1", "at least"),
    ],
)
def test_an_annotation_that_a_pod_in_the_foreground_can_not_have_is_refused(annotation: str, noun: str) -> None:
    with pytest.raises(PodError, match=noun):
        command.planned(Config(), asked("--annotation", annotation))


def test_an_annotation_counts_for_the_pod_in_the_foreground() -> None:
    words = "vcpus=1 memory-mib=96 scratch-mib=32 kernel=mine template=none forkable=false".split()
    pod = command.planned(Config(), asked(*(f"--annotation=clearpod.io/{word}" for word in words))).pod
    assert (pod.vcpus, pod.memory_mib, pod.scratch_mib, pod.kernel, pod.boots) == (1, 96, 32, "mine", True)


def test_the_pod_has_what_its_container_may_take_and_is_not_bound_by_the_policy() -> None:
    pod = command.planned(Config(), asked("-m", "64m", "--cpus", "0.5")).pod
    assert (pod.memory_mib, pod.vcpus, pod.online_vcpus, pod.limit_bytes) == (128 + 64, 1, 0, 64 * MIB)
    size = memory_mib()[0] // 2
    pod = command.planned(Config(), asked("--vm-memory", f"{size}m", "--profile", "systemd")).pod
    assert (pod.memory_mib, pod.profile) == (size, "systemd")


@pytest.mark.parametrize("name", ["", "\x1b[31mx", "../../x", "a b", "-a", ".a", "a/b", "é", "a\n", "a" * 254])
def test_a_name_that_is_none_is_refused_and_not_repeated_raw(name: str) -> None:
    said = refused(f"--name={name}", "image")
    assert "--name" in said and said.isprintable() and len(said) < 300


def test_names_as_podman_has_them_and_an_image_without_one() -> None:
    for name in ("a", "9", "A_b.c-d", "x" * 253):
        assert asked("--name", name, "image").sandbox.metadata.name == name
    assert asked("image").sandbox.metadata.name.startswith("run-")
    assert "empty" in refused("")
