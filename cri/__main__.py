# SPDX-License-Identifier: Apache-2.0
"""The `clearpod` command: parses the command line, calls the command, and turns errors into exit codes.

Called by the console script and by `python -m cri`. It must not do work of its own. An error of ours is one
line on stderr; a traceback is shown only when CLEARPOD_DEBUG is set, or when it is a fault of the program
itself.
"""

import errno
import os
import signal
import sys
from typing import Any


def main(argv: list[str] | None = None) -> int:
    """Run the command line `argv` (default: sys.argv) and return its exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # blocked by the launcher while Python begins
        _fill_standard_streams()
        os.umask(0o022)  # a stricter one of the caller's would keep a VMM, which is another user, from its files
        return _explained(arguments)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        _drop_output()
        return 141
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            raise
        _drop_output()
        print(f"clearpod: standard output can't be written: {error.strerror}", file=sys.stderr)
        return 1
    finally:
        if argv is None:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # a ^C while the interpreter ends would be a traceback


def _drop_output() -> None:
    """Or the interpreter complains at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _explained(arguments: list[str]) -> int:
    from stage1.errors import PodError  # here, where ^C is no traceback any more

    try:
        return _dispatch(arguments)
    except PodError as error:
        if os.environ.get("CLEARPOD_DEBUG"):
            raise
        from cri.store.history import printable

        # It may repeat what others wrote.
        print(_for_journal(f"clearpod: {printable(str(error))}"), file=sys.stderr)
        return error.exit_code


def _for_journal(sentence: str) -> str:
    """The sentence, with the priority of an error where a unit's standard error goes to the journal."""
    if "JOURNAL_STREAM" not in os.environ:
        return sentence
    import logging

    from cri import notify

    return notify.with_priority(sentence, logging.ERROR) if notify.is_journal(sys.stderr, os.environ) else sentence


def _fill_standard_streams() -> None:
    """Open /dev/null for each of descriptors 0 to 2 that is closed, or the next file would get its number."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) < 3:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w" if number else "r", encoding="utf-8"))


def _coded(args: Any) -> int:
    """Call the command. Its errors have its own exit code, if it has one, unless they are the container's command's."""
    from stage1.errors import NoCommand, PodError

    try:
        return int(args.main(args))
    except NoCommand:
        raise
    except PodError as error:
        error.exit_code = getattr(args, "fault", error.exit_code)
        raise


def _dispatch(arguments: list[str]) -> int:
    from cri.cli.parser import make

    parser = make(arguments)
    try:
        args = parser.parse_args(arguments)
        if args.command is None:
            parser.print_help()
            return 2
        return _coded(args)
    finally:
        sys.stdout.flush()  # here, where a reader that went away is no traceback


if __name__ == "__main__":
    sys.exit(main())
