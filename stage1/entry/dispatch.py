# SPDX-License-Identifier: Apache-2.0
"""The entry for the launcher, and the one place where errors are converted to a line on stderr and an exit code. An
entry point is a module of this package with `main(arguments) -> exit code`. Its working directory is the pod's.
"""

import os
import sys

from stage1.errors import NoCommand, PodError

FAILED = 254
"""rkt's own code for what is not the pod's doing."""


def enter(name: str, arguments: list[str]) -> int:
    """Run the entry point `name`; its exit code. Of a command that can't be run it is what a shell would return."""
    os.umask(0o022)  # a stricter one of the caller's would keep a VMM, which is another user, from its files
    if os.geteuid():
        report(name, "only root may do this, since the pod's virtual machine belongs to root; run it with sudo")
        return FAILED
    entry = __import__(f"stage1.entry.{name}", fromlist=("main",))
    try:
        return int(entry.main(arguments))
    except PodError as error:
        report(name, *(str(error), *getattr(error, "__notes__", ())))
        return error.exit_code if isinstance(error, NoCommand) else FAILED
    except OSError as error:
        report(name, sentence(error))
        return FAILED


def leave(code: int) -> None:
    """End this process, without what the interpreter does then: to free all that it has takes an eighth of `run`."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            pass  # closed, or nobody reads it
    os._exit(code)


def sentence(error: OSError) -> str:
    """The message for an OSError of Python's own calls."""
    return f"{error.strerror or error}: {error.filename or 'the pod is in ' + os.getcwd()}"


def report(name: str, *sentences: str) -> None:
    """Each sentence as a line on stderr, if there is one."""
    try:
        for sentence in sentences:
            print(f"clearpod: {name}: {sentence}", file=sys.stderr, flush=True)
    except (OSError, ValueError):
        pass  # closed, or nobody reads it
