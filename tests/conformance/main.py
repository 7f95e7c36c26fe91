# SPDX-License-Identifier: Apache-2.0
"""`scripts/conformance`: critest against clearpod, with stand-in images from a registry of our own.

All happens in a network namespace that is made for it and removed with everything in it; with --lab that is one of the
lab's (`in_lab`).
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stage1.errors import PodError
from tests.conformance import in_lab, report, stand_ins
from tests.fakes.builders import BuildFailed
from tests.fakes.outer_net import BIN_DIR, OuterNet, outer_net
from tests.fakes.patience import PACE, PATIENCE
from tests.fakes.registry import Registry
from tests.lab.debian_kernel import default_cache
from tests.lab.state import LabError

ROOT = Path(__file__).parent.parent.parent
NO_CRITEST = 3
NRI_FLAG = "-nri-socket"
"""Known to critest since 1.36; without it its specs of NRI skip themselves."""
WEBSOCKET = ("-websocket-exec", "-websocket-attach", "-websocket-portforward")
START_S = 20 * PATIENCE


def main(argv: Sequence[str]) -> int:
    """0: no spec failed; 1: some did; 3: there is no critest; 4: something needed can't be built or started."""
    args = _parser().parse_args(argv)
    try:
        expected = stand_ins.images(default_cache())  # needs the network that is there now
        if args.lab:
            return in_lab.run(args)
        with tempfile.TemporaryDirectory(prefix="clearpod-conformance-", dir="/var/tmp") as name:
            place = Path(name)
            stand_ins.write(place / "layout", expected)
            with outer_net(place) as net, Registry(place / "registry") as registry:
                _push_all(place, registry, asked=expected)
                return _run(place, net, registry=registry, args=args)
    except (BuildFailed, LabError, PodError, RuntimeError) as error:
        print(f"conformance: {error}", file=sys.stderr)
        return 4


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/conformance", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON document: passed, failed, skipped, specs")
    parser.add_argument("--focus", default="", metavar="REGEX", help="only the specs whose name matches")
    parser.add_argument("--websocket", action="store_true", help="exec, attach and port-forward over WebSocket")
    parser.add_argument("--handler", default="", metavar="NAME", help="the runtime handler of all pods")
    parser.add_argument(
        "--lab",
        action="store_true",
        help="in the lab, on kvmtool; the specs of AppArmor on Debian's kernel, if nothing else is asked for",
    )
    parser.add_argument("--path", action="append", default=[], metavar="DIR", help="where lkvm is, for --lab")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "results" / "conformance", metavar="DIR",
                        help="where the daemon's log and critest's report go")  # fmt: skip
    return parser


def _run(place: Path, net: OuterNet, *, registry: Registry, args: argparse.Namespace) -> int:
    args.output.mkdir(parents=True, exist_ok=True)
    with _daemon(place, net, registry=registry, log=args.output / "clearpod.log") as socket:
        if not shutil.which("critest"):
            print("conformance: the images are built and served, but there is no critest on PATH", file=sys.stderr)
            return NO_CRITEST
        result = report.specs(_critest(socket, args, path=_path(place)))
    print(json.dumps(report.summary(result), indent=1) if args.json else report.table(result))
    return int(not result or any(spec.state == report.FAILED for spec in result))


def _push_all(place: Path, registry: Registry, *, asked: Sequence[stand_ins.Image]) -> None:
    for image in asked:
        for name in (image.name, *image.more):
            registry.push(f"oci:{place}/layout:{image.ref}", name, "--multi-arch", "all")


@contextmanager
def _daemon(place: Path, net: OuterNet, *, registry: Registry, log: Path) -> Iterator[str]:
    """`clearpod serve` until the block ends; gives its socket."""
    run_dir = tempfile.mkdtemp(prefix="cf", dir="/run")
    config = place / "config.toml"
    config.write_text(_config(run_dir, place, net=net, registry=registry))
    argv = [sys.executable, "-m", "cri", "serve", "--config", str(config)]
    with log.open("wb") as sink:
        process = subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink)
    try:
        _wait_for(f"{run_dir}/clearpod.sock", process, log=log)
        yield f"{run_dir}/clearpod.sock"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
        _remove_orphans(run_dir)


def _config(run_dir: str, place: Path, *, net: OuterNet, registry: Registry) -> str:
    text = f"""
run_dir = "{run_dir}"
state_dir = "{place}/state"
[network]
conf_dir = "{net.settings.conf_dir}"
bin_dirs = ["{BIN_DIR}"]
[host_pods]
allow = ["network", "pid", "ipc"]
[nri]
enabled = true
socket = "{nri_socket(run_dir)}"
request_timeout_s = 30   # critest's own plugin holds answers back for seconds, to look at what is there meanwhile
[log]
level = "debug"
[vm]
boot_timeout_s = {60 * PACE}
"""
    ours = '[[registries]]\nprefix = "{}"\nlocation = "{}"\ninsecure = true\n'
    return text + "".join(ours.format(host, registry.host) for host in stand_ins.HOSTS)


def nri_socket(run_dir: str) -> str:
    """The NRI socket of this run, next to the pods' directory."""
    return f"{run_dir}/nri.sock"


def _wait_for(socket: str, process: subprocess.Popen[bytes], *, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while not os.path.exists(socket):
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"clearpod did not start; its log {log} ends with: {log.read_text()[-500:]}")
        time.sleep(0.05)


def _remove_orphans(run_dir: str) -> None:
    """What an interrupted spec left: virtual machines outlive the daemon."""
    from stage1 import engine

    pods = f"{run_dir}/pods"
    for name in sorted(os.listdir(pods)) if os.path.isdir(pods) else ():
        engine.clean_up(f"{pods}/{name}")
    shutil.rmtree(run_dir)


def knows(flag: str) -> bool:
    """Whether the critest that is here has it."""
    output = subprocess.run(["critest", "-h"], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    return f"{flag} " in output.stdout + output.stderr


def _path(place: Path) -> str:
    """PATH for critest. It calls apparmor_parser by sudo; where there is none, who runs this is root anyway."""
    if shutil.which("sudo"):
        return os.environ["PATH"]
    program = place / "bin" / "sudo"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\nexec "$@"\n')
    program.chmod(0o755)
    return f"{program.parent}:{os.environ['PATH']}"


def _critest(socket: str, args: argparse.Namespace, *, path: str) -> list[dict[str, Any]]:
    """Run critest, serially; its report."""
    target = args.output / "critest.json"
    target.unlink(missing_ok=True)
    argv = [
        "critest",
        f"-runtime-endpoint=unix://{socket}",
        f"--ginkgo.json-report={target}",
        f"--ginkgo.skip={report.skip_expression()}",
        "--ginkgo.no-color",
        *(WEBSOCKET if args.websocket else ()),
        *([f"{NRI_FLAG}={nri_socket(os.path.dirname(socket))}"] if knows(NRI_FLAG) else ()),
        *([f"--ginkgo.focus={args.focus}"] if args.focus else ()),
        *([f"-runtime-handler={args.handler}"] if args.handler else ()),
    ]
    with (args.output / "critest.log").open("wb") as log:
        subprocess.run(argv, env={**os.environ, "PATH": path}, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    if not target.exists():
        raise RuntimeError(f"critest wrote no report; see {log.name}")
    return json.loads(target.read_text())  # type: ignore[no-any-return]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
