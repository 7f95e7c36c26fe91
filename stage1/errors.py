# SPDX-License-Identifier: Apache-2.0
"""The error tree. Everything that clearpod raises on purpose is one of these.

    PodError                  INTERNAL             exit 1
    |- BadRequest             INVALID_ARGUMENT     exit 2
    |- NotFound               NOT_FOUND            exit 4
    |- AlreadyExists          ALREADY_EXISTS       exit 5
    |- WrongState             FAILED_PRECONDITION  exit 6
    |- Unsupported            UNIMPLEMENTED        exit 7
    |- NoSpace                RESOURCE_EXHAUSTED   exit 8
    |- TimedOut               DEADLINE_EXCEEDED    exit 9
    |- Unavailable            UNAVAILABLE          exit 10
    |- KernelError            INTERNAL             exit 1
    |  |- DiskFailed          UNAVAILABLE          exit 10
    |  |- Exhausted           RESOURCE_EXHAUSTED   exit 8
    |- VmFailed               UNKNOWN              exit 11
    |  |- CidTaken            UNKNOWN              exit 11
    |- NetworkFailed          UNKNOWN              exit 13
    |- AgentFailed            UNKNOWN              exit 12
       |- NoCommand           INVALID_ARGUMENT     exit 127
          |- NotExecutable    INVALID_ARGUMENT     exit 126
          |- NoDirectory      INVALID_ARGUMENT     exit 200

Library code raises and never prints or exits; `cri/server.py` turns `grpc_code` into a status and the
commands turn `exit_code` into theirs. A message is one sentence: what was wrong, where, what to do.
"""

import errno as _errno
import os

ERROR_KIND = "clearpod-error"
"""Metadata of a call that failed: the name of the error's class, since several have one status code."""


def both_ends(text: str, most: int) -> str:
    """The text of a program, at most so long: its beginning says what failed, and its end why."""
    if len(text) <= most:
        return text
    return f"{text[: most // 3]} ... {text[-(most - most // 3 - 5) :]}"


class PodError(Exception):
    """Base of all; `grpc_code` is a name of grpc.StatusCode, `exit_code` a process exit code. `noted_code` is the code
    for log and metrics where clients need another one.
    """

    grpc_code = "INTERNAL"
    exit_code = 1
    noted_code = ""


class BadRequest(PodError):
    """The caller's request is invalid."""

    grpc_code, exit_code = "INVALID_ARGUMENT", 2


class NotFound(PodError):
    """The named object does not exist."""

    grpc_code, exit_code = "NOT_FOUND", 4


class AlreadyExists(PodError):
    """The name or id is in use."""

    grpc_code, exit_code = "ALREADY_EXISTS", 5


class WrongState(PodError):
    """The object's state does not allow the call."""

    grpc_code, exit_code = "FAILED_PRECONDITION", 6


class Unsupported(PodError):
    """The request is valid, but clearpod does not support it."""

    grpc_code, exit_code = "UNIMPLEMENTED", 7


class NoSpace(PodError):
    """A disk, a pool or a limit is exhausted."""

    grpc_code, exit_code = "RESOURCE_EXHAUSTED", 8


class TimedOut(PodError):
    """A deadline passed."""

    grpc_code, exit_code = "DEADLINE_EXCEEDED", 9


class Unavailable(PodError):
    """An external service, such as a registry, can't be reached now; retrying may help."""

    grpc_code, exit_code = "UNAVAILABLE", 10


class KernelError(PodError):
    """A system call failed. `call` names it, `what` names the object and the flags."""

    def __init__(self, call: str, number: int, what: str) -> None:
        self.call, self.errno = call, number
        super().__init__(f"{call}: {what}: {os.strerror(number)} ({_errno.errorcode.get(number, number)})")


class DiskFailed(KernelError):
    """A file system is read-only, or its disk fails: calls that need to write there fail until that is repaired."""

    grpc_code, exit_code = "UNAVAILABLE", 10


class Exhausted(KernelError):
    """The host, or this process, is out of descriptors, processes, threads or memory. The request is valid: it can be
    retried when some have been released.
    """

    grpc_code, exit_code = "RESOURCE_EXHAUSTED", 8


class VmFailed(PodError):
    """The VM did not start, died, or its agent never answered. The console's last lines belong into the message."""

    grpc_code, exit_code = "UNKNOWN", 11


class CidTaken(VmFailed):
    """Another VM took the vsock context id between its choice and the VMM's start; another id may be free."""


class NetworkFailed(PodError):
    """A CNI plugin failed; the text is the plugin's, with the name of the plugin and of the network."""

    grpc_code, exit_code = "UNKNOWN", 13


class AgentFailed(PodError):
    """The guest's agent refused or failed a request; the text is the agent's."""

    grpc_code, exit_code = "UNKNOWN", 12


class NoCommand(AgentFailed):
    """The container's command is missing or not executable."""

    grpc_code, exit_code = "INVALID_ARGUMENT", 127


class NotExecutable(NoCommand):
    """The command exists, but can't be executed."""

    exit_code = 126


class NoDirectory(NoCommand):
    """The working directory of the command is missing. Under rkt only, with systemd's code for it (CHDIR)."""

    exit_code = 200


_MISSING = "No such file or directory"
_UNFIT = (
    *("not executable", "not a regular file", "Exec format error", "Permission denied", "open executable"),
    *("Too many levels of symbolic links", "Is a directory"),
)


def command_error(text: str) -> NoCommand:
    """The error that crun, or the kernel, means by `text`: the command is missing, or it can't be executed."""
    is_unfit = any(sign in text for sign in _UNFIT) and _MISSING not in text
    return NotExecutable(text) if is_unfit else NoCommand(text)
