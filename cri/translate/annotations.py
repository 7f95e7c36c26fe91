# SPDX-License-Identifier: Apache-2.0
"""A pod's annotations, read and checked against the policy. Called by `sandbox`. Pure.

Annotations that are not in `policy.KNOWN` belong to other programs and are ignored.
"""

from typing import NamedTuple

from cri import policy
from cri.pb import runtime_pb2 as pb
from cri.policy import Grant, Names
from cri.snapshots import named
from cri.translate import kernel
from cri.translate.bounds import short
from stage1.errors import BadRequest
from stage1.pod.model import MOST_WINDOW_MIB, Pod

MOST = {
    policy.MEMORY: policy.MOST_MEMORY_MIB,
    policy.VCPUS: policy.MOST_VCPUS,
    policy.SHM: policy.MOST_MEMORY_MIB,
    policy.WINDOW: MOST_WINDOW_MIB,
    policy.SCRATCH: policy.MOST_SCRATCH_MIB,
}
"""The maximum of each number, whatever the policy is."""
FLAGS = (policy.SPOOFING, policy.FORKABLE)
"""Those that are true or false."""


class Sizes(NamedTuple):
    """The size of a pod's VM without the annotations: MiB of memory, of the window for images and of the disk for
    writable layers, and vCPUs.
    """

    memory_mib: int
    vcpus: int
    window_mib: int
    scratch_mib: int


def number(sandbox: pb.PodSandboxConfig, word: str) -> int | None:
    """The annotation as a whole number, None when it is absent. Raises BadRequest, also above `MOST`."""
    text = sandbox.annotations.get(word, "")
    if word not in sandbox.annotations or (not text and word != policy.WINDOW):
        return None
    is_number = text.isascii() and text.isdigit() and len(text) <= len(str(MOST[word]))
    if not is_number or int(text) > MOST[word]:
        raise BadRequest(
            f"the annotation {word} must be a whole number from 0 to {MOST[word]}, but it is {short(text)}"
        )
    return int(text)


def scratch_mib(sandbox: pb.PodSandboxConfig, usual_mib: int) -> int:
    """Return the size of the disk for writable layers; 0 for the default. Raises BadRequest.

    An empty disk of each size is kept as a template, so there are few sizes: 16, 24, 32, 48, 64, 96 and so on. It is
    one that is not larger than what was asked for.
    """
    asked = number(sandbox, policy.SCRATCH)
    if not asked or asked == usual_mib:
        return 0
    if asked < policy.LEAST_SCRATCH_MIB:
        raise BadRequest(
            f"the annotation {policy.SCRATCH} must be at least {policy.LEAST_SCRATCH_MIB}, but it is {asked}"
        )
    whole: int = 1 << (asked.bit_length() - 1)
    return whole + whole // 2 if asked >= whole + whole // 2 else whole


def is_true(sandbox: pb.PodSandboxConfig, word: str) -> bool:
    """Whether the pod asks for what the annotation names; false when it is absent. Raises BadRequest."""
    text = sandbox.annotations.get(word, "false")
    if text not in ("true", "false"):
        raise BadRequest(f"the annotation {word} must be true or false, but it is {short(text)}")
    return text == "true"


def choice(sandbox: pb.PodSandboxConfig, word: str, *, values: tuple[str, ...]) -> str:
    """One of the `values`; empty when the annotation is absent. Raises BadRequest for another one."""
    text = sandbox.annotations.get(word, "")
    if text and text not in values:
        raise BadRequest(f"the annotation {word} must be {' or '.join(values)}, but it is {short(text)}")
    return text


def snapshot(sandbox: pb.PodSandboxConfig) -> str:
    """The named snapshot with which the pod is to begin; empty when it asks for none. Raises BadRequest."""
    if name := sandbox.annotations.get(policy.SNAPSHOT, ""):
        named.check_name(name, what=f"value of the annotation {policy.SNAPSHOT}")
        if policy.FORK_OF in sandbox.annotations:
            raise BadRequest(f"a pod can't have both annotations {policy.FORK_OF} and {policy.SNAPSHOT}; leave one out")
    return name


def _original(sandbox: pb.PodSandboxConfig) -> str:
    """The pod of which this one is to be a copy, empty when it is none. Raises BadRequest when the annotation is there
    and names nothing: the pod would boot, and its programs begin anew.
    """
    name = sandbox.annotations.get(policy.FORK_OF, "")
    if policy.FORK_OF in sandbox.annotations and not name:
        raise BadRequest(f"the annotation {policy.FORK_OF} must name a pod, but it is ''; leave it out, or fill it in")
    return name


def is_saved(sandbox: pb.PodSandboxConfig) -> bool:
    """Whether the pod is made as one whose guest can be saved: to be suspended or copied, or since it is a copy."""
    is_copy = bool(_original(sandbox) or snapshot(sandbox))
    return is_copy or is_true(sandbox, policy.FORKABLE) or bool(sandbox.annotations.get(policy.SUSPEND))


def check(request: pb.RunPodSandboxRequest, pod: Pod, *, plain: Sizes, grant: Grant) -> None:
    """Raise BadRequest for an annotation that the policy does not allow, or not with this value.

    `pod` is what the request asks for.
    """
    sandbox = request.config
    for word in policy.KNOWN:
        is_asked = bool(sandbox.annotations.get(word)) and (word not in FLAGS or is_true(sandbox, word))
        if is_asked and word not in grant.bounds.annotations:
            raise BadRequest(
                f"the annotation {word} is not allowed in namespace {pod.namespace!r}; {grant.key('annotations')} in "
                "clearpod's configuration would have to list it"
            )
    if (name := snapshot(sandbox)) and not grant.bounds.templates:
        raise BadRequest(
            f"a pod of namespace {pod.namespace!r} can't begin with the snapshot {name}; {grant.key('templates')} in "
            "clearpod's configuration would have to allow it"
        )
    _check_numbers(sandbox, pod, plain=plain, grant=grant)
    _check_networks(pod, grant)
    _check_name(pod.kernel, grant.bounds.kernels, asker=kernel.asker(request), key=grant.key("kernels"))
    profile = f"the annotation {policy.PROFILE} asks for"
    _check_name(pod.profile, grant.bounds.profiles, asker=profile, key=grant.key("profiles"))


def _check_numbers(sandbox: pb.PodSandboxConfig, pod: Pod, *, plain: Sizes, grant: Grant) -> None:
    most = grant.bounds
    for word, bound, key in (
        (policy.MEMORY, max(most.max_memory_mib, plain.memory_mib), "max_memory_mib"),
        (policy.VCPUS, max(most.max_vcpus, plain.vcpus), "max_vcpus"),
        (policy.SHM, most.max_shm_mib or pod.memory_mib, "max_shm_mib"),
        (policy.WINDOW, max(most.max_window_mib, plain.window_mib), "max_window_mib"),
        (policy.SCRATCH, max(most.max_scratch_mib, plain.scratch_mib), "max_scratch_mib"),
    ):
        asked = number(sandbox, word) or 0
        if asked > bound:
            raise BadRequest(
                f"the annotation {word} is {asked}, and a pod of namespace {pod.namespace!r} may have at most {bound}; "
                f"{grant.key(key)} in clearpod's configuration would allow more"
            )


def _check_networks(pod: Pod, grant: Grant) -> None:
    if len(pod.networks) > grant.bounds.max_networks:
        raise BadRequest(
            f"the annotation {policy.NETWORKS} names {len(pod.networks)} networks, and a pod of namespace "
            f"{pod.namespace!r} may have {grant.bounds.max_networks}; name fewer, or raise "
            f"{grant.key('max_networks')} in clearpod's configuration"
        )
    for name in pod.networks:
        asker = f"the annotation {policy.NETWORKS} asks for"
        _check_name(name, grant.bounds.networks, asker=asker, key=grant.key("networks"))


def _check_name(name: str, allowed: Names, *, asker: str, key: str) -> None:
    """An empty name is the ordinary kernel or profile, which everybody has."""
    if name and not policy.is_match(name, allowed):
        raise BadRequest(
            f"{asker} {short(name)}, which {key} in clearpod's configuration does not allow; it allows "
            f"{', '.join(allowed) or 'none'}"
        )
