# SPDX-License-Identifier: Apache-2.0
"""`app_start`: starts an app that was added, or that has ended; returns when it runs."""

import os

from stage1.entry import dispatch
from stage1.errors import PodError
from stage1.rkt import apps, arguments, connect, directory, machine


def main(argv: list[str]) -> int:
    """Start the app of the pod whose directory is the working directory; returns 0 when the app runs."""
    options, pod_dir = arguments.app(argv), os.getcwd()
    dispatch.report("app_start", *options.warnings)
    uuid = directory.uuid(pod_dir)
    with apps.changing(machine.place(uuid)), connect.to_agent(uuid) as client:
        try:
            apps.start(client, apps.read(pod_dir, options.app))
        except PodError:
            if not (directory.has_status(pod_dir, options.app) or apps.runs(client, options.app)):
                directory.forget_start(pod_dir, options.app)  # rkt has written that it runs before it called us
            raise
    return 0
