# SPDX-License-Identifier: Apache-2.0
"""The real agent in a real VM: everything that agent.proto offers, spoken to by the real client."""

import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from stage1.errors import AgentFailed, AlreadyExists, BadRequest, NoCommand, NotFound, VmFailed, WrongState
from stage1.guest.messages import (
    EXITED,
    RUNNING,
    Configure,
    Create,
    Delete,
    Interface,
    List,
    Neighbour,
    Resize,
    Route,
    Shutdown,
    Signal,
    Start,
    Sysctl,
    Update,
)
from tests.fakes.patience import PATIENCE
from tests.vm.agent_machine import MACS, Machine, missing

pytestmark = [
    pytest.mark.vm,
    pytest.mark.timeout(120),
    pytest.mark.skipif(bool(missing()), reason=missing() or "all there"),
]


@pytest.fixture(scope="module")
def machine(hypervisor: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """One configured VM for the tests that leave it usable."""
    vm = Machine(tmp_path_factory.mktemp("agent"), hypervisor=hypervisor)
    vm.client.call(
        Configure(
            hostname="pod-1",
            domainname="example",
            shm_bytes=1 << 20,
            sysctls=(Sysctl("net.ipv4.ip_forward", "1"),),
            interfaces=(Interface("52:54:00:12:34:56", "eth0", 1400, ("10.88.0.5/16", "fd00::5/64")),
                        Interface("52:54:00:12:34:57", "eth1", 1300, ("10.5.5.5/32",))),
            routes=(Route("169.254.1.1/32", "", "eth0"), Route("0.0.0.0/0", "169.254.1.1", "eth0"),
                    Route("0.0.0.0/0", "169.254.2.1", "eth1", 50), Route("::/0", "fe80::1", "eth0", 7),
                    Route("10.6.0.0/16", "", "eth1", 0, 1280, 1200)),
            neighbours=(Neighbour("169.254.1.1", "02:00:00:00:00:01", "eth0"),),
        )
    )  # fmt: skip
    yield vm
    vm.close()


def test_hello_has_the_kernel_and_times(machine: Machine) -> None:
    hello = machine.client.link.hello
    assert hello is not None and hello.kernel and hello.boot_id
    assert 0 < hello.init_ns < hello.ready_ns
    marks = re.findall(r"clearpod\.mark (\w+) (\d+) \d+", machine.console.read_text())
    assert marks == [("pid1", str(hello.init_ns)), ("ready", str(hello.ready_ns))]


def test_the_pod_is_configured_as_asked(machine: Machine) -> None:
    script = "hostname; ip addr show eth0; ip route; ip -6 route; ip neigh; cat /proc/sys/net/ipv4/ip_forward"
    stdio = machine.run("net", ["sh", "-c", script])
    assert machine.exit_of("net").exit_code == 0
    text = machine.output[stdio.stdout].decode()
    assert text.startswith("pod-1\n") and text.endswith("1\n")
    for expected in ("mtu 1400", "10.88.0.5/16", "fd00::5/64", "default via 169.254.1.1 dev eth0",
                     "default via fe80::1", "02:00:00:00:00:01"):  # fmt: skip
        assert expected in text, text
    assert "tentative" not in text.split("fd00::5/64")[1].split("\n")[0]
    with pytest.raises(WrongState):
        machine.client.call(Configure())


def test_routes_keep_their_metric_mtu_and_mss(machine: Machine) -> None:
    stdio = machine.run("routes", ["sh", "-c", "ip addr show eth1; ip route; cat /proc/net/route /proc/net/ipv6_route"])
    assert machine.exit_of("routes").exit_code == 0
    text = machine.output[stdio.stdout].decode()
    assert "mtu 1300" in text and "52:54:00:12:34:57" in text and "inet 10.5.5.5/32" in text
    lines = [" ".join(line.split()) for line in text.splitlines()]
    defaults = [line for line in lines if line.startswith("default ")]
    assert [line.split()[2:5] for line in defaults] == [["169.254.1.1", "dev", "eth0"], ["169.254.2.1", "dev", "eth1"]]
    assert "metric 50" in defaults[1], text
    (route,) = [line.split() for line in lines if line.startswith("eth1 0000060A ")]
    assert route[8] == "1240", "the kernel's table has the MSS and 40"
    default6 = [line.split() for line in lines if line.startswith("0" * 32 + " 00 ") and line.endswith(" eth0")]
    assert "00000007" in [fields[5] for fields in default6], text


@pytest.mark.parametrize("names", [("eth0", "eth1"), ("eth1", "eth0"), ("net1", "eth0")])
def test_a_device_gets_its_name_whatever_the_kernel_called_the_others(
    hypervisor: str, tmp_path: Path, names: tuple[str, str]
) -> None:
    vm = Machine(tmp_path, hypervisor=hypervisor)
    try:
        vm.client.call(Configure(hostname="pod-1", interfaces=tuple(map(Interface, MACS, names))))
        stdio = vm.run("names", ["ip", "-o", "link"])
        assert vm.exit_of("names").exit_code == 0
        lines = vm.output[stdio.stdout].decode().splitlines()
        for name, mac in zip(names, MACS, strict=True):
            assert [mac in line for line in lines if f": {name}: " in line] == [True], lines
    finally:
        vm.close()


def test_a_warmed_up_guest_gets_its_identity_once(hypervisor: str, tmp_path: Path) -> None:
    vm = Machine(tmp_path, hypervisor=hypervisor)
    taken = "02:00:00:00:00:2a"
    try:
        devices = (Interface(MACS[0], "eth0", 1400, ("169.254.0.2/24", "fe80::2/64"), MACS[0]),)
        routes = (Route("0.0.0.0/0", "169.254.0.1", "eth0"), Route("::/0", "fe80::1", "eth0"))
        warm_up = Configure("waits", interfaces=devices, routes=routes, entropy=bytes(range(64)), warm_up=True)
        for _ in range(3):
            vm.client.call(warm_up)
        with pytest.raises(WrongState):
            vm.client.call(Configure(first_id=1000, ids=1000))
        with pytest.raises(NotFound, match=taken):
            vm.client.call(Configure("early", interfaces=(Interface(taken, "eth0"),)))
        real = (Interface(taken, "eth0", 1300, ("10.88.0.5/16",), MACS[0]),)
        vm.client.call(Configure("pod-1", interfaces=real, entropy=b"x", unix_ns=10**18, shm_bytes=8 << 20))
        for late in (warm_up, Configure("pod-2")):
            with pytest.raises(WrongState):
                vm.client.call(late)
        script = "hostname; date +%s; ip addr; ip route; ip -6 route"
        stdio = vm.run("is", ["sh", "-c", script])
        assert vm.exit_of("is").exit_code == 0
        text = vm.output[stdio.stdout].decode()
        name, date, *_ = text.splitlines()
        assert name == "pod-1" and 0 <= int(date) - 10**9 < 300, text
        assert f"link/ether {taken}" in text and "inet 10.88.0.5/16" in text and "mtu 1300" in text, text
        for forgotten in ("169.254", "fe80::2/", "default", MACS[0]):
            assert forgotten not in text, text
    finally:
        vm.close()


def test_output_is_separate_and_the_exit_follows_it(machine: Machine) -> None:
    stdio = machine.run("out", ["sh", "-c", "echo to-out; echo to-err >&2; exit 7"])
    event = machine.exit_of("out")
    assert (event.exit_code, event.oom_killed) == (7, False)
    assert abs(event.unix_ns / 1e9 - time.time()) < 60
    assert machine.output[stdio.stdout] == b"to-out\n" and machine.output[stdio.stderr] == b"to-err\n"
    assert {stdio.stdout, stdio.stderr} <= machine.ended
    listed = {c.id: c for c in machine.client.call(List()).containers}["out"]
    assert (listed.state, listed.exit_code, listed.stdio) == (EXITED, 7, stdio)
    machine.client.call(Delete(id="out"))
    assert "out" not in {c.id for c in machine.client.call(List()).containers}
    with pytest.raises(NotFound):
        machine.client.call(Delete(id="out"))


def test_a_deleted_containers_name_can_be_used_again_and_its_files_are_gone(machine: Machine) -> None:
    script = "ls /left-over 2>&1; echo x > /left-over; ls /bin/cat"
    for tmpfs in (False, False, True, True):
        stdio = machine.run("again", ["sh", "-c", script], tmpfs=tmpfs)
        assert machine.exit_of("again").exit_code == 0
        assert b"No such file" in machine.output[stdio.stdout]
        machine.client.call(Delete(id="again"))
        machine.exits.clear()
        for file in (machine.volumes / "containers" / "again").iterdir():
            file.unlink()
        (machine.volumes / "containers" / "again").rmdir()


def test_megabytes_go_through_without_a_byte_lost(machine: Machine) -> None:
    script = "i=0; while [ $i -lt 20000 ]; do echo line $i of the long output; i=$((i+1)); done"
    stdio = machine.run("big", ["sh", "-c", script])
    assert machine.exit_of("big").exit_code == 0
    assert machine.output[stdio.stdout] == b"".join(b"line %d of the long output\n" % i for i in range(20000))


def test_stdin_arrives_with_back_pressure_and_ends(machine: Machine) -> None:
    stdio = machine.run("cat", ["sh", "-c", "sleep 1; cat"], stdin=True)
    data = bytes(range(256)) * 1200
    sent = 0
    while sent < len(data):
        sent += machine.client.send_data(stdio.stdin, data[sent:], end=True)
        machine.pump(lambda: machine.client.link.credit_of(stdio.stdin) > 0)
    assert machine.exit_of("cat").exit_code == 0
    assert machine.output[stdio.stdout] == data


def test_signals_end_a_container_with_128_plus_their_number(machine: Machine) -> None:
    machine.run("victim", ["sleep", "1000"])
    listed = {c.id: c for c in machine.client.call(List()).containers}["victim"]
    assert listed.state == RUNNING and listed.pid > 1 and listed.started_ns > 0
    machine.client.call(Signal(container="victim", signal=signal.SIGKILL))
    assert machine.exit_of("victim").exit_code == 137
    with pytest.raises(WrongState):
        machine.client.call(Signal(container="victim", signal=signal.SIGTERM))
    machine.run("family", ["sh", "-c", "trap 'exit 3' TERM; sleep 1000 & wait"])
    machine.client.call(Signal(container="family", signal=signal.SIGTERM, all=True))
    assert machine.exit_of("family").exit_code in (3, 143)


def test_exec_has_its_own_streams_and_exit(machine: Machine) -> None:
    machine.run("host", ["sleep", "1000"])
    stdio = machine.exec("host", 1, ["sh", "-c", "echo inside; exit 9"])
    assert machine.exit_of("host", 1).exit_code == 9
    assert machine.output[stdio.stdout] == b"inside\n"
    stdio = machine.exec("host", 2, ["cat"], stdin=True)
    machine.client.send_data(stdio.stdin, b"echo", end=True)
    assert machine.exit_of("host", 2).exit_code == 0 and machine.output[stdio.stdout] == b"echo"
    with pytest.raises(NoCommand, match="nope"):
        machine.exec("host", 3, ["nope"])
    machine.exec("host", 3, ["sh", "-c", "sleep 1000 & sleep 1000"])
    machine.client.call(Signal(container="host", exec=3, signal=signal.SIGKILL, all=True))
    assert machine.exit_of("host", 3).exit_code == 137


def test_a_background_child_of_an_exec_does_not_delay_its_exit(machine: Machine) -> None:
    stdio = machine.exec("host", 4, ["sh", "-c", "sleep 1000 & echo started; exit 4"])
    began = time.monotonic()
    assert machine.exit_of("host", 4).exit_code == 4
    assert time.monotonic() - began < 5 * PATIENCE
    assert machine.output[stdio.stdout] == b"started\n" and stdio.stdout in machine.ended


def test_a_terminal_has_its_size_and_can_be_resized(machine: Machine) -> None:
    stdio = machine.run("tty", ["sh", "-c", "stty size; read x; stty size; echo got $x"], tty=True)
    machine.pump(lambda: b"24 80" in machine.output.get(stdio.stdout, b""))
    machine.client.call(Resize(container="tty", width=132, height=50))
    machine.client.send_data(stdio.stdin, b"word\r")
    assert machine.exit_of("tty").exit_code == 0
    assert b"50 132" in machine.output[stdio.stdout] and b"got word" in machine.output[stdio.stdout]
    machine.run("sized", ["sleep", "1000"])
    # crun sets the size of an exec's terminal while the process starts, which may be quicker; stty, which prints
    # nothing then, ends with 0.
    script = 'until [ "$(stty size 2>/dev/null)" ]; do sleep 0.1; done; stty size'
    stdio = machine.exec("sized", 1, ["sh", "-c", script], tty=True)
    assert machine.exit_of("sized", 1).exit_code == 0 and b"24 80" in machine.output[stdio.stdout]


def test_the_oom_killer_is_noticed(machine: Machine) -> None:
    machine.run("oom", ["dd", "if=/dev/zero", "of=/dev/null", "bs=64M", "count=1"], memory=16 << 20)
    event = machine.exit_of("oom")
    assert (event.exit_code, event.oom_killed) == (137, True)


def test_limits_can_be_updated(machine: Machine) -> None:
    (machine.volumes / "containers" / "host" / "resources.json").write_text('{"pids": {"limit": 77}}')
    machine.client.call(Update(id="host", resources="resources.json"))
    with pytest.raises(AgentFailed, match="crun update"):
        machine.client.call(Update(id="host", resources="absent.json"))


@pytest.mark.parametrize(
    ("argv", "text"),
    [(["nope"], "nope"), (["/bin/nope"], "nope"), (["/etc/plain"], "plain")],
)
def test_a_command_that_cant_run_is_distinguished(machine: Machine, argv: list[str], text: str) -> None:
    (machine.layers / "image" / "etc" / "plain").write_text("not executable")
    name = f"bad-{text}-{len(argv[0])}"
    stdio = machine.create(name, argv)
    with pytest.raises(NoCommand, match=text):
        machine.client.call(Start(id=name))
    assert stdio.stdout not in machine.output
    machine.client.call(Delete(id=name))


def test_senseless_requests_get_the_right_code(machine: Machine) -> None:
    call = machine.client.call
    with pytest.raises(BadRequest):
        call(Create(id="../x", lower="image"))
    with pytest.raises(BadRequest):
        call(Create(id="x", lower="../image"))
    with pytest.raises(AgentFailed, match="no image"):
        call(Create(id="x", lower="absent"))
    with pytest.raises(NotFound):
        call(Start(id="absent"))
    with pytest.raises(AlreadyExists):
        call(Create(id="host", lower="image"))
    with pytest.raises(WrongState):
        call(Start(id="host"))
    call(Create(id="x", lower="image"))
    call(Delete(id="x"))


def test_file_capabilities_are_put_back(machine: Machine) -> None:
    # cap_net_raw=ep, VFS_CAP_REVISION_2
    (machine.layers / "image.filecaps").write_text("0100000200200000000000000000000000000000 /bin/busybox\n")
    stdio = machine.run("caps", ["cat", "/proc/self/status"], uid=1000)
    assert machine.exit_of("caps").exit_code == 0
    assert b"CapEff:\t0000000000002000\n" in machine.output[stdio.stdout]


def test_file_capabilities_that_cant_be_set_fail_the_container_and_leave_nothing(machine: Machine) -> None:
    (machine.layers / "bare").mkdir()
    (machine.layers / "bare.filecaps").write_text("01 /bin/absent\n")
    with pytest.raises(AgentFailed, match="absent"):
        machine.client.call(Create(id="bare", lower="bare"))
    machine.client.call(Create(id="bare", lower="image"))


def test_a_running_container_can_be_deleted_with_its_execs(machine: Machine) -> None:
    machine.exec("host", 6, ["sleep", "1000"])
    machine.client.call(Delete(id="host"))
    assert machine.exit_of("host").exit_code == 137
    assert machine.exit_of("host", 6).exit_code == 137


def test_a_cut_link_loses_and_repeats_nothing(machine: Machine) -> None:
    script = "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done"
    stdio = machine.run("cut", ["sh", "-c", script])
    for _ in range(5):
        seen = len(machine.output.get(stdio.stdout, b""))
        machine.pump(lambda seen=seen: len(machine.output.get(stdio.stdout, b"")) > seen)  # type: ignore[misc]
        machine.client._detach()  # the cut; the client connects again by itself
    assert machine.exit_of("cut").exit_code == 0
    assert machine.output[stdio.stdout] == b"".join(b"line %d\n" % i for i in range(20000))


def test_a_new_host_process_finds_containers_and_their_output(machine: Machine) -> None:
    stdio = machine.run("kept", ["sh", "-c", "echo before; sleep 1; echo after; exit 5"])
    machine.run("other", ["sleep", "1000"])
    machine.exec("other", 7, ["sleep", "1000"])
    machine.client.close()
    machine.output.clear()
    machine.client = machine.connect(2, stdio.stdout)
    states = {c.id: c for c in machine.client.call(List()).containers}
    assert states["kept"].stdio == stdio and states["other"].state == RUNNING
    assert machine.exit_of("other", 7).exit_code == 137, "execs of the old host are killed"
    assert machine.exit_of("kept").exit_code == 5
    assert machine.output[stdio.stdout].endswith(b"after\n")


def test_shutdown_ends_the_vm(machine: Machine) -> None:
    machine.client.call(Shutdown())
    assert machine.vm.wait(10 * PATIENCE) == 0


def test_a_boot_that_fails_reports_why_and_ends(hypervisor: str, tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(VmFailed):
        Machine(tmp_path, "clearpod.link=nonsense", hypervisor=hypervisor)
    console = (tmp_path / "console.log").read_text()
    assert "clearpod-agent: the kernel parameter 'clearpod.link=nonsense' is invalid" in console
    assert time.monotonic() - began < 30 * PATIENCE
