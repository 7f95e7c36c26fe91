# SPDX-License-Identifier: Apache-2.0
"""Log files of apps in Kubernetes' way, which the launcher writes (images/launcher/log.h). Called by machine and apps.

In the engine's directory of the pod, `logs/N` is a link that names the file of the log N, and `logs/app-NAME` one that
says N. What the guest says of a log is its number alone, so it can't name a file. Who calls takes turns
(`apps.changing`).
"""

import os
import stat

from stage1.errors import BadRequest, NotFound
from stage1.linux import files
from stage1.linux.libc import Guard
from stage1.rkt.plan import App
from stage1.rkt.streams import STREAM

DIR = "logs"
_MOST = 255
"""Numbers are a byte, and 0 is none."""
_OUT, _ERR = 256, 512
"""As in agent.proto, Stdio."""
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def begin(place: str, app: App) -> App:
    """The app with the number of its log, whose file is empty now; without a log nothing happens. Undo: `forget`.

    Raises NotFound when the file's directory does not exist, BadRequest when the file is none, or there are too many.
    """
    path = app.streams.log_path
    if not path:
        return app
    if not os.path.isdir(os.path.dirname(path)):
        raise NotFound(f"app {app.name!r}: its log is {path}, whose directory is not on this host; make it first")
    path = f"{os.path.realpath(os.path.dirname(path))}/{os.path.basename(path)}"
    _empty(app, path)
    files.make_dirs(f"{place}/{DIR}", 0o700)
    number = _number(place, app.name) or _take_number(place, app.name, path=path)
    which = _OUT * (app.streams.stdout == STREAM) | _ERR * (app.streams.stderr == STREAM)
    return app._replace(streams=app.streams._replace(log=number | which))


def forget(place: str, app: str) -> None:
    """Give the app's number back; the file stays. None is fine."""
    if number := _number(place, app):
        for name in (f"app-{app}", str(number)):
            with Guard("unlink", f"{place}/{DIR}/{name}"):
                os.unlink(f"{place}/{DIR}/{name}")


def _empty(app: App, path: str) -> None:
    with Guard("open", path):
        fd = os.open(path, _FLAGS, 0o640)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise BadRequest(f"app {app.name!r}: its log {path} is not a file; name another one")
    finally:
        os.close(fd)


def _number(place: str, app: str) -> int:
    try:
        return int(os.readlink(f"{place}/{DIR}/app-{app}"))
    except FileNotFoundError:
        return 0


def _take_number(place: str, app: str, *, path: str) -> int:
    taken = set(os.listdir(f"{place}/{DIR}"))
    number = next((one for one in range(1, _MOST + 1) if str(one) not in taken), 0)
    if not number:
        raise BadRequest(f"app {app!r}: the pod has {_MOST} logs already; remove an app first")
    with Guard("make a link in", f"{place}/{DIR}"):
        os.symlink(path, f"{place}/{DIR}/{number}")
        os.symlink(str(number), f"{place}/{DIR}/app-{app}")
    return number
