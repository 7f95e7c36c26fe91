# SPDX-License-Identifier: Apache-2.0
"""Checks the configuration in a process of its own, which ends then: pydantic never gets into the daemon, where it
would take 11 MB.

Called by `clearpod serve`, at its start and at SIGHUP. Commands that end soon use `config.load`. As a program it is the
process: the text on standard input, the file's name as its argument; the answer is JSON on standard output.
"""

import json
import os
import sys

from cri import config
from cri.config import Config
from cri.config_keys import made
from stage1.errors import BadRequest, PodError
from stage1.linux import process

_LIMIT_S = 60.0
_CODE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_START = "import sys; sys.path[:] = sys.argv.pop(1).split(':'); from cri.config_process import main; main()"


def load_apart(path: str | None) -> Config:
    """Like `config.load`, and raises the same; also KernelError and TimedOut. Blocks for some 0.2 s."""
    text, name = config.read(path), path or config.DEFAULT_PATH
    if text is None:
        return Config()
    if "cri.config_check" in sys.modules:  # then there is nothing to save
        return config.parse(text, name)
    places = ":".join([_CODE, *map(os.path.abspath, sys.path)])
    argv = [sys.executable, "-I", "-S", "-c", _START, places, name]
    ended = process.run(argv, timeout_s=_LIMIT_S, input=text.encode())
    try:
        sentence, values = json.loads(ended.stdout)
    except ValueError:
        last = ended.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise PodError(f"{name} could not be checked: its process ended with {ended.code} ({last[-200:]})") from None
    if sentence:
        raise BadRequest(sentence)
    return made(Config, values)


def main() -> None:
    """The process: writes what is wrong, which may be empty, and the values."""
    try:
        answer = "", config.parse(sys.stdin.buffer.read().decode(), sys.argv[1]).values()
    except BadRequest as error:
        answer = str(error), {}
    sys.stdout.write(json.dumps(answer))
