# SPDX-License-Identifier: Apache-2.0
"""A daemon with kvmtool pods, its client, and small images: for test_window_kvmtool.py."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import grpc

from cri.config import Config
from cri.pb import runtime_pb2 as pb
from cri.pb import runtime_pb2_grpc as rpc
from cri.store.images import ImageStore
from stage1.vm import mapping
from tests.fakes import preloaded
from tests.fakes.oci_layout import CAP_NET_RAW, Entry, Layer, Layout, file, tar
from tests.fakes.open_policy import TEXT
from tests.fakes.pulled import pull_blocking
from tests.vm.agent_machine import make_image
from tests.vm.test_window_qemu import busybox_layer

CHECKOUT = Path(__file__).parents[2]
MIB = 1 << 20
CALL_S = 200.0
START_S = 400.0
"""Python alone takes a minute to start where all is emulated."""
CONSTANTS = """
#include <fcntl.h>
#include <unistd.h>
static const char block[65536] = {[0 ... 65535] = 'k'};
int main(int argc, char **argv)
{
    int fd = open(argv[1], O_WRONLY | O_CREAT, 0644);
    return fd < 0 || write(fd, block, sizeof block) != sizeof block;
}
"""
MEMORY_WORD, WINDOW_WORD = "clearpod.io/memory-mib", "clearpod.io/dax-window-mib"


class Node:
    """A daemon that can be killed and started again, and its client; `images` maps names to references."""

    def __init__(self, root: Path, run_dir: str, guest_dir: Path) -> None:
        self.root, self.run_dir, self.state = root, run_dir, root / "state"
        self.config, self.images = root / "config.toml", dict[str, str]()
        self.config.write_text(
            f'run_dir = "{run_dir}"\nstate_dir = "{self.state}"\n[guest]\ndir = "{guest_dir}"\n'
            '[vm]\nhypervisor = "kvmtool"\nscratch_mib = 64\nboot_timeout_s = 200\n'
            f'[network]\nconf_dir = "{root}/net.d"\n' + TEXT
        )
        self.daemon: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the daemon and wait until it answers."""
        argv = [sys.executable, "-m", "cri", "serve", "--config", str(self.config)]
        with (self.root / "serve.log").open("ab") as log:
            seen = self.log().count("serving socket")
            self.daemon = preloaded.Popen(argv, cwd=CHECKOUT, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + START_S
        while self.log().count("serving socket") == seen:
            assert self.daemon.poll() is None and time.monotonic() < deadline, self.log()
            time.sleep(0.2)
        # A new one each time: a channel that has failed waits longer and longer.
        self._stub = rpc.RuntimeServiceStub(grpc.insecure_channel(f"unix:{self.run_dir}/clearpod.sock"))
        self("Version")

    def log(self) -> str:
        """What the daemon has logged."""
        return (self.root / "serve.log").read_text()

    def kill(self) -> None:
        """End the daemon as a crash would."""
        assert self.daemon is not None
        self.daemon.kill()
        self.daemon.wait()

    def __call__(self, name: str, *, limit_s: float = CALL_S, **fields: Any) -> Any:
        return getattr(self._stub, name)(getattr(pb, f"{name}Request")(**fields), timeout=limit_s, wait_for_ready=True)

    def pod(self, name: str, **annotations: str) -> str:
        """Run a sandbox; underscores in the names of annotations are those of the constants above."""
        names = pb.PodSandboxMetadata(name=name, namespace="default", uid=f"uid-{name}")
        output = {{"memory": MEMORY_WORD, "window": WINDOW_WORD}[key]: text for key, text in annotations.items()}
        linux = pb.LinuxPodSandboxConfig(security_context=pb.LinuxSandboxSecurityContext(privileged=True))
        logs = f"{self.root}/logs"
        config = pb.PodSandboxConfig(metadata=names, annotations=output, log_directory=logs, linux=linux)
        return str(self("RunPodSandbox", config=config).pod_sandbox_id)

    def create(
        self,
        pod: str,
        image: str,
        argv: list[str],
        *,
        name: str,
        uid: int = 0,
        privileged: bool = False,
        volume: str = "",
    ) -> str:
        """Create a container; `volume` is a directory of the host, which it sees as /volume."""
        user = pb.LinuxContainerSecurityContext(run_as_user=pb.Int64Value(value=uid), privileged=privileged)
        config = pb.ContainerConfig(
            metadata=pb.ContainerMetadata(name=name),
            image=pb.ImageSpec(image=self.images[image]),
            command=argv,
            log_path=f"{name}.log",
            linux=pb.LinuxContainerConfig(security_context=user),
            mounts=[pb.Mount(host_path=volume, container_path="/volume")] if volume else [],
        )
        return str(self("CreateContainer", pod_sandbox_id=pod, config=config).container_id)

    def run(self, pod: str, image: str, argv: list[str], *, name: str, uid: int = 0) -> str:
        """Create and start."""
        container = self.create(pod, image, argv, name=name, uid=uid)
        self("StartContainer", container_id=container)
        return container

    def exec(self, container: str, script: str) -> str:
        """What a shell says in the container."""
        reply = self("ExecSync", container_id=container, cmd=["sh", "-c", script], timeout=100)
        assert reply.exit_code == 0, reply
        return str(reply.stdout.decode())

    def source(self, container: str) -> str:
        """What verbose status says of the image."""
        reply = self("ContainerStatus", container_id=container, verbose=True)
        return str(json.loads(reply.info["info"])["image"])

    def remove(self, container: str) -> None:
        """RemoveContainer."""
        self("RemoveContainer", container_id=container)

    def directory(self, pod: str) -> str:
        """The pod's."""
        return f"{self.run_dir}/pods/{pod}"

    def in_window(self, pod: str) -> list[tuple[int, int]]:
        """What the record says lies in the pod's window: (offset, size)."""
        window = mapping.find(self.directory(pod))
        assert window is not None
        return [(image.offset, image.size) for image in window.images]

    def mapped_files(self, pod: str) -> list[str]:
        """Files of the store that the pod's VMM has mapped."""
        pid = json.loads(Path(self.directory(pod), "vm.json").read_text())["pid"]
        lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
        return [line.split(maxsplit=5)[5] for line in lines if str(self.state) in line]


def image_of(root: Path, name: str, *layers: list[Entry]) -> str:
    """An OCI layout with an image of these layers; returns its reference."""
    layout = Layout(root / f"layout-{name}")
    return layout.tag("1", layout.image([Layer(tar(layer), "") for layer in layers]))


def compiled(source: str, directory: Path) -> bytes:
    """A static program of this C source."""
    path = directory / "program"
    argv = ["musl-gcc", "-static", "-Os", "-xc", "-", "-o", str(path)]
    subprocess.run(argv, input=source, text=True, check=True, timeout=100)
    return path.read_bytes()


def make_images(root: Path, state: Path) -> dict[str, str]:
    """Small images `one`, `two` (two layers, a program with a capability), `constants`, `victim`, a big one; pulled."""
    make_image(root / "tree")
    base = busybox_layer(root / "tree")
    busybox = next(entry.data for entry in base if entry.name == "bin/busybox")
    capable = (("security.capability", CAP_NET_RAW),)
    top = [file("data", b"two" * 100_000), file("capable/grep", busybox, 0o755, xattrs=capable)]
    references = {
        "one": image_of(root, "one", [*base, file("data", b"one" * 100_000)]),
        "two": image_of(root, "two", base, top),
        "big": image_of(root, "big", base, [file("big", bytes(14 * MIB))]),
        "constants": image_of(root, "constants", [*base, file("constants", compiled(CONSTANTS, root), 0o755)]),
        "victim": image_of(root, "victim", [*base, file("data", b"vic" * MIB)]),
    }
    store = ImageStore(str(state))
    try:
        return {name: pull_blocking(store, ref, config=Config()).id for name, ref in references.items()}
    finally:
        store.close()
