# SPDX-License-Identifier: Apache-2.0
"""`clearpod ps` and `inspect`: the pods and their containers in a table, and all that is known of one as JSON.

Both ask the daemon for statuses, which come from its memory and /proc: no guest is waited for.
"""

import argparse
import json
import time
from datetime import UTC, datetime
from typing import Any

from cri.cli import lookup, shown
from cri.cli.daemon import Daemon, connect
from cri.cli.parser import Command, Parser
from cri.pb import runtime_pb2 as pb
from stage1.errors import NotFound

PS_EXAMPLES = (
    ("clearpod ps", "ready pods, and their running containers"),
    ("clearpod ps -a", "also ended pods and exited containers"),
    ("clearpod ps -aq", "the ids of all pods alone"),
)
STATES = {pb.CONTAINER_CREATED: "created", pb.CONTAINER_RUNNING: "running", pb.CONTAINER_EXITED: "exited"}
HEADER = ("POD", "ID", "STATE", "AGE", "IP", "IMAGE", "PORTS")


def add_ps(parser: Parser) -> None:
    """The options of `clearpod ps`."""
    parser.add_argument(
        "-a", "--all", action="store_true", help="also list pods that are not ready, and exited containers"
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="print only the ids of pods")
    parser.add_argument("--json", action="store_true", help="one array, for programs")
    parser.take_config()


def ps(args: argparse.Namespace) -> int:
    """Print pods and their containers."""
    with connect(args.config) as daemon:
        listed = [pod for pod in lookup.pods(daemon) if args.all or pod.state == pb.SANDBOX_READY]
        if args.quiet:
            ids = [pod.id for pod in listed]
            shown.write(json.dumps(ids) if args.json else "\n".join(ids)) if ids or args.json else None
            return 0
        pods = [one for pod in listed if (one := _pod(daemon, pod, is_all=args.all))]
    if args.json:
        shown.write(json.dumps(pods, indent=2))
    else:
        shown.write(shown.table(table(pods, time.time()), shown.width()))
    return 0


def _pod(daemon: Daemon, pod: pb.PodSandbox, *, is_all: bool) -> dict[str, Any] | None:
    """None when it was removed meanwhile."""
    try:
        reply = daemon("PodSandboxStatus", pod_sandbox_id=pod.id, verbose=True)
    except NotFound:
        return None
    return as_json(reply, is_all=is_all)


def as_json(reply: Any, *, is_all: bool) -> dict[str, Any]:
    """The pod of a PodSandboxStatusResponse as an object."""
    status = reply.status
    return {
        "id": status.id,
        "namespace": status.metadata.namespace,
        "name": status.metadata.name,
        "uid": status.metadata.uid,
        "attempt": status.metadata.attempt,
        "state": lookup.state(reply),
        "createdAt": _time(status.created_at),
        "ports": _ports(json.loads(reply.info.get("info", "{}"))),
        "ips": [ip for ip in (status.network.ip, *(one.ip for one in status.network.additional_ips)) if ip],
        "containers": [
            container_json(one)
            for one in sorted(reply.containers_statuses, key=lambda one: one.created_at)
            if is_all or one.state != pb.CONTAINER_EXITED
        ],
    }


def container_json(one: Any) -> dict[str, Any]:
    """A ContainerStatus as an object."""
    result = {
        "id": one.id,
        "name": one.metadata.name,
        "attempt": one.metadata.attempt,
        "state": STATES.get(one.state, "unknown"),
        "createdAt": _time(one.created_at),
        "image": one.image.image,
    }
    if one.state == pb.CONTAINER_EXITED:
        result |= {"exitCode": one.exit_code, "reason": one.reason, "finishedAt": _time(one.finished_at)}
    return result


def _time(ns: int) -> str:
    return datetime.fromtimestamp(ns / 1e9, UTC).isoformat(timespec="milliseconds")


def _ports(info: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the host's ports that lead to the pod."""
    return [
        {
            "hostIp": one.get("host_ip", ""),
            "hostPort": one["host_port"],
            "containerPort": one.get("container_port", 0),
            "protocol": shown.PROTOCOLS.get(one.get("protocol", 0), ""),
        }
        for one in info.get("config", {}).get("port_mappings", [])
        if one.get("host_port")
    ]


def table(pods: list[dict[str, Any]], now_s: float) -> list[tuple[str, ...]]:
    """The lines of all pods below their header; without the column of ports where no pod has any."""
    lines = [HEADER, *(row for pod in pods for row in rows(pod, now_s))]
    return lines if any(pod["ports"] for pod in pods) else [line[:-1] for line in lines]


def rows(pod: dict[str, Any], now_s: float) -> list[tuple[str, ...]]:
    """A line for the pod, and one for each of its containers."""

    def age(text: str) -> str:
        return shown.age(now_s - shown.moment(text).timestamp())

    def state(one: dict[str, Any]) -> str:
        return f"exited ({one['exitCode']}, {one['reason']})" if one["state"] == "exited" else one["state"]

    ips = pod["ips"]
    address = f"{ips[0]} +{len(ips) - 1}" if len(ips) > 1 else "".join(ips)
    name, short = f"{pod['namespace']}/{pod['name']}", pod["id"][: shown.ID_CHARS]
    ports = ", ".join(
        shown.port(one["hostIp"], one["hostPort"], inner=one["containerPort"], protocol=one["protocol"])
        for one in pod["ports"]
    )
    result: list[tuple[str, ...]] = [(name, short, pod["state"], age(pod["createdAt"]), address, "", ports)]
    for one in pod["containers"]:
        attempt = f" #{one['attempt']}" if one["attempt"] else ""
        short = one["id"][: shown.ID_CHARS]
        result.append((f"  {one['name']}{attempt}", short, state(one), age(one["createdAt"]), "", one["image"], ""))
    return result


INSPECT_EXAMPLES = (
    ("clearpod inspect default/web", "the pod: its VM, network, history and containers"),
    ("clearpod inspect default/web -c nginx", "its container nginx, with its OCI configuration"),
)


def add_inspect(parser: Parser) -> None:
    """The options of `clearpod inspect`."""
    parser.take_container()
    parser.take_config()


def inspect(args: argparse.Namespace) -> int:
    """Print the pod or container as one JSON object. Raises NotFound, BadRequest."""
    with connect(args.config) as daemon:
        result = inspected(daemon, args.name, container=args.container)
    shown.write(json.dumps(result, indent=2))
    return 0


def inspected(daemon: Daemon, word: str, *, container: str) -> dict[str, Any]:
    """The pod that is meant; or the container, if one is named."""
    if not container:
        try:
            pod = lookup.pod(daemon, word)
            return _merged(daemon("PodSandboxStatus", pod_sandbox_id=pod.id, verbose=True))
        except NotFound:
            if len(word) < lookup.SHOWN:
                raise
    one = lookup.container(daemon, word, name=container)
    return _merged(daemon("ContainerStatus", container_id=one.id, verbose=True))


def _merged(reply: Any) -> dict[str, Any]:
    """The answer, with the verbose part, which is JSON in a string, as a part of it."""
    from google.protobuf.json_format import MessageToDict  # late: `ps` does without

    result: dict[str, Any] = MessageToDict(reply)
    return {**result, "info": lookup.info(reply)}


COMMANDS = {"ps": Command(PS_EXAMPLES, add_ps, ps), "inspect": Command(INSPECT_EXAMPLES, add_inspect, inspect)}
