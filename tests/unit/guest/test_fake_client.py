# SPDX-License-Identifier: Apache-2.0
"""The blocking client against a fake guest that is late, mute, slow, cut off or dead."""

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from stage1.errors import AgentFailed, KernelError, TimedOut, VmFailed
from stage1.guest import messages as m
from stage1.guest.connect import unix_factory
from stage1.guest.link import DataSeen, EventSeen
from stage1.vm import qemu
from stage1.vm.spec import SerialLink, Share, VmSpec
from tests.fakes.guest import FakeGuest, FakeVmm, Faults
from tests.fakes.guest_client import GuestClient, accept_factory
from tests.fakes.patience import PATIENCE

KEY = os.urandom(16)


@pytest.fixture
def faults() -> Faults:
    """What goes wrong: nothing, until a test says so."""
    return Faults()


@pytest.fixture
def guest(tmp_path: Path, faults: Faults) -> Iterator[FakeGuest]:
    """A guest without a VM."""
    (tmp_path / "containers/c").mkdir(parents=True)
    with FakeGuest(str(tmp_path / "agent.sock"), str(tmp_path), faults) as guest:
        yield guest


def client_of(tmp_path: Path) -> GuestClient:
    return GuestClient(unix_factory(str(tmp_path / "agent.sock")), KEY)


def run(client: GuestClient, tmp_path: Path, argv: list[str]) -> tuple[bytes, int]:
    """Run a container; return its output and exit code."""
    document = {"process": {"args": argv, "env": ["PATH=/usr/bin:/bin"]}}
    (tmp_path / "containers/c/config.json").write_text(json.dumps(document))
    client.open_stream(2)
    client.call(m.Create("c", "image", True, m.Stdio(stdout=2)))
    client.call(m.Start("c"))
    output = b""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        for item in client.pump(1):
            client.done(item)
            if isinstance(item, DataSeen):
                output += item.data
            elif isinstance(item, EventSeen):
                return output, item.event.exit_code
    raise AssertionError("the container did not end")


def test_a_socket_that_appears_a_little_later_is_waited_for(tmp_path: Path) -> None:
    guest: list[FakeGuest] = []

    def later() -> None:
        time.sleep(0.1)
        guest.append(FakeGuest(str(tmp_path / "agent.sock"), str(tmp_path)).start())

    thread = threading.Thread(target=later)
    thread.start()
    with client_of(tmp_path) as client:
        assert client.hello(5).kernel == "fake"
    thread.join()
    guest[0].stop()


def test_a_socket_that_never_appears_is_given_up(tmp_path: Path) -> None:
    with client_of(tmp_path) as client, pytest.raises(VmFailed, match=r"nothing within 0\.05 s"):
        client.hello(0.05)


@pytest.mark.parametrize("path", ["file/agent.sock", "x" * 300])
def test_a_socket_that_can_not_be_is_reported_at_once(tmp_path: Path, path: str) -> None:
    (tmp_path / "file").write_text("")
    with GuestClient(unix_factory(f"{tmp_path}/{path}"), KEY) as client, pytest.raises(KernelError, match=path):
        client.hello(30)


def test_a_guest_that_never_sends_hello_times_out(guest: FakeGuest, faults: Faults, tmp_path: Path) -> None:
    faults.silent = True
    with client_of(tmp_path) as client, pytest.raises(VmFailed, match="said nothing"):
        client.hello(0.1)


def test_a_vm_that_dies_ends_the_wait_for_hello_at_once(guest: FakeGuest, faults: Faults, tmp_path: Path) -> None:
    faults.silent = True
    begin = time.monotonic()
    with client_of(tmp_path) as client, pytest.raises(VmFailed, match="ended"):
        client.hello(30, alive=lambda: time.monotonic() < begin + 0.1)
    assert time.monotonic() - begin < 5 * PATIENCE


def test_a_guest_that_boots_slowly_is_waited_for(guest: FakeGuest, faults: Faults, tmp_path: Path) -> None:
    faults.boot_s = 0.1
    with client_of(tmp_path) as client:
        assert client.hello(5).version == 1


def test_a_request_that_is_not_answered_times_out_and_its_late_answer_is_dropped(
    guest: FakeGuest, faults: Faults, tmp_path: Path
) -> None:
    with client_of(tmp_path) as client:
        client.hello(5)
        faults.reply_delay_s = 0.2
        with pytest.raises(TimedOut, match="List"):
            client.call(m.List(), timeout_s=0.05)
        faults.reply_delay_s = 0
        assert client.call(m.Configure()).code == m.OK
        assert client.pump(0.3) == []


def test_a_refusal_has_the_agents_message(guest: FakeGuest, faults: Faults, tmp_path: Path) -> None:
    faults.refuse[m.Create] = m.Reply(m.FAILED, "mount overlay: No space left on device")
    with client_of(tmp_path) as client:
        client.hello(5)
        with pytest.raises(AgentFailed, match="No space left"):
            client.call(m.Create("c"))


@pytest.mark.parametrize("after", [1, 19, 60, 500, 20_000])
def test_a_connection_that_is_cut_in_the_middle_of_a_frame_is_resumed(
    guest: FakeGuest, faults: Faults, tmp_path: Path, after: int
) -> None:
    faults.cut_after_bytes = [after, after, after]
    expected = b"".join(b"%d\n" % n for n in range(1, 20_001))
    with client_of(tmp_path) as client:
        client.hello(5)
        assert run(client, tmp_path, ["seq", "20000"]) == (expected, 0)
    assert faults.cut_after_bytes == []


def test_a_guest_that_dies_during_a_call_is_a_failed_vm(guest: FakeGuest, faults: Faults, tmp_path: Path) -> None:
    faults.die_on = m.List
    with client_of(tmp_path) as client:
        client.hello(5, alive=lambda: not guest.join(0))
        with pytest.raises(VmFailed, match="ended"):
            client.call(m.List(), timeout_s=30)


def test_a_socket_that_was_handed_over_can_not_be_made_again() -> None:
    ours, theirs = socket.socketpair()
    with GuestClient(ours, KEY) as client:
        theirs.close()
        with pytest.raises(VmFailed, match="broke"):
            client.hello(5)


def test_the_guest_may_connect_to_us_instead(tmp_path: Path) -> None:
    # A unix socket stands for vsock: to accept is the same.
    path = str(tmp_path / "host.sock")
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as peer:
        listener.bind(path)
        listener.listen()
        with GuestClient(accept_factory(listener), KEY, 7) as client:
            with pytest.raises(VmFailed):
                client.hello(0.05)
            peer.connect(path)
            with pytest.raises(VmFailed):
                client.hello(0.05)
            assert peer.recv(16) == KEY


def vm_spec(tmp_path: Path) -> VmSpec:
    (tmp_path / "containers/c").mkdir(parents=True)
    return VmSpec(
        name="vm", hypervisor=qemu.HYPERVISOR, binary="/none", run_dir=str(tmp_path), kernel="", initramfs="",
        system_image="", memory_mib=64, vcpus=1, link=SerialLink(str(tmp_path / "agent.sock")),
        shares=(Share("volumes", str(tmp_path), False),),
    )  # fmt: skip


def test_an_instant_vm_sends_hello_within_milliseconds_and_has_a_console(tmp_path: Path) -> None:
    vmm = FakeVmm()
    vm = vmm.start(vm_spec(tmp_path))
    with client_of(tmp_path) as client:
        client.hello(5, alive=vm.alive)
        assert run(client, tmp_path, ["sh", "-c", "echo hello; exit 3"]) == (b"hello\n", 3)
    assert "fake" in vm.console_tail()
    assert vm.alive()
    vmm.stop()
    assert not vm.alive()


def test_killing_the_process_of_an_instant_vm_ends_its_guest_and_the_link(tmp_path: Path) -> None:
    vmm = FakeVmm()
    vm = vmm.start(vm_spec(tmp_path))
    with client_of(tmp_path) as client:
        client.hello(5, alive=vm.alive)
        vm.kill()
        assert vm.wait(5 * PATIENCE)
        assert vmm.guests["vm"].join(5 * PATIENCE)
        with pytest.raises(VmFailed):
            client.call(m.List())
    vmm.stop()
