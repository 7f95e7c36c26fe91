# SPDX-License-Identifier: Apache-2.0
"""The options of `clearpod run`, with podman's names and units. What a VM can't have is refused here, with the reason.

Called by `command`. Values stay text: `values` and `request` read them, when it is clear that the pod is wanted.
"""

import argparse
from collections.abc import Sequence
from typing import Any

from cri.cli.parser import FAULT as FAULT
from cri.cli.parser import Parser
from stage1.vm import hypervisors

PULLS = ("always", "missing", "never", "newer")

_SHARED = "a pod is a virtual machine with namespaces of its own, and can't share one of the host or of another pod"
_OTHER_KERNEL = "the guest has a kernel of its own, without that; the virtual machine confines the pod"
REFUSED = {
    "--device": "a virtual machine has no devices of the host",
    "--gpus": "a virtual machine has no devices of the host",
    "--ipc": _SHARED,
    "--pid": _SHARED,
    "--uts": _SHARED,
    "--userns": _SHARED,
    "--cgroupns": _SHARED,
    "--cgroup-parent": "limit the pod by --memory and --cpus; its hypervisor is confined anyway",
    "--pod": "a pod has one container here; make larger ones by the CRI",
    "--volumes-from": _SHARED,
    "--security-opt": _OTHER_KERNEL,
    "--memory-swap": "a guest has no swap; --memory is all there is",
    "--cpu-shares": "the container is alone in its virtual machine, where a weight changes nothing; use --cpus",
    "-c": "--cpu-shares change nothing for a container that is alone in its virtual machine; use --cpus",
    "--cpuset-cpus": "processors of a guest are not the host's; use --cpus",
    "--restart": "nothing restarts a pod without an orchestrator; use a unit of systemd",
    "--health-cmd": "nothing would ask it; Kubernetes has probes",
    "--storage-opt": "the disk's size is vm.scratch_mib of the configuration",
    "--platform": "a guest runs the host's architecture",
    "--arch": "a guest runs the host's architecture",
}


class Refuse(argparse.Action):
    """An option that ends with the reason why it can't be had."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, *rest: Any) -> None:
        option = rest[-1]
        parser.error(f"{option}: {REFUSED[option]}")


def add(parser: Parser) -> None:
    """Add all options of `clearpod run`, in groups."""
    parser.take_podmans_codes()
    _add_container(parser)
    _add_confinement(parser)
    _add_files(parser)
    _add_network(parser)
    _add_sizes(parser)
    _add_calling(parser)
    for option in REFUSED:
        parser.add_argument(option, action=Refuse, nargs="?", dest="refused", help=argparse.SUPPRESS)


def _texts(group: Any, *rows: Sequence[str]) -> None:
    """Options with one value: (names..., METAVAR, help)."""
    for *names, metavar, text in rows:
        group.add_argument(*names, metavar=metavar, default="", help=text)


def _lists(group: Any, *rows: Sequence[str]) -> None:
    """Options that can be given more than once."""
    for *names, metavar, text in rows:
        group.add_argument(*names, metavar=metavar, action="append", default=[], help=text)


def _flags(group: Any, *rows: Sequence[str]) -> None:
    for *names, text in rows:
        group.add_argument(*names, action="store_true", help=text)


def _add_container(parser: Parser) -> None:
    group = parser.add_argument_group("container")
    _lists(
        group,
        (
            "-e",
            "--env",
            "KEY[=VALUE]",
            "an environment variable; KEY alone takes its value from the caller's environment",
        ),
        ("--env-file", "FILE", "a file with KEY=VALUE or KEY in each line"),
        (
            "--annotation",
            "KEY=VALUE",
            "an annotation of the pod and its container, such as clearpod.io/vcpus=2 or io.clearpod.kernel.machine=q35",
        ),
    )
    _texts(
        group,
        ("-w", "--workdir", "DIR", "working directory in the container"),
        (
            "-u",
            "--user",
            "USER[:GROUP]",
            "the user of the command: names in the image's /etc/passwd and /etc/group, or numbers",
        ),
        ("--hostname", "NAME", "the host name; default: the pod's name"),
    )
    group.add_argument("--name", metavar="NAME", help="the pod's name: letters, digits, _, . and -")
    what = "replaces the image's Entrypoint and drops its Cmd"
    group.add_argument("--entrypoint", metavar="WORD|JSON", help=what)
    _flags(
        group,
        ("-i", "--interactive", "--stdin", "forward standard input to the container"),
        ("-t", "--tty", "allocate a terminal for the container"),
        ("--init", "accepted, and always on: the pod's process 1 reaps orphans"),
    )


def _add_confinement(parser: Parser) -> None:
    group = parser.add_argument_group("rights, inside the virtual machine")
    _flags(
        group,
        ("--privileged", "all privileges in the guest, none on the host"),
        ("--read-only", "make the root read-only; /run, /tmp and /var/tmp are in memory"),
    )
    _lists(
        group,
        ("--cap-add", "CAP", "add a capability, or ALL"),
        ("--cap-drop", "CAP", "drop a capability, or ALL"),
        ("--ulimit", "NAME=SOFT[:HARD]", "a limit of each process, such as nofile=1024:4096; -1 is unlimited"),
    )


def _add_files(parser: Parser) -> None:
    group = parser.add_argument_group("files")
    _lists(
        group,
        ("-v", "--volume", "SRC:DST[:OPTIONS]", "mount a file or directory of the host: ro, noexec, rslave, ..."),
        ("--mount", "type=TYPE,...", "a mount in long form: type=bind,src=,dst=,ro or type=tmpfs,dst=,tmpfs-size="),
        ("--tmpfs", "DST[:OPTIONS]", "a tmpfs in the guest: size=64m,mode=1777"),
    )


def _add_network(parser: Parser) -> None:
    group = parser.add_argument_group("network")
    _texts(group, ("--network", "NAME", "none, default, or a CNI network to join in addition to the default one"))
    group.add_argument("--net", dest="network", help=argparse.SUPPRESS)
    _lists(
        group,
        (
            "-p",
            "--publish",
            "[[IP:][HOST]:]PORT[/udp]",
            "publish a port of the pod on a port of the host (default: a free one); also ranges",
        ),
        ("--dns", "ADDRESS", "a name server"),
        ("--dns-search", "DOMAIN", "a DNS search domain"),
        ("--add-host", "NAME:IP", "add a line to /etc/hosts"),
    )


def _add_sizes(parser: Parser) -> None:
    group = parser.add_argument_group("sizes (b, k, m or g)")
    _texts(
        group,
        ("-m", "--memory", "SIZE", "memory limit of the container; the virtual machine gets it in addition to its own"),
        ("--vm-memory", "SIZE", "memory of the virtual machine as a whole"),
        ("--cpus", "NUMBER", "CPU quota, such as 0.5"),
        ("--shm-size", "SIZE", "size of /dev/shm; default 64m"),
    )


def _add_calling(parser: Parser) -> None:
    _flags(
        parser,
        ("-d", "--detach", "let the daemon run the pod, and print its id"),
        ("--rm", "remove the pod when its container ends; always on in the foreground"),
        ("--timeline", "print on standard error how long each step took"),
    )
    text = "when to ask the registry: always, missing (default: when it is not stored), never, newer"
    parser.take_credentials()
    parser.add_argument("--pull", choices=PULLS, default="missing", metavar="WHEN", help=text)
    parser.add_argument("--hypervisor", choices=("auto", *hypervisors.names()), help="default: as configured")
    _texts(
        parser,
        ("--vm-kernel", "NAME", "the guest's kernel: default, stock (Debian's), or one that was put beside them"),
        ("--profile", "NAME", "the guest's userspace: default, or systemd"),
        ("--journal", "DIR", "the directory for the journal of --profile systemd"),
    )
    parser.take_config()
