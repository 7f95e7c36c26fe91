# SPDX-License-Identifier: Apache-2.0
"""The unit clearpod.service of systemd's, for `clearpod init`: found, put there from a checkout, and started."""

import os
import re

from stage1.errors import NotFound, PodError, WrongState
from stage1.linux import files, process

NAME = "clearpod.service"
BOOTED = "/run/systemd/system"
"""Is there when systemd is PID 1: sd_booted(3)."""
OWN = "/etc/systemd/system"
PLACES = (OWN, "/usr/lib/systemd/system", "/lib/systemd/system")
CHECKOUT = os.path.abspath(__file__).rsplit(os.sep, 4)[0]
LIMIT_S = 120.0
UNHIDE = f"to use that of the package, remove {OWN}/{NAME} and call `systemctl daemon-reload`"


def require_systemd() -> None:
    """Raise WrongState where it is not PID 1."""
    if not os.path.isdir(BOOTED):
        raise WrongState(
            "there is no systemd here that could start the daemon; start `clearpod serve` by the means of this machine"
        )


def find() -> str:
    """The path of the unit; empty when there is none."""
    return next((path for place in PLACES if os.path.exists(path := f"{place}/{NAME}")), "")


def hidden() -> str:
    """The path of another unit that the one that is used hides, such as a package's; empty when there is none. A unit
    that is masked is so on purpose.
    """
    used, *others = [path for place in PLACES if os.path.lexists(path := f"{place}/{NAME}")] or [""]
    if not used or os.path.realpath(used) == os.devnull:
        return ""
    return next((path for path in others if os.path.realpath(path) != os.path.realpath(used)), "")


def install(program: str) -> str:
    """Put the unit of the checkout there, for the program that was called; its path. Raises NotFound, WrongState."""
    template = f"{CHECKOUT}/docs/admin/{NAME}"
    if not os.path.exists(template) or os.path.basename(program) != "clearpod":
        raise NotFound(
            f"there is no unit {NAME}; install the Debian package, or follow docs/admin/node.md for one from source"
        )
    with open(template, encoding="utf-8") as file:
        text = re.sub(r"^ExecStart=\S+", f"ExecStart={os.path.abspath(program)}", file.read(), flags=re.MULTILINE)
    files.write_atomic(f"{OWN}/{NAME}", text.encode(), 0o644)
    _systemctl("daemon-reload")
    return f"{OWN}/{NAME}"


def is_active() -> bool:
    """Whether the daemon runs."""
    return process.run(["systemctl", "is-active", "--quiet", NAME], timeout_s=LIMIT_S).code == 0


def start(*, again: bool) -> None:
    """Start the unit now and enable it at boot; with `again`, restart it with the changed configuration. Pods keep
    running.
    """
    _systemctl("enable", NAME)
    _systemctl("restart" if again else "start", NAME)


def _systemctl(*arguments: str) -> None:
    ended = process.run(["systemctl", *arguments], timeout_s=LIMIT_S)
    if ended.code != 0:
        sentence = ended.stderr.decode(errors="replace").strip().partition("\n")[0] or f"code {ended.code}"
        raise PodError(
            f"`systemctl {' '.join(arguments)}` failed: {sentence}; `journalctl -u {NAME}` may have the reason"
        )
