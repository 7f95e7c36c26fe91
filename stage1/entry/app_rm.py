# SPDX-License-Identifier: Apache-2.0
"""`app_rm`: takes an app out of a running pod. rkt unmounts its root and removes its files after that, but forgets two
marks, by which an app of the same name would seem to run.
"""

import os

from stage1.entry import door
from stage1.rkt import apps, arguments, directory, machine, reach


def main(argv: list[str]) -> int:
    """Called with the pod's directory as working directory; 0 when nothing of the app is left, also before."""
    options, pod_dir = arguments.app(argv), os.getcwd()
    door.say("app_rm", *options.warnings)
    uuid = directory.uuid(pod_dir)
    place = machine.place(uuid)
    with apps.changing(place), reach.session(uuid) as session:
        apps.stop(session, options.app)
        apps.remove(session, place, app=options.app)
    directory.forget_status(pod_dir, options.app, marks=True)
    return 0
