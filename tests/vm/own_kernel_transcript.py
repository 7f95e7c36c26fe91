# SPDX-License-Identifier: Apache-2.0
"""Writes down a session with pods that bring a kernel of their own: by crictl, `clearpod run` and rkt, line by line.

`python -m tests.vm.own_kernel_transcript > tests/vm/own_kernel_transcript.md`, as root, with crictl and rkt on PATH
and the guest built; without one of them its part is missing. With the word `kvmtool`, where that works, as in the lab,
it is tests/vm/own_kernel_transcript_kvmtool.md. test_own_kernel_transcript.py checks that these files
have the commands and codes of a fresh session. All of it happens in a network and mounts of its own.
"""

import contextlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.fakes import aci, kernels, places
from tests.fakes.oci_layout import Entry, file
from tests.fakes.outer_net import BIN_DIR, outer_net
from tests.fakes.patience import PATIENCE
from tests.fakes.registry import Registry
from tests.rkt import small_stage1, stage1_image
from tests.vm.shell_session import IMAGE, Session

ROOT = Path(__file__).parents[2]
HEAD = """# A transcript of pods with a kernel of their own

Both kernels of the tests ([own-kernels.md](../../docs/user/own-kernels.md)) by crictl, `clearpod run` and rkt, on QEMU,
written by `python -m tests.vm.own_kernel_transcript`; a test runs it again and compares commands and codes.

- hello, on a microvm, which has no power button: an ELF with a PVH note, `io.clearpod.kernel.path=/kernel` and
  `network=linux`. It answers ping, and UDP with what it was sent, backwards.
- debian, on a q35: Debian's cloud kernel, a bzImage, with an initramfs of busybox: `path=/kernel`, `initrd=/initrd`,
  `network=linux`, `machine=q35`.

Values of the shell's variables stand as the variables. Options that name directories and configurations are left out,
as is what waits for a line of a log. `E` marks crictl's errors, `=>` an exit code that is not 0. A pod with
`clearpod.io/memory-mib` above the node's default wants `policy.max_memory_mib`.
"""
HEAD_OF_KVMTOOL = """# A transcript of pods with a kernel of their own on kvmtool

The same as in [own_kernel_transcript.md](own_kernel_transcript.md) on kvmtool, in the
[lab](../../docs/dev/testing.md#the-lab), written by `python -m tests.vm.own_kernel_transcript kvmtool`; a test runs it
again there and compares commands and codes.

That hypervisor boots a bzImage on a machine with PCI: the hello, an ELF, is refused. Its machine has no power button,
so the stock kernel is ended at once when it is stopped, with code 137, and a reset is its end in good order.
"""
CONFIG = """run_dir = "{place}/{name}"
state_dir = "{place}/{name}-state"
[guest]
dir = "{guest}"
[network]
conf_dir = "{place}/none"
default_subnets = ["10.86.0.0/16"]
[policy]
max_memory_mib = 256
[vm]
hypervisor = "{hypervisor}"
boot_timeout_s = {boot_s}
"""
ENDED = "{{.status.state}} {{.status.exitCode}} {{.status.reason}}"


def _program(place: Path, name: str, line: str) -> None:
    (place / "bin").mkdir(exist_ok=True)
    (place / "bin" / name).write_text(f"#!/bin/bash\n{line}\n")
    (place / "bin" / name).chmod(0o755)


def _labels(name: str) -> dict[str, str]:
    if name == "hello":
        return kernels.labelled(path="/kernel", network="linux")
    return kernels.labelled(path="/kernel", initrd="/initrd", network="linux", machine="q35")


def _files(guest_dir: Path) -> dict[str, list[Entry]]:
    return {"hello": [file("kernel", kernels.hello(), 0o755)], "debian": kernels.debian_files(guest_dir)}


@contextlib.contextmanager
def session(guest_dir: Path, hypervisor: str) -> Iterator[Session]:
    """A shell in a host of its own, with both images in a registry, and `clearpod` and `crictl` for a daemon there."""
    with places.short_directory() as directory, outer_net(Path(directory, "net")):
        place = Path(directory)
        (place / "none").mkdir()
        kind = {"hypervisor": hypervisor}
        for name in ("s", "r"):
            settings = {"place": place, "name": name, "guest": guest_dir, "boot_s": 60 * PATIENCE} | kind
            (place / f"{name}.toml").write_text(CONFIG.format(**settings))
        python = f'PYTHONPATH={ROOT} exec {sys.executable} -m cri "$1" --config {place}/${{CONFIG:-r}}.toml "${{@:2}}"'
        _program(place, "clearpod", python)
        if crictl := shutil.which("crictl"):
            (place / "crictl.yaml").write_text(f"runtime-endpoint: unix://{place}/s/clearpod.sock\n")
            _program(place, "crictl", f'exec {crictl} --config {place}/crictl.yaml -t {120 * PATIENCE}s "$@"')
        with Registry(place / "registry") as registry:
            pushed = [
                kernels.push(registry, place, f"t/{name}:1", files=files, labels=_labels(name))
                for name, files in _files(guest_dir).items()
            ]
            made = Session(place, images=pushed[0].removesuffix("hello:1"))
            try:
                yield made
            finally:
                made.close()


@contextlib.contextmanager
def _daemon(to: Session) -> Iterator[None]:
    to.quietly("export CONFIG=s; clearpod serve > serve.log 2>&1 &")
    try:
        to.until("crictl pods")
        yield
    finally:
        to.quietly("kill %1; wait %1; unset CONFIG")


def _pod(to: Session, name: str, annotations: dict[str, str], *arguments: str) -> None:
    """The files for crictl, shown."""
    metadata = {"name": name, "namespace": "default", "uid": name, "attempt": 0}
    pod = {"metadata": metadata, "log_directory": f"{to.place}/logs", "annotations": annotations}
    container = {"metadata": {"name": name}, "image": {"image": f"{IMAGE}{name}:1"}, "args": list(arguments)}
    (to.place / "pod.json").write_text(json.dumps(pod) + "\n")
    document = json.dumps({**container, "log_path": f"{name}.log"}) + "\n"
    (to.place / f"{name}.json").write_text(document.replace(IMAGE, to._images))
    to.run(f"cat pod.json {name}.json")


def _runs(to: Session, name: str, *, ready: str) -> None:
    to.run(f"crictl pull {IMAGE}{name}:1")
    to.run("POD=$(crictl runp pod.json); echo $POD")
    to.run(f"C=$(crictl create $POD {name}.json pod.json); echo $C")
    to.run("crictl start $C")
    to.until(f"crictl logs $C | grep '^{ready}'")
    to.run("crictl logs $C")
    to.run("IP=$(crictl inspectp -o go-template --template '{{.status.network.ip}}' $POD); echo $IP")
    to.run("ping -c 2 $IP")


def _is_refused_and_ends(to: Session) -> None:
    to.run("crictl ps")
    to.run("crictl stats $C")
    to.run("crictl exec $C true")
    to.run("crictl update --memory 67108864 $C")
    to.run("crictl stop --timeout 60 $C")
    to.run(f"crictl inspect -o go-template --template '{ENDED}' $C")
    to.run("crictl logs --tail 2 $C")
    to.run("crictl rmp -f $POD")


def by_crictl(to: Session) -> None:
    """Both kernels through the CRI, and one by `clearpod run -d`."""
    with _daemon(to):
        to.section("crictl, the hello")
        _pod(to, "hello", {"clearpod.io/kernel": "image"}, "count=3")
        _runs(to, "hello", ready="ready")
        to.run("exec 3<>/dev/udp/$IP/7; echo -n stressed >&3; head -c 8 <&3; echo")
        _is_refused_and_ends(to)
        to.section("crictl, the hello resets its machine")
        _pod(to, "hello", {"clearpod.io/kernel": "image"}, "reset")
        to.run("C=$(crictl run hello.json pod.json 2> /dev/null); echo $C")
        to.until("crictl ps -a --state exited -q | grep $C")
        to.run(f"crictl inspect -o go-template --template '{ENDED}' $C")
        to.run("crictl rmp -fa")
        to.section("crictl, the stock kernel")
        _pod(to, "debian", {"clearpod.io/kernel": "image", "clearpod.io/memory-mib": "192"}, "quiet")
        _runs(to, "debian", ready="a kernel of Linux is ready")
        to.run("wget -q -O - http://$IP/f")
        _is_refused_and_ends(to)
        to.section("clearpod run -d, the stock kernel")
        to.run(f"POD=$(clearpod run -d --name web --vm-memory 192m -p 8080:80 {IMAGE}debian:1 -- quiet); echo $POD")
        to.quietly("C=$(crictl ps -q)")
        to.until("clearpod logs default/web | grep ready")
        for line in ("ps", "logs default/web", "stats default/web", "exec default/web -- true"):
            to.run(f"clearpod {line}")
        to.run("wget -q -O - http://127.0.0.1:8080/f")
        to.run("crictl stopp $POD")
        to.run("crictl rmp $POD")


def by_crictl_on_kvmtool(to: Session) -> None:
    """The stock kernel through the CRI, and the hello, which is refused."""
    with _daemon(to):
        to.section("crictl, the stock kernel")
        _pod(to, "debian", {"clearpod.io/kernel": "image", "clearpod.io/memory-mib": "192"}, "quiet")
        _runs(to, "debian", ready="a kernel of Linux is ready")
        to.run("wget -q -O - http://$IP/f")
        _is_refused_and_ends(to)
        to.section("crictl, the hello")
        _pod(to, "hello", {"clearpod.io/kernel": "image"})
        to.run(f"crictl pull {IMAGE}hello:1")
        to.run("POD=$(crictl runp pod.json); echo $POD")
        to.run("crictl create $POD hello.json pod.json")
        to.run("crictl rmp -f $POD")


def by_run_on_kvmtool(to: Session) -> None:
    """The stock kernel in the foreground, and the hello, which is refused."""
    to.section("clearpod run, the stock kernel")
    to.run(f"clearpod run --vm-memory 192m {IMAGE}debian:1 -- quiet rdinit=/bin/false")
    to.run(f"clearpod run --name debian --vm-memory 192m -p 8080:80 {IMAGE}debian:1 -- quiet > debian.out &")
    to.until("grep '^a kernel' debian.out")
    to.run("cat debian.out")
    to.run("wget -q -O - http://127.0.0.1:8080/f")
    to.run("kill -TERM %1; wait %1")
    to.section("clearpod run, the hello")
    to.run(f"clearpod run {IMAGE}hello:1")


def by_run(to: Session) -> None:
    """Both kernels in the foreground."""
    to.section("clearpod run, the hello")
    to.run(f"clearpod run --name hello {IMAGE}hello:1 -- count=3 > hello.out &")
    to.until("grep ^ready hello.out")
    to.run("cat hello.out")
    to.run("IP=$(grep -o 'ip=[0-9.]*' hello.out | cut -c 4-); echo $IP")
    to.run("ping -c 2 $IP")
    to.run("kill -TERM %1; wait %1")
    to.section("clearpod run, a reset is no success where a kernel can power off")
    to.run(f"clearpod run {IMAGE}hello:1 -- reset")
    to.run(f"clearpod run --vm-memory 192m {IMAGE}debian:1 -- quiet rdinit=/bin/false")
    to.section("clearpod run, the stock kernel")
    to.run(f"clearpod run --name debian --vm-memory 192m -p 8080:80 {IMAGE}debian:1 -- quiet > debian.out &")
    to.until("grep '^a kernel' debian.out")
    to.run("cat debian.out")
    to.run("wget -q -O - http://127.0.0.1:8080/f")
    to.run("kill -TERM %1; wait %1")
    to.run("tail -2 debian.out")


def _rkt(to: Session, guest_dir: Path, *, stage1: Path) -> None:
    """The real rkt as a program of the session's, with a bridge, the image `stage1` and both app images."""
    place = to.place
    ipam = {"type": "host-local", "subnet": "10.99.0.0/24", "dataDir": f"{place}/leases"}
    bridge = {"name": "br", "type": "bridge", "bridge": "br-rkt", "isGateway": True, "ipMasq": True, "ipam": ipam}
    (place / "local/net.d").mkdir(parents=True)
    (place / "local/net.d/10-br.conf").write_text(json.dumps(bridge))
    options = f"--dir={place}/data --insecure-options=image --local-config={place}/local"
    _program(place, "rkt", f'exec {shutil.which("rkt")} {options} "$@"')
    shutil.copy2(stage1, place / "clearpod-stage1.aci")
    for name, files in _files(guest_dir).items():
        root = place / f"root-{name}"
        root.mkdir()
        for one in files:
            (root / one.name).write_bytes(one.data)
        aci.pack(root, place / f"{name}.aci", name=f"example.com/{name}", exec=["/kernel"], userLabels=_labels(name))


def _by_rkt(to: Session, name: str, argument: str, *, ready: str) -> None:
    out = f"rkt-{name}.out"
    stage1 = "--stage1-path=clearpod-stage1.aci"
    to.run(f"rkt run --net=br {stage1} --uuid-file-save=uuid {name}.aci -- {argument} > {out} &")
    to.until(f"grep '^{ready}' {out}")
    to.run("UUID=$(cat uuid); echo $UUID")
    to.run(f"cat {out}")
    to.run("rkt list")
    to.run("rkt status $UUID")
    to.run("IP=$(rkt list --no-legend --full | grep -o 'ip4=[0-9.]*' | cut -c 5-); echo $IP")
    to.run("ping -c 2 $IP")
    to.run("rkt enter $UUID /bin/true")
    to.run("rkt stop $UUID")
    to.run("wait %1")
    to.run(f"tail -2 {out}")
    to.run("rkt status $UUID | grep -E 'state|app-'")
    to.run("rkt rm $UUID")


def by_rkt(to: Session, guest_dir: Path) -> None:
    """Both kernels as apps of rkt's."""
    _rkt(to, guest_dir, stage1=stage1_image.archive(guest_dir))
    to.section("rkt, both")
    try:
        _by_rkt(to, "hello", "count=3", ready="ready")
        _by_rkt(to, "debian", "quiet", ready="a kernel of Linux is ready")
    finally:
        to.quietly("rkt gc --grace-period=0s")


def by_rkt_on_kvmtool(to: Session, guest_dir: Path) -> None:
    """The stock kernel as an app of rkt's, and the hello, which is refused. The stage1 image is one that rkt imports at
    once, also where that is emulated.
    """
    _rkt(to, guest_dir, stage1=small_stage1.archive(to.place / "small"))
    to.section("rkt, both")
    try:
        _by_rkt(to, "debian", "quiet", ready="a kernel of Linux is ready")
        to.run("rkt run --stage1-path=clearpod-stage1.aci hello.aci")
    finally:
        to.quietly("rkt gc --grace-period=0s")


def commands(text: str) -> list[tuple[str, str]]:
    """(command, exit code) of each command in a transcript, or in a part of it."""
    result: list[tuple[str, str]] = []
    for line in text.splitlines():
        if line.startswith("    $ "):
            result.append((line[6:], "0"))
        elif line.startswith("    => "):
            result[-1] = result[-1][0], line[7:]
    return result


Part = Callable[[Session, Path], None]
PARTS: dict[str, dict[str, Part]] = {
    "qemu": {"crictl": lambda to, _: by_crictl(to), "run": lambda to, _: by_run(to), "rkt": by_rkt},
    "kvmtool": {
        "crictl": lambda to, _: by_crictl_on_kvmtool(to),
        "run": lambda to, _: by_run_on_kvmtool(to),
        "rkt": by_rkt_on_kvmtool,
    },
}
HEADS = {"qemu": HEAD, "kvmtool": HEAD_OF_KVMTOOL}
FILES = {"qemu": "tests/vm/own_kernel_transcript.md", "kvmtool": "tests/vm/own_kernel_transcript_kvmtool.md"}


def write(part: str, guest_dir: Path, *, hypervisor: str = "qemu") -> str:
    """That part of the transcript."""
    with session(guest_dir, hypervisor) as to:
        PARTS[hypervisor][part](to, guest_dir)
        return to.text


def lacks(part: str) -> str:
    """Why it can't be run here; empty when it can."""
    if not os.path.exists(f"{BIN_DIR}/bridge"):
        return f"needs {BIN_DIR}: apt install containernetworking-plugins iptables"
    return "" if part == "run" or shutil.which(part) else f"needs {part} on PATH"


if __name__ == "__main__":
    os.environ.setdefault("TMPDIR", tempfile.gettempdir())
    guest = Path(os.environ.get("CLEARPOD_GUEST_DIR", ROOT / "build/guest"))
    (on,) = sys.argv[1:] or ["qemu"]
    texts = [write(part, guest, hypervisor=on) for part in PARTS[on] if not lacks(part)]
    sys.stdout.write(HEADS[on] + "".join(texts))
