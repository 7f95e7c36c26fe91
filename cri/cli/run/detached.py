# SPDX-License-Identifier: Apache-2.0
"""`clearpod run --detach`: the pod goes to the daemon, by the calls with which the kubelet would make it.

Called by `run`. It keeps no state but the directories of logs, which the next call removes when their pod is gone. What
was begun is taken back when a later call fails.
"""

import argparse

import grpc
from grpc import aio

from cri.cli.daemon import error_kind, explained
from cri.cli.run.request import NONE, Request
from cri.config import Config
from cri.image.origins import Auth
from cri.logs import place
from cri.pb import runtime_pb2 as pb
from cri.pb import runtime_pb2_grpc as rpc
from cri.policy import AT_ITS_END, DETACHED, WHEN_ASKED
from stage1.errors import AlreadyExists, BadRequest, NotFound, PodError, Unavailable

ANSWER_S = 120.0
"""Time limit of each call except the pull, which has none. A machine without KVM boots a guest in seconds."""
LOG = "main.log"


def check(args: argparse.Namespace) -> None:
    """Raise BadRequest for what only a pod in the foreground can have."""
    for option, is_given, why in (
        ("--network none", args.network == NONE, "the daemon's pods are in the node's network"),
        ("--hypervisor", args.hypervisor, "the daemon's configuration sets it"),
        ("--journal", args.journal, "the daemon's pods keep their journal with the pod"),
        ("--timeline", args.timeline, "a pod of the daemon's keeps its own times"),
    ):
        if is_given:
            raise BadRequest(f"{option} does not go with --detach: {why}")


async def hand_over(
    config: Config, request: Request, *, when: str, removes: bool = False, auth: Auth | None = None
) -> str:
    """Have the daemon pull the image as --pull requires (`when`) with the credentials `auth`, create and start the pod,
    which `removes` itself when its container has ended; return its id.

    Raises Unavailable when no daemon serves, and the daemon's errors.
    """
    async with aio.insecure_channel(f"unix:{config.socket_path}") as channel:
        runtime, images = rpc.RuntimeServiceStub(channel), rpc.ImageServiceStub(channel)
        try:
            listed = await runtime.ListPodSandbox(pb.ListPodSandboxRequest(), timeout=ANSWER_S)
            _check_name(request, list(listed.items))
            place.remove_orphans(config.state_dir, {one.metadata.uid for one in listed.items})
            await _bring(images, request.container.image, when=when, auth=auth)
            logs = f"{config.state_dir}/{place.DETACHED_LOGS}"
            request.sandbox.log_directory = f"{logs}/{request.sandbox.metadata.uid}"
            request.sandbox.labels[DETACHED] = AT_ITS_END if removes else WHEN_ASKED
            request.container.log_path = LOG
            return await _start(runtime, request)
        except aio.AioRpcError as error:
            raise _explained(error, config.socket_path) from None


def _check_name(request: Request, listed: list[pb.PodSandbox]) -> None:
    for one in listed:
        if (one.metadata.name, one.metadata.namespace) == (request.sandbox.metadata.name, "default"):
            raise AlreadyExists(
                f"the name {one.metadata.name} is that of the pod {one.id[:13]}; give another --name, or "
                f"`clearpod rm {one.metadata.name}` first"
            )


async def _bring(images: "rpc.ImageServiceAsyncStub", image: pb.ImageSpec, *, when: str, auth: Auth | None) -> None:
    if image.image.startswith("sha256:"):
        return  # brought by us
    status = await images.ImageStatus(pb.ImageStatusRequest(image=image), timeout=ANSWER_S)
    is_stored = bool(status.image.id)
    if is_stored and when in ("missing", "never"):
        return
    if when == "never":
        raise NotFound(f"the image {image.image} is not stored, and --pull never does not bring it")
    try:
        given = pb.AuthConfig(**auth._asdict()) if auth else None
        await images.PullImage(pb.PullImageRequest(image=image, auth=given))
    except aio.AioRpcError as error:
        is_elsewhere = error.code() in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNAVAILABLE)
        if not (is_stored and when == "newer" and is_elsewhere):
            raise


async def _start(runtime: "rpc.RuntimeServiceAsyncStub", request: Request) -> str:
    made = await runtime.RunPodSandbox(pb.RunPodSandboxRequest(config=request.sandbox), timeout=ANSWER_S)
    pod: str = made.pod_sandbox_id
    try:
        create = pb.CreateContainerRequest(pod_sandbox_id=pod, config=request.container, sandbox_config=request.sandbox)
        container = await runtime.CreateContainer(create, timeout=ANSWER_S)
        start = pb.StartContainerRequest(container_id=container.container_id)
        await runtime.StartContainer(start, timeout=ANSWER_S)
    except BaseException:
        await runtime.StopPodSandbox(pb.StopPodSandboxRequest(pod_sandbox_id=pod), timeout=ANSWER_S)
        await runtime.RemovePodSandbox(pb.RemovePodSandboxRequest(pod_sandbox_id=pod), timeout=ANSWER_S)
        raise
    return pod


def _explained(error: aio.AioRpcError, path: str) -> PodError:
    """The daemon's own sentence, or that there is none."""
    if error.code() == grpc.StatusCode.UNAVAILABLE and not error_kind(error):
        return Unavailable(
            f"no daemon serves at {path}, to which --detach hands the pod; start it (`systemctl start clearpod`, or "
            "`clearpod serve`), or run without --detach"
        )
    return explained(error)
