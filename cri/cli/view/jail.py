# SPDX-License-Identifier: Apache-2.0
"""`clearpod jail POD`: the jail of a pod's hypervisor, as it is in force. docs/admin/threat-model.md explains
it.

Reads pods' directories and /proc; needs no daemon and changes nothing. For pods of the daemon, `clearpod run` and rkt.
"""

import argparse
import json
import os
from collections.abc import Iterable

from cri import config as configuration
from cri.cli import root
from cri.cli.parser import Command, Parser
from cri.store import pods as records
from stage1 import engine, placement
from stage1.errors import BadRequest, NotFound, Unsupported, WrongState
from stage1.linux.idmap import Extent
from stage1.vm import in_force
from stage1.vm.in_force import Group, InForce
from stage1.vm.vmm import AGENT, find_unrecorded

EXAMPLES = (
    ("clearpod jail default/web", "the pod web"),
    ("clearpod jail 3f2a", "the pod whose id begins with 3f2a"),
    ("clearpod jail --json 3f2a | jq .capabilities", "for programs"),
)
LANDLOCK = "applied by the jailer as far as this kernel has it; the kernel does not show what a process may reach"
WIDTH = 18
RKT = "/run/clearpod/rkt"
"""The run directory of rkt's pods, which is the same wherever the daemon's is."""


def add_arguments(parser: Parser) -> None:
    """The options of `clearpod jail`."""
    parser.add_argument("pod", metavar="POD", help="the pod's id, NAMESPACE/NAME, name or uid, or the beginning of one")
    parser.add_argument("--json", action="store_true", help="print one object")
    parser.take_config()


def main(args: argparse.Namespace) -> int:
    """Print what confines the pod's VMM. Raises NotFound, BadRequest when several pods begin so, WrongState when its VM
    does not run, or who asks is not root.
    """
    root.require("reads what the kernel shows of another user's process to root alone")
    directory = find(configuration.load(args.config).run_dir, args.pod)
    jail = inspect(directory)
    print(json.dumps(as_json(directory, jail), indent=1) if args.json else text(directory, jail))
    return 0


def find(run_dir: str, word: str, *, rkt: str = RKT) -> str:
    """The directory of the pod that `word` means: its id, name, NAMESPACE/NAME or uid, or the beginning of one.

    `rkt` is the run directory of rkt's pods, which have an id alone.
    """
    places = [f"{place}/pods" for place in (run_dir, f"{run_dir}/{engine.FOREGROUND}", rkt)]
    known = {f"{place}/{name}": _called(f"{place}/{name}") for place in places for name in _names(place)}
    exact = [path for path, names in known.items() if word in names]
    matches = exact or [path for path, names in known.items() if word and any(one.startswith(word) for one in names)]
    if by_id := [path for path in exact if os.path.basename(path) == word]:
        return by_id[0]
    if len(matches) > 1:
        raise BadRequest(f"{len(matches)} pods are or begin with {word!r}; give more of the name or id")
    if not matches:
        raise NotFound(f"there is no pod {word!r} in {' or '.join(places)}; see `crictl pods` or `rkt list`")
    return matches[0]


def _called(directory: str) -> tuple[str, ...]:
    """What people call the pod: its id, and its names and uid where they are written down."""
    names = [os.path.basename(directory)]
    for record in records.identities(directory):
        pod = record.pod
        names += [name for name in (pod.name, f"{pod.namespace}/{pod.name}", pod.uid) if name]
        break
    return tuple(names)


def _names(place: str) -> list[str]:
    try:
        return sorted(os.listdir(place))
    except FileNotFoundError:
        return []


def inspect(directory: str) -> InForce:
    """The confinement of the VMM of the pod in `directory`."""
    # What rkt's pods have on record is the launcher.
    vm = find_unrecorded(directory) if directory.startswith(f"{RKT}/") else engine.find_vm(directory)
    if vm is None:
        raise WrongState(f"the pod in {directory} has no virtual machine: it is just being made, or was not started")
    jail = in_force.read(vm.pid, vm.start_time, cgroups=placement.cgroups(directory))
    if os.path.basename(jail.program) == AGENT:
        raise Unsupported(f"the pod in {directory} runs on the host, so there is no jail around it")
    return jail


def as_json(directory: str, jail: InForce) -> dict[str, object]:
    """One object with everything; names and units are those of `InForce`."""
    whole = {
        **jail._asdict(),
        "uid_map": [one._asdict() for one in jail.uid_map],
        "gid_map": [one._asdict() for one in jail.gid_map],
        "namespaces": {one.kind: {"id": one.id, "is_hosts": one.is_hosts} for one in jail.namespaces},
        "mounts": [one._asdict() for one in jail.mounts],
        "limits": {one.name: {"soft": one.soft, "hard": one.hard} for one in jail.limits},
        "cgroups": {one.path: one.values for one in jail.cgroups},
        "landlock": LANDLOCK,
    }
    return {"pod": os.path.basename(directory), "directory": directory, **whole}


def text(directory: str, jail: InForce) -> str:
    """The confinement for people: a line for each property, longer lists below its name."""
    own = [one.kind for one in jail.namespaces if not one.is_hosts]
    shared = [one.kind for one in jail.namespaces if one.is_hosts]
    rows = [
        ("pod", os.path.basename(directory)),
        ("process", f"{jail.pid}, {jail.program}"),
        ("user, group", f"{_ids(jail.users)}, {_ids(jail.groups)}; supplementary {_ids(jail.supplementary)}"),
        *(("uid map", _extent(one)) for one in jail.uid_map),
        *(("gid map", _extent(one)) for one in jail.gid_map),
        *((f"{name} caps", " ".join(names) or "none") for name, names in jail.capabilities.items()),
        ("no new privs", "yes" if jail.no_new_privs else "NO"),
        ("seccomp", f"{jail.seccomp}, {jail.seccomp_filters} filters"),
        ("Landlock", LANDLOCK),
        ("namespaces", f"its own: {' '.join(own) or 'none'}; the host's: {' '.join(shared) or 'none'}"),
        ("root", " ".join(jail.root)),
        *(("mount", _mount(one)) for one in jail.mounts),
        *(("limit", f"{one.name}: {one.soft}, at most {one.hard}") for one in jail.limits),
        *(row for one in jail.cgroups for row in _cgroup(one)),
    ]
    return "\n".join(f"{name:<{WIDTH}}{value}" for name, value in rows)


def _ids(numbers: Iterable[int]) -> str:
    return " ".join(dict.fromkeys(map(str, numbers))) or "none"


def _extent(one: Extent) -> str:
    last = one.inside + one.length - 1
    return f"{one.inside} to {last} are {one.outside} to {one.outside + one.length - 1} of the host"


def _mount(one: in_force.Place) -> str:
    marks = ["rw" if one.is_writable else "ro", *(["mapped"] if one.is_mapped else [])]
    return f"{' '.join(marks):<10} {one.type:<8} {one.path}"


def _cgroup(one: Group) -> list[tuple[str, str]]:
    return [("cgroup", one.path), *(("", f"{name} {value}") for name, value in one.values.items())]


COMMANDS = {"jail": Command(EXAMPLES, add_arguments, main)}
