# SPDX-License-Identifier: Apache-2.0
"""One pod, run in the foreground by this process: boots it, pumps its streams, passes signals on, collects it.

Used by `clearpod run`. Blocking, one thread. Whatever ends it, nothing of the pod stays behind.
"""

import fcntl
import os
import select
import signal
import struct
import sys
import termios
import time
import tty
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from cri.cli.timeline import Timeline
from stage1 import engine
from stage1.errors import PodError, VmFailed
from stage1.guest import messages as say
from stage1.guest.client import GuestClient
from stage1.guest.link import DataSeen, EventSeen, Incoming
from stage1.pod import users
from stage1.pod.model import Container, Pod
from stage1.rootfs.share import ImageFiles
from stage1.vm.vmm import ProcessVmm, VmProcess

STDIN, STDOUT, STDERR = 1, 2, 3
CHUNK = 16384
PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


class Foreground:
    """Runs `container` as the only one of `pod`; `boot_timeout_s` bounds the wait for the guest's hello."""

    def __init__(
        self, host: engine.Host, pod: Pod, container: Container, image: ImageFiles, timeline: Timeline
    ) -> None:
        self._host, self._pod, self._container, self._image = host, pod, container, image
        self._timeline = timeline
        self._exit_code: int | None = None
        self._silent = True
        self.boot_timeout_s = 60.0

    def run(self) -> int:
        """The container's exit code, or 128 + its signal. Raises PodError when it could not be run."""
        with ExitStack() as undo:
            undo.callback(engine.collect, engine.pod_directory(self._host, self._pod.id))
            prepared = engine.prepare(self._pod, self._host)
            self._timeline.mark("prepare", "share, scratch disk, VM plan")
            wakeup = undo.enter_context(_signals())
            client, vm = self._boot(prepared, undo)
            self._start(prepared, client)
            if self._container.process.tty:
                undo.enter_context(_raw_terminal())
                self._resize(client)
            self._pump(client, vm, wakeup)
            self._timeline.mark("exit", f"the container exited with {self._exit_code}")
            client.call(say.Shutdown(), timeout_s=5)
        assert self._exit_code is not None
        return self._exit_code

    def _boot(self, prepared: engine.Prepared, undo: ExitStack) -> tuple[GuestClient, VmProcess]:
        link = engine.open_link(prepared)
        undo.callback(link.close)
        vm = engine.boot(prepared, ProcessVmm())
        self._timeline.mark("vmm", f"{os.path.basename(prepared.vm.binary)} was started")
        client = GuestClient(link, prepared.link_key)
        undo.callback(client.close)
        try:
            hello = client.hello(self.boot_timeout_s, alive=vm.alive)
        except PodError as error:
            raise VmFailed(f"{error}; the console's last lines:\n{vm.console_tail()}") from error
        self._timeline.mark("agent", "the guest's agent said hello")
        self._timeline.note(
            f"guest's own clock: kernel to PID 1 {hello.init_ns / 1e6:.1f} ms,"
            f" PID 1 to agent ready {(hello.ready_ns - hello.init_ns) / 1e6:.1f} ms; kernel {hello.kernel}"
        )
        return client, vm

    def _start(self, prepared: engine.Prepared, client: GuestClient) -> None:
        client.call(say.Configure(hostname=self._pod.hostname), timeout_s=30)
        name = engine.add_image(prepared.directory, self._image)
        self._container = self._with_user(prepared.directory, name)
        engine.add_container(prepared.directory, self._pod, self._container)
        what = self._container.process
        stdio = say.Stdio(stdin=STDIN if what.stdin else 0, stdout=STDOUT, stderr=0 if what.tty else STDERR, tty=what.tty)
        for stream in (STDIN, STDOUT, STDERR):
            client.open_stream(stream)
        client.call(say.Create(id=self._container.id, lower=name, stdio=stdio), timeout_s=30)
        self._timeline.mark("create", "the container's root file system is mounted")
        client.call(say.Start(id=self._container.id), timeout_s=60)
        self._timeline.mark("start", "the container's process runs")

    def _with_user(self, directory: str, image_name: str) -> Container:
        text = {path: engine.read_image_file(directory, image_name, path) for path in ("etc/passwd", "etc/group")}
        user = users.resolve(self._image_user, text["etc/passwd"], text["etc/group"])
        return self._container._replace(process=self._container.process._replace(user=user))
