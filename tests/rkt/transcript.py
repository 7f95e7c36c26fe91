# SPDX-License-Identifier: Apache-2.0
"""Runs each command of the real rkt on pods in VMs, and writes down its output and exit code.

`python -m tests.rkt.transcript > tests/rkt/transcript.md`, as root, with the real rkt on PATH and the guest
built. What differs from run to run is replaced: uuids, times, process ids, directories. test_transcript.py checks that
that file has the commands and codes of a fresh run. Pods have no network here, so nothing of the machine is
changed.
"""

import os
import re
import shlex
import sys
import tempfile
from pathlib import Path

from tests.fakes import aci
from tests.rkt import stage1_image
from tests.rkt.real import Done, RealRkt, Running, on_terminal, sh, wait_until

ROOT = Path(__file__).parents[2]
HEAD = """# A transcript of rkt

Every command of rkt 1.30.0 on `clearpod-stage1.aci`, written by `python -m tests.rkt.transcript`; a test runs it again
and compares commands and codes. Before each command's words are `--dir=DIR --insecure-options=image`, and around it are
`RKT_EXPERIMENT_APP=true` and `RKT_EXPERIMENT_ATTACH=true`. `&` is a command that goes on; what it wrote stands where it
ends. `E` marks lines of stderr.
"""
IMAGE = "example.com/busybox:1.0"
LASTING = "trap 'echo got term; exit 0' TERM; echo up; while :; do sleep 0.1; done"
MOST_LINES = 14
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_CHANGING = (
    (re.compile(r"sha512-[0-9a-f]+"), "sha512-HASH"),
    (re.compile(r"\d{4}-\d\d-\d\d[ T][\d:.]+( ?[+-]\d{4})?( UTC|Z)?"), "TIME"),
    (re.compile(r"pid=\d+"), "pid=PID"),
    (re.compile(r"\d+ (second|minute)s? ago|less than a (second|minute) ago|a minute ago"), "AGO"),
    (re.compile(r"/dev/pts/\d+"), "/dev/pts/N"),
    (re.compile(r"[ \t]+$", re.MULTILINE), ""),
    (re.compile(r'^.*group "rkt" not found.*\n', re.MULTILINE), ""),
)


class Transcript:
    """`section` begins a part; `call`, `type_at` and `begin` with `end` run commands; `text` is all of it."""

    def __init__(self, place: Path, stage1: Path) -> None:
        """`place` is an empty directory, `stage1` an ACI."""
        self.rkt = RealRkt(place, stage1)
        self.image = aci.pack(aci.root(place / "root"), place / "busybox.aci", name="example.com/busybox")
        self.places = {str(self.rkt.data): "DIR", str(self.rkt.stage1): "clearpod-stage1.aci", str(place): "."}
        self._uuids: dict[str, str] = {}
        self._parts: list[str] = [HEAD]

    def section(self, title: str) -> None:
        """A heading."""
        self._parts.append(f"## {title}\n")

    def call(self, *argv: object) -> Done:
        """One command, to its end."""
        done = self.rkt.call(*argv)
        self._write(argv, done)
        return done

    def type_at(self, *argv: object, given: bytes, after: bytes) -> None:
        """One command on a terminal."""
        done = on_terminal([*self.rkt.prefix, *map(str, argv)], self.rkt.env, given=given, after=after)
        self._write(argv, done, "    # on a terminal")

    def begin(self, *argv: object, command: str = "run", until: str = "") -> Running:
        """A pod that goes on, at least as far as it has written `until`."""
        pod = self.rkt.run(*argv, command=command)
        named = () if command == "run-prepared" else (f"--stage1-path={self.rkt.stage1}",)
        output = (*command.split(), "--net=none", *named, *argv)
        self._parts.append(f"    $ {self._plain(_line(output))} &\n")
        if until:
            pod.wait_for(until)
        return pod

    def end(self, pod: Running) -> None:
        """Wait for the pod's end."""
        self._write(("wait", pod.uuid), pod.finish(), program="")

    def run(self, *argv: object) -> Running:
        """A pod from beginning to end."""
        pod = self.begin(*argv)
        self.end(pod)
        return pod

    def _write(self, argv: tuple[object, ...], done: Done, mark: str = "", *, program: str = "rkt ") -> None:
        out = _cut(self._plain(done.out.replace("\r", "")).splitlines())
        err = [f"E {line}" for line in _cut(self._plain(done.err).splitlines())]
        shown = "".join(f"    {line}".rstrip() + "\n" for line in (*out, *err))
        line = self._plain(_line(argv, program))
        self._parts.append(f"    $ {line}{mark}\n{shown}    => {done.code}\n")

    def _plain(self, text: str) -> str:
        for result, name in self.places.items():
            text = text.replace(result, name)
        for one in _UUID.finditer(text):
            self._uuids.setdefault(one[0], f"UUID-{len(self._uuids) + 1}")
        for uuid, name in self._uuids.items():
            text = text.replace(uuid, name).replace(uuid[:8], name)
        for pattern, word in _CHANGING:
            text = pattern.sub(word, text)
        return text

    @property
    def text(self) -> str:
        """Markdown."""
        return "\n".join(self._parts)


def _line(argv: tuple[object, ...], program: str = "rkt ") -> str:
    return program + " ".join(shlex.quote(str(word)) for word in argv)


def _cut(lines: list[str]) -> list[str]:
    more = len(lines) - MOST_LINES
    return [*lines[:MOST_LINES], f"[{more} more lines]"] if more > 1 else lines


def commands(text: str) -> list[tuple[str, str]]:
    """(command, exit code) of each command in a transcript; the code is & where it goes on."""
    result = []
    for line in text.splitlines():
        if line.startswith("    $ "):
            result.append((line[6:].removesuffix(" &"), "&" if line.endswith(" &") else ""))
        elif line.startswith("    => "):
            result[-1] = result[-1][0], line[7:]
    return result


def immutable(to: Transcript) -> None:
    """Pods whose apps are known from the start."""
    to.section("A pod whose app fails")
    pod = to.run(to.image, *sh("echo out; echo err >&2; echo new > /etc/new; exit 7"))
    to.call("list")
    to.call("status", pod.uuid)
    to.call("cat-manifest", pod.uuid)
    to.call("export", pod.uuid, to.rkt.place / "out.aci")
    to.call("rm", pod.uuid)
    to.section("A pod that is prepared first")
    uuid = to.call("prepare", f"--stage1-path={to.rkt.stage1}", to.image, *sh("echo prepared; exit 9")).out.strip()
    to.call("list")
    to.end(to.begin(uuid, command="run-prepared"))
    to.call("gc", "--grace-period=0s")
    to.call("gc", "--grace-period=0s")


def running(to: Transcript) -> None:
    """What can be done to a pod that runs."""
    to.section("A pod that runs")
    pod = to.begin("--hostname=there", to.image, *sh(LASTING), until="up\n")
    to.call("status", pod.uuid)
    to.call("list")
    to.call("enter", pod.uuid, "/bin/sh", "-c", "hostname; id -u; exit 42")
    line = "tty; stty size; read line; echo got $line; exit 43"
    to.type_at("enter", pod.uuid, "/bin/sh", "-c", line, given=b"hello\r", after=b"24 80")
    to.call("rm", pod.uuid)
    to.call("stop", pod.uuid)
    to.end(pod)
    to.call("stop", pod.uuid)
    to.call("rm", pod.uuid)
    to.section("A pod that does not want to end")
    pod = to.begin(to.image, *sh("trap '' TERM; echo up; while :; do sleep 0.1; done"), until="up\n")
    to.call("stop", "--force", pod.uuid)
    to.end(pod)
    to.call("rm", pod.uuid)
    to.section("Streams")
    pod = to.begin(to.image, "--stdin=tty", "--stdout=tty", "--stderr=tty", *sh("read x; echo got $x; exit 2"))
    wait_until(lambda: pod.status().get("pid"))
    to.rkt.call("enter", pod.uuid, "/bin/true")  # so that it has booted
    to.call("attach", "--mode=list", pod.uuid)
    to.type_at("attach", pod.uuid, given=b"typed\r", after=b"")
    to.end(pod)
    to.call("rm", pod.uuid)


def mutable(to: Transcript) -> None:
    """Apps that come and go, two of one image."""
    to.section("A sandbox with two apps of one image")
    to.call("fetch", to.image)
    pod = to.begin(command="app sandbox")
    to.call("status", "--wait-ready", pod.uuid)
    to.call("app", "add", pod.uuid, IMAGE, "--name=one", *sh("echo I am one; sleep 300"))
    to.call("app", "add", pod.uuid, IMAGE, "--name=two", *sh("echo I am two; exit 3"))
    to.call("app", "list", pod.uuid)
    to.call("app", "start", pod.uuid, "--app=one")
    to.call("app", "start", pod.uuid, "--app=two")
    wait_until(lambda: "exited" in to.rkt.call("app", "status", pod.uuid, "--app=two").out)
    to.call("app", "status", pod.uuid, "--app=one")
    to.call("app", "status", pod.uuid, "--app=two")
    to.call("app", "exec", "--app=one", pod.uuid, "/bin/sh", "-c", "echo $AC_APP_NAME; exit 6")
    for _ in range(2):
        to.call("app", "stop", pod.uuid, "--app=one")
    to.call("app", "start", pod.uuid, "--app=two")
    to.call("app", "rm", pod.uuid, "--app=one")
    to.call("app", "add", pod.uuid, IMAGE, "--name=one", *sh("true"))
    to.call("app", "status", pod.uuid, "--app=one")
    to.call("app", "list", pod.uuid)
    to.call("stop", pod.uuid)
    to.end(pod)
    to.call("rm", pod.uuid)


def refused(to: Transcript) -> None:
    """What a virtual machine can't be."""
    to.section("What is refused")
    for argv in (("--net=host",), ("--net=none", "--ipc=parent"), ("--net=none", "--no-overlay", "--private-users")):
        to.call("run", *argv, f"--stage1-path={to.rkt.stage1}", to.image, "--exec=/bin/true")
    to.call("gc", "--grace-period=0s")


def write(place: Path, stage1: Path) -> str:
    """All of it, with the ACI `stage1`. Leaves no pod behind."""
    to = Transcript(place, stage1)
    try:
        for part in (immutable, running, mutable, refused):
            part(to)
    finally:
        to.rkt.clean()
    return to.text


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="rkt-transcript-") as directory:
        built = stage1_image.archive(Path(os.environ.get("CLEARPOD_GUEST_DIR", ROOT / "build/guest")))
        sys.stdout.write(write(Path(directory), built))
