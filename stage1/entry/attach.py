# SPDX-License-Identifier: Apache-2.0
"""`attach`: joins our standard streams with those of a running app that were made for it (`--stdout=stream` and so on).

Several may follow one app. When all that was asked for has ended on the app's side, this ends too.
"""

import json
import os

from stage1.entry import dispatch
from stage1.errors import BadRequest
from stage1.guest.messages import Stdio
from stage1.rkt import apps, arguments, connect, directory, loader, plan, runtime, terminal
from stage1.rkt.arguments import AttachOptions
from stage1.rkt.streams import TTYS

_NAMES = ("stdin", "stdout", "stderr"), ("tty-in", "tty-out", "")


def main(argv: list[str]) -> int:
    """0 when the app's streams have ended. Raises BadRequest when it has none of those that are wanted."""
    options, pod_dir = arguments.attach(argv), os.getcwd()
    dispatch.report("attach", *options.warnings)
    app = loader.read_pod(pod_dir, runtime.load(pod_dir), only=options.app, runs=True).apps[0]
    offered = app.streams.offered
    if options.action == arguments.LIST:
        print(_listing(app.name, offered))
        return 0
    stdio = _chosen(options, offered)
    with connect.to_agent(directory.uuid(pod_dir)) as client, terminal.raw(stdio.tty):
        apps.require_running(client, app.name)
        for stream in (stdio.stdout, stdio.stderr):
            if stream:
                client.follow(stream)
        return terminal.join(client, terminal.Joined(app.name, 0, stdio))


def _chosen(options: AttachOptions, offered: tuple[str, ...]) -> Stdio:
    chosen = offered if options.action == arguments.AUTO else options.streams
    if not chosen or set(chosen) - set(offered):
        raise BadRequest(
            f"the app {options.app} can't be attached to by {', '.join(chosen) or 'anything'}: it was given"
            f" {', '.join(offered) or 'no streams for that'}; add it with --stdin, --stdout, --stderr"
        )
    ids = plan.streams(options.app)
    given, out, err = (one if {name, tty} & set(chosen) else 0 for one, name, tty in zip(ids, *_NAMES, strict=True))
    return Stdio(given, out, err, tty=offered == TTYS)


def _listing(app: str, offered: tuple[str, ...]) -> str:
    """The list in stock rkt's format; the addresses are those that its own programs would connect to."""
    names = ("tty",) if offered == TTYS else offered
    targets = [{"name": name, "domain": "unix", "address": f"/rkt/iottymux/{app}/sock-{name}"} for name in names]
    return json.dumps({"version": 1, "targets": targets}, indent=4)
