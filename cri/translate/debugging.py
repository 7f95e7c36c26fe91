# SPDX-License-Identifier: Apache-2.0
"""A container for `clearpod debug`: in its guest's own namespaces, unconfined there. Called by CreateContainer. Pure.

It is asked for by an annotation of the container, which no author of a pod can set: kubelet makes those of containers.
The policy refuses it unless the pod's namespace may have it (docs/design/guest.md).
"""

from cri.config import Config
from cri.pb import runtime_pb2 as pb
from cri.policy import DEBUG
from cri.store.pods import ContainerRecord
from stage1.errors import BadRequest, Unsupported
from stage1.pod.model import Pod, Security


def is_asked(config: pb.ContainerConfig) -> bool:
    """Whether the container is a debugging container."""
    return config.annotations.get(DEBUG) == "true"


def check(pod: Pod, config: Config) -> None:
    """Raise BadRequest when the policy refuses it, Unsupported for a pod that has no guest of its own to look into."""
    grant = config.policy.of(pod.namespace)
    if not grant.bounds.debug:
        raise BadRequest(
            f"pods of the namespace {pod.namespace} may not be debugged; {grant.key('debug')} in clearpod's"
            " configuration would allow it"
        )
    if pod.host:
        raise Unsupported("a pod with namespaces of the host has no guest to debug; its processes are the host's")
    if pod.ids.length:
        raise Unsupported("a pod with a user namespace can't be debugged: no shell in it is root of its guest")


def unconfined(record: ContainerRecord) -> ContainerRecord:
    """The container with all capabilities, and the guest's own processes and network; its root stays its image's."""
    container = record.container._replace(security=Security(privileged=True, pid_namespace="node"))
    return record._replace(container=container)
