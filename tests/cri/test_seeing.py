# SPDX-License-Identifier: Apache-2.0
"""Commands that show pods, as a user calls them, against a daemon with fake guests."""

import asyncio
import contextlib
import json
import os
import pty
import signal
import socket
import sys
import termios
from subprocess import PIPE
from xml.etree import ElementTree

import pytest

from cri.cli import daemon, shown
from cri.cli.parser import FAULT
from cri.cli.run.exec import PID
from cri.pb import runtime_pb2 as pb
from cri.policy import DEBUG, Policy, Rule
from cri.store import history
from stage1.errors import PodError
from tests.fakes.command import CHECKOUT

from .command_rig import Command, command, verdict
from .conftest import World


@pytest.fixture
def clearpod(world: World, capfd: pytest.CaptureFixture[str]) -> Command:
    """The command with the world's configuration."""
    return command(world, capfd)


async def test_ps_shows_pods_with_their_containers(world: World, clearpod: Command) -> None:
    async with world.daemon() as cri:
        pod = await cri.pod()
        one = await cri.container(pod, "sleep", "1000")
        await cri("StartContainer", container_id=one)
        two = await cri.container(pod, "false", name="done")
        await cri("StartContainer", container_id=two)
        await cri.ended(two)
        out = (await clearpod("ps")).out
        assert "default/web" in out and pod[:13] in out and one[:13] in out and "running" in out
        assert "done" not in out
        assert "exited (1, Error)" in (await clearpod("ps", "-a")).out
        assert (await clearpod("ps", "-q")).out.split() == [pod]
        (result,) = json.loads((await clearpod("ps", "-a", "--json")).out)
        assert (result["id"], result["state"]) == (pod, "ready")
        assert [(c["name"], c["state"]) for c in result["containers"]] == [("c", "running"), ("done", "exited")]
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
        assert (await clearpod("ps", "-aq")).out == ""


async def test_ps_shows_published_ports(world: World, clearpod: Command) -> None:
    ports = [pb.PortMapping(container_port=80, host_port=38080), pb.PortMapping(container_port=53, protocol=pb.UDP)]
    async with world.daemon() as cri:
        pod = await cri.pod(port_mappings=ports)
        assert "0.0.0.0:38080->80/tcp" in (await clearpod("ps")).out
        ((port,),) = (one["ports"] for one in json.loads((await clearpod("ps", "--json")).out))
        assert port == {"hostIp": "", "hostPort": 38080, "containerPort": 80, "protocol": "tcp"}
        await cri("RemovePodSandbox", pod_sandbox_id=pod)


async def test_why_names_the_exit_the_command_and_the_end_of_the_vm(world: World, clearpod: Command) -> None:
    async with world.daemon() as cri:
        pod = await cri.pod()
        assert "nothing went wrong" in (await clearpod("why", "web")).out
        one = await cri.container(pod, "sh", "-c", "exit 7")
        await cri("StartContainer", container_id=one)
        await cri.ended(one)
        assert "exit code 7" in (await clearpod("why", "default/web")).out
        live = cri.node.pods.get(pod)
        assert live.vm is not None
        os.kill(live.vm.pid, signal.SIGKILL)
        await live.gone.wait()
        assert "virtual machine" in verdict(await clearpod("why", pod[:10], "--json"))
    async with world.daemon() as cri:
        assert "virtual machine" in verdict(await clearpod("why", "uid-web", "--json"))
        await cri("RemovePodSandbox", pod_sandbox_id=pod)


async def test_why_explains_a_sandbox_that_never_started(world: World, clearpod: Command) -> None:
    async with world.daemon() as cri:
        await cri.refused("RunPodSandbox", config=cri.sandbox("ghost"), runtime_handler="unknown")
    async with world.daemon() as cri:
        for word in ("ghost", "default/ghost", "uid-ghost", "gho"):
            assert "unknown" in verdict(await clearpod("why", word, "--json"))
        assert "did not start" in (await clearpod("why", "ghost")).out
        assert "nothing of the start" in (await clearpod("timeline", "ghost")).out
        pod = await cri.pod("ghost")
        assert "earlier tries" in (await clearpod("why", "ghost")).out
        await cri("RemovePodSandbox", pod_sandbox_id=pod)


async def test_the_timeline_is_drawn_in_three_ways(world: World, clearpod: Command) -> None:
    odd = {"metadata": pb.PodSandboxMetadata(name="<i>&", namespace="a", uid="u")}
    async with world.daemon() as cri:
        pod = await cri.pod("x", **odd)
        one = await cri.container(pod, "true")
        await cri("StartContainer", container_id=one)
        plain = (await clearpod("timeline", pod)).out
        assert all(word in plain for word in ("network", "hypervisor", "create c", "ready after"))
        picture = ElementTree.fromstring((await clearpod("timeline", pod, "--svg")).out)
        texts = [element.text or "" for element in picture.iter("{http://www.w3.org/2000/svg}text")]
        assert any("<i>&" in text for text in texts) and "network" in texts
        html = (await clearpod("timeline", pod, "--html")).out
        assert "<i>" not in html and "&lt;i&gt;" in html and "src=" not in html and "href=" not in html
        await cri("RemovePodSandbox", pod_sandbox_id=pod)


async def test_a_name_that_matches_no_pod_or_several_is_an_error_of_one_sentence(
    world: World, clearpod: Command
) -> None:
    async with world.daemon() as cri:
        pods = [await cri.pod(name) for name in ("web-1", "web-2", "web")]
        cases = {"nobody": 4, "web-": 2, "": 2, "web": 0, "default/web": 0, "web-1": 0, "default/": 2}
        for word, code in cases.items():
            ended = await clearpod("why", word)
            assert (ended.code, ended.err.count("\n")) == (code, int(code != 0)), (word, ended.err)
        assert "default/web-1" in (await clearpod("why", "web-")).err
        for pod in pods:
            await cri("RemovePodSandbox", pod_sandbox_id=pod)


async def test_top_has_what_pods_take(world: World, clearpod: Command) -> None:
    async with world.daemon() as cri:
        pod = await cri.pod()
        one = await cri.container(pod, "sleep", "1000")
        await cri("StartContainer", container_id=one)
        seen = json.loads((await clearpod("top", "--once", "--json")).out)
        assert (seen["sum"]["pods"], seen["sum"]["containers"], seen["pods"][0]["id"]) == (1, 1, pod)
        assert seen["pods"][0]["vmmBytes"] > 0 and seen["pods"][0]["bootMs"] > 0
        plain = (await clearpod("top", "--once")).out
        assert "default/web" in plain and "\x1b" not in plain
        assert (await clearpod("top", "--interval", "0")).code == 2
        await cri("RemovePodSandbox", pod_sandbox_id=pod)


async def test_a_reader_that_goes_away_and_an_interrupt_are_no_traceback(world: World, clearpod: Command) -> None:
    argv = [sys.executable, "-m", "cri", "top", "--config", f"{world.root}/config.toml", "--interval", "0.1"]
    async with world.daemon():
        for is_interrupted, code in ((False, 141), (True, 130)):
            one = await asyncio.create_subprocess_exec(*argv, cwd=CHECKOUT, stdout=PIPE, stderr=PIPE)
            assert one.stdout is not None and one.stderr is not None
            assert b"0 pods" in await one.stdout.readline()
            if is_interrupted:
                one.send_signal(signal.SIGINT)
            else:
                one.stdout._transport.close()  # type: ignore[attr-defined]
            assert (await one.wait(), await one.stderr.read()) == (code, b"")


def test_a_missing_permission_is_reported_with_what_to_do() -> None:
    def refused(probe: socket.socket, path: str) -> None:
        raise PermissionError(13, "Permission denied")

    with pytest.raises(PodError, match="sudo"):
        daemon._require("/run/x.sock", refused)


@pytest.mark.parametrize("columns", [1, 10, 40, 0])
def test_a_table_fits_into_its_terminal(columns: int) -> None:
    rows = [("NAME", "IMAGE"), ("web\x1b[2J", "registry.example/" + "x" * 99), ("y", "")]
    lines = shown.table(rows, columns).splitlines()
    assert len(lines) == 3 and not any("\x1b" in line for line in lines)
    assert max(map(len, lines)) <= (columns or 1000)


@pytest.mark.parametrize(
    "command", [["ps"], ["why", "x"], ["timeline", "x"], ["top"], ["logs", "x"], ["exec", "x", "y"]]
)
async def test_without_a_daemon_a_command_reports_it(world: World, clearpod: Command, command: list[str]) -> None:
    ended = await clearpod(*command)
    code = FAULT if command[0] == "exec" else 10
    assert (ended.code, ended.err.count("\n")) == (code, 1)
    assert "clearpod serve" in ended.err
    os.makedirs(world.config.run_dir)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(world.config.socket_path)
    assert (await clearpod(*command)).code == code


async def test_logs_show_each_stream_and_can_be_bounded(world: World, clearpod: Command) -> None:
    async with world.daemon() as cri:
        pod = await cri.pod(log_directory=f"{world.root}/logs")
        one = await cri.container(pod, "sh", "-c", "for n in 1 2 3; do echo line $n; done; echo bad >&2; printf end")
        await cri("StartContainer", container_id=one)
        await cri.ended(one)
        assert (await clearpod("logs", "web")) == (0, "line 1\nline 2\nline 3\nend", "bad\n")
        assert (await clearpod("logs", one, "-f", "--tail", "2")).out.endswith("end")
        assert (await clearpod("logs", "web", "--tail", "0")) == (0, "", "")
        assert (await clearpod("logs", "web", "--since", "1h")).out.startswith("line 1")
        assert (await clearpod("logs", "web", "--since", "2999-01-01T00:00:00Z")).out == ""
        assert (await clearpod("logs", "web", "-t")).out.startswith("20")
        for arguments in (["--since", "yesterday"], ["--tail", "-1"]):
            assert (await clearpod("logs", "web", *arguments)).code == 2
        os.unlink(f"{world.root}/logs/c.log")
        assert (await clearpod("logs", "web")).code == 4
        await cri("RemovePodSandbox", pod_sandbox_id=pod)


async def test_a_followed_log_goes_on_after_a_rotation(
    world: World, clearpod: Command, capfd: pytest.CaptureFixture[str]
) -> None:
    async with world.daemon() as cri:
        pod = await cri.pod(log_directory=f"{world.root}/logs")
        go = world.root / "go"
        script = f"echo before; while [ ! -e {go} ]; do sleep 0.05; done; echo after"
        one = await cri.container(pod, "sh", "-c", script)
        await cri("StartContainer", container_id=one)
        following, shown = asyncio.ensure_future(clearpod("logs", "web", "-f")), ""
        while "before\n" not in shown:
            await asyncio.sleep(0.01)
            shown += capfd.readouterr().out
        os.rename(f"{world.root}/logs/c.log", f"{world.root}/logs/c.log.20260101-000000")
        await cri("ReopenContainerLog", container_id=one)
        go.touch()
        assert shown + (await following).out == "before\nafter\n"
        assert (await clearpod("logs", "web")).out == "before\nafter\n"
        await cri("RemovePodSandbox", pod_sandbox_id=pod)


async def test_exec_has_the_exit_code_and_the_streams(world: World, clearpod: Command) -> None:
    async with world.daemon() as cri:
        pod = await cri.pod()
        one = await cri.container(pod, "sleep", "1000")
        await cri("StartContainer", container_id=one)
        assert (await clearpod("exec", "web", "sh", "-c", "echo out; echo err >&2; exit 5")) == (5, "out\n", "err\n")
        assert (await clearpod("exec", "web", "--", "echo", "-n", "x")).out == "x"
        assert (await clearpod("exec", "web")).code == FAULT
        assert (await clearpod("exec", "-c", "none", "web", "true")).code == FAULT
        await cri("StopContainer", container_id=one)
        assert (await clearpod("exec", "web", "true")).code == FAULT
        await cri("RemovePodSandbox", pod_sandbox_id=pod)


async def test_exec_gives_its_terminal_to_the_program(world: World, clearpod: Command) -> None:
    ours, its = pty.openpty()
    argv = [sys.executable, "-m", "cri", "exec", "--config", f"{world.root}/config.toml", "-it", "web", "sh"]
    async with world.daemon() as cri:
        pod = await cri.pod()
        one = await cri.container(pod, "sleep", "1000")
        await cri("StartContainer", container_id=one)
        shell = await asyncio.create_subprocess_exec(*argv, cwd=CHECKOUT, stdin=its, stdout=its, stderr=its)
        os.close(its)
        while termios.tcgetattr(ours)[3] & termios.ECHO:  # what is typed before the program has it is dropped
            await asyncio.sleep(0.02)
        os.write(ours, b"stty size; echo $((40 + 2))-; exit 4\n")
        assert b"42-" in await asyncio.to_thread(_all, ours)
        assert await shell.wait() == 4
        await cri("RemovePodSandbox", pod_sandbox_id=pod)


def _all(terminal: int) -> bytes:
    """What is written to a terminal until nobody has it any more."""
    data = b""
    with contextlib.suppress(OSError):
        while piece := os.read(terminal, 65536):
            data += piece
    os.close(terminal)
    return data


async def test_inspect_and_stats_are_about_pods_and_containers(world: World, clearpod: Command) -> None:
    async with world.daemon() as cri:
        pod = await cri.pod()
        one = await cri.container(pod, "sleep", "1000")
        await cri("StartContainer", container_id=one)
        assert json.loads((await clearpod("inspect", "web")).out)["info"]["history"]
        for arguments in (["web", "-c", "c"], [one]):
            assert json.loads((await clearpod("inspect", *arguments)).out)["status"]["id"] == one
        assert (await clearpod("inspect", "web", "-c", "other")).code == 4
        assert (await clearpod("inspect", "nobody")).code == 4
        (result,) = json.loads((await clearpod("stats", "web", "--json")).out)
        assert [result["id"], result["containers"][0]["id"]] == [pod, one]
        assert "default/web" in (await clearpod("stats")).out
        await cri("RemovePodSandbox", pod_sandbox_id=pod)


async def test_the_console_of_a_pod_has_nothing_that_controls_a_terminal(world: World, clearpod: Command) -> None:
    async with world.daemon() as cri:
        pod = await cri.pod()
        live = cri.node.pods.get(pod)
        assert live.vm is not None
        with open(live.vm.console, "ab") as console:  # noqa: ASYNC230 - the fake guest's
            console.write(b"one\n\x1b[2Jtwo\xff\r\nthree")
        assert (await clearpod("console", "web", "--tail", "3")).out == "one\n\ufffd[2Jtwo\ufffd\nthree\n"
        following = asyncio.ensure_future(clearpod("console", "web", "-f"))
        os.kill(live.vm.pid, signal.SIGKILL)
        assert (await following).out.endswith("three\n")
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
        assert (await clearpod("console", "web")).code == 4


async def test_debug_is_refused_unless_the_policy_allows_it(world: World, clearpod: Command) -> None:
    async with world.daemon() as cri:
        pod = await cri.pod()
        await cri.container(pod, "sleep", "1000")
        ended = await clearpod("debug", "web", "echo", "hello")
        assert (ended.code, ended.out) == (2, "") and "policy.debug" in ended.err
        allowed = Policy(rules=(Rule(namespaces=("default",), debug=True),))
        cri.node.config = cri.node.config.but(policy=allowed)
        assert await clearpod("debug", "web", "sh", "-c", "echo hello; exit 3") == (3, "hello\n", "")
        assert len((await cri("ListContainers")).containers) == 1
        what = [one for one in cri.node.pods.get(pod).status.history if one.subject.startswith("debug-")]
        assert history.STARTED in [one.what for one in what]
        await cri("RemovePodSandbox", pod_sandbox_id=pod)


async def test_a_debug_container_whose_maker_was_killed_is_removed_by_the_next(world: World, clearpod: Command) -> None:
    labels, annotations = {PID: str(2**22 + 1)}, {DEBUG: "true"}
    world.config = world.config.but(policy=Policy(debug=True))
    async with world.daemon() as cri:
        pod = await cri.pod()
        await cri.container(pod, "sleep", "1000", name="debug-old", labels=labels, annotations=annotations)
        assert (await clearpod("debug", "web", "true")).code == 6
        assert list((await cri("ListContainers")).containers) == []
        await cri("RemovePodSandbox", pod_sandbox_id=pod)


async def test_events_are_sent_until_the_daemon_ends(world: World, clearpod: Command) -> None:
    async with world.daemon() as cri:
        listening = asyncio.ensure_future(clearpod("events", "--json"))
        while not cri.node.events._subscriptions:
            await asyncio.sleep(0.01)
        pod = await cri.pod()
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
    events = [json.loads(line) for line in (await listening).out.splitlines()]
    assert [one["event"] for one in events] == ["created", "started", "ended", "removed"]
    assert events[0]["pod"] == "default/web"
