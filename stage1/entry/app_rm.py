# SPDX-License-Identifier: Apache-2.0
"""`app_rm`: takes an app out of a running pod. rkt unmounts its root and removes its files after that, but forgets two
marks, by which an app of the same name would seem to run.
"""

import os

from stage1 import engine
from stage1.entry import dispatch
from stage1.errors import NotFound, TimedOut, VmFailed
from stage1.rkt import apps, arguments, connect, directory, machine


def main(argv: list[str]) -> int:
    """Called with the pod's directory as working directory; 0 when nothing of the app is left, also before.

    A guest that does not end it in time is ended, and with it the pod.
    """
    options, pod_dir = arguments.app(argv), os.getcwd()
    dispatch.report("app_rm", *options.warnings)
    uuid = directory.uuid(pod_dir)
    place = machine.place(uuid)
    try:
        with connect.to_agent(uuid) as client, apps.changing(place):
            apps.stop(client, options.app)
            client.limit(apps.REACT_S)
            apps.remove(client, place, app=options.app)
    except (TimedOut, VmFailed) as error:
        dispatch.report("app_rm", apps.end_pod(uuid, error))
        machine.remove(place, options.app)
    except NotFound:
        if engine.find_vm(place) is None:
            raise
        machine.remove(place, options.app)  # the pod has ended, maybe by the stop that rkt calls before
    directory.forget_status(pod_dir, options.app, marks=True)
    return 0
