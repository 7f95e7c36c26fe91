# SPDX-License-Identifier: Apache-2.0
"""PodSandboxConfig -> PodRecord. Called by RunPodSandbox. Pure."""

import os
import secrets
import signal
import time
from collections.abc import Mapping

from cri import policy
from cri.config import Config
from cri.pb import runtime_pb2 as pb
from cri.store.pods import PodRecord
from cri.translate import annotations, extras, host_pods, kernel, network, profile, security, sizes, userns
from cri.translate.annotations import Sizes
from cri.translate.bounds import SHOWN, short
from cri.translate.guest_volumes import PodVolumes
from cri.translate.sizes import Facts, Size
from stage1.errors import BadRequest, NotFound
from stage1.pod import sysctls
from stage1.pod.model import MANUAL, SUSPEND, Pod

SIGNALS = tuple(one.name for one in signal.Signals if one not in (signal.SIGKILL, signal.SIGSTOP))
WINDOW_PER_MEMORY = 2
MIB = 1 << 20


def record(
    request: pb.RunPodSandboxRequest,
    config: Config,
    *,
    handlers: tuple[str, ...],
    facts: Facts = Facts(),  # noqa: B008 - a constant
    volumes: PodVolumes = PodVolumes(),  # noqa: B008 - a constant
) -> PodRecord:
    """The pod that the request asks for, with a new id. Raises BadRequest, NotFound or Unsupported."""
    sandbox = request.config
    if request.runtime_handler not in handlers:
        known = ", ".join(filter(None, handlers))
        why = kernel.not_built(request.runtime_handler)
        raise NotFound(f'no runtime for "{request.runtime_handler[:SHOWN]}" is configured; known: {known}{why}')
    _check_names(sandbox.metadata)
    _check_namespaces(sandbox.linux.security_context, config)
    log_directory = _log_directory(sandbox.log_directory)
    usual = sizes.ceiling(sandbox, config, facts=facts)
    pod = _pod(request, config, facts=facts, usual=usual)
    pod = pod if pod.host else pod._replace(**volumes._asdict())
    annotations.check(request, pod, plain=_plain_sizes(config, usual), grant=config.policy.of(pod.namespace))
    return PodRecord(
        pod=pod,
        config=sandbox.SerializeToString(),
        handler=request.runtime_handler,
        created_ns=time.time_ns(),
        log_directory=log_directory,
    )


def plain(config: Config) -> Pod:
    """A pod without special requests, for the warm pool: it has no name, and an id that nothing has."""
    request = pb.RunPodSandboxRequest()
    return _pod(request, config, facts=Facts(), usual=sizes.ceiling(request.config, config))


def _plain_sizes(config: Config, usual: Size) -> Sizes:
    """Return the VM's sizes that follow from the configuration, without annotations."""
    window_mib = min(config.vm.window_mib, usual.memory_mib * WINDOW_PER_MEMORY)
    return Sizes(usual.memory_mib, usual.vcpus, window_mib, config.vm.scratch_mib)


def _pod(request: pb.RunPodSandboxRequest, config: Config, *, facts: Facts, usual: Size) -> Pod:
    sandbox = request.config
    names, dns, size = sandbox.metadata, sandbox.dns_config, sizes.of_pod(sandbox, config, usual=usual)
    limit_bytes = max(sandbox.linux.resources.memory_limit_in_bytes, 0)
    pod = Pod(
        id=secrets.token_hex(32),
        name=names.name,
        namespace=names.namespace,
        uid=names.uid,
        attempt=names.attempt,
        hostname=network.hostname(sandbox.hostname, pod_name=names.name),
        memory_mib=size.memory_mib,
        vcpus=size.vcpus,
        online_vcpus=size.online_vcpus,
        sysctls=_sysctls(sandbox.linux.sysctls),
        shm_bytes=(annotations.number(sandbox, policy.SHM) or 0) * MIB,
        dns_servers=network.dns_servers(dns.servers),
        dns_searches=network.dns_texts(dns.searches, what="searches"),
        dns_options=network.dns_texts(dns.options, what="options"),
        hypervisor=config.vm.hypervisor,
        ports=network.ports(sandbox),
        ingress_bits=network.bandwidth(sandbox, network.INGRESS),
        egress_bits=network.bandwidth(sandbox, network.EGRESS),
        networks=network.more_networks(sandbox),
        window_mib=_window_mib(sandbox, config, memory_mib=size.memory_mib),
        ids=userns.of_pod(sandbox.linux.security_context.namespace_options),
        kernel=kernel.variant(request),
        profile=profile.of_pod(sandbox),
        allow_spoofing=annotations.is_true(sandbox, policy.SPOOFING),
        cgroup_parent=sandbox.linux.cgroup_parent,
        limit_bytes=limit_bytes,
        overhead_bytes=max(sandbox.linux.overhead.memory_limit_in_bytes, 0),
        is_bounded=limit_bytes > 0 and facts.allowed_bytes > 0,
        scratch_mib=annotations.scratch_mib(sandbox, config.vm.scratch_mib),
        hosts=extras.hosts(sandbox.annotations),
        boots=bool(annotations.choice(sandbox, policy.TEMPLATE, values=("none",)))
        or not config.policy.of(names.namespace).bounds.templates,
        suspend=_suspend(sandbox),
    )
    host = security.host_namespaces(sandbox.linux.security_context.namespace_options)
    if not host:
        return pod
    host_pods.check(sandbox.annotations)
    return host_pods.pod(pod, host)


def _suspend(sandbox: pb.PodSandboxConfig) -> str:
    """A pod that is copied, or is a copy, is made as one that can be suspended."""
    annotations.choice(sandbox, policy.COPY_SIGNAL, values=SIGNALS)
    asked = annotations.choice(sandbox, policy.SUSPEND, values=SUSPEND)
    return asked or (MANUAL if annotations.is_saved(sandbox) else "")


def _window_mib(sandbox: pb.PodSandboxConfig, config: Config, *, memory_mib: int) -> int:
    """The annotation, else as configured but at most twice the memory, 3 percent of which that costs."""
    asked = annotations.number(sandbox, policy.WINDOW)
    return min(config.vm.window_mib, memory_mib * WINDOW_PER_MEMORY) if asked is None else asked


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
    """The sysctls, sorted by name. Only the guest's kernel knows which exist, and it is asked at the start."""
    sysctls.check(given)
    return tuple(sorted(given.items()))


def _check_names(names: pb.PodSandboxMetadata) -> None:
    """Raise BadRequest for names that CNI_ARGS, NAME=VALUE;NAME=VALUE, could not hold."""
    if not names.name or not names.namespace:
        raise BadRequest("a sandbox needs metadata.name and metadata.namespace")
    for what in ("name", "namespace", "uid"):
        if set(";=") & set(text := getattr(names, what)):
            raise BadRequest(f"metadata.{what} must be without ';' and '=', but it is {short(text)}")


def _log_directory(path: str) -> str:
    """The normalised path: without double slashes and dots."""
    if path and (not path.startswith("/") or ".." in path.split("/")):
        raise BadRequest(f"log_directory must be an absolute path without '..', but it is {short(path)}")
    return "/" + os.path.normpath(path).lstrip("/") if path else ""
