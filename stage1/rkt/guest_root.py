# SPDX-License-Identifier: Apache-2.0
"""Commands in the guest's own root, where systemd is: `rkt enter --app=guest UUID systemctl`. Called by enter.

The ordinary guest has no programs of its own to run. rkt insists on the name of an app, and does not look whether
there is one; an app that is called so comes first.
"""

import os

from stage1 import engine
from stage1.errors import Unsupported
from stage1.guest.client import Client
from stage1.guest.messages import Exec, Stdio
from stage1.linux import beneath
from stage1.pod import profile
from stage1.rkt import apps, machine, manifest, terminal, userspace

NAME = "guest"
_CONTAINER = "_guest"
"""The agent's name of the guest's root; no app can have that name."""
_PATH = "PATH=/usr/sbin:/usr/bin:/sbin:/bin"


def is_meant(pod_dir: str, app: str) -> bool:
    """Whether that is no app, but the guest. Raises Unsupported without `app` where the guest has no such root."""
    chosen = userspace.of_pod(pod_dir, manifest.annotations(f"{pod_dir}/pod"))
    if not app and chosen != profile.SYSTEMD:
        raise Unsupported("enter without --appname is not offered: the guest has no programs of its own; name an app")
    return not app or (app == NAME and chosen == profile.SYSTEMD and app not in manifest.names(f"{pod_dir}/pod"))


def run(client: Client, uuid: str, *, command: tuple[str, ...]) -> int:
    """The command's exit code. It is root in the guest, with its environment. Raises NoCommand, AgentFailed."""
    number, tty = client.base, os.isatty(0) and os.isatty(1)
    width, height = terminal.size() if tty else (0, 0)
    stdio = Stdio(number, number + 1, 0 if tty else number + 2, tty, width, height)
    place, name = engine.bundle(_CONTAINER), f"exec-{number}"
    # Variables, an empty word, the command: each with a zero byte at its end.
    argv = (_PATH, "HOME=/root", f"TERM={os.environ.get('TERM') or 'vt100'}", "SYSTEMD_PAGER=", "", *command)
    with beneath.Root(machine.place(uuid), one_mount=True) as own:
        own.make_directories(place, 0o700)
        own.write(f"{place}/{name}", b"".join(os.fsencode(word) + b"\0" for word in argv))
        try:
            client.call(Exec(_CONTAINER, number, name, stdio), apps.START_S)
            with terminal.raw(tty):
                return terminal.join(client, terminal.Joined(_CONTAINER, number, stdio))
        finally:
            own.unlink(f"{place}/{name}")
