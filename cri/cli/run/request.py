# SPDX-License-Identifier: Apache-2.0
"""The options of `clearpod run` -> the CRI's messages, which the daemon gets, or this process makes a pod of.

Called by `command`. Reads the command line, the environment and the host's sizes; makes nothing.
"""

import argparse
import math
import os
import re
import secrets
from collections.abc import Mapping
from typing import NamedTuple

from cri import policy
from cri.cli.run import annotations as run_annotations
from cri.cli.run import values
from cri.pb import runtime_pb2 as pb
from cri.translate import extras
from cri.translate.bounds import short
from stage1.errors import BadRequest
from stage1.linux.host import memory_mib
from stage1.pod import oci

MIB = 1 << 20
LEAST_BYTES = 4 * MIB
"""Less would be killed before its first instruction, and is most likely a number without its unit."""
PERIOD_US = 100_000
IN_MEMORY = ("/run", "/tmp", "/var/tmp")
"""The directories that are writable in a container with a read-only root, as with podman."""
MOST_NAME = 253
_NAME = re.compile("[a-zA-Z0-9][a-zA-Z0-9_.-]*")
NONE, USUAL = "none", ("", "default", "bridge", "podman")


class Request(NamedTuple):
    """A pod and its container, whose image is still to be named; `chosen` are the ports that got any free one."""

    sandbox: pb.PodSandboxConfig
    container: pb.ContainerConfig
    chosen: tuple[pb.PortMapping, ...] = ()


def of(args: argparse.Namespace, ours: Mapping[str, str]) -> Request:
    """The command line as CRI messages; `ours` are the caller's environment variables. Raises BadRequest, NotFound."""
    name = f"run-{secrets.token_hex(3)}" if args.name is None else args.name
    _require_utf8(args)
    _check_names(name, args)
    _check_sizes(args)
    annotations = run_annotations.given(args.annotation)
    container = _container(args, ours, annotations=annotations)
    sandbox = _sandbox(args, container, name=name, annotations=annotations)
    return Request(sandbox, container, tuple(values.take_free(sandbox.port_mappings)))


def _check_names(name: str, args: argparse.Namespace) -> None:
    """Raise BadRequest for a name that is none, and for an image without one."""
    if not _NAME.fullmatch(name) or len(name) > MOST_NAME:
        raise BadRequest(
            f"--name {short(name)} is not a name: it begins with a letter or digit, has these, _, . and - alone, and "
            f"at most {MOST_NAME} of them"
        )
    if args.image == "":
        raise BadRequest("the image's name is empty; leave it out for the sample image")


def _require_utf8(args: argparse.Namespace) -> None:
    """Raise BadRequest for bytes that the CRI's messages can't have; values of variables may have any."""
    for name, value in vars(args).items():
        for text in value if isinstance(value, list) else (value,):
            checked = text.partition("=")[0] if name == "env" else text
            if isinstance(checked, str) and not checked.isascii() and not values.is_utf8(checked):
                what = {"rest": "the command's word", "image": "the image"}.get(name, f"--{name.replace('_', '-')}")
                raise BadRequest(f"{what} {os.fsencode(text)[:100]!r} is not UTF-8; write it in that encoding")


def has_network(args: argparse.Namespace) -> bool:
    """Whether the pod gets a network. Raises BadRequest for a network that a VM can't have."""
    name: str = args.network
    if name == "host" or ":" in name or name in ("private", "pasta", "slirp4netns"):
        raise BadRequest(
            f"--network {name} is not supported: a virtual machine has a network stack of its own; publish ports by "
            "-p, or take none, default or the name of a CNI network"
        )
    if name == NONE and args.publish:
        raise BadRequest("--publish needs a network, and --network none leaves the pod without one")
    return name != NONE


def _check_sizes(args: argparse.Namespace) -> None:
    host_mib = memory_mib()[0]
    for option, text in (("--memory", args.memory), ("--vm-memory", args.vm_memory), ("--shm-size", args.shm_size)):
        if not text:
            continue
        size = values.size(text, option)
        if size < LEAST_BYTES and option != "--shm-size":
            hint = f"; did you mean {text}m?" if text.isdigit() else ""
            raise BadRequest(f"{option} {text} is less than {LEAST_BYTES >> 20}m, too little for any container{hint}")
        if size > host_mib * MIB:
            raise BadRequest(f"{option} {text} is more than the {host_mib}m that this host has")


def _cpus(text: str) -> int:
    """The quota in microseconds for each period; 0: no limit."""
    if not text:
        return 0
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    most = os.cpu_count() or 1
    if not 0.01 <= number <= most:
        raise BadRequest(f"--cpus {text[:32]} must be a number from 0.01 to {most}, which this host has")
    return round(number * PERIOD_US)


def _sandbox(
    args: argparse.Namespace, container: pb.ContainerConfig, *, name: str, annotations: Mapping[str, str]
) -> pb.PodSandboxConfig:
    if not has_network(args) and annotations.get(policy.NETWORKS):
        raise BadRequest(f"--annotation {policy.NETWORKS} does not go with --network {NONE}; leave one of them out")
    sandbox = pb.PodSandboxConfig(
        metadata=pb.PodSandboxMetadata(name=name, namespace="default", uid=secrets.token_hex(16)),
        hostname=args.hostname or "",
        dns_config=pb.DNSConfig(servers=args.dns, searches=args.dns_search),
        port_mappings=[one for text in args.publish for one in values.ports(text)],
        annotations=run_annotations.merged(annotations, _annotations(args)),
    )
    sandbox.linux.security_context.privileged = args.privileged
    sandbox.linux.resources.CopyFrom(container.linux.resources)
    return sandbox


def _annotations(args: argparse.Namespace) -> dict[str, str]:
    sizes = {policy.MEMORY: args.vm_memory, policy.SHM: args.shm_size}
    given = {name: str(-(-values.size(text, "") // MIB)) for name, text in sizes.items() if text}
    given |= {policy.NETWORKS: args.network} if args.network not in (NONE, *USUAL) else {}
    given |= {policy.PROFILE: args.profile} if args.profile else {}
    given |= {policy.KERNEL: args.vm_kernel} if args.vm_kernel else {}
    hosts = [extras.host_of(text) for text in args.add_host]
    given |= {extras.HOSTS: ",".join(f"{one.name}:{one.address}" for one in hosts)} if hosts else {}
    return given


def _container(
    args: argparse.Namespace, ours: Mapping[str, str], *, annotations: Mapping[str, str]
) -> pb.ContainerConfig:
    made = [values.mount(text) for text in args.mount]
    mounts = [values.volume(text) for text in args.volume] + [one for one in made if isinstance(one, pb.Mount)]
    container = pb.ContainerConfig(
        metadata=pb.ContainerMetadata(name="main"),
        envs=[
            pb.KeyValue(key=key, value=value.encode("utf-8", "surrogateescape"))
            for key, value in values.variables(args.env_file, args.env, ours=ours).items()
        ],
        working_dir=args.workdir,
        mounts=mounts,
        stdin=args.interactive or args.tty,
        tty=args.tty,
        linux=_linux(args),
    )
    _set_command(container, args)
    tmpfs = [*args.tmpfs, *(one for one in made if isinstance(one, str))]
    tmpfs += [path for path in IN_MEMORY if args.read_only and path not in _targets(mounts, tmpfs)]
    container.annotations.update(run_annotations.merged(annotations, _joined(tmpfs, args.ulimit)))
    extras.tmpfs(container.annotations)
    extras.rlimits(container.annotations)
    return container


def _joined(tmpfs: list[str], ulimits: list[str]) -> dict[str, str]:
    """The annotations of a container that stand for these options."""
    joined = {}
    for name, separator, given in ((extras.TMPFS, ";", tmpfs), (extras.ULIMITS, ",", ulimits)):
        if any(separator in text for text in given):
            raise BadRequest(f"an option of {name.rpartition('/')[2]} can't have the character {separator!r}")
        if given:
            joined[name] = separator.join(given)
    return joined


def _targets(mounts: list[pb.Mount], tmpfs: list[str]) -> set[str]:
    return {one.container_path for one in mounts} | {text.partition(":")[0].rstrip("/") for text in tmpfs}


def _set_command(container: pb.ContainerConfig, args: argparse.Namespace) -> None:
    """--entrypoint replaces the Entrypoint and drops the Cmd; an empty one leaves the words behind the image alone."""
    if args.entrypoint is None:
        container.args.extend(args.rest)
        return
    if not (command := [*values.entrypoint(args.entrypoint), *args.rest]):
        raise BadRequest("--entrypoint is empty, and there is no command behind the image's name")
    container.command.extend(command)


def _linux(args: argparse.Namespace) -> pb.LinuxContainerConfig:
    quota = _cpus(args.cpus)
    return pb.LinuxContainerConfig(
        resources=pb.LinuxContainerResources(
            memory_limit_in_bytes=values.size(args.memory, "--memory") if args.memory else 0,
            cpu_quota=quota,
            cpu_period=PERIOD_US if quota else 0,
        ),
        security_context=pb.LinuxContainerSecurityContext(
            privileged=args.privileged,
            readonly_rootfs=args.read_only,
            run_as_username=args.user,
            capabilities=pb.Capability(add_capabilities=args.cap_add, drop_capabilities=args.cap_drop),
            masked_paths=oci.MASKED,
            readonly_paths=oci.READONLY,
        ),
    )
