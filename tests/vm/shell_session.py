# SPDX-License-Identifier: Apache-2.0
"""A shell whose lines, output and exit codes are written down, for transcripts in docs.

Used by own_kernel_transcript.
"""

import contextlib
import os
import re
import subprocess
from pathlib import Path

from tests.fakes.patience import PATIENCE

_NOISE = (
    (re.compile(r"\x1b\[[0-9;]*[A-Za-z]"), ""),
    (re.compile(r"^E\d{4} .*\n", re.MULTILINE), ""),
    (re.compile(r'^time="[^"]*" level=error msg="(.*)"$', re.MULTILINE), r"E \1"),
    (re.compile(r'^time="[^"]*" level=info .*\n', re.MULTILINE), ""),
    (re.compile(r"^clearpod: warning: .* by emulation .*\n", re.MULTILINE), ""),
)
"""What crictl says twice, and what is the machine's."""
IMAGE = "registry.example/"
_MARK = "\1"


class Session:
    """One shell, whose lines are written down by `run`, with what they wrote and their codes; `quietly` writes nothing.
    `text` is all of it.
    """

    def __init__(self, place: Path, *, images: str) -> None:
        """`images` is what stands for `registry.example/`."""
        self.place, self._images = place, images
        self._parts: list[str] = []
        self._known: dict[str, str] = {}
        env = {"PATH": f"{place}/bin:{os.environ['PATH']}", "HOME": str(place), "TERM": "dumb"}
        argv = ["unshare", "--mount", "--propagation=private", "bash", "--noprofile", "--norc"]
        self._shell = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env, cwd=place
        )
        self.quietly("mount --bind /run/netns /run/netns; exec 2>&1")
        self.quietly('ping() { busybox ping "$@"; }; wget() { busybox wget "$@"; }')

    def section(self, title: str) -> None:
        """A heading."""
        self._parts.append(f"\n## {title}\n\n")

    def quietly(self, line: str) -> tuple[str, int]:
        """What the line wrote, and its code."""
        assert self._shell.stdin and self._shell.stdout
        self._shell.stdin.write(f"{{ {line}\n}} < /dev/null; printf '{_MARK}%s\\n' $?\n")
        self._shell.stdin.flush()
        written = []
        while _MARK not in (one := self._shell.stdout.readline()):
            assert one, f"the shell has ended at {line}: {written}"
            written.append(one)
        last, _, code = one.rpartition(_MARK)
        return "".join([*written, last]), int(code)

    def run(self, line: str) -> str:
        """One command that is shown; what it wrote."""
        output, code = self.quietly(line.replace(IMAGE, self._images))
        if named := re.match(r"([A-Z]+)=", line):
            self._known[f"${named[1]}"] = self.quietly(f"echo ${named[1]}")[0].strip()
        shown = "".join(f"    {one}".rstrip() + "\n" for one in self._plain(output).splitlines())
        self._parts.append(f"    $ {line}\n{shown}" + (f"    => {code}\n" if code else ""))
        return output

    def until(self, line: str, limit_s: int = 120) -> None:
        """Wait for a line of shell to succeed."""
        tries = int(limit_s * PATIENCE * 5)
        wait = f"for i in $(seq {tries}); do {line} > /dev/null 2>&1 && break; sleep 0.2; done; {line}"
        output, code = self.quietly(wait)
        assert code == 0, f"{line}: {output}; so far: {''.join(self._parts)[-2000:]}"

    def _plain(self, text: str) -> str:
        text = text.replace(self._images, IMAGE).replace(str(self.place), ".")
        for pattern, word in _NOISE:
            text = pattern.sub(word, text)
        for name, value in self._known.items():
            if len(value) > 12:
                text = text.replace(value, name)
                for length in (13, 8):
                    text = text.replace(value[:length], f"${{{name[1:]}:0:{length}}}")
        return text

    @property
    def text(self) -> str:
        """Markdown."""
        return "".join(self._parts)

    def close(self) -> None:
        """End the shell and what it has started."""
        with contextlib.suppress(OSError):
            self.quietly("kill $(jobs -p); wait")
        assert self._shell.stdin
        self._shell.stdin.close()
        self._shell.wait()
        assert self._shell.stdout
        self._shell.stdout.close()
