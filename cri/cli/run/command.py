# SPDX-License-Identifier: Apache-2.0
"""`clearpod run [IMAGE] [CMD...]`: one container in a virtual machine of its own.

In the foreground, without a daemon: brings the image here, boots the VM, passes streams and signals through, and
returns the container's exit code. Everything that was made is gone when it ends; the image stays in the store. With
--detach the daemon gets the same pod (`detached`).
"""

import argparse
import asyncio
import logging
import os
import sys
import time
from collections.abc import Coroutine
from typing import Any

from cri import policy
from cri.cli import credentials, root, shown
from cri.cli.parser import Command, Parser
from cri.cli.run import annotations as run_annotations
from cri.cli.run import options, sample
from cri.cli.run import request as run_request
from cri.cli.run.foreground import PASSED_ON, Foreground, Timeline
from cri.cli.run.request import Request
from cri.config import Config, load
from cri.image.pull import pull
from cri.image.source import LOCAL
from cri.pb import runtime_pb2 as pb
from cri.store.images import Image, ImageStore
from cri.store.pods import PodRecord
from cri.translate import own_kernel, sandbox
from stage1 import engine
from stage1.errors import BadRequest, NotFound, Unavailable, Unsupported
from stage1.linux.cgroup import OURS
from stage1.pod.model import MOST_WINDOW_MIB, Pod
from stage1.rootfs.flat import flatten
from stage1.rootfs.share import ImageFiles
from stage1.vm import hypervisors, kernels
from stage1.vm.choose import choose

EXAMPLES = (
    ("sudo clearpod run", "the sample image, which needs no registry"),
    ("sudo clearpod run -it alpine sh", "a shell in a new pod"),
    ("sudo clearpod run -v ./site:/usr/share/nginx/html:ro -p 8080:80 nginx", "a web server with files of the host"),
    ("sudo clearpod run -m 64m --cpus 0.5 --read-only -u 1000 alpine id", "small, and with few privileges"),
    ("sudo clearpod run -d --name web nginx", "run by the daemon; prints the pod's id"),
    (
        "sudo clearpod run --timeline oci:./image /bin/server --port 80",
        "an image in a directory; prints how long each step took",
    ),
)
WINDOW_PER_MEMORY = 4
"""An image of four times the guest's memory costs it one sixteenth of that (64 bytes for each page of 4096)."""
EVERYTHING = policy.Policy(
    annotations=policy.KNOWN,
    max_memory_mib=policy.MOST_MEMORY_MIB,
    max_vcpus=policy.MOST_VCPUS,
    max_shm_mib=policy.MOST_MEMORY_MIB,
    max_window_mib=MOST_WINDOW_MIB,
    max_scratch_mib=policy.MOST_SCRATCH_MIB,
    networks=("*",),
    profiles=("*",),
)
"""The policy of pods in the foreground, which only root can run: the policy is for requests to the daemon."""


def add_arguments(parser: Parser) -> None:
    """The options of `clearpod run`."""
    what = "a registry reference, oci:DIR[:REF] or docker-archive:FILE; default: the sample image"
    parser.add_argument("image", nargs="?", metavar="IMAGE", help=what)
    parser.take_command(after=1)
    parser.usage = "clearpod run [OPTIONS] [IMAGE] [CMD...]"
    parser.epilog = (
        "Options come before IMAGE; what follows it, or --, replaces the image's Cmd. Exit codes: 125 if "
        "clearpod failed, 126 if the command is not executable, 127 if it does not exist, else the command's own, "
        "128 + n when signal n ended it."
    )
    options.add(parser)


def main(args: argparse.Namespace) -> int:
    """Run the pod; the result is the container's exit code, 128 + signal when it was killed, 0 when it is detached."""
    timeline = Timeline(time.monotonic())
    logging.getLogger("clearpod").addHandler(logging.NullHandler())  # standard error is the container's
    try:
        root.require("makes virtual machines, mounts and network devices")
        request = run_request.of(args, os.environ)
        body = _detach(args, request) if args.detach else _run(args, request, timeline=timeline)
        return asyncio.run(_until_interrupted(body))
    finally:
        if args.timeline:
            sys.stderr.write(timeline.text())


async def _until_interrupted(body: Coroutine[Any, Any, int]) -> int:
    """The result of `body`. A signal undoes what was done so far, and gives 128 + its number.

    That is for the time before the container runs; then `Foreground` handles them.
    """
    got: list[int] = []
    task = asyncio.ensure_future(body)

    def interrupted(number: int) -> None:
        if not got:  # the clean-up is not to be interrupted
            task.cancel()
        got.append(number)

    for number in PASSED_ON:
        asyncio.get_running_loop().add_signal_handler(number, interrupted, number)
    try:
        return await task
    except asyncio.CancelledError:
        return 128 + got[0]


async def _detach(args: argparse.Namespace, request: Request) -> int:
    from cri.cli.run import detached

    config = load(args.config)
    detached.check(args)
    auth = None
    if not args.image or args.image.startswith(LOCAL):
        image, _ = await _bring(config, args)  # which the daemon would not read from the caller's files
        request.container.image.image = image.id
    else:
        request.container.image.image = args.image
        auth = credentials.of_command(args.creds, args.authfile, reference=args.image)
    print(await detached.hand_over(config, request, when=args.pull, removes=args.rm, auth=auth))
    return 0


async def _run(args: argparse.Namespace, request: Request, *, timeline: Timeline) -> int:
    config = load(args.config)
    host = _host(config, args)
    record = planned(config, request, journal=args.journal)
    image, files = await _bring(config, args)
    _check_kernel(request, image)
    if policy.WINDOW not in request.sandbox.annotations:
        record = record._replace(pod=record.pod._replace(window_mib=_window_mib(config, record.pod, files=files)))
    request.container.image.image = image.id
    timeline.mark("the image is in the store")
    for one in request.chosen:
        protocol = shown.PROTOCOLS[one.protocol]
        where = shown.port(one.host_ip, one.host_port, inner=one.container_port, protocol=protocol)
        sys.stderr.write(f"clearpod: published {where}\n")
    foreground = Foreground(host, record, timeline, boot_timeout_s=config.vm.boot_timeout_s)
    return await foreground.run(image, files, config=request.container)


def _check_kernel(request: Request, image: Image) -> None:
    """Raise what has no meaning for an image with a kernel of its own, or for one without."""
    annotations, container = request.sandbox.annotations, request.container
    if not own_kernel.of(image, annotations).path:
        run_annotations.require_meant(annotations, image=image.title)
    elif container.stdin or container.tty:
        raise Unsupported(
            f"the image {image.title} has a kernel of its own, which has no standard input; leave out --interactive "
            "and --tty"
        )


def _host(config: Config, args: argparse.Namespace) -> engine.Host:
    choice = choose(args.hypervisor or config.vm.hypervisor, hypervisors.facts())
    if choice.warning:
        sys.stderr.write(f"clearpod: warning: {choice.warning}\n")
    if kernels.chosen(config.guest_dir, "", hypervisor=choice.hypervisor) == kernels.STOCK:
        sys.stderr.write(f"clearpod: warning: {kernels.SLOW}; {kernels.REMEDY}\n")
    return engine.Host(
        run_dir=config.run_dir,
        guest_dir=config.guest_dir,
        state_dir=config.state_dir,
        choice=choice,
        scratch_mib=config.vm.scratch_mib,
        network=config.networks if run_request.has_network(args) else None,
        ids=config.jail.ids,
        cgroup_parent=OURS,
    )


async def _bring(config: Config, args: argparse.Namespace) -> tuple[Image, ImageFiles]:
    store = ImageStore(config.state_dir)
    try:
        image = await _find(store, args.image or sample.reference(config.guest_dir), args=args, config=config)
        return image, store.usable(image)
    finally:
        store.close()


async def _find(store: ImageStore, reference: str, *, args: argparse.Namespace, config: Config) -> Image:
    """The stored image or the registry's, depending on --pull; local files are always read."""
    is_local, when = reference.startswith(LOCAL), args.pull
    stored = None if is_local or when == "always" else store.find(reference)
    if stored and (when == "never" or (when == "missing" and not store.examine(stored, whole=False))):
        return stored
    if when == "never" and not is_local:
        raise NotFound(f"the image {reference} is not stored, and --pull never does not bring it")
    auth = credentials.of_command(args.creds, args.authfile, reference=reference)
    try:
        return await pull(store, reference, config=config, auth=auth)
    except (NotFound, Unavailable):
        if stored and when == "newer":
            return stored
        raise


def planned(config: Config, request: Request, *, journal: str = "") -> PodRecord:
    """The pod in the foreground. Its limits are never changed, so its VM is not larger than they need."""
    if journal and not request.sandbox.annotations.get(policy.PROFILE, ""):
        raise BadRequest("--journal is for --profile systemd: the ordinary guest keeps no journal")
    run_annotations.require_in_foreground(request.sandbox.annotations)
    vm = config.vm.but(ceiling=1.0)
    limits = config.limits.but(max_pod_memory_mib=0)
    own = config.but(vm=vm, limits=limits, policy=EVERYTHING)
    record = sandbox.record(pb.RunPodSandboxRequest(config=request.sandbox), own, handlers=("",))
    return record._replace(pod=record.pod._replace(journal=os.path.abspath(journal) if journal else ""))


def _window_mib(config: Config, pod: Pod, *, files: ImageFiles) -> int:
    """The size of the DAX window that the image needs, since there will be no other image; 0 if that would cost the
    guest too much memory.
    """
    last = flatten(files)[-1]
    needed = -(-(last.offset + last.size) // (1 << 20))
    return needed if config.vm.window_mib and needed <= pod.memory_mib * WINDOW_PER_MEMORY else 0


COMMANDS = {"run": Command(EXAMPLES, add_arguments, main)}
