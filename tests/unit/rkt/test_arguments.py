# SPDX-License-Identifier: Apache-2.0
"""What rkt puts on the command lines of a stage1's programs, and what it never should."""

from collections.abc import Callable

import pytest

from stage1.errors import BadRequest
from stage1.rkt import arguments
from stage1.rkt.arguments import AppOptions, AttachOptions, EnterOptions, GcOptions, RunOptions, StopOptions

UUID = "6733c088-a507-4694-aabf-eda9d3f3f5c0"


@pytest.mark.parametrize(
    "line, expected",
    [
        ("", RunOptions(UUID)),
        ("--net=default --local-config=/etc/rkt", RunOptions(UUID)),
        ("--net default", RunOptions(UUID)),
        ("--net=", RunOptions(UUID)),
        ("--net=b,a:IP=1.2.3.4;X=y", RunOptions(UUID, net="b,a:IP=1.2.3.4;X=y")),
        ("--net=none --hostname=h.example", RunOptions(UUID, net="none", hostname="h.example")),
        ("--debug", RunOptions(UUID, debug=True)),
        ("-debug", RunOptions(UUID, debug=True)),
        ("--debug=true --interactive=1", RunOptions(UUID, debug=True, interactive=True)),
        ("--debug --debug=false", RunOptions(UUID)),
        ("--private-users=65536:65536", RunOptions(UUID, private_users="65536:65536")),
        ("--mds-token=0123456789abcdef", RunOptions(UUID, mds_token="0123456789abcdef")),
        ("--local-config /x/y", RunOptions(UUID, local_config="/x/y")),
        ("--dns-conf-mode=resolv=host,hosts=stage0", RunOptions(UUID, resolv_mode="host", hosts_mode="stage0")),
        ("--dns-conf-mode=resolv=none", RunOptions(UUID, resolv_mode="none")),
        ("--dns-conf-mode=hosts=host", RunOptions(UUID, hosts_mode="host")),
        (
            "--disable-capabilities-restriction --disable-paths --disable-seccomp",
            RunOptions(UUID, all_capabilities=True, all_paths=True, no_seccomp=True),
        ),
        ("--mutable", RunOptions(UUID, mutable=True)),
        ("--mutable=false", RunOptions(UUID)),
        ("--ipc=private", RunOptions(UUID, ipc="private")),
        ("--", RunOptions(UUID)),
    ],
)
def test_run(line: str, expected: RunOptions) -> None:
    assert arguments.run([*line.split(), UUID]) == expected


def test_an_upper_case_uuid_is_the_same() -> None:
    assert arguments.run([UUID.upper()]).uuid == UUID


def test_what_is_not_known_is_passed_over_with_a_warning() -> None:
    result = arguments.run(["--later=1", "--newer", "odd", "--debug", UUID])
    assert result.debug and result.uuid == UUID
    assert result.warnings == (
        "the flag --later=1 is not known and is ignored",
        "the flag --newer is not known and is ignored",
        "the argument 'odd' is not known and is ignored",
    )


@pytest.mark.parametrize(
    "line, sentence",
    [
        ([], "uuid, .*none"),
        (["--net", UUID], "uuid, .*none"),
        (["--hostname"], "--hostname .*value"),
        (["6733c088"], "'6733c088' .*uuid"),
        (["../../x"], "'../../x' .*uuid"),
        (["--debug=maybe", UUID], "--debug=maybe: .*true or false"),
        (["--debug=", UUID], "--debug=: .*true or false"),
        (
            ["--dns-conf-mode=resolv=odd", UUID],
            "--dns-conf-mode=.*'resolv=odd' .*resolv= .*default, host, stage0, none.* hosts= .*default, host, stage0$",
        ),
        (
            ["--dns-conf-mode=hosts=none", UUID],
            "--dns-conf-mode=.*'hosts=none' .* hosts= .*default, host, stage0$",
        ),
    ],
)
def test_run_refuses(line: list[str], sentence: str) -> None:
    with pytest.raises(BadRequest, match=sentence):
        arguments.run(line)


@pytest.mark.parametrize(
    "line, expected",
    [
        ("--pid=7 --appname=web -- ls -l --pid=8", EnterOptions(("ls", "-l", "--pid=8"), "web", 7)),
        ("--pid=7 -- sh", EnterOptions(("sh",), "", 7)),
        ("--appname web -- sh", EnterOptions(("sh",), "web", 0)),
        ("--pid=7 --appname=web -- -- x", EnterOptions(("--", "x"), "web", 7)),
    ],
)
def test_enter(line: str, expected: EnterOptions) -> None:
    assert arguments.enter(line.split()) == expected


def test_enter_keeps_every_byte_of_the_command() -> None:
    command = ("sh", "-c", 'echo "$1"\n\'', "", "a b")
    assert arguments.enter(["--pid=1", "--appname=a", "--", *command]).command == command


@pytest.mark.parametrize(
    "line, sentence",
    [
        ("--pid=7 --appname=a --", "command .* --$"),
        ("--pid=x -- sh", "--pid=x .*process id"),
        (
            "--appname=../a -- sh",
            "'../a' .*app's name",
        ),
    ],
)
def test_enter_refuses(line: str, sentence: str) -> None:
    with pytest.raises(BadRequest, match=sentence):
        arguments.enter(line.split())


def test_stop_and_gc() -> None:
    assert arguments.stop([UUID]) == StopOptions(UUID)
    assert arguments.stop(["--force", UUID]) == StopOptions(UUID, force=True)
    assert arguments.gc([UUID]) == GcOptions(UUID)
    assert arguments.gc(["--debug", "--local-config", "/l", UUID]) == GcOptions(UUID, True, "/l")
    assert arguments.gc(["--local-config=/l", UUID]) == GcOptions(UUID, False, "/l")


def test_apps() -> None:
    assert arguments.app(["--debug=false", f"--uuid={UUID}", "--app=a-b"]) == AppOptions("a-b", UUID)
    assert arguments.app(["--debug=true", "--app=a"]) == AppOptions("a", debug=True)
    assert arguments.app(["--app=a", "odd"]).warnings == ("the argument 'odd' is not known and is ignored",)


@pytest.mark.parametrize("line", [[], ["--app="], ["--app=A"], ["--app=a--b"], ["--app=a/b"]])
def test_apps_have_names(line: list[str]) -> None:
    with pytest.raises(BadRequest, match="app's name"):
        arguments.app(line)


def test_attach() -> None:
    custom = "--action=custom-attach --tty-in=false --tty-out=false --stdin=true --stdout=false --stderr=true"
    assert arguments.attach(["--action=list", "--app=a", "--debug=false"]) == AttachOptions("a", "list")
    assert arguments.attach(["--action=auto-attach", "--app=a"]) == AttachOptions("a")
    assert arguments.attach([*custom.split(), "--app=a"]) == AttachOptions("a", "custom-attach", ("stdin", "stderr"))


@pytest.mark.parametrize(
    "line, sentence",
    [
        ("--action=look --app=a", "--action=look .*; .*list, auto-attach and custom-attach"),
        (
            "--action=custom-attach --app=a",
            "--action=custom-attach .*--tty-in, --tty-out, --stdin, --stdout, --stderr",
        ),
    ],
)
def test_attach_refuses(line: str, sentence: str) -> None:
    with pytest.raises(BadRequest, match=sentence):
        arguments.attach(line.split())


@pytest.mark.parametrize("read", [arguments.stop, arguments.gc, arguments.run])
def test_the_uuid_is_the_last_argument(read: Callable[[list[str]], RunOptions | StopOptions | GcOptions]) -> None:
    assert read(["x", UUID]).uuid == UUID
    with pytest.raises(BadRequest):
        read([UUID, "x"])
