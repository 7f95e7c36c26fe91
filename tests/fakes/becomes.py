# SPDX-License-Identifier: Apache-2.0
"""For children of a fork server that shall be a program: what has confined itself is as confined as before."""

import os


def job(argv: tuple[str, ...]) -> None:
    """Become the program of these arguments, of which the first is its path."""
    os.execv(argv[0], argv)
