# SPDX-License-Identifier: Apache-2.0
"""`enter`: runs a command in an app of a running pod, or in its guest, with our standard streams; its code is ours.

Called by rkt from its tree store, not from the pod's own stage1, in the pod's directory; `rkt app exec` is this too.
"""

import os

from stage1 import engine
from stage1.entry import dispatch
from stage1.guest.client import Client
from stage1.guest.messages import Exec, Stdio
from stage1.pod import oci
from stage1.pod.model import Process
from stage1.rkt import apps, arguments, connect, directory, guest_root, loader, machine, terminal


def main(argv: list[str]) -> int:
    """The command's exit code. Raises NoCommand, NotExecutable, and what `guest_root.is_meant` does."""
    options, pod_dir = arguments.enter(argv), os.getcwd()
    dispatch.report("enter", *options.warnings)
    uuid = directory.uuid(pod_dir)
    if guest_root.is_meant(pod_dir, options.app):
        with connect.to_agent(uuid) as client:
            return guest_root.run(client, uuid, command=options.command)
    pod = apps.read(pod_dir, options.app, runs=True)
    with connect.to_agent(uuid) as client:
        return _run(client, pod, options=options)


def _run(client: Client, pod: loader.RktPod, *, options: arguments.EnterOptions) -> int:
    """Run the command as root, in /, with the app's environment, independent of the app's user and directory."""
    app, number, tty = pod.apps[0], client.base, os.isatty(0) and os.isatty(1)
    term = os.environ.get("TERM") or "vt100"
    env = (*(one for one in app.container.process.env if not one.startswith("TERM=")), f"TERM={term}")
    what = Process(options.command, env, tty=tty, stdin=True, only_env=True)
    width, height = terminal.size() if tty else (0, 0)
    stdio = Stdio(number, number + 1, 0 if tty else number + 2, tty, width, height)
    place = machine.place(pod.pod.id)
    name = engine.add_exec(place, pod.pod, container=app.container, what=what, number=number)
    try:
        apps.when_running(client, app.name, request=Exec(app.name, number, name, stdio, oci.is_raw(what)))
        with terminal.raw(tty):
            return terminal.join(client, terminal.Joined(app.name, number, stdio))
    finally:
        engine.remove_exec(place, app.name, number=number)
