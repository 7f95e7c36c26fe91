# SPDX-License-Identifier: Apache-2.0
"""Connections to ports of the pod's loopback, the same for the fake guest and the real agent."""

import socket
import time

import pytest

from stage1.errors import AgentFailed, AlreadyExists, BadRequest, NotFound
from stage1.guest import messages as m
from tests.contract.guest_host import COUNTED, TIMEOUT_S, Host
from tests.contract.guest_rigs import Rig


def _free_port() -> int:
    """A port that is free on the host, where the fake guest's are; in a real one all are."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _echo_server(port: int) -> list[str]:
    """A command that serves one connection."""
    return ["busybox", "nc", "-l", "-p", str(port), "-e", "cat"]


def _connect(host: Host, number: int, port: int) -> m.Connect:
    """Connect, as soon as there is a listener."""
    op = m.Connect(number, port, 1000 + number, 2000 + number)
    host.client.open_stream(op.input)
    host.client.open_stream(op.output)
    host.data[op.output] = bytearray()
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        try:
            host.client.call(op)
            return op
        except AgentFailed as error:
            if "refused" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def test_a_port_of_the_pods_loopback_is_reached_and_ends_are_passed_on_both_ways(host: Host) -> None:
    port = _free_port()
    host.run("c1", _echo_server(port))
    op, sent = _connect(host, 7, port), 0
    with pytest.raises(AlreadyExists):
        host.client.call(op)
    while sent < len(COUNTED):
        sent += host.client.send_data(op.input, COUNTED[sent:], end=True)
        host.take(timeout_s=0.01)
    host.until(lambda: op.output in host.ended)
    assert bytes(host.data[op.output]) == COUNTED
    host.client.call(m.Disconnect(7))


def test_a_port_without_listener_is_refused_and_nonsense_is_invalid(host: Host) -> None:
    with pytest.raises(AgentFailed, match=r"port .*loopback.*Connection refused"):
        host.client.call(m.Connect(1, _free_port(), 90, 91))
    for bad in (
        m.Connect(0, 80, 90, 91),
        m.Connect(1, 0, 90, 91),
        m.Connect(1, 65536, 90, 91),
        m.Connect(1, 80, 0, 91),
    ):
        with pytest.raises(BadRequest):
            host.client.call(bad)
    host.client.call(m.Disconnect(1))
    with pytest.raises(NotFound):
        host.client.call(m.Signal("", 1, 9))


def test_a_connection_that_is_cut_or_whose_host_is_gone_ends_for_the_server(host: Host, rig: Rig) -> None:
    port = _free_port()
    host.run("c1", _echo_server(port))
    _connect(host, 7, port)
    host.client.call(m.Disconnect(7))
    assert host.exit_of("c1").exit_code == 0
    host.run("c2", _echo_server(port))
    _connect(host, 8, port)
    host.client.close()
    second = Host(rig, host.key)
    second.until(lambda: second.client.call(m.List()).containers[1].state == m.EXITED)
    second.client.close()
