# SPDX-License-Identifier: Apache-2.0
"""The RPCs about snapshots of pods: SuspendPod and ResumePod, ForkPod, CheckpointPod and RestorePod, and those for
`clearpod snapshot`: CreateSnapshot, ListSnapshots, ShowSnapshot, RemoveSnapshot. CheckpointPod and RestorePod are the
CRI's, the others clearpod's own, with messages of the CRI (`cri.server.OURS`). What is done is `cri.snapshots`.
"""

import asyncio
import contextlib
import json
import os
import re
import secrets
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from cri.live.pod import LivePod
from cri.node import Node
from cri.pb import runtime_pb2 as pb
from cri.policy import FORK_OF, FORKABLE, SNAPSHOT
from cri.runtime import pod_start
from cri.runtime.container import create_container, start_container
from cri.runtime.sandbox import pod_record
from cri.snapshots import checkpoint, copies, manifest, suspension
from cri.snapshots.copies import Origin
from cri.snapshots.named import as_json
from cri.translate.bounds import short
from stage1.errors import AlreadyExists, BadRequest, PodError, WrongState
from stage1.machine import SUSPEND
from stage1.rootfs.checkpoint import spelled

if TYPE_CHECKING:
    from cri.store.pods import PodRecord

MOST_COPIES, AT_ONCE = 64, 4
_KUBERNETES = {"name": "io.kubernetes.pod.name", "uid": "io.kubernetes.pod.uid"}
_NAME = re.compile("[A-Za-z0-9]([-A-Za-z0-9._]*[A-Za-z0-9])?")


def _check_options(name: str, options: Mapping[str, str], *, known: Collection[str] = ()) -> None:
    """Raise BadRequest for an option that the RPC does not have."""
    for option in sorted(set(options).difference(known)):
        raise BadRequest(f"{name} has no option {option[:64]!r}" + (f", but {' and '.join(known)}" if known else ""))


async def suspend_pod(node: Node, request: pb.StopPodSandboxRequest) -> pb.StopPodSandboxResponse:
    """Save the guest to a file and end its VMM; the pod stays listed.

    Idempotent. NOT_FOUND for an unknown id; FAILED_PRECONDITION has the reason when it can't be suspended.
    """
    await suspension.suspend(node.pods.get(request.pod_sandbox_id), node.images)
    return pb.StopPodSandboxResponse()


async def resume_pod(node: Node, request: pb.StopPodSandboxRequest) -> pb.StopPodSandboxResponse:
    """Resume a suspended pod in a new VM.

    Idempotent. NOT_FOUND for an unknown id; FAILED_PRECONDITION has the reason when it can't be resumed.
    """
    await suspension.resume(node.pods.get(request.pod_sandbox_id))
    return pb.StopPodSandboxResponse()


async def checkpoint_pod(node: Node, request: pb.CheckpointPodRequest) -> pb.CheckpointPodResponse:
    """Write a running pod, which continues, to a directory of the caller's.

    FAILED_PRECONDITION has the reason when it can't be. The directory must be empty (ALREADY_EXISTS), and is again
    after an error. No options are known.
    """
    _check_options("CheckpointPod", request.options)
    pod = node.pods.get(request.pod_sandbox_id)
    container_ids = [_whole(node, pod, one=one) for one in request.container_ids]
    await checkpoint.write(pod, node.images, output=spelled(request.output_path), container_ids=container_ids)
    return pb.CheckpointPodResponse()


def _whole(node: Node, pod: LivePod, *, one: str) -> str:
    """The id that begins so, as elsewhere in the CRI, if it is one of the pod's. Raises BadRequest for several."""
    named = node.pods.find_container(one)
    return named[1].id if named and named[0] is pod else one


async def restore_pod(node: Node, request: pb.RestorePodRequest) -> pb.RestorePodResponse:
    """Create a pod from a checkpoint, with its containers created and not started.

    They are frozen in the guest until StartContainer. Rolled back after an error; FAILED_PRECONDITION has the reason
    why this host or this pod does not fit it.
    """
    _check_options("RestorePod", request.options)
    path = spelled(request.checkpoint_path)
    saved = await asyncio.to_thread(manifest.read, path)
    checkpoint.check(saved, request.container_configs)
    given = await node.tools.run_in_bulk(checkpoint.of_this_host, saved, node.images, path=path)
    asked = pb.RunPodSandboxRequest(config=request.config, runtime_handler=request.runtime_handler)
    record = await pod_record(node, asked)
    if not record.pod.suspend:
        raise WrongState(
            f"the pod lacks the annotation {SUSPEND} of the checkpoint's pod, so its machine would differ; restore "
            "it with the same annotations"
        )
    text = request.SerializeToString(deterministic=True)
    pod_id = await pod_start.run(node, record, request=text, origin=Origin(path, given=given))
    try:
        containers = await _created(node, pod_id, configs=request.container_configs)
    except BaseException:
        await _remove(node, [pod_id])
        raise
    return pb.RestorePodResponse(pod_sandbox_id=pod_id, restored_containers=containers)


async def _created(node: Node, pod_id: str, *, configs: Sequence[pb.ContainerConfig]) -> list[pb.RestoredContainer]:
    made = []
    for config in configs:
        asked = pb.CreateContainerRequest(pod_sandbox_id=pod_id, config=config)
        container_id = (await create_container(node, asked)).container_id
        made.append(pb.RestoredContainer(name=config.metadata.name, container_id=container_id))
    return made


async def create_snapshot(node: Node, request: pb.CheckpointPodRequest) -> pb.StatusResponse:
    """Write a running pod, which continues, to the disk as a named snapshot; `info` has it as JSON.

    The only option is `name`. Raises as `NamedSnapshots.create`, WrongState if the policy does not allow snapshots in
    its namespace.
    """
    pod, options = node.pods.get(request.pod_sandbox_id), dict(request.options)
    _check_options("CreateSnapshot", options, known=("name",))
    grant = node.config.policy.of(pod.record.pod.namespace)
    lacking = next((one for one in (FORKABLE, SNAPSHOT) if one not in grant.bounds.annotations), "")
    if lacking or not grant.bounds.templates:
        key = grant.key("annotations" if lacking else "templates")
        raise WrongState(
            f"no snapshot can be made of {pod.title}: {key} in clearpod's configuration does not allow "
            f"{lacking or 'any'} in its namespace"
        )
    made = await node.snapshots.create(pod, options.get("name", ""))
    return pb.StatusResponse(info={"snapshot": json.dumps(as_json(made))})


async def list_snapshots(node: Node, request: pb.StatusRequest) -> pb.StatusResponse:
    """List the named snapshots of this node; `info` has them as JSON. Their files are not read."""
    listed = [as_json(one) for one in await node.snapshots.described()]
    return pb.StatusResponse(info={"snapshots": json.dumps(listed)})


async def show_snapshot(node: Node, request: pb.CheckpointPodRequest) -> pb.StatusResponse:
    """Show a named snapshot, and whether a pod could begin with it now; its files are compared with their digests.

    Raises NotFound.
    """
    shown = await node.snapshots.examined(*_named(request.options))
    return pb.StatusResponse(info={"snapshot": json.dumps(as_json(shown))})


async def remove_snapshot(node: Node, request: pb.CheckpointPodRequest) -> pb.StopPodSandboxResponse:
    """Remove a named snapshot; pods that have begun with it are not affected.

    Raises NotFound.
    """
    await node.snapshots.remove(*_named(request.options))
    return pb.StopPodSandboxResponse()


def _named(options: Mapping[str, str]) -> tuple[str, str]:
    """Namespace and name. Raises BadRequest."""
    if set(options) != {"namespace", "name"}:
        raise BadRequest("a snapshot is named by the options namespace and name")
    return options["namespace"], options["name"]


async def fork_pod(node: Node, request: pb.CheckpointPodRequest) -> pb.ListPodSandboxResponse:
    """Create copies of a running pod, with running containers. Options: `name`, of the first copy or with a number of
    all; `copies`, how many.

    One save serves all of them; if one can't be brought up none stays. Raises WrongState with what blocks it,
    BadRequest, AlreadyExists for a name that a pod has.
    """
    pod = node.pods.get(request.pod_sandbox_id)
    names = _fork_names(pod, request)
    with _reserved(node, names, namespace=pod.record.pod.namespace):
        return await _fork(node, pod, names=names)


async def _fork(node: Node, pod: LivePod, *, names: list[str]) -> pb.ListPodSandboxResponse:
    await copies.require_forkable(pod)
    asked = [
        pb.RunPodSandboxRequest(config=config_of_copy(pod, name), runtime_handler=pod.record.handler) for name in names
    ]
    requests = [(await pod_record(node, one), one.SerializeToString(deterministic=True)) for one in asked]
    running = [one.config for one in pod.containers.values() if one.is_running]
    made: list[str] = []
    async with copies.being_forked(pod, node.images, name=secrets.token_hex(8)) as origin:
        try:
            await _run(node, requests, origin=origin, made=made)
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


async def _run(node: Node, requests: "list[tuple[PodRecord, bytes]]", *, origin: Origin, made: list[str]) -> None:
    """All of them, some at once, also into `made` when they are there. One that fails ends the others; raises that."""
    turns = asyncio.Semaphore(AT_ONCE)

    async def run(record: "PodRecord", text: bytes) -> None:
        async with turns:
            made.append(await pod_start.run(node, record, request=text, origin=origin))

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


def _fork_names(pod: LivePod, request: pb.CheckpointPodRequest) -> list[str]:
    options = dict(request.options)
    _check_options("ForkPod", options, known=("copies", "name"))
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
    config.annotations.pop(SNAPSHOT, "")
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
