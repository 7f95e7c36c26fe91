# SPDX-License-Identifier: Apache-2.0
"""A pod directory as values for the engine."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from stage1.errors import BadRequest, NotFound, PodError, Unsupported
from stage1.pod import oci
from stage1.pod.model import Device, Limits, Mount, Port, User
from stage1.pod.network import PodNetwork
from stage1.rkt import loader, make, sizing
from stage1.rkt.arguments import RunOptions
from stage1.rkt.loader import RktPod
from stage1.rkt.streams import Streams
from tests.unit.rkt.pod_dir import DOCKER, UUID, Document, app, lay, root_of

OPTIONS = RunOptions(UUID)
PORT = {"name": "p", "protocol": "tcp", "port": 80}
HOST_PORT = {"ports": [{"name": "p", "hostPort": 8080}]}


def read(place: Path, *apps: Document, options: RunOptions = OPTIONS, **manifest: Any) -> RktPod:
    return loader.read_pod(lay(place, *apps, **manifest), options)


def isolator(name: str, value: Any) -> Document:
    return {"name": name, "value": value}


def test_a_plain_pod(tmp_path: Path) -> None:
    result = read(tmp_path, app(exec=["sh", "-c", "x"]))
    assert result.pod._replace(vcpus=1) == loader.Pod(
        id=UUID, name=f"rkt-{UUID}", namespace="rkt", uid=UUID, hostname=f"rkt-{UUID}", memory_mib=512
    )
    assert result.pod.vcpus == os.cpu_count() and not result.warnings and not result.mutable
    (one,) = result.apps
    assert (
        one.root == str(root_of(str(tmp_path / UUID)))
        and one.streams == Streams()
        and one.containers == (one.container,)
    )
    assert one.container.process.argv == ("/bin/sh", "-c", "x") and one.container.process.user == User()
    assert one.container.devices == (Device("/dev/net/tun", "/dev/net/tun"),) and one.container.limits == Limits()


def test_limits_ports_and_sysctls(tmp_path: Path) -> None:
    isolators = [
        isolator("resource/memory", {"limit": "64Mi"}),
        isolator("resource/cpu", {"limit": "1500m"}),
        isolator("os/linux/cpu-shares", 512),
        isolator("os/linux/oom-score-adj", 10),
        isolator("os/unix/sysctl", {"net.core.somaxconn": "5"}),
        isolator("resource/block-iops", {"limit": "1"}),
    ]
    http = {"name": "http", "protocol": "tcp", "port": 8080, "count": 2}
    ports = [
        {"name": "http", "hostPort": 1080, "hostIP": "1.2.3.4"},
        {"name": "d", "hostPort": 53, "podPort": {**http, "protocol": "UDP", "port": 5, "count": 1}},
    ]
    result = read(tmp_path, app(isolators=isolators, ports=[http]), ports=ports)
    limits = Limits(memory=64 << 20, cpu_shares=512, cpu_quota_us=150_000, cpu_period_us=100_000)
    assert result.apps[0].container.limits == limits and result.apps[0].container.oom_score_adj == 10
    assert result.pod.memory_mib == 128 and result.pod.vcpus == min(2, os.cpu_count() or 1)
    assert result.pod.sysctls == (("net.core.somaxconn", "5"),)
    expected = (Port(8080, 1080, "tcp", "1.2.3.4"), Port(8081, 1081, "tcp", "1.2.3.4"), Port(5, 53, "udp"))
    assert result.pod.ports == expected and "block-iops" in result.warnings[0]


def test_a_little_cpu_is_what_the_kernel_can_give(tmp_path: Path) -> None:
    result = read(tmp_path, app(isolators=[isolator("resource/cpu", {"limit": "1m"})]))
    assert result.apps[0].container.limits.cpu_quota_us == 1000


def test_every_byte_of_arguments_and_environment_arrives(tmp_path: Path) -> None:
    odd = ["/bin/sh", "a\nb", "'\"$HOME`\\", "", "\u00e9\x01", " -- "]
    result = read(tmp_path, app(exec=odd, environment=[{"name": "A", "value": "x\ny=\"z'"}]))
    container = result.apps[0].container
    document = json.loads(json.dumps(oci.config(result.pod, container)))
    assert document["process"]["args"] == odd and "A=x\ny=\"z'" in document["process"]["env"]
    assert len(document["process"]["env"]) == len(container.process.env) and "HOSTNAME" not in str(
        container.process.env
    )


def test_handlers_are_containers_of_their_own(tmp_path: Path) -> None:
    events = [{"name": "post-stop", "exec": ["env", "b"]}, {"name": "pre-start", "exec": ["/bin/sh", "-c", "a"]}]
    volumes = [{"name": "v", "kind": "host", "source": "/tmp"}]
    mounts = {"mounts": [{"volume": "v", "path": "/m"}], "readOnlyRootFS": True}
    asked = [isolator("os/linux/capabilities-retain-set", {"set": []}), isolator("os/linux/no-new-privileges", True)]
    entry = app(entry=mounts, eventHandlers=events, user="web", group="www", isolators=asked)
    (one,) = read(tmp_path, entry, volumes=volumes).apps
    before, after = one.pre_start, one.post_stop
    assert before and after and one.containers == (before, one.container, after)
    assert (before.id, before.process.argv) == ("one.pre-start", ("/bin/sh", "-c", "a"))
    assert (after.id, after.process.argv) == ("one.post-stop", ("/usr/bin/env", "b"))
    assert one.container.process.user == User(33, 55) and one.container.security.no_new_privs
    for handler in (before, after):
        assert handler.process.user == User() and handler.mounts == one.container.mounts == (Mount("/tmp", "/m"),)
        assert handler.security.add_capabilities == ("CAP_ALL",) and not handler.security.no_new_privs
        assert handler.process.env == one.container.process.env and handler.security.read_only_root


@pytest.mark.parametrize(
    "terminal, tty, term", [(None, False, None), ("xterm-256color", True, "xterm-256color"), ("", True, "vt100")]
)
def test_interactive(tmp_path: Path, terminal: str | None, tty: bool, term: str | None) -> None:
    pod = lay(tmp_path, app())
    given = None if terminal is None else loader.Terminal(terminal, (100, 25))
    result = loader.read_pod(pod, OPTIONS._replace(interactive=True), terminal=given).apps[0]
    assert result.streams == Streams("interactive", "interactive", "interactive")
    process = result.container.process
    assert process.size == ((100, 25) if tty else (80, 24))
    assert process.tty == tty and process.stdin and dict(one.split("=", 1) for one in process.env).get("TERM") == term


def test_a_terminal_to_attach_to(tmp_path: Path) -> None:
    note = [{"name": "coreos.com/rkt/stage2/stdout", "value": "tty"}]
    process = read(tmp_path, app(entry={"annotations": note})).apps[0].container.process
    assert process.tty and not process.stdin


def test_only_a_pod_with_empty_volumes_has_a_disk_of_the_size_that_it_asks_for(tmp_path: Path) -> None:
    assert read(tmp_path / "a", app()).pod.scratch_mib == 0
    mounts = {"mounts": [{"volume": "w", "path": "/m"}]}
    for number, (text, expected) in enumerate({"64": 64, "16": 16}.items()):
        note = [{"name": "clearpod.io/scratch-mib", "value": text}]
        volumes = [{"name": "w", "kind": "empty"}]
        result = read(tmp_path / f"b{number}", app("one", mounts), volumes=volumes, annotations=note)
        assert result.pod.scratch_mib == expected
    with pytest.raises(BadRequest, match=r"at least 16, .*15"):
        sizing.scratch_mib({"clearpod.io/scratch-mib": "15"})


def test_a_root_is_on_the_disk_where_the_app_or_the_pod_sets_it(tmp_path: Path) -> None:
    note = [{"name": "clearpod.io/root", "value": "disk"}]
    events = [{"name": "pre-start", "exec": ["sh"]}]
    result = read(tmp_path / "a", app("one", {"annotations": note}, eventHandlers=events), app("two"))
    roots = [[oci.config(result.pod, one)["root"]["path"] for one in each.containers] for each in result.apps]
    assert [{path.rsplit("/", 2)[1] for path in paths} for paths in roots] == [{"one.root"}, {"two"}]
    assert result.pod.scratch_mib == sizing.SCRATCH_MIB
    result = read(tmp_path / "b", app("one"), annotations=note)
    assert result.apps[0].container.root_of and result.pod.scratch_mib
    with pytest.raises(BadRequest, match="can be disk"):
        sizing.is_root_on_disk({"clearpod.io/root": "memory"}, where="the app")


def test_an_app_or_its_pod_may_ask_for_a_boot(tmp_path: Path) -> None:
    note = [{"name": "clearpod.io/template", "value": "none"}]
    pods = (
        read(tmp_path / "1", app()),
        read(tmp_path / "2", app(), annotations=note),
        read(tmp_path / "3", app(), app("two", {"annotations": note})),
    )
    assert [pod.pod.boots for pod in pods] == [False, True, True]
    with pytest.raises(BadRequest, match=r"clearpod\.io/template.*never"):
        read(tmp_path / "4", app(), annotations=[{**note[0], "value": "never"}])


def test_a_sandbox_starts_empty_and_gets_its_apps_one_by_one(tmp_path: Path) -> None:
    options = OPTIONS._replace(mutable=True, hostname="h")
    result = read(tmp_path / "a", options=options)
    assert result.mutable and result.apps == () and result.pod.memory_mib == 512 and result.pod.hostname == "h"
    assert result.pod.scratch_mib == sizing.SCRATCH_MIB, "an app that comes later may have empty volumes"
    pod = lay(tmp_path / "b", app("one", exec=[]), app("two"))
    assert [one.name for one in loader.read_pod(pod, options, only="two").apps] == ["two"]
    pod = lay(tmp_path / "c", app("one", ports=[PORT]), app("two"), **HOST_PORT)
    assert loader.read_pod(pod, options, only="two").pod.ports == ()


def test_empty_volumes_are_made_and_tmp_too(tmp_path: Path) -> None:
    points = [{"name": "d", "path": "/etc"}]
    volumes = [{"name": "w", "kind": "empty", "mode": "0700"}]
    mounts = {"mounts": [{"volume": "w", "path": "/m"}]}
    apps = [app("one", mounts, mountPoints=points), app("two", mounts)]
    result = read(tmp_path, *apps, volumes=volumes, image={"annotations": DOCKER})
    names = [os.path.basename(one.path) for one in result.empty_volumes]
    assert names == ["w", "one-d"] and len(result.warnings) == 1 and result.pod.scratch_mib == sizing.SCRATCH_MIB
    for _ in range(2):
        make.make(result)
    shared = tmp_path / UUID / "sharedVolumes"
    assert sorted(os.listdir(shared)) == ["one-d", "w"] and sorted(os.listdir(shared / "one-d")) == ["group", "passwd"]
    assert os.stat(f"{result.apps[1].root}/tmp").st_mode & 0o7777 == 0o1777


DNS = PodNetwork(dns_servers=("1.1.1.1",))


def test_the_network_settles_the_rest(tmp_path: Path) -> None:
    options = OPTIONS._replace(mds_token="t0", hostname="h")
    pod = lay(tmp_path, app("one"), app("two", eventHandlers=[{"name": "pre-start", "exec": ["sh"]}]))
    (root_of(pod, "two") / "etc" / "hosts").write_text("")
    result = loader.with_network(
        loader.read_pod(pod, options), pod, options=options, network=DNS, host_ip="172.16.28.1"
    )
    files = dict(result.files)
    assert list(files) == ["hosts", "hostname", "resolv.conf"] and files["hostname"] == "h\n"
    assert "localhost h" in files["hosts"] and files["resolv.conf"] == "nameserver 1.1.1.1\n"
    one, two = result.apps
    assert one.container.pod_files == ("hosts", "hostname", "resolv.conf")
    assert two.pre_start and two.container.pod_files == two.pre_start.pod_files == ("hostname", "resolv.conf")
    for container in (one.container, two.container, two.pre_start):
        assert "AC_METADATA_URL=http://172.16.28.1:18112/t0" in container.process.env
        places = [mount["destination"] for mount in oci.config(result.pod, container)["mounts"]]
        assert [f"/etc/{name}" for name in container.pod_files] == [one for one in places if one.startswith("/etc/")]


def test_without_network_and_token_the_image_keeps_its_files(tmp_path: Path) -> None:
    pod = lay(tmp_path, app())
    result = loader.with_network(loader.read_pod(pod, OPTIONS), pod, options=OPTIONS, network=None)
    assert [name for name, _ in result.files] == ["hosts", "hostname"]
    assert "AC_METADATA_URL" not in str(result.apps[0].container.process.env)


def test_hosts_of_the_host_replace_the_images(tmp_path: Path) -> None:
    options = OPTIONS._replace(hosts_mode="host")
    pod = lay(tmp_path, app())
    (root_of(pod) / "etc" / "hosts").write_text("")
    result = loader.with_network(loader.read_pod(pod, options), pod, options=options, network=None)
    assert result.apps[0].container.pod_files == ("hosts", "hostname")


def test_warnings_are_all_there(tmp_path: Path) -> None:
    calls = isolator("os/linux/seccomp-retain-set", {"set": ["@rkt/default-whitelist", "chown32"], "errno": "EPERM"})
    pod_wide = [isolator("resource/memory", {"limit": "1G"})]
    options = OPTIONS._replace(warnings=("a flag",))
    result = read(
        tmp_path, app(isolators=[calls], mountPoints=[{"name": "d", "path": "/d"}]), options=options, isolators=pod_wide
    )
    assert result.warnings == (
        "a flag",
        "isolators of the whole pod are not applied; give them to its apps",
        "app 'one': no volume for the mount point 'd' at /d; it gets an empty one",
        "app 'one': no system calls here, so ignored: chown32",
    )


@pytest.mark.parametrize(
    "options, apps, manifest, kind, sentence",
    [
        ({}, [], {}, BadRequest, "pod manifest .*apps"),
        (
            {},
            [app(f"a{n}") for n in range(65)],
            {},
            BadRequest,
            "65 apps, .*64",
        ),
        (
            {"hostname": "a\nb"},
            [app()],
            {},
            BadRequest,
            "--hostname='a.nb' .*64 letters",
        ),
        (
            {},
            [app(isolators=[isolator("os/unix/sysctl", {"k" * 128: "1"})])],
            {},
            BadRequest,
            f"sysctl '{'k' * 40}' .*long",
        ),
        (
            {},
            [app(isolators=[isolator("os/unix/sysctl", {"": "1"})])],
            {},
            BadRequest,
            "sysctl '' .*name",
        ),
        (
            {},
            [app(isolators=[isolator("os/unix/sysctl", {"k": "v" * 256})])],
            {},
            BadRequest,
            "sysctl 'k' .*long",
        ),
        (
            {},
            [app(isolators=[isolator("os/unix/sysctl", {f"k{n}": "1" for n in range(65)})])],
            {},
            BadRequest,
            "64 sysctls, .*65",
        ),
        (
            {},
            [],
            {"volumes": None, "isolators": None, "ports": None, "annotations": None},
            BadRequest,
            "pod manifest .*apps",
        ),
        (
            {"interactive": True},
            [app("a"), app("b")],
            {},
            BadRequest,
            "--interactive .*one app, .*2",
        ),
        (
            {"private_users": "1:2"},
            [app()],
            {},
            Unsupported,
            "--private-users ",
        ),
        (
            {"ipc": "parent"},
            [app()],
            {},
            Unsupported,
            "--ipc=parent ",
        ),
        ({"ipc": "odd"}, [app()], {}, BadRequest, "--ipc=odd .*auto and private"),
        ({}, [app()], HOST_PORT, BadRequest, "port 8080 .*'p', .*no app"),
        (
            {},
            [app("a", ports=[PORT]), app("b", ports=[PORT])],
            HOST_PORT,
            BadRequest,
            "port 8080 .*'p', .*several apps",
        ),
        (
            {},
            [app(ports=[{**PORT, "count": 2}])],
            {"ports": [{"name": "p", "hostPort": 65535}]},
            BadRequest,
            "2 ports .*beyond 65535",
        ),
        (
            {},
            [app(ports=[{**PORT, "socketActivated": True}])],
            HOST_PORT,
            Unsupported,
            "port 'p' .*socket-activated",
        ),
        (
            {},
            [
                app("a", isolators=[isolator("os/unix/sysctl", {"k": "1"})]),
                app("b", isolators=[isolator("os/unix/sysctl", {"k": "2"})]),
            ],
            {},
            BadRequest,
            "apps .*sysctl k, '1' and '2'",
        ),
        (
            {},
            [app(isolators=[isolator("os/linux/odd", 1)])],
            {},
            BadRequest,
            "app 'one': .*isolator 'os/linux/odd'",
        ),
    ],
)
def test_what_cant_be(
    tmp_path: Path,
    options: dict[str, Any],
    apps: list[Document],
    manifest: Document,
    kind: type[PodError],
    sentence: str,
) -> None:
    with pytest.raises(kind, match=sentence):
        read(tmp_path, *apps, options=OPTIONS._replace(**options), **manifest)


def test_ipc_that_is_private_anyway(tmp_path: Path) -> None:
    for number, ipc in enumerate(("", "auto", "private")):
        assert read(tmp_path / str(number), app(), options=OPTIONS._replace(ipc=ipc)).apps


def test_a_root_that_is_not_there(tmp_path: Path) -> None:
    pod = lay(tmp_path, app())
    root_of(pod).rename(tmp_path / "away")
    with pytest.raises(NotFound, match=r"app 'one': .*root .*prepare"):
        loader.read_pod(pod, OPTIONS)


def test_what_is_no_pod(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no pod manifest"):
        loader.read_pod(str(tmp_path), OPTIONS)
