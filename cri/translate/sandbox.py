# SPDX-License-Identifier: Apache-2.0
"""PodSandboxConfig -> PodRecord. Called by RunPodSandbox. Pure."""

import os
import secrets
import time
from collections.abc import Mapping

from cri import policy
from cri.config import Config
from cri.pb import runtime_pb2 as pb
from cri.store.pods import PodRecord
from cri.translate import annotations, host_pods, kernel, network, profile, security, userns
from cri.translate.annotations import Sizes
from cri.translate.bounds import SHOWN, short
from stage1.errors import BadRequest, NotFound
from stage1.pod.model import Pod

SYSCTLS, SYSCTL_KEY_BYTES, SYSCTL_VALUE_BYTES = 64, 128, 256
"""What the agent takes, proto/agent/agent.options; the zero byte at the end counts."""
WINDOW_PER_MEMORY = 2
KEPT = ("memory.min", "memory.low")
"""By these the kubelet says requests, where it has MemoryQoS; LinuxContainerResources has no other field for them."""
_MOST_DIGITS = 15
MIB = 1 << 20


def record(
    request: pb.RunPodSandboxRequest, config: Config, *, handlers: tuple[str, ...], kept_bytes: int = 0
) -> PodRecord:
    """The pod that the request asks for, with a new id; `kept_bytes` is the memory that its cgroup keeps for it.

    Raises BadRequest, NotFound or Unsupported.
    """
    wanted = request.config
    if request.runtime_handler not in handlers:
        known = ", ".join(filter(None, handlers))
        raise NotFound(f'no runtime for "{request.runtime_handler[:SHOWN]}" is configured; known: {known}')
    _check_names(wanted.metadata)
    _check_namespaces(wanted.linux.security_context, config)
    log_directory = _log_directory(wanted.log_directory)
    pod = _pod(wanted, config, kept_bytes=kept_bytes)
    annotations.check(
        wanted, pod, plain=_plain_sizes(wanted, config, kept_bytes=kept_bytes), grant=config.policy.of(pod.namespace)
    )
    return PodRecord(
        pod=pod,
        config=wanted.SerializeToString(),
        handler=request.runtime_handler,
        created_ns=time.time_ns(),
        log_directory=log_directory,
    )


def plain(config: Config) -> Pod:
    """What a pod is that asks for nothing special, for the warm pool: it has no name, and an id that nothing has."""
    return _pod(pb.PodSandboxConfig(), config)


def _pod(wanted: pb.PodSandboxConfig, config: Config, *, kept_bytes: int = 0) -> Pod:
    names, dns = wanted.metadata, wanted.dns_config
    memory_mib, vcpus = size(wanted, config, kept_bytes=kept_bytes)
    pod = Pod(
        id=secrets.token_hex(32),
        name=names.name,
        namespace=names.namespace,
        uid=names.uid,
        attempt=names.attempt,
        hostname=network.hostname(wanted.hostname, pod_name=names.name),
        memory_mib=memory_mib,
        vcpus=vcpus,
        sysctls=_sysctls(wanted.linux.sysctls),
        shm_bytes=(annotations.number(wanted, policy.SHM) or 0) * MIB,
        dns_servers=network.dns_servers(dns.servers),
        dns_searches=network.dns_words(dns.searches, what="searches"),
        dns_options=network.dns_words(dns.options, what="options"),
        hypervisor=config.vm.hypervisor,
        ports=network.ports(wanted),
        ingress_bits=network.bandwidth(wanted, network.INGRESS_WORD),
        egress_bits=network.bandwidth(wanted, network.EGRESS_WORD),
        networks=network.more_networks(wanted),
        window_mib=_window_mib(wanted, config, memory_mib=memory_mib),
        ids=userns.of_pod(wanted.linux.security_context.namespace_options),
        kernel=kernel.variant(wanted),
        profile=profile.of_pod(wanted),
        allow_spoofing=annotations.spoofing(wanted),
        cgroup_parent=wanted.linux.cgroup_parent,
        limit_bytes=max(wanted.linux.resources.memory_limit_in_bytes, 0),
        scratch_mib=annotations.scratch_mib(wanted, config.vm.scratch_mib),
    )
    host = security.host_namespaces(wanted.linux.security_context.namespace_options)
    return host_pods.pod(pod, host) if host else pod


def size(wanted: pb.PodSandboxConfig, config: Config, *, kept_bytes: int = 0) -> tuple[int, int]:
    """Memory (MiB) and vCPUs of the VM: an annotation, else the default plus what the pod's limits or requests say,
    whatever is more, and its overhead.

    These come on top of the default, which feeds the guest itself: else the guest as a whole would run
    out of memory before a container meets its own limit. Raises BadRequest beyond limits.max_pod_memory_mib.
    """
    plain = _plain_sizes(wanted, config, kept_bytes=kept_bytes)
    memory_mib = annotations.number(wanted, policy.MEMORY) or plain.memory_mib
    vcpus = annotations.number(wanted, policy.VCPUS) or plain.vcpus
    most = config.limits.max_pod_memory_mib
    if most and memory_mib > most:
        raise BadRequest(f"the pod would need {memory_mib} MiB, and limits.max_pod_memory_mib allows {most} MiB")
    return memory_mib, min(vcpus, os.cpu_count() or 1)


def _plain_sizes(wanted: pb.PodSandboxConfig, config: Config, *, kept_bytes: int) -> Sizes:
    limits, overhead = wanted.linux.resources, wanted.linux.overhead
    requested = max(kept_bytes, *(_bytes(limits.unified.get(name, "")) for name in KEPT))
    extra = max(limits.memory_limit_in_bytes, requested) + max(overhead.memory_limit_in_bytes, 0)
    cpus = -(-limits.cpu_quota // limits.cpu_period) if limits.cpu_quota > 0 and limits.cpu_period > 0 else 0
    memory_mib = config.vm.memory_mib + -(-extra // MIB)
    vcpus = min(max(config.vm.vcpus, cpus), os.cpu_count() or 1)
    window_mib = min(config.vm.window_mib, memory_mib * WINDOW_PER_MEMORY)
    return Sizes(memory_mib, vcpus, window_mib, config.vm.scratch_mib)


def _bytes(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS else 0


def _window_mib(wanted: pb.PodSandboxConfig, config: Config, *, memory_mib: int) -> int:
    """The annotation, else as configured but at most twice the memory, 3 percent of which that costs."""
    said = annotations.number(wanted, policy.WINDOW)
    return min(config.vm.window_mib, memory_mib * WINDOW_PER_MEMORY) if said is None else said


def _check_namespaces(context: pb.LinuxSandboxSecurityContext, config: Config) -> None:
    options = context.namespace_options
    security.check_namespaces(options, who="pod", allowed=config.host_pods.allow)
    if options.network not in (pb.POD, pb.NODE) or options.ipc not in (pb.POD, pb.NODE):
        raise BadRequest("the network and ipc namespaces of a sandbox can only be of mode POD or NODE")
    if security.host_namespaces(options) and context.privileged and not config.host_pods.privileged:
        raise BadRequest(
            "a privileged pod with namespaces of the host would be root of this machine; "
            "host_pods.privileged in clearpod's configuration does not allow it"
        )


def _sysctls(given: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """In the order of their names. Which of them exist only the guest's kernel knows, and it is asked at the start."""
    if len(given) > SYSCTLS:
        raise BadRequest(f"a pod can set at most {SYSCTLS} sysctls, but this one has {len(given)}")
    for key, value in given.items():
        if not 0 < len(key.encode()) < SYSCTL_KEY_BYTES or len(value.encode()) >= SYSCTL_VALUE_BYTES:
            raise BadRequest(f"the sysctl {key[:40]!r} is too long, or has no name")
    return tuple(sorted(given.items()))


def _check_names(names: pb.PodSandboxMetadata) -> None:
    """CNI_ARGS has them as NAME=VALUE;NAME=VALUE."""
    if not names.name or not names.namespace:
        raise BadRequest("a sandbox needs metadata.name and metadata.namespace")
    for what in ("name", "namespace", "uid"):
        if set(";=") & set(text := getattr(names, what)):
            raise BadRequest(f"metadata.{what} must be without ';' and '=', but it is {short(text)}")


def _log_directory(path: str) -> str:
    """In its plain form: without double slashes and dots."""
    if path and (not path.startswith("/") or ".." in path.split("/")):
        raise BadRequest(f"log_directory must be an absolute path without '..', but it is {short(path)}")
    return "/" + os.path.normpath(path).lstrip("/") if path else ""
