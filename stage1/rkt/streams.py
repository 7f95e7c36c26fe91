# SPDX-License-Identifier: Apache-2.0
"""The targets of an app's stdin, stdout and stderr, and the file of its log in Kubernetes' format. Pure. Called by
plan.
"""

import os
from collections.abc import Mapping
from typing import NamedTuple

from stage1.errors import BadRequest
from stage1.rkt.manifest import Entry

NULL, LOG, STREAM, TTY, INTERACTIVE = "null", "log", "stream", "tty", "interactive"
TTYS = ("tty-in", "tty-out")
_STAGE2 = "coreos.com/rkt/stage2/"
_MODES = {
    "stdin": (NULL, STREAM, TTY, INTERACTIVE),
    "stdout": (LOG, NULL, STREAM, TTY, INTERACTIVE),
    "stderr": (LOG, NULL, STREAM, TTY, INTERACTIVE),
}
"""The first is the default."""
_LOG_MODE = "coreos.com/rkt/experiment/logmode"
"""rkt: `k8s-plain` writes logs in Kubernetes' way."""
_LOG_DIR = "coreos.com/rkt/experiment/kubernetes-log-dir"
"""rkt, with that: the directory of the logs, which must exist."""
_LOG_PATH = "coreos.com/rkt/experiment/kubernetes-log-path"
"""rkt, of an app: the name of its log in that directory."""
PLAIN = "k8s-plain"


class Streams(NamedTuple):
    """NULL: nothing. LOG: rkt's stdout. STREAM: pipes for attach. TTY: a terminal for attach. INTERACTIVE: rkt's.

    What goes to streams is also written to the file `log_path`, if there is one; `log` is Stdio's, set by `logs.begin`.
    """

    stdin: str = NULL
    stdout: str = LOG
    stderr: str = LOG
    log_path: str = ""
    log: int = 0

    @property
    def is_terminal(self) -> bool:
        """Whether a terminal of the app's own is asked for; it is all three streams then."""
        return TTY in self[:3]

    @property
    def offered(self) -> tuple[str, ...]:
        """The streams that `attach` may request, by the names of its flags; none if all go to rkt or nowhere."""
        if self.is_terminal:
            return TTYS
        return tuple(name for name in ("stdin", "stdout", "stderr") if getattr(self, name) == STREAM)

    @property
    def has_input(self) -> bool:
        """Whether anybody may write to the app."""
        return self.stdin != NULL


def of_app(entry: Entry, pod_annotations: Mapping[str, str], *, interactive: bool) -> Streams:
    """Raises BadRequest for a mode that is not known, and for a log path that leads elsewhere."""
    annotations = dict(entry.annotations)
    if interactive:
        return Streams(INTERACTIVE, INTERACTIVE, INTERACTIVE)
    modes = {}
    for name, known in _MODES.items():
        modes[name] = annotations.get(f"{_STAGE2}{name}") or known[0]
        if modes[name] not in known:
            raise BadRequest(f"{entry.where}: its {name} can't be {modes[name]!r}; there are {', '.join(known)}")
    chosen = modes["stdin"], modes["stdout"], modes["stderr"]
    return Streams(*chosen, log_path=_log_path(entry, annotations, pod=pod_annotations, modes=chosen))


def _log_path(entry: Entry, annotations: Mapping[str, str], *, pod: Mapping[str, str], modes: tuple[str, ...]) -> str:
    if pod.get(_LOG_MODE) != PLAIN or STREAM not in modes[1:]:
        return ""
    where, path = pod.get(_LOG_DIR, ""), annotations.get(_LOG_PATH, "")
    if not where.startswith("/") or not path:
        raise BadRequest(f"{entry.where}: {PLAIN} logs need an absolute {_LOG_DIR} and a {_LOG_PATH}")
    whole = os.path.normpath(f"{where}/{path}")
    if os.path.dirname(whole) != os.path.normpath(where) or whole == os.path.normpath(where):
        raise BadRequest(f"{entry.where}: its log {path!r} is not a file's name in {where}")
    return whole
