# SPDX-License-Identifier: Apache-2.0
"""The whole life of a pod, told over gRPC as crictl tells it."""

from cri.pb import runtime_pb2 as pb


async def test_a_pod_lives_from_run_to_remove(world) -> None:
    async with world.daemon() as cri:
        assert (await cri("Version")).runtime_api_version == "v1"
        pod = await cri.pod(log_directory=f"{world.root}/logs")
        c = await cri.container(pod, "sh", "-c", "echo hello; echo oops >&2; sleep 0.2; exit 7")
        await cri("StartContainer", container_id=c)
        status = await cri.ended(c)
        assert (status.exit_code, status.reason) == (7, "Error")
        print(open(status.log_path).read())
        await cri("RemoveContainer", container_id=c)
        await cri("StopPodSandbox", pod_sandbox_id=pod)
        await cri("RemovePodSandbox", pod_sandbox_id=pod)
    assert world.left_over() == []
