# SPDX-License-Identifier: Apache-2.0
"""A node whose daemon is a process of its own and whose guests are instant fakes: what the host does to the daemon can
be tried at every point in minutes. Used by faults that are no deaths (`kinds`).

`python -m tests.faults.instant ROOT serve --config FILE` is the daemon. The guests live in the harness's process, and
outlive daemons. The state directory is a small disk of its own, ext4; the plugins are fakes.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import sys
from pathlib import Path

from cri.config import Config
from cri.store.images import ImageStore
from stage1 import engine
from stage1.linux import mount, namespace
from stage1.net.settings import netns_path
from stage1.rootfs import unmounting
from tests.bench.lib.instant_node import PATH, Guests, RemoteVmm, serve
from tests.fakes.cni import FakeCni
from tests.fakes.oci_layout import Layer, Layout, directory, file, tar
from tests.fakes.pulled import pull_blocking
from tests.fakes.registry import Registry
from tests.fakes.small_disk import SmallDisk, small_disk
from tests.soak.node import Node

DISK_MIB = 64
GUEST_FILES = ("vmlinux", "initramfs", "system.erofs")


class InstantNode(Node):
    """As Node. `disk` is what the state directory is on."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, root / "guest")
        self.program, self.lives_in_netns = ("tests.faults.instant", str(root)), False
        self.disk: SmallDisk

    def __enter__(self) -> "InstantNode":
        for name in ("run/pods", "tmp", "logs", "guest"):
            (self.root / name).mkdir(parents=True)
        for name in GUEST_FILES:
            (self.root / "guest" / name).write_bytes(b"")
        self.disk = self._undo.enter_context(small_disk(self.root / "disk.img", self.root / "state", mib=DISK_MIB))
        (self.root / "state/logs").mkdir()
        mount.bind(f"{self.root}/state/logs", f"{self.root}/logs")  # as /var/log, on the same disk
        self._undo.callback(mount.umount, f"{self.root}/logs", lazy=True)
        self.cni = FakeCni(self.root / "cni")
        self._configure()
        self._bring_image()
        self._undo.enter_context(Guests(str(self.root)))
        return self

    def __exit__(self, *_: object) -> None:
        self.stop(signal.SIGKILL)
        with contextlib.suppress(FileNotFoundError):
            for pod in engine.directories(self.run_dir):
                engine.clean_up(pod)
        self._undo.close()

    def _configure(self) -> None:
        text = f'run_dir = "{self.run_dir}"\nstate_dir = "{self.state_dir}"\n[guest]\ndir = "{self.guest_dir}"\n'
        text += f'[network]\nconf_dir = "{self.root}/cni/net.d"\nbin_dirs = ["{self.root}/cni/bin"]\n'
        text += "[vm]\nscratch_mib = 16\n[storage]\nreserve_mib = 2\nkeep_free_mib = 0\n"
        (self.root / "config.toml").write_text(text)

    def _bring_image(self) -> None:
        layout = Layout(self.root / "layout")
        files = [directory("./"), directory("etc/"), file("etc/passwd", b"root:x:0:0::/:\n")]
        tagged = layout.tag("1", layout.image([Layer(tar(files))]))
        registry = self._undo.enter_context(Registry(self.root / "registry"))
        self.image = registry.push(tagged, "t/sample:1")
        store = ImageStore(self.state_dir)
        pull_blocking(store, self.image, config=Config())
        store.close()

    def reboot(self) -> None:
        """What a reboot takes: VMs, namespaces and the run directory. The daemon must have ended."""
        for pod in engine.directories(self.run_dir):
            if vm := engine.find_vm(pod):
                vm.kill()
            namespace.remove_net(netns_path(os.path.basename(pod)))
            unmounting.below(pod)
        shutil.rmtree(self.run_dir)

    def vmms(self) -> dict[int, str]:
        return {}

    def links(self) -> list[str]:
        return []

    def leases(self) -> list[str]:
        return [Path(path).name for path in self.cni.left_over()]


async def daemon(config_file: str, root: str) -> None:
    """Serve until SIGTERM, as `clearpod serve` does."""
    from cri import config as configuration
    from cri.cli.serve import THREADS, _set_up_logging
    from cri.node import Node as RealNode
    from cri.owner import own
    from cri.storage.disk import reserve_of
    from cri.threads import started
    from stage1.engine import Host
    from stage1.vm import qemu
    from stage1.vm.choose import Choice

    asyncio.get_running_loop().set_default_executor(started(THREADS, "daemon"))
    config = configuration.load(config_file)
    _set_up_logging(config)
    choice = Choice(qemu.HYPERVISOR, "tcg", "/bin/true", "", ())
    host = Host(config.run_dir, config.guest_dir, config.state_dir, choice, scratch_mib=16, network=config.networks)
    with own(config):
        images = reserve_of(config).spend(ImageStore, config.state_dir)
        await serve(RealNode(config, host=host, vmm=RemoteVmm(f"{root}/{PATH}"), images=images))


if __name__ == "__main__":
    from tests.faults import points

    points.install(Path(sys.argv[1]))
    os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
    asyncio.run(daemon(sys.argv[-1], sys.argv[1]))
