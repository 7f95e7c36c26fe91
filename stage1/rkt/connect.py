# SPDX-License-Identifier: Apache-2.0
"""Connects a program to the agent of a running pod: through the pod's proxy, which the first one that comes starts.

Called by stage1/entry. The proxy is this program, forked: it costs no start of Python, and is gone a second after the
last of us (docs/design/rkt.md).
"""

import _socket
import errno
import os
import time

from stage1 import engine
from stage1.errors import KernelError, NotFound, TimedOut, Unsupported, VmFailed
from stage1.guest import connect, proxy
from stage1.guest.client import Client
from stage1.guest.messages import List
from stage1.linux import beneath, flock, process
from stage1.linux.libc import Guard
from stage1.rkt import machine, plan
from stage1.vm.spec import SerialLink
from stage1.vm.vmm import VmProcess, find_unrecorded

SOCKET, LOCK = "broker.sock", "broker.lock"
TRY_S = 0.005
ANSWER_S = 4.0
"""The time limit for a booted agent to send anything."""
SAMPLE_S = 3.0
"""A VM that boots uses a processor in this time, a frozen one does not. Each further sample takes twice as long."""
ALIVE_S = 0.5
"""How often a proxy that waits for the agent checks whether there is still a VM."""
_BACKLOG = 16


def to_agent(uuid: str, *, timeout_s: float = 0) -> Client:
    """A client of the agent of the pod, which has just answered. `timeout_s` 0: `ANSWER_S`, or as long as a pod
    that was just started boots.

    Raises NotFound when the pod does not run, Unsupported when its kernel is its image's, VmFailed when its agent does
    not answer in that time.
    """
    place = machine.place(uuid)
    vm = engine.find_vm(place)
    if vm is None or not vm.alive():
        raise NotFound(f"the pod {uuid} is not running: it was not started, or has ended")
    if machine.has_own_kernel(place):
        raise Unsupported(f"the pod {uuid} runs a kernel of its own, without an agent: no command can be run in it")
    begun = time.monotonic()
    connection = _ask(place, timeout_s or ANSWER_S)
    if connection is None and not timeout_s:
        connection = _ask_while_it_boots(place, vm)
    if connection is None:
        waited_s = time.monotonic() - begun
        raise VmFailed(f"the agent of the pod {uuid} did not answer within {waited_s:.0f} s; rkt stop --force ends it")
    return connection


def _ask(place: str, limit_s: float) -> Client | None:
    until = time.monotonic() + limit_s
    while time.monotonic() < until:
        if (connection := _meet(f"{place}/{SOCKET}", until=until)) is not None:
            return connection
        _start(place)
        time.sleep(TRY_S)
    return None


def _ask_while_it_boots(place: str, vm: VmProcess) -> Client | None:
    """None as soon as the VM is too old to boot, or has used no processor since the last sample."""
    limit_s = SAMPLE_S
    while (left_s := proxy.PATIENCE_S - vm.age_s()) > 0:
        before = _used_s(place)
        if (connection := _ask(place, min(limit_s, left_s))) is not None:
            return connection
        if before is not None and _used_s(place) == before:
            return None
        limit_s *= 2
    return None


def _used_s(place: str) -> float | None:
    """Seconds of processors that the VMM has used; None while the launcher is about to start it."""
    vmm = find_unrecorded(place)
    try:
        return process.used_s(vmm.pid) if vmm else None
    except NotFound:
        return None


def _meet(path: str, *, until: float) -> Client | None:
    """None when there is no proxy, or one that was just about to end, or no agent that answers until then."""
    sock = _connect(path)
    if sock is None:
        return None
    try:
        made = Client(sock, until=until)
        made.call(List(), max(until - time.monotonic(), TRY_S))
    except (VmFailed, TimedOut):
        sock.close()
        return None
    return made


def _connect(path: str) -> _socket.socket | None:
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        with beneath.Socket(path) as address:
            sock.connect(address)
        return sock
    except (OSError, KernelError) as error:
        sock.close()
        if error.errno in (errno.ENOENT, errno.ECONNREFUSED, errno.EAGAIN):
            return None
        raise


def _start(place: str) -> None:
    """Start a proxy, unless there is one: the process that holds the lock."""
    with beneath.Root(place) as own:
        lock = own.open_or_make(LOCK, os.O_RDWR, mode=0o600)
    try:
        if flock.take(lock, wait=False):
            listener = _listen(place)
            _fork(place, listener, lock=lock)
            listener.close()
    finally:
        os.close(lock)


def _listen(place: str) -> _socket.socket:
    path = f"{place}/{SOCKET}"
    with beneath.Root(place) as own:
        own.unlink(SOCKET)
    listener = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    with Guard("listen on", path):
        listener.bind(path)
        listener.listen(_BACKLOG)
    return listener


def _fork(place: str, listener: _socket.socket, *, lock: int) -> None:
    """Fork twice, so that it is reparented to init: a child of ours would become a zombie of rkt's."""
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    try:
        os.setsid()
        if os.fork() == 0:
            _detach(keep=(listener.fileno(), lock))
            proxy.Proxy(listener, _factory(place), key=machine.key(place), streams=_streams(place)).serve()
            with beneath.Root(place) as own:
                own.unlink(SOCKET)
    finally:
        os._exit(0)


def _detach(*, keep: tuple[int, ...]) -> None:
    """Give up what was inherited from the caller: descriptors except those in `keep`, since a reader may wait for their
    end, and the working directory.
    """
    null = os.open("/dev/null", os.O_RDWR)
    for fd in range(3):
        os.dup2(null, fd)
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) not in keep:
            try:
                os.close(int(name))
            except OSError:
                continue
    os.chdir("/")


def _streams(place: str) -> list[int]:
    """Return the numbers of the output streams of all apps; some of them never carry data."""
    return [stream for name in machine.apps(place) for stream in plan.streams(name)]


def _factory(place: str) -> connect.Factory:
    """Waits for the agent no longer than there is a VM."""
    link, vm = machine.link(place), engine.find_vm(place)
    if isinstance(link, SerialLink):
        attempts = connect.unix_factory(link.socket)
    else:
        attempts = connect.vsock_factory(link.cid, link.port)

    def connected(until: float) -> _socket.socket | None:
        while (now := time.monotonic()) < until and (vm is None or vm.alive()):
            if (sock := attempts(min(now + ALIVE_S, until))) is not None:
                return sock
        return None

    return connected
