# SPDX-License-Identifier: Apache-2.0
"""`clearpod completion SHELL`: the script by which a shell completes the command line, made of the parser by shtab.

Loads all commands, and makes no calls: names of pods and images are not completed.
"""

import argparse

from cri.cli.parser import Command, Parser, make

EXAMPLES = (
    ("clearpod completion bash > /usr/share/bash-completion/completions/clearpod", "for every user of bash"),
    ("clearpod completion zsh > ~/.zfunc/_clearpod", "for zsh, where ~/.zfunc is in fpath"),
    ("clearpod completion fish > ~/.config/fish/completions/clearpod.fish", "for fish"),
)
SHELLS = ("bash", "zsh", "fish")


def add_arguments(parser: Parser) -> None:
    """The argument of `clearpod completion`: the shell."""
    parser.add_argument("shell", choices=SHELLS, help="bash, zsh or fish")


def main(args: argparse.Namespace) -> int:
    """Print the completion script of the shell."""
    import shtab

    parser = make(None)
    for one in parser.all():
        for action in one._actions:
            complete = {"FILE": shtab.FILE, "DIR": shtab.DIRECTORY}.get(str(action.metavar))
            if complete:
                action.complete = complete  # type: ignore[attr-defined]
    print(shtab.complete(parser, shell=args.shell))
    return 0


COMMANDS = {"completion": Command(EXAMPLES, add_arguments, main)}
