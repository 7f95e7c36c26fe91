# SPDX-License-Identifier: Apache-2.0
"""`clearpod events`: what happens to pods and containers, as it happens, until ^C or the daemon's end."""

import argparse
import json
from datetime import UTC, datetime
from typing import Any

from cri.cli import lookup, shown
from cri.cli.daemon import connect
from cri.cli.parser import Command, Parser
from cri.pb import runtime_pb2 as pb

EXAMPLES = (
    ("clearpod events", "a line for each container and pod that is created, started, exits or is removed"),
    ("clearpod events --json", "an object per line, for programs"),
)
KINDS = {
    pb.CONTAINER_CREATED_EVENT: "created",
    pb.CONTAINER_STARTED_EVENT: "started",
    pb.CONTAINER_STOPPED_EVENT: "ended",
    pb.CONTAINER_DELETED_EVENT: "removed",
}


def add_arguments(parser: Parser) -> None:
    """The options of `clearpod events`."""
    parser.add_argument("--json", action="store_true", help="one object per line, for programs")
    parser.take_config()


def main(args: argparse.Namespace) -> int:
    """Print them. Returns when the daemon ends. Raises Unavailable."""
    with connect(args.config) as daemon:
        for event in daemon.stream("GetContainerEvents"):
            one = as_json(event)
            shown.write(json.dumps(one) if args.json else text(one))
    return 0


def as_json(event: Any) -> dict[str, Any]:
    """The event as an object; a pod that was removed has no name any more."""
    pod = event.pod_sandbox_status
    one = {
        "at": datetime.fromtimestamp(event.created_at / 1e9, UTC).isoformat(timespec="milliseconds"),
        "event": KINDS.get(event.container_event_type, "unknown"),
        "id": event.container_id,
        "pod": lookup.title(pod) if pod.id else "",
    }
    container = next((status for status in event.containers_statuses if status.id == event.container_id), None)
    if container is not None:
        one["container"] = container.metadata.name
        if container.state == pb.CONTAINER_EXITED:
            one |= {"exitCode": container.exit_code, "reason": container.reason}
    return one


def text(one: dict[str, Any]) -> str:
    """Return an event as one line."""
    at = shown.moment(one["at"]).astimezone().strftime("%H:%M:%S.%f")[:-3]
    what = f"container {one['container']} of " if "container" in one else ""
    code = f" ({one['exitCode']}, {one['reason']})" if "exitCode" in one else ""
    name = f"pod {one['pod']}" if one["pod"] else "pod or container"
    return shown.printable(f"{at}  {one['event']:<8}  {what}{name}{code}  {one['id'][: shown.ID_CHARS]}")


COMMANDS = {"events": Command(EXAMPLES, add_arguments, main)}
