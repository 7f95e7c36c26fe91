# SPDX-License-Identifier: Apache-2.0
"""ForkPod: creates copies of a running pod, with running containers. An RPC of clearpod's own, for `clearpod fork`.

It has the messages of CheckpointPod and ListPodSandbox. Options: `name`, of the first copy or with a number of all;
`copies`, how many.
"""

import asyncio
import contextlib
import os
import re
import secrets
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from cri.live import copies
from cri.live.pod import LivePod
from cri.node import Node
from cri.pb import runtime_pb2 as pb
from cri.pods import forking
from cri.policy import FORK_OF, TEMPLATE
from cri.runtime.create_container import create_container
from cri.runtime.run_pod_sandbox import pod_record
from cri.runtime.start_container import start_container
from cri.store import warmed
from cri.translate.bounds import short
from stage1.errors import AlreadyExists, BadRequest, PodError

if TYPE_CHECKING:
    from cri.pods.table import BringUp
    from cri.store.pods import PodRecord

MOST_COPIES, AT_ONCE = 64, 4
_KUBERNETES = {"name": "io.kubernetes.pod.name", "uid": "io.kubernetes.pod.uid"}
_OPTIONS = {"name", "copies"}
_NAME = re.compile("[A-Za-z0-9]([-A-Za-z0-9._]*[A-Za-z0-9])?")


async def fork_pod(node: Node, request: pb.CheckpointPodRequest) -> pb.ListPodSandboxResponse:
    """The copies. One save serves all of them; if one can't be brought up none stays. Raises as `forking.original`,
    WrongState with what blocks it, BadRequest, AlreadyExists for a name that a pod has.
    """
    pod = node.pods.get(request.pod_sandbox_id)
    names = _names(pod, request)
    with _reserved(node, names, namespace=pod.record.pod.namespace):
        return await _fork(node, pod, names=names)


async def _fork(node: Node, pod: LivePod, *, names: list[str]) -> pb.ListPodSandboxResponse:
    forking.require(pod)
    asked = [
        pb.RunPodSandboxRequest(config=config_of_copy(pod, name), runtime_handler=pod.record.handler) for name in names
    ]
    requests = [(await pod_record(node, one), one.SerializeToString(deterministic=True)) for one in asked]
    running = [one.config for one in pod.containers.values() if one.is_running]
    made: list[str] = []
    async with forking.being_saved(pod, node.images, name=secrets.token_hex(8)) as (path, saving):
        try:
            await _run(node, requests, bring_up=partial(copies.bring_up, path=path, saving=saving), made=made)
            await asyncio.gather(*(_start(node, pod_id, containers=running) for pod_id in made))
        except BaseException:
            await _remove(node, made)
            raise
    metadata = {one: node.pods.get(one).config.metadata for one in made}
    items = [
        pb.PodSandbox(id=one, metadata=metadata[one])
        for one in sorted(made, key=lambda one: names.index(metadata[one].name))
    ]
    return pb.ListPodSandboxResponse(items=items)


async def _run(node: Node, requests: "list[tuple[PodRecord, bytes]]", *, bring_up: "BringUp", made: list[str]) -> None:
    """All of them, some at once, also into `made` when they are there. One that fails ends the others; raises that."""
    turns = asyncio.Semaphore(AT_ONCE)

    async def run(record: "PodRecord", text: bytes) -> None:
        async with turns:
            made.append(await node.pods.run(record, text, bring_up=bring_up))

    try:
        async with asyncio.TaskGroup() as group:
            for one in requests:
                group.create_task(run(*one))
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None


async def _remove(node: Node, made: list[str]) -> None:
    """Remove the copies that were made; what can't be removed now stays listed."""
    for pod_id in made:
        with contextlib.suppress(PodError):
            await node.pods.remove(node.pods.get(pod_id))


def _names(pod: LivePod, request: pb.CheckpointPodRequest) -> list[str]:
    options = dict(request.options)
    if unknown := sorted(set(options) - _OPTIONS):
        raise BadRequest(f"ForkPod has no option {unknown[0][:64]!r}, but {', '.join(sorted(_OPTIONS))}")
    text = options.get("copies", "1")
    if not (text.isascii() and text.isdigit() and len(text) < 4 and 1 <= int(text) <= MOST_COPIES):
        raise BadRequest(f"copies must be a number from 1 to {MOST_COPIES}, but it is {text[:16]!r}")
    base = options.get("name", f"{pod.record.pod.name}-fork")
    if "name" in options and not _NAME.fullmatch(base):
        raise BadRequest(
            f"{short(base)} can't be the name of a copy; give letters, digits, '-', '.' and '_', the first and last of "
            "which are letters or digits"
        )
    return [base] if text == "1" else [f"{base}-{number}" for number in range(1, int(text) + 1)]


@contextlib.contextmanager
def _reserved(node: Node, names: list[str], *, namespace: str) -> Iterator[None]:
    """Keep others from making copies of these names while the block runs. Raises AlreadyExists: a name on the command
    line is to mean one pod.
    """
    asked = {(namespace, name) for name in names}
    others = {(one.record.pod.namespace, one.record.pod.name) for one in node.pods.pods()}
    if there := sorted(asked & (others | node.pods.copying)):
        raise AlreadyExists(f"the namespace {namespace!r} has a pod {there[0][1]!r}; give the copy another name")
    node.pods.copying |= asked
    try:
        yield
    finally:
        node.pods.copying -= asked


def config_of_copy(pod: LivePod, name: str) -> pb.PodSandboxConfig:
    """The original's request with names and uids of the copy, without host ports and cgroup, which stay with the
    original.
    """
    config = pb.PodSandboxConfig.FromString(pod.record.config)
    uid, was = secrets.token_hex(16), config.metadata.name
    config.metadata.name, config.metadata.uid, config.metadata.attempt = name, uid, 0
    config.hostname = name if config.hostname in ("", was) else config.hostname
    for key, value in (("name", name), ("uid", uid)):
        if _KUBERNETES[key] in config.labels:
            config.labels[_KUBERNETES[key]] = value
    if config.annotations.get(TEMPLATE) != warmed.NONE:
        config.annotations.pop(TEMPLATE, "")
    config.annotations[FORK_OF] = pod.id
    for mapping in config.port_mappings:
        mapping.host_port = 0
    if config.log_directory:
        names = f"{config.metadata.namespace}_{name}_{uid}"
        config.log_directory = f"{os.path.dirname(config.log_directory.rstrip('/'))}/{names}"
    config.linux.cgroup_parent = ""
    return config


async def _start(node: Node, pod_id: str, *, containers: list[pb.ContainerConfig]) -> None:
    """All of them: created, then let go."""
    for config in containers:
        asked = pb.CreateContainerRequest(pod_sandbox_id=pod_id, config=config)
        asked.config.metadata.attempt = 0
        made = await create_container(node, asked)
        await start_container(node, pb.StartContainerRequest(container_id=made.container_id))
