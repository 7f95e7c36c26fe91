# SPDX-License-Identifier: Apache-2.0
"""`clearpod run [IMAGE] [-- CMD...]`: one pod in the foreground, without a daemon.

Brings the image here, boots a VM, runs one container in it, passes its streams and signals through, and returns its
exit code. Everything that was made is gone when it ends; the image stays in the store.
"""

import argparse
import asyncio
import logging
import os
import sys
import time
from collections.abc import Coroutine
from typing import Any

from cri.cli.foreground import PASSED_ON, Foreground
from cri.cli.marks import Timeline
from cri.cli.parser import Parser
from cri.config import Config, load
from cri.image.pull import pull
from cri.policy import MOST_MEMORY_MIB, MOST_VCPUS
from cri.store.images import Image, ImageStore
from stage1 import engine
from stage1.errors import BadRequest, NotFound
from stage1.linux.cgroup import OURS
from stage1.pod import profile
from stage1.pod.model import Pod, Process
from stage1.rootfs.flat import flatten
from stage1.rootfs.share import ImageFiles
from stage1.vm import hypervisors
from stage1.vm.choose import choose

EXAMPLES = (
    ("clearpod run", "the sample image, which needs no registry"),
    ("clearpod run -it docker.io/library/alpine sh", "a shell in a pod of its own"),
    (
        "clearpod run --timeline -m 256 oci:./image -- /bin/server --port 80",
        "an image from a directory, and where the time went",
    ),
)
WINDOW_PER_MEMORY = 4
"""An image of four times the guest's memory costs it one sixteenth of that (64 bytes for each page of 4096)."""


def add_arguments(parser: Parser) -> None:
    """The options of `clearpod run`."""
    what = "a registry reference, oci:DIR[:REF] or docker-archive:FILE; default: the sample image"
    parser.add_argument("image", nargs="?", metavar="IMAGE", default="", help=what)
    parser.take_command(after=1)
    parser.usage = "clearpod run [OPTIONS] [IMAGE] [CMD...]"
    parser.epilog = "Options come before IMAGE. What follows it, or --, replaces the image's Cmd; the Entrypoint stays."
    parser.add_argument("-m", "--memory", type=int, metavar="MIB", help="the VM's memory")
    parser.add_argument("-c", "--cpus", type=int, metavar="N", help="the VM's vCPUs")
    parser.add_argument("--hypervisor", choices=("auto", *hypervisors.names()), help="default: as configured")
    parser.add_argument("--profile", default="", metavar="NAME", help="the guest's userspace: default, or systemd")
    parser.add_argument("--journal", default="", metavar="DIR", help="keep the journal of --profile systemd there")
    parser.add_argument("-e", "--env", action="append", default=[], metavar="KEY=VALUE", help="one more variable")
    parser.add_argument("-w", "--workdir", default="", metavar="DIR", help="working directory in the container")
    parser.add_argument("-i", "--stdin", action="store_true", help="pass standard input through")
    parser.add_argument("-t", "--tty", action="store_true", help="give the container a terminal")
    parser.add_argument("--timeline", action="store_true", help="say on standard error where the time went")
    parser.take_config()


def main(args: argparse.Namespace) -> int:
    """Run the pod; the result is the container's exit code, 128 + signal when it was killed."""
    timeline = Timeline(time.monotonic())
    logging.getLogger("clearpod").addHandler(logging.NullHandler())  # standard error is the container's
    try:
        return asyncio.run(_until_interrupted(_run(args, timeline)))
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


async def _run(args: argparse.Namespace, timeline: Timeline) -> int:
    config = load(args.config)
    host = _host(config, args)
    pod = _pod(config, args)
    image, files = await _bring(config, host, reference=args.image)
    pod = pod._replace(window_mib=_window_mib(config, pod, files=files))
    timeline.mark("the image is in the store")
    process = _process(args, image)
    foreground = Foreground(host, pod, timeline, boot_timeout_s=config.vm.boot_timeout_s)
    return await foreground.run(image, files, process=process)


def _host(config: Config, args: argparse.Namespace) -> engine.Host:
    choice = choose(args.hypervisor or config.vm.hypervisor, hypervisors.facts())
    if choice.warning:
        sys.stderr.write(f"clearpod: warning: {choice.warning}\n")
    return engine.Host(
        run_dir=config.run_dir,
        guest_dir=config.guest_dir,
        state_dir=config.state_dir,
        choice=choice,
        scratch_mib=config.vm.scratch_mib,
        network=config.networks,
        ids=config.jail.ids,
        cgroup_parent=OURS,
    )


async def _bring(config: Config, host: engine.Host, *, reference: str) -> tuple[Image, ImageFiles]:
    store = ImageStore(config.state_dir)
    try:
        image = await pull(store, reference or _sample(host), config=config)
        return image, store.usable(image)
    finally:
        store.close()


def _sample(host: engine.Host) -> str:
    layout = f"{host.guest_dir}/sample"
    if not os.path.exists(layout):
        raise NotFound(f"there is no sample image in {host.guest_dir}; build it with `clearpod images build`")
    return f"oci:{layout}:sample"


def _pod(config: Config, args: argparse.Namespace) -> Pod:
    pod_id = os.urandom(32).hex()
    named = profile.named(args.profile)
    if args.journal and not named:
        raise BadRequest("--journal is for --profile systemd: the ordinary guest keeps no journal")
    memory_mib = config.vm.memory_mib if args.memory is None else args.memory
    vcpus = config.vm.vcpus if args.cpus is None else args.cpus
    for option, value, most in (("--memory", memory_mib, MOST_MEMORY_MIB), ("--cpus", vcpus, MOST_VCPUS)):
        if not 0 < value <= most:
            raise BadRequest(f"{option} must be from 1 to {most}, but it is {value}")
    return Pod(
        id=pod_id,
        name=f"run-{pod_id[:6]}",
        hostname=f"run-{pod_id[:6]}",
        memory_mib=memory_mib,
        vcpus=vcpus,
        profile=named,
        journal=os.path.abspath(args.journal) if args.journal else "",
    )


def _window_mib(config: Config, pod: Pod, *, files: ImageFiles) -> int:
    """As much as the image needs, since there will be no other; 0 where that would cost the guest too much memory."""
    last = flatten(files)[-1]
    needed = -(-(last.offset + last.size) // (1 << 20))
    return needed if config.vm.window_mib and needed <= pod.memory_mib * WINDOW_PER_MEMORY else 0


def _process(args: argparse.Namespace, image: Image) -> Process:
    """The image's config with the command line's changes."""
    config = image.config.get("config") or {}
    argv = tuple(config.get("Entrypoint") or ()) + tuple(args.rest or config.get("Cmd") or ())
    if not argv:
        raise BadRequest("the image names no command; give one after --")
    for entry in args.env:
        if "=" not in entry:
            raise BadRequest(f"--env {entry} is not KEY=VALUE")
    env = {entry.partition("=")[0]: entry for entry in (*(config.get("Env") or ()), *args.env)}
    return Process(
        argv=argv,
        env=tuple(env.values()),
        cwd=args.workdir or config.get("WorkingDir") or "/",
        tty=args.tty,
        stdin=args.stdin or args.tty,
    )
