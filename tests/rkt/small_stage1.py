# SPDX-License-Identifier: Apache-2.0
"""A stage1 image as the real one is laid out (images/stage1-aci/README.md), made of what lies in this checkout.

In place of the bundled Python is a script that starts the one that runs the tests, and in place of the archive's
modules are the checkout's. The launcher and the guest are the real ones.
"""

import json
import os
import py_compile
import subprocess
import sys
from pathlib import Path

from tests.fakes.c_program import make
from tests.vm.agent_machine import GUEST_DIR

CHECKOUT = Path(__file__).parents[2]
LAUNCHER = CHECKOUT / "images" / "launcher"
OUT = CHECKOUT / "build" / "launcher"  # kept between runs: make rebuilds only what changed
ENTRIES = ("run", "enter", "stop", "gc", "attach", "app_add", "app_start", "app_stop", "app_rm")
LOADER = """#!/bin/sh
# ld.so --library-path DIR --argv0 PYTHON PYTHON OPTION...
shift 5
exec {python} "$@"
"""
START = """import sys
sys.path.insert(0, {checkout!r})
from stage1.entry import dispatch
sys.exit(dispatch.enter(sys.argv[1], sys.argv[2:]))
"""


def launcher() -> Path:
    """The launcher, built; in the lab, where the checkout is read-only, each time anew."""
    out = OUT if os.access(CHECKOUT / "build", os.W_OK) else Path("/tmp/launcher")
    make(LAUNCHER, out)
    return out / "launcher"


def build(place: Path) -> Path:
    """Make the image in `place`, which must not exist: `manifest` and `rootfs/`."""
    root = place / "rootfs"
    for name in ("rkt/status", "rkt/env", "opt/stage2", "etc", "usr/lib/clearpod/python/bin", "usr/lib/clearpod/guest"):
        (root / name).mkdir(parents=True)
    (root / "launcher").write_bytes(launcher().read_bytes())
    (root / "launcher").chmod(0o755)
    for entry in ENTRIES:
        (root / entry).symlink_to("launcher")
    home = root / "usr" / "lib" / "clearpod"
    (home / "python" / "ld.so").write_text(LOADER.format(python=Path(sys.executable).resolve()))
    (home / "python" / "ld.so").chmod(0o755)
    (home / "start.py").write_text(START.format(checkout=str(CHECKOUT)))
    py_compile.compile(str(home / "start.py"), cfile=str(home / "start.pyc"), doraise=True)
    for file in GUEST_DIR.iterdir():
        if file.is_file():
            (home / "guest" / file.name).symlink_to(file)
    (place / "manifest").write_text(json.dumps(_manifest()))
    return place


def archive(place: Path) -> Path:
    """The same as an ACI for the real rkt, which imports it in no time. `place` must not exist."""
    build(place)
    aci = place / "stage1.aci"
    subprocess.run(["tar", "-czf", aci, "-C", place, "--owner=0", "--group=0", "manifest", "rootfs"], check=True)
    return aci


def _manifest() -> dict[str, object]:
    annotations = {f"coreos.com/rkt/stage1/{name.replace('app_', 'app/')}": f"/{name}" for name in ENTRIES}
    annotations["coreos.com/rkt/stage1/interface-version"] = "6"
    return {
        "acKind": "ImageManifest",
        "acVersion": "0.8.11",
        "name": "clearpod.io/stage1-small",
        "annotations": [{"name": name, "value": value} for name, value in annotations.items()],
    }
