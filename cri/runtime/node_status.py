# SPDX-License-Identifier: Apache-2.0
"""RPCs about the node: Version, Status, RuntimeConfig, UpdateRuntimeConfig and GetContainerEvents."""

import json
from collections.abc import AsyncIterator

from cri import __version__
from cri.node import Node
from cri.pb import runtime_pb2 as pb
from cri.translate import history
from cri.translate.events import event

KUBELET_API = "0.1.0"


async def version(node: Node, request: pb.VersionRequest) -> pb.VersionResponse:
    """Return names and versions: the first call of every client, answered at once even if the node is busy.

    The kubelet insists on 0.1.0 and v1.
    """
    return pb.VersionResponse(
        version=KUBELET_API, runtime_name="clearpod", runtime_version=__version__, runtime_api_version="v1"
    )


async def status(node: Node, request: pb.StatusRequest) -> pb.StatusResponse:
    """Return whether the node can run pods; the kubelet calls it every 5 seconds. Sends nothing to guests.

    Conditions and features; with verbose also the configuration, the hypervisor, the warm pool, the disk, and the
    sandboxes that could not be started or were removed lately. Without a CNI configuration pods have loopback only, and
    NetworkReady is false; they are run nevertheless.
    """
    response = pb.StatusResponse(
        status=pb.RuntimeStatus(conditions=[await _runtime_ready(node), _network_ready(node)]),
        runtime_handlers=[pb.RuntimeHandler(name=name, features=_features(node)) for name in node.handlers],
        features=pb.RuntimeFeatures(supplemental_groups_policy=True, mount_options=True),
    )
    if request.verbose:
        response.info["config"] = node.config_json()
        response.info["version"] = __version__
        response.info["hypervisor"] = node.hypervisor
        response.info["pool"] = json.dumps(node.pods.pool.counts())
        if node.templates:
            response.info["templates"] = json.dumps(node.templates.counts())
        response.info["snapshots"] = json.dumps(node.snapshots.counts())
        if node.hub:
            response.info["nri"] = json.dumps({"plugins": node.hub.titles()})
        counts = await node.storage.counts(node.pods.with_disks())
        held = [pod.id for pod in node.pods.pods() if pod.held]
        response.info["storage"] = json.dumps({**counts, "held": held})
        response.info["failedSandboxes"] = json.dumps([history.failure(one) for one in node.failures.all()])
        response.info["removedSandboxes"] = json.dumps([history.removed(one) for one in node.pods.removed])
        response.info["streaming"] = node.streaming.address if node.streaming else ""
        response.info["metrics"] = node.metrics_url
    return response


def _features(node: Node) -> pb.RuntimeHandlerFeatures:
    return pb.RuntimeHandlerFeatures(recursive_read_only_mounts=True, user_namespaces=not node.lacks_user_namespaces)


async def _runtime_ready(node: Node) -> pb.RuntimeCondition:
    if not node.is_ready:
        return _not_ready("Recovering", "the pods of the previous daemon are being adopted")
    lack = await node.readiness.check()
    return _not_ready(lack.reason, lack.message) if lack else pb.RuntimeCondition(type="RuntimeReady", status=True)


def _not_ready(reason: str, message: str) -> pb.RuntimeCondition:
    return pb.RuntimeCondition(type="RuntimeReady", reason=reason, message=message)


def _network_ready(node: Node) -> pb.RuntimeCondition:
    """The configuration is read each time, which is a file or two: so a change counts at once."""
    is_ready, note = node.network.readiness()
    if is_ready:
        return pb.RuntimeCondition(type="NetworkReady", status=True, message=note)
    return pb.RuntimeCondition(
        type="NetworkReady", reason="NetworkPluginNotReady", message=f"pods get no network: {note}"
    )


async def runtime_config(node: Node, request: pb.RuntimeConfigRequest) -> pb.RuntimeConfigResponse:
    """Return the cgroup driver that the kubelet should use."""
    driver = pb.SYSTEMD if node.host.has_scopes else pb.CGROUPFS
    return pb.RuntimeConfigResponse(linux=pb.LinuxRuntimeConfiguration(cgroup_driver=driver))


async def update_runtime_config(node: Node, request: pb.UpdateRuntimeConfigRequest) -> pb.UpdateRuntimeConfigResponse:
    """Accept the node's pod CIDR from the kubelet and ignore it: CNI's own configuration decides here."""
    return pb.UpdateRuntimeConfigResponse()


async def get_container_events(node: Node, request: pb.GetEventsRequest) -> AsyncIterator[pb.ContainerEventResponse]:
    """Stream events of containers and pods, until the client disconnects.

    RESOURCE_EXHAUSTED for a client that reads too slowly; nothing else notices it.
    """
    subscription = node.events.subscribe(event)
    try:
        async for one in subscription:
            yield one
    finally:
        subscription.close()
