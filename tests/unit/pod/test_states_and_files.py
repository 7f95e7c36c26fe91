# SPDX-License-Identifier: Apache-2.0
"""State tables and the pod's own files."""

import uuid

import pytest

from stage1.errors import WrongState
from stage1.pod import files, states
from stage1.pod.model import Pod


def test_every_state_that_can_be_reached_survives_the_vms_end():
    for moves in (states.POD_MOVES, states.CONTAINER_MOVES):
        for state in set(moves.values()) - {states.NEW}:
            assert states.move(moves, state, event="vm_exit") in (states.DEAD, states.EXITED)


def test_nothing_leads_back_to_ready_or_running():
    assert [s for (s, _), to in states.POD_MOVES.items() if to == states.READY] == [states.BOOTING]
    assert [s for (s, _), to in states.CONTAINER_MOVES.items() if to == states.RUNNING] == [states.CREATED]


@pytest.mark.parametrize("state", [states.RUNNING, states.EXITED])
def test_a_container_starts_once(state):
    with pytest.raises(WrongState, match=f"start .*state {state}"):
        states.move(states.CONTAINER_MOVES, state, event="start")


@pytest.mark.parametrize(
    "pod, expected",
    [
        (Pod("0" * 64, "p"), "nameserver 9.9.9.9\n"),
        (
            Pod("0" * 64, "p", dns_servers=("10.0.0.1", "10.0.0.2"), dns_searches=("a", "b"), dns_options=("ndots:5",)),
            "search a b\nnameserver 10.0.0.1\nnameserver 10.0.0.2\noptions ndots:5\n",
        ),
        (Pod("0" * 64, "p", dns_options=("ndots:1",)), "options ndots:1\n"),
    ],
)
def test_resolv_conf_is_the_pods_or_else_the_hosts(pod, expected):
    assert files.resolv_conf(pod, "nameserver 9.9.9.9\n") == expected


def test_hosts_names_the_pod_for_each_of_its_addresses():
    text = files.hosts(Pod("0" * 64, "p", hostname="web"), ("10.1.0.4", "fd00::4"))
    assert "10.1.0.4\tweb\nfd00::4\tweb\n" in text
    assert files.hostname(Pod("0" * 64, "p")) == "localhost\n"


def test_a_boot_id_is_the_pods_own_and_a_uuid():
    ids = [Pod(f"{number:064x}" if number < 9 else str(uuid.uuid4()), "p") for number in (1, 2, 9, 9)]
    texts = [files.boot_id(pod).removesuffix("\n") for pod in ids]
    assert [str(uuid.UUID(text)) for text in texts] == texts and len({*texts}) == 4
    assert {uuid.UUID(text).version for text in texts} == {4}


def test_hosts_has_a_name_with_a_domain_first_so_that_it_is_the_canonical_one():
    text = files.hosts(Pod("0" * 64, "p", hostname="web-0.web.default.svc"), ("10.1.0.4",))
    assert "10.1.0.4\tweb-0.web.default.svc\tweb-0\n" in text
