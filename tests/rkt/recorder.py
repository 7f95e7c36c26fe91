# SPDX-License-Identifier: Apache-2.0
"""A stage1 that boots nothing: each of its programs records how it was called. Used by test_stage0.

`run` reports that it is ready and lives until `stop` is called; the others end at once, with the code in the file
`code` next to the records if there is one. Records are JSON lines: program, argv without the interpreter, environment,
working directory, descriptors, owner of the lock.
"""

import json
import os
import stat
import sys
import tarfile
from pathlib import Path

ENTRIES = {
    "run": "init", "enter": "enter", "gc": "gc", "stop": "stop", "attach": "attach", "app/add": "app_add",
    "app/rm": "app_rm", "app/start": "app_start", "app/stop": "app_stop",
}  # fmt: skip

PROGRAM = """#!{python} -IS
import json, os, signal, sys, time

def kind(fd):
    try:
        return os.readlink(f"/proc/self/fd/{{fd}}")
    except OSError:
        return ""

def has_lock(fd):
    return any(line.startswith("lock:") for line in open(f"/proc/self/fdinfo/{{fd}}"))

name = os.path.basename(sys.argv[0])
fds = {{int(fd): kind(fd) for fd in os.listdir("/proc/self/fd")}}
locks = [fd for fd in fds if fds[fd] and not fds[fd].startswith("/proc") and has_lock(fd)]
fds = {{fd: path for fd, path in fds.items() if path and not path.startswith("/proc/")}}
env = open("/proc/self/environ", "rb").read().decode().split("\\0")[:-1]
env = dict(word.split("=", 1) for word in env)
record = dict(name=name, argv=sys.argv, env=env, cwd=os.getcwd(), fds=fds, locks=locks,
              mounted=os.path.ismount("stage1/rootfs"))
with open("{records}", "a") as file:
    file.write(json.dumps(record) + "\\n")
if name == "init":
    open("pid.new", "w").write(f"{{os.getpid()}}\\n")
    os.rename("pid.new", "pid")
    os.symlink("ready", "stage1/rootfs/rkt/supervisor-status")
    for _ in range(3000):
        if os.path.exists("{records}.stop"):
            break
        time.sleep(0.02)
    os.unlink("{records}.stop")
    sys.exit(42)
if name == "stop":
    open("{records}.stop", "w")
if name == "enter":
    os.execvp(sys.argv[sys.argv.index("--") + 1], sys.argv[sys.argv.index("--") + 1:])
"""


def build(place: Path) -> Path:
    """An unpacked stage1 image at `place`."""
    root = place / "rootfs"
    (root / "rkt" / "status").mkdir(parents=True)
    for file in ENTRIES.values():
        program = root / file
        program.write_text(PROGRAM.format(python=os.path.realpath(sys.executable), records=place / "records"))
        program.chmod(0o755)
    annotations = [{"name": f"coreos.com/rkt/stage1/{name}", "value": f"/{file}"} for name, file in ENTRIES.items()]
    annotations.append({"name": "coreos.com/rkt/stage1/interface-version", "value": "6"})
    labels = [{"name": "version", "value": "1.0"}, {"name": "arch", "value": "amd64"}, {"name": "os", "value": "linux"}]
    manifest = {"acKind": "ImageManifest", "acVersion": "0.8.11", "name": "example.com/stage1"}
    (place / "manifest").write_text(json.dumps({**manifest, "labels": labels, "annotations": annotations}))
    return place


def records(place: Path) -> list[dict[str, object]]:
    """What was written down."""
    path = place / "records"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def pack(place: Path, target: Path) -> Path:
    """The image at `place` as an ACI, for the real rkt."""

    def own(info: tarfile.TarInfo) -> tarfile.TarInfo:
        info.uid = info.gid = 0
        info.mode = stat.S_IMODE(info.mode)
        return info

    with tarfile.open(target, "w") as archive:
        for name in ("manifest", "rootfs"):
            archive.add(place / name, name, filter=own)
    return target
