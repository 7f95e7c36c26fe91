# SPDX-License-Identifier: Apache-2.0
"""Which pod, and which container, a word on the command line means. Used by the commands; asks the daemon for lists.

A pod is named by its id, its name, NAMESPACE/NAME, its uid, or by the beginning of its id or name, if only one begins
so.
"""

import json
import sys
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

from cri.cli.daemon import Daemon
from cri.cli.parser import FAULT
from cri.cli.shown import ID_CHARS, printable
from cri.pb import runtime_pb2 as pb
from cri.policy import DETACHED
from cri.translate.bounds import short
from stage1.errors import BadRequest, NotFound, PodError

SHOWN = 5
SUSPENDED = "suspended"


def title(pod: Any) -> str:
    """Return the pod's name as NAMESPACE/NAME."""
    return f"{pod.metadata.namespace}/{pod.metadata.name}"


def pods(daemon: Daemon) -> list[pb.PodSandbox]:
    """Return all pods, newest first."""
    return sorted(daemon("ListPodSandbox").items, key=lambda pod: -pod.created_at)


def pod(daemon: Daemon, word: str) -> pb.PodSandbox:
    """Raises NotFound, and BadRequest when several could be meant."""
    if match := find(pods(daemon), word):
        return match
    raise NotFound(f"there is no pod {short(word)}; `clearpod ps -a` lists those that exist")


def find(listed: Iterable[pb.PodSandbox], word: str) -> pb.PodSandbox | None:
    """The pod that is meant; the newest one when attempts of one pod are. Raises BadRequest for an ambiguous word."""
    listed = list(listed)
    if not word:
        raise BadRequest("the name of a pod can't be empty")
    for names in (lambda one: (one.id,), _names, lambda one: (one.metadata.uid,)):
        if exact := [one for one in listed if word in names(one)]:
            return _one(exact, word)
    return _one([one for one in listed if any(name.startswith(word) for name in (one.id, *_names(one)))], word)


def _names(one: pb.PodSandbox) -> tuple[str, ...]:
    return one.metadata.name, title(one)


def _one(matching: list[pb.PodSandbox], word: str) -> pb.PodSandbox | None:
    if len({title(one) for one in matching}) > 1:
        named = ", ".join(f"{title(one)} ({one.id[:ID_CHARS]})" for one in matching[:SHOWN])
        more = f" and {len(matching) - SHOWN} more" if len(matching) > SHOWN else ""
        raise BadRequest(f"{short(word)} may be {named}{more}; give more of the name or id, or NAMESPACE/NAME")
    return max(matching, key=lambda one: (one.state == pb.SANDBOX_READY, one.created_at), default=None)


def state(reply: Any) -> str:
    """Return the state of the pod of a verbose PodSandboxStatusResponse, for people: ready, suspended or not ready."""
    if reply.status.state != pb.SANDBOX_READY:
        return "not ready"
    return SUSPENDED if info(reply).get("suspended") else "ready"


def info(reply: Any) -> dict[str, Any]:
    """clearpod's part of a verbose answer about a pod or a container; docs/dev/cri.md."""
    result: dict[str, Any] = json.loads(reply.info.get("info", "{}"))
    return result


def container(daemon: Daemon, word: str, *, name: str = "") -> Any:
    """The container `name` of the pod `word`, its only one without a name; or the container of which `word` is the id.

    Of several attempts it is the last one. Raises NotFound, BadRequest.
    """
    listed = sorted(daemon("ListContainers").containers, key=lambda one: -one.created_at)
    if not name and len(word) >= SHOWN and (by_id := [one for one in listed if one.id.startswith(word)]):
        if len(by_id) > 1:
            raise BadRequest(f"{len(by_id)} ids of containers begin with {word!r}; give more of it")
        return by_id[0]
    owner = pod(daemon, word)
    own = [one for one in listed if one.pod_sandbox_id == owner.id]
    names = list(dict.fromkeys(one.metadata.name for one in own))
    if not names:
        raise NotFound(f"the pod {title(owner)} has no container")
    if not name and len(names) > 1:
        raise BadRequest(f"the pod {title(owner)} has the containers {', '.join(sorted(names))}; choose one with -c")
    if name and name not in names:
        raise NotFound(f"the pod {title(owner)} has no container {name!r}, but {', '.join(sorted(names))}")
    return next(one for one in own if one.metadata.name == (name or names[0]))


def each(
    daemon: Daemon, args: Any, *, act: Callable[[str], None], codes: Mapping[type[PodError], int] = MappingProxyType({})
) -> int:
    """Call `act` with each pod of `args` (`Parser.take_pods`), also after one has failed; return the exit code.

    That is 0, or the code of the worst failure: 125, unless `codes` has one for its type. Raises BadRequest.
    """
    if bool(args.pods) == args.all:
        raise BadRequest("give the names of pods, or --all for those of `clearpod run --detach`, but not both")
    named = args.pods or [one.id for one in pods(daemon) if DETACHED in one.labels]
    failures = []
    for word in named:
        try:
            act(word)
        except PodError as error:
            if args.ignore and isinstance(error, NotFound):
                continue
            print(f"clearpod: {printable(str(error))}", file=sys.stderr)
            failures.append(next((code for kind, code in codes.items() if isinstance(error, kind)), FAULT))
    return max(failures, default=0)


def failed(daemon: Daemon) -> list[dict[str, Any]]:
    """The sandboxes that could not be started, newest last."""
    text = daemon("Status", verbose=True).info.get("failedSandboxes", "[]")
    result: list[dict[str, Any]] = json.loads(text)
    return result


def removed(daemon: Daemon) -> list[dict[str, Any]]:
    """The pods that were removed lately, newest last; a daemon forgets them when it ends."""
    text = daemon("Status", verbose=True).info.get("removedSandboxes", "[]")
    result: list[dict[str, Any]] = json.loads(text)
    return result


def find_removed(gone: list[dict[str, Any]], word: str) -> dict[str, Any] | None:
    """The pod that was removed last of those that are meant, as `find`. Raises BadRequest for an ambiguous word."""

    def names(one: dict[str, Any]) -> tuple[str, ...]:
        return one["name"], f"{one['namespace']}/{one['name']}", one["uid"]

    exact = [one for one in gone if word in (one["id"], *names(one))]
    matching = exact or [one for one in gone if any(name.startswith(word) for name in (one["id"], *names(one)))]
    titles = {names(one)[1] for one in matching}
    if len(titles) > 1:
        raise BadRequest(f"{short(word)} may be {', '.join(sorted(titles)[:SHOWN])}; give more of the name or id")
    return matching[-1] if matching else None


def find_failed(failures: list[dict[str, Any]], word: str) -> dict[str, Any] | None:
    """The last failure of the sandbox that is meant, by name, NAMESPACE/NAME or uid, or the beginning of one."""

    def names(one: dict[str, Any]) -> tuple[str, ...]:
        return one["name"], f"{one['namespace']}/{one['name']}", one["uid"]

    exact = [one for one in failures if word in names(one)]
    matching = exact or [one for one in failures if any(name.startswith(word) for name in names(one))]
    titles = {names(one)[1] for one in matching}
    if len(titles) > 1:
        raise BadRequest(f"{word!r} may be {', '.join(sorted(titles)[:SHOWN])}; give more of the name")
    return matching[-1] if matching else None
