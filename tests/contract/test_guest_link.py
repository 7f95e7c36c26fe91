# SPDX-License-Identifier: Apache-2.0
"""What host and guest promise each other, against every guest that there is: the fake and the real agent."""

import time

import pytest

from stage1.errors import AlreadyExists, NoCommand, NotFound, WrongState
from stage1.guest import messages as m
from tests.contract.guest_host import COUNT, COUNTED, TIMEOUT_S, Host, lives
from tests.contract.guest_rigs import Rig


def test_the_hello_identifies_the_guest(host: Host) -> None:
    assert host.hello.version == 1
    assert host.hello.boot_id != 0
    assert host.hello.kernel


def test_an_unknown_container_is_refused(host: Host) -> None:
    for op in (m.Start("nobody"), m.Signal("nobody", 0, 15), m.Delete("nobody"), m.Exec("nobody", 1, "exec-1.json")):
        with pytest.raises(NotFound, match="nobody"):
            host.client.call(op)


def test_output_errors_and_exit_code_come_apart(host: Host) -> None:
    stdio = host.run("c1", ["sh", "-c", "echo out; echo err >&2; exit 7"])
    assert host.exit_of("c1").exit_code == 7
    assert bytes(host.data[stdio.stdout]) == b"out\n"
    assert bytes(host.data[stdio.stderr]) == b"err\n"
    assert {stdio.stdout, stdio.stderr} <= host.ended, "streams end before the exit is told"


def test_standard_input_is_echoed_until_its_end(host: Host) -> None:
    stdio = host.run("c1", ["cat"], stdin=1)
    assert host.client.send_data(stdio.stdin, b"hello ") == 6
    assert host.client.send_data(stdio.stdin, b"world", end=True) == 5
    assert host.exit_of("c1").exit_code == 0
    assert bytes(host.data[stdio.stdout]) == b"hello world"


def test_a_mebibyte_of_input_comes_back_as_it_was(host: Host) -> None:
    stdio = host.run("c1", ["cat"], stdin=1)
    sent = 0
    while sent < len(COUNTED):
        sent += host.client.send_data(stdio.stdin, COUNTED[sent:], end=True)
        host.take(timeout_s=0.01)
    assert host.exit_of("c1").exit_code == 0
    assert bytes(host.data[stdio.stdout]) == COUNTED


def test_an_exec_runs_while_its_container_runs(host: Host, rig: Rig) -> None:
    host.run("c1", ["sleep", "1000"])
    rig.process("c1", "exec-5.json", ["sh", "-c", "echo from exec; exit 3"])
    stdio = host.streams(50)
    assert host.client.call(m.Exec("c1", 5, "exec-5.json", stdio)).pid > 0
    assert host.exit_of("c1", 5).exit_code == 3
    assert bytes(host.data[stdio.stdout]) == b"from exec\n"
    assert ("c1", 0) not in host.exits


@pytest.mark.parametrize("argv", [["no-such-command"], ["/no/such/command"], ["/etc"]])
def test_a_missing_command_is_reported_as_such(host: Host, argv: list[str]) -> None:
    host.create("c1", argv)
    with pytest.raises(NoCommand, match=argv[0]):
        host.client.call(m.Start("c1"))


def test_an_exec_whose_command_is_missing_is_reported_as_such(host: Host, rig: Rig) -> None:
    host.run("c1", ["sleep", "1000"])
    rig.process("c1", "exec-1.json", ["no-such-command"])
    with pytest.raises(NoCommand, match="no-such-command"):
        host.client.call(m.Exec("c1", 1, "exec-1.json", host.streams(50)))


def test_an_exec_with_more_than_a_kernel_takes_fails_alone(host: Host, rig: Rig) -> None:
    host.run("c1", ["sleep", "1000"])
    for number, argv, code in ((1, ["true", "x" * 300_000], 126), (2, ["true"], 0)):
        rig.process("c1", f"exec-{number}.json", argv)
        host.client.call(m.Exec("c1", number, f"exec-{number}.json", host.streams(10 * number)))
        assert host.exit_of("c1", number).exit_code == code


@pytest.mark.parametrize("number", [9, 15])
def test_a_signal_ends_a_container_with_128_and_its_number(host: Host, number: int) -> None:
    # PID 1 of a namespace only sees signals that it handles: a shell that traps stands for a program that does.
    host.run("c1", ["sh", "-c", "trap 'exit 143' TERM; echo ready; while :; do sleep 0.05; done"])
    host.until(lambda: any(host.data.values()))
    host.client.call(m.Signal("c1", 0, number))
    assert host.exit_of("c1").exit_code == 128 + number
    with pytest.raises(WrongState):
        host.client.call(m.Signal("c1", 0, number))


def test_a_terminal_joins_both_outputs_and_can_be_resized(host: Host) -> None:
    stdio = host.run("c1", ["sh", "-c", "read go; stty size; echo err >&2"], stdin=1, tty=True)
    host.client.call(m.Resize("c1", 0, 132, 50))
    host.client.send_data(stdio.stdin, b"go\n")
    assert host.exit_of("c1").exit_code == 0
    assert b"50 132\r\n" in host.data[stdio.stdout]
    assert b"err\r\n" in host.data[stdio.stdout]


def test_the_end_of_a_terminals_input_ends_nothing(host: Host) -> None:
    stdio = host.run("c1", ["sh", "-c", "read go; echo got $go; read more; echo never"], stdin=1, tty=True)
    host.client.send_data(stdio.stdin, b"one\n", end=True)
    host.until(lambda: b"got one\r\n" in host.data[stdio.stdout])
    host.take(timeout_s=0.5)
    assert b"never" not in host.data[stdio.stdout] and ("c1", 0) not in host.exits
    host.client.call(m.Signal("c1", 0, 9, True))
    assert host.exit_of("c1").exit_code == 137


def test_a_reader_that_pauses_slows_the_process_and_loses_nothing(host: Host) -> None:
    stdio = host.run("c1", COUNT)
    for _ in range(3):
        host.take(acknowledge=False, timeout_s=0.2)
    assert 0 < len(host.data[stdio.stdout]) <= 65536, "more than the credit came, or nothing"
    with pytest.raises(WrongState):
        host.client.call(m.Start("c1"))  # other things go on
    # What was taken without saying so is said now.
    host.client.link.consumed(stdio.stdout, len(host.data[stdio.stdout]))
    host.client.link.acknowledge(host.last_seq)
    assert host.exit_of("c1").exit_code == 0
    assert bytes(host.data[stdio.stdout]) == COUNTED


def test_a_link_that_is_cut_while_output_flows_resumes_without_loss_or_double(host: Host) -> None:
    stdio = host.run("c1", COUNT)
    cuts = 0
    while ("c1", 0) not in host.exits:
        if cuts < 5 and len(host.data[stdio.stdout]) > cuts * 150_000:
            host.client.drop()
            cuts += 1
        host.take(timeout_s=0.5)
    assert cuts == 5
    assert host.exits["c1", 0].exit_code == 0
    assert bytes(host.data[stdio.stdout]) == COUNTED


def test_a_request_that_was_cut_off_is_answered_once(host: Host) -> None:
    stdio = host.create("c1", ["sh", "-c", "echo once"])
    host.client.drop()
    assert host.client.call(m.Start("c1")).pid > 0
    host.exit_of("c1")
    assert bytes(host.data[stdio.stdout]) == b"once\n"


def test_another_host_process_gets_what_was_not_acknowledged_and_the_containers_live(host: Host, rig: Rig) -> None:
    first = host.run("c1", ["sh", "-c", "echo one; read go; echo two; exit 4"], stdin=1)
    host.until(lambda: bytes(host.data[first.stdout]) == b"one\n", acknowledge=False)
    host.client.close()

    second = Host(rig, host.key, streams=(first.stdin, first.stdout, first.stderr))
    assert second.hello.boot_id == host.hello.boot_id
    result = {c.id: c for c in second.client.call(m.List()).containers}
    assert result["c1"].state == m.RUNNING
    assert result["c1"].stdio is not None
    assert result["c1"].stdio[:3] == first[:3]
    second.client.send_data(first.stdin, b"go\n")
    assert second.exit_of("c1").exit_code == 4
    assert bytes(second.data[first.stdout]) == b"one\ntwo\n"
    second.client.close()


def test_what_was_acknowledged_does_not_come_again(host: Host, rig: Rig) -> None:
    first = host.run("c1", ["sh", "-c", "echo one; read go; echo two"], stdin=1)
    host.until(lambda: bytes(host.data[first.stdout]) == b"one\n")
    host.client.call(m.List())  # the acknowledgement went before this
    host.client.close()
    second = Host(rig, host.key, streams=(first.stdin, first.stdout, first.stderr))
    second.client.send_data(first.stdin, b"go\n")
    second.exit_of("c1")
    assert bytes(second.data[first.stdout]) == b"two\n"
    second.client.close()


def test_a_container_that_ends_without_a_host_is_reported_later(host: Host, rig: Rig) -> None:
    first = host.run("c1", ["sh", "-c", "sleep 0.3; seq 1000000 1013106; exit 5"])
    host.client.close()
    time.sleep(0.6)
    second = Host(rig, host.key, streams=(first.stdout, first.stderr))
    assert second.exit_of("c1").exit_code == 5
    assert bytes(second.data[first.stdout]) == COUNTED[: 13107 * 8]
    second.client.close()


def test_an_exec_of_another_host_process_is_killed_and_its_container_is_not(host: Host, rig: Rig) -> None:
    host.run("c1", ["sleep", "1000"])
    rig.process("c1", "exec-9.json", ["sleep", "1001"])
    host.client.call(m.Exec("c1", 9, "exec-9.json", host.streams(50)))
    host.client.close()
    second = Host(rig, host.key)
    assert not lives(second, "c1", 9)
    assert second.client.call(m.List()).containers[0].state == m.RUNNING
    second.client.close()


def test_the_list_has_states_and_exit_codes(host: Host) -> None:
    assert host.client.call(m.List()).containers == ()
    host.create("made", ["true"])
    host.run("runs", ["sleep", "1000"])
    host.run("ended", ["sh", "-c", "exit 9"])
    host.exit_of("ended")
    result = {c.id: c for c in host.client.call(m.List()).containers}
    assert {name: c.state for name, c in result.items()} == {
        "made": m.CREATED,
        "runs": m.RUNNING,
        "ended": m.EXITED,
    }
    assert result["ended"].exit_code == 9
    assert 0 < result["ended"].started_ns <= result["ended"].finished_ns
    assert result["runs"].pid > 0


def test_a_deleted_container_is_gone_and_its_name_is_free(host: Host) -> None:
    host.run("c1", ["sleep", "1000"])
    with pytest.raises(AlreadyExists):
        host.client.call(m.Create("c1", host.rig.lower, True))
    host.client.call(m.Delete("c1"))
    assert host.client.call(m.List()).containers == ()
    host.client.call(m.Create("c1", host.rig.lower, True))


def test_statistics_of_containers_and_guest_are_answered(host: Host) -> None:
    host.create("created", ["sleep", "1000"])
    host.run("spins", ["sh", "-c", "while :; do :; done"])
    second = first = host.client.call(m.Stats(), TIMEOUT_S)
    deadline = time.monotonic() + TIMEOUT_S
    while second.stats[0].cpu.usage_us <= first.stats[0].cpu.usage_us and time.monotonic() < deadline:
        time.sleep(0.05)
        second = host.client.call(m.Stats(disk=True, files=True), TIMEOUT_S)
    assert first.pod and second.pod
    assert second.pod.next == 0
    assert 0 < first.pod.at_ns < second.pod.at_ns
    assert 0 < second.pod.memory.usage <= second.pod.memory.limit
    (one,), (two,) = first.stats, second.stats
    assert (one.id, two.id) == ("spins", "spins"), "a container that was not started has no numbers"
    assert one.cpu.usage_us < two.cpu.usage_us
    assert one.at_ns < two.at_ns
    assert two.memory.usage > 0
    assert (one.files, one.disk_inodes) == (0, 0), "they were not asked for"
    assert two.files >= 3
    assert (two.threads, two.processes) == (1, 1)


def test_a_guest_without_a_window_takes_no_images_into_it(host: Host) -> None:
    with pytest.raises(WrongState, match="no window"):
        host.client.call(m.MountImage("image", 0, 4096))
    with pytest.raises(NotFound, match="no image 'image'"):
        host.client.call(m.UnmountImage("image"))


def test_a_guest_without_a_plan_has_no_apps(host: Host) -> None:
    with pytest.raises(WrongState, match="one"):
        host.client.call(m.Launch("one"))
    for name in ("one", ""):
        with pytest.raises(WrongState, match="no apps"):
            host.client.call(m.Halt(name, 1000))


def test_a_shutdown_is_answered_and_ends_the_guest(host: Host, rig: Rig) -> None:
    host.run("c1", ["sleep", "1000"])
    host.client.call(m.Shutdown())
    deadline = time.monotonic() + TIMEOUT_S
    while rig.alive():
        assert time.monotonic() < deadline
        time.sleep(0.02)
