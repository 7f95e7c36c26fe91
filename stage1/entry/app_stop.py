# SPDX-License-Identifier: Apache-2.0
"""`app_stop`: ends an app; returns when its status is written. rkt takes any other code than 0 for a failure, so an app
that has ended, or never ran, is none.
"""

import os

from stage1.entry import dispatch
from stage1.errors import TimedOut, VmFailed
from stage1.rkt import apps, arguments, connect, directory


def main(argv: list[str]) -> int:
    """Called with the pod's directory as working directory; 0 when the app does not run.

    A guest that does not end it in time is ended, and with it the pod.
    """
    options, pod_dir = arguments.app(argv), os.getcwd()
    dispatch.report("app_stop", *options.warnings)
    uuid = directory.uuid(pod_dir)
    try:
        with connect.to_agent(uuid) as client:
            apps.stop(client, options.app)
    except (TimedOut, VmFailed) as error:
        dispatch.report("app_stop", apps.end_pod(uuid, error))
    return 0
