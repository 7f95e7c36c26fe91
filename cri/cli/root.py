# SPDX-License-Identifier: Apache-2.0
"""The check that a user is root: the error has the line to type instead.

Called by the commands that change the machine, before they do anything else. Asks for the user and nothing more.
"""

import os
import shlex
import sys

from stage1.errors import WrongState

SEARCHED = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
"""The directories in which sudo looks for programs by default; a Python environment is not among these."""


def require(why: str) -> None:
    """Raise WrongState for a user who is not root. `why` continues the sentence that begins with `this command`."""
    if os.geteuid() != 0:
        raise WrongState(f"this command {why}, so it needs root: run `{with_sudo(sys.argv)}`")


def with_sudo(argv: list[str]) -> str:
    """The same command line by sudo, with the program's whole path where sudo would not find it."""
    directory, name = os.path.split(argv[0])
    if name == "__main__.py":
        program = [sys.executable, "-m", "cri"]
    else:
        program = [name if directory in SEARCHED else os.path.abspath(argv[0])]
    return shlex.join(["sudo", *program, *argv[1:]])
