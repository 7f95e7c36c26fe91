# SPDX-License-Identifier: Apache-2.0
"""The command lines by which rkt 1.30 calls the programs of a stage1. Pure. Called by stage1/entry.

`--flag=value` and `--flag value` both count, a bare flag is true, and one that is not known is passed over with a
warning: a later rkt may have more of them. Nothing here looks at files, at the environment or at descriptors.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from stage1.errors import BadRequest
from stage1.rkt import spelling

LIST, AUTO, CUSTOM = "list", "auto-attach", "custom-attach"
RESOLV_MODES, HOSTS_MODES = ("default", "host", "stage0", "none"), ("default", "host", "stage0")

_TRUE, _FALSE = ("1", "t", "T", "TRUE", "true", "True"), ("0", "f", "F", "FALSE", "false", "False")
_BOOL, _TEXT = "bool", "text"
_RUN = {
    "debug": _BOOL, "net": _TEXT, "interactive": _BOOL, "private-users": _TEXT, "mds-token": _TEXT,
    "local-config": _TEXT, "hostname": _TEXT, "dns-conf-mode": _TEXT, "disable-capabilities-restriction": _BOOL,
    "disable-paths": _BOOL, "disable-seccomp": _BOOL, "mutable": _BOOL, "ipc": _TEXT,
}  # fmt: skip
_ENTER = {"pid": _TEXT, "appname": _TEXT}
_STOP = {"force": _BOOL, "debug": _BOOL}
_GC = {"debug": _BOOL, "local-config": _TEXT}
_APP = {"debug": _BOOL, "uuid": _TEXT, "app": _TEXT}
_ATTACH = {
    "action": _TEXT, "app": _TEXT, "debug": _BOOL, "tty-in": _BOOL, "tty-out": _BOOL, "stdin": _BOOL,
    "stdout": _BOOL, "stderr": _BOOL,
}  # fmt: skip


class RunOptions(NamedTuple):
    """The arguments of `run`. `net` is as given, for `stage1.net.rkt.parse`; an empty `hostname` means `rkt-<uuid>`.
    `warnings` are sentences for stderr, here and below.
    """

    uuid: str
    debug: bool = False
    net: str = "default"
    interactive: bool = False
    private_users: str = ""
    mds_token: str = ""
    local_config: str = "/etc/rkt"
    hostname: str = ""
    resolv_mode: str = "default"
    hosts_mode: str = "default"
    all_capabilities: bool = False
    all_paths: bool = False
    no_seccomp: bool = False
    mutable: bool = False
    ipc: str = ""
    warnings: tuple[str, ...] = ()


class EnterOptions(NamedTuple):
    """The arguments of `enter`. Without `app` the command is for the guest itself; pid is 0 if it was not given."""

    command: tuple[str, ...]
    app: str = ""
    pid: int = 0
    warnings: tuple[str, ...] = ()


class StopOptions(NamedTuple):
    """The arguments of `stop`."""

    uuid: str
    force: bool = False
    debug: bool = False
    warnings: tuple[str, ...] = ()


class GcOptions(NamedTuple):
    """The arguments of `gc`."""

    uuid: str
    debug: bool = False
    local_config: str = "/etc/rkt"
    warnings: tuple[str, ...] = ()


class AppOptions(NamedTuple):
    """The arguments of app_add, app_start, app_stop and app_rm. rkt passes the uuid to app_add alone."""

    app: str
    uuid: str = ""
    debug: bool = False
    warnings: tuple[str, ...] = ()


class AttachOptions(NamedTuple):
    """The arguments of `attach`. `streams` are those of tty-in, tty-out, stdin, stdout, stderr, with CUSTOM."""

    app: str
    action: str = AUTO
    streams: tuple[str, ...] = ()
    debug: bool = False
    warnings: tuple[str, ...] = ()


def run(argv: Sequence[str]) -> RunOptions:
    """Read the arguments of `run`, its own name not among them; so below. Raises BadRequest."""
    given = _Given(argv, _RUN)
    resolv, hosts = _dns_modes(given.text("dns-conf-mode"))
    return RunOptions(
        uuid=given.uuid(),
        debug=given.flag("debug"),
        net=given.text("net", "default"),
        interactive=given.flag("interactive"),
        private_users=given.text("private-users"),
        mds_token=given.text("mds-token"),
        local_config=given.text("local-config", "/etc/rkt"),
        hostname=given.text("hostname"),
        resolv_mode=resolv,
        hosts_mode=hosts,
        all_capabilities=given.flag("disable-capabilities-restriction"),
        all_paths=given.flag("disable-paths"),
        no_seccomp=given.flag("disable-seccomp"),
        mutable=given.flag("mutable"),
        ipc=given.text("ipc"),
        warnings=tuple(given.warnings),
    )


def enter(argv: Sequence[str]) -> EnterOptions:
    """Read the arguments of `enter`. Raises BadRequest."""
    given = _Given(argv, _ENTER)
    pid = given.text("pid", "0")
    if not (pid.isascii() and pid.isdigit()):
        raise BadRequest(f"--pid={pid} is not a process id")
    if not given.rest:
        raise BadRequest("there is no command to run in the pod; put it after --")
    app = _app(given.text("appname")) if given.text("appname") else ""
    return EnterOptions(tuple(given.rest), app, int(pid), tuple(given.warnings))


def stop(argv: Sequence[str]) -> StopOptions:
    """Read the arguments of `stop`. Raises BadRequest."""
    given = _Given(argv, _STOP)
    return StopOptions(given.uuid(), given.flag("force"), given.flag("debug"), tuple(given.warnings))


def gc(argv: Sequence[str]) -> GcOptions:
    """Read the arguments of `gc`. Raises BadRequest."""
    given = _Given(argv, _GC)
    config = given.text("local-config", "/etc/rkt")
    return GcOptions(given.uuid(), given.flag("debug"), config, tuple(given.warnings))


def app(argv: Sequence[str]) -> AppOptions:
    """Read the arguments of app_add, app_start, app_stop or app_rm. Raises BadRequest."""
    given = _Given(argv, _APP)
    uuid = given.text("uuid")
    given.nothing_more()
    return AppOptions(_app(given.text("app")), _uuid(uuid) if uuid else "", given.flag("debug"), tuple(given.warnings))


def attach(argv: Sequence[str]) -> AttachOptions:
    """Read the arguments of `attach`. Raises BadRequest."""
    given = _Given(argv, _ATTACH)
    action = given.text("action", AUTO)
    streams = tuple(name for name in ("tty-in", "tty-out", "stdin", "stdout", "stderr") if given.flag(name))
    given.nothing_more()
    if action not in (LIST, AUTO, CUSTOM):
        raise BadRequest(f"--action={action} is not known; there are {LIST}, {AUTO} and {CUSTOM}")
    if action == CUSTOM and not streams:
        raise BadRequest(f"--action={CUSTOM} needs one of --tty-in, --tty-out, --stdin, --stdout, --stderr")
    return AttachOptions(_app(given.text("app")), action, streams, given.flag("debug"), tuple(given.warnings))


class _Given:
    """A command line, taken apart: values by flag, what follows them, and warnings."""

    def __init__(self, argv: Sequence[str], known: Mapping[str, str]) -> None:
        self.values: dict[str, str] = {}
        self.rest: list[str] = []
        self.warnings: list[str] = []
        left = list(argv)
        while left:
            word = left.pop(0)
            if word == "--":
                self.rest += left
                return
            if not word.startswith("-") or word == "-":
                self.rest.append(word)
                continue
            self._flag(word, left, known=known)

    def _flag(self, word: str, after: list[str], *, known: Mapping[str, str]) -> None:
        name, sign, value = word.lstrip("-").partition("=")
        if name not in known:
            self.warnings.append(f"the flag {word} is not known and is ignored")
            return
        if not sign and known[name] == _TEXT:
            if not after:
                raise BadRequest(f"the flag --{name} needs a value")
            value = after.pop(0)
        if known[name] == _BOOL and value not in (*_TRUE, *_FALSE) and sign:
            raise BadRequest(f"{word}: the value of --{name} is true or false")
        self.values[name] = value if known[name] == _TEXT else str(value not in _FALSE)

    def text(self, name: str, default: str = "") -> str:
        return self.values.get(name) or default

    def flag(self, name: str) -> bool:
        return self.values.get(name) == str(True)

    def uuid(self) -> str:
        """The last word, which rkt puts there; others are odd, but do no harm."""
        if not self.rest:
            raise BadRequest("the last argument must be the pod's uuid, but there is none")
        self.warnings += [f"the argument {word!r} is not known and is ignored" for word in self.rest[:-1]]
        return _uuid(self.rest[-1])

    def nothing_more(self) -> None:
        self.warnings += [f"the argument {word!r} is not known and is ignored" for word in self.rest]


def _uuid(text: str) -> str:
    if not spelling.is_uuid(text.lower()):
        raise BadRequest(f"{text!r} is not a pod's uuid, such as 6733c088-a507-4694-aabf-eda9d3f3f5c0")
    return text.lower()


def _app(name: str) -> str:
    if not spelling.is_name(name):
        raise BadRequest(f"{name!r} is not an app's name: those are made of a-z, 0-9 and single '-' between them")
    return name


def _dns_modes(text: str) -> tuple[str, str]:
    """`resolv=MODE,hosts=MODE`; either may be missing."""
    modes = {"resolv": "default", "hosts": "default"}
    for word in text.split(",") if text else ():
        key, _, mode = word.partition("=")
        known = {"resolv": RESOLV_MODES, "hosts": HOSTS_MODES}.get(key, ())
        if mode not in known:
            raise BadRequest(
                f"--dns-conf-mode={text}: {word!r} must be resolv= one of {', '.join(RESOLV_MODES)}"
                f" or hosts= one of {', '.join(HOSTS_MODES)}"
            )
        modes[key] = mode
    return modes["resolv"], modes["hosts"]
