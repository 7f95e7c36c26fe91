# SPDX-License-Identifier: Apache-2.0
"""`app_add`: brings an app into a running pod, whose root rkt has just mounted; it is not started.

The mount is in rkt's namespace. What the guest sees is a copy of it in the VMM's, so nothing depends on how the host
propagates its mounts.
"""

import os

from stage1.entry import dispatch
from stage1.rkt import apps, arguments, commands, connect, directory, machine


def main(argv: list[str]) -> int:
    """Called with the pod's directory as working directory; 0 when the app can be started."""
    options, pod_dir = arguments.app(argv), os.getcwd()
    pod = apps.read(pod_dir, options.app)
    dispatch.report("app_add", *options.warnings, *pod.warnings)
    commands.check(pod)
    uuid = directory.uuid(pod_dir)
    with apps.changing(machine.place(uuid)), connect.to_agent(uuid) as client:
        apps.add(client, pod)
    return 0
