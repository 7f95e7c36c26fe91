# SPDX-License-Identifier: Apache-2.0
"""NRI through the daemon: plugins that hang, lie or violate the protocol delay no other call."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from cri.nri import calls, link, updates
from cri.pb import nri_pb2 as nri
from cri.pb import ttrpc_pb2 as ttrpc
from tests.fakes.nri_plugin import FakePlugin

from .conftest import World
from .nri_rig import FOREVER, created, limited, nri_world, plugin

__all__ = ["nri_world"]


# -- plugins that hang, lie or are hostile


async def test_a_plugin_that_hangs_is_dropped_and_the_call_goes_on_without_it(world: World) -> None:
    async def never(request: Any) -> Any:
        await asyncio.sleep(FOREVER)

    world = limited(world, request_timeout_s=0.3)
    async with world.daemon() as cri, plugin(world, "ok", "10") as ok, plugin(world, "hangs", "00") as bad:
        pod = await cri.pod()
        bad.answers["CreateContainer"] = never
        making = [asyncio.create_task(created(cri, pod, f"c{n}")) for n in range(8)]
        async with asyncio.timeout(FOREVER / 2):
            await asyncio.gather(*making)
        await bad.gone.wait()
        assert ok.methods().count("CreateContainer") == 8
        assert not ok.gone.is_set()


async def test_a_validator_that_hangs_has_rejected(world: World) -> None:
    async def never(request: Any) -> Any:
        await asyncio.sleep(FOREVER)

    world = limited(world, request_timeout_s=0.3)
    async with world.daemon() as cri, plugin(world, events=0) as bad:
        bad.answers["ValidateContainerAdjustment"] = never
        pod = await cri.pod()
        result = await cri.refused("CreateContainer", pod_sandbox_id=pod, config=cri.config("true"))
        assert result[0] == "FAILED_PRECONDITION"
        await cri.container(pod, "true")


async def test_a_plugin_whose_synchronization_hangs_delays_no_call_for_long(world: World) -> None:
    async def never(request: Any) -> Any:
        await asyncio.sleep(FOREVER)

    world = limited(world, request_timeout_s=0.3)
    async with world.daemon() as cri:
        bad = plugin(world)
        bad.answers["Synchronize"] = never
        async with bad, asyncio.timeout(FOREVER / 2):
            await cri.pod()
            await bad.gone.wait()


async def test_who_does_not_register_in_time_is_shown_out(world: World) -> None:
    world = limited(world, registration_timeout_s=0.2)
    async with world.daemon(), asyncio.timeout(FOREVER / 2):
        silent = plugin(world)
        async with silent.connected():
            await silent.gone.wait()


def _request(method: str = "RegisterPlugin", **fields: str) -> bytes:
    output = nri.RegisterPluginRequest(**fields)
    call = ttrpc.Request(service="nri.pkg.api.v1alpha1.Runtime", method=method, payload=output.SerializeToString())
    return FakePlugin.message(1, 1, call.SerializeToString())


HOSTILE: dict[str, Callable[[FakePlugin], None]] = {
    "a connection that is not there": lambda one: one.raw(3, b"x"),
    "connection 0": lambda one: one.raw(0, b"x"),
    "a chunk of 4 GiB": lambda one: one._writer.write(b"\0\0\0\2\xff\xff\xff\xff"),
    "a message of 4 GiB": lambda one: one.raw(2, b"\xff\xff\xff\xff\0\0\0\1\1\0"),
    "an answer to nothing": lambda one: one.raw(1, FakePlugin.message(1, 2, b"")),
    "a request where answers go": lambda one: one.raw(1, FakePlugin.message(1, 1, b"")),
    "a stream's data": lambda one: one.raw(2, FakePlugin.message(1, 3, b"")),
    "no protobuf": lambda one: one.raw(2, FakePlugin.message(1, 1, b"\xff\xff")),
    "too many calls": lambda one: one.raw(2, b"".join(_request("UpdateContainers") for _ in range(100))),
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_who_breaks_the_protocol_is_cut_off(nri_world: World, name: str) -> None:
    async with nri_world.daemon() as cri, plugin(nri_world, "good") as good:
        bad = plugin(nri_world)
        async with bad.connected(), asyncio.timeout(FOREVER):
            HOSTILE[name](bad)
            await bad.gone.wait()
        await cri.pod()
        assert "RunPodSandbox" in good.methods()


@pytest.mark.parametrize(
    ("name", "index"), [("", "00"), ("a/b", "00"), ("a\n", "00"), ("a", "0"), ("a", "xx"), ("a", "\u0663\u0664")]
)
async def test_a_name_that_can_not_be_is_refused(nri_world: World, name: str, index: str) -> None:
    async with nri_world.daemon():
        one = plugin(nri_world)
        async with one.connected():
            reply = await one.call("RegisterPlugin", nri.RegisterPluginRequest(plugin_name=name, plugin_idx=index))
            assert reply.status.code
            reply = await one.call("UpdateContainers", nri.UpdateContainersRequest())
            assert "register" in reply.status.message
            reply = await one.call("SomethingElse", nri.Empty())
            assert reply.status.code == 12


async def test_events_that_there_are_not_are_refused(nri_world: World) -> None:
    async with nri_world.daemon(), asyncio.timeout(FOREVER):
        one = plugin(nri_world, events=1 << 20)
        async with one.connected():
            await one.call("RegisterPlugin", nri.RegisterPluginRequest(plugin_name="a", plugin_idx="00"))
            await one.gone.wait()


async def test_answers_in_crumbs_are_understood(nri_world: World) -> None:
    async with nri_world.daemon() as cri:
        one = plugin(nri_world)
        one.chunk_bytes = 3
        async with one:
            await cri.pod()
            assert "RunPodSandbox" in one.methods()


async def test_large_requests_come_whole_in_two_chunks(nri_world: World) -> None:
    async with nri_world.daemon() as cri, plugin(nri_world) as one:
        await cri.pod(annotations={"large": "x" * (400 << 10)})
        assert len(one.last("RunPodSandbox").pod.annotations["large"]) == 400 << 10


async def test_what_exists_may_take_several_messages(nri_world: World) -> None:
    async with nri_world.daemon() as cri:
        pods = {await cri.pod(f"p{n}", annotations={"large": "x" * (500 << 10)}) for n in range(10)}
        async with plugin(nri_world, "good") as good:
            await good.until(lambda: not good.last("Synchronize").more)
            parts = [output for method, output in good.seen if method == "Synchronize"]
            assert [part.more for part in parts] == [True, False]
            assert {pod.id for part in parts for pod in part.pods} == pods
            bad = plugin(nri_world, "bad")
            bad.answers["Synchronize"] = nri.SynchronizeResponse()
            async with bad, asyncio.timeout(FOREVER):
                await bad.gone.wait()
            assert not good.gone.is_set()


async def test_a_plugin_that_reads_nothing_is_dropped(world: World) -> None:
    world = limited(world, request_timeout_s=0.5)
    async with world.daemon() as cri, plugin(world) as bad, asyncio.timeout(FOREVER):
        bad.pause()
        for n in range(3):
            await cri.pod(f"p{n}", annotations={"large": "x" * (500 << 10)})
        async with plugin(world, "next") as after:
            await cri.pod("last")
            await after.until(lambda: "RunPodSandbox" in after.methods())
        bad.resume()
        await bad.gone.wait()


async def test_a_plugin_that_sends_without_a_pause_gets_a_part_of_the_daemons_time(
    nri_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is so small on the wire that a MiB of it takes the daemon long; here each call takes it 10 ms."""
    looked, busy_s, true = 0, 0.01, calls.asked

    def slow(data: bytes) -> calls.Asked:
        nonlocal looked
        looked += 1
        time.sleep(busy_s)
        return true(data)

    async with nri_world.daemon(), plugin(nri_world, "flood") as bad:
        monkeypatch.setattr(calls, "asked", slow)
        data = nri.UpdateContainersRequest(evict=[nri.ContainerEviction(reason="x" * link.READ_BYTES)])
        begun_s = time.monotonic()
        for _ in range(40):
            await bad.call("UpdateContainers", data)
        assert time.monotonic() - begun_s > 40 * busy_s * link.REST / 2
        assert looked == 40


async def test_a_thousand_unknown_containers_are_a_few_lines_of_the_log(
    nri_world: World, caplog: pytest.LogCaptureFixture
) -> None:
    async with nri_world.daemon() as cri, plugin(nri_world, "odd") as bad:
        wishes = [nri.ContainerUpdate(container_id=f"{number}") for number in range(updates.MOST_UPDATES)]
        reply = await bad.call("UpdateContainers", nri.UpdateContainersRequest(update=wishes))
        failed = nri.UpdateContainersResponse.FromString(reply.payload).failed
        assert [one.container_id for one in failed] == [one.container_id for one in wishes]
        lines = [one for one in caplog.records if one.getMessage() == "nri.update"]
        assert len(lines) == updates.MOST_LOGGED + 1 and "1008 more" in lines[-1].__dict__["error"]
        await cri.pod()


async def test_more_updates_than_are_taken_are_cut_off_before_they_are_decoded(
    nri_world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """Of each MiB of empty ones the daemon would have made 30 MiB."""
    async with nri_world.daemon() as cri, plugin(nri_world, "good") as good:
        bad = plugin(nri_world)
        async with bad.connected(), asyncio.timeout(FOREVER):
            call = ttrpc.Request(service="nri.pkg.api.v1alpha1.Runtime", method="UpdateContainers")
            call.payload = b"\x0a\0" * (3 << 19)
            bad.raw(2, FakePlugin.message(1, 1, call.SerializeToString()))
            await bad.gone.wait()
        (line,) = [one for one in caplog.records if one.getMessage() == "nri.unregistered"]
        assert "at most" in line.__dict__["error"]
        await cri.pod()
        assert "RunPodSandbox" in good.methods()
