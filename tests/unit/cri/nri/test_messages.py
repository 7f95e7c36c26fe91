# SPDX-License-Identifier: Apache-2.0
"""The content of NRI's messages, without a socket: calls, resources, and Synchronize in parts."""

import pytest

from cri.nri import amounts, calls, shown, synchronize
from cri.nri.frames import FrameFault
from cri.pb import nri_pb2 as nri
from cri.pb import runtime_pb2 as pb
from cri.pb import ttrpc_pb2 as ttrpc
from stage1.errors import BadRequest
from stage1.pod.model import HOST_TO_CONTAINER, Mount

MIB = 1 << 20

EVENTS = {
    "RunPodSandbox": 1,
    "RemoveContainer": 11,
    "ValidateContainerAdjustment": 14,
    "Synchronize": 0,
    "StateChange": 0,
}


@pytest.mark.parametrize(("method", "number"), EVENTS.items())
def test_each_method_has_the_number_of_its_event(method: str, number: int) -> None:
    assert calls.event_of(method) == number


def test_every_event_is_brought_by_one_method() -> None:
    methods = nri.DESCRIPTOR.services_by_name["Plugin"].methods_by_name
    assert sorted(filter(None, map(calls.event_of, methods))) == list(range(1, nri.LAST))
    assert calls.ALL_EVENTS == 0x3FFF


def test_an_answer_is_a_message_an_error_or_a_fault() -> None:
    good = ttrpc.Response(payload=nri.ConfigureResponse(events=5).SerializeToString())
    assert calls.answer("Configure", good.SerializeToString()).events == 5
    bad = ttrpc.Response(status=ttrpc.Status(code=12, message="not here"))
    with pytest.raises(calls.Refused, match="not here") as caught:
        calls.answer("Configure", bad.SerializeToString())
    assert caught.value.code == 12
    for data in (b"\xff", ttrpc.Response(payload=b"\xff").SerializeToString()):
        with pytest.raises(FrameFault):
            calls.answer("Configure", data)


def test_a_call_of_another_service_has_no_message() -> None:
    data = ttrpc.Request(service="other", method="RegisterPlugin").SerializeToString()
    assert calls.asked(data) == calls.Asked("other/RegisterPlugin", None)


RESOURCES = pb.LinuxContainerResources(
    memory_limit_in_bytes=64 * MIB,
    memory_swap_limit_in_bytes=-1,
    cpu_shares=2,
    cpu_quota=-1,
    cpu_period=100000,
    cpuset_cpus="0",
    cpuset_mems="0",
    unified={"memory.high": "max"},
)


def test_resources_go_there_and_back() -> None:
    there = amounts.of_cri(RESOURCES)
    assert amounts.to_cri(there, who="x sets") == RESOURCES
    assert amounts.to_cri(nri.LinuxResources(), who="x sets") == pb.LinuxContainerResources()
    assert len(list(amounts.fields(there))) == 8


def test_pids_are_a_file_of_the_cgroup() -> None:
    for limit, text in ((5, "5"), (-1, "max")):
        given = nri.LinuxResources(pids=nri.LinuxPids(limit=limit))
        assert amounts.to_cri(given, who="x sets").unified == {"pids.max": text}


def test_empty_parts_are_omitted() -> None:
    given = nri.LinuxResources()
    given.memory.kernel.SetInParent()
    given.blockio_class.SetInParent()
    assert not amounts.to_cri(given, who="x sets").ByteSize()


def test_only_one_plugin_can_set_a_field() -> None:
    claims: amounts.Claims = {}
    amounts.claim(claims, iter([(nri.Env, "A"), (nri.MemLimit, "")]), title="00-a")
    amounts.claim(claims, iter([(nri.Env, "B")]), title="10-b")
    amounts.claim(claims, iter([(nri.Env, "A")]), title="00-a")
    with pytest.raises(BadRequest, match=r"00-a and 10-b .*MemLimit"):
        amounts.claim(claims, iter([(nri.MemLimit, "")]), title="10-b")


def test_mounts_are_shown_as_the_oci_names_them() -> None:
    one = Mount("/src", "/dst", read_only=True, propagation=HOST_TO_CONTAINER, options=("noexec",))
    assert list(shown.mount(one).options) == ["rbind", "ro", "noexec", "rslave"]
    assert shown.mount(Mount("part", "/dst", image="sha256:x")).source == ""
    assert shown.text("a\udcffb") == "a\ufffdb"


@pytest.mark.parametrize(("most", "count"), [(1 << 20, 1), (300, 4), (1, 10)])
def test_synchronize_comes_in_parts_that_fit(most: int, count: int) -> None:
    pods = [nri.PodSandbox(id=f"{n}" * 64) for n in range(5)]
    containers = [nri.Container(id=f"{n}" * 64) for n in range(5)]
    parts = synchronize.parts(pods, containers, most_bytes=most)
    assert len(parts) == count
    assert [one.id for part in parts for one in part.pods] == [one.id for one in pods]
    assert [one.id for part in parts for one in part.containers] == [one.id for one in containers]
    assert [part.more for part in parts] == [True] * (count - 1) + [False]


def test_with_nothing_there_synchronize_is_one_empty_message() -> None:
    assert synchronize.parts([], []) == [nri.SynchronizeRequest()]
