# SPDX-License-Identifier: Apache-2.0
"""The Debian packages in a clean Debian 13, without this checkout and without PyPI: install, a pod, an upgrade below a
pod that runs, purge.
"""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from stage1.linux.host import which
from tests.fakes import debian_root
from tests.fakes.patience import PATIENCE

pytestmark = [pytest.mark.vm, pytest.mark.timeout(900)]

BUILD = Path(__file__).parents[2] / "images/deb/build.py"
FIRST_POD_S = 20
"""From the end of `apt install` to the end of a first pod."""

# What a kubelet does, by the packaged Python: arguments are a call and a pod's id.
CLIENT = """
import sys, grpc
from cri.pb import runtime_pb2 as pb, runtime_pb2_grpc as rpc
stub = rpc.RuntimeServiceStub(grpc.insecure_channel("unix:/run/clearpod/clearpod.sock"))
if sys.argv[1] == "run":
    config = pb.PodSandboxConfig(metadata=pb.PodSandboxMetadata(name="a", uid="u", namespace="n"))
    print(stub.RunPodSandbox(pb.RunPodSandboxRequest(config=config), wait_for_ready=True, timeout=300).pod_sandbox_id)
else:
    for pod in stub.ListPodSandbox(pb.ListPodSandboxRequest(), wait_for_ready=True, timeout=300).items:
        print(pod.id, pb.PodSandboxState.Name(pod.state))
"""
SCRIPT = """
apt-get -qq update
apt-get -qq -y install --no-install-recommends /debs/one/*.deb > /apt.log
end=$SECONDS
clearpod run -- uname -r
echo "first pod: $((SECONDS - end))"
clearpod --version
clearpod init --yes | tail -1
bash -c '. /usr/share/bash-completion/completions/clearpod; complete -p clearpod'
exec unshare --net bash -euc '
    ip link set lo up
    serve() { clearpod serve >> /serve.log 2>&1 & daemon=$!; }
    ask() { /usr/lib/clearpod/bin/python3 -I /client.py "$@"; }
    serve
    echo "made: $(ask run)"
    dpkg -i /debs/two/*.deb >> /apt.log
    kill "$daemon"; wait "$daemon" || true
    serve
    echo "kept: $(ask list)"
    dpkg --remove clearpod clearpod-guest >> /apt.log
    kill "$daemon"; wait "$daemon" || true
    mount -t tmpfs tmpfs /sys/fs/cgroup  # purge looks for empty cgroups, and other tests have some for a moment
    dpkg --purge clearpod clearpod-guest >> /apt.log
    echo "left:" $(find / -xdev -name "clearpod*" ! -name "*.deb" ! -name "*.whl") $(ls /run | grep clearpod) \\
        $(grep clearpod /proc/self/mountinfo) $(ip -o link | grep clearpod) $(grep -l qemu /proc/[0-9]*/comm)
'
"""


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A clean Debian 13."""
    if (lacks := debian_root.why_not()) or (lacks := debian_root.make(tmp_path / "root")):
        pytest.skip(lacks)
    return tmp_path / "root"


def build(version: str, guest: Path, place: Path) -> None:
    """The packages, of what this checkout has built. Half a minute of a processor would go into compressing them."""
    argv = [sys.executable, BUILD, "--version", version, "--guest", guest, "--output", place]
    env = {**os.environ, "DPKG_DEB_COMPRESSOR_TYPE": "none"}
    subprocess.run([str(word) for word in argv], env=env, check=True)


def build_next(debs: Path, version: str, *, after: str, place: Path) -> None:
    """The same packages with another version: dpkg goes by that alone."""
    place.mkdir()
    for package in debs.glob("*.deb"):
        tree = place / "tree"
        subprocess.run(["dpkg-deb", "--raw-extract", package, tree], check=True)
        control = tree / "DEBIAN/control"
        control.write_text(control.read_text().replace(after, version))
        made = place / package.name.replace(after, version)
        subprocess.run(["dpkg-deb", "--root-owner-group", "-Znone", "--build", tree, made], check=True)
        shutil.rmtree(tree)


def require_pages(debs: Path, place: Path) -> None:
    """Manual pages and completion are in the wheel, and in the package where Debian's programs look for them."""
    (wheel,) = debs.glob("*.whl")
    shared = {name.partition(".data/data/")[2] for name in zipfile.ZipFile(wheel).namelist()}
    assert {"share/man/man1/clearpod-init.1", "share/zsh/site-functions/_clearpod"} <= shared
    (package,) = debs.glob("clearpod_*.deb")
    subprocess.run(["dpkg-deb", "--extract", package, place], check=True)
    for name in (
        "share/man/man1/clearpod-run.1.gz",
        "share/bash-completion/completions/clearpod",
        "share/zsh/vendor-completions/_clearpod",
        "share/fish/vendor_completions.d/clearpod.fish",
    ):
        assert (place / "usr" / name).stat().st_size > 1000, name
    program = (place / "usr/lib/clearpod/bin/clearpod").read_text()
    assert program.startswith("#!/usr/bin/env -S --block-signal=INT ")
    if which("man"):
        shown = subprocess.run(["man", "-M", place / "usr/share/man", "clearpod"], capture_output=True, text=True)
        assert "NAME\n" in shown.stdout and "each pod" in shown.stdout and shown.stderr == ""


def test_a_clean_debian_runs_a_pod_keeps_it_over_an_upgrade_and_has_nothing_after_purge(
    machine: Path, guest_dir: Path
) -> None:
    build("0.1.0+one", guest_dir, machine / "debs/one")
    require_pages(machine / "debs/one", machine.parent / "unpacked")
    build_next(machine / "debs/one", "0.1.0+two", after="0.1.0+one", place=machine / "debs/two")
    (machine / "client.py").write_text(CLIENT)
    done = debian_root.run(machine, SCRIPT)
    evidence = (
        done.stdout
        + done.stderr
        + "".join(path.read_text() for path in (machine / "apt.log", machine / "serve.log") if path.exists())
    )
    if "first pod" not in done.stdout and "Unable to fetch" in evidence:
        pytest.skip("the mirror can't be reached: apt-get could not fetch what the packages depend on")
    assert done.returncode == 0, evidence
    kernel, first, version, begun, completion, made, kept, left = done.stdout.strip().splitlines()
    assert kernel.endswith("-clearpod")
    assert int(first.removeprefix("first pod: ")) <= FIRST_POD_S * PATIENCE, evidence
    print(f"{first} s after apt install")
    assert version.startswith("clearpod ")
    assert "systemd" in begun and completion.endswith(" clearpod"), evidence
    pod = made.removeprefix("made: ")
    assert kept == f"kept: {pod} SANDBOX_READY", evidence
    assert left.split() == ["left:"], evidence
