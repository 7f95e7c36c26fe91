# SPDX-License-Identifier: Apache-2.0
"""Stats and metrics of containers and pods, over gRPC in front of fake guests; real ones are in test_real_stats.py."""

import asyncio
import json
import time
from typing import Any

import pytest

from cri.pb import runtime_pb2 as pb
from cri.statistics import meter
from stage1.guest import messages

from .conftest import Client, World

SPIN = ("sh", "-c", "while :; do :; done")


async def _running(cri: Client, pod: str, *command: str, name: str = "c", **fields: Any) -> str:
    container = await cri.container(pod, *command, name=name, **fields)
    await cri("StartContainer", container_id=container)
    return container


async def test_a_running_container_has_fresh_numbers(world: World) -> None:
    async with world.daemon() as cri:
        pod = await cri.pod()
        c = await _running(cri, pod, *SPIN, labels={"a": "b"})
        first = (await cri("ContainerStats", container_id=c)).stats
        for _ in range(30):  # on a busy machine it may get no processor between two samples
            await asyncio.sleep(meter.FRESH_S + 0.1)
            second = (await cri("ContainerStats", container_id=c[:13])).stats
            if second.cpu.usage_nano_cores.value:
                break
        assert first.attributes.id == c
        assert (first.attributes.metadata.name, dict(first.attributes.labels)) == ("c", {"a": "b"})
        assert time.time_ns() - second.cpu.timestamp < 5e9
        assert first.cpu.timestamp < second.cpu.timestamp == second.memory.timestamp
        assert first.cpu.usage_core_nano_seconds.value < second.cpu.usage_core_nano_seconds.value
        assert not first.cpu.HasField("usage_nano_cores"), "one sample has no rate"
        assert 0 < second.cpu.usage_nano_cores.value < 2e9, "it spins on one CPU, of which it has a part"
        assert second.memory.working_set_bytes.value > 0
        assert second.memory.rss_bytes.value > 0
        assert second.writable_layer.used_bytes.value == 8192
        assert second.writable_layer.fs_id.mountpoint == world.host.state_dir


async def test_pressure_is_percent_and_microseconds_as_the_kernel_has_it(world: World) -> None:
    async with world.daemon() as cri:
        pod = await cri.pod()
        c = await _running(cri, pod, "sleep", "1000")
        whole = (await cri("PodSandboxStats", pod_sandbox_id=pod)).stats.linux
        for one in ((await cri("ContainerStats", container_id=c)).stats, whole, whole.containers[0]):
            assert one.cpu.psi.Some == pb.PsiData(Total=3_000_000, Avg10=1.5)
            assert one.cpu.psi.Full == pb.PsiData(Total=2_000_000)
            assert one.memory.psi.Some == pb.PsiData(Total=40, Avg60=0.25)
            assert one.io.psi.Full == pb.PsiData(Total=5_000_000, Avg300=100)
            assert one.io.timestamp == one.cpu.timestamp
        metrics = (await cri("ListPodSandboxMetrics")).pod_metrics[0].container_metrics[0].metrics
        values = {metric.name.removeprefix("container_pressure_"): metric.value.value for metric in metrics}
        assert (values["cpu_waiting_seconds_total"], values["cpu_stalled_seconds_total"]) == (3, 2)
        assert (values["io_waiting_seconds_total"], values["io_stalled_seconds_total"]) == (5, 5)
        assert values["memory_waiting_seconds_total"] == values["memory_stalled_seconds_total"] == 0


async def test_a_container_that_does_not_run_has_zeros(world: World) -> None:
    async with world.daemon() as cri:
        pod = await cri.pod()
        created = await cri.container(pod, "true", name="created")
        ended = await _running(cri, pod, "true", name="ended")
        await cri.ended(ended)
        for container in (created, ended):
            stats = (await cri("ContainerStats", container_id=container)).stats
            assert stats.attributes.id == container
            assert stats.cpu.timestamp > 0
            assert stats.memory.timestamp > 0
            assert stats.cpu.usage_core_nano_seconds.value == 0
            assert not stats.cpu.HasField("psi") and not stats.HasField("io")
        assert {one.attributes.id for one in (await cri("ListContainerStats")).stats} == {created, ended}
        await cri("StopPodSandbox", pod_sandbox_id=pod)
        assert (await cri("PodSandboxStats", pod_sandbox_id=pod)).stats.attributes.id == pod
        assert (await cri("ListPodSandboxStats")).stats == []


async def test_no_numbers_outlive_their_container_though_the_sample_that_has_them_still_serves(world: World) -> None:
    async with world.daemon() as cri:
        pod = await cri.pod()
        kept, c = await _running(cri, pod, "sleep", "1000", name="kept"), await _running(cri, pod, *SPIN)
        assert len((await cri("ListContainerStats")).stats) == 2
        assert len((await cri("ListPodSandboxMetrics")).pod_metrics[0].container_metrics) == 2
        world.faults.ignore = messages.Stats  # whatever is answered from now on was sampled before
        await cri("StopContainer", container_id=c, timeout=0)
        stopped = (await cri("ContainerStats", container_id=c)).stats
        assert stopped.cpu.usage_core_nano_seconds.value == stopped.memory.working_set_bytes.value == 0
        assert [
            one.attributes.id for one in (await cri("PodSandboxStats", pod_sandbox_id=pod)).stats.linux.containers
        ] == [kept]
        listed = {one.attributes.id: one for one in (await cri("ListContainerStats")).stats}
        assert listed[kept].memory.working_set_bytes.value > listed[c].memory.working_set_bytes.value == 0
        (of_pod,) = (await cri("ListPodSandboxMetrics")).pod_metrics
        assert [one.container_id for one in of_pod.container_metrics] == [kept]
        await cri("RemoveContainer", container_id=c)
        assert [one.attributes.id for one in (await cri("ListContainerStats")).stats] == [kept]
        assert (await cri.refused("ContainerStats", container_id=c))[0] == "NOT_FOUND"


FILTERS = [
    ({}, {"a", "b", "c"}),
    ({"id": "ID-a"}, {"a"}),
    ({"pod_sandbox_id": "POD"}, {"a", "b"}),
    ({"label_selector": {"app": "x"}}, {"b", "c"}),
    ({"pod_sandbox_id": "POD", "label_selector": {"app": "x"}}, {"b"}),
    ({"id": "f" * 64}, set()),
]


async def test_filters_of_container_stats_are_anded(world: World) -> None:
    async with world.daemon() as cri:
        pod, other = await cri.pod("one"), await cri.pod("two")
        ids = {"a": await _running(cri, pod, "sleep", "1000", name="a")}
        ids["b"] = await _running(cri, pod, "sleep", "1000", name="b", labels={"app": "x"})
        ids["c"] = await _running(cri, other, "sleep", "1000", name="c", labels={"app": "x"})
        for expected, names in FILTERS:
            given = {key: {"ID-a": ids["a"], "POD": pod[:20]}.get(str(value), value) for key, value in expected.items()}
            stats_filter = pb.ContainerStatsFilter(**given)
            listed = (await cri("ListContainerStats", filter=stats_filter)).stats
            streamed = await cri.listed("StreamContainerStats", filter=stats_filter)
            for result in (listed, streamed):
                assert {stats.attributes.metadata.name for stats in result} == names, expected


async def test_a_pods_numbers_are_its_guests(world: World) -> None:
    async with world.daemon() as cri:
        pod = await cri.pod(labels={"x": "y"})
        c = await _running(cri, pod, "sleep", "1000")
        await cri.pod("other")
        for stats in (
            (await cri("PodSandboxStats", pod_sandbox_id=pod)).stats,
            (await cri("ListPodSandboxStats", filter=pb.PodSandboxStatsFilter(id=pod[:9]))).stats[0],
            (await cri.listed("StreamPodSandboxStats", filter=pb.PodSandboxStatsFilter(label_selector={"x": "y"})))[0],
        ):
            assert stats.attributes.id == pod
            linux = stats.linux
            assert linux.cpu.timestamp > 0
            assert linux.memory.usage_bytes.value > 0
            assert linux.memory.available_bytes.value > 0
            default = linux.network.default_interface
            assert (default.name, default.rx_bytes.value, default.tx_bytes.value) == ("eth0", 1000, 2000)
            assert linux.process.process_count.value == 1
            assert [one.attributes.id for one in linux.containers] == [c]


async def test_a_verbose_status_has_the_memory_of_the_vmm_and_the_containers(world: World) -> None:
    async with world.daemon() as cri:
        pod = await cri.pod()
        c = await _running(cri, pod, "sleep", "1000")
        reply = await cri("PodSandboxStatus", pod_sandbox_id=pod, verbose=True)
        assert json.loads(reply.info["info"])["vm"]["pssBytes"] > 4096
        assert [(one.id, one.state) for one in reply.containers_statuses] == [(c, pb.CONTAINER_RUNNING)]
        assert reply.timestamp > 0
        await cri("StopPodSandbox", pod_sandbox_id=pod)
        reply = await cri("PodSandboxStatus", pod_sandbox_id=pod, verbose=True)
        assert json.loads(reply.info["info"])["vm"]["pssBytes"] == 0


async def test_a_guest_that_does_not_answer_delays_no_call_for_long_and_is_left_out(world: World) -> None:
    async with world.daemon() as cri:
        stuck, well = await cri.pod("stuck"), await cri.pod("well")
        lost = await _running(cri, stuck, "sleep", "1000", name="lost")
        world.faults.ignore = messages.Stats
        begun = time.monotonic()
        assert (await cri.refused("ContainerStats", container_id=lost))[0] == "DEADLINE_EXCEEDED"
        assert (await cri.refused("PodSandboxStats", pod_sandbox_id=stuck))[0] == "DEADLINE_EXCEEDED"
        assert time.monotonic() - begun < 2 * meter.PATIENCE_S, "the second one does not wait all over again"
        asked = sum(isinstance(op, messages.Stats) for guest in world.vmm.guests.values() for op in guest.asked)
        assert asked <= 2, "a stuck guest gets no pile of questions"
        world.faults.ignore = None
        assert [one.attributes.id for one in (await cri("ListPodSandboxStats")).stats] == [well]
        await cri("Version")


async def test_a_sample_serves_for_a_while_when_its_guest_is_busy(world: World) -> None:
    async with world.daemon() as cri:
        pod = await cri.pod()
        c = await _running(cri, pod, "sleep", "1000")
        known = (await cri("ContainerStats", container_id=c)).stats
        world.faults.ignore = messages.Stats
        second = (await cri("ContainerStats", container_id=c)).stats
        assert second.cpu.timestamp == known.cpu.timestamp, "it says how old it is"


async def test_a_guest_that_dies_while_it_is_asked_is_an_error_and_its_pod_is_not_ready(world: World) -> None:
    async with world.daemon() as cri:
        pod = await cri.pod()
        c = await _running(cri, pod, "sleep", "1000")
        world.faults.die_on = messages.Stats
        assert (await cri.refused("ContainerStats", container_id=c))[0] in ("UNKNOWN", "FAILED_PRECONDITION")
        await cri.ended(c)
        assert [one.cpu.usage_core_nano_seconds.value for one in (await cri("ListContainerStats")).stats] == [0]
        assert (await cri("PodSandboxStatus", pod_sandbox_id=pod)).status.state == pb.SANDBOX_NOTREADY


REQUIRED = """
cpu_cfs_periods_total cpu_cfs_throttled_periods_total cpu_cfs_throttled_seconds_total cpu_system_seconds_total
cpu_usage_seconds_total cpu_user_seconds_total fs_inodes_free fs_inodes_total fs_limit_bytes fs_usage_bytes
fs_reads_bytes_total fs_reads_total fs_writes_bytes_total fs_writes_total blkio_device_usage_total memory_cache
memory_failcnt memory_failures_total memory_kernel_usage memory_mapped_file memory_max_usage_bytes memory_rss
memory_swap memory_usage_bytes memory_working_set_bytes network_receive_bytes_total network_receive_errors_total
network_receive_packets_dropped_total network_receive_packets_total network_transmit_bytes_total
network_transmit_errors_total network_transmit_packets_dropped_total network_transmit_packets_total processes threads
threads_max sockets file_descriptors last_seen start_time_seconds oom_events_total spec_cpu_period spec_cpu_shares
spec_memory_limit_bytes spec_memory_swap_limit_bytes pressure_cpu_waiting_seconds_total
pressure_cpu_stalled_seconds_total pressure_memory_waiting_seconds_total pressure_memory_stalled_seconds_total
pressure_io_waiting_seconds_total pressure_io_stalled_seconds_total
""".split()


async def test_every_metric_that_is_announced_is_given(world: World) -> None:
    limits = pb.LinuxContainerResources(cpu_shares=512, cpu_period=100000, memory_limit_in_bytes=64 << 20)
    async with world.daemon() as cri:
        pod = await cri.pod()
        await _running(cri, pod, "sleep", "1000", linux=pb.LinuxContainerConfig(resources=limits))
        keys = {one.name: list(one.label_keys) for one in (await cri("ListMetricDescriptors")).descriptors}
        assert {f"container_{name}" for name in REQUIRED} <= keys.keys()
        assert len(REQUIRED) == 51
        for result in ((await cri("ListPodSandboxMetrics")).pod_metrics, await cri.listed("StreamPodSandboxMetrics")):
            (one,) = result
            assert one.pod_sandbox_id == pod
            given = [*one.metrics, *one.container_metrics[0].metrics]
            assert {metric.name for metric in given} == keys.keys()
            for metric in given:
                assert len(metric.label_values) == len(keys[metric.name]), metric.name
                assert metric.timestamp > 0
                assert metric.HasField("value")
            values = {metric.name: metric.value.value for metric in given}
            assert values["container_spec_cpu_shares"] == 512
            assert values["container_spec_memory_limit_bytes"] == 64 << 20
            assert values["container_file_descriptors"] == 4


@pytest.mark.parametrize("rpc", ["StreamPodSandboxes", "StreamContainers", "StreamImages"])
async def test_streamed_lists_equal_the_unary_ones(world: World, rpc: str) -> None:
    twin = {"StreamPodSandboxes": "ListPodSandbox", "StreamContainers": "ListContainers", "StreamImages": "ListImages"}
    async with world.daemon() as cri:
        if rpc != "StreamImages":
            assert await cri.listed(rpc) == []
        for number in range(3):
            await cri.container(await cri.pod(f"p{number}"), "true")
        reply = await cri(twin[rpc])
        expected = list(getattr(reply, reply.ListFields()[0][0].name))
        assert await cri.listed(rpc) == expected
        assert expected
