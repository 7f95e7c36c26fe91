# SPDX-License-Identifier: Apache-2.0
"""`app_stop`: ends an app; returns when its status is written. rkt takes any other code than 0 for a failure, so an app
that has ended, or never ran, is none.
"""

import os

from stage1.entry import door
from stage1.rkt import apps, arguments, directory, reach


def main(argv: list[str]) -> int:
    """Called with the pod's directory as working directory; 0 when the app does not run."""
    options, pod_dir = arguments.app(argv), os.getcwd()
    door.say("app_stop", *options.warnings)
    with reach.session(directory.uuid(pod_dir)) as session:
        apps.stop(session, options.app)
    return 0
